package replica

import (
	"context"
	"time"
)

// Rest has the store lead nothing for so many ticks, as far as another one can:
// it gives away what it leads, and asks the others in its beats to give it
// nothing, as one that is slow does.
func (c *core) Rest(ticks int) { c.resting = c.ticks + uint64(ticks) }

// tired reports whether the store is to lead nothing if another one can.
func (c *core) tired() bool { return c.slow || c.full || c.ticks < c.resting }

// Rest has a store of this process lead nothing for some time, if another one
// can lead: its device is about to be worked on. It is forgotten when the store
// is started anew, and [ErrNoStore] if there is no such store or it has stopped.
func (e *Replicated) Rest(ctx context.Context, replica uint64, d time.Duration) error {
	if err := e.enter(); err != nil {
		return err
	}
	defer e.life.leave()
	for _, r := range *e.runners.Load() {
		if r.id() == replica && r.failed() == nil {
			return r.do(ctx, func(s *Store) error {
				s.Rest(int(d / e.opts.Tick))
				return nil
			})
		}
	}
	return ErrNoStore
}
