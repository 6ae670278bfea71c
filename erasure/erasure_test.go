package erasure

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/klauspost/reedsolomon"
)

// stripe returns the cells of a stripe of the given code with data from a
// generator that is pinned here: SHA-256 of a counter.
func stripe(data, parity, cellBytes int) [][]byte {
	cells := make([][]byte, data+parity)
	for i := range cells {
		cells[i] = make([]byte, cellBytes)
	}
	for i := range data {
		for at := 0; at < cellBytes; at += sha256.Size {
			block := sha256.Sum256(fmt.Appendf(nil, "cell %d byte %d", i, at))
			copy(cells[i][at:], block[:])
		}
	}
	return cells
}

// TestGolden pins the coding matrix and the layout: testdata/golden was made
// once, and a difference means that data already stored cannot be read.
func TestGolden(t *testing.T) {
	t.Parallel()
	datadriven.RunTest(t, "testdata/golden", func(t *testing.T, d *datadriven.TestData) string {
		var k, m int
		if _, err := fmt.Sscanf(d.CmdArgs[0].Key, "%d+%d", &k, &m); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		switch d.Cmd {
		case "parity":
			code, err := NewCode(k, m)
			if err != nil {
				t.Fatal(err)
			}
			cells := stripe(k, m, 4096)
			if err := code.Encode(cells); err != nil {
				t.Fatal(err)
			}
			for i, cell := range cells[k:] {
				fmt.Fprintf(&out, "parity %d: %x\n", i, sha256.Sum256(cell))
			}
		case "layout":
			for _, length := range []int64{0, 1, 64, 65, 65536, 65537, int64(k)*65536 - 1, int64(k) * 65536, int64(k)*65536 + 1, 1025 * 65536} {
				l := Layout{Data: k, Parity: m, CellBytes: 65536, ChunkLength: length}
				fmt.Fprintf(&out, "%d bytes: %d stripes", length, l.Stripes())
				if n := l.Stripes(); n > 0 {
					fmt.Fprintf(&out, ", last of %d bytes in cells of %d", l.StripeLength(n-1), l.CellLength(n-1))
				}
				fmt.Fprintf(&out, "; shards of %d, framed %d\n", l.ShardBytes(), l.FramedLength())
			}
		default:
			t.Fatalf("unknown command %s", d.Cmd)
		}
		return out.String()
	})
}

// TestEveryLoss loses every set of up to m cells and rebuilds it.
func TestEveryLoss(t *testing.T) {
	t.Parallel()
	for _, shape := range [][2]int{{1, 0}, {1, 1}, {2, 1}, {2, 2}, {3, 2}, {4, 2}, {5, 3}} {
		k, m := shape[0], shape[1]
		code, err := NewCode(k, m)
		if err != nil {
			t.Fatal(err)
		}
		for _, length := range []int{64, 192, 4096 + 64} {
			cells := stripe(k, m, length)
			if err := code.Encode(cells); err != nil {
				t.Fatal(err)
			}
			if ok, err := code.Verify(cells); !ok || err != nil {
				t.Fatalf("Verify = %t, %v", ok, err)
			}
			for lost := range 1 << (k + m) {
				checkLoss(t, code, cells, lost)
			}
		}
	}
}

