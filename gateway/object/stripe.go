package object

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ruche-storage/ruche/erasure"
	"github.com/ruche-storage/ruche/erasure/shardhash"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
)

const (
	// frameBytes is the length of a full framed cell.
	frameBytes = metadata.CellBytes + shardhash.ChecksumBytes

	// stripesInFlight is how many stripes a part holds: one is filled while
	// the other is written.
	stripesInFlight = 2

	// bracketEvery is how many stripes there are to one that is decoded again
	// before it is trusted.
	bracketEvery = 64
)

// stripe is the memory of one stripe: k+m framed cells at equal distances. It
// is filled by the goroutine of the request, then each lane writes its cell
// and lets go of it; the last one gives the stripe back to its depot.
type stripe struct {
	memory *buffer
	budget int64
	depot  *depot
	refs   atomic.Int32

	stride int // distance between cells, checksum included
	length int // of each cell, without checksum
}

// frame is the framed cell i.
func (s *stripe) frame(i int) []byte {
	return s.memory.b[i*s.stride : i*s.stride+s.length+shardhash.ChecksumBytes]
}

// cell is cell i without its checksum.
func (s *stripe) cell(i int) []byte {
	return s.memory.b[i*s.stride : i*s.stride+s.length : i*s.stride+s.length]
}

func (s *stripe) release() {
	if s.refs.Add(-1) == 0 {
		s.depot.giveBack(s)
	}
}

// depot holds the stripes of one part within the global budget.
type depot struct {
	e     *Engine
	size  int   // bytes of a stripe's memory
	extra int64 // bytes that come with the first one, for a compressor

	free chan *stripe // room for all there can ever be

	mu     sync.Mutex // guards closed, owned; free is filled under it
	closed bool
	owned  int
}

func newDepot(e *Engine, size int, extra int64) *depot {
	return &depot{e: e, size: size, extra: extra, free: make(chan *stripe, stripesInFlight*(erasure.MaxShards+2))}
}

// open takes the stripe without which nothing begins.
func (d *depot) open(ctx context.Context) error {
	if err := d.e.writes.acquire(ctx, int64(d.size)+d.extra, d.e.options.BudgetWait); err != nil {
		d.extra, d.closed = 0, true
		return err
	}
	d.add()
	return nil
}

// replace takes a stripe in place of those that hanging drives hold.
func (d *depot) replace(ctx context.Context) error {
	if err := d.e.writes.acquire(ctx, int64(d.size), d.e.options.BudgetWait); err != nil {
		return err
	}
	d.add()
	return nil
}

// grow adds a stripe if the budget has one to spare.
func (d *depot) grow() bool {
	if !d.e.writes.try(int64(d.size)) {
		return false
	}
	d.add()
	return true
}

func (d *depot) add() {
	s := &stripe{memory: d.e.buffers.get(d.size), budget: int64(d.size), depot: d}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.owned++
	d.free <- s
}

func (d *depot) giveBack(s *stripe) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.free <- s
		return
	}
	d.drop(s)
}

// drop returns memory to the engine. It needs mu.
func (d *depot) drop(s *stripe) {
	d.e.buffers.put(s.memory)
	d.e.writes.release(s.budget)
	d.owned--
}

// close returns all stripes. Those that a hanging drive still holds follow
// when it lets go of them.
func (d *depot) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.e.writes.release(d.extra)
	d.extra = 0
	for {
		select {
		case s := <-d.free:
			d.drop(s)
		default:
			return
		}
	}
}

// segments yields the sealed segments of a part; [seal.Source] is one.
type segments interface {
	Next(dst []byte) (n int, last bool, err error)
}

// partWriter writes the sealed bytes of one part as chunks.
type partWriter struct {
	e      *Engine
	bucket *bucket
	part   metadata.PartID
	lease  *lease
	sealed int64 // sealed bytes in all, -1 if not known

	depot   *depot
	written int64 // sealed bytes so far

	chunk   *chunkWriter // being filled, nil between chunks
	closing *chunkWriter // becoming durable while the next is filled
	done    []*chunkWriter
}

// write writes all segments of source. On error nothing is left but what
// hanging drives hold; the caller must call discard if it does not commit.
func (w *partWriter) write(ctx context.Context, source segments) error {
	for last := false; !last; {
		if w.chunk == nil {
			if err := w.begin(ctx); err != nil {
				return err
			}
		}
		s, err := w.take(ctx)
		if err != nil {
			return err
		}
		n := 0
		if n, last, err = w.fill(s, source); err != nil {
			w.depot.giveBack(s)
			return err
		}
		if err := w.chunk.add(ctx, s, n, last); err != nil {
			return err
		}
		w.written += int64(n)
		if last || w.chunk.full() {
			if err := w.end(ctx); err != nil {
				return err
			}
		}
	}
	return w.settle(ctx)
}

// begin starts the next chunk.
func (w *partWriter) begin(ctx context.Context) error {
	pg, err := w.e.choosePG()
	if err != nil {
		return err
	}
	if err := w.provide(ctx, stripeBytes(pg.Scheme, w.sealed)); err != nil {
		return err
	}
	size := int64(-1)
	if w.sealed >= 0 {
		size = min(metadata.ChunkBytes, w.sealed-w.written)
	}
	w.chunk, err = w.startChunk(ctx, pg, uint32(len(w.done)), size)
	if err == nil {
		w.done = append(w.done, w.chunk)
	}
	return err
}

