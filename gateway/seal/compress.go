package seal

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/ruche-storage/ruche/metadata"
)

const (
	// FrameBytes is how many plain bytes a compressed frame holds; the last of
	// a part may hold fewer.
	FrameBytes = 1 << 20

	// CompressionBytes is about how much memory a part takes while it is
	// compressed or decompressed, beside the segment buffers: a frame before
	// and after.
	CompressionBytes = 2*FrameBytes + FrameBytes/4

	// MaxIndexBytes bounds the frame index of a part: 5 GiB, as S3 allows.
	MaxIndexBytes = indexTail + 4*(5<<30)/FrameBytes

	indexTail    = 9 // plain length and version
	indexVersion = 1
)

// Codecs holds the compressors and their buffers for all parts of a process.
// It is safe for concurrent use. See [NewCodecs].
type Codecs struct {
	encoder func() *zstd.Encoder
	decoder func() *zstd.Decoder
	frames  sync.Pool // of *frameBuffers
}

// frameBuffers is a plain frame and room for a compressed one.
type frameBuffers struct {
	plain  []byte // FrameBytes
	stored []byte // s2.MaxEncodedLen(FrameBytes)
}

// NewCodecs returns Codecs. What is expensive is made when it is first needed.
func NewCodecs() *Codecs {
	c := &Codecs{
		encoder: sync.OnceValue(func() *zstd.Encoder {
			e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
				zstd.WithWindowSize(FrameBytes), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
			if err != nil {
				panic(err) // the options are constants
			}
			return e
		}),
		decoder: sync.OnceValue(func() *zstd.Decoder {
			d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0),
				zstd.WithDecoderMaxMemory(FrameBytes), zstd.WithDecodeAllCapLimit(true))
			if err != nil {
				panic(err) // the options are constants
			}
			return d
		}),
	}
	c.frames.New = func() any {
		return &frameBuffers{plain: make([]byte, FrameBytes), stored: make([]byte, s2.MaxEncodedLen(FrameBytes))}
	}
	return c
}

// compress returns the compressed frame, in room if it fits.
func (c *Codecs) compress(by metadata.Compression, room, plain []byte) []byte {
	switch by {
	case metadata.CompressionZstd:
		return c.encoder().EncodeAll(plain, room[:0])
	case metadata.CompressionS2:
		return s2.Encode(room, plain)
	}
	panic(fmt.Sprintf("seal: compression %d", by))
}

// decompress fills plain, whose length is that of the frame, from stored. It
// never writes more.
func (c *Codecs) decompress(by metadata.Compression, plain, stored []byte) error {
	var out []byte
	var err error
	switch by {
	case metadata.CompressionZstd:
		out, err = c.decoder().DecodeAll(stored, plain[:0:len(plain)])
	case metadata.CompressionS2:
		var n int
		if n, err = s2.DecodedLen(stored); err == nil && n == len(plain) {
			out, err = s2.Decode(plain, stored)
		}
	default:
		return fmt.Errorf("%w: compression %d is not known", ErrCompressed, by)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCompressed, err)
	}
	if len(out) != len(plain) {
		return fmt.Errorf("%w: frame of %d bytes where %d were packed", ErrCompressed, len(out), len(plain))
	}
	return nil
}

// worth reports whether a frame shrank enough to be stored compressed: by at
// least 1/16, and by more than its place in the index takes. Readers only
// assume that it is shorter.
func worth(plain, stored int) bool { return stored+plain/16+16 <= plain }

// packer reads a body as compressed frames followed by their index.
type packer struct {
	codecs  *Codecs
	by      metadata.Compression
	body    *body
	buffers *frameBuffers

	pending    []byte // of a frame or the index, not yet read
	index      []byte // 4 bytes a frame so far
	raw        bool   // given up: frames are stored as they are
	off        bool   // given up on the first frame: no frames, no index
	ended      bool   // the index, or the whole body, is in pending
	plain      int64
	indexBytes int64
}

func newPacker(c *Codecs, by metadata.Compression, b *body) *packer {
	return &packer{codecs: c, by: by, body: b, buffers: c.frames.Get().(*frameBuffers)}
}

func (p *packer) close() {
	if p.buffers != nil {
		p.codecs.frames.Put(p.buffers)
		p.buffers, p.pending = nil, nil
	}
}

// begin packs the first frame. If it does not shrink, the packer yields the
// body unchanged and begin returns false.
func (p *packer) begin() (shrinks bool, err error) {
	n, err := readFull(p.body, p.buffers.plain)
	if err != nil && err != io.EOF {
		return false, err
	}
	stored := p.pack(n)
	if len(stored) == n {
		p.pending, p.off, p.ended = stored, true, err == io.EOF
		return false, nil
	}
	p.push(n, stored)
	return true, nil
}

// finished reports whether nothing is left to read.
func (p *packer) finished() bool { return p.ended && len(p.pending) == 0 }

func (p *packer) Read(dst []byte) (int, error) {
	if p.buffers == nil {
		return 0, io.ErrClosedPipe
	}
	for len(p.pending) == 0 {
		switch {
		case p.ended:
			return 0, io.EOF
		case p.off:
			n, err := p.body.Read(dst)
			p.ended = err == io.EOF || p.body.left == 0
			return n, err
		}
		if err := p.next(); err != nil {
			return 0, err
		}
	}
	n := copy(dst, p.pending)
	p.pending = p.pending[n:]
	return n, nil
}

