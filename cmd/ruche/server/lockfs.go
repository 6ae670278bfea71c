package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// lockFS locks files by what they are, not by their names. A copy that has
// failed cannot be closed, and keeps its lock until the process ends; the one
// that is made in its place has a lock file of its own, with the same name.
type lockFS struct{ vfs.FS }

// Unwrap returns the file system below.
func (f lockFS) Unwrap() vfs.FS { return f.FS }

// Lock implements vfs.FS.
func (f lockFS) Lock(name string) (io.Closer, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), file.Close())
	}
	return file, nil
}
