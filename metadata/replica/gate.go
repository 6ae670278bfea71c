package replica

import (
	"sync"
	"sync/atomic"
	"time"
)

// gate counts calls in flight until it is closed. It takes the place of a lock
// held by calls, which a call that hangs on a device would never release.
type gate struct {
	calls  atomic.Int64 // in flight; gateClosed more once closed
	closed atomic.Bool
	once   sync.Once
	idle   chan struct{} // closed when no call is left after shut
}

const gateClosed = 1 << 62

func newGate() *gate { return &gate{idle: make(chan struct{})} }

// enter begins a call, and reports whether it may go on: then it must end with
// leave.
func (g *gate) enter() bool {
	if g.calls.Add(1) <= gateClosed {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g.calls.Add(-1) == gateClosed {
		g.once.Do(func() { close(g.idle) })
	}
}

// shut lets no more calls begin. It reports whether it was the first to do so.
func (g *gate) shut() bool {
	if !g.closed.CompareAndSwap(false, true) {
		return false
	}
	g.calls.Add(gateClosed + 1)
	g.leave()
	return true
}

// wait waits after shut until no call is in flight, and reports whether that
// was so in time.
func (g *gate) wait(patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-g.idle:
		return true
	case <-timer.C:
		return false
	}
}
