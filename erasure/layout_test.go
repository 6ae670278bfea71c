package erasure

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/ruche-storage/ruche/erasure/shardhash"
)

// model lays a chunk out byte by byte, from the words of the package comment.
type model struct {
	place   [][3]int // of every byte of the chunk: stripe, cell, place in the cell
	cells   []int    // length of the cells of every stripe
	framed  []int    // place of every framed cell
	length  int      // of a framed shard
	content []int    // bytes of the chunk in every data shard
}

func newModel(l Layout) model {
	m := model{content: make([]int, l.Data)}
	for rest := int(l.ChunkLength); rest > 0; {
		take := min(rest, l.Data*l.CellBytes)
		cell := l.CellBytes
		if take < l.Data*l.CellBytes {
			cell = 0
			for cell*l.Data < take { // the smallest multiple of 64 that does
				cell += 64
			}
		}
		for i := range take {
			m.place = append(m.place, [3]int{len(m.cells), i / cell, i % cell})
			m.content[i/cell]++
		}
		m.framed = append(m.framed, m.length)
		m.length += cell + 8
		m.cells = append(m.cells, cell)
		rest -= take
	}
	return m
}

func checkLayout(t *testing.T, l Layout, off, n int64) {
	t.Helper()
	if err := l.Validate(); err != nil {
		t.Fatal(err)
	}
	m := newModel(l)
	if l.Stripes() != len(m.cells) || l.FramedLength() != int64(m.length) ||
		l.ShardBytes() != int64(m.length-8*len(m.cells)) || l.FrameOffset(l.Stripes()) != int64(m.length) {
		t.Fatalf("%+v: %d stripes, framed %d, cells %d; want %d, %d", l, l.Stripes(), l.FramedLength(), l.ShardBytes(), len(m.cells), m.length)
	}
	for s, cell := range m.cells {
		if l.CellLength(s) != cell || l.FrameOffset(s) != int64(m.framed[s]) || l.FrameLength(s) != cell+shardhash.ChecksumBytes {
			t.Fatalf("%+v: stripe %d: cells of %d framed at %d; want %d, %d", l, s, l.CellLength(s), l.FrameOffset(s), cell, m.framed[s])
		}
		for count := range len(m.cells) - s + 1 {
			end := m.length
			if s+count < len(m.cells) {
				end = m.framed[s+count]
			}
			if o, length := l.FramedRun(s, count); o != int64(m.framed[s]) || length != int64(end-m.framed[s]) {
				t.Fatalf("%+v: run of %d from %d: %d, %d", l, count, s, o, length)
			}
		}
	}
	for shard := range l.Total() {
		want := 0
		if shard < l.Data {
			want = m.content[shard]
		}
		if got := l.DataBytes(shard); got != int64(want) {
			t.Fatalf("%+v: shard %d holds %d, want %d", l, shard, got, want)
		}
	}
	checkRange(t, l, m, off, n)
}

func checkRange(t *testing.T, l Layout, m model, off, n int64) {
	t.Helper()
	at := off
	touched := map[[2]int][2]int{} // stripe, cell -> from, to
	for s := range l.Spans(off, n) {
		if s.From >= s.To {
			t.Fatalf("%+v: empty span %+v", l, s)
		}
		for i := s.From; i < s.To; i++ {
			if at >= off+n || m.place[at] != [3]int{s.Stripe, s.Cell, i} {
				t.Fatalf("%+v, range %d+%d: byte %d expected at %+v", l, off, n, at, s)
			}
			if stripe, cell, inner := l.Locate(at); [3]int{stripe, cell, inner} != m.place[at] {
				t.Fatalf("%+v: Locate(%d) = %d, %d, %d", l, at, stripe, cell, inner)
			}
			at++
		}
		if l.CellOffset(s.Stripe, s.Cell)+int64(s.To) != at {
			t.Fatalf("%+v: span %+v ends at %d of the chunk", l, s, at)
		}
		touched[[2]int{s.Stripe, s.Cell}] = [2]int{s.From, s.To}
	}
	if at != off+n {
		t.Fatalf("%+v: spans of %d+%d end at %d", l, off, n, at)
	}
	first, count := l.RangeStripes(off, n)
	for s := range l.Stripes() {
		cell, cells := l.RangeCells(s, off, n)
		if in := s >= first && s < first+count; in != (cells > 0) {
			t.Fatalf("%+v, range %d+%d: stripe %d in range: %t, %d cells", l, off, n, s, in, cells)
		}
		for c := range l.Data {
			span, want := touched[[2]int{s, c}]
			if got := c >= cell && c < cell+cells; got != want {
				t.Fatalf("%+v, range %d+%d: cell %d of stripe %d touched: %t, want %t", l, off, n, c, s, got, want)
			}
			if from, to := l.CellSpan(s, c, off, n); [2]int{from, to} != span {
				t.Fatalf("%+v, range %d+%d: cell %d of stripe %d: %d..%d, want %v", l, off, n, c, s, from, to, span)
			}
			start, stripes := l.RangeShard(c, off, n)
			if got := s >= start && s < start+stripes; got != want {
				t.Fatalf("%+v, range %d+%d: shard %d in stripe %d: %t, want %t", l, off, n, c, s, got, want)
			}
		}
	}
}

