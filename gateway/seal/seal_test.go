package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/ruche-storage/ruche/metadata"
)

// testKey returns a key and a part id that are pinned for a number.
func testKey(n byte) (key Key, part metadata.PartID) {
	for i := range key {
		key[i] = byte(i)*3 + n
	}
	for i := range part {
		part[i] = byte(i)*5 + n
	}
	return key, part
}

// pattern returns bytes that do not compress.
func pattern(n int) []byte {
	b := make([]byte, n)
	seed := [32]byte{1}
	rand.NewChaCha8(seed).Read(b)
	return b
}

// text returns bytes that do.
func text(n int) []byte {
	b := make([]byte, 0, n+64)
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, "line %d: the bees are well\n", i*i)
	}
	return b[:n]
}

// sealAll seals a body and returns its segments joined, as [Codecs.Open] reads
// them.
func sealAll(t *testing.T, o Options, r io.Reader) ([]byte, Part) {
	t.Helper()
	s := NewSource(o, r)
	defer s.Close()
	var all []byte
	buf := make([]byte, SegmentBytes)
	for {
		n, last, err := s.Next(buf)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, buf[:n]...)
		if !last && n != SegmentBytes {
			t.Fatalf("segment of %d bytes is not the last", n)
		}
		if last {
			break
		}
	}
	if _, _, err := s.Next(buf); err != io.EOF {
		t.Fatalf("Next after the last = %v", err)
	}
	res := s.Result()
	if res.SealedBytes != int64(len(all)) {
		t.Fatalf("result says %d sealed bytes, there are %d", res.SealedBytes, len(all))
	}
	return all, Part{Format: o.Format, Key: o.Key, ID: o.Part, Compression: res.Compression,
		Bytes: res.Bytes, SealedBytes: res.SealedBytes, IndexBytes: res.IndexBytes}
}

// fetcher serves ranges of sealed bytes and counts what is asked and closed.
type fetcher struct {
	sealed       []byte
	asked        int64
	opened, left int
}

func (f *fetcher) fetch(off, n int64) (io.ReadCloser, error) {
	f.asked += n
	f.opened++
	f.left++
	return struct {
		io.Reader
		io.Closer
	}{bytes.NewReader(f.sealed[off : off+n]), f}, nil
}

func (f *fetcher) Close() error { f.left--; return nil }

func readRange(c *Codecs, p Part, f *fetcher, off, n int64) ([]byte, error) {
	r, err := c.Open(p, off, n, f.fetch)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	if err := r.Close(); err != nil {
		return nil, err
	}
	return b, err
}

var lengths = []int{0, 1, 15, 16, 17, 65519, 65520, 65521, 65535, 65536, 65537, 131039, 131040, 131041, 131072, 300_001}

// TestRoundTrip seals bodies of every interesting length, with the length
// known and not, through readers that return little, and reads ranges back.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	readers := map[string]func(io.Reader) io.Reader{
		"plain": func(r io.Reader) io.Reader { return r }, "half": iotest.HalfReader, "data with error": iotest.DataErrReader,
	}
	for _, format := range []Format{FormatPlain, FormatSealed} {
		for _, length := range lengths {
			key, part := testKey(byte(length))
			plain := pattern(length)
			for name, wrap := range readers {
				for _, known := range []int64{int64(length), -1} {
					o := Options{Format: format, Key: key, Part: part, Length: known}
					sealed, p := sealAll(t, o, wrap(bytes.NewReader(plain)))
					if int64(len(sealed)) != format.SealedLength(int64(length)) || p.Bytes != int64(length) {
						t.Fatalf("format %d, %d bytes (%s): sealed to %d", format, length, name, len(sealed))
					}
					checkRanges(t, NewCodecs(), p, sealed, plain, 4)
				}
			}
		}
	}
}

// checkRanges reads the whole and random ranges.
func checkRanges(t *testing.T, c *Codecs, p Part, sealed, plain []byte, ranges int) {
	t.Helper()
	random := rand.New(rand.NewPCG(uint64(len(plain)), 1))
	for i := range ranges + 1 {
		off, n := int64(0), int64(len(plain))
		if i > 0 {
			off = random.Int64N(n + 1)
			n = random.Int64N(n - off + 1)
		}
		f := &fetcher{sealed: sealed}
		got, err := readRange(c, p, f, off, n)
		if err != nil || !bytes.Equal(got, plain[off:off+n]) {
			t.Fatalf("%+v: range %d+%d: %d bytes, %v", p.ID, off, n, len(got), err)
		}
		if f.left != 0 {
			t.Fatalf("%d of %d readers left open", f.left, f.opened)
		}
		if p.Compression == metadata.CompressionOff && f.asked > n+2*SegmentBytes {
			t.Fatalf("range of %d bytes read %d", n, f.asked)
		}
	}
}

