package node

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
)

// indexDir is the directory of the index in that of its drive.
const indexDir = "idx"

// indexFS is the file system of the index in dir: it gives up the ballast when
// the device is full, and holds back the database's retries on a fenced drive,
// which have no pause of their own.
func (d *Drive) indexFS(dir string) (vfs.FS, error) {
	fs := vfs.OnDiskFull(d.fs, d.space.dropBallast)
	if d.opts.IndexFS != nil {
		var err error
		if fs, err = d.opts.IndexFS(d.id, dir, fs); err != nil {
			return nil, err
		}
	}
	return gatedFS{FS: fs, drive: d}, nil
}

type gatedFS struct {
	vfs.FS
	drive *Drive
}

// Create fails on a fenced drive, once the drive is being closed.
func (g gatedFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	d := g.drive
	if d.isFenced() {
		if d.started.Load() {
			<-d.closing
		}
		return nil, metadata.ErrFenced
	}
	if d.started.Load() && d.space.pressed() {
		select {
		case <-d.closing:
		case <-d.opts.Clock.After(indexRetryPause):
		}
	}
	return g.FS.Create(name, category)
}

// OpenDir opens a directory whose failed sync fences the drive. The database
// is not told: it would end the process.
func (g gatedFS) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return gatedDir{f, g.drive}, nil
}

type gatedDir struct {
	vfs.File
	drive *Drive
}

// Sync makes the entries of the directory durable, or fences the drive.
func (f gatedDir) Sync() error {
	if err := f.File.Sync(); err != nil {
		f.drive.fence(fmt.Errorf("index: sync directory: %w", err))
	}
	return nil
}

// Unwrap returns the file system below.
func (g gatedFS) Unwrap() vfs.FS { return g.FS }
