package object

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"slices"
	"testing"

	"github.com/ruche-storage/ruche/metadata"
)

// boundaries are lengths around everything that is cut somewhere.
func boundaries(s metadata.Scheme) []int {
	k := int(s.Data)
	around := []int{64, 16<<10 - 16, 16 << 10, 65520, 65536, 2 * 65520, k * 65520, k * 65536, (k + 1) * 65520, 3 * k * 65520, 1 << 20}
	sizes := []int{0, 1, 63, 65}
	for _, n := range around {
		sizes = append(sizes, n-1, n, n+1)
	}
	slices.Sort(sizes)
	return slices.Compact(sizes)
}

func TestPutAndGet(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		scheme     metadata.Scheme
		encryption bool
	}{
		{"4+2 sealed", metadata.NewScheme(4, 2), true},
		{"4+2 plain", metadata.NewScheme(4, 2), false},
		{"1+0 sealed", metadata.NewScheme(1, 0), true},
		{"1+1 plain", metadata.NewScheme(1, 1), false},
		{"3+2 sealed", metadata.NewScheme(3, 2), true},
		{"8+4 sealed", metadata.NewScheme(8, 4), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{scheme: test.scheme, options: func(o *Options) { o.Encryption = test.encryption }})
			for _, n := range boundaries(test.scheme) {
				body := payload(n, 1)
				key := fmt.Sprintf("object/%d", n)
				r := w.mustPut(key, body)
				if sum := md5.Sum(body); r.ETag != hex.EncodeToString(sum[:]) {
					t.Errorf("ETag of %d bytes is %s", n, r.ETag)
				}
				w.expect(key, body)
			}
			usage, err := w.Usage(t.Context(), "b")
			if err != nil || usage.Objects != int64(len(boundaries(test.scheme))) {
				t.Errorf("Usage = %+v, %v", usage, err)
			}
			if s := w.State(); s.ShortWrites != 0 || s.DegradedRuns != 0 || s.DamageDepth != 0 {
				t.Errorf("without faults: %+v", s)
			}
		})
	}
}

// TestSeveralChunks writes what takes more than one chunk, to within a byte.
func TestSeveralChunks(t *testing.T) {
	if testing.Short() {
		t.Skip("130 MiB")
	}
	t.Parallel()
	w := newWorld(t, setup{})
	chunk := metadata.ChunkSegments * 65520
	body := payload(130<<20, 3)
	for _, n := range []int{chunk - 1, chunk, chunk + 1, len(body)} {
		w.mustPut("big", body[:n])
		w.expect("big", body[:n])
		for _, at := range []int{0, chunk - 70000, chunk - 2} {
			if at+3 > n {
				continue
			}
			to := min(n, at+140000) - 1
			got, err := w.read("big", Range{Kind: RangeFromTo, First: int64(at), Last: int64(to)})
			if err != nil || !bytes.Equal(got, body[at:to+1]) {
				t.Fatalf("range %d-%d of %d: %d bytes, %v", at, to, n, len(got), err)
			}
		}
	}
}

