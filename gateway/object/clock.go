package object

import (
	"context"
	"errors"
	"time"

	"github.com/ruche-storage/ruche/metadata"
)

// clock adds elapsed monotonic time to the counters of all groups, by which
// quarantines are counted. One process does so; what passes while none runs is
// not counted, and neither is what could not be committed: the counters may be
// late, never early.
type clock struct {
	g    *background
	last time.Time
}

// maxTick bounds what one tick adds: time that the process was stopped or the
// machine suspended is no time in which anybody could have looked.
const maxTick = 5

func (c *clock) tick(ctx context.Context) error {
	now := c.g.e.options.Now()
	elapsed := min(now.Sub(c.last), maxTick*c.g.o.ClockPeriod)
	c.last = now
	if elapsed <= 0 {
		return nil
	}
	epoch, release, err := c.g.lease()
	if err != nil {
		return err
	}
	defer release()
	var errs []error
	for group := range uint32(metadata.DataGroups + 1) {
		cmd := &metadata.Command{Kind: metadata.KindClock, Version: 1, Group: group, Epoch: epoch,
			Clock: &metadata.Clock{ElapsedMicros: uint64(elapsed.Microseconds())}}
		if _, err := c.g.e.propose(ctx, cmd); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
