// Package cryptfs encrypts the files of a store: it is a [vfs.FS] around
// another one, made for Pebble.
//
//	file    | header | content, AES-256-CTR                  |
//	          magic, format, store id, salt, check value
//
// Every file has a key of its own, derived from the key of the store and the
// random salt in its header; nothing else has to be kept about it, so a file
// may be linked, renamed and copied whole. Offsets and sizes are those of the
// content: nobody above notices the header. FORMAT.md has the bytes.
//
// # No keystream twice
//
// A counter mode gives everything away if two texts are encrypted by one
// stretch of its keystream. So a file is written once, from its start to its
// end, by the handle that made it; anything else is refused with
// [ErrOverwrite]. Pebble never asks for it but in one place: it recycles its
// logs. [FS.ReuseForWrite] gives the recycled file a new salt before its first
// write, so what was there before becomes noise, which the records of a log
// tell from records by their checksums and log numbers, as they do after a
// crash.
//
// # Rot is not taken for a torn end
//
// A header is on stable storage before there is content behind it. So content
// without a header has rotted, and is an error: read as an empty log it would
// drop what was acknowledged. Only in a store that has files from before there
// was encryption, which have none, that cannot be told; see [Options].
//
// # What it does not do
//
// It hides content, not names, lengths and times of files, and does not
// authenticate: Pebble's own checksums find damage, but who can write the
// files can change bits. Directories, lock files and files without content are
// as they would be without it. Files that were there before are read as they
// are; [FS.Encrypt] replaces them.
package cryptfs

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/topology"
)

// Key is the 256-bit key of a store. It never prints its bytes, whatever the
// verb.
type Key [32]byte

const redacted = "cryptfs.Key(redacted)"

// Format writes a text without the key for every verb of package fmt.
func (k Key) Format(s fmt.State, _ rune) { io.WriteString(s, redacted) }

// String returns a text without the key.
func (k Key) String() string { return redacted }

// LogValue returns a text without the key.
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// Options say how files are encrypted. All fields but Whole are required.
type Options struct {
	// Key is the key of the store. It must be used for nothing else.
	Key Key

	// Store names the key: the id of the drive, or of the store in a state
	// directory. It stands in every header, so that a file of another store is
	// told from one under a lost key.
	Store topology.DriveID

	// Whole says that the store has no file that lies there unencrypted. One
	// without the header of an encrypted file is damaged then, and refused;
	// else it is taken for one from before there was encryption, and a log of
	// which the header has rotted for one that has nothing to say.
	Whole bool

	// Random gives the salts. It must be a cryptographic source: two files
	// with one salt have one keystream. A simulation gives its own.
	Random io.Reader
}

// FS is a file system with encrypted files. All methods may be called
// concurrently.
type FS struct {
	vfs.FS
	key     *Key // behind a pointer, which is all that printing an FS shows
	store   topology.DriveID
	whole   bool
	random  *random
	buffers sync.Pool // of *[]byte, bufferBytes long
}

var _ vfs.FS = (*FS)(nil)

// New returns a file system whose files lie encrypted in fs.
func New(fs vfs.FS, o Options) (*FS, error) {
	switch {
	case fs == nil || o.Random == nil:
		return nil, errors.New("cryptfs: a file system and a source of random bytes are needed")
	case o.Key == Key{} || o.Store.IsZero():
		return nil, errors.New("cryptfs: key or store id is missing")
	}
	key := o.Key
	f := &FS{key: &key, store: o.Store, whole: o.Whole, random: &random{r: o.Random}}
	return f.Around(fs), nil
}

// Around returns a file system with the same key around another one.
func (f *FS) Around(fs vfs.FS) *FS {
	f = &FS{FS: fs, key: f.key, store: f.store, whole: f.whole, random: f.random}
	f.buffers.New = func() any {
		b := make([]byte, bufferBytes)
		return &b
	}
	return f
}

// random is a source that several goroutines may read.
type random struct {
	mu sync.Mutex
	r  io.Reader
}

func (r *random) fill(b []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := io.ReadFull(r.r, b)
	return err
}

// Format writes what may be shown, for every verb of package fmt.
func (f *FS) Format(s fmt.State, _ rune) { fmt.Fprintf(s, "cryptfs.FS(store %s)", f.store) }

// Unwrap returns the file system below.
func (f *FS) Unwrap() vfs.FS { return f.FS }

// Create implements vfs.FS.
func (f *FS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	inner, err := f.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	return f.writer(name, inner)
}

