package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/minio/crc64nvme"

	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
)

const (
	// runBytes is about how much of a chunk is read at a time: a seek's worth.
	runBytes = 1 << 20

	// chunkRows is how many chunk rows are read at a time.
	chunkRows = 64
)

// sealedReader yields the sealed segments of a range of a part, reading one
// run ahead. It is used by one goroutine at a time.
type sealedReader struct {
	e      *Engine
	ctx    context.Context
	bucket *bucket
	part   *metadata.Part
	chunks []metadata.Chunk // rows at hand, in order

	off, end int64  // sealed bytes of the range that no run was started for
	careful  int64  // up to there runs are single stripes
	begun    bool   // a run was started
	current  *fetch // being yielded
	ahead    *fetch // started
	rest     []byte // of a segment, for Read
	err      error  // the first: nothing is read behind what is missing
}

// segment returns the next segment, which is the caller's until the next call.
// It returns io.EOF behind the last.
func (r *sealedReader) segment() ([]byte, error) {
	for r.current == nil || len(r.current.out) == 0 {
		if r.err == nil {
			r.err = r.advance()
		}
		if r.err != nil {
			return nil, r.err
		}
	}
	s := r.current.out[0]
	r.current.out = r.current.out[1:]
	return s, nil
}

// advance makes the next run current, and starts the one behind it if there
// is memory to spare.
func (r *sealedReader) advance() error {
	if r.current != nil {
		r.current.close()
		r.current = nil
	}
	if r.ahead == nil {
		if err := r.start(true); err != nil {
			return err
		}
	}
	r.current, r.ahead = r.ahead, nil
	err := r.current.wait(r.ctx)
	if f := r.current; errors.Is(err, ErrUnreadable) && f.count > 1 {
		// A shard counts only if all its cells of the run are right. If damage
		// hit other shards in other stripes, each stripe may be readable.
		r.careful, r.off = r.off, r.off-f.n
		return nil // the run has no segments: advance is called again
	}
	if err != nil {
		if errors.Is(err, ErrUnreadable) {
			r.e.counters.unreadable.Add(1)
		}
		return err
	}
	if r.off < r.end {
		return r.start(false)
	}
	return nil
}

// start plans the next run and asks for its shards. Unless must is set it does
// nothing if the budget is used up. The first run of a part waits for memory
// and may fail with ErrBusy; a later one goes on with a single stripe, so that
// a reply that has begun is not broken off: there is one such stripe at most
// for each reader that was let in.
func (r *sealedReader) start(must bool) error {
	if r.off >= r.end {
		return io.EOF
	}
	f, err := r.plan(runBytes)
	if err != nil {
		return err
	}
	base := f.base()
	if !r.e.reads.try(base) {
		if !must {
			return nil
		}
		if f, err = r.plan(0); err != nil {
			return err
		}
		base = f.base()
		if r.begun {
			r.e.reads.force(base)
		} else if err := r.e.reads.acquire(r.ctx, base, r.e.options.BudgetWait); err != nil {
			return err
		}
	}
	r.begun = true
	r.off += f.n
	f.start(r.ctx)
	r.ahead = f
	return nil
}

// plan cuts the next run from the range: whole stripes of about so many bytes,
// or a single stripe of which only some cells are wanted.
func (r *sealedReader) plan(about int64) (*fetch, error) {
	no := r.off / metadata.ChunkBytes
	c, err := r.chunk(uint32(no))
	if err != nil {
		return nil, err
	}
	pg, err := r.e.pg(r.ctx, c.PG, c.Generation)
	if err != nil {
		return nil, err
	}
	if pg.Scheme != c.Scheme || len(pg.Newest().Members) != c.Scheme.Total() {
		return nil, fmt.Errorf("object: chunk %s of %s in placement group %d of %s: %w", c.ID, c.Scheme, pg.ID, pg.Scheme, ErrDamaged)
	}
	f := &fetch{e: r.e, bucket: r.bucket.ref(), part: r.part.ID, chunk: *c, pg: pg, layout: layout(c.Scheme, c.Bytes)}
	f.off = r.off - no*metadata.ChunkBytes
	end := min(c.Bytes, r.end-no*metadata.ChunkBytes)
	f.first, f.count = f.layout.RangeStripes(f.off, end-f.off)
	stripe := f.layout.StripeBytes()
	partial := func(s int) bool {
		from := int64(s) * stripe
		return f.off > from || end < from+int64(f.layout.StripeLength(s))
	}
	if partial(f.first) || r.off < r.careful {
		f.count = 1
	} else {
		f.count = min(f.count, max(1, int(about/stripe)))
		if last := f.first + f.count - 1; last > f.first && partial(last) {
			f.count--
		}
	}
	last := f.first + f.count - 1
	f.n = min(end, int64(last)*stripe+int64(f.layout.StripeLength(last))) - f.off
	for s := f.first; s < f.first+f.count; s++ {
		from, cells := f.layout.RangeCells(s, f.off, f.n)
		f.want |= (1<<cells - 1) << from
	}
	return f, nil
}

