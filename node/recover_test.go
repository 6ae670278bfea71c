package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/gateway/object/shardtest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node/segment"
)

// killed returns what kill -9 leaves of a drive: everything that was
// acknowledged, a shared segment without a seal, and an index that has lost
// what was not flushed.
func killed(w *workbench, fs *vfs.MemFS) *vfs.MemFS {
	clone := fs.CrashClone(vfs.CrashCloneCfg{})
	w.close()
	return clone
}

// TestRotUnsealed damages most records of a shared segment that has no seal and
// of which the index has lost the rows. They are damaged, not missing: their
// bytes stay until they are repaired.
func TestRotUnsealed(t *testing.T) {
	t.Parallel()
	places := map[string]func(r *row) int64{
		"body":   func(r *row) int64 { return r.offset + int64(r.entry.HeaderBytes) + 100 },
		"footer": func(r *row) int64 { return r.offset + int64(r.entry.HeaderBytes) + r.entry.Body + 60 },
	}
	for name, place := range places {
		for _, rebuild := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				testRotUnsealed(t, place, rebuild)
			})
		}
	}
}

func testRotUnsealed(t *testing.T, place func(r *row) int64, rebuild bool) {
	const bad = 8
	disk := vfs.NewCrashableMem()
	format(t, disk, "d")
	w := open(t, quietOptions(disk), "d")
	var rows []row
	var file string
	for range 10 {
		name, r := w.where(w.put(4000))
		file, rows = name, append(rows, r)
	}
	shards := w.shards
	disk = killed(w, disk)
	if rebuild {
		if err := disk.RemoveAll("d/idx"); err != nil {
			t.Fatal(err)
		}
	}
	for i := range bad {
		overwrite(t, disk, file, place(&rows[i]), 1, flip)
	}
	opts := quietOptions(disk)
	opts.CompactGrace = time.Nanosecond
	w = open(t, opts, "d")
	defer func() { w.close() }()
	for range 4 {
		w.maintain()
	}
	if _, err := disk.Stat(file); err != nil {
		t.Errorf("the file of the damaged records after compaction: %v", err)
	}
	st := w.d.Status()
	if st.Shards != 10 || st.PendingShards != 10 || st.Recovery.Damaged != bad || st.DeadBytes != 0 {
		t.Errorf("status = %+v, want 10 pending shards, %d damaged records and nothing dead", st, bad)
	}
	for i, s := range shards {
		if i >= bad {
			w.check(s)
			continue
		}
		if err := w.d.Verify(t.Context(), s.Ref()); !errors.Is(err, metadata.ErrCorrupt) {
			t.Errorf("Verify of damaged shard %d = %v, want %v", i, err, metadata.ErrCorrupt)
		}
		err := w.d.ReadAt(t.Context(), s.Ref(), make([]byte, len(s.Framed)), 0)
		if err != nil && !errors.Is(err, metadata.ErrCorrupt) {
			t.Errorf("read of damaged shard %d = %v, want its bytes or %v", i, err, metadata.ErrCorrupt)
		}
	}
	for _, s := range shards[:bad] { // as repair does
		w.again(s)
	}
	w.maintain()
	w.maintain()
	for _, s := range shards {
		w.check(s)
	}
	if _, err := disk.Stat(file); err == nil {
		t.Errorf("%s is not compacted after the repair", file)
	}
}

// TestRotKeepsGoodCells damages one cell of a shard whose rows were lost: the
// others are still read.
func TestRotKeepsGoodCells(t *testing.T) {
	t.Parallel()
	disk := vfs.NewCrashableMem()
	format(t, disk, "d")
	opts := quietOptions(disk)
	opts.SmallShardBytes = 1 << 20
	w := open(t, opts, "d")
	s := w.put(300_000)
	file, r := w.where(s)
	if r.own {
		t.Fatal("the shard has a file of its own")
	}
	disk = killed(w, disk)
	overwrite(t, disk, file, r.offset+int64(r.entry.HeaderBytes)+100, 1, flip)
	opts.FS = disk
	w = open(t, opts, "d")
	defer w.close()
	const cell = metadata.CellBytes + 8
	got := make([]byte, len(s.Framed)-cell)
	if err := w.d.ReadAt(t.Context(), s.Ref(), got, cell); err != nil || string(got) != string(s.Framed[cell:]) {
		t.Errorf("read of the cells behind a bad one: %v", err)
	}
	if err := w.d.Verify(t.Context(), s.Ref()); !errors.Is(err, metadata.ErrCorrupt) {
		t.Errorf("Verify = %v, want %v", err, metadata.ErrCorrupt)
	}
}

