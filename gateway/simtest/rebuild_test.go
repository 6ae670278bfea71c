package simtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// TestRebuildUnderLoad is T-REB of the reliability plan: the directory of a drive
// vanishes while clients are at work, and another drive takes its place. Clients of a scheme that can write
// without it are not told of it, an independent look at all drives finds every shard, and nothing is lost.
func TestRebuildUnderLoad(t *testing.T) {
	t.Parallel()
	long(t)
	for _, drives := range []int{3, 6} {
		p := smallPlan(drives)
		p.spare = true
		image := newImage(t, p)
		for n := range uint64(4) {
			t.Run(fmt.Sprintf("%d drives, %d", drives, n), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { rebuildUnderLoad(t, p, image, *simSeed<<16+n) })
			})
		}
	}
}

func rebuildUnderLoad(t *testing.T, p plan, image *vfs.MemFS, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 81))
	k := newKnown(30)
	at := &site{plan: p, fs: image.CrashClone(vfs.CrashCloneCfg{}), seed: rng.Uint64()}
	s, err := at.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lost := s.drives[rng.IntN(len(s.drives))]
	path := s.path(lost)
	work := func(ctx context.Context, steps int) func() error {
		errs := make(chan error, 3)
		for range cap(errs) {
			c := &client{s: s, k: k, rng: rand.New(rand.NewPCG(rng.Uint64(), 82)), sizes: simSizes, slow: 2 * p.epoch,
				lenient: p.scheme.Parity < 2} // a stripe is written to k+1 drives or not at all
			go func() { errs <- c.work(ctx, steps, func() bool { return false }, 5*time.Second) }()
		}
		return func() error { return errors.Join(<-errs, <-errs, <-errs) }
	}
	if err := work(t.Context(), 40)(); err != nil {
		t.Fatal(err)
	}
	ended := work(t.Context(), 120)
	time.Sleep(time.Duration(rng.Int64N(int64(30 * time.Second))))
	if err := at.fs.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Duration(rng.Int64N(int64(30 * time.Second))))
	var spare topology.DriveID
	for _, d := range s.node.Drives() {
		if d.Path() == sparePath {
			spare = d.ID()
		}
	}
	if err := s.ReplaceDrive(t.Context(), lost, tableRow(spare)); err != nil {
		t.Fatal(err)
	}
	if err := ended(); err != nil {
		t.Errorf("%s was lost: %v", path, err)
	}
	if err := s.node.RemoveDrive(lost); err != nil {
		t.Log(err) // it is gone
	}
	began := time.Now()
	if err := errors.Join(s.quiesce(t.Context(), time.Hour), s.settle(t.Context(), k)); err != nil {
		t.Error(err)
	}
	if err := s.ReplaceDrive(t.Context(), lost, tableRow(spare)); err != nil && !errors.Is(err, object.ErrNoSuchDrive) {
		t.Errorf("replaced once more: %v", err)
	}
	a, err := s.audit(t.Context(), true)
	if err != nil || !a.clean() || len(a.bad) > 0 {
		t.Errorf("after the rebuild: %v, %v", a, err)
	}
	t.Logf("seed %d: %s rebuilt and clean after %v, %d chunks", seed, path, time.Since(began), a.chunks)
	if err := s.close(); err != nil {
		t.Error(err)
	}
}
