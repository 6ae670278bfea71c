package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/gateway/object/shardtest"
	"github.com/ruche-storage/ruche/metadata"
)

// TestDiskFull fills a small device to the brim, twice: by the watermark, and,
// with no reserve to speak of, until writes really fail. Reads and deletes go
// on, nothing acknowledged is lost, and writes resume without a restart.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for name, reserve := range map[string]int64{"watermark": 0, "no space left": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs := newQuotaFS(24 << 20)
			format(t, fs, "d")
			opts := quietOptions(fs)
			opts.SegmentBytes, opts.PreallocateBytes, opts.CompactGrace = 1<<20, 256<<10, time.Nanosecond
			opts.ReserveBytes, opts.BallastBytes = reserve, 2<<20
			w := open(t, opts, "d")
			fill(t, w)
			if st := w.d.Status(); st.State == StateFenced {
				t.Fatalf("status = %+v", st)
			}
			if reserve == 0 && fs.fulls > 0 {
				t.Errorf("%d writes failed in spite of the watermark", fs.fulls)
			}
			for _, s := range w.shards {
				w.check(s)
			}
			if err := w.d.index.flush(w.d.fenced); err != nil {
				t.Errorf("the index cannot be flushed on a full device: %v", err)
			}
			cut := len(w.shards) / 3
			w.free(w.shards[:cut]...)
			w.shards = w.shards[cut:]
			for range 5 {
				w.maintain() // removes, compacts, looks at the space
			}
			for i := range 10 {
				w.put(10_000 * i)
			}
			for _, s := range w.shards {
				w.check(s)
			}
			if st := w.d.Status(); st.State != StateOnline || st.FreeBytes <= 0 || st.CapacityBytes != 24<<20 {
				t.Errorf("status after deletes = %+v", st)
			}
			w.close()
			again := open(t, opts, "d")
			defer again.close()
			for _, s := range w.shards {
				again.check(s)
			}
		})
	}
}

// fill writes shards until the drive has refused some as full.
func fill(t *testing.T, w *workbench) {
	t.Helper()
	refused := 0
	for i := 0; refused < 5; i++ {
		if i > 10_000 {
			t.Fatal("the device never filled up")
		}
		size := []int{3000, 50_000, 400_000}[i%3]
		s := shardtest.NewShard(w.rng, 1, size)
		err := shardtest.Put(t.Context(), w.n, w.id, s, int64(len(s.Framed)))
		switch {
		case err == nil:
			w.shards = append(w.shards, s)
		case errors.Is(err, metadata.ErrDriveFull):
			refused++
		default:
			t.Fatalf("write %d: %v, want %v", i, err, metadata.ErrDriveFull)
		}
		if i%50 == 0 {
			w.maintain()
		}
	}
}

// TestOpenOnAFullDevice opens a drive while the index cannot write a byte: the
// database would try again for ever. Once there is room the drive has all it
// had.
func TestOpenOnAFullDevice(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"", "MANIFEST-"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			mem := vfs.NewCrashableMem()
			format(t, mem, "d")
			w := open(t, quietOptions(mem), "d")
			defer w.close()
			for i := range 20 {
				w.put(10_000 * i)
			}
			if err := w.d.index.flush(w.d.fenced); err != nil {
				t.Fatal(err)
			}
			crashed := mem.CrashClone(vfs.CrashCloneCfg{})
			_, refused, err := Open(t.Context(), quietOptions(errorfs.Wrap(crashed, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind == errorfs.OpFileWrite && strings.HasPrefix(op.Path, "d/idx/") && strings.Contains(op.Path, file) {
					return syscall.ENOSPC
				}
				return nil
			}))), []string{"d"})
			if err != nil || len(refused) != 1 || !errors.Is(refused[0].Err, syscall.ENOSPC) {
				t.Errorf("Open = %v, %v; want %v", refused, err, syscall.ENOSPC)
			}
			// Another process: what the first has begun still holds its locks.
			disk := vfs.NewMem()
			if ok, err := vfs.Clone(crashed, disk, "d", "d"); err != nil || !ok {
				t.Fatal(ok, err)
			}
			later := open(t, quietOptions(disk), "d")
			defer later.close()
			for _, s := range w.shards {
				later.check(s)
			}
		})
	}
}

