package node

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// ClusterID is the random UUID of a cluster, written on every drive.
type ClusterID [16]byte

// String returns the id as hexadecimal digits.
func (c ClusterID) String() string { return hex.EncodeToString(c[:]) }

// Clock is the time that a node lives by. A simulation gives its own.
type Clock interface {
	// Now returns the time. Differences of it should be monotonic.
	Now() time.Time

	// After returns a channel that receives once d has passed.
	After(d time.Duration) <-chan time.Time
}

// BadShard is a shard that a scrub found damaged or gone.
type BadShard struct {
	Drive topology.DriveID
	Shard metadata.StoredShard
	Err   error // wraps metadata.ErrCorrupt, metadata.ErrShardNotFound, or is unknown
}

// Options adjusts a Node. Clock and Cluster are required, the zero value of
// everything else is a working configuration.
type Options struct {
	// FS holds all drives. Nil means vfs.Default, the real file system.
	FS vfs.FS

	// IndexFS gives the file system on which the index of a drive lies, in
	// directory dir, around the one below: one that encrypts its files. It is
	// called once whenever a drive is opened, with the drive locked and the
	// index closed; the directory may be missing. If files of the index cannot
	// be read through it, the index is made anew; an error of IndexFS itself
	// keeps the drive from being opened. Nil means the one below.
	IndexFS func(drive topology.DriveID, dir string, below vfs.FS) (vfs.FS, error)

	// Clock is the time.
	Clock Clock

	// Rand gives drive and segment ids. Nil means crypto/rand.
	Rand io.Reader

	// Log receives what an operator should know. Nil means nothing is logged.
	Log *slog.Logger

	// Cluster is the cluster whose drives are opened; others are refused.
	Cluster ClusterID

	// Incarnations holds the incarnation that each drive is expected to have
	// at least. A drive with an older one is a copy made earlier and refused.
	// Drives that are not in the map are not checked.
	Incarnations map[topology.DriveID]uint64

	// SmallShardBytes is the largest shard, framed, that is buffered whole and
	// shares a segment with others. Zero means 1 MiB, which is also the most.
	SmallShardBytes int64

	// BufferBytes bounds the memory of all such buffers of the node. A shard
	// that does not fit gets a file of its own, so that clients that are slow
	// to send theirs hold nobody up. An eighth is kept for records of other
	// types and for compaction. Zero means 64 MiB.
	BufferBytes int64

	// SegmentBytes is the length at which a shared segment is sealed. Zero
	// means 256 MiB.
	SegmentBytes int64

	// PreallocateBytes is the step in which space is set aside for a shared
	// segment. Zero means 64 MiB, a negative value none.
	PreallocateBytes int64

	// QueueRecords bounds the records that wait for the writer of one drive;
	// more callers wait for room. Zero means 256.
	QueueRecords int

	// OpenFiles bounds the segment files that the node keeps open for reading.
	// Zero means 512.
	OpenFiles int

	// IndexCacheBytes is the block cache that the indexes of all drives share.
	// Zero means 32 MiB.
	IndexCacheBytes int64

	// BallastBytes is the length of the file that is given up when a device is
	// full, so that deletes have room to work. It is made once a device. Zero
	// means 1 % of the device, at most 8 GiB; a negative value none.
	BallastBytes int64

	// ReserveBytes is the free space of the device below which a drive accepts
	// no more shards. Zero means 1 % of the device, between 16 MiB and 4 GiB,
	// and no more than a twentieth of it.
	ReserveBytes int64

	// CapacityBytes is what each drive may hold. Zero means the device, shared
	// equally by the drives that lie on it.
	CapacityBytes int64

	// DiskUsage asks for the space of a device. Nil means FS.GetDiskUsage. A
	// file system that does not know is taken for endless.
	DiskUsage func(path string) (vfs.DiskUsage, error)

	// MaintenanceInterval is how often space is looked at, deleted files are
	// made durable and compaction is considered. Zero means 1 s. A negative
	// value means never: the caller is a simulation.
	MaintenanceInterval time.Duration

	// CompactLivePercent: a sealed segment with fewer live bytes is compacted.
	// Zero means 50.
	CompactLivePercent int

	// CompactGrace is how long the old file stays after its records were
	// moved. Zero means 10 s.
	CompactGrace time.Duration

	// HighWatermarkPercent of the capacity: above it compaction also takes
	// the emptiest segments that are less than nine tenths live. Zero means 90.
	HighWatermarkPercent int

	// ScrubBytesPerSecond limits how fast a scrub reads. Zero means 16 MiB/s,
	// a negative value no limit.
	ScrubBytesPerSecond int64

	// ScrubInterval is the time from the beginning of one scrub pass to that
	// of the next. Zero means 28 days, so that every byte is read within 30; a
	// negative value means that scrubs start on demand only.
	ScrubInterval time.Duration

	// OnBadShard is told of every shard that a scrub finds bad. It is called
	// by the scrubbing goroutine of the drive, so by several drives at once,
	// and may block to slow it down. Nil means that
	// they are only counted and logged.
	OnBadShard func(BadShard)

	faults      faults
	fsck        fsckMode
	filesPerDir int // zero means 4,096
}

