package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// pending counts the pending shards of all drives.
func (w *world) pending() int {
	w.t.Helper()
	n := 0
	for _, d := range w.drives {
		rows, err := w.node.List(context.Background(), d, metadata.ShardRef{}, true, 100_000)
		if err != nil {
			w.t.Fatal(err)
		}
		n += len(rows)
	}
	return n
}

// collect lets the collector look at everything once.
func (w *world) collect() {
	w.t.Helper()
	check(w.t, w.bg.clock.tick(context.Background()))
	check(w.t, w.bg.collect.trashPass(context.Background()))
	check(w.t, w.bg.collect.pendingPass(context.Background()))
	if s := w.CollectState(); len(s.LastErrors) > 0 {
		w.t.Errorf("collector: %v", s.LastErrors)
	}
}

// aged is a machine whose engine lives by a clock that the test turns. The
// loops of the background are off: the test takes their steps.
type aged struct {
	*world
	skew *atomic.Int64
}

func newAged(t testing.TB, s setup) *aged {
	t.Helper()
	a := &aged{skew: new(atomic.Int64)}
	change := s.options
	s.options = func(o *Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(a.skew.Load())) }
		if change != nil {
			change(o)
		}
	}
	a.world = newWorld(t, s)
	check(t, a.bg.rebuild.round(context.Background())) // hands the tables to the groups
	return a
}

// sleep lets time pass of which the groups are not told.
func (a *aged) sleep(d time.Duration) { a.skew.Add(int64(d)) }

// age lets time pass, and the clock tick.
func (a *aged) age(d time.Duration) {
	a.t.Helper()
	a.sleep(d)
	a.bg.o.ClockPeriod = d // so that one tick suffices
	check(a.t, a.bg.clock.tick(context.Background()))
}

func (w *world) delete(key string) {
	w.t.Helper()
	results, err := w.Delete(context.Background(), "b", []DeleteRequest{{Key: key}})
	if err != nil || results[0].Err != nil {
		w.t.Fatal(err, results)
	}
}

// TestTrash: what is overwritten, deleted or aborted gives its space back after
// the grace, and not before.
func TestTrash(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{scheme: metadata.NewScheme(2, 1)})
	body := payload(100_000, 1)
	w.mustPut("kept", body)
	w.mustPut("overwritten", body)
	w.mustPut("overwritten", body[:60_000])
	w.mustPut("deleted", body)
	w.delete("deleted")
	id := w.upload(metadata.ChecksumNone, false)
	w.mustPart(id, 1, payload(5<<20, 3), metadata.Checksum{})
	w.mustPart(id, 1, payload(5<<20, 4), metadata.Checksum{})
	w.mustPart(id, 2, payload(30_000, 4), metadata.Checksum{})
	check(t, w.Abort(t.Context(), "b", "m", id))
	const shards = 3
	if n := w.stored(); n != 7*shards {
		t.Fatalf("%d shards before collection", n)
	}
	w.collect()
	w.sleep(w.options.TrashGrace - time.Second)
	w.collect()
	if n := w.stored(); n != 7*shards {
		t.Errorf("%d shards within the grace", n)
	}
	if s := w.CollectState(); s.TrashWaits == 0 || s.OldestWait == 0 {
		t.Errorf("state %+v", s)
	}
	w.sleep(time.Second)
	w.collect()
	if n := w.stored(); n != 2*shards {
		t.Errorf("%d shards after the grace, want those of two objects", n)
	}
	for group := range dataGroups {
		rows, err := w.meta.Trash(t.Context(), group, 0, 10)
		check(t, err)
		if len(rows) != 0 {
			t.Errorf("trash of group %d: %+v", group, rows)
		}
	}
	w.expect("kept", body)
	w.expect("overwritten", body[:60_000])
	if s := w.CollectState(); s.TrashRows == 0 || s.TrashBytes == 0 || s.TrashWaits != 0 || s.Orphans != 0 {
		t.Errorf("state %+v", s)
	}
}

