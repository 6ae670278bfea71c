package simtest_test

import (
	"slices"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/simtest"
	"github.com/ruche-storage/ruche/metadata/state"
)

// client is a gateway's request after request. It asks any store, and asks
// again, another one, when no answer comes.
type client struct {
	*sim
	id       int
	patience int // how often it tries, 0 for ever
	stopped  bool
	busy     bool
}

// waiter is what waits for an answer of a store. Each attempt has its own.
type waiter struct {
	done bool
}

// next plans the client's next request.
func (c *client) next() {
	c.busy = false
	if c.stopped {
		return
	}
	c.after(c.between(5*millisecond, 300*millisecond), func() {
		if c.stopped {
			return
		}
		c.busy = true
		c.patience = 0
		if c.chance(5) {
			c.patience = 1 + c.r.IntN(3) // its gateway dies
		}
		switch n := c.r.IntN(100); {
		case n < 52:
			c.write(c.work.Next(), nil)
		case n < 55:
			c.collect()
		case n < 80:
			c.readKey()
		case n < 92:
			c.list(c.work.Bucket(), "", 1+c.r.IntN(4))
		default:
			c.readParts()
		}
	})
}

// write has a command carried out. then is called with the result, nil if
// nobody knows it; without one the client goes on.
func (c *client) write(cmd *metadata.Command, then func(*metadata.Result)) {
	if c.zombie > 0 && c.chance(10) && cmd.Epoch != 0 {
		cmd.Epoch = c.zombie // a gateway that has not heard of the new epoch
	}
	call, unsure := c.now, false
	end := func(res *metadata.Result) {
		if res != nil && res.Rejected == metadata.ErrFencedEpoch {
			// The results of the epoch are gone: it may have been carried
			// out by an earlier attempt.
			if unsure {
				res = nil
			}
		} else if res != nil && cmd.Epoch != 0 && cmd.Epoch < c.floor(cmd.Group, call) {
			c.journal.problem("group %d: client %d was answered %v in epoch %d, which had ended before it asked",
				cmd.Group, c.id, res.Rejected, cmd.Epoch)
		}
		c.journal.did(c.id, call, c.now, cmd, res)
		c.work.Told(cmd, res)
		if res == nil {
			c.counts.unknown++
		} else {
			c.counts.answers[metadata.RejectionCode(res.Rejected)]++
		}
		if then != nil {
			then(res)
			return
		}
		if res != nil && res.Rejected == metadata.ErrStaleSettings {
			ref := metadata.BucketRef{Group: cmd.Group, ID: simtest.BucketOf(cmd)}
			if cmd.Settle != nil {
				ref.ID = cmd.Settle.Bucket
			}
			c.readSettings(ref)
			return
		}
		c.next()
	}
	tries := 0
	var attempt func()
	again := func(wait int64) {
		if tries++; tries == c.patience {
			end(nil)
			return
		}
		c.after(wait, attempt)
	}
	attempt = func() {
		h := c.anyHost()
		if h == nil {
			again(100 * millisecond)
			return
		}
		one := *cmd
		one.Stamp = h.clock()
		w := new(waiter)
		ticket := h.ticket()
		c.journal.proposed[ticket] = &one
		if err := h.propose(ticket, &one); err != nil {
			c.counts.refused++
			again(c.between(10*millisecond, 200*millisecond))
			return
		}
		unsure = true
		h.waiting[ticket] = func(res *metadata.Result) {
			if !w.done {
				w.done = true
				end(res)
			}
		}
		c.after(c.between(500*millisecond, 3*second), func() {
			if !w.done {
				w.done = true
				c.counts.timeouts++
				again(0)
			}
		})
	}
	attempt()
}

// read has look called with a linearizable view of a group, on any store.
func (c *client) read(group uint32, look func(call int64, v state.View, index uint64)) {
	var attempt func()
	tries, call := 0, c.now
	again := func(wait int64) {
		if tries++; tries == c.patience {
			c.next()
			return
		}
		c.after(wait, attempt)
	}
	attempt = func() {
		h := c.anyHost()
		if h == nil {
			again(100 * millisecond)
			return
		}
		w := new(waiter)
		if !h.read(group, func(v state.View, index uint64) {
			if !w.done {
				w.done = true
				c.counts.reads++
				look(call, v, index)
			}
		}) {
			again(c.between(10*millisecond, 200*millisecond))
			return
		}
		c.after(c.between(500*millisecond, 3*second), func() {
			if !w.done {
				w.done = true
				again(0)
			}
		})
	}
	attempt()
}

