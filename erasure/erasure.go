// Package erasure turns the sealed bytes of a chunk into k+m shards and back.
// It is arithmetic: it holds no bytes of its own, opens nothing and knows
// neither drives nor metadata.
//
// # Format
//
// A chunk of L bytes is cut into stripes. A stripe is k data cells and m
// parity cells, all of one length. Every stripe but the last has cells of C
// bytes (64 KiB) and so takes k*C bytes of the chunk. The last stripe takes
// the rest R, 1 <= R <= k*C, and has cells of
//
//	ceil(R/k) rounded up to a multiple of 64
//
// bytes. Data cell i of a stripe holds its i-th run of so many bytes; what the
// chunk does not fill is zero. The zeros are coded and stored but are not part
// of the chunk. A chunk of 0 bytes has no stripes.
//
// Parity is computed over GF(2^8) with the matrix that klauspost/reedsolomon
// builds by default: a Vandermonde matrix of n rows and k columns multiplied
// by the inverse of its upper k rows. Headers on drives call this code 1. With
// m = 0 a stripe has no parity.
//
// Shard i is cell i of every stripe in order. Stored and sent it is framed:
// each cell is followed by its checksum, 8 bytes little-endian, as package
// [github.com/ruche-storage/ruche/erasure/shardhash] defines it. Cell s of a
// framed shard is therefore found at s*(C+8), and a run of stripes is one
// contiguous span.
//
// testdata/golden.txt pins matrix and layout; a change there is a new format.
//
// Reed-Solomon finds nothing wrong by itself: a rotten cell that enters the
// decoder silently spoils what comes out. Callers verify every cell before.
package erasure

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/klauspost/reedsolomon"
)

// MaxShards is the most shards a chunk can have, k+m.
const MaxShards = 32

// inversionCacheShards is the widest code whose inverted matrices are kept.
// The cache has no bound of its own: a code of 16 has at most 40,000 ways to
// lose cells, a code of 32 has two thousand million.
const inversionCacheShards = 16

var (
	// ErrTooFewCells says that fewer than k cells of a stripe are left.
	ErrTooFewCells = errors.New("too few cells to reconstruct")

	// ErrBracket says that what was encoded does not decode to what went in:
	// the memory or the processor of this machine cannot be trusted.
	ErrBracket = errors.New("encoded stripe does not decode to its data")

	// ErrCells says that the cells given are not those of one stripe.
	ErrCells = errors.New("cells do not form a stripe")
)

// Code encodes and decodes stripes of one shape. It is safe for concurrent
// use. Making one inverts a matrix, so callers keep it.
//
// A Code works on the goroutine of its caller: a server has a stripe in flight
// for every body, and coding one takes microseconds.
type Code struct {
	data, parity int
	rs           reedsolomon.Encoder // nil if parity is 0
}

// NewCode returns the code k+m. It needs k >= 1, m >= 0 and k+m <= 32.
func NewCode(data, parity int) (*Code, error) {
	if data < 1 || parity < 0 || data+parity > MaxShards {
		return nil, fmt.Errorf("erasure: no code %d+%d: need at least 1 data shard and at most %d in all",
			data, parity, MaxShards)
	}
	c := &Code{data: data, parity: parity}
	if parity == 0 {
		return c, nil
	}
	rs, err := reedsolomon.New(data, parity,
		reedsolomon.WithMaxGoroutines(1),
		reedsolomon.WithInversionCache(data+parity <= inversionCacheShards))
	if err != nil {
		return nil, fmt.Errorf("erasure: code %d+%d: %w", data, parity, err)
	}
	c.rs = rs
	return c, nil
}

// Data is k.
func (c *Code) Data() int { return c.data }

// Parity is m.
func (c *Code) Parity() int { return c.parity }

// Total is k+m.
func (c *Code) Total() int { return c.data + c.parity }

// Encode overwrites cells[k:] with the parity of cells[:k]. All k+m cells must
// have one length, which must not be 0. Encode allocates nothing itself; the
// library makes one allocation of less than 1 KiB on processors with GFNI.
func (c *Code) Encode(cells [][]byte) error {
	if err := c.check(cells, false); err != nil {
		return err
	}
	if c.rs == nil {
		return nil
	}
	if err := c.rs.Encode(cells); err != nil {
		return fmt.Errorf("erasure: encode: %w", err)
	}
	return nil
}