// provide sees that there are stripes of at least so many bytes.
func (w *partWriter) provide(ctx context.Context, size int) error {
	if w.depot != nil {
		if size <= w.depot.size {
			return nil
		}
		w.depot.close() // this chunk's scheme is wider than the last one's
	}
	extra := int64(0)
	if w.sealed < 0 {
		extra = seal.CompressionBytes
	}
	w.depot = newDepot(w.e, size, extra)
	return w.depot.open(ctx)
}

// end closes the shards of the chunk, which goes on while the next one is
// filled, after the one before has become durable.
func (w *partWriter) end(ctx context.Context) error {
	w.chunk.finish()
	err := w.settle(ctx)
	w.closing, w.chunk = w.chunk, nil
	return err
}

// settle waits until the shards of the chunk that is closing are durable.
func (w *partWriter) settle(ctx context.Context) error {
	if w.closing == nil {
		return nil
	}
	err := w.closing.wait(ctx)
	w.closing = nil
	return err
}

// discard ends what is open and frees what is durable. It is for parts whose
// commit was not sent. Nothing waits for drives that hang.
func (w *partWriter) discard() {
	for _, c := range w.done {
		c.discard()
	}
}

// close gives the memory back. It must be called in the end.
func (w *partWriter) close() {
	if w.depot != nil {
		w.depot.close()
	}
}

// stripeBytes is how much memory a stripe of s takes for a part of so many
// sealed bytes (-1 if not known): less than a full one if the part is small.
func stripeBytes(s metadata.Scheme, sealed int64) int {
	full := s.Total() * frameBytes
	if sealed < 0 || sealed >= int64(s.Data)*metadata.CellBytes {
		return full
	}
	l := layout(s, sealed)
	segments := int((sealed + metadata.CellBytes - 1) / metadata.CellBytes)
	return max(segments*frameBytes, s.Total()*l.FrameLength(0))
}

// take waits for a stripe to fill. Drives that hold all of them for much longer
// than the others need lose their shards where the ack rule allows it, and the
// part goes on with another stripe.
func (w *partWriter) take(ctx context.Context) (*stripe, error) {
	select {
	case s := <-w.depot.free:
		return s, nil
	default:
	}
	if w.depot.owned < stripesInFlight && w.depot.grow() {
		return <-w.depot.free, nil
	}
	began := w.e.options.Now()
	timer := time.NewTimer(w.chunk.lagCheck())
	defer timer.Stop()
	for {
		select {
		case s := <-w.depot.free:
			return s, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-timer.C:
		}
		if w.chunk.giveUpLate() {
			if err := w.depot.replace(ctx); err != nil {
				return nil, err
			}
		} else if w.e.options.Now().Sub(began) >= maxStalls*w.e.options.StallTimeout {
			return nil, fmt.Errorf("object: drives hold all stripes: %w: %w", ErrUnwritable, metadata.ErrSlow)
		}
		timer.Reset(w.chunk.lagCheck())
	}
}

// fill reads segments of source into the data cells of s: as many as a stripe
// holds, or as the chunk still takes, or as there are.
func (w *partWriter) fill(s *stripe, source segments) (n int, last bool, err error) {
	room := w.chunk.room()
	s.stride, s.length = frameBytes, metadata.CellBytes
	for i := 0; i < room && !last; i++ {
		var m int
		m, last, err = source.Next(s.memory.b[i*frameBytes : i*frameBytes+metadata.CellBytes])
		if err != nil {
			return 0, false, err
		}
		n += m
	}
	if n == 0 {
		return 0, false, fmt.Errorf("object: empty stripe: %w", io.ErrUnexpectedEOF)
	}
	return n, last, nil
}

// spread moves the n bytes of a short stripe, which lie in whole segments, to
// cells of the given length, and zeroes what they do not fill.
func (s *stripe) spread(n, data, length int) {
	if length == metadata.CellBytes {
		// Segments are cells; only the last may be short.
		whole := n / metadata.CellBytes
		for i := whole; i < data; i++ {
			clear(s.cell(i)[min(max(0, n-i*length), length):])
		}
		return
	}
	stride := length + shardhash.ChecksumBytes
	// A cell never begins before the bytes it takes, so going from the last
	// cell to the first never overwrites what is still to be moved.
	for i := data - 1; i >= 0; i-- {
		cell := s.memory.b[i*stride : i*stride+length]
		from := i * length
		to := min(from+length, n)
		if from >= n {
			clear(cell)
			continue
		}
		s.move(cell, from, to)
		clear(cell[to-from:])
	}
	s.stride, s.length = stride, length
}

// move copies bytes [from, to) of the segments to the start of cell, the last
// run first, as they may overlap it.
func (s *stripe) move(cell []byte, from, to int) {
	for to > from {
		segment := (to - 1) / metadata.CellBytes
		start := max(from, segment*metadata.CellBytes)
		at := segment*frameBytes + start%metadata.CellBytes
		copy(cell[start-from:to-from], s.memory.b[at:at+to-start])
		to = start
	}
}
