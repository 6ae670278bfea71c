package conformance

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPutGetHead(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := []byte("hello, world")
	sum := md5.Sum(data)
	tag := `"` + hex.EncodeToString(sum[:]) + `"`
	start := time.Now().Add(-2 * time.Second)
	b.put("key", data).wantHeader("ETag", tag, "X-Amz-Version-Id", "").wantBody(nil)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		r := b.request(method, "key", nil).want(http.StatusOK)
		r.wantHeader("ETag", tag, "Content-Length", "12", "Content-Type", "binary/octet-stream", "Accept-Ranges", "bytes", "X-Amz-Version-Id", "", "X-Amz-Storage-Class", "")
		modified, err := time.Parse(http.TimeFormat, r.header.Get("Last-Modified"))
		if err != nil || modified.Before(start.Truncate(time.Second)) || modified.After(time.Now().Add(5*time.Second)) {
			t.Errorf("%s: Last-Modified %q (%v)", method, r.header.Get("Last-Modified"), err)
		}
		if method == http.MethodGet {
			r.wantBody(data)
		} else {
			r.wantBody(nil)
		}
	}
	// Overwritten: the new content, whatever its size.
	for _, size := range []int{0, 20000, 3} {
		other := noise(size, 70)
		b.put("key", other)
		b.get("key").want(http.StatusOK).wantBody(other)
	}
	// The null version is the only one there is.
	get := call{method: http.MethodGet, path: b.path("key"), query: query("versionId", "null")}
	b.do(get).want(http.StatusOK)
	for _, id := range []string{"3HL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY", "none", "%00", strings.Repeat("v", 2000)} {
		get.query = query("versionId", id)
		b.do(get).wantError(http.StatusNotFound, "NoSuchVersion")
		head := get
		head.method = http.MethodHead
		b.do(head).want(http.StatusNotFound)
	}
}

func TestSystemMetadata(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	described := []string{
		"Content-Type", "text/html; charset=utf-8", "Cache-Control", "max-age=3600, public", "Content-Disposition", `attachment; filename="a b.txt"`,
		"Content-Encoding", "gzip", "Content-Language", "fr, en", "Expires", "Thu, 01 Dec 2033 16:00:00 GMT", "X-Amz-Website-Redirect-Location", "/other",
	}
	b.put("key", []byte("x"), described...)
	b.get("key").want(http.StatusOK).wantHeader(described...)
	b.head("key").want(http.StatusOK).wantHeader(described...)
	b.get("key", "Range", "bytes=0-0").want(http.StatusPartialContent).wantHeader(described...)
	// A new object under the key has nothing of the old one.
	b.put("key", []byte("y"))
	b.get("key").wantHeader("Content-Type", "binary/octet-stream", "Cache-Control", "", "Content-Encoding", "", "X-Amz-Website-Redirect-Location", "")
}

func TestUserMetadata(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	meta := []string{
		"X-Amz-Meta-Simple", "value", "X-Amz-Meta-Empty", "", "X-Amz-Meta-Spaces", "inner  spaces", "X-Amz-Meta-Utf8", "é日本",
		"X-Amz-Meta-Rfc2047", "=?UTF-8?B?w6k=?=", "X-Amz-Meta-With-Dashes_and.dots", "1", "X-Amz-Meta-Comma", "a,b",
	}
	// Two spaces inside a value are one for the signature, and are stored.
	b.put("key", []byte("x"), meta...)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		r := b.request(method, "key", nil).want(http.StatusOK)
		for i := 0; i < len(meta); i += 2 {
			if got := r.header.Values(meta[i]); len(got) != 1 || got[0] != meta[i+1] {
				t.Errorf("%s: %s is %q, want %q", method, meta[i], got, meta[i+1])
			}
		}
	}
	// Several values of a name become one.
	b.put("two", nil, "X-Amz-Meta-List", "a", "X-Amz-Meta-List", "b")
	b.head("two").wantHeader("X-Amz-Meta-List", "a,b")

	// 2 KiB of names and values. Source: AWS, "Working with object metadata",
	// which does not say whether the prefix of the names counts.
	b.put("limit", nil, "x-amz-meta-m", strings.Repeat("v", 2030))
	b.request(http.MethodPut, "over", nil, "x-amz-meta-m", strings.Repeat("v", 2049)).wantError(http.StatusBadRequest, "MetadataTooLarge")
	b.do(call{method: http.MethodPost, path: b.path("over"), query: query("uploads?"), header: headers("x-amz-meta-m", strings.Repeat("v", 2049))}).
		wantError(http.StatusBadRequest, "MetadataTooLarge")
	b.wantAbsent("over")
}

