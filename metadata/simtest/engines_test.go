package simtest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/simtest"
	"github.com/ruche-storage/ruche/metadata/state"
)

// script is a list of commands with what the model answers.
type script struct {
	commands []*metadata.Command
	answers  []*metadata.Result
}

const scriptStep = 10 * time.Millisecond // of the clock, between commands

func scriptTime(i int) time.Time {
	return time.UnixMicro(began).Add(time.Duration(i) * scriptStep).UTC()
}

// newScript makes commands for buckets that lie in the given groups, one in
// each place. The same seed and number of buckets give the same commands, but
// for the groups.
func newScript(seed uint64, n int, groups []uint32) *script {
	buckets := make([]metadata.BucketRef, len(groups))
	for i, g := range groups {
		buckets[i] = metadata.BucketRef{Group: g, ID: metadata.BucketID{byte(i + 1)}}
	}
	w := simtest.NewWorkload(rand.New(rand.NewPCG(seed, 3)), 5, buckets)
	s, m := new(script), simtest.NewModel()
	add := func(c *metadata.Command) {
		stamped := *c
		stamped.Stamp = uint64(scriptTime(len(s.commands)).UnixMicro())
		res := m.Apply(&stamped)
		w.Told(c, res)
		s.commands, s.answers = append(s.commands, c), append(s.answers, res)
	}
	used := slices.Compact(slices.Sorted(slices.Values(groups)))
	// Setting up takes as many commands, and ids, however many groups there are.
	for i := range 40 {
		add(&metadata.Command{Kind: metadata.KindClusters, Version: metadata.CommandVersion, Group: used[i%len(used)], Request: w.ID(),
			Clusters: &metadata.ClusterVersion{Version: metadata.LatestVersion}})
		add(&metadata.Command{Kind: metadata.KindFence, Version: metadata.CommandVersion, Group: used[i%len(used)], Request: w.ID(),
			Fence: &metadata.Fence{Floor: 1, Living: []uint64{1}}})
	}
	for i, b := range buckets {
		add(&metadata.Command{Kind: metadata.KindOpenBucket, Version: metadata.CommandVersion, Group: b.Group, Request: w.ID(),
			Settle: &metadata.Settings{Bucket: b.ID, Name: fmt.Sprint("bucket", i)}})
	}
	r := rand.New(rand.NewPCG(seed, 4))
	for range n {
		if r.IntN(10) == 0 {
			again := *s.commands[len(s.commands)-1-r.IntN(10)]
			add(&again)
			continue
		}
		add(w.Next())
	}
	return s
}

// engine is what both engines do.
type engine interface {
	Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error)
	Close() error
}

