package upgrade

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// corpus says what a store held when it was put away.
type corpus struct {
	Program string         `json:"program"` // version of the program that wrote it
	Version int            `json:"version"` // of the metadata's commands
	Copies  int            `json:"copies"`  // of the metadata
	Drives  int            `json:"drives"`
	Formats map[string]int `json:"formats"` // of the files beside drives and metadata
	Bucket  string         `json:"bucket"`
	Objects []object       `json:"objects"`
	Gone    []string       `json:"gone"`    // keys that were deleted
	Uploads []string       `json:"uploads"` // keys of uploads that are open
}

// object is what a key holds.
type object struct {
	Key         string            `json:"key"`
	Bytes       int64             `json:"bytes"`
	SHA256      string            `json:"sha256"`
	ETag        string            `json:"etag"`
	ContentType string            `json:"content_type"`
	Metadata    map[string]string `json:"metadata,omitempty"`
}

// pack writes the files below dir to an archive, but for those that a start
// makes anew: locks, and space that is held back.
func pack(dir, archive string) (err error) {
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	zip, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	out := tar.NewWriter(zip)
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		name, relErr := filepath.Rel(dir, path)
		if err = errors.Join(err, relErr); err != nil || name == "." || entry.Name() == "LOCK" || strings.Contains(strings.ToLower(entry.Name()), "ballast") {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		h := &tar.Header{Name: filepath.ToSlash(name), Mode: int64(info.Mode().Perm()), Size: info.Size(), Typeflag: tar.TypeReg}
		if entry.IsDir() {
			h.Size, h.Typeflag = 0, tar.TypeDir
			return out.WriteHeader(h)
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, in.Close())
	})
	return errors.Join(err, out.Close(), zip.Close(), f.Close())
}

// unpack makes the files of an archive below dir.
func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", archive, err)
	}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", archive, err)
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("%s: name %q", archive, h.Name)
		}
		path := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(path, fs.FileMode(h.Mode)); err != nil {
				return err
			}
			continue
		}
		out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fs.FileMode(h.Mode))
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		if err = errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
}
