package object

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/erasure"
	"github.com/ruche-storage/ruche/erasure/shardhash"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// fetch reads a run of stripes of one chunk: k shards, or fewer if the range
// touches fewer cells of a single stripe. Each shard is one contiguous read,
// verified cell by cell where it was read. What is missing, corrupt or late is
// replaced by another shard.
type fetch struct {
	e      *Engine
	bucket metadata.BucketRef
	part   metadata.PartID
	chunk  metadata.Chunk
	pg     *metadata.PG
	layout erasure.Layout

	first, count int   // stripes
	off, n       int64 // sealed bytes wanted, of the chunk; whole segments
	frameOff     int64 // place and length of the run in every framed shard
	frameLength  int64

	want   uint32 // data shards that hold wanted bytes
	asked  uint32 // reads that were started
	good   uint32 // verified
	bad    uint32
	late   uint32 // asked, not answered in time, and not counted on
	spare  uint32 // asked of slow drives, and not counted on
	lost   uint32 // missing or corrupt for certain
	reason error  // of the last failure

	shards  []shardRead
	results chan shardResult // room for all

	mu     sync.Mutex // guards closed and the memory of running reads
	closed bool

	scratch []*buffer // decoded and gathered bytes
	charged int64     // of scratch
	out     [][]byte  // sealed segments of the range, in order
}

type shardRead struct {
	memory  *buffer
	running bool // guarded by fetch.mu
	overdue bool // counted as running and late; guarded by fetch.mu
	chance  bool // of a drive that is slow, and not waited for
}

type shardResult struct {
	shard int
	err   error
}

// base is the memory of the first shards that are asked for.
func (f *fetch) base() int64 {
	_, length := f.layout.FramedRun(f.first, f.count)
	return length * int64(ones(f.want))
}

// start asks for the first shards. The caller has taken base bytes from the
// read budget for them.
func (f *fetch) start(ctx context.Context) {
	f.e.counters.runs.Add(1)
	f.frameOff, f.frameLength = f.layout.FramedRun(f.first, f.count)
	f.shards = make([]shardRead, f.layout.Total())
	f.results = make(chan shardResult, f.layout.Total())
	healthy := true
	for i := range f.layout.Data {
		healthy = healthy && (f.want&(1<<i) == 0 || f.rank(i) == rankHealthy)
	}
	if !healthy {
		f.askMore(ctx, f.layout.Data, true)
		f.giveChances(ctx)
		return
	}
	for i := range f.layout.Data {
		if f.want&(1<<i) != 0 {
			f.ask(ctx, i, true)
		}
	}
}

// Ranks of shards: the lower, the sooner a shard is asked for.
const (
	rankHealthy    = iota
	rankSlow       // the drive is slow or suspect
	rankHanging    // the drive is suspect, and reads of it hang
	rankUnreadable // the drive cannot be read
	ranks
)

// rank tells how soon a shard is to be asked for.
func (f *fetch) rank(i int) int {
	drive := f.pg.Newest().Members[i]
	switch {
	case !f.e.options.Drives.Condition(drive).Readable:
		return rankUnreadable
	case f.e.suspects.has(drive):
		if f.e.latency.drive(drive).overdue.Load() > 0 {
			return rankHanging
		}
		return rankSlow
	case f.e.latency.slow(drive, f.e.options.HedgeAfter):
		return rankSlow
	}
	return rankHealthy
}

// giveChances reads from slow drives what nobody waits for, now and then, to see
// whether they still are: clients do not find that out.
func (f *fetch) giveChances(ctx context.Context) {
	for i, drive := range f.pg.Newest().Members {
		if f.asked&(1<<i) == 0 && f.rank(i) == rankSlow && !f.e.suspects.has(drive) && f.e.latency.chance(drive) {
			f.shards[i].chance = true
			f.spare |= 1 << i
			f.ask(context.WithoutCancel(ctx), i, false)
		}
	}
}

// askMore asks for further shards, best first, until so many are good or on
// their way.
func (f *fetch) askMore(ctx context.Context, until int, charged bool) {
	for rank := range ranks {
		for i := range f.layout.Total() {
			if ones(f.good|f.asked&^f.bad&^f.late&^f.spare) >= until {
				return
			}
			if f.asked&(1<<i) == 0 && f.rank(i) <= rank {
				f.ask(ctx, i, charged && ones(f.asked) < ones(f.want))
			}
		}
	}
}

// ask starts the read of one shard. charged says that its memory was taken
// from the budget already.
func (f *fetch) ask(ctx context.Context, i int, charged bool) {
	if !charged {
		f.e.reads.force(f.frameLength)
	}
	f.asked |= 1 << i
	s := &f.shards[i]
	s.memory, s.running = f.e.buffers.get(int(f.frameLength)), true
	f.e.tasks.Go(func() {
		err := f.read(ctx, i, s.memory.b[:f.frameLength])
		f.mu.Lock()
		s.running = false
		if s.overdue {
			f.e.latency.await(f.pg.Newest().Members[i], -1)
		}
		if f.closed {
			f.e.counters.hanging.Add(-1)
			f.drop(s)
		}
		f.mu.Unlock()
		f.results <- shardResult{shard: i, err: err}
	})
}

