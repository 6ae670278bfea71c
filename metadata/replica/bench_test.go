package replica_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// BenchmarkCommit measures commits of small objects with 64 writers, each
// acknowledged after its sync, on a real file system.
func BenchmarkCommit(b *testing.B) {
	l, err := replica.Open(b.TempDir(), replica.Options{FS: vfs.Default, ReserveBytes: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	prepare(b, l)
	const writers = 64
	var next atomic.Int64
	b.SetParallelism(writers / 2)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := int(next.Add(1))
			c := chunked(request(1, n), fmt.Sprintf("photos/2026/%08d.jpg", n))
			if _, err := l.Commit(context.Background(), c); err != nil {
				b.Error(err)
				return
			}
		}
	})
	m := l.Metrics()
	b.ReportMetric(float64(m.Commands)/float64(m.Batches.Count), "commands/sync")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

// chunked is the command that stores an object of one chunk.
func chunked(id metadata.RequestID, key string) *metadata.Command {
	c := put(id, key, "0123456789abcdef0123456789abcdef")
	p := c.CommitVersion.Version.Part
	p.Body, p.Bytes, p.SealedBytes = metadata.BodyChunks, 1<<20, 1<<20+256
	c.CommitVersion.Version.Bytes = p.Bytes
	c.CommitVersion.Inline = nil
	c.CommitVersion.Chunks = []metadata.Chunk{{ID: metadata.ChunkID(id), Scheme: metadata.NewScheme(4, 2), Bytes: p.SealedBytes}}
	return c
}