// chunk returns the row of a chunk, checked against the length of the part.
func (r *sealedReader) chunk(no uint32) (*metadata.Chunk, error) {
	if len(r.chunks) == 0 || no < r.chunks[0].No || no > r.chunks[len(r.chunks)-1].No {
		rows, err := r.e.meta.Chunks(r.ctx, r.bucket.ref(), r.part.ID, no, chunkRows)
		if err != nil {
			return nil, err
		}
		r.chunks = rows
	}
	want := min(metadata.ChunkBytes, r.part.SealedBytes-int64(no)*metadata.ChunkBytes)
	for i := range r.chunks {
		c := &r.chunks[i]
		if c.No != no {
			continue
		}
		if err := c.Scheme.Validate(); err != nil {
			return nil, fmt.Errorf("object: chunk %d of part %s: %w: %w", no, r.part.ID, ErrDamaged, err)
		}
		if c.Bytes != want || c.Scheme.CellLog2 != metadata.CellLog2 {
			return nil, fmt.Errorf("object: chunk %d of part %s has %d bytes instead of %d: %w", no, r.part.ID, c.Bytes, want, ErrDamaged)
		}
		return c, nil
	}
	return nil, fmt.Errorf("object: part %s has no chunk %d: %w", r.part.ID, no, ErrDamaged)
}

// Lend implements [seal.Lender] for the decompressor.
func (r *sealedReader) Lend(n int) ([]byte, error) {
	if len(r.rest) == 0 {
		s, err := r.segment()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		r.rest = s
	}
	if len(r.rest) < n {
		return nil, io.ErrUnexpectedEOF // seal asks for whole segments
	}
	lent := r.rest[:n]
	r.rest = r.rest[n:]
	return lent, nil
}

