package node

import (
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/gateway/object/shardtest"
)

// gate holds what passes it while it is shut.
type gate struct {
	mu   sync.RWMutex // held exclusively while shut
	held chan struct{}
}

// wait is passed by every operation below a path.
func (g *gate) wait() {
	if !g.mu.TryRLock() {
		select {
		case g.held <- struct{}{}:
		default:
		}
		g.mu.RLock()
	}
	g.mu.RUnlock()
}

// TestHangingDriveHoldsNobodyUp freezes one drive of two in the middle of all
// it does: what is asked of the node about it, and the other drive, do not
// wait.
func TestHangingDriveHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	for _, path := range []string{"good", "stuck", "new"} {
		format(t, mem, path)
	}
	g := &gate{held: make(chan struct{}, 1)}
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if strings.HasPrefix(op.Path, "stuck") {
			g.wait()
		}
		return nil
	}))
	n, refused, err := Open(t.Context(), quietOptions(fs), []string{"good", "stuck"})
	if err != nil || len(refused) > 0 {
		t.Fatal(refused, err)
	}
	drives := map[string]*Drive{}
	for _, d := range n.Drives() {
		drives[d.Path()] = d
	}
	stuck, rng := drives["stuck"], newRand(1)
	write := func(d *Drive, size int) error {
		s := shardtest.NewShard(rng, 1, size)
		return shardtest.Put(t.Context(), n, d.ID(), s, int64(len(s.Framed)))
	}
	small, large := shardtest.NewShard(rng, 1, 5000), shardtest.NewShard(rng, 1, 300_000)
	if err := write(stuck, 5000); err != nil { // makes the segment that more is appended to
		t.Fatal(err)
	}

	g.mu.Lock()
	var hanging sync.WaitGroup
	for _, f := range []func() error{
		func() error { return shardtest.Put(t.Context(), n, stuck.ID(), small, int64(len(small.Framed))) },
		func() error { return shardtest.Put(t.Context(), n, stuck.ID(), large, int64(len(large.Framed))) },
		func() error { return stuck.SetIncarnation(2) },
		func() error { // a write to the index that waits for the device
			return stuck.index.apply(func(*pebble.Batch, *totals) error {
				g.wait()
				return nil
			})
		},
	} {
		hanging.Go(func() {
			if err := f(); err != nil {
				t.Errorf("after it hung: %v", err)
			}
		})
		<-g.held // it does
	}
	if got := n.Status(); len(got) != 2 {
		t.Errorf("status of %d drives", len(got))
	}
	if m := n.Metrics(); len(m.Drives) != 2 {
		t.Errorf("metrics of %d drives", len(m.Drives))
	}
	if s := stuck.Superblock(); s.Incarnation != 0 {
		t.Errorf("incarnation %d is shown before it is durable", s.Incarnation)
	}
	added := make(chan struct{})
	hanging.Go(func() { // looks at all devices
		defer close(added)
		if _, err := n.AddDrive(t.Context(), "new"); err != nil {
			t.Error(err)
		}
	})
	<-g.held
	if err := write(drives["good"], 5000); err != nil {
		t.Errorf("write beside a drive that hangs: %v", err)
	}
	if got := n.Drives(); len(got) != 3 {
		t.Errorf("%d drives, the new one was let in", len(got))
	}
	g.mu.Unlock()
	hanging.Wait()
	<-added
	if s := stuck.Superblock(); s.Incarnation != 2 {
		t.Errorf("incarnation %d in the end", s.Incarnation)
	}
	for _, s := range []*shardtest.Shard{small, large} {
		if err := shardtest.Check(t.Context(), n, stuck.ID(), s); err != nil {
			t.Error(err)
		}
	}
	g.mu.Lock()
	closed := make(chan error, 1)
	go func() { closed <- n.Close() }()
	for got := n.Unclosed(); !slices.Equal(got, []string{"stuck"}); got = n.Unclosed() {
		runtime.Gosched() // the others are being closed
	}
	g.mu.Unlock()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if got := n.Unclosed(); len(got) > 0 {
		t.Errorf("drives %v are waited for in the end", got)
	}
}
