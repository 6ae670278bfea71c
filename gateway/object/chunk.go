package object

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ruche-storage/ruche/erasure"
	"github.com/ruche-storage/ruche/erasure/shardhash"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// chunkWriter codes one chunk and writes its shards, each in a lane of its
// own. All methods are called by the goroutine of the request; what lanes
// share with it is said at the fields.
type chunkWriter struct {
	e       *Engine
	row     metadata.Chunk
	drives  []topology.DriveID // members, by shard
	code    *erasure.Code
	sums    []*shardhash.Cells
	lanes   []lane
	framed  int64 // length of each framed shard, -1 if not known
	stripes int
	cells   [erasure.MaxShards][]byte

	footer   metadata.Footer // set before the lanes' queues are closed, then only read
	finished chan int        // lanes that have ended; room for all
	ended    uint32          // lanes taken from finished, or never begun
	acked    uint32          // of these, durable
	given    uint32          // lanes that were given up

	failed  atomic.Int32 // lanes that failed or were given up
	aborted atomic.Bool  // lanes do no more than they must

	mu        sync.Mutex // guards what follows
	durable   uint32     // shards closed without error
	discarded bool       // durable shards are to be freed
	reasons   []error    // why lanes failed, as they do
}

// lane writes one shard. Its goroutine ends when its queue is closed.
type lane struct {
	index   int
	drive   topology.DriveID
	queue   chan *stripe
	queued  atomic.Int32 // stripes it holds
	givenUp atomic.Bool
	broken  atomic.Bool // no more stripes are sent to it
	closed  bool        // the queue is
	err     error       // why it failed; read after it came out of finished
	over    bool        // its goroutine has ended; guarded by chunkWriter.mu

	spent atomic.Int64 // in calls on the drive that have returned, nanoseconds
	since atomic.Int64 // when the running call began, nanoseconds since 1970; 0: none runs
}

// call makes a call on the drive of a lane and counts the time it takes.
func (l *lane) call(now func() time.Time, f func() error) error {
	begun := now().UnixNano()
	l.since.Store(begun)
	err := f()
	l.since.Store(0)
	l.spent.Add(now().UnixNano() - begun)
	return err
}

// busy is how long the drive has had for the lane's shard so far: the time that
// the lane waited for stripes is not in it.
func (l *lane) busy(now time.Time) time.Duration {
	busy := l.spent.Load()
	if since := l.since.Load(); since != 0 {
		busy += max(0, now.UnixNano()-since)
	}
	return time.Duration(busy)
}

// laneQueue is more stripes than a lane ever has waiting, also when the part
// got further ones in place of those that hanging drives hold.
const laneQueue = 4 * stripesInFlight

// maxStalls is how often Options.StallTimeout passes without any progress
// before a chunk that cannot do without the drives it waits for is given up.
const maxStalls = 6

// getCells returns the checksums and the sum of a shard, to be given back.
func (e *Engine) getCells(id [shardhash.IDBytes]byte) *shardhash.Cells {
	if c, ok := e.cells.Get().(*shardhash.Cells); ok {
		c.Reset(id)
		return c
	}
	return shardhash.NewCells(id)
}

func (e *Engine) putCells(c *shardhash.Cells) { e.cells.Put(c) }

func (w *partWriter) startChunk(ctx context.Context, pg *metadata.PG, no uint32, bytes int64) (*chunkWriter, error) {
	code, err := w.e.codes.get(pg.Scheme)
	if err != nil {
		return nil, err
	}
	generation := pg.Newest()
	n := pg.Scheme.Total()
	if len(generation.Members) != n {
		return nil, fmt.Errorf("object: placement group %d has %d members for %s", pg.ID, len(generation.Members), pg.Scheme)
	}
	c := &chunkWriter{
		e: w.e, drives: generation.Members, code: code,
		row:   metadata.Chunk{No: no, PG: pg.ID, Generation: generation.Number, Scheme: pg.Scheme},
		sums:  make([]*shardhash.Cells, n),
		lanes: make([]lane, n), framed: -1,
		finished: make(chan int, n),
	}
	if bytes >= 0 {
		c.framed = layout(pg.Scheme, bytes).FramedLength()
	}
	if err := w.e.random(c.row.ID[:]); err != nil {
		return nil, err
	}
	rec := metadata.Record{
		Type: metadata.RecordShard, Shard: metadata.ShardID{Chunk: c.row.ID}, Part: w.part, ChunkNo: no,
		Scheme: pg.Scheme, PG: pg.ID, Generation: generation.Number,
		Bucket: w.bucket.row.ID, Account: w.bucket.row.Owner, Epoch: w.lease.epoch,
	}
	passed := w.e.passed(pg, c.need())
	if n-ones(passed) < c.need() {
		return nil, fmt.Errorf("%w: %d of %d drives do not answer: %w", ErrUnwritable, ones(passed), n, metadata.ErrSlow)
	}
	for i := range c.lanes {
		rec.Shard.Index = uint8(i)
		c.sums[i] = w.e.getCells(rec.Shard.Bytes())
		l := &c.lanes[i]
		l.index, l.drive = i, generation.Members[i]
		if passed&(1<<i) != 0 {
			c.pass(l)
			continue
		}
		l.queue = make(chan *stripe, laneQueue)
		own := rec
		// A lane is told by c.aborted that nobody wants its shard any more. A
		// context that ends in the middle of Close would leave unknown whether
		// the shard became durable, and then nobody could free it.
		w.e.tasks.Go(func() {
			defer w.e.tasks.on(l.drive)()
			c.run(context.WithoutCancel(ctx), l, &own)
		})
	}
	return c, nil
}

