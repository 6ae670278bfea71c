package replica_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

// cluster drives a few stores by hand, all of them as fast as they can.
type cluster struct {
	t        *testing.T
	tune     func(*replica.StoreOptions) // of stores that are opened
	fs       *vfs.MemFS
	stores   map[uint64]*replica.Store
	cut      map[uint64]bool // stores that hear nothing and are not heard
	outcomes map[uint64]*metadata.Result
	leaders  map[uint64]map[uint32]uint64
	reads    map[uint64]uint64
	seq      uint64
	// held are stores whose logs hang, with what they do not write.
	held map[uint64]bool
	kept map[uint64]*replica.AppendWork
	// compares are comparisons that are to be ended.
	compares map[uint64][]*replica.Comparison
	// snapshots counts those that were sent.
	snapshots int
}

func identity(id uint64) commandlog.Identity {
	return commandlog.Identity{Cluster: [16]byte{0xc}, Store: [16]byte{byte(id)}, Replica: id}
}

func storeOptions(fs vfs.FS, seed uint64) replica.StoreOptions {
	var key [32]byte
	key[0] = byte(seed)
	return replica.StoreOptions{
		Options: replica.Options{FS: fs, Now: fixed(start), ReserveBytes: -1, CacheBytes: 1 << 20, MemTableBytes: 1 << 20},
		Rand:    rand.NewChaCha8(key),
		Limits:  replica.Limits{BalanceTicks: -1},
	}
}

func storeDir(id uint64) string { return fmt.Sprintf("s%d", id) }

func newCluster(t *testing.T, n int) *cluster {
	return newClusterOf(t, n, func(*replica.StoreOptions) {})
}

func newClusterOf(t *testing.T, n int, tune func(*replica.StoreOptions)) *cluster {
	c := &cluster{
		t: t, tune: tune, fs: vfs.NewCrashableMem(), stores: make(map[uint64]*replica.Store), cut: make(map[uint64]bool),
		outcomes: make(map[uint64]*metadata.Result), leaders: make(map[uint64]map[uint32]uint64), reads: make(map[uint64]uint64),
		held: make(map[uint64]bool), kept: make(map[uint64]*replica.AppendWork),
		compares: make(map[uint64][]*replica.Comparison),
	}
	var ids []uint64
	for id := range uint64(n) {
		ids = append(ids, id+1)
	}
	for _, id := range ids {
		if err := replica.CreateStore(storeDir(id), identity(id), ids, storeOptions(c.fs, id)); err != nil {
			t.Fatal(err)
		}
		c.open(id)
	}
	t.Cleanup(func() {
		for _, s := range c.stores {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

func (c *cluster) open(id uint64) *replica.Store {
	c.t.Helper()
	o := storeOptions(c.fs, id)
	c.tune(&o)
	s, err := replica.OpenStore(storeDir(id), o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.stores[id] = s
	c.leaders[id] = make(map[uint32]uint64)
	return s
}

// settle carries out everything until nothing is left to do.
func (c *cluster) settle() {
	c.t.Helper()
	for busy := true; busy; {
		busy = false
		for id := uint64(1); id <= 9; id++ {
			if s := c.stores[id]; s != nil {
				r := s.Ready()
				busy = busy || !r.Empty()
				c.carryOut(id, s, &r)
			}
		}
	}
}

func (c *cluster) carryOut(id uint64, s *replica.Store, r *replica.Ready) {
	c.t.Helper()
	if r.Stopped != nil {
		delete(c.stores, id)
		c.t.Logf("store %d has stopped: %v", id, r.Stopped)
	}
	for _, m := range r.Messages {
		if to := c.stores[m.To]; to != nil && !c.cut[m.To] && !c.cut[id] {
			to.Step(m)
		}
	}
	if w := r.Append; w != nil && c.held[id] {
		c.kept[id] = w
	} else if w != nil {
		if err := s.Append(w); err != nil {
			c.t.Fatal(err)
		}
		s.Appended(w)
	}
	if w := r.Apply; w != nil {
		if err := s.Apply(w); err != nil {
			c.t.Fatal(err)
		}
		s.Applied(w)
		c.compares[id] = append(c.compares[id], w.Comparisons...)
		for _, o := range w.Outcomes {
			c.outcomes[o.Ticket.Seq] = o.Result
		}
	}
	for _, q := range r.Snapshots {
		c.sendSnapshot(id, s, q)
	}
	for _, l := range r.Leaders {
		c.leaders[id][l.Group] = l.Leader
	}
	for _, read := range r.Reads {
		for _, n := range read.Asked {
			c.reads[n] = read.Index
		}
	}
}

// sendSnapshot sends all of a snapshot at once.
func (c *cluster) sendSnapshot(id uint64, s *replica.Store, q replica.SnapshotRequest) {
	c.t.Helper()
	to := c.stores[q.To]
	if to == nil || c.cut[q.To] || c.cut[id] || to.Installing(q.Group) {
		s.ReportSnapshot(q.Group, q.To, false)
		return
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
	if _, err := to.Restore(id, q.Term, e.Header()); err != nil {
		c.t.Fatal(err)
	}
	c.snapshots++
	s.ReportSnapshot(q.Group, q.To, true)
}

func (c *cluster) tick(n int) {
	for range n {
		for id := uint64(1); id <= 9; id++ {
			if s := c.stores[id]; s != nil {
				s.Tick()
			}
		}
		c.settle()
	}
}

// lead lets a store lead all groups.
func (c *cluster) lead(id uint64) {
	c.t.Helper()
	for g := range uint32(metadata.DataGroups + 1) {
		c.stores[id].Campaign(g)
	}
	c.settle()
	for g := range uint32(metadata.DataGroups + 1) {
		if l := c.leaders[id][g]; l != id {
			c.t.Fatalf("store %d: leader of group %d is %d", id, g, l)
		}
	}
}

func (c *cluster) commit(id uint64, cmd *metadata.Command) *metadata.Result {
	c.t.Helper()
	c.seq++
	data := replica.EncodeEntry(replica.Ticket{Replica: id, Session: 1, Seq: c.seq}, cmd)
	if err := c.stores[id].Propose(cmd.Group, data); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
	res := c.outcomes[c.seq]
	if res == nil {
		c.t.Fatalf("command %d has no result", c.seq)
	}
	return res
}

func TestStoresAgree(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.lead(1)
	for _, cmd := range preparing() {
		c.commit(1, cmd)
	}
	for i := range 20 {
		from := uint64(i%3 + 1) // forwarded, unless from 1
		if res := c.commit(from, put(request(1, i), fmt.Sprint("k", i), "v")); res.Rejected != nil {
			t.Fatal(res.Rejected)
		}
	}
	c.tick(30) // quiet by now, and still led
	if err := errors.Join(c.stores[2].ReadIndex(testBucket.Group, 7), c.stores[3].ReadIndex(testBucket.Group, 8)); err != nil {
		t.Fatal(err)
	}
	c.settle()
	if c.reads[7] == 0 || c.reads[7] != c.reads[8] {
		t.Errorf("ReadIndex = %d and %d, want the same", c.reads[7], c.reads[8])
	}
}
