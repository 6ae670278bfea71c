package gateway

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ruche-storage/ruche/gateway/wire"
)

func TestLocate(t *testing.T) {
	t.Parallel()
	domains := []string{"s3.example.org", "example.org"}
	tests := []struct {
		host, path  string
		bucket, key string
		err         error
	}{
		{"h", "/", "", "", nil},
		{"h", "/b01", "b01", "", nil},
		{"h", "/b01/", "b01", "", nil},
		{"h", "/b01//", "b01", "/", nil},
		{"h", "/b01/a/../b//./c/", "b01", "a/../b//./c/", nil},
		{"h", "/b01/%2e%2e%2f%252F", "b01", "../%2F", nil},
		{"h", "/b01/a+b%20c", "b01", "a+b c", nil},
		{"h", "//k", "", "k", wire.InvalidBucketName},
		{"h", "/B/k", "B", "k", wire.InvalidBucketName},
		{"h", "/b01/%ff", "", "", wire.InvalidURI},
		{"h", "/b01/" + strings.Repeat("k", 1025), "b01", strings.Repeat("k", 1025), wire.KeyTooLong},
		{"S3.Example.org:9000", "/b01/k", "b01", "k", nil},
		{"b01.s3.example.org", "/", "b01", "", nil},
		{"b01.s3.example.org:443", "/x/y", "b01", "x/y", nil},
		{"a.b.s3.example.org.", "//y", "a.b", "/y", nil},
		{"b01.example.org", "/y", "b01", "y", nil},
		{"-.s3.example.org", "/y", "-", "y", wire.InvalidBucketName},
		{"127.0.0.1:9000", "/b01/k", "b01", "k", nil},
		{"[::1]:9000", "/b01/k", "b01", "k", nil},
	}
	for _, tt := range tests {
		u, err := url.ParseRequestURI(tt.path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := locate(u, tt.host, domains)
		if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) || got.bucket != tt.bucket || got.key != tt.key {
			t.Errorf("locate(%s, %.40s) = %q %.40q %v, want %q %.40q %v", tt.host, tt.path, got.bucket, got.key, err, tt.bucket, tt.key, tt.err)
		}
	}
}

// TestEveryOperationIsReached finds every row of the table by a request.
func TestEveryOperationIsReached(t *testing.T) {
	t.Parallel()
	paths := map[level]target{service: {}, bucketLevel: {bucket: "b01"}, objectLevel: {bucket: "b01", key: "k"}}
	names := make(map[string]bool)
	for row, want := range operations {
		r := &http.Request{Method: row.method, Header: http.Header{}}
		query := url.Values{}
		switch row.sub {
		case "":
		case "copy":
			r.Header.Set(wire.HeaderCopySource, "x/y")
		case "uploadId copy":
			r.Header.Set(wire.HeaderCopySource, "x/y")
			query.Set("uploadId", "1")
		case "list-type":
			query.Set("list-type", "2")
		default:
			query.Set(row.sub, "")
		}
		at := paths[row.at]
		got, err := find(r, &at, query)
		if got != want || err != nil {
			t.Errorf("%v: %v, %v", row, got, err)
		}
		if want.handle == nil || want.name == "" || want.log == "" || want.action == "" {
			t.Errorf("%v: row is not complete: %+v", row, want)
		}
		names[want.name] = true
	}
	for row, reason := range notOffered {
		if operations[row] != nil || reason == "" {
			t.Errorf("%v is offered and not offered, or has no reason", row)
		}
	}
	if len(names) < 45 {
		t.Errorf("%d operations", len(names))
	}
}

