package object

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// TestJanitor: a process dies after each step of a bucket's creation and
// deletion; in the next one the janitor brings it to its end, after a minute.
func TestJanitor(t *testing.T) {
	t.Parallel()
	died := errors.New("died")
	for step := range 7 {
		t.Run(fmt.Sprint("after step ", step), func(t *testing.T) {
			t.Parallel()
			w := newAged(t, setup{})
			n := 0
			w.meta.set(func(cmd *metadata.Command, next func() (*metadata.Result, error)) (*metadata.Result, error) {
				if n++; n > step {
					return nil, died
				}
				return next()
			})
			err := w.CreateBucket(t.Context(), "new")
			if err == nil {
				err = w.DeleteBucket(t.Context(), "new")
			}
			if !errors.Is(err, died) {
				t.Fatal(err)
			}
			w.meta.set(nil)
			w.restart()
			check(t, w.bg.janitor.pass(t.Context()))
			w.sleep(stuckAfter - time.Second)
			check(t, w.bg.janitor.pass(t.Context()))
			if w.bg.janitor.finished != 0 {
				t.Error("finished within the minute")
			}
			w.sleep(time.Second)
			check(t, w.bg.janitor.pass(t.Context()))
			rows, err := w.meta.Buckets(t.Context(), "new", "", 10)
			check(t, err)
			want := []int{0, 1, 1, 1, 0, 0, 0}[step] // buckets of that name
			if len(rows) != want || want == 1 && rows[0].State != metadata.BucketLive {
				t.Errorf("afterwards %+v", rows)
			}
			check(t, w.bg.janitor.pass(t.Context()))
			if len(w.bg.janitor.stuck) != 0 {
				t.Errorf("still stuck: %+v", w.bg.janitor.stuck)
			}
			if want == 0 {
				check(t, w.CreateBucket(t.Context(), "new"))
			}
			if _, err := w.Put(t.Context(), &PutRequest{Bucket: "new", Key: "k", Body: body([]byte("x"))}); err != nil {
				t.Errorf("put: %v", err)
			}
		})
	}
}

// copies counts the drives that can be read and hold a record of a type.
func (w *world) copies(typ metadata.RecordType, match func(*metadata.Record) bool) (drives int) {
	w.t.Helper()
	for _, d := range w.drives {
		if !w.shards.Condition(d).Readable {
			continue
		}
		found := false
		err := w.node.Records(w.t.Context(), d, typ, func(rec *metadata.Record, _ []byte) error {
			found = found || match(rec)
			return nil
		})
		check(w.t, err)
		if found {
			drives++
		}
	}
	return drives
}

// TestRecordsAreRemade: drives with records of accounts and buckets are lost,
// and others get them; nothing is written when nothing is missing.
func TestRecordsAreRemade(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{drives: 8})
	check(t, w.CreateBucket(t.Context(), "c"))
	check(t, w.bg.records.pass(t.Context()))
	if n := w.bg.records.remade; n != 0 {
		t.Errorf("%d records were written though none was missing", n)
	}
	rows, err := w.meta.Buckets(t.Context(), "", "", 10)
	check(t, err)
	for _, lost := range []int{0, 3, 5} { // more than m, one after another
		w.shards.lose(w.drives[lost])
		check(t, w.bg.records.pass(t.Context()))
		for _, row := range rows {
			if n := w.copies(metadata.RecordBucket, func(r *metadata.Record) bool { return r.Bucket == row.ID }); n < 3 {
				t.Errorf("bucket %s: on %d drives", row.Name, n)
			}
		}
		if n := w.copies(metadata.RecordAccount, func(*metadata.Record) bool { return true }); n < 3 {
			t.Errorf("account: on %d drives", n)
		}
	}
	if w.bg.records.remade == 0 {
		t.Error("no record was on any of three drives of eight")
	}
	before := w.bg.records.remade
	check(t, w.bg.records.pass(t.Context()))
	if w.bg.records.remade != before {
		t.Error("records are written again and again")
	}
	// What was written is what the bucket's creation writes.
	b, err := w.bucket(t.Context(), "c")
	check(t, err)
	want := w.bucketRecordHead(&b.row)
	for _, d := range w.drives {
		err := w.node.Records(t.Context(), d, metadata.RecordBucket, func(rec *metadata.Record, payload []byte) error {
			if rec.Bucket == b.row.ID && (!bytes.HasPrefix(payload, want) || rec.Account != b.row.Owner) {
				return fmt.Errorf("record %x", payload)
			}
			return nil
		})
		check(t, err)
	}
}

