package server

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// localPath is the directory of the copy of the metadata in the state directory.
func (p *process) localPath() string { return filepath.Join(p.dir, "metadata") }

// places lists where copies of the metadata may lie: the open drives in the
// order of the settings, then the state directory.
func (p *process) places() (out []place) {
	open := p.node.Drives()
	for _, path := range p.c.DrivePaths() {
		for _, d := range open {
			if abs, err := filepath.Abs(path); err == nil && abs == d.Path() {
				out = append(out, place{filepath.Join(abs, metaName), d.ID(), device(abs)})
			}
		}
	}
	return append(out, place{path: p.localPath(), device: device(p.dir)})
}

// openMetadata opens the metadata.
func (p *process) openMetadata(context.Context) error {
	dir := p.localPath()
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !p.first.is {
		return &StartError{MetadataLost, dir + " is missing while drives hold data",
			"restore the state directory from its backup; without the metadata the objects on the drives cannot be found", nil}
	}
	files, err := p.stateFS()
	if err != nil {
		return err
	}
	meta, err := replica.Open(dir, replica.Options{
		FS: files, Now: p.Now, Logger: p.Log.With("part", "metadata"), AcceptClock: p.c.AcceptClock,
		OnFailure: func(err error) {
			select {
			case p.failed <- err:
			default: // one is enough to end the process
			}
		},
	})
	if errors.Is(err, replica.ErrAbsurdClock) {
		return &StartError{ClockAbsurd, "the clock of this machine", "set the clock (timedatectl, chrony); if it is right, start once with --accept-clock", err}
	}
	if errors.Is(err, cryptfs.ErrKey) {
		return p.keyringMismatch(err)
	}
	if err != nil {
		return fileErrorOr(Damaged, "metadata "+dir, "check the device of the state directory; restore it from its backup if it is damaged", err)
	}
	p.meta = meta
	if p.first.is {
		// The names of all objects are there, and the directory above may have
		// been made by somebody who lets others in.
		if err := os.Chmod(dir, 0o700); err != nil {
			return errors.Join(fileError("protect "+dir, err), meta.Close())
		}
	}
	p.onClose("metadata", func() error {
		if err := meta.Close(); !errors.Is(err, metadata.ErrUnavailable) {
			return err
		}
		return nil // it has failed before, and that was said
	})
	return nil
}
