package cryptfs

import (
	"bytes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// bufferBytes is how much is encrypted and written at once.
const bufferBytes = 64 << 10

// file is what readers and writers have in common. Fd is that of the file
// below: Pebble looks whether there is one to decide how it syncs long files,
// and takes it for hints about reading ahead. Nobody may read or write by it.
type file struct {
	vfs.File
	fs   *FS
	name string
}

// failed names the file in an error.
func (f *file) failed(err error) error { return fmt.Errorf("cryptfs: %s: %w", f.name, err) }

// Prefetch implements vfs.File.
func (f *file) Prefetch(offset, length int64) error {
	return f.File.Prefetch(HeaderBytes+offset, length)
}

// Preallocate implements vfs.File.
func (f *file) Preallocate(offset, length int64) error {
	if offset == 0 {
		return f.File.Preallocate(0, HeaderBytes+length)
	}
	return f.File.Preallocate(HeaderBytes+offset, length)
}

// SyncTo implements vfs.File.
func (f *file) SyncTo(length int64) (fullSync bool, err error) {
	return f.File.SyncTo(HeaderBytes + length)
}

// reader is a file that is only read.
type reader struct {
	file
	stream atomic.Pointer[stream] // nil as long as the file has no header
	pos    int64                  // of Read; whoever calls that is alone
}

// load looks at the header, and says what the file is. One that is open while
// it is written for the first time gets its header later.
func (r *reader) load() (kind, error) {
	h, k, err := r.fs.readHeader(r.File)
	if err != nil {
		if i, failed := r.File.Stat(); failed == nil && i.IsDir() {
			return plain, nil
		}
		return k, r.failed(err)
	}
	if k != encrypted {
		return k, nil
	}
	s, err := unlock(r.fs.key, r.fs.store, &h)
	if err != nil {
		return k, r.failed(err)
	}
	r.stream.Store(s)
	return k, nil
}

// ReadAt implements vfs.File. It may be called concurrently.
func (r *reader) ReadAt(p []byte, offset int64) (int, error) {
	s := r.stream.Load()
	if s == nil {
		switch k, err := r.load(); {
		case err != nil:
			return 0, err
		case k == plain:
			return 0, r.failed(ErrDamaged) // it was not when it was opened
		case k == unwritten:
			return 0, io.EOF
		}
		s = r.stream.Load()
	}
	if offset < 0 {
		return 0, r.failed(errors.New("negative offset"))
	}
	n, err := r.File.ReadAt(p, HeaderBytes+offset)
	s.at(offset).XORKeyStream(p[:n], p[:n])
	return n, err
}

// Read implements vfs.File.
func (r *reader) Read(p []byte) (int, error) {
	n, err := r.ReadAt(p, r.pos)
	r.pos += int64(n)
	return n, fewer(n, err)
}

// fewer is the error of a Read whose ReadAt has returned err: what comes
// before the end is no end.
func fewer(n int, err error) error {
	if n > 0 && errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Stat implements vfs.File.
func (r *reader) Stat() (vfs.FileInfo, error) {
	i, err := r.File.Stat()
	if err != nil || i.Size() == 0 {
		return i, err
	}
	if r.stream.Load() != nil {
		return infoOf(i, encrypted), nil
	}
	k, err := r.load()
	if err != nil {
		return nil, err
	}
	return infoOf(i, k), nil
}

// Write refuses: the file is open for reading.
func (r *reader) Write([]byte) (int, error) { return 0, r.failed(ErrOverwrite) }

// WriteAt refuses: the file is open for reading.
func (r *reader) WriteAt([]byte, int64) (int, error) { return 0, r.failed(ErrOverwrite) }

// refusing is a file with content that was opened for reading and writing.
type refusing struct {
	vfs.File
	name string
}

// Write refuses to change what is there.
func (r *refusing) Write([]byte) (int, error) {
	return 0, fmt.Errorf("cryptfs: %s: %w", r.name, ErrOverwrite)
}

// WriteAt refuses to change what is there.
func (r *refusing) WriteAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("cryptfs: %s: %w", r.name, ErrOverwrite)
}

// writer is a file that is written from its start. As of any vfs.File, writes
// and syncs are not concurrent; ReadAt may be called besides.
type writer struct {
	file
	stream *stream
	header []byte       // what of the header was not written yet
	broken error        // why nothing is written any more
	end    atomic.Int64 // of what was written of the content
	pos    int64        // of Read and Write

	// next is the keystream from end on, nil if it has to be made.
	next cipher.Stream
}

// Write implements vfs.File. It does not change p. The header goes before the
// first bytes of the content: a file without content has none.
func (w *writer) Write(p []byte) (int, error) {
	if w.pos != w.end.Load() {
		return 0, w.failed(ErrOverwrite)
	}
	n, err := w.append(p)
	w.pos += int64(n)
	return n, err
}

// WriteAt implements vfs.File. It writes at the end only.
func (w *writer) WriteAt(p []byte, offset int64) (int, error) {
	if offset != w.end.Load() {
		return 0, w.failed(ErrOverwrite)
	}
	return w.append(p)
}

// append encrypts p and writes it at the end, and returns how much of it was
// written.
func (w *writer) append(p []byte) (written int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := w.begin(); err != nil {
		return 0, err
	}
	buffer := w.fs.buffers.Get().(*[]byte)
	defer w.fs.buffers.Put(buffer)
	for len(p) > 0 && err == nil {
		var n int
		n, err = w.appendSome(p, *buffer)
		p, written = p[n:], written+n
	}
	return written, err
}

// begin writes the header, and has it on stable storage before anything stands
// behind it: a file that has content and no header is damaged, never torn. A
// sync that has failed is not repeated.
func (w *writer) begin() error {
	if w.broken != nil || len(w.header) == 0 {
		return w.broken
	}
	n, err := w.File.Write(bytes.Clone(w.header)) // the file below may change what it is given
	w.header = w.header[n:]
	switch {
	case err != nil:
		return err
	case len(w.header) > 0:
		return io.ErrShortWrite
	}
	w.broken = w.File.SyncData()
	return w.broken
}

// appendSome writes as much of p as buffer has room for.
func (w *writer) appendSome(p, buffer []byte) (int, error) {
	p = p[:min(len(p), len(buffer))]
	if w.next == nil {
		w.next = w.stream.at(w.end.Load())
	}
	w.next.XORKeyStream(buffer, p)
	n, err := w.File.Write(buffer[:len(p)])
	if n < len(p) {
		w.next = nil // it is ahead of what was written
		if err == nil {
			err = io.ErrShortWrite
		}
	}
	w.end.Add(int64(n))
	return n, err
}

// ReadAt implements vfs.File.
func (w *writer) ReadAt(p []byte, offset int64) (int, error) {
	left := w.end.Load() - offset
	switch {
	case offset < 0:
		return 0, w.failed(errors.New("negative offset"))
	case left <= 0:
		return 0, io.EOF // a recycled file has more, of its earlier life
	}
	whole := p
	p = p[:min(int64(len(p)), left)]
	n, err := w.File.ReadAt(p, HeaderBytes+offset)
	w.stream.at(offset).XORKeyStream(p[:n], p[:n])
	if err == nil && n < len(whole) {
		err = io.EOF
	}
	return n, err
}

// Read implements vfs.File.
func (w *writer) Read(p []byte) (int, error) {
	n, err := w.ReadAt(p, w.pos)
	w.pos += int64(n)
	return n, fewer(n, err)
}

// Stat implements vfs.File.
func (w *writer) Stat() (vfs.FileInfo, error) {
	i, err := w.File.Stat()
	if err != nil {
		return nil, err
	}
	return infoOf(i, encrypted), nil
}
