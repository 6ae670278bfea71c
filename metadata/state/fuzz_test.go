package state

import (
	"bytes"
	"cmp"
	"strings"
	"testing"
)

// FuzzObjectKeys: escaped keys sort as the keys do whatever follows them, come
// back as they were, and have one form.
func FuzzObjectKeys(f *testing.F) {
	f.Add("a", "a\x00", []byte{0x00, 0x01})
	f.Add("\x00\xff", "\x00\x01", []byte{0x00, 0xff, 0x00, 0x01, 7})
	f.Add("", "\xff\xff", []byte{0x00, 0x02})
	f.Fuzz(func(t *testing.T, x, y string, stored []byte) {
		kx, ky := appendKey(nil, x), appendKey(nil, y)
		if x != y && bytes.Compare(append(bytes.Clone(kx), stored...), append(bytes.Clone(ky), stored...)) != cmp.Compare(x, y) {
			t.Errorf("%q and %q sort otherwise as %x and %x", x, y, kx, ky)
		}
		if key, rest, err := cutKey(append(kx, stored...)); err != nil || key != x || !bytes.Equal(rest, stored) {
			t.Errorf("%q and %x are cut into %q and %x, %v", x, stored, key, rest, err)
		}
		if strings.HasPrefix(y, x) != bytes.HasPrefix(ky, appendEscaped(nil, x)) {
			t.Errorf("%q begins with %q, but not so %x", y, x, ky)
		}
		if key, rest, err := cutKey(stored); err == nil && !bytes.Equal(append(appendKey(nil, key), rest...), stored) {
			t.Errorf("%x is cut into %q and %x", stored, key, rest)
		}
	})
}