// TestRestoredBucketsAreRecorded: after a restore a bucket may have been deleted
// in the history that ended, so it is recorded anew, once.
func TestRestoredBucketsAreRecorded(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{drives: 8})
	check(t, w.CreateBucket(t.Context(), "c"))
	row, err := w.meta.Bucket(t.Context(), "c")
	check(t, err)
	ended := w.Leases().Current
	_, err = w.propose(t.Context(), &metadata.Command{Kind: metadata.KindPutIncarnation, Version: 1, Incarnation: &metadata.Incarnation{Number: 1, Epochs: []uint64{ended}}})
	check(t, err)
	w.restart()
	for range 2 {
		check(t, w.bg.records.pass(t.Context()))
		if n := w.copies(metadata.RecordBucket, func(r *metadata.Record) bool { return r.Bucket == row.ID && r.Epoch > ended }); n != 3 {
			t.Errorf("later records on %d drives, want 3", n)
		}
	}
}

// bucketCopies counts the drives that hold a record of a bucket in a state.
func (w *world) bucketCopies(id metadata.BucketID, state byte) (drives int) {
	w.t.Helper()
	for _, d := range w.drives {
		if !w.shards.Condition(d).Readable {
			continue
		}
		found := 0
		check(w.t, w.node.Records(w.t.Context(), d, metadata.RecordBucket, func(rec *metadata.Record, payload []byte) error {
			if rec.Bucket == id && bucketStateOf(payload) == state {
				found = 1
			}
			return nil
		}))
		drives += found
	}
	return drives
}

// TestBucketTombstones: a deletion is on m+1 drives before the name is free, is
// made anew when such drives are lost, and outlives the records it supersedes.
func TestBucketTombstones(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{drives: 8})
	check(t, w.CreateBucket(t.Context(), "gone"))
	row, err := w.meta.Bucket(t.Context(), "gone")
	check(t, err)
	away := w.drives[0]
	for _, d := range w.drives { // one with a live record is away
		check(t, w.node.Records(t.Context(), d, metadata.RecordBucket, func(rec *metadata.Record, _ []byte) error {
			if rec.Bucket == row.ID {
				away = d
			}
			return nil
		}))
	}
	w.shards.lose(away)
	w.shards.set(func(op string, d topology.DriveID, _ metadata.ShardRef) fault {
		if op == "record" {
			return fault{err: metadata.ErrDriveFull}
		}
		return fault{}
	})
	if err := w.DeleteBucket(t.Context(), "gone"); !errors.Is(err, ErrUnwritable) {
		t.Errorf("deleted without a record: %v", err)
	}
	if _, err := w.meta.Bucket(t.Context(), "gone"); err != nil {
		t.Errorf("the name is free without a record: %v", err)
	}
	w.shards.set(nil)
	w.meta.set(func(cmd *metadata.Command, next func() (*metadata.Result, error)) (*metadata.Result, error) {
		if n := w.bucketCopies(row.ID, bucketDeleted); cmd.Kind == metadata.KindForgetBucket && n != 3 {
			t.Errorf("the name is freed with the record on %d drives", n)
		}
		return next()
	})
	if err := w.DeleteBucket(t.Context(), "gone"); !errors.Is(err, metadata.ErrNoSuchBucket) {
		t.Error(err) // it was gone for clients
	}
	w.meta.set(nil)
	if _, err := w.meta.Bucket(t.Context(), "gone"); !errors.Is(err, metadata.ErrNoSuchBucket) {
		t.Errorf("the name is not free: %v", err)
	}
	check(t, w.bg.records.pass(t.Context()))
	if n := w.bucketCopies(row.ID, bucketLive); n != 0 {
		t.Errorf("%d drives still hold the record of the live bucket", n)
	}
	w.shards.reset() // the drive returns with its record
	for _, lost := range w.drives[:3] {
		if lost == away {
			continue
		}
		w.shards.lose(lost)
		check(t, w.bg.records.pass(t.Context()))
		if n := w.bucketCopies(row.ID, bucketDeleted); n < 3 {
			t.Errorf("the deletion is on %d drives", n)
		}
	}
	if n := w.bucketCopies(row.ID, bucketLive); n != 0 {
		t.Errorf("%d drives hold the record of the live bucket again", n)
	}
	b, err := w.meta.Bucket(t.Context(), "b")
	check(t, err)
	if n := w.bucketCopies(b.ID, bucketLive); n < 3 {
		t.Errorf("the other bucket's record is on %d drives", n)
	}
}

