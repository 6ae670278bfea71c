package server

import "testing"

const mib = 1 << 20

func TestTurnsFitMemoryAndDevices(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		memory   uint64
		copies   int
		reserves []int64
		want     uint64
	}{
		{memory: 64 << 30, copies: 3, want: 16 * mib},
		{memory: 64 << 30, copies: 5, want: 16 * mib},
		{memory: 1500 * mib, copies: 3, want: 10 * mib},
		{memory: 1500 * mib, copies: 5, want: 6 * mib},
		{memory: 64 * mib, copies: 3, want: 2 * mib},
		{memory: 0, copies: 3, want: 2 * mib}, // not known
		{memory: 64 << 30, copies: 3, reserves: []int64{0, 512 * mib, 8 * mib}, want: 4 * mib},
		{memory: 64 << 30, copies: 3, reserves: []int64{0, 512 * mib, 4 * mib}, want: 2 * mib},
		{memory: 64 << 30, copies: 3, reserves: []int64{1 * mib}, want: 2 * mib},
		{memory: 64 << 30, copies: 3, reserves: []int64{0}, want: 16 * mib},
	} {
		if got := turnBytes(test.memory, test.copies, test.reserves); got != test.want {
			t.Errorf("turnBytes(%d, %d, %v) = %d, want %d", test.memory, test.copies, test.reserves, got, test.want)
		}
	}
}