// TestTornRecords leaves the beginning of a shard and of a manifest that were
// never acknowledged: the shard waits for a lookup, the manifest is nothing.
func TestTornRecords(t *testing.T) {
	t.Parallel()
	disk := vfs.NewCrashableMem()
	format(t, disk, "d")
	w := open(t, quietOptions(disk), "d")
	kept, torn := w.put(3000), w.put(3000)
	file, r := w.where(torn)
	rec := metadata.Record{Type: metadata.RecordManifest, Shard: metadata.ShardID{Chunk: metadata.ChunkID{1}}}
	if err := w.d.PutRecord(t.Context(), &rec, metadata.PayloadOf(make([]byte, 3000))); err != nil {
		t.Fatal(err)
	}
	disk = killed(w, disk)
	overwrite(t, disk, file, r.offset+1000, 2000, zero)
	truncate(t, disk, file, 1000)
	w = open(t, quietOptions(disk), "d")
	defer w.close()
	w.check(kept)
	if err := w.d.Verify(t.Context(), torn.Ref()); !errors.Is(err, metadata.ErrCorrupt) {
		t.Errorf("Verify of the torn shard = %v, want %v", err, metadata.ErrCorrupt)
	}
	err := w.d.Records(t.Context(), metadata.RecordManifest, func(*metadata.Record, []byte) error {
		t.Error("a torn manifest is yielded")
		return nil
	})
	if st := w.d.Status(); err != nil || st.Recovery.Damaged != 2 || st.PendingShards != 2 {
		t.Errorf("Records = %v, status %+v; want two damaged records and two pending shards", err, st)
	}
	w.free(torn)
	if err := w.d.Verify(t.Context(), torn.Ref()); !errors.Is(err, metadata.ErrShardNotFound) {
		t.Errorf("Verify after the lookup = %v, want %v", err, metadata.ErrShardNotFound)
	}
}

// TestNewerRecordsStay leaves records of a newer format in a segment without a
// seal: whatever else is freed, the file stays, and is read again by every
// start until a program knows them.
func TestNewerRecordsStay(t *testing.T) {
	t.Parallel()
	disk := vfs.NewCrashableMem()
	format(t, disk, "d")
	w := open(t, quietOptions(disk), "d")
	var newer []row
	var file string
	for i := range 10 {
		name, r := w.where(w.put(4000))
		if file = name; i%2 == 0 {
			newer = append(newer, r)
		}
	}
	shards := w.shards
	disk = killed(w, disk)
	for i := range newer {
		r := &newer[i]
		overwrite(t, disk, file, r.offset, r.entry.HeaderBytes, func(header []byte) { setFormat(header, 2) })
	}
	opts := quietOptions(disk)
	opts.CompactGrace, opts.filesPerDir = time.Nanosecond, 1
	w = open(t, opts, "d")
	if st := w.d.Status(); st.Shards != 5 || st.DeadBytes != 0 || st.Recovery.Newer != 5 {
		t.Errorf("status = %+v, want 5 shards and nothing dead", st)
	}
	for i, s := range shards {
		if i%2 == 1 {
			w.free(s)
		}
	}
	w.again(shardtest.NewShard(newRand(9), 1, 100_000)) // goes to another directory
	for range 4 {
		w.maintain()
	}
	w.close()
	if _, err := disk.Stat(file); err != nil {
		t.Fatalf("the file of the newer records: %v", err)
	}
	for i := range newer {
		r := &newer[i]
		overwrite(t, disk, file, r.offset, r.entry.HeaderBytes, func(header []byte) { setFormat(header, segment.Format) })
	}
	w = open(t, opts, "d") // stands for the newer program
	defer w.close()
	for i, s := range shards {
		if i%2 == 0 {
			w.check(s)
		} else if err := shardtest.Check(t.Context(), w.n, w.id, s); !errors.Is(err, metadata.ErrShardNotFound) {
			t.Errorf("freed shard: %v, want %v", err, metadata.ErrShardNotFound)
		}
	}
}

