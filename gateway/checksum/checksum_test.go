package checksum

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ruche-storage/ruche/metadata"
)

func TestNames(t *testing.T) {
	t.Parallel()
	want := []string{"CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"}
	for i, a := range Algorithms() {
		if Name(a) != want[i] {
			t.Errorf("Name(%d) = %q, want %q", a, Name(a), want[i])
		}
		for _, spelled := range []string{want[i], strings.ToLower(want[i]), want[i][:1] + strings.ToLower(want[i][1:])} {
			if got, ok := Parse(spelled); got != a || !ok {
				t.Errorf("Parse(%q) = %d, %t; want %d", spelled, got, ok, a)
			}
			if got, ok := FromHeader("X-Amz-Checksum-" + spelled); got != a || !ok {
				t.Errorf("FromHeader of %q = %d, %t; want %d", spelled, got, ok, a)
			}
		}
		if got := Header(a); got != "x-amz-checksum-"+strings.ToLower(want[i]) {
			t.Errorf("Header(%s) = %q", want[i], got)
		}
		if got := New(a).Size(); got != Bytes(a) {
			t.Errorf("Bytes(%s) = %d, its hash has %d", want[i], Bytes(a), got)
		}
	}
	if Name(metadata.ChecksumNone) != "" {
		t.Error("no checksum has a name")
	}
	for _, other := range []string{"", "CRC", "CRC32CC", "MD5", "SHA-256", "type", "algorithm"} {
		if a, ok := Parse(other); ok {
			t.Errorf("Parse(%q) = %d", other, a)
		}
		if a, ok := FromHeader(HeaderPrefix + other); ok {
			t.Errorf("FromHeader of %q = %d", other, a)
		}
	}
}

// TestValues holds the hashes to the check values of their definitions: the
// CRC catalogue's for "123456789", FIPS 180's for "abc".
func TestValues(t *testing.T) {
	t.Parallel()
	tests := []struct {
		algorithm metadata.ChecksumAlgorithm
		input     string
		want      string
	}{
		{metadata.ChecksumCRC32, "123456789", "cbf43926"},
		{metadata.ChecksumCRC32C, "123456789", "e3069283"},
		{metadata.ChecksumCRC64NVME, "123456789", "ae8b14860a799888"},
		{metadata.ChecksumSHA1, "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"},
		{metadata.ChecksumSHA256, "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
	}
	for _, test := range tests {
		h := New(test.algorithm)
		h.Write([]byte(test.input))
		if got := fmt.Sprintf("%x", h.Sum(nil)); got != test.want {
			t.Errorf("%s of %q = %s, want %s", Name(test.algorithm), test.input, got, test.want)
		}
	}
}

func TestMultipartType(t *testing.T) {
	t.Parallel()
	const no = "refused"
	tests := []struct{ name, unset, composite, full string }{
		{"CRC32", Composite, Composite, FullObject},
		{"CRC32C", Composite, Composite, FullObject},
		{"CRC64NVME", FullObject, no, FullObject},
		{"SHA1", Composite, Composite, no},
		{"SHA256", Composite, Composite, no},
	}
	for _, test := range tests {
		a, _ := Parse(test.name)
		for typ, want := range map[string]string{
			"": test.unset, Composite: test.composite, "composite": test.composite,
			FullObject: test.full, "Full_Object": test.full, "PARTIAL": no, strings.Repeat("x", 1000): no,
		} {
			composite, err := MultipartType(a, typ)
			got := TypeName(metadata.Checksum{Algorithm: a, Composite: composite})
			if err != nil {
				got = no
				if !errors.Is(err, ErrType) || len(err.Error()) > 200 {
					t.Errorf("%s with %q: error %v", test.name, typ, err)
				}
			}
			if got != want {
				t.Errorf("%s with %q = %s, want %s", test.name, typ, got, want)
			}
		}
	}
	if got := TypeName(metadata.Checksum{}); got != "" {
		t.Errorf("TypeName of none = %q", got)
	}
}

func TestParseValue(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", "AAAA", "AAAAAA", "AAAAAA=", "AAAAAAA=AA", "AAAAAA==\n", "AAAA\nAA==", "AAAAA\n==", "AAAAAB==",
		"AAAA-A==", "AAAA_A==", "AAAAAA==AAAA", "aGVsbG8=", strings.Repeat("A", 1<<16), "AAAAAA==-1",
	} {
		if raw, err := ParseValue(metadata.ChecksumCRC32, bad); !errors.Is(err, ErrValue) {
			t.Errorf("ParseValue(%.20q) = %x, %v; want %v", bad, raw, err, ErrValue)
		}
	}
	for _, bad := range []string{"AAAAAA==-", "AAAAAA==-0", "AAAAAA==-01", "AAAAAA==-10001", "AAAAAA==-+1", "AAAAAA==--1",
		"AAAAAA==-1-1", "AAAAAA==-65537", "AAAAAA-1", "-1", "AAAAAA==-" + strings.Repeat("1", 1<<16)} {
		if raw, n, err := ParseComposite(metadata.ChecksumCRC32, bad); !errors.Is(err, ErrValue) || len(err.Error()) > 200 {
			t.Errorf("ParseComposite(%.20q) = %x, %d, %v; want %v", bad, raw, n, err, ErrValue)
		}
	}
	if raw, n, err := ParseComposite(metadata.ChecksumCRC32, "AQIDBA==-10000"); string(raw) != "\x01\x02\x03\x04" || n != 10000 || err != nil {
		t.Errorf("ParseComposite = %x, %d, %v", raw, n, err)
	}
	if _, n, err := ParseComposite(metadata.ChecksumCRC32, "AQIDBA=="); n != 0 || err != nil {
		t.Errorf("ParseComposite without a number = %d, %v", n, err)
	}
}

