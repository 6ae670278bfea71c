package seal

import (
	"fmt"
	"io"

	"github.com/ruche-storage/ruche/metadata"
)

// Options says how a part is to be sealed.
type Options struct {
	Format      Format
	Key         Key // fresh for this part; ignored by FormatPlain
	Part        metadata.PartID
	Compression metadata.Compression // what is wanted: see Result

	// Length is the exact length of the body, in bytes, or negative if it is
	// not known. A Source reads no byte more than Length.
	Length int64

	// Codecs is needed if Compression is on.
	Codecs *Codecs
}

// Result says what a body became. It has what the row of a part needs.
type Result struct {
	Bytes       int64                // plain bytes, as the client sees them
	SealedBytes int64                // bytes of all segments
	Compression metadata.Compression // off if the first frame did not shrink
	IndexBytes  int64                // frame index at the end of what is sealed, 0 without compression
}

// Source yields the sealed segments of a body, each into a buffer of its
// caller. It is not safe for concurrent use.
type Source struct {
	options Options
	body    *body
	packer  *packer   // nil without compression
	stream  io.Reader // what is cut into segments: the body or its frames
	sealer  *Sealer
	index   uint64
	carry   [1]byte // first byte of the next segment, read to see that there is one
	carried bool
	done    bool
	result  Result
	err     error
}

// NewSource returns a Source that seals what r yields. Close must be called.
func NewSource(o Options, r io.Reader) *Source {
	return &Source{options: o, body: &body{r: r, left: o.Length}}
}

// Next puts the next sealed segment at the start of dst, which must have at
// least [SegmentBytes] bytes, and returns its length. Every segment but the
// last is full. last is true with the last segment; after it, Next returns
// io.EOF. A part that is not sealed and empty has one last segment of 0 bytes,
// which is none.
//
// An error of the body ends the part and comes through as it is; a body that
// ends before the announced length is io.ErrUnexpectedEOF. Next allocates
// nothing but at its first call.
func (s *Source) Next(dst []byte) (n int, last bool, err error) {
	if s.err == nil && s.sealer == nil {
		s.err = s.start()
	}
	if s.err == nil && s.done {
		s.err = io.EOF
	}
	if s.err != nil {
		return 0, false, s.err
	}
	n, last, s.err = s.fill(dst)
	if s.err != nil {
		return 0, false, s.err
	}
	sealed := s.sealer.Seal(dst[:0], dst[:n], s.index, last)
	s.index++
	s.done = last
	s.result.SealedBytes += int64(len(sealed))
	return len(sealed), last, nil
}

// Result says what the body became. It is complete after Next reported the
// last segment.
func (s *Source) Result() Result {
	r := s.result
	r.Bytes = s.body.read
	if s.packer != nil {
		r.IndexBytes = s.packer.indexBytes
	}
	return r
}

// Close gives buffers back. It does not close the body.
func (s *Source) Close() {
	if s.packer != nil {
		s.packer.close()
	}
	if s.err == nil {
		s.err = io.ErrClosedPipe
	}
}

// Format writes a text without the key of the part.
func (s *Source) Format(f fmt.State, _ rune) { io.WriteString(f, "seal.Source(redacted)") }

// start decides about compression by the first frame, as the additional data
// of every segment names it.
func (s *Source) start() error {
	s.stream = s.body
	if c := s.options.Compression; c != metadata.CompressionOff {
		packer := newPacker(s.options.Codecs, c, s.body)
		s.packer = packer
		s.stream = packer
		shrinks, err := packer.begin()
		if err != nil {
			return err
		}
		if shrinks {
			s.result.Compression = c
		}
	}
	s.sealer = NewSealer(s.options.Format, s.options.Key, s.options.Part, s.result.Compression)
	return nil
}

// fill puts the plain bytes of a segment at the start of dst.
func (s *Source) fill(dst []byte) (n int, last bool, err error) {
	full := s.sealer.Format().PlainBytes()
	if s.carried {
		dst[0], n, s.carried = s.carry[0], 1, false
	}
	m, err := readFull(s.stream, dst[n:full])
	n += m
	if err == io.EOF {
		return n, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	if s.ended() {
		return n, true, nil
	}
	// The segment is full. Only a byte behind it shows whether it is the last.
	switch _, err := readFull(s.stream, s.carry[:]); err {
	case nil:
		s.carried = true
		return n, false, nil
	case io.EOF:
		return n, true, nil
	default:
		return 0, false, err
	}
}

// ended reports whether the stream is known to have no byte left.
func (s *Source) ended() bool {
	if s.result.Compression != metadata.CompressionOff {
		return s.packer.finished()
	}
	return s.body.left == 0 && (s.packer == nil || s.packer.finished())
}

// body counts the bytes of a body and holds it to its announced length.
type body struct {
	r    io.Reader
	left int64 // negative if unknown
	read int64
}

func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if b.left > 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.read += int64(n)
	if b.left > 0 {
		b.left -= int64(n)
		switch {
		case b.left == 0 && err == io.EOF:
			err = nil // the next call says it
		case err == io.EOF:
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// maxEmptyReads is how often in a row a reader may return nothing and no
// error, as in package bufio.
const maxEmptyReads = 100

// readFull fills p. Unlike io.ReadFull it returns the reader's own error as it
// is, so that a body cut off, io.ErrUnexpectedEOF, is never taken for one that
// ended: that is io.EOF, with the bytes before it.
func readFull(r io.Reader, p []byte) (n int, err error) {
	empty := 0
	for n < len(p) {
		m, err := r.Read(p[n:])
		n += m
		if err != nil {
			if n == len(p) && err == io.EOF {
				return n, nil // said again by the next read
			}
			return n, err
		}
		if m > 0 {
			empty = 0
		} else if empty++; empty >= maxEmptyReads {
			return n, io.ErrNoProgress
		}
	}
	return n, nil
}

// NewReader returns a reader of the sealed bytes of s, for callers without
// buffers of their own. It uses buf for one segment, and allocates if buf is
// shorter than [SegmentBytes].
func (s *Source) NewReader(buf []byte) io.Reader {
	if len(buf) < SegmentBytes {
		buf = make([]byte, SegmentBytes)
	}
	return &sourceReader{source: s, buf: buf}
}

type sourceReader struct {
	source *Source
	buf    []byte
	rest   []byte
}

func (r *sourceReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		n, _, err := r.source.Next(r.buf)
		if err != nil {
			return 0, err
		}
		r.rest = r.buf[:n]
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
