package node

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object/shardtest"
	"github.com/ruche-storage/ruche/node/segment"
)

// badReads is a file system in which reads of one byte of a file go wrong.
type badReads struct {
	vfs.FS
	mu   sync.Mutex
	name string
	at   int64
	good int   // reads that are still right
	err  error // nil: a bit is flipped instead
	hits int   // reads that went wrong
}

func (f *badReads) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	return &badFile{File: file, fs: f, name: name}, nil
}

func (f *badReads) Unwrap() vfs.FS { return f.FS }

// set says which byte is bad after so many good reads of it.
func (f *badReads) set(name string, at int64, good int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.name, f.at, f.good, f.err, f.hits = name, at, good, err, 0
}

func (f *badReads) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits
}

type badFile struct {
	vfs.File
	fs   *badReads
	name string
}

func (f *badFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.name != f.fs.name || f.fs.at < off || f.fs.at >= off+int64(n) {
		return n, err
	}
	if f.fs.good--; f.fs.good >= 0 {
		return n, err
	}
	f.fs.hits++
	if f.fs.err != nil {
		return 0, f.fs.err
	}
	p[f.fs.at-off] ^= 1
	return n, err
}

// sparse fills shared segments and frees most of what lies in the first ones.
func sparse(w *workbench, segments int) (kept []*shardtest.Shard) {
	w.t.Helper()
	for w.d.Status().Segments <= segments {
		w.put(4000)
	}
	_, last := w.where(w.shards[len(w.shards)-1])
	for i, s := range w.shards {
		if _, r := w.where(s); r.segment != last.segment && i%5 != 0 {
			w.free(s)
		} else {
			kept = append(kept, s)
		}
	}
	return kept
}

func sparseOptions(fs vfs.FS) Options {
	opts := quietOptions(fs)
	opts.SegmentBytes, opts.CompactGrace = 64<<10, time.Nanosecond
	return opts
}

// TestCompactionReadsOnce lets a device return other bytes at some read of a
// record that is moved: what was written elsewhere is what was checked, and
// what was found bad is not given up.
func TestCompactionReadsOnce(t *testing.T) {
	t.Parallel()
	for good := range 4 {
		t.Run(fmt.Sprintf("after %d good reads", good), func(t *testing.T) {
			t.Parallel()
			fs := &badReads{FS: vfs.NewMem()}
			format(t, fs, "d")
			w := open(t, sparseOptions(fs), "d")
			defer w.close()
			kept := sparse(w, 1)
			name, r := w.where(kept[0])
			fs.set(name, r.offset+int64(r.entry.HeaderBytes)+2000, good, nil)
			for range 4 {
				w.maintain()
			}
			fs.set("", 0, 0, nil)
			for _, s := range kept {
				w.check(s)
			}
		})
	}
}

// TestCompactionPassesOver lets the reads of one record fail: the other
// segments are compacted, that one is left alone for a while and tried again.
func TestCompactionPassesOver(t *testing.T) {
	t.Parallel()
	for name, seal := range map[string]bool{"a record": false, "the seal": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs := &badReads{FS: vfs.NewMem()}
			format(t, fs, "d")
			opts := sparseOptions(fs)
			clock := &stepClock{now: time.Unix(1e9, 0)}
			opts.Clock = clock
			w := open(t, opts, "d")
			defer w.close()
			kept := sparse(w, 3)
			file, r := w.where(kept[0])
			at := r.offset + int64(r.entry.HeaderBytes) + 2000
			if seal {
				info, err := fs.Stat(file)
				if err != nil {
					t.Fatal(err)
				}
				at = info.Size() - 1
			}
			fs.set(file, at, 0, syscall.EIO)
			round := func(n int) {
				for range n {
					_ = w.d.maintain(t.Context()) // may tell of the bad read
					clock.step(time.Second)
				}
			}
			round(8)
			if st := w.d.Status(); st.Segments > 3 {
				t.Errorf("%d segments, want the other two compacted", st.Segments)
			}
			first := fs.count()
			round(8)
			if n := fs.count(); first == 0 || n != first {
				t.Errorf("the bad place was read %d times, then %d times more at once", first, n-first)
			}
			fs.set("", 0, 0, nil)
			clock.step(compactRetry)
			round(4)
			if _, err := fs.Stat(file); !oserror.IsNotExist(err) {
				t.Errorf("%s after its reads work again: %v, want it compacted", file, err)
			}
			for _, s := range kept {
				w.check(s)
			}
		})
	}
}

// stepClock is a clock that goes on when it is told.
type stepClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *stepClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *stepClock) After(time.Duration) <-chan time.Time { return nil }

func (c *stepClock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// TestReplacedWhileMoved has the new record of a shard moved, or freed, before
// it is read back: that is no error, and what is good stays.
func TestReplacedWhileMoved(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	format(t, fs, "d")
	w := open(t, sparseOptions(fs), "d")
	defer w.close()
	s := w.put(4000)
	_, r := w.where(s)
	sparse(w, 1)
	for range 3 {
		w.maintain()
	}
	_, moved := w.where(s)
	if moved.place == r.place {
		t.Fatal("the shard was not moved")
	}
	older := r
	older.offset += segment.Align
	for name, replaced := range map[string][]row{"another record": {older}, "the one that is left": {moved}} {
		if err := w.d.replaced(&appendResult{row: r, replaced: replaced}); err != nil {
			t.Errorf("replaced %s after a move: %v", name, err)
		}
		w.check(s)
	}
	w.free(s)
	if err := w.d.replaced(&appendResult{row: r, replaced: []row{older}}); err != nil {
		t.Errorf("replaced after a free: %v", err)
	}
}
