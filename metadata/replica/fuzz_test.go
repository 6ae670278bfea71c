package replica

import (
	"slices"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// FuzzConfiguration reads stored configurations and changes of them: what is
// taken is written as the same, and a change of voters that succeeds leaves some.
func FuzzConfiguration(f *testing.F) {
	conf, err := encodeConf(&pb.ConfState{Voters: []uint64{1, 2, 3}})
	if err != nil {
		f.Fatal(err)
	}
	one, err := proto.Marshal(&pb.ConfChange{Type: pb.ConfChangeRemoveNode.Enum(), NodeId: new(uint64(3))})
	if err != nil {
		f.Fatal(err)
	}
	many, err := proto.Marshal(&pb.ConfChangeV2{Changes: []*pb.ConfChangeSingle{
		{Type: pb.ConfChangeAddNode.Enum(), NodeId: new(uint64(4))}, {Type: pb.ConfChangeAddLearnerNode.Enum(), NodeId: new(uint64(1))}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(conf, one, false)
	f.Add(conf, many, true)
	f.Add([]byte{}, []byte{}, true)
	f.Fuzz(func(t *testing.T, stored, change []byte, second bool) {
		conf, err := decodeConf(stored)
		if err != nil {
			return
		}
		written, err := encodeConf(conf)
		if err != nil {
			t.Fatalf("%x: %v", stored, err)
		}
		if again, err := decodeConf(written); err != nil || !proto.Equal(again, conf) {
			t.Errorf("%v is written as %v, %v", conf, again, err)
		}
		kind := pb.EntryConfChange
		if second {
			kind = pb.EntryConfChangeV2
		}
		cc, err := decodeChange(&pb.Entry{Type: &kind, Data: change})
		if err != nil || len(conf.GetVoters()) == 0 || tooMany(conf, cc) {
			return
		}
		next, err := changeConf(conf, cc)
		if err == nil && len(next.GetVoters()) == 0 {
			t.Errorf("%v leaves no voter of %v", cc, conf)
		}
	})
}

// tooMany reports whether Raft could not tell members apart: 0 names none, and
// nobody is listed twice in what was stored.
func tooMany(conf *pb.ConfState, cc *pb.ConfChangeV2) bool {
	all := slices.Concat(conf.GetVoters(), conf.GetLearners(), conf.GetVotersOutgoing(), conf.GetLearnersNext())
	slices.Sort(all)
	return len(all) > 100 || len(cc.GetChanges()) > 100 || slices.Contains(all, 0) || len(slices.Compact(slices.Clone(all))) != len(all)
}
