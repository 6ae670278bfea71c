package recovery_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/gateway/recovery"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// held reads everything of a version back.
func held(t *testing.T, l *replica.Local, b *fakeBucket, key string) *manifest.Manifest {
	t.Helper()
	ref := metadata.BucketRef{Group: b.row.Group, ID: b.row.ID}
	opened, err := l.Open(t.Context(), ref, key, "")
	if errors.Is(err, metadata.ErrNoSuchKey) {
		return nil
	}
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	v := opened.Version
	m := &manifest.Manifest{Kind: manifest.KindVersion, Key: key, Order: v.Order, Version: &v}
	body := func(p *metadata.Part) (chunks []metadata.Chunk, inline []byte) {
		var err error
		switch p.Body {
		case metadata.BodyChunks:
			chunks, err = l.Chunks(t.Context(), ref, p.ID, 0, metadata.MaxPartChunks)
		case metadata.BodyInline:
			inline, err = l.Inline(t.Context(), ref, p.ID)
		}
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		return chunks, inline
	}
	if v.Part != nil {
		m.Chunks, m.Inline = body(v.Part)
		return m
	}
	for page := range v.List.Pages {
		parts, err := l.ListPage(t.Context(), ref, v.List.ID, page)
		if err != nil {
			t.Fatalf("%s: page %d: %v", key, page, err)
		}
		for _, p := range parts {
			part := manifest.Part{Row: p}
			part.Chunks, part.Inline = body(&p)
			m.Parts = append(m.Parts, part)
		}
	}
	return m
}

var empties = cmpopts.EquateEmpty()

