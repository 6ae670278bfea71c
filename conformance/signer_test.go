package conformance

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The values of x-amz-content-sha256 that are not a hash.
// Source: AWS, "Authenticating Requests: Using the Authorization Header".
const (
	unsignedPayload      = "UNSIGNED-PAYLOAD"
	streamingSigned      = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	streamingSignedTrail = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
	streamingUnsigned    = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	stampForm  = "20060102T150405Z"
	emptyHash  = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	hashHeader = "x-amz-content-sha256"
)

// param is one query parameter. A parameter without a value is signed with an
// empty one; bare says that it is also sent without "=".
type param struct {
	name, value string
	bare        bool
}

// query makes parameters of names and values in turn. A name that ends in "?"
// has no value and takes none.
func query(pairs ...string) []param {
	var list []param
	for i := 0; i < len(pairs); i++ {
		if name, bare := strings.CutSuffix(pairs[i], "?"); bare {
			list = append(list, param{name: name, bare: true})
			continue
		}
		list = append(list, param{name: pairs[i], value: pairs[i+1]})
		i++
	}
	return list
}

// A call is a request before it is signed. Only method and path are needed.
type call struct {
	method   string
	path     string // decoded: "/bucket/key"
	wirePath string // as sent, where that is not the canonical encoding of path
	query    []param
	header   http.Header // further headers; all of them are signed
	unsigned http.Header // further headers that are not signed
	body     []byte

	payload string        // x-amz-content-sha256; empty: the hash of body
	presign time.Duration // sign in the query, valid for that long; 0: header
	at      time.Time     // time of signing; zero: now
	noSign  bool          // anonymous

	accessKey, secretKey string       // other than the target's
	region               string       // other than the target's
	service, terminal    string       // other than "s3" and "aws4_request"
	tamper               func(*sent)  // called after signing
	omitSigned           []string     // headers to be left out of SignedHeaders
	host                 string       // Host header other than the endpoint's
	chunks               *chunkedBody // aws-chunked framing of body
}

// sent is a signed request as it goes over the wire.
type sent struct {
	method string
	target string // escaped path and query
	host   string
	header http.Header
	body   []byte

	canonical string // the canonical request
	toSign    string
	signature string
	key       []byte // signing key
	stamp     string
	scope     string
}

// sign turns a call into a request by Signature Version 4.
// Source: AWS, "Create a signed AWS API request".
func (t Target) sign(c call) *sent {
	at := c.at
	if at.IsZero() {
		at = time.Now()
	}
	at = at.UTC()
	or := func(value, other string) string {
		if value != "" {
			return value
		}
		return other
	}
	s := &sent{method: c.method, host: or(c.host, t.Host()), header: http.Header{}, body: c.body, stamp: at.Format(stampForm)}
	day := s.stamp[:8]
	region, service, terminal := or(c.region, t.Region), or(c.service, "s3"), or(c.terminal, "aws4_request")
	s.scope = strings.Join([]string{day, region, service, terminal}, "/")
	s.key = signingKey(or(c.secretKey, t.SecretKey), day, region, service, terminal)
	credential := or(c.accessKey, t.AccessKey) + "/" + s.scope

	maps.Copy(s.header, c.header)
	payload := c.payload
	if c.chunks != nil {
		c.chunks.prepare(s, &payload)
	}
	path := c.wirePath
	if path == "" {
		path = uriEncode(c.path, false)
	}
	if c.noSign {
		s.target = join(path, wireQuery(c.query))
		maps.Copy(s.header, c.unsigned)
		return s
	}
	list := slices.Clone(c.query)
	if c.presign != 0 {
		payload = or(payload, unsignedPayload)
	} else {
		payload = or(payload, hexHash(c.body))
		s.header.Set(hashHeader, payload)
		s.header.Set("X-Amz-Date", s.stamp)
	}
	names := s.signedNames(c.omitSigned)
	if c.presign != 0 {
		list = append(list,
			param{name: "X-Amz-Algorithm", value: algorithm},
			param{name: "X-Amz-Credential", value: credential},
			param{name: "X-Amz-Date", value: s.stamp},
			param{name: "X-Amz-Expires", value: strconv.FormatInt(int64(c.presign/time.Second), 10)},
			param{name: "X-Amz-SignedHeaders", value: strings.Join(names, ";")})
	}
	s.canonical = strings.Join([]string{
		c.method, uriEncode(c.path, false), canonicalQuery(list),
		s.canonicalHeaders(names), strings.Join(names, ";"), payload,
	}, "\n")
	s.toSign = strings.Join([]string{algorithm, s.stamp, s.scope, hexHash([]byte(s.canonical))}, "\n")
	s.signature = hex.EncodeToString(mac(s.key, s.toSign))
	if c.presign != 0 {
		list = append(list, param{name: "X-Amz-Signature", value: s.signature})
	} else {
		s.header.Set("Authorization", fmt.Sprintf("%s Credential=%s, SignedHeaders=%s, Signature=%s",
			algorithm, credential, strings.Join(names, ";"), s.signature))
	}
	s.target = join(path, wireQuery(list))
	maps.Copy(s.header, c.unsigned)
	if c.chunks != nil {
		s.body = c.chunks.encode(s, c.body)
	}
	if c.tamper != nil {
		c.tamper(s)
	}
	return s
}

