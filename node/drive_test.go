package node

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/gateway/object/shardtest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// TestRefusals opens directories that are no drives of this cluster. Each is
// refused with its reason.
func TestRefusals(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	good := format(t, fs, "good")
	copyDir := func(to string) {
		if _, err := vfs.Clone(fs, fs, "good", to); err != nil {
			t.Fatal(err)
		}
	}
	if err := fs.MkdirAll("empty", 0o700); err != nil {
		t.Fatal(err)
	}
	copyDir("rotten")
	for _, name := range []string{"rotten/superblock.0", "rotten/superblock.1"} {
		overwrite(t, fs, name, 20, 3, flip)
	}
	copyDir("newer")
	writeSuper(t, fs, "newer", func(s *Superblock) { s.Drive, s.Incompatible = topology.DriveID{9}, 1 })
	copyDir("foreign")
	writeSuper(t, fs, "foreign", func(s *Superblock) { s.Drive, s.Cluster = topology.DriveID{8}, ClusterID{2} })
	copyDir("stale")
	writeSuper(t, fs, "stale", func(s *Superblock) { s.Drive, s.Incarnation = topology.DriveID{7}, 2 })
	copyDir("locked")
	writeSuper(t, fs, "locked", func(s *Superblock) { s.Drive = topology.DriveID{6} })
	lock, err := fs.Lock("locked/LOCK")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()

	opts := quietOptions(fs)
	opts.Incarnations = map[topology.DriveID]uint64{{7}: 3, good: 0}
	want := map[string]error{
		"missing": ErrUnformatted, "empty": ErrUnformatted, "rotten": ErrSuperblock, "newer": ErrNewerFormat,
		"foreign": ErrForeignDrive, "stale": ErrClonedDrive, "locked": ErrInUse,
	}
	paths := []string{"good"}
	for path := range want {
		paths = append(paths, path)
	}
	n, refused, err := Open(t.Context(), opts, paths)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if d := n.Drives(); len(d) != 1 || d[0].Path() != "good" {
		t.Errorf("%d drives are open", len(d))
	}
	for _, r := range refused {
		if !errors.Is(r.Err, want[r.Path]) {
			t.Errorf("%s: %v, want %v", r.Path, r.Err, want[r.Path])
		}
		delete(want, r.Path)
	}
	if len(want) > 0 {
		t.Errorf("not refused: %v", want)
	}
	if _, err := n.AddDrive(t.Context(), "good"); !errors.Is(err, ErrClonedDrive) {
		t.Errorf("opening a drive twice: %v, want %v", err, ErrClonedDrive)
	}
}

func writeSuper(t *testing.T, fs vfs.FS, path string, change func(*Superblock)) {
	t.Helper()
	s, err := readSuperblock(fs, path)
	if err != nil {
		t.Fatal(err)
	}
	change(s)
	s.Sequence++
	if err := writeSuperblock(fs, path, s); err != nil {
		t.Fatal(err)
	}
}

// TestClones mounts copies of a drive beside it: the newest incarnation is
// served, and of two equal ones neither.
func TestClones(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	format(t, fs, "a")
	for _, to := range []string{"b", "c"} {
		if _, err := vfs.Clone(fs, fs, "a", to); err != nil {
			t.Fatal(err)
		}
	}
	opened := func(paths ...string) []string {
		n, refused, err := Open(t.Context(), quietOptions(fs), paths)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		for _, r := range refused {
			if !errors.Is(r.Err, ErrClonedDrive) {
				t.Errorf("%s: %v, want %v", r.Path, r.Err, ErrClonedDrive)
			}
		}
		var open []string
		for _, d := range n.Drives() {
			open = append(open, d.Path())
		}
		return open
	}
	if got := opened("a", "b", "c"); got != nil {
		t.Errorf("of equal copies %v were opened", got)
	}
	writeSuper(t, fs, "b", func(s *Superblock) { s.Incarnation = 4 })
	if got := opened("c", "b", "a"); !slices.Equal(got, []string{"b"}) {
		t.Errorf("%v were opened, want the newest incarnation", got)
	}
}

