package keeper

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

func TestManifestsOfWhatWasCommitted(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprint("plain=", plain), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{plain: plain})
			b, other := w.bucket("b", 1), w.bucket("other", 1)
			w.must(w.drain())
			w.must(w.tend())
			for i := range 40 {
				w.put(b, fmt.Sprint("k", i), i%4)
				w.put(other, fmt.Sprint("k", i), 20*(i%2)) // more chunks than Open returns
			}
			w.put(b, "k1", 1)
			w.del(b, "k2", "k3", "never there")
			w.put(b, "k3", 0)
			w.multipart(b, "many", 7)
			w.must(w.drain())
			w.checkMembers(b, 3)
			w.checkMembers(other, 3)
			w.must(w.pass())
			w.must(w.tend())
			if s := w.k.State(); s.Lag != 0 || s.Skipped != 0 || s.Failures != 0 || s.Filling != 0 || s.Short != 0 {
				t.Errorf("state %+v", s)
			}
			left, err := w.meta.Outbox(t.Context(), 1, 0, 10)
			w.must(err)
			if len(left) != 0 {
				t.Errorf("left in the outbox: %+v", left)
			}
		})
	}
}

func TestLongMultipart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	b := w.bucket("b", 2)
	w.multipart(b, "many", 3000)
	w.put(b, "small", 0)
	w.must(w.drain())
	w.must(w.tend())
	w.checkMembers(b, 3)
	records := 0
	for _, r := range w.drives.records[writersOf(w.row(2))[0]] {
		if r.rec.Type == metadata.RecordManifest && r.rec.Bucket == b.ID {
			records++
		}
	}
	if records < 3 {
		t.Errorf("3,000 parts in %d records, want several", records)
	}
}

// TestCrashes ends the keeper at every step, with and without the step's
// effect. The next one must bring everything into manifests.
func TestCrashes(t *testing.T) {
	t.Parallel()
	life := func(w *world, b metadata.BucketRef) error {
		if err := w.drain(); err != nil {
			return err
		}
		for i := range 6 {
			w.put(b, fmt.Sprint("k", i), i%3)
		}
		w.multipart(b, "many", 3)
		if err := w.drain(); err != nil {
			return err
		}
		if err := w.tend(); err != nil {
			return err
		}
		w.del(b, "k1", "k2")
		w.put(b, "k3", 1)
		w.put(b, "k4", 0)
		victim := writersOf(w.row(1))[0]
		w.drives.fail = func(d topology.DriveID) error {
			if d == victim {
				return metadata.ErrFenced
			}
			return nil
		}
		for _, f := range []func() error{w.drain, w.tend, w.pass, w.pass, w.pass} {
			if err := f(); err != nil {
				return err
			}
		}
		return nil
	}
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprint("after=", after), func(t *testing.T) {
			t.Parallel()
			for crash := 1; ; crash++ {
				w := newWorld(t, setup{})
				b := w.bucket("b", 1)
				w.drives.crashAt, w.drives.after = crash, after
				err := life(w, b)
				crashed := w.drives.crashed
				if err != nil && !crashed {
					t.Fatal(err)
				}
				w.restart()
				w.drives.fail = nil
				w.must(w.drain())
				w.must(w.tend())
				w.checkMembers(b, 3)
				w.must(w.pass())
				w.must(w.pass())
				w.checkMembers(b, 3)
				w.check(b, w.ids...)
				if !crashed {
					if crash < 30 {
						t.Errorf("only %d steps", crash)
					}
					return
				}
			}
		})
	}
}

// TestAStormStarvesNoKey overwrites a key whenever the keeper has read the
// outbox: it must have a manifest nevertheless.
func TestAStormStarvesNoKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	b := w.bucket("b", 1)
	w.must(w.drain())
	w.put(b, "hot", 0)
	page, err := w.meta.Outbox(t.Context(), 1, 0, 100)
	w.must(err)
	for range 5 {
		w.put(b, "hot", 0) // committed before the page is written
		g := w.k.groups[1]
		w.must(g.writePage(t.Context(), page))
		said, _, _ := w.read(b, writersOf(w.row(1))...)
		if said["hot"] == nil {
			t.Fatal("no manifest of a key that changes all the time")
		}
		if page, err = w.meta.Outbox(t.Context(), 1, 0, 100); err != nil {
			t.Fatal(err)
		}
	}
	w.must(w.drain())
	_, versions, _ := w.read(b, writersOf(w.row(1))[0])
	if versions > 7 {
		t.Errorf("%d manifests of 6 versions", versions)
	}
	w.must(w.tend())
	w.checkMembers(b, 3)
}

func TestExistingStoresAreFilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{old: true})
	b := w.bucket("b", 1)
	for i := range 1200 {
		w.put(b, fmt.Sprintf("k%04d", i), 0)
	}
	w.must(w.drain())
	w.must(w.tend())
	if w.drives.puts != 0 {
		t.Fatalf("%d records before the command version was raised", w.drives.puts)
	}
	w.raise()
	w.must(w.drain())
	w.put(b, "k0000", 0)
	w.put(b, "new", 0)
	w.del(b, "k0001")
	w.must(w.drain())
	w.must(w.tend())
	w.must(w.drain())
	row := w.row(1)
	for i := range row.Members {
		if m := &row.Members[i]; m.State == metadata.MemberFull {
			_, versions, _ := w.read(b, m.Drive)
			if versions < 1200 || versions > 1203 {
				t.Errorf("%d manifests of 1,200 versions", versions)
			}
		}
	}
	said, _, _ := w.read(b, writersOf(row)...)
	list := 0
	for _, n := range said {
		if n.entries[0].Kind == manifest.KindVersion {
			list++
		}
	}
	if list != 1200 {
		t.Errorf("manifests of %d keys, want 1,200", list)
	}
}

func TestFillingGoesOnWhereItWasCutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{old: true})
	b := w.bucket("b", 1)
	for i := range 1500 {
		w.put(b, fmt.Sprintf("k%04d", i), 0)
	}
	w.raise()
	w.must(w.k.tend(t.Context(), make(map[topology.DriveID]time.Time)))
	row := w.row(1)
	g := w.k.groups[1]
	m := &row.Members[slotOf(row, metadata.MemberFilling)]
	keys, err := w.meta.CurrentKeys(t.Context(), 1, metadata.KeyRef{}, 700)
	w.must(err)
	w.must(g.filled(t.Context(), of(m), metadata.MemberFilling, keys[699].KeyRef))
	before := w.k.State().Filled
	row = w.row(1)
	if n, err := g.fill(t.Context(), row, of(memberOf(row, m.Drive))); n != 1 || err != nil {
		t.Errorf("%d drives filled, %v", n, err)
	}
	if n := w.k.State().Filled - before; n != 800 {
		t.Errorf("%d manifests filled, want the 800 behind the stored place", n)
	}
	if memberOf(w.row(1), m.Drive).State != metadata.MemberFull {
		t.Error("the drive is not full")
	}
	if _, err := g.fill(t.Context(), row, of(memberOf(row, m.Drive))); !errors.Is(err, errMembersChanged) {
		t.Errorf("filled again: %v", err)
	}
}

// TestOneScanFillsDrives: drives that begin together read the state once, and
// one that fails on the way keeps none of the others from being full.
func TestOneScanFillsDrives(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{old: true})
	b := w.bucket("b", 1)
	for i := range 700 {
		w.put(b, fmt.Sprintf("k%04d", i), 0)
	}
	w.raise()
	w.must(w.k.tend(t.Context(), make(map[topology.DriveID]time.Time)))
	row := w.row(1)
	all := fillings(row)
	if len(all) != 1 || len(all[0].members) < 3 {
		t.Fatalf("%d scans for %+v, want one for three drives or more", len(all), row.Members)
	}
	n, bad := len(all[0].members), all[0].members[1].Drive
	puts := 0
	w.drives.fail = func(d topology.DriveID) error {
		if d != bad {
			return nil
		}
		if puts++; puts < 2 {
			return nil
		}
		return metadata.ErrDriveFull
	}
	before := w.k.State().Filled
	filled, err := w.k.groups[1].fillAll(t.Context())
	if filled != n-1 || !errors.Is(err, metadata.ErrDriveFull) || !strings.Contains(err.Error(), bad.String()) {
		t.Errorf("%d drives filled, %v; want %d and what is wrong with %s", filled, err, n-1, bad)
	}
	row = w.row(1)
	for _, m := range all[0].members {
		want := metadata.MemberFull
		if m.Drive == bad {
			want = metadata.MemberFilling
		}
		if got := memberOf(row, m.Drive).State; got != want {
			t.Errorf("drive %s is %v, want %v", m.Drive, got, want)
		}
	}
	w.drives.fail = nil
	if filled, err := w.k.groups[1].fillAll(t.Context()); filled != 1 || err != nil {
		t.Errorf("then %d drives filled, %v", filled, err)
	}
	if got := w.k.State().Filled - before; got < uint64(700*n) {
		t.Errorf("%d manifests on %d drives", got, n)
	}
	w.checkMembers(b, n)
}

// of is a scan for one drive.
func of(m *metadata.ManifestMember) *filling {
	return &filling{members: []*metadata.ManifestMember{m}}
}

func slotOf(row *metadata.ManifestMembers, s metadata.MemberState) int {
	for i := range row.Members {
		if row.Members[i].State == s {
			return i
		}
	}
	return -1
}

func TestBucketRowsAndSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	b := w.bucket("b", 3)
	w.propose(&metadata.Command{Kind: metadata.KindPutSettings, Group: 3, Settle: &metadata.Settings{Bucket: b.ID, Name: "b", Epoch: 2, Compression: metadata.CompressionS2}})
	w.must(w.drain())
	w.must(w.tend())
	for _, drive := range writersOf(w.row(3)) {
		row, settings := w.bucketRows(b, drive)
		if row == nil || row.State != metadata.BucketLive || row.Name != "b" {
			t.Errorf("bucket row %+v", row)
		}
		if settings == nil || settings.Epoch != 2 || settings.Compression != metadata.CompressionS2 {
			t.Errorf("settings %+v", settings)
		}
	}
	// The deletion of a bucket leaves nothing to write, and nothing behind.
	w.put(b, "k", 0)
	w.must(w.drain())
	w.del(b, "k")
	w.propose(&metadata.Command{Kind: metadata.KindCloseBucket, Group: 3, Settle: &metadata.Settings{Bucket: b.ID}})
	name := &metadata.Bucket{Name: "b", ID: b.ID}
	w.propose(&metadata.Command{Kind: metadata.KindRetireBucket, Bucket: name})
	w.propose(&metadata.Command{Kind: metadata.KindPurgeBucket, Group: 3, Settle: &metadata.Settings{Bucket: b.ID}})
	w.propose(&metadata.Command{Kind: metadata.KindForgetBucket, Bucket: name})
	w.restart()
	w.must(w.drain())
	w.must(w.pass())
	for _, id := range w.ids {
		for _, r := range w.drives.records[id] {
			if r.rec.Type == metadata.RecordManifest {
				t.Fatalf("a record of a bucket that is gone is left: %+v", r.rec)
			}
		}
	}
}

// bucketRows returns the newest rows of a bucket on a drive.
func (w *world) bucketRows(ref metadata.BucketRef, drive topology.DriveID) (*metadata.Bucket, *metadata.Settings) {
	w.t.Helper()
	bucket := &manifest.Bucket{Cluster: seal.ClusterID{1}, ID: ref.ID, Keys: w.keys[ref.ID], Key: metadata.KeyID{3}}
	var rows [2]*manifest.Manifest
	for _, r := range w.drives.records[drive] {
		if r.rec.Type != metadata.RecordManifest || r.rec.Bucket != ref.ID {
			continue
		}
		entries, err := manifest.Open(bucket, r.rec.Shard.Chunk, r.payload)
		w.must(err)
		for i := range entries {
			at := 0
			switch entries[i].Kind {
			case manifest.KindSettings:
				at = 1
			case manifest.KindBucket:
			default:
				continue
			}
			m, err := manifest.Decode(&entries[i])
			w.must(err)
			if rows[at] == nil || rows[at].Order < m.Order {
				rows[at] = m
			}
		}
	}
	if rows[0] == nil || rows[1] == nil {
		return nil, nil
	}
	return rows[0].Bucket, rows[1].Settings
}

func TestRootTables(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.must(w.drain())
	away := w.ids[2]
	w.drives.down[away] = true
	for i := range 3 {
		w.propose(&metadata.Command{Kind: metadata.KindPutAccessKey, AccessKey: &metadata.AccessKey{ID: fmt.Sprint("AKIA", i), Account: metadata.AccountID{9}}})
		w.must(w.drain())
	}
	check := func(drive topology.DriveID, keys int) {
		t.Helper()
		var roots []*manifest.Root
		for _, r := range w.drives.records[drive] {
			if r.rec.Type == metadata.RecordRoot {
				root, err := manifest.OpenRoot(nil, seal.ClusterID{1}, r.rec.Shard.Chunk, r.payload)
				w.must(err)
				roots = append(roots, root)
			}
		}
		if len(roots) != 1 || len(roots[0].AccessKeys) != keys || len(roots[0].Drives.Drives) != 6 || len(roots[0].Accounts) != 1 || roots[0].CommandVersion != 2 {
			t.Errorf("drive %s: root tables %+v, want one with %d access keys", drive, roots, keys)
		}
	}
	for _, id := range w.ids {
		if id != away {
			check(id, 3)
		}
	}
	check(away, 0)
	w.drives.down[away] = false
	w.must(w.tend())
	check(away, 3)
	puts := w.drives.puts
	w.must(w.tend())
	if w.drives.puts != puts {
		t.Error("root tables written again though nothing changed")
	}
	w.restart()
	w.must(w.tend())
	for _, id := range w.ids {
		check(id, 3)
	}
}

func TestOnlyWhatMayBeFreedIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	b := w.bucket("b", 1)
	w.must(w.drain())
	w.must(w.tend())
	w.k.o.Allowed = func(context.Context) (bool, error) { return false, nil }
	freed := w.drives.freed
	for range 5 {
		w.put(b, "k", 0)
		w.must(w.drain())
		w.propose(&metadata.Command{Kind: metadata.KindPutIncarnation, Incarnation: &metadata.Incarnation{Number: 3}})
		w.must(w.drain())
	}
	w.must(w.pass())
	if w.drives.freed != freed {
		t.Errorf("%d records freed that nobody allowed", w.drives.freed-freed)
	}
}
