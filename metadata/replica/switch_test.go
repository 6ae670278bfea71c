package replica

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// slowEngine takes a second for every call, and notes what it was asked after
// its end.
type slowEngine struct {
	mu     sync.Mutex
	calls  int
	closed bool
	late   int
}

func (e *slowEngine) call() {
	e.mu.Lock()
	if e.calls++; e.closed {
		e.late++
	}
	e.mu.Unlock()
	time.Sleep(time.Second)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		e.late++
	}
}

func (e *slowEngine) view(_ context.Context, _ uint32, _ func(state.View) error) error {
	e.call()
	return nil
}

func (e *slowEngine) Commit(context.Context, *metadata.Command) (*metadata.Result, error) {
	e.call()
	return new(metadata.Result), nil
}

func (e *slowEngine) Whole(context.Context, WholeReader) error { return nil }

func (e *slowEngine) Metrics() Metrics { return Metrics{Queue: e.calls} }

func (e *slowEngine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	return nil
}

// TestExchangeHoldsCalls exchanges an engine under calls: none fails, none
// reaches an engine that is closed.
func TestExchangeHoldsCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one, two := new(slowEngine), new(slowEngine)
		s := NewSwitch(one)
		var calls sync.WaitGroup
		call := func(n int) {
			for range n {
				calls.Go(func() {
					if _, err := s.Commit(t.Context(), new(metadata.Command)); err != nil {
						t.Error(err)
					}
				})
				calls.Go(func() {
					if err := s.view(t.Context(), 0, nil); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		call(5)
		began := time.Now()
		exchanged := make(chan error, 1)
		go func() {
			exchanged <- s.Exchange(t.Context(), func(old Engine) (Engine, error) {
				if err := old.Close(); err != nil {
					return nil, err
				}
				time.Sleep(2 * time.Second)
				return two, nil
			})
		}()
		synctest.Wait()
		call(5)
		if err := s.Exchange(t.Context(), nil); err == nil {
			t.Error("two exchanges at a time")
		}
		if err := <-exchanged; err != nil {
			t.Fatal(err)
		}
		calls.Wait()
		if d := time.Since(began); d != 4*time.Second {
			t.Errorf("all took %v, want a second of calls, two of the exchange, and a second of those that waited", d)
		}
		if one.calls != 10 || two.calls != 10 || one.late+two.late > 0 {
			t.Errorf("calls of the engines: %d and %d, late %d and %d", one.calls, two.calls, one.late, two.late)
		}
		if s.Engine() != Engine(two) || s.Metrics().Queue != 10 {
			t.Error("the switch shows another engine")
		}
	})
}

func TestExchangeGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one := new(slowEngine)
		s := NewSwitch(one)
		go s.view(t.Context(), 0, nil)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := s.Exchange(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("exchange with a call in flight: %v", err)
		}
		if _, err := s.Commit(t.Context(), new(metadata.Command)); err != nil {
			t.Errorf("commit after that: %v", err)
		}
		// Whoever waits for an exchange may give up.
		held, release := make(chan struct{}), make(chan struct{})
		go s.Exchange(t.Context(), func(old Engine) (Engine, error) {
			close(held)
			<-release
			return nil, errors.New("no engine left")
		})
		<-held
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Commit(ctx, new(metadata.Command)); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, metadata.ErrUnknownOutcome) {
			t.Errorf("commit during an exchange: %v", err)
		}
		close(release)
		synctest.Wait()
		if _, err := s.Commit(t.Context(), new(metadata.Command)); !errors.Is(err, metadata.ErrUnavailable) {
			t.Errorf("commit without an engine: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
