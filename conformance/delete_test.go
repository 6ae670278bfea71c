package conformance

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// deleteBody is a request of DeleteObjects for keys.
func deleteBody(quiet bool, keys ...string) []byte {
	var out strings.Builder
	out.WriteString(`<Delete xmlns="` + namespace + `">`)
	if quiet {
		out.WriteString("<Quiet>true</Quiet>")
	}
	for _, key := range keys {
		out.WriteString("<Object><Key>")
		xml.EscapeText(&out, []byte(key))
		out.WriteString("</Key></Object>")
	}
	out.WriteString("</Delete>")
	return []byte(out.String())
}

// deleteMany sends a request of DeleteObjects.
func (b *bucket) deleteMany(body []byte, pairs ...string) *reply {
	b.t.Helper()
	return b.do(call{method: http.MethodPost, path: "/" + b.name, query: query("delete?"), body: body, header: headers(pairs...)})
}

func contentMD5(body []byte) string {
	sum := md5.Sum(body)
	return base64.StdEncoding.EncodeToString(sum[:])
}

func TestDeleteObject(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("x"))
	r := b.request(http.MethodDelete, "key", nil).want(http.StatusNoContent)
	// A bucket that was never versioned has no version ids.
	r.wantHeader("X-Amz-Version-Id", "", "X-Amz-Delete-Marker", "")
	b.wantAbsent("key")
	b.request(http.MethodDelete, "key", nil).want(http.StatusNoContent)
	b.request(http.MethodDelete, "never/was", nil).want(http.StatusNoContent)
	b.do(call{method: http.MethodDelete, path: "/" + randomName() + "/key"}).wantError(http.StatusNotFound, "NoSuchBucket")

	b.put("key", []byte("x"))
	b.do(call{method: http.MethodDelete, path: b.path("key"), query: query("versionId", "null")}).want(http.StatusNoContent)
	b.wantAbsent("key")

	b.put("key", []byte("x"))
	b.do(call{method: http.MethodDelete, path: b.path("key"), query: query("versionId", "3HL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY")})
	b.get("key").want(http.StatusOK).wantBody([]byte("x"))
}

// Source: AWS, "How to perform conditional deletes".
func TestDeleteObjectConditional(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	tag := b.put("key", []byte("x")).etag()
	b.request(http.MethodDelete, "key", nil, "If-Match", `"00000000000000000000000000000000"`).wantError(http.StatusPreconditionFailed, "PreconditionFailed")
	b.get("key").want(http.StatusOK)
	b.request(http.MethodDelete, "key", nil, "If-Match", tag).want(http.StatusNoContent)
	b.wantAbsent("key")
	r := b.request(http.MethodDelete, "key", nil, "If-Match", tag)
	if r.status != http.StatusNotFound && r.status != http.StatusPreconditionFailed {
		t.Errorf("If-Match on a missing key: status %d, want 404 or 412", r.status)
	}
	b.put("key", []byte("y"))
	b.request(http.MethodDelete, "key", nil, "If-Match", "*").want(http.StatusNoContent)
	b.wantAbsent("key")
}

func TestDeleteObjects(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.fill("a", "b", "<&>\"'", "dir/", "é")
	var out deleted
	body := deleteBody(false, "a", "missing", "<&>\"'")
	b.deleteMany(body).wantXML("DeleteResult", &out) // neither Content-MD5 nor a checksum
	var got []string
	for _, d := range out.Deleted {
		got = append(got, d.Key)
		if d.VersionID != "" {
			t.Errorf("%q: VersionId %q in a bucket without versions", d.Key, d.VersionID)
		}
	}
	if diff := cmp.Diff([]string{"a", "missing", "<&>\"'"}, got, cmpopts.SortSlices(func(a, b string) bool { return a < b })); diff != "" || len(out.Error) > 0 {
		t.Errorf("deleted (-want +got)\n%s\nerrors %+v", diff, out.Error)
	}
	out = deleted{}
	body = deleteBody(true, "é", "missing")
	b.deleteMany(body, "Content-MD5", contentMD5(body)).wantXML("DeleteResult", &out)
	if len(out.Deleted) > 0 || len(out.Error) > 0 {
		t.Errorf("quiet: %+v", out)
	}
	if diff := cmp.Diff([]string{"b", "dir/"}, b.list().keys()); diff != "" {
		t.Errorf("left (-want +got)\n%s", diff)
	}
}

