package sigv4

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestThroughServer sends signed requests through net/http, in HTTP/1.1 and
// HTTP/2: what it moves out of the header map must not be missed.
func TestThroughServer(t *testing.T) {
	t.Parallel()
	v := NewVerifier(Options{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := v.Verify(r, "", exampleTime(), exampleLookup)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		body := id.Body(r.Body)
		defer body.Close()
		sum := md5.New()
		if _, err := io.Copy(sum, body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		trailer, _ := body.Trailer("x-amz-checksum-crc32")
		fmt.Fprintf(w, "%s %s %x %s", r.Proto, id.AccessKey, sum.Sum(nil), trailer)
	})
	plain := httptest.NewServer(handler)
	t.Cleanup(plain.Close)
	second := httptest.NewUnstartedServer(handler)
	second.EnableHTTP2 = true
	second.StartTLS()
	t.Cleanup(second.Close)

	s := Signer{AccessKey: exampleKey, Secret: exampleSecret, Region: "fr-metro"}
	content := bytes.Repeat([]byte("ruche"), 50000)
	for server, proto := range map[*httptest.Server]string{plain: "HTTP/1.1", second: "HTTP/2.0"} {
		for _, unsigned := range []bool{false, true} {
			r, err := http.NewRequest(http.MethodPut, server.URL+"/bucket/a//b/../c+d%20%25?x-id=PutObject", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "text/plain;  charset=utf-8")
			r.Header.Set("X-Amz-Meta-A", "  several   blanks ")
			if err := s.SignStreaming(r, bytes.NewReader(content), int64(len(content)), StreamOptions{
				Unsigned: unsigned, TrailerName: "x-amz-checksum-crc32", TrailerBytes: 8,
				Trailer: func() string { return "AAAAAA==" },
			}, exampleTime()); err != nil {
				t.Fatal(err)
			}
			res, err := server.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("%s %s %x AAAAAA==", proto, exampleKey, md5.Sum(content)); string(got) != want {
				t.Errorf("%s, unsigned %v: got %q, want %q", proto, unsigned, got, want)
			}
		}
	}
}