// TestSegmentFormat seals with the standard library by the words of FORMAT.md.
func TestSegmentFormat(t *testing.T) {
	t.Parallel()
	key, part := testKey(9)
	plain := pattern(2*65520 + 5)
	sealed, _ := sealAll(t, Options{Format: FormatSealed, Key: key, Part: part, Length: -1}, bytes.NewReader(plain))
	block, _ := aes.NewCipher(key[:])
	aead, _ := cipher.NewGCM(block)
	var want []byte
	for i, cut := range [][2]int{{0, 65520}, {65520, 131040}, {131040, 131045}} {
		nonce := make([]byte, 12)
		nonce[10] = byte(i) // 88-bit big-endian counter
		if i == 2 {
			nonce[11] = 1 // last
		}
		additional := append([]byte{1}, part[:]...) // version, part id
		additional = append(additional, 0)          // compression
		want = aead.Seal(want, nonce, plain[cut[0]:cut[1]], additional)
	}
	if !bytes.Equal(sealed, want) {
		t.Error("segments are not what FORMAT.md says")
	}
}

// TestRangeArithmetic compares Range with a walk over the segments.
func TestRangeArithmetic(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(11, 12))
	for range 3000 {
		format := Format(1 + random.IntN(2))
		plain := int64(random.IntN(5 * SegmentBytes))
		sealed := format.SealedLength(plain)
		if back, err := format.PlainLength(sealed); back != plain || err != nil {
			t.Fatalf("format %d: %d seals to %d, which holds %d, %v", format, plain, sealed, back, err)
		}
		off := random.Int64N(plain + 1)
		n := random.Int64N(plain - off + 1)
		got, err := format.Range(sealed, off, n)
		if err != nil {
			t.Fatal(err)
		}
		var want Range
		var start, at int64 // of the segment: plain and sealed
		for i := uint64(0); at < sealed; i++ {
			length := min(SegmentBytes, sealed-at)
			end := start + length - int64(format.Overhead())
			touched := off < end && off+n > start && n > 0 || plain == 0
			if touched {
				if want.Count == 0 {
					want = Range{First: i, Offset: at, Skip: int(off - start), Length: n}
				}
				want.Count++
				want.Sealed += length
				want.Final = at+length == sealed
			}
			start, at = end, at+length
		}
		if got != want {
			t.Fatalf("format %d, %d bytes, range %d+%d = %+v, want %+v", format, plain, off, n, got, want)
		}
	}
}

func TestImpossibleLengths(t *testing.T) {
	t.Parallel()
	for _, sealed := range []int64{-1, 0, 1, 15, 65536 + 1, 65536 + 15, 65536 + 16, 2*65536 + 16} {
		if plain, err := FormatSealed.PlainLength(sealed); !errors.Is(err, ErrLength) {
			t.Errorf("PlainLength(%d) = %d, %v", sealed, plain, err)
		}
		if _, err := FormatSealed.Range(sealed, 0, 0); !errors.Is(err, ErrLength) {
			t.Errorf("Range of %d: %v", sealed, err)
		}
	}
	for _, r := range [][2]int64{{-1, 1}, {0, 101}, {100, 1}, {101, 0}, {1, 1<<63 - 1}, {0, -1}} {
		if _, err := FormatSealed.Range(116, r[0], r[1]); !errors.Is(err, ErrLength) {
			t.Errorf("Range %v of 100 bytes: %v", r, err)
		}
	}
}

