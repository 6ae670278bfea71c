package segment

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ruche-storage/ruche/erasure/shardhash"
	"github.com/ruche-storage/ruche/metadata"
)

// VerifyBufferBytes is the length of the buffer that [VerifyBody] works best
// with: sixteen framed cells.
const VerifyBufferBytes = 16 * (metadata.CellBytes + shardhash.ChecksumBytes)

// ReadHeader reads and parses the header at offset off and returns its encoded
// bytes too. It fails with an error wrapping [ErrBad] if the header says that
// it belongs to another segment or offset. Errors of r other than the end of
// the file are returned as they are.
func ReadHeader(r io.ReaderAt, id ID, off int64) (*Header, []byte, error) {
	// Headers of this version are shorter than 256 bytes; a longer one takes a
	// second read.
	buf := make([]byte, 256)
	n, err := readUpTo(r, buf, off)
	if err != nil {
		return nil, nil, err
	}
	length, err := HeaderBytes(buf[:n])
	if err != nil {
		return nil, nil, err
	}
	if length > n {
		buf = make([]byte, length)
		if n, err = readUpTo(r, buf, off); err != nil {
			return nil, nil, err
		}
	}
	h, _, err := ParseHeader(buf[:min(n, length)])
	if err != nil {
		return nil, nil, err
	}
	if h.Segment != id || h.Offset != off {
		return nil, nil, fmt.Errorf("%w: header of segment %s at %d found in %s at %d", ErrBad, h.Segment, h.Offset, id, off)
	}
	return h, buf[:length], nil
}

// ReadFooter reads the footer of the record whose encoded header is given and
// whose body of body bytes begins at bodyAt.
func ReadFooter(r io.ReaderAt, header []byte, bodyAt, body int64) (*Footer, error) {
	buf := make([]byte, MaxFooterBytes)
	n, err := readUpTo(r, buf, bodyAt+body)
	if err != nil {
		return nil, err
	}
	if n < footerFixed {
		return nil, fmt.Errorf("%w: %d bytes of a footer", ErrBad, n)
	}
	length := FooterBytes(int(buf[5]))
	if length > n {
		return nil, fmt.Errorf("%w: %d of %d bytes of a footer", ErrBad, n, length)
	}
	f, err := ParseFooter(buf[:length], header)
	if err != nil {
		return nil, err
	}
	if f.Body != body || f.Header != len(header) {
		return nil, fmt.Errorf("%w: footer of header %d and body %d after %d and %d", ErrBad, f.Header, f.Body, len(header), body)
	}
	return f, nil
}

// ReadLast reads the record that ends at the end of a file of size bytes: the
// seal of a shared segment, or the shard of an own file. It returns the header,
// its encoded bytes and the footer.
func ReadLast(r io.ReaderAt, id ID, size int64) (*Header, []byte, *Footer, error) {
	if size < int64(headerFixed+FooterBytes(0)) {
		return nil, nil, nil, fmt.Errorf("%w: file of %d bytes", ErrBad, size)
	}
	tail := make([]byte, footerTail)
	if n, err := readUpTo(r, tail, size-footerTail); err != nil || n < footerTail {
		return nil, nil, nil, errors.Join(err, fmt.Errorf("%w: %d bytes of the end", ErrBad, n))
	}
	length, err := TailFooterBytes(tail)
	if err != nil {
		return nil, nil, nil, err
	}
	if int64(length) > size {
		return nil, nil, nil, fmt.Errorf("%w: footer of %d bytes in a file of %d", ErrBad, length, size)
	}
	buf := make([]byte, length)
	if n, err := readUpTo(r, buf, size-int64(length)); err != nil || n < length {
		return nil, nil, nil, errors.Join(err, fmt.Errorf("%w: %d of %d bytes of a footer", ErrBad, n, length))
	}
	f, err := ParseFooter(buf, nil)
	if err != nil {
		return nil, nil, nil, err
	}
	off := size - int64(length) - f.Body - int64(f.Header)
	if off < 0 {
		return nil, nil, nil, fmt.Errorf("%w: footer of body %d in a file of %d", ErrBad, f.Body, size)
	}
	h, header, err := ReadHeader(r, id, off)
	if err != nil {
		return nil, nil, nil, err
	}
	if _, err := ParseFooter(buf, header); err != nil {
		return nil, nil, nil, err
	}
	if len(header) != f.Header || h.Record.Type != f.Type || (h.Body != BodyUnknown && h.Body != f.Body) {
		return nil, nil, nil, fmt.Errorf("%w: header and footer disagree", ErrBad)
	}
	return h, header, f, nil
}

