package object

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/erasure/shardhash"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// chunksOf returns the chunks of an object that is one part.
func (w *world) chunksOf(key string) (metadata.BucketRef, *metadata.Version, []metadata.Chunk) {
	w.t.Helper()
	b, err := w.bucket(w.t.Context(), "b")
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := w.meta.Version(w.t.Context(), b.ref(), key, "")
	if err != nil {
		w.t.Fatal(err)
	}
	chunks, err := w.meta.Chunks(w.t.Context(), b.ref(), v.Part.ID, 0, 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	return b.ref(), v, chunks
}

// whole verifies every shard of an object on the member of the newest
// generation, by the drives themselves, and returns how many are not right.
func (w *world) whole(key string) (bad int) {
	w.t.Helper()
	_, _, chunks := w.chunksOf(key)
	table, err := w.meta.PGs(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range chunks {
		for i, d := range table.Groups[c.PG].Newest().Members {
			ref := refsOf(&c, i)[0]
			stored, err := w.node.Stat(w.t.Context(), d, ref)
			if err == nil {
				err = belongs(&c, stored)
			}
			if err == nil {
				err = w.node.Verify(w.t.Context(), d, ref)
			}
			if err != nil {
				bad++
			}
		}
	}
	return bad
}

// short returns the rows of the short index.
func (w *world) short() (rows []metadata.Short) {
	w.t.Helper()
	for group := range dataGroups {
		page, err := w.meta.Short(w.t.Context(), group, nil, 1000)
		if err != nil {
			w.t.Fatal(err)
		}
		rows = append(rows, page...)
	}
	return rows
}

// drain repairs all that is due.
func (w *world) drain(ctx context.Context) (handled int) {
	for {
		w.bg.repair.takeDamage()
		item, _ := w.bg.repair.queue.take()
		if item == nil {
			return handled
		}
		w.bg.repair.handle(ctx, item)
		handled++
	}
}

// scrub has drives verify all their shards, and reports what is bad.
func (w *world) scrub() (bad int) {
	w.t.Helper()
	for _, d := range w.drives {
		rows, err := w.node.List(w.t.Context(), d, metadata.ShardRef{}, false, 100_000)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range rows {
			if err := w.node.Verify(w.t.Context(), d, r.Ref()); err != nil {
				w.ReportBadShard(BadShard{Drive: d, Record: r.Record, Err: err})
				bad++
			}
		}
	}
	return bad
}

// rot damages the bytes of all segments of a drive.
func (w *world) rot(drive topology.DriveID) {
	w.t.Helper()
	at := -1
	for i, d := range w.drives {
		if d == drive {
			at = i
		}
	}
	root := w.fs.PathJoin(fmt.Sprintf("d%d", at+1), "seg")
	dirs, err := w.fs.List(root)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, dir := range dirs {
		files, err := w.fs.List(w.fs.PathJoin(root, dir))
		if err != nil {
			w.t.Fatal(err)
		}
		for _, name := range files {
			f, err := w.fs.OpenReadWrite(w.fs.PathJoin(root, dir, name), vfs.WriteCategoryUnspecified)
			if err != nil {
				w.t.Fatal(err)
			}
			info, err := f.Stat()
			if err != nil {
				w.t.Fatal(err)
			}
			one := make([]byte, 1)
			for off := int64(700); off < info.Size(); off += 3000 {
				if _, err := f.ReadAt(one, off); err != nil && !errors.Is(err, io.EOF) {
					w.t.Fatal(err)
				}
				one[0] ^= 0x40
				if _, err := f.WriteAt(one, off); err != nil {
					w.t.Fatal(err)
				}
			}
			check(w.t, f.Close())
		}
	}
}

// TestRepairRot: rot in as many drives as may be lost is found by a scrub,
// repaired, and found right by the drives.
func TestRepairRot(t *testing.T) {
	t.Parallel()
	for _, scheme := range []metadata.Scheme{metadata.NewScheme(4, 2), metadata.NewScheme(2, 2), metadata.NewScheme(1, 1)} {
		t.Run(scheme.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{scheme: scheme})
			bodies := map[string][]byte{}
			for i, n := range []int{20_000, 300_000, 5_000_000, 9_000_001} {
				key := fmt.Sprint("object", i)
				bodies[key] = payload(n, uint64(i))
				w.mustPut(key, bodies[key])
			}
			for _, d := range w.drives[:scheme.Parity] {
				w.rot(d)
			}
			if bad := w.scrub(); bad != len(bodies)*int(scheme.Parity) {
				t.Fatalf("the scrub found %d bad shards", bad)
			}
			w.drain(t.Context())
			for key, body := range bodies {
				if bad := w.whole(key); bad != 0 {
					t.Errorf("%s: %d shards are bad after repair", key, bad)
				}
				w.expect(key, body)
			}
			s := w.RepairState()
			if s.Chunks != uint64(len(bodies)) || s.Shards != uint64(len(bodies)*int(scheme.Parity)) || len(s.LastErrors) != 0 || s.Bytes == 0 {
				t.Errorf("state %+v", s)
			}
			if rows := w.short(); len(rows) != 0 {
				t.Errorf("short index: %+v", rows)
			}
			if bad := w.scrub(); bad != 0 {
				t.Errorf("the next scrub found %d bad shards", bad)
			}
		})
	}
}

