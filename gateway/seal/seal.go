// Package seal encrypts the bytes of parts between the body of a request and
// the erasure code, and opens them again, whole or by range.
//
// A part is sealed as a row of segments, each as long as a cell of the erasure
// code ([Sealer], [Opener], [Format]). [Source] pulls a body through
// compression and sealing, a segment at a time, into buffers of its caller.
// The keys that wrap one another are in [AccountKeys] and [BucketKeys].
// FORMAT.md has every byte of what is stored; golden files in testdata pin it.
//
// Encryption switched off is [FormatPlain]: the same calls, bytes unchanged.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ruche-storage/ruche/metadata"
)

const (
	// SegmentBytes is the length of every segment of a part but the last. It
	// is that of a cell, so that a full segment is one cell.
	SegmentBytes = metadata.CellBytes

	// TagBytes is how much longer a sealed segment is than what it holds.
	TagBytes = 16

	// formatVersion is the first byte of the additional data.
	formatVersion = 1
)

var (
	// ErrOpen says that a segment, a wrapped key or a box does not open: it
	// was changed, moved, or belongs to another key, part or place.
	ErrOpen = errors.New("seal: does not open under this key and place")

	// ErrLength says that sealed bytes have a length that no part can have,
	// or a range lies outside of the part.
	ErrLength = errors.New("seal: impossible length")

	// ErrCompressed says that a frame or a frame index is not what the
	// compressor makes.
	ErrCompressed = errors.New("seal: damaged compressed frame")
)

// Format says how the segments of a part are sealed. The zero value is not
// valid.
type Format uint8

const (
	// FormatPlain leaves bytes as they are: segments of 65,536 bytes.
	FormatPlain Format = 1
	// FormatSealed is AES-256-GCM: segments of 65,520 bytes and a tag of 16.
	FormatSealed Format = 2
)

// FormatOf returns the format of a part by what its row says.
func FormatOf(sealed bool) Format {
	if sealed {
		return FormatSealed
	}
	return FormatPlain
}

// Overhead is how much longer a segment is than what it holds, in bytes.
func (f Format) Overhead() int {
	switch f {
	case FormatPlain:
		return 0
	case FormatSealed:
		return TagBytes
	}
	panic(fmt.Sprintf("seal: format %d", f))
}

// PlainBytes is how many bytes a full segment holds.
func (f Format) PlainBytes() int { return SegmentBytes - f.Overhead() }

// SealedLength is the length of plain bytes once sealed. An empty part is one
// empty segment, 16 bytes, when it is sealed, so that its emptiness is
// authentic; not sealed it is nothing.
func (f Format) SealedLength(plain int64) int64 {
	return plain + f.segments(plain)*int64(f.Overhead())
}

// segments is the number of segments of so many plain bytes.
func (f Format) segments(plain int64) int64 {
	per := int64(f.PlainBytes())
	n := (plain + per - 1) / per
	if n == 0 && f == FormatSealed {
		return 1
	}
	return n
}

// PlainLength is the length of what so many sealed bytes hold. It returns an
// error wrapping [ErrLength] if no part is sealed to that length.
func (f Format) PlainLength(sealed int64) (int64, error) {
	if sealed < 0 {
		return 0, fmt.Errorf("%w: %d bytes", ErrLength, sealed)
	}
	segments := (sealed + SegmentBytes - 1) / SegmentBytes
	plain := sealed - segments*int64(f.Overhead())
	if plain < 0 || f.SealedLength(plain) != sealed {
		return 0, fmt.Errorf("%w: %d bytes sealed", ErrLength, sealed)
	}
	return plain, nil
}

// Range is where a range of plain bytes lies among the sealed bytes of a part.
type Range struct {
	First  uint64 // number of the first segment to open
	Count  int    // segments to open
	Final  bool   // the last of them is the last of the part
	Offset int64  // place of the first segment among the sealed bytes
	Sealed int64  // sealed bytes to read from there
	Skip   int    // plain bytes of the first segment that lie before the range
	Length int64  // plain bytes of the range
}

