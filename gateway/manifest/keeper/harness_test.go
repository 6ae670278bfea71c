package keeper

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// world is metadata in memory, drives and a keeper that the test drives by
// hand.
type world struct {
	t      testing.TB
	meta   *replica.Local
	drives *fakeDrives
	ids    []topology.DriveID
	k      *Keeper
	rng    *mathrand.Rand
	now    time.Time
	keys   map[metadata.BucketID]*seal.BucketKeys
	plain  bool // buckets have no keys
	off    bool // nothing may be freed
	n      int
}

type setup struct {
	drives int // 0: 6
	plain  bool
	old    bool // the groups keep no outbox yet
}

func newWorld(t testing.TB, s setup) *world {
	t.Helper()
	if s.drives == 0 {
		s.drives = 6
	}
	meta, err := replica.Open("state", replica.Options{FS: vfs.NewMem(), ReserveBytes: -1, AcceptClock: true, MemTableBytes: 4 << 20, CacheBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := meta.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, meta: meta, rng: mathrand.New(mathrand.NewPCG(7, 7)), keys: make(map[metadata.BucketID]*seal.BucketKeys), plain: s.plain,
		drives: newFakeDrives()}
	table := &metadata.DriveTable{Version: 1}
	for i := range s.drives {
		id := topology.DriveID{byte(i + 1)}
		w.ids = append(w.ids, id)
		table.Drives = append(table.Drives, topology.Drive{ID: id, State: topology.DriveActive, CapacityBytes: 1 << 40})
	}
	w.propose(&metadata.Command{Kind: metadata.KindPutDrives, Drives: table})
	w.propose(&metadata.Command{Kind: metadata.KindPushPGs, PGs: &metadata.PGTable{Version: 1, Groups: []metadata.PG{
		{Scheme: metadata.NewScheme(4, 2), Generations: []metadata.Generation{{Number: 1, Members: w.ids}}}}}})
	w.propose(&metadata.Command{Kind: metadata.KindPutAccount, Account: &metadata.Account{ID: metadata.AccountID{9}, Name: "root"}})
	if !s.old {
		w.raise()
	}
	w.restart()
	return w
}

// raise has all groups keep an outbox.
func (w *world) raise() {
	for group := range uint32(groupCount) {
		w.propose(&metadata.Command{Kind: metadata.KindClusters, Group: group, Clusters: &metadata.ClusterVersion{Version: metadata.ManifestVersion}})
	}
}

// restart begins the life of another keeper, which does not crash.
func (w *world) restart() {
	w.drives.mu.Lock()
	w.drives.crashAt, w.drives.crashed, w.drives.steps = 0, false, 0
	w.drives.mu.Unlock()
	k, err := New(Options{
		Metadata: w.meta, Drives: w.drives, Cluster: seal.ClusterID{1}, Rand: rand.Reader, Linger: -1,
		Propose: func(ctx context.Context, cmd *metadata.Command) error {
			w.drives.mu.Lock()
			defer w.drives.mu.Unlock()
			return w.drives.step(func() error { return w.commit(ctx, cmd) })
		},
		Epoch: func() (uint64, func(), error) { return 1, func() {}, nil },
		Keys: func(_ context.Context, row *metadata.Bucket) (*seal.BucketKeys, error) {
			return w.keys[row.ID], nil
		},
		Now:     func() time.Time { return w.now },
		Allowed: func(context.Context) (bool, error) { return !w.off, nil },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.k = k
}

func (w *world) commit(ctx context.Context, cmd *metadata.Command) error {
	cmd.Version = 1
	rand.Read(cmd.Request[:])
	_, err := w.meta.Commit(ctx, cmd)
	return err
}

func (w *world) propose(cmd *metadata.Command) {
	w.t.Helper()
	if err := w.commit(context.Background(), cmd); err != nil {
		w.t.Fatal(err)
	}
}

func id16(text string) (id [16]byte) {
	h := hashOf(metadata.KeyRef{Key: text})
	copy(id[:], h[:])
	return id
}

// bucket makes a bucket in a group.
func (w *world) bucket(name string, group uint32) metadata.BucketRef {
	w.t.Helper()
	ref := metadata.BucketRef{Group: group, ID: id16(name)}
	row := &metadata.Bucket{Name: name, ID: ref.ID, Group: group, Owner: metadata.AccountID{9}}
	if !w.plain {
		w.keys[ref.ID] = seal.DeriveBucket(seal.Key(append(ref.ID[:], ref.ID[:]...)))
		row.Key, row.WrappedKey = metadata.KeyID{3}, "wrapped"
	}
	w.propose(&metadata.Command{Kind: metadata.KindReserveBucket, Bucket: row})
	w.propose(&metadata.Command{Kind: metadata.KindOpenBucket, Group: group, Settle: &metadata.Settings{Bucket: ref.ID, Name: name}})
	w.propose(&metadata.Command{Kind: metadata.KindActivateBucket, Bucket: row})
	return ref
}

// data commits a command on objects.
func (w *world) data(ref metadata.BucketRef, cmd *metadata.Command) {
	w.t.Helper()
	settings, err := w.meta.Settings(context.Background(), ref)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.Group, cmd.Settings = ref.Group, settings.Epoch
	w.propose(cmd)
}

// part is a part of so many chunks, or an inline one for 0.
func (w *world) part(number uint32, chunks int) (p metadata.Part, rows []metadata.Chunk, inline []byte) {
	w.n++
	p = metadata.Part{Number: number, ID: id16(fmt.Sprint("part", w.n)), Sealed: !w.plain, WrappedKey: "key"}
	if chunks == 0 {
		inline = make([]byte, 1+w.rng.IntN(300))
		binary.LittleEndian.PutUint16(append(inline[:0], make([]byte, 2)...), uint16(w.n))
		p.Body, p.Bytes, p.SealedBytes = metadata.BodyInline, int64(len(inline)), int64(len(inline))
		return p, nil, inline
	}
	p.Body = metadata.BodyChunks
	for i := range chunks {
		c := metadata.Chunk{No: uint32(i), ID: id16(fmt.Sprint("chunk", w.n, i)), Scheme: metadata.NewScheme(4, 2), Generation: 1, Bytes: metadata.ChunkBytes,
			Digest: metadata.Sum{byte(w.n), byte(i)}}
		if i == chunks-1 {
			c.Bytes = 1 + int64(w.rng.IntN(1000))
		}
		p.Bytes += c.Bytes
		rows = append(rows, c)
	}
	p.SealedBytes = p.Bytes
	return p, rows, nil
}

func (w *world) put(ref metadata.BucketRef, key string, chunks int) {
	w.t.Helper()
	p, rows, inline := w.part(1, chunks)
	v := metadata.Version{Null: true, Bytes: p.Bytes, ETag: fmt.Sprint("etag", w.n), User: []metadata.Pair{{Name: "n", Value: fmt.Sprint(w.n)}}, Part: &p}
	w.data(ref, &metadata.Command{Kind: metadata.KindCommitVersion, CommitVersion: &metadata.CommitVersion{
		Bucket: ref.ID, Key: key, Version: v, Chunks: rows, Inline: inline}})
}

func (w *world) del(ref metadata.BucketRef, keys ...string) {
	w.t.Helper()
	d := &metadata.DeleteVersions{Bucket: ref.ID}
	for _, k := range keys {
		d.Keys = append(d.Keys, metadata.DeleteKey{Key: k})
	}
	w.data(ref, &metadata.Command{Kind: metadata.KindDeleteVersions, Delete: d})
}

// multipart completes an upload; every third part is inline.
func (w *world) multipart(ref metadata.BucketRef, key string, parts int) {
	w.t.Helper()
	w.n++
	u := metadata.UploadID(id16(fmt.Sprint("upload", w.n)))
	w.data(ref, &metadata.Command{Kind: metadata.KindCreateUpload, CreateUpload: &metadata.CreateUpload{Bucket: ref.ID, Upload: metadata.Upload{ID: u, Key: key}}})
	c := &metadata.Complete{Bucket: ref.ID, Key: key, Upload: u, Version: metadata.Version{Null: true, List: &metadata.PartList{ID: u, Parts: uint32(parts)}}}
	for i := range parts {
		p, rows, inline := w.part(uint32(i+1), i%3)
		w.data(ref, &metadata.Command{Kind: metadata.KindCommitPart, CommitPart: &metadata.CommitPart{Bucket: ref.ID, Key: key, Upload: u, Part: p, Chunks: rows, Inline: inline}})
		c.Parts = append(c.Parts, metadata.PartRef{Number: p.Number, ID: p.ID})
		if i%metadata.PartsPerPage == 0 {
			c.Version.List.Pages = append(c.Version.List.Pages, metadata.PartPage{FirstNumber: p.Number, Offset: c.Version.Bytes})
		}
		c.Version.Bytes += p.Bytes
	}
	w.data(ref, &metadata.Command{Kind: metadata.KindComplete, Complete: c})
}

// drain writes everything that is in the outboxes.
func (w *world) drain() error {
	var errs []error
	for _, g := range w.k.groups {
		if err := g.drain(context.Background()); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// tend looks at the manifest drives and fills those that are to be filled.
func (w *world) tend() error {
	ctx := context.Background()
	errs := []error{w.k.tend(ctx, make(map[topology.DriveID]time.Time)), w.k.root.tend(ctx, w.k)}
	for _, g := range w.k.groups[1:] {
		_, err := g.fillAll(ctx)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (w *world) pass() error { return w.k.passOnce(context.Background()) }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// row returns the members of a group.
func (w *world) row(group uint32) *metadata.ManifestMembers {
	w.t.Helper()
	row, err := w.meta.ManifestMembers(context.Background(), group)
	w.must(err)
	return row
}

// newest is what manifests of some drives say of one key.
type newest struct {
	entries []manifest.Entry // of the highest order, pieces in any order
}

// read returns what the manifests of some drives say of the keys of a bucket,
// and how many entries there are of versions and of tombstones.
func (w *world) read(ref metadata.BucketRef, drives ...topology.DriveID) (keys map[string]*newest, versions, tombstones int) {
	w.t.Helper()
	keys = make(map[string]*newest)
	bucket := &manifest.Bucket{Cluster: seal.ClusterID{1}, ID: ref.ID, Keys: w.keys[ref.ID]}
	if bucket.Keys != nil {
		bucket.Key = metadata.KeyID{3}
	}
	for _, drive := range drives {
		for _, r := range w.drives.records[drive] {
			if r.rec.Type != metadata.RecordManifest || r.rec.Bucket != ref.ID {
				continue
			}
			entries, err := manifest.Open(bucket, r.rec.Shard.Chunk, r.payload)
			w.must(err)
			for _, e := range entries {
				switch e.Kind {
				case manifest.KindVersion:
					versions++
				case manifest.KindTombstone:
					tombstones++
				default:
					continue
				}
				n := keys[e.Key]
				if n == nil || n.entries[0].Order < e.Order {
					n = &newest{}
					keys[e.Key] = n
				}
				if len(n.entries) == 0 || n.entries[0].Order == e.Order {
					n.entries = append(n.entries, e)
				}
			}
		}
	}
	return keys, versions, tombstones
}

// check fails if the manifests of some drives say anything else of a bucket
// than the state.
func (w *world) check(ref metadata.BucketRef, drives ...topology.DriveID) {
	w.t.Helper()
	said, _, _ := w.read(ref, drives...)
	list, err := w.meta.List(context.Background(), &metadata.ListQuery{Bucket: ref, Limit: 1000})
	w.must(err)
	for i := range list.Keys {
		kv := &list.Keys[i]
		n := said[kv.Key]
		delete(said, kv.Key)
		if n == nil {
			w.t.Fatalf("no manifest of %s", kv.Key)
		}
		if got := n.entries[0]; got.Kind != manifest.KindVersion || got.Order != kv.Version.Order {
			w.t.Fatalf("%s: manifest of kind %d, order %d; the version has order %d", kv.Key, got.Kind, got.Order, kv.Version.Order)
		}
		w.compare(ref, kv.Key, n)
	}
	for key, n := range said {
		if n.entries[0].Kind != manifest.KindTombstone {
			w.t.Fatalf("the newest manifest of %s, which was deleted, is that of a version", key)
		}
	}
}

// compare fails if a manifest is not what the state has.
func (w *world) compare(ref metadata.BucketRef, key string, n *newest) {
	w.t.Helper()
	slices.SortFunc(n.entries, func(a, b manifest.Entry) int { return a.Piece - b.Piece })
	var a manifest.Assembler
	for i := range n.entries {
		w.must(a.Add(&n.entries[i]))
	}
	got, err := a.Manifest()
	w.must(err)
	ctx := context.Background()
	want, err := w.meta.Open(ctx, ref, key, "")
	w.must(err)
	if !bytes.Equal(got.Version.AppendTo(nil), want.Version.AppendTo(nil)) {
		w.t.Fatalf("%s: another version", key)
	}
	if want.Version.Part != nil {
		chunks, err := w.meta.Chunks(ctx, ref, want.Version.Part.ID, 0, 10_000)
		w.must(err)
		w.sameBody(key, chunks, want.Inline, got.Chunks, got.Inline)
		return
	}
	at := 0
	for page := range want.Version.List.Pages {
		parts, err := w.meta.ListPage(ctx, ref, want.Version.List.ID, page)
		w.must(err)
		for i := range parts {
			chunks, err := w.meta.Chunks(ctx, ref, parts[i].ID, 0, 10_000)
			w.must(err)
			var inline []byte
			if parts[i].Body == metadata.BodyInline {
				inline, err = w.meta.Inline(ctx, ref, parts[i].ID)
				w.must(err)
			}
			p := &got.Parts[at]
			if !bytes.Equal(p.Row.AppendTo(nil), parts[i].AppendTo(nil)) {
				w.t.Fatalf("%s: another part %d", key, at)
			}
			w.sameBody(key, chunks, inline, p.Chunks, p.Inline)
			at++
		}
	}
	if at != len(got.Parts) {
		w.t.Fatalf("%s: %d parts, want %d", key, len(got.Parts), at)
	}
}

func (w *world) sameBody(key string, chunks []metadata.Chunk, inline []byte, gotChunks []metadata.Chunk, gotInline []byte) {
	w.t.Helper()
	if !slices.Equal(chunks, gotChunks) || !bytes.Equal(inline, gotInline) {
		w.t.Fatalf("%s: another body", key)
	}
}

// checkMembers checks a bucket against each of the full members of its group.
func (w *world) checkMembers(ref metadata.BucketRef, want int) {
	w.t.Helper()
	row := w.row(ref.Group)
	full := 0
	for i := range row.Members {
		if m := &row.Members[i]; m.State == metadata.MemberFull {
			w.check(ref, m.Drive)
			full++
		}
	}
	if full != want {
		w.t.Fatalf("%d full manifest drives, want %d: %+v", full, want, row.Members)
	}
}

// sound fails unless each manifest drive that is complete tells the state of a
// bucket, whatever other drives hold, also those that are away.
func (w *world) sound(ref metadata.BucketRef) (complete int) {
	w.t.Helper()
	row := w.row(ref.Group)
	for i := range row.Members {
		m := &row.Members[i]
		if m.State != metadata.MemberFull || !m.Tombs {
			continue
		}
		complete++
		drives := []topology.DriveID{m.Drive}
		for _, id := range w.ids {
			if other := memberOf(row, id); other == nil || !other.Writes() {
				drives = append(drives, id)
			}
		}
		w.check(ref, drives...)
	}
	return complete
}
