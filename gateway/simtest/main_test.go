package simtest

import (
	"fmt"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"sync/atomic"
	"testing"
	"time"
)

// progress counts starts of stores and operations of clients.
var progress atomic.Int64

// hung is how long a run may go without any progress. Days pass in a second, so
// nothing takes so long unless something waits that keeps the time of its bubble
// from passing.
const hung = 5 * time.Minute

// TestMain ends a run that hangs, and says where.
func TestMain(m *testing.M) {
	debug.SetGCPercent(200) // what lives is small beside what is allocated
	done := make(chan struct{})
	go watch(done)
	code := m.Run()
	close(done)
	os.Exit(code)
}

// watch ends the process once nothing has happened for too long.
func watch(done <-chan struct{}) {
	for last := int64(-1); ; {
		now := progress.Load()
		if now == last {
			fmt.Fprintf(os.Stderr, "nothing has happened for %v: run with -sim-seed=%d\n", hung, *simSeed)
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
			os.Exit(3)
		}
		last = now
		select {
		case <-done:
			return
		case <-time.After(hung):
		}
	}
}