// TestRepairShort: a write that missed a drive stays short while the drive is
// away, without being looked at all the time, and is completed afterwards.
func TestRepairShort(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		w.shards.lose(w.drives[2])
		body := payload(2_000_000, 1)
		w.mustPut("object", body)
		if rows := w.short(); len(rows) != 1 || rows[0].Margin != 1 {
			t.Fatalf("short index: %+v", rows)
		}
		for range 30 {
			check(t, w.bg.repair.scanShort(t.Context()))
			w.drain(t.Context())
			time.Sleep(time.Minute)
		}
		if s := w.RepairState(); s.Checked > 1 || s.Queued != 1 || s.Delayed != 1 || len(s.Unrepairable) != 0 || len(s.LastErrors) != 0 {
			t.Errorf("while the drive is away: %+v", s)
		}
		if rows := w.short(); len(rows) != 1 {
			t.Fatalf("short index: %+v", rows)
		}
		w.shards.reset()
		time.Sleep(w.bg.o.TransientDelay)
		w.drain(t.Context())
		if rows := w.short(); len(rows) != 0 {
			t.Errorf("short index: %+v", rows)
		}
		if bad := w.whole("object"); bad != 0 {
			t.Errorf("%d shards are missing", bad)
		}
		w.expect("object", body)
	})
}

// TestRepairTransient: a drive that does not answer is given time, unless
// hardly a further loss can be borne.
func TestRepairTransient(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		lost  int // further shards
		waits bool
	}{
		{"two may be lost", 0, true},
		{"one may be lost", 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{scheme: metadata.NewScheme(3, 3), options: func(o *Options) {
					o.Shards = &strangeShards{Shards: o.Shards, strange: errors.New("strange")}
				}})
				strange := w.options.Shards.(*strangeShards)
				w.mustPut("object", payload(500_000, 1))
				ref, v, chunks := w.chunksOf("object")
				members := w.topology.pgs.Load().Groups[chunks[0].PG].Newest().Members
				for i := range 1 + test.lost {
					check(t, w.node.Free(t.Context(), members[i], refsOf(&chunks[0], i)))
				}
				strange.set(members[0])
				w.queueRepair(Damage{Bucket: ref, Part: v.Part.ID, Chunk: chunks[0], Missing: 1})
				w.drain(t.Context())
				if now := w.whole("object") == 0; now == test.waits {
					t.Errorf("repaired at once: %t", now)
				}
				time.Sleep(w.bg.o.TransientDelay)
				strange.set(topology.DriveID{})
				w.drain(t.Context())
				if bad := w.whole("object"); bad != 0 {
					t.Errorf("%d shards are missing after the delay", bad)
				}
			})
		})
	}
}