// read reads and verifies one shard, wherever the placement group may have it.
func (f *fetch) read(ctx context.Context, i int, dst []byte) error {
	var room [4]topology.DriveID
	id := metadata.ShardID{Chunk: f.chunk.ID, Index: uint8(i)}
	ref := metadata.ShardRef{PG: f.chunk.PG, Shard: id}
	var err error
	weight := int64(usualWeight)
	if f.shards[i].chance {
		weight = chanceWeight
	}
	for _, drive := range homes(room[:0], f.pg, i) {
		f.e.counters.shardReads.Add(1)
		started := f.e.options.Now()
		end := f.e.tasks.on(drive)
		err = f.e.shards.ReadAt(ctx, drive, ref, dst, f.frameOff)
		end()
		took := f.e.options.Now().Sub(started)
		if err == nil || ctx.Err() != nil && took >= f.e.options.HedgeAfter { // late, and not needed any more
			f.e.latency.note(drive, took, weight)
		}
		if err == nil {
			seed := shardhash.NewSeed(id.Bytes())
			if err = seed.VerifyFramed(dst, uint64(f.first), f.layout.CellBytes); err == nil {
				return nil
			}
			err = fmt.Errorf("%w: %w", metadata.ErrCorrupt, err)
		}
		f.e.counters.shardReadFailures.Add(1)
		if ctx.Err() != nil {
			return err
		}
		if errors.Is(err, metadata.ErrCorrupt) {
			f.e.counters.corruptCells.Add(1)
		}
		err = fmt.Errorf("shard %d on drive %s: %w", i, drive, err)
	}
	return err
}

// done reports whether the bytes wanted can be had from what is good.
func (f *fetch) done() bool { return f.good&f.want == f.want || ones(f.good) >= f.layout.Data }

// wait waits until the run can be decoded, and decodes it.
func (f *fetch) wait(ctx context.Context) error {
	hedge := time.NewTimer(max(f.e.latency.p95(), f.e.options.HedgeAfter))
	defer hedge.Stop()
	lag := time.NewTimer(f.e.readLag())
	defer lag.Stop()
	timeout := time.NewTimer(f.e.options.ReadTimeout)
	defer timeout.Stop()
	for timeouts := 0; !f.done(); {
		if ones(f.good|f.asked&^f.bad) < f.layout.Data && f.asked&f.want&f.bad != 0 || timeouts > 1 {
			return f.unreadable()
		}
		select {
		case r := <-f.results:
			f.take(ctx, r)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-hedge.C:
			f.noteOverdue()
			if f.e.mayHedge() {
				f.late = f.asked &^ f.good &^ f.bad
				f.askMore(ctx, f.layout.Data, false)
				f.late = 0
			}
		case <-lag.C:
			f.passLate(ctx)
		case <-timeout.C:
			timeouts++
			f.late = f.asked &^ f.good &^ f.bad
			f.reason = fmt.Errorf("%d shards after %v: %w", ones(f.late), f.e.options.ReadTimeout, metadata.ErrSlow)
			f.noteLate()
			f.askMore(ctx, f.layout.Data, false)
			timeout.Reset(f.e.options.ReadTimeout)
		}
	}
	f.report()
	return f.decode()
}

// noteOverdue has others ask the drives last that have not answered in time,
// until they do.
func (f *fetch) noteOverdue() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.shards {
		if s := &f.shards[i]; s.running && !s.overdue {
			s.overdue = true
			f.e.latency.await(f.pg.Newest().Members[i], 1)
		}
	}
}

// readLag is how late a read may be before it is not waited for, however many
// hedges there were.
func (e *Engine) readLag() time.Duration {
	return max(e.options.LagTimeout/4, lagFactor*e.latency.p95())
}

// passLate asks for further shards in place of those that are late by readLag.
// Two or three such reads make their drive suspect.
func (f *fetch) passLate(ctx context.Context) {
	f.late = f.asked &^ f.good &^ f.bad
	for i := range f.shards {
		if f.late&(1<<i) != 0 {
			f.e.suspects.late(f.pg.Newest().Members[i], lostWeight)
		}
	}
	f.askMore(ctx, f.layout.Data, false)
}

// noteLate makes the drives that do not answer count as slow.
func (f *fetch) noteLate() {
	for i := range f.shards {
		if f.late&(1<<i) != 0 {
			f.e.latency.note(f.pg.Newest().Members[i], f.e.options.ReadTimeout, usualWeight)
		}
	}
}