// Read yields the sealed bytes as a stream.
func (r *sealedReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		s, err := r.segment()
		if err != nil {
			return 0, err
		}
		r.rest = s
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close gives the memory back.
func (r *sealedReader) Close() error {
	for _, f := range []*fetch{r.current, r.ahead} {
		if f != nil {
			f.close()
		}
	}
	r.current, r.ahead, r.rest, r.off, r.err = nil, nil, nil, r.end, nil
	return nil
}

var _ seal.Lender = (*sealedReader)(nil)

// partReader yields plain bytes of a part in runs that lie in memory of its
// own. A part that is read whole is compared with its CRC64-NVME before the
// last run is returned.
type partReader struct {
	e    *Engine
	part *metadata.Part
	left int64 // plain bytes still to be yielded

	whole bool
	crc   uint64

	// Without compression: segments are opened where they were read.
	sealed *sealedReader
	inline []byte // sealed bytes of an inline body
	opener *seal.Opener
	place  seal.Range // what is still to be opened

	// With compression.
	frames io.ReadCloser
	room   *buffer
}

// frameRoom is how much is decompressed at a time.
const frameRoom = 64 << 10

// openPart returns a reader of n plain bytes of a part from off. chunks and
// inline are what is at hand of it; more chunk rows are read as needed.
func (e *Engine) openPart(ctx context.Context, b *bucket, p *metadata.Part, chunks []metadata.Chunk, inline []byte, off, n int64) (*partReader, error) {
	if off < 0 || n < 0 || off+n > p.Bytes {
		return nil, fmt.Errorf("object: bytes %d to %d of a part of %d: %w", off, off+n, p.Bytes, ErrDamaged)
	}
	r := &partReader{e: e, part: p, left: n, whole: off == 0 && n == p.Bytes, inline: inline}
	if n == 0 {
		return r, nil
	}
	key, err := e.partKey(b, p)
	if err != nil {
		return nil, err
	}
	switch p.Body {
	case metadata.BodyInline:
		if int64(len(inline)) != p.SealedBytes {
			return nil, fmt.Errorf("object: inline body of %d bytes instead of %d: %w", len(inline), p.SealedBytes, ErrDamaged)
		}
	case metadata.BodyChunks:
		r.sealed = &sealedReader{e: e, ctx: ctx, bucket: b, part: p, chunks: chunks}
	default:
		return nil, fmt.Errorf("object: part %s has a body of kind %d: %w", p.ID, p.Body, ErrDamaged)
	}
	format := seal.FormatOf(p.Sealed)
	if p.Compression != metadata.CompressionOff {
		return r, r.openFrames(seal.Part{Format: format, Key: key, ID: p.ID, Compression: p.Compression,
			Bytes: p.Bytes, SealedBytes: p.SealedBytes, IndexBytes: p.IndexBytes}, off, n)
	}
	if format.SealedLength(p.Bytes) != p.SealedBytes {
		return nil, fmt.Errorf("object: part of %d bytes sealed as %d: %w", p.Bytes, p.SealedBytes, ErrDamaged)
	}
	if r.place, err = format.Range(p.SealedBytes, off, n); err != nil {
		return nil, fmt.Errorf("object: %w: %w", ErrDamaged, err)
	}
	r.opener = seal.NewOpener(format, key, p.ID, p.Compression)
	if r.sealed != nil {
		r.sealed.off, r.sealed.end = r.place.Offset, r.place.Offset+r.place.Sealed
	} else {
		r.inline = inline[r.place.Offset : r.place.Offset+r.place.Sealed]
	}
	return r, nil
}

// openFrames begins to read a compressed part.
func (r *partReader) openFrames(p seal.Part, off, n int64) error {
	if err := r.e.reads.acquire(r.context(), compressedReadBytes, r.e.options.BudgetWait); err != nil {
		return err
	}
	r.room = r.e.buffers.get(frameRoom)
	frames, err := r.e.codecs.Open(p, off, n, func(off, n int64) (io.ReadCloser, error) {
		if r.sealed == nil {
			return io.NopCloser(bytes.NewReader(r.inline[off : off+n])), nil
		}
		r.sealed.off, r.sealed.end = off, off+n
		return r.sealed, nil
	})
	if err != nil {
		r.close()
		return err
	}
	r.frames = frames
	return nil
}

const compressedReadBytes = seal.CompressionBytes + frameRoom

func (r *partReader) context() context.Context {
	if r.sealed != nil {
		return r.sealed.ctx
	}
	return context.Background()
}

// next returns a run of plain bytes, valid until the next call, or io.EOF.
func (r *partReader) next() ([]byte, error) {
	if r.left == 0 {
		return nil, io.EOF
	}
	var plain []byte
	var err error
	if r.frames != nil {
		plain, err = r.decompress()
	} else {
		plain, err = r.open()
	}
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("object: part %s: %w", r.part.ID, err)
	}
	r.left -= int64(len(plain))
	if r.whole {
		r.crc = crc64nvme.Update(r.crc, plain)
		if r.left == 0 && r.crc != r.part.CRC64 {
			r.e.log.Error("part does not match its checksum", "part", r.part.ID.String())
			return nil, fmt.Errorf("object: part %s does not match its CRC64-NVME: %w", r.part.ID, ErrDamaged)
		}
	}
	return plain, nil
}

// open opens the next segment where it lies.
func (r *partReader) open() ([]byte, error) {
	var segment, plain []byte
	var err error
	last := r.place.Final && r.place.Count == 1
	if r.sealed == nil {
		segment = r.inline[:min(len(r.inline), seal.SegmentBytes)]
		r.inline = r.inline[len(segment):]
		plain, err = r.opener.Open(segment[:0], segment, r.place.First, last)
	} else {
		if segment, err = r.sealed.segment(); err != nil {
			return nil, err
		}
		plain, err = r.opener.Open(segment[:0], segment, r.place.First, last)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	plain = plain[min(r.place.Skip, len(plain)):]
	plain = plain[:min(int64(len(plain)), r.left)]
	r.place.First++
	r.place.Count--
	r.place.Skip = 0
	return plain, nil
}

func (r *partReader) decompress() ([]byte, error) {
	n, err := io.ReadFull(r.frames, r.room.b[:min(r.left, frameRoom)])
	if err != nil {
		return nil, err
	}
	return r.room.b[:n], nil
}

func (r *partReader) close() {
	if r.frames != nil {
		r.frames.Close()
		r.frames = nil
	}
	if r.room != nil {
		r.e.buffers.put(r.room)
		r.e.reads.release(compressedReadBytes)
		r.room = nil
	}
	if r.sealed != nil {
		r.sealed.Close()
	}
}
