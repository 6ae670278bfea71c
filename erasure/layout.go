package erasure

import (
	"errors"
	"fmt"
	"iter"

	"github.com/ruche-storage/ruche/erasure/shardhash"
)

// CellAlign is what the length of every cell is a multiple of, in bytes.
const CellAlign = 64

// MaxCellBytes is the longest cell a [Layout] accepts.
const MaxCellBytes = 1 << 20

// Layout says where the bytes of one chunk lie in its shards. It is a value
// and pure arithmetic; the package comment has the rules. Stripes, cells and
// shards are numbered from 0, data shards first. Methods other than Validate
// need a valid Layout, and panic where they are asked for stripes, shards or
// bytes that do not exist.
type Layout struct {
	Data        int   // k
	Parity      int   // m
	CellBytes   int   // length of a full cell, a multiple of 64
	ChunkLength int64 // sealed bytes of the chunk
}

// Span is a run of bytes of one data cell: bytes [From, To) of cell Cell of
// stripe Stripe.
type Span struct {
	Stripe   int
	Cell     int
	From, To int
}

// Validate reports everything that is wrong with l, or nil.
func (l Layout) Validate() error {
	var errs []error
	if l.Data < 1 || l.Parity < 0 || l.Data > MaxShards || l.Parity > MaxShards || l.Data+l.Parity > MaxShards {
		errs = append(errs, fmt.Errorf("erasure: no layout %d+%d", l.Data, l.Parity))
	}
	if l.CellBytes < CellAlign || l.CellBytes > MaxCellBytes || l.CellBytes%CellAlign != 0 {
		errs = append(errs, fmt.Errorf("erasure: cells of %d bytes", l.CellBytes))
	}
	if l.ChunkLength < 0 || l.ChunkLength > 1<<40 {
		errs = append(errs, fmt.Errorf("erasure: chunk of %d bytes", l.ChunkLength))
	}
	return errors.Join(errs...)
}

// Total is the number of shards, k+m.
func (l Layout) Total() int { return l.Data + l.Parity }

// StripeBytes is how many bytes of the chunk a full stripe takes.
func (l Layout) StripeBytes() int64 { return int64(l.Data) * int64(l.CellBytes) }

// Stripes is the number of stripes, 0 for an empty chunk.
func (l Layout) Stripes() int {
	return int((l.ChunkLength + l.StripeBytes() - 1) / l.StripeBytes())
}

// StripeLength is how many bytes of the chunk stripe s holds: without padding
// and parity.
func (l Layout) StripeLength(s int) int {
	l.mustStripe(s)
	return int(min(l.StripeBytes(), l.ChunkLength-int64(s)*l.StripeBytes()))
}

// CellLength is the length of each of the k+m cells of stripe s, padding
// included.
func (l Layout) CellLength(s int) int {
	perCell := (l.StripeLength(s) + l.Data - 1) / l.Data
	return (perCell + CellAlign - 1) / CellAlign * CellAlign
}

// CellOffset is the place in the chunk of the first byte of data cell cell of
// stripe s. For a cell of padding alone it may lie behind the end.
func (l Layout) CellOffset(s, cell int) int64 {
	if cell < 0 || cell >= l.Data {
		panic(fmt.Sprintf("erasure: data cell %d of %d+%d", cell, l.Data, l.Parity))
	}
	return int64(s)*l.StripeBytes() + int64(cell)*int64(l.CellLength(s))
}

// CellContent is how many bytes of the chunk data cell cell of stripe s holds;
// the rest of the cell is padding.
func (l Layout) CellContent(s, cell int) int {
	n := l.ChunkLength - l.CellOffset(s, cell)
	return int(max(0, min(n, int64(l.CellLength(s)))))
}

// FrameOffset is the place of the framed cell s in a framed shard. With
// s = Stripes() it is the length of the framed shard.
func (l Layout) FrameOffset(s int) int64 {
	if s == l.Stripes() {
		return l.FramedLength()
	}
	l.mustStripe(s)
	return int64(s) * int64(l.CellBytes+shardhash.ChecksumBytes)
}

// FrameLength is the length of a framed cell of stripe s.
func (l Layout) FrameLength(s int) int { return l.CellLength(s) + shardhash.ChecksumBytes }

// FramedRun is the place and the length in a framed shard of the cells of
// stripes [first, first+count): one contiguous span.
func (l Layout) FramedRun(first, count int) (off, n int64) {
	off = l.FrameOffset(first)
	return off, l.FrameOffset(first+count) - off
}

// FramedLength is the length of each framed shard.
func (l Layout) FramedLength() int64 {
	return l.ShardBytes() + int64(l.Stripes())*shardhash.ChecksumBytes
}

// ShardBytes is the total length of the cells of each shard, padding included
// and checksums not.
func (l Layout) ShardBytes() int64 {
	stripes := l.Stripes()
	if stripes == 0 {
		return 0
	}
	return int64(stripes-1)*int64(l.CellBytes) + int64(l.CellLength(stripes-1))
}

