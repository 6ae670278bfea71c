package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes. As text it is a whole number and perhaps a unit:
// B, KiB, MiB, GiB, TiB (also K, M, G, T for the same) or kB, MB, GB, TB for
// powers of ten. [Auto] is "auto".
type Size int64

// units are tried in this order, so that none hides a longer one.
var units = []struct {
	name  string
	bytes int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", 1 << 40},
	{"B", 1},
}

// ParseSize parses a size.
func ParseSize(text string) (Size, error) {
	s := strings.TrimSpace(text)
	if s == "auto" {
		return Auto, nil
	}
	factor := int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			s, factor = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size; write it like 64MiB", text)
	}
	if n > uint64(math.MaxInt64/factor) {
		return 0, fmt.Errorf("%q is too large", text)
	}
	return Size(int64(n) * factor), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := ParseSize(string(text))
	if err == nil {
		*s = n
	}
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String returns the size with the largest unit that leaves a whole number.
func (s Size) String() string {
	if s == Auto {
		return "auto"
	}
	for _, u := range []int{3, 2, 1, 0} {
		if b := units[u].bytes; s != 0 && int64(s)%b == 0 {
			return strconv.FormatInt(int64(s)/b, 10) + units[u].name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
