package recovery_test

import (
	"crypto/rand"
	"flag"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/gateway/recovery"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

var objects = flag.Int("recovery.objects", 100_000, "objects that TestManyObjects recovers; T-DR asks for 1,000,000 within 10 minutes")

// clock is the real one.
type clock struct{}

func (clock) Now() time.Time                         { return time.Now() }
func (clock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// TestManyObjects recovers many objects from records on real drives, and logs
// how long that takes.
func TestManyObjects(t *testing.T) {
	if testing.Short() {
		t.Skip("writes and reads gigabytes with -recovery.objects=1000000")
	}
	dir := t.TempDir()
	c := newCluster(t, 6)
	n := c.realDrives(dir)
	c.putRoot()
	const buckets = 10
	each := *objects / buckets
	for i := range buckets {
		b := c.bucket(fmt.Sprintf("bucket-%d", i), true)
		const page = 10_000
		for from := 0; from < each; from += page {
			var ms []*manifest.Manifest
			for j := from; j < min(each, from+page); j++ {
				ms = append(ms, c.usual(j, order(10+i*each+j)))
			}
			b.put(ms, i%6, (i+1)%6, (i+2)%6)
			c.flush(n)
		}
	}
	o := c.options()
	for i := range o.Drives {
		d, err := n.Drive(o.Drives[i].Row.ID)
		c.check(err)
		o.Drives[i].Records = d
	}
	o.Drives = o.Drives[1:] // one is lost
	o.FS, o.Scratch, o.Now, o.MemoryBytes, o.Workers = vfs.Default, filepath.Join(dir, "scratch"), time.Now, 0, 0
	o.AcceptClock = true
	var peak uint64
	o.Progress = func(p recovery.Progress) {
		if p.Keys%50_000 == 1 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
		}
	}
	began := time.Now()
	col, err := recovery.Collect(t.Context(), o)
	c.check(err)
	collected := time.Now()
	l, err := replica.Open(filepath.Join(dir, "metadata"), replica.Options{})
	c.check(err)
	report, err := col.Restore(t.Context(), l)
	c.check(err)
	c.check(col.Close())
	c.check(l.Close())
	c.check(n.Close())
	t.Logf("%d objects: %v to read, %v to restore, heap up to %d MiB", report.Objects, collected.Sub(began).Round(time.Millisecond),
		time.Since(collected).Round(time.Millisecond), peak>>20)
	if report.Objects != int64(buckets*each) || !report.Complete() {
		t.Errorf("%d of %d objects; %+v", report.Objects, buckets*each, report.Missing)
	}
}

// usual is the manifest of an object as most are: of a few MiB in one chunk,
// every tenth small.
func (c *cluster) usual(i int, at uint64) *manifest.Manifest {
	key := fmt.Sprintf("photos/2026/%02d/IMG_%08d.jpg", i%12, i)
	if i%10 == 0 {
		return c.inline(key, at, fmt.Sprintf("%01000d", i))
	}
	m := c.large(key, at, 1)
	m.Version.Part.WrappedKey = fmt.Sprintf("%049d", i)
	m.Version.User = []metadata.Pair{{Name: "service", Value: "communication"}}
	return m
}

// realDrives formats drives that take what is put.
func (c *cluster) realDrives(dir string) *node.Node {
	var paths []string
	for i := range c.drives {
		path := filepath.Join(dir, fmt.Sprintf("d%d", i))
		id, err := node.Format(vfs.Default, rand.Reader, path, node.Formatting{Cluster: node.ClusterID(c.id), Node: topology.NodeID{4}, Site: "site1", Incarnation: 1})
		c.check(err)
		c.drives[i].id, c.root.Drives.Drives[i].ID = id, id
		paths = append(paths, path)
	}
	for i := range c.root.PGs.Groups {
		members := c.root.PGs.Groups[i].Generations[0].Members
		for j := range members {
			members[j] = c.drives[members[j][1]].id // newCluster numbers them there
		}
	}
	n, refused, err := node.Open(c.t.Context(), node.Options{Clock: clock{}, Cluster: node.ClusterID(c.id), PreallocateBytes: -1, BallastBytes: -1, ReserveBytes: 1 << 20, ScrubInterval: -1}, paths)
	if err != nil || len(refused) > 0 {
		c.t.Fatal(refused, err)
	}
	return n
}

// flush moves what was put to real drives.
func (c *cluster) flush(n *node.Node) {
	for _, d := range c.drives {
		for i := range d.records {
			c.check(n.PutRecord(c.t.Context(), d.id, &d.records[i].rec, metadata.PayloadOf(d.records[i].payload)))
		}
		d.records = nil
	}
}
