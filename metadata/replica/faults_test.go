package replica_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// breaker lets writes fail once it is set.
type breaker struct{ broken atomic.Bool }

func (b *breaker) String() string { return "breaker" }

func (b *breaker) MaybeError(op errorfs.Op) error {
	if b.broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
		return errorfs.ErrInjected
	}
	return nil
}

// put commits an object of the test bucket.
func mustPut(t testing.TB, e *replica.Replicated, n int) {
	t.Helper()
	if _, err := e.Commit(t.Context(), put(request(n, n), fmt.Sprint("k", n), "v")); err != nil {
		t.Fatalf("put %d: %v", n, err)
	}
}

// waitFor polls until done reports true.
func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: never", what)
		}
	}
}

// TestOneDeviceFails is the loss of the leader's device, and then of another
// one: the first does not end the engine, the second does.
func TestOneDeviceFails(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	breakers := make([]*breaker, len(ps))
	for i := range ps {
		breakers[i] = new(breaker)
		ps[i].FS = errorfs.Wrap(ps[i].FS, breakers[i])
	}
	o := engineOptions()
	failed := make(chan error, 10)
	o.OnFailure = func(err error) { failed <- err }
	e := openReplicated(t, ps, o)
	prepareReplicated(t, e)
	mustPut(t, e, 1)

	leader := e.Leader(testBucket.Group)
	breakers[leader-1].broken.Store(true)
	for n := 2; n < 10; n++ {
		mustPut(t, e, n)
	}
	if len(failed) != 0 {
		t.Fatalf("OnFailure after one device: %v", <-failed)
	}
	waitFor(t, "another leader", func() bool { return e.Leader(testBucket.Group) != leader })
	for n := 1; n < 10; n++ {
		if _, err := e.Open(t.Context(), testBucket, fmt.Sprint("k", n), ""); err != nil {
			t.Errorf("k%d: %v", n, err)
		}
	}
	for _, s := range e.Status(t.Context()) {
		if (s.Err != nil) != (s.Replica == leader) {
			t.Errorf("store %d: %v", s.Replica, s.Err)
		}
	}

	breakers[e.Leader(testBucket.Group)-1].broken.Store(true)
	_, err := e.Commit(t.Context(), put(request(99, 99), "late", "v"))
	if !errors.Is(err, metadata.ErrUnavailable) && !errors.Is(err, metadata.ErrUnknownOutcome) {
		t.Errorf("Commit without a quorum: %v", err)
	}
	if err := <-failed; !errors.Is(err, errorfs.ErrInjected) {
		t.Errorf("OnFailure: %v", err)
	}
	if _, err := e.Commit(t.Context(), put(request(100, 100), "later", "v")); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("Commit after the loss: %v", err)
	}
	if _, err := e.Usage(t.Context(), testBucket); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("Usage after the loss: %v", err)
	}
}

// TestDevicesFailOneAfterTheOther: how many stores are needed is what those say
// that run, not what one knew that failed before the voters became fewer.
func TestDevicesFailOneAfterTheOther(t *testing.T) {
	t.Parallel()
	ps := places(t, 5)
	breakers := make([]*breaker, len(ps))
	for i := range ps {
		breakers[i] = new(breaker)
		ps[i].FS = errorfs.Wrap(ps[i].FS, breakers[i])
	}
	o := engineOptions()
	failed := make(chan error, 10)
	o.OnFailure = func(err error) { failed <- err }
	e := openReplicated(t, ps, o)
	prepareReplicated(t, e)
	n := 1
	breaks := func(id uint64) {
		breakers[id-1].broken.Store(true)
		waitFor(t, "a device to fail", func() bool {
			mustPut(t, e, n)
			n++
			return e.Status(t.Context())[id-1].Err != nil
		})
	}
	breaks(5)
	waitFor(t, "three voters", func() bool {
		left := true
		for g := range uint32(metadata.DataGroups + 1) {
			for _, s := range e.Status(t.Context()) {
				if s.Err != nil || s.Replica > 3 || len(s.Groups[g].Voters) == 3 {
					continue
				}
				left = false
				if s.Groups[g].Leader == s.Replica {
					gone := slices.Max(s.Groups[g].Voters)
					_ = e.ProposeConfChange(t.Context(), g, confChange(t, "r", gone)) // proposed again
				}
			}
			if l := e.Leader(g); l == 4 {
				left = false
				_ = e.TransferLeader(t.Context(), g, 1) // asked again
			}
		}
		return left
	})
	breaks(3)
	select {
	case err := <-failed:
		t.Fatalf("the engine has ended with two of three: %v", err)
	default:
	}
	mustPut(t, e, n)
}

