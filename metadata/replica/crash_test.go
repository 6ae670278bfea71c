package replica_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

const crashKeys = 8

// history is what one writer knows of its own key: the bodies it may hold.
type history struct {
	key    string
	body   string // acknowledged; "" if the key is deleted
	maybe  string // of a command whose outcome is not known
	unsure bool
	n      int
	// pending is the command whose outcome is not known. It is retried first
	// after the restart, under its request id.
	pending *metadata.Command
}

// begin chooses the next change, or the one whose outcome is not known yet.
func (h *history) begin(r *rand.Rand) *metadata.Command {
	if h.pending != nil {
		return h.pending
	}
	h.n++
	id := request(int(h.key[1]-'0'), h.n)
	h.unsure, h.maybe = true, ""
	if r.IntN(4) == 0 {
		h.pending = &metadata.Command{Kind: metadata.KindDeleteVersions, Version: metadata.CommandVersion, Group: testBucket.Group, Settings: 1, Epoch: 1,
			Request: id, Delete: &metadata.DeleteVersions{Bucket: testBucket.ID, Keys: []metadata.DeleteKey{{Key: h.key}}}}
	} else {
		h.maybe = fmt.Sprintf("%s-%d", h.key, h.n)
		h.pending = put(id, h.key, h.maybe)
	}
	return h.pending
}

// acknowledge notes that the change is done.
func (h *history) acknowledge() {
	h.body, h.unsure, h.pending = h.maybe, false, nil
}

// check reads the key after a crash.
func (h *history) check(t *testing.T, l *replica.Local) {
	t.Helper()
	got := ""
	o, err := l.Open(t.Context(), testBucket, h.key, "")
	switch {
	case err == nil:
		got = string(o.Inline)
	case !errors.Is(err, metadata.ErrNoSuchKey):
		t.Fatalf("read of %s: %v", h.key, err)
	}
	if got != h.body && (!h.unsure || got != h.maybe) {
		t.Fatalf("%s holds %q; acknowledged was %q, unsure %v of %q", h.key, got, h.body, h.unsure, h.maybe)
	}
}

// TestPowerCuts cuts the power again and again while writers write: what was
// acknowledged is there afterwards, and retries are carried out once.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	cuts := 1000
	if testing.Short() || raceEnabled {
		cuts = 100
	}
	const rounds = 20
	var left atomic.Int64
	left.Store(int64(cuts))
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			for round := uint64(0); left.Add(-rounds) >= 0; round++ {
				powerCuts(t, rand.New(rand.NewPCG(seed, round)), rounds)
			}
		})
	}
}