// TestMixedSchemes writes chunks of one part into groups of different schemes,
// as they are while a cluster grows.
func TestMixedSchemes(t *testing.T) {
	if testing.Short() {
		t.Skip("65 MiB")
	}
	t.Parallel()
	w := newWorld(t, setup{groups: 2})
	table, err := w.meta.PGs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	table.Version++
	narrow := &table.Groups[0]
	narrow.Scheme = metadata.NewScheme(2, 1)
	narrow.Generations[0].Members = narrow.Generations[0].Members[:3]
	cmd := &metadata.Command{Kind: metadata.KindPushPGs, Version: 1, Request: metadata.RequestID{78}, PGs: table}
	if _, err := w.meta.Metadata.Commit(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	check(t, w.ReloadTopology(t.Context()))
	body := payload(metadata.ChunkSegments*65520+100_000, 1)
	groups := make(map[uint32]bool)
	for try := 0; try < 16 && !groups[0<<1|1]; try++ { // until the wider one came second
		w.mustPut("object", body)
		b, err := w.bucket(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		o, err := w.meta.Open(t.Context(), b.ref(), "object", "")
		if err != nil || len(o.Chunks) != 2 {
			t.Fatal(len(o.Chunks), err)
		}
		groups[o.Chunks[0].PG<<1|o.Chunks[1].PG] = true
	}
	w.expect("object", body)
}

// TestRanges compares ranges with the bytes they should be.
func TestRanges(t *testing.T) {
	t.Parallel()
	for _, compression := range []metadata.Compression{metadata.CompressionOff, metadata.CompressionZstd, metadata.CompressionS2} {
		w := newWorld(t, setup{})
		if err := w.SetCompression(t.Context(), "b", compression); err != nil {
			t.Fatal(err)
		}
		r := mathrand.New(mathrand.NewPCG(uint64(compression), 5))
		for _, n := range []int{1, 100, 65519, 65521, 200_000, 4 * 65520, 3_000_000} {
			body := text(n)
			if compression == metadata.CompressionOff {
				body = payload(n, 2)
			}
			w.mustPut("object", body)
			w.expect("object", body)
			for range 40 {
				first := r.IntN(n)
				last := first + r.IntN(n-first)
				if r.IntN(2) == 0 {
					last = min(n-1, first+r.IntN(200))
				}
				got, err := w.read("object", Range{Kind: RangeFromTo, First: int64(first), Last: int64(last)})
				if err != nil || !bytes.Equal(got, body[first:last+1]) {
					t.Fatalf("compression %d: bytes %d-%d of %d: got %d bytes, %v", compression, first, last, n, len(got), err)
				}
			}
		}
	}
}

func TestResolveRange(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		r       Range
		bytes   int64
		off, n  int64
		partial bool
		err     error
	}{
		{Range{}, 10, 0, 10, false, nil},
		{Range{Kind: RangeFromTo, First: 2, Last: 3}, 10, 2, 2, true, nil},
		{Range{Kind: RangeFromTo, First: 2, Last: 99}, 10, 2, 8, true, nil},
		{Range{Kind: RangeFromTo, First: 10, Last: 99}, 10, 0, 0, false, ErrInvalidRange},
		{Range{Kind: RangeFromTo, First: 0, Last: 0}, 0, 0, 0, false, ErrInvalidRange},
		{Range{Kind: RangeFrom, First: 9}, 10, 9, 1, true, nil},
		{Range{Kind: RangeFrom, First: 10}, 10, 0, 0, false, ErrInvalidRange},
		{Range{Kind: RangeSuffix, Suffix: 4}, 10, 6, 4, true, nil},
		{Range{Kind: RangeSuffix, Suffix: 40}, 10, 0, 10, true, nil},
		{Range{Kind: RangeSuffix, Suffix: 4}, 0, 0, 0, false, nil},
		{Range{Kind: RangeSuffix}, 10, 0, 0, false, ErrInvalidRange},
	} {
		off, n, partial, err := test.r.resolve(test.bytes)
		if off != test.off || n != test.n || partial != test.partial || !errors.Is(err, test.err) {
			t.Errorf("%+v of %d = %d, %d, %t, %v", test.r, test.bytes, off, n, partial, err)
		}
	}
}

// TestReadStyles reads by Read in odd portions, as a copy does.
func TestReadStyles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	body := payload(1_000_003, 4)
	w.mustPut("object", body)
	o, err := w.Get(t.Context(), &GetRequest{Bucket: "b", Key: "object"})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var got []byte
	portion := make([]byte, 70_001)
	for {
		n, err := o.Read(portion[:1+len(got)%len(portion)])
		got = append(got, portion[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, body) {
		t.Error("Read yields other bytes")
	}
}

// manyChunks answers for the chunk rows of one long part.
type manyChunks struct {
	Metadata
	rows  []metadata.Chunk
	asked int
}

func (m *manyChunks) Chunks(_ context.Context, _ metadata.BucketRef, _ metadata.PartID, from uint32, limit int) ([]metadata.Chunk, error) {
	m.asked++
	return slices.Clone(m.rows[from:min(len(m.rows), int(from)+limit)]), nil
}

// TestChunkRows walks the rows of a part of 80 chunks, and refuses rows that
// do not add up.
func TestChunkRows(t *testing.T) {
	t.Parallel()
	m := &manyChunks{}
	const chunks, rest = 80, 1000
	for no := range uint32(chunks) {
		m.rows = append(m.rows, metadata.Chunk{No: no, ID: metadata.ChunkID{byte(no)}, Scheme: metadata.NewScheme(4, 2), Bytes: metadata.ChunkBytes})
	}
	m.rows[chunks-1].Bytes = rest
	part := &metadata.Part{SealedBytes: (chunks-1)*metadata.ChunkBytes + rest}
	r := &sealedReader{e: &Engine{meta: m}, ctx: t.Context(), bucket: &bucket{}, part: part, chunks: slices.Clone(m.rows[:16])}
	for _, no := range []uint32{0, 15, 16, 79, 3, 79} {
		c, err := r.chunk(no)
		if err != nil || c.ID != m.rows[no].ID {
			t.Errorf("chunk %d: %+v, %v", no, c, err)
		}
	}
	for name, spoil := range map[string]func(c *metadata.Chunk){
		"shorter":  func(c *metadata.Chunk) { c.Bytes-- },
		"missing":  func(c *metadata.Chunk) { c.No += 1000 },
		"scheme":   func(c *metadata.Chunk) { c.Scheme.Data = 0 },
		"cells":    func(c *metadata.Chunk) { c.Scheme.CellLog2 = 12 },
		"too long": func(c *metadata.Chunk) { c.Bytes = metadata.ChunkBytes + 1 },
	} {
		rows := slices.Clone(m.rows)
		spoil(&rows[20])
		r := &sealedReader{e: &Engine{meta: &manyChunks{rows: rows}}, ctx: t.Context(), bucket: &bucket{}, part: part}
		if _, err := r.chunk(20); !errors.Is(err, ErrDamaged) {
			t.Errorf("a row that is %s: %v", name, err)
		}
	}
}

// FuzzRange reads any range of objects that take one stripe, several, and
// several parts.
func FuzzRange(f *testing.F) {
	w := newWorld(f, setup{})
	bodies := map[string][]byte{"one": payload(150_000, 1), "several": payload(1_500_000, 2), "compressed": text(2_500_000)}
	for key, body := range bodies {
		compression := metadata.CompressionOff
		if key == "compressed" {
			compression = metadata.CompressionS2
		}
		check(f, w.SetCompression(f.Context(), "b", compression))
		w.mustPut(key, body)
	}
	f.Add(uint32(0), uint32(0), uint8(0))
	f.Add(uint32(65519), uint32(3), uint8(1))
	f.Add(uint32(1_048_575), uint32(70_000), uint8(2))
	f.Fuzz(func(t *testing.T, first, length uint32, which uint8) {
		key := []string{"one", "several", "compressed"}[which%3]
		body := bodies[key]
		from := int(first) % len(body)
		to := min(len(body), from+1+int(length)%len(body))
		mine := *w
		mine.t = t
		got, err := mine.read(key, Range{Kind: RangeFromTo, First: int64(from), Last: int64(to - 1)})
		if err != nil || !bytes.Equal(got, body[from:to]) {
			t.Fatalf("%s: bytes %d to %d: %d bytes, %v", key, from, to, len(got), err)
		}
	})
}
