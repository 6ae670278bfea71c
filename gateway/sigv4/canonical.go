package sigv4

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const (
	algorithm     = "AWS4-HMAC-SHA256"
	terminator    = "aws4_request"
	service       = "s3"
	stampLayout   = "20060102T150405Z"
	dayLayout     = "20060102"
	hmacBlock     = 64
	maxQueryPairs = 1024 // parameters of one query; S3 has no call with more than a dozen
)

// scratch is the memory of one verification or signature. Pooled, so that a
// verification allocates only what it returns.
type scratch struct {
	buf   []byte // canonical request
	sts   []byte // hmacBlock bytes for the key pad, then the string to sign
	query []byte // encoded parameters, in the order sent
	pairs []pair
}

// pair is one encoded parameter in scratch.query.
type pair struct{ start, equals, end int32 }

// maxKeptBytes bounds what a pooled buffer may keep after a huge request.
const maxKeptBytes = 16 << 10

// release gives s back to its pool.
func (s *scratch) release(pool *sync.Pool) {
	if cap(s.buf) <= maxKeptBytes && cap(s.query) <= maxKeptBytes {
		pool.Put(s)
	}
}

// canonical is everything that goes into a canonical request.
type canonical struct {
	request       *http.Request
	host          string
	signedHeaders string // lower case, separated by ";"
	payloadHash   string // as it stands in the last line
	presigned     bool   // leave X-Amz-Signature out of the query
	keepSlash     bool   // an escaped slash in the path stays "%2F"
}

// build makes the canonical request in s.buf. It fails when the query is not
// decodable.
func (s *scratch) build(c canonical) *Error {
	r := c.request
	b := append(s.buf[:0], r.Method...)
	b = append(b, '\n')
	switch {
	case r.URL.Path == "":
		b = append(b, '/')
	case c.keepSlash:
		b = appendRecoded(b, r.URL.EscapedPath())
	default:
		b = appendEncoded(b, r.URL.Path, true)
	}
	b = append(b, '\n')
	var ok bool
	if b, ok = s.appendQuery(b, r.URL.RawQuery, c.presigned); !ok {
		return invalidURI()
	}
	b = append(b, '\n')
	for rest := c.signedHeaders; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, ";")
		b = append(b, name...)
		b = append(b, ':')
		b = appendHeader(b, r, name, c.host)
		b = append(b, '\n')
	}
	b = append(b, '\n')
	b = append(b, c.signedHeaders...)
	b = append(b, '\n')
	s.buf = append(b, c.payloadHash...)
	return nil
}

// sign returns the hex signature of the canonical request in s.buf.
func (s *scratch) sign(key *[32]byte, stamp, scope string) [64]byte {
	if s.sts == nil {
		s.sts = make([]byte, hmacBlock, 256)
	}
	b := append(s.sts[:hmacBlock], algorithm...)
	b = append(b, '\n')
	b = append(b, stamp...)
	b = append(b, '\n')
	b = append(b, scope...)
	b = append(b, '\n')
	sum := sha256.Sum256(s.buf)
	s.sts = hex.AppendEncode(b, sum[:])
	mac := hmacPadded(key, s.sts)
	var out [64]byte
	hex.Encode(out[:], mac[:])
	return out
}

// hmacPadded returns HMAC-SHA256 of msg[hmacBlock:]. The first block of msg is
// room for the padded key, which saves a copy and an allocation.
func hmacPadded(key *[32]byte, msg []byte) [32]byte {
	for i := range hmacBlock {
		msg[i] = 0x36
	}
	var outer [hmacBlock + 32]byte
	for i := range hmacBlock {
		outer[i] = 0x5c
	}
	for i, k := range key {
		msg[i] ^= k
		outer[i] ^= k
	}
	inner := sha256.Sum256(msg)
	clear(msg[:hmacBlock])
	copy(outer[hmacBlock:], inner[:])
	return sha256.Sum256(outer[:])
}

