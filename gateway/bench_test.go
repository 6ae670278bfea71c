package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/gateway"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/gateway/wire"
)

// idle is an engine that costs nothing, so that benchmarks show the gateway.
type idle struct {
	*fake
	page *object.ListPage
}

func (idle) Put(_ context.Context, req *object.PutRequest) (*object.PutResult, error) {
	_, err := io.Copy(io.Discard, req.Body.Reader)
	return &object.PutResult{ETag: "d41d8cd98f00b204e9800998ecf8427e", Null: true}, err
}

func (i idle) List(context.Context, *object.ListRequest) (*object.ListPage, error) {
	return i.page, nil
}

// sink is a response writer that keeps nothing.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(int)             {}

// BenchmarkServer measures a request from its parsed head to its reply,
// signature included, without net/http and without the engine.
func BenchmarkServer(b *testing.B) {
	engine := idle{fake: newFake(time.Now), page: &object.ListPage{}}
	for i := range 1000 {
		engine.page.Entries = append(engine.page.Entries, object.Entry{
			Key: fmt.Sprintf("some/prefix/that/is/usual/object-%06d.dat", i), ETag: "d41d8cd98f00b204e9800998ecf8427e",
			Bytes: 4096, LastModified: noon,
		})
	}
	if err := engine.CreateBucket(b.Context(), "b01"); err != nil {
		b.Fatal(err)
	}
	g, err := gateway.New(engine, gateway.Options{Lookup: lookup, Owner: wire.Owner{ID: "o"}, Now: func() time.Time { return noon }})
	if err != nil {
		b.Fatal(err)
	}
	signer := sigv4.Signer{AccessKey: accessKey, Secret: secret, Region: "fr-metro"}
	body := make([]byte, 4096)
	for _, bench := range []struct{ method, target string }{
		{"PUT", "/b01/some/key"}, {"HEAD", "/b01"}, {"GET", "/b01?list-type=2&prefix=some&encoding-type=url"},
	} {
		b.Run(bench.method, func(b *testing.B) {
			var data []byte
			if bench.method == "PUT" {
				data = body
			}
			r := httptest.NewRequest(bench.method, bench.target, bytes.NewReader(data))
			r.Header.Set("Content-Length", fmt.Sprint(len(data)))
			if err := signer.Sign(r, sigv4.UnsignedPayload, noon); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				r.Body = io.NopCloser(bytes.NewReader(data))
				g.ServeHTTP(&sink{header: make(http.Header)}, r)
			}
		})
	}
}
