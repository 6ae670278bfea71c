package sigv4

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"testing"
)

func BenchmarkVerifyHeader(b *testing.B) { benchmarkVerify(b, exampleSingleGet) }

func BenchmarkVerifyPresigned(b *testing.B) { benchmarkVerify(b, examplePresigned) }

func benchmarkVerify(b *testing.B, raw string) {
	r := receive(b, raw)
	v := NewVerifier(Options{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(r, "", exampleTime(), exampleLookup); err != nil {
			b.Fatal(err)
		}
	}
}

// framed makes a streaming request and its body.
func framed(tb testing.TB, content []byte, o StreamOptions) (*http.Request, []byte) {
	tb.Helper()
	r, err := http.NewRequest(http.MethodPut, "http://s3.test/bucket/key", nil)
	if err != nil {
		tb.Fatal(err)
	}
	s := Signer{AccessKey: exampleKey, Secret: exampleSecret, Region: "fr-metro"}
	if err := s.SignStreaming(r, bytes.NewReader(content), int64(len(content)), o, exampleTime()); err != nil {
		tb.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		tb.Fatal(err)
	}
	if int64(len(body)) != r.ContentLength {
		tb.Fatalf("framed body has %d bytes, Content-Length says %d", len(body), r.ContentLength)
	}
	return r, body
}

func benchmarkBody(b *testing.B, size int, o StreamOptions) {
	r, body := framed(b, make([]byte, size), o)
	id, err := verifyExample(r)
	if err != nil {
		b.Fatal(err)
	}
	benchmarkReads(b, id, body, size)
}

func benchmarkReads(b *testing.B, id *Identity, body []byte, size int) {
	buf := make([]byte, 256<<10)
	source := bytes.NewReader(nil)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		source.Reset(body)
		in := id.Body(source)
		for {
			if _, err := in.Read(buf); err == io.EOF {
				break
			} else if err != nil {
				b.Fatal(err)
			}
		}
		in.Close()
	}
}

func BenchmarkBodyStreamingSigned4KiB(b *testing.B) { benchmarkBody(b, 4<<10, StreamOptions{}) }

func BenchmarkBodyStreamingSigned1MiB(b *testing.B) { benchmarkBody(b, 1<<20, StreamOptions{}) }

func BenchmarkBodyStreamingUnsigned1MiB(b *testing.B) {
	benchmarkBody(b, 1<<20, StreamOptions{Unsigned: true, TrailerName: "x-amz-checksum-crc32", TrailerBytes: 8,
		Trailer: func() string { return "AAAAAA==" }})
}

func BenchmarkBodySHA256_1MiB(b *testing.B) {
	body := make([]byte, 1<<20)
	sum := sha256.Sum256(body)
	r, err := http.NewRequest(http.MethodPut, "http://s3.test/bucket/key", bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	s := Signer{AccessKey: exampleKey, Secret: exampleSecret, Region: "fr-metro"}
	if err := s.Sign(r, hex.EncodeToString(sum[:]), exampleTime()); err != nil {
		b.Fatal(err)
	}
	id, err := verifyExample(r)
	if err != nil {
		b.Fatal(err)
	}
	benchmarkReads(b, id, body, len(body))
}
