package replica

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// view runs a read of a group. It asks the group's leader, which asks a quorum
// whether it still leads, up to where the group was committed when the read
// began, and reads from a store that has applied as much; if that does not answer
// soon, from another one besides.
func (e *Replicated) view(ctx context.Context, group uint32, read func(state.View) error) error {
	if err := e.enter(); err != nil {
		return err
	}
	defer e.life.leave()
	if ctx.Err() != nil {
		return fmt.Errorf("replica: %w", context.Cause(ctx))
	}
	if group > metadata.DataGroups {
		return fmt.Errorf("replica: group %d: %w", group, metadata.ErrUnavailable)
	}
	limited, cancel := e.patience(ctx)
	defer cancel()
	index, err := e.readIndex(limited, group)
	if err != nil {
		return e.late(ctx, err)
	}
	r, v, err := e.viewAt(limited, group, index)
	if err != nil {
		return e.late(ctx, err)
	}
	answers := make(chan error, maxTries)
	first := &try{r: r, v: v, read: read, answers: answers}
	go first.run()
	hedge := time.NewTimer(viewHedge)
	defer hedge.Stop()
	for {
		select {
		case err := <-answers:
			return err
		case <-ctx.Done():
			return fmt.Errorf("replica: %w", context.Cause(ctx))
		case <-hedge.C:
			first.late()
		}
		if other, v := e.findView(group, index, 0); other != nil { // one that is late comes last
			if other.overdue.Load() > 0 {
				other.store.views.release(v)
				continue
			}
			go (&try{r: other, v: v, read: read, answers: answers}).run()
		}
	}
}

const (
	// viewHedge is how long a store may read before another one is asked, too.
	viewHedge = 50 * time.Millisecond
	maxTries  = 2 // stores that are asked
)

// try is a read of one store.
type try struct {
	r       *runner
	v       *view
	read    func(state.View) error
	answers chan<- error // has room
	state   atomic.Int32
}

// States of a try.
const (
	tryRunning = iota
	tryLate
	tryEnded
)

// run reads and gives the view back. It ends when the device answers: whoever
// closes the store waits for its views.
func (t *try) run() {
	defer t.r.store.views.release(t.v)
	t.answers <- t.read(state.NewView(t.v.snap))
	if t.state.Swap(tryEnded) == tryLate {
		t.r.overdue.Add(-1)
	}
}

// late has others ask the store last until the read has ended.
func (t *try) late() {
	t.r.overdue.Add(1)
	if !t.state.CompareAndSwap(tryRunning, tryLate) {
		t.r.overdue.Add(-1)
	}
}

// late returns the error of a read that was not answered.
func (e *Replicated) late(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("replica: %w", context.Cause(ctx))
	}
	return fmt.Errorf("%w: %w", metadata.ErrUnavailable, err)
}

// readIndex returns up to where a store must have applied a group to show all
// that was committed before the call.
func (e *Replicated) readIndex(ctx context.Context, group uint32) (uint64, error) {
	g := &e.groups[group]
	number, answer := e.seq.Add(1), make(chan uint64, 1)
	g.mu.Lock()
	g.readers[number] = answer
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.readers, number)
		g.mu.Unlock()
	}()
	var asked *runner
	var timer *time.Timer
	for {
		if r := e.pick(group); r != nil && r != asked {
			r.mail.ask(question{group: group, number: number})
			asked = r
		}
		if timer == nil {
			// Most are answered long before.
			timer = time.NewTimer(e.opts.Tick)
			defer timer.Stop()
		} else {
			timer.Reset(e.opts.Tick)
		}
		select {
		case index := <-answer:
			return index, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-e.fenced:
			return 0, *e.failure.Load()
		case <-timer.C:
		}
	}
}

// answered is told by a store up to where readers must wait.
func (e *Replicated) answered(res ReadResult) {
	g := &e.groups[res.Group]
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, number := range res.Asked {
		if answer := g.readers[number]; answer != nil {
			select {
			case answer <- res.Index:
			default: // two stores were asked
			}
		}
	}
}

// viewAt returns the view of a store that has applied a group up to index, to
// be released.
func (e *Replicated) viewAt(ctx context.Context, group uint32, index uint64) (*runner, *view, error) {
	g := &e.groups[group]
	for wait := false; ; wait = true {
		g.mu.Lock()
		leader := g.leader
		if wait && g.progress == nil {
			g.progress = make(chan struct{})
		}
		progress := g.progress
		g.mu.Unlock()
		if r, v := e.findView(group, index, leader); r != nil {
			return r, v, nil
		}
		if !wait {
			continue
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		case <-e.fenced:
			return nil, nil, *e.failure.Load()
		}
	}
}

// findView looks for a view that is new enough: of the leader first, and last of
// stores that are late with other reads.
func (e *Replicated) findView(group uint32, index, leader uint64) (*runner, *view) {
	runners := *e.runners.Load()
	for _, careful := range []bool{true, false} {
		for _, ofLeader := range []bool{true, false} {
			for _, r := range runners {
				if (r.id() == leader) != ofLeader || r.failed() != nil || (r.overdue.Load() > 0) == careful {
					continue
				}
				v := r.store.views.acquire()
				if v == nil {
					continue
				}
				if v.applied[group] >= index && !v.damaged[group] {
					return r, v
				}
				r.store.views.release(v)
			}
		}
	}
	return nil, nil
}
