package object

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/erasure"
	"github.com/ruche-storage/ruche/erasure/shardhash"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// mendStripes is how many stripes are read from a shard at a time.
const mendStripes = 4

// mend makes shards of one chunk anew, where the newest generation of its
// placement group wants them. It reads k shards, verifies every cell, decodes
// all others, and compares the digest of the sums of all n with the one in the
// metadata before the new shards are closed: shards whose cells fit their
// checksums but not one another never pass.
type mend struct {
	g       *background
	bucket  metadata.Bucket
	part    metadata.PartID
	chunk   metadata.Chunk
	pg      *metadata.PG
	layout  erasure.Layout
	code    *erasure.Code
	urgent  bool
	epoch   uint64
	sources uint32 // shards that may be read: not known to be bad
	lost    uint32 // found missing or corrupt while reading
	want    uint32 // shards to be made

	buffers []*buffer // framed cells of a run of stripes, by shard
	sums    []*shardhash.Cells
	cells   [erasure.MaxShards][]byte
	wanted  [erasure.MaxShards]bool
	read    uint32 // shards that the present run was read from
	used    uint32 // shards that any run was read from
	moved   int64  // bytes read and written

	targets []mendTarget
}

// mendTarget is a shard that is written anew.
type mendTarget struct {
	shard  int
	drive  topology.DriveID
	writer ShardWriter
	err    error
}

var (
	// errTooFew means that a chunk cannot be decoded from what can be read.
	errTooFew = errors.New("object: fewer than k intact shards")
	// errDigest means that intact cells do not make up the chunk.
	errDigest = errors.New("object: shards do not fit the chunk's digest")
)

// newMend prepares the repair of a chunk. The caller holds a lease on epoch
// and must call close.
func (g *background) newMend(bucket metadata.Bucket, part metadata.PartID, chunk metadata.Chunk, pg *metadata.PG, epoch uint64) (*mend, error) {
	code, err := g.e.codes.get(chunk.Scheme)
	if err != nil {
		return nil, err
	}
	n := chunk.Scheme.Total()
	if len(pg.Newest().Members) != n {
		return nil, fmt.Errorf("object: placement group %d has %d members for a chunk of %s", pg.ID, len(pg.Newest().Members), chunk.Scheme)
	}
	m := &mend{g: g, bucket: bucket, part: part, chunk: chunk, pg: pg, code: code, epoch: epoch,
		layout: layout(chunk.Scheme, chunk.Bytes), sources: 1<<n - 1}
	if err := m.layout.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *mend) ref(i int) metadata.ShardRef {
	return metadata.ShardRef{PG: m.chunk.PG, Shard: metadata.ShardID{Chunk: m.chunk.ID, Index: uint8(i)}}
}

// run makes the shards of the mask want anew. It returns those that are
// durable, were read back and found right. An error says that none is, or why
// some are not.
func (m *mend) run(ctx context.Context, want uint32) (made uint32, err error) {
	defer m.close()
	n := m.chunk.Scheme.Total()
	for i := range n {
		m.buffers = append(m.buffers, m.g.e.buffers.get(min(mendStripes, m.layout.Stripes())*frameBytes))
		m.wanted[i] = true
	}
	for i := range n {
		var room [4]topology.DriveID
		if want&(1<<i) != 0 && len(homes(room[:0], m.pg, i)) == 1 {
			m.sources &^= 1 << i // else an earlier member may still have it
		}
	}
	m.want = want
	for range n { // each further try knows of one more bad shard
		made, err = m.attempt(ctx)
		if !errors.Is(err, errDigest) || !m.findLiars(ctx) {
			return made, err
		}
	}
	return 0, err
}

