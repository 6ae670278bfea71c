package node

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
)

// Reasons why a directory is not opened as a drive. Each names the remedy.
var (
	// ErrUnformatted says that a directory holds no superblock.
	ErrUnformatted = errors.New("not a drive of a cluster: mount the drive there, or run `ruche drive replace` to format it")

	// ErrForeignDrive says that a drive belongs to another cluster.
	ErrForeignDrive = errors.New("drive of another cluster: mount the right drive, or empty the directory and run `ruche drive replace`")

	// ErrClonedDrive says that a drive is a copy: another one with its id is
	// open, or its incarnation is older than the cluster remembers.
	ErrClonedDrive = errors.New("copy of another drive: remove the copy, or empty it and run `ruche drive replace`")

	// ErrSuperblock says that both superblocks of a drive are damaged.
	ErrSuperblock = errors.New("both superblocks damaged: check the device; if it is sound, empty the directory and run `ruche drive replace`")

	// ErrNewerFormat says that a drive was used by a newer program.
	ErrNewerFormat = errors.New("written by a newer version of ruche: start that version or a later one")

	// ErrInUse says that another process holds the drive.
	ErrInUse = errors.New("in use by another process: stop that one first")

	// ErrNotWritable says that the drive cannot be written.
	ErrNotWritable = errors.New("not writable: check the owner and permissions of the directory, and that its file system is mounted read-write")

	// ErrFormatted says that a directory to be formatted is not empty.
	ErrFormatted = errors.New("directory is not empty: choose an empty one, or empty it first")

	// ErrClosed says that the drive or node was closed.
	ErrClosed = errors.New("node: closed")
)

// ended returns why a context has ended. A deadline that passed is the drive's
// slowness to whoever set it.
func ended(ctx context.Context) error {
	err := context.Cause(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("node: %w: %w", metadata.ErrSlow, err)
	}
	return err
}

// lockError says why the lock of a drive could not be taken: a device that takes
// no writes is no other process.
func lockError(err error) error {
	var errno syscall.Errno
	if oserror.IsPermission(err) || errors.As(err, &errno) && errno != syscall.EAGAIN {
		return ErrNotWritable
	}
	return ErrInUse
}

// isNoSpace reports whether err says that the device, or a quota, is full, and
// what was to be done can be tried again when there is room.
func isNoSpace(err error) bool {
	return err != nil && !errors.Is(err, errDirSync) && (vfs.IsNoSpaceError(err) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT))
}
