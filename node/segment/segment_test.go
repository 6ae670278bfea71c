package segment_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/erasure"
	"github.com/ruche-storage/ruche/erasure/shardhash"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node/segment"
)

var rewrite = flag.Bool("rewrite", false, "write the golden file anew")

// shard returns a record and its framed cells. Two sums stand for a 1+1 chunk.
func shard(rng *rand.Rand, chunkBytes int) (metadata.Record, []byte, segment.Footer) {
	rec := metadata.Record{
		Type: metadata.RecordShard, Scheme: metadata.NewScheme(1, 1), PG: 0x01020304, Generation: 5, ChunkNo: 6,
		Epoch: 0x0708, Policy: 9, Part: metadata.PartID{0xa0}, Bucket: metadata.BucketID{0xb0}, Account: metadata.AccountID{0xc0},
		Shard: metadata.ShardID{Chunk: metadata.ChunkID{0xd0, byte(rng.Uint32())}, Index: 1},
	}
	cells := shardhash.NewCells(rec.Shard.Bytes())
	var framed []byte
	for number := 0; chunkBytes > number*metadata.CellBytes; number++ {
		n := min(chunkBytes-number*metadata.CellBytes, metadata.CellBytes)
		frame := make([]byte, (n+63)/64*64+shardhash.ChecksumBytes)
		for i := range n {
			frame[i] = byte(rng.Uint32())
		}
		cells.Frame(uint64(number), frame)
		framed = append(framed, frame...)
	}
	own := metadata.Sum(cells.Sum())
	return rec, framed, segment.Footer{
		Type: rec.Type, Body: int64(len(framed)), ChunkBytes: int64(chunkBytes), Own: own, Sums: []metadata.Sum{{0xee}, own},
	}
}

// record returns an encoded record of a shared segment, or of an own file.
func record(id segment.ID, at int64, rec metadata.Record, body []byte, f segment.Footer, own bool) []byte {
	h := segment.Header{Segment: id, Offset: at, Body: int64(len(body)), Born: 0x1122, Record: rec}
	if own {
		h.Body = segment.BodyUnknown
	}
	buf := segment.AppendHeader(nil, &h)
	header := len(buf)
	f.Header = header
	buf = segment.AppendFooter(append(buf, body...), buf[:header], &f)
	for !own && len(buf)%segment.Align != 0 {
		buf = append(buf, 0)
	}
	return buf
}

func payload(typ metadata.RecordType, body []byte) (metadata.Record, segment.Footer) {
	rec := metadata.Record{Type: typ, Shard: metadata.ShardID{Chunk: metadata.ChunkID{0xf0, byte(typ)}}}
	return rec, segment.Footer{Type: typ, Body: int64(len(body)), ChunkBytes: int64(len(body)), Own: sha256.Sum256(body)}
}

// shared returns a sealed segment of some records, and its entries.
func shared(rng *rand.Rand, id segment.ID, sizes ...int) ([]byte, []segment.Entry) {
	var file []byte
	var entries []segment.Entry
	add := func(rec metadata.Record, body []byte, f segment.Footer) {
		at := int64(len(file))
		one := record(id, at, rec, body, f, false)
		file = append(file, one...)
		n, _ := segment.HeaderBytes(one)
		entries = append(entries, segment.Entry{
			Offset: at, Bytes: int64(len(one)), HeaderBytes: n, Body: f.Body, ChunkBytes: f.ChunkBytes, Born: 0x1122, Record: rec,
		})
	}
	for _, size := range sizes {
		add(shard(rng, size))
	}
	rec, f := payload(metadata.RecordManifest, []byte("a manifest"))
	add(rec, []byte("a manifest"), f)
	body := segment.AppendSeal(nil, slices.Clone(entries))
	rec, f = payload(segment.TypeSeal, body)
	one := record(id, int64(len(file)), rec, body, f, false)
	return append(file, bytes.TrimRight(one, "\x00")...), entries
}

// TestGolden pins the stored format: what version 1 writes, and that it is
// read as what it was.
func TestGolden(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	id := segment.ID{7: 3, 8: 0xfe, 15: 0xff}
	rec, framed, f := shard(rng, 100)
	own := record(id, 0, rec, framed, f, true)
	file, entries := shared(rng, id, 0, 130)
	got := fmt.Sprintf("own file\n%s\nshared segment\n%s\n", dump(own), dump(file))
	const name = "testdata/golden-1.txt"
	if *rewrite {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("stored format changed (-want +got):\n%s", diff)
	}

	parts := strings.Split(string(want), "shared segment\n")
	checkOwn(t, undump(t, parts[0]), id, rec, f)
	checkShared(t, undump(t, parts[1]), id, entries)
}

