package client

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"time"
)

// Payload says how the body of a request is signed.
type Payload int

const (
	// Streaming frames the body in chunks of 64 KiB that are signed one after
	// the other, as warp and minio-go do over plain HTTP.
	Streaming Payload = iota
	// Unsigned leaves the body out of the signature, as most clients do over TLS.
	Unsigned
	// Hashed signs the SHA-256 of the whole body.
	Hashed
)

// ChunkBytes is the length of a signed chunk; minio-go's.
const ChunkBytes = 64 << 10

const (
	algorithm      = "AWS4-HMAC-SHA256"
	chunkAlgorithm = "AWS4-HMAC-SHA256-PAYLOAD"
	streamingHash  = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	unsignedHash   = "UNSIGNED-PAYLOAD"
	emptyHash      = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	stampForm      = "20060102T150405Z"
	dayLength      = 8
)

// header is one signed header; the name in lower case.
type header struct{ name, value string }

// signer signs for one connection. It keeps the key of the day and its
// buffers, and is not for concurrent use.
type signer struct {
	accessKey, secretKey, region string

	day    string    // for which mac and scope were made
	scope  string    // DAY/REGION/s3/aws4_request
	mac    hash.Hash // keyed with the signing key
	digest hash.Hash
	buf    []byte
	sum    [sha256.Size]byte
}

// roll makes the signing key of a day.
// Source: AWS, "Create a signed AWS API request", step 4.
func (s *signer) roll(day string) {
	if s.day == day {
		return
	}
	key := []byte("AWS4" + s.secretKey)
	for _, part := range []string{day, s.region, "s3", "aws4_request"} {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(part))
		key = m.Sum(nil)
	}
	s.mac = hmac.New(sha256.New, key)
	if s.digest == nil {
		s.digest = sha256.New()
	}
	s.day, s.scope = day, day+"/"+s.region+"/s3/aws4_request"
}

// sign appends the value of the Authorization header to dst and returns it
// with the signature in hexadecimal. The headers are in the order of their
// names and hold x-amz-date; stamp is its value.
func (s *signer) sign(dst []byte, stamp, method, path, query string, headers []header, payload string) ([]byte, [2 * sha256.Size]byte) {
	s.roll(stamp[:dayLength])
	b := s.buf[:0]
	b = append(b, method...)
	b = append(b, '\n')
	b = append(b, path...)
	b = append(b, '\n')
	b = append(b, query...)
	b = append(b, '\n')
	for _, h := range headers {
		b = append(b, h.name...)
		b = append(b, ':')
		b = append(b, h.value...)
		b = append(b, '\n')
	}
	b = append(b, '\n')
	b = appendNames(b, headers)
	b = append(b, '\n')
	b = append(b, payload...)
	s.digest.Reset()
	s.digest.Write(b)
	canonical := s.digest.Sum(s.sum[:0])

	b = s.stringToSign(b[:0], algorithm, stamp)
	b = hex.AppendEncode(b, canonical)
	s.buf = b
	signature := s.seal(b)

	dst = append(dst, algorithm+" Credential="...)
	dst = append(dst, s.accessKey...)
	dst = append(dst, '/')
	dst = append(dst, s.scope...)
	dst = append(dst, ", SignedHeaders="...)
	dst = appendNames(dst, headers)
	dst = append(dst, ", Signature="...)
	return append(dst, signature[:]...), signature
}

// signChunk returns the signature of a chunk that follows the one, or the
// request, with the signature previous. digest is the SHA-256 of its bytes in
// hexadecimal.
// Source: AWS, "Signature Calculations for the Authorization Header:
// Transferring Payload in Multiple Chunks".
func (s *signer) signChunk(stamp string, previous, digest [2 * sha256.Size]byte) [2 * sha256.Size]byte {
	b := s.stringToSign(s.buf[:0], chunkAlgorithm, stamp)
	b = append(b, previous[:]...)
	b = append(b, '\n')
	b = append(b, emptyHash...)
	b = append(b, '\n')
	b = append(b, digest[:]...)
	s.buf = b
	return s.seal(b)
}

// stringToSign appends the lines that every string to sign begins with.
func (s *signer) stringToSign(b []byte, algorithm, stamp string) []byte {
	b = append(b, algorithm...)
	b = append(b, '\n')
	b = append(b, stamp...)
	b = append(b, '\n')
	b = append(b, s.scope...)
	return append(b, '\n')
}

// seal returns the HMAC of b in hexadecimal.
func (s *signer) seal(b []byte) (signature [2 * sha256.Size]byte) {
	s.mac.Reset()
	s.mac.Write(b)
	hex.Encode(signature[:], s.mac.Sum(s.sum[:0]))
	return signature
}

// appendNames appends the names of headers, separated by semicolons.
func appendNames(b []byte, headers []header) []byte {
	for i, h := range headers {
		if i > 0 {
			b = append(b, ';')
		}
		b = append(b, h.name...)
	}
	return b
}

// stamper formats times for x-amz-date and keeps the last one: the text
// changes once a second.
type stamper struct {
	second int64
	text   string
}

func (s *stamper) at(now time.Time) string {
	if second := now.Unix(); second != s.second || s.text == "" {
		s.second, s.text = second, now.UTC().Format(stampForm)
	}
	return s.text
}
