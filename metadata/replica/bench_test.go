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
	benchCommits(b, l)
}

// BenchmarkReplicatedCommit is BenchmarkCommit with three copies on the same
// file system.
func BenchmarkReplicatedCommit(b *testing.B) {
	e := benchReplicated(b)
	benchCommits(b, e)
}

// BenchmarkReplicatedOpen reads small objects with 64 readers.
func BenchmarkReplicatedOpen(b *testing.B) {
	e := benchReplicated(b)
	if _, err := e.Commit(b.Context(), put(request(1, 1), "key", "value")); err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := e.Open(context.Background(), testBucket, "key", ""); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// benchReplicated opens three stores on a real file system.
func benchReplicated(b *testing.B) *replica.Replicated {
	b.Helper()
	var ps []replica.Place
	for id := uint64(1); id <= 3; id++ {
		p := replica.Place{Dir: b.TempDir()}
		err := replica.CreateStore(p.Dir, identity(id), []uint64{1, 2, 3}, replica.StoreOptions{})
		if err != nil {
			b.Fatal(err)
		}
		ps = append(ps, p)
	}
	o := replica.ReplicatedOptions{StoreOptions: replica.StoreOptions{Options: replica.Options{ReserveBytes: -1}}}
	e := openReplicated(b, ps, o)
	prepareReplicated(b, e)
	return e
}

func benchCommits(b *testing.B, e replica.Engine) {
	const writers = 64
	var next atomic.Int64
	b.SetParallelism(writers / 2)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := int(next.Add(1))
			c := chunked(request(1, n), fmt.Sprintf("photos/2026/%08d.jpg", n))
			if _, err := e.Commit(context.Background(), c); err != nil {
				b.Error(err)
				return
			}
		}
	})
	m := e.Metrics()
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
