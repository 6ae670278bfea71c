package replica_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// alarms counts log lines that contain some text.
type alarms struct {
	slog.Handler
	text string
	n    atomic.Int32
}

func newAlarms(text string) *alarms { return &alarms{Handler: slog.DiscardHandler, text: text} }

func (a *alarms) Enabled(context.Context, slog.Level) bool { return true }

func (a *alarms) WithAttrs([]slog.Attr) slog.Handler { return a }

func (a *alarms) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, a.text) {
		a.n.Add(1)
	}
	return nil
}

// rotten makes three stores with objects, and changes rows of the first.
func rotten(t *testing.T) []replica.Place {
	t.Helper()
	ps := places(t, 3)
	e := listed(t, ps)
	for n := range 50 {
		mustPut(t, e, n)
	}
	everywhere(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	spoilRow(t, ps[0].FS, ps[0].Dir, "v")
	return ps
}

// leadBy lets a store lead the test bucket's group.
func leadBy(t *testing.T, e *replica.Replicated, id uint64) {
	t.Helper()
	waitFor(t, "the leader", func() bool {
		if e.Leader(testBucket.Group) != id {
			_ = e.TransferLeader(t.Context(), testBucket.Group, id)
		}
		return e.Leader(testBucket.Group) == id
	})
}

// TestRotIsNotCopied adds a store while the leader of a group has wrong rows
// that nobody knows of. The new one must not get them, as it would make them the
// majority's together with another such copy.
func TestRotIsNotCopied(t *testing.T) {
	t.Parallel()
	ps := rotten(t)
	o := engineOptions()
	o.Limits.CompareTicks = -1 // only before snapshots
	e := openReplicated(t, ps, o)
	leadBy(t, e, 1)
	p := freshPlace()
	if _, err := e.Admit(t.Context(), p, "", metadata.StoreVoter); err != nil {
		t.Fatal(err)
	}
	settled(t, e)
	waitFor(t, "the wrong rows to be replaced", func() bool {
		all := e.Status(t.Context())
		return len(damaged(&all[0])) == 0 && allApplied(all)
	})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	sameRows(t, append(slices.Clone(ps[1:]), p, ps[0]))
}

// TestNobodyKnowsWhoIsRight replaces a store that is away while the two that are
// left have different rows: none is copied or called odd, until one was put
// right.
func TestNobodyKnowsWhoIsRight(t *testing.T) {
	t.Parallel()
	ps := rotten(t)
	alarm := newAlarms("no majority has the same rows")
	o := engineOptions()
	o.Limits.CompareTicks = -1
	o.Logger = slog.New(alarm)
	e, err := replica.OpenReplicated(ps[:2], o)
	if err != nil {
		t.Fatal(err)
	}
	leadBy(t, e, 1)
	p := freshPlace()
	if _, err := e.Replace(t.Context(), 3, p, ""); err != nil {
		t.Fatal(err)
	}
	g := testBucket.Group
	waitFor(t, "the alarm, and all other groups", func() bool {
		mustPut(t, e, 100)
		there := 0
		for other, status := range e.Status(t.Context())[2].Groups {
			if status.Applied > 0 && other != int(g) {
				there++
			}
		}
		return alarm.n.Load() > 0 && there == metadata.DataGroups
	})
	all := e.Status(t.Context())
	if len(all) != 3 || all[2].Replica != 4 || all[2].Groups[g].Applied != 0 {
		t.Errorf("store 4 got rows that may be wrong, up to %d", all[2].Groups[g].Applied)
	}
	for i := range all {
		if d := damaged(&all[i]); len(d) > 0 {
			t.Errorf("store %d: groups %v are called damaged", all[i].Replica, d)
		}
	}
	waitFor(t, "the leader says what it holds back", func() bool {
		all := e.Status(t.Context())
		at := slices.IndexFunc(all, func(s replica.StoreStatus) bool { return s.Replica == e.Leader(g) })
		if at < 0 || at >= 2 || len(all[at].Groups) == 0 {
			return false
		}
		held := all[at].Groups[g].Held
		return len(held) == 1 && held[0].To == 4 && held[0].Disputed
	})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}

	spoilRow(t, ps[0].FS, ps[0].Dir, "w") // changed twice is as it was
	e = openReplicated(t, append(slices.Clone(ps[:2]), p), o)
	settled(t, e)
	voting(t, e, 1, 2, 4)
	waitFor(t, "the same everywhere", func() bool { return allApplied(e.Status(t.Context())) })
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	sameRows(t, append(slices.Clone(ps[:2]), p))
}

// TestSnapshotBreaksADeadlock: where the group commits nothing without the
// member that needs a snapshot, it is sent one after a while.
func TestSnapshotBreaksADeadlock(t *testing.T) {
	t.Parallel()
	ps := places(t, 5)
	o := engineOptions()
	o.Limits.CompareTicks, o.Limits.KeepEntries = -1, 1
	e, err := replica.OpenReplicated(ps[:4], o)
	if err != nil {
		t.Fatal(err)
	}
	prepareReplicated(t, e)
	for n := range 50 {
		mustPut(t, e, n)
	}
	everywhere(t, e)
	if err := e.Close(); err != nil { // what is flushed may be cut
		t.Fatal(err)
	}
	if e, err = replica.OpenReplicated(ps[:3], o); err != nil {
		t.Fatal(err)
	}
	first := uint64(0)
	waitFor(t, "the log to be cut", func() bool {
		mustPut(t, e, 60)
		first = e.Status(t.Context())[0].Groups[testBucket.Group].First
		return first > 10
	})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	o.Patience *= 10
	e = openReplicated(t, []replica.Place{ps[0], ps[1], ps[4]}, o)
	mustPut(t, e, 70)
	everywhere(t, e)
}
