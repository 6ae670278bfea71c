package object

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ruche-storage/ruche/metadata/topology"
)

// tasks are goroutines that may outlive the request that started them: writers
// and readers of drives that hang. It knows on which drives calls are running.
//
// A goroutine that is done waits for another task, as some thousand are begun a
// second: a new one would have to grow its stack again.
type tasks struct {
	count   sync.Mutex // guards running; the lock of none
	none    *sync.Cond // running is 0
	running int        // tasks

	next    chan func() // what an idle goroutine takes up
	idle    atomic.Int32
	closed  chan struct{} // idle goroutines end
	once    sync.Once     // closed is closed
	workers sync.WaitGroup

	mu     sync.Mutex // guards drives
	drives map[topology.DriveID]int
}

// maxIdle is how many goroutines wait for tasks at most.
const maxIdle = 256

func newTasks() *tasks {
	t := &tasks{next: make(chan func()), closed: make(chan struct{}), drives: make(map[topology.DriveID]int)}
	t.none = sync.NewCond(&t.count)
	return t
}

// Go begins a task.
func (t *tasks) Go(f func()) {
	t.add(1)
	select {
	case t.next <- f: // somebody is idle
	default:
		t.workers.Go(func() { t.work(f) })
	}
}

// work does f, and further tasks as they come.
func (t *tasks) work(f func()) {
	for {
		f()
		t.add(-1)
		if t.idle.Add(1) > maxIdle {
			t.idle.Add(-1)
			return
		}
		select {
		case f = <-t.next:
			t.idle.Add(-1)
		case <-t.closed:
			return
		}
	}
}

// add counts tasks that begin or end.
func (t *tasks) add(n int) {
	t.count.Lock()
	defer t.count.Unlock()
	if t.running += n; t.running == 0 {
		t.none.Broadcast()
	}
}

// Wait waits until there is no task, or was none for a moment: others may begin
// meanwhile, which a sync.WaitGroup does not bear.
func (t *tasks) Wait() {
	t.count.Lock()
	defer t.count.Unlock()
	for t.running > 0 {
		t.none.Wait()
	}
}

// close ends the goroutines that are idle, after all tasks have ended. There
// must be no task any more.
func (t *tasks) close() {
	t.once.Do(func() { close(t.closed) })
	t.workers.Wait()
}

// on notes that a call on a drive begins. What it returns must be called at its
// end.
func (t *tasks) on(drive topology.DriveID) (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drives[drive]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.drives[drive]--; t.drives[drive] == 0 {
			delete(t.drives, drive)
		}
	}
}

// busy returns the drives on which calls are running, in order.
func (t *tasks) busy() []topology.DriveID {
	t.mu.Lock()
	defer t.mu.Unlock()
	var drives []topology.DriveID
	for drive := range t.drives {
		drives = append(drives, drive)
	}
	slices.SortFunc(drives, func(a, b topology.DriveID) int { return bytes.Compare(a[:], b[:]) })
	return drives
}
