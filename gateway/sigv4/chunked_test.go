package sigv4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

// unsignedRequest is a signed request with a body of unsigned chunks.
func unsignedRequest(t testing.TB, body string, decoded int64, trailer string, prepare ...func(*http.Request)) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodPut, "http://s3.test/bucket/key", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Encoding", "aws-chunked")
	r.Header.Set("X-Amz-Decoded-Content-Length", fmt.Sprint(decoded))
	if trailer != "" {
		r.Header.Set("X-Amz-Trailer", trailer)
	}
	for _, f := range prepare {
		f(r)
	}
	s := Signer{AccessKey: exampleKey, Secret: exampleSecret, Region: "fr-metro"}
	if err := s.Sign(r, streamingUnsignedTrailer, exampleTime()); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestUnsignedChunks(t *testing.T) {
	t.Parallel()
	const crc = "x-amz-checksum-crc32"
	big := strings.Repeat("x", minChunkBytes)
	for _, c := range []struct {
		name, body string
		decoded    int64
		trailer    string
		content    string
		code       string // of the refusal; none when empty
	}{
		{"one chunk", "5\r\nhello\r\n0\r\n\r\n", 5, "", "hello", ""},
		{"no content", "0\r\n\r\n", 0, "", "", ""},
		{"no content, trailer", "0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", 0, crc, "", ""},
		{"trailer", "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", 5, crc, "hello", ""},
		{"trailer, LF, as minio-go does", "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\n\r\n\r\n", 5, crc, "hello", ""},
		{"trailer, blanks and capitals", "5\r\nhello\r\n0\r\nX-Amz-Checksum-Crc32 : NhCmhg== \r\n\r\n", 5, crc, "hello", ""},
		{"trailer behind an empty line", "5\r\nhello\r\n0\r\n\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", 5, crc, "hello", ""},
		{"two trailers", "0\r\nx-amz-checksum-crc32:a\r\nx-amz-checksum-sha1:b\r\n\r\n", 0, crc + ", x-amz-checksum-sha1", "", ""},
		{"two chunks", "2000\r\n" + big + "\r\n1\r\ny\r\n0\r\n\r\n", minChunkBytes + 1, "", big + "y", ""},
		{"capital digits and extension", "A;x=y\r\n0123456789\r\n0\r\n\r\n", 10, "", "0123456789", ""},
		{"leading zeros", "000005\r\nhello\r\n000\r\n\r\n", 5, "", "hello", ""},

		{"small inner chunk", "5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", 10, "", "", "InvalidChunkSizeError"},
		{"inner chunk one byte short", "1fff\r\n" + big[1:] + "\r\n1\r\ny\r\n0\r\n\r\n", minChunkBytes, "", "", "InvalidChunkSizeError"},
		{"shorter than announced", "5\r\nhello\r\n0\r\n\r\n", 6, "", "", "IncompleteBody"},
		{"longer than announced", "5\r\nhello\r\n0\r\n\r\n", 4, "", "", "IncompleteBody"},
		{"a chunk too many", "2000\r\n" + big + "\r\n1\r\ny\r\n0\r\n\r\n", minChunkBytes, "", "", "IncompleteBody"},
		{"huge chunk", "fffffffffffffff\r\nhello\r\n0\r\n\r\n", 5, "", "", "IncompleteBody"},
		{"size out of range", "10000000000000005\r\nhello\r\n0\r\n\r\n", 5, "", "", "IncompleteBody"},
		{"no size", "\r\nhello\r\n0\r\n\r\n", 5, "", "", "IncompleteBody"},
		{"negative size", "-5\r\nhello\r\n0\r\n\r\n", 5, "", "", "IncompleteBody"},
		{"size with a prefix", "0x5\r\nhello\r\n0\r\n\r\n", 5, "", "", "IncompleteBody"},
		{"LF behind the size", "5\nhello\r\n0\r\n\r\n", 5, "", "", "IncompleteBody"},
		{"LF behind the data", "5\r\nhello\n0\r\n\r\n", 5, "", "", "IncompleteBody"},
		{"long extension", "5;" + strings.Repeat("x", 300) + "\r\nhello\r\n0\r\n\r\n", 5, "", "", "IncompleteBody"},
		{"very long extension", "5;" + strings.Repeat("x", 9000) + "\r\nhello\r\n0\r\n\r\n", 5, "", "", "IncompleteBody"},
		{"not framed at all", "hello", 5, "", "", "IncompleteBody"},
		{"nothing", "", 0, "", "", "IncompleteBody"},
		{"no last chunk", "5\r\nhello\r\n", 5, "", "", "IncompleteBody"},
		{"no empty line at the end", "5\r\nhello\r\n0\r\n", 5, "", "", "IncompleteBody"},
		{"trailer without empty line", "0\r\nx-amz-checksum-crc32:AAAAAA==\r\n", 0, crc, "", "IncompleteBody"},
		{"trailer cut off", "0\r\nx-amz-checksum-crc32:AAAA", 0, crc, "", "IncompleteBody"},

		{"announced trailer missing", "5\r\nhello\r\n0\r\n\r\n", 5, crc, "", "MalformedTrailerError"},
		{"trailer not announced", "0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", 0, "", "", "MalformedTrailerError"},
		{"another trailer", "0\r\nx-amz-checksum-sha1:AAAAAA==\r\n\r\n", 0, crc, "", "MalformedTrailerError"},
		{"the same trailer twice", "0\r\n" + crc + ":a\r\n" + crc + ":b\r\n\r\n", 0, crc + ",x-amz-checksum-sha1", "", "MalformedTrailerError"},
		{"trailer without colon", "0\r\nx-amz-checksum-crc32 AAAAAA==\r\n\r\n", 0, crc, "", "MalformedTrailerError"},
		{"very many trailers", "0\r\n" + strings.Repeat(crc+":a\r\n", 9) + "\r\n", 0, crc, "", "MalformedTrailerError"},
		{"long tail", "0\r\n" + strings.Repeat("\r\n", 9000), 0, "", "", "MalformedTrailerError"},
		{"long trailer", "0\r\n" + crc + ":" + strings.Repeat("a", 5000) + "\r\n\r\n", 0, crc, "", "IncompleteBody"},
		{"signature of a trailer where none is due", "0\r\nx-amz-trailer-signature:00\r\n\r\n", 0, "", "", "MalformedTrailerError"},
		{"data behind the end", "0\r\n\r\nhello", 0, "", "", "IncompleteBody"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := unsignedRequest(t, c.body, c.decoded, c.trailer)
			id, err := verifyExample(r)
			if err != nil {
				t.Fatal(err)
			}
			for name, wrap := range map[string]func(io.Reader) io.Reader{
				"whole": func(r io.Reader) io.Reader { return r }, "one byte": iotest.OneByteReader, "with EOF": iotest.DataErrReader,
			} {
				body := id.Body(wrap(strings.NewReader(c.body)))
				got, err := io.ReadAll(body)
				switch {
				case c.code != "":
					checkError(t, err, 400, c.code, "")
					if c.decoded > 0 && int64(len(got)) >= c.decoded {
						t.Errorf("%s: the whole content was handed out", name)
					}
				case err != nil || string(got) != c.content:
					t.Errorf("%s: read %q, %v; want %q", name, got, err, c.content)
				}
				body.Close()
			}
		})
	}
}

