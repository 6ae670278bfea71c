package node

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object/shardtest"
	"github.com/ruche-storage/ruche/metadata"
)

// confirmed fills a drive with shards that are live, durably.
func confirmed(t *testing.T, w *workbench, n int) (refs []metadata.ShardRef) {
	t.Helper()
	for range n {
		refs = append(refs, w.put(100).Ref())
	}
	if err := w.d.Confirm(t.Context(), refs); err != nil {
		t.Fatal(err)
	}
	if err := w.d.index.flush(w.d.fenced); err != nil {
		t.Fatal(err)
	}
	return refs
}

// TestSuspectOutlivesCrash loses what of the index is not durable after a
// Suspect: everything is still pending.
func TestSuspectOutlivesCrash(t *testing.T) {
	t.Parallel()
	disk := vfs.NewCrashableMem()
	format(t, disk, "d")
	w := open(t, quietOptions(disk), "d")
	confirmed(t, w, 20)
	if err := w.d.Suspect(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	w = open(t, quietOptions(killed(w, disk)), "d")
	defer w.close()
	if st := w.d.Status(); st.PendingShards != 20 {
		t.Errorf("%d shards are pending after a crash, want all 20", st.PendingShards)
	}
}

// TestSuspectBesideFree frees shards between the moment at which Suspect reads
// a page and that at which it marks it, and while it runs: the others of the
// page become pending all the same.
func TestSuspectBesideFree(t *testing.T) {
	t.Parallel()
	disk := vfs.NewMem()
	format(t, disk, "d")
	w := open(t, quietOptions(disk), "d")
	defer w.close()
	confirmed(t, w, 20)
	rows, _, err := w.d.index.pageOfRecords([]byte{tableShard}, []byte{tableShard + 1})
	if err != nil || len(rows) != 20 {
		t.Fatal(len(rows), err)
	}
	if err := w.d.Free(t.Context(), []metadata.ShardRef{rows[3].ref()}); err != nil {
		t.Fatal(err)
	}
	if err := w.d.suspectRows(rows); err != nil {
		t.Fatal(err)
	}
	if st := w.d.Status(); st.PendingShards != 19 || st.Shards != 19 {
		t.Errorf("%d of %d shards are pending, want all 19", st.PendingShards, st.Shards)
	}

	w.shards = nil
	refs := confirmed(t, w, 2*recordsPage)
	done := make(chan error, 1)
	go func() {
		for _, ref := range refs[:recordsPage] {
			if err := w.d.Free(t.Context(), []metadata.ShardRef{ref}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	if err := w.d.Suspect(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	const want = 19 + recordsPage
	if st := w.d.Status(); st.PendingShards != want || st.Shards != want {
		t.Errorf("%d of %d shards are pending, want all %d", st.PendingShards, st.Shards, want)
	}
	for _, s := range w.shards[recordsPage:] {
		if err := shardtest.Check(t.Context(), w.n, w.id, s); err != nil {
			t.Error(err)
		}
	}
}
