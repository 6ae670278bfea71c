package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node/segment"
)

// Drive is one open drive. All methods may be called concurrently.
type Drive struct {
	id     topology.DriveID
	fs     vfs.FS
	path   string
	opts   Options
	log    *slog.Logger
	lock   io.Closer
	index  *index
	layout *layout
	*shared

	// files beside the segments are written one at a time, with ownMu held:
	// what asks for the superblock meanwhile does not wait for the device.
	ownMu   sync.Mutex
	superMu sync.Mutex // guards super, which is changed with ownMu held too
	super   Superblock
	epoch   atomic.Uint64 // highest epoch seen in any record

	// fenced is closed when a write or sync has failed; fenceErr says why.
	fenced    chan struct{}
	fenceOnce sync.Once
	fenceErr  error

	started atomic.Bool   // the drive was let in and will be closed
	closing chan struct{} // closed when Close begins
	cancel  context.CancelCauseFunc
	workers sync.WaitGroup

	queue        chan *appendRequest
	filling      atomic.Int32 // small shards that were begun and will come to queue
	appenderDone chan struct{}
	active       *activeSegment // only the appender uses it

	segMu    sync.Mutex // guards segments and what they point to
	segments map[segment.ID]*segmentInfo

	// drops is raised before bytes of a record are given up, after its row is
	// gone: a reader that sees it change looks the row up again.
	drops     atomic.Uint64
	unsettled unsettled

	places    *placeCache
	space     space
	compactor compactor
	scrubber  scrubber
	recovered RecoveryStats
	voided    []place             // during recovery: files that hold only zeros
	twins     []metadata.ShardRef // shards found with several records; recovery only

	reads, writes latency
	errs          lastError
}

// segmentInfo is what is known of a shared segment.
type segmentInfo struct {
	dir    uint32
	bytes  int64 // length of the file
	dead   int64 // bytes that no row refers to
	sealed bool  // has its row in the index; nothing is appended any more
	newer  bool  // holds records of a newer format, which have no rows
	moving bool  // is being compacted, or waits to be removed
}

// lastError is the last error of a drive, for its status.
type lastError struct {
	mu   sync.Mutex
	text string
}

func (e *lastError) set(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.text = err.Error()
}

func (e *lastError) get() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.text
}

// openDrive opens the drive in path. ballast says whether it is the one of its
// device that keeps the ballast.
func openDrive(ctx context.Context, path string, opts Options, sh *shared) (_ *Drive, err error) {
	super, err := readSuperblock(opts.FS, path)
	if err != nil {
		return nil, err
	}
	if err := admit(super, path, &opts); err != nil {
		return nil, err
	}
	lock, err := opts.FS.Lock(opts.FS.PathJoin(path, "LOCK"))
	if err != nil {
		return nil, fmt.Errorf("node: %s: %w: %w", path, lockError(err), err)
	}
	// Unlocked again unless the drive takes it over.
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	// Only the superblock read under the lock is sure to be the last.
	if super, err = readSuperblock(opts.FS, path); err != nil {
		return nil, err
	}
	d := newDrive(path, opts, sh, lock, super)
	err = d.prepare(ctx, false)
	if err != nil && rotten(err) && ctx.Err() == nil {
		// Derived data: it is made anew at once, by a drive that has not failed.
		d.log.Warn("index has rotted and is made anew", "err", d.abandon(err))
		if super, err = readSuperblock(opts.FS, path); err != nil {
			return nil, err
		}
		d = newDrive(path, opts, sh, lock, super)
		err = d.prepare(ctx, true)
	}
	if err != nil {
		return nil, fmt.Errorf("node: %s: %w", path, d.abandon(err))
	}
	d.start()
	return d, nil
}

// rotten reports whether bytes that were written have changed.
func rotten(err error) bool {
	return pebble.IsCorruptionError(err) || errors.Is(err, metadata.ErrCorrupt)
}

// abandon ends a drive that could not be made ready because of err.
func (d *Drive) abandon(err error) error {
	close(d.closing)
	if d.index != nil {
		err = errors.Join(err, d.index.close())
	}
	if d.isFenced() {
		d.recordFence()
	}
	return err
}

// prepare makes a drive ready to start: it begins a new life, opens the index
// and brings it up to what the files say. With distrust it makes the index anew.
func (d *Drive) prepare(ctx context.Context, distrust bool) error {
	wasFenced := d.super.Fenced != ""
	if err := d.updateSuperblock(func(s *Superblock) { s.Lives++ }); err != nil {
		return fmt.Errorf("%w: %w", ErrNotWritable, err)
	}
	d.space.findBallast() // before the index needs room
	if err := d.openIndex(distrust || wasFenced || d.opts.fsck.rebuild); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	if err := d.recover(ctx); err != nil {
		return err
	}
	if wasFenced {
		if err := d.updateSuperblock(func(s *Superblock) { s.Fenced = "" }); err != nil {
			return fmt.Errorf("%w: %w", ErrNotWritable, err)
		}
	}
	if err := d.noteEpoch(); err != nil && !errors.Is(err, metadata.ErrDriveFull) {
		return err // a full drive is still read; maintenance tries again
	}
	if d.isFenced() {
		return d.fencedError()
	}
	return nil
}

