package conformance

import (
	"net/http"
	"testing"
	"time"
)

// copy copies by the value of x-amz-copy-source; it may fail.
func (b *bucket) copy(source, key string, pairs ...string) *reply {
	b.t.Helper()
	return b.request(http.MethodPut, key, nil, append([]string{"x-amz-copy-source", source}, pairs...)...)
}

// mustCopy copies, which must succeed.
func (b *bucket) mustCopy(source, key string, pairs ...string) *copied {
	b.t.Helper()
	out := new(copied)
	b.copy(source, key, pairs...).wantXML("CopyObjectResult", out)
	if _, err := time.Parse("2006-01-02T15:04:05.000Z", out.LastModified); err != nil {
		b.t.Errorf("copy to %q: LastModified %q", key, out.LastModified)
	}
	return out
}

func TestCopyMetadata(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(50*kib, 60)
	described := []string{
		"Content-Type", "text/x-source", "Cache-Control", "max-age=60", "Content-Disposition", "inline", "Content-Encoding", "gzip",
		"Content-Language", "fr", "Expires", "Thu, 01 Dec 2033 16:00:00 GMT", "X-Amz-Meta-Color", "blue",
	}
	tag := b.put("source", data, described...).etag()
	from := "/" + b.name + "/source"
	if out := b.mustCopy(from, "default"); out.ETag != tag {
		t.Errorf("ETag %s, want %s", out.ETag, tag)
	}
	b.get("default").want(http.StatusOK).wantBody(data).wantHeader(described...).wantHeader("ETag", tag)
	b.mustCopy(from, "explicit", "x-amz-metadata-directive", "COPY", "x-amz-meta-color", "red", "Content-Type", "text/x-ignored")
	b.head("explicit").wantHeader(described...)
	b.mustCopy(from, "replaced", "x-amz-metadata-directive", "REPLACE", "x-amz-meta-shape", "round", "Content-Type", "text/x-new")
	b.get("replaced").wantBody(data).wantHeader("Content-Type", "text/x-new", "X-Amz-Meta-Shape", "round", "X-Amz-Meta-Color", "", "Cache-Control", "", "Content-Encoding", "")
	b.copy(from, "bad", "x-amz-metadata-directive", "MERGE").wantError(http.StatusBadRequest, "InvalidArgument")
	b.copy(from, "bad", "x-amz-tagging-directive", "MERGE").wantError(http.StatusBadRequest, "InvalidArgument")
	b.wantAbsent("bad")
	b.mustCopy(from, "tagging", "x-amz-tagging-directive", "COPY")

	// Between buckets.
	other := b.newBucket()
	other.mustCopy(from, "there")
	other.get("there").wantBody(data).wantHeader(described...)
}

func TestCopyOntoItself(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(20*kib, 61)
	tag := b.put("key", data, "x-amz-meta-mtime", "1").etag()
	from := "/" + b.name + "/key"
	b.copy(from, "key").wantError(http.StatusBadRequest, "InvalidRequest")
	b.copy(from, "key", "x-amz-metadata-directive", "COPY").wantError(http.StatusBadRequest, "InvalidRequest")
	// As rclone sets a modification time.
	b.mustCopy(from, "key", "x-amz-metadata-directive", "REPLACE", "x-amz-meta-mtime", "2")
	b.get("key").want(http.StatusOK).wantBody(data).wantHeader("X-Amz-Meta-Mtime", "2", "ETag", tag)
}

// The source is decoded once; "?versionId=" comes behind it.
func TestCopySourceEncoding(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for _, key := range []string{"plain", "a b+c", "a%20b", "a%2Bb", "dir/é/日本", "q?versionId=x", "a//b", "x&y=z", "dot/../dot"} {
		data := []byte(key)
		b.put(key, data)
		b.mustCopy("/"+b.name+"/"+uriEncode(key, false), "target").must(t)
		b.get("target").want(http.StatusOK).wantBody(data)
		b.mustCopy(b.name+"/"+uriEncode(key, false), "target2")                // no slash at the start
		b.mustCopy(uriEncode("/"+b.name+"/"+key, true), "target3")             // all of it encoded
		b.mustCopy(b.name+"/"+uriEncode(key, false)+"?versionId=null", "null") // the null version
		for _, target := range []string{"target2", "target3", "null"} {
			b.get(target).want(http.StatusOK).wantBody(data)
		}
	}
}

// must fails if the copy gave no ETag.
func (c *copied) must(t *testing.T) {
	t.Helper()
	if len(c.ETag) != 34 {
		t.Errorf("ETag %q of a copy", c.ETag)
	}
}

