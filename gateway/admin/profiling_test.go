package admin_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/gateway/sigv4"
)

// TestProfiles are there for who holds an access key, if they were asked for.
func TestProfiles(t *testing.T) {
	t.Parallel()
	off := start(t, &fake{}, nil)
	on := start(t, &fake{}, func(o *admin.Options) { o.Profiling = true })
	ask := func(url, path, secret string) (int, []byte) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if secret != "" {
			signer := &sigv4.Signer{AccessKey: "root", Secret: secret, Region: admin.SigningRegion}
			if err := signer.Sign(r, sigv4.EmptySHA256, now); err != nil {
				t.Fatal(err)
			}
		}
		reply, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer reply.Body.Close()
		body, err := io.ReadAll(reply.Body)
		if err != nil {
			t.Fatal(err)
		}
		return reply.StatusCode, body
	}
	for _, c := range []struct {
		url, path, secret string
		status            int
		begins            string
	}{
		{off.URL, "/debug/pprof/heap", "secret", http.StatusNotFound, "{"},
		{off.URL, "/debug/pprof/heap", "", http.StatusForbidden, "{"},
		{on.URL, "/debug/pprof/heap", "", http.StatusForbidden, "{"},
		{on.URL, "/debug/pprof/heap", "wrong", http.StatusForbidden, "{"},
		{on.URL, "/debug/pprof/", "secret", http.StatusOK, "<html"},
		{on.URL, "/debug/pprof/heap", "secret", http.StatusOK, "\x1f\x8b"},
		{on.URL, "/debug/pprof/goroutine?debug=1", "secret", http.StatusOK, "goroutine profile"},
		{on.URL, "/debug/pprof/trace?seconds=0.01", "secret", http.StatusOK, "go 1."},
		{on.URL, "/debug/pprof/nothing", "secret", http.StatusNotFound, ""},
	} {
		status, body := ask(c.url, c.path, c.secret)
		if status != c.status || !bytes.HasPrefix(body, []byte(c.begins)) {
			t.Errorf("GET %s with secret %q: %d %.60q, want %d %q", c.path, c.secret, status, body, c.status, c.begins)
		}
	}
	for kind, begins := range map[string]string{"cpu": "\x1f\x8b", "trace": "go 1.", "heap": "\x1f\x8b"} {
		var got bytes.Buffer
		n, err := client(on, "root", "secret").Profile(t.Context(), kind, 0, &got)
		if err != nil || n != int64(got.Len()) || !strings.HasPrefix(got.String(), begins) {
			t.Errorf("Profile %s: %d bytes, %v: %.20q", kind, n, err, got.String())
		}
	}
	if _, err := client(off, "root", "secret").Profile(t.Context(), "heap", 0, io.Discard); err == nil || !strings.Contains(err.Error(), "--profiling") {
		t.Errorf("a profile of a server that answers none: %v", err)
	}
	if _, err := client(on, "root", "secret").Profile(t.Context(), "../x", 0, io.Discard); err == nil {
		t.Error("an unknown profile is answered")
	}
}
