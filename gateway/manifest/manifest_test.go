package manifest_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
)

// source is a pinned source in the place of a random one.
func source(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

func testBucket(sealed bool) *manifest.Bucket {
	b := &manifest.Bucket{Cluster: seal.ClusterID{1, 2}, ID: metadata.BucketID{3, 4}}
	if sealed {
		b.Key, b.Keys = metadata.KeyID{5, 6}, seal.DeriveBucket(seal.Key{7, 8})
	}
	return b
}

func chunks(n int, last int64) []metadata.Chunk {
	list := make([]metadata.Chunk, n)
	for i := range list {
		list[i] = metadata.Chunk{No: uint32(i), ID: metadata.ChunkID{9, byte(i), byte(i >> 8)}, PG: 17, Generation: 1,
			Scheme: metadata.NewScheme(4, 2), Bytes: metadata.ChunkBytes, Digest: sha256.Sum256([]byte{byte(i)})}
	}
	list[n-1].Bytes = last
	return list
}

func plain(key string, order uint64, inline []byte) *manifest.Manifest {
	v := &metadata.Version{Order: order, Random: [8]byte{1}, Null: true, Bytes: 3, StoredBytes: int64(len(inline)), ETag: "abc",
		Headers: metadata.Headers{ContentType: "text/plain"}, User: []metadata.Pair{{Name: "service", Value: "état civil"}},
		Part: &metadata.Part{Number: 1, ID: metadata.PartID{2}, Bytes: 3, SealedBytes: int64(len(inline)), Body: metadata.BodyInline, Sealed: true}}
	return &manifest.Manifest{Kind: manifest.KindVersion, Key: key, Order: order, Version: v, Inline: inline}
}

func inChunks(key string, order uint64, n int) *manifest.Manifest {
	m := plain(key, order, nil)
	size := int64(n-1)*metadata.ChunkBytes + 100
	m.Version.Bytes, m.Version.Part.Bytes, m.Version.Part.SealedBytes = size, size, size
	m.Version.Part.Body, m.Chunks = metadata.BodyChunks, chunks(n, 100)
	return m
}

// multipart is a version of so many parts, each of so many chunks; the last
// part is inline.
func multipart(key string, order uint64, parts, each int) *manifest.Manifest {
	v := &metadata.Version{Order: order, List: &metadata.PartList{ID: metadata.UploadID{3}, Parts: uint32(parts)}}
	m := &manifest.Manifest{Kind: manifest.KindVersion, Key: key, Order: order, Version: v}
	for i := range parts {
		if i%metadata.PartsPerPage == 0 {
			v.List.Pages = append(v.List.Pages, metadata.PartPage{FirstNumber: uint32(2*i + 1), Offset: v.Bytes, MAC: metadata.Sum{byte(i)}})
		}
		p := manifest.Part{Row: metadata.Part{Number: uint32(2*i + 1), ID: metadata.PartID{4, byte(i), byte(i >> 8)}, Sealed: true,
			WrappedKey: strings.Repeat("w", seal.WrappedBytes), MD5: [16]byte{8}}}
		if i == parts-1 {
			p.Row.Body, p.Inline = metadata.BodyInline, []byte("the last bytes")
			p.Row.SealedBytes = int64(len(p.Inline))
		} else {
			p.Row.Body, p.Chunks = metadata.BodyChunks, chunks(each, 1000)
			p.Row.SealedBytes = int64(each-1)*metadata.ChunkBytes + 1000
		}
		p.Row.Bytes = p.Row.SealedBytes
		v.Bytes += p.Row.Bytes
		m.Parts = append(m.Parts, p)
	}
	return m
}

func samples() []*manifest.Manifest {
	empty := plain("empty", 8, nil)
	empty.Version.Bytes, empty.Version.Part.Bytes, empty.Version.Part.Body = 0, 0, metadata.BodyEmpty
	return []*manifest.Manifest{
		plain("mairie/registre.txt", 7, []byte("sealed body")), empty, inChunks("video\x00mp4", 9, 3), multipart("big", 10, 300, 1),
		{Kind: manifest.KindTombstone, Key: "gone", Order: 11},
		{Kind: manifest.KindVersion, Key: "marker", Order: 12, Version: &metadata.Version{Order: 12, Marker: true}},
		{Kind: manifest.KindBucket, Order: 13, Bucket: &metadata.Bucket{Name: "mairie", ID: metadata.BucketID{3, 4}, Order: 1}},
		{Kind: manifest.KindSettings, Order: 14, Settings: &metadata.Settings{Bucket: metadata.BucketID{3, 4}, Epoch: 2}},
	}
}

func encode(t *testing.T, m *manifest.Manifest) []manifest.Entry {
	t.Helper()
	entries, err := manifest.Encode(m)
	if err != nil {
		t.Fatalf("Encode %q: %v", m.Key, err)
	}
	return entries
}

var same = cmpopts.EquateEmpty()

// batches puts entries into as few batches as they fit in.
func batches(t *testing.T, bucket *manifest.Bucket, entries []manifest.Entry) (ids []metadata.ChunkID, payloads [][]byte) {
	t.Helper()
	var b manifest.Builder
	random := source(1)
	finish := func() {
		id, payload, err := b.Seal(random, bucket)
		if err != nil {
			t.Fatal(err)
		}
		if b.Entries() > 1 && len(payload) > manifest.BatchBytes || len(payload) > b.Bytes() {
			t.Errorf("%d entries, %d bytes: builder said %d", b.Entries(), len(payload), b.Bytes())
		}
		ids, payloads = append(ids, id), append(payloads, payload)
		b.Reset()
	}
	for i := range entries {
		if !b.Add(&entries[i]) {
			finish()
			if !b.Add(&entries[i]) {
				t.Fatal("an empty batch takes no entry")
			}
		}
	}
	finish()
	return ids, payloads
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, sealed := range []bool{false, true} {
		bucket := testBucket(sealed)
		var entries []manifest.Entry
		for _, m := range samples() {
			entries = append(entries, encode(t, m)...)
		}
		ids, payloads := batches(t, bucket, entries)
		var got []*manifest.Manifest
		for i, payload := range payloads {
			read, err := manifest.Open(bucket, ids[i], payload)
			if err != nil {
				t.Fatal(err)
			}
			for j := range read {
				m, err := manifest.Decode(&read[j])
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, m)
			}
		}
		if diff := cmp.Diff(samples(), got, same); diff != "" {
			t.Errorf("sealed %v: %s", sealed, diff)
		}
	}
}