// play gives the script to an engine, whose clock is set by it, and closes it.
func (s *script) play(t *testing.T, e engine, clock *atomic.Int64, settle func()) {
	t.Helper()
	for i, c := range s.commands {
		clock.Store(scriptTime(i).UnixMicro())
		res, err := e.Commit(t.Context(), c)
		if res == nil {
			t.Fatalf("command %d: %v", i, err)
		}
		if !bytes.Equal(res.AppendTo(nil), s.answers[i].AppendTo(nil)) {
			t.Fatalf("command %d: %+v, the model's answer is %+v", i, res, s.answers[i])
		}
	}
	settle() // all stores hear of everything
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

func engineOptions(fs vfs.FS, clock *atomic.Int64) replica.Options {
	clock.Store(scriptTime(0).UnixMicro())
	return replica.Options{FS: fs, Now: func() time.Time { return time.UnixMicro(clock.Load()) }, ReserveBytes: -1,
		CacheBytes: 1 << 20, MemTableBytes: 1 << 20}
}

func (s *script) playLocal(t *testing.T) *vfs.MemFS {
	t.Helper()
	fs, clock := vfs.NewMem(), new(atomic.Int64)
	l, err := replica.Open(storeDir, engineOptions(fs, clock))
	if err != nil {
		t.Fatal(err)
	}
	s.play(t, l, clock, func() {})
	return fs
}

// playReplicated returns the file systems of three stores. It is called in a
// bubble of synctest.
func (s *script) playReplicated(t *testing.T) (all []*vfs.MemFS) {
	t.Helper()
	clock := new(atomic.Int64)
	var places []replica.Place
	for id := uint64(1); id <= 3; id++ {
		fs := vfs.NewMem()
		o := replica.StoreOptions{Options: engineOptions(fs, clock)}
		identity := commandlog.Identity{Cluster: [16]byte{1}, Store: [16]byte{byte(id)}, Replica: id}
		if err := replica.CreateStore(storeDir, identity, []uint64{1, 2, 3}, o); err != nil {
			t.Fatal(err)
		}
		places, all = append(places, replica.Place{Dir: storeDir, FS: fs}), append(all, fs)
	}
	e, err := replica.OpenReplicated(places, replica.ReplicatedOptions{
		StoreOptions: replica.StoreOptions{Options: engineOptions(nil, clock)},
		Patience:     time.Minute,
		Retry:        time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.play(t, e, clock, func() { time.Sleep(10 * time.Second) })
	return all
}

// openStored opens the state that an engine has left.
func openStored(t *testing.T, fs vfs.FS) *pebble.DB {
	t.Helper()
	db, err := pebble.Open(storeDir, &pebble.Options{FS: fs, Logger: quiet{}, FormatMajorVersion: pebble.FormatMajorVersion(replica.StoreFormat)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// TestEnginesAgree gives the same commands to both engines: all stores have the
// same rows. It runs in a time of its own, in which no leader is late.
func TestEnginesAgree(t *testing.T) {
	t.Parallel()
	s := newScript(1, 400, []uint32{1, 1, 2, 3})
	one := openStored(t, s.playLocal(t))
	var all []*vfs.MemFS
	synctest.Test(t, func(t *testing.T) { all = s.playReplicated(t) })
	for i, fs := range all {
		db := openStored(t, fs)
		for group := range uint32(metadata.DataGroups + 1) {
			want, err := state.NewView(one).SpanHash(t.Context(), group)
			if err != nil {
				t.Fatal(err)
			}
			got, err := state.NewView(db).SpanHash(t.Context(), group)
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("group %d: store %d has other rows than the engine of one copy", group, i)
			}
		}
	}
}

// TestGroupsDoNotMatter gives the same commands to buckets that lie in one
// group, and in 16: the buckets have the same rows.
func TestGroupsDoNotMatter(t *testing.T) {
	t.Parallel()
	one, many := make([]uint32, metadata.DataGroups), make([]uint32, metadata.DataGroups)
	for i := range one {
		one[i], many[i] = 1, uint32(i+1)
	}
	want := rowsOfBuckets(t, openStored(t, newScript(2, 1500, one).playLocal(t)))
	got := rowsOfBuckets(t, openStored(t, newScript(2, 1500, many).playLocal(t)))
	if len(want) < 500 {
		t.Fatalf("only %d rows: the test proves little", len(want))
	}
	if !slices.Equal(got, want) {
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("row %d of %d and %d: %x in 16 groups, %x in one", i, len(got), len(want), got[i], want[i])
			}
		}
		t.Errorf("%d rows in 16 groups, %d in one", len(got), len(want))
	}
}

// rowsOfBuckets returns all rows without their group, in order, but those that
// are of the group as a whole: its head, fence, position and version.
func rowsOfBuckets(t *testing.T, db *pebble.DB) (rows []string) {
	t.Helper()
	iter, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for iter.First(); iter.Valid(); iter.Next() {
		key := iter.Key()
		if slices.Contains([]byte{0x01, 0x02, 0x06, 0x07}, key[4]) {
			continue
		}
		rows = append(rows, fmt.Sprintf("%s\x00%s", key[4:], iter.Value()))
	}
	if err := errors.Join(iter.Error(), iter.Close()); err != nil {
		t.Fatal(err)
	}
	slices.Sort(rows)
	return rows
}
