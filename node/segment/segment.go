// Package segment is the format of what drives store. It turns the header,
// body and footer of records into bytes and back, and finds the records of a
// file again. FORMAT.md is the description for readers in other languages;
// testdata pins every version.
//
// A segment is an append-only file of records. One record is
//
//	header | body | footer | zeros up to a multiple of 64
//
// The header names the segment and the offset it was written for, so bytes
// that are copied or that a client stored never pass for a record elsewhere.
// The body of a shard is its framed cells, that of any other record a payload.
// The footer repeats the lengths, so that it can be found from the end of a
// file, and carries the sums that repair and scrub compare with.
//
//	shared segment   | record | record | ... | seal record |
//	own file         | record |
//
// A shared segment holds small records; the seal is a record too, its body a
// sorted list of all others. A large shard has a file of its own, whose header
// was written before the length of the body was known. A file ends exactly
// where the last footer ends.
//
// The package does arithmetic and checks. It knows no drive, keeps no index
// and does not decide what is live. Its parsers never allocate more than a
// small multiple of their input.
package segment

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/ruche-storage/ruche/metadata"
)

// Format numbers the stored format of records.
const Format = 1

// Align is what records begin at a multiple of, in bytes.
const Align = 64

// MaxHeaderBytes is the longest header there can be.
const MaxHeaderBytes = 4096

// MaxSums is the most shard sums a footer can hold.
const MaxSums = 32

// MaxFooterBytes is the longest footer there can be.
const MaxFooterBytes = footerFixed + MaxSums*32 + footerTail

// MaxBodyBytes is the longest body there can be, far above what a chunk of
// 1+0 needs.
const MaxBodyBytes = 1 << 34

// TypeSeal is the type of the record that ends a shared segment. Types from
// 128 are the segment's own and never cross the wire.
const TypeSeal metadata.RecordType = 128

// BodyUnknown is the body length in the header of a record that was begun
// before its length was known: the footer has it.
const BodyUnknown = int64(-1)

var (
	// ErrBad says that bytes are not a record, or not the whole of one.
	ErrBad = fmt.Errorf("segment: bad record: %w", metadata.ErrCorrupt)

	// ErrVoid says that the header is zero: the record was freed, or never
	// written.
	ErrVoid = fmt.Errorf("segment: void record: %w", metadata.ErrCorrupt)

	// ErrIncompatible says that a record needs a newer program. It is not
	// damage.
	ErrIncompatible = errors.New("segment: record of a newer format")
)

// ID names a segment. The first 8 bytes are a counter of the drive, big-endian,
// so that ids sort by age; the rest is random.
type ID [16]byte

// String returns the id as hexadecimal digits: the name of the file.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID parses what [ID.String] returns. It reports false for anything else.
func ParseID(s string) (ID, bool) {
	var id ID
	if len(s) != 2*len(id) {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(s))
	return id, err == nil && id.String() == s
}

// Header begins a record.
type Header struct {
	Segment ID
	Offset  int64 // place of the record in the segment, a multiple of [Align]
	Body    int64 // bytes of the body, or [BodyUnknown]

	// Born is the place in the drive's history at which the record was first
	// written. It stays when the record is moved to another segment.
	Born uint64

	Record metadata.Record

	// Unknown holds the fields of a newer program that this one may ignore,
	// as they were found. They are written back when the record is moved.
	Unknown []byte
}

// Footer ends a record.
type Footer struct {
	Type       metadata.RecordType
	Header     int   // bytes of the header
	Body       int64 // bytes of the body
	ChunkBytes int64 // sealed bytes of the whole chunk; of other types the length of the payload

	// Own is what the drive computed over the body as it arrived: the shard
	// sum, or the SHA-256 of a payload.
	Own metadata.Sum

	Sums []metadata.Sum // of all shards of the chunk; empty for other types
}

// RoundUp returns n rounded up to a multiple of [Align].
func RoundUp(n int64) int64 { return (n + Align - 1) &^ (Align - 1) }

// FooterBytes is the length of a footer with so many sums.
func FooterBytes(sums int) int { return footerFixed + 32*sums + footerTail }

// RecordBytes is how many bytes a record takes in a shared segment, with the
// zeros behind it.
func RecordBytes(header int, body int64, sums int) int64 {
	return RoundUp(int64(header) + body + int64(FooterBytes(sums)))
}

// FramedBytes is the length of each framed shard of a chunk of chunkBytes, by
// the arithmetic of package erasure.
func FramedBytes(s metadata.Scheme, chunkBytes int64) int64 {
	cell := int64(1) << s.CellLog2
	stripe := cell * int64(s.Data)
	if chunkBytes <= 0 || stripe <= 0 {
		return 0
	}
	full := (chunkBytes - 1) / stripe // stripes before the last
	rest := chunkBytes - full*stripe
	last := RoundUp((rest + int64(s.Data) - 1) / int64(s.Data))
	return full*(cell+8) + last + 8
}
