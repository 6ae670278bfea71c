package conformance

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"
)

// framings lists the ways to frame a body, with a trailer where the mode has
// one.
func framings(data []byte) map[string]*chunkedBody {
	c := checksumNamed("CRC32")
	return map[string]*chunkedBody{
		"signed":           {mode: streamingSigned},
		"signed trailer":   {mode: streamingSignedTrail, trailer: query(c.header, c.sum(data))},
		"unsigned trailer": {mode: streamingUnsigned, trailer: query(c.header, c.sum(data))},
		"without trailer":  {mode: streamingUnsigned},
	}
}

// copyOf returns a framing that can be changed.
func (c *chunkedBody) copyOf(change func(*chunkedBody)) *chunkedBody {
	d := *c
	change(&d)
	return &d
}

func (b *bucket) putChunked(key string, data []byte, framing *chunkedBody, pairs ...string) *reply {
	b.t.Helper()
	return b.do(call{method: http.MethodPut, path: b.path(key), body: data, chunks: framing, header: headers(pairs...)})
}

// The framing is never stored, whatever the size of chunks.
func TestChunkedSizes(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for _, n := range []int{0, 1, 8191, 8192, 8193, 65536, 65537, 200000} {
		data := noise(n, byte(n))
		for name, framing := range framings(data) {
			for _, size := range []int{8192, 64 * kib, mib} {
				b.putChunked("key", data, framing.copyOf(func(c *chunkedBody) { c.size = size })).want(http.StatusOK)
				r := b.get("key").want(http.StatusOK).wantBody(data).wantHeader("Content-Encoding", "", "Content-Length", itoa(n))
				if t.Failed() {
					t.Fatalf("%s, %d bytes in chunks of %d: ETag %s", name, n, size, r.etag())
				}
			}
		}
	}
}

func TestChunkedTrailers(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(70*kib, 40)
	for _, mode := range []string{streamingSignedTrail, streamingUnsigned} {
		for _, c := range checksums() {
			t.Run(mode+" "+c.name, func(t *testing.T) {
				t.Parallel()
				b := b.with(t)
				key := mode + c.name
				good := &chunkedBody{mode: mode, trailer: query(c.header, c.sum(data))}
				b.putChunked(key, data, good, "x-amz-sdk-checksum-algorithm", c.name).want(http.StatusOK).wantHeader(c.header, c.sum(data))
				b.get(key, "x-amz-checksum-mode", "ENABLED").want(http.StatusOK).wantBody(data).wantHeader(c.header, c.sum(data))
				bad := func(code, value string) {
					t.Helper()
					framing := &chunkedBody{mode: mode, trailer: query(c.header, value)}
					b.putChunked("bad"+key, data, framing).wantError(http.StatusBadRequest, code)
					b.wantAbsent("bad" + key)
				}
				bad("BadDigest", c.sum(data[1:]))
				bad("InvalidRequest", "no base64!")
			})
		}
	}
}

// A checksum in a header needs no trailer.
func TestChunkedChecksumHeader(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(9000, 45)
	for _, mode := range []string{streamingSigned, streamingUnsigned} {
		for _, c := range checksums() {
			b.putChunked("key", data, &chunkedBody{mode: mode}, c.header, c.sum(data)).want(http.StatusOK).wantHeader(c.header, c.sum(data))
			b.putChunked("bad", data, &chunkedBody{mode: mode}, c.header, c.sum(data[1:])).wantError(http.StatusBadRequest, "BadDigest")
		}
	}
	b.get("key").want(http.StatusOK).wantBody(data)
	b.wantAbsent("bad")
	// Header and trailer are two checksums.
	crc, sha := checksumNamed("CRC32"), checksumNamed("SHA256")
	b.putChunked("bad", data, &chunkedBody{mode: streamingUnsigned, trailer: query(crc.header, crc.sum(data))}, sha.header, sha.sum(data)).
		wantError(http.StatusBadRequest, "InvalidRequest")
	b.wantAbsent("bad")
}

func TestChunkedMultipart(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(100*kib, 41)
	for name, framing := range framings(data) {
		key := strings.ReplaceAll(name, " ", "-")
		u := b.create(key)
		r := u.do(call{method: http.MethodPut, path: u.path(key), query: query("partNumber", "1", "uploadId", u.id), body: data, chunks: framing})
		u.tags[1] = r.want(http.StatusOK).etag()
		u.complete()
		b.get(key).want(http.StatusOK).wantBody(data)
	}
}

