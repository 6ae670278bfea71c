package replica_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/state"
)

// spoilRow changes a byte of an inline body in the state of a store that is not
// open, as rot below all checksums or a fault of memory would.
func spoilRow(t *testing.T, fs vfs.FS, dir, body string) {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{FS: fs, DisableWAL: true, FormatMajorVersion: pebble.FormatMajorVersion(replica.StoreFormat), Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	iter, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{0, 0, 0, byte(testBucket.Group), 0x2b}, UpperBound: []byte{0, 0, 0, byte(testBucket.Group), 0x2c}})
	if err != nil {
		t.Fatal(err)
	}
	spoiled := 0
	for iter.First(); iter.Valid(); iter.Next() {
		if v := iter.Value(); strings.Contains(string(v), body) {
			bad := append(slices.Clone(v[:len(v)-1]), v[len(v)-1]^1)
			if err := db.Set(slices.Clone(iter.Key()), bad, pebble.NoSync); err != nil {
				t.Fatal(err)
			}
			spoiled++
		}
	}
	if err := errors.Join(iter.Error(), iter.Close(), db.Flush(), db.Close()); err != nil {
		t.Fatal(err)
	}
	if spoiled == 0 {
		t.Fatal("no row was spoiled")
	}
}

// everywhere waits until all stores have applied everything.
func everywhere(t *testing.T, e *replica.Replicated) {
	t.Helper()
	waitFor(t, "all to have applied the same", func() bool { return allApplied(e.Status(t.Context())) })
}

type silent struct{}

func (silent) Infof(string, ...any)      {}
func (silent) Errorf(string, ...any)     {}
func (silent) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func damaged(s *replica.StoreStatus) []uint32 {
	var groups []uint32
	for _, g := range s.Groups {
		if g.Damaged {
			groups = append(groups, g.Group)
		}
	}
	return groups
}

// TestOddStoreIsFoundAndRebuilt changes rows of one store of three. The next
// comparison finds it, nothing wrong is served, and it has the right rows again
// soon, under the same id and without a pause for the others.
func TestOddStoreIsFoundAndRebuilt(t *testing.T) {
	t.Parallel()
	for _, odd := range []int{0, 2} {
		ps := places(t, 3)
		o := engineOptions()
		o.Limits.CompareTicks = -1
		e, err := replica.OpenReplicated(ps, o)
		if err != nil {
			t.Fatal(err)
		}
		prepareReplicated(t, e)
		for n := range 50 {
			mustPut(t, e, n)
		}
		everywhere(t, e)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		spoilRow(t, ps[odd].FS, ps[odd].Dir, "v")

		o.Limits.CompareTicks = 100
		e = openReplicated(t, ps, o)
		group := int(testBucket.Group)
		_ = e.TransferLeader(t.Context(), testBucket.Group, uint64(odd+1)) // the odd one may lead
		waitFor(t, "the odd store to be found and rebuilt", func() bool {
			mustPut(t, e, 1000)
			all := e.Status(t.Context())
			for i := range all {
				if d := damaged(&all[i]); len(d) > 0 {
					if i != odd || !slices.Equal(d, []uint32{testBucket.Group}) {
						t.Fatalf("store %d: damaged groups %v, want store %d and group %d", i+1, d, odd+1, group)
					}
				}
			}
			return e.Metrics().Snapshots > 0 && len(damaged(&all[odd])) == 0
		})
		for n := 50; n < 60; n++ {
			mustPut(t, e, n)
		}
		everywhere(t, e)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		sameRows(t, ps)
	}
}

