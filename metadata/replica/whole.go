package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
)

// WholeReader reads all groups at one point in time. Its iterator covers all
// rows, and is closed after its return, as its clones must be by then. It must
// return soon after its context ends, which happens too when the engine is
// closed or exchanged, or the store takes in a snapshot.
type WholeReader func(ctx context.Context, it *pebble.Iterator) error

// errWholeEnds is why a long read ends early.
var errWholeEnds = errors.New("the metadata engine is being closed or exchanged: try again")

// Whole calls read with the newest durable state of all groups, one point in
// time of which nothing is missing that was acknowledged before the call.
// Writers go on meanwhile. The engine does not close before read has returned.
func (l *Local) Whole(ctx context.Context, read WholeReader) error {
	ctx, done := l.long.begin(ctx)
	defer done()
	if err := l.enter(); err != nil {
		return err
	}
	defer l.life.leave()
	if ctx.Err() != nil {
		return fmt.Errorf("replica: %w", context.Cause(ctx))
	}
	s := l.acquire()
	it, err := s.snap.NewIter(nil)
	l.release(s)
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	return errors.Join(read(ctx, it), closeIterator(it, l.fenced))
}

// closeIterator closes an iterator. In a store that hangs because it is fenced
// that may hang, too; it ends with the process then.
func closeIterator(it *pebble.Iterator, fenced <-chan struct{}) error {
	closed := make(chan error, 1)
	go func() { closed <- it.Close() }()
	select {
	case err := <-closed:
		return err
	case <-fenced:
		return nil // whoever asks the store is told why
	}
}

// Whole calls read with a state of all groups of one store: nothing is missing
// that was acknowledged before the call, and what commands of data groups and
// of the root rely on in each other is there. Writers go on meanwhile. The
// engine does not close before read has returned.
func (e *Replicated) Whole(ctx context.Context, read WholeReader) error {
	ctx, done := e.long.begin(ctx)
	defer done()
	if err := e.enter(); err != nil {
		return err
	}
	defer e.life.leave()
	if ctx.Err() != nil {
		return fmt.Errorf("replica: %w", context.Cause(ctx))
	}
	limited, cancel := e.patience(ctx)
	defer cancel()
	w, err := e.whole(ctx, limited)
	if err != nil {
		return e.late(ctx, err)
	}
	defer w.release()
	it, err := w.view.snap.NewIter(nil)
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	return errors.Join(read(w.ctx, it), closeIterator(it, w.store.fenced))
}

// wholeView is a view of a store, and the context of those who read it.
type wholeView struct {
	ctx   context.Context
	done  func()
	store *Store
	view  *view
}

func (w *wholeView) release() {
	w.store.views.release(w.view)
	w.done()
}

// whole finds a view in which all groups fit together. The root must not have
// changed from before the data groups were asked until after the view was
// taken: so the view has all that commands of the root followed on, and all
// commands of the root that those of data groups followed on. Limited ends the
// search, ctx the use of what was found.
func (e *Replicated) whole(ctx, limited context.Context) (*wholeView, error) {
	root, err := e.readIndex(limited, metadata.RootGroup)
	for err == nil {
		at := [groupCount]uint64{metadata.RootGroup: root}
		for g := uint32(metadata.RootGroup + 1); g < groupCount && err == nil; g++ {
			at[g], err = e.readIndex(limited, g)
		}
		var w *wholeView
		if err == nil {
			w, err = e.wholeAt(ctx, limited, at)
		}
		if err != nil {
			break
		}
		had := root
		if root, err = e.readIndex(limited, metadata.RootGroup); err == nil && root == had && w.view.applied[metadata.RootGroup] == had {
			return w, nil
		}
		w.release()
	}
	return nil, err
}

// wholeAt waits for a store that has applied all groups up to at.
func (e *Replicated) wholeAt(ctx, limited context.Context, at [groupCount]uint64) (*wholeView, error) {
	for {
		for _, r := range *e.runners.Load() {
			if w := r.store.wholeView(ctx, at); w != nil {
				return w, nil
			}
		}
		t := time.NewTimer(e.opts.Tick)
		select {
		case <-t.C:
		case <-limited.Done():
			t.Stop()
			return nil, context.Cause(limited)
		}
	}
}

// wholeView returns the newest view if it shows all groups up to at.
func (s *Store) wholeView(ctx context.Context, at [groupCount]uint64) *wholeView {
	if s.Failed() != nil {
		return nil
	}
	ctx, done := s.views.long.begin(ctx)
	w := &wholeView{ctx: ctx, done: done, store: s, view: s.views.acquire()}
	if w.view == nil {
		done()
		return nil
	}
	for g := range at {
		if w.view.applied[g] < at[g] || w.view.damaged[g] {
			w.release()
			return nil
		}
	}
	return w
}

// Whole calls read as the engine there is does: see [Local.Whole]. An exchange
// ends it.
func (s *Switch) Whole(ctx context.Context, read WholeReader) error {
	ctx, done := s.long.begin(ctx) // before it counts as a call
	defer done()
	now, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer s.exit(now)
	return now.engine.Whole(ctx, read)
}

// longReads are reads that may take minutes, and are told to end when what they
// read from has to. The zero value has none.
type longReads struct {
	mu      sync.Mutex // guards what follows
	next    int
	running map[int]context.CancelCauseFunc
	ended   bool
}

// begin returns the context of a read, and the function to be called behind it.
func (l *longReads) begin(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		cancel(errWholeEnds)
	}
	if l.running == nil {
		l.running = make(map[int]context.CancelCauseFunc)
	}
	number := l.next
	l.next++
	l.running[number] = cancel
	return ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.running, number)
		cancel(nil)
	}
}

// stop tells those that run to end.
func (l *longReads) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, cancel := range l.running {
		cancel(errWholeEnds)
	}
}

// end is stop, and lets none begin any more.
func (l *longReads) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.stop()
}
