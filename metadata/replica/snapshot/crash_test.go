package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// changes reports whether an operation changes what is stored.
func changes(op errorfs.Op) bool {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpLink, errorfs.OpRename, errorfs.OpRemove, errorfs.OpRemoveAll, errorfs.OpMkdirAll,
		errorfs.OpReuseForWrite, errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpFileClose:
		return true
	}
	return false
}

// TestPowerCuts cuts the power before every single operation on the receiving
// file system, from the first piece to the removal of the stage, and goes on
// from what is left: the group is the sender's in the end, and at every moment
// either the old one or the new one. One of the runs is on encrypted files.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	for _, unsynced := range []int{0, 50, 100} {
		t.Run(fmt.Sprintf("%d%% of unsynced bytes kept", unsynced), func(t *testing.T) {
			t.Parallel()
			crypt := unsynced == 50
			r := rand.New(rand.NewPCG(10, uint64(unsynced)))
			src := openDB(t, vfs.NewMem())
			t.Cleanup(func() { closed(t, src) })
			want := fill(t, src, group, 100, 300, r)
			step, limit := 1, 1<<20
			if testing.Short() || unsynced == 50 {
				step = 3
			}
			for n := 1; n < limit; n += step {
				if !cutAt(t, src, want, int64(n), unsynced, crypt, rand.New(rand.NewPCG(uint64(n), 1))) {
					if n < 50 {
						t.Errorf("the whole way took only %d operations", n)
					}
					return
				}
			}
		})
	}
}

// cutAt cuts the power before the n-th operation, and returns false if there is
// none.
func cutAt(t *testing.T, src *pebble.DB, want rows, n int64, unsynced int, crypt bool, r *rand.Rand) bool {
	t.Helper()
	mem := vfs.NewCrashableMem()
	sealed := func(fs vfs.FS) vfs.FS {
		if !crypt {
			return fs
		}
		return encrypted(t, fs, r)
	}
	db := openDB(t, sealed(mem))
	stale, neighbour := fill(t, db, group, 30, 100, r), fill(t, db, group+1, 30, 100, r)
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	closed(t, db)

	var ops atomic.Int64
	var clone atomic.Pointer[vfs.MemFS]
	fs := sealed(errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if changes(op) && ops.Add(1) == n {
			clone.Store(mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: r}))
		}
		return nil
	})))
	db = openDB(t, fs)
	put(t, db, stale) // in a memtable, too
	h := header(group, 1)
	e := open(t, src, h, snapshot.ExportOptions{})
	if err := receive(t.Context(), fs, db, e); err != nil {
		t.Fatal(err)
	}
	same(t, "the group", read(t, db, group), want)
	closed(t, db)
	cut := clone.Load()
	if cut == nil {
		return false
	}

	db = openDB(t, sealed(cut))
	got := read(t, db, group)
	if got[string(applied(group))] == want[string(applied(group))] {
		same(t, fmt.Sprintf("cut %d: the group as it was installed", n), got, want)
	} else {
		same(t, fmt.Sprintf("cut %d: the group before", n), got, stale)
		if err := receive(t.Context(), sealed(cut), db, e); err != nil {
			t.Fatalf("cut %d: %v", n, err)
		}
		same(t, fmt.Sprintf("cut %d: the group", n), read(t, db, group), want)
	}
	closed(t, db)
	db = openDB(t, sealed(cut.CrashClone(vfs.CrashCloneCfg{})))
	same(t, fmt.Sprintf("cut %d: the group after a restart", n), read(t, db, group), want)
	same(t, fmt.Sprintf("cut %d: the neighbour", n), read(t, db, group+1), neighbour)
	closed(t, db)
	return true
}

