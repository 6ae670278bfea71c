package replica

import (
	"errors"
	"fmt"
	"time"
)

// Bounds of a believable clock. docs/design/0003-clock.md gives the reasons.
const (
	maxBehind = time.Hour
	maxAhead  = 400 * 24 * time.Hour
	maxJump   = time.Hour
)

// epoch is when the first version of the program was made: no clock is right
// that shows an earlier time.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// ErrAbsurdClock means that the clock contradicts what is stored. Set it right,
// or open the store with Options.AcceptClock.
var ErrAbsurdClock = errors.New("clock is absurd")

// A ClockError says how. It wraps [ErrAbsurdClock].
type ClockError struct {
	Now    time.Time
	Newest time.Time // newest stamp in the store; zero in a new one
}

func (e *ClockError) Error() string {
	now := e.Now.UTC().Format(time.RFC3339)
	if e.Newest.IsZero() {
		return fmt.Sprintf("replica: %v: it shows %s; set it, or start once with --accept-clock", ErrAbsurdClock, now)
	}
	return fmt.Sprintf("replica: %v: it shows %s, the newest change is of %s; set it, or start once with --accept-clock",
		ErrAbsurdClock, now, e.Newest.UTC().Format(time.RFC3339))
}

func (e *ClockError) Unwrap() error { return ErrAbsurdClock }

// checkClock compares the clock with the newest order of the store, in
// microseconds, 0 for a new one.
func checkClock(now time.Time, newest uint64) error {
	if newest == 0 {
		if now.Before(epoch) {
			return &ClockError{Now: now}
		}
		return nil
	}
	stamp := time.UnixMicro(int64(newest))
	if now.Before(stamp.Add(-maxBehind)) || now.After(stamp.Add(maxAhead)) {
		return &ClockError{Now: now, Newest: stamp}
	}
	return nil
}

// stamper gives commands their stamps. It is used by one goroutine. Small
// corrections of the wall clock are followed; a jump, which elapsed monotonic
// time does not confirm, is not.
type stamper struct {
	now   func() time.Time
	wall  time.Time                      // last wall time believed
	read  time.Time                      // reading it came from, with its monotonic part
	jumps uint64                         // readings that were not believed
	tell  func(wall, expected time.Time) // called for the first of them
}

func newStamper(now func() time.Time, tell func(wall, expected time.Time)) *stamper {
	t := now()
	return &stamper{now: now, tell: tell, wall: t.Round(0), read: t}
}

// stamp returns microseconds since 1970.
func (s *stamper) stamp() uint64 {
	t := s.now()
	expected := s.wall.Add(t.Sub(s.read))
	s.wall, s.read = t.Round(0), t
	if d := s.wall.Sub(expected); d > maxJump || d < -maxJump {
		if s.jumps++; s.jumps == 1 {
			s.tell(s.wall, expected)
		}
		s.wall = expected
	}
	return uint64(max(s.wall.UnixMicro(), 0))
}
