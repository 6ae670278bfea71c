package object

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/ruche-storage/ruche/gateway/manifest/keeper"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Keys wraps and unwraps the keys of accounts. The keyring is behind it. Its
// methods may be called concurrently.
type Keys interface {
	// WrapAccount wraps the key of an account under a master key, and names
	// that master key.
	WrapAccount(ctx context.Context, account metadata.AccountID, key metadata.KeyID, plain seal.Key) (master metadata.KeyID, wrapped []byte, err error)
	// UnwrapAccount is the reverse.
	UnwrapAccount(ctx context.Context, account metadata.AccountID, key, master metadata.KeyID, wrapped []byte) (seal.Key, error)
}

// Condition is what is known of a drive at the moment.
type Condition struct {
	Readable bool // mounted and not fenced
	Writable bool // readable and takes new shards

	// FreeBytes is the room for new shards; 0 if it is not known. Queue is
	// how many writes wait. Both weigh in the choice of placement groups.
	FreeBytes int64
	Queue     int
}

// Drives tells the condition of drives. It is asked for every chunk and so
// must answer from memory. Drives it does not know are neither readable nor
// writable.
type Drives interface {
	Condition(drive topology.DriveID) Condition
}

// DriveLoss says what becomes of writes while a drive is missing and the
// scheme has one parity shard: then k shards are all that could be written.
type DriveLoss uint8

const (
	// DriveLossRefuse refuses them: an acknowledged object survives the loss
	// of any one drive.
	DriveLossRefuse DriveLoss = 0
	// DriveLossDegrade takes them with k shards.
	DriveLossDegrade DriveLoss = 1
)

// Options adjusts an Engine. Metadata, Shards and Drives are required, Keys
// too if Encryption is on; zero values of the rest have the defaults named.
type Options struct {
	Metadata Metadata
	Shards   Shards
	Drives   Drives
	Keys     Keys
	// RootKeys seals the tables of the root group on drives. Nil means that
	// they are not sealed.
	RootKeys keeper.RootKeys

	// Cluster is the id of the cluster; wrapped keys are bound to it.
	Cluster seal.ClusterID
	// Region is what buckets are created in.
	Region string
	// Encryption seals what is written. What was written otherwise stays
	// readable.
	Encryption bool
	// HighestEpoch is the highest epoch that any drive has seen.
	HighestEpoch uint64

	// InlineBytes is the longest body, sealed, that is kept in the metadata.
	// Zero means 16 KiB, negative none.
	InlineBytes int
	// StripeBudgetBytes bounds the memory of all stripes being written.
	// Zero means 256 MiB. A PUT takes one or two stripes of (k+m)*64 KiB.
	StripeBudgetBytes int64
	// ReadBudgetBytes bounds the memory of all runs being read. Zero means
	// 256 MiB. A GET takes one or two runs of about 1 MiB.
	ReadBudgetBytes int64
	// BudgetWait is how long a request waits for its first stripe or run
	// before it fails with ErrBusy. Zero means 2 s.
	BudgetWait time.Duration
	// OnDriveLoss says what becomes of writes with one parity shard and a
	// drive missing.
	OnDriveLoss DriveLoss
	// EpochPeriod is the time between two epochs. Zero means 10 minutes.
	EpochPeriod time.Duration
	// TrashGrace is how long the collector keeps trash at least. The data
	// path only publishes it. Zero means 1 hour.
	TrashGrace time.Duration
	// StallTimeout is how long a write waits without any progress for drives
	// that it cannot do without, six times over, before it fails. Zero means
	// 10 s.
	StallTimeout time.Duration
	// LagTimeout is how much longer than the others a drive may take for its
	// shard of a write that can do without it. The shard is then recorded as
	// short, and the drive is suspect: it is written to no more until probes,
	// one in each such time, were in time. Zero means 1 s.
	LagTimeout time.Duration
	// HedgeAfter is the least time before a further shard is asked for, and
	// before a drive that is late against the others counts as such. Zero means
	// 10 ms.
	HedgeAfter time.Duration
	// ReadTimeout is how long a drive may take for one read before its shard
	// counts as lost for that read. Zero means 5 s.
	ReadTimeout time.Duration
	// CommitTimeout is how long a commit whose outcome is unknown is repeated
	// before the request fails. Zero means 30 s.
	CommitTimeout time.Duration
	// CloseTimeout is how long Close waits for calls on drives. Zero means
	// 10 s.
	CloseTimeout time.Duration
	// TopologyPeriod is how often the tables of drives and placement groups
	// are read again. They are also read when a chunk names a group that is
	// not known. Zero means 10 s.
	TopologyPeriod time.Duration

	// Background, if not nil, has the engine repair, rebuild, collect garbage
	// and look after buckets and records. Exactly one engine of a cluster does.
	Background *BackgroundOptions

	// Rand is the source of ids and keys. Nil means crypto/rand.
	Rand io.Reader
	// Now is used to measure how long drives take. Nil means time.Now.
	Now func() time.Time
	// Logger is for what operators should see. Nil discards it.
	Logger *slog.Logger
}

