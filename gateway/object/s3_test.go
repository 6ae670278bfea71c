package object

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"testing"
	"time"

	"github.com/minio/crc64nvme"

	"github.com/ruche-storage/ruche/gateway/checksum"
	"github.com/ruche-storage/ruche/metadata"
)

func body(b []byte) Body { return Body{Reader: bytes.NewReader(b), Bytes: int64(len(b))} }

func sumOf(a metadata.ChecksumAlgorithm, b []byte) metadata.Checksum {
	h := checksum.New(a)
	h.Write(b)
	return metadata.Checksum{Algorithm: a, Value: string(h.Sum(nil))}
}

func TestChecksumsOfPuts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	data := payload(100_000, 1)
	sum := md5.Sum(data)
	for _, a := range append(checksum.Algorithms(), metadata.ChecksumNone) {
		want := sumOf(metadata.ChecksumCRC64NVME, data)
		b := body(data)
		b.MD5 = &sum
		if a != metadata.ChecksumNone {
			want = sumOf(a, data)
			b.Checksum.Algorithm = a
			b.Trailer = func() (string, error) { return want.Value, nil }
		}
		r, err := w.Put(t.Context(), &PutRequest{Bucket: "b", Key: "object", Body: b})
		if err != nil || r.Checksum != want {
			t.Errorf("algorithm %d: %+v, %v", a, r, err)
		}
		o, err := w.Get(t.Context(), &GetRequest{Bucket: "b", Key: "object", HeadOnly: true})
		if err != nil || o.Checksum != want || o.Bytes != int64(len(data)) || o.ETag != r.ETag || !o.LastModified.Equal(r.LastModified) || !o.Null {
			t.Errorf("algorithm %d: HEAD %+v, %v", a, o, err)
		}
		check(t, o.Close())
	}
}

func TestAttributesOfPuts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	want := Attributes{Headers: metadata.Headers{ContentType: "text/plain", Expires: "tomorrow"},
		User: []metadata.Pair{{Name: "a", Value: "1"}, {Name: "b", Value: "é"}}, StorageClass: "STANDARD"}
	if _, err := w.Put(t.Context(), &PutRequest{Bucket: "b", Key: "k", Body: body([]byte("x")), Attributes: want}); err != nil {
		t.Fatal(err)
	}
	o, err := w.Get(t.Context(), &GetRequest{Bucket: "b", Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if o.Headers != want.Headers || !slices.Equal(o.User, want.User) || o.StorageClass != "STANDARD" || o.VersionID != "null" {
		t.Errorf("got %+v", o.Info)
	}
}

func TestReadConditions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	r := w.mustPut("object", []byte("data"))
	before, after := r.LastModified.Add(-time.Hour), r.LastModified.Add(time.Hour)
	for _, test := range []struct {
		name string
		c    ReadConditions
		want error
	}{
		{"none", ReadConditions{}, nil},
		{"match", ReadConditions{IfMatch: []string{"x", r.ETag}}, nil},
		{"match any", ReadConditions{IfMatch: []string{"*"}}, nil},
		{"no match", ReadConditions{IfMatch: []string{"x"}}, metadata.ErrPreconditionFailed},
		{"match wins over date", ReadConditions{IfMatch: []string{r.ETag}, IfUnmodifiedSince: before}, nil},
		{"unmodified", ReadConditions{IfUnmodifiedSince: after}, nil},
		{"unmodified in the same second", ReadConditions{IfUnmodifiedSince: r.LastModified.Truncate(time.Second)}, nil},
		{"modified", ReadConditions{IfUnmodifiedSince: before}, metadata.ErrPreconditionFailed},
		{"none matches", ReadConditions{IfNoneMatch: []string{"x"}}, nil},
		{"one matches", ReadConditions{IfNoneMatch: []string{r.ETag}}, ErrNotModified},
		{"none-match wins over date", ReadConditions{IfNoneMatch: []string{"x"}, IfModifiedSince: after}, nil},
		{"modified since", ReadConditions{IfModifiedSince: before}, nil},
		{"not modified since", ReadConditions{IfModifiedSince: after}, ErrNotModified},
		{"match fails first", ReadConditions{IfMatch: []string{"x"}, IfNoneMatch: []string{r.ETag}}, metadata.ErrPreconditionFailed},
	} {
		o, err := w.Get(t.Context(), &GetRequest{Bucket: "b", Key: "object", Conditions: test.c})
		if !errors.Is(err, test.want) || o == nil || o.ETag != r.ETag {
			t.Errorf("%s: %v, want %v with the information", test.name, err, test.want)
		}
		check(t, o.Close())
	}
	if o, err := w.Get(t.Context(), &GetRequest{Bucket: "b", Key: "object", Range: Range{Kind: RangeFrom, First: 9}}); !errors.Is(err, ErrInvalidRange) || o == nil || o.Bytes != 4 {
		t.Errorf("range behind the end: %+v, %v", o, err)
	}
	if _, err := w.Get(t.Context(), &GetRequest{Bucket: "b", Key: "none"}); !errors.Is(err, metadata.ErrNoSuchKey) {
		t.Errorf("missing key: %v", err)
	}
	if _, err := w.Get(t.Context(), &GetRequest{Bucket: "none", Key: "k"}); !errors.Is(err, metadata.ErrNoSuchBucket) {
		t.Errorf("missing bucket: %v", err)
	}
	if _, err := w.Get(t.Context(), &GetRequest{Bucket: "b", Key: "object", VersionID: "nonsense"}); !errors.Is(err, metadata.ErrNoSuchVersion) {
		t.Errorf("missing version: %v", err)
	}
}

