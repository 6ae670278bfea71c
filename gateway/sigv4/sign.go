package sigv4

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Signer signs requests with one access key. It is safe for concurrent use;
// its fields must not change meanwhile.
type Signer struct {
	AccessKey    string
	Secret       string
	SessionToken string // sent and signed as X-Amz-Security-Token when not empty
	Region       string
}

// String names the access key and hides the secret.
func (s *Signer) String() string { return "signer of " + s.AccessKey }

// LogValue hides the secret from structured logs.
func (s *Signer) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Sign adds X-Amz-Date, X-Amz-Content-Sha256 and Authorization to r.
// payloadHash is the hex SHA-256 of the body, [UnsignedPayload] or one of the
// STREAMING- values for a body that is framed already. The host, all x-amz-*
// headers and the Content-Type, Content-MD5 and Content-Encoding of r are
// signed; headers may not change afterwards, others may be added.
func (s *Signer) Sign(r *http.Request, payloadHash string, now time.Time) error {
	_, err := s.sign(r, payloadHash, now)
	return err
}

// signed is what a streaming body continues from.
type signed struct {
	key          [32]byte
	seed         [64]byte
	stamp, scope string
}

func (s *Signer) sign(r *http.Request, payloadHash string, now time.Time) (signed, error) {
	out := s.begin(now)
	r.Header.Set("X-Amz-Date", out.stamp)
	r.Header.Set("X-Amz-Content-Sha256", payloadHash)
	if s.SessionToken != "" {
		r.Header.Set("X-Amz-Security-Token", s.SessionToken)
	}
	names := headersToSign(r.Header)
	if err := out.finish(r, names, payloadHash, false); err != nil {
		return out, err
	}
	r.Header.Set("Authorization", algorithm+" Credential="+s.AccessKey+"/"+out.scope+
		", SignedHeaders="+names+", Signature="+string(out.seed[:]))
	return out, nil
}

// begin fixes time, scope and key of a signature.
func (s *Signer) begin(now time.Time) signed {
	now = now.UTC()
	day := now.Format(dayLayout)
	return signed{
		key:   DeriveKey(s.Secret, day, s.Region),
		stamp: now.Format(stampLayout),
		scope: day + "/" + s.Region + "/" + service + "/" + terminator,
	}
}

// finish computes the signature.
func (o *signed) finish(r *http.Request, names, payloadHash string, presigned bool) error {
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	var sc scratch
	if err := sc.build(canonical{
		request: r, host: host, signedHeaders: names, payloadHash: payloadHash, presigned: presigned,
	}); err != nil {
		return err
	}
	o.seed = sc.sign(&o.key, o.stamp, o.scope)
	return nil
}

// headersToSign lists the headers that a signature covers, sorted.
func headersToSign(h http.Header) string {
	names := []string{"host"}
	for name := range h {
		switch lower := strings.ToLower(name); {
		case strings.HasPrefix(lower, "x-amz-"),
			lower == "content-type", lower == "content-md5", lower == "content-encoding":
			names = append(names, lower)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ";")
}

// Presign returns r's URL with a signature in the query, valid for expires
// (1 s to 7 days, whole seconds). Those headers of r that Sign would sign are
// signed and have to be sent with the URL. The body stays unsigned.
func (s *Signer) Presign(r *http.Request, expires time.Duration, now time.Time) (string, error) {
	if expires < time.Second || expires > maxExpires {
		return "", fmt.Errorf("sigv4: a presigned URL is valid for 1 s to 7 days, not %s", expires)
	}
	out := s.begin(now)
	names := headersToSign(r.Header)
	query := url.Values{
		"X-Amz-Algorithm":     {algorithm},
		"X-Amz-Credential":    {s.AccessKey + "/" + out.scope},
		"X-Amz-Date":          {out.stamp},
		"X-Amz-Expires":       {strconv.FormatInt(int64(expires/time.Second), 10)},
		"X-Amz-SignedHeaders": {names},
	}
	if s.SessionToken != "" {
		query.Set("X-Amz-Security-Token", s.SessionToken)
	}
	target := *r.URL
	if target.RawQuery != "" {
		target.RawQuery += "&"
	}
	target.RawQuery += query.Encode()
	request := *r
	request.URL = &target
	hash := UnsignedPayload
	if v := r.Header.Get("X-Amz-Content-Sha256"); v != "" {
		hash = v
	}
	if err := out.finish(&request, names, hash, true); err != nil {
		return "", err
	}
	target.RawQuery += "&X-Amz-Signature=" + string(out.seed[:])
	return target.String(), nil
}

// StreamOptions choose the form of a streaming body.
type StreamOptions struct {
	Unsigned   bool // chunks carry no signature
	ChunkBytes int  // content of a chunk; 0 means 64 KiB, at least 8 KiB
	// TrailerName and Trailer add one trailing header, such as
	// x-amz-checksum-crc32c. Trailer is called once all of the body was read.
	// Its value must have TrailerBytes bytes, which the Content-Length counts.
	TrailerName  string
	TrailerBytes int
	Trailer      func() string
}

// SignStreaming signs r for an aws-chunked body and replaces r.Body and
// r.ContentLength by the framed form of body, which has length bytes.
// Reading the new body fails when body is shorter or longer.
func (s *Signer) SignStreaming(r *http.Request, body io.Reader, length int64, o StreamOptions, now time.Time) error {
	if o.ChunkBytes == 0 {
		o.ChunkBytes = 64 << 10
	}
	switch {
	case length < 0:
		return errors.New("sigv4: a streaming body needs a length")
	case o.ChunkBytes < minChunkBytes:
		return fmt.Errorf("sigv4: chunks of %d bytes are smaller than %d", o.ChunkBytes, minChunkBytes)
	case (o.TrailerName == "") != (o.Trailer == nil):
		return errors.New("sigv4: a trailing header needs a name and a value")
	}
	mode := streaming
	switch {
	case o.Unsigned:
		mode = streamingUnsignedTrailer
	case o.TrailerName != "":
		mode = streamingTrailer
	}
	o.TrailerName = strings.ToLower(o.TrailerName)
	if o.TrailerName != "" {
		r.Header.Set("X-Amz-Trailer", o.TrailerName)
	}
	coding := awsChunked
	if v := StripChunked(strings.Join(r.Header["Content-Encoding"], ",")); v != "" {
		coding += "," + v
	}
	r.Header.Set("Content-Encoding", coding)
	r.Header.Set("X-Amz-Decoded-Content-Length", strconv.FormatInt(length, 10))
	out, err := s.sign(r, mode, now)
	if err != nil {
		return err
	}
	r.ContentLength = framedLength(length, o)
	r.Body = io.NopCloser(newFramer(body, length, o, out))
	r.GetBody = nil
	return nil
}
