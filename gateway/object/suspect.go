package object

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ruche-storage/ruche/metadata/topology"
)

// suspects knows which drives are suspect: they answer much later than the others
// do, or not at all. Writes go past a suspect drive as far as the ack rule
// allows, reads ask it last, and the prober finds out when it is well again.
// How a drive does is judged by the others, never by a fixed time alone: what
// is slow on one machine is usual on another, and when all are slow none is
// to blame.
type suspects struct {
	now     func() time.Time
	drives  sync.Map     // topology.DriveID -> *promptness
	count   atomic.Int32 // of suspect drives
	changed func(drive topology.DriveID, suspect bool)
	kick    chan struct{} // has a token when there is a new suspect
}

const (
	// lagFactor is how many times longer than the median of its siblings a
	// drive needs to be late.
	lagFactor = 8

	// A drive is suspect when the moving share of its late calls reaches
	// suspectShare: after 11 late calls in a row if each weighs lateWeight, or
	// 3 of those that were so late that nobody waited for them.
	suspectShare = 0.5
	lateWeight   = 1.0 / 16
	lostWeight   = 1.0 / 4

	// probesNeeded is how many probes in a row must be in time before a drive
	// is trusted again. It doubles with each relapse within relapseTime, up to
	// probesMost.
	probesNeeded = 3
	probesMost   = 48
	relapseTime  = 10 * time.Minute
)

// promptness is what is known of one drive.
type promptness struct {
	suspect atomic.Bool
	lost    atomic.Int32 // shards that were given up and are still being written

	mu      sync.Mutex // guards what follows
	share   float64    // of late calls
	good    int        // probes in time, in a row
	needed  int        // probes before it is trusted
	healed  time.Time  // when it was trusted again
	probing bool       // a probe has not returned
}

func newSuspects(now func() time.Time, changed func(topology.DriveID, bool)) *suspects {
	return &suspects{now: now, changed: changed, kick: make(chan struct{}, 1)}
}

func (s *suspects) drive(d topology.DriveID) *promptness {
	if known, ok := s.drives.Load(d); ok {
		return known.(*promptness)
	}
	known, _ := s.drives.LoadOrStore(d, new(promptness))
	return known.(*promptness)
}

// has reports whether a drive is suspect.
func (s *suspects) has(d topology.DriveID) bool {
	if s.count.Load() == 0 {
		return false
	}
	known, ok := s.drives.Load(d)
	return ok && known.(*promptness).suspect.Load()
}

// list returns the suspect drives in order.
func (s *suspects) list() []topology.DriveID {
	var all []topology.DriveID
	for id, d := range s.drives.Range {
		if d.(*promptness).suspect.Load() {
			all = append(all, id.(topology.DriveID))
		}
	}
	slices.SortFunc(all, func(a, b topology.DriveID) int { return bytes.Compare(a[:], b[:]) })
	return all
}

// inTime takes note of a call that was not late.
func (s *suspects) inTime(d topology.DriveID) {
	known, ok := s.drives.Load(d)
	if !ok {
		return // nothing to make good
	}
	drive := known.(*promptness)
	drive.mu.Lock()
	defer drive.mu.Unlock()
	drive.share -= drive.share * lateWeight
}

// late takes note of a late call.
func (s *suspects) late(d topology.DriveID, weight float64) {
	drive := s.drive(d)
	drive.mu.Lock()
	drive.share += (1 - drive.share) * weight
	over := drive.share >= suspectShare
	drive.mu.Unlock()
	if over {
		s.accuse(d)
	}
}

// accuse makes a drive suspect.
func (s *suspects) accuse(d topology.DriveID) {
	drive := s.drive(d)
	drive.mu.Lock()
	defer drive.mu.Unlock()
	if drive.suspect.Load() {
		return
	}
	if drive.needed == 0 || s.now().Sub(drive.healed) > relapseTime {
		drive.needed = probesNeeded
	} else {
		drive.needed = min(2*drive.needed, probesMost)
	}
	drive.good = 0
	drive.suspect.Store(true)
	s.count.Add(1)
	s.changed(d, true)
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// probed takes in the result of a probe, after which there may be another.
func (s *suspects) probed(d topology.DriveID, inTime bool) {
	drive := s.drive(d)
	drive.mu.Lock()
	defer drive.mu.Unlock()
	drive.probing = false
	if !inTime {
		drive.good = 0
		return
	}
	if drive.good++; drive.good < drive.needed || !drive.suspect.Load() {
		return
	}
	drive.share, drive.healed = 0, s.now()
	drive.suspect.Store(false)
	s.count.Add(-1)
	s.changed(d, false)
}

// beginProbe reports whether a drive is to be probed now: one probe at a time.
func (s *suspects) beginProbe(d topology.DriveID) bool {
	drive := s.drive(d)
	drive.mu.Lock()
	defer drive.mu.Unlock()
	if drive.probing || !drive.suspect.Load() {
		return false
	}
	drive.probing = true
	return true
}

// hope returns how much may be hoped of a suspect drive: -1 if too many shards
// hang on it, else more with each probe in a row that was in time.
func (s *suspects) hope(d topology.DriveID) int {
	drive := s.drive(d)
	if drive.lost.Load() >= maxHanging {
		return -1
	}
	drive.mu.Lock()
	defer drive.mu.Unlock()
	if drive.probing {
		return 0
	}
	return 1 + drive.good
}

// median returns the lower median of times, which it sorts; 0 of none.
func median(times []time.Duration) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[(len(times)-1)/2]
}