// TestTrashOfManyParts: a long part list goes page by page.
func TestTrashOfManyParts(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{scheme: metadata.NewScheme(1, 1), options: func(o *Options) {
		o.InlineBytes = -1
		o.TrashGrace = time.Second
	}})
	b, err := w.bucket(t.Context(), "b")
	check(t, err)
	id := w.upload(metadata.ChecksumNone, false)
	const parts = 2*trashParts + 3
	for i := range parts {
		w.mustPart(id, i+1, payload(100, uint64(i)), metadata.Checksum{})
	}
	check(t, w.Abort(t.Context(), "b", "m", id))
	w.collect()
	w.sleep(time.Second)
	w.collect()
	if n := w.stored(); n != 0 {
		t.Errorf("%d shards are left", n)
	}
	rows, err := w.meta.Trash(t.Context(), b.row.Group, 0, 10)
	if err != nil || len(rows) != 0 || w.CollectState().TrashParts != parts {
		t.Errorf("%v, trash %+v, state %+v", err, rows, w.CollectState())
	}
}

// TestTrashWaitsForReaders: bytes that somebody reads stay, however long that
// takes; with new epochs, new readers do not count.
func TestTrashWaitsForReaders(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{})
	body := payload(5_000_000, 1)
	w.mustPut("object", body)
	w.mustPut("other", body[:50_000])
	o, err := w.Get(t.Context(), &GetRequest{Bucket: "b", Key: "object"})
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1000)
	_, err = io.ReadFull(o, first)
	check(t, err)
	w.delete("object")
	for range 5 {
		w.age(time.Hour)
		check(t, w.nextEpoch(t.Context()))
		w.collect()
	}
	rest, err := io.ReadAll(o)
	if err != nil || !bytes.Equal(append(first, rest...), body) {
		t.Fatalf("the reader got %d bytes, %v", len(first)+len(rest), err)
	}
	if n := w.stored(); n != 12 {
		t.Errorf("%d shards while the reader is open", n)
	}
	later, err := w.Get(t.Context(), &GetRequest{Bucket: "b", Key: "other"})
	check(t, err)
	check(t, o.Close())
	w.collect()
	if n := w.stored(); n != 6 {
		t.Errorf("%d shards after the reader has ended", n)
	}
	check(t, later.Close())
}

// TestTrashUnderPressure: while drives are nearly full, trash waits neither for
// the next epoch nor for readers that take more than an hour.
func TestTrashUnderPressure(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{})
	w.bg.o.Pressure = func() bool { return true }
	body := payload(5_000_000, 1)
	for _, key := range []string{"short", "long", "other"} {
		w.mustPut(key, body)
	}
	get := func(key string) *Object {
		o, err := w.Get(t.Context(), &GetRequest{Bucket: "b", Key: key})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	brief, epoch := get("short"), w.Leases().Current
	w.delete("short")
	for range 5 {
		w.collect()
	}
	if n := w.Leases().Current - epoch; n != 1 {
		t.Errorf("%d new epochs in a moment, want 1", n)
	}
	other := get("other")
	check(t, brief.Close())
	w.collect()
	if n := w.stored(); n != 12 {
		t.Errorf("%d shards after the reader has ended, and another has begun", n)
	}
	check(t, other.Close())

	slow := get("long")
	w.delete("long")
	w.collect()
	w.sleep(pressedRead - time.Second)
	w.collect()
	if n := w.stored(); n != 12 {
		t.Fatalf("%d shards before the hour is over", n)
	}
	w.sleep(2 * time.Second)
	w.collect()
	if n := w.stored(); n != 6 {
		t.Errorf("%d shards after an hour", n)
	}
	if _, err := io.ReadAll(slow); !errors.Is(err, errReadCut) {
		t.Errorf("the slow reader: %v", err)
	}
	check(t, slow.Close())
	w.expect("other", body)
}