func checkOwn(t *testing.T, file []byte, id segment.ID, rec metadata.Record, f segment.Footer) {
	t.Helper()
	h, header, footer, err := segment.ReadLast(bytes.NewReader(file), id, int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	if h.Record != rec || h.Body != segment.BodyUnknown || h.Offset != 0 || h.Born != 0x1122 {
		t.Errorf("header of the own file = %+v", h)
	}
	f.Header = len(header)
	if diff := cmp.Diff(&f, footer); diff != "" {
		t.Errorf("footer of the own file (-want +got):\n%s", diff)
	}
	if err := segment.VerifyBody(bytes.NewReader(file), int64(len(header)), &h.Record, footer, nil); err != nil {
		t.Errorf("body of the own file: %v", err)
	}
}

func checkShared(t *testing.T, file []byte, id segment.ID, entries []segment.Entry) {
	t.Helper()
	r := bytes.NewReader(file)
	h, header, footer, err := segment.ReadLast(r, id, r.Size())
	if err != nil {
		t.Fatal(err)
	}
	if h.Record.Type != segment.TypeSeal {
		t.Fatalf("last record has type %d", h.Record.Type)
	}
	at := h.Offset + int64(len(header))
	sealed, err := segment.ParseSeal(file[at : at+footer.Body])
	if err != nil {
		t.Fatal(err)
	}
	byOffset := func(a, b segment.Entry) int { return int(a.Offset - b.Offset) }
	slices.SortFunc(sealed, byOffset)
	if diff := cmp.Diff(entries, sealed); diff != "" {
		t.Errorf("entries of the seal (-want +got):\n%s", diff)
	}
	var scanned []segment.Entry
	stats, err := segment.Scan(r, id, r.Size(), func(e segment.Entry, _ *segment.Footer) error {
		scanned = append(scanned, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := (segment.ScanStats{Records: len(entries) + 1}); stats != want {
		t.Errorf("scan = %+v, want %+v", stats, want)
	}
	if diff := cmp.Diff(entries, scanned[:len(scanned)-1]); diff != "" {
		t.Errorf("entries of the scan (-want +got):\n%s", diff)
	}
}

func dump(b []byte) string {
	var out strings.Builder
	for line := range slices.Chunk(b, 32) {
		fmt.Fprintln(&out, hex.EncodeToString(line))
	}
	return out.String()
}

func undump(t *testing.T, text string) []byte {
	t.Helper()
	var b []byte
	for line := range strings.Lines(text) {
		one, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			continue // a heading
		}
		b = append(b, one...)
	}
	return b
}

// TestScanBehindDamage flips every byte of a segment, one at a time: the scan
// loses the record that holds it and no other, never takes a bad one for a sound
// one, and tells of it as damaged if its header is sound.
func TestScanBehindDamage(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	id := segment.ID{1, 2, 3}
	file, entries := shared(rng, id, 10, 0, 700, 64)
	for i := range file {
		file[i] ^= 0x40
		found, damaged := map[int64]bool{}, map[int64]segment.Entry{}
		stats, err := segment.Scan(bytes.NewReader(file), id, int64(len(file)), func(e segment.Entry, f *segment.Footer) error {
			if f == nil {
				damaged[e.Offset] = e
			} else {
				found[e.Offset] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			length := int64(e.HeaderBytes) + e.Body + int64(segment.FooterBytes(2))
			if e.Record.Type != metadata.RecordShard {
				length = int64(e.HeaderBytes) + e.Body + int64(segment.FooterBytes(0))
			}
			hit := int64(i) >= e.Offset && int64(i) < e.Offset+length
			if found[e.Offset] == hit {
				t.Fatalf("byte %d flipped: record at %d found is %t", i, e.Offset, found[e.Offset])
			}
			header, footer := e.Offset+int64(e.HeaderBytes), e.Offset+int64(e.HeaderBytes)+e.Body
			if !hit || int64(i) < header {
				if _, ok := damaged[e.Offset]; ok {
					t.Fatalf("byte %d flipped: record at %d visited as damaged", i, e.Offset)
				}
				continue
			}
			want := e
			if want.Damaged = int64(i) >= footer; want.Damaged {
				want.ChunkBytes = 0 // the footer has it
			}
			if diff := cmp.Diff(want, damaged[e.Offset]); diff != "" || stats.Damaged != 1 {
				t.Fatalf("byte %d flipped: damaged record (-want +got), of %d:\n%s", i, stats.Damaged, diff)
			}
		}
		file[i] ^= 0x40
	}
}

// TestScanLostEnd cuts a segment short and voids a footer in its middle: a
// damaged record reaches to the next header, or the end of the file.
func TestScanLostEnd(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(13, 14))
	id := segment.ID{4}
	file, entries := shared(rng, id, 700, 900)
	last := entries[1]
	file = file[:last.Offset+300]
	clear(file[int64(entries[0].HeaderBytes)+entries[0].Body : last.Offset])
	var got []segment.Entry
	stats, err := segment.Scan(bytes.NewReader(file), id, int64(len(file)), func(e segment.Entry, f *segment.Footer) error {
		if f != nil {
			t.Errorf("record at %d is sound", e.Offset)
		}
		got = append(got, e)
		return nil
	})
	if err != nil || stats.Damaged != 2 || len(got) != 2 {
		t.Fatalf("scan visited %d records, %+v, %v", len(got), stats, err)
	}
	if got[0].Bytes != last.Offset || got[1].Bytes != 300 || !got[0].Damaged || !got[1].Damaged {
		t.Errorf("damaged records of %d and %d bytes, want %d and 300", got[0].Bytes, got[1].Bytes, last.Offset)
	}
}

// TestScanNewerFormat counts a record of a newer format at its place, and takes
// bytes that only look like one for what they are.
func TestScanNewerFormat(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(15, 16))
	id := segment.ID{5}
	for name, c := range map[string]struct {
		place segment.ID
		want  segment.ScanStats
	}{
		"its place": {id, segment.ScanStats{Records: 2, Incompatible: 1}},
		"another":   {segment.ID{6}, segment.ScanStats{Records: 2}},
	} {
		rec, framed, f := shard(rng, 64)
		first := record(id, 0, rec, framed, f, false)
		at := int64(len(first))
		newer := record(c.place, at, rec, framed, f, false)
		newer[4]++ // format
		segment.PatchHeader(newer, c.place, at, int64(len(framed)))
		file := slices.Concat(first, newer, record(id, 2*at, rec, framed, f, false))
		stats, err := segment.Scan(bytes.NewReader(file), id, int64(len(file)), func(segment.Entry, *segment.Footer) error { return nil })
		stats.Skipped = 0
		if err != nil || stats != c.want {
			t.Errorf("%s: scan = %+v, %v; want %+v", name, stats, err, c.want)
		}
	}
}

// TestScanLostHeader counts headers that have rotted, of whatever bytes, and no
// freed records.
func TestScanLostHeader(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(17, 18))
	id := segment.ID{5}
	rec, framed, f := shard(rng, 64)
	length := int64(len(record(id, 0, rec, framed, f, false)))
	for name, c := range map[string]struct {
		rot  func(header []byte)
		lost int
	}{
		"magic": {func(h []byte) { h[0] ^= 1 }, 1},
		"field": {func(h []byte) { h[20] ^= 1 }, 1},
		"freed": {func(h []byte) { clear(h) }, 0},
	} {
		for no := range int64(3) {
			file := slices.Concat(record(id, 0, rec, framed, f, false), record(id, length, rec, framed, f, false), record(id, 2*length, rec, framed, f, false))
			c.rot(file[no*length:][:segment.Align])
			stats, err := segment.Scan(bytes.NewReader(file), id, int64(len(file)), func(segment.Entry, *segment.Footer) error { return nil })
			if err != nil || stats.Records != 2 || stats.Lost != c.lost || stats.Damaged != 0 {
				t.Errorf("%s of record %d: scan = %+v, %v", name, no, stats, err)
			}
		}
	}
}

// TestScanForeignRecords says that what a client stores never passes for a
// record, nor a record of another segment or place.
func TestScanForeignRecords(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(5, 6))
	id, other := segment.ID{1}, segment.ID{2}
	rec, framed, f := shard(rng, 64)
	inner := record(other, 128, rec, framed, f, false)
	wrong := record(id, 64, rec, framed, f, false) // belongs at 64
	file := slices.Concat(inner, wrong, record(id, int64(len(inner)+len(wrong)), rec, framed, f, false))
	var at []int64
	stats, err := segment.Scan(bytes.NewReader(file), id, int64(len(file)), func(e segment.Entry, _ *segment.Footer) error {
		at = append(at, e.Offset)
		return nil
	})
	if err != nil || !slices.Equal(at, []int64{int64(len(inner) + len(wrong))}) {
		t.Errorf("scan found %v, %v (%+v)", at, err, stats)
	}
}

// TestVerifyBytes flips bytes of bodies: they are judged the same in memory and
// in a file.
func TestVerifyBytes(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(17, 18))
	rec, framed, f := shard(rng, 70_000)
	manifest, mf := payload(metadata.RecordManifest, []byte("a manifest"))
	for _, c := range []struct {
		rec  metadata.Record
		f    segment.Footer
		body []byte
	}{{rec, f, framed}, {manifest, mf, []byte("a manifest")}} {
		for i := -1; i < len(c.body); i += 1 + len(c.body)/500 {
			body := slices.Clone(c.body)
			if i >= 0 {
				body[i] ^= 4
			}
			inFile := segment.VerifyBody(bytes.NewReader(body), 0, &c.rec, &c.f, nil)
			inMemory := segment.VerifyBytes(body, &c.rec, &c.f)
			if (inFile == nil) != (i < 0) || (inMemory == nil) != (i < 0) || i >= 0 && !errors.Is(inMemory, segment.ErrBad) {
				t.Fatalf("byte %d flipped: in a file %v, in memory %v", i, inFile, inMemory)
			}
		}
		if err := segment.VerifyBytes(c.body[:len(c.body)-1], &c.rec, &c.f); !errors.Is(err, segment.ErrBad) {
			t.Errorf("short body: %v, want %v", err, segment.ErrBad)
		}
	}
}

