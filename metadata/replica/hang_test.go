package replica_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// hangingRead begins a read that does not end before release is closed, as one
// of a device that does not answer. It returns when the read has begun.
func hangingRead(t *testing.T, e replica.Engine, release <-chan struct{}) {
	t.Helper()
	began := make(chan struct{})
	go func() {
		var again atomic.Bool
		err := replica.View(context.Background(), e, testBucket.Group, func() {
			if again.Swap(true) {
				return // another store answers
			}
			close(began)
			<-release
		})
		if err != nil {
			t.Errorf("the read that hangs: %v", err)
		}
	}()
	<-began
}

// TestCloseLeavesHangingReads closes engines of which a read hangs on a device:
// that takes seconds, closes the other stores in order and says which one hangs.
func TestCloseLeavesHangingReads(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	for i, name := range []string{"store1", "store2", "store3"} {
		must(t, ps[i].FS.Rename(ps[i].Dir, name))
		ps[i].Dir = name
	}
	o := engineOptions()
	o.Patience = 2 * time.Second
	e, err := replica.OpenReplicated(ps, o)
	must(t, err)
	prepareReplicated(t, e)
	leadBy(t, e, 2)
	release := make(chan struct{})
	hangingRead(t, e, release)
	err = e.Close()
	if err == nil || strings.Count(err.Error(), ": a read has not ended: the device does not answer") != 1 || !strings.Contains(err.Error(), "replica: close store") {
		t.Errorf("Close: %v", err)
	}
	if err := replica.View(t.Context(), e, testBucket.Group, func() {}); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("a read after that: %v", err)
	}
	close(release)
}

// TestRemovedStoreLeavesHangingReads takes a store away of which a read hangs,
// and then exchanges the engine: neither waits for the read.
func TestRemovedStoreLeavesHangingReads(t *testing.T) {
	t.Parallel()
	o := engineOptions()
	o.Patience = 2 * time.Second
	e, err := replica.OpenReplicated(places(t, 3), o)
	must(t, err)
	s := replica.NewSwitch(e)
	prepareReplicated(t, e)
	leadBy(t, e, 2)
	release := make(chan struct{})
	hangingRead(t, s, release)
	if err := e.RemoveStore(2); err == nil || !strings.Contains(err.Error(), "the device does not answer") {
		t.Errorf("RemoveStore: %v", err)
	}
	mustPut(t, e, 1)
	next := replica.Engine(nil)
	must(t, s.Exchange(t.Context(), func(old replica.Engine) (replica.Engine, error) {
		if err := old.Close(); err != nil {
			t.Errorf("Close of the engine: %v", err)
		}
		next, err = replica.Open("local", storeOptions(vfs.NewMem(), 1).Options)
		return next, err
	}))
	must(t, s.Exchange(t.Context(), func(old replica.Engine) (replica.Engine, error) { return old, nil }))
	close(release)
	must(t, s.Close())
}

// TestOneCopyIsNotExchangedWhileItHangs: growing needs the device that hangs, so
// it is refused, and the store goes on.
func TestOneCopyIsNotExchangedWhileItHangs(t *testing.T) {
	t.Parallel()
	l, err := replica.Open("local", storeOptions(vfs.NewMem(), 1).Options)
	must(t, err)
	s := replica.NewSwitch(l)
	release := make(chan struct{})
	hangingRead(t, s, release)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err = s.Exchange(ctx, func(replica.Engine) (replica.Engine, error) {
		t.Error("the engine is exchanged under a call")
		return nil, nil
	})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 calls in flight") {
		t.Errorf("Exchange: %v", err)
	}
	if err := replica.View(t.Context(), l, 1, func() {}); err != nil {
		t.Errorf("a read after that: %v", err)
	}
	close(release)
	must(t, s.Close())
}

// TestReadsGoPastDeviceThatHangs has a read hang on the device of a store: its
// client is answered by another store, and nobody asks the first one until its
// device answers.
func TestReadsGoPastDeviceThatHangs(t *testing.T) {
	t.Parallel()
	e, err := replica.OpenReplicated(places(t, 3), engineOptions())
	must(t, err)
	prepareReplicated(t, e)
	release := make(chan struct{})
	var calls atomic.Int32
	must(t, replica.View(t.Context(), e, testBucket.Group, func() {
		if calls.Add(1) == 1 {
			<-release
		}
	}))
	late := replica.Late(e)
	if n := calls.Load(); n != 2 || len(late) != 1 {
		t.Fatalf("%d stores were asked, %d are late", n, late)
	}
	if next := replica.Asked(e, testBucket.Group); next == 0 || next == late[0] {
		t.Errorf("the next to be asked is store %d, late is %d", next, late)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = replica.View(ctx, e, testBucket.Group, func() { // all hang
		cancel()
		<-release
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a read that nobody answers: %v", err)
	}
	close(release)
	for len(replica.Late(e)) > 0 {
		time.Sleep(time.Millisecond) // until the reads have ended
	}
	must(t, e.Close())
}
