package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// DefaultStageBytes is how much a stage holds unless it is told otherwise.
const DefaultStageBytes = 1 << 40

// Names in the directory of a staged snapshot.
const (
	headerName   = "header"
	completeName = "complete"
)

func tableName(n uint64) string   { return fmt.Sprintf("%08d.sst", n) }
func headName(n uint64) string    { return fmt.Sprintf("%08d.head", n) }
func installName(n uint64) string { return fmt.Sprintf("install-%08d.sst", n) }

// StageOptions adjusts a Stage.
type StageOptions struct {
	// MaxBytes is the most that all staged tables may hold together. Zero
	// means DefaultStageBytes.
	MaxBytes int64

	// ReserveBytes are left free on the file system.
	ReserveBytes int64

	// DiskUsage returns the free and total bytes of the file system. Nil asks
	// the file system; one that cannot tell refuses nothing.
	DiskUsage func() (vfs.DiskUsage, error)
}

// Stage is the directory of a store where snapshots are received. All methods
// may be called concurrently.
type Stage struct {
	fs   vfs.FS
	dir  string
	opts StageOptions

	mu    sync.Mutex // guards what follows
	live  map[ID]*Receive
	bytes map[ID]uint64 // of the tables of each staged snapshot
}

// OpenStage opens the stage in dir and makes it if it is not there. What an
// interrupted transfer left stays, to be gone on with by Begin; what cannot be
// gone on with is removed. fsys must name files as the file system of the state
// Pebble does, and must not hold up failed writes.
func OpenStage(fsys vfs.FS, dir string, o StageOptions) (*Stage, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultStageBytes
	}
	if o.DiskUsage == nil {
		o.DiskUsage = func() (vfs.DiskUsage, error) { return fsys.GetDiskUsage(dir) }
	}
	s := &Stage{fs: fsys, dir: dir, opts: o, live: make(map[ID]*Receive), bytes: make(map[ID]uint64)}
	if err := s.find(); err != nil {
		return nil, fmt.Errorf("snapshot: stage %s: %w", dir, err)
	}
	return s, nil
}

// find reads what is there and removes what is of no use.
func (s *Stage) find() error {
	if err := s.fs.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if err := syncDir(s.fs, s.fs.PathDir(s.dir)); err != nil {
		return err
	}
	names, err := s.fs.List(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		id, ok := parseID(name)
		if ok {
			var at Position
			if _, at, _, err = s.load(id); err == nil {
				s.bytes[id] = at.Bytes
				continue
			}
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := s.fs.RemoveAll(s.fs.PathJoin(s.dir, name)); err != nil {
			return err
		}
	}
	return syncDir(s.fs, s.dir)
}

func parseID(name string) (id ID, ok bool) {
	b, err := hex.DecodeString(name)
	if err != nil || len(b) != len(id) || hex.EncodeToString(b) != name {
		return id, false
	}
	return ID(b), true
}

func (s *Stage) path(id ID, name string) string {
	return s.fs.PathJoin(s.fs.PathJoin(s.dir, id.String()), name)
}

// load reads the header of a staged snapshot and the heads of its pieces, as
// far as they follow on each other, and returns the position behind them.
func (s *Stage) load(id ID) (h Header, at Position, heads []Piece, err error) {
	b, err := s.readMessage(id, headerName)
	if err == nil {
		h, err = DecodeHeader(b)
	}
	if err == nil && h.ID != id {
		err = fmt.Errorf("%w: header of %s", ErrCorrupt, h.ID)
	}
	if err != nil {
		return Header{}, Position{}, nil, err
	}
	at = h.Start()
	for n := uint64(1); ; n++ {
		b, err := s.readMessage(id, headName(n))
		var p Piece
		if err == nil {
			p, err = DecodePiece(b)
		}
		if errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
			return h, at, heads, nil // power was cut while this one was written
		}
		if err != nil {
			return Header{}, Position{}, nil, err
		}
		next := at.next(&p)
		info, err := s.fs.Stat(s.path(id, tableName(n)))
		if p.Snapshot != id || p.Number != n || next.Chain != p.Chain || err != nil || info.Size() != int64(p.Bytes) {
			return h, at, heads, nil
		}
		at, heads = next, append(heads, p)
	}
}

// Staged lists the headers of what is staged, complete or not.
func (s *Stage) Staged() ([]Header, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Header
	for id := range s.bytes {
		h, _, _, err := s.load(id)
		if err != nil {
			return nil, fmt.Errorf("snapshot: stage %s: %w", s.dir, err)
		}
		all = append(all, h)
	}
	return all, nil
}

// Begin begins the reception of a snapshot, or goes on with it: its position
// says which piece is next. Everything else that is staged of its group is
// removed, so a snapshot that is about to be installed must not be overtaken.
func (s *Stage) Begin(h Header) (*Receive, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.begin(h)
	if err != nil {
		return nil, fmt.Errorf("snapshot: begin %s of group %d: %w", h.ID, h.Group, full(err))
	}
	return r, nil
}

