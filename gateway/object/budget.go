package object

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// budget is a number of bytes that requests share. Those that wait are served
// in order of arrival, so that a large wish is not starved by small ones.
type budget struct {
	mu      sync.Mutex
	limit   int64
	used    int64 // may exceed limit by what was forced
	peak    int64
	waiting list.List // of *waiter
}

type waiter struct {
	bytes int64
	ready chan struct{} // closed when the bytes were given
}

func newBudget(limit int64) *budget { return &budget{limit: limit} }

// acquire takes n bytes. It fails with ErrBusy after wait, or with the cause
// of ctx.
func (b *budget) acquire(ctx context.Context, n int64, wait time.Duration) error {
	if b.try(n) {
		return nil
	}
	b.mu.Lock()
	w := &waiter{bytes: n, ready: make(chan struct{})}
	element := b.waiting.PushBack(w)
	b.wake()
	b.mu.Unlock()

	timer := time.NewTimer(wait)
	defer timer.Stop()
	var err error
	select {
	case <-w.ready:
		return nil
	case <-timer.C:
		err = ErrBusy
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-w.ready: // in the last moment
		b.used -= n
	default:
		b.waiting.Remove(element)
	}
	b.wake()
	return err
}

// try takes n bytes if they are free and nobody waits.
func (b *budget) try(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting.Len() > 0 || b.used+n > b.limit {
		return false
	}
	b.take(n)
	return true
}

// force takes n bytes whatever is left: for the few that a request needs to
// go on with what it already holds.
func (b *budget) force(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.take(n)
}

func (b *budget) release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	b.wake()
}

// take and wake need mu.
func (b *budget) take(n int64) {
	b.used += n
	b.peak = max(b.peak, b.used)
}

func (b *budget) wake() {
	for e := b.waiting.Front(); e != nil; e = b.waiting.Front() {
		w := e.Value.(*waiter)
		if b.used+w.bytes > b.limit {
			return
		}
		b.take(w.bytes)
		close(w.ready)
		b.waiting.Remove(e)
	}
}

// BudgetState is the use of a budget of memory, in bytes.
type BudgetState struct {
	LimitBytes int64
	UsedBytes  int64
	PeakBytes  int64 // since the start
	Waiting    int   // requests
}

func (b *budget) state() BudgetState {
	b.mu.Lock()
	defer b.mu.Unlock()
	return BudgetState{LimitBytes: b.limit, UsedBytes: b.used, PeakBytes: b.peak, Waiting: b.waiting.Len()}
}

// Buffers come in classes: four to each power of two from 4 KiB on, with a
// little more for the checksums behind cells.
const (
	classSlack = 1 << 10
	classBase  = 4 << 10
	classes    = 4 * 13 // up to 28 MiB
)

// buffers keeps memory for another use. What it hands out is counted in a
// budget by its caller.
type buffers struct{ pools [classes]sync.Pool }

// buffer is memory of one class.
type buffer struct {
	b     []byte
	class int
}

func classBytes(class int) int {
	return (4+class%4)*classBase/4<<(class/4) + classSlack
}

func classFor(n int) int {
	for class := range classes {
		if classBytes(class) >= n {
			return class
		}
	}
	return classes
}

// get returns a buffer of at least n bytes, of any content.
func (p *buffers) get(n int) *buffer {
	class := classFor(n)
	if class == classes {
		return &buffer{b: make([]byte, n), class: class}
	}
	if b, ok := p.pools[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, classBytes(class)), class: class}
}

func (p *buffers) put(b *buffer) {
	if b.class < classes {
		p.pools[b.class].Put(b)
	}
}