// TestTrashSoon: the loop looks at trash more often under pressure.
func TestTrashSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var pressure atomic.Bool
		w := newWorld(t, setup{options: func(o *Options) {
			o.Background = &BackgroundOptions{TrashPeriod: time.Hour, Pressure: pressure.Load}
		}})
		w.mustPut("object", payload(100_000, 1))
		o, err := w.Get(t.Context(), &GetRequest{Bucket: "b", Key: "object"})
		check(t, err)
		_, err = w.Delete(t.Context(), "b", []DeleteRequest{{Key: "object"}})
		check(t, err)
		pressure.Store(true)
		time.Sleep(time.Minute)
		check(t, o.Close())
		time.Sleep(10 * time.Second)
		if n := w.stored(); n != 0 {
			t.Errorf("%d shards are left", n)
		}
	})
}

// TestTrashAndRepair: a chunk is freed and repaired by one at a time; a shard
// written between would be left over.
func TestTrashAndRepair(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{})
	w.mustPut("object", payload(90_000, 1))
	ref, v, chunks := w.chunksOf("object")
	check(t, w.node.Free(t.Context(), w.topology.pgs.Load().Groups[chunks[0].PG].Newest().Members[2], refsOf(&chunks[0], 2)))
	w.delete("object")
	w.collect()
	w.sleep(w.options.TrashGrace)
	var once sync.Once
	w.shards.set(func(op string, d topology.DriveID, _ metadata.ShardRef) fault {
		if op == "read" { // in the middle of the repair
			once.Do(func() { check(t, w.bg.collect.trashPass(context.Background())) })
		}
		return fault{}
	})
	w.queueRepair(Damage{Bucket: ref, Part: v.Part.ID, Chunk: chunks[0], Missing: 1 << 2})
	w.drain(t.Context())
	if s := w.CollectState(); w.stored() != 6 || len(s.LastErrors) != 1 || s.TrashRows != 0 {
		t.Errorf("%d shards after a repair beside which trash was looked at, %+v", w.stored(), s)
	}
	w.queueRepair(Damage{Bucket: ref, Part: v.Part.ID, Chunk: chunks[0], Missing: 1 << 2})
	check(t, w.bg.collect.trashPass(t.Context()))
	w.drain(t.Context()) // of what is gone
	if n := w.stored(); n != 0 || w.RepairState().Chunks != 1 {
		t.Errorf("%d shards are left over, %+v", n, w.RepairState())
	}
}

// orphan makes a PUT whose commit is lost: its shards are on the drives and
// nobody knows whether the command will still arrive. It returns the command.
func (w *world) orphan(body []byte) *metadata.Command {
	w.t.Helper()
	var lost *metadata.Command
	w.meta.set(func(cmd *metadata.Command, next func() (*metadata.Result, error)) (*metadata.Result, error) {
		if cmd.Kind != metadata.KindCommitVersion && cmd.Kind != metadata.KindCommitPart {
			return next()
		}
		own := *cmd
		lost = &own
		return nil, metadata.ErrUnavailable
	})
	defer w.meta.set(nil)
	if _, err := w.put("lost", body); !errors.Is(err, metadata.ErrUnavailable) {
		w.t.Fatalf("put: %v", err)
	}
	return lost
}

// TestOrphans: shards of a write that was never committed are freed when its
// epoch is dead everywhere and the quarantine has passed, by the counter of the
// metadata; not earlier, and nothing else with them.
func TestOrphans(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{})
	bodies := w.load(5)
	w.collect() // in place of the commit hints
	w.orphan(payload(90_000, 1))
	all := w.stored()
	if all != 36 || w.pending() != 6 {
		t.Fatalf("%d shards, %d pending", all, w.pending())
	}
	for range 3 { // the epoch lives: the command may still arrive
		w.age(30 * time.Hour)
		w.collect()
	}
	if s := w.CollectState(); s.Quarantined != 0 || w.stored() != all {
		t.Fatalf("while the epoch lives: %+v", s)
	}
	check(t, w.nextEpoch(t.Context()))
	check(t, w.nextEpoch(t.Context())) // now nobody can commit in the first
	w.collect()
	if s := w.CollectState(); s.Quarantined != 6 {
		t.Errorf("state %+v", s)
	}
	w.age(23 * time.Hour)
	w.collect()
	if w.stored() != all {
		t.Error("freed within the quarantine")
	}
	w.restart() // begins the quarantine anew
	w.collect()
	w.age(23 * time.Hour)
	w.collect()
	if w.stored() != all {
		t.Error("freed within the quarantine after a restart")
	}
	w.age(time.Hour)
	w.collect()
	if n := w.stored(); n != all-6 || w.pending() != 0 {
		t.Errorf("%d shards are left, %d pending", n, w.pending())
	}
	if s := w.CollectState(); s.Orphans != 6 || s.Quarantined != 0 || s.OrphanBytes == 0 {
		t.Errorf("state %+v", s)
	}
	for key, body := range bodies {
		w.expect(key, body)
	}
}

