package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ruche-storage/ruche/gateway"
	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/gateway/wire"
)

// dial opens a connection to say things that clients do not.
func (s *store) dial() (net.Conn, *bufio.Reader) {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c, bufio.NewReader(c)
}

// head is the signed head of a request, as it goes over the wire.
func (s *store) head(text string, length int64) string {
	s.t.Helper()
	r := s.request(text)
	r.ContentLength = length
	if err := s.signer.Sign(r, sigv4.UnsignedPayload, noon); err != nil {
		s.t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.Method, r.URL.RequestURI(), r.URL.Host)
	if length >= 0 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", length)
	}
	if err := r.Header.Write(&b); err != nil {
		s.t.Fatal(err)
	}
	return b.String() + "\r\n"
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, r *bufio.Reader) *answer {
	t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return &answer{resp, string(body)}
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.must("PUT /b01")

	c, r := s.dial()
	say(t, c, s.head("PUT /b01/k\nExpect: 100-continue", 5))
	if a := hear(t, r); a.StatusCode != http.StatusContinue {
		t.Fatalf("got %d, want 100", a.StatusCode)
	}
	say(t, c, "hello")
	if a := hear(t, r); a.StatusCode != http.StatusOK {
		t.Fatalf("got %d %s, want 200", a.StatusCode, a.body)
	}

	// An empty body is asked for too, and a refusal of it closes.
	say(t, c, s.head("PUT /b01/empty\nExpect: 100-continue", 0))
	if a := hear(t, r); a.StatusCode != http.StatusContinue {
		t.Fatalf("empty body: got %d, want 100", a.StatusCode)
	}
	if a := hear(t, r); a.StatusCode != http.StatusOK || a.Close {
		t.Fatalf("empty body: got %d %s, want 200", a.StatusCode, a.body)
	}
	say(t, c, "PUT /b01/empty HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n")
	if a := hear(t, r); a.StatusCode != http.StatusForbidden || !a.Close {
		t.Errorf("empty body refused: got %d, close %v", a.StatusCode, a.Close)
	}

	refusals := map[string]string{
		"AccessDenied":                  "PUT /b01/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
		"EntityTooLarge":                s.head("PUT /b01/k\nExpect: 100-continue", 5<<30+1),
		"AccessControlListNotSupported": s.head("PUT /b01/k\nExpect: 100-continue\nX-Amz-Acl: public-read", 5),
		"InvalidDigest":                 s.head("PUT /b01/k\nExpect: 100-continue\nContent-Md5: x", 5),
		"NoSuchUpload":                  s.head("PUT /b01/k?partNumber=1&uploadId=x\nExpect: 100-continue", 5),
	}
	for code, head := range refusals {
		c, r := s.dial()
		say(t, c, head)
		if a := hear(t, r); a.code() != code {
			t.Errorf("got %d %s, want %s instead of 100", a.StatusCode, a.code(), code)
		}
	}
}

// TestOtherExpectations sends what net/http would answer 417, in one piece and
// byte by byte, signed over, on a connection used before.
func TestOtherExpectations(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.must("PUT /b01")
	c, r := s.dial()
	for i, expectation := range []string{"200-ok", "100-continue, more", strings.Repeat("x", 300), "100-Continue"} {
		head := s.head("PUT /b01/k\nexpect: "+expectation, 5)
		if i%2 == 1 {
			for j := range len(head) {
				say(t, c, head[j:j+1])
			}
		} else {
			say(t, c, head)
		}
		say(t, c, "hello")
		a := hear(t, r)
		if i == 3 {
			if a.StatusCode != http.StatusContinue {
				t.Fatalf("%q: got %d, want 100", expectation, a.StatusCode)
			}
			a = hear(t, r)
		}
		if a.StatusCode != http.StatusOK {
			t.Fatalf("%.20q: got %d %s, want 200", expectation, a.StatusCode, a.body)
		}
	}
}