// next packs one more frame, or the index.
func (p *packer) next() error {
	n, err := readFull(p.body, p.buffers.plain)
	if err != nil && err != io.EOF {
		return err
	}
	if n > 0 {
		p.push(n, p.pack(n))
		return nil
	}
	p.index = binary.LittleEndian.AppendUint64(p.index, uint64(p.plain))
	p.index = append(p.index, indexVersion)
	p.indexBytes = int64(len(p.index))
	p.pending, p.ended = p.index, true
	return nil
}

// pack returns how the first n bytes of the frame buffer are stored.
func (p *packer) pack(n int) []byte {
	plain := p.buffers.plain[:n]
	if p.raw {
		return plain
	}
	stored := p.codecs.compress(p.by, p.buffers.stored, plain)
	if !worth(n, len(stored)) {
		p.raw = true
		return plain
	}
	return stored
}

func (p *packer) push(n int, stored []byte) {
	p.index = binary.LittleEndian.AppendUint32(p.index, uint32(len(stored)))
	p.plain += int64(n)
	p.pending = stored
}

// Index knows where the frames of a compressed part lie. It is a value that is
// only read, so it is safe for concurrent use.
type Index struct {
	plain   int64
	offsets []int64 // of every frame, and of the end of the last
}

// ParseIndex parses the frame index b of a part that has so many plain bytes
// and so many bytes before sealing (frames and index). It returns an error
// wrapping [ErrCompressed] unless all of it fits together.
func ParseIndex(b []byte, plain, stream int64) (*Index, error) {
	frames := (plain + FrameBytes - 1) / FrameBytes
	if plain < 1 || len(b) > MaxIndexBytes || int64(len(b)) != 4*frames+indexTail {
		return nil, fmt.Errorf("%w: index of %d bytes for %d", ErrCompressed, len(b), plain)
	}
	tail := b[4*frames:]
	if tail[8] != indexVersion || binary.LittleEndian.Uint64(tail) != uint64(plain) {
		return nil, fmt.Errorf("%w: index of another part or version", ErrCompressed)
	}
	x := &Index{plain: plain, offsets: make([]int64, 1, frames+1)}
	var end int64
	for i := range int(frames) {
		stored := int64(binary.LittleEndian.Uint32(b[4*i:]))
		if stored < 1 || stored > int64(x.frameBytes(i)) {
			return nil, fmt.Errorf("%w: frame %d of %d bytes", ErrCompressed, i, stored)
		}
		end += stored
		x.offsets = append(x.offsets, end)
	}
	if end+int64(len(b)) != stream {
		return nil, fmt.Errorf("%w: frames of %d bytes where %d were sealed", ErrCompressed, end, stream)
	}
	return x, nil
}

// frameBytes is how many plain bytes frame i holds.
func (x *Index) frameBytes(i int) int {
	return int(min(FrameBytes, x.plain-int64(i)*FrameBytes))
}

// Stored returns where the frames that hold the plain bytes [off, off+n) lie
// before sealing. The range must lie within the part and not be empty.
func (x *Index) Stored(off, n int64) (storedOff, storedLength int64) {
	first, last := off/FrameBytes, (off+n-1)/FrameBytes
	return x.offsets[first], x.offsets[last+1] - x.offsets[first]
}

// NewReader returns a reader of the plain bytes [off, off+n). stored must yield
// what [Index.Stored] names. Close gives buffers back and closes nothing else.
func (x *Index) NewReader(c *Codecs, by metadata.Compression, stored io.Reader, off, n int64) io.ReadCloser {
	return &frameReader{
		index: x, codecs: c, by: by, stored: stored,
		buffers: c.frames.Get().(*frameBuffers),
		frame:   int(off / FrameBytes), skip: int(off % FrameBytes), left: n,
	}
}

type frameReader struct {
	index   *Index
	codecs  *Codecs
	by      metadata.Compression
	stored  io.Reader
	buffers *frameBuffers
	frame   int   // next to be read
	skip    int   // bytes of it before the range
	left    int64 // bytes of the range in it and behind
	plain   []byte
	err     error
}

func (r *frameReader) Read(p []byte) (int, error) {
	if err := r.ready(); err != nil {
		return 0, err
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

// WriteTo implements [io.WriterTo].
func (r *frameReader) WriteTo(w io.Writer) (int64, error) { return writeTo(w, r.ready, &r.plain) }

func (r *frameReader) ready() error {
	for len(r.plain) == 0 {
		if r.err != nil {
			return r.err
		}
		if r.left == 0 {
			r.err = io.EOF
			continue
		}
		r.plain, r.err = r.next()
	}
	return nil
}

// next reads and unpacks a frame and returns its part of the range.
func (r *frameReader) next() ([]byte, error) {
	plain := r.buffers.plain[:r.index.frameBytes(r.frame)]
	stored := r.buffers.stored[:r.index.offsets[r.frame+1]-r.index.offsets[r.frame]]
	raw := len(stored) == len(plain)
	if raw {
		stored = plain
	}
	if _, err := readFull(r.stored, stored); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if !raw {
		if err := r.codecs.decompress(r.by, plain, stored); err != nil {
			return nil, fmt.Errorf("frame %d: %w", r.frame, err)
		}
	}
	plain = plain[r.skip:]
	plain = plain[:min(int64(len(plain)), r.left)]
	r.frame++
	r.skip = 0
	r.left -= int64(len(plain))
	return plain, nil
}

// Close gives the buffers back.
func (r *frameReader) Close() error {
	if r.buffers != nil {
		r.codecs.frames.Put(r.buffers)
		r.buffers, r.plain, r.err = nil, nil, io.ErrClosedPipe
	}
	return nil
}
