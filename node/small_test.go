package node

import (
	"errors"
	"io/fs"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
)

func TestSmallFiles(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	format(t, mem, "d")
	w := open(t, quietOptions(mem), "d")
	for name, data := range map[string]string{"keyring.sealed.9": "nine", "keyring.sealed.10": "ten"} {
		if err := w.d.WriteSmallFile(name, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.d.WriteSmallFile("keyring.sealed.9", []byte("other")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"superblock.0", "keyring.sealed.", "keyring.sealed.01", "keyring.sealed.1/x", "../keyring.sealed.1"} {
		if err := w.d.WriteSmallFile(name, nil); !errors.Is(err, errSmallFile) {
			t.Errorf("writing %q = %v, want %v", name, err, errSmallFile)
		}
		if _, err := w.d.ReadSmallFile(name); !errors.Is(err, errSmallFile) {
			t.Errorf("reading %q = %v, want %v", name, err, errSmallFile)
		}
	}
	names, err := w.d.SmallFiles()
	if err != nil || !slices.Equal(names, []string{"keyring.sealed.9", "keyring.sealed.10"}) {
		t.Errorf("small files = %v, %v", names, err)
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	files, err := SealedKeyrings(crashed, "d")
	if err != nil || string(files["keyring.sealed.9"]) != "other" || string(files["keyring.sealed.10"]) != "ten" {
		t.Errorf("after a power cut: %q, %v", files, err)
	}
	for range 2 {
		if err := w.d.RemoveSmallFile("keyring.sealed.9"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.d.ReadSmallFile("keyring.sealed.9"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading a removed file = %v, want %v", err, fs.ErrNotExist)
	}
	w.close()
	if _, err := w.d.SmallFiles(); !errors.Is(err, ErrClosed) {
		t.Errorf("small files of a closed drive = %v, want %v", err, ErrClosed)
	}
}

// TestDrivesComeAndGo adds, removes and replaces drives of a node.
func TestDrivesComeAndGo(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	a, b := format(t, mem, "a"), format(t, mem, "b")
	n, refused, err := Open(t.Context(), quietOptions(mem), []string{"b", "a"})
	if err != nil || len(refused) > 0 {
		t.Fatal(refused, err)
	}
	if err := n.RemoveDrive(a); err != nil {
		t.Fatal(err)
	}
	if err := n.RemoveDrive(a); !errors.Is(err, metadata.ErrDriveAbsent) {
		t.Errorf("removing a drive twice = %v, want %v", err, metadata.ErrDriveAbsent)
	}
	if id, err := n.AddDrive(t.Context(), "a"); err != nil || id != a {
		t.Errorf("AddDrive = %v, %v; want %v", id, err, a)
	}
	if _, err := n.Replace(t.Context(), "b", Formatting{}); !errors.Is(err, ErrFormatted) {
		t.Errorf("replacing a drive in place = %v, want %v", err, ErrFormatted)
	}
	c, err := n.Replace(t.Context(), "c", Formatting{Site: "par1"})
	if err != nil || c == a || c == b || c.IsZero() {
		t.Errorf("Replace = %v, %v", c, err)
	}
	if got := n.Status(); len(got) != 3 {
		t.Errorf("status of %d drives, want 3", len(got))
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.AddDrive(t.Context(), "a"); !errors.Is(err, ErrClosed) {
		t.Errorf("AddDrive to a closed node = %v, want %v", err, ErrClosed)
	}
}

// TestSuspect makes live rows pending again.
func TestSuspect(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	format(t, mem, "d")
	w := open(t, quietOptions(mem), "d")
	defer w.close()
	pgs := map[uint32]int{}
	var refs []metadata.ShardRef
	for range 600 {
		s := w.put(10)
		pgs[s.Record.PG]++
		refs = append(refs, s.Ref())
	}
	if err := w.d.Confirm(t.Context(), refs); err != nil {
		t.Fatal(err)
	}
	pg := uint32(1)
	for _, step := range []struct {
		pg   *uint32
		want int
	}{{&pg, pgs[1]}, {nil, 600}, {nil, 600}} {
		if err := w.d.Suspect(t.Context(), step.pg); err != nil {
			t.Fatal(err)
		}
		if got := w.d.Status().PendingShards; got != int64(step.want) {
			t.Errorf("%d rows are pending, want %d", got, step.want)
		}
	}
}

// TestDirSyncs: every call waits for a sync that began after it, and calls
// that wait share one.
func TestDirSyncs(t *testing.T) {
	t.Parallel()
	s := newDirSyncs()
	var mu sync.Mutex
	written, durable, syncs := 0, 0, 0
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 20 {
				mu.Lock()
				written++
				mine := written
				mu.Unlock()
				err := s.sync(1, func() error {
					mu.Lock()
					seen := written
					mu.Unlock()
					time.Sleep(10 * time.Microsecond)
					mu.Lock()
					durable, syncs = max(durable, seen), syncs+1
					mu.Unlock()
					return nil
				})
				mu.Lock()
				if err != nil || durable < mine {
					t.Errorf("write %d answered when %d was durable, %v", mine, durable, err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if syncs > 500 {
		t.Errorf("%d syncs for 1000 calls", syncs)
	}
}

func TestLatency(t *testing.T) {
	t.Parallel()
	var l latency
	for i := range 1000 {
		l.add(time.Duration(i+1) * time.Microsecond)
	}
	got := l.snapshot()
	if got.P95 < 950*time.Microsecond || got.P95 > 1200*time.Microsecond || got.Count != 1000 {
		t.Errorf("latency of 1 to 1000 us = %+v", got)
	}
	if got.Mean < 900*time.Microsecond || got.Mean > time.Millisecond {
		t.Errorf("mean of the last ones = %v", got.Mean)
	}
	for range 20_000 {
		l.add(10 * time.Millisecond)
	}
	if got := l.snapshot(); got.P95 < 10*time.Millisecond || got.P95 > 13*time.Millisecond {
		t.Errorf("latency after a change to 10 ms = %+v", got)
	}
	for us := time.Duration(1); us < 1<<31; us = us*5/4 + 1 {
		d := us * time.Microsecond
		i := latencyBucket(d)
		if top := bucketTop(i); top < d && i < 127 || top > d*3/2 && us > 4 {
			t.Errorf("bucket %d of %v ends at %v", i, d, top)
		}
	}
}

func TestBufferPool(t *testing.T) {
	t.Parallel()
	var p bufferPool
	last := -1
	for n := int64(1); n < 1<<26; n = n*9/8 + 1 {
		size := bufferSize(n)
		if size < n || n > 4096 && size > n*3/2+1 {
			t.Errorf("bufferSize(%d) = %d", n, size)
		}
		if i := poolIndex(size); i < last || i >= len(p.bySize) {
			t.Errorf("poolIndex(%d) = %d after %d", size, i, last)
		} else {
			last = i
		}
		b := p.get(size)
		if int64(cap(b)) != size || len(b) != 0 {
			t.Errorf("get(%d) has length %d and capacity %d", size, len(b), cap(b))
		}
		p.put(b)
	}
}

// TestPunchHole: freed records of a real file give their blocks back and read
// as zeros, and their neighbours stay.
func TestPunchHole(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	format(t, vfs.Default, path)
	opts := quietOptions(vfs.Default)
	opts.PreallocateBytes = -1
	w := open(t, opts, path)
	defer w.close()
	before, middle, after := w.put(30_000), w.put(60_000), w.put(30_000)
	name, r := w.where(middle)
	w.free(middle)
	b, err := readFile(vfs.Default, name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range b[r.offset : r.offset+r.entry.Bytes] {
		if c != 0 && i < 8 {
			t.Fatalf("byte %d of the freed record is %#x", i, c)
		}
	}
	w.check(before)
	w.check(after)
	if m := w.n.Metrics(); m.BufferBytes != 0 || m.OpenFiles != 1 || len(m.Drives) != 1 || m.Drives[0].DeadBytes != r.entry.Bytes {
		t.Errorf("metrics = %+v", m)
	}
}