// Range finds the plain bytes [off, off+n) of a part with so many sealed bytes
// in all. It returns an error wrapping [ErrLength] if they are not there. A
// range of no bytes is within no segment, but for the empty sealed part, whose
// one segment is to be opened.
func (f Format) Range(sealed, off, n int64) (Range, error) {
	plain, err := f.PlainLength(sealed)
	if err != nil {
		return Range{}, err
	}
	if off < 0 || n < 0 || off > plain || n > plain-off {
		return Range{}, fmt.Errorf("%w: %d bytes from %d of a part of %d", ErrLength, n, off, plain)
	}
	per := int64(f.PlainBytes())
	segments := f.segments(plain)
	if n == 0 && (plain > 0 || segments == 0) {
		return Range{}, nil
	}
	first := off / per
	last := max(first, (off+n-1)/per)
	r := Range{
		First:  uint64(first),
		Count:  int(last - first + 1),
		Final:  last == segments-1,
		Offset: first * SegmentBytes,
		Skip:   int(off - first*per),
		Length: n,
	}
	r.Sealed = min((last+1)*SegmentBytes, sealed) - r.Offset
	return r, nil
}

// NewSealer returns a Sealer for the part with the given id. key must be fresh
// and used for this part alone; it is not looked at for [FormatPlain].
func NewSealer(f Format, key Key, part metadata.PartID, c metadata.Compression) *Sealer {
	return &Sealer{newCrypter(f, key, part, c)}
}

// Sealer seals segments of one part. It is not safe for concurrent use.
type Sealer struct{ crypter }

// Format returns the format the Sealer was made for.
func (s *Sealer) Format() Format { return s.format }

// Seal appends the sealed segment to dst and returns the extended slice. plain
// may be the bytes right behind dst, dst[len(dst):len(dst)+len(plain)], which
// seals in place; else the two must not overlap. Every segment but the last
// must hold exactly Format().PlainBytes() bytes; the last may hold none only
// if it is the first. Seal panics otherwise.
//
// No index may be sealed twice: AES-GCM loses all its strength then. Seal
// allocates only if dst has no room.
func (s *Sealer) Seal(dst, plain []byte, index uint64, last bool) []byte {
	full := s.format.PlainBytes()
	if len(plain) > full || !last && len(plain) < full || len(plain) == 0 && index > 0 {
		panic(fmt.Sprintf("seal: segment %d of %d bytes, last: %t", index, len(plain), last))
	}
	if s.format == FormatPlain {
		if inPlace(dst, plain) {
			return dst[:len(dst)+len(plain)]
		}
		return append(dst, plain...)
	}
	return s.aead.Seal(dst, s.at(index, last), plain, s.additional[:])
}

// inPlace reports whether b lies right behind dst, in its capacity.
func inPlace(dst, b []byte) bool {
	behind := dst[len(dst):cap(dst)]
	return len(b) > 0 && len(behind) >= len(b) && &behind[:1][0] == &b[0]
}

// NewOpener returns an Opener for the part with the given id.
func NewOpener(f Format, key Key, part metadata.PartID, c metadata.Compression) *Opener {
	return &Opener{newCrypter(f, key, part, c)}
}

// Opener opens segments of one part, in any order. It is not safe for
// concurrent use.
type Opener struct{ crypter }

// Format returns the format the Opener was made for.
func (o *Opener) Format() Format { return o.format }

// Open appends the plain bytes of the segment with the given index to dst and
// returns the extended slice. dst may be sealed[:0], which opens in place;
// else the two must not overlap. last says whether the segment is the last of
// its part, as [Range] knows. If the segment is not exactly what was sealed
// for this key, part, index and place, it returns an error wrapping [ErrOpen]
// and what dst has behind its length is undefined, never plain bytes.
func (o *Opener) Open(dst, sealed []byte, index uint64, last bool) ([]byte, error) {
	n := len(sealed) - o.format.Overhead()
	full := o.format.PlainBytes()
	if n < 0 || n > full || !last && n < full || n == 0 && index > 0 {
		return dst, fmt.Errorf("%w: segment %d of %d bytes", ErrOpen, index, len(sealed))
	}
	if o.format == FormatPlain {
		if inPlace(dst, sealed) {
			return dst[:len(dst)+n], nil
		}
		return append(dst, sealed...), nil
	}
	out, err := o.aead.Open(dst, o.at(index, last), sealed, o.additional[:])
	if err != nil {
		return dst, fmt.Errorf("%w: segment %d", ErrOpen, index)
	}
	return out, nil
}

// NewReader returns a reader of the plain bytes of r. sealed must yield the
// r.Sealed bytes from r.Offset on; nothing is read behind them. buf is used
// for one segment; if it is shorter than [SegmentBytes], one is allocated.
//
// If sealed is a [Lender], segments are opened in the bytes it lends and buf is
// not used. Bytes are returned only after the whole segment they come from was
// found authentic. The errors of sealed come through as they are, its early end as
// io.ErrUnexpectedEOF. The Opener is in use until the reader is not.
func (o *Opener) NewReader(sealed io.Reader, r Range, buf []byte) *Reader {
	lender, lends := sealed.(Lender)
	if !lends && len(buf) < SegmentBytes {
		buf = make([]byte, SegmentBytes)
	}
	return &Reader{opener: o, sealed: sealed, lender: lender, r: r, buf: buf}
}

