package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/ruche-storage/ruche/metadata"
)

const (
	magicHeader  = 0x63526352 // "RcRc"
	magicFooter  = 0x74466352 // "RcFt"
	magicEnd     = 0x45466352 // "RcFE"
	headerFixed  = 40
	headerCRC    = 4
	footerFixed  = 56
	footerTail   = 16
	incompatible = 0x80 // bit of a field's tag
	maxUnknown   = 2048 // bytes of unknown fields: a header that is kept can be written again
)

// Tags of header fields. A reader refuses unknown tags that have the
// incompatible bit and keeps the others.
const (
	tagPad        = 0x00 // one byte, no length
	tagShard      = 0x81 // chunk id, index
	tagScheme     = 0x82 // k, m, code, cell log2
	tagPart       = 0x03
	tagChunkNo    = 0x04
	tagPG         = 0x05
	tagGeneration = 0x06
	tagBucket     = 0x07
	tagAccount    = 0x08
	tagEpoch      = 0x09
	tagPolicy     = 0x0a
	tagBorn       = 0x0b
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// appendFields appends the typed fields of a header. Zero values are left out.
func appendFields(dst []byte, h *Header) []byte {
	r := &h.Record
	id := r.Shard.Bytes()
	dst = append(append(dst, tagShard, byte(len(id))), id[:]...)
	if r.Scheme != (metadata.Scheme{}) {
		dst = append(dst, tagScheme, 4, r.Scheme.Data, r.Scheme.Parity, r.Scheme.Code, r.Scheme.CellLog2)
	}
	dst = appendID(dst, tagPart, r.Part)
	dst = append32(dst, tagChunkNo, r.ChunkNo)
	dst = append32(dst, tagPG, r.PG)
	dst = append32(dst, tagGeneration, r.Generation)
	dst = appendID(dst, tagBucket, r.Bucket)
	dst = appendID(dst, tagAccount, r.Account)
	dst = append64(dst, tagEpoch, r.Epoch)
	dst = append64(dst, tagPolicy, r.Policy)
	dst = append64(dst, tagBorn, h.Born)
	return append(dst, h.Unknown...)
}

func appendID(dst []byte, tag byte, id [16]byte) []byte {
	if id == ([16]byte{}) {
		return dst
	}
	return append(append(dst, tag, 16), id[:]...)
}

func append32(dst []byte, tag byte, v uint32) []byte {
	if v == 0 {
		return dst
	}
	return binary.LittleEndian.AppendUint32(append(dst, tag, 4), v)
}

func append64(dst []byte, tag byte, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return binary.LittleEndian.AppendUint64(append(dst, tag, 8), v)
}

// parseFields reads the typed fields of src into h.
func parseFields(src []byte, h *Header) error {
	for len(src) > 0 {
		tag := src[0]
		if tag == tagPad {
			src = src[1:]
			continue
		}
		if len(src) < 2 || len(src) < 2+int(src[1]) {
			return fmt.Errorf("%w: field %#x runs over the end", ErrBad, tag)
		}
		field, value := src[:2+int(src[1])], src[2:2+int(src[1])]
		src = src[len(field):]
		known, err := parseField(tag, value, h)
		switch {
		case err != nil:
			return err
		case known:
		case tag&incompatible != 0:
			return fmt.Errorf("%w: field %#x", ErrIncompatible, tag)
		default:
			h.Unknown = append(h.Unknown, field...)
		}
	}
	if len(h.Unknown) > maxUnknown {
		return fmt.Errorf("%w: %d bytes of unknown fields", ErrBad, len(h.Unknown))
	}
	return nil
}

func parseField(tag byte, v []byte, h *Header) (known bool, err error) {
	want := 0
	r := &h.Record
	switch tag {
	case tagShard:
		if want = 17; len(v) == want {
			r.Shard.Index = v[16]
			copy(r.Shard.Chunk[:], v)
		}
	case tagScheme:
		if want = 4; len(v) == want {
			r.Scheme = metadata.Scheme{Data: v[0], Parity: v[1], Code: v[2], CellLog2: v[3]}
		}
	case tagPart, tagBucket, tagAccount:
		if want = 16; len(v) == want {
			parseID(tag, v, r)
		}
	case tagChunkNo, tagPG, tagGeneration:
		if want = 4; len(v) == want {
			parse32(tag, binary.LittleEndian.Uint32(v), r)
		}
	case tagEpoch, tagPolicy, tagBorn:
		if want = 8; len(v) == want {
			parse64(tag, binary.LittleEndian.Uint64(v), h)
		}
	default:
		return false, nil
	}
	if len(v) != want {
		return true, fmt.Errorf("%w: field %#x of %d bytes", ErrBad, tag, len(v))
	}
	return true, nil
}

func parseID(tag byte, v []byte, r *metadata.Record) {
	switch tag {
	case tagPart:
		r.Part = metadata.PartID(v)
	case tagBucket:
		r.Bucket = metadata.BucketID(v)
	case tagAccount:
		r.Account = metadata.AccountID(v)
	}
}

func parse32(tag byte, v uint32, r *metadata.Record) {
	switch tag {
	case tagChunkNo:
		r.ChunkNo = v
	case tagPG:
		r.PG = v
	case tagGeneration:
		r.Generation = v
	}
}

func parse64(tag byte, v uint64, h *Header) {
	switch tag {
	case tagEpoch:
		h.Record.Epoch = v
	case tagPolicy:
		h.Record.Policy = v
	case tagBorn:
		h.Born = v
	}
}

// AppendHeader appends the encoded header to dst. The length of what it adds
// is a multiple of [Align] and depends on the fields only, never on Segment,
// Offset and Body: see [PatchHeader]. It panics if the unknown fields do not
// leave it below [MaxHeaderBytes].
func AppendHeader(dst []byte, h *Header) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, headerFixed)...)
	fixed := dst[start:]
	binary.LittleEndian.PutUint32(fixed, magicHeader)
	fixed[4], fixed[5] = Format, byte(h.Record.Type)
	dst = appendFields(dst, h)
	length := int(RoundUp(int64(len(dst) - start + headerCRC)))
	if length > MaxHeaderBytes {
		panic(fmt.Sprintf("segment: header of %d bytes", length))
	}
	for len(dst)-start < length {
		dst = append(dst, tagPad)
	}
	binary.LittleEndian.PutUint16(dst[start+6:], uint16(length))
	PatchHeader(dst[start:], h.Segment, h.Offset, h.Body)
	return dst
}

