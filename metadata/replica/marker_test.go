package replica_test

import (
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/replica"
)

// markerFS looks at what a power cut would leave whenever a marker is made.
type markerFS struct {
	*vfs.MemFS
	t       *testing.T
	markers int
}

func (f *markerFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	_, value, ok := strings.Cut(f.PathBase(name), ".MANIFEST-")
	if ok {
		f.markers++
		left := f.CrashClone(vfs.CrashCloneCfg{})
		if _, err := left.Stat(f.PathJoin(f.PathDir(name), "MANIFEST-"+value)); err != nil {
			f.t.Errorf("the marker %s may outlive its file: %v", name, err)
		}
	}
	return f.MemFS.Create(name, category)
}

// TestMarkerComesAfterItsFile: a power cut on a file system that does not keep
// the order of changes must not leave the marker of a manifest without it.
func TestMarkerComesAfterItsFile(t *testing.T) {
	t.Parallel()
	fs := &markerFS{MemFS: vfs.NewCrashableMem(), t: t}
	for range 3 {
		l, err := replica.Open("state", replica.Options{FS: fs, ReserveBytes: -1})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if fs.markers < 3 {
		t.Errorf("only %d markers of manifests were made", fs.markers)
	}
}