// TestLongest takes the longest upload there may be apart and puts it together
// again.
func TestLongest(t *testing.T) {
	t.Parallel()
	m := multipart("longest", 20, metadata.MaxPartNumber, 8)
	entries := encode(t, m)
	bucket := testBucket(true)
	ids, payloads := batches(t, bucket, entries)
	if len(payloads) < len(entries)/2 {
		t.Errorf("%d pieces in %d batches", len(entries), len(payloads))
	}
	var a manifest.Assembler
	for i, payload := range payloads {
		if len(payload) > manifest.BatchBytes {
			t.Errorf("batch of %d bytes", len(payload))
		}
		read, err := manifest.Open(bucket, ids[i], payload)
		if err != nil {
			t.Fatal(err)
		}
		for j := range read {
			if err := errors.Join(a.Add(&read[j]), a.Add(&read[j])); err != nil { // as from two drives
				t.Fatal(err)
			}
		}
	}
	got, err := a.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(m, got) {
		t.Error("the longest upload comes back changed")
	}
}

func TestPiecesMissing(t *testing.T) {
	t.Parallel()
	entries := encode(t, multipart("long", 20, 2000, 4))
	if len(entries) < 3 {
		t.Fatalf("%d pieces", len(entries))
	}
	if _, err := manifest.Decode(&entries[0]); !errors.Is(err, manifest.ErrIncomplete) {
		t.Errorf("one piece alone: %v", err)
	}
	for missing := range entries {
		var a manifest.Assembler
		var errs []error
		for i := range entries {
			if i != missing {
				errs = append(errs, a.Add(&entries[i]))
			}
		}
		if _, err := a.Manifest(); !errors.Is(err, manifest.ErrIncomplete) {
			t.Errorf("without piece %d: %v", missing, err)
		}
		if missing < len(entries)-1 && !errors.Is(errors.Join(errs...), manifest.ErrIncomplete) {
			t.Errorf("without piece %d: %v", missing, errs)
		}
	}
	var a manifest.Assembler
	other := encode(t, multipart("long", 21, 2000, 4))
	if err := errors.Join(a.Add(&entries[0]), a.Add(&other[1])); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("a piece of another manifest: %v", err)
	}
}

