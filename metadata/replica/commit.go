package replica

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// call is a command of a caller.
type call struct {
	group uint32
	seq   uint64
	data  []byte           // the entry
	cmd   metadata.Command // what data says
	done  chan struct{}
	res   *metadata.Result // set before done is closed

	again chan struct{} // gets a value when it is worth another try
	why   atomic.Pointer[error]
	ended atomic.Bool // res is set
	seen  uint64      // how often stores had skipped commands of the group when the call began

	attempts []*attempt // of the caller's goroutine
}

// attempt is a call that is handed to one store.
type attempt struct {
	*call
	state atomic.Int32 // one of those of a proposal
}

// take reports whether the store may propose the attempt: its caller has not
// given it up.
func (a *attempt) take() bool { return a.state.CompareAndSwap(waiting, taken) }

func (c *call) nudge() {
	select {
	case c.again <- struct{}{}:
	default:
	}
}

// refuse is called when the store has not proposed the attempt.
func (a *attempt) refuse(err error) {
	a.state.Store(abandoned)
	a.why.Store(&err)
	a.nudge()
}

// withdraw takes back what no store has looked at, and returns how many
// attempts may have been proposed.
func (c *call) withdraw() (proposed int) {
	for _, a := range c.attempts {
		a.state.CompareAndSwap(waiting, abandoned)
		if a.state.Load() == taken {
			proposed++
		}
	}
	return proposed
}

// finish gives the call its result, and reports whether it was the first.
func (c *call) finish(res *metadata.Result) bool {
	first := c.ended.CompareAndSwap(false, true)
	if first {
		c.res = res
		close(c.done)
	}
	return first
}

// Commit proposes cmd to its group and waits until a quorum has it on stable
// storage and it is applied. A rejection is returned as the error, with the
// result beside it. Other errors are metadata.ErrOverloaded, ErrMetadataFull
// and ErrUnavailable, after which nothing was done, the context's error if the
// command was not proposed yet, or metadata.ErrUnknownOutcome. cmd is not
// changed and not looked at any more once Commit has returned.
//
// While leaders change, the command is proposed again, under the same request
// id: one of its own if it has none.
func (e *Replicated) Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error) {
	if err := cmd.Known(); err != nil {
		return nil, err
	}
	if cmd.Group > metadata.DataGroups {
		return nil, fmt.Errorf("replica: group %d: %w", cmd.Group, metadata.ErrInvalidCommand)
	}
	if err := e.enter(); err != nil {
		return nil, err
	}
	defer e.life.leave()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("replica: not proposed: %w", context.Cause(ctx))
	}
	if err := e.admit(cmd.Kind); err != nil {
		return nil, err
	}
	if err := e.active(cmd); err != nil {
		return &metadata.Result{Rejected: err}, err
	}
	c, err := e.newCall(cmd)
	if err != nil {
		return nil, err
	}
	if e.waiting.Add(1) > int64(e.opts.QueueLength) {
		e.waiting.Add(-1)
		e.counts.overload()
		return nil, metadata.ErrOverloaded
	}
	defer e.waiting.Add(-1)
	g := &e.groups[c.group]
	g.mu.Lock()
	g.calls[c.seq] = c
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.calls, c.seq)
		g.mu.Unlock()
	}()
	return e.see(ctx, c)
}

// newCall encodes a command. One that could not be decoded would stop every
// store, so it is decoded once here.
func (e *Replicated) newCall(cmd *metadata.Command) (*call, error) {
	stamped := *cmd
	var err error
	if stamped.Stamp, stamped.Request, err = e.stamp(cmd.Request); err != nil {
		return nil, err
	}
	c := &call{
		group: cmd.Group, seq: e.seq.Add(1), done: make(chan struct{}), again: make(chan struct{}, 1),
		seen: e.groups[cmd.Group].skipped.Load(),
	}
	c.data = EncodeEntry(Ticket{Replica: e.Leader(c.group), Session: e.session, Seq: c.seq}, &stamped)
	if _, err := decodeEntry(c.data, &c.cmd); err != nil {
		return nil, fmt.Errorf("%w: %w", metadata.ErrInvalidCommand, err)
	}
	e.shared.put(c)
	return c, nil
}

