package recovery_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// TestLaterGenerations loses the metadata right after a drive was replaced: the
// tables on drives are of before, while objects were written since and have
// manifests. Their shards are found, and those of before.
func TestLaterGenerations(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	c.putRoot()
	fresh := &fakeDrive{id: topology.DriveID{1, 6}}
	c.drives = append(c.drives, fresh)
	b := c.bucket("bucket", true)
	later, parts, old := c.large("later", order(20), 3), c.multipart("parts", order(21), 2, 1), c.large("old", order(10), 2)
	shard := func(pg uint32, index uint8, generation uint32) {
		fresh.shards = append(fresh.shards, metadata.StoredShard{Record: metadata.Record{Type: metadata.RecordShard, PG: pg, Generation: generation, Scheme: c.scheme,
			Shard: metadata.ShardID{Chunk: metadata.ChunkID{byte(pg), byte(generation)}, Index: index}}})
	}
	// Group 1 has a later chunk and tells of its member, group 2 does not tell,
	// group 5 has had two changes, and group 7 has only garbage of a later one.
	later.Chunks[1].Generation, later.Chunks[2].Generation = 2, 2
	shard(1, 3, 2)
	parts.Parts[0].Chunks[0].PG, parts.Parts[0].Chunks[0].Generation = 5, 3
	shard(5, 0, 3)
	shard(7, 0, 2)
	b.put([]*manifest.Manifest{later, parts, old})

	l, report := recoverAll(t, c.options(2))
	same(t, l, b, later, parts, old)
	pgs, err := l.PGs(t.Context())
	c.check(err)
	drives, err := l.Drives(t.Context())
	c.check(err)
	want := c.root.PGs
	want.Version++
	want.Groups = slices.Clone(want.Groups)
	for pg, change := range map[uint32]struct {
		generation uint32
		member     int // that the new drive is, -1 for none
	}{1: {2, 3}, 2: {2, -1}, 5: {3, 0}} {
		g := &want.Groups[pg]
		next := metadata.Generation{Number: change.generation, Members: slices.Clone(g.Newest().Members), Moving: true}
		if change.member >= 0 {
			next.Members[change.member] = fresh.id
		}
		g.Generations = append(slices.Clone(g.Generations), next)
	}
	if diff := cmp.Diff(&want, pgs, empties); diff != "" {
		t.Error(diff)
	}
	table := c.root.Drives
	table.Version++
	table.Drives = append(slices.Clone(table.Drives), c.row(fresh.id))
	if diff := cmp.Diff(&table, drives, empties); diff != "" {
		t.Error(diff)
	}
	if !report.Complete() || len(report.Missing) != 1 {
		t.Errorf("report %+v", report)
	}
}

// TestDamagedKeys: the tables of the root and the latest records of the account
// and of a bucket have wrapped keys that do not open, others have some that do.
func TestDamagedKeys(t *testing.T) {
	t.Parallel()
	for _, olderTables := range []bool{true, false} {
		c := newCluster(t, 6)
		good := c.account
		if olderTables {
			old := c.root
			c.root.Order--
			c.putRoot(3)
			c.root = old
		} else {
			c.put(metadata.Record{Type: metadata.RecordAccount, Account: good.ID, Epoch: 3}, accountRecord(&good), 5)
		}
		damaged := good
		damaged.WrappedKey = "x" + good.WrappedKey[1:]
		c.root.Accounts = []metadata.Account{damaged}
		c.putRoot(0, 1, 2)
		worse := good
		worse.WrappedKey = "?"
		c.put(metadata.Record{Type: metadata.RecordAccount, Account: good.ID, Epoch: 9}, accountRecord(&worse), 4)
		b := c.bucket("bucket", true, 1)
		row := b.row
		row.WrappedKey = strings.Repeat("?", len(row.WrappedKey))
		c.put(metadata.Record{Type: metadata.RecordBucket, Bucket: row.ID, Account: good.ID, Epoch: 8}, bucketRecord(&row, 1, []byte("?")), 3)
		object := c.inline("k", order(10), "v")
		b.put([]*manifest.Manifest{object})
		l, report := recoverAll(t, c.options())
		same(t, l, b, object)
		accounts, err := l.Accounts(t.Context())
		c.check(err)
		if diff := cmp.Diff([]metadata.Account{good}, accounts, empties); diff != "" || !report.Complete() {
			t.Errorf("older tables=%v: %s%+v", olderTables, diff, report)
		}
	}
}