// TestEntriesMove shows that an entry that was read goes into another batch as
// it is.
func TestEntriesMove(t *testing.T) {
	t.Parallel()
	bucket := testBucket(true)
	ids, payloads := batches(t, bucket, encode(t, inChunks("a", 4, 2)))
	read, err := manifest.Open(bucket, ids[0], payloads[0])
	if err != nil {
		t.Fatal(err)
	}
	kept, err := manifest.UnmarshalEntry(read[0].Marshal(nil))
	if err != nil {
		t.Fatal(err)
	}
	ids, payloads = batches(t, testBucket(false), []manifest.Entry{kept})
	again, err := manifest.Open(testBucket(false), ids[0], payloads[0])
	if err != nil {
		t.Fatal(err)
	}
	got, err := manifest.Decode(&again[0])
	if diff := cmp.Diff(inChunks("a", 4, 2), got, same); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

func TestBuilderLimit(t *testing.T) {
	t.Parallel()
	var b manifest.Builder
	if _, _, err := b.Seal(source(1), testBucket(true)); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("an empty batch: %v", err)
	}
	long := plain("long", 5, bytes.Repeat([]byte{1}, 1<<20))
	e := encode(t, long)
	if len(e) != 1 || !b.Add(&e[0]) || b.Add(&e[0]) {
		t.Errorf("a body of 1 MiB: %d entries, %d added", len(e), b.Entries())
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	bucket := testBucket(true)
	ids, payloads := batches(t, bucket, encode(t, plain("a", 3, []byte("body"))))
	id, payload := ids[0], payloads[0]
	_, open := batches(t, testBucket(false), encode(t, plain("a", 3, []byte("body"))))
	changed := func(change func(b *manifest.Bucket)) *manifest.Bucket {
		b := testBucket(true)
		change(b)
		return b
	}
	tests := []struct {
		name    string
		bucket  *manifest.Bucket
		id      metadata.ChunkID
		payload []byte
		want    error
	}{
		{"another record id", bucket, metadata.ChunkID{9}, payload, seal.ErrOpen},
		{"another cluster", changed(func(b *manifest.Bucket) { b.Cluster[0]++ }), id, payload, seal.ErrOpen},
		{"another bucket", changed(func(b *manifest.Bucket) { b.ID[0]++ }), id, payload, manifest.ErrMalformed},
		{"another bucket key", changed(func(b *manifest.Bucket) { b.Key[0]++ }), id, payload, manifest.ErrNoKey},
		{"other keys", changed(func(b *manifest.Bucket) { b.Keys = seal.DeriveBucket(seal.Key{1}) }), id, payload, seal.ErrOpen},
		{"no keys", testBucket(false), id, payload, manifest.ErrNoKey},
		{"not sealed in an encrypted bucket", bucket, id, open[0], manifest.ErrMalformed},
		{"nothing", bucket, id, nil, manifest.ErrMalformed},
		{"cut short", bucket, id, payload[:40], manifest.ErrMalformed},
		{"a later version", bucket, id, append([]byte{2}, payload[1:]...), manifest.ErrNewer},
		{"no entries", testBucket(false), id, open[0][:18], manifest.ErrMalformed},
		{"half an entry", testBucket(false), id, open[0][:len(open[0])-1], manifest.ErrMalformed},
		{"a field of a later version", testBucket(false), id, append(bytes.Clone(open[0]), 0x10, 1), manifest.ErrNewer},
	}
	for _, test := range tests {
		if got, err := manifest.Open(test.bucket, test.id, test.payload); !errors.Is(err, test.want) || got != nil {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	for i := range payload {
		flipped := bytes.Clone(payload)
		flipped[i] ^= 1
		if got, err := manifest.Open(bucket, id, flipped); err == nil || got != nil {
			t.Errorf("byte %d flipped: opened", i)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	tests := map[string]func(m *manifest.Manifest){
		"no key":                   func(m *manifest.Manifest) { m.Key = "" },
		"a key of 1,025 bytes":     func(m *manifest.Manifest) { m.Key = strings.Repeat("k", 1025) },
		"another order":            func(m *manifest.Manifest) { m.Order++ },
		"no version":               func(m *manifest.Manifest) { m.Version = nil },
		"no kind":                  func(m *manifest.Manifest) { m.Kind = 0 },
		"a tombstone with version": func(m *manifest.Manifest) { m.Kind = manifest.KindTombstone },
		"no body":                  func(m *manifest.Manifest) { m.Version.List = nil },
		"two bodies":               func(m *manifest.Manifest) { m.Version.Part = &metadata.Part{} },
		"a part too few":           func(m *manifest.Manifest) { m.Parts = m.Parts[1:] },
		"a length too many":        func(m *manifest.Manifest) { m.Version.Bytes++ },
		"parts out of order":       func(m *manifest.Manifest) { m.Parts[1].Row.Number = 1 },
		"a page too few":           func(m *manifest.Manifest) { m.Version.List.Pages = m.Version.List.Pages[:1] },
		"a page elsewhere":         func(m *manifest.Manifest) { m.Version.List.Pages[1].Offset++ },
		"a chunk too few":          func(m *manifest.Manifest) { m.Parts[0].Chunks = m.Parts[0].Chunks[1:] },
		"chunks out of order":      func(m *manifest.Manifest) { m.Parts[0].Chunks[0].No = 1 },
		"a chunk too long":         func(m *manifest.Manifest) { m.Parts[0].Chunks[1].Bytes = metadata.ChunkBytes + 1 },
		"a short chunk before":     func(m *manifest.Manifest) { m.Parts[0].Chunks[0].Bytes-- },
		"no scheme":                func(m *manifest.Manifest) { m.Parts[0].Chunks[0].Scheme = metadata.Scheme{} },
		"an inline body cut short": func(m *manifest.Manifest) { m.Parts[299].Inline = m.Parts[299].Inline[1:] },
		"a row of a bucket":        func(m *manifest.Manifest) { m.Bucket = &metadata.Bucket{} },
		"negative bytes":           func(m *manifest.Manifest) { m.Parts[0].Row.Bytes = -1 },
	}
	for name, change := range tests {
		m := multipart("key", 5, 300, 2)
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
		change(m)
		if _, err := manifest.Encode(m); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	packed := plain("a", 1, []byte("b"))
	packed.Inline, packed.Version.Part.Body = nil, metadata.BodyPacked
	if err := packed.Validate(); !errors.Is(err, manifest.ErrNewer) {
		t.Errorf("a packed body: %v", err)
	}
}

// TestGolden pins the stored form: of every command the payload, made from a
// pinned source.
func TestGolden(t *testing.T) {
	t.Parallel()
	datadriven.RunTest(t, "testdata/golden", func(t *testing.T, d *datadriven.TestData) string {
		var id metadata.ChunkID
		var payload []byte
		var err error
		switch d.Cmd {
		case "batch":
			var b manifest.Builder
			for _, m := range samples() {
				if m.Version != nil && m.Version.List != nil {
					m = multipart("big", 10, 2, 1)
				}
				for _, e := range encode(t, m) {
					b.Add(&e)
				}
			}
			id, payload, err = b.Seal(source(2), testBucket(d.HasArg("sealed")))
		case "root":
			var keys manifest.RootKeys
			if d.HasArg("sealed") {
				keys = testKeyring(t)
			}
			id, payload, err = manifest.SealRoot(source(2), keys, seal.ClusterID{1, 2}, testRoot())
		default:
			t.Fatalf("unknown command %s", d.Cmd)
		}
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("id %s\n%s", id, wrapped(payload))
	})
}

func wrapped(b []byte) string {
	var s strings.Builder
	for len(b) > 0 {
		n := min(len(b), 60)
		fmt.Fprintf(&s, "%x\n", b[:n])
		b = b[n:]
	}
	return s.String()
}

// FuzzOpen reads batches that are not sealed. What it accepts must be what a
// writer makes: put into a batch again it is read as the same.
func FuzzOpen(f *testing.F) {
	bucket := testBucket(false)
	for _, m := range samples()[:3] {
		var b manifest.Builder
		entries, err := manifest.Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		b.Add(&entries[0])
		_, payload, err := b.Seal(source(1), bucket)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		entries, err := manifest.Open(bucket, metadata.ChunkID{}, payload)
		if err != nil {
			return
		}
		for i := range entries {
			m, err := manifest.Decode(&entries[i])
			if err != nil {
				continue
			}
			again := encode(t, m)
			if len(again) != 1 {
				continue
			}
			got, err := manifest.Decode(&again[0])
			if diff := cmp.Diff(m, got, same); diff != "" || err != nil {
				t.Fatal(err, diff)
			}
		}
	})
}