// sameRows compares all groups of stores that are not open. Stores that were
// closed while a leader was elected may not stand at the same place; they are
// opened once more until they do.
func sameRows(t *testing.T, ps []replica.Place) {
	t.Helper()
	for range 10 {
		first := standings(t, 0, ps[0])
		level := true
		for i := 1; i < len(ps); i++ {
			for g, at := range standings(t, i, ps[i]) {
				if level = level && at.position == first[g].position; level && at.sum != first[g].sum {
					t.Errorf("store %d: group %d differs", i+1, g)
				}
			}
		}
		if level || t.Failed() {
			return
		}
		e, err := replica.OpenReplicated(ps, engineOptions())
		if err != nil {
			t.Fatal(err)
		}
		everywhere(t, e)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Error("the stores never stood at the same place")
}

// standing is where a store has come to in a group, and the hash of its rows.
type standing struct {
	position uint64
	sum      metadata.Sum
}

// standings opens a store by hand.
func standings(t *testing.T, i int, p replica.Place) []standing {
	t.Helper()
	s, err := replica.OpenStore(p.Dir, storeOptions(p.FS, uint64(i+1)))
	if err != nil {
		t.Fatal(err)
	}
	var all []standing
	for g := range uint32(metadata.DataGroups + 1) {
		err := s.View(g, func(v state.View, position uint64) error {
			sum, err := v.SpanHash(t.Context(), g)
			all = append(all, standing{position, sum})
			return err
		})
		if err != nil {
			t.Fatalf("store %d, group %d: %v", i+1, g, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestDamagedMarkOutlivesTheProcess opens a store with a damaged group: it is
// rebuilt, by what the others have.
func TestDamagedMarkOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	o := engineOptions()
	e, err := replica.OpenReplicated(ps, o)
	if err != nil {
		t.Fatal(err)
	}
	prepareReplicated(t, e)
	for n := range 30 {
		mustPut(t, e, n)
	}
	everywhere(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	spoilRow(t, ps[1].FS, ps[1].Dir, "v")
	markDamaged(t, ps[1])
	e = openReplicated(t, ps, o)
	waitFor(t, "the rebuild", func() bool {
		all := e.Status(t.Context())
		return len(damaged(&all[1])) == 0
	})
	mustPut(t, e, 99)
	everywhere(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	sameRows(t, ps)
}

// TestRebuildIsCutOff cuts the power of a store at some moment of its rebuild.
func TestRebuildIsCutOff(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(8, 9))
	inTime := 0
	for round := range 8 {
		ps := places(t, 3)
		o := engineOptions()
		e, err := replica.OpenReplicated(ps, o)
		if err != nil {
			t.Fatal(err)
		}
		prepareReplicated(t, e)
		for n := range 30 {
			mustPut(t, e, n)
		}
		everywhere(t, e)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		spoilRow(t, ps[1].FS, ps[1].Dir, "v")
		markDamaged(t, ps[1])

		mem := ps[1].FS.(*vfs.MemFS)
		cut := &powerCut{mem: mem, after: int64(40 + r.IntN(400)), percent: 100 * r.IntN(2), rng: r}
		ps[1].FS = errorfs.Wrap(mem, cut)
		if e, err = replica.OpenReplicated(ps, o); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the rebuild", func() bool {
			mustPut(t, e, 1000)
			all := e.Status(t.Context())
			return len(damaged(&all[1])) == 0
		})
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if crashed := cut.taken(); crashed != nil {
			inTime++
			ps[1].FS = crashed
		} else {
			ps[1].FS = mem
		}
		if e, err = replica.OpenReplicated(ps, o); err != nil {
			t.Fatal(err)
		}
		if refused := e.Refused(); len(refused) > 0 {
			t.Fatalf("round %d: after the power cut: %v", round, refused)
		}
		mustPut(t, e, 99)
		waitFor(t, "the rebuild after the power cut", func() bool {
			all := e.Status(t.Context())
			g := int(testBucket.Group)
			return len(damaged(&all[1])) == 0 && all[0].Groups[g].Applied == all[1].Groups[g].Applied && all[1].Groups[g].Applied == all[2].Groups[g].Applied
		})
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		sameRows(t, ps)
	}
	if inTime == 0 {
		t.Error("no power cut came in time")
	}
}

func markDamaged(t *testing.T, p replica.Place) {
	t.Helper()
	l, err := commandlog.Open(p.FS.PathJoin(p.Dir, "log"), commandlog.Options{FS: p.FS})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.SetDamaged(testBucket.Group, commandlog.Damage{Index: 9, Reason: "test"}), l.Close()); err != nil {
		t.Fatal(err)
	}
}

// powerCut takes a copy of a file system after some writes.
type powerCut struct {
	mem     *vfs.MemFS
	percent int
	rng     *rand.Rand

	mu    sync.Mutex // guards what follows
	after int64
	copy  *vfs.MemFS
}

func (c *powerCut) String() string { return "power cut" }

func (c *powerCut) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.after--; c.after == 0 {
		c.copy = c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.percent, RNG: c.rng})
	}
	return nil
}

func (c *powerCut) taken() *vfs.MemFS {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.copy
}

// TestEqualStoresStayWell compares at a high rate under load and changes of
// leaders: nothing is found.
func TestEqualStoresStayWell(t *testing.T) {
	t.Parallel()
	o := engineOptions()
	o.Limits.CompareTicks = 17
	e := openReplicated(t, places(t, 3), o)
	prepareReplicated(t, e)
	began := time.Now()
	for n := 0; n < 300 || time.Since(began) < 2*time.Second; n++ {
		mustPut(t, e, n)
		if n%50 == 0 {
			_ = e.TransferLeader(t.Context(), testBucket.Group, uint64(1+n/50%3))
		}
	}
	all := e.Status(t.Context())
	for i := range all {
		if d := damaged(&all[i]); len(d) > 0 || all[i].Err != nil {
			t.Errorf("store %d: damaged %v, %v", i+1, d, all[i].Err)
		}
	}
}

// TestGroupsAreComparedAtTheSameTime: a comparison that lasts does not keep
// other groups from theirs, only its own group from the next.
func TestGroupsAreComparedAtTheSameTime(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	for _, g := range []uint32{1, 2, 2, 3} {
		if err := c.stores[1].Compare(g); err != nil {
			t.Fatal(err)
		}
		c.settle()
	}
	c.tick(15)
	for id, all := range c.compares {
		var groups []uint32
		for _, cmp := range all {
			groups = append(groups, cmp.Group)
			sum, err := cmp.Hash(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c.stores[id].Compared(cmp.Group, cmp.Index, sum, nil)
		}
		if !slices.Equal(groups, []uint32{1, 2, 3}) {
			t.Errorf("store %d compares groups %v at the same time, want 1, 2 and 3", id, groups)
		}
		c.compares[id] = nil
	}
	if err := c.stores[1].Compare(2); err != nil {
		t.Fatal(err)
	}
	c.settle()
	for id, all := range c.compares {
		if len(all) != 1 {
			t.Fatalf("store %d: %d comparisons of group 2 after the first has ended, want 1", id, len(all))
		}
		if _, err := all[0].Hash(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