// strangeShards answers for one drive with an error of no class when asked for
// a footer.
type strangeShards struct {
	Shards
	drive   topology.DriveID
	strange error
}

func (s *strangeShards) set(d topology.DriveID) { s.drive = d }

func (s *strangeShards) Stat(ctx context.Context, d topology.DriveID, ref metadata.ShardRef) (*metadata.StoredShard, error) {
	stored, err := s.Shards.Stat(ctx, d, ref)
	if d == s.drive && err != nil {
		return nil, s.strange
	}
	return stored, err
}

// TestUnrepairable: what cannot be repaired is listed with its object's key, is
// recorded, and nothing of it is deleted.
func TestUnrepairable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.mustPut("dir/object", payload(1_000_000, 1))
	before := w.stored()
	for _, d := range w.drives[:3] {
		w.rot(d)
	}
	w.scrub()
	w.drain(t.Context())
	s := w.RepairState()
	if len(s.Unrepairable) != 1 || s.Unrepairable[0].Key != "dir/object" || s.Unrepairable[0].Name != "b" ||
		ones(s.Unrepairable[0].Lost) != 3 || s.Unrepairable[0].Away != 0 || s.Delayed != 1 || s.ByMargin[-1] != 1 {
		t.Errorf("state %+v", s)
	}
	if rows := w.short(); len(rows) != 1 || ones(rows[0].Missing) != 3 || rows[0].Margin != 0 {
		t.Errorf("short index: %+v", rows)
	}
	if got := w.stored(); got != before || len(w.shards.freed) != 0 {
		t.Errorf("%d shards of %d are left, %d were freed", got, before, len(w.shards.freed))
	}
	if _, err := w.read("dir/object", Range{}); err == nil {
		t.Error("no error from a read")
	}
	if _, err := w.Delete(t.Context(), "b", []DeleteRequest{{Key: "dir/object"}}); err != nil {
		t.Fatal(err)
	}
	check(t, w.bg.collect.trashPass(t.Context())) // too early to free anything
	if w.RepairState().Unrepairable == nil {
		t.Error("forgotten before its trash was freed")
	}
}

// plant puts a shard in the place of one of a chunk: right in itself, with
// cells that fit their checksums and a footer that fits the cells, but of other
// bytes.
func (w *world) plant(key string, i int) {
	w.t.Helper()
	ref, v, chunks := w.chunksOf(key)
	c := &chunks[0]
	drive := w.topology.pgs.Load().Groups[c.PG].Newest().Members[i]
	rec := metadata.Record{Type: metadata.RecordShard, Shard: refsOf(c, i)[0].Shard, Part: v.Part.ID, ChunkNo: c.No, Scheme: c.Scheme,
		PG: c.PG, Generation: c.Generation, Bucket: ref.ID, Epoch: 1}
	l := layout(c.Scheme, c.Bytes)
	writer, err := w.node.Create(w.t.Context(), drive, &rec, l.FramedLength())
	if err != nil {
		w.t.Fatal(err)
	}
	cells := shardhash.NewCells(rec.Shard.Bytes())
	for s := range l.Stripes() {
		frame := make([]byte, l.FrameLength(s))
		rand.Read(frame)
		cells.Frame(uint64(s), frame)
		if _, err := writer.Write(frame); err != nil {
			w.t.Fatal(err)
		}
	}
	footer := &metadata.Footer{ChunkBytes: c.Bytes, Sums: make([]metadata.Sum, c.Scheme.Total())}
	footer.Sums[i] = metadata.Sum(cells.Sum())
	if err := writer.Close(footer); err != nil {
		w.t.Fatal(err)
	}
	if err := w.node.Verify(w.t.Context(), drive, rec.Ref()); err != nil {
		w.t.Fatalf("the planted shard is not right in itself: %v", err)
	}
}

