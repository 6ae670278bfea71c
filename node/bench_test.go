package node

import (
	"bytes"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object/shardtest"
	"github.com/ruche-storage/ruche/metadata"
)

// benchDrive opens a drive on real files.
func benchDrive(b *testing.B) *workbench {
	path := b.TempDir()
	format(b, vfs.Default, path)
	opts := quietOptions(vfs.Default)
	opts.SmallShardBytes, opts.PreallocateBytes = 0, 0
	w := open(b, opts, path)
	b.Cleanup(w.close)
	return w
}

// prepared shards differ in their ids only where it matters to the drive: the
// cells of each fit its id, so they are made beforehand.
func prepare(b *testing.B, n, size int) []*shardtest.Shard {
	rng := newRand(1)
	shards := make([]*shardtest.Shard, n)
	for i := range shards {
		shards[i] = shardtest.NewShard(rng, uint32(i%64), size)
	}
	b.ResetTimer()
	return shards
}

// BenchmarkPutSmall writes durable 4 KiB shards from 16 writers.
func BenchmarkPutSmall(b *testing.B) {
	w := benchDrive(b)
	shards := prepare(b, b.N, 4096)
	b.SetBytes(4096)
	b.SetParallelism(8) // times GOMAXPROCS
	var next atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s := shards[next.Add(1)-1]
			sw, err := w.d.Create(b.Context(), &s.Record, int64(len(s.Framed)))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := sw.Write(s.Framed); err != nil {
				b.Fatal(err)
			}
			if err := sw.Close(&s.Footer); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benchmarkPut(b *testing.B, size int) {
	w := benchDrive(b)
	shards := prepare(b, 16, size)
	b.SetBytes(int64(size))
	for i := 0; b.Loop(); i++ {
		s := shards[i%16]
		if err := shardtest.Put(b.Context(), w.n, w.id, s, int64(len(s.Framed))); err != nil {
			b.Fatal(err)
		}
		if err := w.d.Free(b.Context(), []metadata.ShardRef{s.Ref()}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPut1MiB writes durable shards that are buffered, one after the
// other.
func BenchmarkPut1MiB(b *testing.B) { benchmarkPut(b, 1<<20-4096) }

// BenchmarkPut8MiB writes durable shards to files of their own, one after the
// other.
func BenchmarkPut8MiB(b *testing.B) { benchmarkPut(b, 8<<20) }

func benchmarkRead(b *testing.B, size int) {
	w := benchDrive(b)
	for range 64 {
		w.put(size)
	}
	dst := make([]byte, len(w.shards[0].Framed))
	b.SetBytes(int64(len(dst)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s := w.shards[i%64]
		if err := w.d.ReadAt(b.Context(), s.Ref(), dst, 0); err != nil {
			b.Fatal(err)
		}
	}
	if !bytes.Equal(dst, w.shards[63].Framed) && b.N%64 == 0 {
		b.Error("other bytes were read")
	}
}

// BenchmarkRead4KiB reads small shards from a shared segment.
func BenchmarkRead4KiB(b *testing.B) { benchmarkRead(b, 4096) }

// BenchmarkRead1MiB reads shards of 16 cells.
func BenchmarkRead1MiB(b *testing.B) { benchmarkRead(b, 1<<20) }
