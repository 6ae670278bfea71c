package node

import (
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/metadata"
)

// manifests returns the first byte of each manifest that a drive yields.
func manifests(t *testing.T, w *workbench) string {
	t.Helper()
	var seen []byte
	err := w.d.Records(t.Context(), metadata.RecordManifest, func(_ *metadata.Record, payload []byte) error {
		seen = append(seen, payload[0])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(seen)
}

// freeManifest frees the manifest that was put as n.
func freeManifest(t *testing.T, w *workbench, n byte) {
	t.Helper()
	rec := metadata.Record{Type: metadata.RecordManifest, Shard: metadata.ShardID{Chunk: metadata.ChunkID{n}}}
	if err := w.d.Free(t.Context(), []metadata.ShardRef{rec.Ref()}); err != nil {
		t.Fatal(err)
	}
}

// TestSettledRecordsStayFreed frees records of shared segments and of files of
// their own, and loses what is not durable, with the index or all but it: what
// was freed before Settle stays so, and nothing else goes.
func TestSettledRecordsStayFreed(t *testing.T) {
	t.Parallel()
	for _, settle := range []bool{true, false} {
		for _, rebuild := range []bool{true, false} {
			disk := vfs.NewCrashableMem()
			format(t, disk, "d")
			w := open(t, quietOptions(disk), "d")
			for n := byte(1); n <= 3; n++ {
				putManifest(t, w, n)
			}
			large := metadata.Record{Type: metadata.RecordManifest, Shard: metadata.ShardID{Chunk: metadata.ChunkID{4}}}
			if err := w.d.PutRecord(t.Context(), &large, metadata.PayloadOf(append([]byte{4}, make([]byte, 200<<10)...))); err != nil {
				t.Fatal(err)
			}
			w.close() // so that the rows are durable
			w = open(t, quietOptions(disk), "d")
			putManifest(t, w, 5)
			freeManifest(t, w, 2)
			freeManifest(t, w, 4)
			freeManifest(t, w, 5)
			if settle {
				if err := w.d.Settle(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			freeManifest(t, w, 3) // may come back
			disk = killed(w, disk)
			if rebuild {
				if _, err := Fsck(t.Context(), quietOptions(disk), "d", true); err != nil {
					t.Fatal(err)
				}
			}
			w = open(t, quietOptions(disk), "d")
			got := manifests(t, w)
			w.close()
			if want := "\x01\x03"; settle && got != want {
				t.Errorf("index made anew=%v: %q are there after a crash, want %q", rebuild, got, want)
			}
			if !settle && len(got) < 3 {
				t.Errorf("index made anew=%v: %q are there without Settle: the test shows nothing", rebuild, got)
			}
		}
	}
}

// TestSettledShardsStayFreed frees shards that are live, in a shared segment and
// in a file of its own. What was freed before Settle has no row after a crash.
func TestSettledShardsStayFreed(t *testing.T) {
	t.Parallel()
	for _, settle := range []bool{true, false} {
		disk := vfs.NewCrashableMem()
		format(t, disk, "d")
		w := open(t, quietOptions(disk), "d")
		small, large := w.put(300), w.put(2<<20)
		refs := []metadata.ShardRef{small.Ref(), large.Ref()}
		if err := w.d.Confirm(t.Context(), refs); err != nil {
			t.Fatal(err)
		}
		w.close() // so that the rows are durable
		w = open(t, quietOptions(disk), "d")
		if err := w.d.Free(t.Context(), refs); err != nil {
			t.Fatal(err)
		}
		if settle {
			if err := w.d.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		disk = killed(w, disk)
		w = open(t, quietOptions(disk), "d")
		rows, err := w.d.List(t.Context(), metadata.ShardRef{}, false, 10)
		w.close()
		if err != nil || settle && len(rows) != 0 {
			t.Errorf("%d shards are there after a crash: %v", len(rows), err)
		}
		if !settle && len(rows) != 2 {
			t.Errorf("%d shards are there without Settle: the test shows nothing", len(rows))
		}
	}
}

// TestSettleTriesAgain cannot zero a freed record at first.
func TestSettleTriesAgain(t *testing.T) {
	t.Parallel()
	disk := vfs.NewCrashableMem()
	format(t, disk, "d")
	w := open(t, quietOptions(disk), "d")
	putManifest(t, w, 1)
	putManifest(t, w, 2)
	w.close()
	var broken atomic.Bool
	w = open(t, quietOptions(errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWriteAt && broken.Load() {
			return errorfs.ErrInjected
		}
		return nil
	}))), "d")
	broken.Store(true)
	freeManifest(t, w, 1)
	if err := w.d.Settle(t.Context()); err == nil {
		t.Error("settled although nothing could be zeroed")
	}
	broken.Store(false)
	if err := w.d.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	disk = killed(w, disk)
	if _, err := Fsck(t.Context(), quietOptions(disk), "d", true); err != nil {
		t.Fatal(err)
	}
	w = open(t, quietOptions(disk), "d")
	defer w.close()
	if got := manifests(t, w); got != "\x02" {
		t.Errorf("%q are there", got)
	}
}