func FuzzRoute(f *testing.F) {
	f.Add("GET", "/b01/k", "versionId=null&x-id=GetObject", "h")
	f.Add("PUT", "/b01//a/../%2F", "partNumber=1&uploadId=x", "b01.example.org:80")
	f.Add("POST", "/b01", "delete", "example.org")
	f.Add("DELETE", "/%ff", "acl&acl=1&;", "[::1]")
	f.Fuzz(func(t *testing.T, method, path, rawQuery, host string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		got, err := locate(u, host, []string{"example.org"})
		if err != nil {
			if _, ok := errors.AsType[*wire.Error](err); !ok {
				t.Errorf("no answer for %v", err)
			}
			return
		}
		if got.bucket != "" && !wire.ValidBucketName(got.bucket) || len(got.key) > wire.MaxKeyBytes || got.bucket == "" && got.key != "" {
			t.Errorf("%q %q", got.bucket, got.key)
		}
		if !got.virtual && got.key != "" && "/"+got.bucket+"/"+got.key != u.Path {
			t.Errorf("%q became %q and %q", u.Path, got.bucket, got.key)
		}
		query, err := url.ParseQuery(rawQuery)
		if err != nil {
			return
		}
		op, err := find(&http.Request{Method: method, Header: http.Header{}}, &got, query)
		if (op == nil) == (err == nil) {
			t.Errorf("operation %v, error %v", op, err)
		}
		if err != nil {
			if _, ok := errors.AsType[*wire.Error](err); !ok {
				t.Errorf("no answer for %v", err)
			}
		}
	})
}

// piped is a connection whose bytes come from a reader.
type piped struct {
	net.Conn
	io.Reader
}

func (p piped) Read(b []byte) (int, error) { return p.Reader.Read(b) }

func readConn(t *testing.T, r io.Reader) []byte {
	t.Helper()
	c := &conn{Conn: piped{Reader: r}}
	c.nextHead.Store(true)
	out, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestConnHidesExpect(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"GET / HTTP/1.1\r\nExpect: x\r\n\r\nExpect: body\r\n":                 "GET / HTTP/1.1\r\nX-Expt: x\r\n\r\nExpect: body\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nEXPECT:x\r\nExpectation: y\r\n\r\n":     "GET / HTTP/1.1\r\nHost: h\r\nX-Expt:x\r\nExpectation: y\r\n\r\n",
		"GET / HTTP/1.1\r\nexpect: 100-CONTINUE \r\nE: expect: x\r\n\r\n":     "GET / HTTP/1.1\r\nexpect: 100-CONTINUE \r\nE: expect: x\r\n\r\n",
		"Expect: x HTTP/1.1\r\nHost: e\r\n\r\n":                               "Expect: x HTTP/1.1\r\nHost: e\r\n\r\n",
		"GET / HTTP/1.1\r\nExpect: x":                                         "GET / HTTP/1.1\r\nExpect: x",
		"GET / HTTP/1.1\r\nExpect: " + strings.Repeat("y", 500) + "\r\n\r\nb": "GET / HTTP/1.1\r\nX-Expt: " + strings.Repeat("y", 500) + "\r\n\r\nb",
		"": "",
	}
	for in, want := range tests {
		for name, r := range map[string]io.Reader{
			"whole": strings.NewReader(in), "bytes": iotest.OneByteReader(strings.NewReader(in)), "halves": iotest.HalfReader(strings.NewReader(in)),
		} {
			if got := readConn(t, r); string(got) != want {
				t.Errorf("%s: %.60q became %.60q", name, in, got)
			}
		}
	}
}

func FuzzConn(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nExpect: x\r\n\r\nbody"))
	f.Add([]byte("GET / HTTP/1.1\nexpect:\n\nexpect: x\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, r := range []io.Reader{bytes.NewReader(bytes.Clone(in)), iotest.OneByteReader(bytes.NewReader(in))} {
			got := readConn(t, r)
			if len(got) != len(in) {
				t.Fatalf("%q became %q", in, got)
			}
			// Nothing but the names of headers may have changed.
			shown := bytes.ReplaceAll(got, []byte(hidden), []byte("Expect"))
			orig := bytes.ReplaceAll(in, []byte(hidden), []byte("Expect"))
			if !bytes.EqualFold(shown, orig) {
				t.Fatalf("%q became %q", in, got)
			}
		}
	})
}
