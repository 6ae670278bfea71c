package recovery_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/gateway/recovery"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/placement"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// begin is the time of the first change in a fake cluster.
var begin = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// later is when a fake cluster is recovered.
func later() time.Time { return begin.Add(30 * 24 * time.Hour) }

func order(n int) uint64 { return uint64(begin.UnixMicro()) + uint64(n) }

// record is what lies on a drive.
type record struct {
	rec     metadata.Record
	payload []byte
}

// fakeDrive holds records and rows of shards in memory.
type fakeDrive struct {
	id      topology.DriveID
	records []record
	shards  []metadata.StoredShard
	damaged error               // told at the end of every listing
	only    metadata.RecordType // of these, unless it is 0
}

func (d *fakeDrive) Records(_ context.Context, typ metadata.RecordType, yield func(*metadata.Record, []byte) error) error {
	for i := range d.records {
		if d.records[i].rec.Type != typ {
			continue
		}
		if err := yield(&d.records[i].rec, slices.Clone(d.records[i].payload)); err != nil {
			return err
		}
	}
	if d.only != 0 && d.only != typ {
		return nil
	}
	return d.damaged
}

func (d *fakeDrive) List(_ context.Context, after metadata.ShardRef, _ bool, limit int) ([]metadata.StoredShard, error) {
	var out []metadata.StoredShard
	for _, s := range d.shards { // put in order
		if s.PG > after.PG || s.PG == after.PG && string(s.Shard.Chunk[:]) > string(after.Shard.Chunk[:]) {
			out = append(out, s)
		}
		if len(out) == limit {
			break
		}
	}
	return out, nil
}

// cluster makes what drives carry.
type cluster struct {
	t       testing.TB
	random  *rand.ChaCha8
	id      seal.ClusterID
	ring    *keyring.Keyring
	scheme  metadata.Scheme
	drives  []*fakeDrive
	account metadata.Account
	keys    *seal.AccountKeys
	root    manifest.Root
}

func newCluster(t testing.TB, drives int) *cluster {
	t.Helper()
	c := &cluster{t: t, random: rand.NewChaCha8([32]byte{7}), id: seal.ClusterID{1, 2, 3}, scheme: metadata.SchemeFor(drives)}
	var err error
	c.ring, _, err = keyring.Create(keyring.Options{Cluster: keyring.ClusterID(c.id), Random: c.random, Now: begin, KDF: keyring.KDF{Time: 1, MemoryKiB: 8, Threads: 1}})
	c.check(err)
	table := metadata.DriveTable{Version: 1}
	for i := range drives {
		id := topology.DriveID{1, byte(i)}
		c.drives = append(c.drives, &fakeDrive{id: id})
		table.Drives = append(table.Drives, c.row(id))
	}
	pgs, err := placement.Build(table.Drives, c.scheme, 64, binary.LittleEndian.Uint64(c.id[:]))
	c.check(err)
	c.account = metadata.Account{ID: metadata.AccountID{9}, Name: "root", Canonical: "abc", Key: metadata.KeyID{8}}
	key := keyring.Key{5}
	var wrapped []byte
	c.account.MasterKey, wrapped, err = c.ring.WrapAccount(c.account.ID, c.account.Key, key)
	c.check(err)
	c.account.WrappedKey, c.keys = string(wrapped), seal.DeriveAccount(seal.Key(key))
	c.root = manifest.Root{Order: order(1), CommandVersion: 2, Incarnation: metadata.Incarnation{Number: 3, Collection: true},
		Accounts:   []metadata.Account{c.account},
		AccessKeys: []metadata.AccessKey{{ID: "AKIA", SealedSecret: "sealed", Account: c.account.ID, Order: order(1)}},
		Drives:     table, PGs: *pgs}
	return c
}

func (c *cluster) row(id topology.DriveID) topology.Drive {
	return topology.Drive{ID: id, Node: topology.NodeID{4}, Site: "site1", CapacityBytes: 1 << 40, State: topology.DriveActive}
}

