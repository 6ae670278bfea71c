package replica_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/state"
)

// crash puts a store's file system back to what was synced, and opens it.
func (c *cluster) crash(id uint64) {
	c.t.Helper()
	clone := c.fs.CrashClone(vfs.CrashCloneCfg{})
	if err := c.stores[id].Abandon(); err != nil {
		c.t.Fatal(err)
	}
	delete(c.stores, id)
	c.replaceDir(id, clone)
	c.open(id)
}

// replaceDir takes a store's directory from another file system.
func (c *cluster) replaceDir(id uint64, from vfs.FS) {
	c.t.Helper()
	if err := c.fs.RemoveAll(storeDir(id)); err != nil {
		c.t.Fatal(err)
	}
	if _, err := vfs.Clone(from, c.fs, storeDir(id), storeDir(id), vfs.CloneSync); err != nil {
		c.t.Fatal(err)
	}
}

// prepared is a cluster of three stores with a bucket, led by store 1.
func prepared(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(t, 3)
	c.lead(1)
	for _, cmd := range preparing() {
		c.commit(1, cmd)
	}
	return c
}

func (c *cluster) puts(from, to int) {
	c.t.Helper()
	for i := from; i < to; i++ {
		c.commit(1, put(request(1, i), fmt.Sprint("k", i), "v"))
	}
}