func TestStreamingHeadRefusals(t *testing.T) {
	t.Parallel()
	const body = "5\r\nhello\r\n0\r\n\r\n"
	for _, c := range []struct {
		name    string
		prepare func(*http.Request)
		status  int
		code    string
	}{
		{"no decoded length", func(r *http.Request) { r.Header.Del("X-Amz-Decoded-Content-Length") }, 411, "MissingContentLength"},
		{"negative length", set("X-Amz-Decoded-Content-Length", "-5"), 400, "InvalidArgument"},
		{"signed length", set("X-Amz-Decoded-Content-Length", "+5"), 400, "InvalidArgument"},
		{"huge length", set("X-Amz-Decoded-Content-Length", "99999999999999999999"), 400, "InvalidArgument"},
		{"garbage length", set("X-Amz-Decoded-Content-Length", "five"), 400, "InvalidArgument"},
		{"trailer that is no checksum", set("X-Amz-Trailer", "x-amz-meta-a"), 400, "InvalidRequest"},
		{"very many trailers", set("X-Amz-Trailer", strings.Repeat("x-amz-checksum-crc32,", 9)), 400, "InvalidRequest"},
	} {
		_, err := verifyExample(unsignedRequest(t, body, 5, "", c.prepare))
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			checkError(t, err, c.status, c.code, "")
		})
	}
}

