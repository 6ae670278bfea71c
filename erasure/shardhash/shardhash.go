// Package shardhash computes the checksums and digests that let every reader
// tell a right shard from a wrong one.
//
// Three values build on each other. All integers are little-endian.
//
//   - The checksum of a cell is the CRC64-NVME of the 17 bytes of the shard id
//     (chunk id, then index), the 8 bytes of the cell number and the bytes of
//     the cell, in that order and with nothing between. Cells are numbered
//     from 0 within their shard, so the number is that of the stripe. Bytes
//     that are right but lie in the wrong shard or at the wrong place
//     therefore fail like rotten ones.
//   - The sum of a shard is the SHA-256 of the checksums of all its cells, 8
//     bytes each in order of their numbers, followed by the total length of
//     its cells as 8 bytes. That length counts cell bytes only, with the zero
//     padding of the last stripe and without the checksums between cells. It
//     is the same for all shards of a chunk.
//   - The digest of a chunk is the SHA-256 of the sums of its n shards in
//     order of their index, parity included.
//
// A shard as it is sent and stored is framed: each cell is followed by its
// checksum as 8 bytes. [Seed.VerifyFramed] checks a run of framed cells.
//
// CRC64-NVME is computed with minio/crc64nvme (polynomial 0xad93d23594c93659,
// reflected, initial value and final complement of all ones; the checksum of
// "123456789" is 0xae8b14860a799888), SHA-256 with minio/sha256-simd. Golden
// vectors in testdata pin all three values.
package shardhash

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"

	"github.com/minio/crc64nvme"
	"github.com/minio/sha256-simd"
)

// IDBytes is the length of a shard id: 16 bytes of chunk id and one of index.
const IDBytes = 17

// ChecksumBytes is the length of a stored cell checksum.
const ChecksumBytes = 8

// ErrMismatch is what verification returns, wrapped in a [CellError], when a
// cell is not what its checksum says.
var ErrMismatch = errors.New("cell checksum mismatch")

// ErrFraming says that a framed run cannot consist of whole cells.
var ErrFraming = errors.New("framed cells of impossible length")

// CellError names the first cell of a run that failed. It wraps
// [ErrMismatch].
type CellError struct {
	Cell uint64 // number of the cell within its shard
}

func (e *CellError) Error() string { return fmt.Sprintf("cell %d: %v", e.Cell, ErrMismatch) }

// Unwrap returns [ErrMismatch].
func (e *CellError) Unwrap() error { return ErrMismatch }

// nvme is the table of CRC64-NVME.
var nvme = crc64.MakeTable(crc64nvme.NVME)

// Sum is the SHA-256 sum of a shard.
type Sum [32]byte

// Digest is the SHA-256 digest of a chunk.
type Digest [32]byte

// Seed computes cell checksums of one shard. It is a small value, may be
// copied and is safe for concurrent use.
type Seed struct {
	crc uint64 // CRC64-NVME of the shard id
}

// NewSeed returns the seed of the shard with the given id.
func NewSeed(id [IDBytes]byte) Seed {
	return Seed{crc: crc64nvme.Checksum(id[:])}
}

// Checksum returns the checksum of the cell with the given number.
func (s Seed) Checksum(number uint64, cell []byte) uint64 {
	// The 8 bytes of the number go through the table here: the library would
	// move them to the heap on the way to its vector code.
	crc := ^s.crc
	for range 8 {
		crc = nvme[byte(crc)^byte(number)] ^ crc>>8
		number >>= 8
	}
	return crc64nvme.Update(^crc, cell)
}

// VerifyFrame checks one framed cell: its bytes followed by its checksum.
func (s Seed) VerifyFrame(number uint64, frame []byte) error {
	n := len(frame) - ChecksumBytes
	if n < 0 {
		return fmt.Errorf("%w: %d bytes", ErrFraming, len(frame))
	}
	if s.Checksum(number, frame[:n]) != binary.LittleEndian.Uint64(frame[n:]) {
		return &CellError{Cell: number}
	}
	return nil
}

