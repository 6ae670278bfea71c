package commandlog_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
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

type pbEntry = pb.Entry

var identity = commandlog.Identity{Cluster: [16]byte{1}, Store: [16]byte{2}, Replica: 3}

func conf(voters ...uint64) *pb.ConfState { return &pb.ConfState{Voters: voters} }

func entry(index, term uint64, data string) *pb.Entry {
	e := &pb.Entry{Index: new(index), Term: new(term), Type: pb.EntryNormal.Enum()}
	if data != "" {
		e.Data = []byte(data)
	}
	return e
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

func TestWhatNoLogMayHoldIsRefused(t *testing.T) {
	t.Parallel()
	mark := func(index, term uint64) *commandlog.Mark {
		return &commandlog.Mark{Index: index, Term: term, Conf: conf(3)}
	}
	l := create(t, vfs.NewMem(), commandlog.Start{Group: 1, Index: 10, Term: 2, Conf: conf(3)})
	must(t, l.Append([]commandlog.Write{{Group: 1, Entries: []*pbEntry{entry(11, 2, "a"), entry(12, 3, "b")}, HardState: promised(3, 1, 11)}}))
	for name, w := range map[string]commandlog.Write{
		"a gap":                                 {Entries: []*pbEntry{entry(14, 3, "")}},
		"a committed entry":                     {Entries: []*pbEntry{entry(11, 3, "")}},
		"an entry before":                       {Entries: []*pbEntry{entry(10, 3, "")}},
		"a gap within":                          {Entries: []*pbEntry{entry(13, 3, ""), entry(15, 3, "")}},
		"a term that falls":                     {Entries: []*pbEntry{entry(13, 2, "")}},
		"a term without promise":                {Entries: []*pbEntry{entry(13, 4, "")}},
		"a commit behind the end":               {HardState: promised(3, 1, 13)},
		"a commit that falls":                   {HardState: promised(3, 1, 10)},
		"a promise that falls":                  {HardState: promised(2, 1, 11)},
		"an old snapshot":                       {Reset: mark(10, 3)},
		"a snapshot of a term without promise":  {Reset: mark(20, 9)},
		"entries behind a gap after a snapshot": {Reset: mark(20, 3), Entries: []*pbEntry{entry(22, 3, "")}},
		"another group":                         {Group: 8, HardState: promised(9, 1, 11)},
	} {
		if w.Group == 0 {
			w.Group = 1
		}
		if err := l.Append([]commandlog.Write{w}); !errors.Is(err, commandlog.ErrInvalid) {
			t.Errorf("%s: %v, want %v", name, err, commandlog.ErrInvalid)
		}
	}
	if got := len(entries(t, l.Group(1), 11, 13)); got != 2 {
		t.Errorf("%d entries are left of 2", got)
	}
	must(t, l.Append([]commandlog.Write{{Group: 1, Entries: []*pbEntry{entry(13, 3, "")}, HardState: promised(3, 1, 13)}}))
	must(t, l.Cut(1, 99)) // not before the commit is stored
	if first, _ := l.Group(1).FirstIndex(); first != 14 {
		t.Errorf("the first entry is %d, want 14", first)
	}
	for name, err := range map[string]error{
		"cut": l.Cut(8, 1), "mark": l.ClearInstalling(8, [16]byte{}),
	} {
		if !errors.Is(err, commandlog.ErrInvalid) {
			t.Errorf("%s of another group: %v", name, err)
		}
	}
	must(t, l.Close())
}

func TestReadsOutsideTheLog(t *testing.T) {
	t.Parallel()
	l := create(t, vfs.NewMem(), commandlog.Start{Group: 1, Index: 10, Term: 2, Conf: conf(3)})
	g := l.Group(1)
	must(t, l.Append([]commandlog.Write{{Group: 1, Entries: []*pbEntry{entry(11, 2, "aaaa"), entry(12, 2, "b")}}}))
	for _, test := range []struct {
		lo, hi uint64
		want   error
	}{{10, 12, raft.ErrCompacted}, {5, 6, raft.ErrCompacted}, {11, 14, raft.ErrUnavailable}, {13, 14, raft.ErrUnavailable}} {
		if _, err := g.Entries(test.lo, test.hi, 100); err != test.want {
			t.Errorf("Entries(%d, %d) = %v, want %v", test.lo, test.hi, err, test.want)
		}
	}
	if es, err := g.Entries(11, 13, 1); len(es) != 1 || err != nil {
		t.Errorf("with little room: %d entries, %v, want 1", len(es), err)
	}
	for i, want := range map[uint64]error{9: raft.ErrCompacted, 10: nil, 12: nil, 13: raft.ErrUnavailable} {
		if _, err := g.Term(i); err != want {
			t.Errorf("Term(%d) = %v, want %v", i, err, want)
		}
	}
	if l.Group(2) != nil {
		t.Error("there is a group 2")
	}
	must(t, l.Close())
}

func TestMarks(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	l := create(t, fs, commandlog.Start{Group: 1, Index: 10, Term: 2, Conf: conf(3)})
	damage := commandlog.Damage{Index: 9, Reason: "differs from replicas 1 and 2"}
	installing := commandlog.Installing{Snapshot: [16]byte{5}, Index: 10, Term: 2}
	must(t, l.SetDamaged(1, damage))
	must(t, l.SetInstalling(1, installing))
	for range 2 {
		if d, ok := l.Group(1).Damaged(); !ok || d != damage {
			t.Errorf("damaged %v, %v", d, ok)
		}
		if i, ok := l.Group(1).Installing(); !ok || i != installing {
			t.Errorf("installing %v, %v", i, ok)
		}
		must(t, l.Close())
		l = open(t, fs)
	}
	must(t, l.ClearDamaged(1))
	must(t, l.ClearInstalling(1, [16]byte{6})) // another one: nothing
	if _, ok := l.Group(1).Installing(); !ok {
		t.Error("the mark of another snapshot was cleared")
	}
	for _, i := range []commandlog.Installing{{Snapshot: [16]byte{6}, Index: 10, Term: 2}, {Snapshot: [16]byte{5}, Index: 9, Term: 2}, {Snapshot: [16]byte{5}, Index: 11, Term: 2}} {
		if err := l.SetInstalling(1, i); !errors.Is(err, commandlog.ErrInvalid) {
			t.Errorf("SetInstalling %v: %v", i, err)
		}
	}
	must(t, l.ClearInstalling(1, [16]byte{5}))
	for range 2 {
		_, damaged := l.Group(1).Damaged()
		_, installing := l.Group(1).Installing()
		if damaged || installing {
			t.Errorf("damaged %v, installing %v", damaged, installing)
		}
		must(t, l.Close())
		l = open(t, fs)
	}
	must(t, l.Close())
}

func TestIdentityIsCompared(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	must(t, create(t, fs).Close())
	for name, test := range map[string]struct {
		want commandlog.Identity
		err  error
	}{
		"same":            {identity, nil},
		"cluster alone":   {commandlog.Identity{Cluster: identity.Cluster}, nil},
		"another cluster": {commandlog.Identity{Cluster: [16]byte{9}}, commandlog.ErrForeign},
		"another store":   {commandlog.Identity{Store: [16]byte{9}}, commandlog.ErrForeign},
		"another replica": {commandlog.Identity{Replica: 9}, commandlog.ErrForeign},
	} {
		l, err := commandlog.Open("log", commandlog.Options{FS: fs, Want: test.want})
		if !errors.Is(err, test.err) {
			t.Errorf("%s: %v, want %v", name, err, test.err)
		}
		if err == nil {
			if l.Identity() != identity {
				t.Errorf("%s: %v", name, l.Identity())
			}
			must(t, l.Close())
		}
	}
	for _, id := range []commandlog.Identity{{}, {Cluster: [16]byte{1}, Store: [16]byte{1}}, {Store: [16]byte{1}, Replica: 1}} {
		if err := commandlog.Create("other", commandlog.Options{FS: fs}, id, nil); !errors.Is(err, commandlog.ErrInvalid) {
			t.Errorf("Create of %v: %v", id, err)
		}
	}
	twice := []commandlog.Start{{Group: 1, Conf: conf(3)}, {Group: 1, Conf: conf(3)}}
	if err := commandlog.Create("other", commandlog.Options{FS: fs}, identity, twice); !errors.Is(err, commandlog.ErrInvalid) {
		t.Errorf("Create of a group twice: %v", err)
	}
	if err := commandlog.Create("log", commandlog.Options{FS: fs}, identity, nil); !errors.Is(err, commandlog.ErrExists) {
		t.Errorf("Create over a log: %v", err)
	}
	if _, err := commandlog.Open("nowhere", commandlog.Options{FS: fs}); err == nil {
		t.Error("Open made a log")
	}
}

func TestRestartGoesOnUnderAnotherID(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	l := create(t, fs, commandlog.Start{Group: 1, Index: 10, Term: 2, Conf: conf(3, 4, 5)}, commandlog.Start{Group: 2, Index: 1, Term: 1, Conf: conf(3, 4, 5)})
	must(t, l.Append([]commandlog.Write{{Group: 1, Entries: []*pbEntry{entry(11, 2, "a")}}}))
	must(t, l.SetDamaged(2, commandlog.Damage{Reason: "x"}))
	must(t, l.Force(6))
	must(t, l.Close())
	l = open(t, fs)
	if l.Forced() != 6 {
		t.Errorf("forced %d, want 6", l.Forced())
	}
	alone := commandlog.Identity{Cluster: identity.Cluster, Store: identity.Store, Replica: 6}
	must(t, l.Restart(alone, []commandlog.Start{{Group: 1, Index: 11, Term: 3, Conf: conf(6)}, {Group: 2, Index: 1, Term: 2, Conf: conf(6)}}))
	if err := l.Append([]commandlog.Write{{Group: 1, HardState: promised(9, 0, 11)}}); !errors.Is(err, commandlog.ErrFailed) {
		t.Errorf("Append after Restart: %v", err)
	}
	must(t, l.Close())
	l = open(t, fs)
	last, _ := l.Group(1).LastIndex()
	term, _ := l.Group(1).Term(11)
	h, c, _ := l.Group(1).InitialState()
	_, damaged := l.Group(2).Damaged()
	if l.Forced() != 0 || l.Identity() != alone || last != 11 || term != 3 || h.GetCommit() != 11 || h.GetTerm() != 3 || c.Voters[0] != 6 || damaged {
		t.Errorf("%v: last %d, term %d, promised %v, configuration %v, damaged %v", l.Identity(), last, term, h, c, damaged)
	}
	must(t, l.Close())
}

// TestCreateIsWholeOrNotThere cuts the power before every operation of Create.
func TestCreateIsWholeOrNotThere(t *testing.T) {
	t.Parallel()
	starts := []commandlog.Start{{Group: 0, Index: 4, Term: 1, Conf: conf(3)}, {Group: 1, Index: 9, Term: 1, Conf: conf(3)}}
	there, not := 0, 0
	r := rand.New(rand.NewPCG(3, 4))
	for n := 0; ; n++ {
		mem := vfs.NewCrashableMem()
		var crashed *vfs.MemFS
		var mu sync.Mutex
		ops := 0
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if ops == n {
				crashed = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: r.IntN(101), RNG: r})
			}
			ops++
			return nil
		}))
		must(t, commandlog.Create("log", commandlog.Options{FS: fs}, identity, starts))
		if crashed == nil {
			break
		}
		ok, err := commandlog.Exists(crashed, "log")
		must(t, err)
		if ok {
			there++
		} else {
			not++
			must(t, commandlog.Create("log", commandlog.Options{FS: crashed}, identity, starts))
		}
		l := open(t, crashed)
		if got := fmt.Sprint(l.Groups()); got != "[0 1]" {
			t.Errorf("crash before operation %d: groups %s", n, got)
		}
		must(t, l.Close())
	}
	if there == 0 || not == 0 {
		t.Errorf("the log was there %d times and not %d times", there, not)
	}
}