func TestWriteConditions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	put := func(c WriteConditions) error {
		_, err := w.Put(t.Context(), &PutRequest{Bucket: "b", Key: "k", Body: body(payload(30_000, 1)), Conditions: c})
		return err
	}
	if err := put(WriteConditions{IfMatch: "*"}); !errors.Is(err, metadata.ErrNoSuchKey) {
		t.Errorf("If-Match on a missing key: %v", err)
	}
	if err := put(WriteConditions{IfNoneMatch: true}); err != nil {
		t.Errorf("If-None-Match on a missing key: %v", err)
	}
	if err := put(WriteConditions{IfNoneMatch: true}); !errors.Is(err, metadata.ErrPreconditionFailed) {
		t.Errorf("If-None-Match on a key: %v", err)
	}
	if err := put(WriteConditions{IfMatch: "other"}); !errors.Is(err, metadata.ErrPreconditionFailed) {
		t.Errorf("If-Match of another: %v", err)
	}
	sum := md5.Sum(payload(30_000, 1))
	if err := put(WriteConditions{IfMatch: hex.EncodeToString(sum[:])}); err != nil {
		t.Errorf("If-Match: %v", err)
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	var reqs []DeleteRequest
	for i := range 20 {
		key := fmt.Sprintf("k%d", i)
		w.mustPut(key, []byte("x"))
		reqs = append(reqs, DeleteRequest{Key: key})
	}
	reqs[3].Conditions.IfMatch = "wrong"
	reqs[4] = DeleteRequest{Key: "missing"}
	reqs[5] = DeleteRequest{Key: "missing", Conditions: DeleteConditions{IfMatch: "*"}}
	reqs[6].VersionID = "null"
	results, err := w.Delete(t.Context(), "b", reqs)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		var want error
		switch i {
		case 3:
			want = metadata.ErrPreconditionFailed
		case 5:
			want = metadata.ErrNoSuchKey
		}
		if !errors.Is(r.Err, want) || r.VersionID != reqs[i].VersionID {
			t.Errorf("key %d: %+v", i, r)
		}
	}
	page, err := w.List(t.Context(), &ListRequest{Bucket: "b", Limit: 1000})
	if err != nil || len(page.Entries) != 3 { // k3, k4 and k5 were not named or kept
		t.Errorf("left: %+v, %v", page, err)
	}
	if _, err := w.Delete(t.Context(), "b", make([]DeleteRequest, MaxDeletes+1)); err == nil {
		t.Error("too many keys are taken")
	}
}

