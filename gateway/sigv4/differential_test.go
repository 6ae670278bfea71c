package sigv4

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/minio/minio-go/v7/pkg/signer"
)

// randomText draws from an alphabet that holds everything which is encoded,
// folded, split or normalised somewhere.
func randomText(rng *rand.Rand, most int) string {
	alphabet := []string{"a", "Z", "0", "-", "_", ".", "~", "/", "//", "/../", "/./", "+", "%", "%2F", "%20", " ", "  ",
		"=", "&", "?", "#", ";", ":", ",", "'", "\"", "(", ")", "*", "!", "@", "$", "é", "日本", "😀", "\u0301", "\x7f"}
	var b strings.Builder
	for range 1 + rng.IntN(most) {
		b.WriteString(alphabet[rng.IntN(len(alphabet))])
	}
	return b.String()
}

// randomRequest makes a request as S3 clients do: the path escaped by S3's
// rules, the query in any order.
//
// Parameter names are of any bytes, or like those of S3 when plainNames is
// set: minio-go sorts parameters before it encodes them, AWS afterwards, which
// is another order for names that need encoding.
func randomRequest(t testing.TB, rng *rand.Rand, plainNames bool) *http.Request {
	t.Helper()
	path := "/bucket/" + randomText(rng, 12)
	u := &url.URL{Scheme: "http", Host: "s3.test:9000", Path: path, RawPath: string(appendEncoded(nil, path, true))}
	query := url.Values{}
	for i := range rng.IntN(5) {
		name := randomText(rng, 3)
		if plainNames {
			name = fmt.Sprintf("%c-name.%d", 'A'+rng.IntN(60)/30*32+i, i)
		}
		query.Add(name, randomText(rng, 4))
	}
	if rng.IntN(3) == 0 {
		query.Set("uploads", "")
	}
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	methods := []string{"GET", "PUT", "HEAD", "DELETE", "POST"}
	r, err := http.NewRequest(methods[rng.IntN(len(methods))], "http://s3.test:9000/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.URL = u
	printable := func() string {
		return strings.Map(func(c rune) rune {
			if c < ' ' || c > '~' {
				return 'x'
			}
			return c
		}, randomText(rng, 10))
	}
	for i := range rng.IntN(4) {
		r.Header.Set(fmt.Sprintf("X-Amz-Meta-%c", 'a'+i), " "+printable()+"  "+printable()+" ")
	}
	if rng.IntN(2) == 0 {
		r.Header.Set("Content-Type", printable())
	}
	if rng.IntN(4) == 0 {
		r.Header["X-Amz-Meta-Twice"] = []string{"one", " two  three "}
	}
	return r
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 4)) }

// TestAgainstAWSSigner verifies what AWS's own signer for Go made.
func TestAgainstAWSSigner(t *testing.T) {
	t.Parallel()
	aws4 := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	creds := aws.Credentials{AccessKeyID: exampleKey, SecretAccessKey: exampleSecret}
	for seed := range uint64(2000) {
		rng := newRand(seed)
		r := randomRequest(t, rng, false)
		r.Header.Set("X-Amz-Content-Sha256", UnsignedPayload)
		if err := aws4.SignHTTP(t.Context(), creds, r, UnsignedPayload, "s3", "fr-metro", exampleTime()); err != nil {
			t.Fatal(err)
		}
		checkAccepted(t, seed, r)
	}
}

// TestAgainstAWSPresigner does the same for presigned URLs.
func TestAgainstAWSPresigner(t *testing.T) {
	t.Parallel()
	aws4 := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	creds := aws.Credentials{AccessKeyID: exampleKey, SecretAccessKey: exampleSecret}
	for seed := range uint64(2000) {
		r := randomRequest(t, newRand(seed), false)
		r.URL.RawQuery += "&X-Amz-Expires=60"
		signed, headers, err := aws4.PresignHTTP(t.Context(), creds, r, UnsignedPayload, "s3", "fr-metro", exampleTime())
		if err != nil {
			t.Fatal(err)
		}
		target, err := url.Parse(signed)
		if err != nil {
			t.Fatal(err)
		}
		r.URL = target
		headers.Del("Host")
		r.Header = headers
		id := checkAccepted(t, seed, r)
		if id != nil && id.Kind != Presigned {
			t.Fatalf("seed %d: kind %v", seed, id.Kind)
		}
	}
}

// checkAccepted verifies a request that was signed by somebody else, and that
// nothing signed can be changed.
func checkAccepted(t *testing.T, seed uint64, r *http.Request) *Identity {
	t.Helper()
	got := transmit(t, r)
	id, err := verifyExample(got)
	if err != nil {
		t.Errorf("seed %d: %s %s: %v\n%s", seed, r.Method, r.URL, err, details(err))
		return nil
	}
	got.URL.Path += "x"
	got.URL.RawPath = ""
	if _, err := verifyExample(got); err == nil {
		t.Errorf("seed %d: another path was accepted", seed)
	}
	return id
}