// VerifyFramed checks a run of framed cells that begins with cell number
// first. Every cell is cellBytes long but the last of the run, which may be
// shorter and not empty. The error is a [*CellError] for the first cell that
// does not fit its checksum, or wraps [ErrFraming]; an empty run is right.
func (s Seed) VerifyFramed(framed []byte, first uint64, cellBytes int) error {
	if cellBytes <= 0 {
		return fmt.Errorf("%w: cells of %d bytes", ErrFraming, cellBytes)
	}
	for number := first; len(framed) > 0; number++ {
		n := min(cellBytes+ChecksumBytes, len(framed))
		if n <= ChecksumBytes {
			return fmt.Errorf("%w: %d bytes left for cell %d", ErrFraming, n, number)
		}
		if err := s.VerifyFrame(number, framed[:n]); err != nil {
			return err
		}
		framed = framed[n:]
	}
	return nil
}

// Cells makes the checksums of the cells of one shard, in order, and its sum
// on the way. It is not safe for concurrent use. The zero value is not usable:
// see [NewCells]; a Cells may be used again after [Cells.Reset].
type Cells struct {
	seed   Seed
	next   uint64
	length uint64
	hash   hash.Hash
	buf    [ChecksumBytes]byte // a field, so that hashing it allocates nothing
	out    Sum
}

// NewCells returns a Cells for the shard with the given id.
func NewCells(id [IDBytes]byte) *Cells {
	return &Cells{seed: NewSeed(id), hash: sha256.New()}
}

// Reset makes c ready for the first cell of the shard with the given id.
func (c *Cells) Reset(id [IDBytes]byte) {
	c.seed, c.next, c.length = NewSeed(id), 0, 0
	c.hash.Reset()
}

// Add returns the checksum of a cell and takes it into the sum of the shard.
// It panics unless number is one more than that of the cell before, or 0 for
// the first.
func (c *Cells) Add(number uint64, cell []byte) uint64 {
	checksum := c.seed.Checksum(number, cell)
	c.AddChecksum(number, checksum, len(cell))
	return checksum
}

// AddChecksum takes a cell of known checksum and length into the sum of the
// shard, for a reader that verified the cell already. It panics as [Cells.Add]
// does.
func (c *Cells) AddChecksum(number, checksum uint64, cellBytes int) {
	if number != c.next {
		panic(fmt.Sprintf("shardhash: cell %d added where %d is next", number, c.next))
	}
	binary.LittleEndian.PutUint64(c.buf[:], checksum)
	c.hash.Write(c.buf[:])
	c.next++
	c.length += uint64(cellBytes)
}

// Frame is [Cells.Add] for a cell that is followed by room for its checksum:
// it fills in the last [ChecksumBytes] bytes of frame.
func (c *Cells) Frame(number uint64, frame []byte) {
	n := len(frame) - ChecksumBytes
	binary.LittleEndian.PutUint64(frame[n:], c.Add(number, frame[:n]))
}

// Count is the number of cells added so far.
func (c *Cells) Count() uint64 { return c.next }

// Bytes is the total length of the cells added so far, the true length that
// the sum covers.
func (c *Cells) Bytes() uint64 { return c.length }

// Sum returns the sum of the shard. Nothing may be added after it but through
// [Cells.Reset]; calling Sum again is not allowed either.
func (c *Cells) Sum() Sum {
	binary.LittleEndian.PutUint64(c.buf[:], c.length)
	c.hash.Write(c.buf[:])
	c.hash.Sum(c.out[:0])
	return c.out
}

// ChunkDigest returns the digest of a chunk from the sums of all its shards in
// order of their index.
func ChunkDigest(sums []Sum) Digest {
	h := sha256.New()
	for i := range sums {
		h.Write(sums[i][:])
	}
	var d Digest
	h.Sum(d[:0])
	return d
}
