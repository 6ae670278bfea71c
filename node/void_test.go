package node

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node/segment"
)

// manifestRows returns the rows of all manifests.
func manifestRows(t *testing.T, w *workbench) []row {
	t.Helper()
	from := []byte{tableRecord, byte(metadata.RecordManifest)}
	rows, _, err := w.d.index.pageOfRecords(from, upperBound(from))
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// TestRecordsFreedBeforeACrash frees a record whose row the index has flushed,
// and is killed before the index has flushed that it went: the row comes back
// and leads to zeros. It is freed, and no damage.
func TestRecordsFreedBeforeACrash(t *testing.T) {
	t.Parallel()
	disk := vfs.NewCrashableMem()
	format(t, disk, "d")
	w := open(t, quietOptions(disk), "d")
	putManifest(t, w, 1)
	putManifest(t, w, 2)
	w.close()
	w = open(t, quietOptions(disk), "d")
	rows := manifestRows(t, w)
	if len(rows) != 2 {
		t.Fatalf("%d rows, want 2", len(rows))
	}
	if err := w.d.Free(t.Context(), []metadata.ShardRef{rows[0].ref()}); err != nil {
		t.Fatal(err)
	}
	file := w.d.layout.file(rows[0].dir, rows[0].segment)
	disk = killed(w, disk)
	overwrite(t, disk, file, rows[0].offset, segment.Align, zero)

	report, err := Fsck(t.Context(), quietOptions(disk), "d", false)
	if err != nil || report.Bad != 0 || report.Records != 1 {
		t.Errorf("Fsck = %+v, %v; want one sound record", report, err)
	}
	w = open(t, quietOptions(disk), "d")
	defer w.close()
	if n := len(manifestRows(t, w)); n != 2 {
		t.Fatalf("%d rows after the crash, want the lost removal to show", n)
	}
	for range 2 {
		var seen []byte
		err = w.d.Records(t.Context(), metadata.RecordManifest, func(_ *metadata.Record, payload []byte) error {
			seen = append(seen, payload[0])
			return nil
		})
		if err != nil || string(seen) != "\x02" {
			t.Errorf("Records yields %v, %v, want the second one alone", seen, err)
		}
	}
	if n := len(manifestRows(t, w)); n != 1 {
		t.Errorf("%d rows after they were read, want 1", n)
	}
}

// TestFileOfFreedRecords frees all that a file holds that is not sealed yet, and
// is killed before the index has flushed that it went, but after it flushed that
// it was there. The file holds only zeros and is removed: the rows that lead
// into it are freed records, no damage.
func TestFileOfFreedRecords(t *testing.T) {
	t.Parallel()
	disk := vfs.NewCrashableMem()
	format(t, disk, "d")
	w := open(t, quietOptions(disk), "d")
	putManifest(t, w, 1)
	putManifest(t, w, 2)
	if err := w.d.Settle(t.Context()); err != nil { // flushes the index
		t.Fatal(err)
	}
	rows := manifestRows(t, w)
	if len(rows) != 2 || rows[0].segment != rows[1].segment {
		t.Fatalf("rows %v, want two of one file", rows)
	}
	freeManifest(t, w, 1)
	freeManifest(t, w, 2)
	file := w.d.layout.file(rows[0].dir, rows[0].segment)
	disk = killed(w, disk)
	for _, r := range rows {
		overwrite(t, disk, file, r.offset, int(r.entry.Bytes), zero)
	}
	for range 3 {
		w = open(t, quietOptions(disk), "d")
		if got := manifests(t, w); got != "" {
			t.Errorf("%q are there", got)
		}
		if n := len(manifestRows(t, w)); n != 0 {
			t.Errorf("%d rows are left", n)
		}
		if _, err := disk.Stat(file); err == nil {
			t.Errorf("%s is still there", file)
		}
		disk = killed(w, disk) // what only the memory knows is forgotten again
	}
}
