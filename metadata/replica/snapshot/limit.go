package snapshot

import (
	"context"
	"sync"
	"time"
)

// Limiter bounds how many bytes a second go through all that share it. A nil
// Limiter bounds nothing. It is safe for concurrent use.
type Limiter struct {
	rate  float64 // bytes a second
	now   func() time.Time
	sleep func(context.Context, time.Duration) error

	mu   sync.Mutex // guards next
	next time.Time  // when all that was let through is paid for
}

// NewLimiter returns a limiter, or nil if bytesPerSecond is not positive. A nil
// sleep waits for a timer.
func NewLimiter(bytesPerSecond int64, now func() time.Time, sleep func(context.Context, time.Duration) error) *Limiter {
	if bytesPerSecond <= 0 {
		return nil
	}
	if sleep == nil {
		sleep = wait
	}
	return &Limiter{rate: float64(bytesPerSecond), now: now, sleep: sleep}
}

// Wait waits until n bytes more may go, or the context ends. Those who come
// while others wait, wait behind them.
func (l *Limiter) Wait(ctx context.Context, n int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if l == nil {
		return nil
	}
	l.mu.Lock()
	now := l.now()
	if l.next.Before(now) {
		l.next = now
	}
	pause := l.next.Sub(now)
	l.next = l.next.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	l.mu.Unlock()
	if pause <= 0 {
		return nil
	}
	return l.sleep(ctx, pause)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