// writer makes a file that is about to be written from its start. It closes
// inner after an error.
func (f *FS) writer(name string, inner vfs.File) (vfs.File, error) {
	h := header{store: f.store}
	if err := f.random.fill(h.salt[:]); err != nil {
		return nil, errors.Join(fmt.Errorf("cryptfs: %s: random source: %w", name, err), inner.Close())
	}
	s, check, err := derive(f.key, &h)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cryptfs: %s: %w", name, err), inner.Close())
	}
	h.check = check
	return &writer{file: file{File: inner, fs: f, name: name}, stream: s, header: h.marshal()}, nil
}

// Open implements vfs.FS. A file that lies there unencrypted is opened as it
// is. The error names the file and wraps [ErrKey], [ErrForeign], [ErrDamaged]
// or [ErrNewer] if it cannot be decrypted.
func (f *FS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	inner, err := f.FS.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	return f.reader(name, inner)
}

// reader makes a file that is only read. It closes inner after an error.
func (f *FS) reader(name string, inner vfs.File) (vfs.File, error) {
	r := &reader{file: file{File: inner, fs: f, name: name}}
	k, err := r.load()
	if err != nil {
		return nil, errors.Join(err, inner.Close())
	}
	if k == plain {
		return inner, nil
	}
	return r, nil
}

// OpenReadWrite implements vfs.FS. A file that has content can be read and not
// written: its end may have been written before, and lost in a crash.
func (f *FS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	inner, err := f.FS.OpenReadWrite(name, category, opts...)
	if err != nil {
		return nil, err
	}
	info, err := inner.Stat()
	if err != nil {
		return nil, errors.Join(err, inner.Close())
	}
	if info.Size() == 0 && !info.IsDir() {
		return f.writer(name, inner)
	}
	r, err := f.reader(name, inner)
	if err != nil {
		return nil, err
	}
	return &refusing{r, name}, nil
}

// ReuseForWrite implements vfs.FS. An encrypted file gets a new salt with the
// first write, and what it held cannot be read any more. A file that is not
// encrypted is not reused: what a shorter log leaves of it would stay there.
func (f *FS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	k, err := f.kindOf(oldname)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return nil, err
	}
	if err == nil && k == encrypted {
		inner, err := f.FS.ReuseForWrite(oldname, newname, category)
		if err != nil {
			return nil, err
		}
		return f.writer(newname, inner)
	}
	made, err := f.Create(newname, category)
	if err != nil {
		return nil, err
	}
	if err := f.FS.Remove(oldname); err != nil {
		return nil, errors.Join(err, made.Close())
	}
	return made, nil
}

// Stat implements vfs.FS. The size is that of the content.
func (f *FS) Stat(name string) (vfs.FileInfo, error) {
	info, err := f.FS.Stat(name)
	if err != nil || info.IsDir() || info.Size() == 0 {
		return info, err
	}
	k, err := f.kindOf(name)
	if err != nil {
		return nil, err
	}
	return infoOf(info, k), nil
}

// kindOf tells what a file is. It needs no key.
func (f *FS) kindOf(name string) (k kind, err error) {
	inner, err := f.FS.Open(name)
	if err != nil {
		return unwritten, err
	}
	defer func() { err = errors.Join(err, inner.Close()) }()
	_, k, err = f.readHeader(inner)
	if err != nil {
		return k, fmt.Errorf("cryptfs: %s: %w", name, err)
	}
	return k, nil
}

// readHeader reads the first bytes of a file.
func (f *FS) readHeader(inner vfs.File) (h header, k kind, err error) {
	var b [knownBytes]byte
	n, err := inner.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return h, unwritten, err
	}
	if h, k, err = parseHeader(b[:n]); err != nil || k == encrypted || n == 0 {
		return h, k, err
	}
	i, err := inner.Stat()
	if err != nil {
		return h, k, err
	}
	// The header was on stable storage before anything was behind it.
	if k == unwritten && i.Size() > HeaderBytes {
		k = plain
	}
	if k == plain && f.whole && !i.IsDir() {
		return h, k, fmt.Errorf("%w (there is none)", ErrDamaged)
	}
	return h, k, nil
}

// info is the info of a file with the size of its content.
type info struct {
	vfs.FileInfo
	size int64
}

// Size returns the length of the content in bytes.
func (i info) Size() int64 { return i.size }

// infoOf takes the header off the size.
func infoOf(i vfs.FileInfo, k kind) vfs.FileInfo {
	switch k {
	case plain:
		return i
	case encrypted:
		return info{i, max(i.Size()-HeaderBytes, 0)}
	}
	return info{i, 0}
}
