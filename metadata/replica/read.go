package replica

import (
	"context"
	"fmt"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// query runs a read against the newest durable state.
func query[T any](ctx context.Context, l *Local, read func(state.View) (T, error)) (T, error) {
	var none T
	l.life.RLock()
	defer l.life.RUnlock()
	if err := l.usable(); err != nil {
		return none, err
	}
	if ctx.Err() != nil {
		return none, fmt.Errorf("replica: %w", context.Cause(ctx))
	}
	s := l.acquire()
	defer l.release(s)
	res, err := read(state.NewView(s.snap))
	if err != nil && !metadata.IsRejection(err) {
		return none, fmt.Errorf("%w: %w", metadata.ErrUnavailable, err)
	}
	return res, err
}

// Accounts returns all accounts in order of id.
func (l *Local) Accounts(ctx context.Context) ([]metadata.Account, error) {
	return query(ctx, l, func(v state.View) ([]metadata.Account, error) { return v.Accounts() })
}

// AccessKey returns an access key, or metadata.ErrNoSuchAccessKey.
func (l *Local) AccessKey(ctx context.Context, id string) (*metadata.AccessKey, error) {
	return query(ctx, l, func(v state.View) (*metadata.AccessKey, error) { return v.AccessKey(id) })
}

// AccessKeys returns all access keys in order of id.
func (l *Local) AccessKeys(ctx context.Context) ([]metadata.AccessKey, error) {
	return query(ctx, l, func(v state.View) ([]metadata.AccessKey, error) { return v.AccessKeys() })
}

// Bucket returns a bucket in any state, or metadata.ErrNoSuchBucket.
func (l *Local) Bucket(ctx context.Context, name string) (*metadata.Bucket, error) {
	return query(ctx, l, func(v state.View) (*metadata.Bucket, error) { return v.Bucket(name) })
}

// BucketByID returns a bucket in any state, or metadata.ErrNoSuchBucket.
func (l *Local) BucketByID(ctx context.Context, id metadata.BucketID) (*metadata.Bucket, error) {
	return query(ctx, l, func(v state.View) (*metadata.Bucket, error) { return v.BucketByID(id) })
}

// Buckets returns up to limit buckets in any state, in order of name.
func (l *Local) Buckets(ctx context.Context, prefix, after string, limit int) ([]metadata.Bucket, error) {
	return query(ctx, l, func(v state.View) ([]metadata.Bucket, error) { return v.Buckets(prefix, after, limit) })
}

// PGs returns the placement groups, an empty table before the first.
func (l *Local) PGs(ctx context.Context) (*metadata.PGTable, error) {
	return query(ctx, l, func(v state.View) (*metadata.PGTable, error) { return v.PGs(metadata.RootGroup) })
}

// Drives returns all drives, an empty table before the first.
func (l *Local) Drives(ctx context.Context) (*metadata.DriveTable, error) {
	return query(ctx, l, func(v state.View) (*metadata.DriveTable, error) { return v.Drives() })
}

// Incarnation returns the cluster's incarnation.
func (l *Local) Incarnation(ctx context.Context) (metadata.Incarnation, error) {
	return query(ctx, l, func(v state.View) (metadata.Incarnation, error) { return v.Incarnation() })
}

// Settings returns a bucket's settings, or metadata.ErrNoSuchBucket.
func (l *Local) Settings(ctx context.Context, b metadata.BucketRef) (*metadata.Settings, error) {
	return query(ctx, l, func(v state.View) (*metadata.Settings, error) { return v.Settings(b) })
}

// Usage returns what a bucket holds, or metadata.ErrNoSuchBucket.
func (l *Local) Usage(ctx context.Context, b metadata.BucketRef) (metadata.Usage, error) {
	return query(ctx, l, func(v state.View) (metadata.Usage, error) { return v.Usage(b) })
}

// Version returns a version, the current one for an empty id; see [state.View.Version].
func (l *Local) Version(ctx context.Context, b metadata.BucketRef, key, versionID string) (*metadata.Version, error) {
	return query(ctx, l, func(v state.View) (*metadata.Version, error) { return v.Version(b, key, versionID) })
}

// Open returns a version with its inline body or first chunks.
func (l *Local) Open(ctx context.Context, b metadata.BucketRef, key, versionID string) (*metadata.Opened, error) {
	return query(ctx, l, func(v state.View) (*metadata.Opened, error) { return v.Open(b, key, versionID) })
}

// Chunks returns up to limit chunks of a part from a number on.
func (l *Local) Chunks(ctx context.Context, b metadata.BucketRef, part metadata.PartID, from uint32, limit int) ([]metadata.Chunk, error) {
	return query(ctx, l, func(v state.View) ([]metadata.Chunk, error) { return v.Chunks(b, part, from, limit) })
}

// ChunkRows returns up to limit chunks of a group behind the given one.
func (l *Local) ChunkRows(ctx context.Context, group uint32, after *metadata.ChunkRow, limit int) ([]metadata.ChunkRow, error) {
	return query(ctx, l, func(v state.View) ([]metadata.ChunkRow, error) { return v.ChunkRows(group, after, limit) })
}

// Inline returns the sealed body of an inline part, or metadata.ErrInvalidPart.
func (l *Local) Inline(ctx context.Context, b metadata.BucketRef, part metadata.PartID) ([]byte, error) {
	return query(ctx, l, func(v state.View) ([]byte, error) { return v.Inline(b, part) })
}

// ListPage returns the parts of one page of a part list, or metadata.ErrInvalidPart.
func (l *Local) ListPage(ctx context.Context, b metadata.BucketRef, list metadata.UploadID, page int) ([]metadata.Part, error) {
	return query(ctx, l, func(v state.View) ([]metadata.Part, error) { return v.ListPage(b, list, page) })
}

// List returns a page of current versions.
func (l *Local) List(ctx context.Context, q *metadata.ListQuery) (*metadata.ListResult, error) {
	return query(ctx, l, func(v state.View) (*metadata.ListResult, error) { return v.List(q) })
}

// Versions returns a page of all versions.
func (l *Local) Versions(ctx context.Context, q *metadata.VersionsQuery) (*metadata.ListResult, error) {
	return query(ctx, l, func(v state.View) (*metadata.ListResult, error) { return v.Versions(q) })
}

// Upload returns an upload in progress, or metadata.ErrNoSuchUpload.
func (l *Local) Upload(ctx context.Context, b metadata.BucketRef, key string, id metadata.UploadID) (*metadata.Upload, error) {
	return query(ctx, l, func(v state.View) (*metadata.Upload, error) { return v.Upload(b, key, id) })
}

// Uploads returns a page of the uploads in progress.
func (l *Local) Uploads(ctx context.Context, q *metadata.UploadsQuery) (*metadata.UploadsResult, error) {
	return query(ctx, l, func(v state.View) (*metadata.UploadsResult, error) { return v.Uploads(q) })
}

// Parts returns up to limit parts of an upload after a number.
func (l *Local) Parts(ctx context.Context, b metadata.BucketRef, id metadata.UploadID, after uint32, limit int) ([]metadata.Part, error) {
	return query(ctx, l, func(v state.View) ([]metadata.Part, error) { return v.Parts(b, id, after, limit) })
}

// Fence returns the fence of a group, the zero value before the first.
func (l *Local) Fence(ctx context.Context, group uint32) (metadata.Fence, error) {
	return query(ctx, l, func(v state.View) (metadata.Fence, error) { return v.Fence(group) })
}

// Trash returns up to limit rows of a group's trash behind an order.
func (l *Local) Trash(ctx context.Context, group uint32, after uint64, limit int) ([]metadata.Trash, error) {
	return query(ctx, l, func(v state.View) ([]metadata.Trash, error) { return v.Trash(group, after, limit) })
}

// TrashParts returns up to limit parts of a trash row that are not dropped
// yet.
func (l *Local) TrashParts(ctx context.Context, group uint32, t *metadata.Trash, limit int) ([]metadata.Part, error) {
	return query(ctx, l, func(v state.View) ([]metadata.Part, error) { return v.TrashParts(group, t, limit) })
}

// Short returns up to limit chunks with too few shards behind the given one.
func (l *Local) Short(ctx context.Context, group uint32, after *metadata.Short, limit int) ([]metadata.Short, error) {
	return query(ctx, l, func(v state.View) ([]metadata.Short, error) { return v.Short(group, after, limit) })
}

// Lookup answers all refs from one snapshot of a group.
func (l *Local) Lookup(ctx context.Context, group uint32, refs []metadata.LookupRef) (*metadata.LookupResult, error) {
	return query(ctx, l, func(v state.View) (*metadata.LookupResult, error) { return v.Lookup(group, refs) })
}

// Head returns what a group knows of itself.
func (l *Local) Head(ctx context.Context, group uint32) (metadata.Head, error) {
	return query(ctx, l, func(v state.View) (metadata.Head, error) { return v.Head(group) })
}

// Completed returns the version that an upload became and the hash of the list
// it was completed with, or metadata.ErrNoSuchUpload.
func (l *Local) Completed(ctx context.Context, b metadata.BucketRef, key string, id metadata.UploadID) (*metadata.Version, metadata.Sum, error) {
	type answer struct {
		version *metadata.Version
		hash    metadata.Sum
	}
	a, err := query(ctx, l, func(v state.View) (answer, error) {
		version, hash, err := v.Completed(b, key, id)
		return answer{version, hash}, err
	})
	return a.version, a.hash, err
}

// InlineBytes returns how many sealed bytes of inline bodies a group keeps and
// how many it keeps at most.
func (l *Local) InlineBytes(ctx context.Context, group uint32) (used, limit int64, err error) {
	h, err := l.Head(ctx, group)
	return h.InlineBytes, state.InlineLimitBytes, err
}
