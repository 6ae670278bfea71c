package replica

import (
	"crypto/rand"
	"io"
	"sync"

	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

func cryptoRand() io.Reader { return rand.Reader }

// newSnapshotID draws an id. The source may be shared with other goroutines.
func (s *Store) newSnapshotID(id *snapshot.ID) error {
	s.randMu.Lock()
	defer s.randMu.Unlock()
	_, err := io.ReadFull(s.opts.Rand, id[:])
	return err
}

// lockedReader is a source that several may read.
type lockedReader struct {
	mu sync.Mutex // held while r is read
	r  io.Reader
}

// Read implements [io.Reader].
func (l *lockedReader) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(b)
}
