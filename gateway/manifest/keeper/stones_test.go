package keeper

import (
	"testing"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// TestTombstonesOutliveTheirDrives: while a drive is away that holds the
// manifest of an object that was deleted since, all manifest drives change, one
// after the other, or are filled anew. The tombstone must be there whenever
// that drive comes back.
func TestTombstonesOutliveTheirDrives(t *testing.T) {
	t.Parallel()
	changes := map[string]func(w *world, b metadata.BucketRef){
		"each leaves for a moment": func(w *world, b metadata.BucketRef) {
			for range 4 {
				bad := writersOf(w.row(1))[0]
				w.drives.fail = func(d topology.DriveID) error {
					if d == bad {
						return metadata.ErrSlow
					}
					return nil
				}
				w.put(b, "other", 0)
				w.must(w.drain())
				w.drives.fail = nil
				w.must(w.tend())
				for range 3 {
					w.soft(w.pass())
				}
			}
		},
		"restored": func(w *world, _ metadata.BucketRef) {
			w.propose(&metadata.Command{Kind: metadata.KindPutIncarnation, Incarnation: &metadata.Incarnation{Number: 1, Collection: true}})
			w.must(w.drain())
			w.soft(w.tend())
			for range 3 {
				w.soft(w.pass())
			}
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{drives: 9})
			b := w.bucket("b", 1)
			w.put(b, "k", 0)
			w.must(w.drain())
			w.must(w.tend())
			away := writersOf(w.row(1))[1]
			w.drives.down[away] = true
			w.del(b, "k")
			w.must(w.drain())
			w.must(w.tend())
			change(w, b)

			said, _, _ := w.read(b, w.ids...)
			if n := said["k"]; n == nil || n.entries[0].Kind != manifest.KindTombstone {
				t.Error("the deleted object comes back with the drive that was away")
			}
			w.settle()
			w.exact(b)
		})
	}
}