// TestSuperblock: a torn write leaves the older copy.
func TestSuperblock(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	id := format(t, fs, "d")
	s, err := Inspect(fs, "d")
	if err != nil || s.Drive != id || s.Sequence != 2 || s.Site != "par1" {
		t.Fatalf("superblock = %+v, %v", s, err)
	}
	overwrite(t, fs, superblockPath(fs, "d", 2), 100, 1, flip)
	if s, err = Inspect(fs, "d"); err != nil || s.Sequence != 1 || s.Drive != id {
		t.Errorf("superblock after a torn write = %+v, %v; want the one before", s, err)
	}
	s.unknown = []byte{200, 2, 1, 2}
	again, err := parseSuperblock(s.encode())
	if err != nil || !bytes.Equal(again.unknown, s.unknown) || again.Site != s.Site {
		t.Errorf("superblock read back = %+v, %v", again, err)
	}
	if _, err := Format(fs, rand.Reader, "d", Formatting{}); !errors.Is(err, ErrFormatted) {
		t.Errorf("formatting a drive: %v, want %v", err, ErrFormatted)
	}
}

// TestRestart closes and opens a drive: everything is there, live rows stay
// live, and nothing had to be read again.
func TestRestart(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	format(t, fs, "d")
	opts := quietOptions(fs)
	opts.SegmentBytes = 64 << 10
	w := open(t, opts, "d")
	for _, size := range []int{10, 5000, 60_000, 300_000, 1, 9000} {
		w.put(size)
	}
	if err := w.d.Confirm(t.Context(), []metadata.ShardRef{w.shards[0].Ref(), w.shards[3].Ref()}); err != nil {
		t.Fatal(err)
	}
	w.free(w.shards[1])
	before := w.d.Status()
	w.close()

	again := open(t, opts, "d")
	defer again.close()
	for i, s := range w.shards {
		if i != 1 {
			again.check(s)
		}
	}
	after := again.d.Status()
	if after.Recovery != (RecoveryStats{}) {
		t.Errorf("recovery after a clean stop = %+v", after.Recovery)
	}
	if after.Shards != 5 || after.PendingShards != 3 || after.LiveBytes != before.LiveBytes || after.PendingBytes != before.PendingBytes {
		t.Errorf("status after = %+v, before %+v", after, before)
	}
	if s := again.d.Superblock(); s.Lives != 2 || s.HighestEpoch == 0 {
		t.Errorf("superblock = %+v, want a second life and the epoch of the shards", s)
	}
}

// TestRebuild throws the index away, and damages it: both are noticed, and
// every row comes back as pending.
func TestRebuild(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, fs *vfs.MemFS){
		"missing": func(t *testing.T, fs *vfs.MemFS) {
			if err := fs.RemoveAll("d/idx"); err != nil {
				t.Fatal(err)
			}
		},
		"damaged": func(t *testing.T, fs *vfs.MemFS) {
			names, err := fs.List("d/idx")
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if strings.HasPrefix(name, "MANIFEST") {
					overwrite(t, fs, "d/idx/"+name, 0, 20, zero)
				}
			}
		},
		"tables cut by a byte": func(t *testing.T, fs *vfs.MemFS) {
			harmTables(t, fs, func(b []byte) []byte { return b[:len(b)-1] })
		},
		"blocks of tables": func(t *testing.T, fs *vfs.MemFS) {
			harmTables(t, fs, func(b []byte) []byte { b[10] ^= 1; return b })
		},
		"tables empty": func(t *testing.T, fs *vfs.MemFS) {
			harmTables(t, fs, func([]byte) []byte { return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs := vfs.NewMem()
			format(t, fs, "d")
			opts := quietOptions(fs)
			opts.SegmentBytes = 32 << 10
			w := open(t, opts, "d")
			for i := range 30 {
				w.put(1000 + 300*i)
			}
			w.put(200_000)
			w.free(w.shards[:10]...)
			w.close()
			harm(t, fs)
			again := open(t, opts, "d")
			defer again.close()
			for _, s := range w.shards[10:] {
				again.check(s)
			}
			st := again.d.Status()
			if st.Shards != 21 || st.PendingShards != 21 || !st.Recovery.IndexRebuilt || st.Recovery.Own != 1 || st.Recovery.Sealed == 0 {
				t.Errorf("status = %+v, want 21 pending shards: punched records stay gone", st)
			}
		})
	}
}

