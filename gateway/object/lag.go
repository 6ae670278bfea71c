package object

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/ruche-storage/ruche/erasure"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// passed returns which members of a group a chunk goes past because they are
// suspect. It keeps one drive more than the ack rule needs, as another may fail
// at any time: suspect drives that fill up to that are written to and not waited
// for. Those on which maxHanging shards were given up are always passed.
func (e *Engine) passed(pg *metadata.PG, need int) (mask uint32) {
	if e.suspects.count.Load() == 0 {
		return 0
	}
	able := 0
	members := pg.Newest().Members
	for i, d := range members {
		switch {
		case e.suspects.has(d):
			mask |= 1 << i
		case e.options.Drives.Condition(d).Writable:
			able++
		}
	}
	for hopeless := uint32(0); able < need+1 && mask != hopeless; {
		best, most := -1, -1
		for i, d := range members {
			if (mask&^hopeless)&(1<<i) == 0 {
				continue
			}
			if hope := e.suspects.hope(d); hope > most {
				best, most = i, hope
			} else if hope < 0 {
				hopeless |= 1 << i
			}
		}
		if best >= 0 {
			mask &^= 1 << best
			able++
		}
	}
	return mask
}

// suspectChanged is told when a drive becomes suspect and when it is trusted
// again.
func (e *Engine) suspectChanged(drive topology.DriveID, suspect bool) {
	e.topology.chooser.Store(nil)
	if suspect {
		e.log.Warn("drive answers much later than others: writes avoid it", "drive", drive.String())
	} else {
		e.log.Info("drive answers in time again", "drive", drive.String())
	}
}

// pass leaves a lane out of the chunk from the beginning.
func (c *chunkWriter) pass(l *lane) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended |= 1 << l.index
	c.failed.Add(1)
	c.e.counters.shardsPassed.Add(1)
	c.reasons = append(c.reasons, fmt.Errorf("shard %d on drive %s, which is suspect: %w", l.index, l.drive, metadata.ErrSlow))
	l.closed, l.over = true, true
	l.broken.Store(true)
}

// wait waits until every lane has ended, or those that have not are late while
// the ack rule holds without them. Without enough shards it returns
// ErrUnwritable or ErrFull.
func (c *chunkWriter) wait(ctx context.Context) error {
	timer := time.NewTimer(c.patience())
	defer timer.Stop()
	total := len(c.lanes)
	for stalls := 0; ones(c.ended|c.given) < total && total-ones((c.ended|c.given)&^c.acked) >= c.need(); {
		select {
		case i := <-c.finished:
			c.take(i)
			stalls = 0
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
			if ones(c.acked) >= c.need() {
				c.giveUpLate()
			} else if stalls++; stalls == maxStalls {
				c.giveUpAll()
			}
		}
		timer.Reset(c.patience())
	}
	for len(c.finished) > 0 {
		c.take(<-c.finished)
	}
	c.judge()
	if ones(c.acked) < c.need() {
		return c.unwritable()
	}
	return nil
}

// take takes in that a lane has ended.
func (c *chunkWriter) take(i int) {
	c.ended |= 1 << i
	if c.lanes[i].err == nil {
		c.acked |= 1 << i
	}
}

// patience is how long wait waits for the next lane: until the first of those
// that are running is late, if it can do without them.
func (c *chunkWriter) patience() time.Duration {
	if ones(c.acked) < c.need() {
		return c.e.options.StallTimeout
	}
	return c.lagCheck()
}

// leastLagCheck keeps a write from looking all the time at lanes that are late
// and that it cannot do without.
const leastLagCheck = time.Millisecond

// lagCheck returns after what time the first of the running lanes may be late.
func (c *chunkWriter) lagCheck() time.Duration {
	now, typical := c.e.options.Now(), c.typical()
	least := c.e.options.StallTimeout
	for i := range c.lanes {
		if l := &c.lanes[i]; (c.ended|c.given)&(1<<i) == 0 {
			least = min(least, c.limit(l, typical)-l.busy(now))
		}
	}
	return max(least, leastLagCheck)
}

// typical is how long the drive of an ordinary lane was busy for its shard so
// far.
func (c *chunkWriter) typical() time.Duration {
	var room [erasure.MaxShards]time.Duration
	times, now := room[:0], c.e.options.Now()
	for i := range c.lanes {
		if l := &c.lanes[i]; !l.broken.Load() {
			times = append(times, l.busy(now))
		}
	}
	return median(times)
}

// limit is how long a drive may be busy for a lane before it is late.
func (c *chunkWriter) limit(l *lane, typical time.Duration) time.Duration {
	if c.e.suspects.has(l.drive) {
		return typical
	}
	return max(c.e.options.LagTimeout, lagFactor*typical)
}

// giveUpLate makes the drives of late lanes suspect, and gives these lanes up if
// the ack rule allows it. It reports whether it did.
func (c *chunkWriter) giveUpLate() bool {
	now, typical := c.e.options.Now(), c.typical()
	var late []*lane
	live := 0
	for i := range c.lanes {
		l := &c.lanes[i]
		switch running := c.ended&(1<<i) == 0 && !l.broken.Load(); {
		case running && l.busy(now) >= c.limit(l, typical):
			late = append(late, l)
		case running || c.acked&(1<<i) != 0:
			live++
		}
	}
	for _, l := range late {
		c.e.suspects.accuse(l.drive)
	}
	if len(late) == 0 || live < c.need() {
		return false
	}
	for _, l := range late {
		c.giveUp(l)
	}
	return true
}

// giveUpAll gives up all lanes that are running.
func (c *chunkWriter) giveUpAll() {
	for i := range c.lanes {
		if c.ended&(1<<i) == 0 {
			c.giveUp(&c.lanes[i])
		}
	}
}

// judge takes note of which drives were in time with their shards.
func (c *chunkWriter) judge() {
	now, typical := c.e.options.Now(), c.typical()
	late := max(c.e.options.HedgeAfter, lagFactor*typical)
	for i := range c.lanes {
		switch l := &c.lanes[i]; {
		case c.acked&(1<<i) == 0:
		case l.busy(now) > max(late, c.e.options.LagTimeout/4):
			c.e.suspects.late(l.drive, lostWeight)
		case l.busy(now) > late:
			c.e.suspects.late(l.drive, lateWeight)
		default:
			c.e.suspects.inTime(l.drive)
		}
	}
}

func (c *chunkWriter) giveUp(l *lane) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.given |= 1 << l.index
	if l.over || l.givenUp.Swap(true) {
		return
	}
	c.e.counters.hanging.Add(1)
	c.e.suspects.drive(l.drive).lost.Add(1)
	c.fail(l, fmt.Errorf("shard %d on drive %s: %w", l.index, l.drive, metadata.ErrSlow))
	level := slog.LevelWarn
	if c.e.suspects.has(l.drive) {
		level = slog.LevelDebug // that was told
	}
	c.e.log.Log(context.Background(), level, "shard writer given up", "drive", l.drive.String(), "chunk", c.row.ID.String(), "shard", l.index)
}