// admit reports why a drive with this superblock may not be opened, or nil.
func admit(s *Superblock, path string, opts *Options) error {
	expected, known := opts.Incarnations[s.Drive]
	switch {
	case s.Cluster != opts.Cluster:
		return fmt.Errorf("node: %s: %w (it belongs to %s)", path, ErrForeignDrive, s.Cluster)
	case s.Incompatible&^knownIncompatible != 0 || s.ReadOnly&^knownReadOnly != 0:
		return fmt.Errorf("node: %s: %w", path, ErrNewerFormat)
	case known && s.Incarnation < expected:
		return fmt.Errorf("node: %s: %w (incarnation %d, expected %d)", path, ErrClonedDrive, s.Incarnation, expected)
	}
	return nil
}

func newDrive(path string, opts Options, sh *shared, lock io.Closer, super *Superblock) *Drive {
	d := &Drive{
		id: super.Drive, fs: opts.FS, path: path, opts: opts, lock: lock, shared: sh, super: *super,
		log:          opts.Log.With("drive", super.Drive, "path", path),
		fenced:       make(chan struct{}),
		closing:      make(chan struct{}),
		queue:        make(chan *appendRequest, opts.QueueRecords),
		appenderDone: make(chan struct{}),
		segments:     map[segment.ID]*segmentInfo{},
		places:       newPlaceCache(),
		layout: &layout{
			fs: opts.FS, path: opts.FS.PathJoin(path, "seg"), rand: opts.Rand, syncs: newDirSyncs(),
			skipSync: opts.faults.skipDirSync, limit: opts.filesPerDir, open: map[uint32]int{},
		},
	}
	d.epoch.Store(super.HighestEpoch)
	d.space.init(d)
	d.scrubber.init(d)
	return d
}

// openIndex opens the index, and makes an empty one if it is missing, damaged
// or not to be trusted.
func (d *Drive) openIndex(distrust bool) error {
	dir := d.fs.PathJoin(d.path, indexDir)
	fs, err := d.indexFS(dir)
	if err != nil {
		return err
	}
	if _, err := d.fs.Stat(dir); oserror.IsNotExist(err) && d.super.Lives > 1 {
		d.recovered.IndexRebuilt = true
	}
	if !distrust {
		x, err := openIndex(fs, dir, d.cache, d.indexError)
		if err == nil {
			d.index = x
			return nil
		}
		if d.isFenced() {
			return d.fencedError()
		}
		if isNoSpace(err) {
			return err
		}
		d.log.Warn("index is damaged and made anew", "err", err)
	}
	d.recovered.IndexRebuilt = true
	if err := d.fs.RemoveAll(dir); err != nil {
		return err
	}
	x, err := openIndex(fs, dir, d.cache, d.indexError)
	if err != nil {
		return err
	}
	d.index = x
	return nil
}

// start begins the background work of an open drive.
func (d *Drive) start() {
	ctx, cancel := context.WithCancelCause(context.Background())
	d.cancel = cancel
	d.started.Store(true)
	d.workers.Go(d.appender)
	d.workers.Go(func() {
		select {
		case <-d.fenced:
			d.recordFence()
		case <-d.closing:
		}
	})
	if d.opts.MaintenanceInterval > 0 {
		d.workers.Go(func() { d.maintainForever(ctx) })
	}
	if !d.opts.fsck.on {
		d.workers.Go(func() { d.scrubber.run(ctx) })
	}
}

// close ends the drive: what was accepted is finished, the active segment
// sealed, the index flushed.
func (d *Drive) close() error {
	close(d.closing)
	d.cancel(ErrClosed)
	d.workers.Wait()
	var errs []error
	if !d.isFenced() {
		errs = append(errs, d.reap(), d.index.flush(d.fenced), d.updateSuperblock(func(*Superblock) {}))
	}
	d.files.dropDrive(d)
	errs = append(errs, d.index.close())
	if d.isFenced() {
		d.recordFence()
		errs = nil // they were told when they happened
	}
	return errors.Join(append(errs, d.lock.Close())...)
}

// ID returns the id of the drive.
func (d *Drive) ID() topology.DriveID { return d.id }

// Path returns the directory of the drive.
func (d *Drive) Path() string { return d.path }

// Superblock returns the superblock as it was last written, with the highest
// epoch as it is now.
func (d *Drive) Superblock() Superblock {
	d.superMu.Lock()
	defer d.superMu.Unlock()
	s := d.super
	s.HighestEpoch = d.epoch.Load()
	return s
}

// SetIncarnation raises the incarnation of the drive, so that copies made
// before are refused. It is durable when SetIncarnation returns nil.
func (d *Drive) SetIncarnation(incarnation uint64) error {
	if err := d.usable(); err != nil {
		return err
	}
	return d.updateSuperblock(func(s *Superblock) { s.Incarnation = max(s.Incarnation, incarnation) })
}