// TestStaleShard: a shard that is right in itself but not the chunk's is found
// out by the digest in the metadata and made anew.
func TestStaleShard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	body := payload(3_000_000, 1)
	w.mustPut("object", body)
	w.plant("object", 1)
	w.plant("object", 4)
	ref, v, chunks := w.chunksOf("object")
	w.queueRepair(Damage{Bucket: ref, Part: v.Part.ID, Chunk: chunks[0], Missing: 1 << 0})
	w.drain(t.Context())
	if bad := w.whole("object"); bad != 0 {
		t.Errorf("%d shards are not the chunk's", bad)
	}
	w.expect("object", body)
}

// TestMendDistrusts: whatever stale shards a mend begins to read from, it ends
// with the right ones or with none.
func TestMendDistrusts(t *testing.T) {
	t.Parallel()
	for planted := range 3 {
		for first := range 5 {
			t.Run(fmt.Sprintf("%d from shard %d", planted, first), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, setup{})
				w.mustPut("object", payload(600_000, 1))
				for i := range planted {
					w.plant("object", (first+i)%5)
				}
				ref, v, chunks := w.chunksOf("object")
				pg := &w.topology.pgs.Load().Groups[chunks[0].PG]
				check(t, w.node.Free(t.Context(), pg.Newest().Members[5], refsOf(&chunks[0], 5)))
				bucket, err := w.bg.bucketRow(t.Context(), ref.ID)
				check(t, err)
				m, err := w.bg.newMend(bucket, v.Part.ID, chunks[0], pg, w.Leases().Current)
				if err != nil {
					t.Fatal(err)
				}
				made, err := m.run(t.Context(), 1<<5)
				if planted <= 1 && (made != 1<<5 || err != nil) || planted > 1 && (made != 0 || err == nil) {
					t.Errorf("made %b, %v", made, err)
				}
				if bad := w.whole("object"); planted <= 1 && bad != planted || planted > 1 && bad != planted+1 {
					t.Errorf("%d shards are bad", bad)
				}
			})
		}
	}
}

// TestRotWhileRepairing: cells that rot under the hands of a repair are
// replaced by other shards, also in the middle of a chunk, and lies of a drive
// that its own checks do not see are never written down.
func TestRotWhileRepairing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	body := payload(6_000_000, 1)
	w.mustPut("object", body)
	_, _, chunks := w.chunksOf("object")
	members := w.topology.pgs.Load().Groups[chunks[0].PG].Newest().Members
	check(t, w.node.Free(t.Context(), members[0], refsOf(&chunks[0], 0)))
	reads := 0
	w.shards.set(func(op string, d topology.DriveID, ref metadata.ShardRef) fault {
		if op != "read" || d != members[2] {
			return fault{}
		}
		if reads++; reads < 3 {
			return fault{}
		}
		return fault{rot: func(p []byte, _ int64) { p[len(p)/2] ^= 1 }}
	})
	_, v, _ := w.chunksOf("object")
	w.ReportBadShard(BadShard{Drive: members[0], Record: metadata.Record{Type: metadata.RecordShard, Part: v.Part.ID,
		Scheme: chunks[0].Scheme, Bucket: w.bucketID(), Shard: refsOf(&chunks[0], 0)[0].Shard}})
	w.drain(t.Context())
	if bad := w.whole("object"); bad != 0 {
		t.Errorf("%d shards are bad", bad)
	}
	// Now a drive lies consistently: its cells fit checksums made for them.
	check(t, w.node.Free(t.Context(), members[0], refsOf(&chunks[0], 0)))
	w.shards.set(func(op string, d topology.DriveID, ref metadata.ShardRef) fault {
		if op != "read" || d == members[1] || d == members[3] {
			return fault{}
		}
		return fault{rot: func(p []byte, off int64) { lie(p, off, ref) }}
	})
	ref, _, _ := w.chunksOf("object")
	w.queueRepair(Damage{Bucket: ref, Part: v.Part.ID, Chunk: chunks[0], Missing: 1})
	w.drain(t.Context())
	if _, err := w.node.Stat(t.Context(), members[0], refsOf(&chunks[0], 0)[0]); !errors.Is(err, metadata.ErrShardNotFound) {
		t.Errorf("a shard was written from lies: %v", err)
	}
	w.shards.reset()
	w.expect("object", body)
}

