package simtest

import (
	"errors"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object"
)

// TestFailedMetadataStart fails the i-th step that changes the only copy of the
// metadata, from its start on or from its end on, whatever the step does but to
// remove a file, which may stay: the start or the end fails and says why, and
// what was acknowledged is there the next time.
func TestFailedMetadataStart(t *testing.T) {
	t.Parallel()
	long(t)
	p := smallPlan(1)
	image := newImage(t, p)
	for _, ending := range []bool{false, true} {
		failed := 0
		for i := int64(1); i < 200; i++ {
			f := &failing{n: i, err: syscall.EIO, match: func(s *step) bool { return s.changes() && s.verb != "remove" && kindOf(s.path) == "metadata" }}
			at := &site{plan: p, fs: image.CrashClone(vfs.CrashCloneCfg{}), seed: 25_000 + uint64(i), hooks: &disk{before: f.before},
				engine: func(o *object.Options) { o.Background = nil }}
			reached := failStart(t, at, f, ending)
			if !reached {
				break // no more steps
			}
			failed++
		}
		t.Logf("at the end=%v: %d steps failed", ending, failed)
		if failed < 3 {
			t.Errorf("at the end=%v: only %d steps", ending, failed)
		}
	}
}

// failStart runs in real time: what writes the metadata hangs after a failure
// for as long as the process lives. It reports whether the step was reached.
func failStart(t *testing.T, at *site, f *failing, ending bool) (reached bool) {
	t.Helper()
	k := newKnown(1)
	f.off.Store(true)
	work := func() {
		s, err := at.open(t.Context())
		if err != nil {
			t.Fatalf("step %d: %v", f.n, err)
		}
		c := &client{s: s, k: k}
		if err := c.putSized(t.Context(), "key/a", 100); err != nil {
			t.Fatalf("step %d: %v", f.n, err)
		}
		f.off.Store(!ending)
		if err := s.close(); (err == nil) != (f.failed.Load() == nil) {
			t.Errorf("step %d, %v: the end says %v", f.n, f.failed.Load(), err)
		}
		f.off.Store(true)
	}
	work()
	if !ending {
		f.off.Store(false)
		s, err := at.open(t.Context())
		if (err == nil) != (f.failed.Load() == nil) && (err == nil || !errors.Is(err, syscall.EIO)) {
			t.Errorf("step %d, %v: the start says %v", f.n, f.failed.Load(), err)
		}
		if err == nil {
			err = s.close()
		}
		f.off.Store(true)
		if err != nil && f.failed.Load() == nil {
			t.Errorf("step %d: %v", f.n, err)
		}
	}
	var left *vfs.MemFS
	after := k.clone(func() { left = at.fs.CrashClone(vfs.CrashCloneCfg{}) })
	s, err := (&site{plan: at.plan, fs: left, seed: at.seed + 500, engine: at.engine}).open(t.Context())
	if err != nil {
		t.Fatalf("step %d, %v: the next start: %v", f.n, f.failed.Load(), err)
	}
	if err := errors.Join(s.settle(t.Context(), after), s.close()); err != nil {
		t.Errorf("step %d, %v: %v", f.n, f.failed.Load(), err)
	}
	return f.failed.Load() != nil
}