// TestFramingIsNeverStored: a body that calls itself aws-chunked, with a hash
// that says otherwise, is refused unless its lengths prove it is not framed.
func TestFramingIsNeverStored(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		length  int64
		prepare func(*http.Request)
		refused bool
	}{
		{"aws-chunked", 5, set("Content-Encoding", "gzip, aws-chunked"), true},
		{"decoded length", 15, set("X-Amz-Decoded-Content-Length", "5"), true},
		{"both, length unknown", -1, func(r *http.Request) {
			set("Content-Encoding", "aws-chunked")(r)
			set("X-Amz-Decoded-Content-Length", "5")(r)
		}, true},
		{"equal lengths", 5, func(r *http.Request) {
			set("Content-Encoding", "aws-chunked")(r)
			set("X-Amz-Decoded-Content-Length", "5")(r)
		}, false},
		{"no body", 0, set("Content-Encoding", "aws-chunked"), false},
		{"another coding", 5, set("Content-Encoding", "gzip"), false},
	} {
		r := signedPut(t, func(r *http.Request) { r.ContentLength = c.length; c.prepare(r) })
		_, err := verifyExample(r)
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.refused {
				checkError(t, err, 400, "InvalidRequest", "aws-chunked")
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestOurStreams frames with our signer and reads it back, over the sizes
// around the limits of chunks.
func TestOurStreams(t *testing.T) {
	t.Parallel()
	trailer := func(o StreamOptions) StreamOptions {
		o.TrailerName, o.TrailerBytes = "X-Amz-Checksum-Crc32", 8
		o.Trailer = func() string { return "AAAAAA==" }
		return o
	}
	for _, size := range []int{0, 1, 8191, 8192, 8193, 64 << 10, 64<<10 + 1, 300000} {
		for name, o := range map[string]StreamOptions{
			"signed": {}, "signed, small chunks": {ChunkBytes: minChunkBytes}, "signed trailer": trailer(StreamOptions{}),
			"unsigned": {Unsigned: true}, "unsigned trailer": trailer(StreamOptions{Unsigned: true}),
		} {
			content := bytes.Repeat([]byte("abcdefgh"), size/8+1)[:size]
			r, body := framed(t, content, o)
			id, err := verifyExample(transmit(t, withBody(r, body)))
			if err != nil {
				t.Fatalf("%s %d: %v\n%s", name, size, err, details(err))
			}
			if id.Length != int64(size) {
				t.Errorf("%s %d: length %d", name, size, id.Length)
			}
			in := id.Body(bytes.NewReader(body))
			got, err := io.ReadAll(in)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s %d: read %d bytes, %v", name, size, len(got), err)
			}
			if v, ok := in.Trailer("x-amz-checksum-crc32"); ok != (o.Trailer != nil) || ok && v != "AAAAAA==" {
				t.Errorf("%s %d: trailer %q, %v", name, size, v, ok)
			}
			in.Close()
			in = id.Body(bytes.NewReader(body))
			whole := make([]byte, size)
			if _, err := io.ReadFull(in, whole); err != nil || !bytes.Equal(whole, content) {
				t.Errorf("%s %d: ReadFull: %v", name, size, err)
			}
			if n, err := in.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("%s %d: at the end %d, %v", name, size, n, err)
			}
			in.Close()
		}
	}
}