func (c *client) readKey() {
	b, key := c.work.Bucket(), c.work.Key()
	c.read(b.Group, func(call int64, view state.View, index uint64) {
		v, err := view.Version(b, key, "")
		if err != nil && err != metadata.ErrNoSuchKey {
			c.journal.problem("read of %s: %w", key, err)
		}
		if v != nil {
			c.work.Seen(b, key, v.ETag)
		}
		c.journal.read(c.id, call, c.now, b, key, index, v)
		c.next()
	})
}

// list reads page after page of a bucket.
func (c *client) list(b metadata.BucketRef, after string, limit int) {
	c.read(b.Group, func(call int64, view state.View, index uint64) {
		page, err := view.List(&metadata.ListQuery{Bucket: b, After: after, Limit: limit})
		if err != nil {
			c.journal.problem("list: %w", err)
			c.next()
			return
		}
		c.journal.listed(c.id, call, c.now, b, after, limit, index, page)
		if page.Truncated {
			c.list(b, page.Next, limit)
			return
		}
		c.next()
	})
}

func (c *client) readParts() {
	b, key, id, ok := c.work.Upload()
	if !ok {
		c.next()
		return
	}
	c.read(b.Group, func(call int64, view state.View, index uint64) {
		_, err := view.Upload(b, key, id)
		parts, perr := view.Parts(b, id, 0, 100)
		if err != nil && err != metadata.ErrNoSuchUpload || perr != nil {
			c.journal.problem("read of upload %x: %w, %w", id, err, perr)
		}
		if err != nil {
			parts = nil // what is left of it lies in the trash
		}
		c.journal.readParts(c.id, call, c.now, b, key, id, index, parts, err == nil)
		c.next()
	})
}

func (c *client) readSettings(b metadata.BucketRef) {
	c.read(b.Group, func(_ int64, view state.View, _ uint64) {
		s, err := view.Settings(b)
		if err != nil {
			c.journal.problem("settings: %w", err)
		} else {
			c.work.Settings(b, s.Epoch)
		}
		c.next()
	})
}

// collect drops some of a group's trash, as the collector does.
func (c *client) collect() {
	group := c.work.Bucket().Group
	c.read(group, func(_ int64, view state.View, _ uint64) {
		rows, err := trash(view, group)
		if err != nil {
			c.journal.problem("trash: %w", err)
		}
		if len(rows) == 0 {
			c.next()
			return
		}
		c.write(c.work.Collect(group, rows[:min(len(rows), 1+c.r.IntN(5))]), nil)
	})
}

// fencer lets epochs begin and end, in all groups. It is a client of its own.
type fencer struct {
	*client
	floors map[uint32][]floor
}

// floor is an epoch below which all have ended, in a group, from a time on.
type floor struct {
	at    int64
	epoch uint64
}

// floor returns the epoch below which all had ended in a group at a time.
func (s *sim) floor(group uint32, at int64) (epoch uint64) {
	for _, f := range s.fencer.floors[group] {
		if f.at < at {
			epoch = max(epoch, f.epoch)
		}
	}
	return epoch
}

// begin lets the next epoch begin in all groups; the clients change to it, and
// then the ones before end.
func (f *fencer) begin() {
	if f.busy || f.stopped {
		return
	}
	f.busy = true
	old := f.work.Epoch
	f.raise(metadata.Fence{Floor: old, Living: []uint64{old, old + 1}}, slices.Clone(f.groups), func() {
		f.zombie, f.work.Epoch = old, old+1
		f.after(f.between(100*millisecond, 3*second), func() {
			f.raise(metadata.Fence{Floor: old + 1, Living: []uint64{old + 1}}, slices.Clone(f.groups), func() { f.busy = false })
		})
	})
}

func (f *fencer) raise(fence metadata.Fence, groups []uint32, then func()) {
	if len(groups) == 0 {
		then()
		return
	}
	group := groups[0]
	next := func(res *metadata.Result) {
		if res == nil || res.Rejected != nil {
			f.journal.problem("group %d: fence %+v: %+v", group, fence, res)
		}
		if fence.Floor == fence.Living[0] && len(fence.Living) == 1 {
			f.floors[group] = append(f.floors[group], floor{f.now, fence.Floor})
		}
		f.raise(fence, groups[1:], then)
	}
	if f.bugs.fenceless && len(fence.Living) == 1 && group == f.groups[len(f.groups)-1] {
		next(&metadata.Result{})
		return
	}
	f.patience = 0
	f.write(&metadata.Command{Kind: metadata.KindFence, Version: metadata.CommandVersion, Group: group, Request: f.work.ID(), Fence: &fence}, next)
}

// ticketOf is a name for what a host was asked to carry out.
func (h *host) ticket() replica.Ticket {
	h.seq++
	return replica.Ticket{Replica: h.id, Session: h.life, Seq: h.seq}
}