// TestLateCommit: a commit that arrives late either finds its shards, or its
// epoch is fenced off and it is refused.
func TestLateCommit(t *testing.T) {
	t.Parallel()
	for _, fenced := range []bool{false, true} {
		t.Run(fmt.Sprintf("fenced %t", fenced), func(t *testing.T) {
			t.Parallel()
			w := newAged(t, setup{})
			body := payload(200_000, 5)
			late := w.orphan(body)
			check(t, w.nextEpoch(t.Context()))
			if fenced {
				check(t, w.nextEpoch(t.Context()))
			}
			for range 3 {
				w.collect()
				w.age(13 * time.Hour)
			}
			w.collect()
			_, err := w.meta.Metadata.Commit(t.Context(), late)
			if fenced {
				if !errors.Is(err, metadata.ErrFencedEpoch) || w.stored() != 0 {
					t.Errorf("commit: %v, %d shards", err, w.stored())
				}
				return
			}
			check(t, err)
			w.expect("lost", body)
			w.collect()
			if n := w.pending(); n != 0 {
				t.Errorf("%d shards are pending though referenced", n)
			}
		})
	}
}

// TestCollectionOff: after a restore nothing is freed until an operator says
// so, and quarantines begin only then.
func TestCollectionOff(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{})
	w.mustPut("gone", payload(50_000, 1))
	w.delete("gone")
	w.orphan(payload(90_000, 1))
	w.restart()
	set := func(i metadata.Incarnation) {
		cmd := &metadata.Command{Kind: metadata.KindPutIncarnation, Version: 1, Incarnation: &i}
		if _, err := w.propose(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
	}
	set(metadata.Incarnation{Number: 1})
	for range 4 {
		w.collect()
		w.age(20 * time.Hour)
	}
	if s := w.CollectState(); !s.Off || w.stored() != 12 {
		t.Fatalf("state %+v, %d shards", s, w.stored())
	}
	set(metadata.Incarnation{Number: 1, Collection: true})
	w.collect()
	if n := w.stored(); n != 12 {
		t.Errorf("%d shards at once", n)
	}
	w.age(24 * time.Hour)
	w.collect()
	if s := w.CollectState(); s.Off || w.stored() != 0 {
		t.Errorf("state %+v, %d shards", s, w.stored())
	}
}

// TestAbsentDriveAndTrash: trash does not wait for a drive that is away; what
// the drive brings back is looked up and freed.
func TestAbsentDriveAndTrash(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{})
	bodies := w.load(3)
	w.mustPut("gone", payload(50_000, 1))
	w.collect()
	w.shards.lose(w.drives[4])
	w.delete("gone")
	w.collect()
	w.age(2 * time.Hour)
	w.collect()
	if n := w.stored(); n != 3*6+1 {
		t.Errorf("%d shards", n)
	}
	w.shards.reset()
	w.restart()
	check(t, w.node.Suspect(t.Context(), w.drives[4], nil)) // as its return does
	w.collect()
	w.age(24 * time.Hour)
	w.collect()
	if n := w.stored(); n != 3*6 || w.pending() != 0 {
		t.Errorf("%d shards, %d pending", n, w.pending())
	}
	w.expectWhole(bodies)
}

// TestOrphansOfDeletedBucket: records of a bucket that is gone are looked up in
// every group before they count as garbage.
func TestOrphansOfDeletedBucket(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{})
	w.orphan(payload(90_000, 1))
	check(t, w.DeleteBucket(t.Context(), "b"))
	w.restart() // which forgets where the bucket was
	asked := &countingLookups{Metadata: w.bg.e.meta}
	w.bg.e.meta = asked
	w.collect()
	if asked.groups != metadata.DataGroups {
		t.Errorf("%d groups were asked", asked.groups)
	}
	w.age(24 * time.Hour)
	w.collect()
	if n := w.stored(); n != 0 {
		t.Errorf("%d shards are left", n)
	}
}