func TestBodyLengths(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.must("PUT /b01")

	c, r := s.dial()
	say(t, c, s.head("PUT /b01/short", 10)+"hello")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if a := hear(t, r); a.code() != "IncompleteBody" {
		t.Errorf("short body: %d %s", a.StatusCode, a.body)
	}
	if a := s.do("HEAD /b01/short"); a.StatusCode != http.StatusNotFound {
		t.Errorf("a short body is visible: %d", a.StatusCode)
	}

	// A refusal reaches a client that is still sending.
	c, r = s.dial()
	head, sent := s.head("PUT /none/k", 64<<20), make(chan struct{})
	go func() {
		defer close(sent)
		// Breaks off when the server has had enough.
		_, _ = io.Copy(c, io.MultiReader(strings.NewReader(head), bytes.NewReader(make([]byte, 64<<20))))
	}()
	if a := hear(t, r); a.code() != "NoSuchBucket" || !a.Close {
		t.Errorf("refused under way: %d %s", a.StatusCode, a.body)
	}
	c.Close()
	<-sent

	c, r = s.dial()
	say(t, c, strings.Replace(s.head("PUT /b01/k", -1), "\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 1))
	if a := hear(t, r); a.StatusCode != http.StatusLengthRequired || a.code() != "MissingContentLength" {
		t.Errorf("no length: %d %s", a.StatusCode, a.body)
	}
	c, r = s.dial()
	say(t, c, s.head("PUT /b01/k", -1))
	if a := hear(t, r); a.code() != "MissingContentLength" {
		t.Errorf("no length at all: %d %s", a.StatusCode, a.body)
	}
}

// TestUnparsedHeads sends what no handler ever sees.
func TestUnparsedHeads(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.must("PUT /b01")
	for code, head := range map[string]string{
		"BadRequest":                   "GET /b01/%zz HTTP/1.1\r\nHost: x\r\n\r\n",
		"RequestHeaderSectionTooLarge": "GET /b01/k HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 80<<10) + "\r\n\r\n",
	} {
		c, r := s.dial()
		// A good request before must not matter.
		say(t, c, s.head("HEAD /b01", -1))
		resp, err := http.ReadResponse(r, &http.Request{Method: "HEAD"})
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		say(t, c, head)
		if a := hear(t, r); a.StatusCode != 400 || a.code() != code || !a.Close || a.Header.Get("X-Amz-Request-Id") == "" {
			t.Errorf("%s: %d %v %s", code, a.StatusCode, a.Header, a.body)
		}
	}
	// An object that looks like such an answer stays what it is.
	const trap = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
	s.must("PUT /b01/trap\n\n" + trap + strings.Repeat("x", 100<<10))
	if a := s.must("GET /b01/trap"); !strings.HasPrefix(a.body, trap) {
		t.Errorf("an object was rephrased: %.100q", a.body)
	}
}

func TestStreamingBody(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.must("PUT /b01")
	body := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	sum := crc32.ChecksumIEEE(body)
	good := base64.StdEncoding.EncodeToString([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
	put := func(trailer string, unsigned bool, headers string) *answer {
		r := s.request("PUT /b01/k" + headers)
		opts := sigv4.StreamOptions{Unsigned: unsigned}
		if trailer != "" {
			opts.TrailerName, opts.TrailerBytes, opts.Trailer = "x-amz-checksum-crc32", len(trailer), func() string { return trailer }
		}
		if err := s.signer.SignStreaming(r, bytes.NewReader(body), int64(len(body)), opts, noon); err != nil {
			t.Fatal(err)
		}
		return s.send(r)
	}
	for _, unsigned := range []bool{false, true} {
		if a := put(good, unsigned, "\nX-Amz-Sdk-Checksum-Algorithm: CRC32"); a.StatusCode != 200 || a.Header.Get("X-Amz-Checksum-Crc32") != good {
			t.Errorf("unsigned %v: %d %v %s", unsigned, a.StatusCode, a.Header, a.body)
		}
		if a := put("AAAAAA==", unsigned, ""); a.code() != "BadDigest" {
			t.Errorf("wrong trailer, unsigned %v: %d %s", unsigned, a.StatusCode, a.body)
		}
		if a := put("nonsense", unsigned, ""); a.code() != "InvalidRequest" {
			t.Errorf("nonsense in trailer, unsigned %v: %d %s", unsigned, a.StatusCode, a.body)
		}
	}
	if a := put("", false, "\nContent-Encoding: gzip"); a.StatusCode != 200 {
		t.Errorf("no trailer: %d %s", a.StatusCode, a.body)
	}
	a := s.must("GET /b01/k")
	if a.body != string(body) || a.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("got %d bytes, encoding %q", len(a.body), a.Header.Get("Content-Encoding"))
	}
}

// TestSignedDocument checks that the checks of a body come before what it asks
// for.
func TestSignedDocument(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.must("PUT /b01")
	s.must("PUT /b01/k\n\nx")
	const doc = "<Delete><Object><Key>k</Key></Object></Delete>"
	r := s.request("POST /b01?delete\n\n" + doc)
	if err := s.signer.Sign(r, sigv4.EmptySHA256, noon); err != nil {
		t.Fatal(err)
	}
	if a := s.send(r); a.code() != "XAmzContentSHA256Mismatch" {
		t.Errorf("wrong hash: %d %s", a.StatusCode, a.body)
	}
	r = s.request("POST /b01?delete")
	opts := sigv4.StreamOptions{TrailerName: "x-amz-checksum-crc32", TrailerBytes: 8, Trailer: func() string { return "AAAAAA==" }}
	if err := s.signer.SignStreaming(r, strings.NewReader(doc), int64(len(doc)), opts, noon); err != nil {
		t.Fatal(err)
	}
	if a := s.send(r); a.code() != "BadDigest" {
		t.Errorf("wrong trailer: %d %s", a.StatusCode, a.body)
	}
	s.must("HEAD /b01/k")
}

func TestSlowClients(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *gateway.Options) { o.IdleTimeout = 400 * time.Millisecond })
	s.must("PUT /b01")

	c, r := s.dial()
	say(t, c, s.head("PUT /b01/slow", 10)+"hello")
	if a := hear(t, r); a.StatusCode != 400 || a.code() != "RequestTimeout" || !a.Close {
		t.Errorf("stalled upload: %d %s", a.StatusCode, a.body)
	}
	if a := s.do("HEAD /b01/slow"); a.StatusCode != http.StatusNotFound {
		t.Errorf("a stalled body is visible: %d", a.StatusCode)
	}

	// Whoever announces a body and is refused need not send it, and cannot hold
	// the connection by not sending it.
	c, r = s.dial()
	say(t, c, "PUT /b01/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
	if a := hear(t, r); a.code() != "AccessDenied" {
		t.Errorf("refused: %d %s", a.StatusCode, a.body)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("the connection is still open: %v", err)
	}

	// A reader that stops taking bytes frees the object.
	s.must("PUT /b01/big\n\n" + strings.Repeat("x", 32<<20))
	s.fake.closed = make(chan struct{}, 1)
	c, _ = s.dial()
	say(t, c, s.head("GET /b01/big", -1))
	<-s.fake.closed

	// A slow engine is no slow client: nothing may cut the request.
	s.must("PUT /b01/small\n\nx")
	s.fake.closed, s.fake.hold, s.fake.waiting = nil, make(chan struct{}), make(chan struct{}, 1)
	got := s.later("GET /b01/small")
	<-s.fake.waiting
	time.AfterFunc(600*time.Millisecond, func() { close(s.fake.hold) })
	if a := <-got; a == nil || a.body != "x" {
		t.Errorf("slow engine: %+v", a)
	}
}

func TestVanishedClient(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.must("PUT /b01")
	s.must("PUT /b01/k\n\nx")
	s.fake.hold, s.fake.waiting = make(chan struct{}), make(chan struct{}, 1)
	c, _ := s.dial()
	say(t, c, s.head("GET /b01/k", -1))
	<-s.fake.waiting
	c.Close()
	// The hold is never released: only the end of the context ends the request.
	waitFor(t, func() bool { return gather(t, s)["ruche_s3_errors_total/GetObject,ClientClosedRequest"] == 1 })
}

// waitFor waits for what another goroutine is about to do.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("does not happen")
		}
	}
}

