package simtest_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// blockBytes is what a disk writes at once.
const blockBytes = 4096

// disk is the device of a store: a crashable memory file system that can be
// told to take a picture of itself, or to fail, at a certain operation of the
// file system.
type disk struct {
	vfs.FS // with what can be told
	mem    *vfs.MemFS

	mu      sync.Mutex // guards what follows
	cut     func(op errorfs.Op) bool
	picture *vfs.MemFS // as of when cut was true
	kept    float64
	seed    uint64
	fail    func(op errorfs.Op) error

	forgets func(name string) bool // says which files it does not sync
}

func newDisk(mem *vfs.MemFS, forgets func(name string) bool) *disk {
	d := &disk{mem: mem, forgets: forgets}
	d.FS = errorfs.Wrap(lazyFS{mem, d}, errorfs.InjectorFunc(d.before))
	return d
}

// lazyFS is a device that may forget to sync some files.
type lazyFS struct {
	vfs.FS
	disk *disk
}

// Create implements vfs.FS.
func (l lazyFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.Create(name, category)
	return l.wrap(name, f), err
}

// ReuseForWrite implements vfs.FS.
func (l lazyFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.ReuseForWrite(oldname, newname, category)
	return l.wrap(newname, f), err
}

func (l lazyFS) wrap(name string, f vfs.File) vfs.File {
	if f == nil || l.disk.forgets == nil || !l.disk.forgets(name) {
		return f
	}
	return lazyFile{f}
}

type lazyFile struct{ vfs.File }

func (lazyFile) Sync() error                { return nil }
func (lazyFile) SyncData() error            { return nil }
func (lazyFile) SyncTo(int64) (bool, error) { return true, nil }

// before is called before each operation.
func (d *disk) before(op errorfs.Op) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut != nil && d.cut(op) {
		d.cut = nil
		d.picture = crashed(d.mem, d.kept, d.seed)
	}
	if d.fail != nil {
		return d.fail(op)
	}
	return nil
}

// cutAt has the power cut before the first operation that at is true for.
func (d *disk) cutAt(kept float64, seed uint64, at func(op errorfs.Op) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut, d.kept, d.seed = at, kept, seed
}

// failAt has operations fail from now on.
func (d *disk) failAt(fail func(op errorfs.Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = fail
}

// dark reports whether the power has been cut: nothing that happens from then
// on must be seen by anybody.
func (d *disk) dark() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.picture != nil
}

// crash returns what a power cut has left: the picture, if one was taken, or
// what would be left now.
func (d *disk) crash(kept float64, seed uint64) *vfs.MemFS {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.picture == nil {
		d.picture = crashed(d.mem, kept, seed)
	}
	return d.picture
}

// crashed returns what a power cut would leave of a file system: all that is
// synced and the kept part of the rest, block by block and name by name. What
// is kept depends on the seed, the directory and the kind of file, not on the
// names that Pebble gives: those depend on the timing of its background work.
//
// MemFS.CrashClone draws in the order of a map, so it does not do. Directories
// of fs are synced on the way: it must not be used any more.
func crashed(fs *vfs.MemFS, kept float64, seed uint64) *vfs.MemFS {
	synced := fs.CrashClone(vfs.CrashCloneCfg{})
	if kept == 0 {
		return synced
	}
	syncNames(fs, "")
	c := &crash{synced: synced, named: fs.CrashClone(vfs.CrashCloneCfg{}), now: fs, out: vfs.NewCrashableMem(),
		kept: kept, seed: seed, rands: make(map[string]*rand.Rand)}
	c.dir("")
	return c.out
}

// syncNames makes all names durable, but not what is in the files.
func syncNames(fs *vfs.MemFS, name string) {
	d, err := fs.OpenDir(name)
	must(err)
	must(errors.Join(d.Sync(), d.Close()))
	names, err := fs.List(name)
	must(err)
	for _, n := range names {
		full := path.Join(name, n)
		if info, err := fs.Stat(full); err == nil && info.IsDir() {
			syncNames(fs, full)
		}
	}
}

