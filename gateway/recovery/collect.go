package recovery

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Collection is all that the drives tell. It is used by one goroutine.
type Collection struct {
	o        Options
	root     *manifest.Root
	accounts map[metadata.AccountID]*account
	buckets  map[metadata.BucketID]*bucket
	sorted   *sorter
	report   Report
	epoch    uint64 // the highest of any drive
	admitted bool   // drives were put into the tables

	mu       sync.Mutex // guards what follows, and buckets, while drives are read
	newest   uint64
	unknown  map[metadata.BucketID]*UnknownBucket
	opened   map[metadata.ChunkID]struct{} // records of manifests that were read
	failed   map[metadata.ChunkID]metadata.BucketID
	births   map[uint32]uint32 // placement group -> latest generation of a restored chunk
	progress Progress
}

// bucket is what is known of a bucket.
type bucket struct {
	row      metadata.Bucket
	records  []bucketRecord // that say that it lives, until one was opened
	epoch    uint64         // of the latest of them
	live     bool           // there is a record that says so
	gone     uint64         // epoch of the latest record of its deletion
	deleted  bool
	keys     *seal.BucketKeys
	err      error // why it cannot be restored
	found    bool  // there is a manifest of it
	oldest   uint64
	born     *metadata.Bucket // of its manifest, by rowOrder
	settings *metadata.Settings
	rowOrder [2]uint64 // of born and settings

	objects, bytes, lost atomic.Int64
	unopened             int64
}

// bucketRecord is what one record says of a bucket.
type bucketRecord struct {
	row   metadata.Bucket
	name  []byte // as the record has it
	epoch uint64
}

const (
	// maxOpened bounds the records that are remembered, so that copies on
	// other drives are not opened again.
	maxOpened = 4 << 20
	// readers is how many drives are read at a time.
	readers = 4
)

// Collect reads everything there is. The result must be closed.
func Collect(ctx context.Context, o Options) (_ *Collection, err error) {
	o = o.withDefaults()
	sorted, err := newSorter(o.FS, o.Scratch, o.MemoryBytes)
	if err != nil {
		return nil, fmt.Errorf("recovery: scratch directory: %w", err)
	}
	c := &Collection{
		o: o, sorted: sorted,
		accounts: make(map[metadata.AccountID]*account),
		buckets:  make(map[metadata.BucketID]*bucket),
		unknown:  make(map[metadata.BucketID]*UnknownBucket),
		opened:   make(map[metadata.ChunkID]struct{}),
		failed:   make(map[metadata.ChunkID]metadata.BucketID),
		births:   make(map[uint32]uint32),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	c.progress = Progress{Phase: PhaseRecords, TotalDrives: len(o.Drives)}
	for i := range o.Drives {
		if err := c.readRecords(ctx, &o.Drives[i]); err != nil {
			return nil, err
		}
		c.epoch = max(c.epoch, o.Drives[i].Epoch)
	}
	if err := c.openAccounts(ctx); err != nil {
		return nil, err
	}
	c.openBuckets()
	if err := c.checkTables(ctx); err != nil {
		return nil, err
	}
	if err := c.readManifests(ctx); err != nil {
		return nil, err
	}
	if !c.report.Tables && c.progress.Batches == 0 {
		return nil, ErrNoManifests
	}
	return c, c.checkClock()
}

// Close frees what the collection holds, and removes the scratch directory.
func (c *Collection) Close() error {
	c.opened, c.failed = nil, nil
	return c.sorted.close()
}

// Newest is the time of the newest change found, zero if there is none. The
// engine that takes the new state must not give earlier stamps.
func (c *Collection) Newest() time.Time {
	if c.newest == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(c.newest)).UTC()
}

// Scheme is the scheme of the cluster.
func (c *Collection) Scheme() metadata.Scheme { return c.o.Scheme }

// Missing returns the drives of the cluster that are not there.
func (c *Collection) Missing() []topology.DriveID { return c.report.Missing }

// Encrypted reports whether what is stored is sealed: whether a bucket has a
// key. known is false if there are no buckets.
func (c *Collection) Encrypted() (on, known bool) {
	for _, b := range c.buckets {
		if !b.deleted {
			known = true
			on = on || b.row.WrappedKey != ""
		}
	}
	return on, known
}

// Bounds of a believable clock, as the engine has them.
const (
	maxBehind = time.Hour
	maxAhead  = 400 * 24 * time.Hour
)