// checkLoss rebuilds the cells of the bit set lost, all of them and each
// alone.
func checkLoss(t *testing.T, code *Code, cells [][]byte, lost int) {
	t.Helper()
	n, count := code.Total(), 0
	for only := -1; only < n; only++ {
		got := make([][]byte, n)
		wanted := make([]bool, n)
		count = 0
		for i := range cells {
			if lost>>i&1 == 0 {
				got[i] = cells[i]
				continue
			}
			count++
			got[i] = make([]byte, 0, len(cells[0]))
			wanted[i] = only < 0 || only == i
		}
		err := code.Reconstruct(got, wanted)
		if count > code.Parity() {
			if some := only < 0 || lost>>only&1 == 1; some && !errors.Is(err, ErrTooFewCells) {
				t.Fatalf("%d+%d without %b: error %v", code.Data(), code.Parity(), lost, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%d+%d without %b: %v", code.Data(), code.Parity(), lost, err)
		}
		for i := range cells {
			switch {
			case wanted[i] || lost>>i&1 == 0:
				if !bytes.Equal(got[i], cells[i]) {
					t.Fatalf("%d+%d without %b: cell %d is wrong", code.Data(), code.Parity(), lost, i)
				}
			case len(got[i]) != 0:
				t.Fatalf("%d+%d without %b: cell %d was made unasked", code.Data(), code.Parity(), lost, i)
			}
		}
	}
}

// TestAgainstLibraryDefault shows that the options of NewCode change speed and
// nothing else, whatever the length.
func TestAgainstLibraryDefault(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	for range 60 {
		k := 1 + random.IntN(20)
		m := 1 + random.IntN(MaxShards-k)
		length := CellAlign * (1 + random.IntN(1024))
		cells, want := stripe(k, m, length), stripe(k, m, length)
		code, err := NewCode(k, m)
		if err != nil {
			t.Fatal(err)
		}
		if err := code.Encode(cells); err != nil {
			t.Fatal(err)
		}
		library, err := reedsolomon.New(k, m)
		if err != nil {
			t.Fatal(err)
		}
		if err := library.Encode(want); err != nil {
			t.Fatal(err)
		}
		for i := range cells {
			if !bytes.Equal(cells[i], want[i]) {
				t.Fatalf("%d+%d, cells of %d: cell %d differs", k, m, length, i)
			}
		}
		if err := code.Bracket(cells, random, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCodeIsLinear checks parity against a multiplication table made from the
// code's own unit vectors and a schoolbook field, so that the vector units are
// compared with plain arithmetic.
func TestCodeIsLinear(t *testing.T) {
	t.Parallel()
	const k, m = 5, 3
	code, err := NewCode(k, m)
	if err != nil {
		t.Fatal(err)
	}
	var row [m][k]byte
	for i := range k {
		cells := make([][]byte, k+m)
		for j := range cells {
			cells[j] = make([]byte, CellAlign)
		}
		cells[i][0] = 1
		if err := code.Encode(cells); err != nil {
			t.Fatal(err)
		}
		for p := range m {
			row[p][i] = cells[k+p][0]
		}
	}
	cells := stripe(k, m, 4096)
	if err := code.Encode(cells); err != nil {
		t.Fatal(err)
	}
	for p := range m {
		for at := range 4096 {
			var want byte
			for i := range k {
				want ^= multiply(row[p][i], cells[i][at])
			}
			if cells[k+p][at] != want {
				t.Fatalf("parity %d byte %d = %#x, want %#x", p, at, cells[k+p][at], want)
			}
		}
	}
}

// multiply multiplies in GF(2^8) modulo x^8+x^4+x^3+x^2+1, bit by bit.
func multiply(a, b byte) byte {
	var p byte
	for ; a != 0; a >>= 1 {
		if a&1 == 1 {
			p ^= b
		}
		carry := b&0x80 != 0
		b <<= 1
		if carry {
			b ^= 0x1d
		}
	}
	return p
}

func TestBracketFindsEveryFault(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(5, 6))
	code, err := NewCode(4, 2)
	if err != nil {
		t.Fatal(err)
	}
	scratch := make([]byte, 2*256)
	for i := range code.Total() {
		for range 20 {
			cells := stripe(4, 2, 256)
			if err := code.Encode(cells); err != nil {
				t.Fatal(err)
			}
			if err := code.Bracket(cells, random, scratch); err != nil {
				t.Fatal(err)
			}
			cells[i][random.IntN(256)] ^= 1 << random.IntN(8)
			if err := code.Bracket(cells, random, scratch); !errors.Is(err, ErrBracket) {
				t.Fatalf("cell %d flipped: %v", i, err)
			}
			if ok, err := code.Verify(cells); ok || err != nil {
				t.Fatalf("cell %d flipped: Verify = %t, %v", i, ok, err)
			}
		}
	}
	cells := stripe(4, 2, 256)
	if err := code.Encode(cells); err != nil {
		t.Fatal(err)
	}
	cells[0], cells[1] = cells[1], cells[0]
	if err := code.Bracket(cells, random, scratch); !errors.Is(err, ErrBracket) {
		t.Errorf("cells exchanged: %v", err)
	}
}

func TestBadArguments(t *testing.T) {
	t.Parallel()
	for _, shape := range [][2]int{{0, 1}, {-1, 2}, {1, -1}, {32, 1}, {20, 13}} {
		if _, err := NewCode(shape[0], shape[1]); err == nil {
			t.Errorf("NewCode(%d, %d) succeeds", shape[0], shape[1])
		}
	}
	code, err := NewCode(2, 1)
	if err != nil {
		t.Fatal(err)
	}
	long := make([]byte, 128)
	for _, cells := range [][][]byte{
		nil, {long, long}, {long, long, nil}, {long, long, long[:64]}, {nil, nil, nil}, {long, long, long, long},
	} {
		if err := code.Encode(cells); !errors.Is(err, ErrCells) {
			t.Errorf("Encode of %d cells: %v", len(cells), err)
		}
		if _, err := code.Verify(cells); !errors.Is(err, ErrCells) {
			t.Errorf("Verify of %d cells: %v", len(cells), err)
		}
		if err := code.Bracket(cells, rand.New(rand.NewPCG(1, 1)), nil); !errors.Is(err, ErrCells) {
			t.Errorf("Bracket of %d cells: %v", len(cells), err)
		}
	}
	if err := code.Reconstruct([][]byte{long, long[:64], nil}, make([]bool, 3)); !errors.Is(err, ErrCells) {
		t.Errorf("Reconstruct of unequal cells: %v", err)
	}
	if err := code.Reconstruct([][]byte{long, long, nil}, make([]bool, 2)); !errors.Is(err, ErrCells) {
		t.Errorf("Reconstruct with 2 wishes: %v", err)
	}
}

// TestEncodeAllocates allows the one small allocation of the library. It
// cannot run in parallel: the counter is that of the process.
func TestEncodeAllocates(t *testing.T) {
	code, err := NewCode(4, 2)
	if err != nil {
		t.Fatal(err)
	}
	cells := stripe(4, 2, 65536)
	if n := testing.AllocsPerRun(20, func() {
		if err := code.Encode(cells); err != nil {
			t.Error(err)
		}
	}); n > 1 {
		t.Errorf("Encode allocates %v times", n)
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, shape := range [][2]int{{4, 2}, {8, 4}} {
		b.Run(fmt.Sprintf("%d+%d", shape[0], shape[1]), func(b *testing.B) {
			code, err := NewCode(shape[0], shape[1])
			if err != nil {
				b.Fatal(err)
			}
			cells := stripe(shape[0], shape[1], 65536)
			b.SetBytes(int64(shape[0]) * 65536)
			b.ReportAllocs()
			for b.Loop() {
				if err := code.Encode(cells); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReconstruct(b *testing.B) {
	code, err := NewCode(8, 4)
	if err != nil {
		b.Fatal(err)
	}
	cells := stripe(8, 4, 65536)
	if err := code.Encode(cells); err != nil {
		b.Fatal(err)
	}
	wanted := make([]bool, 12)
	wanted[1] = true
	b.SetBytes(65536 * 8)
	b.ReportAllocs()
	for b.Loop() {
		cells[1] = cells[1][:0]
		if err := code.Reconstruct(cells, wanted); err != nil {
			b.Fatal(err)
		}
	}
}
