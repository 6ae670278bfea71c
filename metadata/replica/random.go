package replica

import (
	"crypto/rand"
	"io"

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