// appendQuery appends the canonical query: every name and value decoded and
// encoded again, sorted by encoded name and then value. It reports whether the
// query was decodable and has a sane number of parameters.
func (s *scratch) appendQuery(b []byte, raw string, presigned bool) ([]byte, bool) {
	s.query, s.pairs = s.query[:0], s.pairs[:0]
	for raw != "" {
		var part string
		part, raw, _ = strings.Cut(raw, "&")
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		if presigned && name == "X-Amz-Signature" {
			continue
		}
		if len(s.pairs) == maxQueryPairs {
			return b, false
		}
		start := len(s.query)
		var ok1, ok2 bool
		s.query, ok1 = appendQueryEncoded(s.query, name)
		equals := len(s.query)
		s.query = append(s.query, '=')
		s.query, ok2 = appendQueryEncoded(s.query, value)
		if !ok1 || !ok2 {
			return b, false
		}
		s.pairs = append(s.pairs, pair{int32(start), int32(equals), int32(len(s.query))})
	}
	slices.SortFunc(s.pairs, s.comparePairs)
	for i, p := range s.pairs {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(b, s.query[p.start:p.end]...)
	}
	return b, true
}

func (s *scratch) comparePairs(a, b pair) int {
	if c := slices.Compare(s.query[a.start:a.equals], s.query[b.start:b.equals]); c != 0 {
		return c
	}
	return slices.Compare(s.query[a.equals:a.end], s.query[b.equals:b.end])
}

// unreserved reports whether a byte stands for itself in a canonical URI.
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

const upperHex = "0123456789ABCDEF"

func appendByte(b []byte, c byte) []byte {
	if unreserved(c) {
		return append(b, c)
	}
	return append(b, '%', upperHex[c>>4], upperHex[c&15])
}

// appendEncoded appends s percent-encoded; slashes stay when slash is set.
func appendEncoded(b []byte, s string, slash bool) []byte {
	for i := range len(s) {
		if s[i] == '/' && slash {
			b = append(b, '/')
			continue
		}
		b = appendByte(b, s[i])
	}
	return b
}

// appendRecoded appends an escaped path in canonical escapes, in which an
// escaped slash stays escaped.
func appendRecoded(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		c, escaped := s[i], false
		if c == '%' && i+2 < len(s) {
			if v, ok := unhex(s[i+1], s[i+2]); ok {
				c, escaped, i = v, true, i+2
			}
		}
		if c == '/' && !escaped {
			b = append(b, '/')
			continue
		}
		b = appendByte(b, c)
	}
	return b
}

// appendQueryEncoded decodes a query name or value ("+" is a space) and
// appends it encoded.
func appendQueryEncoded(b []byte, s string) ([]byte, bool) {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			if i+2 >= len(s) {
				return b, false
			}
			v, ok := unhex(s[i+1], s[i+2])
			if !ok {
				return b, false
			}
			c, i = v, i+2
		}
		b = appendByte(b, c)
	}
	return b, true
}

func unhex(hi, lo byte) (byte, bool) {
	h, ok1 := nibble(hi)
	l, ok2 := nibble(lo)
	return h<<4 | l, ok1 && ok2
}

func nibble(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// appendHeader appends the canonical value of a header: values trimmed, runs
// of blanks folded to one space, several values joined by a comma. net/http
// moves some headers out of the map; those come from the request's fields.
func appendHeader(b []byte, r *http.Request, lower, host string) []byte {
	if lower == "host" {
		return appendFolded(b, host)
	}
	values := headerValues(r.Header, lower)
	if values == nil {
		switch lower {
		case "content-length":
			if r.ContentLength >= 0 {
				b = strconv.AppendInt(b, r.ContentLength, 10)
			}
			return b
		case "transfer-encoding":
			values = r.TransferEncoding
		}
	}
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendFolded(b, v)
	}
	return b
}

// headerValues looks a lower-case header name up without allocating.
func headerValues(h http.Header, lower string) []string {
	var key [64]byte
	if len(lower) > len(key) {
		return h[http.CanonicalHeaderKey(lower)]
	}
	up := true
	for i := range len(lower) {
		c := lower[i]
		if up && 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		key[i] = c
		up = c == '-'
	}
	return h[string(key[:len(lower)])]
}

func appendFolded(b []byte, v string) []byte {
	start := len(b)
	blank := false
	for i := range len(v) {
		c := v[i]
		if c == ' ' || c == '\t' {
			blank = true
			continue
		}
		if blank && len(b) > start {
			b = append(b, ' ')
		}
		blank = false
		b = append(b, c)
	}
	return b
}
