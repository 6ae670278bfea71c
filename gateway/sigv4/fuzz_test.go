package sigv4

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// refused fails the test unless err is a well-formed refusal.
func refused(t *testing.T, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code == "" || e.Message == "" || e.Status < 400 || e.Status > 501 {
		t.Fatalf("not a refusal: %v", err)
	}
	total := 0
	for _, f := range e.Details {
		total += len(f.Value)
	}
	if total > 1<<20 {
		t.Fatalf("the error has %d bytes", total)
	}
}

func FuzzAuthorization(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential="+exampleScope+",SignedHeaders=host;range;x-amz-date,Signature=00", "20130524T000000Z", "bytes=0-9")
	f.Add("AWS4-HMAC-SHA256 Credential=a/b/c/20130524//s3/aws4_request, SignedHeaders=;;, Signature=", "", "")
	f.Add("AWS x:y", "Fri, 24 May 2013 00:00:00 GMT", "a  b")
	f.Add("Basic eA==", "20130524T000000.0Z", "\x00")
	v := NewVerifier(Options{Region: "fr-metro"})
	f.Fuzz(func(t *testing.T, authorization, date, header string) {
		r := &http.Request{Method: "GET", Host: "h", URL: &url.URL{Path: "/b/k"}, Header: http.Header{
			"Authorization": {authorization}, "X-Amz-Date": {date}, "Range": {header}, "X-Amz-Content-Sha256": {UnsignedPayload},
		}}
		id, err := v.Verify(r, "", exampleTime(), exampleLookup)
		switch {
		case err != nil:
			refused(t, err)
		case id.Kind != Anonymous || strings.TrimSpace(authorization) != "":
			t.Fatalf("a fuzzed header was accepted: %+v", id)
		}
	})
}

func FuzzQuery(f *testing.F) {
	f.Add("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request" +
		"&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=00")
	f.Add("X-Amz-Expires=-1&X-Amz-Signature=%zz&&=&a=b=c")
	f.Add("AWSAccessKeyId=a&Signature=b&+=%2B")
	v := NewVerifier(Options{})
	f.Fuzz(func(t *testing.T, query string) {
		r := &http.Request{Method: "GET", Host: "h", URL: &url.URL{Path: "/b/k", RawQuery: query}, Header: http.Header{}}
		id, err := v.Verify(r, "", exampleTime(), exampleLookup)
		if err != nil {
			refused(t, err)
		} else if id.Kind != Anonymous {
			t.Fatalf("a fuzzed query was accepted: %+v", id)
		}
		// The canonical query is a fixed point: encoding it again changes nothing.
		var s scratch
		once, ok := s.appendQuery(nil, query, true)
		if !ok {
			return
		}
		twice, ok := s.appendQuery(nil, string(once), false)
		if !ok || !bytes.Equal(once, twice) {
			t.Fatalf("%q becomes %q and then %q", query, once, twice)
		}
		// The naive form of the same: sort what net/url decoded.
		if values, err := url.ParseQuery(query); err == nil && !strings.Contains(query, ";") && !values.Has("X-Amz-Signature") {
			total := 0
			for name, vs := range values {
				for _, v := range vs {
					total++
					pair := append(appendEncoded(nil, name, false), '=')
					if !bytes.Contains(once, appendEncoded(pair, v, false)) {
						t.Fatalf("%q lacks %q", once, pair)
					}
				}
			}
			if total > 0 && bytes.Count(once, []byte("&")) != total-1 {
				t.Fatalf("%q has not %d parameters", once, total)
			}
		}
	})
}

// FuzzChunked reads arbitrary bodies in every streaming form. A body that ends
// in io.EOF has the announced length; the same body cut anywhere does not.
func FuzzChunked(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\n"), uint16(5), uint8(0), uint16(3))
	f.Add([]byte("5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"), uint16(5), uint8(1), uint16(20))
	f.Add([]byte("0\r\nx-amz-checksum-crc32:a\n\r\n\r\n"), uint16(0), uint8(1), uint16(28))
	f.Add([]byte("0;chunk-signature="+strings.Repeat("0", 64)+"\r\n\r\n"), uint16(0), uint8(2), uint16(9))
	f.Add([]byte("fffffffffffffff\r\n"), uint16(9), uint8(3), uint16(1))
	f.Fuzz(func(t *testing.T, body []byte, length uint16, form uint8, cut uint16) {
		modes := []Payload{PayloadStreamingUnsignedTrailer, PayloadStreamingUnsignedTrailer, PayloadStreaming, PayloadStreamingTrailer}
		id := &Identity{
			Payload: modes[form%4], Length: int64(length), rawLength: int64(len(body)),
			bodies: &sync.Pool{New: newBodyBuffers}, stamp: "20130524T000000Z", scope: "20130524/fr-metro/s3/aws4_request",
		}
		if form%2 == 1 {
			id.TrailerNames = []string{"x-amz-checksum-crc32"}
		}
		got, err := drain(id, body)
		if err != nil {
			refused(t, err)
			return
		}
		if len(got) != int(length) || id.Payload.chunksSigned() {
			t.Fatalf("%d of %d bytes were accepted", len(got), length)
		}
		if int(cut) < len(body) {
			if _, err := drain(id, body[:cut]); err == nil {
				t.Fatalf("%d of %d bytes were accepted", cut, len(body))
			}
		}
	})
}

