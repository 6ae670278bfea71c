package shardhash

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

func shardID(index byte) (id [IDBytes]byte) {
	for i := range id {
		id[i] = byte(i * 7)
	}
	id[16] = index
	return id
}

func pattern(seed, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*31 + seed + i>>8)
	}
	return b
}

// naive computes a cell checksum from its definition alone, with the table
// driven CRC of the standard library and one buffer.
func naive(id [IDBytes]byte, number uint64, cell []byte) uint64 {
	b := binary.LittleEndian.AppendUint64(id[:], number)
	return crc64.Checksum(append(b, cell...), crc64.MakeTable(0x9a6c9329ac4bc9b5))
}

func TestChecksumAgainstNaive(t *testing.T) {
	t.Parallel()
	for n := 0; n < 70_000; n = n*5/4 + 1 {
		cell := pattern(n, n)
		id := shardID(byte(n))
		if got, want := NewSeed(id).Checksum(uint64(n), cell), naive(id, uint64(n), cell); got != want {
			t.Fatalf("cell of %d bytes: %x, want %x", n, got, want)
		}
	}
}

// TestGolden pins checksums, sums and digests.
func TestGolden(t *testing.T) {
	t.Parallel()
	datadriven.RunTest(t, "testdata/golden", func(t *testing.T, d *datadriven.TestData) string {
		var shards, cells, cellBytes, lastBytes int
		d.ScanArgs(t, "shards", &shards)
		d.ScanArgs(t, "cells", &cells)
		d.ScanArgs(t, "bytes", &cellBytes)
		d.ScanArgs(t, "last", &lastBytes)
		var out strings.Builder
		var sums []Sum
		for shard := range shards {
			c := NewCells(shardID(byte(shard)))
			fmt.Fprintf(&out, "shard %d:", shard)
			for i := range cells {
				n := cellBytes
				if i == cells-1 {
					n = lastBytes
				}
				fmt.Fprintf(&out, " %016x", c.Add(uint64(i), pattern(shard*cells+i, n)))
			}
			sums = append(sums, c.Sum())
			fmt.Fprintf(&out, "\nsum %x\n", sums[shard])
		}
		fmt.Fprintf(&out, "digest %x\n", ChunkDigest(sums))
		return out.String()
	})
}

// TestSumAgainstNaive computes sum and digest from their definitions.
func TestSumAgainstNaive(t *testing.T) {
	t.Parallel()
	var sums []Sum
	var all []byte
	c := NewCells(shardID(200))
	c.Add(0, []byte("what an earlier use left"))
	for shard := range 3 {
		id := shardID(byte(shard))
		c.Reset(id)
		var list []byte
		total := 0
		for i := range 5 {
			cell := pattern(i, 64*(i+1))
			list = binary.LittleEndian.AppendUint64(list, naive(id, uint64(i), cell))
			c.Add(uint64(i), cell)
			total += len(cell)
		}
		want := sha256.Sum256(binary.LittleEndian.AppendUint64(list, uint64(total)))
		if c.Count() != 5 || c.Bytes() != uint64(total) {
			t.Errorf("count %d, bytes %d; want 5, %d", c.Count(), c.Bytes(), total)
		}
		got := c.Sum()
		if got != want {
			t.Errorf("sum of shard %d = %x, want %x", shard, got, want)
		}
		sums = append(sums, got)
		all = append(all, got[:]...)
	}
	if got, want := ChunkDigest(sums), sha256.Sum256(all); got != want {
		t.Errorf("digest = %x, want %x", got, want)
	}
}

func TestVerifyFramed(t *testing.T) {
	t.Parallel()
	id := shardID(3)
	const cellBytes, cells, lastBytes = 192, 4, 64
	var framed []byte
	c := NewCells(id)
	for i := range cells {
		n := cellBytes
		if i == cells-1 {
			n = lastBytes
		}
		frame := append(pattern(i, n), make([]byte, ChecksumBytes)...)
		c.Frame(uint64(i), frame)
		framed = append(framed, frame...)
	}
	seed := NewSeed(id)
	frameBytes := cellBytes + ChecksumBytes
	for first := range cells {
		if err := seed.VerifyFramed(framed[first*frameBytes:], uint64(first), cellBytes); err != nil {
			t.Errorf("cells from %d: %v", first, err)
		}
	}
	if err := seed.VerifyFramed(nil, 0, cellBytes); err != nil {
		t.Errorf("empty run: %v", err)
	}
	for i := range framed {
		framed[i] ^= 0x10
		err := seed.VerifyFramed(framed, 0, cellBytes)
		wrong, ok := errors.AsType[*CellError](err)
		if !ok || !errors.Is(err, ErrMismatch) || wrong.Cell != uint64(i/frameBytes) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		framed[i] ^= 0x10
	}
	for name, err := range map[string]error{
		"wrong place":       seed.VerifyFramed(framed[frameBytes:], 0, cellBytes),
		"wrong shard":       NewSeed(shardID(4)).VerifyFramed(framed, 0, cellBytes),
		"cut in the middle": seed.VerifyFramed(framed[:len(framed)-1], 0, cellBytes),
		"other cell length": seed.VerifyFramed(framed, 0, 128),
	} {
		if !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"only a checksum": seed.VerifyFramed(framed[:frameBytes+ChecksumBytes], 0, cellBytes),
		"short frame":     seed.VerifyFrame(0, framed[:7]),
		"no cells":        seed.VerifyFramed(framed, 0, 0),
	} {
		if !errors.Is(err, ErrFraming) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOrderIsKept(t *testing.T) {
	t.Parallel()
	c := NewCells(shardID(0))
	c.Add(0, []byte("a"))
	defer func() {
		if recover() == nil {
			t.Error("a cell was left out and nothing said so")
		}
	}()
	c.Add(2, []byte("c"))
}

func FuzzVerifyFramed(f *testing.F) {
	f.Add([]byte("some bytes that are no cell at all"), uint64(7), 16)
	f.Add([]byte{}, uint64(0), 64)
	f.Fuzz(func(t *testing.T, framed []byte, first uint64, cellBytes int) {
		err := NewSeed(shardID(1)).VerifyFramed(framed, first, min(cellBytes, 1<<30))
		if err == nil && len(framed) > 0 {
			// Only a run that was framed for this shard and place verifies.
			n := min(cellBytes, len(framed)-ChecksumBytes)
			if naive(shardID(1), first, framed[:n]) != binary.LittleEndian.Uint64(framed[n:]) {
				t.Fatalf("%d bytes verify", len(framed))
			}
		}
	})
}

// TestAddAllocatesNothing cannot run in parallel: the counter is that of the
// process.
func TestAddAllocatesNothing(t *testing.T) {
	cell := pattern(1, 65536)
	c := NewCells(shardID(1))
	var number uint64
	if n := testing.AllocsPerRun(20, func() { c.Add(number, cell); number++ }); n > 0 {
		t.Errorf("Add allocates %v times", n)
	}
}

func BenchmarkCell(b *testing.B) {
	cell := pattern(1, 65536)
	c := NewCells(shardID(1))
	b.SetBytes(65536)
	b.ReportAllocs()
	var number uint64
	for b.Loop() {
		c.Add(number, cell)
		number++
	}
}