// signedNames lists the headers to sign, host among them, in order.
func (s *sent) signedNames(omit []string) []string {
	names := []string{"host"}
	for name := range s.header {
		names = append(names, strings.ToLower(name))
	}
	names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(omit, n) })
	slices.Sort(names)
	return names
}

// canonicalHeaders writes a line for each of names: values trimmed, runs of
// spaces inside them folded to one, several values joined by commas.
func (s *sent) canonicalHeaders(names []string) string {
	var out strings.Builder
	for _, name := range names {
		values := s.header[http.CanonicalHeaderKey(name)]
		if name == "host" {
			values = []string{s.host}
		}
		folded := make([]string, len(values))
		for i, v := range values {
			folded[i] = strings.Join(strings.FieldsFunc(v, func(r rune) bool { return r == ' ' }), " ")
		}
		out.WriteString(name + ":" + strings.Join(folded, ",") + "\n")
	}
	return out.String()
}

// wire is the request as text of HTTP/1.1, with a Content-Length unless the
// headers say something about the length already.
func (s *sent) wire() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s %s HTTP/1.1\r\nHost: %s\r\n", s.method, s.target, s.host)
	for _, name := range slices.Sorted(maps.Keys(s.header)) {
		for _, v := range s.header[name] {
			fmt.Fprintf(&out, "%s: %s\r\n", name, v)
		}
	}
	if s.header.Get("Content-Length") == "" && s.header.Get("Transfer-Encoding") == "" && (len(s.body) > 0 || s.method == http.MethodPut || s.method == http.MethodPost) {
		fmt.Fprintf(&out, "Content-Length: %d\r\n", len(s.body))
	}
	out.WriteString("\r\n")
	out.Write(s.body)
	return out.Bytes()
}

// signingKey derives the key of one day, region and service.
func signingKey(secret, day, region, service, terminal string) []byte {
	key := []byte("AWS4" + secret)
	for _, part := range []string{day, region, service, terminal} {
		key = mac(key, part)
	}
	return key
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func hexHash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// canonicalQuery encodes and sorts parameters.
func canonicalQuery(list []param) string {
	type pair struct{ name, value string }
	var pairs []pair
	for _, p := range list {
		pairs = append(pairs, pair{uriEncode(p.name, true), uriEncode(p.value, true)})
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		return strings.Compare(a.value, b.value)
	})
	var out []string
	for _, p := range pairs {
		out = append(out, p.name+"="+p.value)
	}
	return strings.Join(out, "&")
}

// wireQuery encodes parameters in the order in which they were given.
func wireQuery(list []param) string {
	var out []string
	for _, p := range list {
		if p.bare {
			out = append(out, uriEncode(p.name, true))
			continue
		}
		out = append(out, uriEncode(p.name, true)+"="+uriEncode(p.value, true))
	}
	return strings.Join(out, "&")
}

func join(path, query string) string {
	if query == "" {
		return path
	}
	return path + "?" + query
}

