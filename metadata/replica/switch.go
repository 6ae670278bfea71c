package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"

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

	mu     sync.Mutex // guards what follows
	engine Engine     // nil after an exchange that left none
	calls  int        // in flight
	idle   chan struct{}
	held   chan struct{} // not nil during an exchange, closed at its end
	closed bool

	long longReads
}

// NewSwitch returns a switch to e.
func NewSwitch(e Engine) *Switch {
	s := &Switch{engine: e}
	s.reader = reader{s}
	return s
}

// enter begins a call. It must be followed by exit if there is no error.
func (s *Switch) enter(ctx context.Context) (Engine, error) {
	for {
		s.mu.Lock()
		held, e := s.held, s.engine
		switch {
		case s.closed:
			s.mu.Unlock()
			return nil, fmt.Errorf("%w: closed", metadata.ErrUnavailable)
		case held == nil && e == nil:
			s.mu.Unlock()
			return nil, fmt.Errorf("%w: no engine", metadata.ErrUnavailable)
		case held == nil:
			s.calls++
			s.mu.Unlock()
			return e, nil
		}
		s.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, fmt.Errorf("replica: not proposed: %w", context.Cause(ctx))
		}
	}
}

func (s *Switch) exit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls--; s.calls == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

func (s *Switch) view(ctx context.Context, group uint32, read func(state.View) error) error {
	e, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer s.exit()
	return e.view(ctx, group, read)
}

// Commit proposes a command to the engine there is: see [Local.Commit].
func (s *Switch) Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error) {
	e, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer s.exit()
	return e.Commit(ctx, cmd)
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
	return s.engine
}

// Exchange waits until no call is in flight, and holds those that come until
// change has returned the engine that they go on with. Change closes the engine
// it is given, or returns it. If ctx ends first, nothing was done. An exchange
// while another is under way is refused.
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
	idle := make(chan struct{})
	if s.calls == 0 {
		close(idle)
	} else {
		s.idle = idle
	}
	old := s.engine
	s.mu.Unlock()
	s.long.stop()

	next, err := old, error(nil)
	select {
	case <-idle:
		next, err = change(old)
	case <-ctx.Done():
		err = fmt.Errorf("replica: calls in flight have not ended: %w", context.Cause(ctx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine, s.idle = next, nil
	close(s.held)
	s.held = nil
	return err
}

// Close ends the engine. Calls after Close fail with metadata.ErrUnavailable. No
// exchange may be under way.
func (s *Switch) Close() error {
	s.mu.Lock()
	e, again := s.engine, s.closed
	s.closed = true
	s.mu.Unlock()
	if again || e == nil {
		return nil
	}
	return e.Close()
}
