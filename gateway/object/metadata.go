package object

import (
	"context"

	"github.com/ruche-storage/ruche/metadata"
)

// Metadata is what the engine asks of the replicated state. Reads are
// linearizable: they see every command whose Commit has returned. All methods
// may be called concurrently. What they return is the caller's, who may change
// it: inline bodies are opened where they lie.
//
// Errors are rejections (metadata.ErrNoSuchBucket, ErrNoSuchKey and so on),
// metadata.ErrOverloaded, ErrUnknownOutcome or ErrUnavailable.
type Metadata interface {
	// Commit proposes cmd to its group and waits until it is applied and
	// durable. A rejection is returned as the error, with the result beside
	// it. The engine of the metadata sets Stamp; cmd is not changed otherwise.
	Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error)

	// Root group.
	Accounts(ctx context.Context) ([]metadata.Account, error)
	AccessKey(ctx context.Context, id string) (*metadata.AccessKey, error)
	AccessKeys(ctx context.Context) ([]metadata.AccessKey, error)
	Bucket(ctx context.Context, name string) (*metadata.Bucket, error) // in any state
	BucketByID(ctx context.Context, id metadata.BucketID) (*metadata.Bucket, error)
	Buckets(ctx context.Context, prefix, after string, limit int) ([]metadata.Bucket, error) // in any state
	PGs(ctx context.Context) (*metadata.PGTable, error)                                      // zero table before the first
	Drives(ctx context.Context) (*metadata.DriveTable, error)
	Incarnation(ctx context.Context) (metadata.Incarnation, error)

	// A bucket's group.
	Settings(ctx context.Context, b metadata.BucketRef) (*metadata.Settings, error)
	Usage(ctx context.Context, b metadata.BucketRef) (metadata.Usage, error)
	Version(ctx context.Context, b metadata.BucketRef, key, versionID string) (*metadata.Version, error)
	Open(ctx context.Context, b metadata.BucketRef, key, versionID string) (*metadata.Opened, error)
	Chunks(ctx context.Context, b metadata.BucketRef, part metadata.PartID, from uint32, limit int) ([]metadata.Chunk, error)
	Inline(ctx context.Context, b metadata.BucketRef, part metadata.PartID) ([]byte, error)
	// ListPage returns the parts of one page of a part list, by the page's index.
	ListPage(ctx context.Context, b metadata.BucketRef, list metadata.UploadID, page int) ([]metadata.Part, error)
	List(ctx context.Context, q *metadata.ListQuery) (*metadata.ListResult, error)
	Versions(ctx context.Context, q *metadata.VersionsQuery) (*metadata.ListResult, error)
	Upload(ctx context.Context, b metadata.BucketRef, key string, id metadata.UploadID) (*metadata.Upload, error)
	Uploads(ctx context.Context, q *metadata.UploadsQuery) (*metadata.UploadsResult, error)
	// Parts returns up to limit parts of an upload after a part number.
	Parts(ctx context.Context, b metadata.BucketRef, id metadata.UploadID, after uint32, limit int) ([]metadata.Part, error)
	// Completed returns the version an upload became and the hash of the list
	// it was completed with, or ErrNoSuchUpload. It is known for 7 days.
	Completed(ctx context.Context, b metadata.BucketRef, key string, id metadata.UploadID) (*metadata.Version, metadata.Sum, error)

	// A whole group, for the collector and for repair.
	Fence(ctx context.Context, group uint32) (metadata.Fence, error)
	Trash(ctx context.Context, group uint32, after uint64, limit int) ([]metadata.Trash, error)
	// TrashParts returns up to limit parts of a trash row that are not dropped yet.
	TrashParts(ctx context.Context, group uint32, t *metadata.Trash, limit int) ([]metadata.Part, error)
	Short(ctx context.Context, group uint32, after *metadata.Short, limit int) ([]metadata.Short, error)
	// ChunkRows returns up to limit chunks of a group behind the given one.
	ChunkRows(ctx context.Context, group uint32, after *metadata.ChunkRow, limit int) ([]metadata.ChunkRow, error)
	// CommandVersion returns the command version of a group.
	CommandVersion(ctx context.Context, group uint32) (uint16, error)
	// Outbox returns up to limit entries of a group's outbox behind an order.
	Outbox(ctx context.Context, group uint32, after uint64, limit int) ([]metadata.OutboxEntry, error)
	// ManifestMembers returns the manifest drives of a group, the zero value
	// before the first.
	ManifestMembers(ctx context.Context, group uint32) (*metadata.ManifestMembers, error)
	// OpenKeys opens the current versions of keys in one snapshot, perhaps
	// only of the first few: see state.View.
	OpenKeys(ctx context.Context, group uint32, keys []metadata.KeyRef) ([]metadata.OpenedKey, error)
	// PartChunks returns up to limit chunks of parts, behind the given one.
	PartChunks(ctx context.Context, b metadata.BucketRef, parts []metadata.PartID, after *metadata.ChunkRow, limit int) ([]metadata.ChunkRow, error)
	// CurrentKeys returns up to limit keys of a group behind the given one.
	CurrentKeys(ctx context.Context, group uint32, after metadata.KeyRef, limit int) ([]metadata.KeyOrder, error)
	// Orders returns the orders of the current versions of keys.
	Orders(ctx context.Context, group uint32, keys []metadata.KeyRef) (*metadata.OrdersResult, error)
	// Lookup answers all refs from one snapshot of the group.
	Lookup(ctx context.Context, group uint32, refs []metadata.LookupRef) (*metadata.LookupResult, error)
}