// take takes in the result of one read. A failure is replaced at once.
func (f *fetch) take(ctx context.Context, r shardResult) {
	if r.err == nil {
		f.good |= 1 << r.shard
		return
	}
	f.bad |= 1 << r.shard
	f.reason = r.err
	if errors.Is(r.err, metadata.ErrCorrupt) || errors.Is(r.err, metadata.ErrShardNotFound) {
		f.lost |= 1 << r.shard
		f.e.log.WarnContext(ctx, "shard lost", "chunk", f.chunk.ID.String(), "err", r.err)
	}
	f.askMore(ctx, f.layout.Data, false)
}

// mayHedge allows hedges for at most 5 % of the runs.
func (e *Engine) mayHedge() bool {
	if (e.counters.hedges.Load()+1)*20 > e.counters.runs.Load()+20 {
		return false
	}
	e.counters.hedges.Add(1)
	return true
}

func (f *fetch) report() {
	if f.lost != 0 {
		f.e.queueRepair(Damage{Bucket: f.bucket, Part: f.part, Chunk: f.chunk, Missing: f.lost})
		f.lost = 0
	}
}

func (f *fetch) unreadable() error {
	f.report()
	return fmt.Errorf("chunk %s, stripes %d to %d: %w: %d of %d shards: %w",
		f.chunk.ID, f.first, f.first+f.count-1, ErrUnreadable, ones(f.good), f.layout.Data, f.reason)
}

// cell is cell i of a stripe of the run, from a shard that is good.
func (f *fetch) cell(stripe, i int) []byte {
	at := f.layout.FrameOffset(stripe) - f.frameOff
	n := f.layout.CellLength(stripe)
	return f.shards[i].memory.b[at : at+int64(n) : at+int64(n)]
}

// decode makes the sealed segments of the range out of the good shards.
func (f *fetch) decode() error {
	missing := f.want &^ f.good
	var code *erasure.Code
	if missing != 0 {
		f.e.counters.degradedRuns.Add(1)
		var err error
		if code, err = f.e.codes.get(f.chunk.Scheme); err != nil {
			return err
		}
	}
	var cells [erasure.MaxShards][]byte
	var wanted [erasure.MaxShards]bool
	total := f.layout.Total()
	for stripe := f.first; stripe < f.first+f.count; stripe++ {
		for i := range total {
			cells[i], wanted[i] = nil, false
			if f.good&(1<<i) != 0 {
				cells[i] = f.cell(stripe, i)
			} else if missing&(1<<i) != 0 {
				cells[i], wanted[i] = f.room(f.layout.CellLength(stripe))[:0], true
			}
		}
		if missing != 0 {
			if err := code.Reconstruct(cells[:total], wanted[:total]); err != nil {
				return err
			}
		}
		f.cut(stripe, cells[:total])
	}
	return nil
}

// room returns scratch memory that lives as long as the run.
func (f *fetch) room(n int) []byte {
	f.e.reads.force(int64(n))
	f.charged += int64(n)
	b := f.e.buffers.get(n)
	f.scratch = append(f.scratch, b)
	return b.b[:n:n]
}

// cut appends the segments of one stripe to out. In full cells they lie as
// they are, one a cell; shorter cells are joined first.
func (f *fetch) cut(stripe int, cells [][]byte) {
	if f.layout.CellLength(stripe) == seal.SegmentBytes {
		from, n := f.layout.RangeCells(stripe, f.off, f.n)
		for i := from; i < from+n; i++ {
			f.out = append(f.out, cells[i][:f.layout.CellContent(stripe, i)])
		}
		return
	}
	start := int64(stripe) * f.layout.StripeBytes()
	from := max(f.off, start)
	to := min(f.off+f.n, start+int64(f.layout.StripeLength(stripe)))
	joined := f.room(int(to - from))
	at := 0
	for span := range f.layout.Spans(from, to-from) {
		at += copy(joined[at:], cells[span.Cell][span.From:span.To])
	}
	for len(joined) > 0 {
		n := min(len(joined), seal.SegmentBytes)
		f.out = append(f.out, joined[:n:n])
		joined = joined[n:]
	}
}

// close gives the memory back. Reads that hang give theirs back themselves.
func (f *fetch) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for i := range f.shards {
		switch s := &f.shards[i]; {
		case s.running:
			f.e.counters.hanging.Add(1)
		case s.memory != nil:
			f.drop(s)
		}
	}
	for _, b := range f.scratch {
		f.e.buffers.put(b)
	}
	f.e.reads.release(f.charged)
	f.scratch, f.charged, f.out = nil, 0, nil
}

// drop needs mu.
func (f *fetch) drop(s *shardRead) {
	f.e.buffers.put(s.memory)
	f.e.reads.release(f.frameLength)
	s.memory = nil
}
