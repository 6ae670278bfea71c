package replica

import (
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
)

// groupStorage is what Raft reads of a group: the log, and what is known of
// the state.
type groupStorage struct {
	*commandlog.Group
	applied uint64 // when the store was opened
	conf    *pb.ConfState
	member  *member
}

// InitialState implements [raft.Storage]. What was applied was committed, even
// if the log was not told so in time.
func (s *groupStorage) InitialState() (*pb.HardState, *pb.ConfState, error) {
	h, _, err := s.Group.InitialState()
	if err != nil {
		return nil, nil, err
	}
	if h.GetCommit() < s.applied {
		h = &pb.HardState{Term: new(h.GetTerm()), Vote: new(h.GetVote()), Commit: new(s.applied)}
	}
	return h, s.conf, nil
}

// Snapshot implements [raft.Storage]: it says of what a snapshot would be. The
// rows are read when the snapshot is sent.
func (s *groupStorage) Snapshot() (*pb.Snapshot, error) {
	m := s.member
	first, err := s.FirstIndex()
	if err != nil || m.damaged || m.applied == 0 || m.applied+1 < first {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	term, err := s.Term(m.applied)
	if err != nil {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return &pb.Snapshot{Metadata: &pb.SnapshotMetadata{Index: new(m.applied), Term: new(term), ConfState: m.conf}}, nil
}