// same checks that a bucket holds just the given versions.
func same(t *testing.T, l *replica.Local, b *fakeBucket, want ...*manifest.Manifest) {
	t.Helper()
	list, err := l.List(t.Context(), &metadata.ListQuery{Bucket: metadata.BucketRef{Group: b.row.Group, ID: b.row.ID}, Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, m := range want {
		total += m.Version.Bytes
		if diff := cmp.Diff(m, held(t, l, b, m.Key), empties); diff != "" {
			t.Errorf("%s: %s", m.Key, diff[:min(len(diff), 3000)])
		}
	}
	usage, err := l.Usage(t.Context(), metadata.BucketRef{Group: b.row.Group, ID: b.row.ID})
	if err != nil || usage.Objects != int64(len(want)) || usage.Bytes != total || len(list.Keys) != len(want) {
		t.Errorf("%s: usage %+v, %d keys, %v; want %d objects of %d bytes", b.row.Name, usage, len(list.Keys), err, len(want), total)
	}
}

// TestRecover takes a cluster with everything in it apart, and loses as many
// drives as it may.
func TestRecover(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	c.putRoot()
	old := c.root
	old.Order--
	old.AccessKeys = nil
	newest := c.root
	c.root = old
	c.putRoot(2) // an older copy that was not freed yet
	c.root = newest
	sealed, open, gone, empty := c.bucket("mairie", true, 0, 1, 2), c.bucket("public", false, 3, 4, 5), c.bucket("gone", true), c.bucket("empty", true, 1, 2, 3)
	gone.delete(1, 2, 4)
	gone.put([]*manifest.Manifest{c.inline("old", order(5), "old")}, 0, 1, 2)
	sealed.put(sealed.own(), 0, 1, 2)

	kept := []*manifest.Manifest{
		c.inline("a", order(14), "new"), c.inline("a/b\x00c", order(15), "zero"), c.inline("a/b", order(16), "short"),
		c.large("large", order(17), 3), c.multipart("multi", order(18), 700, 2), c.inline("again", order(21), "again"),
	}
	older := []*manifest.Manifest{c.inline("a", order(10), "old"), c.inline("deleted", order(11), "x"), c.inline("again", order(12), "x"), c.large("a/b", order(13), 2)}
	sealed.put(append([]*manifest.Manifest{tombstone("again", order(19)), tombstone("deleted", order(20))}, kept...), 1, 2, 3)
	sealed.put(older, 3, 4, 5) // what came before may lie anywhere
	public := []*manifest.Manifest{c.inline("a", order(30), "public")}
	open.put(public, 0, 4, 5)

	l, report := recoverAll(t, c.options(0, 5))
	same(t, l, sealed, kept...)
	same(t, l, open, public...)
	same(t, l, empty)

	rows, err := l.Buckets(t.Context(), "", "", 10)
	if err != nil {
		t.Fatal(err)
	}
	open.row.Order = order(30) // no row of its own: not later than its first object
	for i, want := range []*fakeBucket{empty, sealed, open} {
		if want == empty {
			want.row.Order = rows[i].Order // nothing tells
		}
		if diff := cmp.Diff(want.row, rows[i], empties); diff != "" {
			t.Error(diff)
		}
	}
	settings, err := l.Settings(t.Context(), metadata.BucketRef{Group: sealed.row.Group, ID: sealed.row.ID})
	if err != nil || settings.Epoch != 5 || settings.Compression != metadata.CompressionZstd || settings.Name != "mairie" {
		t.Errorf("settings %+v, %v", settings, err)
	}
	checkRoot(t, l, c)
	want := &recovery.Report{Newest: time.UnixMicro(int64(order(30))).UTC(), Incarnation: 4, Tables: true, Accounts: 1, AccessKeys: 1, Objects: 7,
		Missing: []topology.DriveID{c.drives[0].id, c.drives[5].id}, Parity: 2,
		Buckets: []recovery.BucketReport{
			{Name: "empty", ID: empty.row.ID}, {Name: "mairie", ID: sealed.row.ID, Objects: 6}, {Name: "public", ID: open.row.ID, Objects: 1},
		}}
	if diff := cmp.Diff(want, report, empties, cmpopts.IgnoreFields(recovery.Report{}, "Bytes"), cmpopts.IgnoreFields(recovery.BucketReport{}, "Bytes")); diff != "" {
		t.Error(diff)
	}
	if !report.Complete() {
		t.Error("nothing is missing, and the report says so")
	}
}

// checkRoot checks the tables of the root group, and what every group has.
func checkRoot(t *testing.T, l *replica.Local, c *cluster) {
	t.Helper()
	accounts, err1 := l.Accounts(t.Context())
	keys, err2 := l.AccessKeys(t.Context())
	drives, err3 := l.Drives(t.Context())
	pgs, err4 := l.PGs(t.Context())
	incarnation, err5 := l.Incarnation(t.Context())
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c.root, manifest.Root{Order: c.root.Order, CommandVersion: 2, Incarnation: c.root.Incarnation,
		Accounts: accounts, AccessKeys: keys, Drives: *drives, PGs: *pgs}, empties); diff != "" {
		t.Error(diff)
	}
	if incarnation.Number != 4 || incarnation.Collection {
		t.Errorf("incarnation %+v", incarnation)
	}
	for group := range uint32(metadata.DataGroups + 1) {
		fence, err1 := l.Fence(t.Context(), group)
		head, err2 := l.Head(t.Context(), group)
		if err := errors.Join(err1, err2); err != nil || fence.Floor <= 45 || head.Order < uint64(later().UnixMicro()) {
			t.Errorf("group %d: fence %+v, order %d, %v", group, fence, head.Order, err)
		}
	}
}

// TestModel changes keys at random, writes each change's manifest on m+1
// drives, loses m, and compares with a map.
func TestModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			c := newCluster(t, 6)
			c.putRoot()
			type whole map[string]*manifest.Manifest
			buckets, models := []*fakeBucket{c.bucket("one", true), c.bucket("two", false)}, []whole{{}, {}}
			var pending [2][]*manifest.Manifest
			for n := range 400 {
				i := random.IntN(2)
				key := fmt.Sprintf("key%d", random.IntN(120))
				at := order(10 + n)
				var m *manifest.Manifest
				switch random.IntN(8) {
				case 0, 1:
					m = tombstone(key, at)
				case 2:
					m = c.large(key, at, 1+random.IntN(3))
				case 3:
					m = c.multipart(key, at, 1+random.IntN(30)*random.IntN(10), 1)
				default:
					m = c.inline(key, at, fmt.Sprint(n))
				}
				models[i][key] = m
				pending[i] = append(pending[i], m)
				if random.IntN(20) == 0 {
					buckets[i].put(pending[i], random.Perm(6)[:3]...)
					pending[i] = nil
				}
			}
			for i := range pending {
				if len(pending[i]) > 0 {
					buckets[i].put(pending[i], random.Perm(6)[:3]...)
				}
			}
			for _, d := range c.drives { // no order among records of drives
				random.Shuffle(len(d.records), func(i, j int) { d.records[i], d.records[j] = d.records[j], d.records[i] })
			}
			l, report := recoverAll(t, c.options(random.Perm(6)[:2]...))
			for i, model := range models {
				var want []*manifest.Manifest
				for _, m := range model {
					if m.Kind == manifest.KindVersion {
						want = append(want, m)
					}
				}
				same(t, l, buckets[i], want...)
			}
			if !report.Complete() {
				t.Errorf("incomplete: %+v", report)
			}
		})
	}
}

