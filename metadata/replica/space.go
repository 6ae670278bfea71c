package replica

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
)

// spaceEvery is how often free space is asked for at most, by the injected
// clock.
const spaceEvery = 250 * time.Millisecond

// space decides whether there is room for commands that add. It refuses before
// the store is full, because a store that cannot write its log cannot take
// deletes either.
type space struct {
	reserve int64
	usage   func() (vfs.DiskUsage, error)
	warn    func(error)
	ballast *ballast

	mu   sync.Mutex // guards what follows
	next time.Time
	last vfs.DiskUsage
	full bool
}

func newSpace(dir string, o Options) *space {
	return &space{
		reserve: o.ReserveBytes,
		usage:   o.DiskUsage,
		warn:    func(err error) { o.Logger.Warn("metadata without ballast", "err", err) },
		ballast: &ballast{fs: o.FS, path: o.FS.PathJoin(dir, ballastName)},
	}
}

// admit returns metadata.ErrMetadataFull if there is no room for a command of
// this kind. Free space that cannot be asked for refuses nothing: the write
// itself will tell.
func (s *space) admit(kind metadata.Kind, now time.Time) error {
	if s.reserve < 0 || !adds(kind) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// A clock that was set back must not stop the sampling.
	if wait := s.next.Sub(now); wait <= 0 || wait > spaceEvery {
		s.next = now.Add(spaceEvery)
		s.sample()
	}
	if s.full {
		return metadata.ErrMetadataFull
	}
	return nil
}

func (s *space) state() (vfs.DiskUsage, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.full
}
