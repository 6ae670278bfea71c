// Package checksum knows S3's additional checksums: their names, headers,
// values and types, how to compute them, and how those of parts become that of
// an object. It is pure.
//
// The rules are those of AWS, "Checking object integrity in Amazon S3" (user
// guide): COMPOSITE, the checksum of the checksums of the parts, exists for
// CRC32, CRC32C, SHA1 and SHA256; FULL_OBJECT, the checksum of all bytes, for
// CRC32, CRC32C and CRC64NVME, whose values for parts can be combined. An
// object uploaded whole has a checksum of its bytes for each of the five.
package checksum

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/minio/crc64nvme"
	"github.com/minio/sha256-simd"

	"github.com/ruche-storage/ruche/metadata"
)

// Failures that callers branch on; they wrap what is wrong.
var (
	// ErrValue says that a checksum value is not base64 of the right length,
	// or a composite value has no proper number of parts.
	ErrValue = errors.New("checksum value is not valid")

	// ErrType says that the algorithm has no such type, or that there is no
	// such type.
	ErrType = errors.New("checksum type is not valid for the algorithm")
)

// Names of the types as S3 spells them.
const (
	Composite  = "COMPOSITE"
	FullObject = "FULL_OBJECT"
)

// HeaderPrefix begins the name of every header that carries a checksum value.
const HeaderPrefix = "x-amz-checksum-"

// MaxParts is the largest number that may stand behind the dash of a
// composite value.
const MaxParts = 10_000

type algorithm struct {
	id        metadata.ChecksumAlgorithm
	name      string // as x-amz-checksum-algorithm has it
	header    string
	bytes     int
	composite bool // COMPOSITE exists
	full      bool // FULL_OBJECT exists for multipart uploads
}

var table = [...]algorithm{
	{metadata.ChecksumCRC32, "CRC32", HeaderPrefix + "crc32", 4, true, true},
	{metadata.ChecksumCRC32C, "CRC32C", HeaderPrefix + "crc32c", 4, true, true},
	{metadata.ChecksumCRC64NVME, "CRC64NVME", HeaderPrefix + "crc64nvme", 8, false, true},
	{metadata.ChecksumSHA1, "SHA1", HeaderPrefix + "sha1", 20, true, false},
	{metadata.ChecksumSHA256, "SHA256", HeaderPrefix + "sha256", 32, true, false},
}

// castagnoli is the polynomial of CRC32C.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// lookup returns the row of a, which must be one of the five.
func lookup(a metadata.ChecksumAlgorithm) *algorithm {
	for i := range table {
		if table[i].id == a {
			return &table[i]
		}
	}
	panic(fmt.Sprintf("checksum: algorithm %d", a))
}

// Algorithms returns the five algorithms in the order of their numbers.
func Algorithms() []metadata.ChecksumAlgorithm {
	all := make([]metadata.ChecksumAlgorithm, len(table))
	for i := range table {
		all[i] = table[i].id
	}
	return all
}

// Parse returns the algorithm of the given name, in any letter case. It
// reports false for names S3 does not have.
func Parse(name string) (metadata.ChecksumAlgorithm, bool) {
	for i := range table {
		if strings.EqualFold(table[i].name, name) {
			return table[i].id, true
		}
	}
	return metadata.ChecksumNone, false
}

// FromHeader returns the algorithm whose value the header of the given name
// carries, in any letter case. It reports false for other headers, such as
// x-amz-checksum-type.
func FromHeader(header string) (metadata.ChecksumAlgorithm, bool) {
	for i := range table {
		if strings.EqualFold(table[i].header, header) {
			return table[i].id, true
		}
	}
	return metadata.ChecksumNone, false
}

// Name returns the name of a, such as "CRC64NVME"; "" for none. As the other
// functions that take an algorithm, it panics for a number that is none of the
// five; those say so that allow none.
func Name(a metadata.ChecksumAlgorithm) string {
	if a == metadata.ChecksumNone {
		return ""
	}
	return lookup(a).name
}

// Header returns the name of the header for values of a, in lower case.
func Header(a metadata.ChecksumAlgorithm) string { return lookup(a).header }

// Bytes returns the length of a value of a, decoded.
func Bytes(a metadata.ChecksumAlgorithm) int { return lookup(a).bytes }

// New returns a hash that computes a. Its Sum is the raw value, big endian for
// the CRCs, as S3 encodes it in base64.
func New(a metadata.ChecksumAlgorithm) hash.Hash {
	switch a {
	case metadata.ChecksumCRC32:
		return crc32.NewIEEE()
	case metadata.ChecksumCRC32C:
		return crc32.New(castagnoli)
	case metadata.ChecksumCRC64NVME:
		return crc64nvme.New()
	case metadata.ChecksumSHA1:
		return sha1.New()
	case metadata.ChecksumSHA256:
		return sha256.New()
	}
	panic(fmt.Sprintf("checksum: algorithm %d", a))
}

