package metadata_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/metadata"
)

func TestDatedIDsSortBySecond(t *testing.T) {
	t.Parallel()
	high := [16]byte{0xff, 0xff, 0xff, 0xff, 0xff, 6: 1}
	now := time.Date(2026, 11, 24, 0, 0, 0, 999, time.UTC)
	earlier, later := metadata.Dated(high, now), metadata.Dated([16]byte{}, now.Add(time.Second))
	if bytes.Compare(earlier[:], later[:]) >= 0 {
		t.Errorf("%x does not sort before %x, of a second later", earlier, later)
	}
	if !bytes.Equal(earlier[4:], high[4:]) {
		t.Errorf("%x has other random bits than %x", earlier, high)
	}
}