func withBody(r *http.Request, body []byte) *http.Request {
	r.Body = io.NopCloser(bytes.NewReader(body))
	return r
}

// TestTruncation cuts framed bodies at every byte.
func TestTruncation(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]StreamOptions{
		"signed":   {TrailerName: "x-amz-checksum-crc32", TrailerBytes: 1, Trailer: func() string { return "a" }},
		"unsigned": {Unsigned: true},
	} {
		r, body := framed(t, bytes.Repeat([]byte("z"), minChunkBytes+100), StreamOptions{
			Unsigned: o.Unsigned, ChunkBytes: minChunkBytes, TrailerName: o.TrailerName, TrailerBytes: o.TrailerBytes, Trailer: o.Trailer,
		})
		id, err := verifyExample(r)
		if err != nil {
			t.Fatal(err)
		}
		for cut := range len(body) {
			in := id.Body(bytes.NewReader(body[:cut]))
			got, err := io.ReadAll(in)
			if !errors.Is(err, &Error{Code: "IncompleteBody"}) {
				t.Errorf("%s, %d of %d bytes: read %d, %v", name, cut, len(body), len(got), err)
			}
			if int64(len(got)) == id.Length {
				t.Errorf("%s, %d of %d bytes: the whole content was handed out", name, cut, len(body))
			}
			in.Close()
		}
	}
}

func TestSignedTrailerMissing(t *testing.T) {
	t.Parallel()
	for between, code := range map[string]string{
		"\r\nx-amz-nothing:": "MalformedTrailerError", "\r\nx-amz-trailer-signature:0": "SignatureDoesNotMatch",
	} {
		raw := strings.Replace(trailerExample("\r\n", "\r\n\r\n"), "\r\nx-amz-trailer-signature:", between, 1)
		raw = strings.Replace(raw, "Content-Length: ", "X-Ignored: ", 1)
		r := receive(t, raw)
		id, err := verifyExample(r)
		if err != nil {
			t.Fatal(err)
		}
		id.rawLength = -1
		body := id.Body(strings.NewReader(raw[strings.Index(raw, "\r\n\r\n")+4:]))
		_, err = io.ReadAll(body)
		if !errors.Is(err, &Error{Code: code}) {
			t.Errorf("%q: %v, want %s", between, err, code)
		}
		body.Close()
	}
	// The trailer with no signature line at all.
	raw := trailerExample("\r\n\r\n", "")
	raw = raw[:strings.Index(raw, "x-amz-trailer-signature")]
	r := receive(t, raw)
	id, err := verifyExample(r)
	if err != nil {
		t.Fatal(err)
	}
	id.rawLength = -1
	body := id.Body(strings.NewReader(raw[strings.Index(raw, "\r\n\r\n")+4:]))
	defer body.Close()
	_, err = io.ReadAll(body)
	checkError(t, err, 400, "MalformedTrailerError", "")
}

func TestSignStreamingRefusals(t *testing.T) {
	t.Parallel()
	s := Signer{AccessKey: exampleKey, Secret: exampleSecret, Region: "fr-metro"}
	for name, c := range map[string]struct {
		length int64
		o      StreamOptions
	}{
		"unknown length": {-1, StreamOptions{}},
		"small chunks":   {5, StreamOptions{ChunkBytes: 100}},
		"name only":      {5, StreamOptions{TrailerName: "x-amz-checksum-crc32"}},
	} {
		r := signedPut(t, nil)
		if err := s.SignStreaming(r, strings.NewReader("hello"), c.length, c.o, exampleTime()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for name, c := range map[string]struct {
		length int64
		o      StreamOptions
	}{
		"short": {6, StreamOptions{}}, "long": {4, StreamOptions{}},
		"trailer of another length": {5, StreamOptions{TrailerName: "x-amz-checksum-crc32", TrailerBytes: 4, Trailer: func() string { return "x" }}},
	} {
		r := signedPut(t, nil)
		if err := s.SignStreaming(r, strings.NewReader("hello"), c.length, c.o, exampleTime()); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r.Body); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
