package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// writeNew writes a file that does not exist yet, readable by its owner only. It
// is durable when writeNew returns; after an error there is none. It returns how
// many bytes were written.
func writeNew(name string, write func(io.Writer) (int64, error)) (n int64, err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return 0, fmt.Errorf("%s exists already; choose another name", name)
	}
	if err != nil {
		return 0, err
	}
	n, err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = syncDir(filepath.Dir(name))
	}
	if err != nil {
		return 0, errors.Join(err, os.Remove(name))
	}
	return n, nil
}

// syncDir makes the name of a new file durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
