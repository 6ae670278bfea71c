package conformance

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

const (
	callLimit = 60 * time.Second // no request may take longer
	namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
	mib       = 1 << 20
	kib       = 1 << 10
	minPart   = 5 * mib // smallest part but the last
)

// endpoints is what TestMain found or started; read only afterwards.
var endpoints struct {
	targets []Target
	reason  error // why there are none
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run runs the tests between the start and the end of servers. A server that
// does not end cleanly fails the run.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	targets, stop, err := Targets(dir)
	endpoints.targets, endpoints.reason = targets, err
	if err != nil && !errors.Is(err, ErrNoTarget) {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		return 1
	}
	code := m.Run()
	if err := stop(code != 0); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		return 1
	}
	return code
}

// A conn is a client of one endpoint for one test.
type conn struct {
	Target
	t    testing.TB
	http *http.Client
}

// connect returns a client of the first endpoint, plain HTTP if there is a
// choice. Without an endpoint it skips the test, or fails it if required.
func connect(t testing.TB) *conn {
	t.Helper()
	return connectTo(t, 0)
}

// connectTo returns a client of endpoint i.
func connectTo(t testing.TB, i int) *conn {
	t.Helper()
	if endpoints.reason != nil {
		if Required() {
			t.Fatal(endpoints.reason)
		}
		t.Skip(endpoints.reason)
	}
	target := endpoints.targets[i]
	transport, err := target.Transport()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &conn{Target: target, t: t, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// everyTarget runs test as a parallel subtest for each endpoint.
func everyTarget(t *testing.T, test func(t *testing.T, c *conn)) {
	t.Helper()
	connect(t)
	for i, target := range endpoints.targets {
		t.Run(target.Name, func(t *testing.T) {
			t.Parallel()
			test(t, connectTo(t, i))
		})
	}
}

// with returns the same client for a subtest.
func (c *conn) with(t testing.TB) *conn { return &conn{Target: c.Target, t: t, http: c.http} }

// A reply is an answer that was read to its end.
type reply struct {
	t      testing.TB
	call   string // for messages
	status int
	header http.Header
	body   []byte
	close  bool // the server closes the connection
}

// do signs and sends a call and reads the answer. It checks what holds for
// every answer there is.
func (c *conn) do(call call) *reply {
	c.t.Helper()
	r, err := c.try(c.t.Context(), call)
	if err != nil {
		c.t.Fatalf("%s %s: %v", call.method, call.path, err)
	}
	return r
}

// try is do for calls that may fail to get any answer.
func (c *conn) try(ctx context.Context, call call) (*reply, error) {
	c.t.Helper()
	s := c.sign(call)
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	u, err := splitTarget(c.Endpoint, s.target)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, s.method, c.Endpoint, bytes.NewReader(s.body))
	if err != nil {
		return nil, err
	}
	req.URL, req.Host = u, s.host
	maps.Copy(req.Header, s.header)
	if len(req.Header["User-Agent"]) == 0 {
		req.Header.Set("User-Agent", "conformance")
	}
	answer, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer %s: %w", answer.Status, err)
	}
	r := &reply{t: c.t, call: s.method + " " + s.target, status: answer.StatusCode, header: answer.Header, body: body}
	r.general()
	return r, nil
}

// splitTarget makes a URL of an escaped path and query that is sent exactly as
// it is written.
func splitTarget(endpoint, target string) (*url.URL, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	path, query, hasQuery := strings.Cut(target, "?")
	u.RawQuery, u.ForceQuery = query, hasQuery && query == ""
	u.Opaque = path // sent as it is; see url.URL.RequestURI
	return u, nil
}

// dial opens a connection of its own to the server, TLS where the target is.
func (c *conn) dial() net.Conn {
	c.t.Helper()
	dialer := net.Dialer{Timeout: 10 * time.Second}
	plain, err := dialer.DialContext(c.t.Context(), "tcp", c.Host())
	if err != nil {
		c.t.Fatal(err)
	}
	if !c.Secure() {
		return plain
	}
	config, err := c.TLS()
	if err != nil {
		c.t.Fatal(err)
	}
	config.ServerName, _, _ = net.SplitHostPort(c.Host())
	return tls.Client(plain, config)
}

