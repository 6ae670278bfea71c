package replica

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/ruche-storage/ruche/metadata"
)

// Times in ticks.
const (
	// planTicks is how long a group is left alone after a step towards the
	// wanted configuration.
	planTicks = 10
	// jointTicks is how long a group may be between two configurations before
	// its leader asks for the end of that once more.
	jointTicks = 50
)

// closeEntries is how many entries a learner may lack when it becomes a voter.
const closeEntries = 256

// A step is what brings a group nearer to the wanted configuration.
type step struct {
	change *pb.ConfChangeV2 // nil for none
	waits  string           // what must come first, "" for nothing
}

// plan returns the next step from a configuration to the one that the table of
// stores wants. Every step may be lost and is then planned anew, by this leader
// or another one:
//
//   - Stores that are wanted and no members yet become learners, one by one.
//   - Learners that are gone are removed, one by one.
//   - Once all wanted voters have caught up, one change promotes, demotes and
//     removes together, through a joint configuration.
//
// Members that the table does not know stay. fit says whether a member is there
// and has all but the newest entries: no change is made that leaves fewer of
// those than a quorum.
func plan(conf *pb.ConfState, wish *metadata.StoreTable, fit func(id uint64) bool) step {
	for _, s := range byReplica(wish) {
		if s.Role != metadata.StoreGone && !slices.Contains(members(conf), s.Replica) {
			return stepOf(single(pb.ConfChangeAddLearnerNode, s.Replica))
		}
	}
	var changes []*pb.ConfChangeSingle
	next := slices.Clone(conf.GetVoters())
	waits := ""
	for _, s := range byReplica(wish) {
		id, votes := s.Replica, slices.Contains(conf.GetVoters(), s.Replica)
		switch {
		case s.Role == metadata.StoreGone && slices.Contains(conf.GetLearners(), id):
			return stepOf(single(pb.ConfChangeRemoveNode, id))
		case s.Role == metadata.StoreVoter && !votes:
			changes = append(changes, single(pb.ConfChangeAddNode, id))
			next = append(next, id)
			if !fit(id) && waits == "" {
				waits = fmt.Sprintf("store %d is not up to date yet", id)
			}
		case s.Role == metadata.StoreLearner && votes:
			changes = append(changes, single(pb.ConfChangeAddLearnerNode, id))
			next = slices.DeleteFunc(next, func(v uint64) bool { return v == id })
		case s.Role == metadata.StoreGone && votes:
			changes = append(changes, single(pb.ConfChangeRemoveNode, id))
			next = slices.DeleteFunc(next, func(v uint64) bool { return v == id })
		}
	}
	if len(changes) == 0 {
		return step{}
	}
	if waits == "" {
		waits = tooFew(next, fit)
	}
	if waits != "" {
		return step{waits: waits}
	}
	return stepOf(changes...)
}

// tooFew says why some voters cannot be those of a group, "" if they can.
func tooFew(voters []uint64, fit func(uint64) bool) string {
	well := 0
	for _, id := range voters {
		if fit(id) {
			well++
		}
	}
	switch quorum := len(voters)/2 + 1; {
	case len(voters) == 0:
		return "no voter would be left"
	case well < quorum:
		return fmt.Sprintf("%d of the %d voters would be well, %d are needed", well, len(voters), quorum)
	}
	return ""
}

func byReplica(t *metadata.StoreTable) []metadata.Store {
	stores := slices.Clone(t.Stores)
	slices.SortFunc(stores, func(a, b metadata.Store) int {
		if a.Replica < b.Replica {
			return -1
		}
		return 1
	})
	return stores
}

func single(t pb.ConfChangeType, id uint64) *pb.ConfChangeSingle {
	return &pb.ConfChangeSingle{Type: t.Enum(), NodeId: new(id)}
}

func stepOf(changes ...*pb.ConfChangeSingle) step {
	c := &pb.ConfChangeV2{Changes: changes}
	if len(changes) > 1 {
		c.Transition = pb.ConfChangeTransitionJointImplicit.Enum()
	}
	return step{change: c}
}

// settled reports whether a group's configuration is the wanted one, with the
// reason if it is not. A store that knows of no wish is content.
func (c *core) settled(m *member) (bool, string) {
	switch {
	case c.wish == nil || len(c.wish.Stores) == 0:
		return true, ""
	case joint(m.conf):
		return false, "the configuration is being changed"
	}
	s := plan(m.conf, c.wish, func(id uint64) bool { return c.caughtUp(m, id) })
	if s.change != nil {
		return false, "the configuration is about to change"
	}
	return s.waits == "", s.waits
}

func joint(conf *pb.ConfState) bool { return len(conf.GetVotersOutgoing()) > 0 }

// reconcile takes a step towards the wanted configuration of a group that this
// store leads.
func (c *core) reconcile(m *member) {
	if c.wish == nil || len(c.wish.Stores) == 0 || m.role != raft.StateLeader {
		return
	}
	if joint(m.conf) {
		if c.ticks >= m.planned+jointTicks {
			m.planned = c.ticks
			m.wake()
			_ = m.node.ProposeConfChange(new(pb.ConfChangeV2)) // Raft does not, if it has asked already
		}
		return
	}
	if c.ticks < m.planned+planTicks {
		return
	}
	s := plan(m.conf, c.wish, func(id uint64) bool { return c.caughtUp(m, id) })
	if s.change == nil {
		return
	}
	m.planned = c.ticks
	m.wake()
	if to := c.successor(m, s.change); to != raft.None {
		m.node.TransferLeader(to)
		return
	}
	_ = m.node.ProposeConfChange(s.change) // planned again if it is dropped
}

// successor returns a voter that is to lead before a change takes the leader's
// vote, none if the leader keeps it or nobody else can.
func (c *core) successor(m *member, change *pb.ConfChangeV2) uint64 {
	leaves := func(id uint64) bool {
		return slices.ContainsFunc(change.GetChanges(), func(s *pb.ConfChangeSingle) bool {
			return s.GetNodeId() == id && s.GetType() != pb.ConfChangeAddNode
		})
	}
	if !leaves(c.replica) {
		return raft.None
	}
	for _, id := range m.conf.GetVoters() {
		if id != c.replica && !leaves(id) && c.fit(id) && c.caughtUp(m, id) {
			return id
		}
	}
	return raft.None
}

// caughtUp reports whether a member of a group that this store leads is there
// and has all but the newest entries.
func (c *core) caughtUp(m *member, id uint64) bool {
	if id == c.replica {
		return true
	}
	if !c.alive(id) || slices.Contains(c.peers[id].beat.Damaged, m.id) {
		return false
	}
	has := false
	m.node.WithProgress(func(of uint64, _ raft.ProgressType, p tracker.Progress) {
		has = has || of == id && p.State == tracker.StateReplicate && p.Match+closeEntries >= m.last
	})
	return has
}

// Wish returns the table of stores as far as this store has applied it, nil if
// it knows none. It must not be changed.
func (c *core) Wish() *metadata.StoreTable { return c.wish }

// wellAs says why some replica ids cannot be the voters of a group that this
// store leads: nil if enough of them are members and well.
func (c *core) wellAs(group uint32, voters []uint64) error {
	m := c.groups[group]
	if m.role != raft.StateLeader {
		return ErrNoLeader
	}
	if why := tooFew(voters, func(id uint64) bool { return c.caughtUp(m, id) }); why != "" {
		return fmt.Errorf("%w: in group %d %s", ErrTooFewStores, group, why)
	}
	return nil
}
