package commandlog_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
)

// storage is what a store makes of a group for Raft.
type storage struct{ *commandlog.Group }

func (storage) Snapshot() (*pb.Snapshot, error) {
	return nil, raft.ErrSnapshotTemporarilyUnavailable
}

var _ raft.Storage = storage{}

var identity = commandlog.Identity{Cluster: [16]byte{1}, Store: [16]byte{2}, Replica: 3}

func conf(voters ...uint64) *pb.ConfState { return &pb.ConfState{Voters: voters} }

func entry(index, term uint64, data string) *pb.Entry {
	return &pb.Entry{Index: new(index), Term: new(term), Type: pb.EntryNormal.Enum(), Data: []byte(data)}
}

func promised(term, vote, commit uint64) *pb.HardState {
	return &pb.HardState{Term: new(term), Vote: new(vote), Commit: new(commit)}
}

func create(t *testing.T, fs vfs.FS, starts ...commandlog.Start) *commandlog.Log {
	t.Helper()
	if err := commandlog.Create("log", commandlog.Options{FS: fs}, identity, starts); err != nil {
		t.Fatal(err)
	}
	return open(t, fs)
}

func open(t *testing.T, fs vfs.FS) *commandlog.Log {
	t.Helper()
	l, err := commandlog.Open("log", commandlog.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func entries(t *testing.T, g *commandlog.Group, lo, hi uint64) []*pb.Entry {
	t.Helper()
	es, err := g.Entries(lo, hi, 1<<40)
	must(t, err)
	return es
}

func TestWhatIsAppendedIsReadBack(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	l := create(t, fs, commandlog.Start{Group: 0, Index: 10, Term: 2, Conf: conf(3)}, commandlog.Start{Group: 7, Index: 1, Term: 1, Conf: conf(3)})
	first := []*pb.Entry{entry(11, 2, "a"), entry(12, 2, "b"), entry(13, 3, "c")}
	must(t, l.Append([]commandlog.Write{
		{Group: 0, Entries: first, HardState: promised(3, 3, 11)},
		{Group: 7, Entries: []*pb.Entry{entry(2, 1, "z")}},
	}))
	must(t, l.Append([]commandlog.Write{{Group: 0, Entries: []*pb.Entry{entry(13, 4, "d")}, HardState: promised(4, 0, 11)}}))
	want := []*pb.Entry{first[0], first[1], entry(13, 4, "d")}
	for range 2 {
		g := l.Group(0)
		if diff := cmp.Diff(want, entries(t, g, 11, 14), protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		h, c, err := g.InitialState()
		must(t, err)
		if diff := cmp.Diff(promised(4, 0, 11), h, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		if len(c.Voters) != 1 || c.Voters[0] != 3 {
			t.Errorf("configuration %v", c)
		}
		if got := l.Group(7).Len(); got != 1 {
			t.Errorf("group 7 has %d entries, want 1", got)
		}
		must(t, l.Close())
		l = open(t, fs)
	}
	must(t, l.Close())
}