// TypeName returns the type of c as S3 spells it, "" for no checksum.
func TypeName(c metadata.Checksum) string {
	switch {
	case c.Algorithm == metadata.ChecksumNone:
		return ""
	case c.Composite:
		return Composite
	}
	return FullObject
}

// MultipartType says whether a multipart upload with algorithm a and the given
// x-amz-checksum-type has composite checksums. The type may be empty: then it
// is FULL_OBJECT for CRC64NVME and COMPOSITE for the others. The name may be
// in any letter case. The error wraps [ErrType].
func MultipartType(a metadata.ChecksumAlgorithm, typ string) (composite bool, err error) {
	row := lookup(a)
	switch {
	case typ == "":
		return row.composite, nil
	case strings.EqualFold(typ, Composite) && row.composite:
		return true, nil
	case strings.EqualFold(typ, FullObject) && row.full:
		return false, nil
	}
	return false, fmt.Errorf("%w: %s with %q", ErrType, row.name, clip(typ))
}

// ParseValue decodes the value of a checksum of bytes from base64. The error
// wraps [ErrValue] if it is not base64 in its one right form or has not the
// length of the algorithm.
func ParseValue(a metadata.ChecksumAlgorithm, value string) ([]byte, error) {
	row := lookup(a)
	if len(value) != base64.StdEncoding.EncodedLen(row.bytes) {
		return nil, fmt.Errorf("%w: %s of %d characters", ErrValue, row.name, len(value))
	}
	if strings.ContainsAny(value, "\r\n") { // package base64 would skip them
		return nil, fmt.Errorf("%w: %s %q", ErrValue, row.name, value)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil || len(raw) != row.bytes {
		return nil, fmt.Errorf("%w: %s %q", ErrValue, row.name, value)
	}
	return raw, nil
}

// ParseComposite decodes the value of a composite checksum, "base64-N" or,
// as some clients send it, "base64" alone, for which parts is 0. The error
// wraps [ErrValue].
func ParseComposite(a metadata.ChecksumAlgorithm, value string) (raw []byte, parts uint32, err error) {
	sum, number, dash := strings.Cut(value, "-") // base64 has no dash
	if raw, err = ParseValue(a, sum); err != nil {
		return nil, 0, err
	}
	if !dash {
		return raw, 0, nil
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n < 1 || n > MaxParts || strconv.FormatUint(n, 10) != number {
		return nil, 0, fmt.Errorf("%w: number of parts %q", ErrValue, clip(number))
	}
	return raw, uint32(n), nil
}

// Format returns the value of c as headers and XML carry it: base64, and
// "-N" behind it for a composite one. It is "" if the value is not known.
func Format(c metadata.Checksum) string {
	if c.Algorithm == metadata.ChecksumNone || c.Value == "" {
		return ""
	}
	s := base64.StdEncoding.EncodeToString([]byte(c.Value))
	if c.Composite {
		s += "-" + strconv.FormatUint(uint64(c.Parts), 10)
	}
	return s
}

// Part is a part's checksum and length, for the checksum of the whole.
type Part struct {
	Value string // raw bytes
	Bytes int64
}

// Whole returns the checksum of an object from those of its parts, in order.
// The error wraps [ErrType] if the algorithm has no such type, or [ErrValue]
// if a part has no value of the algorithm.
func Whole(a metadata.ChecksumAlgorithm, composite bool, parts []Part) (metadata.Checksum, error) {
	row := lookup(a)
	for i, p := range parts {
		if len(p.Value) != row.bytes || p.Bytes < 0 {
			return metadata.Checksum{}, fmt.Errorf("%w: %s of part %d of %d", ErrValue, row.name, i+1, len(parts))
		}
	}
	switch {
	case composite && row.composite:
		h := New(a)
		for _, p := range parts {
			h.Write([]byte(p.Value))
		}
		return metadata.Checksum{Algorithm: a, Composite: true, Parts: uint32(len(parts)), Value: string(h.Sum(nil))}, nil
	case !composite && row.full:
		c := newCombiner(a)
		var crc uint64
		for _, p := range parts {
			crc = c.combine(crc, value64(p.Value), p.Bytes)
		}
		return metadata.Checksum{Algorithm: a, Value: raw(crc, row.bytes)}, nil
	}
	return metadata.Checksum{}, fmt.Errorf("%w: %s, composite: %t", ErrType, row.name, composite)
}

// clip bounds what a client sent before it goes into an error.
func clip(s string) string {
	if len(s) > 32 {
		return s[:32] + "..."
	}
	return s
}