// Content-Encoding keeps what is not framing.
func TestChunkedContentEncoding(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(kib, 42)
	for sent, stored := range map[string]string{
		"aws-chunked": "", "aws-chunked,gzip": "gzip", "gzip,aws-chunked": "gzip", "gzip, aws-chunked": "gzip", "gzip": "gzip",
	} {
		b.putChunked("key", data, &chunkedBody{mode: streamingSigned, encoding: sent}).want(http.StatusOK)
		b.get("key").want(http.StatusOK).wantBody(data).wantHeader("Content-Encoding", stored)
	}
}

// aws-chunked together with another mode is decoded or refused, never stored.
func TestChunkedWithoutStreaming(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	framed := []byte("5\r\nhello\r\n0\r\n\r\n")
	for _, payload := range []string{"", unsignedPayload} {
		for _, pairs := range [][]string{
			{"Content-Encoding", "aws-chunked", "x-amz-decoded-content-length", "5"},
			{"Content-Encoding", "aws-chunked"},
			{"x-amz-decoded-content-length", "5"},
		} {
			r := b.do(call{method: http.MethodPut, path: b.path("key"), body: framed, payload: payload, header: headers(pairs...)})
			if r.status != http.StatusOK {
				r.anError()
				b.wantAbsent("key")
				continue
			}
			if got := b.get("key").want(http.StatusOK); bytes.Contains(got.body, []byte("\r\n")) {
				t.Errorf("%v, %q: framing was stored: %q", pairs, payload, got.body)
			}
			b.request(http.MethodDelete, "key", nil)
		}
	}
}

func TestChunkedRefusals(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(150*kib, 43)
	crc := checksumNamed("CRC32")
	trailer := query(crc.header, crc.sum(data))
	for _, tt := range []struct {
		name    string
		framing chunkedBody
		status  int
		codes   string
	}{
		{"first chunk's signature", chunkedBody{mode: streamingSigned, badChunk: 1}, 403, "SignatureDoesNotMatch"},
		{"second chunk's signature", chunkedBody{mode: streamingSigned, badChunk: 2}, 403, "SignatureDoesNotMatch"},
		{"last chunk's signature", chunkedBody{mode: streamingSigned, badChunk: 4}, 403, "SignatureDoesNotMatch"},
		{"trailer's signature", chunkedBody{mode: streamingSignedTrail, badTrailer: true, trailer: trailer}, 403, "SignatureDoesNotMatch"},
		{"decoded length too large", chunkedBody{mode: streamingSigned, decoded: itoa(len(data) + 1)}, 400, "IncompleteBody"},
		{"decoded length too small", chunkedBody{mode: streamingSigned, decoded: itoa(len(data) - 1)}, 400, "IncompleteBody"},
		{"unsigned, decoded length too large", chunkedBody{mode: streamingUnsigned, decoded: itoa(len(data) + 1)}, 400, "IncompleteBody"},
		{"unsigned, decoded length too small", chunkedBody{mode: streamingUnsigned, decoded: itoa(len(data) - 1)}, 400, "IncompleteBody"},
		{"no decoded length", chunkedBody{mode: streamingSigned, noSize: true}, 411, "MissingContentLength"},
		{"decoded length is no number", chunkedBody{mode: streamingSigned, decoded: "many"}, 411, "MissingContentLength"},
		{"negative decoded length", chunkedBody{mode: streamingSigned, decoded: "-5"}, 411, "MissingContentLength"},
		{"small inner chunk", chunkedBody{mode: streamingSigned, sizes: []int{8192, 100, 8192}}, 400, "InvalidChunkSizeError"},
		{"unsigned, small inner chunk", chunkedBody{mode: streamingUnsigned, sizes: []int{8192, 100, 8192}}, 400, "InvalidChunkSizeError"},
		{"trailer not announced", chunkedBody{mode: streamingUnsigned, trailer: trailer, noNames: true}, 400, "MalformedTrailerError"},
		{"signed trailer not announced", chunkedBody{mode: streamingSignedTrail, trailer: trailer, noNames: true}, 400, "MalformedTrailerError"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := b.with(t)
			key := strings.ReplaceAll(tt.name, " ", "-")
			r := b.putChunked(key, data, &tt.framing)
			if tt.status == 411 {
				// Recorded for AWS as 411; a value that is no number may
				// as well be an invalid argument.
				if e := r.anError(); e == nil || e.Code != "MissingContentLength" && e.Code != "InvalidArgument" {
					t.Errorf("status %d, %+v", r.status, e)
				}
			} else {
				r.wantError(tt.status, strings.Fields(tt.codes)...)
			}
			b.wantAbsent(key)
		})
	}
}

