package state_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
	"github.com/ruche-storage/ruche/metadata/topology"
)

var memberStates = []string{"?", "filling", "full", "leaving"}

// manifestCommand makes the commands of manifests and recovery.
func (s *script) manifestCommand(name string, a args, b metadata.BucketID, c *metadata.Command) *metadata.Command {
	c.Group = uint32(a.num("group", 1))
	switch name {
	case "manifested":
		c.Kind, c.Manifested = metadata.KindManifested, &metadata.Manifested{Upto: a.num("upto", 0), Set: a.num("set", 0)}
	case "put-members":
		c.Kind, c.Members = metadata.KindPutManifestMembers, &metadata.ManifestMembers{Version: a.num("version", 0), Set: 99}
		for _, text := range a.list("members") { // drive:state:filled to
			f := strings.Split(text, ":")
			m := metadata.ManifestMember{Drive: topology.DriveID(s.id(f[0])), State: 9}
			for i, state := range memberStates {
				if state == f[1] {
					m.State = metadata.MemberState(i)
				}
			}
			if len(f) > 2 {
				m.Fill = metadata.KeyRef{Bucket: b, Key: f[2]}
			}
			c.Members.Members = append(c.Members.Members, m)
		}
	case "restore":
		v := metadata.Version{Null: true, Order: a.num("order", 0), ETag: a.str("etag")}
		r := &metadata.RestoreVersion{Bucket: b, Key: a.str("key")}
		if a.has("part") {
			var p metadata.Part
			p, r.Chunks, r.Inline = s.body(a, a.str("part"))
			p.Modified = v.Order
			v.Bytes, v.StoredBytes, v.Part = p.Bytes, p.SealedBytes, &p
		} else {
			n := uint32(a.num("parts", 0))
			v.List = &metadata.PartList{ID: metadata.UploadID(s.id(a.str("list"))), Parts: n, Pages: make([]metadata.PartPage, (n+255)/256)}
			v.Bytes, v.StoredBytes = int64(a.num("bytes", 0)), int64(a.num("stored", 0))
		}
		r.Version = v
		c.Kind, c.RestoreVersion = metadata.KindRestoreVersion, r
	case "restore-parts":
		r := &metadata.RestoreParts{Bucket: b, Key: a.str("key"), List: metadata.UploadID(s.id(a.str("list"))), Page: uint32(a.num("page", 0))}
		for i, p := range a.list("parts") {
			part, _, _ := s.body(a, p)
			part.Number = uint32(i + 1)
			r.Parts = append(r.Parts, part)
		}
		for _, p := range a.list("bodies") {
			_, chunks, inline := s.body(a, p)
			r.Bodies = append(r.Bodies, metadata.PartBody{Part: s.id(p), Chunks: chunks, Inline: inline})
		}
		c.Kind, c.RestoreParts = metadata.KindRestoreParts, r
	default:
		return nil
	}
	return c
}

// runReadManifests answers the lines of a script that read of manifests.
func (s *script) runReadManifests(name string, a args) (out string, known bool, err error) {
	v := s.view()
	group := uint32(a.num("group", 1))
	switch name {
	case "outbox":
		kinds := []string{"?", "version", "deleted", "settings", "bucket", "root"}
		var entries []metadata.OutboxEntry
		entries, err = v.Outbox(group, a.num("after", 0), int(a.num("limit", 100)))
		for _, e := range entries {
			out += fmt.Sprintf("%d %s %s %q\n", e.Order, kinds[e.Kind], s.name(e.Bucket), e.Key)
		}
	case "members":
		var row *metadata.ManifestMembers
		row, err = v.ManifestMembers(group)
		out = fmt.Sprintf("version %d, set %d\n", row.Version, row.Set)
		for _, m := range row.Members {
			out += fmt.Sprintf("%s %s %q\n", s.name(m.Drive), memberStates[m.State], m.Fill.Key)
		}
	case "current":
		var keys []metadata.KeyOrder
		var after metadata.KeyRef
		if a.has("after") {
			after = metadata.KeyRef{Bucket: ref.ID, Key: a.str("after")}
		}
		keys, err = v.CurrentKeys(group, after, int(a.num("limit", 100)))
		for _, k := range keys {
			out += fmt.Sprintf("%s %q %d\n", s.name(k.Bucket), k.Key, k.Order)
		}
	case "orders":
		var keys []metadata.KeyRef
		for _, k := range a.list("keys") {
			keys = append(keys, metadata.KeyRef{Bucket: ref.ID, Key: k})
		}
		var res *metadata.OrdersResult
		if res, err = v.Orders(group, keys); err == nil {
			out = fmt.Sprintf("%v of %d\n", res.Orders, res.Order)
		}
	case "chunks":
		var ids []metadata.PartID
		for _, p := range a.list("parts") {
			ids = append(ids, s.id(p))
		}
		out, err = s.chunks(ids, int(a.num("limit", 100)))
	default:
		return "", false, nil
	}
	return out, true, err
}

