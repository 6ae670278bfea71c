package object

import (
	"time"
)

// speed counts bytes and how many a second there were of late. Its owner
// guards it.
type speed struct {
	now   func() time.Time
	total uint64

	since  time.Time // start of the present span
	bytes  int64     // in the present span
	before int64     // bytes a second of the span before
}

const speedSpan = 10 * time.Second

func (s *speed) roll() {
	now := s.now()
	if s.since.IsZero() {
		s.since = now
	}
	if span := now.Sub(s.since); span >= speedSpan {
		s.before = int64(float64(s.bytes) / span.Seconds())
		s.since, s.bytes = now, 0
	}
}

func (s *speed) add(n int64) {
	s.roll()
	s.total += uint64(n)
	s.bytes += n
}

func (s *speed) perSecond() int64 {
	s.roll()
	if s.before > 0 {
		return s.before
	}
	if span := s.now().Sub(s.since); span >= time.Second {
		return int64(float64(s.bytes) / span.Seconds())
	}
	return 0
}