// raw sends bytes over a connection of its own and reads one answer. It
// returns nil if the server closed the connection without an answer, and fails
// the test if it does neither within limit.
func (c *conn) raw(wire []byte, limit time.Duration) *reply {
	c.t.Helper()
	nc := c.dial()
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(limit))
	// A server may answer and close before it has read everything.
	_, writeErr := nc.Write(wire)
	line, _, _ := strings.Cut(string(wire), "\r\n")
	r, err := readReply(c.t, bufio.NewReader(nc), line)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		c.t.Fatalf("%.100q: no answer within %v (write: %v)", line, limit, writeErr)
	}
	if err != nil {
		return nil
	}
	return r
}

// readReply reads one answer from a connection, skipping "100 Continue".
func readReply(t testing.TB, in *bufio.Reader, line string) (*reply, error) {
	method, _, _ := strings.Cut(line, " ")
	for {
		answer, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return nil, err
		}
		if answer.StatusCode == http.StatusContinue {
			continue
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			return nil, err
		}
		return &reply{t: t, call: line, status: answer.StatusCode, header: answer.Header, body: body, close: answer.Close}, nil
	}
}

// general checks what every answer must have: a request id, no server error,
// no body where HTTP allows none.
func (r *reply) general() {
	r.t.Helper()
	if r.header.Get("X-Amz-Request-Id") == "" {
		r.t.Errorf("%s: no x-amz-request-id among %v", r.call, r.header)
	}
	if r.status >= 500 && r.status != http.StatusNotImplemented {
		r.t.Errorf("%s: status %d\n%s", r.call, r.status, r.text())
	}
	if (r.status == http.StatusNoContent || r.status == http.StatusNotModified) && len(r.body) > 0 {
		r.t.Errorf("%s: status %d with a body of %d bytes", r.call, r.status, len(r.body))
	}
}

// String says what was answered.
func (r *reply) String() string {
	if r == nil {
		return "no answer"
	}
	return fmt.Sprintf("%s: status %d: %s", r.call, r.status, r.text())
}

// text is the body for messages: the beginning of it, quoted unless it is XML.
func (r *reply) text() string {
	const most = 1500
	body := r.body[:min(most, len(r.body))]
	if bytes.HasPrefix(body, []byte("<?xml")) {
		return string(body)
	}
	return fmt.Sprintf("%.300q", body)
}

// want checks the status and goes on with the same reply; another status ends
// the test.
func (r *reply) want(status int) *reply {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("%s: status %d, want %d\n%s", r.call, r.status, status, r.text())
	}
	return r
}

// wantHeader checks headers, given as names and values in turn. The value ""
// means that the header must be absent.
func (r *reply) wantHeader(pairs ...string) *reply {
	r.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		values := r.header.Values(pairs[i])
		switch got := strings.Join(values, ","); {
		case pairs[i+1] == "" && len(values) > 0:
			r.t.Errorf("%s: header %s is %q, want none", r.call, pairs[i], got)
		case got != pairs[i+1]:
			r.t.Errorf("%s: header %s is %q, want %q", r.call, pairs[i], got, pairs[i+1])
		}
	}
	return r
}

// wantBody compares the body with the bytes expected.
func (r *reply) wantBody(want []byte) *reply {
	r.t.Helper()
	if !bytes.Equal(r.body, want) {
		r.t.Errorf("%s: body of %d bytes with hash %s, want %d bytes with hash %s", r.call, len(r.body), hexHash(r.body), len(want), hexHash(want))
		r.t.Logf("%s: body: %s", r.call, r.text())
	}
	return r
}

// s3Error is the body of an error. Source: AWS, "Error Responses".
type s3Error struct {
	XMLName          xml.Name
	Code             string
	Message          string
	Resource         string
	RequestID        string `xml:"RequestId"`
	HostID           string `xml:"HostId"`
	Condition        string
	CanonicalRequest string
	StringToSign     string
	ServerTime       string
	ETag             string
}