// TestRot damages own files and records in every way the reliability plan
// names; none passes.
func TestRot(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(7, 8))
	id := segment.ID{9}
	rec, framed, f := shard(rng, 70_000)
	file := record(id, 0, rec, framed, f, true)
	verify := func(file []byte) error {
		r := bytes.NewReader(file)
		h, header, footer, err := segment.ReadLast(r, id, r.Size())
		if err != nil {
			return err
		}
		return segment.VerifyBody(r, int64(len(header)), &h.Record, footer, make([]byte, 1<<17))
	}
	if err := verify(file); err != nil {
		t.Fatal(err)
	}
	check := func(what string, file []byte) {
		t.Helper()
		if err := verify(file); !errors.Is(err, metadata.ErrCorrupt) {
			t.Fatalf("%s: %v, want %v", what, err, metadata.ErrCorrupt)
		}
	}
	for range 2000 {
		at, bit := rng.IntN(len(file)), byte(1)<<rng.IntN(8)
		file[at] ^= bit
		check(fmt.Sprintf("bit %#x of byte %d flipped", bit, at), file)
		file[at] ^= bit
	}
	for at := 0; at+512 <= len(file); at += 512 {
		zeroed := bytes.Clone(file)
		clear(zeroed[at : at+512])
		if !bytes.Equal(zeroed, file) {
			check(fmt.Sprintf("sector at %d zeroed", at), zeroed)
		}
	}
	for _, n := range []int{1, 8, 64, 1000, len(file) - 1, len(file)} {
		check(fmt.Sprintf("%d bytes cut off", n), file[:len(file)-n])
	}
	check("a byte added", append(bytes.Clone(file), 0))
	// Cells of one shard swapped, with their checksums.
	swapped := bytes.Clone(file)
	header, _ := segment.HeaderBytes(file)
	copy(swapped[header+8:], file[header:header+64])
	check("bytes moved", swapped)
}

