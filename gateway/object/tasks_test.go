package object

import (
	"sync/atomic"
	"testing"
)

// TestWaitWhileTasksBegin: tasks may begin while others are waited for.
func TestWaitWhileTasksBegin(t *testing.T) {
	t.Parallel()
	ts := newTasks()
	var ended atomic.Int64
	begun := make(chan struct{})
	go func() {
		defer close(begun)
		for range 1000 {
			ts.Go(func() { ended.Add(1) })
		}
	}()
	for done := false; !done; {
		select {
		case <-begun:
			done = true
		default:
		}
		ts.Wait()
	}
	if n := ended.Load(); n != 1000 {
		t.Errorf("Wait returned after %d of 1000 tasks", n)
	}
	ts.close()
}