// TestGaps leaves out what cannot be put together, says so, and restores the
// rest.
func TestGaps(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	c.putRoot()
	b, stranger := c.bucket("bucket", true), &fakeBucket{c: c, row: metadata.Bucket{ID: metadata.BucketID{77}}}
	good := c.inline("good", order(10), "good")
	long := c.multipart("long", order(11), 3000, 2)
	pieces, err := manifest.Encode(long)
	c.check(err)
	b.put([]*manifest.Manifest{good, c.inline("long", order(9), "older")})
	b.putEntries(slices.Delete(pieces, 1, 2))
	stranger.put([]*manifest.Manifest{c.inline("x", order(12), "x")}, 1, 2)
	changed := c.drives[0].records[len(c.drives[0].records)-1]
	changed.rec.Bucket, changed.payload = b.row.ID, bytes.Repeat([]byte{1}, 300)
	changed.rec.Shard.Chunk = metadata.ChunkID{44}
	c.drives[0].records = append(c.drives[0].records, changed)
	c.drives[1].damaged = errors.New("2 records cannot be read")

	l, report := recoverAll(t, c.options())
	same(t, l, b, good)
	if report.Complete() || report.LostCount != 1 || report.Unopened != 1 || len(report.Damaged) != 1 || len(report.Unknown) != 1 {
		t.Fatalf("%+v", report)
	}
	if lost := report.Lost[0]; lost.Bucket != "bucket" || lost.Key != "long" || lost.Order != order(11) || !strings.Contains(lost.Reason, "missing") {
		t.Errorf("%+v", lost)
	}
	if u := report.Unknown[0]; u.ID != (metadata.BucketID{77}) || u.Batches != 1 {
		t.Errorf("%+v", u)
	}
	if r := report.Buckets[0]; r.Objects != 1 || r.Lost != 1 || r.Unopened != 1 {
		t.Errorf("%+v", r)
	}
}

// TestNames gives two live buckets of one name different ones, and drops one
// that nothing was ever written to.
func TestNames(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	c.putRoot()
	first, second, empty := c.bucket("mairie", true), c.bucket("mairie", true), c.bucket("mairie", true)
	first.put([]*manifest.Manifest{c.inline("k", order(9), "first")})
	second.put([]*manifest.Manifest{c.inline("k", order(10), "second")})
	l, report := recoverAll(t, c.options())
	if len(report.Buckets) != 2 || len(report.Renamed) != 1 || report.Complete() {
		t.Fatalf("%+v", report)
	}
	r := report.Renamed[0]
	if r.Was != "mairie" || r.Now != "mairie-recovered-"+r.ID.String()[:8] {
		t.Errorf("%+v", r)
	}
	if _, err := l.BucketByID(t.Context(), empty.row.ID); !errors.Is(err, metadata.ErrNoSuchBucket) {
		t.Errorf("the empty one: %v", err)
	}
	for _, b := range []*fakeBucket{first, second} {
		if m := held(t, l, b, "k"); m == nil {
			t.Errorf("object of %s is lost", b.row.ID)
		}
	}
}

