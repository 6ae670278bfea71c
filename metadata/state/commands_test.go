package state_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// commitOf is a valid commit of two chunks, for tests to spoil.
func commitOf() *metadata.CommitVersion {
	p := &metadata.Part{Number: 1, ID: id16("p"), Bytes: 100, SealedBytes: 110, Body: metadata.BodyChunks}
	return &metadata.CommitVersion{
		Bucket: ref.ID, Key: "k", Version: metadata.Version{Null: true, Bytes: 100, Part: p},
		Chunks: []metadata.Chunk{{No: 0, ID: id16("c0"), Bytes: 60}, {No: 1, ID: id16("c1"), Bytes: 50}},
	}
}

func TestContradictoryCommitsAreRejected(t *testing.T) {
	t.Parallel()
	s, _ := newListed(t)
	do := func(c *metadata.CommitVersion) *metadata.Result {
		return s.apply(&metadata.Command{Kind: metadata.KindCommitVersion, Group: 1, Settings: 1, CommitVersion: c})
	}
	for name, spoil := range map[string]func(c *metadata.CommitVersion){
		"no key":             func(c *metadata.CommitVersion) { c.Key = "" },
		"long key":           func(c *metadata.CommitVersion) { c.Key = strings.Repeat("x", 1025) },
		"not null":           func(c *metadata.CommitVersion) { c.Version.Null = false },
		"marker":             func(c *metadata.CommitVersion) { c.Version.Marker = true },
		"no part":            func(c *metadata.CommitVersion) { c.Version.Part = nil },
		"a list":             func(c *metadata.CommitVersion) { c.Version.List = &metadata.PartList{} },
		"other bytes":        func(c *metadata.CommitVersion) { c.Version.Bytes++ },
		"no part id":         func(c *metadata.CommitVersion) { c.Version.Part.ID = metadata.PartID{} },
		"no chunks":          func(c *metadata.CommitVersion) { c.Chunks = nil },
		"a chunk less":       func(c *metadata.CommitVersion) { c.Chunks = c.Chunks[:1] },
		"chunks out of turn": func(c *metadata.CommitVersion) { c.Chunks[0].No, c.Chunks[1].No = 1, 0 },
		"an empty chunk":     func(c *metadata.CommitVersion) { c.Chunks[0].Bytes, c.Chunks[1].Bytes = 0, 110 },
		"inline too":         func(c *metadata.CommitVersion) { c.Inline = []byte("x") },
		"packed":             func(c *metadata.CommitVersion) { c.Version.Part.Body = metadata.BodyPacked },
		"empty with bytes":   func(c *metadata.CommitVersion) { c.Version.Part.Body, c.Chunks = metadata.BodyEmpty, nil },
		"inline of another length": func(c *metadata.CommitVersion) {
			c.Version.Part.Body, c.Chunks, c.Inline = metadata.BodyInline, nil, []byte("x")
		},
		"short of no chunk": func(c *metadata.CommitVersion) { c.Short = []metadata.Short{{ChunkNo: 2, Missing: 1}} },
		"short of nothing":  func(c *metadata.CommitVersion) { c.Short = []metadata.Short{{ChunkNo: 1}} },
	} {
		c := commitOf()
		spoil(c)
		before := dumpObjects(t, s)
		if res := do(c); res.Rejected != metadata.ErrInvalidCommand {
			t.Errorf("%s: %v, want %v", name, res.Rejected, metadata.ErrInvalidCommand)
		}
		if dumpObjects(t, s) != before {
			t.Errorf("%s: the rejected command left a trace", name)
		}
	}
	if res := do(commitOf()); res.Rejected != nil {
		t.Errorf("the command as it was: %v", res.Rejected)
	}
}

// dumpObjects returns all rows but the head, whose position moves.
func dumpObjects(t *testing.T, s *script) string {
	_, rest, _ := strings.Cut(string(dump(t, s.db)), "\n")
	return rest
}