// TestFullDirectorySync lets the sync of a directory fail for want of space. A
// sync that fails may have lost what it was asked for, so the drive is fenced:
// asking again would be believed.
func TestFullDirectorySync(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"d/seg", "d/seg/0"} {
		for _, size := range []int{1000, 200_000} {
			t.Run(fmt.Sprintf("%s, shard of %d", dir, size), func(t *testing.T) {
				t.Parallel()
				fs := vfs.NewMem()
				format(t, fs, "d")
				var full atomic.Bool
				opts := quietOptions(errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
					if op.Kind == errorfs.OpFileSync && op.Path == dir && full.CompareAndSwap(true, false) {
						return syscall.ENOSPC
					}
					return nil
				})))
				w := open(t, opts, "d")
				full.Store(true)
				for range 2 { // the second time the sync would succeed
					s := shardtest.NewShard(w.rng, 1, size)
					err := shardtest.Put(t.Context(), w.n, w.id, s, int64(len(s.Framed)))
					if !errors.Is(err, metadata.ErrFenced) {
						t.Errorf("write = %v, want %v", err, metadata.ErrFenced)
					}
				}
				if full.Load() {
					t.Errorf("%s was not synced", dir)
				}
				w.close()
			})
		}
	}
}

// TestCapacity bounds a drive by an option rather than the device.
func TestCapacity(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	format(t, fs, "d")
	opts := quietOptions(fs)
	opts.CapacityBytes = 1 << 20
	w := open(t, opts, "d")
	defer w.close()
	fill(t, w)
	if used := w.d.usedBytes(); used > 1<<20 || used < 300_000 {
		t.Errorf("%d bytes used of a capacity of 1 MiB", used)
	}
	w.free(w.shards...)
	w.maintain()
	w.put(100_000)
}

// TestRot damages records in every part. Verify and scrub find each, a read
// never takes a damaged header for a good one, and writing the shard again
// repairs it.
func TestRot(t *testing.T) {
	t.Parallel()
	for _, size := range []int{4000, 70_000, 300_000} {
		for name, harm := range rotKinds() {
			t.Run(fmt.Sprintf("%s of %d", name, size), func(t *testing.T) {
				t.Parallel()
				testRot(t, size, harm)
			})
		}
	}
}

type rotKind func(t *testing.T, fs vfs.FS, file string, r row)

func rotKinds() map[string]rotKind {
	at := func(where func(r row) int64, n int, change func([]byte)) rotKind {
		return func(t *testing.T, fs vfs.FS, file string, r row) { overwrite(t, fs, file, where(r), n, change) }
	}
	header := func(r row) int64 { return r.offset + 50 }
	body := func(r row) int64 { return r.offset + int64(r.entry.HeaderBytes) + r.entry.Body/2 }
	checksum := func(r row) int64 { return r.offset + int64(r.entry.HeaderBytes) + r.entry.Body - 4 }
	footer := func(r row) int64 { return r.offset + int64(r.entry.HeaderBytes) + r.entry.Body + 60 }
	start := func(r row) int64 { return r.offset }
	return map[string]rotKind{
		"flipped header":    at(header, 1, flip),
		"void header":       at(start, 64, zero),
		"flipped body":      at(body, 1, flip),
		"zeroed body":       at(body, 512, zero),
		"flipped checksum":  at(checksum, 1, flip),
		"flipped footer":    at(footer, 1, flip),
		"zeroed footer":     at(footer, 16, zero),
		"truncated by 1":    func(t *testing.T, fs vfs.FS, file string, _ row) { truncate(t, fs, file, 1) },
		"truncated by half": func(t *testing.T, fs vfs.FS, file string, r row) { truncate(t, fs, file, r.entry.Bytes*2/3) },
	}
}

