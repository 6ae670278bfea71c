package replica_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata/replica"
)

// TestForkIsNoticed puts a voter back to an earlier time, which then elects a
// store that lacks what was committed. Once the store that has all of it is
// back, both histories stop, and the right one can be opened again.
func TestForkIsNoticed(t *testing.T) {
	t.Parallel()
	for _, puts := range []int{0, 3, 30} {
		t.Run(fmt.Sprint(puts, " puts of the wrong leader"), func(t *testing.T) {
			t.Parallel()
			c := prepared(t)
			c.tick(15)
			earlier := c.fs.CrashClone(vfs.CrashCloneCfg{})
			c.cut[2] = true
			c.puts(0, 10)
			c.tick(15)
			if err := c.stores[3].Close(); err != nil {
				t.Fatal(err)
			}
			delete(c.stores, 3)
			c.replaceDir(3, earlier)
			c.open(3)
			c.cut[1], c.cut[2] = true, false
			g := testBucket.Group
			for range 60 {
				if c.leaders[2][g] == 2 && c.leaders[3][g] == 2 {
					break
				}
				c.stores[2].Campaign(g)
				c.tick(1)
			}
			for i := range puts {
				c.commit(2, put(request(2, i), fmt.Sprint("other", i), "v"))
			}
			right, wrong := c.stores[1], c.stores[2]
			has := right.Status().Groups[g]
			c.cut[1] = false
			c.tick(20)
			if c.stores[1] != nil {
				t.Fatal("the store with another history goes on")
			}
			var forked *replica.ForkedError
			if err := right.Ready().Stopped; !errors.As(err, &forked) ||
				forked.Replica != 1 || forked.Other != 2 || forked.Group != g || forked.Index > has.Applied || forked.Term == forked.Theirs {
				t.Errorf("the right store was stopped by %v", err)
			}
			if err := wrong.Ready().Stopped; !errors.As(err, &forked) || forked.Replica != 2 || forked.Other != 1 || forked.Group != g {
				t.Errorf("the wrong leader was stopped by %v", err)
			}
			if err := errors.Join(right.Close(), wrong.Close()); err != nil {
				t.Fatal(err)
			}
			c.open(1)
			if at := c.stores[1].Status().Groups[g]; at.Applied != has.Applied {
				t.Errorf("opened again at %d, was at %d", at.Applied, has.Applied)
			}
		})
	}
}

// TestLeaderThatLacksEntries stops when a follower has more than it.
func TestLeaderThatLacksEntries(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	s, g := c.stores[1], testBucket.Group
	at := s.Status().Groups[g]
	resp := func(term, index uint64) replica.Message {
		return replica.Message{From: 2, To: 1, Group: g, Raft: &pb.Message{
			Type: pb.MsgAppResp.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(term), Index: new(index),
		}}
	}
	s.Step(resp(at.Term-1, at.Last+5)) // of an earlier term
	s.Step(resp(at.Term, at.Last))
	c.settle()
	if c.stores[1] == nil {
		t.Fatal("a usual answer has stopped the leader")
	}
	s.Step(resp(at.Term, at.Last+5))
	c.settle()
	var forked *replica.ForkedError
	if err := s.Ready().Stopped; !errors.As(err, &forked) || forked.Index != at.Last+5 || forked.Last != at.Last || forked.Other != 2 {
		t.Fatalf("stopped by %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