func TestStorageClass(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", nil, "x-amz-storage-class", "STANDARD")
	if got := b.list().Contents[0].StorageClass; got != "STANDARD" {
		t.Errorf("StorageClass %q", got)
	}
	b.request(http.MethodPut, "bad", nil, "x-amz-storage-class", "PLATINUM").wantError(http.StatusBadRequest, "InvalidStorageClass")
	b.do(call{method: http.MethodPost, path: b.path("bad"), query: query("uploads?"), header: headers("x-amz-storage-class", "PLATINUM")}).
		wantError(http.StatusBadRequest, "InvalidStorageClass")
	b.copy("/"+b.name+"/key", "bad", "x-amz-storage-class", "PLATINUM").wantError(http.StatusBadRequest, "InvalidStorageClass")
	b.wantAbsent("bad")
}

// What asks for a promise that is not kept is refused, never ignored.
func TestPromisesNotKept(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	date := time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)
	body := []byte("x")
	for _, pairs := range [][]string{
		{"x-amz-object-lock-mode", "COMPLIANCE", "x-amz-object-lock-retain-until-date", date, "Content-MD5", contentMD5(body)},
		{"x-amz-object-lock-legal-hold", "ON", "Content-MD5", contentMD5(body)},
		{"x-amz-server-side-encryption", "aws:kms"},
		{"x-amz-server-side-encryption-customer-algorithm", "AES256", "x-amz-server-side-encryption-customer-key", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "x-amz-server-side-encryption-customer-key-MD5", "hRasmdxgYDKV3nvbahU1MA=="},
	} {
		r := b.request(http.MethodPut, "key", body, pairs...)
		if e := r.anError(); e == nil {
			t.Errorf("%v: status %d, want a refusal", pairs, r.status)
		}
		b.wantAbsent("key")
	}
}

// Source: AWS, GetObjectAttributes.
func TestGetObjectAttributes(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(kib, 71)
	sha := checksumNamed("SHA256")
	tag := strings.Trim(b.put("key", data, sha.header, sha.sum(data)).etag(), `"`)
	ask := func(key string, pairs ...string) *reply {
		return b.do(call{method: http.MethodGet, path: b.path(key), query: query("attributes?"), header: headers(pairs...)})
	}
	var a attributes
	r := ask("key", "x-amz-object-attributes", "ETag,Checksum,ObjectParts,StorageClass,ObjectSize")
	r.wantXML("GetObjectAttributesResponse", &a)
	if r.header.Get("Last-Modified") == "" {
		t.Error("no Last-Modified")
	}
	if a.ETag == nil || *a.ETag != tag || a.ObjectSize == nil || *a.ObjectSize != kib || a.StorageClass == nil || *a.StorageClass != "STANDARD" {
		t.Errorf("ETag %v, ObjectSize %v, StorageClass %v", a.ETag, a.ObjectSize, a.StorageClass)
	}
	if a.ObjectParts != nil {
		t.Errorf("ObjectParts %+v of an object without parts", a.ObjectParts)
	}
	if a.Checksum == nil || a.Checksum.ChecksumSHA256 != sha.sum(data) || a.Checksum.ChecksumType != "FULL_OBJECT" {
		t.Errorf("Checksum %+v", a.Checksum)
	}
	// Only what was asked for, in one header or several.
	a = attributes{}
	ask("key", "x-amz-object-attributes", "ObjectSize").wantXML("GetObjectAttributesResponse", &a)
	if a.ETag != nil || a.Checksum != nil || a.StorageClass != nil || a.ObjectSize == nil {
		t.Errorf("asked for ObjectSize: %+v", a)
	}
	a = attributes{}
	ask("key", "x-amz-object-attributes", "ETag", "x-amz-object-attributes", "ObjectSize").wantXML("GetObjectAttributesResponse", &a)
	if a.ETag == nil || a.ObjectSize == nil {
		t.Errorf("asked in two headers: %+v", a)
	}
	ask("key").wantError(http.StatusBadRequest, "InvalidArgument", "InvalidRequest")
	ask("key", "x-amz-object-attributes", "Color").wantError(http.StatusBadRequest, "InvalidArgument")
	ask("missing", "x-amz-object-attributes", "ETag").wantError(http.StatusNotFound, "NoSuchKey")
	ask("key", "x-amz-object-attributes", "ObjectParts", "x-amz-max-parts", "-1").wantError(http.StatusBadRequest, "InvalidArgument")
}

