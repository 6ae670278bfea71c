package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/node"
)

// localPath is the directory of the copy of the metadata in the state directory.
func (p *process) localPath() string { return filepath.Join(p.dir, "metadata") }

// places lists where copies of the metadata may lie: the open drives in the
// order of the settings, then the state directory.
func (p *process) places() (out []place) {
	open := p.node.Drives()
	for _, path := range p.c.DrivePaths() {
		for _, d := range open {
			if abs, err := filepath.Abs(path); err == nil && abs == d.Path() {
				out = append(out, place{filepath.Join(abs, metaName), d.ID(), device(abs)})
			}
		}
	}
	return append(out, place{path: p.localPath(), device: device(p.dir)})
}

// foundPlaces is places before the drives are open.
func (p *process) foundPlaces(all []found) (out []place) {
	for _, f := range all {
		if f.super != nil {
			out = append(out, place{filepath.Join(f.path, metaName), f.super.Drive, device(f.path)})
		}
	}
	return append(out, place{path: p.localPath(), device: device(p.dir)})
}

// prepareDrives formats, at the first start only, the drives that are not yet:
// copies of the metadata may lie there.
func (p *process) prepareDrives(context.Context) error {
	if !p.first.is {
		return nil
	}
	var paths []string
	for _, s := range p.id.Slots {
		paths = append(paths, s.Path)
	}
	return p.formatAll(paths)
}

// openMetadata opens the copies of the metadata. At the first start it chooses
// where they lie and makes them.
func (p *process) openMetadata(ctx context.Context) error {
	all, err := survey(p.c.DrivePaths())
	if err != nil {
		return err
	}
	list, err := readStores(p.dir, p.id.Cluster)
	if err != nil {
		return err
	}
	if p.first.is {
		if list, err = p.makeStores(list, all); err != nil {
			return err
		}
	} else if err := p.checkStrays(list, all); err != nil {
		return err
	}
	if err := p.nextGeneration(list, all); err != nil {
		return err
	}
	if err := p.finishShrinking(list); err != nil {
		return err
	}
	p.copies = newCopyKeeper(p, list)
	var engine replica.Engine
	if list.replicated() {
		engine, err = p.copies.openMarked(ctx, all)
	} else {
		engine, err = p.openOnly()
	}
	if err != nil {
		return err
	}
	p.meta = replica.NewSwitch(engine)
	p.onClose("metadata", func() error {
		if err := p.meta.Close(); !errors.Is(err, metadata.ErrUnavailable) {
			return err
		}
		return nil // it has failed before, and that was said
	})
	return nil
}

// metadataFailed ends the process: no copy of the metadata is left.
func (p *process) metadataFailed(err error) {
	select {
	case p.failed <- err:
	default: // one is enough to end the process
	}
}

// metadataOptions are those of both engines.
func (p *process) metadataOptions() replica.Options {
	return replica.Options{Now: p.Now, Logger: p.Log.With("part", "metadata"), AcceptClock: p.c.AcceptClock, OnFailure: p.metadataFailed}
}

// openOnly opens the only copy, and notes what it knew.
func (p *process) openOnly() (replica.Engine, error) {
	l, err := p.openLocal()
	if err != nil {
		return nil, err
	}
	p.opened = l.Positions()
	return l, nil
}

// openLocal opens the one copy that does without consensus.
func (p *process) openLocal() (*replica.Local, error) {
	dir := p.localPath()
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !p.first.is {
		return nil, &StartError{MetadataLost, dir + " is missing while drives hold data",
			"if it was moved, put it back; else make it anew from the drives with \"ruche recover\", or from a backup with \"ruche metadata restore\"", nil}
	}
	files, err := p.stateFS()
	if err != nil {
		return nil, err
	}
	o := p.metadataOptions()
	o.FS = files
	meta, err := replica.Open(dir, o)
	if err != nil {
		return nil, p.openingError(dir, err)
	}
	if p.first.is {
		// The names of all objects are there, and the directory above may have
		// been made by somebody who lets others in.
		if err := os.Chmod(dir, 0o700); err != nil {
			return nil, errors.Join(fileError("protect "+dir, err), meta.Close())
		}
	}
	return meta, nil
}

// openingError words why an engine did not open.
func (p *process) openingError(dir string, err error) error {
	if errors.Is(err, cryptfs.ErrKey) {
		return p.keyringMismatch(err)
	}
	if errors.Is(err, cryptfs.ErrForeign) {
		return &StartError{ForeignState, "what lies in " + dir + " is not the metadata of this cluster",
			"put the metadata of this cluster there; if it is lost, move what is there aside and make it anew from the drives with \"ruche recover\", or from a backup with \"ruche metadata restore\"", err}
	}
	if errors.Is(err, replica.ErrAbsurdClock) {
		return &StartError{ClockAbsurd, "the clock of this machine", "set the clock (timedatectl, chrony); if it is right, start once with --accept-clock", err}
	}
	return fileErrorOr(Damaged, "metadata "+dir, "check the device of the state directory; if the metadata is damaged for good, move "+dir+
		" aside and make it anew from the drives with \"ruche recover\", or from a backup with \"ruche metadata restore\"", err)
}

