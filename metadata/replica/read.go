package replica

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// viewer lets reads see a state that holds everything that was answered before
// they began.
type viewer interface {
	// view calls read with the state of a group. What read returns is
	// returned as it is. If read does not return soon it may be called again,
	// with the same state from another store; view returns as soon as one of the
	// two has.
	view(ctx context.Context, group uint32, read func(state.View) error) error
}

// reader answers reads. Both engines embed it.
type reader struct{ from viewer }

// query runs a read of a group's rows.
func query[T any](ctx context.Context, r reader, group uint32, read func(state.View) (T, error)) (T, error) {
	type answer struct {
		res    T
		failed error
	}
	var none T
	var first atomic.Pointer[answer]
	err := r.from.view(ctx, group, func(v state.View) error {
		res, failed := read(v)
		first.CompareAndSwap(nil, &answer{res, failed})
		return nil
	})
	if err != nil {
		return none, err
	}
	a := first.Load()
	if a.failed != nil && !metadata.IsRejection(a.failed) {
		return none, fmt.Errorf("%w: %w", metadata.ErrUnavailable, a.failed)
	}
	return a.res, a.failed
}

// Accounts returns all accounts in order of id.
func (r reader) Accounts(ctx context.Context) ([]metadata.Account, error) {
	return query(ctx, r, metadata.RootGroup, func(v state.View) ([]metadata.Account, error) { return v.Accounts() })
}

// AccessKey returns an access key, or metadata.ErrNoSuchAccessKey.
func (r reader) AccessKey(ctx context.Context, id string) (*metadata.AccessKey, error) {
	return query(ctx, r, metadata.RootGroup, func(v state.View) (*metadata.AccessKey, error) { return v.AccessKey(id) })
}

// AccessKeys returns all access keys in order of id.
func (r reader) AccessKeys(ctx context.Context) ([]metadata.AccessKey, error) {
	return query(ctx, r, metadata.RootGroup, func(v state.View) ([]metadata.AccessKey, error) { return v.AccessKeys() })
}

// Bucket returns a bucket in any state, or metadata.ErrNoSuchBucket.
func (r reader) Bucket(ctx context.Context, name string) (*metadata.Bucket, error) {
	return query(ctx, r, metadata.RootGroup, func(v state.View) (*metadata.Bucket, error) { return v.Bucket(name) })
}

// BucketByID returns a bucket in any state, or metadata.ErrNoSuchBucket.
func (r reader) BucketByID(ctx context.Context, id metadata.BucketID) (*metadata.Bucket, error) {
	return query(ctx, r, metadata.RootGroup, func(v state.View) (*metadata.Bucket, error) { return v.BucketByID(id) })
}

// Buckets returns up to limit buckets in any state, in order of name.
func (r reader) Buckets(ctx context.Context, prefix, after string, limit int) ([]metadata.Bucket, error) {
	return query(ctx, r, metadata.RootGroup, func(v state.View) ([]metadata.Bucket, error) { return v.Buckets(prefix, after, limit) })
}

// PGs returns the placement groups, an empty table before the first.
func (r reader) PGs(ctx context.Context) (*metadata.PGTable, error) {
	return query(ctx, r, metadata.RootGroup, func(v state.View) (*metadata.PGTable, error) { return v.PGs(metadata.RootGroup) })
}

// Drives returns all drives, an empty table before the first.
func (r reader) Drives(ctx context.Context) (*metadata.DriveTable, error) {
	return query(ctx, r, metadata.RootGroup, func(v state.View) (*metadata.DriveTable, error) { return v.Drives() })
}

// Incarnation returns the cluster's incarnation.
func (r reader) Incarnation(ctx context.Context) (metadata.Incarnation, error) {
	return query(ctx, r, metadata.RootGroup, func(v state.View) (metadata.Incarnation, error) { return v.Incarnation() })
}

// Settings returns a bucket's settings, or metadata.ErrNoSuchBucket.
func (r reader) Settings(ctx context.Context, b metadata.BucketRef) (*metadata.Settings, error) {
	return query(ctx, r, b.Group, func(v state.View) (*metadata.Settings, error) { return v.Settings(b) })
}

// Usage returns what a bucket holds, or metadata.ErrNoSuchBucket.
func (r reader) Usage(ctx context.Context, b metadata.BucketRef) (metadata.Usage, error) {
	return query(ctx, r, b.Group, func(v state.View) (metadata.Usage, error) { return v.Usage(b) })
}

// Version returns a version, the current one for an empty id; see [state.View.Version].
func (r reader) Version(ctx context.Context, b metadata.BucketRef, key, versionID string) (*metadata.Version, error) {
	return query(ctx, r, b.Group, func(v state.View) (*metadata.Version, error) { return v.Version(b, key, versionID) })
}

// Open returns a version with its inline body or first chunks.
func (r reader) Open(ctx context.Context, b metadata.BucketRef, key, versionID string) (*metadata.Opened, error) {
	return query(ctx, r, b.Group, func(v state.View) (*metadata.Opened, error) { return v.Open(b, key, versionID) })
}

// Chunks returns up to limit chunks of a part from a number on.
func (r reader) Chunks(ctx context.Context, b metadata.BucketRef, part metadata.PartID, from uint32, limit int) ([]metadata.Chunk, error) {
	return query(ctx, r, b.Group, func(v state.View) ([]metadata.Chunk, error) { return v.Chunks(b, part, from, limit) })
}