// One of Content-MD5, a checksum header or a checksum trailer may come, and a
// wrong one is refused.
func TestDeleteObjectsChecksums(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	body := deleteBody(false, "key")
	for _, c := range checksums() {
		b.put("key", nil)
		b.deleteMany(body, c.header, c.sum([]byte("other"))).wantError(http.StatusBadRequest, "BadDigest")
		b.get("key").want(http.StatusOK)
		b.deleteMany(body, c.header, c.sum(body)).wantXML("DeleteResult", nil)
		b.wantAbsent("key")

		b.put("key", nil)
		b.do(call{
			method: http.MethodPost, path: "/" + b.name, query: query("delete?"), body: body,
			chunks: &chunkedBody{mode: streamingUnsigned, trailer: query(c.header, c.sum(body))},
		}).wantXML("DeleteResult", nil)
		b.wantAbsent("key")
	}
	b.put("key", nil)
	b.deleteMany(body, "Content-MD5", contentMD5([]byte("other"))).wantError(http.StatusBadRequest, "BadDigest")
	b.deleteMany(body, "Content-MD5", "no base64").wantError(http.StatusBadRequest, "InvalidDigest")
	b.get("key").want(http.StatusOK)
}

func TestDeleteObjectsBadBodies(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", nil)
	keys := make([]string, 1001)
	for i := range keys {
		keys[i] = fmt.Sprintf("k%d", i)
	}
	for name, body := range map[string]string{
		"1,001 keys":   string(deleteBody(false, keys...)),
		"empty":        "",
		"no objects":   "<Delete></Delete>",
		"no XML":       "key=key",
		"cut off":      "<Delete><Object><Key>key</Key></Object>",
		"other root":   "<Remove><Object><Key>key</Key></Object></Remove>",
		"wrong nested": "<Delete><Key>key</Key></Delete>",
	} {
		t.Run(name, func(t *testing.T) {
			b := b.with(t)
			r := b.deleteMany([]byte(body))
			if name == "empty" {
				// AWS documents both for a missing body.
				r.wantError(http.StatusBadRequest, "MalformedXML", "MissingRequestBodyError")
				return
			}
			r.wantError(http.StatusBadRequest, "MalformedXML")
		})
	}
	b.get("key").want(http.StatusOK)
	b.do(call{method: http.MethodPost, path: "/" + randomName(), query: query("delete?"), body: deleteBody(false, "key")}).wantError(http.StatusNotFound, "NoSuchBucket")
}

// XML is accepted with and without the namespace.
func TestDeleteObjectsWithoutNamespace(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", nil)
	b.deleteMany([]byte("<?xml version=\"1.0\"?>\n<Delete><Object><Key>key</Key></Object></Delete>\n")).wantXML("DeleteResult", nil)
	b.wantAbsent("key")
}

// Source: AWS, DeleteObjects, ObjectIdentifier: ETag, VersionId.
func TestDeleteObjectsConditions(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	tag := b.put("match", []byte("1")).etag()
	b.put("mismatch", []byte("2"))
	b.put("null", []byte("3"))
	b.put("size", []byte("12345"))
	b.put("time", []byte("12345"))
	body := fmt.Sprintf("<Delete><Object><Key>match</Key><ETag>%s</ETag></Object>"+
		"<Object><Key>mismatch</Key><ETag>%s</ETag></Object>"+
		"<Object><Key>size</Key><Size>4</Size></Object>"+
		"<Object><Key>time</Key><LastModifiedTime>Thu, 01 Jan 2015 00:00:00 GMT</LastModifiedTime></Object>"+
		"<Object><Key>null</Key><VersionId>null</VersionId></Object></Delete>", tag, tag)
	var out deleted
	b.deleteMany([]byte(body)).wantXML("DeleteResult", &out)
	for _, e := range out.Error {
		if e.Code != "PreconditionFailed" || e.Message == "" {
			t.Errorf("%+v, want PreconditionFailed", e)
		}
	}
	if len(out.Error) != 3 {
		t.Errorf("errors %+v, want those of mismatch, size and time", out.Error)
	}
	if len(out.Deleted) != 2 {
		t.Errorf("deleted %+v, want match and null", out.Deleted)
	}
	if diff := cmp.Diff([]string{"mismatch", "size", "time"}, b.list().keys()); diff != "" {
		t.Errorf("left (-want +got)\n%s", diff)
	}
}