// makeStores makes the copies of a new cluster. It returns nil if there is to be
// one that does without consensus. A first start that was cut off makes them
// anew: nothing was stored in them that is not stored again.
func (p *process) makeStores(list *storeList, all []found) (*storeList, error) {
	if list != nil && list.Phase == storesReady {
		return list, nil
	}
	scheme, err := p.id.scheme()
	if err != nil {
		return nil, err
	}
	places := p.foundPlaces(all)
	want := p.c.Replicas()
	if want == 0 {
		want = autoReplicas(int(scheme.Parity), places)
	}
	next := uint64(1)
	if list != nil {
		next = list.Next // what was cut off may have left copies on drives that are not chosen now
	}
	if want == 1 {
		if list == nil {
			return nil, nil
		}
		list = &storeList{Format: storesFormat, Cluster: p.id.Cluster, Phase: storesReady, Setting: p.c.MetadataReplicas, Next: next}
		return list, list.save(p.dir)
	}
	chosen := choosePlaces(places, want)
	if len(chosen) < want {
		return nil, &StartError{TooFewPlaces, fmt.Sprintf("--metadata-replicas %d needs as many directories, and there are %d", want, len(chosen)), "add drives, or set metadata-replicas to auto", nil}
	}
	for _, text := range sharedDevices(chosen) {
		p.Log.Warn(text)
	}
	list = &storeList{Format: storesFormat, Cluster: p.id.Cluster, Phase: storesMaking, Setting: p.c.MetadataReplicas, Next: next}
	var first []uint64
	for _, c := range chosen {
		first = append(first, list.add(c, storeNew, p.Now()).Replica)
	}
	if err := list.save(p.dir); err != nil {
		return nil, err
	}
	for i := range list.Stores {
		if err := p.createStore(&list.Stores[i], list.Stores[i].Path, first); err != nil {
			return nil, err
		}
		list.Stores[i].State = storeReady
	}
	list.Phase = storesReady
	return list, list.save(p.dir)
}

