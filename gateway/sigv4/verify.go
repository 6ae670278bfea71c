package sigv4

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kind says where the signature of a request was found.
type Kind uint8

// The kinds of request.
const (
	Anonymous Kind = iota // no signature at all
	Header                // signed in the Authorization header
	Presigned             // signed in the query
)

// ErrUnknownKey is what a [Lookup] returns for an access key that does not
// exist or is disabled. The client is told InvalidAccessKeyId.
var ErrUnknownKey = errors.New("sigv4: unknown access key")

// Credentials are what verifies the requests of one access key.
type Credentials struct {
	Secret string
	// SessionToken is empty for a permanent key. Requests of a temporary key
	// must carry it in X-Amz-Security-Token; requests of a permanent one must
	// not carry any.
	SessionToken string
}

// String hides the secret.
func (Credentials) String() string { return "credentials (hidden)" }

// LogValue hides the secret from structured logs.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Lookup finds the credentials of an access key. It returns [ErrUnknownKey]
// (possibly wrapped) when there are none; any other error is handed through
// to the caller of Verify, wrapped. It is called at most once a request, and
// only for requests whose head is well-formed and in time.
type Lookup func(ctx context.Context, accessKey string) (Credentials, error)

// Options configure a [Verifier].
type Options struct {
	// Region of this server, such as "fr-metro". With StrictRegion it is the
	// only region accepted in a credential scope; otherwise any is.
	Region       string
	StrictRegion bool
	// CachedKeys bounds the derived signing keys that are kept: at most twice
	// as many are in memory. 0 means 1024.
	CachedKeys int
}

// Verifier verifies signatures. It is safe for concurrent use.
type Verifier struct {
	opts Options
	keys *keyCache

	scratches sync.Pool // *scratch, one a verification
	bodies    sync.Pool // *bodyBuffers, one a body between Body and Close
}

// NewVerifier returns a verifier.
func NewVerifier(opts Options) *Verifier {
	return &Verifier{
		opts:      opts,
		keys:      newKeyCache(cmp.Or(max(opts.CachedKeys, 0), 1024)),
		scratches: sync.Pool{New: func() any { return new(scratch) }},
		bodies:    sync.Pool{New: newBodyBuffers},
	}
}

// Identity is a verified request: who sent it and how its body is protected.
type Identity struct {
	Kind      Kind
	AccessKey string    // empty when anonymous
	Region    string    // region of the credential scope
	Time      time.Time // X-Amz-Date, zero when anonymous
	Payload   Payload
	// SHA256 is the body's hash as the client claims it; valid with
	// PayloadSigned only. Body compares it.
	SHA256 [32]byte
	// Length is the number of bytes of the body without framing: the decoded
	// length when the body is aws-chunked, else Content-Length; -1 when the
	// client did not say.
	Length int64
	// TrailerNames are the names of the x-amz-trailer header, lower case.
	TrailerNames []string

	bodies    *sync.Pool // the verifier's
	rawLength int64      // Content-Length, -1 when unknown
	key       [32]byte   // signing key, for chunks
	seed      [64]byte   // hex signature of the head, which the first chunk continues
	stamp     string     // X-Amz-Date as signed
	scope     string
}

// String says who sent the request and how, without the signing key.
func (id *Identity) String() string {
	if id.Kind == Anonymous {
		return "anonymous"
	}
	return id.AccessKey + " " + id.scope
}

// LogValue keeps the signing key out of structured logs.
func (id *Identity) LogValue() slog.Value { return slog.StringValue(id.String()) }

// Verify checks the head of r and returns who signed it. The body is not
// touched; read it through [Identity.Body]. A request without any signature
// gives an Identity of kind [Anonymous] and no error: whether that is allowed
// is the caller's decision.
//
// host is the host the client addressed, as it wrote it in the Host header
// (behind a proxy r.Host may be another); empty means r.Host. now is the time
// of the server. r must still have the headers that the client sent; a caller
// that removes one (Expect, say) does so afterwards.
//
// Errors are *[Error] for what the client did wrong; an error of lookup other
// than [ErrUnknownKey] comes back wrapped.
func (v *Verifier) Verify(r *http.Request, host string, now time.Time, lookup Lookup) (*Identity, error) {
	id, err := v.verify(r, cmp.Or(host, r.Host), now, lookup)
	if err != nil {
		return nil, err
	}
	return id, nil
}