func TestListing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for _, key := range []string{"a", "dir/1", "dir/2", "dir/sub/3", "z"} {
		w.mustPut(key, []byte(key))
	}
	page, err := w.List(t.Context(), &ListRequest{Bucket: "b", Delimiter: "/", Limit: 2})
	if err != nil || len(page.Entries) != 1 || page.Entries[0].Key != "a" || !slices.Equal(page.Prefixes, []string{"dir/"}) || !page.Truncated || page.Next != "dir/" {
		t.Fatalf("page %+v, %v", page, err)
	}
	e := page.Entries[0]
	if e.Bytes != 1 || e.StorageClass != "STANDARD" || e.ETag == "" || !e.Latest || e.VersionID != "null" {
		t.Errorf("entry %+v", e)
	}
	page, err = w.List(t.Context(), &ListRequest{Bucket: "b", Delimiter: "/", After: page.Next, Limit: 2})
	if err != nil || len(page.Entries) != 1 || page.Entries[0].Key != "z" || page.Truncated {
		t.Errorf("next page %+v, %v", page, err)
	}
	if page, err = w.List(t.Context(), &ListRequest{Bucket: "b"}); err != nil || len(page.Entries) != 0 || page.Truncated {
		t.Errorf("page of none: %+v, %v", page, err)
	}
	versions, err := w.Versions(t.Context(), &VersionsRequest{Bucket: "b", Prefix: "dir/", Limit: 2})
	if err != nil || len(versions.Entries) != 2 || !versions.Truncated || versions.NextKey != "dir/2" || versions.NextVersion != "null" {
		t.Errorf("versions %+v, %v", versions, err)
	}
	versions, err = w.Versions(t.Context(), &VersionsRequest{Bucket: "b", Prefix: "dir/", KeyMarker: versions.NextKey, VersionAfter: versions.NextVersion, Limit: 2})
	if err != nil || len(versions.Entries) != 1 || versions.Truncated {
		t.Errorf("versions %+v, %v", versions, err)
	}
	if _, err := w.List(t.Context(), &ListRequest{Bucket: "none", Limit: 1}); !errors.Is(err, metadata.ErrNoSuchBucket) {
		t.Errorf("missing bucket: %v", err)
	}
}

// upload begins an upload of key "m".
func (w *world) upload(a metadata.ChecksumAlgorithm, composite bool) metadata.UploadID {
	w.t.Helper()
	u, err := w.CreateUpload(w.t.Context(), &UploadRequest{Bucket: "b", Key: "m", ChecksumAlgorithm: a, Composite: composite,
		Attributes: Attributes{Headers: metadata.Headers{ContentType: "video/x"}}})
	if err != nil {
		w.t.Fatal(err)
	}
	return u.ID
}

func (w *world) part(id metadata.UploadID, number int, data []byte, c metadata.Checksum) (*PutResult, error) {
	b := body(data)
	b.Checksum = c
	return w.PutPart(w.t.Context(), &PartRequest{Bucket: "b", Key: "m", Upload: id, Number: number, Body: b})
}

func (w *world) mustPart(id metadata.UploadID, number int, data []byte, c metadata.Checksum) CompletePart {
	w.t.Helper()
	r, err := w.part(id, number, data, c)
	if err != nil {
		w.t.Fatal(err)
	}
	return CompletePart{Number: number, ETag: r.ETag}
}

func (w *world) complete(id metadata.UploadID, parts ...CompletePart) (*PutResult, error) {
	return w.Complete(w.t.Context(), &CompleteRequest{Bucket: "b", Key: "m", Upload: id, Parts: parts, Bytes: -1})
}

