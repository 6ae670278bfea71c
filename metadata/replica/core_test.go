package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/confchange"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/ruche-storage/ruche/metadata"
)

// run makes entries from first to last of a term.
func run(first, last, term uint64) []*pb.Entry {
	var es []*pb.Entry
	for i := first; i <= last; i++ {
		es = append(es, &pb.Entry{Index: new(i), Term: new(term)})
	}
	return es
}

func describe(es []*pb.Entry) (s string) {
	for _, e := range es {
		s += fmt.Sprintf("%d/%d ", e.GetIndex(), e.GetTerm())
	}
	return s
}

func TestReplaceTail(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		old, more []*pb.Entry
		want      string
	}{
		{"nothing before", nil, run(5, 6, 1), "5/1 6/1 "},
		{"behind", run(3, 4, 1), run(5, 6, 1), "3/1 4/1 5/1 6/1 "},
		{"in the place of the last", run(3, 5, 1), run(5, 6, 2), "3/1 4/1 5/2 6/2 "},
		{"in the place of the middle", run(3, 7, 1), run(4, 4, 2), "3/1 4/2 "},
		{"in the place of all", run(3, 5, 1), run(3, 3, 2), "3/2 "},
		{"from before", run(3, 5, 1), run(2, 3, 2), "2/2 3/2 "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			before := describe(test.old)
			if got := describe(replaceTail(slices.Clip(test.old), test.more)); got != test.want {
				t.Errorf("replaceTail = %s, want %s", got, test.want)
			}
			if after := describe(test.old); after != before {
				t.Errorf("what Raft holds has become %s, was %s", after, before)
			}
		})
	}
}

// TestAppendQueue: commits wait until somebody needs a sync, or for a second.
func TestAppendQueue(t *testing.T) {
	t.Parallel()
	m := &member{id: 3}
	commit := func(n uint64) *pb.Message {
		return &pb.Message{Term: new(uint64(1)), Vote: new(uint64(1)), Commit: new(n)}
	}
	q := new(appendQueue)
	q.add(m, commit(5), 10)
	if w := q.take(11); w != nil {
		t.Fatal("a commit is stored at once")
	}
	entry := commit(6)
	entry.Entries, entry.Responses = run(7, 8, 1), []*pb.Message{{Type: pb.MsgAppResp.Enum()}}
	q.add(m, entry, 12)
	q.add(m, commit(7), 12)
	w := q.take(12)
	if w == nil || len(w.items) != 1 || w.items[0].hard.GetCommit() != 7 || len(w.items[0].entries) != 2 || len(w.items[0].responses) != 1 {
		t.Fatalf("take = %+v", w)
	}
	q.add(m, entry, 13)
	if q.take(13) != nil {
		t.Error("a second one while the first is under way")
	}
	q.busy = false
	if q.take(13) == nil {
		t.Error("nothing after the first has come back")
	}
	q.busy = false
	q.add(m, commit(9), 20)
	if q.take(20+lazyTicks-1) != nil || q.take(20+lazyTicks) == nil {
		t.Error("a commit alone is not stored after its time")
	}
}

// TestChangeConf compares changeConf with what Raft makes of random changes.
func TestChangeConf(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(4, 4))
	types := []pb.ConfChangeType{pb.ConfChangeAddNode, pb.ConfChangeRemoveNode, pb.ConfChangeAddLearnerNode}
	conf := &pb.ConfState{Voters: []uint64{1}}
	made := 0
	for range 500 {
		change := new(pb.ConfChangeV2)
		for range r.IntN(3) {
			change.Changes = append(change.Changes, &pb.ConfChangeSingle{
				Type: types[r.IntN(len(types))].Enum(), NodeId: new(uint64(r.IntN(5) + 1)),
			})
		}
		want, wantErr := raftConf(conf, change)
		got, err := changeConf(conf, change)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v of %v: %v, want %v", change, conf, err, wantErr)
		}
		if err != nil {
			continue
		}
		if err := got.Equivalent(want); err != nil {
			t.Fatalf("%v of %v: %v", change, conf, err)
		}
		encoded, err := encodeConf(got)
		if err != nil {
			t.Fatal(err)
		}
		if conf, err = decodeConf(encoded); err != nil {
			t.Fatal(err)
		}
		made++
	}
	if made < 50 {
		t.Errorf("only %d changes were possible", made)
	}
}

