package object

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// benchSetup is a machine whose drives lie in memory, but go through the
// kernel: /dev/shm where there is one.
func benchSetup(b *testing.B, encryption bool) setup {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ruche-object-")
	if err != nil {
		dir = b.TempDir()
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return setup{fs: vfs.Default, dir: dir, options: func(o *Options) { o.Encryption = encryption }}
}

// reportCPU reports the CPU time of the process an operation, user and system:
// on a shared machine it repeats where times of the wall do not.
func reportCPU(b *testing.B) {
	b.Helper()
	used := func() time.Duration {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			b.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	begun := used()
	b.Cleanup(func() {
		b.ReportMetric(float64((used()-begun).Microseconds())/float64(b.N), "cpu-us/op")
	})
}

var benchSizes = []int{4 << 10, 128 << 10, 1 << 20, 64 << 20}

// BenchmarkPut measures a PUT without HTTP: ns and allocations an operation.
func BenchmarkPut(b *testing.B) {
	for _, encryption := range []bool{true, false} {
		for _, n := range benchSizes {
			b.Run(fmt.Sprintf("sealed=%t/%d", encryption, n), func(b *testing.B) {
				w := newWorld(b, benchSetup(b, encryption))
				data := payload(n, 1)
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					w.mustPut(strconv.Itoa(i%8), data)
					if i%16 == 15 && n > 1<<20 {
						b.StopTimer()
						w.emptyTrash()
						b.StartTimer()
					}
				}
			})
		}
	}
}

// BenchmarkPutParallel has as many clients as a small server sees.
func BenchmarkPutParallel(b *testing.B) {
	for _, n := range benchSizes[:3] {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			w := newWorld(b, benchSetup(b, true))
			data := payload(n, 1)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			b.SetParallelism(8)
			reportCPU(b)
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, err := w.put(strconv.Itoa(i%64), data); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func BenchmarkGet(b *testing.B) {
	for _, encryption := range []bool{true, false} {
		for _, n := range benchSizes {
			b.Run(fmt.Sprintf("sealed=%t/%d", encryption, n), func(b *testing.B) {
				w := newWorld(b, benchSetup(b, encryption))
				w.mustPut("object", payload(n, 1))
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					w.discard("object", Range{}, n)
				}
			})
		}
	}
	b.Run("range=64KiB", func(b *testing.B) {
		w := newWorld(b, benchSetup(b, true))
		w.mustPut("object", payload(16<<20, 1))
		b.SetBytes(64 << 10)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			first := int64(i*7919*1024) % (15 << 20)
			w.discard("object", Range{Kind: RangeFromTo, First: first, Last: first + 64<<10 - 1}, 64<<10)
		}
	})
}

func (w *world) discard(key string, r Range, n int) {
	w.t.Helper()
	o, err := w.Get(w.t.Context(), &GetRequest{Bucket: "b", Key: key, Range: r})
	if err != nil {
		w.t.Fatal(err)
	}
	read, err := o.WriteTo(io.Discard)
	if err != nil || read != int64(n) {
		w.t.Fatal(read, err)
	}
	check(w.t, o.Close())
}

// emptyTrash frees the shards of all trash at once, as the collector does over
// time, so that memory does not fill up.
func (w *world) emptyTrash() {
	w.t.Helper()
	ctx := w.t.Context()
	b, err := w.bucket(ctx, "b")
	if err != nil {
		w.t.Fatal(err)
	}
	rows, err := w.meta.Trash(ctx, b.row.Group, 0, 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, row := range rows {
		chunks, err := w.meta.Chunks(ctx, b.ref(), row.Part, 0, 100)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, c := range chunks {
			pg, err := w.pg(ctx, c.PG, c.Generation)
			if err != nil {
				w.t.Fatal(err)
			}
			for i, d := range pg.Newest().Members {
				check(w.t, w.shards.Free(ctx, d, refsOf(&c, i)))
			}
		}
	}
}

// BenchmarkPlainCopy is what cannot be avoided: reading a body once.
func BenchmarkPlainCopy(b *testing.B) {
	data := payload(1<<20, 1)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		io.Copy(io.Discard, bytes.NewReader(data))
	}
}