func TestMultipart(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		encryption  bool
		compression metadata.Compression
	}{{true, metadata.CompressionOff}, {false, metadata.CompressionOff}, {true, metadata.CompressionZstd}, {false, metadata.CompressionS2}} {
		w := newWorld(t, setup{options: func(o *Options) { o.Encryption = test.encryption }})
		check(t, w.SetCompression(t.Context(), "b", test.compression))
		id := w.upload(metadata.ChecksumNone, false)
		one, two, three := text(5<<20), payload(6_000_000, 2), payload(1000, 3)
		w.mustPart(id, 2, payload(100, 9), metadata.Checksum{}) // replaced below
		parts := []CompletePart{w.mustPart(id, 1, one, metadata.Checksum{}), w.mustPart(id, 2, two, metadata.Checksum{}), w.mustPart(id, 7, three, metadata.Checksum{})}
		w.mustPart(id, 9, payload(100, 4), metadata.Checksum{}) // not named
		page, err := w.Parts(t.Context(), &PartsRequest{Bucket: "b", Key: "m", Upload: id, After: 1, Limit: 2})
		if err != nil || len(page.Parts) != 2 || page.Parts[1].Number != 7 || !page.Truncated || page.Next != 7 || page.Parts[0].Bytes != int64(len(two)) {
			t.Errorf("parts %+v, %v", page, err)
		}
		r, err := w.complete(id, parts...)
		if err != nil {
			t.Fatal(err)
		}
		whole := slices.Concat(one, two, three)
		s1, s2, s3 := md5.Sum(one), md5.Sum(two), md5.Sum(three)
		if want := fmt.Sprintf("%x-3", md5.Sum(slices.Concat(s1[:], s2[:], s3[:]))); r.ETag != want {
			t.Errorf("ETag %s, want %s", r.ETag, want)
		}
		if r.Checksum != sumOf(metadata.ChecksumCRC64NVME, whole) || r.Bytes != int64(len(whole)) {
			t.Errorf("result %+v", r)
		}
		w.expect("m", whole)
		for _, at := range []int{0, len(one) - 3, len(one), len(one) + len(two) - 70_000, len(whole) - 1000} {
			to := min(len(whole), at+200_000) - 1
			got, err := w.read("m", Range{Kind: RangeFromTo, First: int64(at), Last: int64(to)})
			if err != nil || !bytes.Equal(got, whole[at:to+1]) {
				t.Errorf("range %d-%d: %d bytes, %v", at, to, len(got), err)
			}
		}
		again, err := w.complete(id, parts...)
		if err != nil || again.ETag != r.ETag || again.Checksum != r.Checksum {
			t.Errorf("repeated: %+v, %v", again, err)
		}
		if _, err := w.complete(id, parts[:2]...); !errors.Is(err, metadata.ErrNoSuchUpload) {
			t.Errorf("repeated with another list: %v", err)
		}
		w.expectParts(whole, one, two, three)
	}
}

// expectParts reads "m" by part number and asks for its attributes.
func (w *world) expectParts(whole, one, two, three []byte) {
	w.t.Helper()
	for number, want := range map[int][]byte{1: one, 2: two, 7: three} {
		o, err := w.Get(w.t.Context(), &GetRequest{Bucket: "b", Key: "m", PartNumber: number})
		if err != nil {
			w.t.Fatal(err)
		}
		var got bytes.Buffer
		_, err = o.WriteTo(&got)
		if err != nil || !bytes.Equal(got.Bytes(), want) || o.PartsCount != 3 || !o.Partial || o.Parts != 3 {
			w.t.Errorf("part %d: %d bytes of %+v, %v", number, got.Len(), o, err)
		}
		check(w.t, o.Close())
	}
	for _, number := range []int{3, 8, 9, 10_000} {
		if _, err := w.Get(w.t.Context(), &GetRequest{Bucket: "b", Key: "m", PartNumber: number}); !errors.Is(err, ErrInvalidPartNumber) {
			w.t.Errorf("part %d: %v", number, err)
		}
	}
	a, err := w.Attributes(w.t.Context(), &AttributesRequest{Bucket: "b", Key: "m", PartsAfter: 1, PartsLimit: 1})
	if err != nil || a.Parts != 3 || len(a.ObjectParts) != 1 || a.ObjectParts[0].Number != 2 || !a.Truncated || a.NextPart != 2 || a.Bytes != int64(len(whole)) {
		w.t.Errorf("attributes %+v, %v", a, err)
	}
}

func TestMultipartMistakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	id := w.upload(metadata.ChecksumNone, false)
	small := w.mustPart(id, 1, payload(1000, 1), metadata.Checksum{})
	last := w.mustPart(id, 2, payload(1000, 2), metadata.Checksum{})
	if _, err := w.complete(id, small, last); !errors.Is(err, ErrEntityTooSmall) {
		t.Errorf("small part: %v", err)
	}
	if _, err := w.complete(id, CompletePart{Number: 1, ETag: last.ETag}); !errors.Is(err, metadata.ErrInvalidPart) {
		t.Errorf("wrong ETag: %v", err)
	}
	if _, err := w.complete(id, small, CompletePart{Number: 3, ETag: last.ETag}); !errors.Is(err, metadata.ErrInvalidPart) {
		t.Errorf("unknown part: %v", err)
	}
	if _, err := w.complete(id); !errors.Is(err, metadata.ErrInvalidPart) {
		t.Errorf("no part: %v", err)
	}
	if _, err := w.Complete(t.Context(), &CompleteRequest{Bucket: "b", Key: "m", Upload: id, Parts: []CompletePart{small}, Bytes: 999}); !errors.Is(err, ErrSizeMismatch) {
		t.Errorf("wrong size: %v", err)
	}
	wrong := sumOf(metadata.ChecksumCRC64NVME, []byte("other"))
	if _, err := w.Complete(t.Context(), &CompleteRequest{Bucket: "b", Key: "m", Upload: id, Parts: []CompletePart{small}, Bytes: -1, Checksum: wrong}); !errors.Is(err, ErrBadChecksum) {
		t.Errorf("wrong checksum: %v", err)
	}
	if _, err := w.Complete(t.Context(), &CompleteRequest{Bucket: "b", Key: "other", Upload: id, Parts: []CompletePart{small}, Bytes: -1}); !errors.Is(err, metadata.ErrNoSuchUpload) {
		t.Errorf("other key: %v", err)
	}
	for _, number := range []int{0, 10_001} {
		if _, err := w.part(id, number, nil, metadata.Checksum{}); !errors.Is(err, ErrInvalidPartNumber) {
			t.Errorf("part %d: %v", number, err)
		}
	}
	// None of these ended the upload.
	if _, err := w.complete(id, small); err != nil {
		t.Errorf("one part: %v", err)
	}
	w.expect("m", payload(1000, 1))
	if _, err := w.part(id, 1, nil, metadata.Checksum{}); !errors.Is(err, metadata.ErrNoSuchUpload) {
		t.Errorf("part of a completed upload: %v", err)
	}
	id = w.upload(metadata.ChecksumNone, false)
	check(t, w.Abort(t.Context(), "b", "m", id))
	if err := w.Abort(t.Context(), "b", "m", id); !errors.Is(err, metadata.ErrNoSuchUpload) {
		t.Errorf("second abort: %v", err)
	}
	if _, err := w.part(id, 1, payload(100_000, 1), metadata.Checksum{}); !errors.Is(err, metadata.ErrNoSuchUpload) {
		t.Errorf("part of an aborted upload: %v", err)
	}
}

