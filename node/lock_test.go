package node

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestLockOfBadDevice tells a drive that another process holds, which ends the
// start of a server, from one whose file system has failed, which is absent.
func TestLockOfBadDevice(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]error{
		syscall.EAGAIN: ErrInUse,
		syscall.EROFS:  ErrNotWritable, // ext4 after an error of its journal
		syscall.EIO:    ErrNotWritable,
		syscall.EACCES: ErrNotWritable,
		syscall.ENOSPC: ErrNotWritable,
	} {
		fs := vfs.NewMem()
		format(t, fs, "d")
		bad := errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if strings.HasSuffix(op.Path, "LOCK") {
				return err
			}
			return nil
		}))
		n, refused, opened := Open(t.Context(), quietOptions(bad), []string{"d"})
		if opened == nil {
			n.Close()
		}
		if opened != nil || len(refused) != 1 || !errors.Is(refused[0].Err, want) || !errors.Is(refused[0].Err, err) {
			t.Errorf("%v: refused %v, %v; want %v", err, refused, opened, want)
		}
	}
}
