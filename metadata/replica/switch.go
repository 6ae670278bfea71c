package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// An Engine keeps the metadata: [*Local] for one copy, [*Replicated] for
// several.
type Engine interface {
	viewer
	Whole(ctx context.Context, read WholeReader) error
	Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error)
	Metrics() Metrics
	Close() error
}

var _ Engine = (*Local)(nil)

// A Switch is an engine that can be exchanged while it is used: the calls in
// flight end, those that come wait, and go on with the other engine. So a store
// grows from one copy to several, and back, without an error that a client
// sees. All methods may be called concurrently.
type Switch struct {
	reader

	mu     sync.Mutex // guards what follows, and the calls of all shifts
	now    *shift
	held   chan struct{} // not nil during an exchange, closed at its end
	closed bool

	long longReads
}

// shift is the time of one engine.
type shift struct {
	engine Engine // nil after an exchange that left none
	calls  int    // in flight
	idle   chan struct{}
}

// A leaver is an engine that can be closed although calls are in flight that
// hang: it leaves them to themselves.
type leaver interface {
	// callPatience is how long they are waited for.
	callPatience() time.Duration
	// leaveCalls says whether they were, so that Close need not.
	leaveCalls(waited bool)
}

func (e *Replicated) callPatience() time.Duration { return e.opts.Patience }

func (e *Replicated) leaveCalls(waited bool) { e.left.Store(waited) }

// NewSwitch returns a switch to e.
func NewSwitch(e Engine) *Switch {
	s := &Switch{now: &shift{engine: e}}
	s.reader = reader{s}
	return s
}

// enter begins a call. It must be followed by exit if there is no error.
func (s *Switch) enter(ctx context.Context) (*shift, error) {
	for {
		s.mu.Lock()
		held, now := s.held, s.now
		switch {
		case s.closed:
			s.mu.Unlock()
			return nil, fmt.Errorf("%w: closed", metadata.ErrUnavailable)
		case held == nil && now.engine == nil:
			s.mu.Unlock()
			return nil, fmt.Errorf("%w: no engine", metadata.ErrUnavailable)
		case held == nil:
			now.calls++
			s.mu.Unlock()
			return now, nil
		}
		s.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, fmt.Errorf("replica: not proposed: %w", context.Cause(ctx))
		}
	}
}

func (s *Switch) exit(of *shift) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if of.calls--; of.calls == 0 && of.idle != nil {
		close(of.idle)
		of.idle = nil
	}
}

func (s *Switch) view(ctx context.Context, group uint32, read func(state.View) error) error {
	now, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer s.exit(now)
	return now.engine.view(ctx, group, read)
}

// Commit proposes a command to the engine there is: see [Local.Commit].
func (s *Switch) Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error) {
	now, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer s.exit(now)
	return now.engine.Commit(ctx, cmd)
}

// Metrics returns the figures of the engine there is.
func (s *Switch) Metrics() Metrics {
	if e := s.Engine(); e != nil {
		return e.Metrics()
	}
	return Metrics{Failed: true}
}

// Engine returns the engine there is, nil if an exchange left none. Its methods
// must not be called after an exchange.
func (s *Switch) Engine() Engine {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.engine
}

// Exchange waits until no call is in flight, and holds those that come until
// change has returned the engine that they go on with. Change closes the engine
// it is given, or returns it. If ctx ends first, nothing was done. An exchange
// while another is under way is refused. Calls that hang on a device of a
// [*Replicated] engine are not waited for longer than its Close would.
func (s *Switch) Exchange(ctx context.Context, change func(old Engine) (Engine, error)) error {
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return fmt.Errorf("%w: closed", metadata.ErrUnavailable)
	case s.held != nil:
		s.mu.Unlock()
		return errors.New("replica: the engine is being exchanged")
	}
	s.held = make(chan struct{})
	old, idle := s.now, make(chan struct{})
	if old.calls == 0 {
		close(idle)
	} else {
		old.idle = idle
	}
	s.mu.Unlock()
	s.long.stop()

	next := old.engine
	err := s.awaitCalls(ctx, old, idle)
	if err == nil {
		next, err = change(old.engine)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old.idle = nil; next != old.engine {
		s.now = &shift{engine: next}
	} else if e, ok := next.(leaver); ok {
		e.leaveCalls(false)
	}
	close(s.held)
	s.held = nil
	return err
}

// awaitCalls waits until the calls of a shift have ended, or need not be waited
// for.
func (s *Switch) awaitCalls(ctx context.Context, of *shift, idle <-chan struct{}) error {
	var late <-chan time.Time
	old, leaves := of.engine.(leaver)
	if leaves {
		timer := time.NewTimer(old.callPatience())
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-idle:
	case <-late:
		old.leaveCalls(true)
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		return fmt.Errorf("replica: %d calls in flight have not ended; if nothing else keeps them, the device of the metadata does not answer: %w",
			of.calls, context.Cause(ctx))
	}
	return nil
}

// Close ends the engine. Calls after Close fail with metadata.ErrUnavailable. No
// exchange may be under way.
func (s *Switch) Close() error {
	s.mu.Lock()
	e, again := s.now.engine, s.closed
	s.closed = true
	s.mu.Unlock()
	if again || e == nil {
		return nil
	}
	return e.Close()
}
