package node

import (
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/node/segment"
)

// filesPerDir is the most files a numbered directory gets.
const filesPerDir = 4096

// layout chooses names and directories for new segment files.
type layout struct {
	fs       vfs.FS
	path     string // of the directory seg
	rand     io.Reader
	syncs    *dirSyncs
	skipSync bool
	limit    int // files in a directory

	// mu guards the fields below. Directories are made while it is held, so
	// that nobody puts a file in one that is not durable yet.
	mu      sync.Mutex
	counter uint64         // first 8 bytes of the last id given
	births  uint32         // records written for the first time in this life
	dir     uint32         // where new files go
	files   int            // how many were put there
	exists  bool           // dir was made, or found
	open    map[uint32]int // files by directory that have no row in the index yet
}

// create makes a new segment file. The caller calls settled once the file has
// its row in the index or is gone again.
func (l *layout) create() (vfs.File, segment.ID, uint32, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var id segment.ID
	if _, err := io.ReadFull(l.rand, id[8:]); err != nil {
		return nil, id, 0, err
	}
	if l.files >= l.limit {
		l.dir, l.files, l.exists = l.dir+1, 0, false
	}
	if !l.exists {
		if err := l.makeDir(); err != nil {
			return nil, id, 0, err
		}
		l.exists = true
	}
	l.counter++
	binary.BigEndian.PutUint64(id[:], l.counter)
	f, err := l.fs.Create(l.file(l.dir, id), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, id, 0, err
	}
	l.files++
	l.open[l.dir]++
	return f, id, l.dir, nil
}

func (l *layout) makeDir() error {
	if err := l.fs.MkdirAll(l.dirPath(l.dir), 0o700); err != nil {
		return err
	}
	if l.skipSync {
		return nil
	}
	return syncDir(l.fs, l.path)
}

// unsettled says that starts must go on listing a directory.
func (l *layout) unsettled(dir uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[dir]++
}

// settled says that a file made by create has its row, or is gone.
func (l *layout) settled(dir uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[dir]--; l.open[dir] <= 0 {
		delete(l.open, dir)
	}
}

// known returns the directory below which every file has its row.
func (l *layout) known() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.dir
	for dir := range l.open {
		n = min(n, dir)
	}
	return n
}

// found takes note of a directory that a start has listed.
func (l *layout) found(dir uint32, files int, newest segment.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counter = max(l.counter, binary.BigEndian.Uint64(newest[:]))
	if dir >= l.dir {
		l.dir, l.files, l.exists = dir, files, true
	}
}

// goOn says that no file goes into a directory before dir: starts list none.
func (l *layout) goOn(dir uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dir = max(l.dir, dir)
}

// passed says that an earlier life has counted that far.
func (l *layout) passed(counter uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counter = max(l.counter, counter)
}

func (l *layout) dirPath(dir uint32) string {
	return l.fs.PathJoin(l.path, strconv.FormatUint(uint64(dir), 10))
}

func (l *layout) file(dir uint32, id segment.ID) string {
	return l.fs.PathJoin(l.dirPath(dir), id.String())
}

// syncDir makes the entries of a numbered directory durable.
func (l *layout) syncDir(dir uint32) error {
	if l.skipSync {
		return nil
	}
	return l.syncs.sync(dir, func() error { return syncDir(l.fs, l.dirPath(dir)) })
}

// parseDir parses the name of a numbered directory.
func parseDir(name string) (uint32, bool) {
	n, err := strconv.ParseUint(name, 10, 32)
	return uint32(n), err == nil && strconv.FormatUint(n, 10) == name
}

// dirSyncs groups syncs of directories: whoever asks while one is running
// shares the next.
type dirSyncs struct {
	mu      sync.Mutex
	waiting map[uint32]*syncRound // rounds that may still be joined
	running map[uint32]*syncRound // the last round begun
}

type syncRound struct {
	done chan struct{}
	err  error // set before done is closed
}

// sync returns once a run of fn that began after the call has ended.
func (s *dirSyncs) sync(dir uint32, fn func() error) error {
	s.mu.Lock()
	r := s.waiting[dir]
	if r != nil {
		s.mu.Unlock()
		<-r.done
		return r.err
	}
	r = &syncRound{done: make(chan struct{})}
	before := s.running[dir]
	s.waiting[dir] = r
	s.mu.Unlock()

	if before != nil {
		<-before.done
	}
	s.mu.Lock()
	delete(s.waiting, dir)
	s.running[dir] = r
	s.mu.Unlock()

	r.err = fn()
	close(r.done)

	s.mu.Lock()
	if s.running[dir] == r {
		delete(s.running, dir)
	}
	s.mu.Unlock()
	return r.err
}

func newDirSyncs() *dirSyncs {
	return &dirSyncs{waiting: map[uint32]*syncRound{}, running: map[uint32]*syncRound{}}
}

// fileName names a segment file in messages.
func fileName(dir uint32, id segment.ID) string { return fmt.Sprintf("seg/%d/%s", dir, id) }

// born returns the next place in the history of the drive, for a record that
// is written for the first time.
func (l *layout) born() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.births++
	return l.counter<<32 | uint64(l.births)
}

// nextLife makes ids and births of this life differ from all before.
func (l *layout) nextLife() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counter++
}
