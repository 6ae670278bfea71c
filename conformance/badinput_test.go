package conformance

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// prompt is how long a server may take to refuse nonsense.
const prompt = 20 * time.Second

// notServerError checks that there was an answer or a closed connection, and
// no failure of the server's own.
func notServerError(t *testing.T, name string, r *reply) {
	t.Helper()
	if r == nil {
		return
	}
	if r.status >= 500 && r.status != http.StatusNotImplemented && r.status != http.StatusHTTPVersionNotSupported {
		t.Errorf("%s: status %d\n%s", name, r.status, r.body)
	}
	if r.status < 300 {
		t.Errorf("%s: status %d, want a refusal", name, r.status)
	}
}

// Requests that are no HTTP, or HTTP that contradicts itself.
func TestMalformedHTTP(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	good := string(b.sign(call{method: http.MethodPut, path: b.path("key"), body: []byte("hello"), payload: unsignedPayload}).wire())
	length := func(value string) string {
		return strings.Replace(good, "Content-Length: 5\r\n", value, 1)
	}
	for name, wire := range map[string]string{
		"negative Content-Length":        length("Content-Length: -5\r\n"),
		"Content-Length is no number":    length("Content-Length: five\r\n"),
		"Content-Length over 64 bits":    length("Content-Length: 99999999999999999999999\r\n"),
		"two Content-Lengths":            length("Content-Length: 5\r\nContent-Length: 6\r\n"),
		"length and chunks":              strings.Replace(length("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), "\r\n\r\nhello", "\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 1),
		"unknown Transfer-Encoding":      length("Transfer-Encoding: zip\r\n"),
		"malformed HTTP chunk":           strings.Replace(length("Transfer-Encoding: chunked\r\n"), "\r\n\r\nhello", "\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n", 1),
		"no Host":                        strings.Replace(good, "Host:", "Hast:", 1),
		"no version":                     "GET /\r\n\r\n",
		"unknown version":                "GET / HTTP/9.9\r\nHost: x\r\n\r\n",
		"binary":                         "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		"header without a colon":         strings.Replace(good, "\r\n\r\n", "\r\nnonsense\r\n\r\n", 1),
		"header name with a space":       strings.Replace(good, "\r\n\r\n", "\r\nBad Name: x\r\n\r\n", 1),
		"NUL in a header":                strings.Replace(good, "\r\n\r\n", "\r\nX-Nul: a\x00b\r\n\r\n", 1),
		"headers of 2 MiB":               strings.Replace(good, "\r\n\r\n", "\r\nX-Long: "+strings.Repeat("a", 2*mib)+"\r\n\r\n", 1),
		"path with a bad percent":        "GET /" + b.name + "/%zz HTTP/1.1\r\nHost: x\r\n\r\n",
		"path cut inside a percent":      "GET /" + b.name + "/% HTTP/1.1\r\nHost: x\r\n\r\n",
		"path without a slash":           "GET key HTTP/1.1\r\nHost: x\r\n\r\n",
		"query with a bad percent":       "GET /" + b.name + "?prefix=%zz HTTP/1.1\r\nHost: x\r\n\r\n",
		"query with semicolons":          "GET /" + b.name + "?a;b;c HTTP/1.1\r\nHost: x\r\n\r\n",
		"path of 1 MiB":                  "GET /" + strings.Repeat("a", mib) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"CONNECT":                        "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
		"absolute URI of somebody else":  "GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
		"asterisk":                       "DELETE * HTTP/1.1\r\nHost: x\r\n\r\n",
		"Authorization of 100 KiB":       "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: AWS4-HMAC-SHA256 " + strings.Repeat("Credential=a,", 8000) + "\r\n\r\n",
		"thousands of signed headers":    "GET / HTTP/1.1\r\nHost: x\r\nX-Amz-Date: 20260101T000000Z\r\nAuthorization: AWS4-HMAC-SHA256 Credential=a/20260101/b/s3/aws4_request, SignedHeaders=" + strings.Repeat("a;", 20000) + "host, Signature=00\r\n\r\n",
		"Authorization of equal signs":   "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: AWS4-HMAC-SHA256 ====,,,,;;;;\r\n\r\n",
		"presigned with a doubled field": "GET /" + b.name + "/key?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a&X-Amz-Date=b&X-Amz-Expires=1&X-Amz-SignedHeaders=host&X-Amz-Signature=c HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := b.with(t)
			r := b.raw([]byte(wire), prompt)
			notServerError(t, name, r)
		})
	}
	t.Run("afterwards", func(t *testing.T) { b.with(t).wantAbsent("key") })
}