// chunks reads the chunks of parts page by page.
func (s *script) chunks(parts []metadata.PartID, limit int) (out string, err error) {
	for after := (*metadata.ChunkRow)(nil); ; {
		rows, err := s.view().PartChunks(ref, parts, after, limit)
		if err != nil || len(rows) == 0 {
			return out, err
		}
		for _, r := range rows {
			out += fmt.Sprintf("%s.%d ", s.name(r.Part), r.Chunk.No)
		}
		out += "\n"
		after = &rows[len(rows)-1]
	}
}

// raised makes a group that keeps an outbox.
func raised(t *testing.T) *script {
	db := openDB(t)
	s := &script{t: t, db: db, machine: state.New(db), stamp: 1, names: make(map[[16]byte]string)}
	s.apply(&metadata.Command{Kind: metadata.KindOpenBucket, Group: 1, Settle: &metadata.Settings{Bucket: ref.ID, Name: "b"}})
	s.apply(&metadata.Command{Kind: metadata.KindClusters, Group: 1, Clusters: &metadata.ClusterVersion{Version: 2}})
	return s
}

// TestOutboxTellsEveryChange replays a random stream and compares what the
// outbox says of each key with what it is at the end.
func TestOutboxTellsEveryChange(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		s := newStream(t, seed+100)
		s.do(&metadata.Command{Kind: metadata.KindClusters, Clusters: &metadata.ClusterVersion{Version: 2}})
		for range 400 {
			s.step()
		}
		entries, err := s.view().Outbox(1, 0, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		last := make(map[string]metadata.OutboxEntry)
		order := uint64(0)
		for _, e := range entries {
			if e.Order <= order {
				t.Fatalf("order %d after %d", e.Order, order)
			}
			order = e.Order
			if e.Kind != metadata.OutboxSettings {
				last[e.Key] = e
			}
		}
		head, err := s.view().Head(1)
		if err != nil || order > head.Order {
			t.Fatalf("order %d above the head's %d, %v", order, head.Order, err)
		}
		list, err := s.view().CurrentKeys(1, metadata.KeyRef{}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		current := make(map[string]uint64)
		for _, k := range list {
			current[k.Key] = k.Order
		}
		for key, e := range last {
			if want := current[key]; e.Kind == metadata.OutboxVersion && e.Order != want || e.Kind == metadata.OutboxDeleted && want != 0 {
				t.Errorf("seed %d: the outbox ends with %+v, the version has order %d", seed, e, want)
			}
			delete(current, key)
		}
		if len(last) < 5 || len(current) > 0 {
			t.Errorf("seed %d: %d keys told of, %d not", seed, len(last), len(current))
		}
	}
}

// TestRestoredStateIsTheSame puts what one store holds into another, some of it
// twice, and compares all rows of objects.
func TestRestoredStateIsTheSame(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		from := newStream(t, seed)
		for range 300 {
			from.step()
		}
		into := raised(t)
		var commands []*metadata.Command
		keys, err := from.view().CurrentKeys(1, metadata.KeyRef{}, 1000)
		if err != nil || len(keys) == 0 {
			t.Fatal(len(keys), err)
		}
		for _, k := range keys {
			commands = append(commands, restoring(t, from.script, k.Key)...)
		}
		rng := rand.New(rand.NewPCG(seed, 9))
		for range len(commands) / 2 {
			commands = append(commands, commands[rng.IntN(len(commands))])
		}
		for _, c := range commands {
			c.Group, c.Settings = 1, 1
			if res := into.apply(c); res.Rejected != nil {
				t.Fatal(res.Rejected)
			}
		}
		want, got := objects(t, from.db, from.view()), objects(t, into.db, into.view())
		if want != got {
			t.Fatalf("seed %d: restored:\n%s\nwant:\n%s", seed, got, want)
		}
	}
}

// restoring makes the commands that put a key back.
func restoring(t *testing.T, s *script, key string) (commands []*metadata.Command) {
	t.Helper()
	o, err := s.view().Open(ref, key, "")
	if err != nil {
		t.Fatal(err)
	}
	last := &metadata.RestoreVersion{Bucket: ref.ID, Key: key, Version: o.Version, Chunks: o.Chunks, Inline: o.Inline}
	if list := o.Version.List; list != nil {
		for page := range list.Pages {
			parts, err := s.view().ListPage(ref, list.ID, page)
			if err != nil {
				t.Fatal(err)
			}
			commands = append(commands, &metadata.Command{Kind: metadata.KindRestoreParts,
				RestoreParts: &metadata.RestoreParts{Bucket: ref.ID, Key: key, List: list.ID, Page: uint32(page), Parts: parts}})
			for i := range parts {
				b := metadata.PartBody{Part: parts[i].ID}
				if parts[i].Body == metadata.BodyInline {
					b.Inline, err = s.view().Inline(ref, parts[i].ID)
				} else {
					b.Chunks, err = s.view().Chunks(ref, parts[i].ID, 0, 100)
				}
				if err != nil {
					t.Fatal(err)
				}
				commands = append(commands, &metadata.Command{Kind: metadata.KindRestoreParts,
					RestoreParts: &metadata.RestoreParts{Bucket: ref.ID, Key: key, List: list.ID, Bodies: []metadata.PartBody{b}}})
			}
		}
	}
	return append(commands, &metadata.Command{Kind: metadata.KindRestoreVersion, RestoreVersion: last})
}

