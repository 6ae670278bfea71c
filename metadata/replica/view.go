package replica

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// view is a state that reads may use: which position of each group it shows.
type view struct {
	snap    *pebble.Snapshot
	applied [groupCount]uint64
	damaged [groupCount]bool
	refs    int // one of them is the store's, while it is the newest
}

// views hands out the newest view of a store. Snapshots are closed by the
// worker that makes them, never by a reader: Pebble holds locks over writes
// that may hang.
type views struct {
	mu      sync.Mutex // guards what follows, and the reference counts
	drained sync.Cond  // an old view has lost its last reference
	newest  *view      // nil while none may be read
	open    int        // views that are referenced
	garbage []*pebble.Snapshot

	long longReads // each holds a view
}

func newViews() *views {
	v := new(views)
	v.drained.L = &v.mu
	return v
}

// publish lets readers see v, and returns snapshots that are to be closed. A
// nil v lets them see nothing.
func (vs *views) publish(v *view) []*pebble.Snapshot {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	old := vs.newest
	vs.newest = v
	if v != nil {
		v.refs = 1
		vs.open++
	}
	if old != nil {
		vs.drop(old)
	}
	g := vs.garbage
	vs.garbage = nil
	return g
}

// acquire returns the newest view, nil if there is none. It must be given to
// release.
func (vs *views) acquire() *view {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if vs.newest != nil {
		vs.newest.refs++
	}
	return vs.newest
}

func (vs *views) release(v *view) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	vs.drop(v)
}

// drop is called with mu held.
func (vs *views) drop(v *view) {
	if v.refs--; v.refs == 0 {
		vs.open--
		vs.garbage = append(vs.garbage, v.snap)
		vs.drained.Broadcast()
	}
}

// end lets no more reads begin, and waits for those that go on. It reports
// whether all have ended in time.
func (vs *views) end(patience time.Duration) bool {
	vs.long.stop()
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if old := vs.newest; old != nil {
		vs.newest = nil
		vs.drop(old)
	}
	late := false
	timer := time.AfterFunc(patience, func() {
		vs.mu.Lock()
		defer vs.mu.Unlock()
		late = true
		vs.drained.Broadcast()
	})
	defer timer.Stop()
	for vs.open > 0 && !late {
		vs.drained.Wait()
	}
	return vs.open == 0
}

// drain waits until nobody reads, after a publish of nothing. Long reads are
// told to end.
func (vs *views) drain() []*pebble.Snapshot {
	vs.long.stop()
	vs.mu.Lock()
	defer vs.mu.Unlock()
	for vs.open > 0 {
		vs.drained.Wait()
	}
	g := vs.garbage
	vs.garbage = nil
	return g
}