// wantError checks that the answer is this error, in one of the codes given,
// with everything that belongs to an error.
func (r *reply) wantError(status int, codes ...string) *s3Error {
	r.t.Helper()
	e := r.anError()
	if e == nil {
		r.t.Fatalf("%s: no error in the answer, want %d %v", r.call, status, codes)
	}
	matches := false
	for _, code := range codes {
		matches = matches || e.Code == code
	}
	if r.status != status || !matches {
		r.t.Fatalf("%s: %d %s (%s), want %d %s", r.call, r.status, e.Code, e.Message, status, strings.Join(codes, " or "))
	}
	return e
}

// anError checks the form of an error and returns it. It returns nil if the
// answer is no error.
func (r *reply) anError() *s3Error {
	r.t.Helper()
	if r.status < 300 {
		return nil
	}
	if strings.HasPrefix(r.call, http.MethodHead+" ") {
		if len(r.body) > 0 {
			r.t.Errorf("%s: an answer to HEAD has a body: %q", r.call, r.body)
		}
		return &s3Error{}
	}
	e := new(s3Error)
	if err := strictXML(r.body, e); err != nil {
		r.t.Fatalf("%s: status %d, error body is not well-formed: %v\n%s", r.call, r.status, err, r.text())
	}
	if e.XMLName.Local != "Error" || e.XMLName.Space != "" {
		r.t.Errorf("%s: root element is %q in namespace %q, want Error without one", r.call, e.XMLName.Local, e.XMLName.Space)
	}
	if got := r.header.Get("Content-Type"); got != "application/xml" {
		r.t.Errorf("%s: Content-Type of an error is %q, want application/xml", r.call, got)
	}
	if e.Code == "" || e.Message == "" || e.Resource == "" || e.HostID == "" {
		r.t.Errorf("%s: error without Code, Message, Resource or HostId:\n%s", r.call, r.body)
	}
	if id := r.header.Get("X-Amz-Request-Id"); e.RequestID != id || id == "" {
		r.t.Errorf("%s: RequestId %q, header x-amz-request-id %q", r.call, e.RequestID, id)
	}
	return e
}

// wantXML checks that the answer is 200 with an XML document whose root is
// this element in S3's namespace, and parses it into v.
func (r *reply) wantXML(root string, v any) *reply {
	r.t.Helper()
	r.want(http.StatusOK)
	if got := r.header.Get("Content-Type"); got != "application/xml" {
		r.t.Errorf("%s: Content-Type is %q, want application/xml", r.call, got)
	}
	var top struct{ XMLName xml.Name }
	if err := strictXML(r.body, &top); err != nil {
		r.t.Fatalf("%s: not well-formed: %v\n%s", r.call, err, r.text())
	}
	if top.XMLName.Local != root || top.XMLName.Space != namespace {
		r.t.Fatalf("%s: root element %q in namespace %q, want %q in %q\n%s", r.call, top.XMLName.Local, top.XMLName.Space, root, namespace, r.body)
	}
	if v != nil {
		if err := xml.Unmarshal(r.body, v); err != nil {
			r.t.Fatalf("%s: %v\n%s", r.call, err, r.body)
		}
	}
	return r
}

// strictXML parses one whole document with an XML declaration.
func strictXML(text []byte, v any) error {
	if !bytes.HasPrefix(text, []byte("<?xml version=\"1.0\" encoding=\"UTF-8\"?>")) {
		return errors.New("no XML declaration at the start")
	}
	decoder := xml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(v); err != nil {
		return err
	}
	switch token, err := decoder.Token(); {
	case err == nil:
		if space, ok := token.(xml.CharData); ok && len(bytes.TrimSpace(space)) == 0 {
			return nil
		}
		return fmt.Errorf("%T after the document", token)
	case err != io.EOF:
		return err
	}
	return nil
}

// A bucket belongs to one test.
type bucket struct {
	*conn
	name string
}

// newBucket makes a bucket that is emptied and removed when the test ends.
func (c *conn) newBucket() *bucket {
	c.t.Helper()
	b := &bucket{conn: c, name: randomName()}
	c.do(call{method: http.MethodPut, path: "/" + b.name}).want(http.StatusOK)
	c.t.Cleanup(b.remove)
	return b
}

// with returns the same bucket for a subtest.
func (b *bucket) with(t testing.TB) *bucket { return &bucket{conn: b.conn.with(t), name: b.name} }

// randomName is a bucket name that nobody else uses.
func randomName() string { return "conf-" + strings.ToLower(rand.Text()) }

