package replica_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/state"
)

// stream makes commands of many kinds, rejected ones among them.
func stream(seed uint64, n int) []*metadata.Command {
	r := rand.New(rand.NewPCG(seed, 1))
	id := func(i int) metadata.RequestID { return request(int(seed), i) }
	var all []*metadata.Command
	for i := range n {
		key := fmt.Sprintf("k%02d", r.IntN(20))
		c := put(id(i), key, fmt.Sprint("v", i))
		switch r.IntN(8) {
		case 0:
			c.CommitVersion.Conditions.IfNoneMatch = true
		case 1:
			c.CommitVersion = nil
			c.Kind = metadata.KindDeleteVersions
			c.Delete = &metadata.DeleteVersions{Bucket: testBucket.ID, Keys: []metadata.DeleteKey{{Key: key}}}
		case 2:
			c.Settings = 7 // stale
		case 3:
			c.Epoch = 9 // not born
		case 4:
			if i > 0 {
				c = all[r.IntN(i)] // a retry
			}
		case 5:
			c = &metadata.Command{
				Kind: metadata.KindPutAccount, Version: metadata.CommandVersion, Group: metadata.RootGroup, Request: id(i),
				Account: &metadata.Account{ID: metadata.AccountID{byte(r.IntN(5) + 1)}, Name: fmt.Sprint("a", i)},
			}
		case 6:
			c = &metadata.Command{
				Kind: metadata.KindClock, Version: metadata.CommandVersion, Group: uint32(r.IntN(17)), Request: id(i),
				Clock: &metadata.Clock{ElapsedMicros: uint64(r.IntN(1000))},
			}
		}
		all = append(all, c)
	}
	return all
}

// TestSameRowsAsLocal gives both engines the same commands: the answers, the
// reads and the rows are the same, in all copies.
func TestSameRowsAsLocal(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	l := open(t, replica.Options{FS: fs})
	ps := places(t, 3)
	o := engineOptions()
	// A command that is proposed again, as to another leader, takes a position
	// of its own.
	o.Tick, o.Retry, o.Patience = 2*time.Second, time.Minute, time.Minute
	e, err := replica.OpenReplicated(ps, o)
	if err != nil {
		t.Fatal(err)
	}
	for g := range uint32(metadata.DataGroups + 1) {
		waitFor(t, "a leader", func() bool { return e.Leader(g) != 0 })
	}
	prepared := preparing()
	for i, c := range prepared {
		c.Request = request(1000, i)
	}
	for i, c := range append(prepared, stream(5, 300)...) {
		want, wantErr := l.Commit(t.Context(), c)
		got, err := e.Commit(t.Context(), c)
		if fmt.Sprint(err) != fmt.Sprint(wantErr) || !reflect.DeepEqual(got, want) {
			t.Fatalf("command %d: %+v, %v; want %+v, %v", i, got, err, want, wantErr)
		}
	}
	sameReads(t, e, l)
	waitFor(t, "all stores to apply everything", func() bool { return allApplied(e.Status(t.Context())) })
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := pebble.Open("meta", &pebble.Options{FS: fs, Logger: mute{}, FormatMajorVersion: pebble.FormatMajorVersion(replica.StoreFormat)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i, p := range ps {
		for g, got := range spansOf(t, p.FS, uint64(i+1)) {
			if want, err := state.SpanHash(t.Context(), db, uint32(g)); err != nil || got != want {
				t.Errorf("store %d, group %d: rows differ from those of one copy", i+1, g)
			}
		}
	}
}

// allApplied reports whether all stores have applied the same, and all of it.
func allApplied(all []replica.StoreStatus) bool {
	for _, s := range all {
		for g, st := range s.Groups {
			if st.Applied != st.Last || st.Last != all[0].Groups[g].Last {
				return false
			}
		}
	}
	return true
}

// mute is a logger of Pebble's.
type mute struct{}

func (mute) Infof(string, ...any)           {}
func (mute) Errorf(string, ...any)          {}
func (mute) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }

// spansOf opens a store by hand until it has applied what it has, and hashes
// its groups.
func spansOf(t *testing.T, fs vfs.FS, id uint64) []metadata.Sum {
	t.Helper()
	s, err := replica.OpenStore("meta", storeOptions(fs, id))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for r := s.Ready(); !r.Empty(); r = s.Ready() {
		if r.Append != nil {
			if err := s.Append(r.Append); err != nil {
				t.Fatal(err)
			}
			s.Appended(r.Append)
		}
		if r.Apply != nil {
			if err := s.Apply(r.Apply); err != nil {
				t.Fatal(err)
			}
			s.Applied(r.Apply)
		}
	}
	var sums []metadata.Sum
	for g := range uint32(metadata.DataGroups + 1) {
		err := s.View(g, func(v state.View, _ uint64) error {
			sum, err := v.SpanHash(t.Context(), g)
			sums = append(sums, sum)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return sums
}

// sameReads compares the answers of two engines.
func sameReads(t *testing.T, got, want object.Metadata) {
	t.Helper()
	ctx := t.Context()
	compare := func(what string, read func(m object.Metadata) (any, error)) {
		t.Helper()
		a, aErr := read(got)
		b, bErr := read(want)
		if !reflect.DeepEqual(a, b) || fmt.Sprint(aErr) != fmt.Sprint(bErr) {
			t.Errorf("%s = %+v, %v; want %+v, %v", what, a, aErr, b, bErr)
		}
	}
	compare("Accounts", func(m object.Metadata) (any, error) { return m.Accounts(ctx) })
	compare("AccessKey", func(m object.Metadata) (any, error) { return m.AccessKey(ctx, "none") })
	compare("Settings", func(m object.Metadata) (any, error) { return m.Settings(ctx, testBucket) })
	compare("Usage", func(m object.Metadata) (any, error) { return m.Usage(ctx, testBucket) })
	compare("List", func(m object.Metadata) (any, error) {
		return m.List(ctx, &metadata.ListQuery{Bucket: testBucket, Limit: 100})
	})
	for i := range 20 {
		key := fmt.Sprintf("k%02d", i)
		compare("Open "+key, func(m object.Metadata) (any, error) { return m.Open(ctx, testBucket, key, "") })
	}
	compare("Trash", func(m object.Metadata) (any, error) { return m.Trash(ctx, testBucket.Group, 0, 100) })
	compare("Fence", func(m object.Metadata) (any, error) { return m.Fence(ctx, testBucket.Group) })
}
