package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// stray is a copy of the metadata on a drive that no list tells of.
type stray struct {
	dir   string
	drive topology.DriveID
	marker
}

// strays finds the copies on the drives that are there.
func (r *recoverer) strays() (out []stray, err error) {
	for _, dir := range r.copiesOnDrives() {
		s := stray{dir: dir}
		text, err := readFile(markerPath(dir))
		if err == nil {
			err = json.Unmarshal(text, &s.marker)
		}
		switch {
		case err != nil:
			r.Log.Error("a copy of the metadata is not used: nothing tells which one it is", "path", dir, "err", err)
			continue
		case s.Cluster != r.id.Cluster || s.Replica == 0:
			r.Log.Error("a copy of another cluster's metadata is not used", "path", dir)
			continue
		}
		at := slices.IndexFunc(r.found, func(f found) bool { return filepath.Join(f.path, metaName) == dir })
		s.drive = r.found[at].super.Drive
		out = append(out, s)
	}
	return out, nil
}

// takeOver makes the state directory anew around the copies of the metadata on
// the drives, if a majority is there: then nothing is lost, and nothing is
// rebuilt. Copies that are not there are given up.
func (r *recoverer) takeOver(ctx context.Context) (err error) {
	on, err := r.encryptedCopies()
	if err != nil {
		return err
	}
	r.id.Encryption = r.id.Encryption || on
	list := &storeList{Format: storesFormat, Cluster: r.id.Cluster, Phase: storesReady, Setting: r.c.MetadataReplicas, Next: 1}
	for _, s := range r.there {
		list.Stores = append(list.Stores, storeRow{Replica: s.Replica, Store: s.Store, Path: s.dir, Drive: s.drive, State: storeReady, Created: r.Now().UTC()})
		list.Next = max(list.Next, s.Replica+1)
	}
	k := newCopyKeeper(r.process, list)
	e, err := k.openReplicated(ctx, r.found)
	if known, ok := errors.AsType[*StartError](err); ok && known.Reason == NoQuorum {
		return &StartError{NoQuorum, known.What, "mount the drives of the other copies: with a majority of them nothing is lost. " +
			"If they are lost for good, recover what is older than some seconds with --from-manifests", known.Err}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	if err := r.learn(ctx, e); err != nil {
		return err
	}
	if err := r.giveUp(ctx, e, list); err != nil {
		return err
	}
	if err := r.id.check(r.c); err != nil {
		return err
	}
	for _, s := range r.there {
		r.report.Copies = append(r.report.Copies, s.dir)
	}
	r.list = list
	return nil
}

// encryptedCopies reports whether one of the copies lies there encrypted.
func (r *recoverer) encryptedCopies() (bool, error) {
	for _, s := range r.there {
		if on, err := cryptfs.Encrypted(vfs.Default, s.dir); err != nil || on {
			return on, err
		}
	}
	return false, nil
}

// learn takes from the metadata what cluster.json says, if that is lost, and
// what the report says.
func (r *recoverer) learn(ctx context.Context, e *replica.Replicated) error {
	pgs, err1 := e.PGs(ctx)
	table, err2 := e.Drives(ctx)
	buckets, err3 := e.Buckets(ctx, "", "", 1)
	accounts, err4 := e.Accounts(ctx)
	keys, err5 := e.AccessKeys(ctx)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	if len(pgs.Groups) == 0 {
		return &StartError{NothingToRecover, "the copies of the metadata on the drives are of a store that had not begun", "start anew with empty drives", nil}
	}
	var lost []topology.DriveID
	for _, d := range table.Drives {
		if d.State != topology.DriveRetired && !slices.ContainsFunc(r.found, func(f found) bool { return f.super != nil && f.super.Drive == d.ID }) {
			lost = append(lost, d.ID)
		}
	}
	if !r.known {
		r.id.Scheme = pgs.Groups[0].Scheme.String()
		if len(buckets) > 0 {
			r.id.Encryption = buckets[0].WrappedKey != ""
		}
		r.slots(slices.Clone(lost))
	}
	for _, f := range r.found {
		if f.super != nil {
			r.id.place(f.path, f.super.Drive)
			r.id.missing(f.super.Drive) // nobody knows any more which were away
		}
	}
	r.report = &RecoverReport{Complete: true, Tables: true, Accounts: len(accounts), AccessKeys: len(keys), MissingDrives: lost, Buckets: []RecoverBucket{}}
	return nil
}

// giveUp notes that the copies that are not there leave, and that their numbers
// are taken.
func (r *recoverer) giveUp(ctx context.Context, e *replica.Replicated, list *storeList) error {
	table, err := e.Stores(ctx)
	if err != nil {
		return fmt.Errorf("copies of the metadata: %w", err)
	}
	for _, s := range table.Stores {
		list.Next = max(list.Next, s.Replica+1)
		if s.Role == metadata.StoreGone || list.row(s.Replica) != nil {
			continue
		}
		// Nobody knows on which drive it lies: one that is never there.
		list.Stores = append(list.Stores, storeRow{Replica: s.Replica, Store: s.ID, Path: s.Place, Drive: newStoreID(), State: storeLeaving, Created: r.Now().UTC()})
		r.report.LostCopies = append(r.report.LostCopies, s.Place)
	}
	return nil
}

// maxLostCopies is how many numbers of copies may have been given by a state
// directory that is lost.
const maxLostCopies = 1000

// setAsideCopies makes sure that no copy of the metadata is taken for the truth
// beside what was recovered: those that are there are set aside now, those that
// come back when they do.
func (r *recoverer) setAsideCopies(context.Context) error {
	list := &storeList{Format: storesFormat, Cluster: r.id.Cluster, Phase: storesReady, Setting: r.c.MetadataReplicas, Next: maxLostCopies + 1}
	if r.list != nil {
		list.Next += r.list.Next
	}
	for _, s := range r.there {
		list.Next = max(list.Next, s.Replica+1)
	}
	for id := range list.Next - 1 {
		list.Lost = append(list.Lost, id+1)
	}
	if err := list.save(r.dir); err != nil {
		return err
	}
	for _, s := range r.there {
		if err := setAside(s.dir, s.Replica); err != nil {
			return fileError("set aside "+s.dir, err)
		}
	}
	return nil
}

// refuse ends a recovery that is not needed: metadata that are there are newer
// than any manifest.
func (r *recoverer) refuse(context.Context) (err error) {
	if _, err := os.Stat(r.localPath()); !errors.Is(err, os.ErrNotExist) {
		return &StartError{MetadataExists, r.localPath() + " exists", "start the server; if these metadata cannot be used, move them away first", err}
	}
	if r.known {
		if r.list, err = readStores(r.dir, r.id.Cluster); err != nil {
			return err
		}
	}
	if r.there, err = r.strays(); err != nil || r.o.FromManifests {
		return err
	}
	if r.list.replicated() {
		var paths []string
		for _, s := range r.list.Stores {
			paths = append(paths, s.Path)
		}
		return &StartError{MetadataExists, "there are copies of the metadata in " + strings.Join(paths, ", "),
			"start the server, which needs a majority of them, or see \"ruche metadata force --help\": they are newer than anything that can be recovered; " +
				"to leave them alone and recover all the same, give --from-manifests", nil}
	}
	return nil
}
