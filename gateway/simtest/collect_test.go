package simtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
)

// hour is what stands for an hour of a real store: 150 s. Each database wakes up
// ten times a second, so that whole days would cost minutes; epochs, graces and
// quarantines keep their proportions.
const hour = 150 * time.Second

// realPlan has the periods of a real store: epochs of ten minutes, an hour of
// grace, a day of quarantine.
func realPlan() plan {
	p := smallPlan(3)
	p.epoch, p.trash, p.pending, p.quarantine, p.clock, p.maintain = hour/6, hour, hour/6, 24*hour, hour/6, hour/6
	return p
}

// gone is how long what nobody refers to may stay: three epochs, until it is
// seen and was in quarantine.
func (p *plan) gone() time.Duration {
	return 3*p.epoch + p.pending + p.quarantine + 2*p.clock + p.trash
}

// TestCollection is T-GC of the reliability plan: clients write, overwrite,
// copy, delete, abort and read slowly for days, and the gateway is killed now
// and then. No live shard is ever freed, and nothing that nobody refers to is
// left three epochs after the quarantine.
func TestCollection(t *testing.T) {
	t.Parallel()
	long(t)
	p := realPlan()
	image := newImage(t, p)
	for n := range 6 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { collectFor(t, p, image, *simSeed<<16+uint64(n)) })
		})
	}
}

func collectFor(t *testing.T, p plan, image *vfs.MemFS, seed uint64) {
	t.Helper()
	began := time.Now()
	rng := rand.New(rand.NewPCG(seed, 41))
	k := newKnown(8)
	at := &site{plan: p, fs: image.CrashClone(vfs.CrashCloneCfg{}), seed: rng.Uint64()}
	at.shards = func(s object.Shards) object.Shards { return pausingShards{Shards: s, pause: hour * 2 / 3} }
	kills := 0
	for range 4 {
		at.seed = rng.Uint64()
		s, err := at.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 3)
		for range cap(errs) {
			c := &client{s: s, k: k, rng: rand.New(rand.NewPCG(rng.Uint64(), 42)), sizes: simSizes, slow: hour * 2 / 5}
			go func() { errs <- c.work(t.Context(), 40, func() bool { return false }, hour/3) }()
		}
		time.Sleep(time.Duration(rng.Int64N(int64(10 * hour))))
		// The process is killed: files stay as they are, and what it knew is gone.
		var left *vfs.MemFS
		known := k.clone(func() { left = at.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng}) })
		for range cap(errs) {
			err = errors.Join(err, <-errs)
		}
		if err = errors.Join(err, s.close()); err != nil {
			t.Fatal(err)
		}
		kills++
		k, at.fs = known, left
		if s, err = at.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.settle(t.Context(), k), s.close()); err != nil {
			t.Fatalf("after a kill: %v", err)
		}
	}
	at.seed = rng.Uint64()
	s, err := at.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(p.gone())
	a, err := s.audit(t.Context(), true)
	if err != nil || !a.clean() || len(a.bad) > 0 {
		t.Errorf("after %v: %v, %v", p.gone(), a, err)
	}
	state := s.CollectState()
	if err := errors.Join(s.settle(t.Context(), k), s.close()); err != nil {
		t.Error(err)
	}
	t.Logf("seed %d: %d hours, %d kills, %d chunks live, %d rows of trash and %d orphans freed at the end", seed, int(time.Since(began)/hour), kills, a.chunks, state.TrashRows, state.Orphans)
}

// TestLongUpload uploads a part for 30 hours, longer than a quarantine, while
// epochs pass and a collector looks for what nobody refers to.
func TestLongUpload(t *testing.T) {
	t.Parallel()
	long(t)
	p := realPlan()
	image := newImage(t, p)
	synctest.Test(t, func(t *testing.T) {
		at := &site{plan: p, fs: image.CrashClone(vfs.CrashCloneCfg{}), seed: 51}
		s, err := at.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		u, err := s.CreateUpload(t.Context(), &object.UploadRequest{Bucket: bucketName, Key: "long"})
		if err != nil {
			t.Fatal(err)
		}
		// The first chunk is durable within minutes; the rest takes 30 hours.
		v := NewValue(1, metadata.ChunkBytes+100_000)
		b := body(v.Bytes)
		b.Reader = &stalling{r: b.Reader, after: metadata.ChunkBytes + 50_000, pause: 30 * hour}
		res, err := s.PutPart(t.Context(), &object.PartRequest{Bucket: bucketName, Key: "long", Upload: u.ID, Number: 1, Body: b})
		if err != nil {
			t.Fatal(err)
		}
		if s.Leases().Current < 100 {
			t.Errorf("only epoch %d after 30 hours", s.Leases().Current)
		}
		_, err = s.Complete(t.Context(), &object.CompleteRequest{Bucket: bucketName, Key: "long", Upload: u.ID, Bytes: -1,
			Parts: []object.CompletePart{{Number: 1, ETag: res.ETag}}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(p.gone())
		got, _, err := s.read(t.Context(), "long")
		if err != nil || !slices.Equal(got, v.Bytes) {
			t.Errorf("read %d bytes of %d: %v", len(got), len(v.Bytes), err)
		}
		a, err := s.audit(t.Context(), true)
		if err != nil || !a.clean() || a.chunks != 2 || len(a.bad) > 0 {
			t.Errorf("%v, %v", a, err)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
}

// stalling pauses once, after so many bytes.
type stalling struct {
	r     io.Reader
	after int
	pause time.Duration
}

func (s *stalling) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.after > 0 {
		if s.after -= n; s.after <= 0 {
			time.Sleep(s.pause)
		}
	}
	return n, err
}

// holding keeps the commits of a kind until they are let go.
type holding struct {
	object.Metadata
	kind metadata.Kind
	gate chan struct{}
}

func (h *holding) Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error) {
	if cmd.Kind == h.kind {
		<-h.gate
		ctx = context.WithoutCancel(ctx) // it is on its way
	}
	return h.Metadata.Commit(ctx, cmd)
}

// TestCommitAfterAbort lets the commit of a part arrive days after its upload was
// aborted, and long after its shards were looked up: it is refused, and nothing
// of it stays.
func TestCommitAfterAbort(t *testing.T) {
	t.Parallel()
	long(t)
	p := realPlan()
	image := newImage(t, p)
	synctest.Test(t, func(t *testing.T) {
		h := &holding{kind: metadata.KindCommitPart, gate: make(chan struct{})}
		at := &site{plan: p, fs: image.CrashClone(vfs.CrashCloneCfg{}), seed: 61}
		at.metadata = func(m object.Metadata) object.Metadata { h.Metadata = m; return h }
		s, err := at.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		u, err := s.CreateUpload(t.Context(), &object.UploadRequest{Bucket: bucketName, Key: "k"})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		v := NewValue(1, 5000)
		go func() {
			_, err := s.PutPart(t.Context(), &object.PartRequest{Bucket: bucketName, Key: "k", Upload: u.ID, Number: 1, Body: body(v.Bytes)})
			done <- err
		}()
		time.Sleep(time.Minute)
		if err := s.Abort(t.Context(), bucketName, "k", u.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * 24 * hour)
		close(h.gate)
		if err := <-done; !errors.Is(err, metadata.ErrNoSuchUpload) {
			t.Errorf("the part was answered: %v", err)
		}
		time.Sleep(p.gone())
		a, err := s.audit(t.Context(), true)
		if err != nil || !a.clean() || a.chunks != 0 {
			t.Errorf("%v, %v", a, err)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
}
