package replica

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fenceFS stops the store at the first failed write.
//
// Pebble answers a failed log by a panic, at places where it cannot be
// recovered from, because locks are held or already given up; and it tries a
// failed flush again at once, for ever. So the store never learns of a failure:
// the call that failed fences the engine and does not return, nor does any
// later one. Whoever waits for the engine is told by its fence; the goroutines
// of the store that hang end with the process.
type fenceFS struct {
	vfs.FS
	armed  atomic.Bool // not while the store is opened: then errors are returned
	fail   func(error)
	failed func() error
	// relieve makes room after an error and reports whether a write that got
	// it may succeed now.
	relieve func(error) bool
}

// Unwrap returns the file system below.
func (f *fenceFS) Unwrap() vfs.FS { return f.FS }

// check returns err, or does not return.
func (f *fenceFS) check(op, name string, err error) error {
	if !f.armed.Load() || err == nil && f.failed() == nil {
		return err
	}
	if err != nil {
		f.fail(fmt.Errorf("replica: %s %s: %w", op, name, err))
	}
	select {}
}

// Create implements vfs.FS.
func (f *fenceFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(f.PathBase(name), markerPrefix) {
		if err := f.check("sync", name, f.syncDir(f.PathDir(name))); err != nil {
			return nil, err
		}
	}
	file, err := f.FS.Create(name, category)
	if err != nil && f.relieve(err) {
		file, err = f.FS.Create(name, category)
	}
	return f.wrap("create", name, file, err)
}

// markerPrefix is what the names of markers begin with: empty files whose names
// say which file counts, the newest manifest for one. Pebble makes both durable
// by one sync of the directory, and a file system that does not keep the order
// of changes may in a power cut keep the marker without the file.
const markerPrefix = "marker."

// syncDir makes the entries of a directory durable.
func (f *fenceFS) syncDir(dir string) error {
	d, err := f.FS.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ReuseForWrite implements vfs.FS.
func (f *fenceFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(oldname, newname, category)
	return f.wrap("reuse", newname, file, err)
}

func (f *fenceFS) wrap(op, name string, file vfs.File, err error) (vfs.File, error) {
	if err := f.check(op, name, err); err != nil {
		return nil, err
	}
	return &fenceFile{File: file, fs: f, name: name}, nil
}

// Rename implements vfs.FS.
func (f *fenceFS) Rename(oldname, newname string) error {
	return f.check("rename", newname, f.FS.Rename(oldname, newname))
}

// OpenDir implements vfs.FS. Directories are synced when files are made.
func (f *fenceFS) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &fenceDir{fenceFile{File: file, fs: f, name: name}}, nil
}

// fenceDir is a directory. Pebble panics if one cannot be synced, also while it
// opens.
type fenceDir struct{ fenceFile }

// Sync implements vfs.File. It does not return after a failure.
func (f *fenceDir) Sync() error {
	if err := f.File.Sync(); err != nil {
		f.fs.fail(fmt.Errorf("replica: sync directory %s: %w", f.name, err))
		select {}
	}
	return f.fs.check("sync", f.name, nil)
}

// fenceFile is a file that was made.
type fenceFile struct {
	vfs.File
	fs   *fenceFS
	name string
}

// Write implements vfs.File.
func (f *fenceFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	if err != nil && f.fs.relieve(err) {
		var more int
		more, err = f.File.Write(p[n:])
		n += more
	}
	return n, f.fs.check("write", f.name, err)
}

// WriteAt implements vfs.File.
func (f *fenceFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	return n, f.fs.check("write", f.name, err)
}

// Preallocate implements vfs.File. It only saves work: whether there is room for
// what is really written, the write tells.
func (f *fenceFile) Preallocate(off, n int64) error {
	err := f.File.Preallocate(off, n)
	if errors.Is(err, syscall.ENOSPC) {
		err = nil
	}
	return f.fs.check("preallocate", f.name, err)
}

// Sync implements vfs.File.
func (f *fenceFile) Sync() error { return f.fs.check("sync", f.name, f.File.Sync()) }

// SyncData implements vfs.File.
func (f *fenceFile) SyncData() error { return f.fs.check("sync", f.name, f.File.SyncData()) }

// SyncTo implements vfs.File.
func (f *fenceFile) SyncTo(n int64) (fullSync bool, err error) {
	fullSync, err = f.File.SyncTo(n)
	return fullSync, f.fs.check("sync", f.name, err)
}

// Close implements vfs.File.
func (f *fenceFile) Close() error { return f.fs.check("close", f.name, f.File.Close()) }