// TestNewRecordOfBucket uses the key of the newest record, and the account of
// a record if the tables are older.
func TestNewRecordOfBucket(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	c.root.Accounts = nil // the tables were written before
	c.putRoot()
	a := c.account
	payload := append(append(append([]byte{1}, a.ID[:]...), a.Key[:]...), a.MasterKey[:]...)
	for _, s := range []string{a.WrappedKey, a.Canonical, a.Name} {
		payload = append(append(payload, byte(len(s)), 0, 0, 0), s...)
	}
	c.put(metadata.Record{Type: metadata.RecordAccount, Account: a.ID, Epoch: 1}, payload, 3)
	b := c.bucket("b", true)
	stale := b.row
	stale.Region = "elsewhere"
	c.put(metadata.Record{Type: metadata.RecordBucket, Bucket: b.row.ID, Epoch: 1}, bucketRecord(&stale, 1, []byte("not a sealed name")))
	want := c.inline("k", order(9), "v")
	b.put([]*manifest.Manifest{want})
	l, report := recoverAll(t, c.options())
	same(t, l, b, want)
	if !report.Complete() || report.Accounts != 1 {
		t.Errorf("%+v", report)
	}
}

// TestKeysThatDoNotOpen tells of buckets whose account's key is lost.
func TestKeysThatDoNotOpen(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	c.root.Accounts[0].WrappedKey = "damaged"
	c.putRoot()
	b, open := c.bucket("sealed", true), c.bucket("open", false)
	b.put([]*manifest.Manifest{c.inline("k", order(9), "v")})
	want := c.inline("k", order(9), "v")
	open.put([]*manifest.Manifest{want})
	l, report := recoverAll(t, c.options())
	same(t, l, open, want)
	if report.Complete() || len(report.Unknown) != 1 || report.Unknown[0].ID != b.row.ID || len(report.Buckets) != 1 {
		t.Errorf("%+v", report)
	}
}

// withShards gives every drive the shards of one chunk in each of the groups.
func (c *cluster) withShards(groups int) {
	for _, pg := range c.root.PGs.Groups[:groups] {
		for i, member := range pg.Newest().Members {
			rec := metadata.Record{Type: metadata.RecordShard, Scheme: c.scheme, PG: pg.ID, Generation: pg.Newest().Number,
				Shard: metadata.ShardID{Chunk: metadata.ChunkID{byte(pg.ID), 1}, Index: uint8(i)}}
			at := slices.IndexFunc(c.drives, func(d *fakeDrive) bool { return d.id == member })
			c.drives[at].shards = append(c.drives[at].shards, metadata.StoredShard{Record: rec})
		}
	}
}