type countingLookups struct {
	Metadata
	seen   map[uint32]bool
	groups int
}

func (c *countingLookups) Lookup(ctx context.Context, group uint32, refs []metadata.LookupRef) (*metadata.LookupResult, error) {
	if c.seen == nil {
		c.seen = make(map[uint32]bool)
	}
	if len(refs) > 0 && !c.seen[group] {
		c.seen[group] = true
		c.groups++
	}
	return c.Metadata.Lookup(ctx, group, refs)
}

// TestDecide: what may be freed on inference, and what may not.
func TestDecide(t *testing.T) {
	t.Parallel()
	a, b, c := topology.DriveID{1}, topology.DriveID{2}, topology.DriveID{3}
	table := &metadata.PGTable{Version: 7, Groups: []metadata.PG{{Generations: []metadata.Generation{
		{Number: 4, Members: []topology.DriveID{a, b}}, {Number: 5, Members: []topology.DriveID{a, c}, Moving: true}}}}}
	fence := metadata.Fence{Floor: 10, Living: []uint64{10, 14}, Highest: 14}
	base := func() verdict {
		return verdict{record: &metadata.Record{Generation: 5, Epoch: 9, Shard: metadata.ShardID{Index: 1}},
			group: 3, fences: []metadata.Fence{fence}, pgVersion: 7}
	}
	tests := []struct {
		name   string
		drive  topology.DriveID
		change func(v *verdict)
		want   decision
	}{
		{"below the floor and not referenced", c, func(v *verdict) {}, maybeGarbage},
		{"referenced on the newest member", c, func(v *verdict) { v.found.Referenced = true }, keepLive},
		{"referenced on a member not yet closed", b, func(v *verdict) { v.found.Referenced = true }, keepLive},
		{"referenced, but the drive is no member for this index", a, func(v *verdict) { v.found.Referenced = true }, maybeGarbage},
		{"the epoch lives", c, func(v *verdict) { v.record.Epoch = 10 }, keepPending},
		{"a later epoch lives", c, func(v *verdict) { v.record.Epoch = 14 }, keepPending},
		{"above the floor, but dead for ever", c, func(v *verdict) { v.record.Epoch = 12 }, maybeGarbage},
		{"an epoch that is not born yet", c, func(v *verdict) { v.record.Epoch = 15 }, keepPending},
		{"an epoch that is never fenced", c, func(v *verdict) { v.record.Epoch = 0 }, keepPending},
		{"not asked", c, func(v *verdict) { v.fences = nil }, keepPending},
		{"one of the groups asked lets the epoch live", c, func(v *verdict) {
			v.fences = append(v.fences, metadata.Fence{Floor: 8, Highest: 20, Living: []uint64{9}})
		}, keepPending},
		{"the group has an older table", c, func(v *verdict) { v.pgVersion = 6 }, keepPending},
		{"the group has a newer table", c, func(v *verdict) { v.pgVersion = 8 }, keepPending},
		{"the record is of a later generation", c, func(v *verdict) { v.record.Generation = 6 }, keepPending},
		{"an unknown placement group", c, func(v *verdict) { v.record.PG = 1 }, keepPending},
		{"living and no member", a, func(v *verdict) { v.found.Referenced, v.record.Epoch = true, 14 }, keepPending},
	}
	for _, test := range tests {
		v := base()
		test.change(&v)
		if got := decide(&v, test.drive, table); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

// TestGovernor compares with a model that knows every single free.
func TestGovernor(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		now := time.Unix(1, 0)
		stored, shards := r.Int64N(100<<30), r.Int64N(3_000_000)
		g := governor{now: func() time.Time { return now }, stored: func() (int64, int64) { return stored, shards }}
		type freed struct {
			at    time.Time
			bytes int64
		}
		var past []freed
		allowed := 0
		for range 3000 {
			now = now.Add(time.Duration(r.Int64N(int64(10 * time.Second))))
			size := r.Int64N(20 << 20)
			ok := g.allow(size)
			past = slices.DeleteFunc(past, func(f freed) bool { return now.Sub(f.at) >= time.Hour })
			var bytes, count int64
			for _, f := range past {
				bytes += f.bytes
				count++
			}
			if ok {
				allowed++
				past = append(past, freed{now, size})
			}
			if ok && (bytes+size > max(1<<30, stored/20) || count >= max(10_000, shards/100)) {
				t.Fatalf("allowed %d bytes after %d bytes, %d shards within the hour", size, bytes, count)
			}
			if len(g.past) > 62 {
				t.Fatalf("remembers %d minutes", len(g.past))
			}
		}
		if allowed < 40 {
			t.Fatalf("only %d allowed", allowed)
		}
	}
}

// gcModel is what should be there, beside a world.
type gcModel struct {
	w       *aged
	r       *rand.Rand
	live    map[string][]byte
	uploads map[metadata.UploadID][]byte // with their one part
	readers []*modelReader
	slow    *modelPut
	puts    int
}

type modelReader struct {
	o    *Object
	want []byte
}

type modelPut struct {
	reader *slowReader
	body   []byte
	done   chan error
}

// TestCollectorModel runs random writes, reads, deletes, uploads, lost commits,
// restarts and passes of the collector against a model: nothing that is live,
// or being read or written, is ever freed, and nothing else is left in the end.
func TestCollectorModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			m := &gcModel{r: rand.New(rand.NewPCG(seed, 11)), live: map[string][]byte{}, uploads: map[metadata.UploadID][]byte{}}
			m.w = newAged(t, setup{scheme: metadata.NewScheme(2, 1)})
			for range 250 {
				m.step()
			}
			m.end()
		})
	}
}

