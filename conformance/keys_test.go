package conformance

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// legalKeys are keys that a file system, a URL library or a regular expression
// would spoil.
func legalKeys() []string {
	return []string{
		"a//b", "a/../b", "./a", "../a", ".", "..", "...", "a/.", "a/..", "/leading", "//", "trailing/", "a/./b",
		"..%2f..%2fetc%2fpasswd", "a/%20../b", "%", "%25", "%zz", "100%", "a%00b",
		"foo/bar", "foo/bar/xyzzy", "foo/bar/", "space in key", " leading space", "trailing space ", "plus+plus", "a+b c",
		"é", "e\u0301", "日本語/キー", "\U0001F600", "q?x=1&y=2", "hash#frag", "semi;colon", "at@colon:comma,", "quote\"'`", "<xml>&amp;</xml>",
		"back\\slash", "{brace}[bracket]|^~", "!*'()", "tab\tkey", "newline\nkey", "cr\rkey", "bell\a", "del\x7f", "=equals=", "$dollar", "UPPER", "upper",
		"index.html", "favicon.ico", "minio/health/live", "health/ready", "metrics", "con", "aux.txt", "a:b", "*", "~", "-rf", strings.Repeat("k", 1024), strings.Repeat("é", 512),
		strings.Repeat("d/", 511) + "ee",
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	keys := legalKeys()
	for _, key := range keys {
		b.put(key, []byte("content of "+key))
	}
	for _, key := range keys {
		data := []byte("content of " + key)
		b.get(key).want(http.StatusOK).wantBody(data)
		b.head(key).want(http.StatusOK).wantHeader("Content-Length", itoa(len(data)))
	}
	var got []string
	for _, o := range b.list("encoding-type", "url").Contents {
		key, err := url.PathUnescape(o.Key)
		if err != nil {
			t.Errorf("list: key %q: %v", o.Key, err)
		}
		got = append(got, key)
	}
	want := slices.Clone(keys)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list (-want +got)\n%s", diff)
	}
	for i, key := range keys {
		if i%2 == 0 {
			b.request(http.MethodDelete, key, nil).want(http.StatusNoContent)
			b.get(key).wantError(http.StatusNotFound, "NoSuchKey")
		}
	}
	for i, key := range keys {
		if i%2 == 1 {
			b.get(key).want(http.StatusOK).wantBody([]byte("content of " + key))
		}
	}
}

// Keys as legal XML text come back the same in lists without encoding-type.
func TestKeysInXML(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	keys := []string{"<xml>&amp;</xml>", "a&b", "quote\"'`", "]]>", "newline\nkey", "tab\tkey", "cr\rkey", "é日\U0001F600", " space "}
	slices.Sort(keys)
	for _, key := range keys {
		b.put(key, nil)
	}
	if diff := cmp.Diff(keys, b.list().keys()); diff != "" {
		t.Errorf("list (-want +got)\n%s", diff)
	}
	var out deleted
	b.deleteMany(deleteBody(false, keys...)).wantXML("DeleteResult", &out)
	if len(out.Deleted) != len(keys) || len(out.Error) > 0 {
		t.Fatalf("deleted %d of %d, errors %+v", len(out.Deleted), len(keys), out.Error)
	}
	for i, key := range keys {
		if out.Deleted[i].Key != key {
			t.Errorf("deleted %q, want %q", out.Deleted[i].Key, key)
		}
	}
	if l := b.list(); len(l.Contents) > 0 {
		t.Errorf("left: %q", l.keys())
	}
}

func TestKeyTooLong(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for _, key := range []string{strings.Repeat("k", 1025), strings.Repeat("é", 513), strings.Repeat("k", 6000)} {
		b.request(http.MethodPut, key, []byte("x")).wantError(http.StatusBadRequest, "KeyTooLongError")
		b.do(call{method: http.MethodPost, path: b.path(key), query: query("uploads?")}).wantError(http.StatusBadRequest, "KeyTooLongError")
		b.copy("/"+b.name+"/x", key).anError()
		if r := b.get(key); r.status != http.StatusBadRequest && r.status != http.StatusNotFound {
			t.Errorf("GET of a key of %d bytes: status %d", len(key), r.status)
		}
	}
	if l := b.list(); len(l.Contents) > 0 {
		t.Errorf("left: %d keys", len(l.Contents))
	}
}

// A key has to be UTF-8. Source: AWS, "Naming Amazon S3 objects"; the error as
// recorded: InvalidURI, "Couldn't parse the specified URI."
func TestKeyNotUTF8(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for _, key := range []string{"\xff", "a\xc3", "\xed\xa0\x80", "ok/\xc0\xaf"} {
		b.request(http.MethodPut, key, []byte("x")).wantError(http.StatusBadRequest, "InvalidURI")
		b.get(key).wantError(http.StatusBadRequest, "InvalidURI")
	}
	if l := b.list("encoding-type", "url"); len(l.Contents) > 0 {
		t.Errorf("left: %q", l.keys())
	}
}

// Directory markers are objects, with and without content.
func TestDirectoryObjects(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("dir/", nil, "Content-Type", "application/x-directory")
	b.put("full/", []byte("has content"))
	b.get("dir/").want(http.StatusOK).wantBody(nil).wantHeader("Content-Type", "application/x-directory", "Content-Length", "0")
	b.get("full/").want(http.StatusOK).wantBody([]byte("has content"))
	b.get("dir").wantError(http.StatusNotFound, "NoSuchKey")
	b.head("full").want(http.StatusNotFound)
	b.request(http.MethodDelete, "dir", nil).want(http.StatusNoContent)
	b.get("dir/").want(http.StatusOK)
	b.put("full", []byte("file"))
	b.get("full/").want(http.StatusOK).wantBody([]byte("has content"))
	b.mustCopy(fmt.Sprintf("/%s/full/", b.name), "copied/")
	b.get("copied/").want(http.StatusOK).wantBody([]byte("has content"))
}

// The server neither redirects nor cleans paths.
func TestPathsAreNotCleaned(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for _, path := range []string{"a//c", "a/../c", "a/./c", "..", "c"} {
		b.put(path, []byte(path))
	}
	for _, path := range []string{"a//c", "a/../c", "a/./c", "..", "c"} {
		for _, wire := range []string{path, strings.ReplaceAll(path, "/", "%2F"), strings.ReplaceAll(path, ".", "%2E")} {
			b.do(call{method: http.MethodGet, path: b.path(path), wirePath: "/" + b.name + "/" + wire}).want(http.StatusOK).wantBody([]byte(path))
		}
	}
}