// versions lists versions, which must succeed.
func (b *bucket) versions(pairs ...string) *versionListing {
	b.t.Helper()
	l := new(versionListing)
	b.bucketGet(append([]string{"versions?"}, pairs...)...).wantXML("ListVersionsResult", l)
	return l
}

func (l *versionListing) keys() []string {
	keys := []string{}
	for _, v := range l.Version {
		keys = append(keys, v.Key)
	}
	return keys
}

// A bucket that was never versioned lists null versions.
func TestListObjectVersions(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	tag := b.put("a", []byte("1")).etag()
	b.fill("b/1", "b/2", "c d", "e")
	b.put("a", []byte("2"))
	b.request(http.MethodDelete, "e", nil).want(http.StatusNoContent)
	l := b.versions()
	if diff := cmp.Diff([]string{"a", "b/1", "b/2", "c d"}, l.keys()); diff != "" || len(l.DeleteMarker) > 0 {
		t.Fatalf("keys (-want +got)\n%s\nmarkers %+v", diff, l.DeleteMarker)
	}
	for _, v := range l.Version {
		if v.VersionID != "null" || !v.IsLatest || v.Owner == nil || v.StorageClass != "STANDARD" || v.LastModified == "" {
			t.Errorf("%+v", v)
		}
	}
	if v := l.Version[0]; v.ETag == tag || v.Size != 1 {
		t.Errorf("%+v, want the second content", v)
	}
	if l.Name != b.name || *l.MaxKeys != 1000 || *l.IsTruncated {
		t.Errorf("Name %q, MaxKeys %d, IsTruncated %v", l.Name, *l.MaxKeys, *l.IsTruncated)
	}
	l = b.versions("delimiter", "/")
	if diff := cmp.Diff([]string{"a", "c d"}, l.keys()); diff != "" || !cmp.Equal(l.CommonPrefixes.names(), []string{"b/"}) {
		t.Errorf("with delimiter: %s %v", diff, l.CommonPrefixes.names())
	}
	if l := b.versions("encoding-type", "url", "prefix", "c"); l.Version[0].Key != "c%20d" {
		t.Errorf("encoding-type: %v", l.keys())
	}
	var got []string
	key, id := "", ""
	for range 5 {
		args := []string{"max-keys", "1"}
		if key != "" {
			args = append(args, "key-marker", key, "version-id-marker", id)
		}
		l := b.versions(args...)
		got = append(got, l.keys()...)
		if !*l.IsTruncated {
			break
		}
		if l.NextKeyMarker == nil || l.NextVersionIDMarker == nil {
			t.Fatalf("truncated without both markers: %+v", l)
		}
		key, id = *l.NextKeyMarker, *l.NextVersionIDMarker
	}
	if diff := cmp.Diff([]string{"a", "b/1", "b/2", "c d"}, got); diff != "" {
		t.Errorf("pages (-want +got)\n%s", diff)
	}
	if l := b.versions("key-marker", "b/1"); len(l.Version) != 2 {
		t.Errorf("key-marker alone: %v", l.keys())
	}
	b.bucketGet("versions?", "max-keys", "-1").wantError(http.StatusBadRequest, "InvalidArgument")
	b.bucketGet("versions?", "version-id-marker", "null").wantError(http.StatusBadRequest, "InvalidArgument")
	if l := b.versions("max-keys", "0"); len(l.Version) != 0 || *l.IsTruncated {
		t.Errorf("max-keys=0: %+v", l)
	}
}

// A document is one document: no element outside of the namespace's root.
func TestAnswersAreOneDocument(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", nil)
	for root, q := range map[string]string{"ListBucketResult": "list-type", "ListVersionsResult": "versions?", "LocationConstraint": "location?", "ListMultipartUploadsResult": "uploads?", "AccessControlPolicy": "acl?"} {
		pairs := []string{q}
		if q == "list-type" {
			pairs = append(pairs, "2")
		}
		var top struct {
			XMLName xml.Name
			Inner   []byte `xml:",innerxml"`
		}
		r := b.bucketGet(pairs...).wantXML(root, &top)
		if n := r.header.Get("Content-Length"); n != "" && n != itoa(len(r.body)) {
			t.Errorf("%s: Content-Length %s, body of %d bytes", root, n, len(r.body))
		}
	}
}