// gather returns metrics by name and label values; histograms by their count.
func gather(t *testing.T, s *store) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(s.gateway.Metrics()); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append([]string{l.GetValue()}, labels...)
			}
			key := f.GetName()
			if len(labels) > 0 {
				key += "/" + strings.Join(labels, ",")
			}
			all[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

func TestBrokenReply(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.must("PUT /b01")
	s.must("PUT /b01/k\n\n0123456789")
	s.fake.broken = true
	r := s.request("GET /b01/k")
	if err := s.signer.Sign(r, sigv4.UnsignedPayload, noon); err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(r)
	if err == nil {
		defer resp.Body.Close()
		_, err = io.ReadAll(resp.Body)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		t.Errorf("a half body looks whole: %v", err)
	}
	waitFor(t, func() bool { return gather(t, s)["ruche_s3_aborted_total/GetObject"] >= 1 }) // the client may have tried again
}

func TestPanic(t *testing.T) {
	t.Parallel()
	var logged safeBuffer
	s := start(t, func(o *gateway.Options) { o.Log = slog.New(slog.NewTextHandler(&logged, nil)) })
	s.must("PUT /b01")
	s.fake.panics = true
	if a := s.do("GET /b01/k"); a.StatusCode != 500 || a.code() != "InternalError" {
		t.Errorf("got %d %s", a.StatusCode, a.body)
	}
	if !strings.Contains(logged.String(), "fake: asked to") {
		t.Errorf("log: %s", logged.String())
	}
	s.must("HEAD /b01")
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestTooManyRequests(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *gateway.Options) { o.MaxRequests = 1 })
	s.must("PUT /b01")
	s.must("PUT /b01/k\n\nx")
	s.fake.hold, s.fake.waiting = make(chan struct{}), make(chan struct{}, 1)
	first := s.later("GET /b01/k")
	<-s.fake.waiting
	if a := s.do("GET /b01"); a.StatusCode != 503 || a.code() != "SlowDown" || a.Header.Get("Retry-After") == "" {
		t.Errorf("second request: %d %s", a.StatusCode, a.body)
	}
	if a := s.send(s.request("GET /health/live")); a.StatusCode != 200 {
		t.Errorf("health: %d", a.StatusCode)
	}
	close(s.fake.hold)
	if a := <-first; a == nil || a.body != "x" {
		t.Errorf("first request: %+v", a)
	}
	if n := gather(t, s)["ruche_s3_requests_refused_total"]; n != 1 {
		t.Errorf("%v refused", n)
	}
}

