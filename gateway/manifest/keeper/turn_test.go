package keeper

import (
	"context"
	"errors"
	"testing"

	"github.com/ruche-storage/ruche/metadata"
)

// TestTurnsEndWithTheirContexts has whoever waits for somebody else to be done
// with drives or commits give up when told so.
func TestTurnsEndWithTheirContexts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ref := w.bucket("b", 1)
	row, err := w.meta.BucketByID(t.Context(), ref.ID)
	if err != nil {
		t.Fatal(err)
	}
	g, root := w.k.groups[1], w.k.groups[metadata.RootGroup]
	for _, turn := range []interface {
		Acquire(ctx context.Context, n int64) error
	}{g.turn, w.k.root.turn} {
		if err := turn.Acquire(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, f := range map[string]func() error{
		"page":           func() error { return g.writePage(ctx, []metadata.OutboxEntry{{Order: 1}}) },
		"members":        func() error { _, err := g.tend(ctx, &layout{}); return err },
		"filling":        func() error { return g.change(ctx, &metadata.ManifestMember{}, nil) },
		"outbox":         func() error { _, err := g.keepsOutbox(ctx); return err },
		"bucket":         func() error { return w.k.writeBucket(ctx, &change{KeyRef: metadata.KeyRef{Bucket: row.ID}}) },
		"root":           func() error { return w.k.root.write(ctx, w.k) },
		"tables":         func() error { return w.k.root.tend(ctx, w.k) },
		"outbox of root": func() error { _, err := root.keepsOutbox(ctx); return err },
	} {
		if err := f(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