func (s *Stage) begin(h Header) (*Receive, error) {
	if _, err := DecodeHeader(h.Append(nil)); err != nil {
		return nil, err
	}
	if r := s.live[h.ID]; r != nil {
		r.end()
		delete(s.live, h.ID)
	}
	for id := range s.bytes {
		was, _, _, err := s.load(id)
		if id != h.ID && err == nil && was.Group != h.Group {
			continue
		}
		if id == h.ID && err == nil && bytes.Equal(was.Append(nil), h.Append(nil)) {
			continue
		}
		if err := s.remove(id); err != nil {
			return nil, err
		}
	}
	if _, staged := s.bytes[h.ID]; !staged {
		if err := s.create(h); err != nil {
			return nil, errors.Join(err, s.remove(h.ID))
		}
	}
	_, at, heads, err := s.load(h.ID)
	if err != nil {
		return nil, err
	}
	r := &Receive{stage: s, header: h, at: at, heads: heads}
	s.live[h.ID], s.bytes[h.ID] = r, at.Bytes
	return r, nil
}

// create makes the directory of a snapshot.
func (s *Stage) create(h Header) error {
	s.bytes[h.ID] = 0
	if err := s.fs.MkdirAll(s.path(h.ID, ""), 0o700); err != nil {
		return err
	}
	if err := s.writeMessage(h.ID, headerName, h.Append(nil)); err != nil {
		return err
	}
	return errors.Join(syncDir(s.fs, s.path(h.ID, "")), syncDir(s.fs, s.dir))
}

// Remove removes a snapshot and ends its reception. One that is not there is no
// error.
func (s *Stage) Remove(id ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.remove(id); err != nil {
		return fmt.Errorf("snapshot: remove %s: %w", id, err)
	}
	return nil
}

// remove is called with mu held. The header goes first: without it, what is
// left is removed by the next start.
func (s *Stage) remove(id ID) error {
	if r := s.live[id]; r != nil {
		r.end()
		delete(s.live, id)
	}
	if err := s.fs.Remove(s.path(id, headerName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.fs.RemoveAll(s.path(id, "")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(s.bytes, id)
	return syncDir(s.fs, s.dir)
}

// reserve takes n bytes for a snapshot, or returns an error wrapping ErrFull.
func (s *Stage) reserve(id ID, n uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var held uint64
	for _, b := range s.bytes {
		held += b
	}
	if held+n > uint64(s.opts.MaxBytes) {
		return fmt.Errorf("%w: %d bytes are staged, %d more would be more than %d", ErrFull, held, n, s.opts.MaxBytes)
	}
	if u, err := s.opts.DiskUsage(); err == nil && u.AvailBytes < n+uint64(max(s.opts.ReserveBytes, 0)) {
		return fmt.Errorf("%w: %d bytes are free, %d are needed and %d are kept", ErrFull, u.AvailBytes, n, s.opts.ReserveBytes)
	}
	if _, staged := s.bytes[id]; staged {
		s.bytes[id] += n
	}
	return nil
}

func (s *Stage) giveBack(id ID, n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, staged := s.bytes[id]; staged {
		s.bytes[id] = b - n
	}
}

// full lets an error of a full file system wrap ErrFull.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// writeMessage makes a file of a message and its SHA-256, and syncs it.
func (s *Stage) writeMessage(id ID, name string, message []byte) error {
	sum := sha256.Sum256(message)
	return writeFile(s.fs, s.path(id, name), append(bytes.Clone(message), sum[:]...))
}

// readMessage undoes writeMessage.
func (s *Stage) readMessage(id ID, name string) ([]byte, error) {
	b, err := readFile(s.fs, s.path(id, name), 1<<20)
	if err != nil {
		return nil, err
	}
	n := len(b) - sha256.Size
	if n < 0 || sha256.Sum256(b[:n]) != [sha256.Size]byte(b[n:]) {
		return nil, fmt.Errorf("%s: %w", name, ErrCorrupt)
	}
	return b[:n], nil
}

// writeFile may change b.
func writeFile(fsys vfs.FS, path string, b []byte) error {
	f, err := fsys.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Sync(), f.Close())
}

func readFile(fsys vfs.FS, path string, limit int64) ([]byte, error) {
	f, err := fsys.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: %w: too long", path, ErrCorrupt)
	}
	return b, errors.Join(err, f.Close())
}

func syncDir(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// verify reads all pieces of a snapshot back and compares them with their
// heads.
func (s *Stage) verify(ctx context.Context, id ID, heads []Piece) error {
	for i := range heads {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b, err := readFile(s.fs, s.path(id, tableName(heads[i].Number)), MaxPieceBytes)
		if err != nil {
			return err
		}
		if uint64(len(b)) != heads[i].Bytes || sha256.Sum256(b) != heads[i].Sum {
			return fmt.Errorf("%w: piece %d was changed on disk", ErrCorrupt, heads[i].Number)
		}
	}
	return nil
}
