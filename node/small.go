package node

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// smallFileBytes is the longest small file.
const smallFileBytes = 1 << 20

// WriteSmallFile writes a file beside the superblocks, whole or not at all. It
// is durable when WriteSmallFile returns nil. The only names are
// keyring.sealed.<version>, a decimal number.
func (d *Drive) WriteSmallFile(name string, data []byte) error {
	if _, ok := keyringName(name); !ok || len(data) > smallFileBytes {
		return fmt.Errorf("%w: %s", errSmallFile, name)
	}
	if err := d.usable(); err != nil {
		return err
	}
	d.ownMu.Lock() // one at a time, and none beside the superblock
	defer d.ownMu.Unlock()
	path := d.fs.PathJoin(d.path, name)
	f, err := d.fs.Create(path+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return d.failed("write "+name, err)
	}
	_, err = f.Write(slices.Clone(data))
	if err != nil {
		return errors.Join(d.failed("write "+name, err), f.Close(), d.fs.Remove(path+".new"))
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return d.syncFailed("sync "+name, err)
	}
	if err := d.fs.Rename(path+".new", path); err != nil {
		return d.failed("rename "+name, err)
	}
	if err := syncDir(d.fs, d.path); err != nil {
		return d.syncFailed("sync directory", err)
	}
	return nil
}

// ReadSmallFile reads a file that WriteSmallFile wrote.
func (d *Drive) ReadSmallFile(name string) ([]byte, error) {
	if _, ok := keyringName(name); !ok {
		return nil, fmt.Errorf("%w: %s", errSmallFile, name)
	}
	if err := d.usable(); err != nil {
		return nil, err
	}
	return readFile(d.fs, d.fs.PathJoin(d.path, name), smallFileBytes)
}

// SmallFiles returns the names of the small files, the newest version last.
func (d *Drive) SmallFiles() ([]string, error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	return smallFiles(d.fs, d.path)
}

// SealedKeyrings returns the sealed keyrings in a drive's directory by name,
// without opening the drive: for a start that has lost the system disk.
func SealedKeyrings(fs vfs.FS, path string) (map[string][]byte, error) {
	names, err := smallFiles(fs, path)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, name := range names {
		if files[name], err = readFile(fs, fs.PathJoin(path, name), smallFileBytes); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func smallFiles(fs vfs.FS, path string) ([]string, error) {
	all, err := fs.List(path)
	if err != nil {
		return nil, err
	}
	names := slices.DeleteFunc(all, func(name string) bool {
		_, ok := keyringName(name)
		return !ok
	})
	slices.SortFunc(names, func(a, b string) int {
		va, _ := keyringName(a)
		vb, _ := keyringName(b)
		return cmp.Compare(va, vb)
	})
	return names, nil
}

// RemoveSmallFile removes a small file, durably. One that is not there is no
// error.
func (d *Drive) RemoveSmallFile(name string) error {
	if _, ok := keyringName(name); !ok {
		return fmt.Errorf("%w: %s", errSmallFile, name)
	}
	if err := d.usable(); err != nil {
		return err
	}
	d.ownMu.Lock()
	defer d.ownMu.Unlock()
	if err := d.fs.Remove(d.fs.PathJoin(d.path, name)); err != nil && !oserror.IsNotExist(err) {
		return d.failed("remove "+name, err)
	}
	if err := syncDir(d.fs, d.path); err != nil {
		return d.syncFailed("sync directory", err)
	}
	return nil
}
