package replica

import (
	"fmt"

	"go.etcd.io/raft/v3/confchange"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

// changeConf returns the configuration that a change makes of conf. Raft does
// the same on its own copy; the stored one must be known before Raft is told,
// because it goes into the batch of what was applied.
func changeConf(conf *pb.ConfState, change *pb.ConfChangeV2) (*pb.ConfState, error) {
	// The numbers only bound what is sent to members; nothing is.
	chg := confchange.Changer{Tracker: tracker.MakeProgressTracker(1, 0)}
	cfg, progress, err := confchange.Restore(chg, conf)
	if err != nil {
		return nil, fmt.Errorf("replica: configuration %v: %w", conf, err)
	}
	chg.Tracker.Config, chg.Tracker.Progress = cfg, progress
	if change.LeaveJoint() {
		cfg, progress, err = chg.LeaveJoint()
	} else if autoLeave, ok := change.EnterJoint(); ok {
		cfg, progress, err = chg.EnterJoint(autoLeave, change.Changes...)
	} else {
		cfg, progress, err = chg.Simple(change.Changes...)
	}
	if err != nil {
		return nil, fmt.Errorf("replica: change %v of configuration %v: %w", change, conf, err)
	}
	chg.Tracker.Config, chg.Tracker.Progress = cfg, progress
	return chg.Tracker.ConfState(), nil
}

// decodeChange returns the change that an entry carries, nil if it is none.
func decodeChange(e *pb.Entry) (*pb.ConfChangeV2, error) {
	switch e.GetType() {
	case pb.EntryConfChange:
		c := new(pb.ConfChange)
		if err := proto.Unmarshal(e.GetData(), c); err != nil {
			return nil, fmt.Errorf("replica: change of configuration: %w", err)
		}
		return c.AsV2(), nil
	case pb.EntryConfChangeV2:
		c := new(pb.ConfChangeV2)
		if err := proto.Unmarshal(e.GetData(), c); err != nil {
			return nil, fmt.Errorf("replica: change of configuration: %w", err)
		}
		if t := c.GetTransition(); t < pb.ConfChangeTransitionAuto || t > pb.ConfChangeTransitionJointExplicit { // Raft would panic
			return nil, fmt.Errorf("replica: change of configuration: unknown transition %d", t)
		}
		return c, nil
	}
	return nil, nil
}

// encodeConf encodes a configuration for the state's row.
func encodeConf(conf *pb.ConfState) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(conf)
}

func decodeConf(b []byte) (*pb.ConfState, error) {
	c := new(pb.ConfState)
	if err := proto.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("replica: stored configuration: %w", err)
	}
	return pb.EnsureConfState(c), nil
}