// TestFramedBytes compares the length of shards with the arithmetic of package
// erasure.
func TestFramedBytes(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(9, 9))
	for range 20_000 {
		k, m := 1+rng.IntN(12), rng.IntN(5)
		n := rng.Int64N(metadata.ChunkBytes + 1)
		if rng.IntN(2) == 0 {
			n = rng.Int64N(300_000)
		}
		l := erasure.Layout{Data: k, Parity: m, CellBytes: metadata.CellBytes, ChunkLength: n}
		if got, want := segment.FramedBytes(metadata.NewScheme(k, m), n), l.FramedLength(); got != want {
			t.Fatalf("FramedBytes(%d+%d, %d) = %d, want %d", k, m, n, got, want)
		}
	}
}

func TestUnknownFields(t *testing.T) {
	t.Parallel()
	h := segment.Header{Record: metadata.Record{Type: 1}, Unknown: []byte{0x7f, 3, 'a', 'b', 'c'}}
	got, _, err := segment.ParseHeader(segment.AppendHeader(nil, &h))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Unknown, h.Unknown) {
		t.Errorf("unknown fields = %x, want %x", got.Unknown, h.Unknown)
	}
	h.Unknown = []byte{0xff, 0}
	if _, _, err := segment.ParseHeader(segment.AppendHeader(nil, &h)); !errors.Is(err, segment.ErrIncompatible) || errors.Is(err, metadata.ErrCorrupt) {
		t.Errorf("header with an unknown incompatible field: %v, want %v alone", err, segment.ErrIncompatible)
	}
	newer := segment.AppendHeader(nil, &segment.Header{})
	newer[4] = 2
	segment.PatchHeader(newer, segment.ID{}, 0, 0)
	if _, _, err := segment.ParseHeader(newer); !errors.Is(err, segment.ErrIncompatible) {
		t.Errorf("header of format 2: %v, want %v", err, segment.ErrIncompatible)
	}
	if _, _, err := segment.ParseHeader(make([]byte, 256)); !errors.Is(err, segment.ErrVoid) {
		t.Errorf("zero header: %v, want %v", err, segment.ErrVoid)
	}
}