type sick struct{ ready, writable, maintenance error }

func (h sick) Ready(context.Context) error { return h.ready }

func (h sick) Writable(_ context.Context, maintenance bool) error {
	if maintenance {
		return h.maintenance
	}
	return h.writable
}

func TestHealth(t *testing.T) {
	t.Parallel()
	bad := errors.New("bad")
	tests := []struct {
		health gateway.HealthCheck
		path   string
		want   int
	}{
		{nil, "/health/ready", 200},
		{nil, "/minio/health/cluster", 200},
		{sick{bad, bad, bad}, "/health/live", 200},
		{sick{bad, nil, nil}, "/minio/health/ready", 503},
		{sick{nil, bad, bad}, "/health/cluster", 503},
		{sick{nil, nil, bad}, "/health/cluster", 200},
		{sick{nil, nil, bad}, "/health/cluster?maintenance=true", 412},
		{nil, "/health/other", 403}, // a key of the bucket health
	}
	for _, tt := range tests {
		s := start(t, func(o *gateway.Options) { o.Health = tt.health })
		if a := s.send(s.request("GET " + tt.path)); a.StatusCode != tt.want || a.Header.Get("X-Amz-Request-Id") == "" {
			t.Errorf("%s: got %d %v, want %d", tt.path, a.StatusCode, a.Header, tt.want)
		}
	}
	s := start(t, nil)
	s.must("PUT /health")
	s.must("PUT /health/live\n\nx")
	if a := s.must("GET /health/live"); a.body != "x" {
		t.Errorf("a bucket called health: %q", a.body)
	}
}

