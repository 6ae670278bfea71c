package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// A state directory that is put back from a backup of its files brings an older
// metadata.json with it, and an older copy of the metadata if one lies there.
// That copy has promised more than it knows by now: it would vote for another
// one that lacks changes which were acknowledged with its help.
//
// So metadata.json has a generation, which rises with each start and stop and
// now and then between. It is durable there first and goes into the markers of
// the copies on drives then: a marker that is ahead of it shows that the state
// directory was put back. What is cut off between the two leaves the list ahead,
// which means nothing.

const (
	// generationEvery is how old a backup of the files of a running server may
	// be without being noticed, should the server not be stopped in good order.
	generationEvery = time.Hour
	// markPatience is how long a drive may hold up the end of the process.
	markPatience = 5 * time.Second
)

// readMarker returns the marker of the copy in dir.
func readMarker(dir string) (m marker, err error) {
	text, err := readFile(markerPath(dir))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	return m, err
}

// newestMarker is the highest generation that drives tell of. Copies that were
// given up tell nothing: what was made the truth since may be older.
func (p *process) newestMarker(list *storeList, all []found) (newest uint64) {
	for _, f := range all {
		if f.super == nil {
			continue
		}
		m, err := readMarker(filepath.Join(f.path, metaName))
		if err != nil || m.Cluster != p.id.Cluster || slices.Contains(list.Lost, m.Replica) {
			continue
		}
		newest = max(newest, m.Generation)
	}
	return newest
}

// nextGeneration begins a generation. If the state directory was put back, the
// copy in it is noted as stale, which it stays until it is replaced.
func (p *process) nextGeneration(list *storeList, all []found) error {
	if !list.replicated() {
		return nil
	}
	newest := p.newestMarker(list, all)
	if newest > list.Generation && !p.first.is {
		p.Log.Error("the state directory was put back from a backup of files: its list of the copies of the metadata is older than the copies on drives",
			"path", p.dir, "generation", list.Generation, "newest", newest)
		for i := range list.Stores {
			if row := &list.Stores[i]; row.Drive.IsZero() && (row.State == storeReady || row.State == storeLeaving) {
				row.Stale = true
			}
		}
	}
	list.Generation = max(list.Generation, newest) + 1
	return list.save(p.dir)
}

// putBack words why a copy in the state directory is not opened.
func putBack(id uint64) error {
	return fmt.Errorf("the state directory was put back from a backup of files, so this copy has forgotten what it had promised: "+
		"it is not used again; \"ruche metadata replace %d\" makes it anew from the others", id)
}

// mark copies the generation into the markers of the copies that run.
func (k *copyKeeper) mark(ctx context.Context, e *replica.Replicated) {
	list, _, _, _ := k.snapshot()
	for _, s := range e.Status(ctx) {
		row := list.row(s.Replica)
		if s.Err != nil || row == nil || row.Drive.IsZero() {
			continue
		}
		_, err := os.Stat(s.Dir) // else the drive is not mounted any more
		if err == nil {
			err = writeJSON(markerPath(s.Dir), marker{k.p.id.Cluster, row.Store, row.Replica, list.Generation}, 0o600)
		}
		if err != nil {
			k.log.Error("a copy of the metadata does not tell how old the state directory may be", "path", s.Dir, "err", err)
		}
	}
}

// raiseGeneration begins a generation while copies run. The caller holds
// changing, or nothing else runs.
func (k *copyKeeper) raiseGeneration(ctx context.Context) error {
	e := k.replicated()
	if e == nil {
		return nil
	}
	if err := k.note(func(l *storeList) { l.Generation++ }); err != nil {
		return err
	}
	k.marked = k.p.Now()
	k.mark(ctx, e)
	return nil
}

// lastGeneration is raiseGeneration at the end of the process.
func (k *copyKeeper) lastGeneration(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- k.raiseGeneration(ctx) }() // outlives the call only if drives hang
	late := time.NewTimer(markPatience)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return fmt.Errorf("drives hang, so the markers of copies of the metadata are not written: %w", errHangs)
	}
}

// learnNumbers takes over what the table of stores knows and an older list does
// not: the numbers that were given, and the copy in the state directory that has
// followed the one of the list. That is lost, since its files are not there.
func (k *copyKeeper) learnNumbers(table *metadata.StoreTable) error {
	list, _, _, _ := k.snapshot()
	next := list.Next
	var lost []metadata.Store
	for _, s := range table.Stores {
		next = max(next, s.Replica+1)
		if s.Role != metadata.StoreGone && s.Replica >= list.Next && s.Place == k.p.localPath() {
			lost = append(lost, s)
		}
	}
	if next == list.Next {
		return nil
	}
	k.log.Warn("copies of the metadata know of later copies than the list", "next", list.Next, "newest", next)
	return k.note(func(l *storeList) {
		l.Next = next
		for _, s := range lost {
			for i := range l.Stores {
				if row := &l.Stores[i]; row.Drive.IsZero() && row.State != storeGone {
					row.State = storeLeaving
				}
			}
			l.Stores = append(l.Stores, storeRow{Replica: s.Replica, Store: s.ID, Path: s.Place, State: storeReady, Created: k.p.Now().UTC().Truncate(time.Second), Stale: true})
			k.refused[s.Replica] = putBack(s.Replica)
		}
	})
}

// openMarked is openReplicated with what a start does about generations.
func (k *copyKeeper) openMarked(ctx context.Context, all []found) (replica.Engine, error) {
	e, err := k.openReplicated(ctx, all)
	if err != nil {
		return nil, err
	}
	table, err := e.Stores(ctx)
	if err == nil {
		err = k.learnNumbers(table)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("copies of the metadata: %w", err), e.Close())
	}
	k.marked = k.p.Now()
	k.mark(ctx, e)
	return e, nil
}
