package commandlog_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
)

// model is Raft's own storage in memory, one a group, with the promises
// beside it.
type model struct {
	log    *raft.MemoryStorage
	hard   *pb.HardState
	marked [16]byte
}

func newModel(s commandlog.Start) *model {
	m := &model{log: raft.NewMemoryStorage(), hard: promised(s.Term, 0, s.Index)}
	snap := &pb.Snapshot{Metadata: &pb.SnapshotMetadata{Index: &s.Index, Term: &s.Term, ConfState: s.Conf}}
	if err := m.log.ApplySnapshot(snap); err != nil {
		panic(err)
	}
	return m
}

// clone is a copy that later changes do not reach.
func (m *model) clone() *model {
	first, _ := m.log.FirstIndex()
	last, _ := m.log.LastIndex()
	term, _ := m.log.Term(first - 1)
	c := newModel(commandlog.Start{Index: first - 1, Term: term})
	c.hard, c.marked = proto.Clone(m.hard).(*pb.HardState), m.marked
	if last >= first {
		es, err := m.log.Entries(first, last+1, 1<<40)
		if err != nil {
			panic(err)
		}
		if err := c.log.Append(es); err != nil {
			panic(err)
		}
	}
	return c
}

// equal compares a group with what it should be, by all that Raft may ask.
func equal(g *commandlog.Group, m *model) error {
	wantFirst, _ := m.log.FirstIndex()
	wantLast, _ := m.log.LastIndex()
	first, _ := g.FirstIndex()
	last, _ := g.LastIndex()
	if first != wantFirst || last != wantLast || g.Len() != int(last+1-first) {
		return fmt.Errorf("entries %d to %d, %d in number, want %d to %d", first, last, g.Len(), wantFirst, wantLast)
	}
	for i := first - 1; i <= last; i++ {
		got, err := g.Term(i)
		want, _ := m.log.Term(i)
		if err != nil || got != want {
			return fmt.Errorf("term of %d is %d, %v, want %d", i, got, err, want)
		}
	}
	if last >= first {
		got, err := g.Entries(first, last+1, 1<<40)
		if err != nil {
			return err
		}
		want, _ := m.log.Entries(first, last+1, 1<<40)
		for i := range want {
			if !proto.Equal(want[i], got[i]) {
				return fmt.Errorf("entry %v, want %v", got[i], want[i])
			}
		}
	}
	hard, _, err := g.InitialState()
	if err != nil || !proto.Equal(m.hard, hard) {
		return fmt.Errorf("promised %v, %w, want %v", hard, err, m.hard)
	}
	if i, _ := g.Installing(); i.Snapshot != m.marked {
		return fmt.Errorf("installing %x, want %x", i.Snapshot, m.marked)
	}
	return nil
}

// driver makes random writes as Raft would, of some groups.
type driver struct {
	r      *rand.Rand
	groups []*model
	seq    byte
}

func newDriver(seed uint64) (*driver, []commandlog.Start) {
	d := &driver{r: rand.New(rand.NewPCG(seed, 0))}
	var starts []commandlog.Start
	for i := range uint32(3) {
		s := commandlog.Start{Group: i, Index: 10 * uint64(i+1), Term: 2, Conf: conf(3)}
		starts, d.groups = append(starts, s), append(d.groups, newModel(s))
	}
	return d, starts
}

// writes draws what some groups store at once, and carries it out in the
// models. It reports whether it must be synced.
func (d *driver) writes() (ws []commandlog.Write, sync bool) {
	for i, m := range d.groups {
		if d.r.IntN(3) == 0 {
			continue
		}
		w := commandlog.Write{Group: uint32(i)}
		before := proto.Clone(m.hard).(*pb.HardState)
		switch n := d.r.IntN(20); {
		case n == 0:
			d.reset(m, &w)
		case n < 12:
			d.extend(m, &w)
		}
		last, _ := m.log.LastIndex()
		if d.r.IntN(2) == 0 {
			*m.hard.Commit += d.r.Uint64N(last - m.hard.GetCommit() + 1)
		}
		if d.r.IntN(10) == 0 {
			*m.hard.Term++
			*m.hard.Vote = d.r.Uint64N(4)
		}
		if !proto.Equal(m.hard, before) {
			w.HardState = proto.Clone(m.hard).(*pb.HardState)
		}
		if raft.MustSync(m.hard, before, len(w.Entries)) || w.Reset != nil {
			sync = true
		}
		ws = append(ws, w)
	}
	return ws, sync
}

func (d *driver) reset(m *model, w *commandlog.Write) {
	last, _ := m.log.LastIndex()
	d.seq++
	m.marked = [16]byte{d.seq, 1}
	w.Reset = &commandlog.Mark{Index: last + 1 + d.r.Uint64N(5), Term: m.hard.GetTerm(), Conf: conf(3, 4), Snapshot: m.marked}
	hard := proto.Clone(m.hard).(*pb.HardState)
	*m = *newModel(commandlog.Start{Index: w.Reset.Index, Term: w.Reset.Term})
	m.marked, m.hard = w.Reset.Snapshot, hard
	*m.hard.Commit = w.Reset.Index
}