// see sees a call through to its end.
func (e *Replicated) see(ctx context.Context, c *call) (*metadata.Result, error) {
	limited, cancel := e.patience(ctx)
	defer cancel()
	pause := e.opts.Retry
	timer := time.NewTimer(pause)
	defer timer.Stop()
	leaderless := false
	for propose := true; ; {
		if propose {
			e.propose(c)
		}
		propose = true
		select {
		case <-c.done:
			return e.answer(c)
		case <-limited.Done():
			return e.giveUp(ctx, c, context.Cause(limited))
		case <-e.fenced:
			return e.giveUp(ctx, c, *e.failure.Load())
		case <-timer.C:
			if !leaderless {
				pause *= 2
			}
			leaderless = false
			timer.Reset(pause)
		case <-c.again:
			why := c.why.Swap(nil)
			switch {
			case why == nil: // another leader: what the old one took may be lost
			case errors.Is(*why, metadata.ErrOverloaded) && c.withdraw() == 0:
				e.counts.overload()
				return nil, metadata.ErrOverloaded
			default: // no leader yet
				propose, leaderless = false, true
				timer.Reset(min(pause, e.opts.Tick))
			}
		}
	}
}

// propose hands the call to the store that is best asked.
func (e *Replicated) propose(c *call) {
	r := e.pick(c.group)
	if r == nil {
		return
	}
	a := &attempt{call: c}
	c.attempts = append(c.attempts, a)
	if err := r.mail.propose(a); err != nil {
		a.refuse(err)
	}
}

// answer returns the result of a call.
func (e *Replicated) answer(c *call) (*metadata.Result, error) {
	if errors.Is(c.res.Rejected, metadata.ErrFencedEpoch) && c.withdraw() > 1 && e.groups[c.group].skipped.Load() != c.seen {
		// An earlier attempt may have been carried out before the fence rose,
		// which drops its result, and nobody here has looked on.
		return nil, fmt.Errorf("%w: %w", metadata.ErrUnknownOutcome, metadata.ErrFencedEpoch)
	}
	return c.res, c.res.Rejected
}

// giveUp ends the wait for a call.
func (e *Replicated) giveUp(ctx context.Context, c *call, why error) (*metadata.Result, error) {
	select {
	case <-c.done:
		return e.answer(c)
	default:
	}
	switch {
	case c.withdraw() > 0:
		return nil, fmt.Errorf("%w: %w", metadata.ErrUnknownOutcome, why)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("replica: not proposed: %w", context.Cause(ctx))
	}
	return nil, fmt.Errorf("%w: %w", metadata.ErrUnavailable, why)
}

// active returns metadata.ErrVersionTooLow if the group does not take commands
// of this kind yet.
func (e *Replicated) active(cmd *metadata.Command) error {
	need := uint32(metadata.VersionOf(cmd.Kind))
	g := &e.groups[cmd.Group]
	if need <= max(g.version.Load(), 1) {
		return nil
	}
	var highest uint16
	for _, r := range *e.runners.Load() {
		if r.failed() != nil {
			continue
		}
		v := r.store.views.acquire()
		if v == nil {
			continue
		}
		version, err := state.NewView(v.snap).CommandVersion(cmd.Group)
		r.store.views.release(v)
		if err == nil {
			highest = max(highest, version)
		}
	}
	g.version.Store(uint32(highest))
	if need > uint32(highest) {
		return metadata.ErrVersionTooLow
	}
	return nil
}

// applied is told by a store what it has applied.
func (e *Replicated) applied(r *runner, w *ApplyWork) {
	for _, it := range w.items {
		if it.snapshot != nil {
			e.groups[it.group].skipped.Add(1)
		}
	}
	rejected, mine := 0, 0
	for i := range w.Outcomes {
		o := &w.Outcomes[i]
		if o.Ticket.Session != e.session {
			continue
		}
		g := &e.groups[o.Group]
		g.mu.Lock()
		c := g.calls[o.Ticket.Seq]
		g.mu.Unlock()
		if c == nil || !c.finish(o.Result) {
			continue
		}
		mine++
		if o.Result.Rejected != nil {
			rejected++
		}
	}
	if mine > 0 {
		e.counts.commands(mine, rejected)
	}
	for _, it := range w.items {
		g := &e.groups[it.group]
		g.mu.Lock()
		g.moved()
		g.mu.Unlock()
	}
}
