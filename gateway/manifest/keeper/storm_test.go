package keeper

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// step does something at random: mostly to objects, sometimes the keeper's
// work, sometimes to a drive.
func (w *world) step(buckets []metadata.BucketRef) {
	b := buckets[w.rng.IntN(len(buckets))]
	key := fmt.Sprint("k", w.rng.IntN(30))
	switch w.rng.IntN(17) {
	case 0, 1, 2, 3, 4, 5:
		w.put(b, key, w.rng.IntN(3))
	case 6, 7, 8:
		w.del(b, key, fmt.Sprint("k", w.rng.IntN(30)))
	case 9:
		w.multipart(b, key, 1+w.rng.IntN(4))
	case 10, 11, 12:
		w.soft(w.drain())
	case 13:
		w.soft(w.tend())
	case 14:
		w.soft(w.drain())
		w.soft(w.pass())
	case 15:
		drive := w.ids[w.rng.IntN(len(w.ids))]
		if w.drives.down[drive] {
			delete(w.drives.down, drive)
		} else if len(w.drives.down) < 2 {
			w.drives.down[drive] = true
		}
	case 16:
		w.drives.powerCut(w.ids[w.rng.IntN(len(w.ids))], w.rng.IntN(5))
	}
}

// soft accepts that drives are away.
func (w *world) soft(err error) {
	w.t.Helper()
	if err != nil && !errors.Is(err, metadata.ErrDriveAbsent) {
		w.t.Fatal(err)
	}
}

// settle brings all drives back and lets the keeper finish.
func (w *world) settle() {
	w.t.Helper()
	clear(w.drives.down)
	w.k.pass.percent = 100
	w.must(w.drain())
	w.must(w.tend())
	for range 6 {
		w.must(w.pass())
		w.must(w.tend())
	}
}

// TestStorms puts, overwrites and deletes at random while drives come and go.
// At the end each full drive alone tells the state, and no more than that.
func TestStorms(t *testing.T) {
	t.Parallel()
	for seed := range 6 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{plain: seed%2 == 1})
			for range seed {
				w.rng.Uint64()
			}
			buckets := []metadata.BucketRef{w.bucket("a", 1), w.bucket("b", 1), w.bucket("c", 2)}
			for n := range 300 {
				w.step(buckets)
				if n%25 == 0 && w.drain() == nil {
					// Nothing counts on the drives that are away.
					var up []topology.DriveID
					for _, id := range w.ids {
						if !w.drives.down[id] {
							up = append(up, id)
						}
					}
					for _, b := range buckets {
						w.check(b, up...)
						w.sound(b)
					}
				}
			}
			w.settle()
			for _, b := range buckets {
				w.checkMembers(b, 3)
				w.check(b, w.ids...)
				w.exact(b)
				if n := w.sound(b); n != 3 {
					t.Errorf("%d complete manifest drives, want 3", n)
				}
			}
		})
	}
}

// exact fails if drives hold manifests that do not count.
func (w *world) exact(b metadata.BucketRef) {
	w.t.Helper()
	list, err := w.meta.List(w.t.Context(), &metadata.ListQuery{Bucket: b, Limit: 1000})
	w.must(err)
	row := w.row(b.Group)
	for _, id := range w.ids {
		want := 0
		if m := memberOf(row, id); m != nil {
			if m.State != metadata.MemberFull {
				w.t.Errorf("drive %s is in state %d at the end", id, m.State)
			}
			want = len(list.Keys)
		}
		if _, versions, tombstones := w.read(b, id); versions != want || tombstones != 0 {
			w.t.Errorf("drive %s: %d manifests of versions and %d of deletions, want %d and none", id, versions, tombstones, want)
		}
	}
}