func TestMultipartChecksums(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	one, two := payload(5<<20, 1), payload(77_777, 2)
	whole := slices.Concat(one, two)
	ieee := func(b []byte) string {
		s := crc32.ChecksumIEEE(b)
		return string([]byte{byte(s >> 24), byte(s >> 16), byte(s >> 8), byte(s)})
	}
	compositeIEEE := ieee([]byte(ieee(one) + ieee(two)))
	sha1, sha2 := sha256.Sum256(one), sha256.Sum256(two)
	compositeSHA := sha256.Sum256(slices.Concat(sha1[:], sha2[:]))
	crc64 := crcValue(crc64nvme.Checksum(whole))
	for _, test := range []struct {
		name      string
		create    metadata.ChecksumAlgorithm
		composite bool
		parts     metadata.ChecksumAlgorithm
		typ       string
		whole     metadata.Checksum
		want      metadata.Checksum
		err       error
	}{
		{name: "nothing said", want: metadata.Checksum{Algorithm: metadata.ChecksumCRC64NVME, Value: crc64}},
		{name: "crc64 at create, nothing sent", create: metadata.ChecksumCRC64NVME,
			want: metadata.Checksum{Algorithm: metadata.ChecksumCRC64NVME, Value: crc64}},
		{name: "crc32 composite", create: metadata.ChecksumCRC32, composite: true, parts: metadata.ChecksumCRC32,
			want: metadata.Checksum{Algorithm: metadata.ChecksumCRC32, Composite: true, Parts: 2, Value: compositeIEEE}},
		{name: "crc32 full object, parts left to us", create: metadata.ChecksumCRC32,
			want: metadata.Checksum{Algorithm: metadata.ChecksumCRC32, Value: ieee(whole)}},
		{name: "crc32 full object, right value", create: metadata.ChecksumCRC32, parts: metadata.ChecksumCRC32, typ: "full_object",
			whole: metadata.Checksum{Algorithm: metadata.ChecksumCRC32, Value: ieee(whole)},
			want:  metadata.Checksum{Algorithm: metadata.ChecksumCRC32, Value: ieee(whole)}},
		{name: "crc32 full object, wrong value", create: metadata.ChecksumCRC32, parts: metadata.ChecksumCRC32,
			whole: metadata.Checksum{Algorithm: metadata.ChecksumCRC32, Value: "abcd"}, err: ErrBadChecksum},
		{name: "sha256 composite", create: metadata.ChecksumSHA256, composite: true, parts: metadata.ChecksumSHA256,
			want: metadata.Checksum{Algorithm: metadata.ChecksumSHA256, Composite: true, Parts: 2, Value: string(compositeSHA[:])}},
		{name: "parts bring crc32", parts: metadata.ChecksumCRC32,
			want: metadata.Checksum{Algorithm: metadata.ChecksumCRC32, Composite: true, Parts: 2, Value: compositeIEEE}},
		{name: "parts bring crc32, full object asked", parts: metadata.ChecksumCRC32, typ: "FULL_OBJECT",
			want: metadata.Checksum{Algorithm: metadata.ChecksumCRC32, Value: ieee(whole)}},
		{name: "another type at complete", create: metadata.ChecksumCRC32, composite: true, parts: metadata.ChecksumCRC32, typ: "FULL_OBJECT", err: ErrChecksumType},
		{name: "another algorithm at complete", create: metadata.ChecksumCRC32, composite: true, parts: metadata.ChecksumCRC32,
			whole: metadata.Checksum{Algorithm: metadata.ChecksumCRC32C, Value: "abcd"}, err: ErrChecksumType},
		{name: "sha256 has no full object", parts: metadata.ChecksumSHA256, typ: "FULL_OBJECT", err: ErrChecksumType},
	} {
		id := w.upload(test.create, test.composite)
		var parts []CompletePart
		for i, data := range [][]byte{one, two} {
			c := metadata.Checksum{}
			if test.parts != metadata.ChecksumNone {
				c = sumOf(test.parts, data)
			}
			p := w.mustPart(id, i+1, data, c)
			p.Checksum = c
			parts = append(parts, p)
		}
		r, err := w.Complete(t.Context(), &CompleteRequest{Bucket: "b", Key: "m", Upload: id, Parts: parts, Bytes: int64(len(whole)), Type: test.typ, Checksum: test.whole})
		if !errors.Is(err, test.err) || err == nil && r.Checksum != test.want {
			t.Errorf("%s: %+v, %v; want %+v, %v", test.name, r, err, test.want, test.err)
		}
	}
	id := w.upload(metadata.ChecksumCRC32, true)
	if _, err := w.part(id, 1, one, sumOf(metadata.ChecksumSHA1, one)); !errors.Is(err, ErrChecksumType) {
		t.Errorf("part of another algorithm: %v", err)
	}
	p := w.mustPart(id, 1, two, metadata.Checksum{})
	p.Checksum = sumOf(metadata.ChecksumCRC32, one)
	if _, err := w.complete(id, p); !errors.Is(err, metadata.ErrInvalidPart) {
		t.Errorf("completion with another checksum of a part: %v", err)
	}
}

