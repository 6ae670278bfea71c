package object

import (
	"crypto/rand"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// forgetRows has drives forget shards of an object, as an index does that lost
// rows.
func (w *world) forgetRows(key string, lost func(i int) bool) (n uint64) {
	w.t.Helper()
	_, _, chunks := w.chunksOf(key)
	for _, c := range chunks {
		for i, d := range w.topology.pgs.Load().Groups[c.PG].Newest().Members {
			if lost(i) {
				check(w.t, w.node.Free(w.t.Context(), d, refsOf(&c, i)))
				n++
			}
		}
	}
	return n
}

// TestInventory: shards of which no row is left are found and made anew, also
// of chunks that no drive lists any more.
func TestInventory(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{groups: 4})
	bodies := w.load(20)
	w.mustPut("lost", payload(50_000, 1))
	check(t, w.bg.inventory.pass(t.Context()))
	if s := w.RepairState().Inventory; s.Shards != 0 || s.Chunks != 21 || s.Running || s.Done != s.Groups || s.Finished.IsZero() {
		t.Fatalf("of what is whole: %+v", s)
	}
	want := uint64(0)
	for i := range 20 {
		want += w.forgetRows(fmt.Sprintf("object%03d", i), func(shard int) bool { return shard == i%6 || i%2 == 0 && shard == 5 })
	}
	want += w.forgetRows("lost", func(int) bool { return true })
	check(t, w.bg.inventory.pass(t.Context()))
	if s := w.RepairState().Inventory; s.Shards != want || s.Chunks != 20 {
		t.Errorf("%+v, want %d shards", s, want)
	}
	w.drain(t.Context())
	w.expectWhole(bodies)
	if s := w.RepairState(); len(s.Unrepairable) != 1 || s.Unrepairable[0].Key != "lost" {
		t.Errorf("unrepairable: %+v", s.Unrepairable)
	}
}

// TestInventoryAway: nothing is missed on drives that are away, and what fails
// to list is not taken for empty.
func TestInventoryAway(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{groups: 2})
	bodies := w.load(6)
	w.shards.lose(w.drives[1])
	check(t, w.bg.inventory.pass(t.Context()))
	if s := w.RepairState().Inventory; s.Shards != 0 || s.Chunks != 6 || s.Failed != 0 {
		t.Errorf("a drive away: %+v", s)
	}
	w.shards.reset()
	w.shards.set(func(op string, d topology.DriveID, _ metadata.ShardRef) fault {
		if op == "list" && d == w.drives[1] {
			return fault{err: metadata.ErrSlow}
		}
		return fault{}
	})
	if w.bg.inventory.pass(t.Context()) == nil {
		t.Error("complete without a list")
	}
	if s := w.RepairState().Inventory; s.Shards != 0 || s.Failed != 2 {
		t.Errorf("a drive that does not list: %+v", s)
	}
	w.drain(t.Context())
	w.expectWhole(bodies)
}

// TestInventoryRuns: the loop begins an hour after the start, or at once if
// something is known to be amiss.
func TestInventoryRuns(t *testing.T) {
	t.Parallel()
	for _, now := range []bool{false, true} {
		t.Run(fmt.Sprint("now ", now), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{options: func(o *Options) { o.Background = &BackgroundOptions{InventoryNow: now, InventoryPeriod: time.Hour} }})
				time.Sleep(time.Minute)
				if got := !w.RepairState().Inventory.Finished.IsZero(); got != now {
					t.Errorf("after a minute: done %t", got)
				}
				bodies := w.load(3)
				w.forgetRows("object001", func(i int) bool { return i == 2 })
				time.Sleep(70 * time.Minute)
				w.expectWhole(bodies)
			})
		})
	}
}

// TestManifestPasses: the first pass is an hour after the start, or at once if a
// drive was away.
func TestManifestPasses(t *testing.T) {
	t.Parallel()
	for _, now := range []bool{false, true} {
		t.Run(fmt.Sprint("now ", now), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{options: func(o *Options) { o.Background = &BackgroundOptions{ManifestsNow: now} }})
				w.load(3)
				time.Sleep(2 * time.Minute)
				if got := w.ManifestState().Passes > 0; got != now {
					t.Errorf("after two minutes: done %t", got)
				}
				time.Sleep(2 * time.Hour)
				if w.ManifestState().Passes == 0 {
					t.Error("no pass after two hours")
				}
			})
		})
	}
}

// TestChunkFilter: the filter knows all it was told, and few others.
func TestChunkFilter(t *testing.T) {
	t.Parallel()
	var f chunkFilter
	f.reset(100_000)
	ids := make([]metadata.ChunkID, 200_000)
	for i := range ids {
		rand.Read(ids[i][:])
		if i < 100_000 {
			f.add(ids[i])
		}
	}
	wrong := 0
	for i, id := range ids {
		switch {
		case i < 100_000 && !f.has(id):
			t.Fatal("forgot an id")
		case i >= 100_000 && f.has(id):
			wrong++
		}
	}
	if wrong > 3000 {
		t.Errorf("%d of 100,000 unknown ids are taken for known", wrong)
	}
	f.reset(1 << 40)
	if len(f.bits) != filterMax {
		t.Errorf("%d words", len(f.bits))
	}
}

// TestAllChunkRows: pages of chunk rows hold every chunk of every bucket once.
func TestAllChunkRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.load(10)
	want := make(map[metadata.ChunkID]bool)
	for i := range 10 {
		_, _, chunks := w.chunksOf(fmt.Sprintf("object%03d", i))
		for _, c := range chunks {
			want[c.ID] = true
		}
	}
	for i := range 20 {
		name := fmt.Sprintf("bucket%d", i)
		check(t, w.CreateBucket(t.Context(), name))
		_, err := w.Put(t.Context(), &PutRequest{Bucket: name, Key: "k", Body: body(payload(30_000, uint64(i)))})
		check(t, err)
	}
	seen := make(map[metadata.ChunkID]bool)
	for group := range dataGroups {
		for after := (*metadata.ChunkRow)(nil); ; {
			rows, err := w.meta.ChunkRows(t.Context(), group, after, 2)
			check(t, err)
			for i := range rows {
				row := &rows[i]
				found, err := w.meta.Lookup(t.Context(), group, []metadata.LookupRef{{Bucket: row.Bucket, Part: row.Part, ChunkNo: row.Chunk.No, Chunk: row.Chunk.ID}})
				if err != nil || !found.Found[0].Referenced || seen[row.Chunk.ID] {
					t.Errorf("row %+v: %v, seen %t", row, err, seen[row.Chunk.ID])
				}
				seen[row.Chunk.ID] = true
			}
			if len(rows) < 2 {
				break
			}
			after = &rows[1]
		}
	}
	for id := range want {
		if !seen[id] {
			t.Errorf("chunk %s is missing", id)
		}
	}
	if len(seen) != 30 {
		t.Errorf("%d chunks, want 30", len(seen))
	}
}