func (d *driver) extend(m *model, w *commandlog.Write) {
	last, _ := m.log.LastIndex()
	from := last + 1
	if d.r.IntN(4) == 0 {
		from -= d.r.Uint64N(last - m.hard.GetCommit() + 1)
		*m.hard.Term++ // another leader's entries
	}
	for i := range 1 + d.r.Uint64N(6) {
		data := make([]byte, d.r.IntN(300))
		for j := range data {
			data[j] = byte(d.r.Uint32())
		}
		w.Entries = append(w.Entries, entry(from+i, m.hard.GetTerm(), string(data)))
	}
	if err := m.log.Append(w.Entries); err != nil {
		panic(err)
	}
}

// cut drops entries of one group, of the log and the model.
func (d *driver) cut(l *commandlog.Log) error {
	i := d.r.IntN(len(d.groups))
	m := d.groups[i]
	first, _ := m.log.FirstIndex()
	upto := first - 1 + d.r.Uint64N(m.hard.GetCommit()-(first-1)+3)
	if to := min(upto, m.hard.GetCommit()); to >= first {
		if err := m.log.Compact(to); err != nil {
			return err
		}
	}
	return l.Cut(uint32(i), upto)
}

func (d *driver) compare(t *testing.T, l *commandlog.Log) {
	t.Helper()
	for i, m := range d.groups {
		if err := equal(l.Group(uint32(i)), m); err != nil {
			t.Fatalf("group %d: %v", i, err)
		}
	}
}

func TestAgainstRaftsOwnStorage(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			fs := vfs.NewMem()
			d, starts := newDriver(seed)
			o := commandlog.Options{FS: fs, EntryCacheBytes: 4 << 10, MemTableBytes: 64 << 10}
			must(t, commandlog.Create("log", o, identity, starts))
			l, err := commandlog.Open("log", o)
			must(t, err)
			for step := range 400 {
				ws, _ := d.writes()
				must(t, l.Append(ws))
				switch d.r.IntN(12) {
				case 0:
					must(t, d.cut(l))
				case 1:
					must(t, l.Close())
					l, err = commandlog.Open("log", o)
					must(t, err)
				case 2:
					i := d.r.IntN(len(d.groups))
					must(t, l.ClearInstalling(uint32(i), d.groups[i].marked))
					d.groups[i].marked = [16]byte{}
				}
				if step%5 == 0 {
					d.compare(t, l)
				}
			}
			d.compare(t, l)
			if got := l.Metrics().CachedBytes; got > 2*o.EntryCacheBytes+2000 {
				t.Errorf("%d bytes of entries are in memory", got)
			}
			must(t, l.Close())
		})
	}
}

// TestCrashesLoseOnlyWhatWasNotSynced cuts the power after random writes, with
// any part of what was not synced kept. What comes back must be the state after
// some write, and none before the newest synced one.
func TestCrashesLoseOnlyWhatWasNotSynced(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			fs := vfs.NewCrashableMem()
			d, starts := newDriver(100 + seed)
			o := commandlog.Options{FS: fs, MemTableBytes: 64 << 10}
			must(t, commandlog.Create("log", o, identity, starts))
			for range 12 {
				l, err := commandlog.Open("log", o)
				must(t, err)
				d.compare(t, l)
				states := [][]*model{d.copies()} // what may come back
				for range d.r.IntN(40) {
					ws, sync := d.writes()
					must(t, l.Append(ws))
					if sync {
						states = nil
					}
					states = append(states, d.copies())
					if d.r.IntN(6) == 0 {
						must(t, d.cut(l))
						states = append(states, d.copies())
					}
				}
				o.FS = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: d.r.IntN(101), RNG: d.r})
				must(t, l.Close())
				fs = o.FS.(*vfs.MemFS)
				d.groups = survivors(t, o, states)
			}
		})
	}
}

func (d *driver) copies() []*model {
	var ms []*model
	for _, m := range d.groups {
		ms = append(ms, m.clone())
	}
	return ms
}

// survivors returns which of some states is in a log.
func survivors(t *testing.T, o commandlog.Options, states [][]*model) []*model {
	t.Helper()
	l, err := commandlog.Open("log", o)
	must(t, err)
	defer l.Close()
	var last error
	for _, s := range states {
		last = nil
		for i, m := range s {
			last = errors.Join(last, equal(l.Group(uint32(i)), m))
		}
		if last == nil {
			return s
		}
	}
	t.Fatalf("none of %d states came back, not the newest: %v", len(states), last)
	return nil
}