func (c *cluster) check(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// put writes a record on the drives given, all if none.
func (c *cluster) put(rec metadata.Record, payload []byte, on ...int) {
	if len(on) == 0 {
		for i := range c.drives {
			on = append(on, i)
		}
	}
	if rec.Shard.Chunk == (metadata.ChunkID{}) {
		c.random.Read(rec.Shard.Chunk[:])
	}
	for _, i := range on {
		c.drives[i].records = append(c.drives[i].records, record{rec, payload})
	}
}

func (c *cluster) putRoot(on ...int) {
	id, payload, err := manifest.SealRoot(c.random, c.ring, c.id, &c.root)
	c.check(err)
	c.put(metadata.Record{Type: metadata.RecordRoot, Shard: metadata.ShardID{Chunk: id}}, payload, on...)
}

// fakeBucket is a bucket whose records and manifests are written.
type fakeBucket struct {
	c    *cluster
	row  metadata.Bucket
	keys *seal.BucketKeys
}

// bucket makes the record of a bucket.
func (c *cluster) bucket(name string, sealed bool, on ...int) *fakeBucket {
	b := &fakeBucket{c: c, row: metadata.Bucket{Name: name, Owner: c.account.ID, State: metadata.BucketLive, Region: "fr-metro", Order: order(2)}}
	c.random.Read(b.row.ID[:])
	b.row.Group = 1 + uint32(b.row.ID[0])%metadata.DataGroups
	stored := []byte(name)
	if sealed {
		key, err := seal.NewKey(c.random)
		c.check(err)
		c.random.Read(b.row.Key[:])
		b.row.WrappedKey = string(c.keys.WrapBucket(seal.BucketBinding{Cluster: c.id, Account: c.account.ID, Bucket: b.row.ID, Key: b.row.Key}, key))
		b.keys = seal.DeriveBucket(key)
		stored, err = b.keys.SealName(c.random, b.row.ID, name)
		c.check(err)
	}
	c.put(metadata.Record{Type: metadata.RecordBucket, Bucket: b.row.ID, Account: c.account.ID, Epoch: 2}, bucketRecord(&b.row, 1, stored), on...)
	return b
}

func (b *fakeBucket) delete(on ...int) {
	row := metadata.Bucket{ID: b.row.ID, Owner: b.row.Owner}
	b.c.put(metadata.Record{Type: metadata.RecordBucket, Bucket: b.row.ID, Account: b.row.Owner, Epoch: 1}, bucketRecord(&row, 2, nil), on...)
}

// bucketRecord encodes a record as package gateway/object does.
func bucketRecord(row *metadata.Bucket, state byte, name []byte) []byte {
	out := append([]byte{1, state}, row.ID[:]...)
	out = append(append(out, row.Owner[:]...), row.Key[:]...)
	out = binary.LittleEndian.AppendUint32(out, row.Group)
	for _, s := range []string{row.WrappedKey, string(name), row.Region} {
		out = append(binary.LittleEndian.AppendUint32(out, uint32(len(s))), s...)
	}
	return out
}

// put writes manifests in one batch each of as many as fit.
func (b *fakeBucket) put(ms []*manifest.Manifest, on ...int) {
	var entries []manifest.Entry
	for _, m := range ms {
		e, err := manifest.Encode(m)
		b.c.check(err)
		entries = append(entries, e...)
	}
	b.putEntries(entries, on...)
}

func (b *fakeBucket) putEntries(entries []manifest.Entry, on ...int) {
	var batch manifest.Builder
	finish := func() {
		id, payload, err := batch.Seal(b.c.random, &manifest.Bucket{Cluster: b.c.id, ID: b.row.ID, Key: b.row.Key, Keys: b.keys})
		b.c.check(err)
		b.c.put(metadata.Record{Type: metadata.RecordManifest, Bucket: b.row.ID, Shard: metadata.ShardID{Chunk: id}}, payload, on...)
		batch.Reset()
	}
	for i := range entries {
		if !batch.Add(&entries[i]) {
			finish()
			batch.Add(&entries[i])
		}
	}
	finish()
}

// own are the rows of the bucket itself.
func (b *fakeBucket) own() []*manifest.Manifest {
	row := b.row
	return []*manifest.Manifest{
		{Kind: manifest.KindBucket, Order: order(3), Bucket: &row},
		{Kind: manifest.KindSettings, Order: order(3), Settings: &metadata.Settings{Bucket: row.ID, Name: row.Name, Epoch: 4, Compression: metadata.CompressionZstd}},
	}
}

func (c *cluster) partID() (id metadata.PartID) {
	c.random.Read(id[:])
	return id
}

// inline is a version with an inline body.
func (c *cluster) inline(key string, at uint64, body string) *manifest.Manifest {
	n := int64(len(body))
	return &manifest.Manifest{Kind: manifest.KindVersion, Key: key, Order: at, Inline: []byte(body), Version: &metadata.Version{
		Order: at, Null: true, Bytes: n, StoredBytes: n, ETag: "etag-" + body, Headers: metadata.Headers{ContentType: "text/plain"},
		Part: &metadata.Part{Number: 1, ID: c.partID(), Bytes: n, SealedBytes: n, Body: metadata.BodyInline, Modified: at}}}
}

func (c *cluster) chunks(n int) (out []metadata.Chunk, size int64) {
	for i := range n {
		chunk := metadata.Chunk{No: uint32(i), PG: uint32(i % 64), Generation: 1, Scheme: c.scheme, Bytes: metadata.ChunkBytes}
		c.random.Read(chunk.ID[:])
		if i == n-1 {
			chunk.Bytes = 12345
		}
		out, size = append(out, chunk), size+chunk.Bytes
	}
	return out, size
}

// large is a version in chunks.
func (c *cluster) large(key string, at uint64, chunks int) *manifest.Manifest {
	m := c.inline(key, at, "")
	var n int64
	m.Inline = nil
	m.Chunks, n = c.chunks(chunks)
	m.Version.Part.Body, m.Version.Part.Bytes, m.Version.Part.SealedBytes = metadata.BodyChunks, n, n
	m.Version.Bytes, m.Version.StoredBytes = n, n
	return m
}

// multipart is a version of parts of so many chunks, the last one inline.
func (c *cluster) multipart(key string, at uint64, parts, each int) *manifest.Manifest {
	v := &metadata.Version{Order: at, Null: true, ETag: fmt.Sprintf("etag-%d", parts), List: &metadata.PartList{Parts: uint32(parts)}}
	c.random.Read(v.List.ID[:])
	m := &manifest.Manifest{Kind: manifest.KindVersion, Key: key, Order: at, Version: v}
	for i := range parts {
		p := manifest.Part{Row: metadata.Part{Number: uint32(i + 1), ID: c.partID(), Modified: at}}
		if i%metadata.PartsPerPage == 0 {
			v.List.Pages = append(v.List.Pages, metadata.PartPage{FirstNumber: p.Row.Number, Offset: v.Bytes})
		}
		if i == parts-1 {
			p.Inline, p.Row.Body, p.Row.SealedBytes = []byte("end"), metadata.BodyInline, 3
		} else {
			p.Row.Body = metadata.BodyChunks
			p.Chunks, p.Row.SealedBytes = c.chunks(each)
		}
		p.Row.Bytes = p.Row.SealedBytes
		v.Bytes += p.Row.Bytes
		m.Parts = append(m.Parts, p)
	}
	v.StoredBytes = v.Bytes
	return m
}

func tombstone(key string, at uint64) *manifest.Manifest {
	return &manifest.Manifest{Kind: manifest.KindTombstone, Key: key, Order: at}
}

// opener gives a keyring the methods of recovery.Keys.
type opener struct{ *keyring.Keyring }

func (o opener) UnwrapAccount(_ context.Context, account metadata.AccountID, key, master metadata.KeyID, wrapped []byte) (seal.Key, error) {
	k, err := o.Keyring.UnwrapAccount(account, key, master, wrapped)
	return seal.Key(k), err
}

// options read the drives but those that are lost.
func (c *cluster) options(lost ...int) recovery.Options {
	o := recovery.Options{Cluster: c.id, Keys: opener{c.ring}, Now: later, FS: vfs.NewMem(), Scratch: "scratch", MemoryBytes: 64 << 10, Workers: 8}
	for i, d := range c.drives {
		o.Known = append(o.Known, d.id)
		if !slices.Contains(lost, i) {
			o.Drives = append(o.Drives, recovery.Drive{Row: c.row(d.id), Path: fmt.Sprintf("/srv/d%d", i), Epoch: uint64(40 + i), Records: d})
		}
	}
	return o
}

// engine opens an empty state.
func engine(t testing.TB, now func() time.Time) *replica.Local {
	t.Helper()
	l, err := replica.Open("metadata", replica.Options{FS: vfs.NewMem(), Now: now, ReserveBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// recover collects and restores.
func recoverAll(t testing.TB, o recovery.Options) (*replica.Local, *recovery.Report) {
	t.Helper()
	c, err := recovery.Collect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	to := engine(t, o.Now)
	report, err := c.Restore(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if list, err := o.FS.List("."); err == nil && slices.Contains(list, "scratch") {
		t.Error("the scratch directory is left")
	}
	return to, report
}

// accountRecord encodes a record as package gateway/object does.
func accountRecord(a *metadata.Account) []byte {
	out := append([]byte{1}, a.ID[:]...)
	out = append(append(out, a.Key[:]...), a.MasterKey[:]...)
	for _, s := range []string{a.WrappedKey, a.Canonical, a.Name} {
		out = append(binary.LittleEndian.AppendUint32(out, uint32(len(s))), s...)
	}
	return out
}