// withDefaults returns a copy of o with its zero fields filled in.
func (o Options) withDefaults() Options {
	o.InlineBytes = max(0, cmp.Or(o.InlineBytes, 16<<10))
	o.StripeBudgetBytes = cmp.Or(o.StripeBudgetBytes, 256<<20)
	o.ReadBudgetBytes = cmp.Or(o.ReadBudgetBytes, 256<<20)
	o.BudgetWait = cmp.Or(o.BudgetWait, 2*time.Second)
	o.EpochPeriod = cmp.Or(o.EpochPeriod, 10*time.Minute)
	o.TrashGrace = cmp.Or(o.TrashGrace, time.Hour)
	o.StallTimeout = cmp.Or(o.StallTimeout, 10*time.Second)
	o.LagTimeout = cmp.Or(o.LagTimeout, time.Second)
	o.HedgeAfter = cmp.Or(o.HedgeAfter, 10*time.Millisecond)
	o.ReadTimeout = cmp.Or(o.ReadTimeout, 5*time.Second)
	o.CommitTimeout = cmp.Or(o.CommitTimeout, 30*time.Second)
	o.CloseTimeout = cmp.Or(o.CloseTimeout, 10*time.Second)
	o.TopologyPeriod = cmp.Or(o.TopologyPeriod, 10*time.Second)
	if o.Rand == nil {
		o.Rand = rand.Reader
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
			errs = append(errs, errors.New("object: options: "+text))
		}
	}
	need(o.Metadata != nil, "no metadata")
	need(o.Shards != nil, "no shards")
	need(o.Drives != nil, "no drives")
	need(!o.Encryption || o.Keys != nil, "encryption without keys")
	if o.Background != nil {
		errs = append(errs, o.Background.Validate())
	}
	need(o.InlineBytes <= 1<<20, fmt.Sprintf("inline bodies of %d bytes, at most 1 MiB", o.InlineBytes))
	need(o.StripeBudgetBytes == 0 || o.StripeBudgetBytes >= minBudgetBytes, "stripe budget below 8 MiB")
	need(o.ReadBudgetBytes == 0 || o.ReadBudgetBytes >= minBudgetBytes, "read budget below 8 MiB")
	for _, d := range []time.Duration{o.BudgetWait, o.EpochPeriod, o.TrashGrace, o.StallTimeout,
		o.LagTimeout, o.HedgeAfter, o.ReadTimeout, o.CommitTimeout, o.CloseTimeout, o.TopologyPeriod} {
		need(d >= 0, fmt.Sprintf("negative duration %v", d))
	}
	return errors.Join(errs...)
}

// minBudgetBytes fits a stripe of 32 shards and a compressor, so that no
// request waits for what can never be free.
const minBudgetBytes = 8 << 20
