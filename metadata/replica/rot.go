package replica

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/replica/logcheck"
)

// ErrRot means that files of a store are damaged in a way that no crash
// explains. Opened all the same, the store would have forgotten what it has
// answered.
var ErrRot = errors.New("files of the metadata are damaged: replace this copy, or restore it from a backup")

// checkFiles looks for damage that Pebble would take for a torn end.
func checkFiles(fs vfs.FS, dir string) error {
	err := logcheck.Dir(fs, dir)
	switch {
	case errors.Is(err, logcheck.ErrRot):
		return fmt.Errorf("%w: %w", ErrRot, err)
	case oserror.IsNotExist(err):
		return nil // it is made
	}
	return err
}