// Bodies that are no chunks. The codes are those recorded of AWS by the
// integration tests of versitygw.
func TestChunkedMalformed(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	crc := checksumNamed("CRC64NVME")
	sum := crc.sum([]byte("dummy data"))
	for _, tt := range []struct{ name, body, codes string }{
		{"line feed alone behind the size", "A\ndummy data\r\n0\r\n\r\n", "IncompleteBody"},
		{"no line end behind the data", "A\r\ndummy data0\r\n\r\n", "IncompleteBody"},
		{"size too large", "B\r\ndummy data\r\n0\r\n\r\n", "IncompleteBody"},
		{"no end", "A\r\ndummy data\r\n", "IncompleteBody"},
		{"no data", "A\r\n", "IncompleteBody"},
		{"no empty line at the end", "A\r\ndummy data\r\n0\r\n" + crc.header + ":" + sum + "\r\n", "IncompleteBody"},
		{"size is no number", "size\r\ndummy data\r\n0\r\n" + crc.header + ":" + sum + "\r\n\r\n", "IncompleteBody InvalidChunkSizeError"},
		{"negative size", "-A\r\ndummy data\r\n0\r\n\r\n", "IncompleteBody InvalidChunkSizeError"},
		{"size over 64 bits", "FFFFFFFFFFFFFFFFFF\r\ndummy data\r\n0\r\n\r\n", "IncompleteBody InvalidChunkSizeError"},
		{"size of 2^63", "8000000000000000\r\ndummy data\r\n0\r\n\r\n", "IncompleteBody InvalidChunkSizeError"},
		{"endless size line", strings.Repeat("0", 100*kib) + "A\r\ndummy data\r\n0\r\n\r\n", "IncompleteBody InvalidChunkSizeError"},
		{"empty body", "", "IncompleteBody"},
		{"announced trailer is missing", "A\r\ndummy data\r\n0\r\n\r\n", "MalformedTrailerError"},
		{"another trailer", "A\r\ndummy data\r\n0\r\nx-amz-checksum-crc32:aaaaaa==\r\n\r\n", "MalformedTrailerError"},
		{"trailer without a name", "A\r\ndummy data\r\n0\r\n:" + sum + "\r\n\r\n", "MalformedTrailerError"},
		{"trailer without a colon", "A\r\ndummy data\r\n0\r\n" + crc.header + "\r\n\r\n", "MalformedTrailerError"},
		{"endless trailer", "A\r\ndummy data\r\n0\r\n" + crc.header + ":" + strings.Repeat("A", 100*kib) + "\r\n\r\n", "MalformedTrailerError InvalidRequest IncompleteBody"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := b.with(t)
			key := strings.ReplaceAll(tt.name, " ", "-")
			r := b.do(call{
				method: http.MethodPut, path: b.path(key), body: []byte(tt.body), payload: streamingUnsigned,
				header: headers("Content-Encoding", "aws-chunked", "x-amz-decoded-content-length", "10", "x-amz-trailer", crc.header),
			})
			r.wantError(http.StatusBadRequest, strings.Fields(tt.codes)...)
			b.wantAbsent(key)
		})
	}
	t.Run("well-formed", func(t *testing.T) {
		b := b.with(t)
		b.do(call{
			method: http.MethodPut, path: b.path("good"), body: []byte("A\r\ndummy data\r\n0\r\n" + crc.header + ":" + sum + "\r\n\r\n"), payload: streamingUnsigned,
			header: headers("Content-Encoding", "aws-chunked", "x-amz-decoded-content-length", "10", "x-amz-trailer", crc.header),
		}).want(http.StatusOK)
	})
}

// aws-chunked inside the chunks of HTTP/1.1.
func TestChunkedTransferEncoding(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(100*kib, 44)
	// HTTP's own chunks around aws-chunked: no Content-Length at all, as
	// clients do that stream.
	for name, framing := range framings(data) {
		s := b.sign(call{method: http.MethodPut, path: b.path("key"), body: data, chunks: framing})
		body := s.body
		s.body = nil
		s.header.Set("Transfer-Encoding", "chunked")
		wire := s.wire()
		for chunk := range bytes.Lines(body) {
			wire = append(wire, []byte(hexLen(len(chunk)))...)
			wire = append(append(wire, chunk...), "\r\n"...)
		}
		wire = append(wire, "0\r\n\r\n"...)
		r := b.raw(wire, 30*time.Second)
		if r == nil {
			t.Fatalf("%s: no answer", name)
		}
		r.want(http.StatusOK)
		b.get("key").want(http.StatusOK).wantBody(data)
	}
}

func hexLen(n int) string {
	const digits = "0123456789abcdef"
	var out []byte
	for ; n > 0; n /= 16 {
		out = append([]byte{digits[n%16]}, out...)
	}
	return string(out) + "\r\n"
}