func powerCuts(t *testing.T, r *rand.Rand, rounds int) {
	fs := vfs.NewCrashableMem()
	o := replica.Options{FS: fs, Now: fixed(start), ReserveBytes: -1, MemTableBytes: 64 << 10, CacheBytes: 1 << 20, BatchCommands: 4}
	l, err := replica.Open("state/meta", o)
	if err != nil {
		t.Fatal(err)
	}
	prepare(t, l)
	hs := make([]*history, crashKeys)
	for i := range hs {
		hs[i] = &history{key: fmt.Sprintf("k%d", i)}
	}
	for range rounds {
		clone, reached := runAndCut(t, l, fs, hs, r)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		fs = clone
		o.FS = fs
		if l, err = replica.Open("state/meta", o); err != nil {
			t.Fatal(err)
		}
		for g, at := range l.Positions() {
			if at < reached[g] {
				t.Fatalf("group %d is at %d, and said that %d was durable", g, at, reached[g])
			}
		}
		objects := int64(0)
		for _, h := range hs {
			h.check(t, l)
		}
		for _, h := range hs {
			if h.unsure {
				if _, err := l.Commit(t.Context(), h.begin(r)); err != nil {
					t.Fatalf("retry of %s: %v", h.key, err)
				}
				h.acknowledge()
			}
			h.check(t, l)
			if h.body != "" {
				objects++
			}
		}
		u, err := l.Usage(t.Context(), testBucket)
		if err != nil || u.Objects != objects {
			t.Fatalf("usage is %+v, %v; want %d objects", u, err, objects)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// runAndCut lets every writer write, and takes the file system as a power cut
// would leave it at some moment, and what the engine called durable by then.
// What the writers are told after that moment counts for nothing.
func runAndCut(t *testing.T, l *replica.Local, fs *vfs.MemFS, hs []*history, r *rand.Rand) (clone *vfs.MemFS, reached []uint64) {
	t.Helper()
	var mu sync.Mutex // guards the histories and what follows
	cut, written, limit := false, 0, 1+r.IntN(60)
	at := make(chan struct{})
	var g sync.WaitGroup
	for _, h := range hs {
		r := rand.New(rand.NewPCG(r.Uint64(), 0))
		g.Go(func() {
			for {
				mu.Lock()
				if cut {
					mu.Unlock()
					return
				}
				c := h.begin(r)
				mu.Unlock()
				_, err := l.Commit(context.Background(), c)
				mu.Lock()
				if err != nil {
					t.Errorf("write of %s: %v", h.key, err)
				} else if !cut {
					h.acknowledge()
				}
				if written++; written == limit {
					close(at)
				}
				mu.Unlock()
			}
		})
	}
	<-at
	mu.Lock()
	reached = l.Positions()
	clone = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: r.IntN(101), RNG: r})
	cut = true
	mu.Unlock()
	g.Wait()
	return clone, reached
}

// TestFailedSyncsAreNeverAcknowledged lets the n-th write or sync fail, for
// many n: no command is acknowledged that a power cut then takes away, the
// engine is fenced, and a fresh process reads back what it promised.
func TestFailedSyncsAreNeverAcknowledged(t *testing.T) {
	t.Parallel()
	for n := range int32(40) {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			failAt(t, n*3)
		})
	}
}

func failAt(t *testing.T, n int32) {
	mem := vfs.NewCrashableMem()
	var armed atomic.Bool
	var ops atomic.Int32
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if !armed.Load() {
			return nil
		}
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpFileWrite, errorfs.OpCreate, errorfs.OpRename:
			if ops.Add(1) > n {
				return errorfs.ErrInjected
			}
		}
		return nil
	}))
	var failed atomic.Pointer[error]
	o := replica.Options{FS: fs, Now: fixed(start), ReserveBytes: -1, MemTableBytes: 64 << 10,
		OnFailure: func(err error) { failed.Store(&err) }}
	l, err := replica.Open("meta", o)
	if err != nil {
		t.Fatal(err)
	}
	prepare(t, l)
	// More writers keep the log busy, so that batches are on their way when
	// the failure comes.
	var others sync.WaitGroup
	for w := range n % 4 * 3 {
		others.Go(func() {
			for i := range 1 << 20 {
				if _, err := l.Commit(context.Background(), put(request(100+int(w), i), fmt.Sprint("other", w), "x")); err != nil {
					return
				}
			}
		})
	}
	defer others.Wait()
	armed.Store(true)
	h := &history{key: "k0"}
	r := rand.New(rand.NewPCG(uint64(n), 5))
	for {
		_, err := l.Commit(t.Context(), h.begin(r))
		if err != nil {
			if !errors.Is(err, metadata.ErrUnknownOutcome) && !errors.Is(err, metadata.ErrUnavailable) {
				t.Errorf("Commit = %v", err)
			}
			break
		}
		h.acknowledge()
	}
	if failed.Load() == nil {
		t.Error("OnFailure was not called")
	}
	if _, err := l.Commit(t.Context(), put(request(9, 9), "late", "x")); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("Commit after the failure = %v, want %v", err, metadata.ErrUnavailable)
	}
	if _, err := l.Usage(t.Context(), testBucket); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("Usage after the failure = %v, want %v", err, metadata.ErrUnavailable)
	}
	others.Wait()
	clone := mem.CrashClone(vfs.CrashCloneCfg{})
	if err := l.Close(); err == nil {
		t.Error("Close of a failed engine said nothing")
	}
	o.FS, o.OnFailure = clone, nil
	again, err := replica.Open("meta", o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	h.check(t, again)
	if _, err := again.Commit(t.Context(), h.begin(r)); err != nil {
		t.Errorf("retry: %v", err)
	}
	h.acknowledge()
	h.check(t, again)
}