func (c *Collection) checkClock() error {
	newest, now := c.Newest(), c.o.Now()
	if newest.IsZero() || c.o.AcceptClock || !now.Before(newest.Add(-maxBehind)) && !now.After(newest.Add(maxAhead)) {
		return nil
	}
	return fmt.Errorf("%w: it shows %s, the newest change is of %s", ErrAbsurdClock,
		now.UTC().Format(time.RFC3339), newest.Format(time.RFC3339))
}

// each reads the records of one type of a drive. What the drive cannot read is
// noted; only errors of f and the end of ctx are returned.
func (c *Collection) each(ctx context.Context, d *Drive, typ metadata.RecordType, f func(rec *metadata.Record, payload []byte) error) error {
	var own error
	err := d.Records.Records(ctx, typ, func(rec *metadata.Record, payload []byte) error {
		if own = context.Cause(ctx); own == nil {
			own = f(rec, payload)
		}
		return own
	})
	switch {
	case own != nil:
		return own
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		c.damaged(d, typ, err)
	}
	return nil
}

// recordNames name what a type of records tells of.
var recordNames = map[metadata.RecordType]string{
	metadata.RecordManifest: "manifests", metadata.RecordRoot: "tables of the root",
	metadata.RecordAccount: "accounts", metadata.RecordBucket: "buckets",
}

// damaged notes that something of a drive could not be read.
func (c *Collection) damaged(d *Drive, typ metadata.RecordType, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.o.Log.Error("some records of a drive cannot be read", "path", d.Path, "err", err)
	at := slices.IndexFunc(c.report.Damaged, func(o DamagedDrive) bool { return o.Drive == d.Row.ID })
	if at < 0 {
		at = len(c.report.Damaged)
		c.report.Damaged = append(c.report.Damaged, DamagedDrive{Drive: d.Row.ID, Path: d.Path})
	}
	drive, name := &c.report.Damaged[at], recordNames[typ]
	if typ != metadata.RecordRoot { // which every drive has
		drive.Counts = true
	}
	if strings.Contains(drive.Reason, name+": ") {
		return
	}
	if drive.Reason != "" {
		drive.Reason += "; "
	}
	drive.Reason += name + ": " + err.Error()
}