func (m *gcModel) body() []byte {
	m.puts++
	return payload(20_000+m.r.IntN(60_000), uint64(m.puts))
}

func (m *gcModel) key() string { return fmt.Sprint("key", m.r.IntN(8)) }

func (m *gcModel) step() {
	w := m.w
	switch m.r.IntN(16) {
	case 0, 1, 2:
		key, body := m.key(), m.body()
		w.mustPut(key, body)
		m.live[key] = body
	case 3:
		key := m.key()
		w.delete(key)
		delete(m.live, key)
	case 4:
		w.orphan(m.body())
	case 5:
		m.upload()
	case 6:
		m.startSlow()
	case 7:
		m.endSlow()
	case 8:
		m.openReader()
	case 9:
		m.closeReader()
	case 10:
		check(w.t, w.nextEpoch(w.t.Context()))
	case 11:
		if m.r.IntN(4) == 0 {
			m.quiesce()
			w.restart()
		}
	case 12:
		m.copyObject()
	case 13:
		w.age(time.Duration(m.r.Int64N(int64(20 * time.Hour))))
	default:
		w.collect()
		m.verify()
	}
}

func (m *gcModel) upload() {
	w := m.w
	if len(m.uploads) < 2 {
		id := w.upload(metadata.ChecksumNone, false)
		body := m.body()
		w.mustPart(id, 1, m.body(), metadata.Checksum{}) // replaced
		w.mustPart(id, 1, body, metadata.Checksum{})
		m.uploads[id] = body
		return
	}
	for id, body := range m.uploads {
		delete(m.uploads, id)
		if m.r.IntN(2) == 0 {
			check(w.t, w.Abort(w.t.Context(), "b", "m", id))
			return
		}
		part := w.mustPart(id, 1, body, metadata.Checksum{})
		if _, err := w.complete(id, part); err != nil {
			w.t.Fatal(err)
		}
		m.live["m"] = body
		return
	}
}

