package seal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/metadata"
)

var compressions = []metadata.Compression{metadata.CompressionZstd, metadata.CompressionS2}

// TestCompressedRoundTrip covers bodies that shrink, that do not, and that
// stop shrinking, in lengths around a frame.
func TestCompressedRoundTrip(t *testing.T) {
	t.Parallel()
	codecs := NewCodecs()
	bodies := map[string][]byte{
		"empty": nil, "one byte": {1}, "short text": text(100), "a frame": text(FrameBytes), "a frame and a byte": text(FrameBytes + 1),
		"text": text(3*FrameBytes + 77), "noise": pattern(2*FrameBytes + 5), "a frame of noise": pattern(FrameBytes),
		"text, then noise": append(text(FrameBytes+9), pattern(2*FrameBytes)...),
		"noise, then text": append(pattern(FrameBytes), text(FrameBytes)...),
		"zeros":            make([]byte, 2*FrameBytes),
	}
	shrinks := map[string]bool{"a frame": true, "a frame and a byte": true, "text": true, "text, then noise": true, "zeros": true, "short text": true}
	key, part := testKey(20)
	for _, by := range compressions {
		for _, format := range []Format{FormatPlain, FormatSealed} {
			for name, body := range bodies {
				for _, known := range []int64{-1, int64(len(body))} {
					o := Options{Format: format, Key: key, Part: part, Compression: by, Length: known, Codecs: codecs}
					sealed, p := sealAll(t, o, bytes.NewReader(body))
					if got := p.Compression == by; got != shrinks[name] {
						t.Errorf("%s by %d: compressed: %t (%d to %d bytes)", name, by, got, len(body), len(sealed))
					}
					if (p.IndexBytes > 0) != (p.Compression == by) || p.Bytes != int64(len(body)) {
						t.Errorf("%s: %+v", name, p)
					}
					if p.Compression == metadata.CompressionOff && int64(len(sealed)) != format.SealedLength(p.Bytes) {
						t.Errorf("%s: given up at once, and %d bytes are sealed as %d", name, len(body), len(sealed))
					}
					checkRanges(t, codecs, p, sealed, body, 3)
				}
			}
		}
	}
}

// TestGivenUp shows that after the first frame that does not shrink all frames
// are stored as they are, those that would shrink too.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	body := bytes.Join([][]byte{text(FrameBytes), pattern(FrameBytes), text(FrameBytes), text(10)}, nil)
	key, part := testKey(21)
	o := Options{Format: FormatPlain, Key: key, Part: part, Compression: metadata.CompressionZstd, Length: -1, Codecs: NewCodecs()}
	stream, p := sealAll(t, o, bytes.NewReader(body))
	b := stream[int64(len(stream))-p.IndexBytes:]
	if len(b) != 4*4+9 || b[len(b)-1] != 1 || binary.LittleEndian.Uint64(b[16:]) != uint64(len(body)) {
		t.Fatalf("index %x", b)
	}
	first := binary.LittleEndian.Uint32(b)
	var rest []uint32
	for i := range 3 {
		rest = append(rest, binary.LittleEndian.Uint32(b[4+4*i:]))
	}
	if diff := cmp.Diff([]uint32{FrameBytes, FrameBytes, 10}, rest); diff != "" || first >= FrameBytes/2 {
		t.Errorf("frames of %d and (-want +got)\n%s", first, diff)
	}
	if !bytes.Equal(stream[first:int64(len(stream))-p.IndexBytes], body[FrameBytes:]) {
		t.Error("raw frames are not the bytes of the body")
	}
}

