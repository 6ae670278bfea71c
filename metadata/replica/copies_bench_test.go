package replica_test

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// BenchmarkCopies measures what the commit of an inline body of 4 KiB costs by
// 64 writers, in encrypted files of a real file system: with one copy (the
// local engine) or several, in one group or all. What the keeper of manifests
// asks of the metadata is part of it. cpu-us/op is the processor time of the
// process; run it with -benchtime=50000x, so that stores flush and compact.
func BenchmarkCopies(b *testing.B) {
	for _, copies := range []int{1, 3, 5} {
		for _, groups := range []uint32{1, metadata.DataGroups} {
			b.Run(fmt.Sprintf("copies=%d/groups=%d", copies, groups), func(b *testing.B) {
				e := benchEngine(b, copies)
				for group := uint32(1); group <= groups; group++ {
					prepareGroup(b, e, group)
				}
				benchInline(b, e, groups)
			})
		}
	}
}

// benched is what both engines have.
type benched interface {
	replica.Engine
	Outbox(ctx context.Context, group uint32, after uint64, limit int) ([]metadata.OutboxEntry, error)
	OpenKeys(ctx context.Context, group uint32, keys []metadata.KeyRef) ([]metadata.OpenedKey, error)
}

// benchEngine opens an engine with as many copies.
func benchEngine(b *testing.B, copies int) benched {
	b.Helper()
	var ps []replica.Place
	var voters []uint64
	for id := uint64(1); id <= uint64(copies); id++ {
		fs, err := cryptfs.New(vfs.Default, cryptfs.Options{Key: cryptfs.Key{1}, Store: topology.DriveID{byte(id)}, Whole: true, Random: rand.Reader})
		if err != nil {
			b.Fatal(err)
		}
		ps = append(ps, replica.Place{Dir: b.TempDir(), FS: fs})
		voters = append(voters, id)
	}
	if copies == 1 {
		l, err := replica.Open(ps[0].Dir, replica.Options{FS: ps[0].FS, ReserveBytes: -1})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := l.Close(); err != nil {
				b.Error(err)
			}
		})
		return l
	}
	o := replica.ReplicatedOptions{StoreOptions: benchOptions()}
	for i, p := range ps {
		so := o.StoreOptions
		so.FS = p.FS
		if err := replica.CreateStore(p.Dir, identity(voters[i]), voters, so); err != nil {
			b.Fatal(err)
		}
	}
	return openReplicated(b, ps, o)
}

// benchOptions are those of the server on a machine with much memory.
func benchOptions() replica.StoreOptions {
	o := replica.Options{ReserveBytes: -1, CacheBytes: 32 << 20, MemTableBytes: 24 << 20}
	return replica.StoreOptions{Options: o, TurnBytes: 16 << 20}
}

func prepareGroup(b *testing.B, e benched, group uint32) {
	b.Helper()
	raise := &metadata.Command{Kind: metadata.KindClusters, Version: metadata.CommandVersion,
		Clusters: &metadata.ClusterVersion{Version: metadata.LatestVersion}}
	for _, c := range append([]*metadata.Command{raise}, preparing()...) {
		c.Group = group
		if _, err := e.Commit(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

func benchInline(b *testing.B, e benched, groups uint32) {
	var next atomic.Int64
	var asked [metadata.DataGroups + 1]atomic.Int64
	var keeping [metadata.DataGroups + 1]sync.Mutex
	var keepers sync.WaitGroup
	b.SetParallelism(32)
	b.ResetTimer()
	before, began := cpuTime(b), time.Now()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c := inlined(int(next.Add(1)), groups)
			if _, err := e.Commit(context.Background(), c); err != nil {
				b.Error(err)
				return
			}
			if g := c.Group; asked[g].Add(1)%512 == 0 && keeping[g].TryLock() {
				keepers.Go(func() {
					defer keeping[g].Unlock()
					if err := keep(e, g); err != nil {
						b.Error(err)
					}
				})
			}
		}
	})
	keepers.Wait()
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "commits/s")
	m := e.Metrics()
	b.ReportMetric(float64(m.Commands)/float64(m.Batches.Count), "commands/sync")
}

// inlined is the command that stores object n.
func inlined(n int, groups uint32) *metadata.Command {
	var id [16]byte
	for i := range id {
		id[i] = byte(mathrand.Uint32())
	}
	id = metadata.Dated(id, time.Now())
	body := make([]byte, 4<<10+64)
	for i := 0; i < len(body); i += 8 {
		v := mathrand.Uint64()
		for j := range 8 {
			body[i+j] = byte(v >> (8 * j))
		}
	}
	c := put(metadata.RequestID(id), fmt.Sprintf("photos/%016x/%08d.jpg", mathrand.Uint64(), n), "")
	c.Group = 1 + uint32(n)%groups
	c.CommitVersion.Inline = body
	v := &c.CommitVersion.Version
	v.ETag = fmt.Sprintf("%032x", n)
	v.Bytes, v.Part.Bytes, v.Part.SealedBytes = 4<<10, 4<<10, int64(len(body))
	v.Part.WrappedKey = string(body[:60])
	return c
}

// keep does what the keeper of manifests asks of the metadata.
func keep(e benched, group uint32) error {
	ctx := context.Background()
	entries, err := e.Outbox(ctx, group, 0, 512)
	if err != nil || len(entries) == 0 {
		return err
	}
	var keys []metadata.KeyRef
	for i := range entries {
		if entries[i].Key != "" {
			keys = append(keys, metadata.KeyRef{Bucket: entries[i].Bucket, Key: entries[i].Key})
		}
	}
	if _, err := e.OpenKeys(ctx, group, keys); err != nil {
		return err
	}
	_, err = e.Commit(ctx, &metadata.Command{Kind: metadata.KindManifested, Version: metadata.CommandVersion, Group: group,
		Manifested: &metadata.Manifested{Upto: entries[len(entries)-1].Order}})
	return err
}

// cpuTime returns the processor time of the process, user and system.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
