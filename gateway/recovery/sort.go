package recovery

import (
	"bufio"
	"bytes"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// maxRuns is how many sorted files are merged at a time, and are open.
	maxRuns = 128
	// runBufferBytes is the buffer of each of them.
	runBufferBytes = 64 << 10

	// maxItemBytes bounds a key or value that is read back.
	maxItemBytes = 32 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sorter sorts keys with their values, more than fit into memory, by way of
// sorted files. Of equal keys one is kept. Its files are of no use to anybody
// else and are not synced. add may be called concurrently.
type sorter struct {
	fs     vfs.FS
	dir    string
	memory int // bytes that are held before a file is written

	mu    sync.Mutex
	arena []byte
	items []span
	runs  []string
	made  int
}

// span is where an item lies in the arena.
type span struct{ from, key, end int }

// newSorter makes the directory dir anew.
func newSorter(fs vfs.FS, dir string, memory int) (*sorter, error) {
	if err := errors.Join(fs.RemoveAll(dir), fs.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	return &sorter{fs: fs, dir: dir, memory: memory}, nil
}

// add takes a copy of key and value.
func (s *sorter) add(key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.items) > 0 && len(s.arena)+len(key)+len(value) > s.memory {
		if err := s.spill(); err != nil {
			return err
		}
	}
	from := len(s.arena)
	s.arena = append(append(s.arena, key...), value...)
	s.items = append(s.items, span{from, from + len(key), len(s.arena)})
	return nil
}

// sortItems brings what is in memory into order.
func (s *sorter) sortItems() {
	slices.SortFunc(s.items, func(a, b span) int {
		return bytes.Compare(s.arena[a.from:a.key], s.arena[b.from:b.key])
	})
}

// spill writes what is in memory to a file. The caller holds mu.
func (s *sorter) spill() error {
	s.sortItems()
	err := s.write(func(w *runWriter) error {
		for _, i := range s.items {
			if err := w.put(s.arena[i.from:i.key], s.arena[i.key:i.end]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.arena, s.items = s.arena[:0], s.items[:0]
	if len(s.runs) < maxRuns {
		return nil
	}
	return s.mergeRuns()
}

// mergeRuns makes one file of all.
func (s *sorter) mergeRuns() error {
	old := s.runs
	s.runs = nil
	err := s.write(func(w *runWriter) error {
		return s.merge(old, nil, w.put)
	})
	for _, name := range old {
		err = errors.Join(err, s.fs.Remove(name))
	}
	return err
}

// write makes a file by the given function.
func (s *sorter) write(fill func(w *runWriter) error) error {
	s.made++
	name := s.fs.PathJoin(s.dir, fmt.Sprintf("run-%d", s.made))
	f, err := s.fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	w := &runWriter{w: bufio.NewWriterSize(f, runBufferBytes)}
	err = fill(w)
	if err == nil {
		err = w.w.Flush()
	}
	s.runs = append(s.runs, name)
	return errors.Join(err, f.Close())
}

// each calls f for every key in order, once, until f returns an error, which it
// returns. Key and value are valid during the call. add must not be called any
// more.
func (s *sorter) each(f func(key, value []byte) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sortItems()
	return s.merge(s.runs, s.items, f)
}

func (s *sorter) close() error {
	s.arena, s.items = nil, nil
	return s.fs.RemoveAll(s.dir)
}

// merge goes over files and, unless nil, what is in memory.
func (s *sorter) merge(runs []string, items []span, f func(key, value []byte) error) (err error) {
	var h runHeap
	defer func() {
		for _, r := range h {
			err = errors.Join(err, r.close())
		}
	}()
	begin := func(r *run) error {
		more, err := r.next()
		if err != nil || !more {
			return errors.Join(err, r.close())
		}
		h = append(h, r)
		return nil
	}
	for _, name := range runs {
		file, err := s.fs.Open(name)
		if err != nil {
			return err
		}
		if err := begin(&run{file: file, r: bufio.NewReaderSize(file, runBufferBytes), name: name}); err != nil {
			return err
		}
	}
	if len(items) > 0 {
		if err := begin(&run{sorter: s, items: items}); err != nil {
			return err
		}
	}
	return h.each(f)
}

// each goes over the runs of a heap until all are at their end.
func (h *runHeap) each(f func(key, value []byte) error) error {
	heap.Init(h)
	var last []byte
	first := true
	for len(*h) > 0 {
		r := (*h)[0]
		if first || !bytes.Equal(last, r.key) {
			if err := f(r.key, r.value); err != nil {
				return err
			}
			last, first = append(last[:0], r.key...), false
		}
		more, err := r.next()
		switch {
		case err != nil:
			return err
		case more:
			heap.Fix(h, 0)
		default:
			heap.Pop(h)
			if err := r.close(); err != nil {
				return err
			}
		}
	}
	return nil
}

// runWriter writes items: lengths of key and value, both, CRC32C.
type runWriter struct {
	w    *bufio.Writer
	head [12]byte
}

func (w *runWriter) put(key, value []byte) error {
	binary.LittleEndian.PutUint32(w.head[:], uint32(len(key)))
	binary.LittleEndian.PutUint32(w.head[4:], uint32(len(value)))
	sum := crc32.Update(crc32.Update(crc32.Checksum(w.head[:8], castagnoli), castagnoli, key), castagnoli, value)
	binary.LittleEndian.PutUint32(w.head[8:], sum)
	w.w.Write(w.head[:]) // a bufio.Writer keeps its error
	w.w.Write(key)
	_, err := w.w.Write(value)
	return err
}

// run is a sorted file, or what is in memory, at one of its items.
type run struct {
	name string
	file vfs.File
	r    *bufio.Reader
	buf  []byte

	sorter *sorter
	items  []span

	key, value []byte
}

// next moves to the next item and reports whether there is one.
func (r *run) next() (bool, error) {
	if r.file == nil {
		if len(r.items) == 0 {
			return false, nil
		}
		i, arena := r.items[0], r.sorter.arena
		r.items = r.items[1:]
		r.key, r.value = arena[i.from:i.key], arena[i.key:i.end]
		return true, nil
	}
	var head [12]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		return false, fmt.Errorf("%s: %w", r.name, err)
	}
	key, value := int64(binary.LittleEndian.Uint32(head[:])), int64(binary.LittleEndian.Uint32(head[4:]))
	if key > maxItemBytes || value > maxItemBytes {
		return false, fmt.Errorf("%s: %w", r.name, errScratch)
	}
	r.buf = slices.Grow(r.buf[:0], int(key+value))[:key+value]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		return false, fmt.Errorf("%s: %w", r.name, err)
	}
	if crc32.Update(crc32.Checksum(head[:8], castagnoli), castagnoli, r.buf) != binary.LittleEndian.Uint32(head[8:]) {
		return false, fmt.Errorf("%s: %w", r.name, errScratch)
	}
	r.key, r.value = r.buf[:key], r.buf[key:]
	return true, nil
}

// errScratch means that a file of the sorter changed under it.
var errScratch = errors.New("scratch file is damaged: check the device of the state directory")

func (r *run) close() error {
	if r.file == nil {
		return nil
	}
	f := r.file
	r.file, r.items = nil, nil
	return f.Close()
}

// runHeap implements heap.Interface by the keys the runs are at.
type runHeap []*run

func (h runHeap) Len() int           { return len(h) }
func (h runHeap) Less(i, j int) bool { return bytes.Compare(h[i].key, h[j].key) < 0 }
func (h runHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *runHeap) Push(r any) { *h = append(*h, r.(*run)) }

// Pop implements heap.Interface.
func (h *runHeap) Pop() any {
	last := len(*h) - 1
	r := (*h)[last]
	*h = (*h)[:last]
	return r
}
