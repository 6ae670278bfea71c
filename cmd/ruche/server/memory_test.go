package server

import "testing"

func TestTurnsFitTheMemory(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		memory uint64
		copies int
		want   uint64
	}{
		{64 << 30, 3, 16 << 20},
		{64 << 30, 5, 16 << 20},
		{1500 << 20, 3, 10 << 20},
		{1500 << 20, 5, 6 << 20},
		{64 << 20, 3, 2 << 20},
		{0, 3, 2 << 20}, // not known
	} {
		if got := turnBytes(test.memory, test.copies); got != test.want {
			t.Errorf("turnBytes(%d, %d) = %d, want %d", test.memory, test.copies, got, test.want)
		}
	}
}