// TestSlowLeader holds back the log of the leader for good: the others commit
// and answer at once, and one of them leads soon.
func TestSlowLeader(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	gates := make([]*gate, len(ps))
	for i := range ps {
		gates[i] = newGate()
		ps[i].FS = errorfs.Wrap(ps[i].FS, gates[i])
	}
	e := openReplicated(t, ps, engineOptions())
	prepareReplicated(t, e)
	leader := e.Leader(testBucket.Group)
	g := gates[leader-1]
	g.shut.Store(true)
	mustPut(t, e, 1)
	<-g.waiting
	mustPut(t, e, 2)
	if _, err := e.Open(t.Context(), testBucket, "k2", ""); err != nil {
		t.Errorf("Open while the leader's log hangs: %v", err)
	}
	waitFor(t, "another leader", func() bool { return e.Leader(testBucket.Group) != leader })
	mustPut(t, e, 3)
	g.release()
	waitFor(t, "the slow store to catch up", func() bool {
		return allApplied(e.Status(t.Context()))
	})
}

// TestQuorumIsLost lets calls find no quorum: they end in time.
func TestQuorumIsLost(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	o := engineOptions()
	o.Patience = 500 * time.Millisecond
	e := openReplicated(t, ps, o)
	prepareReplicated(t, e)
	for _, id := range []uint64{1, 2, 3} {
		if id != e.Leader(testBucket.Group) && len(e.Status(t.Context())) > 1 {
			if err := e.RemoveStore(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := e.Commit(t.Context(), put(request(1, 1), "a", "v")); !errors.Is(err, metadata.ErrUnknownOutcome) {
		t.Errorf("Commit: %v, want %v", err, metadata.ErrUnknownOutcome)
	}
	if _, err := e.Usage(t.Context(), testBucket); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("Usage: %v, want %v", err, metadata.ErrUnavailable)
	}
	waitFor(t, "the leader to step down", func() bool {
		s := e.Status(t.Context())[0]
		return s.Groups[testBucket.Group].Leader == 0
	})
	if _, err := e.Commit(t.Context(), put(request(1, 2), "a", "v")); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("Commit without a leader: %v, want %v", err, metadata.ErrUnavailable)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Commit(ctx, put(request(1, 3), "a", "v")); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit of a cancelled context: %v", err)
	}
}

// TestReplicatedRestart crashes all stores, losing what was not synced.
func TestReplicatedRestart(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	mem := make([]*vfs.MemFS, len(ps))
	for i := range ps {
		mem[i] = ps[i].FS.(*vfs.MemFS)
	}
	e := openReplicated(t, ps, engineOptions())
	prepareReplicated(t, e)
	for n := range 50 {
		mustPut(t, e, n)
	}
	for i := range ps {
		ps[i].FS = mem[i].CrashClone(vfs.CrashCloneCfg{})
	}
	again := openReplicated(t, ps, engineOptions())
	u, err := again.Usage(t.Context(), testBucket)
	if err != nil || u.Objects != 50 {
		t.Fatalf("Usage after the crash = %+v, %v; want 50 objects", u, err)
	}
	mustPut(t, again, 51)
	if res, err := again.Commit(t.Context(), put(request(7, 7), "k7", "v")); err != nil || res.Replaced {
		t.Errorf("repeated put after the crash = %+v, %v; want the first result", res, err)
	}
}

// TestReplicatedOverload fills the queue while no quorum takes anything.
func TestReplicatedOverload(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	gates := make([]*gate, len(ps))
	for i := range ps {
		gates[i] = newGate()
		ps[i].FS = errorfs.Wrap(ps[i].FS, gates[i])
	}
	o := engineOptions()
	o.QueueLength = 4
	o.Patience = time.Minute
	e := openReplicated(t, ps, o)
	prepareReplicated(t, e)
	for _, g := range gates {
		g.shut.Store(true)
	}
	var pending []<-chan answer
	for i := range 20 {
		ch := make(chan answer, 1)
		go func() {
			res, err := e.Commit(context.Background(), put(request(1, i), fmt.Sprint(i), "v"))
			ch <- answer{res, err}
		}()
		pending = append(pending, ch)
	}
	waitFor(t, "overload", func() bool { return e.Metrics().Overloads >= 16 })
	for _, g := range gates {
		g.release()
	}
	done, refused := 0, 0
	for _, ch := range pending {
		switch a := <-ch; {
		case a.err == nil:
			done++
		case errors.Is(a.err, metadata.ErrOverloaded):
			refused++
		default:
			t.Error(a.err)
		}
	}
	if done != 4 || refused != 16 {
		t.Errorf("%d done, %d refused; want 4 and 16", done, refused)
	}
}

// TestTransfer hands leadership around under load.
func TestTransfer(t *testing.T) {
	t.Parallel()
	e := openReplicated(t, places(t, 3), engineOptions())
	prepareReplicated(t, e)
	for n := range 6 {
		to := uint64(n%3 + 1)
		waitFor(t, fmt.Sprint("leader ", to), func() bool {
			if e.Leader(testBucket.Group) == to {
				return true
			}
			if err := e.TransferLeader(t.Context(), testBucket.Group, to); err != nil && !errors.Is(err, replica.ErrNoLeader) {
				t.Fatal(err)
			}
			mustPut(t, e, n)
			return false
		})
	}
	if err := e.TransferLeader(t.Context(), 99, 1); err == nil || strings.Contains(err.Error(), "panic") {
		t.Errorf("TransferLeader of no group: %v", err)
	}
}
