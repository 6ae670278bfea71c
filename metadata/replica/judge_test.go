package replica

import (
	"fmt"
	"slices"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

// TestJudge tells store 1 what the stores have, in the order given, as
// "replica=rows".
func TestJudge(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name             string
		voters, learners []uint64
		answers          []string
		odd              []uint64
		differs, damaged bool
	}{
		{"all the same", []uint64{1, 2, 3}, nil, []string{"1=a", "2=a", "3=a"}, nil, false, false},
		{"another one is odd", []uint64{1, 2, 3}, nil, []string{"3=b", "1=a", "2=a"}, []uint64{3}, true, false},
		{"this one is odd", []uint64{1, 2, 3}, nil, []string{"1=b", "3=a", "2=a"}, []uint64{1}, true, true},
		{"this one is odd and late", []uint64{1, 2, 3}, nil, []string{"3=a", "2=a", "1=b"}, []uint64{1}, true, true},
		{"no majority yet", []uint64{1, 2, 3}, nil, []string{"1=b", "2=a"}, nil, false, false},
		{"no majority at all", []uint64{1, 2, 3}, nil, []string{"1=a", "2=b", "3=c"}, nil, true, false},
		{"two of two differ", []uint64{1, 2}, nil, []string{"1=a", "2=b"}, nil, true, false},
		{"two of five are odd", []uint64{1, 2, 3, 4, 5}, nil, []string{"1=b", "5=b", "2=a", "3=a", "4=a"}, []uint64{1, 5}, true, true},
		{"learners do not count", []uint64{1, 2, 3}, []uint64{4, 5}, []string{"4=b", "5=b", "1=b", "2=a"}, nil, false, false},
		{"learners may be odd", []uint64{1, 2, 3}, []uint64{4}, []string{"4=b", "1=a", "2=a"}, []uint64{4}, true, false},
		{"strangers are not heard", []uint64{1, 2, 3}, nil, []string{"8=b", "9=b", "1=a", "2=a"}, nil, false, false},
		{"the first answer counts", []uint64{1, 2, 3}, nil, []string{"2=a", "2=b", "1=b", "3=a"}, []uint64{1}, true, true},
	} {
		c := &core{replica: 1}
		m := &member{id: 4, conf: &pb.ConfState{Voters: test.voters, Learners: test.learners}}
		for _, a := range test.answers {
			var from uint64
			var rows string
			fmt.Sscanf(a, "%d=%s", &from, &rows)
			c.answer(m, from, GroupHash{Group: 4, Index: 7, Sum: metadata.Sum{rows[0]}})
			c.answer(m, from, GroupHash{Group: 4, Index: 6, Sum: metadata.Sum{9}}) // of the comparison before
		}
		var odd []uint64
		for _, d := range c.diverged {
			odd = d.Odd
		}
		if (len(c.diverged) > 0) != test.differs || !slices.Equal(odd, test.odd) || m.damaged != test.damaged || len(c.apply.items) > 0 != test.damaged {
			t.Errorf("%s: %+v, damaged %v; want odd %v, damaged %v", test.name, c.diverged, m.damaged, test.odd, test.damaged)
		}
	}
}

// TestRefilledStoreForgetsItsHash: the hash of rows that were replaced must not
// be compared with those of others any more, or the store would be found odd for
// ever.
func TestRefilledStoreForgetsItsHash(t *testing.T) {
	t.Parallel()
	c := &core{replica: 1, ticks: 5, limits: Limits{}.withDefaults()}
	m := &member{id: 4, conf: &pb.ConfState{Voters: []uint64{1, 2, 3}}, applied: 8}
	for g := range c.groups {
		c.groups[g] = &member{id: uint32(g)}
	}
	c.groups[4] = m
	c.answer(m, 1, GroupHash{Group: 4, Index: 7, Sum: metadata.Sum{'b'}})
	c.answer(m, 2, GroupHash{Group: 4, Index: 7, Sum: metadata.Sum{'a'}})
	c.Applied(&ApplyWork{items: []*applyItem{{group: 4, repair: new(snapshot.Header), repaired: true}}})
	if _, known := m.compared.sums[1]; known {
		t.Error("the old hash is still known")
	}
	c.answer(m, 3, GroupHash{Group: 4, Index: 7, Sum: metadata.Sum{'a'}})
	// Comparisons that were begun before the rows were replaced end now.
	c.Compared(4, 7, metadata.Sum{'b'}, nil)
	c.Compared(4, 8, metadata.Sum{'b'}, nil)
	if m.damaged || len(c.diverged) > 0 || len(c.hashes()) > 0 {
		t.Errorf("damaged %v, %+v, told %v", m.damaged, c.diverged, c.hashes())
	}
	c.answer(m, 2, GroupHash{Group: 4, Index: 9, Sum: metadata.Sum{'c'}})
	c.Compared(4, 9, metadata.Sum{'c'}, nil)
	if len(c.hashes()) != 1 || m.inquiry.vouched == 0 {
		t.Errorf("the hash of the new rows: told %v, vouched %d", c.hashes(), m.inquiry.vouched)
	}
}