// attempt reads the chunk once and writes the targets.
func (m *mend) attempt(ctx context.Context) (made uint32, err error) {
	m.targets, m.used = nil, 0
	m.resetSums()
	m.create(ctx)
	defer m.abort()
	if len(m.alive()) == 0 {
		return 0, m.targetErrors()
	}
	for first := 0; first < m.layout.Stripes(); first += mendStripes {
		count := min(mendStripes, m.layout.Stripes()-first)
		if err := m.mendRun(ctx, first, count); err != nil {
			return 0, err
		}
	}
	footer, err := m.footer()
	if err != nil {
		return 0, err
	}
	for _, t := range m.alive() {
		if t.err = m.finish(ctx, t, footer); t.err == nil {
			made |= 1 << t.shard
		}
	}
	return made, m.targetErrors()
}

func (m *mend) resetSums() {
	for _, s := range m.sums {
		m.g.e.putCells(s)
	}
	m.sums = m.sums[:0]
	for i := range m.chunk.Scheme.Total() {
		m.sums = append(m.sums, m.g.e.getCells(m.ref(i).Shard.Bytes()))
	}
}

// create begins the targets.
func (m *mend) create(ctx context.Context) {
	rec := metadata.Record{
		Type: metadata.RecordShard, Part: m.part, ChunkNo: m.chunk.No, Scheme: m.chunk.Scheme,
		PG: m.chunk.PG, Generation: m.pg.Newest().Number, Bucket: m.bucket.ID, Account: m.bucket.Owner, Epoch: m.epoch,
	}
	for i, drive := range m.pg.Newest().Members {
		if m.want&(1<<i) == 0 {
			continue
		}
		own := rec
		own.Shard = m.ref(i).Shard
		t := mendTarget{shard: i, drive: drive}
		var writer ShardWriter
		late, err := m.g.guard.do(ctx, drive, m.g.e.options.StallTimeout, func(context.Context) (err error) {
			// The context of Create is that of the whole write.
			writer, err = m.g.e.shards.Create(ctx, drive, &own, m.layout.FramedLength())
			return err
		})
		switch t.err = err; {
		case late != nil:
			m.g.e.tasks.Go(func() {
				defer m.g.e.tasks.on(drive)()
				if <-late; writer != nil {
					writer.Abort()
				}
			})
		case err == nil:
			t.writer = writer
		}
		m.targets = append(m.targets, t)
	}
}

// alive returns the targets that have not failed.
func (m *mend) alive() []*mendTarget {
	var alive []*mendTarget
	for i := range m.targets {
		if m.targets[i].err == nil {
			alive = append(alive, &m.targets[i])
		}
	}
	return alive
}

func (m *mend) targetErrors() error {
	var errs []error
	for i := range m.targets {
		if t := &m.targets[i]; t.err != nil {
			errs = append(errs, fmt.Errorf("shard %d on drive %s: %w", t.shard, t.drive, t.err))
		}
	}
	return errors.Join(errs...)
}

// abort gives up the targets that were not closed. It does not wait for drives.
func (m *mend) abort() {
	for i := range m.targets {
		if t := &m.targets[i]; t.writer != nil {
			writer, drive := t.writer, t.drive
			m.g.e.tasks.Go(func() {
				defer m.g.e.tasks.on(drive)()
				writer.Abort()
			})
			t.writer = nil
		}
	}
}

// mendRun reads, decodes and writes a run of stripes.
func (m *mend) mendRun(ctx context.Context, first, count int) error {
	off, length := m.layout.FramedRun(first, count)
	k := int64(m.chunk.Scheme.Data)
	if err := m.g.limit.wait(ctx, length*(k+int64(len(m.alive()))), m.urgent); err != nil {
		return err
	}
	if err := m.readRun(ctx, first, off, int(length)); err != nil {
		return err
	}
	m.moved += length * (k + int64(len(m.alive())))
	for s := first; s < first+count; s++ {
		if err := m.mendStripe(s, first); err != nil {
			return err
		}
	}
	for _, t := range m.alive() {
		memory := m.buffers[t.shard].b[:length]
		writer := t.writer
		late, err := m.g.guard.do(ctx, t.drive, m.g.e.options.StallTimeout, func(context.Context) error {
			_, err := writer.Write(memory)
			return err
		})
		if late != nil { // it has the writer and the memory now
			t.writer = nil
			m.buffers[t.shard] = m.g.e.buffers.get(len(m.buffers[t.shard].b))
			m.g.e.tasks.Go(func() {
				defer m.g.e.tasks.on(t.drive)()
				<-late
				writer.Abort()
			})
		}
		t.err = err
	}
	if len(m.alive()) == 0 {
		return m.targetErrors()
	}
	return nil
}