func FuzzParseHeader(f *testing.F) {
	rec, framed, footer := shard(rand.New(rand.NewPCG(1, 1)), 10)
	f.Add(record(segment.ID{1}, 64, rec, framed, footer, false)[:256])
	f.Add(segment.AppendHeader(nil, &segment.Header{Unknown: []byte{0x7f, 1, 2}}))
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := segment.HeaderBytes(b); err == nil && n <= len(b) {
			b = bytes.Clone(b)
			segment.PatchHeader(b, segment.ID{1}, 64, 100) // or no input gets past the checksum
		}
		h, n, err := segment.ParseHeader(b)
		if err != nil {
			return
		}
		again, _, err := segment.ParseHeader(segment.AppendHeader(nil, h))
		if err != nil {
			t.Fatalf("header of %d bytes encoded anew: %v", n, err)
		}
		if diff := cmp.Diff(h, again); diff != "" {
			t.Fatal(diff)
		}
		if err := segment.CheckHeader(b, h.Segment, h.Offset); err != nil {
			t.Fatalf("CheckHeader: %v", err)
		}
	})
}

func FuzzParseFooter(f *testing.F) {
	header := segment.AppendHeader(nil, &segment.Header{})
	_, _, footer := shard(rand.New(rand.NewPCG(1, 1)), 10)
	footer.Header = len(header)
	f.Add(segment.AppendFooter(nil, header, &footer))
	f.Add(segment.AppendFooter(nil, header, &segment.Footer{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= segment.FooterBytes(0) {
			b = bytes.Clone(b)
			segment.RebindFooter(b, header) // or no input gets past the checksum
		}
		got, err := segment.ParseFooter(b, header)
		if err == nil && !bytes.Equal(segment.AppendFooter(nil, header, got), b) {
			t.Fatalf("footer %+v is encoded otherwise", got)
		}
	})
}

func FuzzParseSeal(f *testing.F) {
	_, entries := shared(rand.New(rand.NewPCG(1, 1)), segment.ID{1}, 10, 20)
	f.Add(segment.AppendSeal(nil, entries))
	f.Add(segment.AppendSeal(nil, nil))
	f.Add([]byte{255, 255, 255, 255, 3, 1, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := segment.ParseSeal(b)
		if err != nil {
			return
		}
		again, err := segment.ParseSeal(segment.AppendSeal(nil, got))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzScan(f *testing.F) {
	id := segment.ID{1}
	file, _ := shared(rand.New(rand.NewPCG(1, 1)), id, 10, 0, 100)
	f.Add(file)
	f.Add(make([]byte, 200))
	f.Fuzz(func(t *testing.T, b []byte) {
		visited := int64(0)
		stats, err := segment.Scan(bytes.NewReader(b), id, int64(len(b)), func(e segment.Entry, f *segment.Footer) error {
			if e.Offset < visited {
				t.Fatalf("record at %d after one that ends at %d", e.Offset, visited)
			}
			visited = e.Offset + int64(e.HeaderBytes) + e.Body
			if e.Damaged {
				visited = e.Offset + e.Bytes
			}
			if f != nil && e.Damaged || e.Bytes < int64(e.HeaderBytes) {
				t.Fatalf("entry %+v with footer %v", e, f)
			}
			return nil
		})
		if err != nil || visited > int64(len(b)) {
			t.Fatalf("scan of %d bytes: %+v to %d, %v", len(b), stats, visited, err)
		}
		h, _, footer, err := segment.ReadLast(bytes.NewReader(b), id, int64(len(b)))
		if err == nil && h.Offset+footer.Body > int64(len(b)) {
			t.Fatalf("last record at %d with a body of %d in %d bytes", h.Offset, footer.Body, len(b))
		}
	})
}