// setFormat makes a header one of another format.
func setFormat(header []byte, format byte) {
	header[4] = format
	end := len(header) - 4
	binary.LittleEndian.PutUint32(header[end:], crc32.Checksum(header[:end], crc32.MakeTable(crc32.Castagnoli)))
}

// TestOrderGoesOn empties the newest directories before a start: ids and births
// of the next life are higher than all that are left.
func TestOrderGoesOn(t *testing.T) {
	t.Parallel()
	for _, rebuild := range []bool{false, true} {
		disk := vfs.NewMem()
		format(t, disk, "d")
		opts := quietOptions(disk)
		opts.SmallShardBytes, opts.filesPerDir = 64, 2
		w := open(t, opts, "d")
		putManifest(t, w, 1)
		for range 7 {
			w.put(1000)
		}
		putManifest(t, w, 2)
		old := w.shards[1]
		_, r := w.where(old)
		w.free(append(w.shards[2:], w.shards[0])...)
		w.maintain()
		w.close()
		if rebuild {
			if err := disk.RemoveAll("d/idx"); err != nil {
				t.Fatal(err)
			}
		}
		w = open(t, opts, "d")
		putManifest(t, w, 3)
		w.again(old)
		if _, again := w.where(old); bytes.Compare(again.segment[:8], r.segment[:8]) <= 0 {
			t.Errorf("rebuilt %t: a new file has the id %s, an older one has %s", rebuild, again.segment, r.segment)
		}
		w.check(old)
		var order []byte
		err := w.d.Records(t.Context(), metadata.RecordManifest, func(_ *metadata.Record, payload []byte) error {
			order = append(order, payload[0])
			return nil
		})
		if err != nil || string(order) != "\x01\x02\x03" {
			t.Errorf("rebuilt %t: Records yields %v, %v, want the older first", rebuild, order, err)
		}
		w.close()
	}
}

// TestDirectoryAfterFull numbers a directory that could not be made for want
// of space: the next life goes on there, and starts find what it writes.
func TestDirectoryAfterFull(t *testing.T) {
	t.Parallel()
	disk := vfs.NewCrashableMem()
	format(t, disk, "d")
	opts := quietOptions(errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpMkdirAll && op.Path == "d/seg/1" {
			return syscall.ENOSPC
		}
		return nil
	})))
	opts.SmallShardBytes, opts.filesPerDir = 64, 2
	w := open(t, opts, "d")
	w.put(1000)
	w.put(1000)
	s := shardtest.NewShard(newRand(9), 1, 1000)
	if err := shardtest.Put(t.Context(), w.n, w.id, s, int64(len(s.Framed))); !errors.Is(err, metadata.ErrDriveFull) {
		t.Fatalf("write = %v, want %v", err, metadata.ErrDriveFull)
	}
	w.maintain()
	w.close()
	opts.FS = disk
	w = open(t, opts, "d")
	w.again(s)
	opts.FS = killed(w, disk)
	w = open(t, opts, "d")
	defer w.close()
	w.check(s)
}

func putManifest(t *testing.T, w *workbench, n byte) {
	t.Helper()
	rec := metadata.Record{Type: metadata.RecordManifest, Shard: metadata.ShardID{Chunk: metadata.ChunkID{n}}}
	if err := w.d.PutRecord(t.Context(), &rec, metadata.PayloadOf([]byte{n})); err != nil {
		t.Fatal(err)
	}
}
