package replica

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
)

// ballastName is the file beside the store's that holds the ballast.
const ballastName = "ballast"

// ballast is space that is kept for the moment when the file system is full
// although commands were refused in time: others write there too. The write
// that finds no space removes it and is tried once more; from then on only
// deletes are taken, until there is room to put it back.
//
// Only writes are tried again. A sync that reports a full disk has failed.
type ballast struct {
	fs    vfs.FS
	path  string
	bytes int64

	mu    sync.Mutex // guards there, and the file
	there bool
}

// find tells whether an earlier process has left the ballast.
func (b *ballast) find() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, err := b.fs.Stat(b.path)
	b.there = err == nil
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// place takes the space, unless it is taken.
func (b *ballast) place() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.there || b.bytes <= 0 {
		return nil
	}
	f, err := b.fs.Create(b.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("replica: ballast: %w", err)
	}
	if err := errors.Join(f.Preallocate(0, b.bytes), f.Close()); err != nil {
		return fmt.Errorf("replica: ballast: %w", errors.Join(err, b.fs.Remove(b.path)))
	}
	b.there = true
	return nil
}

// release gives the space up, and reports whether there was any.
func (b *ballast) release() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.there {
		return false
	}
	b.there = false
	return b.fs.Remove(b.path) == nil
}

// relieve is called when a write found no space. It reports whether trying
// again may help.
func (s *space) relieve(err error) bool {
	if !errors.Is(err, syscall.ENOSPC) || s.reserve < 0 || !s.ballast.release() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = true
	return true
}

// sample asks for free space. mu is held.
func (s *space) sample() {
	u, err := s.usage()
	if err != nil {
		s.full = false // the write itself will tell
		return
	}
	reserve := s.reserve
	if reserve == 0 {
		reserve = min(max(int64(u.TotalBytes/50), 16<<20), 512<<20)
	}
	if s.ballast.bytes == 0 {
		s.ballast.bytes = reserve / 8
	}
	free := int64(min(u.AvailBytes, 1<<62))
	s.last, s.full = u, free < reserve
	if free >= reserve+2*s.ballast.bytes {
		if err := s.ballast.place(); err != nil {
			s.ballast.bytes = -1 // not a file system for it; the reserve is all there is
			s.warn(err)
		}
	}
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
