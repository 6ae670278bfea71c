package cryptfs

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Plain lists the files below dir whose content lies there unencrypted, with
// their paths, in order. Only those for whose base name which returns true are
// looked at. The store may be open.
func (f *FS) Plain(dir string, which func(name string) bool) ([]string, error) {
	names, err := f.FS.List(dir)
	if err != nil {
		return nil, fmt.Errorf("cryptfs: %w", err)
	}
	slices.Sort(names)
	var found []string
	for _, name := range names {
		path := f.FS.PathJoin(dir, name)
		info, err := f.FS.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // the store goes on deleting
			continue
		case err != nil:
			return nil, fmt.Errorf("cryptfs: %w", err)
		case info.IsDir():
			below, err := f.Plain(path, which)
			if err != nil {
				return nil, err
			}
			found = append(found, below...)
			continue
		case info.Size() == 0 || !which(name):
			continue
		}
		k, err := f.kindOf(path)
		switch {
		case errors.Is(err, fs.ErrNotExist), k == encrypted: // even if it cannot be read: who opens it is told
		case err != nil:
			return nil, err
		case k == plain:
			found = append(found, path)
		}
	}
	return found, nil
}

// Encrypted reports whether one of the files in dir is encrypted. A directory
// that is not there holds none.
func Encrypted(below vfs.FS, dir string) (bool, error) {
	names, err := below.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cryptfs: %w", err)
	}
	f := &FS{FS: below}
	for _, name := range names {
		path := below.PathJoin(dir, name)
		if info, err := below.Stat(path); err != nil || info.IsDir() {
			continue
		}
		if k, _ := f.kindOf(path); k == encrypted { // one whose header is damaged, too
			return true, nil
		}
	}
	return false, nil
}

// Check opens every file in dir, and returns the first error: one that wraps
// [ErrKey] or [ErrForeign] if the key is not theirs. Files that go away meanwhile are no error.
func (f *FS) Check(dir string) error {
	names, err := f.FS.List(dir)
	if err != nil {
		return fmt.Errorf("cryptfs: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		file, err := f.Open(f.FS.PathJoin(dir, name))
		if err == nil {
			err = file.Close()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// IsTable reports whether a file name is that of a table of Pebble's, which
// never changes: [FS.Encrypt] may replace it while the store is open.
func IsTable(name string) bool { return strings.HasSuffix(name, ".sst") }

// IsNoTable is the opposite of [IsTable]. Such files can only be replaced while
// the store is closed.
func IsNoTable(name string) bool { return !IsTable(name) && name != "LOCK" }

// Encrypt replaces a file that lies unencrypted by one with the same content
// that does not. After a crash there is the one or the other, and perhaps a
// temporary file, which Pebble removes when it opens the store. A file that is
// gone is no error. The file must not be written meanwhile; who has it open
// goes on reading the old one.
func (f *FS) Encrypt(path string) error {
	if err := f.encrypt(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cryptfs: encrypt %s: %w", path, err)
	}
	return nil
}

func (f *FS) encrypt(path string) error {
	dir := f.FS.PathDir(path)
	temporary := f.FS.PathJoin(dir, temporaryName(f.FS.PathBase(path)))
	err := f.copy(path, temporary)
	if err == nil {
		// The store may have deleted the file meanwhile. One that is deleted
		// from here on comes back, until the store is opened the next time and
		// finds that it belongs to nothing.
		_, err = f.FS.Stat(path)
	}
	if err == nil {
		err = f.FS.Rename(temporary, path)
	}
	if err != nil {
		if gone := f.FS.Remove(temporary); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		return err
	}
	d, err := f.FS.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// temporaryName is a name that Pebble takes for one of its temporary files. It
// has the number of the file, which nothing else has that is of one kind.
func temporaryName(base string) string {
	number := strings.Trim(base, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-.")
	return "temporary." + cmp.Or(number, "0") + ".dbtmp"
}

// copy makes a durable copy of a file.
func (f *FS) copy(from, to string) error {
	src, err := f.Open(from, vfs.SequentialReadsOption)
	if err != nil {
		return err
	}
	dst, err := f.Create(to, vfs.WriteCategoryUnspecified)
	if err != nil {
		return errors.Join(err, src.Close())
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, 256<<10))
	if err == nil {
		err = dst.Sync()
	}
	return errors.Join(err, dst.Close(), src.Close())
}
