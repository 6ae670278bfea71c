package client

import (
	"bytes"
	"testing"
)

// The vectors are those of the S3 API reference: "Signature Calculations for
// the Authorization Header: Transferring Payload in a Single Chunk", examples
// 1 to 4, and "... in Multiple Chunks".
const (
	vectorStamp = "20130524T000000Z"
	vectorHost  = "examplebucket.s3.amazonaws.com"
)

func vectorSigner() *signer {
	return &signer{accessKey: "AKIAIOSFODNN7EXAMPLE", secretKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", region: "us-east-1"}
}

func TestSign(t *testing.T) {
	t.Parallel()
	const putHash = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"
	s := vectorSigner() // one for all: nothing may be left from the request before
	for _, c := range []struct {
		name, method, path, query, payload string
		headers                            []header
		names, signature                   string
	}{
		{
			name: "get object", method: "GET", path: "/test.txt", payload: emptyHash,
			headers:   []header{{"host", vectorHost}, {"range", "bytes=0-9"}, {"x-amz-content-sha256", emptyHash}, {"x-amz-date", vectorStamp}},
			names:     "host;range;x-amz-content-sha256;x-amz-date",
			signature: "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
		}, {
			name: "put object", method: "PUT", path: "/test%24file.text", payload: putHash,
			headers:   []header{{"date", "Fri, 24 May 2013 00:00:00 GMT"}, {"host", vectorHost}, {"x-amz-content-sha256", putHash}, {"x-amz-date", vectorStamp}, {"x-amz-storage-class", "REDUCED_REDUNDANCY"}},
			names:     "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
			signature: "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
		}, {
			name: "get bucket lifecycle", method: "GET", path: "/", query: "lifecycle=", payload: emptyHash,
			headers:   []header{{"host", vectorHost}, {"x-amz-content-sha256", emptyHash}, {"x-amz-date", vectorStamp}},
			names:     "host;x-amz-content-sha256;x-amz-date",
			signature: "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
		}, {
			name: "list objects", method: "GET", path: "/", query: "max-keys=2&prefix=J", payload: emptyHash,
			headers:   []header{{"host", vectorHost}, {"x-amz-content-sha256", emptyHash}, {"x-amz-date", vectorStamp}},
			names:     "host;x-amz-content-sha256;x-amz-date",
			signature: "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
		},
	} {
		want := "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders=" + c.names + ", Signature=" + c.signature
		auth, signature := s.sign(nil, vectorStamp, c.method, c.path, c.query, c.headers, c.payload)
		if string(auth) != want || string(signature[:]) != c.signature {
			t.Errorf("%s: sign =\n%s\nwant\n%s", c.name, auth, want)
		}
	}
}

func TestSignChunks(t *testing.T) {
	t.Parallel()
	body := Bytes(bytes.Repeat([]byte("a"), 66560))
	if got := framedLength(body.Size); got != 66824 {
		t.Errorf("framedLength = %d, want 66824", got)
	}
	s := vectorSigner()
	_, signature := s.sign(nil, vectorStamp, "PUT", "/examplebucket/chunkObject.txt", "", []header{
		{"content-encoding", "aws-chunked"}, {"content-length", "66824"}, {"host", "s3.amazonaws.com"},
		{"x-amz-content-sha256", streamingHash}, {"x-amz-date", vectorStamp},
		{"x-amz-decoded-content-length", "66560"}, {"x-amz-storage-class", "REDUCED_REDUNDANCY"},
	}, streamingHash)
	if got, want := string(signature[:]), "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"; got != want {
		t.Errorf("seed signature %s, want %s", got, want)
	}
	for _, c := range []struct {
		off, length int64
		want        string
	}{
		{0, 65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"},
		{65536, 1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"},
		{66560, 0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"},
	} {
		digest := [64]byte([]byte(emptyHash))
		if c.length > 0 {
			var data []byte
			if data, digest = body.chunk(c.off); int64(len(data)) != c.length {
				t.Errorf("chunk at %d has %d bytes, want %d", c.off, len(data), c.length)
			}
		}
		signature = s.signChunk(vectorStamp, signature, digest)
		if got := string(signature[:]); got != c.want {
			t.Errorf("signature of the chunk at %d: %s, want %s", c.off, got, c.want)
		}
	}
}

func TestDayChanges(t *testing.T) {
	t.Parallel()
	headers := []header{{"host", vectorHost}, {"x-amz-date", "20130525T000001Z"}}
	s := vectorSigner()
	s.sign(nil, vectorStamp, "GET", "/", "", headers, emptyHash)
	_, got := s.sign(nil, "20130525T000001Z", "GET", "/", "", headers, emptyHash)
	_, want := vectorSigner().sign(nil, "20130525T000001Z", "GET", "/", "", headers, emptyHash)
	if got != want {
		t.Errorf("a signer of yesterday signs %s, a new one %s", got, want)
	}
}

func BenchmarkSign(b *testing.B) {
	s := vectorSigner()
	headers := []header{{"host", vectorHost}, {"x-amz-content-sha256", emptyHash}, {"x-amz-date", vectorStamp}}
	var auth []byte
	b.ReportAllocs()
	for b.Loop() {
		auth, _ = s.sign(auth[:0], vectorStamp, "GET", "/test.txt", "", headers, emptyHash)
	}
}
