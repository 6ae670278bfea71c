package object

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// trashRows counts the rows of trash of all groups.
func (w *world) trashRows() (n int) {
	w.t.Helper()
	for group := range dataGroups {
		rows, err := w.meta.Trash(context.Background(), group, 0, 1000)
		check(w.t, err)
		n += len(rows)
	}
	return n
}

// TestTrashStaysUntilItIsGone: what a drive has freed and may have again after a
// crash stays in the trash. A drive that is away is not waited for.
func TestTrashStaysUntilItIsGone(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{scheme: metadata.NewScheme(2, 1), options: func(o *Options) { o.TrashGrace = time.Second }})
	body := payload(100_000, 1)
	for _, key := range []string{"a", "b", "c"} {
		w.mustPut(key, body)
		w.delete(key)
	}
	settled := make(map[topology.DriveID]int)
	bad := w.drives[1]
	w.shards.set(func(op string, d topology.DriveID, _ metadata.ShardRef) fault {
		if op != "settle" {
			return fault{}
		}
		w.shards.mu.Lock()
		defer w.shards.mu.Unlock()
		if settled[d]++; d == bad {
			return fault{err: io.ErrUnexpectedEOF}
		}
		return fault{}
	})
	check(t, w.bg.collect.trashPass(t.Context()))
	w.sleep(time.Second)
	check(t, w.bg.collect.trashPass(t.Context()))
	if n := w.trashRows(); n != 3 {
		t.Errorf("%d rows of trash while a drive may have shards again, want 3", n)
	}
	if s := w.CollectState(); s.TrashWaits != 3 || s.TrashRows != 0 || len(s.LastErrors) != 1 {
		t.Errorf("state %+v", s)
	}
	for _, d := range w.drives {
		if settled[d] != 1 {
			t.Errorf("drive %s was settled %d times for three rows", d, settled[d])
		}
	}
	if len(w.bg.chunks.busy) != 0 {
		t.Errorf("%d chunks are still in hand", len(w.bg.chunks.busy))
	}
	w.shards.reset()
	w.shards.lose(bad)
	check(t, w.bg.collect.trashPass(t.Context()))
	if n := w.trashRows(); n != 0 {
		t.Errorf("%d rows of trash are left", n)
	}
	if s := w.CollectState(); s.TrashRows != 3 || s.TrashParts != 3 || s.TrashWaits != 0 {
		t.Errorf("state %+v", s)
	}
}

// TestTablesCanBeGivenUp: whoever waits for the tables of placement groups,
// epochs or drives ends with its context.
func TestTablesCanBeGivenUp(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{})
	check(t, w.bg.placement.Acquire(t.Context(), 1))
	check(t, w.epochs.raising.Acquire(t.Context(), 1))
	check(t, w.topology.turn.Acquire(t.Context(), 1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"replace":  w.ReplaceDrive(ctx, w.drives[0], topology.Drive{ID: topology.DriveID{9}}),
		"retire":   w.bg.retireDrives(ctx),
		"judge":    w.bg.collect.judge(ctx, w.drives[0], make([]metadata.StoredShard, 1)),
		"epoch":    w.nextEpoch(ctx),
		"topology": w.ReloadTopology(ctx),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.bg.placement.Release(1)
	w.epochs.raising.Release(1)
	w.topology.turn.Release(1)
}