func TestSignatureMismatch(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.signer.Secret = "wrong"
	a := s.do("GET /b01/k?a=b")
	if a.StatusCode != 403 || a.code() != "SignatureDoesNotMatch" || !strings.Contains(a.body, "<CanonicalRequest>GET&#xa;/b01/k&#xa;") {
		t.Errorf("got %d %s", a.StatusCode, a.body)
	}
	if !strings.Contains(a.body, "<RequestId>"+a.Header.Get("X-Amz-Request-Id")+"</RequestId>") || a.Header.Get("X-Amz-Id-2") != "host-id" {
		t.Errorf("ids: %v %s", a.Header, a.body)
	}
	s.signer.AccessKey = "NOBODY"
	if a := s.do("GET /b01/k"); a.code() != "InvalidAccessKeyId" {
		t.Errorf("got %d %s", a.StatusCode, a.body)
	}
	s = start(t, func(o *gateway.Options) {
		o.Lookup = func(context.Context, string) (sigv4.Credentials, error) {
			return sigv4.Credentials{}, errors.New("metadata on fire")
		}
	})
	if a := s.do("GET /b01/k"); a.code() != "InternalError" || strings.Contains(a.body, "fire") {
		t.Errorf("got %d %s", a.StatusCode, a.body)
	}
}

