package state

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

// Escaped keys sort as the keys do, whatever follows them, and no escaped key
// begins another.
func TestEscapedKeysSortAsKeys(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	bytesOf := "\x00\x00\x01\xfe\xffab"
	random := func() string {
		b := make([]byte, r.IntN(6))
		for i := range b {
			b[i] = bytesOf[r.IntN(len(bytesOf))]
		}
		return string(b)
	}
	for range 20_000 {
		x, y := random(), random()
		kx, ky := appendKey(nil, x), appendKey(nil, y)
		if got, want := bytes.Compare(append(kx, random()...), append(ky, random()...)), strings.Compare(x, y); want != 0 && got != want {
			t.Fatalf("%q and %q compare as %d, escaped as %d", x, y, want, got)
		}
		key, rest, err := cutKey(append(appendKey(nil, x), y...))
		if err != nil || key != x || string(rest) != y {
			t.Fatalf("cutKey of %q and %q = %q, %q, %v", x, y, key, rest, err)
		}
		// Everything that begins with x, and nothing else, is in its span.
		lower := appendEscaped(nil, x)
		in := bytes.Compare(ky, lower) >= 0 && bytes.Compare(ky, after(append([]byte{1}, lower...))[1:]) < 0
		if len(after(append([]byte{1}, lower...))) == 1 {
			in = bytes.Compare(ky, lower) >= 0 // of bytes 0xff alone, to the end
		}
		if in != strings.HasPrefix(y, x) {
			t.Fatalf("%q in the span of %q: %v", y, x, in)
		}
	}
}

func TestMalformedKeysAreErrors(t *testing.T) {
	t.Parallel()
	for _, k := range []string{"", "abc", "abc\x00", "abc\x00\x02", "a\x00\xffb", "\x00\xff\x00"} {
		if key, rest, err := cutKey([]byte(k)); err == nil {
			t.Errorf("cutKey(%q) = %q, %q", k, key, rest)
		}
	}
}