func TestInlineBodiesAreCapped(t *testing.T) {
	t.Parallel()
	s, _ := newListed(t)
	// A group that is almost full, made by hand.
	h := metadata.Head{Order: 5, Position: 100, InlineBytes: state.InlineLimitBytes - 3}
	if err := s.db.Set([]byte{0, 0, 0, 1, 1}, h.AppendTo(nil), pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	s.machine = state.New(s.db)
	put := func(body string) error {
		p := &metadata.Part{Number: 1, ID: id16(body), Bytes: int64(len(body)), SealedBytes: int64(len(body)), Body: metadata.BodyInline}
		return s.apply(&metadata.Command{Kind: metadata.KindCommitVersion, Group: 1, Settings: 1, CommitVersion: &metadata.CommitVersion{
			Bucket: ref.ID, Key: body, Version: metadata.Version{Null: true, Bytes: p.Bytes, Part: p}, Inline: []byte(body)}}).Rejected
	}
	if err := put("four"); err != metadata.ErrInlineFull {
		t.Errorf("a body too many: %v, want %v", err, metadata.ErrInlineFull)
	}
	if err := put("abc"); err != nil {
		t.Errorf("the last body: %v", err)
	}
}

func TestLongPartLists(t *testing.T) {
	t.Parallel()
	const parts = 600 // three pages, the last one short
	s, _ := newListed(t)
	do := func(c *metadata.Command) *metadata.Result {
		t.Helper()
		c.Group, c.Settings = 1, 1
		res := s.apply(c)
		if res.Rejected != nil {
			t.Fatal(res.Rejected)
		}
		return res
	}
	u := metadata.UploadID(id16("u"))
	do(&metadata.Command{Kind: metadata.KindCreateUpload, CreateUpload: &metadata.CreateUpload{Bucket: ref.ID, Upload: metadata.Upload{ID: u, Key: "k"}}})
	complete := &metadata.Complete{Bucket: ref.ID, Key: "k", Upload: u, Version: metadata.Version{Null: true, List: &metadata.PartList{ID: u, Parts: parts}}}
	for i := range parts {
		p := metadata.Part{Number: uint32(3 * (i + 1)), ID: id16(fmt.Sprint(i)), Bytes: 10, SealedBytes: 11, Body: metadata.BodyChunks}
		do(&metadata.Command{Kind: metadata.KindCommitPart, CommitPart: &metadata.CommitPart{Bucket: ref.ID, Key: "k", Upload: u, Part: p,
			Chunks: []metadata.Chunk{{ID: id16(fmt.Sprint("c", i)), Bytes: 11}}}})
		complete.Parts = append(complete.Parts, metadata.PartRef{Number: p.Number, ID: p.ID})
		if i%metadata.PartsPerPage == 0 {
			complete.Version.List.Pages = append(complete.Version.List.Pages, metadata.PartPage{FirstNumber: p.Number, Offset: complete.Version.Bytes})
		}
		complete.Version.Bytes += p.Bytes
	}
	wrong := *complete
	wrong.Version.List = &metadata.PartList{ID: u, Parts: parts, Pages: append([]metadata.PartPage(nil), complete.Version.List.Pages...)}
	wrong.Version.List.Pages[1].Offset++
	if res := s.apply(&metadata.Command{Kind: metadata.KindComplete, Group: 1, Settings: 1, Complete: &wrong}); res.Rejected != metadata.ErrInvalidCommand {
		t.Errorf("with a wrong page: %v, want %v", res.Rejected, metadata.ErrInvalidCommand)
	}
	do(&metadata.Command{Kind: metadata.KindComplete, Complete: complete})
	for page, want := range []int{256, 256, 88} {
		got, err := s.view().ListPage(ref, u, page)
		if err != nil || len(got) != want || got[0].Number != complete.Version.List.Pages[page].FirstNumber {
			t.Errorf("page %d has %d parts, %v; want %d", page, len(got), err, want)
		}
	}

	do(&metadata.Command{Kind: metadata.KindDeleteVersions, Delete: &metadata.DeleteVersions{Bucket: ref.ID, Keys: []metadata.DeleteKey{{Key: "k"}}}})
	rounds := 0
	for ; ; rounds++ {
		rows, err := s.view().Trash(1, 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) == 0 {
			break
		}
		got, err := s.view().TrashParts(1, &rows[0], 100)
		if err != nil {
			t.Fatal(err)
		}
		r := metadata.TrashRef{Order: rows[0].Order, Bucket: ref.ID, List: u, Done: rounds == parts/100-1}
		for _, p := range got {
			r.Parts = append(r.Parts, metadata.PartRef{Number: p.Number, ID: p.ID})
		}
		do(&metadata.Command{Kind: metadata.KindDropTrash, DropTrash: &metadata.DropTrash{Rows: []metadata.TrashRef{r}}})
	}
	if rounds != parts/100 {
		t.Errorf("dropped in %d rounds, want %d", rounds, parts/100)
	}
	if rows := s.rows(1); strings.Contains(rows, "0x28") || strings.Contains(rows, "0x29") || strings.Contains(rows, "0x2a") {
		t.Errorf("rows that are left:\n%s", rows)
	}
}

// BenchmarkList reads pages of 1,000 keys from a bucket of 100,000.
func BenchmarkList(b *testing.B) {
	db := openDB(b)
	s := &script{db: db, machine: state.New(db), stamp: 1}
	batch := s.machine.NewBatch()
	apply := func(c *metadata.Command) {
		position, err := batch.Position(1)
		if err != nil {
			b.Fatal(err)
		}
		c.Version, c.Group, c.Settings = metadata.CommandVersion, 1, 1
		if _, err := batch.Apply(1, position+1, c); err != nil {
			b.Fatal(err)
		}
	}
	apply(&metadata.Command{Kind: metadata.KindOpenBucket, Settle: &metadata.Settings{Bucket: ref.ID, Name: "b"}})
	for i := range 100_000 {
		c := commitOf()
		c.Key = fmt.Sprintf("photos/2026/%02d/%08d.jpg", i%12, i)
		c.Version.ETag, c.Version.Headers.ContentType = "0123456789abcdef0123456789abcdef", "image/jpeg"
		c.Version.Part.ID = id16(c.Key)
		apply(&metadata.Command{Kind: metadata.KindCommitVersion, CommitVersion: c})
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		b.Fatal(err)
	}
	if err := db.Flush(); err != nil {
		b.Fatal(err)
	}
	for name, q := range map[string]*metadata.ListQuery{
		"keys":     {Bucket: ref, Prefix: "photos/2026/05/", Limit: 1000},
		"prefixes": {Bucket: ref, Prefix: "photos/2026/", Delimiter: "/", Limit: 1000},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.view().List(q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