func TestLayoutAgainstModel(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(7, 8))
	for range 1500 {
		l := Layout{
			Data: 1 + random.IntN(6), Parity: random.IntN(4), CellBytes: 64 * (1 + random.IntN(4)),
			ChunkLength: random.Int64N(4000),
		}
		off := random.Int64N(l.ChunkLength + 1)
		checkLayout(t, l, off, random.Int64N(l.ChunkLength-off+1))
	}
}

func FuzzLayout(f *testing.F) {
	f.Add(uint8(4), uint8(2), uint8(1), uint16(1000), uint16(300), uint16(500))
	f.Add(uint8(1), uint8(0), uint8(2), uint16(0), uint16(0), uint16(0))
	f.Add(uint8(8), uint8(4), uint8(1), uint16(512), uint16(511), uint16(1))
	f.Fuzz(func(t *testing.T, data, parity, cell uint8, length, off, n uint16) {
		l := Layout{
			Data: 1 + int(data%16), Parity: int(parity % 16), CellBytes: 64 * (1 + int(cell%8)),
			ChunkLength: int64(length % 16384),
		}
		from := min(int64(off), l.ChunkLength)
		checkLayout(t, l, from, min(int64(n), l.ChunkLength-from))
	})
}

// TestCut sends a chunk through stripes, coding, loss and back by ranges.
func TestCut(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(9, 10))
	for range 200 {
		l := Layout{
			Data: 1 + random.IntN(6), Parity: 1 + random.IntN(3), CellBytes: 128,
			ChunkLength: 1 + random.Int64N(3000),
		}
		chunk := make([]byte, l.ChunkLength)
		for i := range chunk {
			chunk[i] = byte(random.Uint32())
		}
		code, err := NewCode(l.Data, l.Parity)
		if err != nil {
			t.Fatal(err)
		}
		stripes := make([][][]byte, l.Stripes())
		for s := range stripes {
			data := make([]byte, l.StripeBytes())
			for i := range data {
				data[i] = 0xee // left by an earlier stripe
			}
			copy(data, chunk[int64(s)*l.StripeBytes():][:l.StripeLength(s)])
			cells := l.Cut(s, data, make([]byte, l.Parity*l.CellBytes), make([][]byte, l.Total()))
			if err := code.Encode(cells); err != nil {
				t.Fatal(err)
			}
			for _, i := range random.Perm(l.Total())[:l.Parity] {
				clear(cells[i])
				cells[i] = cells[i][:0]
			}
			all := make([]bool, l.Total())
			for i := range all {
				all[i] = true
			}
			if err := code.Reconstruct(cells, all); err != nil {
				t.Fatal(err)
			}
			for i := range l.Data {
				for _, b := range cells[i][l.CellContent(s, i):] {
					if b != 0 {
						t.Fatalf("%+v: padding of cell %d of stripe %d is %#x", l, i, s, b)
					}
				}
			}
			stripes[s] = cells
		}
		off := random.Int64N(l.ChunkLength)
		n := random.Int64N(l.ChunkLength - off + 1)
		var got []byte
		for s := range l.Spans(off, n) {
			got = append(got, stripes[s.Stripe][s.Cell][s.From:s.To]...)
		}
		if string(got) != string(chunk[off:off+n]) {
			t.Fatalf("%+v: range %d+%d comes back wrong", l, off, n)
		}
	}
}

func TestLayoutValidate(t *testing.T) {
	t.Parallel()
	good := Layout{Data: 4, Parity: 2, CellBytes: 65536, ChunkLength: 1}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for _, change := range []func(*Layout){
		func(l *Layout) { l.Data = 0 }, func(l *Layout) { l.Parity = -1 }, func(l *Layout) { l.Parity = 29 },
		func(l *Layout) { l.CellBytes = 0 }, func(l *Layout) { l.CellBytes = 100 }, func(l *Layout) { l.CellBytes = 2 << 20 },
		func(l *Layout) { l.ChunkLength = -1 }, func(l *Layout) { l.ChunkLength = 1 << 50 },
		func(l *Layout) { l.Data, l.Parity = 1<<62, 1<<62 },
	} {
		l := good
		change(&l)
		if l.Validate() == nil {
			t.Errorf("%+v is valid", l)
		}
	}
}

func TestLayoutPanicsOutside(t *testing.T) {
	t.Parallel()
	l := Layout{Data: 2, Parity: 1, CellBytes: 64, ChunkLength: 200}
	for i, f := range []func(){
		func() { l.CellLength(2) }, func() { l.CellLength(-1) }, func() { l.Locate(200) }, func() { l.Locate(-1) },
		func() { l.RangeStripes(0, 201) }, func() { l.RangeStripes(200, 1) }, func() { l.RangeStripes(-1, 1) },
		func() { l.RangeStripes(1, 1<<63-1) }, func() { l.DataBytes(3) }, func() { l.CellOffset(0, 2) }, func() { l.FrameOffset(3) },
	} {
		func() {
			defer func() {
				if p := fmt.Sprint(recover()); len(p) < 8 || p[:8] != "erasure:" {
					t.Errorf("case %d: panic %q", i, p)
				}
			}()
			f()
		}()
	}
}