func drain(id *Identity, body []byte) ([]byte, error) {
	in := id.Body(bytes.NewReader(body))
	defer in.Close()
	return io.ReadAll(in)
}

// FuzzFraming breaks one byte of a well-signed body: it must not be accepted.
func FuzzFraming(f *testing.F) {
	f.Add(uint16(10), byte(1))
	f.Add(uint16(9000), byte(0x20))
	r, body := framed(f, bytes.Repeat([]byte("q"), 9000), StreamOptions{ChunkBytes: minChunkBytes,
		TrailerName: "x-amz-checksum-crc32", TrailerBytes: 2, Trailer: func() string { return "zz" }})
	id, err := verifyExample(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, at uint16, flip byte) {
		broken := bytes.Clone(body)
		broken[int(at)%len(broken)] ^= flip
		got, err := drain(id, broken)
		if err == nil && !bytes.Equal(got, bytes.Repeat([]byte("q"), 9000)) {
			t.Fatalf("byte %d ^ %#x: other content was accepted", at, flip)
		}
		if err != nil {
			refused(t, err)
		} else if flip != 0 && !harmless(body, broken) {
			t.Fatalf("byte %d ^ %#x was accepted", at, flip)
		}
	})
}

// harmless reports whether two framings differ only in the letter case of
// digits and names, or in blanks of the tail, which mean nothing.
func harmless(a, b []byte) bool {
	fold := func(x []byte) string {
		return strings.Map(func(c rune) rune {
			if strings.ContainsRune(" \t\r\n\v\f\u0085\u00a0", c) {
				return -1
			}
			return c
		}, strings.ToLower(string(x)))
	}
	return fold(a) == fold(b)
}

// FuzzSigned signs requests for any key, parameter and header: AWS's signer
// makes the same signature, we accept it, and not for another key.
func FuzzSigned(f *testing.F) {
	f.Add("a/../b//%2F+ é", "prefix", "a&b=c", " x  y ", "k")
	f.Add("\x00\x7f", "", "", "", "")
	f.Add("k", "X-Amz-Meta", "~!*'()", "a,  b", "K")
	s := Signer{AccessKey: exampleKey, Secret: exampleSecret, Region: "fr-metro"}
	aws4 := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	creds := aws.Credentials{AccessKeyID: exampleKey, SecretAccessKey: exampleSecret}
	f.Fuzz(func(t *testing.T, key, name, value, header, other string) {
		if strings.ContainsFunc(header, func(r rune) bool { return r < ' ' || r > '~' }) {
			return // signers do not agree on tabs, and net/http sends nothing else of these
		}
		path := "/bucket/" + key
		u := &url.URL{Scheme: "http", Host: "s3.test:9000", Path: path, RawPath: string(appendEncoded(nil, path, true))}
		u.RawQuery = strings.ReplaceAll(url.Values{name: {value, ""}}.Encode(), "+", "%20")
		request := func() *http.Request {
			return &http.Request{Method: "GET", URL: u, Host: u.Host, Header: http.Header{"X-Amz-Meta-A": {header, "x"}, "X-Amz-Content-Sha256": {EmptySHA256}}}
		}
		ours, theirs := request(), request()
		if err := s.Sign(ours, EmptySHA256, exampleTime()); err != nil {
			refused(t, err)
			return
		}
		if err := aws4.SignHTTP(t.Context(), creds, theirs, EmptySHA256, "s3", "fr-metro", exampleTime()); err != nil {
			t.Fatal(err)
		}
		if a, b := ours.Header.Get("Authorization"), theirs.Header.Get("Authorization"); a != b {
			t.Errorf("%s:\nours   %s\ntheirs %s", u, a, b)
		}
		if id, err := verifyExample(ours); err != nil || id.Kind == Anonymous {
			t.Errorf("%s: %+v, %v", u, id, err)
		}
		if other != key {
			path := "/bucket/" + other
			ours.URL = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: path, RawPath: string(appendEncoded(nil, path, true)), RawQuery: u.RawQuery}
			if _, err := verifyExample(ours); err == nil {
				t.Errorf("signed for %q, taken for %q", key, other)
			}
		}
	})
}