// TestClock: the groups are told what time has passed, once, and nothing of a
// time in which the machine slept.
func TestClock(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{})
	micros := func() uint64 {
		known, err := w.meta.Lookup(t.Context(), 5, nil)
		check(t, err)
		return known.ClockMicro
	}
	w.bg.o.ClockPeriod = time.Minute
	check(t, w.bg.clock.tick(t.Context()))
	start := micros()
	w.sleep(time.Minute)
	check(t, w.bg.clock.tick(t.Context()))
	if d := time.Duration(micros()-start) * time.Microsecond; d < time.Minute || d > time.Minute+20*time.Second {
		t.Errorf("a minute counted as %v", d)
	}
	start = micros()
	w.sleep(24 * time.Hour)
	check(t, w.bg.clock.tick(t.Context()))
	if d := time.Duration(micros()-start) * time.Microsecond; d > maxTick*time.Minute {
		t.Errorf("a day asleep counted as %v", d)
	}
	w.meta.set(func(cmd *metadata.Command, next func() (*metadata.Result, error)) (*metadata.Result, error) {
		return nil, metadata.ErrUnavailable
	})
	start = micros()
	w.sleep(time.Minute)
	if err := w.bg.clock.tick(t.Context()); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("tick: %v", err)
	}
	w.meta.set(nil)
	check(t, w.bg.clock.tick(t.Context()))
	if d := time.Duration(micros()-start) * time.Microsecond; d > 20*time.Second {
		t.Errorf("what could not be committed was counted later: %v", d)
	}
}

// TestRepairQueue compares the queue with a sorted list.
func TestRepairQueue(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	now := time.Unix(1000, 0)
	q := newRepairQueue(func() time.Time { return now })
	type known struct {
		margin  int
		since   time.Time
		due     time.Time
		missing uint32
	}
	model := map[repairKey]known{}
	for range 20_000 {
		now = now.Add(time.Duration(1+r.IntN(1000)) * time.Millisecond)
		if r.IntN(2) == 0 {
			key := repairKey{no: uint32(r.IntN(50))}
			k := known{margin: r.IntN(5) - 1, since: now, missing: 1 << r.IntN(6)}
			q.add(repairItem{key: key, margin: k.margin, missing: k.missing})
			old, ok := model[key]
			switch {
			case !ok:
				model[key] = k
			case k.margin < old.margin || k.missing&^old.missing != 0:
				old.margin, old.due, old.missing = min(old.margin, k.margin), time.Time{}, old.missing|k.missing
				model[key] = old
			}
			continue
		}
		item, wait := q.take()
		var best *repairKey
		next := time.Duration(1<<63 - 1)
		for key, k := range model {
			if k.due.After(now) {
				next = min(next, k.due.Sub(now))
				continue
			}
			if best == nil || cmp.Or(cmp.Compare(k.margin, model[*best].margin), k.since.Compare(model[*best].since)) < 0 {
				best = &key
			}
		}
		if best == nil {
			if item != nil || wait != next {
				t.Fatalf("got %+v after %v, want nothing before %v", item, wait, next)
			}
			continue
		}
		want := model[*best]
		if item == nil || item.margin != want.margin || item.since != want.since || item.missing != want.missing {
			t.Fatalf("got %+v, want %+v", item, want)
		}
		delete(model, item.key)
		var fresh uint32
		if r.IntN(3) == 0 { // reported again while it is in hand
			fresh = 1 << r.IntN(6)
			q.add(repairItem{key: item.key, margin: item.margin, missing: fresh})
		}
		delay := time.Duration(max(0, r.IntN(20)-10)) * time.Second
		q.done(item, delay)
		if delay > 0 || fresh != 0 {
			model[item.key] = known{margin: item.margin, since: item.since, due: now.Add(delay), missing: item.missing | fresh}
		}
	}
	byMargin, waiting, _, running, _ := q.depths()
	sum := 0
	for _, n := range byMargin {
		sum += n
	}
	if waiting != len(model) || sum != waiting || running != 0 {
		t.Errorf("depths %v, %d waiting, %d running, want %d", byMargin, waiting, running, len(model))
	}
}

