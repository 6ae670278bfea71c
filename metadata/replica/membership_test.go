package replica_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// listed makes an engine of n stores with a table of stores that lists them.
func listed(t *testing.T, ps []replica.Place) *replica.Replicated {
	t.Helper()
	e := openReplicated(t, ps, engineOptions())
	prepareReplicated(t, e)
	if err := replica.RaiseVersion(t.Context(), e, metadata.LatestVersion); err != nil {
		t.Fatal(err)
	}
	_, err := e.ChangeStores(t.Context(), func(table *metadata.StoreTable) error {
		for i, p := range ps {
			id := identity(uint64(i + 1))
			table.Stores = append(table.Stores, metadata.Store{Replica: id.Replica, ID: id.Store, Place: p.Dir, Role: metadata.StoreVoter})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func settled(t *testing.T, e *replica.Replicated) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := e.AwaitSettled(ctx); err != nil {
		for _, s := range e.Status(t.Context()) {
			t.Logf("store %d: %v", s.Replica, s.Err)
			for _, g := range s.Groups {
				t.Logf("  %+v", g)
			}
		}
		t.Fatal(err)
	}
}

// voting compares the voters of all groups, as the stores that are members see
// them, with those that are wanted.
func voting(t *testing.T, e *replica.Replicated, want ...uint64) {
	t.Helper()
	what := ""
	waitFor(t, fmt.Sprintf("voters %v", want), func() bool {
		for _, s := range e.Status(t.Context()) {
			if !slices.Contains(want, s.Replica) || s.Err != nil {
				continue
			}
			for _, g := range s.Groups {
				if slices.Sort(g.Voters); !slices.Equal(g.Voters, want) || g.Joint {
					what = fmt.Sprintf("store %d, group %d: %v", s.Replica, g.Group, g.Voters)
					return false
				}
			}
		}
		return true
	})
	if t.Failed() {
		t.Log(what)
	}
}

func freshPlace() replica.Place { return replica.Place{Dir: "meta", FS: vfs.NewCrashableMem()} }

// TestStoresComeAndGo grows from one store to five and back to one, under
// load; the store that is left is the one that came last.
func TestStoresComeAndGo(t *testing.T) {
	t.Parallel()
	e := listed(t, places(t, 1))
	stop := make(chan struct{})
	var load sync.WaitGroup
	done := 0
	load.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				done = n
				return
			default:
			}
			if _, err := e.Commit(context.Background(), put(request(7, n), fmt.Sprint("k", n), "v")); err != nil {
				t.Errorf("put %d: %v", n, err)
				return
			}
		}
	})
	for want := uint64(2); want <= 3; want++ {
		id, err := e.Admit(t.Context(), freshPlace(), "", metadata.StoreVoter)
		if err != nil || id != want {
			t.Fatalf("Admit = %d, %v, want %d", id, err, want)
		}
	}
	settled(t, e)
	voting(t, e, 1, 2, 3)
	for range 2 {
		if _, err := e.Admit(t.Context(), freshPlace(), "", metadata.StoreVoter); err != nil {
			t.Fatal(err)
		}
	}
	settled(t, e)
	voting(t, e, 1, 2, 3, 4, 5)
	for id := uint64(1); id <= 4; id++ {
		if err := e.Dismiss(t.Context(), id); err != nil {
			t.Fatalf("Dismiss %d: %v", id, err)
		}
		settled(t, e)
		if err := e.RemoveStore(id); err != nil {
			t.Errorf("RemoveStore %d: %v", id, err)
		}
	}
	voting(t, e, 5)
	close(stop)
	load.Wait()
	if err := e.Dismiss(t.Context(), 5); !errors.Is(err, replica.ErrLastVoter) {
		t.Errorf("Dismiss of the last voter: %v", err)
	}
	if err := e.Dismiss(t.Context(), 4); !errors.Is(err, replica.ErrNoStore) {
		t.Errorf("Dismiss of a store that is gone: %v", err)
	}
	for n := range done {
		if _, err := e.Open(t.Context(), testBucket, fmt.Sprint("k", n), ""); err != nil {
			t.Fatalf("k%d of %d: %v", n, done, err)
		}
	}
	table, err := e.Stores(t.Context())
	if err != nil || len(table.Stores) != 5 || table.Find(5).Role != metadata.StoreVoter || table.Find(1).Role != metadata.StoreGone {
		t.Errorf("stores %+v, %v", table, err)
	}
}

