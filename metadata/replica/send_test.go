package replica_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

// receivers is the transport within the process, and says who receives.
type receivers struct {
	*replica.InProcess
	mu   sync.Mutex // guards byID
	byID map[uint64]replica.Receiver
}

func newReceivers() *receivers {
	return &receivers{InProcess: replica.NewInProcess(), byID: make(map[uint64]replica.Receiver)}
}

func (r *receivers) Register(id uint64, to replica.Receiver) {
	r.mu.Lock()
	r.byID[id] = to
	r.mu.Unlock()
	r.InProcess.Register(id, to)
}

func (r *receivers) of(id uint64) replica.Receiver {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byID[id]
}

// transfer sends all pieces of an export, and leaves it to the caller to
// complete the transfer.
func transfer(t *testing.T, to replica.Receiver, from, term uint64, e *snapshot.Export) replica.Reception {
	t.Helper()
	in, err := to.Offer(t.Context(), replica.Offer{From: from, To: 3, Term: term, Header: e.Header()})
	if err != nil {
		t.Fatal(err)
	}
	for {
		p, err := e.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return in
		}
		if err := errors.Join(err, in.Add(t.Context(), p)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSenderGivesUpWhileTheMemberIsTold ends the sender's context while the
// receiver is about to be told of a snapshot that it has all of. The next
// transfer must not take away what is going to be installed.
func TestSenderGivesUpWhileTheMemberIsTold(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	c.puts(0, 10)
	source, g := c.stores[1], testBucket.Group
	e, err := source.Export(g, snapshot.ExportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()

	place := replica.Place{Dir: "meta", FS: vfs.NewCrashableMem()}
	if err := replica.CreateStore(place.Dir, identity(3), []uint64{1, 2, 3}, storeOptions(place.FS, 3)); err != nil {
		t.Fatal(err)
	}
	net := newReceivers()
	o := engineOptions()
	o.Transport = net
	lagging := openReplicated(t, []replica.Place{place}, o)
	to := net.of(3)
	term := source.Status().Groups[g].Term
	in := transfer(t, to, 1, term, e)

	release := make(chan struct{})
	<-replica.HoldDecisions(to, release)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		err := in.Complete(ctx, e.Summary())
		ended <- errors.Join(err, in.Close())
	}()
	waitFor(t, "the call to be queued", func() bool { return replica.QueuedCalls(to) > 0 })
	cancel()
	if _, err := to.Offer(t.Context(), replica.Offer{From: 1, To: 3, Term: term, Header: e.Header()}); err == nil {
		t.Error("another snapshot is taken before the member was told of the first")
	}
	close(release)
	if err := <-ended; err != nil {
		t.Errorf("Complete after the sender has given up: %v", err)
	}
	waitFor(t, "the installation", func() bool {
		s := lagging.Status(t.Context())[0]
		if s.Err != nil {
			t.Fatal(s.Err)
		}
		return s.Groups[g].Applied == e.Header().Index
	})
}