// TestManyParts crosses pages of the part list with parts of all kinds of
// length; only the last of real uploads may be so small, so the version is
// made by hand out of stored parts.
func TestManyParts(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("600 parts")
	}
	w := newWorld(t, setup{})
	id := w.upload(metadata.ChecksumNone, false)
	var whole []byte
	var refs []metadata.PartRef
	b, err := w.bucket(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 600 {
		data := payload(i*37%1500, uint64(i))
		w.mustPart(id, i+1, data, metadata.Checksum{})
		whole = append(whole, data...)
	}
	parts, err := w.meta.Parts(t.Context(), b.ref(), id, 0, 1000)
	if err != nil || len(parts) != 600 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	v := metadata.Version{Null: true, ETag: "made-600", Owner: b.row.Owner}
	for i := range parts {
		refs = append(refs, metadata.PartRef{Number: parts[i].Number, ID: parts[i].ID})
		v.Bytes += parts[i].Bytes
		v.StoredBytes += parts[i].SealedBytes
	}
	l, err := w.epochs.writer()
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	c := &completion{version: v, parts: parts, refs: refs}
	if _, err := w.Engine.complete(t.Context(), b, l, &CompleteRequest{Key: "m", Upload: id}, c); err != nil {
		t.Fatal(err)
	}
	w.expect("m", whole)
	for at := 0; at < len(whole); at += 9973 {
		to := min(len(whole), at+40_000) - 1
		got, err := w.read("m", Range{Kind: RangeFromTo, First: int64(at), Last: int64(to)})
		if err != nil || !bytes.Equal(got, whole[at:to+1]) {
			t.Fatalf("range %d-%d: %d bytes, %v", at, to, len(got), err)
		}
	}
	a, err := w.Attributes(t.Context(), &AttributesRequest{Bucket: "b", Key: "m", PartsAfter: 500, PartsLimit: 1000})
	if err != nil || len(a.ObjectParts) != 100 || a.Truncated {
		t.Errorf("attributes: %d parts, %v", len(a.ObjectParts), err)
	}
}

func TestUploadsListing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for _, key := range []string{"a", "a", "dir/x", "z"} {
		if _, err := w.CreateUpload(t.Context(), &UploadRequest{Bucket: "b", Key: key}); err != nil {
			t.Fatal(err)
		}
	}
	var keys []string
	req := &UploadsRequest{Bucket: "b", Delimiter: "/", Limit: 1}
	for range 10 {
		page, err := w.Uploads(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range page.Uploads {
			keys = append(keys, u.Key)
		}
		keys = append(keys, page.Prefixes...)
		if !page.Truncated {
			break
		}
		req.KeyMarker, req.UploadIDMarker = page.NextKey, page.NextUploadID
	}
	if !slices.Equal(keys, []string{"a", "a", "dir/", "z"}) {
		t.Errorf("listed %q", keys)
	}
}

func TestCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	if err := w.CreateBucket(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 100, 500_000} {
		data := payload(n, 1)
		source, err := w.Put(t.Context(), &PutRequest{Bucket: "b", Key: "source", Body: body(data),
			Attributes: Attributes{Headers: metadata.Headers{ContentType: "a/b"}, User: []metadata.Pair{{Name: "x", Value: "y"}}}})
		if err != nil {
			t.Fatal(err)
		}
		r, err := w.Copy(t.Context(), &CopyRequest{Source: CopySource{Bucket: "b", Key: "source"}, Bucket: "other", Key: "copy", Checksum: metadata.ChecksumSHA256})
		if err != nil || r.ETag != source.ETag || r.Checksum != sumOf(metadata.ChecksumSHA256, data) || r.SourceVersionID != "" {
			t.Fatalf("copy of %d bytes: %+v, %v", n, r, err)
		}
		o, err := w.Get(t.Context(), &GetRequest{Bucket: "other", Key: "copy"})
		if err != nil || o.Headers.ContentType != "a/b" || len(o.User) != 1 {
			t.Fatalf("copy: %+v, %v", o, err)
		}
		var got bytes.Buffer
		if _, err := o.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), data) {
			t.Errorf("copy of %d bytes has %d, %v", n, got.Len(), err)
		}
		check(t, o.Close())
		onto := &CopyRequest{Source: CopySource{Bucket: "b", Key: "source"}, Bucket: "b", Key: "source"}
		if _, err := w.Copy(t.Context(), onto); !errors.Is(err, ErrCopyOntoItself) {
			t.Errorf("copy onto itself: %v", err)
		}
		stored := w.stored()
		onto.ReplaceAttributes = true
		onto.Attributes.Headers.ContentType = "c/d"
		if r, err = w.Copy(t.Context(), onto); err != nil || r.ETag != source.ETag {
			t.Errorf("copy onto itself with attributes: %+v, %v", r, err)
		}
		w.expect("source", data)
		if w.stored() != stored {
			t.Error("a copy onto itself wrote shards")
		}
		if o, err := w.Get(t.Context(), &GetRequest{Bucket: "b", Key: "source", HeadOnly: true}); err != nil || o.Headers.ContentType != "c/d" || len(o.User) != 0 {
			t.Errorf("after a copy onto itself: %+v, %v", o, err)
		}
		cond := &CopyRequest{Source: CopySource{Bucket: "b", Key: "source", Conditions: ReadConditions{IfNoneMatch: []string{source.ETag}}}, Bucket: "b", Key: "c"}
		if _, err := w.Copy(t.Context(), cond); !errors.Is(err, metadata.ErrPreconditionFailed) {
			t.Errorf("copy with If-None-Match: %v", err)
		}
	}
	if _, err := w.Copy(t.Context(), &CopyRequest{Source: CopySource{Bucket: "b", Key: "none"}, Bucket: "b", Key: "c"}); !errors.Is(err, metadata.ErrNoSuchKey) {
		t.Errorf("copy of nothing: %v", err)
	}
}

func TestCopyPart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	data := payload(6<<20, 1)
	w.mustPut("source", data)
	id := w.upload(metadata.ChecksumNone, false)
	copyPart := func(number int, r Range) (*CopyResult, error) {
		return w.CopyPart(t.Context(), &PartCopyRequest{Source: CopySource{Bucket: "b", Key: "source"}, Range: r, Bucket: "b", Key: "m", Upload: id, Number: number})
	}
	one, err := copyPart(1, Range{})
	if err != nil {
		t.Fatal(err)
	}
	two, err := copyPart(2, Range{Kind: RangeFromTo, First: 100, Last: 5_000})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := copyPart(3, Range{Kind: RangeFromTo, First: 100, Last: 6 << 20}); !errors.Is(err, ErrInvalidRange) {
		t.Errorf("range behind the end: %v", err)
	}
	if _, err := w.complete(id, CompletePart{Number: 1, ETag: one.ETag}, CompletePart{Number: 2, ETag: two.ETag}); err != nil {
		t.Fatal(err)
	}
	w.expect("m", slices.Concat(data, data[100:5001]))
	// A multipart object copied onto itself keeps its parts, ETag and bytes.
	r, err := w.Copy(t.Context(), &CopyRequest{Source: CopySource{Bucket: "b", Key: "m"}, Bucket: "b", Key: "m", ReplaceAttributes: true})
	if err != nil || r.ETag[len(r.ETag)-2:] != "-2" {
		t.Errorf("copy onto itself: %+v, %v", r, err)
	}
	w.expect("m", slices.Concat(data, data[100:5001]))
}
