package replica

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata"
)

// wishOf parses "1v 2l 3g".
func wishOf(text string) *metadata.StoreTable {
	t := new(metadata.StoreTable)
	for _, f := range strings.Fields(text) {
		var s metadata.Store
		var role byte
		fmt.Sscanf(f, "%d%c", &s.Replica, &role)
		s.Role = map[byte]metadata.StoreRole{'v': metadata.StoreVoter, 'l': metadata.StoreLearner, 'g': metadata.StoreGone}[role]
		t.Stores = append(t.Stores, s)
	}
	return t
}

func stepText(s step) string {
	if s.change == nil {
		return s.waits
	}
	var out []string
	for _, c := range s.change.GetChanges() {
		out = append(out, fmt.Sprintf("%s %d", strings.TrimPrefix(c.GetType().String(), "ConfChange"), c.GetNodeId()))
	}
	if s.change.GetTransition() == pb.ConfChangeTransitionJointImplicit {
		out = append(out, "joint")
	}
	return strings.Join(out, ", ")
}

func TestPlan(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name             string
		voters, learners []uint64
		wish             string
		unfit            []uint64
		want             string
	}{
		{"as wanted", []uint64{1, 2, 3}, nil, "1v 2v 3v", nil, ""},
		{"as wanted, although one is away", []uint64{1, 2, 3}, nil, "1v 2v 3v 4g", []uint64{3}, ""},
		{"a new one learns first", []uint64{1}, nil, "1v 2v 3v", []uint64{2, 3}, "AddLearnerNode 2"},
		{"then the next", []uint64{1}, []uint64{2}, "1v 2v 3v", []uint64{2, 3}, "AddLearnerNode 3"},
		{"all catch up before any votes", []uint64{1}, []uint64{2, 3}, "1v 2v 3v", []uint64{3}, "store 3 is not up to date yet"},
		{"then all get their votes together", []uint64{1}, []uint64{2, 3}, "1v 2v 3v", nil, "AddNode 2, AddNode 3, joint"},
		{"a learner stays one", []uint64{1}, nil, "1v 2l", nil, "AddLearnerNode 2"},
		{"a learner goes", []uint64{1}, []uint64{2}, "1v 2g", []uint64{2}, "RemoveNode 2"},
		{"a learner goes while another is awaited", []uint64{1}, []uint64{2, 3}, "1v 2v 3g", []uint64{2, 3}, "RemoveNode 3"},
		{"a dead voter is kept until the new one is ready", []uint64{1, 2, 3}, []uint64{4}, "1v 2v 3g 4v", []uint64{3, 4}, "store 4 is not up to date yet"},
		{"and replaced at once", []uint64{1, 2, 3}, []uint64{4}, "1v 2v 3g 4v", []uint64{3}, "RemoveNode 3, AddNode 4, joint"},
		{"a voter goes", []uint64{1, 2, 3}, nil, "1v 2v 3g", nil, "RemoveNode 3"},
		{"a voter learns", []uint64{1, 2, 3}, nil, "1v 2l 3v", nil, "AddLearnerNode 2"},
		{"two voters go", []uint64{1, 2, 3}, nil, "1v 2g 3g", []uint64{2}, "RemoveNode 2, RemoveNode 3, joint"},
		{"no quorum would be left", []uint64{1, 2, 3}, nil, "1v 2g 3v", []uint64{3}, "1 of the 2 voters would be well, 2 are needed"},
		{"the last voter stays", []uint64{1}, nil, "1g", nil, "no voter would be left"},
		{"unknown members stay", []uint64{1, 2, 9}, []uint64{8}, "1v 2v", nil, ""},
	} {
		conf := &pb.ConfState{Voters: test.voters, Learners: test.learners}
		fit := func(id uint64) bool { return !slices.Contains(test.unfit, id) }
		if got := stepText(plan(conf, wishOf(test.wish), fit)); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// TestPlanReachesEveryWish goes from every configuration of four stores to
// every wish, by the steps as they are applied.
func TestPlanReachesEveryWish(t *testing.T) {
	t.Parallel()
	const stores = 4
	roles := "vlg"
	for from := range 81 {
		for to := range 81 {
			conf, wish := new(pb.ConfState), ""
			for i, f, w := 0, from, to; i < stores; i, f, w = i+1, f/3, w/3 {
				id := uint64(i + 1)
				switch roles[f%3] {
				case 'v':
					conf.Voters = append(conf.Voters, id)
				case 'l':
					conf.Learners = append(conf.Learners, id)
				}
				wish += fmt.Sprintf("%d%c ", id, roles[w%3])
			}
			if len(conf.GetVoters()) == 0 || !strings.Contains(wish, "v") {
				continue
			}
			if err := follow(pb.EnsureConfState(conf), wish); err != nil {
				t.Errorf("from %v to %s: %v", conf, wish, err)
			}
		}
	}
}

// follow takes the steps to a wish.
func follow(conf *pb.ConfState, wish string) error {
	all := func(uint64) bool { return true }
	for range 10 {
		s := plan(conf, wishOf(wish), all)
		if s.change == nil {
			if s.waits != "" {
				return fmt.Errorf("it waits: %s", s.waits)
			}
			for _, w := range wishOf(wish).Stores {
				if votes := slices.Contains(conf.GetVoters(), w.Replica); votes != (w.Role == metadata.StoreVoter) {
					return fmt.Errorf("it ends at %v", conf)
				}
				if learns := slices.Contains(conf.GetLearners(), w.Replica); learns != (w.Role == metadata.StoreLearner) {
					return fmt.Errorf("it ends at %v", conf)
				}
			}
			return nil
		}
		var err error
		if conf, err = changeConf(conf, s.change); err != nil {
			return err
		}
		if joint(conf) {
			if conf, err = changeConf(conf, new(pb.ConfChangeV2)); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("it does not end: %v", conf)
}