// readRecords reads the root tables, accounts and buckets of a drive.
func (c *Collection) readRecords(ctx context.Context, d *Drive) error {
	err := c.each(ctx, d, metadata.RecordRoot, func(rec *metadata.Record, payload []byte) error {
		r, err := manifest.OpenRoot(c.o.Keys, c.o.Cluster, rec.Shard.Chunk, payload)
		if errors.Is(err, manifest.ErrNewer) {
			return fmt.Errorf("%w: %w", ErrNewer, err)
		}
		if err != nil {
			c.damaged(d, metadata.RecordRoot, err)
			return nil
		}
		for i := range r.Accounts {
			c.noteAccount(accountRow{row: r.Accounts[i], rank: rankOlder})
		}
		if c.root == nil || r.Newer(c.root) {
			c.root = r
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = c.each(ctx, d, metadata.RecordAccount, func(rec *metadata.Record, payload []byte) error {
		row, err := manifest.ParseAccount(payload)
		if err != nil {
			c.damaged(d, metadata.RecordAccount, err)
			return nil
		}
		c.noteAccount(accountRow{row: *row, rank: rankRecord, epoch: rec.Epoch})
		return nil
	})
	if err != nil {
		return err
	}
	return c.each(ctx, d, metadata.RecordBucket, func(rec *metadata.Record, payload []byte) error {
		row, err := manifest.ParseBucket(payload)
		if err != nil {
			c.damaged(d, metadata.RecordBucket, err)
			return nil
		}
		c.noteBucket(rec, row)
		return nil
	})
}

// noteBucket takes a record of a bucket: of those that say that it lives, the
// newest counts. What a deletion means is decided when all are known.
func (c *Collection) noteBucket(rec *metadata.Record, r *manifest.BucketRecord) {
	b := c.buckets[r.Row.ID]
	if b == nil {
		b = new(bucket)
		c.buckets[r.Row.ID] = b
	}
	switch {
	case r.Deleted:
		b.deleted, b.gone = true, max(b.gone, rec.Epoch)
	default:
		b.note(bucketRecord{r.Row, r.Name, rec.Epoch})
	}
}

// note takes a record that says that the bucket lives.
func (b *bucket) note(r bucketRecord) {
	b.live, b.epoch = true, max(b.epoch, r.epoch)
	text := r.row.AppendTo(nil)
	for i := range b.records {
		// Equal names are sealed to different bytes.
		if old := &b.records[i]; bytes.Equal(old.row.AppendTo(nil), text) && bytes.Equal(old.name, r.name) {
			old.epoch = max(old.epoch, r.epoch)
			return
		}
	}
	if len(b.records) < maxRows {
		b.records = append(b.records, r)
	}
}

// checkTables makes tables if no drive has them, and sets what depends on
// them.
func (c *Collection) checkTables(ctx context.Context) (err error) {
	c.report.Tables = c.root != nil
	if c.root == nil {
		if c.root, err = c.readTables(ctx); err != nil {
			return err
		}
	}
	if c.root.CommandVersion > metadata.LatestVersion {
		return fmt.Errorf("%w: command version %d, this program knows %d", ErrNewer, c.root.CommandVersion, metadata.LatestVersion)
	}
	if len(c.root.PGs.Groups) == 0 {
		return fmt.Errorf("%w: the tables name no placement groups", ErrNoGroups)
	}
	c.admit()
	c.newest = max(c.newest, c.root.Order)
	c.o.Scheme = c.root.PGs.Groups[0].Scheme
	c.report.Missing = c.missingDrives(&c.root.Drives)
	c.report.Parity = int(c.o.Scheme.Parity)
	return nil
}

// openBuckets unwraps the keys of buckets and opens their names.
func (c *Collection) openBuckets() {
	for _, b := range c.buckets {
		// A deletion counts for ever, unless it is of a history that a restore
		// has ended, and the bucket was recorded again since.
		if b.deleted && b.live && c.root != nil && c.root.Incarnation.Revived(b.gone, b.epoch) {
			b.deleted = false
		}
		slices.SortStableFunc(b.records, func(x, y bucketRecord) int { return cmp.Compare(y.epoch, x.epoch) })
		for i := 0; i < len(b.records) && !b.deleted; i++ {
			r := &b.records[i]
			b.row = r.row
			err := c.openBucket(b, r.name)
			if err == nil {
				b.err = nil
				break
			}
			b.err = cmp.Or(b.err, err)
		}
		b.records = nil
	}
}

func (c *Collection) openBucket(b *bucket, name []byte) error {
	owner := c.accounts[b.row.Owner]
	if owner == nil {
		return fmt.Errorf("account %s has no record", b.row.Owner)
	}
	if b.row.WrappedKey == "" {
		b.row.Name = string(name)
		return checkName(b.row.Name)
	}
	if owner.err != nil {
		return owner.err
	}
	key, err := owner.keys.UnwrapBucket(seal.BucketBinding{Cluster: c.o.Cluster, Account: b.row.Owner, Bucket: b.row.ID, Key: b.row.Key}, []byte(b.row.WrappedKey))
	if err != nil {
		return fmt.Errorf("key of the bucket: %w", err)
	}
	keys := seal.DeriveBucket(key)
	if b.row.Name, err = keys.OpenName(b.row.ID, name); err != nil {
		return fmt.Errorf("name of the bucket: %w", err)
	}
	b.keys = keys
	return checkName(b.row.Name)
}

func checkName(name string) error {
	if name == "" || len(name) > 255 {
		return fmt.Errorf("name of %d bytes", len(name))
	}
	return nil
}

// missingDrives returns the drives of a table that are not there.
func (c *Collection) missingDrives(t *metadata.DriveTable) (missing []topology.DriveID) {
	for i := range t.Drives {
		if t.Drives[i].State != topology.DriveRetired && !c.present(t.Drives[i].ID) {
			missing = append(missing, t.Drives[i].ID)
		}
	}
	return missing
}

// retired reports whether the tables say that a drive was retired.
func (c *Collection) retired(id topology.DriveID) bool {
	for i := range c.root.Drives.Drives {
		if d := &c.root.Drives.Drives[i]; d.ID == id {
			return d.State == topology.DriveRetired
		}
	}
	return false
}

func (c *Collection) present(id topology.DriveID) bool {
	for i := range c.o.Drives {
		if c.o.Drives[i].Row.ID == id {
			return true
		}
	}
	return false
}
