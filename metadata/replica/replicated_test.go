package replica_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// places makes n stores, each on a file system of its own.
func places(t testing.TB, n int) []replica.Place {
	t.Helper()
	var ids []uint64
	for i := range n {
		ids = append(ids, uint64(i+1))
	}
	var ps []replica.Place
	for _, id := range ids {
		p := replica.Place{Dir: "meta", FS: vfs.NewCrashableMem()}
		if err := replica.CreateStore(p.Dir, identity(id), ids, storeOptions(p.FS, id)); err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	return ps
}

func engineOptions() replica.ReplicatedOptions {
	o := replica.ReplicatedOptions{Tick: 10 * time.Millisecond, StoreOptions: storeOptions(nil, 99)}
	o.FS = nil
	return o
}

func openReplicated(t testing.TB, ps []replica.Place, o replica.ReplicatedOptions) *replica.Replicated {
	t.Helper()
	e, err := replica.OpenReplicated(ps, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return e
}

func prepareReplicated(t testing.TB, e *replica.Replicated) {
	t.Helper()
	for _, c := range preparing() {
		if _, err := e.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReplicatedOnDisk uses the operating system's files.
func TestReplicatedOnDisk(t *testing.T) {
	t.Parallel()
	var ps []replica.Place
	for id := uint64(1); id <= 3; id++ {
		p := replica.Place{Dir: t.TempDir()}
		if err := replica.CreateStore(p.Dir, identity(id), []uint64{1, 2, 3}, storeOptions(nil, id)); err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	e, err := replica.OpenReplicated(ps, engineOptions())
	if err != nil {
		t.Fatal(err)
	}
	prepareReplicated(t, e)
	for n := range 20 {
		mustPut(t, e, n)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openReplicated(t, ps, engineOptions())
	u, err := e.Usage(t.Context(), testBucket)
	if err != nil || u.Objects != 20 {
		t.Errorf("Usage = %+v, %v; want 20 objects", u, err)
	}
	if _, err := replica.Open(ps[0].Dir, replica.Options{}); !errors.Is(err, replica.ErrReplicated) {
		t.Errorf("the local engine opens one of three: %v", err)
	}
}

func TestReplicatedPutIsReadBack(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	e := openReplicated(t, ps, engineOptions())
	prepareReplicated(t, e)
	const writers, each = 8, 20
	var g sync.WaitGroup
	for w := range writers {
		g.Go(func() {
			for i := range each {
				key := fmt.Sprintf("k%d-%d", w, i)
				if _, err := e.Commit(context.Background(), put(request(w, i), key, "v")); err != nil {
					t.Error(err)
				}
				if o, err := e.Open(context.Background(), testBucket, key, ""); err != nil || string(o.Inline) != "v" {
					t.Errorf("Open %s = %v, %v", key, o, err)
				}
			}
		})
	}
	g.Wait()
	u, err := e.Usage(t.Context(), testBucket)
	if err != nil || u.Objects != writers*each {
		t.Errorf("Usage = %+v, %v; want %d objects", u, err, writers*each)
	}
	if _, err := e.Settings(t.Context(), metadata.BucketRef{Group: 5}); err == nil {
		t.Error("Settings of no bucket: no error")
	}
}

// TestFirstToAsk has a store that lacks entries: it is not the one that asks for
// votes first, as it would get none, and nobody else would ask before a timeout.
// Here none ever comes.
func TestFirstToAsk(t *testing.T) {
	t.Parallel()
	for lacks := range 3 {
		t.Run(fmt.Sprint(lacks), func(t *testing.T) {
			t.Parallel()
			ps := places(t, 3)
			e, err := replica.OpenReplicated(append(slices.Clone(ps[:lacks]), ps[lacks+1:]...), engineOptions())
			if err != nil {
				t.Fatal(err)
			}
			prepareReplicated(t, e)
			for n := range 10 {
				mustPut(t, e, n)
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			o := engineOptions()
			o.Tick = time.Hour
			e, err = replica.OpenReplicated(ps, o)
			if err != nil {
				t.Fatal(err)
			}
			for g := range uint32(metadata.DataGroups + 1) {
				waitFor(t, fmt.Sprint("a leader of group ", g), func() bool { return e.Leader(g) != 0 })
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
