package replica

import (
	"context"
	"fmt"

	"github.com/ruche-storage/ruche/metadata"
)

// Forget makes it durable, at every store of this process that runs, that a
// store is a member of no group any more. Before that the files of that store
// may not be deleted: a group that rests does not write down what it has
// committed, and after a loss of power its members would ask for the vote of a
// store that has gone.
//
// It is [ErrUnsettled] while a store that runs still counts the other one as a
// member. Stores that are to go, too, are not asked: once they are no members,
// nobody tells them of what else changes.
func (e *Replicated) Forget(ctx context.Context, replica uint64) error {
	if err := e.enter(); err != nil {
		return err
	}
	defer e.life.leave()
	wish, err := e.Stores(ctx)
	if err != nil {
		return err
	}
	for _, r := range *e.runners.Load() {
		if r.id() == replica || r.failed() != nil {
			continue
		}
		if s := wish.Find(r.id()); s != nil && s.Role == metadata.StoreGone {
			continue
		}
		done := make(chan error, 1)
		err := r.do(ctx, func(s *Store) error {
			for _, m := range s.groups {
				if m.knows(replica) {
					return fmt.Errorf("%w: group %d: store %d does not know yet that store %d has gone", ErrUnsettled, m.id, r.id(), replica)
				}
			}
			r.sends.Go(func() { done <- s.Flush() })
			return nil
		})
		if err != nil {
			return err
		}
		select {
		case err = <-done:
		case <-ctx.Done():
			err = fmt.Errorf("replica: make durable in %s that store %d has gone: %w", r.store.Dir(), replica, context.Cause(ctx))
		}
		if err != nil && r.failed() == nil {
			return err
		}
	}
	return nil
}