// crash is a power cut: synced has what was synced, named has also the names
// that were not, now is everything.
type crash struct {
	synced, named, now, out *vfs.MemFS
	kept                    float64
	seed                    uint64
	rands                   map[string]*rand.Rand
}

// keep draws for a file or name. What is drawn for one purpose does not depend
// on how often it was drawn for another: Pebble removes files when it likes to.
func (c *crash) keep(purpose, name string) bool {
	kind := purpose + " " + path.Dir(name) + "/*" + path.Ext(name)
	if c.rands[kind] == nil {
		h := c.seed
		for _, b := range []byte(kind) {
			h = h*1099511628211 + uint64(b)
		}
		c.rands[kind] = rand.New(rand.NewPCG(c.seed, h))
	}
	return c.rands[kind].Float64() < c.kept
}

func (c *crash) dir(name string) {
	before, _ := c.synced.List(name)
	after, _ := c.named.List(name)
	names := slices.Concat(before, after)
	// The newest first: which of the old ones are there still depends on when
	// Pebble has removed them, and must not change what is drawn for the others.
	slices.Sort(names)
	slices.Reverse(names)
	for _, n := range slices.Compact(names) {
		full := path.Join(name, n)
		was, is := slices.Contains(before, n), slices.Contains(after, n)
		switch {
		case !is:
			if !c.keep("removal", full) {
				c.copy(c.synced, full)
			}
		case was || c.keep("name", full):
			c.entry(full, was)
		}
	}
	d, err := c.out.OpenDir(name)
	must(err)
	must(errors.Join(d.Sync(), d.Close()))
}

// entry writes what is left of a name that is there.
func (c *crash) entry(name string, was bool) {
	info, err := c.named.Stat(name)
	must(err)
	if info.IsDir() {
		must(c.out.MkdirAll(name, 0o755))
		c.dir(name)
		return
	}
	durable, now := content(c.named, name), content(c.now, name)
	if was {
		// Another file may have taken the name.
		if old := content(c.synced, name); !bytes.HasPrefix(durable, old) && !c.keep("file", name) {
			c.write(name, old)
			return
		}
	}
	if bytes.Equal(now, durable) {
		c.write(name, now)
		return
	}
	if !bytes.HasPrefix(now, durable) {
		if !c.keep("place", name) { // written in place
			now = durable
		}
		c.write(name, now)
		return
	}
	left := slices.Clone(durable)
	for at := len(durable) / blockBytes * blockBytes; at < len(now); at += blockBytes {
		end := min(at+blockBytes, len(now))
		if !c.keep("block", name) {
			continue
		}
		if grow := end - len(left); grow > 0 {
			left = append(left, make([]byte, grow)...) // zeroes where a block is lost
		}
		copy(left[at:end], now[at:end])
	}
	c.write(name, left)
}

// copy takes over a name with all below it.
func (c *crash) copy(from *vfs.MemFS, name string) {
	info, err := from.Stat(name)
	must(err)
	if !info.IsDir() {
		c.write(name, content(from, name))
		return
	}
	must(c.out.MkdirAll(name, 0o755))
	names, err := from.List(name)
	must(err)
	for _, n := range names {
		c.copy(from, path.Join(name, n))
	}
	d, err := c.out.OpenDir(name)
	must(err)
	must(errors.Join(d.Sync(), d.Close()))
}

func (c *crash) write(name string, b []byte) {
	f, err := c.out.Create(name, vfs.WriteCategoryUnspecified)
	must(err)
	_, err = f.Write(slices.Clone(b)) // it may be changed
	must(errors.Join(err, f.Sync(), f.Close()))
}