// TestWhole compares the checksum of a whole with that of its bytes joined
// together, for many ways of cutting them.
func TestWhole(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for _, a := range Algorithms() {
		row := lookup(a)
		for range 60 {
			data := make([]byte, random.IntN(5000))
			for i := range data {
				data[i] = byte(random.Uint32())
			}
			var parts []Part
			sums := New(a)
			for rest := data; len(rest) > 0 || len(parts) == 0; {
				cut := random.IntN(len(rest) + 1) // empty parts too
				h := New(a)
				h.Write(rest[:cut])
				parts = append(parts, Part{Value: string(h.Sum(nil)), Bytes: int64(cut)})
				sums.Write(h.Sum(nil))
				rest = rest[cut:]
			}
			whole := New(a)
			whole.Write(data)
			if row.full {
				got, err := Whole(a, false, parts)
				want := metadata.Checksum{Algorithm: a, Value: string(whole.Sum(nil))}
				if got != want || err != nil {
					t.Fatalf("%s of %d parts = %x, %v; want %x", row.name, len(parts), got.Value, err, want.Value)
				}
			} else if _, err := Whole(a, false, parts); !errors.Is(err, ErrType) {
				t.Fatalf("%s combined: %v", row.name, err)
			}
			if row.composite {
				got, err := Whole(a, true, parts)
				want := base64.StdEncoding.EncodeToString(sums.Sum(nil)) + fmt.Sprintf("-%d", len(parts))
				if Format(got) != want || err != nil {
					t.Fatalf("%s of %d parts = %s, %v; want %s", row.name, len(parts), Format(got), err, want)
				}
				raw, n, err := ParseComposite(a, want)
				if string(raw) != got.Value || n != got.Parts || err != nil {
					t.Fatalf("ParseComposite(%q) = %x, %d, %v", want, raw, n, err)
				}
			} else if _, err := Whole(a, true, parts); !errors.Is(err, ErrType) {
				t.Fatalf("%s composed: %v", row.name, err)
			}
		}
	}
}

// TestCombineZeros holds the shift by a length no test can hash to the square
// of the shift by half of it, and a medium one to real bytes.
func TestCombineZeros(t *testing.T) {
	t.Parallel()
	for _, a := range []metadata.ChecksumAlgorithm{metadata.ChecksumCRC32, metadata.ChecksumCRC32C, metadata.ChecksumCRC64NVME} {
		c := newCombiner(a)
		for _, n := range []int64{1, 5 << 30, 10_000 * (5 << 30), 1<<61 - 1} {
			half := c.power(n)
			if got, want := c.power(2*n), c.multiply(half, half); got != want {
				t.Errorf("%s: shift by %d = %x, want %x", Name(a), 2*n, got, want)
			}
		}
		const n = 3<<20 + 17
		first, second, both := New(a), New(a), New(a)
		zeros := make([]byte, n)
		first.Write([]byte("first"))
		second.Write(zeros)
		both.Write(append([]byte("first"), zeros...))
		got := c.combine(value64(string(first.Sum(nil))), value64(string(second.Sum(nil))), n)
		if want := value64(string(both.Sum(nil))); got != want {
			t.Errorf("%s of %d zeros = %x, want %x", Name(a), n, got, want)
		}
	}
}

func TestWholeRefusesMissingValues(t *testing.T) {
	t.Parallel()
	for _, part := range []Part{{Value: "", Bytes: 1}, {Value: "abc", Bytes: 1}, {Value: "abcd", Bytes: -1}} {
		if _, err := Whole(metadata.ChecksumCRC32, false, []Part{{Value: "abcd", Bytes: 1}, part}); !errors.Is(err, ErrValue) {
			t.Errorf("part %+v: error %v, want %v", part, err, ErrValue)
		}
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	tests := []struct {
		sum  metadata.Checksum
		want string
	}{
		{metadata.Checksum{}, ""},
		{metadata.Checksum{Algorithm: metadata.ChecksumCRC32}, ""},
		{metadata.Checksum{Algorithm: metadata.ChecksumCRC32, Value: "\x01\x02\x03\x04"}, "AQIDBA=="},
		{metadata.Checksum{Algorithm: metadata.ChecksumCRC32, Composite: true, Parts: 3, Value: "\x01\x02\x03\x04"}, "AQIDBA==-3"},
	}
	for _, test := range tests {
		if got := Format(test.sum); got != test.want {
			t.Errorf("Format(%+v) = %q, want %q", test.sum, got, test.want)
		}
	}
}

func FuzzParseComposite(f *testing.F) {
	f.Add(uint8(0), "AQIDBA==-3")
	f.Add(uint8(4), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=")
	f.Add(uint8(2), "rosUhgp5mIg=-1")
	f.Fuzz(func(t *testing.T, which uint8, value string) {
		a := table[int(which)%len(table)].id
		raw, parts, err := ParseComposite(a, value)
		if err != nil {
			if !errors.Is(err, ErrValue) {
				t.Fatalf("error %v", err)
			}
			return
		}
		again := Format(metadata.Checksum{Algorithm: a, Composite: parts > 0, Parts: parts, Value: string(raw)})
		if again != value {
			t.Fatalf("%q reads as %q", value, again)
		}
	})
}

func BenchmarkWholeCRC64(b *testing.B) {
	parts := make([]Part, 10_000)
	for i := range parts {
		parts[i] = Part{Value: "abcdefgh", Bytes: 8<<20 + int64(i%7)}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Whole(metadata.ChecksumCRC64NVME, false, parts); err != nil {
			b.Fatal(err)
		}
	}
}