// TestTampering changes the sealed bytes in every way a drive could; no byte
// of the wrong may be read, whatever range is asked for.
func TestTampering(t *testing.T) {
	t.Parallel()
	key, part := testKey(1)
	o := Options{Format: FormatSealed, Key: key, Part: part, Length: -1}
	plain := pattern(3 * 65520)
	sealed, p := sealAll(t, o, bytes.NewReader(plain))
	const s = SegmentBytes
	join := func(segments ...[]byte) []byte { return bytes.Join(segments, nil) }
	a, b, c := sealed[:s], sealed[s:2*s], sealed[2*s:]
	otherPart := o
	otherPart.Part[3] ^= 1
	other, _ := sealAll(t, otherPart, bytes.NewReader(plain))
	for name, wrong := range map[string][]byte{
		"cut after two segments": join(a, b), "cut after one": a, "reordered": join(b, a, c), "duplicated": join(a, a, c),
		"longer": join(a, b, b, c), "last in the middle": join(a, c, b), "another part": other, "one of another part": join(a, other[s:2*s], c),
	} {
		q := p
		q.SealedBytes = int64(len(wrong))
		q.Bytes, _ = q.Format.PlainLength(q.SealedBytes)
		if got, err := readRange(nil, q, &fetcher{sealed: wrong}, 0, q.Bytes); !errors.Is(err, ErrOpen) || !bytes.HasPrefix(plain, got) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for _, change := range []func(*Part){
		func(p *Part) { p.Key[0] ^= 1 }, func(p *Part) { p.ID[15] ^= 1 },
	} {
		q := p
		change(&q)
		if got, err := readRange(nil, q, &fetcher{sealed: sealed}, 65520, 10); !errors.Is(err, ErrOpen) || len(got) > 0 {
			t.Errorf("opened under another key or part: %d bytes, %v", len(got), err)
		}
	}
	opener := NewOpener(FormatSealed, key, part, metadata.CompressionZstd)
	if _, err := opener.Open(nil, a, 0, false); !errors.Is(err, ErrOpen) {
		t.Errorf("opened with another compression: %v", err)
	}
}

// TestEveryBit flips each bit of a short part.
func TestEveryBit(t *testing.T) {
	t.Parallel()
	key, part := testKey(2)
	sealed, p := sealAll(t, Options{Format: FormatSealed, Key: key, Part: part, Length: 40}, bytes.NewReader(pattern(40)))
	for bit := range 8 * len(sealed) {
		sealed[bit/8] ^= 1 << (bit % 8)
		if got, err := readRange(nil, p, &fetcher{sealed: sealed}, 0, 40); !errors.Is(err, ErrOpen) || len(got) > 0 {
			t.Fatalf("bit %d flipped: %d bytes, %v", bit, len(got), err)
		}
		sealed[bit/8] ^= 1 << (bit % 8)
	}
}

func TestBodyErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	key, part := testKey(3)
	codecs := NewCodecs()
	for _, by := range []metadata.Compression{metadata.CompressionOff, metadata.CompressionZstd} {
		for _, format := range []Format{FormatPlain, FormatSealed} {
			for _, length := range []int{0, 10, 65520, 65536, 3 << 20} {
				for _, known := range []int64{-1, int64(length) + 1} {
					o := Options{Format: format, Key: key, Part: part, Compression: by, Length: known, Codecs: codecs}
					for _, want := range []error{broken, io.ErrUnexpectedEOF} {
						body := io.MultiReader(bytes.NewReader(text(length)), iotest.ErrReader(want))
						if got := drain(o, body); got != want {
							t.Errorf("compression %d, %d bytes, then %v: Next = %v", by, length, want, got)
						}
					}
					if known < 0 {
						continue
					}
					if got := drain(o, bytes.NewReader(text(length))); got != io.ErrUnexpectedEOF {
						t.Errorf("body shorter than declared: Next = %v", got)
					}
					o.Length = int64(length)
					r := bytes.NewReader(text(length + 10))
					if got := drain(o, r); got != io.EOF || r.Len() != 10 {
						t.Errorf("body longer than declared: Next = %v, %d bytes left of 10", got, r.Len())
					}
				}
			}
		}
	}
	if got := drain(Options{Format: FormatSealed, Length: -1}, idle{}); got != io.ErrNoProgress {
		t.Errorf("a reader that returns nothing: %v", got)
	}
}

type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

// drain returns what ends a Source.
func drain(o Options, body io.Reader) error {
	s := NewSource(o, body)
	defer s.Close()
	_, err := io.Copy(io.Discard, struct{ io.Reader }{s.NewReader(nil)})
	if err == nil {
		return io.EOF
	}
	return err
}

