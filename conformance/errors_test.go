package conformance

import (
	"net/http"
	"strings"
	"testing"
)

func TestErrorsOfMissingThings(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	e := b.get("missing/key").wantError(http.StatusNotFound, "NoSuchKey")
	if !strings.Contains(e.Resource, "missing/key") {
		t.Errorf("Resource %q, want the key in it", e.Resource)
	}
	b.head("missing").want(http.StatusNotFound).wantBody(nil)
	gone := "/" + randomName()
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
		b.do(call{method: method, path: gone + "/key"}).wantError(http.StatusNotFound, "NoSuchBucket")
	}
	b.do(call{method: http.MethodHead, path: gone + "/key"}).want(http.StatusNotFound).wantBody(nil)
	b.do(call{method: http.MethodPost, path: gone + "/key", query: query("uploads?")}).wantError(http.StatusNotFound, "NoSuchBucket")
	b.do(call{method: http.MethodGet, path: gone, query: query("uploads?")}).wantError(http.StatusNotFound, "NoSuchBucket")
}

// Source: AWS, "Error responses": MethodNotAllowed, "The specified method is
// not allowed against this resource."
func TestMethodNotAllowed(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("x"))
	for _, tt := range []struct{ method, path string }{
		{http.MethodPut, "/"}, {http.MethodDelete, "/"}, {http.MethodPost, "/"},
		{http.MethodPatch, "/" + b.name}, {http.MethodPatch, b.path("key")}, {http.MethodPost, b.path("key")},
		{"BREW", b.path("key")}, {"BREW", "/" + b.name},
	} {
		r := b.do(call{method: tt.method, path: tt.path})
		// AWS answers 405 to a wrong method; to a POST without a sub-resource
		// it wants a form (412, 400) or says 405.
		e := r.anError()
		if e == nil || e.Code != "MethodNotAllowed" && tt.method != http.MethodPost {
			t.Errorf("%s: status %d %+v, want 405 MethodNotAllowed", r.call, r.status, e)
		}
	}
	b.get("key").want(http.StatusOK).wantBody([]byte("x"))
	b.do(call{method: http.MethodTrace, path: b.path("key")}).anError()
	b.do(call{method: http.MethodOptions, path: b.path("key"), noSign: true}).anError()
}

// A POST of a form is another call; it must not be mistaken for one that is
// known, nor store anything unless it is carried out.
func TestPostForm(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	form := "--x\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nposted\r\n--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\ndata\r\n--x--\r\n"
	r := b.do(call{method: http.MethodPost, path: "/" + b.name, body: []byte(form), noSign: true, unsigned: headers("Content-Type", "multipart/form-data; boundary=x")})
	if e := r.anError(); e == nil {
		t.Errorf("an anonymous POST of a form: status %d, want an error", r.status)
	}
	b.wantAbsent("posted")
}

// Every kind of answer has its own request id.
func TestRequestIDs(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	seen := map[string]bool{}
	for range 20 {
		for _, r := range []*reply{b.put("key", nil), b.get("key"), b.head("key"), b.head("missing"), b.get("missing")} {
			id := r.header.Get("X-Amz-Request-Id")
			if seen[id] {
				t.Fatalf("%s: request id %s came twice", r.call, id)
			}
			seen[id] = true
		}
	}
}

// A resource name with markup comes back escaped.
func TestErrorEscaping(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for _, key := range []string{"<script>alert(1)</script>", "a&b", "\x01control", "]]>", "\U0001F600"} {
		b.get(key).wantError(http.StatusNotFound, "NoSuchKey")
	}
}

func TestLengthRequired(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	s := b.sign(call{method: http.MethodPut, path: b.path("key"), body: []byte("hello"), payload: unsignedPayload})
	s.header.Set("Transfer-Encoding", "chunked")
	s.body = []byte("5\r\nhello\r\n0\r\n\r\n")
	r := b.raw(s.wire(), callLimit)
	if r == nil {
		t.Fatal("no answer")
	}
	r.wantError(http.StatusLengthRequired, "MissingContentLength")
	b.wantAbsent("key")
}

// Over the limit of a single PUT, which is 5 GiB, the refusal comes before the
// body.
func TestEntityTooLarge(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	s := b.sign(call{method: http.MethodPut, path: b.path("key"), payload: unsignedPayload})
	s.header.Set("Content-Length", "5368709121")
	s.header.Set("Expect", "100-continue")
	r := b.raw(s.wire(), callLimit)
	if r == nil {
		t.Fatal("no answer")
	}
	r.wantError(http.StatusBadRequest, "EntityTooLarge")
	u := b.create("parts")
	s = b.sign(call{method: http.MethodPut, path: b.path("parts"), payload: unsignedPayload, query: query("partNumber", "1", "uploadId", u.id)})
	s.header.Set("Content-Length", "5368709121")
	s.header.Set("Expect", "100-continue")
	if r = b.raw(s.wire(), callLimit); r == nil {
		t.Fatal("no answer")
	}
	r.wantError(http.StatusBadRequest, "EntityTooLarge")
}