// harmTables changes all tables of a drive's index.
func harmTables(t *testing.T, fs *vfs.MemFS, change func(b []byte) []byte) {
	t.Helper()
	names, err := fs.List("d/idx")
	if err != nil {
		t.Fatal(err)
	}
	harmed := 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		f, err := fs.Open("d/idx/" + name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		w, err := fs.Create("d/idx/"+name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(change(b))
		if err = errors.Join(err, w.Sync(), w.Close()); err != nil {
			t.Fatal(err)
		}
		harmed++
	}
	if harmed == 0 {
		t.Fatal("the index has no tables")
	}
}

// TestKnownDirectories fills directories with large shards: they hold a bounded
// number of files, and old ones are not listed on start.
func TestKnownDirectories(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	format(t, fs, "d")
	opts := quietOptions(fs)
	opts.SmallShardBytes = 64
	w := open(t, opts, "d")
	w.d.layout.mu.Lock()
	w.d.layout.files = filesPerDir - 2
	w.d.layout.mu.Unlock()
	for range 5 {
		w.put(100)
	}
	w.maintain()
	if name, _ := w.where(w.shards[4]); !strings.HasPrefix(name, "d/seg/1/") {
		t.Errorf("fifth file = %s, want it in the second directory", name)
	}
	w.close()
	if err := fs.Rename("d/seg/0", "d/seg/elsewhere"); err != nil { // not looked at
		t.Fatal(err)
	}
	again := open(t, opts, "d")
	if st := again.d.Status(); st.Recovery.Files != 0 {
		t.Errorf("recovery = %+v", st.Recovery)
	}
	again.close()
	if err := fs.Rename("d/seg/elsewhere", "d/seg/0"); err != nil {
		t.Fatal(err)
	}
	again = open(t, opts, "d")
	defer again.close()
	for _, s := range w.shards {
		again.check(s)
	}
}

// TestFsyncFailures fails operation i of the file system, for every i: nothing
// is acknowledged falsely, the drive is fenced at once, and the next life has
// everything.
func TestFsyncFailures(t *testing.T) {
	t.Parallel()
	last := 500
	if testing.Short() {
		last = 120
	}
	var wg sync.WaitGroup
	for half := range 2 {
		wg.Go(func() {
			for i := 1 + half; i <= last; i += 2 {
				failAt(t, i)
			}
		})
	}
	wg.Wait()
}

func failAt(t *testing.T, i int) {
	fs := vfs.NewCrashableMem()
	format(t, fs, "d")
	var mu sync.Mutex
	var failed errorfs.Op
	ops := 0
	opts := quietOptions(errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind.ReadOrWrite() == errorfs.OpIsRead || strings.Contains(op.Path, "LOCK") {
			return nil
		}
		if ops++; ops != i {
			return nil
		}
		failed = op
		return syscall.EIO
	})))
	opts.SegmentBytes, opts.SmallShardBytes, opts.CompactGrace = 16<<10, 4096, time.Nanosecond
	n, _, err := Open(t.Context(), opts, []string{"d"})
	if err != nil {
		t.Error(err)
		return
	}
	var acked []*shardtest.Shard
	var firstErr error
	fenced := false
	if drives := n.Drives(); len(drives) == 1 {
		w := &workbench{t: t, n: n, d: drives[0], id: drives[0].ID(), rng: nil}
		acked, firstErr = workload(w)
		fenced = w.d.isFenced()
		if fenced {
			err := w.d.ReadAt(t.Context(), metadata.ShardRef{PG: 1}, make([]byte, 1), 0)
			if !errors.Is(err, metadata.ErrFenced) {
				t.Errorf("failure %d (%v %s): read of a fenced drive = %v", i, failed.Kind, failed.Path, err)
			}
		}
	}
	mu.Lock()
	op := failed
	mu.Unlock()
	what := fmt.Sprintf("failure %d (%v %s)", i, op.Kind, op.Path)
	critical := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileWrite
	if critical && strings.HasPrefix(op.Path, "d/seg") && len(n.Drives()) == 1 && !fenced {
		t.Errorf("%s: drive is not fenced: %v", what, firstErr)
	}
	if firstErr != nil && !errors.Is(firstErr, metadata.ErrFenced) {
		t.Errorf("%s: %v, want %v", what, firstErr, metadata.ErrFenced)
	}
	if err := n.Close(); err != nil && !critical {
		t.Logf("%s: close: %v", what, err)
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	n, refused, err := Open(t.Context(), quietOptions(crashed), []string{"d"})
	if err != nil || len(refused) > 0 {
		t.Errorf("%s: next life: %v %v", what, refused, err)
		return
	}
	for _, s := range acked {
		if err := shardtest.Check(t.Context(), n, n.Drives()[0].ID(), s); err != nil {
			t.Errorf("%s: acknowledged shard of %d bytes: %v", what, len(s.Framed), err)
		}
	}
	if err := n.Close(); err != nil {
		t.Errorf("%s: close of the next life: %v", what, err)
	}
}