func TestSourceReader(t *testing.T) {
	t.Parallel()
	key, part := testKey(5)
	o := Options{Format: FormatSealed, Key: key, Part: part, Length: -1}
	plain := pattern(200_000)
	want, _ := sealAll(t, o, bytes.NewReader(plain))
	s := NewSource(o, bytes.NewReader(plain))
	if err := iotest.TestReader(s.NewReader(nil), want); err != nil {
		t.Error(err)
	}
	s.Close()
	if _, _, err := s.Next(make([]byte, SegmentBytes)); err == nil {
		t.Error("Next after Close succeeds")
	}
}

func TestReader(t *testing.T) {
	t.Parallel()
	key, part := testKey(6)
	plain := pattern(200_000)
	sealed, _ := sealAll(t, Options{Format: FormatSealed, Key: key, Part: part, Length: -1}, bytes.NewReader(plain))
	r, err := FormatSealed.Range(int64(len(sealed)), 70_000, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	under := bytes.NewReader(sealed[r.Offset:])
	opener := NewOpener(FormatSealed, key, part, metadata.CompressionOff)
	if err := iotest.TestReader(opener.NewReader(under, r, nil), plain[70_000:170_000]); err != nil {
		t.Error(err)
	}
	if read := int64(len(sealed)) - r.Offset - int64(under.Len()); read != r.Sealed {
		t.Errorf("read %d sealed bytes, range has %d", read, r.Sealed)
	}
	short := opener.NewReader(bytes.NewReader(sealed[r.Offset:r.Offset+r.Sealed-1]), r, nil)
	if _, err := io.ReadAll(short); err != io.ErrUnexpectedEOF {
		t.Errorf("sealed bytes that end early: %v", err)
	}
}

// lender lends from a copy of its bytes.
type lender struct{ *bytes.Reader }

func (l lender) Close() error { return nil }

func (l lender) Lend(n int) ([]byte, error) {
	b := make([]byte, n)
	if m, err := l.Read(b); m < n || err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return b, nil
}

// TestLenderAndWriteTo reads through both short cuts, compressed and not.
func TestLenderAndWriteTo(t *testing.T) {
	t.Parallel()
	key, part := testKey(10)
	plain := text(3 * FrameBytes / 2)
	codecs := NewCodecs()
	for _, format := range []Format{FormatPlain, FormatSealed} {
		for _, by := range []metadata.Compression{metadata.CompressionOff, metadata.CompressionS2} {
			o := Options{Format: format, Key: key, Part: part, Compression: by, Length: -1, Codecs: codecs}
			sealed, p := sealAll(t, o, bytes.NewReader(plain))
			cut := int64(0)
			fetch := func(off, n int64) (io.ReadCloser, error) {
				return lender{bytes.NewReader(sealed[off : off+n-cut])}, nil
			}
			r, err := codecs.Open(p, 5, p.Bytes-9, fetch)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := r.(io.WriterTo); !ok {
				t.Error("what Open returns is no io.WriterTo")
			}
			var got bytes.Buffer
			if n, err := io.Copy(&got, r); n != p.Bytes-9 || err != nil || !bytes.Equal(got.Bytes(), plain[5:p.Bytes-4]) {
				t.Errorf("format %d, compression %d: %d bytes, %v", format, by, n, err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if by == metadata.CompressionOff {
				cut = 1
				r, err := codecs.Open(p, 0, p.Bytes, fetch)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, r); err != io.ErrUnexpectedEOF {
					t.Errorf("lender that ends early: %v", err)
				}
				cut = 0
				if r, err = codecs.Open(p, 0, p.Bytes, fetch); err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(failing{}, r); err != errGone {
					t.Errorf("a writer fails: %v", err)
				}
			}
		}
	}
}

var errGone = errors.New("client is gone")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errGone }

func TestSealPanics(t *testing.T) {
	t.Parallel()
	key, part := testKey(7)
	for name, f := range map[string]func(){
		"short in the middle": func() { NewSealer(FormatSealed, key, part, 0).Seal(nil, make([]byte, 10), 0, false) },
		"too long":            func() { NewSealer(FormatSealed, key, part, 0).Seal(nil, make([]byte, 65521), 0, true) },
		"empty second":        func() { NewSealer(FormatSealed, key, part, 0).Seal(nil, nil, 1, true) },
		"format":              func() { NewSealer(0, key, part, 0) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

// TestAllocations cannot run in parallel: the counter is that of the process.
func TestAllocations(t *testing.T) {
	key, part := testKey(8)
	sealer := NewSealer(FormatSealed, key, part, 0)
	opener := NewOpener(FormatSealed, key, part, 0)
	buf := make([]byte, SegmentBytes)
	if n := testing.AllocsPerRun(50, func() {
		sealed := sealer.Seal(buf[:0], buf[:65520], 7, false)
		if _, err := opener.Open(sealed[:0], sealed, 7, false); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("Seal and Open allocate %v times", n)
	}
	source := NewSource(Options{Format: FormatSealed, Key: key, Part: part, Length: -1}, endless{})
	if _, _, err := source.Next(buf); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(50, func() {
		if _, _, err := source.Next(buf); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("Next allocates %v times", n)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func FuzzOpen(f *testing.F) {
	key, part := testKey(4)
	sealed := NewSealer(FormatSealed, key, part, 0).Seal(nil, []byte("hello"), 0, true)
	f.Add(sealed, uint64(0), true)
	f.Add(sealed, uint64(1), true)
	f.Add(sealed[:16], uint64(0), false)
	f.Add(make([]byte, 64), uint64(3), false) // a whole segment makes each input cost a millisecond
	opener := func() *Opener { return NewOpener(FormatSealed, key, part, 0) }
	f.Fuzz(func(t *testing.T, b []byte, index uint64, last bool) {
		got, err := opener().Open(nil, b, index, last)
		genuine := bytes.Equal(b, sealed) && index == 0 && last
		if (err == nil) != genuine {
			t.Fatalf("Open = %x, %v; genuine: %t", got, err, genuine)
		}
		if err != nil && (!errors.Is(err, ErrOpen) || got != nil) {
			t.Fatalf("Open = %x, %v", got, err)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	key, part := testKey(1)
	sealer := NewSealer(FormatSealed, key, part, 0)
	buf := make([]byte, SegmentBytes)
	b.SetBytes(65520)
	b.ReportAllocs()
	for b.Loop() {
		sealer.Seal(buf[:0], buf[:65520], 1, false) // one index again and again: only to measure
	}
}

func BenchmarkOpen(b *testing.B) {
	key, part := testKey(1)
	sealed := NewSealer(FormatSealed, key, part, 0).Seal(nil, make([]byte, 65520), 1, false)
	opener := NewOpener(FormatSealed, key, part, 0)
	buf := make([]byte, SegmentBytes)
	b.SetBytes(65520)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := opener.Open(buf[:0], sealed, 1, false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSource(b *testing.B) {
	key, part := testKey(1)
	source := NewSource(Options{Format: FormatSealed, Key: key, Part: part, Length: -1}, endless{})
	buf := make([]byte, SegmentBytes)
	b.SetBytes(65520)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := source.Next(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSegmentBytes compares segment lengths for the decision in
// docs/design/0002-sealed-segments.md: the cost of sealing a byte, and what
// opening a 64 KiB range at a random 64 KiB boundary costs.
func BenchmarkSegmentBytes(b *testing.B) {
	key, _ := testKey(1)
	aead := newAEAD(key)
	for _, plain := range []int{16384 - 16, 32768 - 16, 65536 - 16, 65536, 131072 - 16, 262144 - 16} {
		b.Run(fmt.Sprintf("plain=%d", plain), func(b *testing.B) {
			buf := make([]byte, plain+TagBytes)
			nonce, additional := make([]byte, 12), make([]byte, 18)
			b.SetBytes(int64(plain))
			for b.Loop() {
				aead.Seal(buf[:0], nonce, buf[:plain], additional)
			}
			random := rand.New(rand.NewPCG(1, 2))
			for _, kind := range []struct {
				unit   string
				length int64
				align  int64
			}{{"cells/64KiB-aligned", 65536, 65536}, {"cells/64KiB-random", 65536, 1}, {"cells/4KiB-random", 4096, 1}} {
				cells := int64(0)
				const ranges = 20_000
				for range ranges {
					from := random.Int64N(1<<30) / kind.align * kind.align
					first, last := from/int64(plain), (from+kind.length-1)/int64(plain)
					sealed := int64(plain + TagBytes)
					cells += ((last+1)*sealed-1)/SegmentBytes - first*sealed/SegmentBytes + 1
				}
				b.ReportMetric(float64(cells)/ranges, kind.unit)
			}
		})
	}
}