// need is how many shards must be durable before the chunk counts, and how
// many at least after a drive was lost.
func (c *chunkWriter) need() int {
	k, n := int(c.row.Scheme.Data), c.row.Scheme.Total()
	if c.row.Scheme.Parity == 1 && c.e.options.OnDriveLoss == DriveLossDegrade {
		return k
	}
	return min(n, k+1)
}

// room is how many segments the next stripe takes.
func (c *chunkWriter) room() int {
	k := int(c.row.Scheme.Data)
	return min(k, metadata.ChunkSegments-c.stripes*k)
}

// full reports whether the chunk takes no more stripes.
func (c *chunkWriter) full() bool { return c.room() <= 0 }

// add codes a stripe of n bytes and hands it to the lanes. The stripe is no
// longer the caller's, whatever is returned.
func (c *chunkWriter) add(ctx context.Context, s *stripe, n int, last bool) error {
	k, total := int(c.row.Scheme.Data), c.row.Scheme.Total()
	l := layout(c.row.Scheme, int64(n))
	length := l.CellLength(0)
	s.spread(n, k, length)
	for i := range total {
		c.cells[i] = s.cell(i)
	}
	err := c.code.Encode(c.cells[:total])
	if err == nil {
		err = c.bracket(c.cells[:total])
	}
	if err == nil && int(c.failed.Load()) > total-c.need() {
		err = c.unwritable()
	}
	if err != nil {
		s.depot.giveBack(s)
		return err
	}
	number := uint64(c.stripes)
	for i := range total {
		c.sums[i].Frame(number, s.frame(i))
	}
	c.stripes++
	c.row.Bytes += int64(n)
	s.refs.Store(1)
	for i := range c.lanes {
		lane := &c.lanes[i]
		if lane.closed || lane.broken.Load() {
			continue
		}
		s.refs.Add(1)
		lane.queued.Add(1)
		lane.queue <- s // never blocks: it has room for more stripes than there are
	}
	s.release()
	return nil
}

// bracket decodes one stripe in 64 again from cells chosen at random.
func (c *chunkWriter) bracket(cells [][]byte) error {
	if c.e.counters.stripes.Add(1)%bracketEvery != 0 || c.row.Scheme.Parity == 0 {
		return nil
	}
	r, err := c.e.quick()
	if err != nil {
		return err
	}
	need := int64(c.row.Scheme.Parity) * int64(len(cells[0]))
	c.e.writes.force(need)
	defer c.e.writes.release(need)
	scratch := c.e.buffers.get(int(need))
	defer c.e.buffers.put(scratch)
	if err := c.code.Bracket(cells, r, scratch.b); err != nil {
		c.e.counters.bracketFailures.Add(1)
		c.e.log.Error("encoded stripe does not decode: memory or processor is faulty", "err", err)
		return err
	}
	return nil
}

// finish says that no stripe follows: the lanes close their shards.
func (c *chunkWriter) finish() {
	sums := make([]shardhash.Sum, len(c.sums))
	c.footer = metadata.Footer{ChunkBytes: c.row.Bytes, Sums: make([]metadata.Sum, len(sums))}
	for i, s := range c.sums {
		sums[i] = s.Sum()
		c.footer.Sums[i] = metadata.Sum(sums[i])
		c.e.putCells(s)
		c.sums[i] = nil
	}
	c.row.Digest = metadata.Sum(shardhash.ChunkDigest(sums))
	c.closeQueues()
}

func (c *chunkWriter) closeQueues() {
	for i := range c.lanes {
		if l := &c.lanes[i]; !l.closed {
			l.closed = true
			close(l.queue)
		}
	}
}

