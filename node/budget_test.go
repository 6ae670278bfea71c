package node

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object/shardtest"
	"github.com/ruche-storage/ruche/metadata"
)

// TestSlowWriters lets writers of small shards that never go on take all the
// buffers they can get: others write to files of their own, and records and
// compaction, which have no such way out, have buffers set aside for them.
func TestSlowWriters(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	format(t, fs, "d")
	opts := sparseOptions(fs)
	opts.BufferBytes = 4 << 20
	w := open(t, opts, "d")
	defer w.close()
	kept := sparse(w, 2)
	var slow []*ShardWriter
	for range 100 {
		s := shardtest.NewShard(w.rng, 1, 60_000)
		sw, err := w.d.Create(t.Context(), &s.Record, int64(len(s.Framed)))
		if err != nil {
			t.Fatal(err)
		}
		slow = append(slow, sw)
	}
	defer func() {
		for _, sw := range slow {
			sw.Abort()
		}
		if used := w.n.Metrics().BufferBytes; used != 0 {
			t.Errorf("%d bytes of buffers are in use at the end", used)
		}
	}()
	own := 0
	for _, sw := range slow {
		if sw.own != nil {
			own++
		}
	}
	if own == 0 || own == len(slow) {
		t.Fatalf("%d of %d slow writers have a file of their own, want some", own, len(slow))
	}
	s := w.put(3000)
	if _, r := w.where(s); !r.own {
		t.Error("a shard was buffered, want no room for that")
	}
	w.check(s)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // not reached
	defer cancel()
	rec := metadata.Record{Type: metadata.RecordManifest, Shard: metadata.ShardID{Chunk: metadata.ChunkID{1}}}
	if err := w.d.PutRecord(ctx, &rec, metadata.PayloadOf(make([]byte, 10_000))); err != nil {
		t.Errorf("record beside slow writers: %v", err)
	}
	before := w.d.Status().Segments
	for range 4 {
		if err := w.d.maintain(ctx); err != nil {
			t.Fatalf("compaction beside slow writers: %v", err)
		}
	}
	if st := w.d.Status(); st.Segments >= before {
		t.Errorf("%d segments after compaction beside slow writers, %d before", st.Segments, before)
	}
	for _, s := range kept {
		w.check(s)
	}
}

// TestSmallBudget leaves hardly any buffers: everything still goes through, one
// after the other.
func TestSmallBudget(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	format(t, fs, "d")
	opts := sparseOptions(fs)
	opts.BufferBytes = 1
	w := open(t, opts, "d")
	defer w.close()
	for i := range 5 {
		w.check(w.put(10_000))
		putManifest(t, w, byte(i))
	}
	w.maintain()
}
