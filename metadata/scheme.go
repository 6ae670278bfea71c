package metadata

import "fmt"

// CellBytes is the length of a full cell, in bytes: 64 KiB.
const CellBytes = 1 << CellLog2

// CellLog2 is the binary logarithm of [CellBytes], as headers carry it.
const CellLog2 = 16

// ChunkSegments is how many sealed segments of [CellBytes] a chunk holds at
// most. It is one more than 64 MiB needs, so that a body of exactly 64 MiB,
// the usual size of a part, is one chunk after sealing has made it 16 bytes a
// segment longer.
const ChunkSegments = 1025

// ChunkBytes is the most sealed bytes one chunk may hold. Every chunk of a
// part but the last holds exactly that many.
const ChunkBytes = ChunkSegments * CellBytes

// CodeVandermonde numbers the coding matrix that klauspost/reedsolomon builds
// by default. It is pinned by golden vectors in package erasure.
const CodeVandermonde = 1

// Scheme is the shape of a stripe. The zero value is not valid.
type Scheme struct {
	Data     uint8 // k: cells needed to read, at least 1
	Parity   uint8 // m: cells that may be lost, may be 0 on a single drive
	Code     uint8 // coding matrix, CodeVandermonde
	CellLog2 uint8 // binary logarithm of the length of a full cell
}

// NewScheme returns k+m with the current code and cell length.
func NewScheme(data, parity int) Scheme {
	return Scheme{Data: uint8(data), Parity: uint8(parity), Code: CodeVandermonde, CellLog2: CellLog2}
}

// Total is k+m.
func (s Scheme) Total() int { return int(s.Data) + int(s.Parity) }

// String returns the scheme as "4+2".
func (s Scheme) String() string { return fmt.Sprintf("%d+%d", s.Data, s.Parity) }

// Validate reports why s cannot be used, or nil.
func (s Scheme) Validate() error {
	switch {
	case s.Data < 1:
		return fmt.Errorf("metadata: scheme %s: need at least 1 data shard", s)
	case s.Total() > 32:
		return fmt.Errorf("metadata: scheme %s: at most 32 shards", s)
	case s.Code != CodeVandermonde:
		return fmt.Errorf("metadata: scheme %s: unknown code %d", s, s.Code)
	case s.CellLog2 != CellLog2:
		return fmt.Errorf("metadata: scheme %s: cells of 2^%d bytes, this program reads and writes only such of %d KiB", s, s.CellLog2, CellBytes>>10)
	}
	return nil
}

// SchemeFor returns the default scheme of one machine with so many drives:
// 1: 1+0, 2: 1+1, 3: 2+1, 4: 2+2, 5: 3+2, 6-7: 4+2, 8-11: 5+3, more: 8+4.
func SchemeFor(drives int) Scheme {
	switch {
	case drives <= 1:
		return NewScheme(1, 0)
	case drives == 2:
		return NewScheme(1, 1)
	case drives == 3:
		return NewScheme(2, 1)
	case drives == 4:
		return NewScheme(2, 2)
	case drives == 5:
		return NewScheme(3, 2)
	case drives <= 7:
		return NewScheme(4, 2)
	case drives <= 11:
		return NewScheme(5, 3)
	}
	return NewScheme(8, 4)
}