// fsckMode is how a drive is opened by Fsck.
type fsckMode struct {
	on      bool // no background work, and every directory is listed
	rebuild bool // the index is made anew
	// bad is told of every record that is damaged or gone; nil unless on.
	bad func(BadRecord)
}

// faults switches off what makes a drive safe. Tests use it to show that they
// would notice.
type faults struct {
	skipDataSync  bool // do not sync segments
	skipDirSync   bool // do not sync directories
	ackEarly      bool // answer before the sync
	trustUnsealed bool // take unsealed segments for known on start
	freeEarly     bool // drop the old record of a shard before the new one is durable
	keepFreed     bool // compaction moves records without looking at the index
}

// Validate reports everything that is wrong with o, or nil.
func (o *Options) Validate() error {
	var errs []error
	if o.Clock == nil {
		errs = append(errs, errors.New("node: options need a clock"))
	}
	if o.Cluster == (ClusterID{}) {
		errs = append(errs, errors.New("node: options need a cluster id"))
	}
	if o.SmallShardBytes < 0 || o.SmallShardBytes > 1<<20 {
		errs = append(errs, fmt.Errorf("node: small shards of %d bytes, at most 1 MiB", o.SmallShardBytes))
	}
	if o.SegmentBytes < 0 || o.SegmentBytes > 0 && o.SegmentBytes < 4096 {
		errs = append(errs, fmt.Errorf("node: segments of %d bytes, at least 4096", o.SegmentBytes))
	}
	return errors.Join(errs...)
}

// withDefaults returns a copy of o with its zero fields filled in.
func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	o.Rand = &lockedReader{r: o.Rand} // drives read it at the same time
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.DiskUsage == nil {
		o.DiskUsage = o.FS.GetDiskUsage
	}
	defaultTo(&o.filesPerDir, filesPerDir)
	defaultTo(&o.SmallShardBytes, 1<<20)
	defaultTo(&o.BufferBytes, 64<<20)
	defaultTo(&o.SegmentBytes, 256<<20)
	defaultTo(&o.PreallocateBytes, 64<<20)
	defaultTo(&o.QueueRecords, 256)
	defaultTo(&o.OpenFiles, 512)
	defaultTo(&o.IndexCacheBytes, 32<<20)
	defaultTo(&o.MaintenanceInterval, time.Second)
	defaultTo(&o.CompactLivePercent, 50)
	defaultTo(&o.CompactGrace, 10*time.Second)
	defaultTo(&o.HighWatermarkPercent, 90)
	defaultTo(&o.ScrubBytesPerSecond, 16<<20)
	defaultTo(&o.ScrubInterval, 28*24*time.Hour)
	return o
}

func defaultTo[T ~int | ~int64](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// lockedReader lets several goroutines read from one source.
type lockedReader struct {
	mu sync.Mutex
	r  io.Reader
}

// Read implements io.Reader.
func (l *lockedReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}
