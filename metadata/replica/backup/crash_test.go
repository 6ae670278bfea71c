package backup_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/backup"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

// changes reports whether an operation changes what is stored.
func changes(op errorfs.Op) bool {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpLink, errorfs.OpRename, errorfs.OpRemove, errorfs.OpRemoveAll, errorfs.OpMkdirAll,
		errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		return true
	}
	return false
}

// TestPowerCuts cuts the power during a restoration: there is a whole store
// that frees nothing, or none, and another restoration makes one.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	keys := ring(t, 1)
	b := small(t, keys)
	step := int64(11)
	if testing.Short() {
		step = 37
	}
	for n := int64(1); ; n += step {
		mem := vfs.NewCrashableMem()
		parent(t, mem)
		var ops atomic.Int64
		var clone atomic.Pointer[vfs.MemFS]
		r := rand.New(rand.NewPCG(1, uint64(n)))
		fsys := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if changes(op) && ops.Add(1) == n {
				clone.Store(mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(n % 101), RNG: r}))
			}
			return nil
		}))
		if _, err := backup.Restore(t.Context(), bytes.NewReader(b), restoring(fsys, keys)); err != nil {
			t.Fatal(err)
		}
		cut := clone.Load()
		if cut == nil {
			if n < 100 {
				t.Errorf("a restoration took only %d operations", n)
			}
			whole(t, mem.CrashClone(vfs.CrashCloneCfg{}))
			return
		}
		if _, err := cut.Stat("state/meta"); errors.Is(err, fs.ErrNotExist) {
			if _, err := backup.Restore(t.Context(), bytes.NewReader(b), restoring(cut, keys)); err != nil {
				t.Fatalf("cut %d: Restore = %v", n, err)
			}
		}
		whole(t, cut)
	}
}

// whole checks that a restored store is all that it should be.
func whole(t *testing.T, fsys vfs.FS) {
	t.Helper()
	l, err := replica.Open("state/meta", options(fsys))
	if err != nil {
		t.Fatal(err)
	}
	if i, err := l.Incarnation(t.Context()); err != nil || i.Number != 1 || i.Collection {
		t.Errorf("incarnation %+v, %v", i, err)
	}
	if got := body(t, l, 3, "a"); got != "hello" {
		t.Errorf("the object is %q", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFailedOperations lets a restoration run out of space, and lets its device
// fail: it says so at once, and no store appears.
func TestFailedOperations(t *testing.T) {
	t.Parallel()
	b := small(t, ring(t, 1))
	for _, why := range []error{syscall.ENOSPC, errorfs.ErrInjected} {
		for n := int64(2); ; n += 13 {
			if done := failAt(t, b, n, why); done {
				break
			}
		}
	}
}

func failAt(t *testing.T, b []byte, n int64, why error) (done bool) {
	t.Helper()
	mem := vfs.NewMem()
	parent(t, mem)
	var ops atomic.Int64
	fsys := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpRemoveAll || op.Kind == errorfs.OpRemove || !changes(op) || ops.Add(1) < n {
			return nil
		}
		return fmt.Errorf("operation %d: %w", n, why)
	}))
	_, err := backup.Restore(t.Context(), bytes.NewReader(b), restoring(fsys, ring(t, 1)))
	if ops.Load() < n {
		if err != nil || n < 100 {
			t.Errorf("without a failure: %v after %d operations", err, ops.Load())
		}
		return true
	}
	if _, there := mem.Stat("state/meta"); there == nil {
		return false // the failure came behind the renaming, or was of no weight
	}
	if !errors.Is(err, why) || why == syscall.ENOSPC && !errors.Is(err, snapshot.ErrFull) {
		t.Errorf("operation %d: Restore = %v, want %v", n, err, why)
	}
	return false
}
