package replica

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/state"
)

// TestGate closes a gate while calls come and go: none goes on after the wait
// has ended.
func TestGate(t *testing.T) {
	t.Parallel()
	for range 20 {
		g := newGate()
		var inside, done sync.WaitGroup
		ended := make(chan struct{})
		for range 4 {
			inside.Add(1)
			done.Go(func() {
				first := true
				for g.enter() {
					if first {
						inside.Done()
						first = false
					}
					select {
					case <-ended:
						t.Error("a call goes on after the wait")
					default:
					}
					g.leave()
					runtime.Gosched()
				}
				if first {
					inside.Done()
				}
			})
		}
		inside.Wait()
		if !g.shut() || g.shut() {
			t.Error("not exactly one has closed the gate")
		}
		if !g.wait(time.Minute) {
			t.Error("calls have not ended")
		}
		close(ended)
		done.Wait()
		if g.enter() {
			t.Error("a call begins after the end")
		}
	}
}

func TestGateGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.enter()
		g.shut()
		if g.wait(time.Second) {
			t.Error("the call has ended")
		}
		g.leave()
		if !g.wait(time.Second) {
			t.Error("the call has not ended")
		}
	})
}

// TestLocalCloseGivesUp: a read that hangs keeps the end of the process for
// half a minute, which says why.
func TestLocalCloseGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, err := Open("meta", Options{FS: vfs.NewMem(), Now: time.Now, AcceptClock: true, ReserveBytes: -1, MemTableBytes: 1 << 20, CacheBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		release, read := make(chan struct{}), make(chan error, 1)
		go func() {
			read <- l.view(context.Background(), 1, func(state.View) error {
				<-release
				return nil
			})
		}()
		synctest.Wait()
		if err := l.Close(); err == nil || !strings.Contains(err.Error(), "meta: a call has not ended within 30s: the device does not answer") {
			t.Errorf("Close: %v", err)
		}
		close(release)
		if err := <-read; err != nil {
			t.Error(err)
		}
		l.done.Wait()
		l.fs.armed.Store(false)
		if err := l.pub.snap.Close(); err != nil {
			t.Error(err)
		}
		if err := l.db.Close(); err != nil {
			t.Error(err)
		}
		l.cache.Unref()
	})
}