// TestWithoutTables reads the placement off the shards.
func TestWithoutTables(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	a := c.account
	payload := append(append(append([]byte{1}, a.ID[:]...), a.Key[:]...), a.MasterKey[:]...)
	for _, s := range []string{a.WrappedKey, a.Canonical, a.Name} {
		payload = append(append(payload, byte(len(s)), 0, 0, 0), s...)
	}
	c.put(metadata.Record{Type: metadata.RecordAccount, Account: a.ID, Epoch: 1}, payload)
	b := c.bucket("b", true)
	want := c.inline("k", order(9), "v")
	b.put([]*manifest.Manifest{want})
	if _, err := recovery.Collect(t.Context(), c.options()); !errors.Is(err, recovery.ErrNoGroups) {
		t.Fatalf("without a shard: %v", err)
	}
	c.withShards(40)
	var older []*fakeDrive
	for _, d := range c.drives { // as a version without manifests would leave it
		bare := *d
		bare.records = slices.DeleteFunc(slices.Clone(d.records), func(r record) bool { return r.rec.Type == metadata.RecordManifest })
		older = append(older, &bare)
	}
	o := c.options(2)
	for i := range o.Drives {
		o.Drives[i].Records = older[slices.IndexFunc(older, func(d *fakeDrive) bool { return d.id == o.Drives[i].Row.ID })]
	}
	if _, err := recovery.Collect(t.Context(), o); !errors.Is(err, recovery.ErrNoManifests) {
		t.Fatalf("without a manifest: %v", err)
	}
	l, report := recoverAll(t, c.options(2))
	same(t, l, b, want)
	pgs, err := l.PGs(t.Context())
	if err != nil || len(pgs.Groups) != 64 {
		t.Fatal(len(pgs.Groups), err)
	}
	for i := range 40 {
		if diff := cmp.Diff(c.root.PGs.Groups[i].Newest().Members, pgs.Groups[i].Newest().Members); diff != "" {
			t.Errorf("group %d: %s", i, diff)
		}
	}
	drives, err := l.Drives(t.Context())
	if err != nil || len(drives.Drives) != 6 || len(report.Missing) != 1 || report.Missing[0] != c.drives[2].id {
		t.Errorf("%d drives, missing %v, %v", len(drives.Drives), report.Missing, err)
	}
	if report.Tables || report.Complete() || report.Incarnation <= 4 {
		t.Errorf("%+v", report)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	newer := newCluster(t, 6)
	newer.root.CommandVersion = metadata.LatestVersion + 1
	newer.putRoot()
	late := newCluster(t, 6)
	late.root.Order = uint64(later().Add(2 * time.Hour).UnixMicro())
	late.putRoot()
	early := newCluster(t, 6)
	early.root.Order = uint64(later().Add(-500 * 24 * time.Hour).UnixMicro())
	early.putRoot()
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	tests := map[string]struct {
		ctx  context.Context
		c    *cluster
		want error
	}{
		"empty drives":                  {t.Context(), newCluster(t, 6), recovery.ErrNothing},
		"a later version":               {t.Context(), newer, recovery.ErrNewer},
		"a clock behind":                {t.Context(), late, recovery.ErrAbsurdClock},
		"a clock far ahead":             {t.Context(), early, recovery.ErrAbsurdClock},
		"a recovery that was cut short": {stopped, early, context.Canceled},
	}
	for name, test := range tests {
		if _, err := recovery.Collect(test.ctx, test.c.options()); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := late.options()
	o.AcceptClock = true
	c, err := recovery.Collect(t.Context(), o)
	if err != nil || !c.Newest().Equal(later().Add(2*time.Hour)) || c.Scheme() != late.scheme {
		t.Fatalf("an accepted clock: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// failing ends like an engine whose device is full.
type failing struct{}

func (f *failing) Commit(_ context.Context, cmd *metadata.Command) (*metadata.Result, error) {
	if cmd.Kind == metadata.KindRestoreVersion {
		return nil, metadata.ErrMetadataFull
	}
	return new(metadata.Result), nil
}

// TestEngineFails ends with the engine's error, with all workers stopped.
func TestEngineFails(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	c.putRoot()
	b := c.bucket("b", true)
	var ms []*manifest.Manifest
	for i := range 500 {
		ms = append(ms, c.inline(fmt.Sprint(i), order(10+i), strings.Repeat("x", 1000)))
	}
	b.put(ms)
	col, err := recovery.Collect(t.Context(), c.options())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := col.Restore(t.Context(), &failing{}); !errors.Is(err, metadata.ErrMetadataFull) {
		t.Errorf("%v", err)
	}
	if err := col.Close(); err != nil {
		t.Error(err)
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	c.putRoot()
	b := c.bucket("b", true)
	b.put([]*manifest.Manifest{c.inline("a", order(10), "12345"), tombstone("b", order(11))})
	o := c.options()
	var last recovery.Progress
	o.Progress = func(p recovery.Progress) { last = p }
	recoverAll(t, o)
	want := recovery.Progress{Phase: recovery.PhaseRestore, Drives: 6, TotalDrives: 6, Batches: 1, Manifests: 2, Keys: 2, Objects: 1, Bytes: 5}
	if diff := cmp.Diff(want, last); diff != "" {
		t.Error(diff)
	}
}

// TestDamagedDrives tells what is damaged on which drive. Tables of the root are
// on every drive: damage to some of them loses nothing.
func TestDamagedDrives(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		typ      metadata.RecordType
		reason   string
		complete bool
	}{
		{metadata.RecordRoot, "tables of the root: rot", true},
		{metadata.RecordManifest, "manifests: rot", false},
		{metadata.RecordBucket, "buckets: rot", false},
		{0, "tables of the root: rot; accounts: rot; buckets: rot; manifests: rot", false},
	} {
		c := newCluster(t, 6)
		c.putRoot()
		b := c.bucket("bucket", true)
		object := c.inline("k", order(10), "v")
		b.put([]*manifest.Manifest{object})
		for _, d := range c.drives[:3] {
			d.damaged, d.only = errors.New("rot"), test.typ
		}
		l, report := recoverAll(t, c.options())
		same(t, l, b, object)
		if len(report.Damaged) != 3 || report.Damaged[1].Reason != test.reason || report.Complete() != test.complete {
			t.Errorf("%+v, complete %v; want %q, %v", report.Damaged, report.Complete(), test.reason, test.complete)
		}
	}
}