// TestBehindProxy sends requests that were signed for a public name.
func TestBehindProxy(t *testing.T) {
	t.Parallel()
	presigned := func(s *store, method, host, path string) *http.Request {
		r, err := http.NewRequest(method, "https://"+host+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := s.signer.Presign(r, time.Hour, noon)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(signed)
		if err != nil {
			t.Fatal(err)
		}
		u.Scheme, u.Host = "http", s.addr
		r.URL, r.Host = u, ""
		return r
	}
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	tests := []struct {
		name   string
		change func(*gateway.Options)
		header http.Header
		want   int
	}{
		{"nothing said", nil, nil, 403},
		{"public URL", func(o *gateway.Options) { o.PublicURLs = []string{"https://other", "https://s3.example.org"} }, nil, 200},
		{"another public URL", func(o *gateway.Options) { o.PublicURLs = []string{"https://other"} }, nil, 403},
		{"trusted proxy", func(o *gateway.Options) { o.TrustedProxies = loopback },
			http.Header{"X-Forwarded-Host": {"s3.example.org"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-For": {"192.0.2.7, 127.0.0.3"}}, 200},
		{"untrusted proxy", func(o *gateway.Options) { o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
			http.Header{"X-Forwarded-Host": {"s3.example.org"}}, 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, tt.change)
			s.must("PUT /b01")
			s.must("PUT /b01/k\n\nx")
			r := presigned(s, "GET", "s3.example.org", "/b01/k")
			for name, v := range tt.header {
				r.Header[name] = v
			}
			if a := s.send(r); a.StatusCode != tt.want {
				t.Errorf("got %d %s", a.StatusCode, a.body)
			}
		})
	}
	s := start(t, func(o *gateway.Options) { o.TrustedProxies, o.Domains = loopback, []string{"s3.example.org"} })
	r := presigned(s, "PUT", "b01.s3.example.org", "/")
	r.Header.Set("X-Forwarded-Host", "b01.s3.example.org")
	if a := s.send(r); a.StatusCode != 200 {
		t.Errorf("virtual host behind a proxy: %d %s", a.StatusCode, a.body)
	}
	s.must("HEAD /b01")
}

type asked struct {
	mu    sync.Mutex
	calls []string
	deny  string
}

func (a *asked) Authorize(_ context.Context, id *sigv4.Identity, action, bucket, key string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, id.AccessKey+" "+action+" "+bucket+"/"+key)
	switch action {
	case a.deny:
		return errors.New("policy 12, statement 3")
	case "s3:DeleteBucket":
		return wire.NoSuchBucket
	}
	return nil
}

func TestAuthorizer(t *testing.T) {
	t.Parallel()
	who := &asked{deny: "s3:GetObject"}
	s := start(t, func(o *gateway.Options) { o.Authorizer = who })
	s.must("PUT /b01")
	s.must("PUT /b01/k\n\nx")
	if a := s.do("PUT /b01/copy\nX-Amz-Copy-Source: b01/k"); a.code() != "AccessDenied" || strings.Contains(a.body, "policy") {
		t.Errorf("copy of what may not be read: %d %s", a.StatusCode, a.body)
	}
	if a := s.do("DELETE /b01"); a.code() != "NoSuchBucket" {
		t.Errorf("an answer of the authorizer: %d %s", a.StatusCode, a.body)
	}
	want := accessKey + " s3:CreateBucket b01/|" + accessKey + " s3:PutObject b01/k|" + accessKey + " s3:PutObject b01/copy|" +
		accessKey + " s3:GetObject b01/k|" + accessKey + " s3:DeleteBucket b01/"
	if got := strings.Join(who.calls, "|"); got != want {
		t.Errorf("asked\n%s, want\n%s", got, want)
	}
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	var lines safeBuffer
	s := start(t, func(o *gateway.Options) { o.AccessLog = &lines })
	s.must("PUT /b01")
	s.must("PUT /b01/a%20b\nUser-Agent: say \"hi\"\n\nhello")
	s.must("GET /b01/a%20b\nRange: bytes=1-2\nReferer: http://r")
	s.do("GET /b01/none?versionId=null")
	r := s.request("GET /b01/a%20b")
	signed, err := s.signer.Presign(r, time.Hour, noon)
	if err != nil {
		t.Fatal(err)
	}
	if r.URL, err = url.Parse(signed); err != nil {
		t.Fatal(err)
	}
	s.send(r)
	waitFor(t, func() bool { return strings.Count(lines.String(), "\n") == 5 })
	timing := regexp.MustCompile(` \d+ (\d+|-) "`)
	got := timing.ReplaceAllString(strings.ReplaceAll(lines.String(), s.addr, "ADDRESS"), ` T T "`)
	agent := `"Go-http-client/1.1"`
	want := strings.Join([]string{
		`owner-id b01 [03/Feb/2026:12:00:00 +0000] 127.0.0.1 RUCHETESTKEY 0000000000000001 REST.PUT.BUCKET - "PUT /b01 HTTP/1.1" 200 - - - T T "-" ` + agent + ` - host-id SigV4 - AuthHeader ADDRESS - - - fr-metro`,
		`owner-id b01 [03/Feb/2026:12:00:00 +0000] 127.0.0.1 RUCHETESTKEY 0000000000000002 REST.PUT.OBJECT a%20b "PUT /b01/a%20b HTTP/1.1" 200 - - 5 T T "-" "say %22hi%22" - host-id SigV4 - AuthHeader ADDRESS - - - fr-metro`,
		`owner-id b01 [03/Feb/2026:12:00:00 +0000] 127.0.0.1 RUCHETESTKEY 0000000000000003 REST.GET.OBJECT a%20b "GET /b01/a%20b HTTP/1.1" 206 - 2 5 T T "http://r" ` + agent + ` - host-id SigV4 - AuthHeader ADDRESS - - - fr-metro`,
		`owner-id b01 [03/Feb/2026:12:00:00 +0000] 127.0.0.1 RUCHETESTKEY 0000000000000004 REST.GET.OBJECT none "GET /b01/none?versionId=null HTTP/1.1" 404 NoSuchVersion 271 - T T "-" ` + agent + ` null host-id SigV4 - AuthHeader ADDRESS - - - fr-metro`,
		`owner-id b01 [03/Feb/2026:12:00:00 +0000] 127.0.0.1 RUCHETESTKEY 0000000000000005 REST.GET.OBJECT a%20b "GET /b01/a%20b?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=RUCHETESTKEY%2F20260203%2Ffr-metro%2Fs3%2Faws4_request&X-Amz-Date=20260203T120000Z&X-Amz-Expires=3600&X-Amz-Signature=redacted&X-Amz-SignedHeaders=host HTTP/1.1" 200 - 5 5 T T "-" ` + agent + ` - host-id SigV4 - QueryString ADDRESS - - - fr-metro`,
	}, "\n") + "\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestAccessLogNeverWaits blocks the writer: requests go on and lines are
// counted as dropped.
func TestAccessLogNeverWaits(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	g, err := gateway.New(newFake(time.Now), gateway.Options{
		Lookup: lookup, Owner: wire.Owner{ID: "o"}, AccessLog: blocked{gate},
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 8000 { // more than the queue and the buffer hold
		g.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/b01/k", nil))
	}
	if n := gather(t, &store{t: t, gateway: g})["ruche_s3_access_log_dropped_total"]; n < 500 {
		t.Errorf("%v lines dropped", n)
	}
	close(gate)
	if err := g.Close(); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("Close = %v, want the writer's error", err)
	}
}

type blocked struct{ gate chan struct{} }

func (b blocked) Write(p []byte) (int, error) {
	<-b.gate
	return 0, errors.New("disk full")
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.must("PUT /b01")
	s.must("PUT /b01/k\n\nhello")
	s.must("GET /b01/k")
	s.do("GET /b01/none")
	s.do("PATCH /b01/none")
	want := map[string]float64{
		"ruche_s3_requests_total/PutObject,200":          1,
		"ruche_s3_requests_total/GetObject,404":          1,
		"ruche_s3_requests_total/Unknown,405":            1,
		"ruche_s3_errors_total/GetObject,NoSuchKey":      1,
		"ruche_s3_received_bytes_total/PutObject":        5,
		"ruche_s3_request_duration_seconds/GetObject":    2,
		"ruche_s3_requests_in_flight":                    0,
		"ruche_s3_requests_refused_total":                0,
		"ruche_s3_access_log_dropped_total":              0,
		"ruche_s3_errors_total/Unknown,MethodNotAllowed": 1,
		"ruche_s3_request_duration_seconds/CreateBucket": 1,
		"ruche_s3_requests_total/CreateBucket,200":       1,
	}
	waitFor(t, func() bool { return gather(t, s)["ruche_s3_requests_in_flight"] == 0 })
	got := gather(t, s)
	for name, n := range want {
		if v, ok := got[name]; v != n || !ok {
			t.Errorf("%s = %v (%v), want %v", name, v, ok, n)
		}
	}
}

// TestTLS serves over TLS behind Listen: net/http must not answer 417 there
// either, and the access log says how the connection was protected.
func TestTLS(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)

	var lines safeBuffer
	g, err := gateway.New(newFake(func() time.Time { return noon }), gateway.Options{
		Lookup: lookup, Owner: wire.Owner{ID: "o"}, Now: func() time.Time { return noon }, AccessLog: &lines,
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	srv := g.HTTP()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(gateway.Listen(l)) }()
	s := &store{
		t: t, url: "https://" + l.Addr().String(),
		client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}},
		signer: sigv4.Signer{AccessKey: accessKey, Secret: secret, Region: "x"},
	}
	a := s.do("PUT /b01\nExpect: the-unexpected")
	if a.StatusCode != 200 {
		t.Errorf("got %d %s", a.StatusCode, a.body)
	}
	s.client.CloseIdleConnections()
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	<-served
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if got := lines.String(); !strings.Contains(got, "SigV4 TLS_AES_128_GCM_SHA256 AuthHeader ") || !strings.Contains(got, " TLSv1.3 - - ") {
		t.Errorf("access log: %s", got)
	}
}

// TestLongList gets a list that is longer than what is buffered.
func TestLongList(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.must("PUT /b01")
	for i := range 1000 {
		s.must(fmt.Sprintf("PUT /b01/%s%04d", strings.Repeat("k", 100), i))
	}
	a := s.must("GET /b01?list-type=2")
	if n := strings.Count(a.body, "<Contents>"); n != 1000 || !strings.HasSuffix(a.body, "</ListBucketResult>") || a.ContentLength != -1 || a.Header.Get("Content-Type") != "application/xml" {
		t.Errorf("%d entries, length %d, %s", n, a.ContentLength, a.Header.Get("Content-Type"))
	}
}