// TestCompressedGolden opens a part that an earlier build compressed and
// sealed. Compressors may change what they write, never what they read.
func TestCompressedGolden(t *testing.T) {
	t.Parallel()
	key, part := testKey(22)
	body := bytes.Repeat([]byte("the bees are well\n"), FrameBytes/18+10)
	copy(body[1000:], pattern(100))
	codecs := NewCodecs()
	for by, name := range map[metadata.Compression]string{
		metadata.CompressionZstd: "testdata/part.zstd", metadata.CompressionS2: "testdata/part.s2",
	} {
		if flag.Lookup("rewrite").Value.String() == "true" { // as datadriven files
			o := Options{Format: FormatSealed, Key: key, Part: part, Compression: by, Length: -1, Codecs: codecs}
			sealed, _ := sealAll(t, o, bytes.NewReader(body))
			if err := os.WriteFile(name, sealed, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		sealed, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		p := Part{Format: FormatSealed, Key: key, ID: part, Compression: by,
			Bytes: int64(len(body)), SealedBytes: int64(len(sealed)), IndexBytes: 4*2 + 9}
		checkRanges(t, codecs, p, sealed, body, 5)
	}
}

func TestParseIndexRefuses(t *testing.T) {
	t.Parallel()
	index := func(plain uint64, version byte, frames ...uint32) []byte {
		var b []byte
		for _, f := range frames {
			b = binary.LittleEndian.AppendUint32(b, f)
		}
		return append(binary.LittleEndian.AppendUint64(b, plain), version)
	}
	const plain = FrameBytes + 10
	good := index(plain, 1, 500, 10)
	if _, err := ParseIndex(good, plain, 510+int64(len(good))); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty": nil, "version": index(plain, 2, 500, 10), "length": index(plain+1, 1, 500, 10), "one frame": index(plain, 1, 510),
		"three frames": index(plain, 1, 500, 5, 5), "frame of nothing": index(plain, 1, 510, 0), "frame too long": index(plain, 1, 499, 11),
		"sum": index(plain, 1, 501, 10), "huge": index(plain, 1, 1<<32-1, 10), "cut": good[:len(good)-1],
	} {
		if x, err := ParseIndex(b, plain, 510+int64(len(good))); !errors.Is(err, ErrCompressed) || x != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseIndex(index(0, 1), 0, 9); !errors.Is(err, ErrCompressed) {
		t.Errorf("index of nothing: %v", err)
	}
}

// TestBombs gives the decoders frames that claim or make more than a frame.
func TestBombs(t *testing.T) {
	t.Parallel()
	codecs := NewCodecs()
	for _, by := range compressions {
		bomb := codecs.compress(by, nil, make([]byte, 64<<20))
		half := codecs.compress(by, nil, make([]byte, FrameBytes/2))
		for name, stored := range map[string][]byte{
			"too much": bomb, "too little": half, "nothing": nil, "garbage": pattern(1000), "cut": half[:len(half)-1],
		} {
			plain := make([]byte, FrameBytes, 2*FrameBytes)
			if err := codecs.decompress(by, plain, stored); !errors.Is(err, ErrCompressed) {
				t.Errorf("%s by %d: %v", name, by, err)
			}
			for _, b := range plain[FrameBytes : 2*FrameBytes] {
				if b != 0 {
					t.Fatalf("%s by %d wrote behind the frame", name, by)
				}
			}
		}
	}
	if err := codecs.decompress(77, make([]byte, 10), make([]byte, 5)); !errors.Is(err, ErrCompressed) {
		t.Errorf("unknown compression: %v", err)
	}
}

func TestOpenRefusesWrongRows(t *testing.T) {
	t.Parallel()
	codecs := NewCodecs()
	key, part := testKey(23)
	body := text(FrameBytes + 5)
	o := Options{Format: FormatSealed, Key: key, Part: part, Compression: metadata.CompressionS2, Length: -1, Codecs: codecs}
	sealed, p := sealAll(t, o, bytes.NewReader(body))
	for name, change := range map[string]func(*Part){
		"plain length": func(p *Part) { p.Bytes++ }, "sealed length": func(p *Part) { p.SealedBytes -= 65 },
		"no index": func(p *Part) { p.IndexBytes = 0 }, "index of everything": func(p *Part) { p.IndexBytes = 1 << 40 },
		"shorter index": func(p *Part) { p.IndexBytes-- }, "not compressed": func(p *Part) { p.Compression, p.IndexBytes = 0, 0 },
		"other codec": func(p *Part) { p.Compression = metadata.CompressionZstd },
	} {
		q := p
		change(&q)
		_, err := readRange(codecs, q, &fetcher{sealed: sealed}, 0, 10)
		if !errors.Is(err, ErrLength) && !errors.Is(err, ErrOpen) && !errors.Is(err, ErrCompressed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, err := codecs.Open(p, 0, 100, (&fetcher{sealed: sealed}).fetch)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != io.ErrClosedPipe {
		t.Errorf("read after Close: %v", err)
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 1}, int64(20), int64(23))
	f.Fuzz(func(t *testing.T, b []byte, plain, stream int64) {
		x, err := ParseIndex(b, plain, stream)
		if err != nil {
			if !errors.Is(err, ErrCompressed) {
				t.Fatal(err)
			}
			return
		}
		off, n := x.Stored(0, plain)
		if off != 0 || n+int64(len(b)) != stream {
			t.Fatalf("frames of %d+%d in a stream of %d", off, n, stream)
		}
	})
}

func FuzzDecompress(f *testing.F) {
	codecs := NewCodecs()
	for _, by := range compressions {
		f.Add(uint8(by), codecs.compress(by, nil, text(1000)), 1000)
	}
	f.Fuzz(func(t *testing.T, by uint8, stored []byte, n int) {
		if n < 1 || n > FrameBytes {
			return
		}
		err := codecs.decompress(metadata.Compression(1+by%2), make([]byte, n), stored)
		if err != nil && !errors.Is(err, ErrCompressed) {
			t.Fatal(err)
		}
	})
}

func BenchmarkCompressedSource(b *testing.B) {
	codecs := NewCodecs()
	for by, name := range map[metadata.Compression]string{metadata.CompressionZstd: "zstd", metadata.CompressionS2: "s2"} {
		b.Run(name, func(b *testing.B) {
			body := text(8 << 20)
			key, part := testKey(1)
			buf := make([]byte, SegmentBytes)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				s := NewSource(Options{Format: FormatSealed, Key: key, Part: part, Compression: by, Length: int64(len(body)), Codecs: codecs}, bytes.NewReader(body))
				for last := false; !last; {
					var err error
					if _, last, err = s.Next(buf); err != nil {
						b.Fatal(err)
					}
				}
				s.Close()
			}
		})
	}
}
