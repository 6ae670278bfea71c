package object

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
)

func samplePart(number uint32) metadata.Part {
	return metadata.Part{
		Number: number, ID: metadata.PartID{1, byte(number)}, Bytes: 5<<20 + int64(number), SealedBytes: 5<<20 + 1344,
		Body: metadata.BodyChunks, Compression: metadata.CompressionZstd, IndexBytes: 29, Sealed: true,
		Key: metadata.KeyID{9}, WrappedKey: "not in the message", CRC64: 0x1122334455667788,
	}
}

// TestFormat compares every encoding with its golden form.
func TestFormat(t *testing.T) {
	t.Parallel()
	var key seal.Key
	for i := range key {
		key[i] = byte(i)
	}
	b := &bucket{row: metadata.Bucket{ID: metadata.BucketID{2, 3}, Key: metadata.KeyID{9}}, keys: seal.DeriveBucket(key)}
	plain := samplePart(1)
	version := &metadata.Version{Bytes: plain.Bytes, Random: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, Part: &plain}
	parts := []metadata.Part{samplePart(1), samplePart(2), samplePart(4)}
	list := &metadata.Version{Bytes: 15<<20 + 7, Random: [8]byte{8}, List: b.pageList(metadata.UploadID{4}, parts)}
	b.bindVersion("été/x", version)
	b.bindVersion("été/x", list)
	account := &metadata.Account{ID: metadata.AccountID{1}, Key: metadata.KeyID{2}, MasterKey: metadata.KeyID{3},
		WrappedKey: "wrapped", Canonical: "abc", Name: "root"}
	row := &metadata.Bucket{Name: "b", ID: metadata.BucketID{1}, Owner: metadata.AccountID{2}, Key: metadata.KeyID{3}, Group: 5, WrappedKey: "w", Region: "fr"}

	var got strings.Builder
	line := func(name string, value []byte) { fmt.Fprintf(&got, "%s %s\n", name, hex.EncodeToString(value)) }
	line("version", versionMessage(b.row.ID, "été/x", version))
	line("version-mac", version.MAC[:])
	line("list", versionMessage(b.row.ID, "été/x", list))
	line("list-mac", list.MAC[:])
	page := pageMessage(b.row.ID, list.List.ID, 0, parts)
	pageSum := sha256.Sum256(page)
	line("page-sha256", pageSum[:])
	line("page-mac", list.List.Pages[0].MAC[:])
	hash := listHash([]CompletePart{{Number: 1, ETag: "aa"}, {Number: 4, ETag: "b"}})
	line("list-hash", hash[:])
	line("account", accountRecord(account))
	line("bucket", (&Engine{}).bucketRecord(row, []byte("b")))
	line("bucket-deleted", bucketTombstone(row.ID, row.Owner))

	const file = "testdata/golden.txt"
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("format differs from %s:\n%s", file, got.String())
	}
	if len(appendPart(nil, &plain)) != partMessageBytes {
		t.Errorf("a part takes %d bytes, want %d", len(appendPart(nil, &plain)), partMessageBytes)
	}
}

// TestBindingTellsApart changes one thing at a time: each must change the MAC.
func TestBindingTellsApart(t *testing.T) {
	t.Parallel()
	b := &bucket{row: metadata.Bucket{ID: metadata.BucketID{2}, Key: metadata.KeyID{9}}, keys: seal.DeriveBucket(seal.Key{1})}
	e := &Engine{log: Options{}.withDefaults().Logger}
	fresh := func() (*metadata.Version, *metadata.Part) {
		p := samplePart(1)
		v := &metadata.Version{Bytes: p.Bytes, Random: [8]byte{1}, Part: &p}
		b.bindVersion("key", v)
		return v, &p
	}
	v, _ := fresh()
	if err := e.checkVersion(b, "key", v); err != nil {
		t.Fatal(err)
	}
	if e.checkVersion(b, "key2", v) == nil {
		t.Error("another key passes")
	}
	changes := map[string]func(v *metadata.Version, p *metadata.Part){
		"random":      func(v *metadata.Version, _ *metadata.Part) { v.Random[7]++ },
		"no mac":      func(v *metadata.Version, _ *metadata.Part) { v.Key, v.MAC = metadata.KeyID{}, metadata.Sum{} },
		"number":      func(_ *metadata.Version, p *metadata.Part) { p.Number++ },
		"part id":     func(_ *metadata.Version, p *metadata.Part) { p.ID[3]++ },
		"bytes":       func(v *metadata.Version, p *metadata.Part) { p.Bytes++; v.Bytes++ },
		"sealed":      func(_ *metadata.Version, p *metadata.Part) { p.SealedBytes++ },
		"body":        func(_ *metadata.Version, p *metadata.Part) { p.Body = metadata.BodyInline },
		"compression": func(_ *metadata.Version, p *metadata.Part) { p.Compression = metadata.CompressionS2 },
		"index":       func(_ *metadata.Version, p *metadata.Part) { p.IndexBytes++ },
		"not sealed":  func(_ *metadata.Version, p *metadata.Part) { p.Sealed = false },
		"key":         func(_ *metadata.Version, p *metadata.Part) { p.Key[0]++ },
		"crc":         func(_ *metadata.Version, p *metadata.Part) { p.CRC64++ },
		"bytes only":  func(v *metadata.Version, _ *metadata.Part) { v.Bytes++ },
		"no part":     func(v *metadata.Version, _ *metadata.Part) { v.Part = nil },
	}
	for name, change := range changes {
		v, p := fresh()
		change(v, p)
		if e.checkVersion(b, "key", v) == nil {
			t.Errorf("a version with another %s passes", name)
		}
	}
}

// TestPageBinding swaps, drops and repeats parts of a page.
func TestPageBinding(t *testing.T) {
	t.Parallel()
	b := &bucket{row: metadata.Bucket{ID: metadata.BucketID{2}, Key: metadata.KeyID{9}}, keys: seal.DeriveBucket(seal.Key{1})}
	e := &Engine{log: Options{}.withDefaults().Logger}
	var parts []metadata.Part
	var total int64
	for i := range uint32(600) {
		p := samplePart(i + 1)
		p.ID[2], p.ID[3] = byte(i), byte(i>>8)
		parts = append(parts, p)
		total += p.Bytes
	}
	v := &metadata.Version{Bytes: total, List: b.pageList(metadata.UploadID{4}, parts)}
	if len(v.List.Pages) != 3 || v.List.Pages[2].FirstNumber != 513 {
		t.Fatalf("pages %+v", v.List.Pages)
	}
	page := parts[256:512]
	if err := e.checkPage(b, v, 1, page); err != nil {
		t.Fatal(err)
	}
	swapped := append([]metadata.Part{}, page...)
	swapped[3].ID, swapped[4].ID = swapped[4].ID, swapped[3].ID
	for name, bad := range map[string][]metadata.Part{"swapped": swapped, "dropped": page[:255], "none": nil, "another page": parts[:256]} {
		if e.checkPage(b, v, 1, bad) == nil {
			t.Errorf("a page with parts %s passes", name)
		}
	}
}