func details(err error) string {
	e, ok := err.(*Error)
	if !ok {
		return ""
	}
	for _, f := range e.Details {
		if f.Name == "CanonicalRequest" {
			return f.Value
		}
	}
	return fmt.Sprint(e.Details)
}

// TestAgainstMinioSigner verifies what minio-go's signer made. It signs for
// the present time only.
func TestAgainstMinioSigner(t *testing.T) {
	t.Parallel()
	v := NewVerifier(Options{})
	for seed := range uint64(1000) {
		rng := newRand(seed)
		r := randomRequest(t, rng, true)
		if rng.IntN(2) == 0 {
			r = signer.PreSignV4(*r, exampleKey, exampleSecret, "", "fr-metro", 600)
		} else {
			r.Header.Set("X-Amz-Content-Sha256", EmptySHA256)
			r = signer.SignV4(*r, exampleKey, exampleSecret, "", "fr-metro")
		}
		if _, err := v.Verify(transmit(t, r), "", time.Now(), exampleLookup); err != nil {
			t.Errorf("seed %d: %s %s: %v\n%s", seed, r.Method, r.URL, err, details(err))
		}
	}
}

// stdHasher is a SHA-256 in the form that minio-go wants.
type stdHasher struct{ hash.Hash }

func (stdHasher) Close() {}

// TestAgainstMinioStreaming reads the streaming bodies that minio-go frames.
func TestAgainstMinioStreaming(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 100, 64<<10 - 1, 64 << 10, 64<<10 + 1, 200000} {
		for _, form := range []string{"signed", "signed with trailer", "unsigned with trailer"} {
			t.Run(fmt.Sprintf("%s %d", form, size), func(t *testing.T) {
				t.Parallel()
				content := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
				r, err := http.NewRequest(http.MethodPut, "http://s3.test:9000/bucket/key", bytes.NewReader(content))
				if err != nil {
					t.Fatal(err)
				}
				trailer := http.Header{"X-Amz-Checksum-Crc32c": {"yZRlqg=="}}
				now := time.Now().UTC()
				switch form {
				case "signed with trailer":
					r.Trailer = trailer
					fallthrough
				case "signed":
					r = signer.StreamingSignV4(r, exampleKey, exampleSecret, "", "fr-metro", int64(size), now, stdHasher{sha256.New()})
				default:
					r.Header.Set("X-Amz-Content-Sha256", streamingUnsignedTrailer)
					r = signer.SignV4Trailer(*r, exampleKey, exampleSecret, "", "fr-metro", trailer)
				}
				if size == 0 {
					r.ContentLength = -1 // minio-go's figure is wrong; net/http then sends it chunked
				}
				got := transmit(t, r)
				id, err := NewVerifier(Options{}).Verify(got, "", time.Now(), exampleLookup)
				if err != nil {
					t.Fatalf("%v\n%s", err, details(err))
				}
				body := id.Body(got.Body)
				defer body.Close()
				data, err := io.ReadAll(body)
				if err != nil || !bytes.Equal(data, content) {
					t.Fatalf("read %d of %d bytes, %v\n%s", len(data), size, err, details(err))
				}
				if v, ok := body.Trailer("x-amz-checksum-crc32c"); ok != (form != "signed") || ok && v != "yZRlqg==" {
					t.Errorf("trailer %q, %v", v, ok)
				}
			})
		}
	}
}

// TestAgainstOurSigner closes the circle: what we sign, we accept, and AWS's
// signer makes the same signature of it.
func TestAgainstOurSigner(t *testing.T) {
	t.Parallel()
	s := Signer{AccessKey: exampleKey, Secret: exampleSecret, Region: "fr-metro"}
	aws4 := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	creds := aws.Credentials{AccessKeyID: exampleKey, SecretAccessKey: exampleSecret}
	sum := sha256.Sum256(nil)
	for seed := range uint64(500) {
		r := randomRequest(t, newRand(seed), false)
		theirs := r.Clone(context.Background())
		if err := s.Sign(r, hex.EncodeToString(sum[:]), exampleTime()); err != nil {
			t.Fatal(err)
		}
		theirs.Header.Set("X-Amz-Content-Sha256", EmptySHA256)
		if err := aws4.SignHTTP(t.Context(), creds, theirs, EmptySHA256, "s3", "fr-metro", exampleTime()); err != nil {
			t.Fatal(err)
		}
		if a, b := r.Header.Get("Authorization"), theirs.Header.Get("Authorization"); a != b {
			t.Errorf("seed %d:\nours   %s\ntheirs %s", seed, a, b)
		}
		checkAccepted(t, seed, r)
	}
	for seed := range uint64(200) {
		r := randomRequest(t, newRand(seed), false)
		signed, err := s.Presign(r, time.Hour, exampleTime())
		if err != nil {
			t.Fatal(err)
		}
		if r.URL, err = url.Parse(signed); err != nil {
			t.Fatal(err)
		}
		checkAccepted(t, seed, r)
	}
}