func TestAFailingDriveIsReplaced(t *testing.T) {
	t.Parallel()
	for name, cause := range map[string]error{"fenced": metadata.ErrFenced, "full": metadata.ErrDriveFull, "slow": metadata.ErrSlow, "unknown": errors.New("odd")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			b := w.bucket("b", 1)
			for i := range 30 {
				w.put(b, fmt.Sprint("k", i), 0)
			}
			w.must(w.drain())
			w.must(w.tend())
			bad := writersOf(w.row(1))[1]
			w.drives.fail = func(d topology.DriveID) error {
				if d == bad {
					return cause
				}
				return nil
			}
			w.put(b, "k1", 1)
			w.del(b, "k2")
			w.must(w.drain())
			m := memberOf(w.row(1), bad)
			if m == nil || m.State != metadata.MemberLeaving {
				t.Fatalf("the bad drive is %+v", m)
			}
			w.must(w.tend())
			w.checkMembers(b, 3)
			if s := w.k.State(); s.Replaced == 0 || s.Failures == 0 || len(s.LastErrors) == 0 {
				t.Errorf("state %+v", s)
			}
			// It still holds what was deleted: the tombstone must stay.
			w.drives.down[bad] = true
			for range 4 {
				w.soft(w.pass())
			}
			if _, _, tombstones := w.read(b, writersOf(w.row(1))[0]); tombstones == 0 {
				t.Error("a tombstone went while a drive that is away may hold what it kills")
			}
			w.drives.fail = nil
			w.settle()
			w.exact(b)
			if memberOf(w.row(1), bad) != nil {
				t.Error("the drive did not leave")
			}
		})
	}
}

func TestTombstonesWaitForCallsThatHang(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	b := w.bucket("b", 1)
	w.put(b, "k", 0)
	w.must(w.drain())
	w.must(w.tend())
	w.del(b, "k")
	w.must(w.drain())
	w.drives.hanging = true
	w.k.pass.percent = 100
	for range 5 {
		w.must(w.pass())
	}
	drive := writersOf(w.row(1))[0]
	if _, _, tombstones := w.read(b, drive); tombstones != 1 {
		t.Errorf("%d tombstones while a write may still arrive, want 1", tombstones)
	}
	w.drives.hanging = false
	w.settle()
	w.exact(b)
}

func TestARetiredDriveIsForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{drives: 7})
	b := w.bucket("b", 1)
	w.put(b, "k", 0)
	w.must(w.drain())
	w.must(w.tend())
	gone := writersOf(w.row(1))[0]
	for version, state := range []topology.DriveState{topology.DriveDraining, topology.DriveRetired} {
		table, err := w.meta.Drives(t.Context())
		w.must(err)
		table.Version = uint64(version) + 2
		for i := range table.Drives {
			if table.Drives[i].ID == gone {
				table.Drives[i].State = state
			}
		}
		w.propose(&metadata.Command{Kind: metadata.KindPutDrives, Drives: table})
		w.must(w.tend())
		m := memberOf(w.row(1), gone)
		if state == topology.DriveDraining && (m == nil || m.State != metadata.MemberLeaving) || state == topology.DriveRetired && m != nil {
			t.Errorf("the drive is %s, its member %+v", state, m)
		}
		w.checkMembers(b, 3)
	}
}

func TestADriveThatIsAwayIsReplacedInTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	b := w.bucket("b", 1)
	w.put(b, "k", 0)
	w.must(w.drain())
	w.must(w.tend())
	away := writersOf(w.row(1))[0]
	w.drives.down[away] = true
	unwell := make(map[topology.DriveID]time.Time)
	w.must(w.k.tend(t.Context(), unwell))
	w.now = w.now.Add(patience - time.Second)
	w.must(w.k.tend(t.Context(), unwell))
	if m := memberOf(w.row(1), away); !m.Writes() {
		t.Error("replaced too early")
	}
	w.now = w.now.Add(2 * time.Second)
	w.must(w.k.tend(t.Context(), unwell))
	if m := memberOf(w.row(1), away); m.Writes() {
		t.Error("not replaced")
	}
	w.must(w.tend())
	w.checkMembers(b, 3)
}