// readRun reads k shards of a run, as many at a time as are still needed.
func (m *mend) readRun(ctx context.Context, first int, off int64, length int) error {
	k := int(m.chunk.Scheme.Data)
	m.read = 0
	order := m.order()
	var reasons []error
	for ones(m.read) < k {
		need := k - ones(m.read)
		if len(order) < need {
			return fmt.Errorf("%w: %d of %d: %w", errTooFew, ones(m.read)+len(order), k, errors.Join(reasons...))
		}
		now := order[:need]
		order = order[need:]
		for i, err := range m.readShards(ctx, now, first, off, length) {
			if err == nil {
				m.read |= 1 << now[i]
				continue
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			reasons = append(reasons, err)
			m.sources &^= 1 << now[i]
			if errors.Is(err, metadata.ErrCorrupt) || errors.Is(err, metadata.ErrShardNotFound) {
				m.lost |= 1 << now[i]
			}
		}
	}
	m.used |= m.read
	return nil
}

// order returns the shards that may be read, best first: those that the run
// before was read from, those on drives that are not slow, then a choice by
// the chunk's id, so that a rebuild reads from all drives alike.
func (m *mend) order() []int {
	n := m.chunk.Scheme.Total()
	var order []int
	rank := func(i int) int {
		drive := m.pg.Newest().Members[i]
		r := (i + int(m.chunk.ID[0])) % n
		if m.g.e.latency.slow(drive, m.g.e.options.HedgeAfter) {
			r += n
		}
		if m.used&(1<<i) == 0 {
			r += 2 * n
		}
		if m.want&(1<<i) != 0 {
			r += 4 * n
		}
		return r
	}
	for i := range n {
		if m.sources&(1<<i) != 0 {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b int) int { return rank(a) - rank(b) })
	return order
}

// readShards reads and verifies some shards of a run at the same time.
func (m *mend) readShards(ctx context.Context, shards []int, first int, off int64, length int) []error {
	errs := make([]error, len(shards))
	done := make(chan struct{}, len(shards))
	for at, i := range shards {
		m.g.e.tasks.Go(func() {
			errs[at] = m.readShard(ctx, i, first, off, length)
			done <- struct{}{}
		})
	}
	for range shards {
		<-done
	}
	return errs
}

// readShard reads a run of one shard from wherever the placement group may
// have it.
func (m *mend) readShard(ctx context.Context, i, first int, off int64, length int) error {
	var room [4]topology.DriveID
	id := m.ref(i).Shard
	seed := shardhash.NewSeed(id.Bytes())
	err := error(metadata.ErrDriveAbsent)
	for _, drive := range homes(room[:0], m.pg, i) {
		if !m.g.e.options.Drives.Condition(drive).Readable {
			continue
		}
		memory := m.buffers[i].b[:length]
		m.g.e.counters.shardReads.Add(1)
		var late <-chan struct{}
		late, err = m.g.guard.do(ctx, drive, m.g.e.options.ReadTimeout, func(ctx context.Context) error {
			return m.g.e.shards.ReadAt(ctx, drive, m.ref(i), memory, off)
		})
		if late != nil { // it has the memory now
			m.buffers[i] = m.g.e.buffers.get(len(m.buffers[i].b))
		}
		if err == nil {
			if err = seed.VerifyFramed(memory, uint64(first), m.layout.CellBytes); err == nil {
				return nil
			}
			m.g.e.counters.corruptCells.Add(1)
			err = fmt.Errorf("%w: %w", metadata.ErrCorrupt, err)
		}
		m.g.e.counters.shardReadFailures.Add(1)
		err = fmt.Errorf("shard %d on drive %s: %w", i, drive, err)
	}
	return err
}

// mendStripe decodes one stripe of the run in memory and takes all its cells
// into the sums.
func (m *mend) mendStripe(s, first int) error {
	n := m.chunk.Scheme.Total()
	length := m.layout.CellLength(s)
	at := int(m.layout.FrameOffset(s) - m.layout.FrameOffset(first))
	for i := range n {
		frame := m.buffers[i].b[at : at+length+shardhash.ChecksumBytes]
		if m.read&(1<<i) != 0 {
			m.cells[i] = frame[:length:length]
		} else {
			m.cells[i] = frame[:0:length]
		}
	}
	if m.chunk.Scheme.Parity > 0 {
		if err := m.code.Reconstruct(m.cells[:n], m.wanted[:n]); err != nil {
			return err
		}
	}
	for i := range n {
		frame := m.buffers[i].b[at : at+length+shardhash.ChecksumBytes]
		if m.read&(1<<i) != 0 { // verified
			m.sums[i].AddChecksum(uint64(s), binary.LittleEndian.Uint64(frame[length:]), length)
		} else {
			m.sums[i].Frame(uint64(s), frame)
		}
	}
	return nil
}

// footer returns what ends the new shards, if the sums of all shards fit the
// digest in the metadata.
func (m *mend) footer() (*metadata.Footer, error) {
	sums := make([]shardhash.Sum, len(m.sums))
	f := &metadata.Footer{ChunkBytes: m.chunk.Bytes, Sums: make([]metadata.Sum, len(sums))}
	for i, s := range m.sums {
		sums[i] = s.Sum()
		f.Sums[i] = metadata.Sum(sums[i])
		m.g.e.putCells(s)
	}
	m.sums = m.sums[:0]
	if metadata.Sum(shardhash.ChunkDigest(sums)) != m.chunk.Digest {
		return f, errDigest
	}
	return f, nil
}

// finish makes a target durable, and reads it back.
func (m *mend) finish(ctx context.Context, t *mendTarget, footer *metadata.Footer) error {
	own := &metadata.Footer{ChunkBytes: footer.ChunkBytes, Sums: slices.Clone(footer.Sums)}
	writer := t.writer
	late, err := m.g.guard.do(ctx, t.drive, longCall, func(context.Context) error { return writer.Close(own) })
	if late != nil || err == nil {
		t.writer = nil
	}
	if err != nil {
		return err
	}
	if err := m.g.limit.wait(ctx, m.layout.FramedLength(), m.urgent); err != nil {
		return err
	}
	m.moved += m.layout.FramedLength()
	_, err = m.g.guard.do(ctx, t.drive, longCall, func(ctx context.Context) error {
		return m.g.e.shards.Verify(ctx, t.drive, m.ref(t.shard))
	})
	if err != nil {
		return err
	}
	stored, err := m.g.stat(ctx, t.drive, m.ref(t.shard))
	if err != nil {
		return err
	}
	return belongs(&m.chunk, stored)
}

// findLiars looks for shards of the last attempt whose sums are not those that
// a trustworthy footer names, and excludes them. It reports whether there are
// any.
func (m *mend) findLiars(ctx context.Context) bool {
	before := m.sources
	for i := range m.chunk.Scheme.Total() {
		var room [4]topology.DriveID
		good := false
		for _, drive := range homes(room[:0], m.pg, i) {
			if stored, err := m.g.stat(ctx, drive, m.ref(i)); err == nil && belongs(&m.chunk, stored) == nil {
				_, err = m.g.guard.do(ctx, drive, longCall, func(ctx context.Context) error {
					return m.g.e.shards.Verify(ctx, drive, m.ref(i))
				})
				good = good || err == nil
			}
		}
		if !good && m.used&(1<<i) != 0 {
			m.sources &^= 1 << i
			m.lost |= 1 << i
		}
	}
	return m.sources != before
}

// close gives the memory back. What a call that hangs holds was replaced.
func (m *mend) close() {
	for _, s := range m.sums {
		m.g.e.putCells(s)
	}
	for _, b := range m.buffers {
		m.g.e.buffers.put(b)
	}
	m.sums, m.buffers = nil, nil
}