// TestDeadVoterIsReplaced loses one of three stores, refuses to lose another
// one, and replaces it under a new id.
func TestDeadVoterIsReplaced(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	broken := new(breaker)
	ps[2].FS = errorfs.Wrap(ps[2].FS, broken)
	e := listed(t, ps)
	settled(t, e)
	broken.broken.Store(true)
	mustPut(t, e, 1)
	waitFor(t, "the loss of store 3", func() bool { return e.Status(t.Context())[2].Err != nil })
	waitFor(t, "a refusal", func() bool {
		err := e.Dismiss(t.Context(), 2)
		if err == nil {
			t.Fatal("a second store was dismissed")
		}
		return errors.Is(err, replica.ErrTooFewStores)
	})
	id, err := e.Replace(t.Context(), 3, freshPlace(), "")
	if err != nil || id != 4 {
		t.Fatalf("Replace = %d, %v", id, err)
	}
	settled(t, e)
	voting(t, e, 1, 2, 4)
	if err := e.Dismiss(t.Context(), 2); err != nil {
		t.Errorf("Dismiss with enough stores: %v", err)
	}
	settled(t, e)
	voting(t, e, 1, 4)
	if _, err := e.Open(t.Context(), testBucket, "k1", ""); err != nil {
		t.Error(err)
	}
}

// TestStoreThatCannotBeMadeIsGivenUp fails to make the files of a new store.
func TestStoreThatCannotBeMadeIsGivenUp(t *testing.T) {
	t.Parallel()
	e := listed(t, places(t, 1))
	broken := new(breaker)
	broken.broken.Store(true)
	if _, err := e.Admit(t.Context(), replica.Place{Dir: "meta", FS: errorfs.Wrap(vfs.NewMem(), broken)}, "", metadata.StoreVoter); !errors.Is(err, errorfs.ErrInjected) {
		t.Errorf("Admit at a broken place: %v", err)
	}
	settled(t, e)
	voting(t, e, 1)
	if id, err := e.Admit(t.Context(), freshPlace(), "", metadata.StoreLearner); err != nil || id != 3 {
		t.Errorf("Admit of a learner = %d, %v, want 3", id, err)
	}
	settled(t, e)
	voting(t, e, 1)
	waitFor(t, "a learner in all groups", func() bool {
		for _, s := range e.Status(t.Context()) {
			for _, g := range s.Groups {
				if !slices.Equal(g.Learners, []uint64{3}) {
					return false
				}
			}
		}
		return true
	})
}

// TestChangeGoesOnAfterLeadersChange moves leadership about while stores
// change.
func TestChangeGoesOnAfterLeadersChange(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	e := listed(t, ps)
	settled(t, e)
	if _, err := e.Replace(t.Context(), 1, freshPlace(), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Replace(t.Context(), 2, freshPlace(), ""); err != nil {
		t.Fatal(err)
	}
	for n := range 30 {
		for g := range uint32(metadata.DataGroups + 1) {
			_ = e.TransferLeader(t.Context(), g, uint64(1+(n+int(g))%5)) // not all can
		}
		mustPut(t, e, n)
	}
	settled(t, e)
	voting(t, e, 3, 4, 5)
}

func TestVersionIsRaisedWhenAllKnowIt(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	broken := new(breaker)
	ps[2].FS = errorfs.Wrap(ps[2].FS, broken)
	o := engineOptions()
	o.Patience = time.Second
	e := openReplicated(t, ps, o)
	prepareReplicated(t, e)
	if _, err := e.ChangeStores(t.Context(), func(t *metadata.StoreTable) error {
		t.Stores = []metadata.Store{{Replica: 1, ID: [16]byte{1}, Role: metadata.StoreVoter}}
		return nil
	}); !errors.Is(err, metadata.ErrVersionTooLow) {
		t.Errorf("a command of version 2 in groups of version 1: %v", err)
	}
	broken.broken.Store(true)
	mustPut(t, e, 1)
	waitFor(t, "the loss of store 3", func() bool { return e.Status(t.Context())[2].Err != nil })
	if err := replica.RaiseVersion(t.Context(), e, 2); err == nil || !strings.Contains(err.Error(), "store 3 is not heard") {
		t.Errorf("raised while a store is away: %v", err)
	}
	if err := replica.RaiseVersion(t.Context(), e, metadata.LatestVersion+1); !errors.Is(err, metadata.ErrUnknownKind) {
		t.Errorf("raised beyond what the program knows: %v", err)
	}
}