func testRot(t *testing.T, size int, harm rotKind) {
	fs := vfs.NewMem()
	format(t, fs, "d")
	bad := make(chan BadShard, 10)
	opts := quietOptions(fs)
	opts.OnBadShard = func(b BadShard) { bad <- b }
	w := open(t, opts, "d")
	good := w.put(500)
	victim := w.put(size)
	w.close() // seals; the last record of the segment is followed by the seal

	w2 := open(t, opts, "d")
	file, r := w2.where(victim)
	if r.entry.Bytes != w2.mustBytes(victim) {
		t.Fatalf("row of %d bytes", r.entry.Bytes)
	}
	w2.close()
	isSealed := !r.own
	harm(t, fs, file, r)

	w3 := open(t, opts, "d")
	defer func() { w3.close() }()
	if isSealed && w3.d.Verify(t.Context(), victim.Ref()) == nil {
		// Cutting a sealed segment short takes the seal, not the record.
		return
	}
	if err := w3.d.Verify(t.Context(), victim.Ref()); !errors.Is(err, metadata.ErrCorrupt) {
		t.Errorf("Verify = %v, want %v", err, metadata.ErrCorrupt)
	}
	w3.check(good)
	if err := w3.d.StartScrub(); err != nil {
		t.Fatal(err)
	}
	if b := <-bad; b.Shard.Ref() != victim.Ref() || !errors.Is(b.Err, metadata.ErrCorrupt) {
		t.Errorf("scrub found %v bad (%v), want %v", b.Shard.Ref(), b.Err, victim.Ref())
	}
	w3.again(victim)
	w3.check(victim)
	rows, err := w3.d.index.lookup(victim.Ref())
	if err != nil || len(rows) != 1 {
		t.Errorf("%d rows after the repair, %v, want the new one alone", len(rows), err)
	}
}

// mustBytes returns what Stat says of the length of a record.
func (w *workbench) mustBytes(s *shardtest.Shard) int64 {
	w.t.Helper()
	st, err := w.d.Stat(w.t.Context(), s.Ref())
	if err != nil {
		w.t.Fatal(err)
	}
	return st.Bytes
}