// A Lender is a source of sealed bytes that has them in memory already.
type Lender interface {
	// Lend returns the next n bytes, which the caller may overwrite. They are
	// valid until the next call. It returns io.ErrUnexpectedEOF if fewer than
	// n bytes are left.
	Lend(n int) ([]byte, error)
}

// Reader reads plain bytes: see [Opener.NewReader].
type Reader struct {
	opener *Opener
	sealed io.Reader
	lender Lender // sealed, or nil
	r      Range  // what is still to come, but Skip once used up
	buf    []byte
	plain  []byte // opened and not yet returned; lies within buf or what was lent
	err    error
}

// Read implements [io.Reader].
func (r *Reader) Read(p []byte) (int, error) {
	if err := r.ready(); err != nil {
		return 0, err
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

// WriteTo implements [io.WriterTo]: it writes a segment at a time, without
// another copy.
func (r *Reader) WriteTo(w io.Writer) (int64, error) { return writeTo(w, r.ready, &r.plain) }

// ready returns when there are plain bytes to return, or why there are none.
func (r *Reader) ready() error {
	for len(r.plain) == 0 {
		if r.err != nil {
			return r.err
		}
		if r.r.Count == 0 {
			r.err = io.EOF
			continue
		}
		r.plain, r.err = r.next()
	}
	return nil
}

// writeTo writes *plain to w each time that ready has filled it.
func writeTo(w io.Writer, ready func() error, plain *[]byte) (int64, error) {
	var total int64
	for {
		switch err := ready(); {
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		}
		n, err := w.Write(*plain)
		total += int64(n)
		*plain = (*plain)[n:]
		if err != nil {
			return total, err
		}
	}
}

// sealedBytes returns the next n sealed bytes.
func (r *Reader) sealedBytes(n int) ([]byte, error) {
	if r.lender != nil {
		b, err := r.lender.Lend(n)
		if err == nil && len(b) != n {
			err = io.ErrUnexpectedEOF
		}
		return b, err
	}
	_, err := readFull(r.sealed, r.buf[:n])
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return r.buf[:n], err
}

// next opens one segment and returns its part of the range.
func (r *Reader) next() ([]byte, error) {
	n := min(r.r.Sealed, SegmentBytes)
	sealed, err := r.sealedBytes(int(n))
	if err != nil {
		return nil, err
	}
	last := r.r.Final && r.r.Count == 1
	plain, err := r.opener.Open(sealed[:0], sealed, r.r.First, last)
	if err != nil {
		return nil, err
	}
	if r.r.Skip > len(plain) {
		return nil, fmt.Errorf("%w: segment %d too short for its range", ErrOpen, r.r.First)
	}
	plain = plain[r.r.Skip:]
	plain = plain[:min(int64(len(plain)), r.r.Length)]
	r.r.First++
	r.r.Count--
	r.r.Sealed -= n
	r.r.Skip = 0
	r.r.Length -= int64(len(plain))
	return plain, nil
}

// crypter is what Sealer and Opener share.
type crypter struct {
	format     Format
	aead       cipher.AEAD
	nonce      [12]byte // fields rather than locals, so that they are allocated once
	additional [18]byte
}

func newCrypter(f Format, key Key, part metadata.PartID, c metadata.Compression) crypter {
	s := crypter{format: f}
	if f == FormatPlain {
		return s
	}
	f.Overhead() // panics on an unknown format
	s.aead = newAEAD(key)
	s.additional[0] = formatVersion
	copy(s.additional[1:], part[:])
	s.additional[17] = byte(c)
	return s
}

// at returns the nonce of a segment: an 88-bit big-endian counter and a byte
// that is 1 for the last segment of the part. 64 of the 88 bits are enough.
func (s *crypter) at(index uint64, last bool) []byte {
	binary.BigEndian.PutUint64(s.nonce[3:], index)
	s.nonce[11] = 0
	if last {
		s.nonce[11] = 1
	}
	return s.nonce[:]
}

// newAEAD returns AES-256-GCM with the usual nonce of 12 and tag of 16 bytes.
func newAEAD(key Key) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // a key of 32 bytes is always right
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has the block length that GCM needs
	}
	return aead
}
