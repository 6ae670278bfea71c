package checksum

import (
	"fmt"
	"hash/crc32"

	"github.com/minio/crc64nvme"

	"github.com/ruche-storage/ruche/metadata"
)

// A CRC of A followed by B is crc(A) * x^(8*len(B)) + crc(B), computed with
// polynomials over GF(2) modulo that of the CRC: running len(B) zero bytes
// through the register multiplies it by that power of x, and what the initial
// value and the final complement add to the three terms cancels. Polynomials
// are written with the lowest power in the highest bit, as the reflected CRCs
// keep their registers, so that 1 is the highest bit.

// combiner combines CRCs of one kind. It is not safe for concurrent use.
type combiner struct {
	bits    int
	poly    uint64     // without its highest power
	squares [63]uint64 // x^(8*2^i)

	lastBytes int64 // parts of one object mostly have one length
	lastShift uint64
}

func newCombiner(a metadata.ChecksumAlgorithm) *combiner {
	c := &combiner{lastBytes: -1}
	switch a {
	case metadata.ChecksumCRC32:
		c.bits, c.poly = 32, crc32.IEEE
	case metadata.ChecksumCRC32C:
		c.bits, c.poly = 32, crc32.Castagnoli
	case metadata.ChecksumCRC64NVME:
		c.bits, c.poly = 64, crc64nvme.NVME
	default:
		panic(fmt.Sprintf("checksum: algorithm %d is no CRC", a))
	}
	c.squares[0] = 1 << (c.bits - 1 - 8) // x^8
	for i := 1; i < len(c.squares); i++ {
		c.squares[i] = c.multiply(c.squares[i-1], c.squares[i-1])
	}
	return c
}

// combine returns the CRC of A followed by B from those of A and of B and the
// length of B, in bytes.
func (c *combiner) combine(a, b uint64, bytes int64) uint64 {
	if bytes != c.lastBytes {
		c.lastBytes, c.lastShift = bytes, c.power(bytes)
	}
	return c.multiply(c.lastShift, a) ^ b
}

// power returns x^(8*bytes).
func (c *combiner) power(bytes int64) uint64 {
	p := uint64(1) << (c.bits - 1)
	for i := 0; bytes > 0; i++ {
		if bytes&1 == 1 {
			p = c.multiply(p, c.squares[i])
		}
		bytes >>= 1
	}
	return p
}

// multiply returns a*b modulo the polynomial, by schoolbook.
func (c *combiner) multiply(a, b uint64) uint64 {
	var p uint64
	for m := uint64(1) << (c.bits - 1); a != 0; m >>= 1 {
		if a&m != 0 {
			p ^= b
			a &^= m
		}
		if b&1 == 1 {
			b = b>>1 ^ c.poly
		} else {
			b >>= 1
		}
	}
	return p
}

// value64 reads a big-endian CRC of up to 8 bytes.
func value64(raw string) uint64 {
	var v uint64
	for i := range len(raw) {
		v = v<<8 | uint64(raw[i])
	}
	return v
}

// raw is the reverse of value64.
func raw(v uint64, bytes int) string {
	b := make([]byte, bytes)
	for i := range b {
		b[i] = byte(v >> (8 * (bytes - 1 - i)))
	}
	return string(b)
}