// remove deletes everything in the bucket and the bucket. It reports what does
// not go, because a leak here is a leak in the server.
func (b *bucket) remove() {
	ctx := context.WithoutCancel(b.t.Context())
	send := func(c call) (*reply, error) { return b.try(ctx, c) }
	for range 100 {
		r, err := send(call{method: http.MethodGet, path: "/" + b.name, query: query("list-type", "2", "encoding-type", "url")})
		if err != nil {
			b.t.Errorf("empty bucket: %v", err)
			return
		}
		if r.status == http.StatusNotFound {
			return
		}
		var list listing
		if err := xml.Unmarshal(r.body, &list); err != nil || len(list.Contents) == 0 {
			break
		}
		for _, o := range list.Contents {
			key, err := url.PathUnescape(o.Key)
			if err != nil {
				b.t.Errorf("empty bucket: key %q: %v", o.Key, err)
				return
			}
			if r, err := send(call{method: http.MethodDelete, path: "/" + b.name + "/" + key}); err != nil || r.status != http.StatusNoContent {
				b.t.Errorf("empty bucket: delete %q: %v, %v", key, r, err)
				return
			}
		}
	}
	b.abortAll(send)
	if r, err := send(call{method: http.MethodDelete, path: "/" + b.name}); err != nil || r.status != http.StatusNoContent {
		b.t.Errorf("delete bucket: %v, %v", r, err)
	}
}

// abortAll aborts the multipart uploads of the bucket.
func (b *bucket) abortAll(send func(call) (*reply, error)) {
	for range 10 {
		r, err := send(call{method: http.MethodGet, path: "/" + b.name, query: query("uploads?")})
		var list uploadListing
		if err != nil || xml.Unmarshal(r.body, &list) != nil || len(list.Upload) == 0 {
			return
		}
		for _, u := range list.Upload {
			send(call{method: http.MethodDelete, path: "/" + b.name + "/" + u.Key, query: query("uploadId", u.UploadID)})
		}
	}
}

// path is the decoded path of a key.
func (b *bucket) path(key string) string { return "/" + b.name + "/" + key }

// headers makes a header of names and values in turn.
func headers(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// request sends a signed request for a key, with headers as names and values
// in turn.
func (b *bucket) request(method, key string, body []byte, pairs ...string) *reply {
	b.t.Helper()
	return b.do(call{method: method, path: b.path(key), body: body, header: headers(pairs...)})
}

// put stores an object, which must succeed.
func (b *bucket) put(key string, body []byte, pairs ...string) *reply {
	b.t.Helper()
	return b.request(http.MethodPut, key, body, pairs...).want(http.StatusOK)
}

// get reads an object; it may fail.
func (b *bucket) get(key string, pairs ...string) *reply {
	b.t.Helper()
	return b.request(http.MethodGet, key, nil, pairs...)
}

// head asks for an object; it may fail.
func (b *bucket) head(key string, pairs ...string) *reply {
	b.t.Helper()
	return b.request(http.MethodHead, key, nil, pairs...)
}

// bucketGet asks the bucket something, with query parameters as for [query].
func (b *bucket) bucketGet(pairs ...string) *reply {
	b.t.Helper()
	return b.do(call{method: http.MethodGet, path: "/" + b.name, query: query(pairs...)})
}

// wantAbsent checks that nothing is visible under key, neither by name nor in
// the list.
func (b *bucket) wantAbsent(key string) {
	b.t.Helper()
	b.get(key).wantError(http.StatusNotFound, "NoSuchKey")
	for _, o := range b.list("prefix", key).Contents {
		if o.Key == key {
			b.t.Errorf("%q is in the list", key)
		}
	}
}

// etag returns the ETag of the answer, which must be quoted.
func (r *reply) etag() string {
	r.t.Helper()
	tag := r.header.Get("ETag")
	if len(tag) < 3 || tag[0] != '"' || tag[len(tag)-1] != '"' {
		r.t.Fatalf("%s: ETag %q is not a quoted string", r.call, tag)
	}
	return tag
}

// noise returns n bytes that no compression shortens, the same for the same
// seed.
func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	key := [32]byte{seed}
	mathrand.NewChaCha8(key).Read(b)
	return b
}