// workload writes, frees, compacts and flushes until something fails, and
// returns what was acknowledged and not freed.
func workload(w *workbench) (acked []*shardtest.Shard, err error) {
	rng := newRand(3)
	for i := range 24 {
		size := 200 + 100*i
		if i%5 == 4 {
			size = 9000
		}
		s := shardtest.NewShard(rng, uint32(i%2), size)
		if err := shardtest.Put(w.t.Context(), w.n, w.id, s, int64(len(s.Framed))); err != nil {
			return acked, err
		}
		acked = append(acked, s)
		switch i % 6 {
		case 2:
			drop := acked[0]
			acked = acked[1:]
			err = w.d.Free(w.t.Context(), []metadata.ShardRef{drop.Ref()})
		case 3:
			err = w.d.maintain(w.t.Context())
		case 4:
			err = w.d.index.flush(w.d.fenced)
		case 5:
			err = shardtest.Put(w.t.Context(), w.n, w.id, acked[len(acked)/2], -1)
		}
		if err != nil {
			return acked, err
		}
	}
	return acked, nil
}

// TestHighestEpoch kills a drive in every way after it has seen a new epoch:
// the next life knows it, though nothing was closed.
func TestHighestEpoch(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before func(w *workbench) // the kill
		after  func(disk *vfs.MemFS) error
	}{
		"maintenance":     {before: func(w *workbench) { w.maintain() }},
		"recovery":        {before: func(*workbench) {}},
		"rebuilt":         {before: func(*workbench) {}, after: func(disk *vfs.MemFS) error { return disk.RemoveAll("d/idx") }},
		"recorded fences": {before: func(w *workbench) { w.d.Fence("a test"); w.d.recordFence() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := vfs.NewCrashableMem()
			format(t, disk, "d")
			w := open(t, quietOptions(disk), "d")
			s := shardtest.NewShard(newRand(1), 1, 1000)
			s.Record.Epoch = 1 << 40
			w.again(s)
			c.before(w)
			disk = killed(w, disk)
			if c.after != nil {
				if err := c.after(disk); err != nil {
					t.Fatal(err)
				}
			}
			onDisk := func() uint64 {
				super, err := Inspect(disk, "d")
				if err != nil {
					t.Fatal(err)
				}
				return super.HighestEpoch
			}
			if got := onDisk(); c.after == nil && name != "recovery" && got != 1<<40 {
				t.Errorf("highest epoch on the drive after the kill = %d, want %d", got, uint64(1)<<40)
			}
			w = open(t, quietOptions(disk), "d")
			if got := w.d.Superblock().HighestEpoch; got != 1<<40 {
				t.Errorf("highest epoch of the next life = %d, want %d", got, uint64(1)<<40)
			}
			if got := onDisk(); got != 1<<40 {
				t.Errorf("highest epoch on the drive after recovery = %d, want %d", got, uint64(1)<<40)
			}
			before, err := Inspect(disk, "d")
			if err != nil {
				t.Fatal(err)
			}
			w.again(s)
			w.maintain()
			w.maintain()
			if after, err := Inspect(disk, "d"); err != nil || after.Sequence != before.Sequence {
				t.Errorf("superblock %d, %v after maintenance with nothing new, want %d", after.Sequence, err, before.Sequence)
			}
			w.close()
		})
	}
}

