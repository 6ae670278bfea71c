package replica_test

import (
	"fmt"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata/replica"
)

// TestReadsOfTheOnlyVoter: after a crash, its log may hold more than it knows to
// be committed. No read is answered before it has committed all of that again.
func TestReadsOfTheOnlyVoter(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.lead(1)
	for _, cmd := range preparing() {
		c.commit(1, cmd)
	}
	c.puts(0, 5)
	g := testBucket.Group
	had := c.stores[1].Status().Groups[g]
	c.crash(1)
	s := c.stores[1]
	if found := s.Status().Groups[g]; found.Commit >= had.Commit {
		t.Fatalf("the commit %d was not lost: %d", had.Commit, found.Commit)
	}
	s.Campaign(g)
	for c.kept[1] == nil {
		r := s.Ready()
		if r.Empty() {
			t.Fatal("the store does not lead")
		}
		c.held[1] = len(r.Leaders) > 0 // its votes are stored, the first entry of its term is not
		c.carryOut(1, s, &r)
	}
	if err := s.ReadIndex(g, 7); err != nil {
		t.Fatal(err)
	}
	c.settle()
	if at, answered := c.reads[7]; answered {
		t.Errorf("a read at %d, and %d was acknowledged", at, had.Commit)
	}
	c.held[1] = false
	if err := s.Append(c.kept[1]); err != nil {
		t.Fatal(err)
	}
	s.Appended(c.kept[1])
	c.settle()
	if at := c.reads[7]; at <= had.Commit {
		t.Errorf("a read at %d, want more than %d", at, had.Commit)
	}
}

// TestReadsDoNotJoinARoundInFlight: a question to the quorum that was put before
// a read began says nothing about it. Each has a context of its own.
func TestReadsDoNotJoinARoundInFlight(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	s, g := c.stores[1], testBucket.Group
	var contexts []string
	ask := func(number uint64) replica.Ready {
		t.Helper()
		if err := s.ReadIndex(g, number); err != nil {
			t.Fatal(err)
		}
		return s.Ready()
	}
	note := func(r *replica.Ready) {
		for _, m := range r.Messages {
			if m.Group == g && m.To == 2 && m.Raft.GetType() == pb.MsgHeartbeat {
				contexts = append(contexts, string(m.Raft.GetContext()))
			}
		}
	}
	first := ask(1)
	note(&first)
	second := ask(2)
	note(&second)
	if len(contexts) != 1 || contexts[0] == "" {
		t.Fatalf("%d questions while one is in flight, want 1", len(contexts))
	}
	c.carryOut(1, s, &first)
	for c.reads[1] == 0 { // the others answer
		for id, o := range c.stores {
			r := o.Ready()
			if id == 1 {
				note(&r)
			}
			c.carryOut(id, o, &r)
		}
	}
	if c.reads[2] != 0 {
		t.Error("the second read was answered by the question before it")
	}
	r := s.Ready()
	note(&r)
	c.carryOut(1, s, &r)
	c.settle()
	if c.reads[2] == 0 {
		t.Error("the second read has no answer")
	}
	if len(contexts) != 2 || contexts[0] == contexts[1] {
		t.Errorf("contexts of the questions: %q", contexts)
	}
}

// TestUnreachableStoreIsProbed: once a leader is told that what it sends is
// lost, it no longer sends one entry after the other ahead.
func TestUnreachableStoreIsProbed(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	s, g := c.stores[1], testBucket.Group
	sent := func(from, to int) (n int) {
		for i := from; i < to; i++ {
			cmd := put(request(3, i), fmt.Sprint("u", i), "v")
			if err := s.Propose(g, replica.EncodeEntry(replica.Ticket{Session: 1, Seq: 1000 + uint64(i)}, cmd)); err != nil {
				t.Fatal(err)
			}
			r := s.Ready()
			for _, m := range r.Messages {
				if m.Group == g && m.To == 3 && m.Raft.GetType() == pb.MsgApp && len(m.Raft.GetEntries()) > 0 {
					n++
				}
			}
			c.carryOut(1, s, &r)
		}
		return n
	}
	c.cut[3] = true
	if n := sent(0, 5); n != 5 {
		t.Errorf("%d of 5 entries sent ahead, want all", n)
	}
	s.ReportUnreachable(3)
	if n := sent(5, 10); n > 1 {
		t.Errorf("%d of 5 entries sent ahead to a store that cannot be reached, want one at most", n)
	}
	c.cut[3] = false
	c.settle()
	c.tick(5)
	c.equal(1, 2, 3)
}
