package replica_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/replica"
)

// TestRolledBack opens a store of an earlier time, told how far it had come.
func TestRolledBack(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	c.tick(15)
	earlier := c.fs.CrashClone(vfs.CrashCloneCfg{})
	before := c.stores[2].Positions()
	c.puts(0, 10)
	c.tick(15)
	reached, g := c.stores[2].Positions(), testBucket.Group
	if reached[g] < before[g]+10 {
		t.Fatalf("group %d went from %d to %d", g, before[g], reached[g])
	}
	newest := c.fs.CrashClone(vfs.CrashCloneCfg{})
	o := storeOptions(newest, 2)
	o.Reached = reached
	s, err := replica.OpenStore(storeDir(2), o)
	if err != nil {
		t.Fatalf("the newest files: %v", err)
	}
	// What is applied is in memory before it is in the state's tables.
	if at := s.Positions(); len(at) != len(reached) || at[g] > reached[g] {
		t.Errorf("positions %v, had reached %v", at, reached)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o.FS = earlier
	_, err = replica.OpenStore(storeDir(2), o)
	back, ok := errors.AsType[*replica.RolledBackError](err)
	if !ok || back.Group != g || back.Reached != reached[g] || back.Log >= reached[g] || back.Dir != storeDir(2) {
		t.Errorf("the earlier files: %v", err)
	}
	o.Reached = before
	if s, err = replica.OpenStore(storeDir(2), o); err != nil {
		t.Fatalf("as far as they had come: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPositions has both engines say how far they have come.
func TestPositions(t *testing.T) {
	t.Parallel()
	l, err := replica.Open("meta", replica.Options{FS: vfs.NewMem(), Now: fixed(start), ReserveBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	prepare(t, l)
	g := testBucket.Group
	before := l.Positions()
	if _, err := l.Commit(t.Context(), put(request(1, 1), "k", "v")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Commit(t.Context(), put(request(1, 2), "k", "w")); err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(before)
	want[g] += 2
	if at := l.Positions(); !slices.Equal(at, want) {
		t.Errorf("positions %v, want %v", at, want)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	e := openReplicated(t, places(t, 3), engineOptions())
	prepareReplicated(t, e)
	most := func() (at uint64) {
		for _, s := range e.Positions() {
			if s.Dir != "meta" || s.Replica == 0 {
				t.Errorf("positions %+v", s)
			}
			at = max(at, s.Positions[g])
		}
		return at
	}
	was := most()
	if _, err := e.Commit(t.Context(), put(request(1, 1), "k", "v")); err != nil {
		t.Fatal(err)
	}
	if at := most(); at <= was {
		t.Errorf("group %d is at %d, was at %d", g, at, was)
	}
}