// createStore makes the files of a copy in dir, in the place of whatever lies
// there: an attempt that was cut off, or a copy that is lost.
func (p *process) createStore(row *storeRow, dir string, first []uint64) error {
	what := "copy of the metadata " + dir
	if err := os.RemoveAll(dir); err != nil {
		return fileError("empty "+dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fileErrorOr(NotWritable, what, "check the device and the mount", err)
	}
	if !row.Drive.IsZero() {
		if err := writeJSON(markerPath(dir), marker{Cluster: p.id.Cluster, Store: row.Store, Replica: row.Replica}, 0o600); err != nil {
			return fileErrorOr(NotWritable, what, "check the device and the mount", err)
		}
	}
	at, err := p.storePlace(row, dir)
	if err != nil {
		return err
	}
	o := replica.StoreOptions{Options: replica.Options{FS: at.FS, Logger: p.Log.With("part", "metadata")}}
	if err := replica.CreateStore(dir, at.Want, first, o); err != nil {
		return fileErrorOr(NotWritable, what, "check the device and the mount", err)
	}
	return fileError("sync "+filepath.Dir(dir), syncDir(filepath.Dir(dir)))
}

// storePlace says how the engine opens a copy in dir.
func (p *process) storePlace(row *storeRow, dir string) (at replica.Place, err error) {
	at = replica.Place{Dir: dir, Want: commandlog.Identity{Cluster: p.id.Cluster, Store: row.Store, Replica: row.Replica}, Reached: p.knownReached(row, dir)}
	if row.Drive.IsZero() {
		at.FS, err = p.stateFS()
	} else {
		at.ReserveBytes = p.storeReserve(dir)
		at.FS, err = p.driveFS(row.Drive, vfs.Default)
	}
	at.FS = lockFS{at.FS}
	return at, err
}

// storeReserve is the free space that a copy on a drive keeps for deletes: half
// of what the drive keeps free of shards, so that shards never stop the
// metadata.
func (p *process) storeReserve(dir string) int64 {
	const least = 4 << 20
	if p.c.Reserve > 0 {
		return max(int64(p.c.Reserve)/2, least)
	}
	usage, err := vfs.Default.GetDiskUsage(filepath.Dir(dir))
	if err != nil {
		return 0 // the engine's own
	}
	total := int64(usage.TotalBytes)
	return max(min(max(total/100, 16<<20), 4<<30, total/20)/2, least)
}

// locate finds the directory of a copy: drives are known by their ids, wherever
// they are mounted.
func (p *process) locate(row *storeRow, all []found) (string, error) {
	if row.Drive.IsZero() {
		return p.localPath(), nil
	}
	for _, f := range all {
		if f.super == nil || f.super.Drive != row.Drive {
			continue
		}
		if f.super.Incarnation < p.id.Incarnations[row.Drive] {
			return "", fmt.Errorf("%s is an older copy of drive %s", f.path, row.Drive)
		}
		return filepath.Join(f.path, metaName), nil
	}
	mount := filepath.Dir(row.Path)
	for _, f := range all {
		switch {
		case f.path != mount:
		case f.super != nil:
			return "", fmt.Errorf("%w: %s holds drive %s, not drive %s", errAbsent, mount, f.super.Drive, row.Drive)
		case errors.Is(f.err, node.ErrUnformatted):
			return "", fmt.Errorf("%w: %s holds no drive: it is not mounted, or empty", errAbsent, mount)
		default:
			return "", fmt.Errorf("%w: %w", errAbsent, f.err)
		}
	}
	return "", fmt.Errorf("%w: drive %s is at none of the paths of the drives", errAbsent, row.Drive)
}

// errAbsent means that the device of a copy is not there.
var errAbsent = errors.New("absent")

// marker is what lies beside a copy on a drive, as meta.json: whose it is.
type marker struct {
	Cluster id128  `json:"cluster"`
	Store   id128  `json:"store"`
	Replica uint64 `json:"replica"`
	// Generation is that of the list when the copy ran last, or somewhat less.
	Generation uint64 `json:"generation,omitempty"`
}

func markerPath(dir string) string { return dir + ".json" }

// removeMarker deletes the marker of a copy on a drive. One in the state
// directory has none: what is called so is the list.
func removeMarker(dir string) error {
	if filepath.Base(dir) != metaName {
		return nil
	}
	if err := os.Remove(markerPath(dir)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// checkStrays refuses to start from a list of copies that is older than a copy
// on a drive: the state directory was put back, and what lies in it is not the
// truth any more. Copies that were taken away while their drive was not there
// are deleted.
func (p *process) checkStrays(list *storeList, all []found) error {
	for _, f := range all {
		dir := filepath.Join(f.path, metaName)
		if f.super == nil {
			continue
		}
		listed, forced := list.carries(f.super.Drive)
		if forced {
			continue // it is under a new number by now, or not
		}
		var m marker
		text, err := readFile(markerPath(dir))
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing was ever made there
		}
		if err == nil {
			err = json.Unmarshal(text, &m)
		}
		switch {
		case listed && (err != nil || m.Cluster != p.id.Cluster || m.Replica < list.Next):
			// What lies there must be the copy of the list, or does not open.
		case err != nil:
			p.Log.Error("a copy of the metadata that is not used stays", "path", dir, "err", err)
		case m.Cluster != p.id.Cluster:
			p.Log.Error("a copy of another cluster's metadata stays", "path", dir, "cluster", m.Cluster.String())
		case list == nil || m.Replica >= list.Next:
			return &StartError{MetadataLost, fmt.Sprintf("%s is copy %d of the metadata, which the state directory %s does not know of: it is older than that copy", dir, m.Replica, p.dir),
				"restore the newest state directory; or, if there is none, move metadata.json and metadata/ of the state directory away: " +
					"\"ruche recover\" takes over the copies on the drives, and loses nothing if a majority of them is there", nil}
		case slices.Contains(list.Lost, m.Replica):
			if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
				continue // it has not come back
			}
			p.Log.Warn("a copy of the metadata that was given up is set aside", "path", dir, "replica", m.Replica)
			if err := setAside(dir, m.Replica); err != nil {
				p.Log.Error("it stays", "path", dir, "err", err)
			}
		default:
			p.Log.Warn("a copy of the metadata that was taken away is deleted", "path", dir, "replica", m.Replica)
			if err := removeStore(dir); err != nil {
				p.Log.Error("it stays", "path", dir, "err", err)
			}
		}
	}
	return nil
}

// removeStore deletes the files of a copy. The marker goes last.
func removeStore(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := errors.Join(removeReached(dir), removeMarker(dir)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// openPatience is how long a start waits until the copies have agreed on
// leaders.
const openPatience = 30 * time.Second

// quorumLost words that too few copies are there.
func quorumLost(missing []string, err error) error {
	what := "too few copies of the metadata are there"
	if len(missing) > 0 { // else err names them
		what += ":\n    " + strings.Join(missing, "\n    ")
	}
	if len(missing) > 0 && err != nil {
		what += "\n  that means"
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("those that are there have not agreed within %v", openPatience)
	}
	return &StartError{NoQuorum, what,
		"mount the devices of the copies that are missing, put the newest files of those back that are older than they were, and start again: with a majority of the copies nothing is lost. " +
			"Only if they are lost for good: \"ruche metadata force\" starts from what is left, and may lose the newest changes", err}
}

// keepCopies begins to carry out what is to be done about copies of the
// metadata. A first start has all groups take the newest commands, and names
// the copies in the metadata.
func (p *process) keepCopies(ctx context.Context) error {
	if p.first.is {
		if err := p.copies.begin(ctx); err != nil {
			return fmt.Errorf("copies of the metadata: %w", err)
		}
	}
	return p.copies.start(ctx)
}