func TestCopyErrors(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("x"))
	for _, tt := range []struct {
		name, source string
		status       int
		codes        []string
	}{
		{"missing key", "/" + b.name + "/missing", 404, []string{"NoSuchKey"}},
		{"missing bucket", "/" + randomName() + "/key", 404, []string{"NoSuchBucket"}},
		{"no key", "/" + b.name, 400, []string{"InvalidArgument"}},
		{"empty key", "/" + b.name + "/", 400, []string{"InvalidArgument"}},
		{"nothing", "/", 400, []string{"InvalidArgument"}},
		{"bad encoding", "/" + b.name + "/k%ey%zz", 400, []string{"InvalidArgument"}},
		{"unknown version", "/" + b.name + "/key?versionId=3HL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY", 404, []string{"NoSuchVersion"}},
		{"bad bucket name", "/A_B/key", 404, []string{"NoSuchBucket"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := b.with(t)
			r := b.copy(tt.source, "target")
			if tt.name == "unknown version" || tt.name == "bad bucket name" {
				// AWS tells malformed from unknown; both must be a client's error.
				if e := r.anError(); e == nil || r.status >= 500 {
					t.Errorf("status %d", r.status)
				}
			} else {
				r.wantError(tt.status, tt.codes...)
			}
			b.wantAbsent("target")
		})
	}
	b.do(call{method: http.MethodPut, path: "/" + randomName() + "/key", header: headers("x-amz-copy-source", "/"+b.name+"/key")}).
		wantError(http.StatusNotFound, "NoSuchBucket")
}

// Source: AWS, CopyObject, x-amz-copy-source-if-*.
func TestCopyConditions(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	tag := b.put("key", []byte("x")).etag()
	from := "/" + b.name + "/key"
	modified, err := http.ParseTime(b.head("key").header.Get("Last-Modified"))
	if err != nil {
		t.Fatal(err)
	}
	before, after := modified.Add(-time.Hour).Format(http.TimeFormat), modified.Format(http.TimeFormat)
	for _, tt := range []struct {
		pairs []string
		ok    bool
	}{
		{[]string{"x-amz-copy-source-if-match", tag}, true},
		{[]string{"x-amz-copy-source-if-match", otherTag}, false},
		{[]string{"x-amz-copy-source-if-none-match", otherTag}, true},
		{[]string{"x-amz-copy-source-if-none-match", tag}, false},
		{[]string{"x-amz-copy-source-if-modified-since", before}, true},
		{[]string{"x-amz-copy-source-if-modified-since", after}, false},
		{[]string{"x-amz-copy-source-if-unmodified-since", after}, true},
		{[]string{"x-amz-copy-source-if-unmodified-since", before}, false},
		{[]string{"x-amz-copy-source-if-match", tag, "x-amz-copy-source-if-unmodified-since", before}, true},
		{[]string{"x-amz-copy-source-if-none-match", tag, "x-amz-copy-source-if-modified-since", before}, false},
	} {
		r := b.copy(from, "target", tt.pairs...)
		if tt.ok {
			r.want(http.StatusOK)
			continue
		}
		r.wantError(http.StatusPreconditionFailed, "PreconditionFailed")
	}
}

func TestCopyChecksums(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(30*kib, 62)
	sha, crc := checksumNamed("SHA256"), checksumNamed("CRC32C")
	b.put("key", data, sha.header, sha.sum(data))
	from := "/" + b.name + "/key"
	if out := b.mustCopy(from, "kept"); out.ChecksumSHA256 != sha.sum(data) {
		t.Errorf("a copy's checksum %+v, want the source's SHA-256", out)
	}
	b.head("kept", "x-amz-checksum-mode", "ENABLED").wantHeader(sha.header, sha.sum(data))
	if out := b.mustCopy(from, "other", "x-amz-checksum-algorithm", "CRC32C"); out.ChecksumCRC32C != crc.sum(data) {
		t.Errorf("a copy's checksum %+v, want CRC32C", out)
	}
	b.head("other", "x-amz-checksum-mode", "ENABLED").wantHeader(crc.header, crc.sum(data), sha.header, "")
	b.copy(from, "bad", "x-amz-checksum-algorithm", "MD4").wantError(http.StatusBadRequest, "InvalidRequest")

	// A multipart object becomes one with a plain ETag, as its bytes do.
	u := b.create("parts")
	u.part(1, data).want(http.StatusOK)
	u.complete()
	b.mustCopy("/"+b.name+"/parts", "whole")
	b.get("whole").want(http.StatusOK).wantBody(data)
}
