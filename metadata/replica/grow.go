package replica

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/state"
)

// Failures of steps between one copy and several.
var (
	// ErrReplicated means that a directory holds a replicated store, or what is
	// left of one, which an engine of one copy must not change.
	ErrReplicated = errors.New("store is replicated")
	// ErrNotAlone means that other stores vote, so that this one does not know
	// everything.
	ErrNotAlone = errors.New("other stores vote, too: remove them first")
)

// goneName is what a log is called that Shrink has taken away, until it is
// removed.
const goneName = "log.gone"

// Grow makes the store of a [Local] engine, which must be closed, one of a
// replicated engine: the only voter of all groups. Its rows stay as they are;
// each group's log begins at the position that the group has. It may be
// repeated after a crash, and does nothing to a store that is replicated
// already under the same identity.
func Grow(dir string, id commandlog.Identity, o StoreOptions) error {
	o = o.withDefaults(dir)
	if err := grow(dir, id, o); err != nil {
		return fmt.Errorf("replica: grow %s: %w", dir, err)
	}
	return nil
}

func grow(dir string, id commandlog.Identity, o StoreOptions) error {
	path := o.FS.PathJoin(dir, logName)
	there, err := commandlog.Exists(o.FS, path)
	if err != nil {
		return err
	}
	if there {
		return sameLog(path, id, o)
	}
	cache := pebble.NewCache(o.CacheBytes)
	defer cache.Unref()
	var failure error
	db, err := pebble.Open(dir, o.pebbleOptions(o.FS, cache, func(err error) { failure = err }))
	if err != nil {
		return err
	}
	starts, err := positions(db, id.Replica)
	if err == nil {
		err = db.Flush()
	}
	if err := errors.Join(err, db.Close(), failure); err != nil {
		return err
	}
	return commandlog.Create(path, o.logOptions(o.FS, nil), id, starts)
}

// sameLog reports whether the log that is there already is the one wanted.
func sameLog(path string, id commandlog.Identity, o StoreOptions) error {
	log, err := commandlog.Open(path, o.logOptions(o.FS, nil))
	if err != nil {
		return err
	}
	have := log.Identity()
	if err := log.Close(); err != nil {
		return err
	}
	if have != id {
		return fmt.Errorf("%w as %d already", ErrReplicated, have.Replica)
	}
	return nil
}

// refuseReplicated returns ErrReplicated if dir holds a command log, or what is
// left of one: without it, what was committed is not all there.
func refuseReplicated(dir string, o Options) error {
	path := o.FS.PathJoin(dir, logName)
	_, err := o.FS.Stat(path)
	if oserror.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%w, in %s: open it with its other copies, or shrink it first", ErrReplicated, path)
}

// positions writes the positions of all groups into their rows, in the place
// of those that an earlier log has left, and returns where the logs begin.
func positions(db *pebble.DB, replica uint64) ([]commandlog.Start, error) {
	conf := &pb.ConfState{Voters: []uint64{replica}}
	encoded, err := encodeConf(conf)
	if err != nil {
		return nil, err
	}
	view := state.NewView(db)
	batch := state.New(db).NewBatch()
	var starts []commandlog.Start
	for g := range uint32(groupCount) {
		h, err := view.Head(g)
		if err != nil {
			batch.Discard()
			return nil, err
		}
		// Position 0 means none to Raft.
		s := commandlog.Start{Group: g, Index: max(h.Position, 1), Term: 1, Conf: conf}
		starts = append(starts, s)
		if err := batch.SetRaft(g, &metadata.RaftPosition{Index: s.Index, Term: s.Term, Conf: encoded}); err != nil {
			batch.Discard()
			return nil, err
		}
	}
	return starts, batch.Commit(pebble.Sync)
}

// Shrink makes a store that is the only voter of all groups, and that no engine
// has open, one of a [Local] engine: everything in its log is applied, the state
// made durable and the log removed. It may be repeated after a crash.
func Shrink(dir string, o StoreOptions) error {
	o = o.withDefaults(dir)
	if err := shrink(dir, o); err != nil {
		return fmt.Errorf("replica: shrink %s: %w", dir, err)
	}
	return nil
}

func shrink(dir string, o StoreOptions) error {
	path, gone := o.FS.PathJoin(dir, logName), o.FS.PathJoin(dir, goneName)
	there, err := commandlog.Exists(o.FS, path)
	if err != nil {
		return err
	}
	if there {
		s, err := OpenStore(dir, o)
		if err != nil {
			return err
		}
		if err := errors.Join(s.applyAll(), s.Close()); err != nil {
			return err
		}
		if err := o.FS.RemoveAll(gone); err != nil {
			return err
		}
		if err := o.FS.Rename(path, gone); err != nil {
			return err
		}
		d, err := o.FS.OpenDir(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return err
		}
	}
	return o.FS.RemoveAll(gone)
}

// applyAll lets the only voter commit and apply everything that it has.
func (s *Store) applyAll() error {
	for g := range uint32(groupCount) {
		if !s.onlyVoter(g) {
			return fmt.Errorf("group %d: %w", g, ErrNotAlone)
		}
		s.Campaign(g)
	}
	for {
		r := s.Ready()
		if r.Stopped != nil {
			return r.Stopped
		}
		if r.Append != nil {
			if err := s.Append(r.Append); err != nil {
				return err
			}
			s.Appended(r.Append)
		}
		if r.Apply != nil {
			if err := s.Apply(r.Apply); err != nil {
				return err
			}
			s.Applied(r.Apply)
		}
		if r.Empty() {
			break
		}
	}
	for _, m := range s.groups {
		if m.applied != m.last {
			return fmt.Errorf("group %d is applied up to %d of %d", m.id, m.applied, m.last)
		}
	}
	return nil
}
