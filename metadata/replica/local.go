package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// Local is the engine of a single copy. All methods may be called
// concurrently.
type Local struct {
	reader

	dir     string
	opts    Options
	fs      *fenceFS
	cache   *pebble.Cache
	db      *pebble.DB
	machine *state.Machine
	stamps  *stamper
	space   *space
	counts  counters

	queue   chan *proposal
	flights chan *flight
	done    sync.WaitGroup // the applier and the syncer
	long    longReads

	life *gate // of calls

	// applying is held while commands of callers are read, so that a caller
	// who gives up can wait until nobody looks at its command any more.
	applying sync.Mutex

	pubMu sync.Mutex // guards pub and the reference counts
	pub   *published

	reached [groupCount]atomic.Uint64 // positions that are durable

	failure atomic.Pointer[error] // why the engine is fenced
	fenced  chan struct{}         // closed when failure is set
}

// published is a state that is on stable storage, shared by readers.
type published struct {
	snap *pebble.Snapshot
	refs int // one of them is the engine's, while it is the newest
}

// proposal is a command on its way.
type proposal struct {
	cmd      metadata.Command // a copy; its payload is the caller's
	state    atomic.Int32
	done     chan struct{} // closed when res is durable
	res      *metadata.Result
	position uint64 // at which it was applied
}

// States of a proposal.
const (
	waiting   = 0
	taken     = 1 // by the applier
	abandoned = 2 // by its caller
)

// flight is a batch that was given to the log.
type flight struct {
	batch     *state.Batch
	snap      *pebble.Snapshot
	proposals []*proposal
	rejected  int
	began     time.Time
	jumps     uint64
}

// Open opens the store in dir, and makes it if it is not there. The directory
// must not be a drive's. Errors wrap [ErrAbsurdClock] if the clock contradicts
// the store.
func Open(dir string, o Options) (*Local, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults(dir)
	l := &Local{
		dir:   dir,
		opts:  o,
		life:  newGate(),
		cache: o.newCache(),
		space: newSpace(dir, o),
		stamps: newStamper(o.Now, func(wall, expected time.Time) {
			o.Logger.Warn("the clock has jumped; changes keep the time that passed until the next start",
				"clock", wall, "expected", expected)
		}),
		queue:   make(chan *proposal, o.QueueLength),
		flights: make(chan *flight, 1),
		fenced:  make(chan struct{}),
	}
	l.reader = reader{from: l}
	l.fs = &fenceFS{FS: o.FS, fail: l.fail, failed: l.failed, relieve: l.space.relieve}
	// The ballast is there for writes of the start, too.
	err := refuseReplicated(dir, o)
	if err == nil {
		err = checkFiles(o.FS, dir)
	}
	if err == nil && o.ReserveBytes >= 0 {
		err = l.space.ballast.find()
	}
	var db *pebble.DB
	if err == nil {
		db, err = l.openStore(dir)
	}
	if err != nil {
		l.cache.Unref()
		return nil, fmt.Errorf("replica: open %s: %w", dir, err)
	}
	l.db = db
	l.machine = state.NewKnowing(db, o.Knows)
	l.pub = &published{snap: db.NewSnapshot(), refs: 1}
	if err := errors.Join(o.checkVersions(state.NewView(l.pub.snap)), l.readHeads()); err != nil {
		return nil, errors.Join(err, l.pub.snap.Close(), db.Close(), unref(l.cache))
	}
	l.fs.armed.Store(true)
	l.done.Go(l.apply)
	l.done.Go(l.sync)
	return l, nil
}

// openStore opens the store.
func (l *Local) openStore(dir string) (*pebble.DB, error) {
	return opening(l.fenced, l.failed, l.fail, func(fail func(error)) (*pebble.DB, error) {
		store, err := pebble.Peek(dir, l.fs)
		if err == nil && store.Exists {
			return pebble.Open(dir, l.opts.pebbleOptions(l.fs, l.cache, fail))
		}
		// The log of a new store is written in an older form, which does not
		// tell what was synced, until it is opened again.
		db, err := pebble.Open(dir, l.opts.pebbleOptions(l.fs, l.cache, fail))
		if err == nil {
			err = db.Close()
		}
		if err != nil {
			return nil, err
		}
		return pebble.Open(dir, l.opts.pebbleOptions(l.fs, l.cache, fail))
	})
}

func unref(c *pebble.Cache) error {
	c.Unref()
	return nil
}

// readHeads notes what is durable, and compares the clock with the newest order
// of all groups.
func (l *Local) readHeads() error {
	v := state.NewView(l.pub.snap)
	var newest uint64
	for group := range uint32(metadata.DataGroups + 1) {
		h, err := v.Head(group)
		if err != nil {
			return err
		}
		l.reached[group].Store(h.Position)
		newest = max(newest, h.Order)
	}
	err := checkClock(l.opts.Now(), newest)
	if err != nil && l.opts.AcceptClock {
		l.opts.Logger.Warn("clock accepted", "err", err)
		return nil
	}
	return err
}