func content(fs *vfs.MemFS, name string) []byte {
	f, err := fs.Open(name)
	must(err)
	b, err := io.ReadAll(f)
	must(errors.Join(err, f.Close()))
	return b
}

// must ends the run for what cannot happen on a memory file system.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// onLogSync is when a write of the command log is written and not yet synced.
func onLogSync(op errorfs.Op) bool {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		return strings.HasSuffix(op.Path, ".log") && strings.Contains(op.Path, "/log")
	}
	return false
}

// onChange returns what is true at the n-th operation that changes something,
// from 0. Pebble removes files when it likes to, and writes what it syncs
// together in one piece or two: neither counts.
func onChange(n int) func(errorfs.Op) bool {
	return func(op errorfs.Op) bool {
		switch op.Kind {
		case errorfs.OpFileWrite:
			if strings.HasSuffix(op.Path, ".log") {
				return false
			}
			fallthrough
		case errorfs.OpCreate, errorfs.OpLink, errorfs.OpRename, errorfs.OpReuseForWrite, errorfs.OpMkdirAll,
			errorfs.OpFileClose, errorfs.OpFileWriteAt, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			n--
			return n < 0
		}
		return false
	}
}

// halfWritten makes a file system of which half is not synced.
func halfWritten() *vfs.MemFS {
	mem := vfs.NewCrashableMem()
	write := func(name, text string, sync bool) {
		f, err := mem.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
		must(err)
		info, err := f.Stat()
		must(err)
		_, err = f.WriteAt([]byte(text), info.Size())
		must(err)
		if sync {
			must(f.Sync())
		}
		must(f.Close())
	}
	must(mem.MkdirAll("a/b", 0o755))
	write("a/b/0.log", "removed", true)
	write("a/b/1.log", "synced", true)
	syncNames(mem, "")
	must(mem.Remove("a/b/0.log"))
	write("a/b/1.log", strings.Repeat("x", 3*blockBytes), false)
	write("a/b/2.log", "no name yet", true)
	return mem
}

func TestCrashedKeepsWhatIsSynced(t *testing.T) {
	t.Parallel()
	seen := make(map[string]int)
	has := func(fs *vfs.MemFS, name string) bool {
		_, err := fs.Stat(name)
		return err == nil
	}
	for seed := range uint64(60) {
		fs := crashed(halfWritten(), 0.5, seed)
		got := content(fs, "a/b/1.log")
		if !bytes.HasPrefix(got, []byte("synced")) {
			t.Fatalf("seed %d: %q", seed, got[:min(len(got), 20)])
		}
		seen[string(rune('0'+len(got)/blockBytes))]++
		if has(fs, "a/b/2.log") {
			seen["new"]++
			if got := content(fs, "a/b/2.log"); string(got) != "no name yet" {
				t.Fatalf("seed %d: a synced file holds %q", seed, got)
			}
		}
		if has(fs, "a/b/0.log") {
			seen["old"]++
		}
		again := crashed(halfWritten(), 0.5, seed)
		if !bytes.Equal(content(again, "a/b/1.log"), got) || has(again, "a/b/2.log") != has(fs, "a/b/2.log") || has(again, "a/b/0.log") != has(fs, "a/b/0.log") {
			t.Errorf("seed %d: not the same twice", seed)
		}
	}
	for _, name := range []string{"0", "3", "new", "old"} {
		if n := seen[name]; n == 0 || n == 60 {
			t.Errorf("of 60 times, %q %d times", name, n)
		}
	}
	if fs := crashed(halfWritten(), 0, 1); string(content(fs, "a/b/1.log")) != "synced" || has(fs, "a/b/2.log") {
		t.Error("with nothing kept, there is more than was synced")
	}
	if fs := crashed(halfWritten(), 1, 1); len(content(fs, "a/b/1.log")) != 6+3*blockBytes || !has(fs, "a/b/2.log") || has(fs, "a/b/0.log") {
		t.Error("with everything kept, something is lost")
	}
}
