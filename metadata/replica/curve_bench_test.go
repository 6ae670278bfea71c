package replica_test

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
)

var curveMost = flag.Int("curve-objects", 1_000_000, "objects in one bucket at the end of BenchmarkCurve")

// BenchmarkCurve fills one bucket, and at every power of ten from 10,000 objects
// to -curve-objects measures what one more costs: processor time of the process
// for a PUT by 64 writers, for looking an object up, for listing 1,000 keys
// from a random one, and the time of a start after an orderly end. One copy, encrypted files of a real
// file system, rows as objects of one chunk of a mebibyte have them. Run it with
// -benchtime=1x and, for 10,000,000 objects, -timeout=60m.
func BenchmarkCurve(b *testing.B) {
	for range b.N {
		c := curve{b: b, dir: b.TempDir()}
		c.open()
		prepareGroup(b, c.l, testBucket.Group)
		for n := 10_000; n <= *curveMost; n *= 10 {
			c.fill(n)
			c.measure()
		}
		c.close()
	}
}

// curve is a bucket that grows.
type curve struct {
	b    *testing.B
	dir  string
	l    *replica.Local
	have int
}

func (c *curve) open() time.Duration {
	c.b.Helper()
	fs, err := cryptfs.New(vfs.Default, cryptfs.Options{Key: cryptfs.Key{1}, Store: topology.DriveID{1}, Whole: true, Random: rand.Reader})
	if err != nil {
		c.b.Fatal(err)
	}
	began := time.Now()
	if c.l, err = replica.Open(c.dir, replica.Options{FS: fs, ReserveBytes: -1}); err != nil {
		c.b.Fatal(err)
	}
	return time.Since(began)
}

func (c *curve) close() {
	c.b.Helper()
	if err := c.l.Close(); err != nil {
		c.b.Fatal(err)
	}
}

func curveKey(n int) string { return fmt.Sprintf("photos/%03d/%09d.jpg", n%1000, n) }

// fill stores objects until there are n.
func (c *curve) fill(n int) {
	c.b.Helper()
	c.each(256, n-c.have, func(_ *mathrand.Rand, i int) error {
		return c.put(c.have + i)
	})
	c.have = n
}

func (c *curve) put(n int) error {
	var id [16]byte
	for i := range id {
		id[i] = byte(mathrand.Uint32())
	}
	_, err := c.l.Commit(context.Background(), chunked(metadata.RequestID(metadata.Dated(id, time.Now())), curveKey(n)))
	if err == nil && n%4096 == 4095 {
		err = keep(c.l, testBucket.Group)
	}
	return err
}

// each calls do for 0 to n-1 by several goroutines, and returns the processor
// time of one call.
func (c *curve) each(workers, n int, do func(*mathrand.Rand, int) error) time.Duration {
	c.b.Helper()
	var next atomic.Int64
	var all sync.WaitGroup
	before := cpuTime(c.b)
	for w := range workers {
		all.Go(func() {
			r := mathrand.New(mathrand.NewPCG(uint64(w), uint64(n)))
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := do(r, i); err != nil {
					c.b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return (cpuTime(c.b) - before) / time.Duration(max(n, 1))
}

// measure reports what one more call costs at the present size. Objects that
// are put are new ones.
func (c *curve) measure() {
	c.b.Helper()
	size := c.have
	puts := max(20_000, size/20)
	begun := c.have
	put := c.each(64, puts, func(_ *mathrand.Rand, i int) error { return c.put(begun + i) })
	c.have += puts
	get := c.each(8, 20_000, func(r *mathrand.Rand, _ int) error {
		_, err := c.l.Open(context.Background(), testBucket, curveKey(r.IntN(size)), "")
		return err
	})
	list := c.each(8, 400, func(r *mathrand.Rand, _ int) error {
		page, err := c.l.List(context.Background(), &metadata.ListQuery{Bucket: testBucket, After: curveKey(r.IntN(size/1000)*1000 + r.IntN(900)), Limit: 1000})
		if err == nil && len(page.Keys) != 1000 {
			err = fmt.Errorf("a page of %d keys", len(page.Keys))
		}
		return err
	})
	c.close()
	start := c.open()
	for what, took := range map[string]time.Duration{"PUT": put, "GET": get, "LIST1000": list, "open": start} {
		c.b.ReportMetric(float64(took.Microseconds()), fmt.Sprintf("us/%s@%d", what, size))
	}
}
