package simtest

import (
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// swapped is a store that was worked on and closed, and what it holds.
type swapped struct {
	plan plan
	fs   *vfs.MemFS
	old  *vfs.MemFS // as it was half-way
	k    *known

	starts uint64
}

// newSwapped is called in a bubble.
func newSwapped(t *testing.T, image *vfs.MemFS, p plan) *swapped {
	t.Helper()
	w := &swapped{plan: p, fs: image.CrashClone(vfs.CrashCloneCfg{}), k: newKnown(8)}
	for half := range 2 {
		s, err := (&site{plan: p, fs: w.fs, seed: uint64(701 + half)}).open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c := &client{s: s, k: w.k, rng: rand.New(rand.NewPCG(*simSeed, uint64(71+half))), sizes: simSizes}
		err = c.work(t.Context(), 60, func() bool { return false }, 10*time.Second)
		if err = errors.Join(err, s.settle(t.Context(), w.k), s.close()); err != nil {
			t.Fatal(err)
		}
		if half == 0 {
			w.old = w.fs.CrashClone(vfs.CrashCloneCfg{})
		}
	}
	return w
}

// open starts the store; refused is how many directories it must not take.
func (w *swapped) open(t *testing.T, at *site, refused int) *store {
	t.Helper()
	w.starts++
	at.plan, at.fs, at.seed = w.plan, w.fs, 710+w.starts
	s, err := at.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.away) != refused {
		t.Errorf("%d directories are refused, want %d: %v", len(s.away), refused, s.away)
	}
	return s
}

// end compares everything and closes the store.
func (w *swapped) end(t *testing.T, s *store, whole bool) {
	t.Helper()
	if err := s.settle(t.Context(), w.k); err != nil {
		t.Error(err)
	}
	if whole {
		if err := s.quiesce(t.Context(), 13*time.Minute); err != nil {
			t.Error(err)
		}
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

func copyDir(t *testing.T, from, to *vfs.MemFS, src, dst string) {
	t.Helper()
	if err := to.RemoveAll(dst); err != nil {
		t.Fatal(err)
	}
	if ok, err := vfs.Clone(from, to, src, dst, vfs.CloneSync); err != nil || !ok {
		t.Fatal(ok, err)
	}
}

// TestSwap is T-SWAP of the reliability plan for the drives of one machine: they
// are mounted in another order, twice, as a copy, not at all; and the metadata
// is older than they are. The store is right, or refuses a drive and says why,
// and never frees what it should not.
func TestSwap(t *testing.T) {
	t.Parallel()
	long(t)
	p := smallPlan(6)
	image := newImage(t, p)
	for name, test := range map[string]func(t *testing.T, w *swapped){
		"in another order": func(t *testing.T, w *swapped) {
			for i, to := range rand.New(rand.NewPCG(*simSeed, 72)).Perm(p.drives) {
				if err := w.fs.Rename(drivePath(i), "drives/slot"+string(rune('a'+to))); err != nil {
					t.Fatal(err)
				}
			}
			w.end(t, w.open(t, &site{}, 0), true)
		},
		"mounted twice": func(t *testing.T, w *swapped) {
			copyDir(t, w.fs, w.fs, drivePath(1), "drives/twice")
			s := w.open(t, &site{}, 2) // nobody knows which of both is right
			for _, r := range s.away {
				if !errors.Is(r.Err, node.ErrClonedDrive) {
					t.Errorf("%s: %v", r.Path, r.Err)
				}
			}
			w.end(t, s, false)
		},
		"missing": func(t *testing.T, w *swapped) {
			at := &site{skip: []string{drivePath(0), drivePath(3)}}
			w.end(t, w.open(t, at, 0), false)
			at.skip = nil
			w.end(t, w.open(t, at, 0), true)
		},
		"a copy from before": func(t *testing.T, w *swapped) {
			// The server remembers the incarnation that it gave last.
			id := raiseAll(t, w)
			copyDir(t, w.old, w.fs, drivePath(2), drivePath(2))
			at := &site{node: func(o *node.Options) { o.Incarnations = id }}
			s := w.open(t, at, 1)
			if len(s.away) == 1 && !errors.Is(s.away[0].Err, node.ErrClonedDrive) {
				t.Error(s.away[0].Err)
			}
			w.end(t, s, false)
		},
		"old metadata alone": oldMetadata,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { test(t, newSwapped(t, image, p)) })
		})
	}
}

// oldMetadata puts the metadata back to where they were half-way: nothing that
// the drives hold is freed, since it may belong to what a newer copy knows, until
// somebody says so.
func oldMetadata(t *testing.T, w *swapped) {
	newer := w.fs.CrashClone(vfs.CrashCloneCfg{})
	copyDir(t, w.old, w.fs, "state/metadata", "state/metadata")
	s := w.open(t, &site{}, 0)
	before := shardsOf(t, s)
	i, err := s.meta.Incarnation(t.Context())
	if err != nil || i.Number == 0 || i.Frees() {
		t.Errorf("incarnation %+v, %v: collection is on", i, err)
	}
	time.Sleep(30 * time.Minute)
	if after := shardsOf(t, s); len(after) < len(before) {
		t.Errorf("%d of %d shards are left", len(after), len(before))
	}
	if !s.CollectState().Off {
		t.Error("the collector does not say that it is off")
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	// With the right metadata everything is there, whatever happened meanwhile.
	copyDir(t, newer, w.fs, "state/metadata", "state/metadata")
	s = w.open(t, &site{}, 0)
	if err := errors.Join(s.settle(t.Context(), w.k), s.close()); err != nil {
		t.Error(err)
	}
}

// raiseAll gives every drive a new incarnation, as each start of a server does,
// and returns them.
func raiseAll(t *testing.T, w *swapped) map[topology.DriveID]uint64 {
	t.Helper()
	s := w.open(t, &site{}, 0)
	id := make(map[topology.DriveID]uint64)
	for _, d := range s.node.Drives() {
		id[d.ID()] = d.Superblock().Incarnation + 1
		if err := d.SetIncarnation(id[d.ID()]); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	return id
}

func shardsOf(t *testing.T, s *store) map[metadata.ShardID]bool {
	t.Helper()
	found := make(map[metadata.ShardID]bool)
	for _, d := range s.node.Drives() {
		rows, err := d.List(t.Context(), metadata.ShardRef{}, false, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for i := range rows {
			if rows[i].Type == metadata.RecordShard {
				found[rows[i].Shard] = true
			}
		}
	}
	return found
}
