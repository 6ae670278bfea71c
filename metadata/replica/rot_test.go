package replica_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/replica"
)

const storePath = "meta"

// TestRotNearTheEndOfTheLogIsRefused flips one bit in the log of a single copy
// that was not closed: the store must not open without what it has answered.
func TestRotNearTheEndOfTheLogIsRefused(t *testing.T) {
	t.Parallel()
	fs := vfs.NewCrashableMem()
	l := open(t, replica.Options{FS: fs})
	prepare(t, l)
	for n := range 30 {
		if _, err := l.Commit(t.Context(), put(request(1, n), fmt.Sprint("k", n), "v")); err != nil {
			t.Fatal(err)
		}
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	names, err := crashed.List(storePath)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	flipped := false
	for _, name := range slices.Backward(names) {
		if strings.HasSuffix(name, ".log") && !flipped {
			flipped = flip(t, crashed, crashed.PathJoin(storePath, name))
		}
	}
	if !flipped {
		t.Fatal("no log with anything in it")
	}
	if _, err := replica.Open(storePath, replica.Options{FS: crashed, Now: fixed(start), ReserveBytes: -1}); !errors.Is(err, replica.ErrRot) {
		t.Errorf("Open of a damaged log: %v, want %v", err, replica.ErrRot)
	}
}

// flip changes a bit in the middle of a file, unless it is too short.
func flip(t *testing.T, fs vfs.FS, path string) bool {
	t.Helper()
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < 2000 {
		return false
	}
	b[len(b)/2] ^= 4
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return true
}
