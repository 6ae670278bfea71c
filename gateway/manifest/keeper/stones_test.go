package keeper

import (
	"fmt"
	"testing"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/gateway/seal"
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

// buried has an object on a drive that is away since, and deletes the object.
func buried(t *testing.T) (w *world, b metadata.BucketRef, away topology.DriveID) {
	t.Helper()
	w = newWorld(t, setup{drives: 9})
	b = w.bucket("b", 1)
	w.put(b, "k", 0)
	w.must(w.drain())
	w.must(w.tend())
	away = writersOf(w.row(1))[1]
	w.drives.down[away] = true
	w.del(b, "k")
	w.must(w.drain())
	w.must(w.tend())
	w.soft(w.pass())
	return w, b, away
}

// change has every manifest drive replaced, one after the other, and calls
// between after each.
func (w *world) change(b metadata.BucketRef, between func()) {
	w.t.Helper()
	for _, bad := range writersOf(w.row(b.Group)) {
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
		between()
	}
}

// TestFilledDrivesGetTombstones: a drive that takes the place of another is
// filled from the state, which has no tombstones. It gets them all the same:
// as many manifest drives as may be lost may go, and an object that was deleted
// does not come back with a drive that had been away.
func TestFilledDrivesGetTombstones(t *testing.T) {
	t.Parallel()
	for _, off := range []bool{false, true} {
		t.Run(fmt.Sprint("nothing may be freed=", off), func(t *testing.T) {
			t.Parallel()
			w, b, away := buried(t)
			w.off = off
			freed := w.drives.freed
			w.change(b, func() { w.soft(w.pass()) })
			w.restart() // what is known of the rest must not be in memory
			w.soft(w.pass())
			writers := writersOf(w.row(1))
			for _, id := range writers {
				said, _, _ := w.read(b, away, id)
				if n := said["k"]; n == nil || n.entries[0].Kind != manifest.KindTombstone {
					t.Errorf("what was deleted comes back if only %s is left of %v", id, writers)
				}
			}
			if n := w.sound(b); n != 3 {
				t.Errorf("%d complete manifest drives, want 3: %+v", n, w.row(1).Members)
			}
			if off && w.drives.freed != freed {
				t.Errorf("%d records were freed", w.drives.freed-freed)
			}
			w.off = false
			w.settle()
			w.exact(b)
		})
	}
}

// TestTombstonesOfManyDrives: all drives that had the tombstones leave before a
// pass could copy any.
func TestTombstonesOfManyDrives(t *testing.T) {
	t.Parallel()
	w, b, away := buried(t)
	w.change(b, func() {})
	writers := writersOf(w.row(1))
	leaves := memberOf(w.row(1), writers[0])
	if leaves.Tombs {
		t.Fatal("complete without a pass")
	}
	// One that holds some cannot be read to its end: the drives stay incomplete.
	for i := range w.row(1).Members {
		if m := &w.row(1).Members[i]; !m.Writes() && m.Drive != away {
			w.drives.damaged = m.Drive
		}
	}
	w.fails(w.pass(), metadata.ErrCorrupt)
	if n := w.sound(b); n != 0 {
		t.Errorf("%d drives are complete although not all tombstones were read", n)
	}
	w.drives.damaged = topology.DriveID{}
	w.soft(w.pass())
	if n := w.sound(b); n != 3 {
		t.Errorf("%d complete manifest drives, want 3", n)
	}
}

// TestFreedRecordsComeBack: the power fails on a drive before it is durable that
// the manifest of a deleted object was freed there. Its tombstone must not be
// gone then.
func TestFreedRecordsComeBack(t *testing.T) {
	t.Parallel()
	w, b, away := buried(t)
	delete(w.drives.down, away)
	w.k.pass.percent = 100
	w.must(w.pass())
	w.drives.unsettling = away
	for range 3 {
		w.fails(w.pass(), metadata.ErrSlow)
	}
	if said, _, _ := w.read(b, away); said["k"] != nil {
		t.Fatal("the manifest was not freed at all")
	}
	w.drives.powerCut(away, 1)
	if said, _, _ := w.read(b, away); said["k"] == nil {
		t.Fatal("the manifest has not come back")
	}
	w.check(b, w.ids...)
	w.drives.unsettling = topology.DriveID{}
	w.settle()
	w.exact(b)
}

// TestSettingsAreFreed: of the rows of a bucket the present ones stay, however
// often they change.
func TestSettingsAreFreed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	b := w.bucket("b", 1)
	w.must(w.drain())
	w.must(w.tend())
	for i := range 20 {
		w.compress(b, metadata.Compression(1+i%2))
		w.must(w.drain())
	}
	w.k.pass.percent = 100
	// The present rows lie in the outbox only: what is durable must stay.
	w.compress(b, metadata.CompressionOff)
	w.k.pass.waits = 0
	w.fails(w.pass(), errBehind)
	for _, id := range writersOf(w.row(1)) {
		if rows := w.rows(b, id); len(rows[manifest.KindSettings]) == 0 || len(rows[manifest.KindBucket]) == 0 {
			t.Errorf("drive %s has %v", id, rows)
		}
	}
	w.must(w.drain())
	w.settle()
	settings, err := w.meta.Settings(t.Context(), b)
	w.must(err)
	row, err := w.meta.BucketByID(t.Context(), b.ID)
	w.must(err)
	for _, id := range writersOf(w.row(1)) {
		rows := w.rows(b, id)
		if got := rows[manifest.KindSettings]; len(got) != 1 || got[0].Settings.Epoch != settings.Epoch {
			t.Errorf("drive %s: %d settings %+v, want one of epoch %d", id, len(got), got, settings.Epoch)
		}
		got := rows[manifest.KindBucket]
		for _, m := range got { // one of the change, one by which the drive was filled
			if string(m.Bucket.AppendTo(nil)) != string(row.AppendTo(nil)) {
				t.Errorf("drive %s: row of the bucket %+v, want %+v", id, m.Bucket, row)
			}
		}
		if len(got) == 0 || len(got) > 2 {
			t.Errorf("drive %s: %d rows of the bucket", id, len(got))
		}
	}
}

// compress changes the settings of a bucket.
func (w *world) compress(b metadata.BucketRef, c metadata.Compression) {
	w.t.Helper()
	settings, err := w.meta.Settings(w.t.Context(), b)
	w.must(err)
	settings.Compression = c
	settings.Epoch++
	w.propose(&metadata.Command{Kind: metadata.KindPutSettings, Group: b.Group, Settle: settings})
}

// rows returns the rows of a bucket that lie on a drive.
func (w *world) rows(b metadata.BucketRef, drive topology.DriveID) map[manifest.Kind][]*manifest.Manifest {
	w.t.Helper()
	rows := make(map[manifest.Kind][]*manifest.Manifest)
	bucket := &manifest.Bucket{Cluster: seal.ClusterID{1}, ID: b.ID, Key: metadata.KeyID{3}, Keys: w.keys[b.ID]}
	for _, r := range w.drives.records[drive] {
		if r.rec.Type != metadata.RecordManifest || r.rec.Bucket != b.ID {
			continue
		}
		entries, err := manifest.Open(bucket, r.rec.Shard.Chunk, r.payload)
		w.must(err)
		for i := range entries {
			if entries[i].Key != "" {
				continue
			}
			m, err := manifest.Decode(&entries[i])
			w.must(err)
			rows[m.Kind] = append(rows[m.Kind], m)
		}
	}
	return rows
}