// Close waits for what was proposed, flushes the store and closes it. Calls
// after Close fail with metadata.ErrUnavailable. An engine that has fenced
// itself cannot be closed: Close returns why it was fenced, and what hangs in
// the store ends with the process. So does an engine of which a call hangs on
// the device for half a minute.
func (l *Local) Close() error {
	l.long.end()
	if !l.life.shut() {
		return nil
	}
	if !l.life.wait(closePatience) {
		// Whoever reads may still use the store.
		l.fail(fmt.Errorf("replica: %s: a call has not ended within %v: the device does not answer", l.dir, closePatience))
		go func() { // should it end all the same
			<-l.life.idle
			close(l.queue)
		}()
		return fmt.Errorf("replica: close: %w", l.failed())
	}
	close(l.queue) // nobody sends any more: senders have entered
	drained := make(chan error, 1)
	go func() {
		l.done.Wait()
		drained <- l.db.Flush()
	}()
	var err error
	select {
	case err = <-drained:
	case <-l.fenced:
	}
	if failed := l.failed(); failed != nil {
		return fmt.Errorf("replica: close: %w", failed)
	}
	closed := make(chan error, 1)
	go func() { closed <- errors.Join(err, l.pub.snap.Close(), l.db.Close()) }()
	select {
	case err = <-closed:
		l.cache.Unref()
	case <-l.fenced:
		err = l.failed()
	}
	if err != nil {
		return fmt.Errorf("replica: close: %w", err)
	}
	return nil
}

// fail fences the engine. Only the first error counts.
func (l *Local) fail(err error) {
	if l.failure.CompareAndSwap(nil, &err) {
		close(l.fenced)
		l.opts.Logger.Error("metadata fenced after a failed write", "err", err)
		l.opts.OnFailure(err)
	}
}

// failed returns why the engine is fenced, nil if it is not.
func (l *Local) failed() error {
	if p := l.failure.Load(); p != nil {
		return fmt.Errorf("%w: %w", metadata.ErrUnavailable, *p)
	}
	return nil
}

// enter begins a call that ends with life.leave, unless there is an error.
func (l *Local) enter() error {
	if !l.life.enter() {
		return fmt.Errorf("%w: closed", metadata.ErrUnavailable)
	}
	err := l.failed()
	if err != nil {
		l.life.leave()
	}
	return err
}

// Commit proposes cmd to its group and waits until it is applied and durable.
// A rejection is returned as the error, with the result beside it. Other errors
// are metadata.ErrOverloaded, ErrMetadataFull and ErrUnavailable, after which
// nothing was done, the context's error if the command was not taken yet, or
// metadata.ErrUnknownOutcome. cmd is not changed and not looked at any more
// once Commit has returned.
func (l *Local) Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error) {
	if err := cmd.Known(); err != nil {
		return nil, err
	}
	if cmd.Group > metadata.DataGroups {
		return nil, fmt.Errorf("replica: group %d: %w", cmd.Group, metadata.ErrInvalidCommand)
	}
	p := &proposal{cmd: *cmd, done: make(chan struct{})}
	if err := l.propose(ctx, p); err != nil {
		return nil, err
	}
	select {
	case <-p.done:
		return p.res, p.res.Rejected
	case <-ctx.Done():
		return l.giveUp(p, fmt.Errorf("replica: not proposed: %w", context.Cause(ctx)), context.Cause(ctx))
	case <-l.fenced:
		return l.giveUp(p, l.failed(), l.failed())
	}
}

// giveUp ends the wait for p. It returns unproposed if the applier has not
// taken it, and an unknown outcome because of why otherwise.
func (l *Local) giveUp(p *proposal, unproposed, why error) (*metadata.Result, error) {
	if p.state.CompareAndSwap(waiting, abandoned) {
		return nil, unproposed
	}
	l.applierIsDone()
	select {
	case <-p.done:
		return p.res, p.res.Rejected
	default:
		return nil, fmt.Errorf("%w: %w", metadata.ErrUnknownOutcome, why)
	}
}

// applierIsDone waits until the applier does not read what it took so far.
func (l *Local) applierIsDone() {
	l.applying.Lock()
	defer l.applying.Unlock()
}

// propose puts p into the queue.
func (l *Local) propose(ctx context.Context, p *proposal) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.life.leave()
	if ctx.Err() != nil {
		return fmt.Errorf("replica: not proposed: %w", context.Cause(ctx))
	}
	if err := l.space.admit(p.cmd.Kind, l.opts.Now()); err != nil {
		return err
	}
	select {
	case l.queue <- p:
		return nil
	default:
		l.counts.overload()
		return metadata.ErrOverloaded
	}
}

