package simtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node"
)

// failing has the n-th step that match takes fail, and what it should have made
// durable be lost: later ones succeed, as a kernel has it.
type failing struct {
	match  func(*step) bool
	n      int64
	count  atomic.Int64
	failed atomic.Pointer[step]
	err    error
	off    atomic.Bool // nothing is counted
}

func (f *failing) before(s *step) error {
	if f.off.Load() || !f.match(s) || f.count.Add(1) != f.n {
		return nil
	}
	f.failed.Store(s)
	return f.err
}

// TestFailedSync is T-FSYNC of the reliability plan: the i-th write or sync of a
// drive fails. Nothing is acknowledged that is not durable elsewhere, the drive
// is fenced within a second, and after a power cut everything is there. The
// drive stays fenced until it was opened anew, however well its next syncs go.
func TestFailedSync(t *testing.T) {
	t.Parallel()
	long(t)
	p := smallPlan(6)
	image := newImage(t, p)
	calls := callsToFail(10)
	for _, verb := range []string{"sync", "write"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			hit := 0
			for _, i := range calls {
				synctest.Test(t, func(t *testing.T) {
					if failAt(t, p, image, verb, i) {
						hit++
					}
				})
			}
			t.Logf("seed %d: %d of %d calls were reached", *simSeed, hit, len(calls))
			if hit*2 < len(calls) {
				t.Errorf("only %d of %d calls were reached", hit, len(calls))
			}
		})
	}
}

// callsToFail returns which calls are to fail: the first 500, or without
// -sim-all some of them, more of the early ones.
func callsToFail(every int) (calls []int) {
	for i := 1; i <= 500; i++ {
		if *simAll || i%every == 0 || i < 20 {
			calls = append(calls, i)
		}
	}
	return calls
}