// ChunkRows returns up to limit chunks of a group behind the given one.
func (r reader) ChunkRows(ctx context.Context, group uint32, after *metadata.ChunkRow, limit int) ([]metadata.ChunkRow, error) {
	return query(ctx, r, group, func(v state.View) ([]metadata.ChunkRow, error) { return v.ChunkRows(group, after, limit) })
}

// Inline returns the sealed body of an inline part, or metadata.ErrInvalidPart.
func (r reader) Inline(ctx context.Context, b metadata.BucketRef, part metadata.PartID) ([]byte, error) {
	return query(ctx, r, b.Group, func(v state.View) ([]byte, error) { return v.Inline(b, part) })
}

// ListPage returns the parts of one page of a part list, or metadata.ErrInvalidPart.
func (r reader) ListPage(ctx context.Context, b metadata.BucketRef, list metadata.UploadID, page int) ([]metadata.Part, error) {
	return query(ctx, r, b.Group, func(v state.View) ([]metadata.Part, error) { return v.ListPage(b, list, page) })
}

// List returns a page of current versions.
func (r reader) List(ctx context.Context, q *metadata.ListQuery) (*metadata.ListResult, error) {
	return query(ctx, r, q.Bucket.Group, func(v state.View) (*metadata.ListResult, error) { return v.List(q) })
}

// Versions returns a page of all versions.
func (r reader) Versions(ctx context.Context, q *metadata.VersionsQuery) (*metadata.ListResult, error) {
	return query(ctx, r, q.Bucket.Group, func(v state.View) (*metadata.ListResult, error) { return v.Versions(q) })
}

// Upload returns an upload in progress, or metadata.ErrNoSuchUpload.
func (r reader) Upload(ctx context.Context, b metadata.BucketRef, key string, id metadata.UploadID) (*metadata.Upload, error) {
	return query(ctx, r, b.Group, func(v state.View) (*metadata.Upload, error) { return v.Upload(b, key, id) })
}

// Uploads returns a page of the uploads in progress.
func (r reader) Uploads(ctx context.Context, q *metadata.UploadsQuery) (*metadata.UploadsResult, error) {
	return query(ctx, r, q.Bucket.Group, func(v state.View) (*metadata.UploadsResult, error) { return v.Uploads(q) })
}

// Parts returns up to limit parts of an upload after a number.
func (r reader) Parts(ctx context.Context, b metadata.BucketRef, id metadata.UploadID, after uint32, limit int) ([]metadata.Part, error) {
	return query(ctx, r, b.Group, func(v state.View) ([]metadata.Part, error) { return v.Parts(b, id, after, limit) })
}

// Fence returns the fence of a group, the zero value before the first.
func (r reader) Fence(ctx context.Context, group uint32) (metadata.Fence, error) {
	return query(ctx, r, group, func(v state.View) (metadata.Fence, error) { return v.Fence(group) })
}

// Trash returns up to limit rows of a group's trash behind an order.
func (r reader) Trash(ctx context.Context, group uint32, after uint64, limit int) ([]metadata.Trash, error) {
	return query(ctx, r, group, func(v state.View) ([]metadata.Trash, error) { return v.Trash(group, after, limit) })
}

// TrashParts returns up to limit parts of a trash row that are not dropped
// yet.
func (r reader) TrashParts(ctx context.Context, group uint32, t *metadata.Trash, limit int) ([]metadata.Part, error) {
	return query(ctx, r, group, func(v state.View) ([]metadata.Part, error) { return v.TrashParts(group, t, limit) })
}

// Short returns up to limit chunks with too few shards behind the given one.
func (r reader) Short(ctx context.Context, group uint32, after *metadata.Short, limit int) ([]metadata.Short, error) {
	return query(ctx, r, group, func(v state.View) ([]metadata.Short, error) { return v.Short(group, after, limit) })
}

// Lookup answers all refs from one snapshot of a group.
func (r reader) Lookup(ctx context.Context, group uint32, refs []metadata.LookupRef) (*metadata.LookupResult, error) {
	return query(ctx, r, group, func(v state.View) (*metadata.LookupResult, error) { return v.Lookup(group, refs) })
}

// Head returns what a group knows of itself.
func (r reader) Head(ctx context.Context, group uint32) (metadata.Head, error) {
	return query(ctx, r, group, func(v state.View) (metadata.Head, error) { return v.Head(group) })
}

// Completed returns the version that an upload became and the hash of the list
// it was completed with, or metadata.ErrNoSuchUpload.
func (r reader) Completed(ctx context.Context, b metadata.BucketRef, key string, id metadata.UploadID) (*metadata.Version, metadata.Sum, error) {
	type answer struct {
		version *metadata.Version
		hash    metadata.Sum
	}
	a, err := query(ctx, r, b.Group, func(v state.View) (answer, error) {
		version, hash, err := v.Completed(b, key, id)
		return answer{version, hash}, err
	})
	return a.version, a.hash, err
}

// InlineBytes returns how many sealed bytes of inline bodies a group keeps and
// how many it keeps at most.
func (r reader) InlineBytes(ctx context.Context, group uint32) (used, limit int64, err error) {
	h, err := r.Head(ctx, group)
	return h.InlineBytes, state.InlineLimitBytes, err
}
