package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// watch ends copies whose directories have gone: what they write is lost with
// the next start. It ends the process when no copy is left.
func (k *copyKeeper) watch(ctx context.Context, e *replica.Replicated) {
	left := 0
	var last error
	for _, s := range e.Status(ctx) {
		// A directory that goes while it is used fails its copy in some way: tables
		// that are missing count as corruption.
		switch missing := errors.Is(s.Err, fs.ErrNotExist) || pebble.IsCorruptionError(s.Err); {
		case missing:
			last = s.Err
		case errors.Is(s.Err, metadata.ErrUnavailable):
			last = s.Err
			continue
		case s.Err != nil: // it is busy
			left++
			continue
		}
		if _, err := os.Stat(s.Dir); !errors.Is(err, fs.ErrNotExist) {
			if s.Err == nil {
				left++
			}
			continue
		}
		k.log.Error("the directory of a copy of the metadata has gone", "path", s.Dir, "replica", s.Replica)
		last = fmt.Errorf("%w: %s has gone", errAbsent, s.Dir)
		k.refuse(s.Replica, last)
		if err := e.RemoveStore(s.Replica); err != nil {
			k.log.Warn("end of a copy of the metadata", "replica", s.Replica, "err", err)
		}
	}
	if left == 0 && ctx.Err() == nil {
		k.p.metadataFailed(last)
	}
}

// makeStore makes the files of a new copy and lets it run, a member of no group
// yet.
func (k *copyKeeper) makeStore(ctx context.Context, e *replica.Replicated, id uint64) error {
	list, _, _, _ := k.snapshot()
	row := list.row(id)
	dir, err := k.openDir(row)
	if err != nil {
		return err
	}
	for _, s := range list.Stores {
		// Nothing may run from files that are about to go: neither the copy that
		// was here before, nor this one from an attempt that could not be noted.
		if s.Drive != row.Drive {
			continue
		}
		if s.Replica != id && s.State != storeGone {
			if err := k.dispensable(ctx, s.Replica); err != nil {
				return err
			}
		}
		if err := e.RemoveStore(s.Replica); err != nil {
			k.log.Warn("end of a copy of the metadata", "replica", s.Replica, "err", err)
		}
	}
	if err := k.p.createStore(row, dir, nil); err != nil {
		return err
	}
	at, err := k.p.storePlace(row, dir)
	if err != nil {
		return err
	}
	if _, err := e.AddStore(at); err != nil {
		return fmt.Errorf("open copy %d of the metadata: %w", id, err)
	}
	if err := k.note(func(l *storeList) {
		r := l.row(id)
		r.State, r.Path = storeReady, dir
	}); err != nil {
		return err
	}
	k.mark(ctx, e)
	return nil
}

// openDir is the directory of a copy whose drive is open.
func (k *copyKeeper) openDir(row *storeRow) (string, error) {
	for _, p := range k.p.places() {
		if p.drive == row.Drive {
			return p.path, nil
		}
	}
	return "", fmt.Errorf("drive %s is not open", row.Drive)
}

// want has the table of stores say what the list says: the copies that are ready
// vote, those that leave are gone, and so are strangers. A copy that the table
// has given up is given up here, too.
func (k *copyKeeper) want(ctx context.Context, e *replica.Replicated) error {
	table, err := e.Stores(ctx)
	if err != nil {
		return err
	}
	if err := k.followTable(table); err != nil {
		return err
	}
	list, _, _, _ := k.snapshot()
	left := strangers(list, table, func() []replica.StoreStatus { return e.Status(ctx) })
	if l := len(table.Stores); l > 0 && !differs(list, table) && len(left) == 0 {
		return nil
	}
	if err := k.raise(ctx); err != nil {
		return err
	}
	_, err = e.ChangeStores(ctx, func(t *metadata.StoreTable) error {
		for _, row := range list.Stores {
			role := metadata.StoreVoter
			switch row.State {
			case storeNew:
				continue
			case storeLeaving, storeGone:
				role = metadata.StoreGone
			}
			if s := t.Find(row.Replica); s == nil {
				t.Stores = append(t.Stores, metadata.Store{Replica: row.Replica, ID: row.Store, Place: row.Path, Site: site, Role: role})
			} else if s.Role != metadata.StoreGone {
				s.Role, s.Place = role, row.Path
			}
		}
		for _, id := range left {
			if s := t.Find(id); s != nil {
				s.Role = metadata.StoreGone
			}
		}
		return nil
	})
	return err
}

// followTable has copies leave that the table has given up: the process may have
// ended, or the list not have been written, right behind that.
func (k *copyKeeper) followTable(t *metadata.StoreTable) error {
	list, _, _, _ := k.snapshot()
	gone := func(row *storeRow) bool {
		s := t.Find(row.Replica)
		return row.State == storeReady && s != nil && s.Role == metadata.StoreGone
	}
	if !slices.ContainsFunc(list.Stores, func(row storeRow) bool { return gone(&row) }) {
		return nil
	}
	return k.note(func(l *storeList) {
		for i := range l.Stores {
			if gone(&l.Stores[i]) {
				l.Stores[i].State = storeLeaving
			}
		}
	})
}

// differs reports whether a list wants something that a table does not say.
func differs(list *storeList, t *metadata.StoreTable) bool {
	for _, row := range list.Stores {
		s := t.Find(row.Replica)
		switch {
		case row.State == storeNew:
		case s == nil:
			return true
		case s.Role == metadata.StoreGone: // what is gone stays gone
		case (s.Role != metadata.StoreVoter) != (row.State == storeLeaving || row.State == storeGone):
			return true
		}
	}
	return false
}

// removeLeft ends the copies that are members no more, deletes and forgets them.
func (k *copyKeeper) removeLeft(ctx context.Context, e *replica.Replicated) error {
	list, _, _, _ := k.snapshot()
	for _, row := range list.Stores {
		if row.State != storeLeaving && row.State != storeGone {
			continue
		}
		if err := e.Forget(ctx, row.Replica); err != nil {
			return err
		}
		if row.State == storeLeaving {
			if err := e.RemoveStore(row.Replica); err != nil {
				k.log.Warn("end of a copy of the metadata", "replica", row.Replica, "err", err)
			}
			if err := k.note(func(l *storeList) { l.row(row.Replica).State = storeGone }); err != nil {
				return err
			}
		}
		shared := slices.ContainsFunc(list.Stores, func(s storeRow) bool { return s.Path == row.Path && s.Replica != row.Replica && s.State != storeGone })
		if dir, err := k.openDir(&row); err == nil && !shared {
			if err := removeStore(dir); err != nil {
				k.log.Error("files of a copy of the metadata stay", "path", dir, "err", err)
			}
		} // else the drive is away: what it brings back is deleted by the start that finds it
		if err := k.note(func(l *storeList) { l.drop(row.Replica) }); err != nil {
			return err
		}
		k.mu.Lock()
		delete(k.refused, row.Replica)
		k.mu.Unlock()
		k.log.Info("a copy of the metadata was taken away", "replica", row.Replica, "path", row.Path)
	}
	return nil
}