// PatchHeader changes where an encoded header says that it lies, and how long
// its body is, and makes its checksum anew.
func PatchHeader(header []byte, id ID, offset, body int64) {
	header = header[:binary.LittleEndian.Uint16(header[6:])]
	copy(header[8:], id[:])
	binary.LittleEndian.PutUint64(header[24:], uint64(offset))
	binary.LittleEndian.PutUint64(header[32:], uint64(body))
	end := len(header) - headerCRC
	binary.LittleEndian.PutUint32(header[end:], crc32.Checksum(header[:end], castagnoli()))
}

// HeaderBytes returns the length of the header that src begins with, without
// checking more than that there is one. src needs 8 bytes.
func HeaderBytes(src []byte) (int, error) {
	if len(src) < 8 {
		return 0, fmt.Errorf("%w: %d bytes of a header", ErrBad, len(src))
	}
	if binary.LittleEndian.Uint64(src) == 0 {
		return 0, ErrVoid
	}
	if binary.LittleEndian.Uint32(src) != magicHeader {
		return 0, fmt.Errorf("%w: no header here", ErrBad)
	}
	n := int(binary.LittleEndian.Uint16(src[6:]))
	if n < headerFixed+headerCRC || n > MaxHeaderBytes || n%Align != 0 {
		return 0, fmt.Errorf("%w: header of %d bytes", ErrBad, n)
	}
	return n, nil
}

// ParseHeader parses the header that src begins with and returns its length.
// The error wraps [ErrVoid], [ErrBad] or, for a sound header that needs a
// newer program, [ErrIncompatible].
func ParseHeader(src []byte) (*Header, int, error) {
	n, err := HeaderBytes(src)
	if err != nil {
		return nil, 0, err
	}
	if len(src) < n {
		return nil, 0, fmt.Errorf("%w: %d of %d bytes of a header", ErrBad, len(src), n)
	}
	src = src[:n]
	end := n - headerCRC
	if crc32.Checksum(src[:end], castagnoli()) != binary.LittleEndian.Uint32(src[end:]) {
		return nil, 0, fmt.Errorf("%w: header checksum", ErrBad)
	}
	if src[4] != Format {
		return nil, n, fmt.Errorf("%w: format %d", ErrIncompatible, src[4])
	}
	h := &Header{
		Segment: ID(src[8:24]),
		Offset:  int64(binary.LittleEndian.Uint64(src[24:])),
		Body:    int64(binary.LittleEndian.Uint64(src[32:])),
	}
	h.Record.Type = metadata.RecordType(src[5])
	if h.Offset < 0 || h.Offset%Align != 0 || h.Body < BodyUnknown || h.Body > MaxBodyBytes {
		return nil, n, fmt.Errorf("%w: header of offset %d and body %d", ErrBad, h.Offset, h.Body)
	}
	if err := parseFields(src[headerFixed:end], h); err != nil {
		return nil, n, err
	}
	return h, n, nil
}