// objects returns the rows of all objects and their counters, without those of
// uploads and of what is in the trash.
func objects(t *testing.T, db *pebble.DB, v state.View) string {
	t.Helper()
	var b strings.Builder
	keys, err := v.CurrentKeys(1, metadata.KeyRef{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	row := func(table byte, suffix ...[]byte) {
		key := append([]byte{0, 0, 0, 1, table}, bytes.Join(suffix, nil)...)
		iter, err := db.NewIter(&pebble.IterOptions{LowerBound: key, UpperBound: append(bytes.Clone(key), 0xff, 0xff, 0xff, 0xff, 0xff)})
		if err != nil {
			t.Fatal(err)
		}
		for iter.First(); iter.Valid(); iter.Next() {
			fmt.Fprintf(&b, "%x %x\n", iter.Key(), iter.Value())
		}
		if err := iter.Close(); err != nil {
			t.Fatal(err)
		}
	}
	objects, size := 0, int64(0)
	for _, k := range keys {
		o, err := v.Open(ref, k.Key, "")
		if err != nil {
			t.Fatal(err)
		}
		objects++
		size += o.Version.StoredBytes
		fmt.Fprintf(&b, "%s %x\n", strconv.Quote(k.Key), o.Version.AppendTo(nil))
		var parts []metadata.Part
		if o.Version.Part != nil {
			parts = append(parts, *o.Version.Part)
		} else {
			row(0x28, ref.ID[:], o.Version.List.ID[:])
			for page := range o.Version.List.Pages {
				more, err := v.ListPage(ref, o.Version.List.ID, page)
				if err != nil {
					t.Fatal(err)
				}
				parts = append(parts, more...)
			}
		}
		for i := range parts {
			for _, table := range []byte{0x29, 0x2a, 0x2b} {
				row(table, ref.ID[:], parts[i].ID[:])
			}
		}
	}
	u, err := v.Usage(ref)
	if err != nil || u.Objects != int64(objects) || u.StoredBytes != size {
		t.Errorf("usage %+v of %d objects of %d bytes, %v", u, objects, size, err)
	}
	return b.String()
}

// BenchmarkCommitVersion applies commits of small objects in batches of 64,
// without and with an outbox that is dropped every 512.
func BenchmarkCommitVersion(b *testing.B) {
	for _, version := range []uint16{1, metadata.ManifestVersion} {
		b.Run(fmt.Sprint("version=", version), func(b *testing.B) {
			db := openDB(b)
			m := state.New(db)
			var batch *state.Batch
			n := 0
			apply := func(c *metadata.Command) *metadata.Result {
				if batch == nil {
					batch = m.NewBatch()
				}
				n++
				c.Version, c.Group, c.Settings, c.Stamp = metadata.CommandVersion, 1, 1, uint64(n)
				res, err := batch.Apply(1, uint64(n), c)
				if err != nil || res.Rejected != nil {
					b.Fatal(res, err)
				}
				if n%64 == 0 {
					if err := batch.Commit(pebble.NoSync); err != nil {
						b.Fatal(err)
					}
					batch = nil
				}
				return res
			}
			apply(&metadata.Command{Kind: metadata.KindOpenBucket, Settle: &metadata.Settings{Bucket: ref.ID, Name: "b"}})
			apply(&metadata.Command{Kind: metadata.KindClusters, Clusters: &metadata.ClusterVersion{Version: version}})
			b.ReportAllocs()
			for b.Loop() {
				c := commitOf()
				c.Key = fmt.Sprintf("photos/2026/%08d.jpg", n)
				c.Version.ETag = "0123456789abcdef0123456789abcdef"
				c.Version.Part.ID = id16(c.Key)
				res := apply(&metadata.Command{Kind: metadata.KindCommitVersion, CommitVersion: c})
				if version > 1 && n%512 == 0 {
					apply(&metadata.Command{Kind: metadata.KindManifested, Manifested: &metadata.Manifested{Upto: res.Order}})
				}
			}
			if batch != nil {
				batch.Discard()
			}
		})
	}
}