// TestLostFiles removes segment files: the shards are missing, scrub tells, and
// the drive goes on.
func TestLostFiles(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	format(t, fs, "d")
	bad := make(chan BadShard, 10)
	opts := quietOptions(fs)
	opts.OnBadShard = func(b BadShard) { bad <- b }
	w := open(t, opts, "d")
	small, large := w.put(100), w.put(400_000)
	w.close()
	w = open(t, opts, "d")
	for _, s := range []*shardtest.Shard{small, large} {
		name, _ := w.where(s)
		if err := fs.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.d.StartScrub(); err != nil {
		t.Fatal(err)
	}
	found := map[metadata.ShardRef]bool{}
	for range 2 {
		b := <-bad
		found[b.Shard.Ref()] = errors.Is(b.Err, metadata.ErrShardNotFound)
	}
	if !found[small.Ref()] || !found[large.Ref()] {
		t.Errorf("scrub found %v missing", found)
	}
	for _, s := range []*shardtest.Shard{small, large} {
		if err := w.d.ReadAt(t.Context(), s.Ref(), make([]byte, 1), 0); !errors.Is(err, metadata.ErrShardNotFound) {
			t.Errorf("read = %v, want %v", err, metadata.ErrShardNotFound)
		}
		w.again(s)
		w.check(s)
	}
	w.close()
}

// TestSeveralRecords leaves two records of one shard, as a crash in the middle
// of a repair does: reads take the one that is sound, and Verify drops the
// other.
func TestSeveralRecords(t *testing.T) {
	t.Parallel()
	for _, damageNewer := range []bool{false, true} {
		fs := vfs.NewMem()
		format(t, fs, "d")
		w := open(t, quietOptions(fs), "d")
		s := w.put(200_000)
		name, old := w.where(s)
		kept, err := readFile(fs, name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		w.again(s)
		newName, _ := w.where(s)
		w.close()

		f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(kept); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if damageNewer {
			overwrite(t, fs, newName, 50, 1, flip)
		} else {
			overwrite(t, fs, name, old.entry.Body/2, 1, flip)
		}
		if err := fs.RemoveAll("d/idx"); err != nil {
			t.Fatal(err)
		}
		w = open(t, quietOptions(fs), "d")
		got := make([]byte, len(s.Framed))
		if err := w.d.ReadAt(t.Context(), s.Ref(), got, 0); err != nil || string(got) != string(s.Framed) {
			t.Errorf("damaged newer %t: read of a shard with one good record: %v", damageNewer, err)
		}
		w.check(s)
		rows, err := w.d.index.lookup(s.Ref())
		if err != nil || len(rows) != 1 {
			t.Errorf("damaged newer %t: %d rows after Verify, %v, want 1", damageNewer, len(rows), err)
		}
		w.close()
	}
}

// TestCompaction frees most of several segments: what is live moves, the files
// go, and nothing is read wrong meanwhile or after.
func TestCompaction(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	format(t, fs, "d")
	opts := quietOptions(fs)
	opts.SegmentBytes, opts.CompactGrace = 64<<10, time.Nanosecond
	w := open(t, opts, "d")
	rec := metadata.Record{Type: metadata.RecordBucket, Shard: metadata.ShardID{Chunk: metadata.ChunkID{1}}, Epoch: 4}
	if err := w.d.PutRecord(t.Context(), &rec, metadata.PayloadOf([]byte("a bucket"))); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		w.put(4000)
	}
	segments := w.d.Status().Segments
	var keep []*shardtest.Shard
	for i, s := range w.shards {
		if i%5 == 0 {
			keep = append(keep, s)
		} else {
			w.free(s)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			s := keep[i%len(keep)]
			if err := shardtest.Check(context.WithoutCancel(ctx), w.n, w.id, s); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range 2 * segments {
		w.maintain()
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("read during compaction: %v", err)
	}
	st := w.d.Status()
	if st.Segments > segments/2 || st.DeadBytes > st.LiveBytes+st.PendingBytes {
		t.Errorf("status = %+v, had %d segments", st, segments)
	}
	if st.Shards != 20 || st.PendingShards != 20 {
		t.Errorf("%d shards, %d pending after compaction, want 20", st.Shards, st.PendingShards)
	}
	w.close()
	if err := fs.RemoveAll("d/idx"); err != nil {
		t.Fatal(err)
	}
	w = open(t, opts, "d")
	defer w.close()
	for _, s := range keep {
		w.check(s)
	}
	seen := 0
	err := w.d.Records(t.Context(), metadata.RecordBucket, func(r *metadata.Record, payload []byte) error {
		if seen++; *r != rec || string(payload) != "a bucket" {
			t.Errorf("record = %+v, %q", r, payload)
		}
		return nil
	})
	if err != nil || seen != 1 {
		t.Errorf("Records yields %d, %v", seen, err)
	}
}

// TestFsck damages a drive and loses files from its index.
func TestFsck(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	format(t, fs, "d")
	opts := quietOptions(fs)
	w := open(t, opts, "d")
	for i := range 20 {
		w.put(1000 * i)
	}
	large := w.put(500_000)
	name, r := w.where(large)
	if _, err := Fsck(t.Context(), opts, "d", false); !errors.Is(err, ErrInUse) {
		t.Errorf("Fsck of an open drive = %v, want %v", err, ErrInUse)
	}
	w.close()

	report, err := Fsck(t.Context(), opts, "d", false)
	if err != nil || report.Records != 21 || report.Bad != 0 || report.Recovery.Files != 0 {
		t.Fatalf("Fsck of a sound drive = %+v, %v", report, err)
	}
	overwrite(t, fs, name, r.entry.Body/3, 1, flip)
	for _, rebuild := range []bool{false, true} {
		report, err = Fsck(t.Context(), opts, "d", rebuild)
		if err != nil || report.Records != 21 || report.Bad != 1 || len(report.BadNamed) != 1 || report.BadNamed[0].Record.Shard != large.Ref().Shard {
			t.Errorf("Fsck(rebuild %t) of a damaged drive = %+v, %v", rebuild, report, err)
		}
		if report.Recovery.IndexRebuilt != rebuild {
			t.Errorf("Fsck(rebuild %t): rebuilt %t", rebuild, report.Recovery.IndexRebuilt)
		}
	}
	if report.Shards != 21 || report.Pending != 21 {
		t.Errorf("after a rebuild %d of %d shards are pending", report.Pending, report.Shards)
	}
}

// TestFsckNamesEveryRecord damages a record that is no shard.
func TestFsckNamesEveryRecord(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	format(t, fs, "d")
	w := open(t, quietOptions(fs), "d")
	putManifest(t, w, 7)
	r := manifestRows(t, w)[0]
	w.close()
	overwrite(t, fs, w.d.layout.file(r.dir, r.segment), r.entry.Body, 1, flip)
	report, err := Fsck(t.Context(), quietOptions(fs), "d", false)
	if err != nil || report.Bad != 1 || len(report.BadNamed) != 1 {
		t.Fatalf("Fsck = %+v, %v; want one bad record, named", report, err)
	}
	if b := report.BadNamed[0]; b.Record.Type != metadata.RecordManifest || b.Record.Shard.Chunk[0] != 7 || b.Err == nil {
		t.Errorf("bad record %+v", b)
	}
}

// TestScrubRate lets a scrub read a drive at a given rate, stops it half-way,
// and goes on in the next life.
func TestScrubRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fs := vfs.NewMem()
		format(t, fs, "d")
		opts := quietOptions(fs)
		opts.SegmentBytes, opts.ScrubBytesPerSecond = 64<<10, 100_000
		w := open(t, opts, "d")
		for range 100 {
			w.put(10_000)
		}
		w.close()
		w = open(t, opts, "d")
		start := time.Now()
		if err := w.d.StartScrub(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		w.d.PauseScrub()
		synctest.Wait()
		st := w.d.Status().Scrub
		if st.State != ScrubPaused || st.Bytes < 400_000 || st.Bytes > 600_000 || st.Pass != 1 {
			t.Errorf("after 5 s at 100 kB/s: %+v", st)
		}
		time.Sleep(time.Second) // the file under way is finished
		synctest.Wait()
		w.close()
		w = open(t, opts, "d")
		defer w.close()
		synctest.Wait()
		if err := w.d.StartScrub(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		st = w.d.Status().Scrub
		age, ok := st.Age(time.Now())
		if st.State != ScrubIdle || st.Records != 100 || st.Bad != 0 || !ok || age > time.Since(start) {
			t.Errorf("after the pass: %+v, age %v", st, age)
		}
	})
}

// TestScrubInterval starts passes by itself.
func TestScrubInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fs := vfs.NewMem()
		format(t, fs, "d")
		opts := quietOptions(fs)
		opts.ScrubInterval = 10 * time.Second
		w := open(t, opts, "d")
		defer w.close()
		if err := w.d.Confirm(t.Context(), []metadata.ShardRef{w.put(10).Ref()}); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			sleep   time.Duration
			pass    uint64
			pending int64
		}{{25 * time.Second, 3, 0}, {10 * time.Second, 4, 1}} {
			time.Sleep(step.sleep)
			synctest.Wait()
			st := w.d.Status()
			if st.Scrub.Pass != step.pass || st.Scrub.State != ScrubIdle || st.PendingShards != step.pending {
				t.Errorf("%+v, %d pending; want pass %d done and %d pending", st.Scrub, st.PendingShards, step.pass, step.pending)
			}
		}
	})
}
