package replica_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

// TestInstallIsCutOff cuts the power of a store that is being sent snapshots,
// at every step of all of them, while everybody ticks: it comes back, and
// catches up.
func TestInstallIsCutOff(t *testing.T) {
	t.Parallel()
	for step := 0; ; step++ {
		done := false
		t.Run(fmt.Sprint("step ", step), func(t *testing.T) { done = cutOffInstall(t, step) })
		if done || t.Failed() {
			if step < 5 {
				t.Errorf("only %d steps", step)
			}
			return
		}
	}
}

// cutOffInstall cuts at a step, and reports whether there are fewer.
func cutOffInstall(t *testing.T, cutAt int) (done bool) {
	c := prepared(t)
	c.cut[3] = true
	c.puts(0, 15)
	c.tick(15)
	c.cutAll(1)
	if err := c.stores[3].Flush(); err != nil {
		t.Fatal(err)
	}
	c.cut[3] = false

	steps := 0
	step := func() bool {
		steps++
		return steps == cutAt+1
	}
	crashed := false
	for range 60 {
		for id := uint64(1); id <= 3 && !crashed; id++ {
			c.stores[id].Tick()
		}
		for id := uint64(1); id <= 3 && !crashed; id++ {
			crashed = c.careful(id, step)
		}
		if crashed {
			break
		}
	}
	if crashed {
		c.crash(3)
	}
	c.tick(60)
	c.puts(15, 20)
	c.tick(5)
	c.equal(1, 2, 3)
	for g, s := range c.stores[3].Status().Groups {
		if s.Applied != s.Last || s.Last != c.stores[1].Status().Groups[g].Last {
			t.Errorf("group %d: applied %d of %d", g, s.Applied, s.Last)
		}
	}
	return !crashed
}

// careful carries out what a store wants, and reports whether step said that
// the power of store 3 fails.
func (c *cluster) careful(id uint64, step func() bool) bool {
	c.t.Helper()
	s := c.stores[id]
	for r := s.Ready(); !r.Empty(); r = s.Ready() {
		for _, m := range r.Messages {
			c.stores[m.To].Step(m)
		}
		for _, q := range r.Snapshots {
			if c.carefulSnapshot(id, s, q, step) {
				return true
			}
		}
		if w := r.Append; w != nil {
			if err := s.Append(w); err != nil {
				c.t.Fatal(err)
			}
			if id == 3 && step() {
				return true
			}
			s.Appended(w)
		}
		if w := r.Apply; w != nil {
			if err := s.Apply(w); err != nil {
				c.t.Fatal(err)
			}
			if id == 3 && step() {
				return true
			}
			s.Applied(w)
		}
		for _, l := range r.Leaders {
			c.leaders[id][l.Group] = l.Leader
		}
	}
	return false
}

func (c *cluster) carefulSnapshot(id uint64, s *replica.Store, q replica.SnapshotRequest, step func() bool) (cut bool) {
	c.t.Helper()
	defer func() {
		if cut {
			s.ReportSnapshot(q.Group, q.To, false) // the connection breaks
		}
	}()
	to := c.stores[q.To]
	if to.Installing(q.Group) {
		s.ReportSnapshot(q.Group, q.To, false)
		return false
	}
	e, err := s.Export(q.Group, snapshot.ExportOptions{PieceBytes: 512})
	if err != nil {
		c.t.Fatal(err)
	}
	defer e.Close()
	in, err := to.Stage().Begin(e.Header())
	if err != nil {
		c.t.Fatal(err)
	}
	for {
		if step() {
			return true
		}
		to.Tick()
		p, err := e.Next(c.t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err := errors.Join(err, in.Add(p)); err != nil {
			c.t.Fatal(err)
		}
	}
	if _, err := in.Complete(c.t.Context(), e.Summary()); err != nil {
		c.t.Fatal(err)
	}
	if step() {
		return true
	}
	if _, err := to.Restore(id, q.Term, e.Header()); err != nil {
		c.t.Fatal(err)
	}
	c.snapshots++
	s.ReportSnapshot(q.Group, q.To, true)
	return step()
}

// TestSnapshotOverTheEngine lets a store of an engine lag so far behind that
// it needs a snapshot, under load.
func TestSnapshotOverTheEngine(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	o := engineOptions()
	o.MemTableBytes = 256 << 10
	o.Limits.KeepEntries = 1
	e := openReplicated(t, ps, o)
	prepareReplicated(t, e)
	if err := e.RemoveStore(3); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, 4<<10)
	n := 0
	write := func() {
		n++
		c := put(request(n, n), fmt.Sprint("k", n%50), string(body))
		c.CommitVersion.Version.ETag = "e"
		if _, err := e.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	before := e.Status(t.Context())[0].Groups[testBucket.Group].Last
	waitFor(t, "the log to be cut", func() bool {
		for range 50 {
			write()
		}
		return e.Status(t.Context())[0].Groups[testBucket.Group].First > before
	})
	if _, err := e.AddStore(ps[2]); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the store to catch up", func() bool {
		write()
		all := e.Status(t.Context())
		g := testBucket.Group
		return len(all) == 3 && all[2].Groups[g].Applied+5 > all[0].Groups[g].Last
	})
	if e.Metrics().Snapshots == 0 {
		t.Error("no snapshot was sent")
	}
	if _, err := e.Usage(t.Context(), metadata.BucketRef{Group: testBucket.Group, ID: testBucket.ID}); err != nil {
		t.Error(err)
	}
}