// spans returns the hash of each group's rows in a store.
func (c *cluster) spans(id uint64) []string {
	c.t.Helper()
	var sums []string
	for g := range uint32(metadata.DataGroups + 1) {
		err := c.stores[id].View(g, func(v state.View, _ uint64) error {
			sum, err := v.SpanHash(c.t.Context(), g)
			sums = append(sums, fmt.Sprintf("%x", sum))
			return err
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
	return sums
}

func (c *cluster) equal(ids ...uint64) {
	c.t.Helper()
	for _, id := range ids[1:] {
		if a, b := c.spans(ids[0]), c.spans(id); !slices.Equal(a, b) {
			c.t.Errorf("stores %d and %d differ:\n%v\n%v", ids[0], id, a, b)
		}
	}
}

// cutAll flushes a store and drops everything of its log that is durable.
func (c *cluster) cutAll(id uint64) {
	c.t.Helper()
	s := c.stores[id]
	if err := s.Flush(); err != nil {
		c.t.Fatal(err)
	}
	marks, err := s.DurableMarks()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := s.Cut(marks); err != nil {
		c.t.Fatal(err)
	}
}

// TestLaggingFollower is brought up to date by a snapshot once the leader's
// log is cut, and goes on from the log afterwards.
func TestLaggingFollower(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	c.puts(0, 10)
	c.cut[3] = true
	c.puts(10, 30)
	c.tick(15) // commits are stored lazily
	c.cutAll(1)
	c.cut[3] = false
	c.tick(30)
	if c.snapshots == 0 {
		t.Error("no snapshot was sent")
	}
	c.puts(30, 40)
	c.tick(5)
	c.equal(1, 2, 3)
	sent := c.snapshots
	c.crash(3) // the installed state is durable
	c.tick(40)
	c.puts(40, 50)
	c.tick(5)
	c.equal(1, 2, 3)
	if c.snapshots != sent {
		t.Errorf("%d snapshots after the restart, want none", c.snapshots-sent)
	}
}

// TestCutNeedsDurability: what is applied but in memory only keeps its log.
func TestCutNeedsDurability(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	c.puts(0, 20)
	c.tick(15)
	s := c.stores[2]
	marks, err := s.DurableMarks()
	if err != nil {
		t.Fatal(err)
	}
	if marks[testBucket.Group] != 0 {
		t.Fatalf("durable mark = %d before the first flush", marks[testBucket.Group])
	}
	if err := s.Trim(s.Floors()); err != nil {
		t.Fatal(err)
	}
	c.crash(2)
	c.tick(40)
	c.puts(20, 22)
	c.tick(5)
	c.equal(1, 2)
}

// TestLogIsKeptForMembers that lag: as long as their stores are heard, and for
// the others as many entries as the limit says.
func TestLogIsKeptForMembers(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	c.puts(0, 5)
	g := testBucket.Group
	c.held[3] = true
	c.puts(5, 3000)
	c.tick(15)
	st := c.stores[1].Status().Groups[g]
	var match uint64
	for _, m := range st.Members {
		if m.Replica == 3 {
			match = m.Match
		}
	}
	if match == 0 || match+2000 > st.Last {
		t.Fatalf("store 3 has %d of %d", match, st.Last)
	}
	if floor := c.stores[1].Floors()[g]; floor != match {
		t.Errorf("the leader keeps what lies behind %d, want %d", floor, match)
	}
	if floor := c.stores[2].Floors()[g]; floor != st.Last-2048 {
		t.Errorf("a follower keeps what lies behind %d, want %d", floor, st.Last-2048)
	}
	if err := errors.Join(c.stores[1].Flush(), c.stores[1].Trim(c.stores[1].Floors())); err != nil {
		t.Fatal(err)
	}
	c.held[3] = false
	w := c.kept[3]
	if err := c.stores[3].Append(w); err != nil {
		t.Fatal(err)
	}
	c.stores[3].Appended(w)
	c.settle()
	c.tick(20)
	if c.snapshots != 0 {
		t.Errorf("%d snapshots for a member that the log was kept for", c.snapshots)
	}
	c.equal(1, 2, 3)
}

// TestForgottenPromises puts a store's directory back to an earlier time, as a
// restored snapshot of a machine does: it stops itself, and never opens again.
func TestForgottenPromises(t *testing.T) {
	t.Parallel()
	for _, quiet := range []bool{false, true} {
		t.Run(fmt.Sprintf("quiet=%v", quiet), func(t *testing.T) {
			t.Parallel()
			c := prepared(t)
			c.tick(15)
			earlier := c.fs.CrashClone(vfs.CrashCloneCfg{})
			c.puts(0, 10)
			if quiet {
				c.tick(20)
			}
			if err := c.stores[3].Close(); err != nil {
				t.Fatal(err)
			}
			delete(c.stores, 3)
			c.replaceDir(3, earlier)
			s := c.open(3)
			c.tick(5)
			if c.stores[3] != nil {
				t.Fatal("the store goes on")
			}
			err := s.Ready().Stopped
			forgotten, ok := errors.AsType[*replica.ForgottenError](err)
			if !ok || forgotten.Group != testBucket.Group || forgotten.Last >= forgotten.Promised || forgotten.Leader != 1 {
				t.Fatalf("stopped by %v", err)
			}
			if err := errors.Join(s.Retire(err.Error()), s.Close()); err != nil {
				t.Fatal(err)
			}
			if _, err := replica.OpenStore(storeDir(3), storeOptions(c.fs, 3)); !errors.Is(err, commandlog.ErrRetired) {
				t.Errorf("open again: %v, want %v", err, commandlog.ErrRetired)
			}
			c.puts(10, 12) // the others go on
		})
	}
}

// TestLogsThatContradictTheState do not open.
func TestLogsThatContradictTheState(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	c.puts(0, 5)
	c.tick(15)
	if err := c.stores[2].Flush(); err != nil {
		t.Fatal(err)
	}
	earlier := c.fs.CrashClone(vfs.CrashCloneCfg{})
	c.puts(5, 10)
	c.tick(15)
	c.cutAll(2)
	if err := c.stores[2].Close(); err != nil {
		t.Fatal(err)
	}
	delete(c.stores, 2)
	later := vfs.NewMem()
	if _, err := vfs.Clone(c.fs, later, storeDir(2), storeDir(2)); err != nil {
		t.Fatal(err)
	}
	log := c.fs.PathJoin(storeDir(2), "log")

	tests := []struct {
		name string
		make func(fs vfs.FS) error
		want string
		err  error
	}{
		{"an older log", func(fs vfs.FS) error {
			_, err := vfs.Clone(earlier, fs, log, log)
			return err
		}, "the log ends before the state", nil},
		{"no log", func(vfs.FS) error { return nil }, "", replica.ErrNotReplicated},
		{"an older state", func(fs vfs.FS) error {
			if err := fs.RemoveAll(storeDir(2)); err != nil {
				return err
			}
			if _, err := vfs.Clone(earlier, fs, storeDir(2), storeDir(2)); err != nil {
				return err
			}
			if err := fs.RemoveAll(log); err != nil {
				return err
			}
			_, err := vfs.Clone(later, fs, log, log)
			return err
		}, "the log begins behind the state", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			fs := vfs.NewMem()
			if _, err := vfs.Clone(later, fs, storeDir(2), storeDir(2)); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(fs.RemoveAll(log), test.make(fs)); err != nil {
				t.Fatal(err)
			}
			_, err := replica.OpenStore(storeDir(2), storeOptions(fs, 2))
			if test.err != nil {
				if !errors.Is(err, test.err) {
					t.Errorf("error %v, want %v", err, test.err)
				}
				return
			}
			open, ok := errors.AsType[*replica.OpenError](err)
			if !ok || open.Reason != test.want || open.Group != testBucket.Group {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

// TestGrowAndShrink takes a store from one copy to three and back.
func TestGrowAndShrink(t *testing.T) {
	t.Parallel()
	fs := vfs.NewCrashableMem()
	o := replica.Options{FS: fs, Now: fixed(start), ReserveBytes: -1}
	l, err := replica.Open(storeDir(1), o)
	if err != nil {
		t.Fatal(err)
	}
	prepare(t, l)
	for i := range 10 {
		if _, err := l.Commit(t.Context(), put(request(1, i), fmt.Sprint("k", i), "v")); err != nil {
			t.Fatal(err)
		}
	}
	head, err := l.Head(t.Context(), testBucket.Group)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again, as after a crash
		if err := replica.Grow(storeDir(1), identity(1), storeOptions(fs, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := replica.Grow(storeDir(1), identity(2), storeOptions(fs, 1)); !errors.Is(err, replica.ErrReplicated) {
		t.Errorf("Grow under another identity: %v", err)
	}
	if _, err := replica.Open(storeDir(1), o); !errors.Is(err, replica.ErrReplicated) {
		t.Fatalf("the local engine opens a replicated store: %v", err)
	}
	emptied := fs.PathJoin(storeDir(1), "log")
	if err := errors.Join(fs.Rename(emptied, "aside"), fs.MkdirAll(emptied, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := replica.Open(storeDir(1), o); !errors.Is(err, replica.ErrReplicated) {
		t.Fatalf("the local engine opens a replicated store whose log was emptied: %v", err)
	}
	if err := errors.Join(fs.Remove(emptied), fs.Rename("aside", emptied)); err != nil {
		t.Fatal(err)
	}

	c := newCluster(t, 0)
	c.fs = fs
	c.comeAndGo()
	if err := replica.Shrink(storeDir(2), storeOptions(fs, 2)); !errors.Is(err, replica.ErrNotAlone) {
		t.Errorf("Shrink of one of three: %v, want %v", err, replica.ErrNotAlone)
	}
	for range 2 { // again, as after a crash
		if err := replica.Shrink(storeDir(1), storeOptions(fs, 1)); err != nil {
			t.Fatal(err)
		}
	}
	l, err = replica.Open(storeDir(1), o)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := l.Usage(t.Context(), testBucket)
	if err != nil || u.Objects != 20 {
		t.Errorf("Usage = %+v, %v; want 20 objects", u, err)
	}
	now, err := l.Head(t.Context(), testBucket.Group)
	if err != nil || now.Position != head.Position+10 {
		t.Errorf("position %d, %v; want %d: entries of Raft are not commands", now.Position, err, head.Position+10)
	}
}

// comeAndGo lets store 1, which is alone with ten objects, get company, write
// ten more, and be alone again.
func (c *cluster) comeAndGo() {
	t, fs := c.t, c.fs
	t.Helper()
	c.open(1)
	c.lead(1)
	c.puts(10, 15)
	for id := uint64(2); id <= 3; id++ {
		if err := replica.CreateStore(storeDir(id), identity(id), nil, storeOptions(fs, id)); err != nil {
			t.Fatal(err)
		}
		c.open(id)
		c.changeAll("l", id)
		c.changeAll("v", id)
	}
	c.puts(15, 20)
	c.tick(5)
	c.equal(1, 2, 3)
	if c.snapshots < 2 {
		t.Errorf("%d snapshots for two blank stores", c.snapshots)
	}
	c.changeAll("r", 2)
	c.changeAll("r", 3)
	for id, s := range c.stores {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		delete(c.stores, id)
	}
}

// changeAll changes the configuration of all groups by one step of
// raftpb.ConfChangesFromString, and waits for it.
func (c *cluster) changeAll(how string, id uint64) {
	c.t.Helper()
	change := confChange(c.t, how, id)
	for g := range uint32(metadata.DataGroups + 1) {
		if err := c.stores[1].ProposeConfChange(g, change); err != nil {
			c.t.Fatal(err)
		}
	}
	c.tick(10)
	for _, g := range c.stores[1].Status().Groups {
		if got := slices.Contains(g.Voters, id); got != (how == "v") || g.Joint {
			c.t.Fatalf("%s%d: group %d has voters %v, learners %v", how, id, g.Group, g.Voters, g.Learners)
		}
	}
}

// TestQuietGroups say nothing but beats, notice the loss of their leader, and
// wake for those that were away.
func TestQuietGroups(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	c.tick(40)
	s := c.stores[1]
	for _, g := range s.Status().Groups {
		if !g.Quiet {
			t.Fatalf("group %d is not quiet: %+v", g.Group, g)
		}
	}
	s.Tick()
	for _, m := range s.Ready().Messages {
		if m.Raft != nil {
			t.Fatalf("a quiet store sends %v", m.Raft)
		}
	}
	c.tick(100)
	for id := uint64(1); id <= 3; id++ {
		if l := c.leaders[id][testBucket.Group]; l != 1 {
			t.Fatalf("store %d: leader %d after a long rest", id, l)
		}
	}

	c.crash(3) // knows of no leader now
	c.tick(10)
	if l := c.leaders[3][testBucket.Group]; l != 1 {
		t.Errorf("the restarted store's leader is %d", l)
	}
	c.tick(40)
	c.cut[1] = true
	c.tick(31)
	if l := c.leaders[2][testBucket.Group]; l == 1 || l == 0 || l != c.leaders[3][testBucket.Group] {
		t.Errorf("after the loss of the leader: %d and %d", l, c.leaders[3][testBucket.Group])
	}
}

// TestFullStoreLeadsNothing: it hands groups over that are at rest, too, unless
// no other store has room, and then leaves them at rest.
func TestFullStoreLeadsNothing(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	c.tick(40)
	c.stores[2].SetFull(true)
	c.stores[3].SetFull(true)
	c.tick(2) // the beats tell
	c.stores[1].SetFull(true)
	c.tick(40)
	for _, g := range c.stores[1].Status().Groups {
		if !g.Quiet || g.Leader != 1 {
			t.Fatalf("no store has room: %+v", g)
		}
	}
	c.stores[3].SetFull(false)
	c.tick(10)
	for g := range uint32(metadata.DataGroups + 1) {
		if l := c.leaders[1][g]; l != 3 {
			t.Errorf("group %d: leader %d, want the one with room", g, l)
		}
	}
}

// TestFollowersPassOn: what a follower is asked reaches the leader, and its
// answer the follower.
func TestFollowersPassOn(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	c.commit(2, put(request(1, 1), "a", "v"))
	if err := c.stores[3].ReadIndex(testBucket.Group, 5); err != nil {
		t.Fatal(err)
	}
	c.settle()
	if c.reads[5] == 0 {
		t.Error("ReadIndex of a follower: no answer")
	}
	c.stores[2].TransferLeader(testBucket.Group, 3)
	c.settle()
	for id := uint64(1); id <= 3; id++ {
		if l := c.leaders[id][testBucket.Group]; l != 3 {
			t.Errorf("store %d: leader %d after a follower asked for 3", id, l)
		}
	}
}

// TestStoppedStoreIsReplacedAtOnce: its last beat is enough.
func TestStoppedStoreIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	c.tick(40)
	s := c.stores[1]
	s.Fail(errors.New("disk broken"))
	c.settle()
	for g := range uint32(metadata.DataGroups + 1) {
		if l := c.leaders[2][g]; l == 1 || l == 0 {
			t.Errorf("group %d: leader %d", g, l)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// confChange makes a change of one member: v for voter, l for learner, r to
// remove.
func confChange(t *testing.T, how string, id uint64) *pb.ConfChangeV2 {
	t.Helper()
	changes, err := pb.ConfChangesFromString(fmt.Sprint(how, id))
	if err != nil {
		t.Fatal(err)
	}
	return &pb.ConfChangeV2{Changes: changes}
}