// fail counts the lane out. It needs mu.
func (c *chunkWriter) fail(l *lane, reason error) {
	if !l.broken.Swap(true) {
		c.failed.Add(1)
		c.e.counters.shardWriteFailures.Add(1)
		c.e.topology.chooser.Store(nil) // the drive may be known to be down by now
		c.reasons = append(c.reasons, reason)
	}
}

// unwritable says why too few shards were written.
func (c *chunkWriter) unwritable() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	class, why := ErrUnwritable, errors.Join(c.reasons...)
	if errors.Is(why, metadata.ErrDriveFull) {
		class = ErrFull
	}
	return fmt.Errorf("%w: need %d of %d shards: %w", class, c.need(), len(c.lanes), why)
}

// discard ends the lanes and frees the shards that are durable, also those
// that become so only now. It does not wait.
func (c *chunkWriter) discard() {
	c.aborted.Store(true)
	c.closeQueues()
	for i, s := range c.sums {
		if s != nil {
			c.e.putCells(s)
			c.sums[i] = nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.discarded {
		return
	}
	c.discarded = true
	for i := range c.lanes {
		if c.durable&(1<<i) != 0 {
			c.e.tasks.Go(func() {
				defer c.e.tasks.on(c.lanes[i].drive)()
				c.free(&c.lanes[i])
			})
		}
	}
}

// short returns the row that records the missing shards, if any are.
func (c *chunkWriter) short(b *bucket, part metadata.PartID) (metadata.Short, bool) {
	missing := uint32(1<<uint64(len(c.lanes))-1) &^ c.acked
	if missing == 0 {
		return metadata.Short{}, false
	}
	return metadata.Short{Bucket: b.row.ID, Part: part, ChunkNo: c.row.No, Missing: missing,
		Margin: uint8(ones(c.acked) - int(c.row.Scheme.Data))}, true
}

// run is the goroutine of a lane.
func (c *chunkWriter) run(ctx context.Context, l *lane, rec *metadata.Record) {
	if l.err = c.store(ctx, l, rec); l.err != nil {
		c.mu.Lock()
		c.fail(l, l.err)
		c.mu.Unlock()
	}
	for s := range l.queue { // after a failure
		l.queued.Add(-1)
		s.release()
	}
	c.mu.Lock()
	if l.over = true; l.givenUp.Load() {
		c.e.counters.hanging.Add(-1)
		c.e.suspects.drive(l.drive).lost.Add(-1)
	}
	c.mu.Unlock()
	c.finished <- l.index
}

// store writes the shard and makes it durable.
func (c *chunkWriter) store(ctx context.Context, l *lane, rec *metadata.Record) error {
	now := c.e.options.Now
	var w ShardWriter
	err := l.call(now, func() (err error) {
		w, err = c.e.shards.CreateNew(ctx, l.drive, rec, c.framed)
		return err
	})
	if err != nil {
		return fmt.Errorf("create shard %d on drive %s: %w", l.index, l.drive, err)
	}
	for s := range l.queue {
		if c.stopped(l) {
			err = errAbandoned
		} else {
			err = l.call(now, func() error {
				_, err := w.Write(s.frame(l.index))
				return err
			})
		}
		l.queued.Add(-1)
		s.release()
		if err != nil {
			w.Abort()
			return fmt.Errorf("write shard %d on drive %s: %w", l.index, l.drive, err)
		}
	}
	if c.stopped(l) {
		w.Abort()
		return errAbandoned
	}
	footer := c.footer // a writer may keep what it is given
	if err := l.call(now, func() error { return w.Close(&footer) }); err != nil {
		w.Abort()
		return fmt.Errorf("close shard %d on drive %s: %w", l.index, l.drive, err)
	}
	c.mu.Lock()
	discarded := c.discarded
	c.durable |= 1 << l.index
	c.mu.Unlock()
	if discarded {
		c.free(l)
	}
	return nil
}

func (c *chunkWriter) stopped(l *lane) bool { return c.aborted.Load() || l.givenUp.Load() }

// free deletes a durable shard that will never be committed. If that fails the
// collector finds it.
func (c *chunkWriter) free(l *lane) {
	ctx, cancel := context.WithTimeout(context.Background(), c.e.options.StallTimeout)
	defer cancel()
	ref := metadata.ShardRef{PG: c.row.PG, Shard: metadata.ShardID{Chunk: c.row.ID, Index: uint8(l.index)}}
	if err := c.e.shards.Free(ctx, l.drive, []metadata.ShardRef{ref}); err != nil {
		c.e.log.Debug("shard not freed", "drive", l.drive.String(), "chunk", c.row.ID.String(), "err", err)
	}
}

// errAbandoned ends a lane whose shard nobody wants any more.
var errAbandoned = errors.New("object: shard abandoned")