func (m *gcModel) copyObject() {
	from, to := m.key(), m.key()
	body, ok := m.live[from]
	if !ok || from == to {
		return
	}
	o, err := m.w.Get(m.w.t.Context(), &GetRequest{Bucket: "b", Key: from})
	if err != nil {
		m.w.t.Fatal(err)
	}
	_, err = m.w.Put(m.w.t.Context(), &PutRequest{Bucket: "b", Key: to, Body: Body{Reader: o, Bytes: int64(len(body))}})
	check(m.w.t, err)
	check(m.w.t, o.Close())
	m.live[to] = body
}

func (m *gcModel) startSlow() {
	if m.slow != nil {
		return
	}
	body := payload(400_000, uint64(m.puts))
	s := &modelPut{reader: &slowReader{data: body, stopAt: 300_000, goOn: make(chan struct{}), reached: make(chan struct{})}, body: body, done: make(chan error, 1)}
	m.slow = s
	w, reached := m.w, s.reader.reached
	go func() {
		_, err := w.Put(context.Background(), &PutRequest{Bucket: "b", Key: "slow", Body: Body{Reader: s.reader, Bytes: int64(len(s.body))}})
		s.done <- err
	}()
	<-reached
}

func (m *gcModel) endSlow() {
	if m.slow == nil {
		return
	}
	close(m.slow.reader.goOn)
	if err := <-m.slow.done; err != nil {
		m.w.t.Fatalf("slow put: %v", err)
	}
	m.live["slow"] = m.slow.body
	m.slow = nil
}

func (m *gcModel) openReader() {
	key := m.key()
	body, ok := m.live[key]
	if !ok || len(m.readers) > 3 {
		return
	}
	o, err := m.w.Get(context.Background(), &GetRequest{Bucket: "b", Key: key})
	if err != nil {
		m.w.t.Fatal(err)
	}
	m.readers = append(m.readers, &modelReader{o: o, want: body})
}

func (m *gcModel) closeReader() {
	if len(m.readers) == 0 {
		return
	}
	r := m.readers[0]
	m.readers = m.readers[1:]
	got, err := io.ReadAll(r.o)
	if err != nil || !bytes.Equal(got, r.want) {
		m.w.t.Fatalf("a slow reader got %d of %d bytes, %v", len(got), len(r.want), err)
	}
	check(m.w.t, r.o.Close())
}

func (m *gcModel) quiesce() {
	m.endSlow()
	for len(m.readers) > 0 {
		m.closeReader()
	}
}

func (m *gcModel) verify() {
	for key, body := range m.live {
		m.w.expect(key, body)
		if key == "m" {
			continue
		}
		if bad := m.w.whole(key); bad != 0 {
			m.w.t.Fatalf("%s: %d shards are gone", key, bad)
		}
	}
}

// end lets everything settle: three epochs and a quarantine.
func (m *gcModel) end() {
	w := m.w
	m.quiesce()
	for id := range m.uploads {
		check(w.t, w.Abort(w.t.Context(), "b", "m", id))
	}
	for range 3 {
		check(w.t, w.nextEpoch(w.t.Context()))
	}
	w.collect()
	w.age(25 * time.Hour)
	w.collect()
	m.verify()
	chunked := 0
	for _, body := range m.live {
		if len(body) > w.options.InlineBytes {
			chunked++
		}
	}
	if n := w.stored(); n != 3*chunked || w.pending() != 0 {
		w.t.Errorf("%d shards for %d objects, %d pending; %+v", n, chunked, w.pending(), w.CollectState())
	}
	s := w.CollectState()
	if s.Quarantined != 0 {
		w.t.Errorf("%d in quarantine", s.Quarantined)
	}
}

// TestQuarantineClock: a counter that is behind what it was, as after a
// restore, begins the quarantine anew.
func TestQuarantineClock(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{})
	c := w.bg.collect
	day := uint64((24 * time.Hour).Microseconds())
	v := &verdict{record: &metadata.Record{}}
	for _, step := range []struct {
		clock uint64
		want  bool
	}{
		{10 * day, false}, {10*day + day/2, false}, {3 * day, false}, {4*day - 1, false}, {4 * day, true},
	} {
		v.clock = step.clock
		if got := c.quarantined(w.drives[0], v, 1); got != step.want {
			t.Errorf("at %d: %t", step.clock, got)
		}
	}
}
