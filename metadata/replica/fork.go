package replica

import (
	"fmt"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// A ForkedError says that two stores have different histories of a group: one
// has committed what the other never had, or has otherwise. That needs a store
// that was put back to an earlier time and then helped to elect a leader. The
// store has stopped, and is not retired: it may be the one that is right.
type ForkedError struct {
	Replica uint64
	Group   uint32
	Index   uint64 // position at which the histories differ
	Term    uint64 // of the store's entry there; 0 if its log ends before
	Last    uint64 // last position of the store's log
	Applied uint64 // position of the store's state
	Other   uint64 // replica id of the store that has another history
	Theirs  uint64 // term of its entry; 0 if it has not said
}

// Error implements error.
func (e *ForkedError) Error() string {
	return fmt.Sprintf("replica: stores %d and %d have different histories of group %d at position %d: "+
		"here term %d (log up to %d, applied up to %d), there term %d; a store was put back to an earlier time: "+
		"find out which copies are newer, and run `ruche metadata force` on the right one",
		e.Replica, e.Other, e.Group, e.Index, e.Term, e.Last, e.Applied, e.Theirs)
}

// checkAppend stops the store if a leader has another entry in a place where
// this store has applied one: a leader has all that was committed before it was
// elected. Only what is applied is compared, because the log may hold, until
// it is written, older entries in the place of those that Raft has taken since.
// It reports whether the store goes on.
func (c *core) checkAppend(m *member, leader uint64, r *pb.Message) bool {
	if r.GetTerm() < m.term {
		return true // of a leader that may never have had what was committed since
	}
	ok := c.agrees(m, leader, r.GetTerm(), r.GetIndex(), r.GetLogTerm())
	for _, e := range r.GetEntries() {
		if !ok || e.GetIndex() > m.applied {
			break
		}
		ok = c.agrees(m, leader, r.GetTerm(), e.GetIndex(), e.GetTerm())
	}
	return ok
}

// agrees compares an entry of a leader with the own one, if that is applied and
// still known. If they differ, the store stops and lets the leader know.
func (c *core) agrees(m *member, leader, leads, index, term uint64) bool {
	if index > m.applied {
		return true
	}
	own, err := m.storage.Term(index)
	if err != nil || own == term {
		return true
	}
	c.forked(m, leader, index, own, term)
	c.out = append(c.out, Message{From: c.replica, To: leader, Group: m.id, Raft: &pb.Message{
		Type: pb.MsgAppResp.Enum(), From: new(c.replica), To: new(leader), Term: new(leads), Index: new(index), LogTerm: new(own),
	}})
	return false
}

// checkAppended stops a leader if a follower has committed what the leader does
// not have. It reports whether the message is for Raft: one with the term of an
// entry comes from agrees.
func (c *core) checkAppended(m *member, from uint64, r *pb.Message) bool {
	if r.GetReject() {
		return true
	}
	told := r.GetLogTerm() != 0
	if m.role != raft.StateLeader || r.GetTerm() != m.term {
		return !told
	}
	switch index := r.GetIndex(); {
	case index > m.last:
		c.forked(m, from, index, 0, r.GetLogTerm())
		return false
	case told:
		if own, err := m.storage.Term(index); err == nil && own != r.GetLogTerm() {
			c.forked(m, from, index, own, r.GetLogTerm())
		}
		return false
	}
	return true
}

func (c *core) forked(m *member, other, index, own, theirs uint64) {
	c.stop(&ForkedError{
		Replica: c.replica, Group: m.id, Index: index, Term: own, Last: m.last, Applied: m.applied, Other: other, Theirs: theirs,
	})
}