// lie changes framed cells and makes checksums that fit.
func lie(p []byte, off int64, ref metadata.ShardRef) {
	seed := shardhash.NewSeed(ref.Shard.Bytes())
	for number := uint64(off / frameBytes); len(p) > 0; number++ {
		n := min(frameBytes, len(p))
		p[0] ^= 0x80
		binary.LittleEndian.PutUint64(p[n-shardhash.ChecksumBytes:], seed.Checksum(number, p[:n-shardhash.ChecksumBytes]))
		p = p[n:]
	}
}

func (w *world) bucketID() metadata.BucketID {
	b, err := w.bucket(w.t.Context(), "b")
	if err != nil {
		w.t.Fatal(err)
	}
	return b.row.ID
}

// TestRepairHangs: drives that hang while a chunk is repaired cost time and the
// shards they hold, nothing else.
func TestRepairHangs(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"read", "create", "write"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{scheme: metadata.NewScheme(3, 3)})
				body := payload(1_500_000, 1)
				w.mustPut("object", body)
				ref, v, chunks := w.chunksOf("object")
				members := w.topology.pgs.Load().Groups[chunks[0].PG].Newest().Members
				for i := range 2 {
					check(t, w.node.Free(t.Context(), members[i], refsOf(&chunks[0], i)))
				}
				hung := members[0]
				if op == "read" {
					hung = members[3]
				}
				thaw := make(chan struct{})
				w.shards.set(func(o string, d topology.DriveID, _ metadata.ShardRef) fault {
					if o == op && d == hung {
						return fault{wait: thaw}
					}
					return fault{}
				})
				w.queueRepair(Damage{Bucket: ref, Part: v.Part.ID, Chunk: chunks[0], Missing: 3})
				w.drain(t.Context())
				want := 1
				if op == "read" {
					want = 0
				}
				if bad := w.whole("object"); bad != want {
					t.Errorf("%d shards are bad while a drive hangs, want %d", bad, want)
				}
				close(thaw)
				w.shards.reset()
				synctest.Wait()
				time.Sleep(w.bg.o.TransientDelay)
				w.drain(t.Context())
				if bad := w.whole("object"); bad != 0 || len(w.short()) != 0 {
					t.Errorf("%d shards are bad afterwards, short: %+v", bad, w.short())
				}
				if open := w.shards.open; open != 0 {
					t.Errorf("%d writers are open", open)
				}
				w.expect("object", body)
			})
		})
	}
}

// TestRepairRate: repair keeps to its rate, leaves clients the larger share,
// and lets what bears no further loss pass.
func TestRepairRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{options: func(o *Options) {
			o.Background = &BackgroundOptions{RepairBytesPerSecond: 1 << 20, ShortPeriod: time.Hour}
		}})
		limit := w.bg.limit
		took := func(urgent bool) time.Duration {
			start := time.Now()
			for range 4 {
				check(t, limit.wait(t.Context(), 1<<20, urgent))
			}
			return time.Since(start).Round(time.Second)
		}
		took(false) // pays for the first
		if d := took(false); d != 4*time.Second {
			t.Errorf("4 MiB took %v", d)
		}
		w.counters.reading.Add(1)
		took(false)
		if d := took(false); d != 16*time.Second {
			t.Errorf("4 MiB took %v beside clients", d)
		}
		took(true)
		if d := took(true); d != 4*time.Second {
			t.Errorf("4 urgent MiB took %v beside clients", d)
		}
		w.counters.reading.Add(-1)
		w.shards.lose(w.drives[0])
		w.mustPut("object", payload(8<<20, 1))
		w.shards.reset()
		time.Sleep(20 * time.Minute)
		if bad := w.whole("object"); bad != 0 {
			t.Errorf("%d shards are bad", bad)
		}
		if s := w.RepairState(); s.Chunks == 0 || s.Queued != 0 {
			t.Errorf("state %+v", s)
		}
	})
}
