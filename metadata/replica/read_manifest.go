package replica

import (
	"context"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// Outbox returns up to limit entries of a group's outbox behind an order.
func (r reader) Outbox(ctx context.Context, group uint32, after uint64, limit int) ([]metadata.OutboxEntry, error) {
	return query(ctx, r, group, func(v state.View) ([]metadata.OutboxEntry, error) { return v.Outbox(group, after, limit) })
}

// ManifestMembers returns the manifest drives of a group, the zero value
// before the first.
func (r reader) ManifestMembers(ctx context.Context, group uint32) (*metadata.ManifestMembers, error) {
	return query(ctx, r, group, func(v state.View) (*metadata.ManifestMembers, error) { return v.ManifestMembers(group) })
}

// OpenKeys opens the current versions of keys in one snapshot: see
// [state.View.OpenKeys].
func (r reader) OpenKeys(ctx context.Context, group uint32, keys []metadata.KeyRef) ([]metadata.OpenedKey, error) {
	return query(ctx, r, group, func(v state.View) ([]metadata.OpenedKey, error) { return v.OpenKeys(group, keys) })
}

// PartChunks returns up to limit chunks of parts of a bucket, in the order of
// the parts, behind the given one.
func (r reader) PartChunks(ctx context.Context, b metadata.BucketRef, parts []metadata.PartID, after *metadata.ChunkRow, limit int) ([]metadata.ChunkRow, error) {
	return query(ctx, r, b.Group, func(v state.View) ([]metadata.ChunkRow, error) { return v.PartChunks(b, parts, after, limit) })
}

// CurrentKeys returns up to limit keys of a group that have a current version,
// behind the given one.
func (r reader) CurrentKeys(ctx context.Context, group uint32, after metadata.KeyRef, limit int) ([]metadata.KeyOrder, error) {
	return query(ctx, r, group, func(v state.View) ([]metadata.KeyOrder, error) { return v.CurrentKeys(group, after, limit) })
}

// Orders returns the orders of the current versions of keys, and the highest
// that the group has given.
func (r reader) Orders(ctx context.Context, group uint32, keys []metadata.KeyRef) (*metadata.OrdersResult, error) {
	return query(ctx, r, group, func(v state.View) (*metadata.OrdersResult, error) { return v.Orders(group, keys) })
}

// CommandVersion returns the command version of a group, 1 unless it was
// raised.
func (r reader) CommandVersion(ctx context.Context, group uint32) (uint16, error) {
	return query(ctx, r, group, func(v state.View) (uint16, error) { return v.CommandVersion(group) })
}