// DataBytes is how many bytes of the chunk the given shard holds: 0 for a
// parity shard.
func (l Layout) DataBytes(shard int) int64 {
	if shard < 0 || shard >= l.Total() {
		panic(fmt.Sprintf("erasure: shard %d of %d+%d", shard, l.Data, l.Parity))
	}
	stripes := l.Stripes()
	if stripes == 0 || shard >= l.Data {
		return 0
	}
	return int64(stripes-1)*int64(l.CellBytes) + int64(l.CellContent(stripes-1, shard))
}

// Locate finds byte off of the chunk: its stripe, its data cell and its place
// in that cell.
func (l Layout) Locate(off int64) (stripe, cell, inner int) {
	if off < 0 || off >= l.ChunkLength {
		panic(fmt.Sprintf("erasure: byte %d of a chunk of %d", off, l.ChunkLength))
	}
	stripe = int(off / l.StripeBytes())
	within := int(off % l.StripeBytes())
	length := l.CellLength(stripe)
	return stripe, within / length, within % length
}

// RangeStripes returns the stripes that hold bytes [off, off+n) of the chunk:
// count stripes from first. The range must lie in the chunk; an empty one has
// no stripes.
func (l Layout) RangeStripes(off, n int64) (first, count int) {
	l.mustRange(off, n)
	if n == 0 {
		return 0, 0
	}
	first, _, _ = l.Locate(off)
	last, _, _ := l.Locate(off + n - 1)
	return first, last - first + 1
}

// RangeCells returns the data cells of stripe s that hold bytes of
// [off, off+n): cells [first, first+count), none if the stripe holds no byte
// of the range.
func (l Layout) RangeCells(s int, off, n int64) (first, count int) {
	from, to := l.clip(s, off, n)
	if from >= to {
		return 0, 0
	}
	_, first, _ = l.Locate(from)
	_, last, _ := l.Locate(to - 1)
	return first, last - first + 1
}

// RangeShard returns the stripes in which the given data shard holds bytes of
// [off, off+n): count stripes from first, always without a gap, so that
// [Layout.FramedRun] of them is what a ranged read asks of that shard. The
// count is 0 for shards the range does not touch and for parity.
func (l Layout) RangeShard(shard int, off, n int64) (first, count int) {
	start, stripes := l.RangeStripes(off, n)
	if stripes == 0 || shard >= l.Data {
		return 0, 0
	}
	end := start + stripes // shard's stripes are [start, end) but for the edges
	if _, lowest, _ := l.Locate(off); shard < lowest {
		start++
	}
	if _, highest, _ := l.Locate(off + n - 1); shard > highest {
		end--
	}
	if start >= end {
		return 0, 0
	}
	return start, end - start
}

// CellSpan returns the bytes [from, to) of data cell cell of stripe s that
// belong to the range [off, off+n) of the chunk; from == to if there are none.
func (l Layout) CellSpan(s, cell int, off, n int64) (from, to int) {
	lo, hi := l.clip(s, off, n)
	start := l.CellOffset(s, cell)
	end := start + int64(l.CellLength(s))
	lo, hi = max(lo, start), min(hi, end)
	if lo >= hi {
		return 0, 0
	}
	return int(lo - start), int(hi - start)
}

// Spans yields the runs of bytes that make up [off, off+n) of the chunk, in
// the order of the chunk: joined together they are the range. None is empty.
func (l Layout) Spans(off, n int64) iter.Seq[Span] {
	return func(yield func(Span) bool) {
		stripe, stripes := l.RangeStripes(off, n)
		for range stripes {
			cell, cells := l.RangeCells(stripe, off, n)
			for range cells {
				from, to := l.CellSpan(stripe, cell, off, n)
				if !yield(Span{Stripe: stripe, Cell: cell, From: from, To: to}) {
					return
				}
				cell++
			}
			stripe++
		}
	}
}

// Cut divides the buffers of stripe s into its cells: the k data cells follow
// one another in data, whose first StripeLength(s) bytes are the bytes of the
// chunk, and the m parity cells in parity. It zeroes the padding, stores the
// cells in cells[:k+m] and returns that slice. data needs k times CellLength(s)
// bytes, parity m times as much, cells room for k+m; the buffers of a full
// stripe do for all. Cut allocates nothing.
func (l Layout) Cut(s int, data, parity []byte, cells [][]byte) [][]byte {
	length := l.CellLength(s)
	clear(data[l.StripeLength(s) : l.Data*length])
	for i := range l.Data {
		cells[i] = data[i*length : (i+1)*length : (i+1)*length]
	}
	for i := range l.Parity {
		cells[l.Data+i] = parity[i*length : (i+1)*length : (i+1)*length]
	}
	return cells[:l.Total()]
}

// clip returns what bytes of the chunk are both in stripe s and in the range.
func (l Layout) clip(s int, off, n int64) (from, to int64) {
	l.mustRange(off, n)
	start := int64(s) * l.StripeBytes()
	return max(off, start), min(off+n, start+int64(l.StripeLength(s)))
}

func (l Layout) mustStripe(s int) {
	if s < 0 || s >= l.Stripes() {
		panic(fmt.Sprintf("erasure: stripe %d of %d", s, l.Stripes()))
	}
}

func (l Layout) mustRange(off, n int64) {
	if off < 0 || n < 0 || off > l.ChunkLength || n > l.ChunkLength-off {
		panic(fmt.Sprintf("erasure: range of %d bytes from %d in a chunk of %d", n, off, l.ChunkLength))
	}
}