// encrypted returns a file system as a store with encrypted files has it.
func encrypted(t *testing.T, fs vfs.FS, r *rand.Rand) vfs.FS {
	t.Helper()
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(r.Uint32())
	}
	c, err := cryptfs.New(fs, cryptfs.Options{Key: cryptfs.Key{1}, Store: topology.DriveID{2}, Random: rand.NewChaCha8(seed)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// receive does what a store does that is told of a snapshot, from where an
// earlier attempt has come to.
func receive(ctx context.Context, fs vfs.FS, db *pebble.DB, e *snapshot.Export) error {
	stage, err := snapshot.OpenStage(fs, snaps, snapshot.StageOptions{})
	if err != nil {
		return err
	}
	h := e.Header()
	st, err := stage.Find(ctx, h.ID)
	if errors.Is(err, snapshot.ErrUnknown) {
		st, err = fetch(ctx, stage, e)
	}
	if err != nil {
		return err
	}
	if err := snapshot.Install(ctx, db, st); err != nil {
		return err
	}
	return stage.Remove(h.ID)
}

func fetch(ctx context.Context, stage *snapshot.Stage, e *snapshot.Export) (*snapshot.Staged, error) {
	rec, err := stage.Begin(e.Header())
	if err != nil {
		return nil, err
	}
	if err := e.Seek(rec.Position()); err != nil {
		return nil, err
	}
	for {
		p, err := e.Next(ctx)
		if err == io.EOF {
			return rec.Complete(ctx, e.Summary())
		}
		if err == nil {
			err = rec.Add(p)
		}
		if err != nil {
			return nil, err
		}
	}
}

// TestResumption breaks the transfer off after every piece, restarts the
// receiver, and counts that no piece is sent twice.
func TestResumption(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(11, 11))
	src := openDB(t, vfs.NewMem())
	t.Cleanup(func() { closed(t, src) })
	fill(t, src, group, 300, 300, r)
	e := open(t, src, header(group, 1), snapshot.ExportOptions{})
	fs := vfs.NewCrashableMem()
	closed(t, openDB(t, fs)) // makes the directory of the store
	sent := uint64(0)
	for {
		rec := begin(t, openStage(t, fs, snapshot.StageOptions{}), e.Header())
		if at := rec.Position(); at.Pieces != sent {
			t.Fatalf("after %d pieces the position is %+v", sent, at)
		}
		if err := e.Seek(rec.Position()); err != nil {
			t.Fatal(err)
		}
		p, err := e.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err == nil {
			err = rec.Add(p)
		}
		if err != nil {
			t.Fatal(err)
		}
		sent++
		fs = fs.CrashClone(vfs.CrashCloneCfg{})
	}
	if sum := e.Summary(); sent != sum.Pieces || sent < 5 {
		t.Errorf("%d pieces were sent, summary %+v", sent, sum)
	}
	if _, err := fetch(t.Context(), openStage(t, fs, snapshot.StageOptions{}), e); err != nil {
		t.Error(err)
	}
}

// TestFailedOperations lets the n-th operation of a reception fail, for all n:
// the error is told, and another attempt on the same stage succeeds.
func TestFailedOperations(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(12, 12))
	src := openDB(t, vfs.NewMem())
	t.Cleanup(func() { closed(t, src) })
	fill(t, src, group, 100, 300, r)
	e := open(t, src, header(group, 1), snapshot.ExportOptions{})
	for n := int64(1); ; n++ {
		var ops atomic.Int64
		fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if changes(op) && ops.Add(1) == n {
				return errorfs.ErrInjected
			}
			return nil
		}))
		stage, err := snapshot.OpenStage(fs, snaps, snapshot.StageOptions{})
		if err == nil {
			_, err = fetch(t.Context(), stage, e)
		}
		if ops.Load() < n {
			if err != nil || n < 20 {
				t.Errorf("without a failure: %v after %d operations", err, ops.Load())
			}
			return
		}
		if err != nil && !errors.Is(err, errorfs.ErrInjected) {
			t.Fatalf("operation %d: %v", n, err)
		}
		if stage == nil {
			stage = openStage(t, fs, snapshot.StageOptions{})
		}
		if _, err := fetch(t.Context(), stage, e); err != nil {
			t.Fatalf("after operation %d: %v", n, err)
		}
	}
}

// TestInstallIsDurable installs into a group whose older rows are in a memtable,
// which Pebble then queues the tables behind, and holds up the flush: Install
// does not return before it.
func TestInstallIsDurable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(13, 13))
		src, mem := openDB(t, vfs.NewMem()), vfs.NewCrashableMem()
		want := fill(t, src, group, 50, 300, r)
		var armed atomic.Bool
		held := make(chan struct{})
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if armed.Load() && op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
				<-held
			}
			return nil
		}))
		db := openDB(t, fs)
		fill(t, db, group, 200, 100, r)
		e := open(t, src, header(group, 1), snapshot.ExportOptions{})
		st, err := fetch(t.Context(), openStage(t, mem, snapshot.StageOptions{}), e)
		if err != nil {
			t.Fatal(err)
		}
		armed.Store(true)
		var returned atomic.Bool
		var g sync.WaitGroup
		g.Go(func() {
			if err := snapshot.Install(t.Context(), db, st); err != nil {
				t.Error(err)
			}
			returned.Store(true)
		})
		synctest.Wait()
		if returned.Load() {
			t.Error("Install returned before the flush")
		}
		close(held)
		g.Wait()
		cut := mem.CrashClone(vfs.CrashCloneCfg{})
		closed(t, e)
		closed(t, src)
		closed(t, db)
		db = openDB(t, cut)
		same(t, "the installed group", read(t, db, group), want)
		closed(t, db)
	})
}
