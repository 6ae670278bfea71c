package sigv4

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// The examples of the Amazon S3 API Reference, with its published key: pages
// "Signature Calculations for the Authorization Header: Transferring Payload
// in a Single Chunk", "... in Multiple Chunks", "... Trailing Headers" and
// "Using Query Parameters".
const (
	exampleKey    = "AKIAIOSFODNN7EXAMPLE"
	exampleSecret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	exampleScope  = exampleKey + "/20130524/us-east-1/s3/aws4_request"
	exampleHost   = "examplebucket.s3.amazonaws.com"
)

func exampleTime() time.Time { return time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC) }

func exampleLookup(_ context.Context, accessKey string) (Credentials, error) {
	if accessKey != exampleKey {
		return Credentials{}, fmt.Errorf("lookup: %w", ErrUnknownKey)
	}
	return Credentials{Secret: exampleSecret}, nil
}

// receive parses a request as net/http's server does.
func receive(t testing.TB, raw string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// transmit writes a request as net/http's client does and parses it again.
func transmit(t testing.TB, r *http.Request) *http.Request {
	t.Helper()
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		t.Fatal(err)
	}
	return receive(t, wire.String())
}

func verifyExample(r *http.Request) (*Identity, error) {
	return NewVerifier(Options{}).Verify(r, "", exampleTime(), exampleLookup)
}

const exampleSingleGet = "GET /test.txt HTTP/1.1\r\nHost: " + exampleHost + "\r\n" +
	"Authorization: AWS4-HMAC-SHA256 Credential=" + exampleScope + "," +
	"SignedHeaders=host;range;x-amz-content-sha256;x-amz-date," +
	"Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41\r\n" +
	"Range: bytes=0-9\r\nx-amz-content-sha256: " + EmptySHA256 + "\r\nx-amz-date: 20130524T000000Z\r\n\r\n"

const examplePresigned = "GET /test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256" +
	"&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z" +
	"&X-Amz-Expires=86400&X-Amz-SignedHeaders=host" +
	"&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404 HTTP/1.1\r\n" +
	"Host: " + exampleHost + "\r\n\r\n"

func TestExamplesOfSingleChunk(t *testing.T) {
	t.Parallel()
	simple := func(target, signature string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: " + exampleHost + "\r\n" +
			"Authorization: AWS4-HMAC-SHA256 Credential=" + exampleScope +
			", SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=" + signature + "\r\n" +
			"x-amz-date: 20130524T000000Z\r\nx-amz-content-sha256: " + EmptySHA256 + "\r\n\r\n"
	}
	for _, c := range []struct {
		name, raw, body string
		kind            Kind
		payload         Payload
	}{
		{"get object", exampleSingleGet, "", Header, PayloadSigned},
		{"put object", "PUT /test$file.text HTTP/1.1\r\nHost: " + exampleHost + "\r\n" +
			"Date: Fri, 24 May 2013 00:00:00 GMT\r\n" +
			"Authorization: AWS4-HMAC-SHA256 Credential=" + exampleScope + "," +
			"SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class," +
			"Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd\r\n" +
			"x-amz-date: 20130524T000000Z\r\nx-amz-storage-class: REDUCED_REDUNDANCY\r\n" +
			"x-amz-content-sha256: 44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072\r\n" +
			"Content-Length: 21\r\n\r\nWelcome to Amazon S3.", "Welcome to Amazon S3.", Header, PayloadSigned},
		{"get bucket lifecycle",
			simple("/?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"), "", Header, PayloadSigned},
		{"list objects",
			simple("/?max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"), "", Header, PayloadSigned},
		{"list objects, parameters the other way round",
			simple("/?prefix=J&max-keys=2", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"), "", Header, PayloadSigned},
		{"presigned get", examplePresigned, "", Presigned, PayloadUnsigned},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := receive(t, c.raw)
			id, err := verifyExample(r)
			if err != nil {
				t.Fatal(err)
			}
			if id.Kind != c.kind || id.Payload != c.payload || id.AccessKey != exampleKey || id.Region != "us-east-1" ||
				!id.Time.Equal(exampleTime()) || id.Length != int64(len(c.body)) {
				t.Errorf("identity %+v", id)
			}
			body := id.Body(r.Body)
			defer body.Close()
			if got, err := io.ReadAll(body); err != nil || string(got) != c.body {
				t.Errorf("body %q, %v; want %q", got, err, c.body)
			}
		})
	}
}