// uriEncode is UriEncode of the specification: every byte but the unreserved
// characters, and "/" unless slash says so, becomes %XX in upper case.
func uriEncode(s string, slash bool) string {
	var out strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0, c == '/' && !slash:
			out.WriteByte(c)
		default:
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

// A chunkedBody frames a body as aws-chunked.
// Source: AWS, "Signature Calculations for the Authorization Header:
// Transferring Payload in Multiple Chunks", and the same with trailing headers.
type chunkedBody struct {
	mode    string // one of the STREAMING values
	size    int    // bytes a chunk; 0: 64 KiB
	sizes   []int  // sizes of the single chunks; overrides size
	trailer []param
	noNames bool // leave out x-amz-trailer
	noSize  bool // leave out x-amz-decoded-content-length
	decoded string
	// encoding is the Content-Encoding to send; empty: "aws-chunked".
	encoding string

	badChunk   int  // number of the chunk whose signature is wrong, from 1
	badTrailer bool // the trailer's signature is wrong
}

// signed reports whether chunks carry signatures.
func (c *chunkedBody) signed() bool { return c.mode != streamingUnsigned }

// prepare sets the headers that announce the framing.
func (c *chunkedBody) prepare(s *sent, payload *string) {
	*payload = c.mode
	if c.encoding == "" {
		s.header.Set("Content-Encoding", "aws-chunked")
	} else {
		s.header.Set("Content-Encoding", c.encoding)
	}
	if !c.noSize {
		decoded := c.decoded
		if decoded == "" {
			decoded = strconv.Itoa(len(s.body))
		}
		s.header.Set("X-Amz-Decoded-Content-Length", decoded)
	}
	if len(c.trailer) > 0 && !c.noNames {
		s.header.Set("X-Amz-Trailer", c.trailer[0].name)
	}
}

// encode frames body; s holds the seed signature.
func (c *chunkedBody) encode(s *sent, body []byte) []byte {
	var out bytes.Buffer
	previous := s.signature
	for i, chunk := range c.cut(body) {
		if !c.signed() {
			if len(chunk) == 0 {
				out.WriteString("0\r\n")
				break
			}
			fmt.Fprintf(&out, "%x\r\n%s\r\n", len(chunk), chunk)
			continue
		}
		toSign := strings.Join([]string{algorithm + "-PAYLOAD", s.stamp, s.scope, previous, emptyHash, hexHash(chunk)}, "\n")
		previous = hex.EncodeToString(mac(s.key, toSign))
		written := previous
		if c.badChunk == i+1 {
			written = flip(previous)
		}
		fmt.Fprintf(&out, "%x;chunk-signature=%s\r\n", len(chunk), written)
		if len(chunk) > 0 {
			fmt.Fprintf(&out, "%s\r\n", chunk)
		}
	}
	var canonical strings.Builder
	for _, p := range c.trailer {
		fmt.Fprintf(&out, "%s:%s\r\n", p.name, p.value)
		canonical.WriteString(strings.ToLower(p.name) + ":" + strings.TrimSpace(p.value) + "\n")
	}
	if c.mode == streamingSignedTrail {
		toSign := strings.Join([]string{algorithm + "-TRAILER", s.stamp, s.scope, previous, hexHash([]byte(canonical.String()))}, "\n")
		signature := hex.EncodeToString(mac(s.key, toSign))
		if c.badTrailer {
			signature = flip(signature)
		}
		fmt.Fprintf(&out, "x-amz-trailer-signature:%s\r\n", signature)
	}
	out.WriteString("\r\n")
	return out.Bytes()
}

// cut cuts body into chunks, the last of them empty.
func (c *chunkedBody) cut(body []byte) [][]byte {
	var chunks [][]byte
	size := c.size
	if size == 0 {
		size = 64 << 10
	}
	for i := 0; len(body) > 0; i++ {
		n := size
		if i < len(c.sizes) {
			n = c.sizes[i]
		}
		n = min(n, len(body))
		chunks = append(chunks, body[:n])
		body = body[n:]
	}
	return append(chunks, nil)
}

// flip changes the last digit of a signature.
func flip(signature string) string {
	last := byte('0')
	if signature[len(signature)-1] == last {
		last = '1'
	}
	return signature[:len(signature)-1] + string(last)
}