// failAt fails the i-th call on drives after the start: an index that cannot
// be opened leaves a goroutine behind until the process ends, in which no time
// of its own can pass; package node has tests of that. It reports false if so
// many calls were not made.
func failAt(t *testing.T, p plan, image *vfs.MemFS, verb string, i int) bool {
	t.Helper()
	f := &failing{n: int64(i), err: syscall.EIO, match: func(s *step) bool { return s.verb == verb && driveOf(s.path) != "" }}
	at := &site{plan: p, fs: image.CrashClone(vfs.CrashCloneCfg{}), seed: 5000 + uint64(i), hooks: &disk{before: f.before}}
	f.off.Store(true)
	s, err := at.open(t.Context())
	if err != nil {
		t.Fatalf("call %d: %v", i, err)
	}
	f.off.Store(false)
	k := newKnown(6)
	c := &client{s: s, k: k, rng: rand.New(rand.NewPCG(*simSeed, uint64(i))), sizes: simSizes[:7]}
	var failedAt time.Time
	for range 400 {
		if err := c.step(t.Context()); err != nil {
			t.Fatalf("call %d (%v): a client was answered: %v", i, f.failed.Load(), err)
		}
		if f.failed.Load() != nil {
			failedAt = time.Now()
			break
		}
		if c.rng.IntN(4) == 0 {
			time.Sleep(time.Second)
		}
	}
	if failedAt.IsZero() {
		f.off.Store(true)
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		return false
	}
	time.Sleep(time.Second)
	if err := s.fenced(driveOf(f.failed.Load().path)); err != nil {
		t.Errorf("call %d, %s: a second later %v", i, f.failed.Load().name(), err)
	}
	for range 10 {
		if err := c.step(t.Context()); err != nil {
			t.Errorf("call %d, %s: with the drive fenced: %v", i, f.failed.Load().name(), err)
		}
	}
	var left *vfs.MemFS
	after := k.clone(func() { left = at.fs.CrashClone(vfs.CrashCloneCfg{}) })
	_ = s.close() // a fenced drive says that it was
	s, err = (&site{plan: p, fs: left, seed: 9000 + uint64(i), absent: at.absent}).open(t.Context())
	if err != nil {
		t.Fatalf("call %d: start after it: %v", i, err)
	}
	if err := s.settle(t.Context(), after); err != nil {
		t.Errorf("call %d: after a power cut: %v", i, err)
	}
	if i%10 == 0 {
		if err := s.quiesce(t.Context(), 13*time.Minute); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if err := s.close(); err != nil {
		t.Errorf("call %d: close: %v", i, err)
	}
	return true
}

// fenced fails unless the drive at a path is out of service.
func (s *store) fenced(path string) error {
	for _, st := range s.node.Status() {
		if st.Path == path && st.State != node.StateFenced {
			return fmt.Errorf("the drive is %s", st.State)
		}
	}
	return nil
}

// TestFailedMetadataSync fails the i-th write or sync of the only copy of the
// metadata: from then on nothing is answered, and what was acknowledged before
// is there after a power cut.
func TestFailedMetadataSync(t *testing.T) {
	t.Parallel()
	long(t)
	p := smallPlan(1)
	image := newImage(t, p)
	calls := callsToFail(20)
	hit := 0
	for _, i := range calls {
		for _, verb := range []string{"sync", "write"} {
			if failMetadataAt(t, p, image, verb, i) {
				hit++
			}
		}
	}
	t.Logf("seed %d: %d of %d calls were reached", *simSeed, hit, 2*len(calls))
	if hit < len(calls) {
		t.Errorf("only %d of %d calls were reached", hit, 2*len(calls))
	}
}

// failMetadataAt fails the i-th call on the metadata between its start and its
// end. It runs in real time: what writes the metadata hangs after a failure for as long as the process lives.
func failMetadataAt(t *testing.T, p plan, image *vfs.MemFS, verb string, i int) bool {
	t.Helper()
	f := &failing{n: int64(i), err: syscall.EIO, match: func(s *step) bool { return s.verb == verb && kindOf(s.path) == "metadata" }}
	at := &site{plan: p, fs: image.CrashClone(vfs.CrashCloneCfg{}), seed: 15_000 + uint64(i), hooks: &disk{before: f.before}}
	at.engine = func(o *object.Options) { o.CommitTimeout, o.Background = time.Minute, nil } // a minute of real time
	f.off.Store(true)
	s, err := at.open(t.Context())
	if err != nil {
		t.Fatalf("call %d: %v", i, err)
	}
	f.off.Store(false)
	k := newKnown(6)
	c := &client{s: s, k: k, rng: rand.New(rand.NewPCG(*simSeed, uint64(i))), sizes: simSizes[:4]}
	for n := 0; n < 500 && f.failed.Load() == nil; n++ {
		if err := c.step(t.Context()); err != nil && f.failed.Load() == nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	if f.off.Store(true); f.failed.Load() == nil {
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		return false
	}
	w := k.Begin("key/a", k.value(10))
	_, err = s.Put(t.Context(), &object.PutRequest{Bucket: bucketName, Key: "key/a", Body: body(make([]byte, 10))})
	if !unavailable(err) {
		t.Errorf("call %d, %s: a PUT afterwards: %v", i, f.failed.Load().name(), err)
	}
	w.Failed() // the engine is fenced: it cannot come any more
	var left *vfs.MemFS
	after := k.clone(func() { left = at.fs.CrashClone(vfs.CrashCloneCfg{}) })
	_ = s.close() // says that the metadata failed
	s, err = (&site{plan: p, fs: left, seed: 19_000 + uint64(i), engine: func(o *object.Options) { o.Background = nil }}).open(t.Context())
	if err != nil {
		t.Fatalf("call %d, %s: start after it: %v", i, f.failed.Load().name(), err)
	}
	if err := errors.Join(s.settle(t.Context(), after), s.close()); err != nil {
		t.Errorf("call %d, %s: after a power cut: %v", i, f.failed.Load().name(), err)
	}
	return true
}

// unavailable reports whether a client was told to come back later.
func unavailable(err error) bool {
	return errors.Is(err, metadata.ErrUnavailable) || errors.Is(err, metadata.ErrUnknownOutcome)
}