// TestConcurrentUse appends, cuts and reads at once.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	o := commandlog.Options{FS: vfs.NewMem(), EntryCacheBytes: 8 << 10, MemTableBytes: 64 << 10}
	must(t, commandlog.Create("log", o, identity, []commandlog.Start{{Group: 1, Index: 1, Term: 1, Conf: conf(3)}}))
	l, err := commandlog.Open("log", o)
	must(t, err)
	g := l.Group(1)
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for i := uint64(2); i < 600; i += 2 {
			if err := l.Append([]commandlog.Write{{Group: 1, HardState: promised(1, 0, i+1),
				Entries: []*pbEntry{entry(i, 1, fmt.Sprint(i)), entry(i+1, 1, fmt.Sprint(i+1))}}}); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if last, _ := g.LastIndex(); last > 50 {
				if err := l.Cut(1, last-50); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for seed := range uint64(2) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, 5))
			for {
				select {
				case <-done:
					return
				default:
				}
				first, _ := g.FirstIndex()
				last, _ := g.LastIndex()
				if last < first {
					continue
				}
				i := first + r.Uint64N(last-first+1)
				es, err := g.Entries(i, last+1, 1<<20)
				if errors.Is(err, raft.ErrCompacted) {
					continue
				}
				if err != nil || string(es[0].GetData()) != fmt.Sprint(i) || uint64(len(es)) != last+1-i {
					t.Errorf("Entries(%d, %d): %d, %v", i, last+1, len(es), err)
					return
				}
			}
		})
	}
	wg.Wait()
	must(t, l.Close())
}
