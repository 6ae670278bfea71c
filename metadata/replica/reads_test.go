package replica_test

import (
	"testing"
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
