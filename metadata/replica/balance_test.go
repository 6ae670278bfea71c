package replica_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// leading returns how many groups each store leads.
func leading(stores map[uint64]*replica.Store) map[uint64]int {
	n := make(map[uint64]int)
	for id, s := range stores {
		for _, g := range s.Status().Groups {
			if g.Leader == id {
				n[id]++
			}
		}
	}
	return n
}

func balanced(t *testing.T) *cluster {
	t.Helper()
	c := newClusterOf(t, 3, func(o *replica.StoreOptions) { o.Limits.BalanceTicks = 5 })
	c.lead(1)
	return c
}

// writing commits something in every group at each of some ticks.
func (c *cluster) writing(ticks int) {
	c.t.Helper()
	for range ticks {
		for g := range uint32(metadata.DataGroups + 1) {
			cmd := &metadata.Command{Kind: metadata.KindClusters, Version: metadata.CommandVersion, Group: g, Clusters: &metadata.ClusterVersion{Version: 1}}
			c.seq++
			for id, s := range c.stores {
				if !c.cut[id] {
					_ = s.Propose(g, replica.EncodeEntry(replica.Ticket{Session: 1, Seq: c.seq}, cmd)) // some have no leader for a moment
					break
				}
			}
		}
		c.settle()
		c.tick(1)
	}
}

// TestLeadersSpread begins with one store that leads all groups, as after
// growing from one copy.
func TestLeadersSpread(t *testing.T) {
	t.Parallel()
	c := balanced(t)
	c.tick(300)
	got := leading(c.stores)
	for id := range uint64(3) {
		if n := got[id+1]; n < 5 || n > 7 {
			t.Errorf("groups led: %v", got)
		}
	}
	// Nothing is moved for ever after, nor is a single group that somebody has
	// moved put back.
	c.stores[1].TransferLeader(16, 2)
	c.settle()
	if c.leaders[1][16] != 2 {
		t.Errorf("group 16 is led by %d", c.leaders[1][16])
	}
	before := fmt.Sprint(c.leaders[1])
	c.tick(300)
	if after := fmt.Sprint(c.leaders[1]); before != after {
		t.Errorf("leaders were\n%s\nand are\n%s", before, after)
	}
}

// TestLeadersSpreadOverTheWell gives no group to a store that is full, cannot be
// heard, or was slow a while ago.
func TestLeadersSpreadOverTheWell(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		spoil func(c *cluster)
	}{
		{"full", func(c *cluster) { c.stores[3].SetFull(true) }},
		{"away", func(c *cluster) { c.cut[3] = true }},
		{"slow", func(c *cluster) {
			for _, s := range c.stores {
				s.SetSync(time.Millisecond)
			}
			c.stores[3].SetSync(time.Second)
			c.writing(30)
			c.stores[3].SetSync(time.Millisecond)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newClusterOf(t, 3, func(o *replica.StoreOptions) { o.Limits.BalanceTicks = 31 })
			c.lead(1)
			test.spoil(c)
			c.tick(31 * 17)
			got := leading(c.stores)
			if got[3] > 0 || got[1] < 7 || got[2] < 7 {
				t.Errorf("groups led: %v", got)
			}
		})
	}
}

// TestSlowDeviceHandsOver: a store of which the device takes much longer than
// the others' leads nothing any more, and what it led is spread.
func TestSlowDeviceHandsOver(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name         string
		slow, others time.Duration
		gives        bool
	}{
		{"ten times slower", 200 * time.Millisecond, 20 * time.Millisecond, true},
		{"somewhat slower", 100 * time.Millisecond, 20 * time.Millisecond, false},
		{"much slower and fast enough", 15 * time.Millisecond, 100 * time.Microsecond, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3)
			c.lead(1)
			c.stores[1].SetSync(test.slow)
			c.stores[2].SetSync(test.others)
			c.stores[3].SetSync(test.others)
			c.writing(40)
			c.tick(10)
			got := leading(c.stores)
			if want := 0; test.gives && (got[1] != want || got[2] < 8 || got[3] < 8) || !test.gives && got[1] != metadata.DataGroups+1 {
				t.Errorf("groups led: %v", got)
			}
			if slow := c.stores[1].Status().Slow; slow != test.gives {
				t.Errorf("called slow: %v", slow)
			}
			c.stores[1].SetSync(test.others)
			c.writing(200)
			if c.stores[1].Status().Slow {
				t.Error("still called slow when it is as fast as the others")
			}
		})
	}
}

// TestGrowingSpreadsLeaders grows from one store to three under load: leaders
// begin to spread without a restart, and no call fails.
func TestGrowingSpreadsLeaders(t *testing.T) {
	t.Parallel()
	ps := places(t, 1)
	o := engineOptions()
	o.Tick, o.Limits.BalanceTicks = 50*time.Millisecond, 3
	e := openReplicated(t, ps, o)
	prepareReplicated(t, e)
	must(t, replica.RaiseVersion(t.Context(), e, metadata.LatestVersion))
	_, err := e.ChangeStores(t.Context(), func(table *metadata.StoreTable) error {
		table.Stores = []metadata.Store{{Replica: 1, ID: identity(1).Store, Place: "meta", Role: metadata.StoreVoter}}
		return nil
	})
	must(t, err)
	stop := make(chan struct{})
	var load sync.WaitGroup
	for w := range 2 {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := e.Commit(context.Background(), put(request(w, n), fmt.Sprint("k", n%50), "v")); err != nil {
					t.Errorf("put %d: %v", n, err)
					return
				}
				if _, err := e.Open(context.Background(), testBucket, fmt.Sprint("k", n%50), ""); err != nil {
					t.Errorf("read %d: %v", n, err)
					return
				}
			}
		})
	}
	for range 2 {
		_, err := e.Admit(t.Context(), freshPlace(), "", metadata.StoreVoter)
		must(t, err)
	}
	settled(t, e)
	waitFor(t, "another leader than the first store", func() bool {
		for g := range uint32(metadata.DataGroups + 1) {
			if e.Leader(g) > 1 {
				return true
			}
		}
		return false
	})
	close(stop)
	load.Wait()
}