// A body that is shorter than declared leaves nothing behind.
func TestShortBodies(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for _, size := range []int{100, 20 * kib, 3 * mib} {
		data := noise(size, 80)
		crc := checksumNamed("CRC32")
		for name, c := range map[string]call{
			"plain":    {payload: unsignedPayload},
			"hashed":   {},
			"signed":   {chunks: &chunkedBody{mode: streamingSigned}},
			"unsigned": {chunks: &chunkedBody{mode: streamingUnsigned, trailer: query(crc.header, crc.sum(data))}},
		} {
			t.Run(fmt.Sprintf("%s of %d", name, size), func(t *testing.T) {
				t.Parallel()
				b := b.with(t)
				c.method, c.path, c.body = http.MethodPut, b.path(fmt.Sprint(name, size)), data
				wire := b.sign(c).wire()
				nc := b.dial()
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(prompt))
				nc.Write(wire[:len(wire)-size/3-20])
				// Half a close: the server sees the end of the body, and may
				// still say what it thinks of it.
				if half, ok := nc.(interface{ CloseWrite() error }); ok {
					half.CloseWrite()
				}
				var answer bytes.Buffer
				answer.ReadFrom(nc)
				if bytes.HasPrefix(answer.Bytes(), []byte("HTTP/1.1 2")) || bytes.HasPrefix(answer.Bytes(), []byte("HTTP/1.1 500")) {
					t.Errorf("answer %.200q", answer.Bytes())
				}
				nc.Close()
				b.wantAbsent(strings.TrimPrefix(c.path, "/"+b.name+"/"))
			})
		}
	}
}

// What comes behind the declared length is not part of the object.
func TestLongBody(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	s := b.sign(call{method: http.MethodPut, path: b.path("key"), body: []byte("hello"), payload: unsignedPayload})
	r := b.raw(append(s.wire(), " and more that is no request"...), prompt)
	if r == nil {
		t.Fatal("no answer")
	}
	r.want(http.StatusOK)
	b.get("key").want(http.StatusOK).wantBody([]byte("hello"))
	// With a signed hash of the longer body it is a mismatch.
	s = b.sign(call{method: http.MethodPut, path: b.path("other"), body: []byte("hello")})
	s.header.Set("Content-Length", "4")
	if r = b.raw(s.wire(), prompt); r == nil {
		t.Fatal("no answer")
	}
	r.wantError(http.StatusBadRequest, "XAmzContentSHA256Mismatch")
	b.wantAbsent("other")
}

// The body of a refused request is never taken for the next request.
func TestRefusedBodyIsNoRequest(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("x"))
	inner := b.sign(call{method: http.MethodDelete, path: b.path("key")}).wire()
	for _, size := range []int{0, 100 * kib, mib} {
		body := append(bytes.Repeat([]byte("\r\n"), size/2), inner...)
		outer := b.sign(call{method: http.MethodPut, path: b.path("other"), body: body, secretKey: "wrong"}).wire()
		next := b.sign(call{method: http.MethodGet, path: b.path("key")}).wire()
		nc := b.dial()
		nc.SetDeadline(time.Now().Add(prompt))
		nc.Write(append(outer, next...))
		in := bufio.NewReader(nc)
		first, err := readReply(t, in, "PUT refused")
		if err != nil {
			t.Logf("%d bytes: no answer to the first request: %v", size, err)
		} else {
			first.wantError(http.StatusForbidden, "SignatureDoesNotMatch")
			// The connection is closed, or the next request is answered.
			if second, err := readReply(t, in, "GET next"); err == nil {
				second.want(http.StatusOK).wantBody([]byte("x"))
			}
		}
		nc.Close()
		b.get("key").want(http.StatusOK)
	}
}

