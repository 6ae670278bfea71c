package object

import (
	"context"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Shards is what the engine asks of storage nodes. Errors wrap one of the
// classes metadata.ErrShardNotFound, ErrCorrupt, ErrFenced, ErrDriveFull,
// ErrDriveAbsent or ErrSlow; anything else is unknown. All methods may be
// called concurrently.
//
// Offsets and lengths of shard bytes are *framed*: each cell is followed by
// its 8-byte checksum, as package erasure lays them out. The gateway makes the
// checksums and verifies them again before decoding; nodes check them when
// they scrub.
type Shards interface {
	// Create begins the shard record rec on drive. framedBytes is the length
	// of all that will be written, or -1 if it is not known yet. Nothing can
	// be read back until Close of the writer has returned nil.
	Create(ctx context.Context, drive topology.DriveID, rec *metadata.Record, framedBytes int64) (ShardWriter, error)

	// CreateNew is Create for a shard of a new chunk: the caller is certain that
	// it was never written before, and the drive need not look for older
	// records of it.
	CreateNew(ctx context.Context, drive topology.DriveID, rec *metadata.Record, framedBytes int64) (ShardWriter, error)

	// ReadAt fills dst with the framed bytes of a shard from offset off. It
	// fails with metadata.ErrCorrupt if the record is shorter or its header
	// is damaged. The bytes themselves are not verified.
	ReadAt(ctx context.Context, drive topology.DriveID, ref metadata.ShardRef, dst []byte, off int64) error

	// Stat returns the header and footer of a shard, sums included.
	Stat(ctx context.Context, drive topology.DriveID, ref metadata.ShardRef) (*metadata.StoredShard, error)

	// Verify reads the whole shard and checks every cell, the shard sum and
	// the footer. It returns nil, metadata.ErrCorrupt or another class.
	Verify(ctx context.Context, drive topology.DriveID, ref metadata.ShardRef) error

	// Confirm says that metadata refers to these shards: their rows become
	// live. It is a hint that may be lost in a crash.
	Confirm(ctx context.Context, drive topology.DriveID, refs []metadata.ShardRef) error

	// Free deletes shards and records of other types, all of each id. Ids that
	// are not there are no error. The space may be reclaimed later.
	Free(ctx context.Context, drive topology.DriveID, refs []metadata.ShardRef) error

	// Settle makes durable what was freed: no row of a shard or another record
	// that was freed before the call comes back in a crash as it was. An index
	// that must be made anew may find shards, which are pending then.
	Settle(ctx context.Context, drive topology.DriveID) error

	// List returns up to limit rows of the drive's index, in order of
	// placement group, chunk and index, after the given row (the zero value
	// for the first). With pendingOnly it leaves out live rows. Rows are
	// returned once a shard id, however many records there are of it.
	List(ctx context.Context, drive topology.DriveID, after metadata.ShardRef, pendingOnly bool, limit int) ([]metadata.StoredShard, error)

	// PutRecord writes a record of another type than a shard. It is durable
	// when PutRecord returns nil. The payload's sum is stored as it is: a record
	// whose payload has another is damaged.
	PutRecord(ctx context.Context, drive topology.DriveID, rec *metadata.Record, payload metadata.Payload) error

	// Records calls yield for every record of one type on the drive, oldest
	// first, until yield returns an error, which it returns.
	Records(ctx context.Context, drive topology.DriveID, typ metadata.RecordType, yield func(rec *metadata.Record, payload []byte) error) error
}

// ShardWriter takes the framed bytes of one shard. It is used by one goroutine
// at a time and must end with Close or Abort. It is an alias, so that package
// node, which may not import this one, implements Shards as it is.
type ShardWriter = interface {
	// Write appends framed bytes: whole cells, each followed by its checksum.
	// It does not keep p and, unlike an io.Writer, may change it.
	Write(p []byte) (int, error)

	// Close writes the footer. A nil error means that the shard and every
	// directory entry needed to find it are on stable storage.
	Close(f *metadata.Footer) error

	// Abort discards what was written. After Close it does nothing.
	Abort()
}