// apply is the applier's goroutine.
func (l *Local) apply() {
	defer close(l.flights)
	for first := range l.queue {
		if l.failed() != nil {
			continue
		}
		if f := l.fill(first); f != nil {
			l.flights <- f
		}
	}
}

// fill applies first and whatever waits behind it in one batch and gives that
// to the log. It returns nil if there is nothing to sync.
func (l *Local) fill(first *proposal) *flight {
	f := &flight{batch: l.machine.NewBatch()}
	if err := l.applyAll(f, first); err != nil {
		f.batch.Discard()
		l.fail(err)
		return nil
	}
	if len(f.proposals) == 0 {
		f.batch.Discard()
		return nil
	}
	f.began = l.opts.Now()
	f.jumps = l.stamps.jumps
	err := f.batch.Finish()
	if err == nil {
		err = l.db.ApplyNoSyncWait(f.batch.Pebble(), pebble.Sync)
	}
	if err != nil {
		l.fail(err)
	}
	if l.failed() != nil {
		return nil
	}
	f.snap = l.db.NewSnapshot()
	return f
}

// applyAll applies first and what waits, until the batch is large enough or
// the queue is empty.
func (l *Local) applyAll(f *flight, first *proposal) error {
	l.applying.Lock()
	defer l.applying.Unlock()
	stamp := l.stamps.stamp()
	for p := first; p != nil; {
		if p.state.CompareAndSwap(waiting, taken) {
			f.proposals = append(f.proposals, p)
			if err := l.applyOne(f, p, stamp); err != nil {
				return err
			}
		}
		if len(f.proposals) >= l.opts.BatchCommands || f.batch.Len() >= l.opts.BatchBytes {
			return nil
		}
		select {
		case p = <-l.queue: // nil when it is closed and empty
		default:
			p = nil
		}
	}
	return nil
}

func (l *Local) applyOne(f *flight, p *proposal, stamp uint64) error {
	p.cmd.Stamp = stamp
	position, err := f.batch.Position(p.cmd.Group)
	if err != nil {
		return err
	}
	p.position = position + 1
	p.res, err = f.batch.Apply(p.cmd.Group, p.position, &p.cmd)
	if err != nil {
		return err
	}
	if p.res.Rejected != nil {
		f.rejected++
	}
	return nil
}

// sync is the syncer's goroutine: it waits for the log and answers, in order.
func (l *Local) sync() {
	for f := range l.flights {
		if err := f.batch.Pebble().SyncWait(); err != nil {
			l.fail(err)
		}
		if l.failed() != nil {
			l.closeSnapshot(f.snap)
			continue
		}
		l.publish(f.snap)
		l.counts.batch(len(f.proposals), f.rejected, l.opts.Now().Sub(f.began), f.jumps)
		for _, p := range f.proposals {
			l.reached[p.cmd.Group].Store(p.position)
			close(p.done)
		}
		f.batch.Close()
	}
}

// view runs a read against the newest durable state.
func (l *Local) view(ctx context.Context, _ uint32, read func(state.View) error) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.life.leave()
	if ctx.Err() != nil {
		return fmt.Errorf("replica: %w", context.Cause(ctx))
	}
	s := l.acquire()
	defer l.release(s)
	return read(state.NewView(s.snap))
}

// publish lets readers see what is durable now.
func (l *Local) publish(snap *pebble.Snapshot) {
	l.pubMu.Lock()
	old := l.pub
	l.pub = &published{snap: snap, refs: 1}
	l.pubMu.Unlock()
	l.release(old)
}

func (l *Local) acquire() *published {
	l.pubMu.Lock()
	defer l.pubMu.Unlock()
	l.pub.refs++
	return l.pub
}

func (l *Local) release(s *published) {
	l.pubMu.Lock()
	s.refs--
	last := s.refs == 0
	l.pubMu.Unlock()
	if last {
		l.closeSnapshot(s.snap)
	}
}

func (l *Local) closeSnapshot(s *pebble.Snapshot) {
	if err := s.Close(); err != nil {
		l.opts.Logger.Error("metadata snapshot", "err", err)
	}
}

// Metrics returns what the engine has counted.
func (l *Local) Metrics() Metrics {
	l.counts.mu.Lock()
	m := l.counts.m
	l.counts.mu.Unlock()
	m.Queue, m.QueueLimit = len(l.queue), cap(l.queue)
	_ = l.space.admit(metadata.KindCommitVersion, l.opts.Now()) // while nothing is written nobody else asks
	m.Disk, m.Full = l.space.state()
	m.Failed = l.failure.Load() != nil
	if l.enter() == nil {
		defer l.life.leave()
		m.Pebble = l.db.Metrics()
	}
	return m
}