// Clients that vanish in the middle of uploads leave nothing, and others are
// served meanwhile and afterwards.
func TestVanishedClients(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	const clients, declared = 30, 64 * mib
	data := noise(512*kib, 81)
	var open []net.Conn
	for i := range clients {
		s := b.sign(call{method: http.MethodPut, path: b.path(fmt.Sprintf("vanished-%d", i)), payload: unsignedPayload})
		s.header.Set("Content-Length", itoa(declared))
		nc := b.dial()
		nc.SetDeadline(time.Now().Add(prompt))
		if _, err := nc.Write(s.wire()); err == nil {
			nc.Write(data)
		}
		open = append(open, nc)
	}
	b.put("meanwhile", data)
	b.get("meanwhile").want(http.StatusOK).wantBody(data)
	for _, nc := range open {
		nc.Close()
	}
	for i := range 5 {
		b.put(fmt.Sprintf("afterwards-%d", i), data)
	}
	if l := b.list("prefix", "vanished"); len(l.Contents) > 0 {
		t.Errorf("visible: %v", l.keys())
	}
}

// Clients that vanish while they read.
func TestVanishedReaders(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(8*mib, 82)
	b.put("key", data)
	for range 20 {
		nc := b.dial()
		nc.SetDeadline(time.Now().Add(prompt))
		nc.Write(b.sign(call{method: http.MethodGet, path: b.path("key")}).wire())
		nc.Read(make([]byte, 1000))
		nc.Close()
	}
	b.get("key").want(http.StatusOK).wantBody(data)
}

// A slow client is served as long as it goes on.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(40*kib, 83)
	wire := b.sign(call{method: http.MethodPut, path: b.path("key"), body: data, chunks: &chunkedBody{mode: streamingSigned, size: 8 * kib}}).wire()
	in, out := net.Pipe()
	done := make(chan *reply, 1)
	go func() { done <- readAll(b, in) }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for chunk := range chunksOf(wire, 2000) {
		<-tick.C
		if _, err := out.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	out.Close()
	r := <-done
	if r == nil {
		t.Fatal("no answer")
	}
	r.want(http.StatusOK)
	b.get("key").want(http.StatusOK).wantBody(data)
}

// readAll passes on what comes from in as a request and returns the answer.
func readAll(b *bucket, in net.Conn) *reply {
	nc := b.dial()
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(callLimit))
	buf := make([]byte, 4096)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if _, err := nc.Write(buf[:n]); err != nil {
				in.Close()
				break
			}
		}
		if err != nil {
			break
		}
	}
	r, err := readReply(b.t, bufio.NewReader(nc), "PUT slow")
	if err != nil {
		b.t.Error(err)
		return nil
	}
	return r
}

// chunksOf cuts b into pieces of n bytes.
func chunksOf(b []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			n := min(n, len(b))
			if !yield(b[:n]) {
				return
			}
			b = b[n:]
		}
	}
}

// XML that is none, or too much of it, is MalformedXML wherever XML is read.
func TestMalformedXML(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	u := b.create("key")
	deep := strings.Repeat("<a>", 100000)
	bomb := `<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><Delete><Object><Key>&b;</Key></Object></Delete>`
	outside := `<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><Delete><Object><Key>&a;</Key></Object></Delete>`
	bodies := map[string]string{
		"nothing but a declaration": `<?xml version="1.0"?>`,
		"deep":                      deep,
		"entities":                  bomb,
		"external entity":           outside,
		"not UTF-8":                 "<Delete><Object><Key>\xff\xfe</Key></Object></Delete>",
		"UTF-16":                    "\xff\xfe<\x00D\x00>\x00",
		"NUL":                       "<Delete><Object><Key>a\x00b</Key></Object></Delete>",
		"another charset":           `<?xml version="1.0" encoding="EBCDIC"?><Delete><Object><Key>a</Key></Object></Delete>`,
		"3 MiB of spaces":           "<Delete>" + strings.Repeat(" ", 3*mib),
		"wrong end":                 "<Delete><Object></Delete></Object>",
		"random":                    string(noise(1000, 84)),
	}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := b.with(t)
			for _, c := range []call{
				{method: http.MethodPost, path: "/" + b.name, query: query("delete?")},
				{method: http.MethodPost, path: b.path("key"), query: query("uploadId", u.id)},
				{method: http.MethodPut, path: "/" + randomName()},
			} {
				c.body = []byte(body)
				r := b.do(c)
				e := r.anError()
				if e == nil || r.status != http.StatusBadRequest {
					t.Errorf("%s: status %d %+v, want 400", r.call, r.status, e)
					continue
				}
				if e.Code != "MalformedXML" && e.Code != "MaxMessageLengthExceeded" && e.Code != "MissingRequestBodyError" && e.Code != "EntityTooLarge" {
					t.Errorf("%s: %s, want MalformedXML", r.call, e.Code)
				}
			}
		})
	}
}