// Verify reports whether the parity cells fit the data cells. It tells that a
// stripe is wrong, never which cell: that is what cell checksums are for.
func (c *Code) Verify(cells [][]byte) (bool, error) {
	if err := c.check(cells, false); err != nil {
		return false, err
	}
	if c.rs == nil {
		return true, nil
	}
	ok, err := c.rs.Verify(cells)
	if err != nil {
		return false, fmt.Errorf("erasure: verify: %w", err)
	}
	return ok, nil
}

// Reconstruct makes the missing cells that wanted asks for. A cell of length 0
// is missing; at least k must be there and be known to be right. Where
// wanted[i] is true and cell i is missing, cells[i] is extended within its
// capacity and filled; with too little capacity memory is allocated. Cells
// that are missing and not wanted stay as they are; wanted may ask for cells
// that are there. len(wanted) must be k+m.
//
// It returns an error wrapping [ErrTooFewCells] if fewer than k cells are
// there and one of the missing is wanted. Reconstruct makes a few small
// allocations of its own.
func (c *Code) Reconstruct(cells [][]byte, wanted []bool) error {
	if len(wanted) != c.Total() {
		return fmt.Errorf("erasure: reconstruct: %w: %d wishes for %d cells", ErrCells, len(wanted), c.Total())
	}
	if err := c.check(cells, true); err != nil {
		return err
	}
	present, missing := 0, 0
	for i, cell := range cells {
		if len(cell) > 0 {
			present++
		} else if wanted[i] {
			missing++
		}
	}
	switch {
	case missing == 0:
		return nil
	case present < c.data:
		return fmt.Errorf("erasure: reconstruct: %w: %d of the %d needed", ErrTooFewCells, present, c.data)
	}
	if err := c.rs.ReconstructSome(cells, wanted); err != nil {
		return fmt.Errorf("erasure: reconstruct: %w", err)
	}
	return nil
}

// Bracket decodes an encoded stripe from k cells chosen at random and compares
// the m others with what was encoded. It catches faults of memory, of the
// vector units and of the order of cells before the stripe is trusted. The
// error wraps [ErrBracket] if they differ.
//
// scratch needs m times the length of a cell; Bracket allocates if it has
// less. The cells are only read.
func (c *Code) Bracket(cells [][]byte, random *rand.Rand, scratch []byte) error {
	if err := c.check(cells, false); err != nil {
		return err
	}
	if c.rs == nil {
		return nil
	}
	length := len(cells[0])
	if need := c.parity * length; len(scratch) < need {
		scratch = make([]byte, need)
	}
	var order [MaxShards]uint8
	for i := range c.Total() {
		order[i] = uint8(i)
	}
	random.Shuffle(c.Total(), func(i, j int) { order[i], order[j] = order[j], order[i] })

	var work [MaxShards][]byte
	var wanted [MaxShards]bool
	for _, i := range order[:c.data] {
		work[i] = cells[i]
	}
	for j, i := range order[c.data:c.Total()] {
		work[i] = scratch[j*length : j*length : (j+1)*length]
		wanted[i] = true
	}
	if err := c.Reconstruct(work[:c.Total()], wanted[:c.Total()]); err != nil {
		return fmt.Errorf("erasure: bracket: %w", err)
	}
	for _, i := range order[c.data:c.Total()] {
		if !bytes.Equal(work[i], cells[i]) {
			return fmt.Errorf("%w: cell %d of %d+%d", ErrBracket, i, c.data, c.parity)
		}
	}
	return nil
}

// check reports whether cells has k+m cells of one length that is not 0;
// missing ones are of length 0 and allowed if gaps is true.
func (c *Code) check(cells [][]byte, gaps bool) error {
	if len(cells) != c.Total() {
		return fmt.Errorf("erasure: %w: %d cells for %d+%d", ErrCells, len(cells), c.data, c.parity)
	}
	length := 0
	for i, cell := range cells {
		switch {
		case len(cell) == 0 && gaps:
		case len(cell) == 0:
			return fmt.Errorf("erasure: %w: cell %d is empty", ErrCells, i)
		case length == 0:
			length = len(cell)
		case len(cell) != length:
			return fmt.Errorf("erasure: %w: cell %d has %d bytes, others %d", ErrCells, i, len(cell), length)
		}
	}
	return nil
}