func (v *Verifier) verify(r *http.Request, host string, now time.Time, lookup Lookup) (*Identity, error) {
	c, kind, bad := v.claim(r, now)
	if bad != nil {
		return nil, bad
	}
	id := &Identity{Kind: kind, bodies: &v.bodies}
	hash, bad := payloadHash(r.Header, &c, kind)
	if bad != nil {
		return nil, bad
	}
	if bad = id.setPayload(hash); bad != nil {
		return nil, bad
	}
	if kind == Anonymous {
		if id.Payload.chunksSigned() {
			return nil, invalidRequest("A body with signed chunks requires a signed request.")
		}
	} else if err := v.authenticate(r, host, &c, hash, id, lookup); err != nil {
		return nil, err
	}
	if bad = id.setLength(r); bad != nil {
		return nil, bad
	}
	return id, nil
}

// claim finds out how a request is signed and reads the signature's fields.
func (v *Verifier) claim(r *http.Request, now time.Time) (claim, Kind, *Error) {
	q, err := scanQuery(r.URL.RawQuery)
	if err != nil {
		return claim{}, Anonymous, err
	}
	auth := r.Header["Authorization"]
	inHeader := len(auth) > 1 || len(auth) == 1 && strings.TrimSpace(auth[0]) != ""
	switch {
	case inHeader && (q.signed || q.v2 || len(auth) > 1):
		return claim{}, Anonymous, invalidArgument("Only one auth mechanism allowed; only the X-Amz-Algorithm query "+
			"parameter, Signature query string parameter or the Authorization header should be specified",
			"Authorization", "")
	case q.signed:
		c, err := q.claim(&v.opts, now)
		return c, Presigned, err
	case q.v2:
		return claim{}, Anonymous, unsupportedMechanism()
	case !inHeader:
		return claim{}, Anonymous, nil
	}
	c, err := parseAuthorization(auth[0], &v.opts)
	if err != nil {
		return c, Header, err
	}
	if err := c.setTime(r.Header); err != nil {
		return c, Header, err
	}
	if skew := now.Sub(c.time); skew > maxSkew || skew < -maxSkew {
		return c, Header, tooSkewed(c.time, now)
	}
	if t := r.Header["X-Amz-Security-Token"]; len(t) > 0 {
		c.token = t[0]
	}
	return c, Header, nil
}

// payloadHash finds the last line of the canonical request. A presigned
// request is signed before its body is known, so a header counts there only if
// it is signed itself.
func payloadHash(h http.Header, c *claim, kind Kind) (string, *Error) {
	v := h["X-Amz-Content-Sha256"]
	switch kind {
	case Header:
		if len(v) == 0 || v[0] == "" {
			return "", invalidRequest("Missing required header for this request: x-amz-content-sha256")
		}
		return v[0], nil
	case Presigned:
		if c.contentSHA256 != "" {
			return c.contentSHA256, nil
		}
		if len(v) > 0 && isSigned(c.signedHeaders, "X-Amz-Content-Sha256") {
			return v[0], nil
		}
		return UnsignedPayload, nil
	}
	if len(v) > 0 && v[0] != "" {
		return v[0], nil
	}
	return UnsignedPayload, nil
}

