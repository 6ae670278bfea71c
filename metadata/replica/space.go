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

	mu   sync.Mutex // guards what follows
	next time.Time
	last vfs.DiskUsage
	full bool
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
		s.sample(now)
	}
	if s.full {
		return metadata.ErrMetadataFull
	}
	return nil
}

func (s *space) sample(now time.Time) {
	s.next = now.Add(spaceEvery)
	u, err := s.usage()
	if err != nil {
		s.full = false
		return
	}
	reserve := s.reserve
	if reserve == 0 {
		reserve = min(max(int64(u.TotalBytes/50), 16<<20), 512<<20)
	}
	s.last, s.full = u, int64(min(u.AvailBytes, 1<<62)) < reserve
}

func (s *space) state() (vfs.DiskUsage, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.full
}

// adds reports whether commands of a kind make the store grow. A completion
// ends an upload and is let through.
func adds(kind metadata.Kind) bool {
	switch kind {
	case metadata.KindCommitVersion, metadata.KindCommitPart, metadata.KindCreateUpload,
		metadata.KindReserveBucket, metadata.KindOpenBucket, metadata.KindPutSettings,
		metadata.KindPutAccount, metadata.KindPutAccessKey:
		return true
	}
	return false
}
