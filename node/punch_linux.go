package node

import (
	"errors"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

func punchDescriptor(fd uintptr, offset, length int64) error {
	err := unix.Fallocate(int(fd), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return vfs.ErrUnsupported
	}
	return err
}

// trimDescriptor gives back the blocks that were set aside behind the end of a
// file of the given length.
func trimDescriptor(fd uintptr, length int64) error { return unix.Ftruncate(int(fd), length) }