// authenticate checks that the claim is true, and fills id.
func (v *Verifier) authenticate(r *http.Request, host string, c *claim, hash string, id *Identity, lookup Lookup) error {
	if c.date != c.stamp[:len(dayLayout)] {
		return c.malformed()("Invalid credential date %q. This date is not the same as X-Amz-Date: %q.", c.date, c.stamp[:len(dayLayout)])
	}
	c.signedHeaders = strings.ToLower(c.signedHeaders)
	if !sensibleList(c.signedHeaders) {
		return c.malformed()("the SignedHeaders are mal-formed; expecting distinct header names separated by %q.", ";")
	}
	if err := checkSignedHeaders(r.Header, c.signedHeaders); err != nil {
		return err
	}
	creds, err := lookup(r.Context(), c.accessKey)
	if errors.Is(err, ErrUnknownKey) {
		return refuse(http.StatusForbidden, "InvalidAccessKeyId",
			"The AWS Access Key Id you provided does not exist in our records.", Field{"AWSAccessKeyId", c.accessKey})
	}
	if err != nil {
		return fmt.Errorf("look access key up: %w", err)
	}
	id.AccessKey, id.Region, id.Time, id.stamp, id.scope = c.accessKey, c.region, c.time, c.stamp, c.scope
	id.key = v.keys.get(keyID{c.accessKey, c.date, c.region}, creds.Secret)
	if err := v.compare(r, host, c, hash, id); err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(creds.SessionToken), []byte(c.token)) != 1 {
		return refuse(http.StatusBadRequest, "InvalidToken", "The provided token is malformed or otherwise invalid.")
	}
	return nil
}

// compare builds the canonical request and compares its signature. An escaped
// slash in the path is ambiguous, for clients sign it as "/" or as "%2F": both
// are tried.
func (v *Verifier) compare(r *http.Request, host string, c *claim, hash string, id *Identity) error {
	s := v.scratches.Get().(*scratch)
	defer s.release(&v.scratches)
	in := canonical{
		request: r, host: host, signedHeaders: c.signedHeaders, payloadHash: hash, presigned: c.presigned,
	}
	for {
		if err := s.build(in); err != nil {
			return err
		}
		id.seed = s.sign(&id.key, id.stamp, id.scope)
		if subtle.ConstantTimeCompare(id.seed[:], []byte(c.signature)) == 1 {
			return nil
		}
		if in.keepSlash || !escapesSlash(r.URL.RawPath) {
			return mismatch(c.accessKey, c.signature, s.sts[hmacBlock:], s.buf)
		}
		in.keepSlash = true
	}
}

func escapesSlash(rawPath string) bool {
	return strings.Contains(rawPath, "%2F") || strings.Contains(rawPath, "%2f")
}

// checkSignedHeaders refuses a request whose signature does not cover the host
// or one of the x-amz-* headers. The payload hash is covered by the last line
// of the canonical request in any case.
func checkSignedHeaders(h http.Header, signed string) *Error {
	var missing []string
	if !isSigned(signed, "Host") {
		missing = append(missing, "host")
	}
	for name := range h {
		if len(missing) == maxNamed {
			break // a hostile request could make this loop long
		}
		if len(name) > 6 && strings.EqualFold(name[:6], "x-amz-") && name != "X-Amz-Content-Sha256" && !isSigned(signed, name) {
			missing = append(missing, strings.ToLower(name))
		}
	}
	if missing == nil {
		return nil
	}
	slices.Sort(missing)
	return headersNotSigned(strings.Join(missing, ", "))
}

const (
	maxSignedHeadersBytes = 8 << 10 // AWS takes no more for all headers with their values
	maxNamed              = 8       // headers named in an error
)

// sensibleList checks a list of signed headers: not too long, and no name
// twice, or a small request could make a huge canonical one.
func sensibleList(signed string) bool {
	if len(signed) > maxSignedHeadersBytes {
		return false
	}
	sorted, last := true, ""
	for name := range strings.SplitSeq(signed, ";") {
		sorted = sorted && name > last
		last = name
	}
	if sorted {
		return true
	}
	seen := make(map[string]bool)
	for name := range strings.SplitSeq(signed, ";") {
		if name == "" || seen[name] {
			return false
		}
		seen[name] = true
	}
	return true
}

// isSigned reports whether a header is in a list of signed headers.
func isSigned(signed, name string) bool {
	for signed != "" {
		var token string
		token, signed, _ = strings.Cut(signed, ";")
		if strings.EqualFold(token, name) {
			return true
		}
	}
	return false
}
