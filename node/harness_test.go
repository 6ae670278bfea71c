package node

import (
	"crypto/rand"
	"errors"
	mrand "math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object/shardtest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// quietOptions are those of a drive that does nothing by itself.
func quietOptions(fs vfs.FS) Options {
	return Options{
		FS: fs, Clock: wallClock{}, Cluster: ClusterID{1}, MaintenanceInterval: -1, ScrubInterval: -1,
		ScrubBytesPerSecond: -1, BallastBytes: -1, SmallShardBytes: 64 << 10, IndexCacheBytes: 1 << 20,
	}
}

func newRand(seed uint64) *mrand.Rand { return mrand.New(mrand.NewPCG(seed, seed)) }

// workbench is one open drive with shards that were written to it.
type workbench struct {
	t      testing.TB
	n      *Node
	d      *Drive
	id     topology.DriveID
	rng    *mrand.Rand
	shards []*shardtest.Shard
}

func format(t testing.TB, fs vfs.FS, path string) topology.DriveID {
	t.Helper()
	id, err := Format(fs, rand.Reader, path, Formatting{Cluster: ClusterID{1}, Site: "par1"})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// open opens the drive in path, which must be let in.
func open(t testing.TB, opts Options, path string) *workbench {
	t.Helper()
	n, refused, err := Open(t.Context(), opts, []string{path})
	if err != nil || len(refused) > 0 {
		t.Fatal(refused, err)
	}
	d := n.Drives()[0]
	return &workbench{t: t, n: n, d: d, id: d.ID(), rng: newRand(5)}
}

func (w *workbench) put(size int) *shardtest.Shard {
	w.t.Helper()
	s := shardtest.NewShard(w.rng, uint32(w.rng.IntN(3)), size)
	w.again(s)
	w.shards = append(w.shards, s)
	return s
}

func (w *workbench) again(s *shardtest.Shard) {
	w.t.Helper()
	if err := shardtest.Put(w.t.Context(), w.n, w.id, s, int64(len(s.Framed))); err != nil {
		w.t.Fatalf("writing %d bytes: %v", len(s.Framed), err)
	}
}

func (w *workbench) check(s *shardtest.Shard) {
	w.t.Helper()
	if err := shardtest.Check(w.t.Context(), w.n, w.id, s); err != nil {
		w.t.Errorf("shard of %d bytes: %v", len(s.Framed), err)
	}
}

func (w *workbench) free(shards ...*shardtest.Shard) {
	w.t.Helper()
	var refs []metadata.ShardRef
	for _, s := range shards {
		refs = append(refs, s.Ref())
	}
	if err := w.d.Free(w.t.Context(), refs); err != nil {
		w.t.Fatal(err)
	}
}

func (w *workbench) maintain() {
	w.t.Helper()
	if err := w.d.maintain(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *workbench) close() {
	w.t.Helper()
	if err := w.n.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// where returns the file and place of the newest record of a shard.
func (w *workbench) where(s *shardtest.Shard) (name string, r row) {
	w.t.Helper()
	rows, err := w.d.index.lookup(s.Ref())
	if err != nil || len(rows) == 0 {
		w.t.Fatal(rows, err)
	}
	r = rows[len(rows)-1]
	return w.d.layout.file(r.dir, r.segment), r
}

// overwrite changes n bytes of a file behind the drive's back.
func overwrite(t testing.TB, fs vfs.FS, name string, at int64, n int, change func(b []byte)) {
	t.Helper()
	f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	change(b)
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func flip(b []byte) {
	for i := range b {
		b[i] ^= 0x10
	}
}

func zero(b []byte) { clear(b) }

// truncate cuts bytes off the end of a file.
func truncate(t testing.TB, fs vfs.FS, name string, n int64) {
	t.Helper()
	b, err := readFile(fs, name, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b[:int64(len(b))-n]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// quotaFS is a file system on a device of limited size. Preallocated space
// counts, holes do not.
type quotaFS struct {
	vfs.FS
	mu    sync.Mutex
	total int64
	used  map[string]int64
	fulls int // writes refused
}

func newQuotaFS(total int64) *quotaFS {
	return &quotaFS{FS: vfs.NewMem(), total: total, used: map[string]int64{}}
}

func (q *quotaFS) sum() (n int64) {
	for _, bytes := range q.used {
		n += bytes
	}
	return n
}

// grow lets a file take so many bytes in all.
func (q *quotaFS) grow(name string, bytes int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if more := bytes - q.used[name]; more > 0 && q.sum()+more > q.total {
		q.fulls++
		return syscall.ENOSPC
	}
	q.used[name] = max(q.used[name], bytes)
	return nil
}

func (q *quotaFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	used := q.sum()
	return vfs.DiskUsage{AvailBytes: uint64(q.total - used), TotalBytes: uint64(q.total), UsedBytes: uint64(used)}, nil
}

func (q *quotaFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	q.forget(name)
	f, err := q.FS.Create(name, c)
	if err != nil {
		return nil, err
	}
	return &quotaFile{File: f, fs: q, name: name}, nil
}

func (q *quotaFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := q.FS.OpenReadWrite(name, c, opts...)
	if err != nil {
		return nil, err
	}
	return &quotaFile{File: f, fs: q, name: name}, nil
}

func (q *quotaFS) forget(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.used, name)
}

func (q *quotaFS) Remove(name string) error {
	q.forget(name)
	return q.FS.Remove(name)
}

func (q *quotaFS) RemoveAll(name string) error {
	q.mu.Lock()
	for file := range q.used {
		if strings.HasPrefix(file, name+"/") {
			delete(q.used, file)
		}
	}
	q.mu.Unlock()
	return q.FS.RemoveAll(name)
}

func (q *quotaFS) Rename(from, to string) error {
	q.mu.Lock()
	q.used[to] = q.used[from]
	delete(q.used, from)
	q.mu.Unlock()
	return q.FS.Rename(from, to)
}

type quotaFile struct {
	vfs.File
	fs   *quotaFS
	name string
	at   int64
}

func (f *quotaFile) Write(p []byte) (int, error) {
	if err := f.fs.grow(f.name, f.at+int64(len(p))); err != nil {
		return 0, err
	}
	n, err := f.File.Write(p)
	f.at += int64(n)
	return n, err
}

func (f *quotaFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.grow(f.name, off+int64(len(p))); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *quotaFile) Preallocate(off, n int64) error { return f.fs.grow(f.name, off+n) }

// PunchHole implements holePuncher.
func (f *quotaFile) PunchHole(off, n int64) error {
	f.fs.mu.Lock()
	f.fs.used[f.name] -= n
	f.fs.mu.Unlock()
	_, err := f.File.WriteAt(make([]byte, n), off)
	return err
}
