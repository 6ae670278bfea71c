package node

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
)

// indexRetryPause keeps the index from retrying without end on a full device.
const indexRetryPause = 100 * time.Millisecond

// space decides whether a drive takes more shards. Reads and deletes go on
// whatever it says.
type space struct {
	drive *Drive

	mu      sync.Mutex
	usage   vfs.DiskUsage
	known   bool  // usage was read; false on file systems without an end
	share   int64 // drives that lie on the device, at least 1
	used    int64 // bytes of records, as usage was read
	ballast int64 // length of the ballast kept, 0 if none
	wanted  int64 // length of the ballast to keep
	taken   int64 // bytes admitted since usage was read
	full    bool  // no shards are taken
	bottom  bool  // a write found the device full since usage was read
}

func (s *space) init(d *Drive) { s.drive, s.share = d, 1 }

// findBallast takes note of the ballast of an earlier life.
func (s *space) findBallast() {
	if f, err := s.drive.fs.Stat(s.ballastPath()); err == nil {
		s.setBallast(f.Size())
	}
}

// setShare says how many drives lie on the device, and whether this one keeps
// the ballast.
func (s *space) setShare(drives int, ballast bool) {
	s.mu.Lock()
	s.share = int64(max(drives, 1))
	s.mu.Unlock()
	s.refresh()
	s.mu.Lock()
	s.wanted = 0
	if ballast {
		s.wanted = s.ballastBytes()
	}
	s.mu.Unlock()
	s.keepBallast()
}

// ballastBytes is how long the ballast should be. The caller holds mu.
func (s *space) ballastBytes() int64 {
	switch want := s.drive.opts.BallastBytes; {
	case want > 0:
		return want
	case want < 0 || !s.known:
		return 0
	}
	return min(int64(s.usage.TotalBytes)/100, 8<<30)
}

// reserve is the free space that shards do not get. The caller holds mu.
func (s *space) reserve() int64 {
	if r := s.drive.opts.ReserveBytes; r > 0 {
		return r
	}
	total := int64(s.usage.TotalBytes)
	return min(max(total/100, 16<<20), 4<<30, total/20)
}

// refresh reads how much space there is.
func (s *space) refresh() {
	usage, err := s.drive.opts.DiskUsage(s.drive.path)
	used := s.drive.usedBytes() // before mu is taken: it waits for the index
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = used
	s.known = err == nil
	if s.known {
		s.usage = usage
	}
	s.taken, s.bottom = 0, false
	s.decide()
}

// decide sets full. It takes an eighth more to resume than to go on, so that
// it does not flutter. The caller holds mu.
func (s *space) decide() {
	left, reserve := s.left(), s.reserve()
	was := s.full
	switch {
	case !s.known && s.drive.opts.CapacityBytes <= 0:
		s.full = s.bottom
	case s.full:
		s.full = s.bottom || left < reserve+reserve/8
	default:
		s.full = s.bottom || left < reserve
	}
	if s.full != was {
		s.drive.log.Warn("drive space", "full", s.full, "left", left, "reserve", reserve)
	}
}

// left is how many bytes the drive may still take, the reserve included. The
// caller holds mu.
func (s *space) left() int64 {
	left := int64(1) << 62
	if s.known {
		left = int64(s.usage.AvailBytes) - s.taken
	}
	if c := s.drive.opts.CapacityBytes; c > 0 {
		left = min(left, c-s.used-s.taken+s.reserve())
	}
	return left
}

// admit takes note of a shard of so many bytes that is about to be written, or
// refuses it.
func (s *space) admit(bytes int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.full && s.left()-bytes >= s.reserve() || !s.full && !s.known && s.drive.opts.CapacityBytes <= 0 {
		s.taken += bytes
		return nil
	}
	return fmt.Errorf("node: drive %s: %w: %d bytes left, %d kept in reserve", s.drive.ID(), metadata.ErrDriveFull, s.left(), s.reserve())
}

// hitBottom says that a write found the device full.
func (s *space) hitBottom() {
	s.mu.Lock()
	s.bottom = true
	s.decide()
	s.mu.Unlock()
	s.dropBallast()
}

// pressed reports whether a write found the device full lately.
func (s *space) pressed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bottom
}

func (s *space) ballastPath() string { return s.drive.fs.PathJoin(s.drive.path, "ballast") }

// dropBallast gives the ballast up, so that deletes and the index can work.
func (s *space) dropBallast() {
	s.mu.Lock()
	had := s.ballast
	s.ballast = 0
	s.mu.Unlock()
	if had == 0 {
		return
	}
	s.removeBallast()
	s.drive.log.Warn("device full, ballast given up", "bytes", had)
}

func (s *space) removeBallast() {
	if err := s.drive.fs.Remove(s.ballastPath()); err != nil && !oserror.IsNotExist(err) {
		s.drive.log.Error("ballast not removed", "err", err)
	}
}

// keepBallast makes the ballast if it is wanted and there is room for it and
// twice the reserve, and removes one that is not wanted.
func (s *space) keepBallast() {
	if s.drive.isFenced() {
		return // another device may be mounted in its place
	}
	s.mu.Lock()
	have, want := s.ballast, s.wanted
	room := s.known && int64(s.usage.AvailBytes) > want+2*s.reserve()
	s.mu.Unlock()
	if have == want || want > 0 && !room {
		return
	}
	s.removeBallast() // of another length
	s.setBallast(0)
	if want == 0 {
		return // another drive of the device keeps it
	}
	if err := s.makeBallast(want); err != nil {
		s.drive.log.Warn("no ballast", "err", err)
		return
	}
	s.setBallast(want)
}

func (s *space) setBallast(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ballast = bytes
}

// makeBallast sets blocks aside for the ballast. The last byte is written so
// that its length shows when it is whole.
func (s *space) makeBallast(bytes int64) error {
	f, err := s.drive.fs.OpenReadWrite(s.ballastPath(), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	err = f.Preallocate(0, bytes)
	if err == nil {
		_, err = f.WriteAt([]byte{0}, bytes-1)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, s.drive.fs.Remove(s.ballastPath()))
	}
	return nil
}

// capacity returns the bytes the drive may hold in all and how many of them
// are free; zero if nobody knows.
func (s *space) capacity() (total, free int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known {
		total = int64(s.usage.TotalBytes) / s.share
		free = max(0, min(s.left()-s.reserve(), total))
	}
	if c := s.drive.opts.CapacityBytes; c > 0 {
		total, free = c, max(0, s.left()-s.reserve())
	}
	return total, free
}

func (s *space) isFull() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full
}

// usedBytes is what records take on the drive, dead ones included.
func (d *Drive) usedBytes() int64 {
	t := d.index.snapshotTotals()
	_, dead := d.segmentBytes()
	return t.Bytes + dead
}

// segmentBytes sums the shared segments.
func (d *Drive) segmentBytes() (all, dead int64) {
	d.segMu.Lock()
	defer d.segMu.Unlock()
	for _, info := range d.segments {
		all += info.bytes
		dead += info.dead
	}
	return all, dead
}
