package simtest

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// step is one call that a store makes on its file system.
type step struct {
	verb string // "create", "write", "overwrite", "sync", "rename", "remove", "link", "mkdir", "preallocate", "open", "read"
	path string
	dir  bool // the file is a directory
	off  int64
	n    int
}

// name says what a step does, whichever file it is: "segment sync".
func (s *step) name() string {
	what := kindOf(s.path)
	if s.dir {
		what += " directory"
	}
	return what + " " + s.verb
}

// kindOf names the part of a store that a path belongs to.
func kindOf(path string) string {
	below, ok := strings.CutPrefix(path, "drives/")
	if !ok {
		return "metadata"
	}
	_, in, _ := strings.Cut(below, "/")
	switch {
	case in == "":
		return "drive"
	case strings.HasPrefix(in, "superblock"):
		return "superblock"
	case strings.HasPrefix(in, "idx"):
		return "index"
	case strings.HasPrefix(in, "seg"):
		return "segment"
	}
	return "drive file"
}

// driveOf returns the directory of the drive that a path lies on, "" if it lies
// on none.
func driveOf(path string) string {
	below, ok := strings.CutPrefix(path, "drives/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(below, "/")
	return "drives/" + name
}

// errSkipped has a step answered as if it had been done.
var errSkipped = errors.New("simtest: skipped")

// disk is the file system of a machine, with whatever is to go wrong in it. Its
// hooks are called by many goroutines at once, and are set before the store is
// opened.
type disk struct {
	vfs.FS
	before func(*step) error       // what it returns is the step's result, unless nil
	after  func(*step)             // of steps that were done
	rot    func(s *step, p []byte) // may change what a read returns
	list   func(dir string, names []string) []string
	usage  func(path string) vfs.DiskUsage // nil asks the FS
}

var _ vfs.FS = (*disk)(nil)

// do carries out a step between its hooks.
func (d *disk) do(s *step, f func() error) error {
	if d.before != nil {
		if err := d.before(s); errors.Is(err, errSkipped) {
			return nil
		} else if err != nil {
			return err
		}
	}
	if err := f(); err != nil {
		return err
	}
	if d.after != nil {
		d.after(s)
	}
	return nil
}

// opened opens a file as a step.
func (d *disk) opened(s *step, f func() (vfs.File, error)) (out vfs.File, err error) {
	err = d.do(s, func() error {
		file, err := f()
		out = &diskFile{File: file, d: d, path: s.path, dir: s.dir}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (d *disk) Unwrap() vfs.FS { return d.FS }

func (d *disk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.opened(&step{verb: "create", path: name}, func() (vfs.File, error) { return d.FS.Create(name, c) })
}

func (d *disk) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.opened(&step{verb: "open", path: name}, func() (vfs.File, error) { return d.FS.Open(name, opts...) })
}

func (d *disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.opened(&step{verb: "create", path: name}, func() (vfs.File, error) { return d.FS.OpenReadWrite(name, c, opts...) })
}

func (d *disk) OpenDir(name string) (vfs.File, error) {
	return d.opened(&step{verb: "open", path: name, dir: true}, func() (vfs.File, error) { return d.FS.OpenDir(name) })
}

func (d *disk) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.opened(&step{verb: "rename", path: newname}, func() (vfs.File, error) { return d.FS.ReuseForWrite(oldname, newname, c) })
}

func (d *disk) Link(oldname, newname string) error {
	return d.do(&step{verb: "link", path: newname}, func() error { return d.FS.Link(oldname, newname) })
}

func (d *disk) Rename(oldname, newname string) error {
	return d.do(&step{verb: "rename", path: newname}, func() error { return d.FS.Rename(oldname, newname) })
}

func (d *disk) Remove(name string) error {
	return d.do(&step{verb: "remove", path: name}, func() error { return d.FS.Remove(name) })
}

func (d *disk) RemoveAll(name string) error {
	return d.do(&step{verb: "remove", path: name}, func() error { return d.FS.RemoveAll(name) })
}

func (d *disk) List(dir string) ([]string, error) {
	names, err := d.FS.List(dir)
	if err == nil && d.list != nil {
		names = d.list(dir, names)
	}
	return names, err
}

func (d *disk) GetDiskUsage(path string) (vfs.DiskUsage, error) {
	if d.usage == nil {
		return d.FS.GetDiskUsage(path)
	}
	return d.usage(path), nil
}

func (d *disk) MkdirAll(name string, perm os.FileMode) error {
	return d.do(&step{verb: "mkdir", path: name, dir: true}, func() error { return d.FS.MkdirAll(name, perm) })
}

// diskFile is an open file of a disk.
type diskFile struct {
	vfs.File
	d    *disk
	path string
	dir  bool

	mu  sync.Mutex // guards off
	off int64      // of the next Write or Read
}

// moved returns the offset of the next n bytes.
func (f *diskFile) moved(n int) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off += int64(n)
	return f.off - int64(n)
}

func (f *diskFile) Write(p []byte) (int, error) {
	s := &step{verb: "write", path: f.path, off: f.moved(len(p)), n: len(p)}
	err := f.d.do(s, func() error { return whole(f.File.Write(p)) })
	if err != nil {
		return 0, err
	}
	return s.n, nil
}

func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.d.do(&step{verb: "overwrite", path: f.path, off: off, n: len(p)}, func() error { return whole(f.File.WriteAt(p, off)) })
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// whole drops the count of a call that does all or fails.
func whole(_ int, err error) error { return err }

func (f *diskFile) Preallocate(off, n int64) error {
	return f.d.do(&step{verb: "preallocate", path: f.path, off: off, n: int(n)}, func() error { return f.File.Preallocate(off, n) })
}

func (f *diskFile) Sync() error {
	return f.d.do(&step{verb: "sync", path: f.path, dir: f.dir}, f.File.Sync)
}

func (f *diskFile) SyncData() error {
	return f.d.do(&step{verb: "sync", path: f.path, dir: f.dir}, f.File.SyncData)
}

func (f *diskFile) SyncTo(n int64) (full bool, err error) {
	err = f.d.do(&step{verb: "sync", path: f.path, dir: f.dir}, func() (err error) {
		full, err = f.File.SyncTo(n)
		return err
	})
	return full, err
}

func (f *diskFile) ReadAt(p []byte, off int64) (n int, err error) {
	return f.read(&step{verb: "read", path: f.path, off: off, n: len(p)}, p, func() (int, error) { return f.File.ReadAt(p, off) })
}

func (f *diskFile) Read(p []byte) (n int, err error) {
	n, err = f.read(&step{verb: "read", path: f.path, off: f.moved(0), n: len(p)}, p, func() (int, error) { return f.File.Read(p) })
	f.moved(n)
	return n, err
}

func (f *diskFile) read(s *step, p []byte, read func() (int, error)) (n int, err error) {
	ended := false
	err = f.d.do(s, func() (err error) {
		n, err = read()
		if ended = errors.Is(err, io.EOF); ended {
			err = nil
		}
		return err
	})
	if err == nil && f.d.rot != nil {
		f.d.rot(s, p[:n])
	}
	if err == nil && ended {
		err = io.EOF
	}
	return n, err
}

// files returns the paths of all files below a directory, in order.
func files(fs vfs.FS, dir string) (out []string, err error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		info, err := fs.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			out = append(out, path)
			continue
		}
		below, err := files(fs, path)
		if err != nil {
			return nil, err
		}
		out = append(out, below...)
	}
	return out, nil
}

// change overwrites the bytes of a file at rest, from an offset on, durably.
func change(fs vfs.FS, path string, off int64, f func(p []byte), n int) error {
	file, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	p := make([]byte, n)
	_, err = file.ReadAt(p, off)
	if err == nil || errors.Is(err, io.EOF) {
		f(p)
		_, err = file.WriteAt(p, off)
	}
	return errors.Join(err, file.Sync(), file.Close())
}
