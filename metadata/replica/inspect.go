package replica

import (
	"fmt"
	"runtime"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// View calls read with what the store has applied of a group, and up to which
// position that is. It waits for nothing: whoever needs a read that is
// linearizable asks [Store.ReadIndex] first and looks at the position. It may be
// called at any time. Errors wrap metadata.ErrUnavailable if the group cannot be
// read at present, or are those of read.
func (s *Store) View(group uint32, read func(v state.View, position uint64) error) error {
	if int(group) >= groupCount {
		return fmt.Errorf("replica: group %d: %w", group, metadata.ErrInvalidCommand)
	}
	if err := s.Failed(); err != nil {
		return err
	}
	v := s.views.acquire()
	if v == nil {
		return fmt.Errorf("replica: group %d: %w: a snapshot is being installed", group, metadata.ErrUnavailable)
	}
	defer s.views.release(v)
	if v.damaged[group] {
		return fmt.Errorf("replica: group %d: %w: its state is damaged", group, metadata.ErrUnavailable)
	}
	return read(state.NewView(v.snap), v.applied[group])
}

// Flush makes durable what was applied, so that the log may be cut of it.
// Commands may be applied meanwhile. It must have returned before Close.
func (s *Store) Flush() error { return s.guard(s.db.Flush) }

// Settle waits until nothing happens in the store's background, so that a
// simulation may count what is written and see the same twice.
func (s *Store) Settle() error {
	return s.guard(func() error {
		for {
			a, b := s.db.Metrics(), s.log.Metrics().Pebble
			if a.Compact.NumInProgress+a.Flush.NumInProgress+b.Compact.NumInProgress+b.Flush.NumInProgress == 0 {
				return nil
			}
			runtime.Gosched()
		}
	})
}
