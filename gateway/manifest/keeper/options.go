package keeper

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Metadata is what the keeper reads of the replicated state. Both engines of
// metadata/replica are one. All reads see what was committed before.
type Metadata interface {
	Accounts(ctx context.Context) ([]metadata.Account, error)
	AccessKeys(ctx context.Context) ([]metadata.AccessKey, error)
	Bucket(ctx context.Context, name string) (*metadata.Bucket, error)
	BucketByID(ctx context.Context, id metadata.BucketID) (*metadata.Bucket, error)
	Buckets(ctx context.Context, prefix, after string, limit int) ([]metadata.Bucket, error)
	PGs(ctx context.Context) (*metadata.PGTable, error)
	Drives(ctx context.Context) (*metadata.DriveTable, error)
	Incarnation(ctx context.Context) (metadata.Incarnation, error)

	Settings(ctx context.Context, b metadata.BucketRef) (*metadata.Settings, error)
	Inline(ctx context.Context, b metadata.BucketRef, part metadata.PartID) ([]byte, error)
	ListPage(ctx context.Context, b metadata.BucketRef, list metadata.UploadID, page int) ([]metadata.Part, error)

	CommandVersion(ctx context.Context, group uint32) (uint16, error)
	Outbox(ctx context.Context, group uint32, after uint64, limit int) ([]metadata.OutboxEntry, error)
	ManifestMembers(ctx context.Context, group uint32) (*metadata.ManifestMembers, error)
	OpenKeys(ctx context.Context, group uint32, keys []metadata.KeyRef) ([]metadata.OpenedKey, error)
	PartChunks(ctx context.Context, b metadata.BucketRef, parts []metadata.PartID, after *metadata.ChunkRow, limit int) ([]metadata.ChunkRow, error)
	CurrentKeys(ctx context.Context, group uint32, after metadata.KeyRef, limit int) ([]metadata.KeyOrder, error)
	Orders(ctx context.Context, group uint32, keys []metadata.KeyRef) (*metadata.OrdersResult, error)
}

// Drives is what the keeper asks of drives. Every call returns in bounded time;
// one that was given up fails with metadata.ErrSlow and may still go on. Errors
// wrap the classes of package metadata.
type Drives interface {
	// Writable reports whether a drive takes records, Readable whether it can
	// be read. They answer from memory.
	Writable(drive topology.DriveID) bool
	Readable(drive topology.DriveID) bool

	// PutRecord writes a record; it is durable when PutRecord returns nil. It
	// does not change payload.
	PutRecord(ctx context.Context, drive topology.DriveID, rec *metadata.Record, payload metadata.Payload) error
	// Records calls yield for every record of one type, oldest first, and
	// never again after it has returned. Time in yield does not count.
	Records(ctx context.Context, drive topology.DriveID, typ metadata.RecordType, yield func(rec *metadata.Record, payload []byte) error) error
	// Free deletes records. Those that are not there are no error.
	Free(ctx context.Context, drive topology.DriveID, refs []metadata.ShardRef) error
	// Settle makes durable what was freed on a drive: until then a crash may
	// bring it back.
	Settle(ctx context.Context, drive topology.DriveID) error
	// Hanging reports whether a call that was given up still goes on, on any
	// drive.
	Hanging() bool
}

// RootKeys seals and opens the tables of the root.
type RootKeys = manifest.RootKeys

// Options adjusts a Keeper. Metadata, Drives, Propose and Epoch are required;
// zero values of the rest have the defaults named.
type Options struct {
	Metadata Metadata
	Drives   Drives
	// Propose commits a command. It sets all of it but kind, group and
	// payload, and repeats it while its outcome is unknown.
	Propose func(ctx context.Context, cmd *metadata.Command) error
	// Epoch lends the epoch that records carry until release is called.
	Epoch func() (epoch uint64, release func(), err error)

	Cluster seal.ClusterID
	// Keys unwraps the keys of a bucket; nil keys for one that has none. Nil
	// means that no bucket has.
	Keys func(ctx context.Context, row *metadata.Bucket) (*seal.BucketKeys, error)
	// RootKeys seals the tables of the root. Nil means that they are not
	// sealed.
	RootKeys RootKeys

	// Limit waits until n more bytes may be moved in the background. Manifests
	// of new commits do not ask. Nil means no limit.
	Limit func(ctx context.Context, n int64) error
	// Pressure reports whether drives are nearly full. Nil means never.
	Pressure func() bool
	// Allowed reports whether anything may be freed: not after a restore that
	// nobody has confirmed. Nil means always.
	Allowed func(ctx context.Context) (bool, error)

	// Linger is how long changes wait for others to share a record with. Zero
	// means 1 s, negative not at all.
	Linger time.Duration
	// WatchPeriod is how often manifest drives are looked at: whether they are
	// well, and what is to be filled. Zero means 10 s.
	WatchPeriod time.Duration
	// PassPeriod is how often all manifests are read and those freed that do
	// not count. It happens sooner if as much was written as there is. Zero
	// means 24 hours.
	PassPeriod time.Duration
	// FirstPass is how long after the start the first pass is, if no drives
	// are filled before, and how long a pass waits that was not allowed. Zero
	// means 1 hour.
	FirstPass time.Duration

	// Rand is the source of ids and keys, safe for concurrent use.
	Rand io.Reader
	// Now tells the time. Nil means time.Now.
	Now func() time.Time
	// Logger is for what operators should see. Nil discards it.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&o.Linger, time.Second)
	set(&o.WatchPeriod, 10*time.Second)
	set(&o.PassPeriod, 24*time.Hour)
	set(&o.FirstPass, time.Hour)
	if o.Keys == nil {
		o.Keys = func(context.Context, *metadata.Bucket) (*seal.BucketKeys, error) { return nil, nil }
	}
	if o.Limit == nil {
		o.Limit = func(ctx context.Context, _ int64) error { return context.Cause(ctx) }
	}
	if o.Pressure == nil {
		o.Pressure = func() bool { return false }
	}
	if o.Allowed == nil {
		o.Allowed = func(context.Context) (bool, error) { return true, nil }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Validate reports everything that is wrong with o, or nil.
func (o Options) Validate() error {
	var errs []error
	need := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New("keeper: options: "+text))
		}
	}
	need(o.Metadata != nil, "no metadata")
	need(o.Drives != nil, "no drives")
	need(o.Propose != nil, "no way to propose commands")
	need(o.Epoch != nil, "no epochs")
	need(o.Rand != nil, "no randomness")
	need(o.WatchPeriod >= 0 && o.PassPeriod >= 0 && o.FirstPass >= 0, "negative duration")
	return errors.Join(errs...)
}