// TestPlaceTaken has a drive fenced whose directory was replaced by an empty
// one, as when a new device is mounted there: nothing may be written to it.
func TestPlaceTaken(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	format(t, fs, "/d")
	w := open(t, quietOptions(fs), "/d")
	w.put(5000)
	if err := errors.Join(fs.RemoveAll("/d"), fs.MkdirAll("/d", 0o755)); err != nil {
		t.Fatal(err)
	}
	w.d.Fence("its device is gone")
	w.d.space.setShare(1, true)
	_ = w.d.close() // whatever it says, the directory counts
	names, err := fs.List("/d")
	if err != nil || len(names) > 0 {
		t.Errorf("the new directory holds %q, %v; want nothing", names, err)
	}
}

// TestTrim looks at the blocks of real files: what was set aside for a shared
// segment is given back when it is closed, and by the start after a crash.
func TestTrim(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	opts := quietOptions(vfs.Default)
	opts.BallastBytes = -1
	opts.PreallocateBytes = 8 << 20
	format(t, vfs.Default, dir)
	occupied := func() (sum int64) {
		err := filepath.WalkDir(filepath.Join(dir, "seg"), func(_ string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			info, err := e.Info()
			if err == nil {
				sum += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	w := open(t, opts, dir)
	w.put(5000)
	if got := occupied(); got < opts.PreallocateBytes {
		t.Skipf("the file system of %s sets nothing aside: %d bytes occupied", dir, got)
	}
	w.close()
	if got := occupied(); got > 1<<20 {
		t.Errorf("%d bytes occupied after a stop, want little more than a shard", got)
	}

	// A crash closes nothing: what it leaves is a segment without a row.
	w = open(t, opts, dir)
	w.put(5000)
	crashed := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	w.close()
	if err := errors.Join(os.RemoveAll(dir), os.Rename(crashed, dir)); err != nil {
		t.Fatal(err)
	}
	setAside(t, dir, opts.PreallocateBytes)
	if got := occupied(); got < opts.PreallocateBytes {
		t.Fatalf("%d bytes occupied before the start after a crash", got)
	}
	w = open(t, opts, dir)
	defer w.close()
	if got := occupied(); got > 1<<20 {
		t.Errorf("%d bytes occupied after a crash, want little more than two shards", got)
	}
}

// setAside gives the newest segment file blocks behind its end, as a crashed
// process leaves them.
func setAside(t *testing.T, dir string, bytes int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "seg", "*", "*"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	f, err := vfs.Default.OpenReadWrite(names[len(names)-1], vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Preallocate(0, bytes), f.Close()); err != nil {
		t.Fatal(err)
	}
}
