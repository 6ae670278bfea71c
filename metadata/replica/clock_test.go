package replica

import (
	"testing"
	"time"
)

// A clock that jumps is not followed; one that is corrected is. Readings come
// with a monotonic part only from time.Now, so jumps are made by changing the
// last reading.
func TestStamperIgnoresJumps(t *testing.T) {
	t.Parallel()
	real := time.Now()
	now := real
	told := 0
	s := newStamper(func() time.Time { return now }, func(_, _ time.Time) { told++ })
	now = real.Add(time.Second) // wall and monotonic time agree
	if got, want := s.stamp(), uint64(now.UnixMicro()); got != want {
		t.Errorf("stamp = %d, want %d", got, want)
	}

	// The wall clock was set forward by 10 minutes since the last reading.
	s.wall = s.wall.Add(-10 * time.Minute)
	now = now.Add(time.Second)
	if got, want := s.stamp(), uint64(now.UnixMicro()); got != want || s.jumps != 0 {
		t.Errorf("after a correction: stamp = %d, want %d; %d jumps", got, want, s.jumps)
	}

	// It was set forward by a year.
	s.wall = s.wall.AddDate(-1, 0, 0)
	before := s.wall
	now = now.Add(time.Second)
	if got, want := s.stamp(), uint64(before.Add(time.Second).UnixMicro()); got != want || s.jumps != 1 {
		t.Errorf("after a jump: stamp = %d, want %d; %d jumps", got, want, s.jumps)
	}
	if s.stamp(); told != 1 {
		t.Errorf("told of the jump %d times, want once", told)
	}
}