// TestRepairQueueIsBounded: when it is full, what is worse takes the place of
// what is better.
func TestRepairQueueIsBounded(t *testing.T) {
	t.Parallel()
	q := newRepairQueue(time.Now)
	for i := range maxRepair {
		q.add(repairItem{key: repairKey{no: uint32(i)}, margin: 1})
	}
	q.add(repairItem{key: repairKey{no: 1 << 30}, margin: 1})
	q.add(repairItem{key: repairKey{no: 1<<30 + 1}, margin: 0})
	item, _ := q.take()
	byMargin, waiting, _, _, dropped := q.depths()
	if item.margin != 0 || waiting != maxRepair-1 || dropped != 2 || byMargin[1] != maxRepair-1 {
		t.Errorf("took %+v; %d waiting, %d dropped, %v", item, waiting, dropped, byMargin)
	}
}

// TestDriveGuard: a drive that hangs is called a few times and then left alone;
// when it answers it is called again.
func TestDriveGuard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		thaw := make(chan struct{})
		drive := topology.DriveID{1}
		var calls atomic.Int64
		var lates []<-chan struct{}
		for range 2 * maxHanging {
			late, err := w.bg.guard.do(t.Context(), drive, time.Second, func(context.Context) error {
				calls.Add(1)
				<-thaw
				return nil
			})
			if !errors.Is(err, metadata.ErrSlow) {
				t.Errorf("error %v", err)
			}
			if late != nil {
				lates = append(lates, late)
			}
		}
		if calls.Load() != maxHanging || len(lates) != maxHanging || w.State().HangingTasks != maxHanging {
			t.Errorf("%d calls, %d late, %d hang", calls.Load(), len(lates), w.State().HangingTasks)
		}
		close(thaw)
		for _, late := range lates {
			<-late
		}
		synctest.Wait()
		if late, err := w.bg.guard.do(t.Context(), drive, time.Second, func(context.Context) error { return nil }); late != nil || err != nil {
			t.Errorf("afterwards: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, err := w.bg.guard.do(ctx, drive, time.Second, func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			return context.Cause(ctx)
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// TestBackgroundRuns lets the loops do their work by themselves: a write that
// missed a drive is completed, trash goes, a stuck bucket is finished, and
// nothing is left running afterwards.
func TestBackgroundRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{options: func(o *Options) {
			o.Background = &BackgroundOptions{RepairBytesPerSecond: -1}
			o.TrashGrace = 10 * time.Minute
		}})
		w.shards.lose(w.drives[1])
		bodies := w.load(4)
		w.mustPut("gone", bodies["object003"])
		w.shards.reset()
		w.delete("gone")
		w.meta.set(func(cmd *metadata.Command, next func() (*metadata.Result, error)) (*metadata.Result, error) {
			if cmd.Kind == metadata.KindActivateBucket {
				return nil, metadata.ErrUnavailable
			}
			return next()
		})
		if err := w.CreateBucket(t.Context(), "stuck"); err == nil {
			t.Fatal("created")
		}
		w.meta.set(nil)
		time.Sleep(25 * time.Minute)
		w.expectWhole(bodies)
		if len(w.short()) != 0 || w.stored() != 4*6 || w.pending() != 0 {
			t.Errorf("short %+v, %d shards, %d pending", w.short(), w.stored(), w.pending())
		}
		if row, err := w.meta.Bucket(t.Context(), "stuck"); err != nil || row.State != metadata.BucketLive {
			t.Errorf("stuck bucket: %+v, %v", row, err)
		}
		s := w.CollectState()
		if s.TrashRows == 0 || len(s.LastErrors) > 0 || len(w.RepairState().LastErrors) > 0 || len(w.RebuildState().LastErrors) > 0 {
			t.Errorf("states %+v, %+v, %+v", s, w.RepairState(), w.RebuildState())
		}
		w.stop()
		synctest.Wait()
	})
}

// TestBackgroundOptions: all mistakes are told.
func TestBackgroundOptions(t *testing.T) {
	t.Parallel()
	o := BackgroundOptions{RepairWorkers: -1, RepairClientPercent: 101, Quarantine: -1}
	err := o.Validate()
	for _, want := range []string{"workers", "percent", "negative duration"} {
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte(want)) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if err := (BackgroundOptions{}).Validate(); err != nil {
		t.Error(err)
	}
	if got := (BackgroundOptions{}).withDefaults(); got.Quarantine != 24*time.Hour || got.TransientDelay != 15*time.Minute || got.Pressure() {
		t.Errorf("defaults %+v", got)
	}
}