// VerifyBody reads the body of a record, which begins at bodyAt, and checks
// it: of a shard every cell, the shard sum against the footer and the length
// against that of the chunk; of other records the digest. buf is working space
// of any length. Errors of r are returned as they are, all others wrap
// [metadata.ErrCorrupt].
func VerifyBody(r io.ReaderAt, bodyAt int64, rec *metadata.Record, f *Footer, buf []byte) error {
	if rec.Type != metadata.RecordShard {
		return verifyPayload(r, bodyAt, f, buf)
	}
	if err := CheckShape(rec, f); err != nil {
		return err
	}
	frame := 1<<rec.Scheme.CellLog2 + shardhash.ChecksumBytes
	if len(buf) < frame {
		buf = make([]byte, frame)
	}
	buf = buf[:len(buf)/frame*frame]
	sum := NewSummer(rec)
	for off := int64(0); off < f.Body; off += int64(len(buf)) {
		run := buf[:min(int64(len(buf)), f.Body-off)]
		n, err := readUpTo(r, run, bodyAt+off)
		if err != nil {
			return err
		}
		if n < len(run) {
			return fmt.Errorf("%w: body ends after %d of %d bytes", ErrBad, off+int64(n), f.Body)
		}
		if err := sum.Add(run); err != nil {
			return err
		}
	}
	if own := sum.Sum(); own != f.Own {
		return fmt.Errorf("%w: shard sum", ErrBad)
	}
	return nil
}

// VerifyBytes is [VerifyBody] of a body in memory.
func VerifyBytes(body []byte, rec *metadata.Record, f *Footer) error {
	if int64(len(body)) != f.Body {
		return fmt.Errorf("%w: body of %d bytes, %d in the footer", ErrBad, len(body), f.Body)
	}
	if rec.Type != metadata.RecordShard {
		if metadata.Sum(sha256.Sum256(body)) != f.Own {
			return fmt.Errorf("%w: payload digest", ErrBad)
		}
		return nil
	}
	if err := CheckShape(rec, f); err != nil {
		return err
	}
	sum := NewSummer(rec)
	if err := sum.Add(body); err != nil {
		return err
	}
	if sum.Sum() != f.Own {
		return fmt.Errorf("%w: shard sum", ErrBad)
	}
	return nil
}

// CheckShape reports whether a shard's header and footer fit one another:
// number of sums, own sum, and the length of the body.
func CheckShape(rec *metadata.Record, f *Footer) error {
	if err := rec.Scheme.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrBad, err)
	}
	switch index := int(rec.Shard.Index); {
	case len(f.Sums) != rec.Scheme.Total() || index >= len(f.Sums):
		return fmt.Errorf("%w: shard %d of %s with %d sums", ErrBad, index, rec.Scheme, len(f.Sums))
	case f.Own != f.Sums[index]:
		return fmt.Errorf("%w: shard sum is not that of the chunk's list", ErrBad)
	case f.Body != FramedBytes(rec.Scheme, f.ChunkBytes):
		return fmt.Errorf("%w: %d framed bytes for a chunk of %d", ErrBad, f.Body, f.ChunkBytes)
	}
	return nil
}

func verifyPayload(r io.ReaderAt, bodyAt int64, f *Footer, buf []byte) error {
	if len(buf) < 4096 {
		buf = make([]byte, 4096)
	}
	h := sha256.New()
	for off := int64(0); off < f.Body; {
		n, err := readUpTo(r, buf[:min(int64(len(buf)), f.Body-off)], bodyAt+off)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: payload ends after %d of %d bytes", ErrBad, off, f.Body)
		}
		h.Write(buf[:n])
		off += int64(n)
	}
	if metadata.Sum(h.Sum(nil)) != f.Own {
		return fmt.Errorf("%w: payload digest", ErrBad)
	}
	return nil
}

// Summer checks the framed cells of one shard as they pass and makes the shard
// sum. It is used by one goroutine at a time.
type Summer struct {
	seed  shardhash.Seed
	cells *shardhash.Cells
	cell  int
	short bool
}

// NewSummer returns a Summer for the shard that rec describes.
func NewSummer(rec *metadata.Record) *Summer {
	id := rec.Shard.Bytes()
	return &Summer{seed: shardhash.NewSeed(id), cells: shardhash.NewCells(id), cell: 1 << rec.Scheme.CellLog2}
}

// Add checks a run of whole framed cells against their checksums and takes
// them into the sum. Only the last cell of a shard may be shorter than the
// others. The error wraps [ErrBad].
func (s *Summer) Add(framed []byte) error {
	for len(framed) > 0 {
		n := min(s.cell+shardhash.ChecksumBytes, len(framed))
		number := s.cells.Count()
		if s.short || n <= shardhash.ChecksumBytes {
			return fmt.Errorf("%w: %d bytes behind cell %d, which is not whole", ErrBad, n, number)
		}
		if err := s.seed.VerifyFrame(number, framed[:n]); err != nil {
			return fmt.Errorf("%w: %w", ErrBad, err)
		}
		body := n - shardhash.ChecksumBytes
		s.cells.AddChecksum(number, binary.LittleEndian.Uint64(framed[body:n]), body)
		s.short = body < s.cell
		framed = framed[n:]
	}
	return nil
}

// Sum returns the shard sum. Nothing may be added after it.
func (s *Summer) Sum() metadata.Sum { return metadata.Sum(s.cells.Sum()) }

// readUpTo fills buf from off as far as the file goes.
func readUpTo(r io.ReaderAt, buf []byte, off int64) (int, error) {
	n, err := r.ReadAt(buf, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