// Query parameters with junk, one after the other, on each call that has some.
func TestJunkParameters(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("x"))
	junk := []string{"", "-1", "0", "x", "\x00", "\xff\xfe", "%", "99999999999999999999999", strings.Repeat("z", 5000), "../..", "<>&", "é", "1e9", " 1", "0x10"}
	names := []string{
		"max-keys", "marker", "prefix", "delimiter", "encoding-type", "continuation-token", "start-after", "fetch-owner", "list-type",
		"key-marker", "version-id-marker", "upload-id-marker", "max-uploads", "versionId", "partNumber", "uploadId", "max-parts", "part-number-marker",
		"max-buckets", "x-id", "unknown", "versions", "uploads", "attributes",
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := b.with(t)
			for _, value := range junk {
				for _, path := range []string{"/", "/" + b.name, b.path("key")} {
					r := b.do(call{method: http.MethodGet, path: path, query: query(name, value)})
					r.anError()
				}
			}
		})
	}
	b.get("key").want(http.StatusOK)
}

// Request headers with junk on the calls that read and write objects. A
// refusal is as good as an answer; a failure of the server is not.
func TestJunkHeaders(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("content"))
	names := []string{
		"Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Content-MD5", "Content-Type", "Expires", "Content-Encoding",
		"x-amz-copy-source", "x-amz-copy-source-range", "x-amz-copy-source-if-match", "x-amz-metadata-directive", "x-amz-storage-class", "x-amz-acl",
		"x-amz-checksum-crc32", "x-amz-checksum-mode", "x-amz-checksum-algorithm", "x-amz-checksum-type", "x-amz-sdk-checksum-algorithm", "x-amz-trailer",
		"x-amz-decoded-content-length", "x-amz-tagging", "x-amz-website-redirect-location", "x-amz-meta-a", "x-amz-object-attributes", "x-amz-max-parts",
		"x-amz-part-number-marker", "x-amz-mp-object-size", "x-amz-expected-bucket-owner", "x-amz-request-payer", "x-amz-bucket-object-lock-enabled",
		"x-amz-object-ownership", "x-amz-grant-read", "x-amz-write-offset-bytes", "Cookie", "Connection", "Upgrade", "Origin", "Forwarded", "X-Forwarded-Host",
	}
	junk := []string{"", "-1", "x", "bytes", "%%%", "\xff\xfe", "99999999999999999999999", strings.Repeat("z", 3000), ",,,", "/", "//", "\"", "é"}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := b.with(t)
			for _, value := range junk {
				for _, method := range []string{http.MethodGet, http.MethodPut} {
					// net/http does not send some of these; the raw wire does.
					c := call{method: method, path: b.path("junk"), header: headers(name, value)}
					if method == http.MethodPut {
						c.body = []byte("body")
					}
					if r := b.raw(b.sign(c).wire(), prompt); r != nil && r.status >= 500 && r.status != http.StatusNotImplemented {
						t.Errorf("%s: %.100q on %s: status %d\n%s", name, value, method, r.status, r.body)
					}
				}
			}
		})
	}
	b.get("key").want(http.StatusOK).wantBody([]byte("content"))
}

// Hundreds of idle connections do not keep others from being served.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for range 300 {
		nc := b.dial()
		defer nc.Close()
		if _, err := nc.Write([]byte("PUT /" + b.name + "/idle HTTP/1.1\r\nHost: x\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	b.put("key", []byte("x"))
	b.get("key").want(http.StatusOK).wantBody([]byte("x"))
}

// A client that never finishes its headers is disconnected in time.
func TestUnfinishedHeaders(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes as long as the server waits for headers")
	}
	c := connect(t)
	const limit = 75 * time.Second
	nc := c.dial()
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(limit))
	if _, err := nc.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")); err != nil {
		t.Fatal(err)
	}
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(nc); err != nil {
		if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			t.Errorf("still connected after %v", limit)
		}
	}
}