func TestWithoutSpareDrives(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{drives: 3})
	b := w.bucket("b", 1)
	w.put(b, "k", 0)
	w.must(w.drain())
	w.must(w.tend())
	for i, id := range w.ids {
		w.drives.down[id] = true
		w.put(b, fmt.Sprint("k", i), 0)
		err := w.drain()
		if left := 2 - i; left > 0 {
			w.must(err)
			if got := len(writersOf(w.row(1))); got != left {
				t.Errorf("%d manifest drives, want %d", got, left)
			}
		} else if !errors.Is(err, errNoDrives) {
			t.Errorf("without a drive: %v", err)
		}
	}
	w.now = time.UnixMicro(int64(w.head(1))).Add(time.Minute)
	if s := w.k.State(); s.Lag < time.Minute {
		t.Errorf("lag %v", s.Lag)
	}
	w.settle()
	w.checkMembers(b, 3)
	w.exact(b)
}

func (w *world) head(group uint32) uint64 {
	at, err := w.meta.Orders(w.t.Context(), group, nil)
	w.must(err)
	return at.Order
}

// TestDamagedRecords has a drive filled anew that has lost records.
func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	b := w.bucket("b", 1)
	for i := range 10 {
		w.put(b, fmt.Sprint("k", i), 0)
		w.must(w.drain())
	}
	w.must(w.tend())
	bad := writersOf(w.row(1))[0]
	records := w.drives.records[bad]
	for i := range records {
		if records[i].rec.Type == metadata.RecordManifest {
			w.drives.records[bad] = slices.Delete(records, i, i+1)
			break
		}
	}
	w.drives.damaged = bad
	w.fails(w.pass(), metadata.ErrCorrupt)
	w.must(w.tend())
	w.checkMembers(b, 3)
	w.fails(w.pass(), metadata.ErrCorrupt)
	if m := memberOf(w.row(1), bad); m.State != metadata.MemberFull {
		t.Error("the drive is filled again and again")
	}
}

// fails wants an error of one class.
func (w *world) fails(err, class error) {
	w.t.Helper()
	if !errors.Is(err, class) {
		w.t.Fatal(err)
	}
}

// TestNothingGoesBeforeWhatTakesItsPlace: a pass that finds an old manifest
// dead must not free it while the newer one is only in the outbox.
func TestNothingGoesBeforeWhatTakesItsPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	b := w.bucket("b", 1)
	w.put(b, "changed", 0)
	w.put(b, "deleted", 0)
	w.must(w.drain())
	w.must(w.tend())
	w.put(b, "changed", 0)
	w.del(b, "deleted")
	w.k.pass.waits = 0
	w.fails(w.pass(), errBehind)
	for _, id := range writersOf(w.row(1)) {
		said, versions, _ := w.read(b, id)
		if versions < 2 || said["changed"] == nil || said["deleted"] == nil {
			t.Fatalf("drive %s: %d manifests are left of what was durable", id, versions)
		}
	}
	w.must(w.drain())
	w.must(w.pass())
	w.checkMembers(b, 3)
	w.settle()
	w.exact(b)
}

// TestLaterHistoryIsLeftAlone: manifests that are later than the state, as
// after a restore of older metadata, are not for a pass to judge.
func TestLaterHistoryIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	b := w.bucket("b", 1)
	w.put(b, "k", 0)
	w.must(w.drain())
	w.must(w.tend())
	later := []manifest.Manifest{
		{Kind: manifest.KindTombstone, Key: "k", Order: w.head(1) + 3600_000_000},
		{Kind: manifest.KindTombstone, Key: "other", Order: w.head(1) + 3600_000_000},
	}
	s, err := w.k.newSink(1, w.row(1).Version, writersOf(w.row(1)))
	w.must(err)
	bucket, err := w.k.bucket(t.Context(), b.ID)
	w.must(err)
	for i := range later {
		entries, err := manifest.Encode(&later[i])
		w.must(err)
		w.must(s.add(t.Context(), bucket, entries))
	}
	_, err = s.close(t.Context())
	w.must(err)
	for range 4 {
		w.must(w.pass())
	}
	if _, versions, tombstones := w.read(b, writersOf(w.row(1))[0]); versions == 0 || tombstones != 2 {
		t.Errorf("%d versions and %d tombstones are left, want some and 2", versions, tombstones)
	}
}