// updateSuperblock changes and writes the superblock.
func (d *Drive) updateSuperblock(change func(*Superblock)) error {
	d.ownMu.Lock()
	defer d.ownMu.Unlock()
	s := d.super
	change(&s)
	s.Sequence++
	s.HighestEpoch = max(s.HighestEpoch, d.epoch.Load())
	if err := d.writeOwn(&s); err != nil {
		if !isNoSpace(err) {
			d.fence(fmt.Errorf("superblock: %w", err))
		}
		return err
	}
	d.setSuper(&s)
	return nil
}

func (d *Drive) setSuper(s *Superblock) {
	d.superMu.Lock()
	defer d.superMu.Unlock()
	d.super = *s
}

// sawEpoch takes note of the epoch of a record.
func (d *Drive) sawEpoch(epoch uint64) {
	for seen := d.epoch.Load(); epoch > seen; seen = d.epoch.Load() {
		if d.epoch.CompareAndSwap(seen, epoch) {
			return
		}
	}
}

// noteEpoch makes the highest epoch durable, if it has risen since that was
// done last. A drive says by it that metadata restored from a copy is older.
func (d *Drive) noteEpoch() error {
	d.superMu.Lock()
	known := d.super.HighestEpoch
	d.superMu.Unlock()
	if d.epoch.Load() <= known {
		return nil
	}
	if err := d.updateSuperblock(func(*Superblock) {}); err != nil {
		if isNoSpace(err) {
			return d.failed("superblock", err)
		}
		return d.fencedError()
	}
	return nil
}

// fence takes the drive out of service for good: a write or sync has failed,
// and what the device holds is unknown until a new life has read it.
func (d *Drive) fence(err error) {
	d.fenceOnce.Do(func() {
		d.fenceErr = err
		d.errs.set(err)
		close(d.fenced)
		d.log.Error("drive fenced", "err", err)
	})
}

// recordFence tells the next life not to trust the index, once. The device may
// refuse this write too, or hang.
func (d *Drive) recordFence() {
	d.ownMu.Lock()
	defer d.ownMu.Unlock()
	s := d.super
	if s.Fenced != "" {
		return
	}
	s.Fenced, s.Sequence = d.fenceErr.Error(), s.Sequence+1
	s.HighestEpoch = max(s.HighestEpoch, d.epoch.Load())
	if err := d.writeOwn(&s); err != nil {
		d.log.Error("fence not recorded on the drive", "err", err)
		return
	}
	d.setSuper(&s)
}

// writeOwn writes the drive's superblock over the one it has. A directory that
// holds another or none is a new device mounted in its place, or was emptied:
// nothing of this drive may be put there. The caller holds ownMu.
func (d *Drive) writeOwn(s *Superblock) error {
	found, err := readSuperblock(d.fs, d.path)
	if err != nil {
		return err
	}
	if found.Drive != d.id {
		return fmt.Errorf("node: %s: drive %s is mounted in the place of %s", d.path, found.Drive, d.id)
	}
	return writeSuperblock(d.fs, d.path, s)
}

// Fence takes the drive out of service, as a failed write would. It is opened
// again by removing and adding it.
func (d *Drive) Fence(reason string) { d.fence(errors.New(reason)) }

func (d *Drive) isFenced() bool {
	select {
	case <-d.fenced:
		return true
	default:
		return false
	}
}

// usable returns nil, or why the drive cannot be used.
func (d *Drive) usable() error {
	if d.isFenced() {
		return d.fencedError()
	}
	select {
	case <-d.closing:
		return ErrClosed
	default:
		return nil
	}
}

func (d *Drive) fencedError() error {
	<-d.fenced // fenceErr is set before it is closed
	return fmt.Errorf("node: drive %s: %w: %w", d.ID(), metadata.ErrFenced, d.fenceErr)
}

// failed turns the error of a write or sync into one of the classes: a full
// device is told apart, everything else fences the drive.
func (d *Drive) failed(what string, err error) error {
	if isNoSpace(err) {
		d.space.hitBottom()
		return fmt.Errorf("node: drive %s: %s: %w: %w", d.ID(), what, metadata.ErrDriveFull, err)
	}
	d.fence(fmt.Errorf("%s: %w", what, err))
	return d.fencedError()
}

// syncFailed is failed for a sync: data the device was thought to hold may be
// lost, whatever the error says.
func (d *Drive) syncFailed(what string, err error) error {
	d.fence(fmt.Errorf("%s: %w", what, err))
	return d.fencedError()
}

// indexFailed turns an error of the index into one of the classes.
func (d *Drive) indexFailed(err error) error {
	if errors.Is(err, ErrClosed) || errors.Is(err, metadata.ErrFenced) {
		return err
	}
	d.fence(fmt.Errorf("index: %w", err))
	return d.fencedError()
}

// indexError is told of errors of the index's background work.
func (d *Drive) indexError(err error) {
	if _, fatal := errors.AsType[*fatalError](err); !fatal && isNoSpace(err) {
		d.space.hitBottom()
		return
	}
	d.fence(fmt.Errorf("index: %w", err))
}