// streamExample builds the request of the multiple chunk examples.
func streamExample(mode, signedHeaders, signature, extra, body string) string {
	return "PUT /examplebucket/chunkObject.txt HTTP/1.1\r\nHost: s3.amazonaws.com\r\n" +
		"x-amz-date: 20130524T000000Z\r\nx-amz-storage-class: REDUCED_REDUNDANCY\r\n" +
		"Authorization: AWS4-HMAC-SHA256 Credential=" + exampleScope + ",SignedHeaders=" + signedHeaders +
		",Signature=" + signature + "\r\nx-amz-content-sha256: " + mode + "\r\nContent-Encoding: aws-chunked\r\n" +
		"x-amz-decoded-content-length: 66560\r\n" + extra +
		fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)) + body
}

func chunkedExample() string {
	return streamExample("STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
		"content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class",
		"4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9", "",
		"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n"+
			strings.Repeat("a", 65536)+"\r\n"+
			"400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n"+
			strings.Repeat("a", 1024)+"\r\n"+
			"0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n")
}

// trailerExample is the example of trailing headers; between stands between
// the trailing header's value and the signature.
func trailerExample(between, tail string) string {
	return streamExample("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
		"content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;x-amz-trailer",
		"106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e", "x-amz-trailer: x-amz-checksum-crc32c\r\n",
		"10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n"+
			strings.Repeat("a", 65536)+"\r\n"+
			"400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n"+
			strings.Repeat("a", 1024)+"\r\n"+
			"0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n"+
			"x-amz-checksum-crc32c:sOO8/Q=="+between+
			"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"+tail)
}

func TestExamplesOfMultipleChunks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, raw, trailer string }{
		{"signed chunks, Content-Length 66824", chunkedExample(), ""},
		{"signed trailer", trailerExample("\r\n", "\r\n\r\n"), "sOO8/Q=="},
		{"signed trailer as minio-go frames it", trailerExample("\n\r\n", "\r\n\r\n"), "sOO8/Q=="},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for name, wrap := range map[string]func(io.Reader) io.Reader{
				"whole": func(r io.Reader) io.Reader { return r }, "one byte": iotest.OneByteReader,
				"half": iotest.HalfReader, "data with EOF": iotest.DataErrReader,
			} {
				r := receive(t, c.raw)
				id, err := verifyExample(r)
				if err != nil {
					t.Fatal(err)
				}
				framed, err := io.ReadAll(r.Body)
				if err != nil {
					t.Fatal(err)
				}
				body := id.Body(wrap(bytes.NewReader(framed)))
				got, err := io.ReadAll(body)
				if err != nil || string(got) != strings.Repeat("a", 66560) {
					t.Fatalf("%s: read %d bytes, %v", name, len(got), err)
				}
				if v, _ := body.Trailer("x-amz-checksum-crc32c"); v != c.trailer {
					t.Errorf("%s: trailer %q, want %q", name, v, c.trailer)
				}
				if err := body.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if r := receive(t, chunkedExample()); r.ContentLength != 66824 {
		t.Errorf("the example's body has %d bytes, AWS's 66824", r.ContentLength)
	}
}

// TestExamplesTampered flips each kind of byte of the signed examples: none may
// end in io.EOF.
func TestExamplesTampered(t *testing.T) {
	t.Parallel()
	raw := trailerExample("\r\n", "\r\n\r\n")
	start := strings.Index(raw, "\r\n\r\n") + 4
	for _, at := range []int{0, 3, 5, 22, 60, 86, 88, 1000, 65623, 65624, 65625, 65630, 66735, 66737, 66824, 66834, 66840, len(raw) - start - 10} {
		b := []byte(raw)
		b[start+at] ^= 1
		r := receive(t, string(b))
		id, err := verifyExample(r)
		if err != nil {
			t.Fatal(err)
		}
		body := id.Body(r.Body)
		got, err := io.ReadAll(body)
		var refused *Error
		if !errors.As(err, &refused) || refused.Status != http.StatusBadRequest && refused.Status != http.StatusForbidden {
			t.Errorf("byte %d flipped: %d bytes, %v", at, len(got), err)
		}
		if len(got) == 66560 {
			t.Errorf("byte %d flipped: the whole content was handed out", at)
		}
		body.Close()
	}
}
