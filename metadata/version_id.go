package metadata

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
)

// NullVersionID is how clients name the null version of a key.
const NullVersionID = "null"

// VersionID returns the text of a version id: 32 lower-case hexadecimal digits
// of the order and of the random half. Later versions of a group sort behind
// earlier ones.
func VersionID(order uint64, random [8]byte) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], order)
	copy(b[8:], random[:])
	return hex.EncodeToString(b[:])
}

// VersionID returns how clients name v.
func (v *Version) VersionID() string {
	if v.Null {
		return NullVersionID
	}
	return VersionID(v.Order, v.Random)
}

// ParseVersionID parses what [VersionID] returns. It reports false for
// anything else, "null" included.
func ParseVersionID(s string) (order uint64, random [8]byte, ok bool) {
	var b [16]byte
	if len(s) != 2*len(b) || strings.ToLower(s) != s {
		return 0, random, false
	}
	if _, err := hex.Decode(b[:], []byte(s)); err != nil {
		return 0, random, false
	}
	copy(random[:], b[8:])
	return binary.BigEndian.Uint64(b[:8]), random, true
}