// AppendFooter appends the encoded footer to dst. header is the encoded header
// of the same record, to which the footer is bound by its checksum.
func AppendFooter(dst []byte, header []byte, f *Footer) []byte {
	if len(f.Sums) > MaxSums {
		panic(fmt.Sprintf("segment: footer with %d sums", len(f.Sums)))
	}
	start := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, magicFooter)
	dst = append(dst, byte(f.Type), byte(len(f.Sums)))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(f.Header))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(f.Body))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(f.ChunkBytes))
	dst = append(dst, f.Own[:]...)
	for i := range f.Sums {
		dst = append(dst, f.Sums[i][:]...)
	}
	dst = binary.LittleEndian.AppendUint32(dst, headerChecksum(header))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(FooterBytes(len(f.Sums))))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli()))
	return binary.LittleEndian.AppendUint32(dst, magicEnd)
}

// RebindFooter binds an encoded footer to a header that was patched.
func RebindFooter(footer, header []byte) {
	n := len(footer)
	binary.LittleEndian.PutUint32(footer[n-16:], headerChecksum(header))
	binary.LittleEndian.PutUint32(footer[n-8:], crc32.Checksum(footer[:n-8], castagnoli()))
}

// headerChecksum returns the stored checksum of an encoded header.
func headerChecksum(header []byte) uint32 {
	n := int(binary.LittleEndian.Uint16(header[6:]))
	return binary.LittleEndian.Uint32(header[n-headerCRC:])
}

// ParseFooter parses src, which must be exactly one footer. header is the
// encoded header of the same record; with nil the binding is not checked.
func ParseFooter(src, header []byte) (*Footer, error) {
	n := len(src)
	if n < FooterBytes(0) || n > MaxFooterBytes {
		return nil, fmt.Errorf("%w: footer of %d bytes", ErrBad, n)
	}
	sums := int(src[5])
	switch {
	case binary.LittleEndian.Uint32(src) != magicFooter, binary.LittleEndian.Uint32(src[n-4:]) != magicEnd:
		return nil, fmt.Errorf("%w: no footer here", ErrBad)
	case n != FooterBytes(sums) || binary.LittleEndian.Uint32(src[n-12:]) != uint32(n):
		return nil, fmt.Errorf("%w: footer of %d bytes with %d sums", ErrBad, n, sums)
	case crc32.Checksum(src[:n-8], castagnoli()) != binary.LittleEndian.Uint32(src[n-8:]):
		return nil, fmt.Errorf("%w: footer checksum", ErrBad)
	case header != nil && binary.LittleEndian.Uint32(src[n-16:]) != headerChecksum(header):
		return nil, fmt.Errorf("%w: footer of another header", ErrBad)
	}
	f := &Footer{
		Type:       metadata.RecordType(src[4]),
		Header:     int(binary.LittleEndian.Uint16(src[6:])),
		Body:       int64(binary.LittleEndian.Uint64(src[8:])),
		ChunkBytes: int64(binary.LittleEndian.Uint64(src[16:])),
		Own:        metadata.Sum(src[24:56]),
	}
	if f.Body < 0 || f.Body > MaxBodyBytes || f.ChunkBytes < 0 || f.ChunkBytes > math.MaxInt64/2 || f.Header > MaxHeaderBytes {
		return nil, fmt.Errorf("%w: footer of body %d and chunk %d", ErrBad, f.Body, f.ChunkBytes)
	}
	if sums > 0 {
		f.Sums = make([]metadata.Sum, sums)
		for i := range f.Sums {
			f.Sums[i] = metadata.Sum(src[footerFixed+32*i:])
		}
	}
	return f, nil
}

// FooterTailBytes is how many of the last bytes of a file [TailFooterBytes]
// needs.
const FooterTailBytes = footerTail

// TailFooterBytes returns the length of the footer whose last
// [FooterTailBytes] bytes are tail.
func TailFooterBytes(tail []byte) (int, error) {
	if len(tail) != footerTail || binary.LittleEndian.Uint32(tail[12:]) != magicEnd {
		return 0, fmt.Errorf("%w: no footer at the end", ErrBad)
	}
	n := int64(binary.LittleEndian.Uint32(tail[4:]))
	if n < int64(FooterBytes(0)) || n > MaxFooterBytes {
		return 0, fmt.Errorf("%w: footer of %d bytes", ErrBad, n)
	}
	return int(n), nil
}

// CheckHeader reports whether src is a sound header of that place, without
// reading its fields: what a read does before it trusts the bytes behind.
func CheckHeader(src []byte, id ID, off int64) error {
	n, err := HeaderBytes(src)
	if err != nil {
		return err
	}
	if len(src) < n {
		return fmt.Errorf("%w: %d of %d bytes of a header", ErrBad, len(src), n)
	}
	end := n - headerCRC
	switch {
	case crc32.Checksum(src[:end], castagnoli()) != binary.LittleEndian.Uint32(src[end:]):
		return fmt.Errorf("%w: header checksum", ErrBad)
	case ID(src[8:24]) != id || int64(binary.LittleEndian.Uint64(src[24:])) != off:
		return fmt.Errorf("%w: header of another place", ErrBad)
	}
	return nil
}