// TestChangesThatARecoveryHasNotFound: a drive that was lost comes back with the
// last changes before the loss. The recovered state has gone on without them for
// long, and what they name is freed: they must not count in another recovery.
func TestChangesThatARecoveryHasNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	b := w.bucket("b", 1)
	w.put(b, "changed", 0)
	w.put(b, "deleted", 0)
	order := w.head(1)
	for range 3 {
		w.put(b, "other", 0)
	}
	w.must(w.drain())
	w.must(w.tend())
	version := metadata.Version{Order: order + 1, Null: true, Part: &metadata.Part{Number: 1, ID: metadata.PartID{4}}}
	lost := []manifest.Manifest{
		{Kind: manifest.KindVersion, Key: "changed", Order: version.Order, Version: &version},
		{Kind: manifest.KindTombstone, Key: "deleted", Order: order + 1},
	}
	s, err := w.k.newSink(1, w.row(1).Version, w.ids[:1])
	w.must(err)
	bucket, err := w.k.bucket(t.Context(), b.ID)
	w.must(err)
	for i := range lost {
		entries, err := manifest.Encode(&lost[i])
		w.must(err)
		w.must(s.add(t.Context(), bucket, entries))
	}
	_, err = s.close(t.Context())
	w.must(err)
	w.settle()
	w.check(b, w.ids...)
	w.exact(b)
}

// TestADriveThatComesBack has a record that is almost all alive, and kills what
// is in it while the drive that holds it is away. Once the drive is full again
// it must not bring anything back, even alone.
func TestADriveThatComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{drives: 4})
	b := w.bucket("b", 1)
	w.must(w.drain())
	w.must(w.tend())
	for i := range 200 {
		w.put(b, fmt.Sprint("k", i), 0)
	}
	w.must(w.drain())
	away := writersOf(w.row(1))[0]
	w.drives.down[away] = true
	w.del(b, "k7")
	w.must(w.drain()) // gives it up
	held := len(w.drives.records[away])
	delete(w.drives.down, away)
	w.must(w.pass())
	if len(w.drives.records[away]) != held {
		t.Fatal("manifests were freed on a drive that leaves before another one is full")
	}
	other := writersOf(w.row(1))[0]
	w.must(w.tend())
	w.drives.down[other] = true
	w.put(b, "k8", 0)
	w.must(w.drain()) // takes the first one back
	w.must(w.tend())
	if m := memberOf(w.row(1), away); m.State != metadata.MemberFull {
		t.Fatalf("the drive is %+v", m)
	}
	delete(w.drives.down, other)
	w.must(w.pass())
	w.check(b, away)
}

// TestAnEndedHistoryIsFreed: after a restore all drives are filled anew, since
// the history that ended may have freed what counts again, and what was
// committed in it goes.
func TestAnEndedHistoryIsFreed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	b := w.bucket("b", 1)
	w.put(b, "k", 0)
	w.must(w.drain())
	w.must(w.tend())
	w.settle()
	head := w.head(1)
	ended := manifest.Manifest{Kind: manifest.KindTombstone, Key: "k", Order: head + 1000}
	entries, err := manifest.Encode(&ended)
	w.must(err)
	bucket, err := w.k.bucket(t.Context(), b.ID)
	w.must(err)
	for _, id := range writersOf(w.row(1)) {
		w.drives.records[id] = nil // all of it was freed in that history
	}
	s, err := w.k.newSink(1, w.row(1).Version+7, writersOf(w.row(1)))
	w.must(err)
	w.must(s.add(t.Context(), bucket, entries))
	_, err = s.close(t.Context())
	w.must(err)
	w.propose(&metadata.Command{Kind: metadata.KindPutIncarnation, Incarnation: &metadata.Incarnation{Number: 5, Collection: true,
		Void: []metadata.VoidOrders{{Group: 1, After: head, Before: head + 2000}}}})
	w.must(w.drain())
	w.settle()
	if row := w.row(1); row.Incarnation != 5 {
		t.Errorf("the row is of incarnation %d", row.Incarnation)
	}
	w.checkMembers(b, 3)
	w.exact(b)
	version := w.row(1).Version
	w.must(w.tend())
	if w.row(1).Version != version {
		t.Error("filled again and again")
	}
}