// raftConf does as Raft does in its own applyConfChange.
func raftConf(conf *pb.ConfState, change *pb.ConfChangeV2) (*pb.ConfState, error) {
	trk := tracker.MakeProgressTracker(64, 0)
	cfg, prs, err := confchange.Restore(confchange.Changer{Tracker: trk, LastIndex: 10}, conf)
	if err != nil {
		return nil, err
	}
	trk.Config, trk.Progress = cfg, prs
	chg := confchange.Changer{Tracker: trk, LastIndex: 10}
	switch auto, joint := change.EnterJoint(); {
	case change.LeaveJoint():
		cfg, prs, err = chg.LeaveJoint()
	case joint:
		cfg, prs, err = chg.EnterJoint(auto, change.Changes...)
	default:
		cfg, prs, err = chg.Simple(change.Changes...)
	}
	trk.Config, trk.Progress = cfg, prs
	return trk.ConfState(), err
}

// TestViewsAreDrained: an installation waits for readers, who never see what
// comes after it, and snapshots are closed by whoever publishes.
func TestViewsAreDrained(t *testing.T) {
	t.Parallel()
	db, err := pebble.Open("db", &pebble.Options{FS: vfs.NewMem(), Logger: storeLogger{log: Options{}.withDefaults("").Logger}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	vs := newViews()
	vs.publish(&view{snap: db.NewSnapshot()})
	v := vs.acquire()
	if g := vs.publish(&view{snap: db.NewSnapshot()}); len(g) != 0 {
		t.Fatalf("%d snapshots to close while one is read", len(g))
	}
	vs.release(v)
	v = vs.acquire()
	g := vs.publish(nil)
	if len(g) != 1 {
		t.Fatalf("%d snapshots to close, want the first", len(g))
	}
	if vs.acquire() != nil {
		t.Fatal("a view after there is none")
	}
	drained := make(chan []*pebble.Snapshot)
	go func() { drained <- vs.drain() }()
	select {
	case <-drained:
		t.Fatal("drained while somebody reads")
	default:
	}
	vs.release(v)
	g = append(g, <-drained...)
	if len(g) != 2 {
		t.Errorf("%d snapshots to close, want 2", len(g))
	}
	for _, s := range g {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestOutlast comes back from what hangs.
func TestOutlast(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	defer close(hang)
	hanging := func() error {
		<-hang
		return nil
	}
	fenced := make(chan struct{})
	if err := outlast(t.Context(), fenced, func() error { return ErrStopped }); err != ErrStopped {
		t.Errorf("outlast = %v, want %v", err, ErrStopped)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := outlast(ctx, fenced, hanging); !errors.Is(err, context.Canceled) {
		t.Errorf("outlast with an ended context = %v", err)
	}
	close(fenced)
	if err := outlast(t.Context(), fenced, hanging); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("outlast of a store that has stopped = %v", err)
	}
}

// TestEveryCallIsAnswered, also by a store that has stopped in the middle of its
// mail: whoever waits for a call waits without a limit.
func TestEveryCallIsAnswered(t *testing.T) {
	t.Parallel()
	r := &runner{store: new(Store)}
	r.store.stopped = ErrStopped
	called := false
	r.open(mail{questions: []question{{group: 1, number: 1}}, calls: []func(*Store){func(*Store) { called = true }}})
	if !called {
		t.Error("a call behind a question was dropped")
	}
}

// TestMailboxIsBounded by number and by bytes, and says what it has not taken.
func TestMailboxIsBounded(t *testing.T) {
	t.Parallel()
	b := newMailbox(1)
	large := Message{Raft: &pb.Message{Entries: []*pb.Entry{{Data: make([]byte, 16<<20)}}}}
	if n := b.receive([]Message{large, large, large, large, large, large}); n != 3 {
		t.Errorf("%d messages of 16 MiB, want 3", n)
	}
	if got := b.take(); len(got.messages) != 3 {
		t.Errorf("%d messages came, want 3", len(got.messages))
	}
	if n := b.receive(make([]Message, maxMessages+5)); n != maxMessages {
		t.Errorf("%d messages, want %d", n, maxMessages)
	}
	a := &attempt{call: &call{again: make(chan struct{}, 1)}}
	if err := b.propose(a); err != nil {
		t.Fatal(err)
	}
	if err := b.propose(a); err != metadata.ErrOverloaded {
		t.Errorf("one more proposal: %v, want %v", err, metadata.ErrOverloaded)
	}
	left := b.close()
	if len(left.proposals) != 1 {
		t.Errorf("%d proposals left, want 1", len(left.proposals))
	}
	if err := b.propose(a); err != ErrNoLeader {
		t.Errorf("after the end: %v, want %v", err, ErrNoLeader)
	}
	if b.receive([]Message{large}) != 0 || b.ask(question{}) || b.call(func(*Store) {}) {
		t.Error("a closed box takes mail")
	}
}
