package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// maxStateFile bounds the small files of the state directory.
const maxStateFile = 4 << 20

// writeFile replaces a file whole: after a crash there is the old one or the
// new one.
func writeFile(name string, content []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// writeJSON writes a value as indented JSON with writeFile.
func writeJSON(name string, value any, mode fs.FileMode) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(name, append(text, '\n'), mode)
}

// readFile reads a small file.
func readFile(name string) ([]byte, error) { return readBounded(name, maxStateFile) }

func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s: longer than %d bytes", name, limit)
	}
	return text, err
}

// readSecretFile reads a file that nobody but its owner may read.
func readSecretFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if open := info.Mode().Perm() & 0o077; open != 0 {
		return nil, &StartError{TooOpen, fmt.Sprintf("%s can be read or written by other users (mode %04o)", name, info.Mode().Perm()),
			"chmod 600 " + name + ", and consider what it holds as known to those who could read it", nil}
	}
	return readFile(name)
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lockState takes the lock of the state directory. It is held until the file
// is closed, also by the end of the process.
func lockState(dir string) (*os.File, error) {
	name := filepath.Join(dir, "LOCK")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, &StartError{AlreadyRunning, "another process serves from " + dir, "stop it first, or give this one another --data", nil}
	}
	return nil, fmt.Errorf("lock %s: %w", name, err)
}
