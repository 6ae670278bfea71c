package replica_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/state"
)

// lostMajority is the file system of store 3 of three, after the others were
// lost. The last put was acknowledged by all, but store 3 was not told that it
// is committed.
func lostMajority(t *testing.T) *vfs.MemFS {
	t.Helper()
	c := newCluster(t, 3)
	c.lead(1)
	for _, cmd := range preparing() {
		c.commit(1, cmd)
	}
	for g := range uint32(metadata.DataGroups + 1) {
		c.commit(1, &metadata.Command{Kind: metadata.KindClusters, Version: metadata.CommandVersion, Group: g, Stamp: 1, Clusters: &metadata.ClusterVersion{Version: 2}})
	}
	table := &metadata.StoreTable{Version: 1}
	for id := uint64(1); id <= 3; id++ {
		table.Stores = append(table.Stores, metadata.Store{Replica: id, ID: identity(id).Store, Place: storeDir(id), Role: metadata.StoreVoter})
	}
	c.commit(1, &metadata.Command{Kind: metadata.KindPutStores, Version: metadata.CommandVersion, Stores: table})
	for i := range 20 {
		c.commit(1, put(request(1, i), fmt.Sprint("k", i), "v"))
	}
	crashed := c.fs.CrashClone(vfs.CrashCloneCfg{})
	return crashed
}

// alone reads the state of a store that was forced.
func alone(t *testing.T, fs vfs.FS, f *replica.Forced) {
	t.Helper()
	o := storeOptions(fs, 3)
	s, err := replica.OpenStore(storeDir(3), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Identity().Replica != f.Replica {
		t.Errorf("replica id %d, want %d", s.Identity().Replica, f.Replica)
	}
	for _, g := range s.Status().Groups {
		if !slices.Equal(g.Voters, []uint64{f.Replica}) || len(g.Learners) > 0 {
			t.Errorf("group %d: voters %v, learners %v", g.Group, g.Voters, g.Learners)
		}
	}
	err = s.View(testBucket.Group, func(v state.View, _ uint64) error {
		for i := range 20 {
			if _, err := v.Open(testBucket, fmt.Sprint("k", i), ""); err != nil {
				return fmt.Errorf("k%d: %w", i, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	table := s.Wish()
	for i := range table.Stores {
		r := &table.Stores[i]
		if (r.Role == metadata.StoreVoter) != (r.Replica == f.Replica) || r.Replica == f.Replica && r.Place != storeDir(3) {
			t.Errorf("store %+v in the table", r)
		}
	}
}

func TestForceGoesOnAlone(t *testing.T) {
	t.Parallel()
	fs := lostMajority(t)
	f, err := replica.Force(storeDir(3), storeOptions(fs, 3))
	if err != nil {
		t.Fatal(err)
	}
	if f.Replica <= 3 || !slices.Equal(f.Lost, []uint64{1, 2}) || f.Incarnation != 1 {
		t.Errorf("forced %+v", f)
	}
	alone(t, fs, f)
	if _, err := replica.Force(storeDir(3), storeOptions(fs, 3)); !errors.Is(err, replica.ErrAlone) {
		t.Errorf("Force of a store that is alone: %v", err)
	}
	// It serves, and takes others in.
	o := engineOptions()
	o.AcceptClock = true // the test's commands have early stamps
	e := openReplicated(t, []replica.Place{{Dir: storeDir(3), FS: fs}}, o)
	if _, err := e.Commit(t.Context(), put(request(2, 1), "after", "v")); err != nil {
		t.Error(err)
	}
	i, err := e.Incarnation(t.Context())
	if err != nil || i.Number != 1 || i.Collection {
		t.Errorf("incarnation %+v, %v", i, err)
	}
	later, err := e.Open(t.Context(), testBucket, "after", "")
	if err != nil {
		t.Fatal(err)
	}
	before, err := e.Open(t.Context(), testBucket, "k19", "")
	if err != nil {
		t.Fatal(err)
	}
	if g := testBucket.Group; len(i.Void) == 0 || i.Voided(g, before.Version.Order) || !i.Voided(g, before.Version.Order+1000) || i.Voided(g, later.Version.Order) {
		t.Errorf("orders that are void: %+v; before %d, after %d", i.Void, before.Version.Order, later.Version.Order)
	}
	id, err := e.Admit(t.Context(), freshPlace(), "", metadata.StoreVoter)
	if err != nil || id <= f.Replica {
		t.Errorf("Admit = %d, %v", id, err)
	}
	settled(t, e)
	voting(t, e, f.Replica, id)
}

// TestForceIsCutOff cuts the power at each operation of Force: the store opens
// afterwards, as one of three or alone, with everything that was acknowledged.
func TestForceIsCutOff(t *testing.T) {
	t.Parallel()
	whole := lostMajority(t)
	r := rand.New(rand.NewPCG(5, 6))
	before, after := 0, 0
	for n := 0; ; n += 1 + r.IntN(12) {
		mem := whole.CrashClone(vfs.CrashCloneCfg{})
		var crashed *vfs.MemFS
		ops := 0
		var lock = make(chan struct{}, 1)
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			lock <- struct{}{}
			defer func() { <-lock }()
			if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
				return nil
			}
			if ops == n {
				// All or nothing: Pebble counts on file systems that keep
				// changes of a directory in order.
				crashed = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100 * r.IntN(2), RNG: r})
			}
			ops++
			return nil
		}))
		if _, err := replica.Force(storeDir(3), storeOptions(fs, 3)); err != nil {
			t.Fatal(err)
		}
		if crashed == nil {
			break
		}
		s, err := replica.OpenStore(storeDir(3), storeOptions(crashed, 3))
		if err != nil {
			t.Fatalf("crash at %d: %v", n, err)
		}
		id := s.Identity().Replica
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if id == 3 {
			before++
			f, err := replica.Force(storeDir(3), storeOptions(crashed, 3))
			if err != nil {
				t.Fatal(err)
			}
			id = f.Replica
		} else {
			after++
		}
		alone(t, crashed, &replica.Forced{Replica: id})
	}
	if before == 0 || after == 0 {
		t.Errorf("%d crashes came before the point of no return, %d after it", before, after)
	}
}

// TestForceRefusesBlankStores asks it of a store that had nothing yet.
func TestForceRefusesBlankStores(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	if err := replica.CreateStore("s9", identity(9), nil, storeOptions(fs, 9)); err != nil {
		t.Fatal(err)
	}
	if _, err := replica.Force("s9", storeOptions(fs, 9)); err == nil || errors.Is(err, replica.ErrAlone) {
		t.Errorf("Force of a blank store: %v", err)
	}
	if _, err := replica.Force("s8", storeOptions(fs, 8)); !errors.Is(err, replica.ErrNotReplicated) {
		t.Errorf("Force of no store: %v", err)
	}
}

func TestForceRefusesDamage(t *testing.T) {
	t.Parallel()
	fs := lostMajority(t)
	l, err := commandlog.Open(fs.PathJoin(storeDir(3), "log"), commandlog.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.SetDamaged(2, commandlog.Damage{Reason: "differs"}), l.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := replica.Force(storeDir(3), storeOptions(fs, 3)); err == nil {
		t.Error("a store with a damaged group was forced")
	}
	s, err := replica.OpenStore(storeDir(3), storeOptions(fs, 3))
	if err != nil || s.Identity().Replica != 3 {
		t.Fatalf("the store was changed: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
