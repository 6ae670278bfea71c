package conformance

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The signer of these tests agrees with the worked example "GET Object" of
// AWS, "Authenticating Requests: Using the Authorization Header".
func TestSignerExample(t *testing.T) {
	t.Parallel()
	target := Target{Endpoint: "https://examplebucket.s3.amazonaws.com", AccessKey: "AKIAIOSFODNN7EXAMPLE", SecretKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", Region: "us-east-1"}
	at := time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	s := target.sign(call{method: http.MethodGet, path: "/test.txt", header: headers("Range", "bytes=0-9"), at: at})
	if want := "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"; s.signature != want {
		t.Errorf("signature %s, want %s\n%s", s.signature, want, s.canonical)
	}
	// "GET Object" of "Authenticating Requests: Using Query Parameters".
	s = target.sign(call{method: http.MethodGet, path: "/test.txt", at: at, presign: 24 * time.Hour})
	if want := "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"; s.signature != want {
		t.Errorf("presigned: signature %s, want %s\n%s", s.signature, want, s.canonical)
	}
	// The seed signature of "Transferring Payload in Multiple Chunks".
	s = target.sign(call{
		method: http.MethodPut, path: "/examplebucket/chunkObject.txt", at: at, host: "s3.amazonaws.com",
		header: headers("x-amz-storage-class", "REDUCED_REDUNDANCY", "Content-Length", "66824"),
		body:   []byte(strings.Repeat("a", 65*kib)), chunks: &chunkedBody{mode: streamingSigned},
	})
	if want := "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"; s.signature != want {
		t.Errorf("seed signature %s, want %s\n%s", s.signature, want, s.canonical)
	}
	if want := "10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n"; !strings.HasPrefix(string(s.body), want) {
		t.Errorf("first chunk begins with %.100q, want %q", s.body, want)
	}
	if len(s.body) != 66824 {
		t.Errorf("framed body of %d bytes, want 66824", len(s.body))
	}
}

func TestSigV4Payloads(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(10*kib, 30)
	put := func(payload string) *reply {
		return b.do(call{method: http.MethodPut, path: b.path("key"), body: data, payload: payload})
	}
	put(unsignedPayload).want(http.StatusOK)
	b.get("key").wantBody(data)
	put(strings.ToUpper(hexHash(data)))
	put(hexHash(data[1:])).wantError(http.StatusBadRequest, "XAmzContentSHA256Mismatch")
	for _, bad := range []string{"none", "UNSIGNED", strings.Repeat("x", 64), hexHash(data)[1:], "STREAMING-AWS4-HMAC-SHA512-PAYLOAD"} {
		put(bad).wantError(http.StatusBadRequest, "InvalidArgument")
	}
	b.get("key").want(http.StatusOK).wantBody(data)
	// The mismatch is found before anything is visible.
	b.do(call{method: http.MethodPut, path: b.path("fresh"), body: data, payload: emptyHash}).wantError(http.StatusBadRequest, "XAmzContentSHA256Mismatch")
	b.wantAbsent("fresh")
}

func TestSigV4Refusals(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("secret"))
	get := call{method: http.MethodGet, path: b.path("key")}
	// edit changes the Authorization header after signing.
	edit := func(old, new string) func(*sent) {
		return func(s *sent) {
			s.header.Set("Authorization", strings.Replace(s.header.Get("Authorization"), old, new, 1))
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*call)
		status int
		codes  string
	}{
		{"wrong secret", func(c *call) { c.secretKey = "wrong" }, 403, "SignatureDoesNotMatch"},
		{"unknown key", func(c *call) { c.accessKey = "AKIAUNKNOWNUNKNOWN00" }, 403, "InvalidAccessKeyId"},
		{"anonymous", func(c *call) { c.noSign = true }, 403, "AccessDenied"},
		{"flipped signature", func(c *call) {
			c.tamper = func(s *sent) { edit(s.signature, flip(s.signature))(s) }
		}, 403, "SignatureDoesNotMatch"},
		{"signature too short", func(c *call) { c.tamper = func(s *sent) { edit(s.signature, s.signature[:10])(s) } }, 403, "SignatureDoesNotMatch"},
		{"other path", func(c *call) { c.tamper = func(s *sent) { s.target += "2" } }, 403, "SignatureDoesNotMatch"},
		{"other method", func(c *call) { c.tamper = func(s *sent) { s.method = http.MethodDelete } }, 403, "SignatureDoesNotMatch"},
		{"another query", func(c *call) { c.tamper = func(s *sent) { s.target += "?versionId=null" } }, 403, "SignatureDoesNotMatch"},
		{"changed signed header", func(c *call) {
			c.header = headers("Range", "bytes=0-1")
			c.tamper = func(s *sent) { s.header.Set("Range", "bytes=0-5") }
		}, 403, "SignatureDoesNotMatch"},
		{"host not signed", func(c *call) { c.omitSigned = []string{"host"} }, 403, "AccessDenied SignatureDoesNotMatch"},
		{"x-amz header not signed", func(c *call) { c.unsigned = headers("x-amz-checksum-mode", "ENABLED") }, 403, "AccessDenied"},
		{"no date", func(c *call) { c.tamper = func(s *sent) { s.header.Del("X-Amz-Date") } }, 403, "AccessDenied"},
		{"date is none", func(c *call) { c.tamper = func(s *sent) { s.header.Set("X-Amz-Date", "yesterday") } }, 403, "AccessDenied"},
		{"16 minutes early", func(c *call) { c.at = time.Now().Add(-16 * time.Minute) }, 403, "RequestTimeTooSkewed"},
		{"16 minutes late", func(c *call) { c.at = time.Now().Add(16 * time.Minute) }, 403, "RequestTimeTooSkewed"},
		{"no content hash", func(c *call) {
			c.omitSigned = []string{hashHeader}
			c.tamper = func(s *sent) { s.header.Del(hashHeader) }
		}, 400, "InvalidRequest"},
		{"wrong service", func(c *call) { c.service = "ec2" }, 400, "AuthorizationHeaderMalformed"},
		{"wrong terminal", func(c *call) { c.terminal = "aws2_request" }, 400, "AuthorizationHeaderMalformed"},
		{"scope of another day", func(c *call) {
			c.tamper = func(s *sent) { edit("/"+s.stamp[:8]+"/", "/20200101/")(s) }
		}, 400, "AuthorizationHeaderMalformed"},
		{"short scope", func(c *call) { c.tamper = func(s *sent) { edit("/s3/aws4_request", "")(s) } }, 400, "AuthorizationHeaderMalformed"},
		{"no Credential", func(c *call) { c.tamper = edit("Credential=", "Credentials=") }, 400, "AuthorizationHeaderMalformed"},
		{"no Signature", func(c *call) { c.tamper = edit(", Signature=", ", Sig=") }, 400, "AuthorizationHeaderMalformed"},
		{"no SignedHeaders", func(c *call) { c.tamper = edit("SignedHeaders=", "Headers=") }, 400, "AuthorizationHeaderMalformed"},
		{"nothing behind the algorithm", func(c *call) {
			c.tamper = func(s *sent) { s.header.Set("Authorization", algorithm+" ") }
		}, 400, "AuthorizationHeaderMalformed InvalidArgument"},
		{"other algorithm", func(c *call) { c.tamper = edit(algorithm, "AWS4-HMAC-SHA512") }, 400, "InvalidArgument InvalidRequest AuthorizationHeaderMalformed"},
		{"version 2", func(c *call) {
			c.tamper = func(s *sent) { s.header.Set("Authorization", "AWS AKIAIOSFODNN7EXAMPLE:frJIUN8DYpKDtOLCwo//yllqDzg=") }
		}, 400, "InvalidRequest InvalidArgument"},
		{"basic", func(c *call) { c.tamper = func(s *sent) { s.header.Set("Authorization", "Basic dXNlcjpwYXNz") } }, 400, "InvalidArgument InvalidRequest"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := get
			tt.change(&c)
			e := b.with(t).do(c).wantError(tt.status, strings.Fields(tt.codes)...)
			if e.Code == "SignatureDoesNotMatch" && (e.CanonicalRequest == "" || e.StringToSign == "") {
				t.Errorf("the error shows no CanonicalRequest or StringToSign: %+v", e)
			}
			if e.Code == "RequestTimeTooSkewed" && e.ServerTime == "" {
				t.Errorf("the error shows no ServerTime: %+v", e)
			}
		})
	}
}

// What is legal and what clients really send.
func TestSigV4Accepted(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("content"))
	get := call{method: http.MethodGet, path: b.path("key")}
	for _, tt := range []struct {
		name   string
		change func(*call)
	}{
		{"any region", func(c *call) { c.region = "us-east-1" }},
		{"14 minutes early", func(c *call) { c.at = time.Now().Add(-14 * time.Minute) }},
		{"14 minutes late", func(c *call) { c.at = time.Now().Add(14 * time.Minute) }},
		{"x-id is signed and ignored", func(c *call) { c.query = query("x-id", "GetObject") }},
		{"Accept-Encoding is signed", func(c *call) { c.header = headers("Accept-Encoding", "identity") }},
		{"spaces inside a value", func(c *call) { c.header = headers("X-Amz-Meta-Spaces", "a   b  c") }},
		{"two values of a header", func(c *call) { c.header = headers("X-Amz-Meta-Two", "a", "X-Amz-Meta-Two", "b") }},
		{"unsigned payload", func(c *call) { c.payload = unsignedPayload }},
		{"no spaces after commas", func(c *call) {
			c.tamper = func(s *sent) {
				s.header.Set("Authorization", strings.ReplaceAll(s.header.Get("Authorization"), ", ", ","))
			}
		}},
		{"key encoded more than needed", func(c *call) { c.wirePath = "/" + b.name + "/%6B%65%79" }},
		{"lower-case percent encoding", func(c *call) { c.wirePath = "/" + b.name + "/%6b%65%79" }},
		{"query that needs encoding", func(c *call) { c.query = query("response-content-type", "text/plain; charset=a+b c&d=e/é") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := get
			tt.change(&c)
			b.with(t).do(c).want(http.StatusOK).wantBody([]byte("content"))
		})
	}
	t.Run("space around a value on the wire", func(t *testing.T) {
		b := b.with(t)
		s := b.sign(call{method: http.MethodGet, path: b.path("key"), header: headers("X-Amz-Meta-Pad", "a b")})
		wire := strings.Replace(string(s.wire()), "X-Amz-Meta-Pad: a b\r\n", "x-amz-meta-pad: \t  a    b  \r\n", 1)
		b.raw([]byte(wire), callLimit).want(http.StatusOK)
	})
	t.Run("Date header in place of x-amz-date", func(t *testing.T) {
		b := b.with(t)
		now := time.Now().UTC()
		c := call{method: http.MethodGet, path: b.path("key"), at: now, omitSigned: []string{"x-amz-date"}, header: headers("Date", now.Format(http.TimeFormat))}
		c.tamper = func(s *sent) { s.header.Del("X-Amz-Date") }
		b.do(c).want(http.StatusOK)
	})
}

func TestPresigned(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(kib, 31)
	url := func(method, key string, change ...func(*call)) call {
		c := call{method: method, path: b.path(key), presign: time.Hour}
		for _, f := range change {
			f(&c)
		}
		return c
	}
	body := func(c *call) { c.body = data }
	b.do(url(http.MethodPut, "key", body)).want(http.StatusOK)
	b.do(url(http.MethodGet, "key")).want(http.StatusOK).wantBody(data)
	b.do(url(http.MethodHead, "key")).want(http.StatusOK).wantHeader("Content-Length", itoa(len(data)))
	b.do(url(http.MethodGet, "key", func(c *call) {
		c.query = query("response-content-type", "text/x-override", "response-content-disposition", "attachment; filename=\"a b.txt\"")
	})).want(http.StatusOK).wantHeader("Content-Type", "text/x-override", "Content-Disposition", "attachment; filename=\"a b.txt\"")
	b.do(url(http.MethodGet, "key", func(c *call) { c.header = headers("Range", "bytes=0-3") })).want(http.StatusPartialContent).wantBody(data[:4])
	// A header that is not signed may still be sent, if it is none of Amazon's.
	b.do(url(http.MethodGet, "key", func(c *call) { c.unsigned = headers("Range", "bytes=0-3") })).want(http.StatusPartialContent)
	b.do(url(http.MethodDelete, "key")).want(http.StatusNoContent)
	b.wantAbsent("key")

	u := b.create("parts")
	r := b.do(url(http.MethodPut, "parts", body, func(c *call) { c.query = query("partNumber", "1", "uploadId", u.id) })).want(http.StatusOK)
	u.tags[1] = r.etag()
	u.complete()
	b.get("parts").wantBody(data)
	b.do(call{method: http.MethodGet, path: "/" + b.name, query: query("list-type", "2"), presign: time.Minute}).wantXML("ListBucketResult", nil)
	// Some clients put the payload's hash into the query.
	b.do(url(http.MethodPut, "hash", body, func(c *call) { c.query = query("X-Amz-Content-Sha256", unsignedPayload, "x-id", "PutObject") })).want(http.StatusOK)
	b.get("hash").wantBody(data)
}

func TestPresignedRefusals(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("x"))
	replace := func(old, new string) func(*sent) {
		return func(s *sent) { s.target = strings.Replace(s.target, old, new, 1) }
	}
	for _, tt := range []struct {
		name   string
		change func(*call)
		status int
		codes  string
	}{
		{"expired", func(c *call) { c.at = time.Now().Add(-2 * time.Hour) }, 403, "AccessDenied"},
		{"not yet valid", func(c *call) { c.at = time.Now().Add(time.Hour) }, 403, "AccessDenied"},
		{"over a week", func(c *call) { c.presign = 604801 * time.Second }, 400, "AuthorizationQueryParametersError"},
		{"negative", func(c *call) { c.presign = -time.Second }, 400, "AuthorizationQueryParametersError"},
		{"no number", func(c *call) { c.tamper = replace("X-Amz-Expires=3600", "X-Amz-Expires=soon") }, 400, "AuthorizationQueryParametersError"},
		{"too large for a number", func(c *call) { c.tamper = replace("X-Amz-Expires=3600", "X-Amz-Expires=99999999999999999999") }, 400, "AuthorizationQueryParametersError"},
		{"longer than signed", func(c *call) { c.tamper = replace("X-Amz-Expires=3600", "X-Amz-Expires=7200") }, 403, "SignatureDoesNotMatch"},
		{"no expiry", func(c *call) { c.tamper = replace("&X-Amz-Expires=3600", "") }, 400, "AuthorizationQueryParametersError"},
		{"no date", func(c *call) { c.tamper = replace("X-Amz-Date=", "X-Amz-Dated=") }, 400, "AuthorizationQueryParametersError"},
		{"bad date", func(c *call) { c.tamper = replace("X-Amz-Date=2", "X-Amz-Date=x") }, 400, "AuthorizationQueryParametersError"},
		{"no signature", func(c *call) { c.tamper = replace("X-Amz-Signature=", "X-Amz-Signed=") }, 400, "AuthorizationQueryParametersError"},
		{"no signed headers", func(c *call) { c.tamper = replace("X-Amz-SignedHeaders=", "X-Amz-Headers=") }, 400, "AuthorizationQueryParametersError"},
		{"no credential", func(c *call) { c.tamper = replace("X-Amz-Credential=", "X-Amz-Credentials=") }, 400, "AuthorizationQueryParametersError"},
		{"short credential", func(c *call) { c.tamper = replace("%2Faws4_request", "") }, 400, "AuthorizationQueryParametersError"},
		{"other algorithm", func(c *call) { c.tamper = replace("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512") }, 400, "AuthorizationQueryParametersError"},
		{"wrong service", func(c *call) { c.service = "ec2" }, 400, "AuthorizationQueryParametersError"},
		{"wrong terminal", func(c *call) { c.terminal = "aws2_request" }, 400, "AuthorizationQueryParametersError"},
		{"wrong secret", func(c *call) { c.secretKey = "wrong" }, 403, "SignatureDoesNotMatch"},
		{"unknown key", func(c *call) { c.accessKey = "AKIAUNKNOWNUNKNOWN00" }, 403, "InvalidAccessKeyId"},
		{"another key", func(c *call) { c.tamper = replace("/key?", "/kez?") }, 403, "SignatureDoesNotMatch"},
		{"another query", func(c *call) { c.tamper = func(s *sent) { s.target += "&versionId=null" } }, 403, "SignatureDoesNotMatch"},
		{"signed header missing", func(c *call) {
			c.header = headers("x-amz-meta-a", "b")
			c.tamper = func(s *sent) { s.header.Del("X-Amz-Meta-A") }
		}, 403, "SignatureDoesNotMatch AccessDenied"},
		{"x-amz header not signed", func(c *call) { c.unsigned = headers("x-amz-meta-a", "b") }, 403, "AccessDenied"},
		{"method", func(c *call) { c.tamper = func(s *sent) { s.method = http.MethodDelete } }, 403, "SignatureDoesNotMatch"},
		{"query and header", func(c *call) {
			c.tamper = func(s *sent) {
				s.header.Set("Authorization", algorithm+" Credential=a/20200101/b/s3/aws4_request, SignedHeaders=host, Signature=00")
			}
		}, 400, "InvalidArgument"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := call{method: http.MethodGet, path: b.path("key"), presign: time.Hour}
			tt.change(&c)
			e := b.with(t).do(c).wantError(tt.status, strings.Fields(tt.codes)...)
			if tt.name == "expired" && !strings.Contains(e.Message, "expired") {
				t.Errorf("message %q, want one that says expired", e.Message)
			}
		})
	}
	b.do(call{method: http.MethodGet, path: b.path("key"), presign: 604800 * time.Second}).want(http.StatusOK)
	b.do(call{method: http.MethodGet, path: b.path("key"), presign: time.Second}).want(http.StatusOK)
	b.get("key").want(http.StatusOK)
}

// Overrides need a signature. Source: AWS, GetObject, "Overriding response
// header values through the request".
func TestResponseOverrides(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("x"), "Content-Type", "text/plain")
	pairs := []string{
		"response-content-type", "text/x-other", "response-content-language", "fr", "response-expires", "Thu, 01 Dec 2030 16:00:00 GMT",
		"response-cache-control", "no-cache", "response-content-disposition", "inline", "response-content-encoding", "identity",
	}
	want := []string{
		"Content-Type", "text/x-other", "Content-Language", "fr", "Expires", "Thu, 01 Dec 2030 16:00:00 GMT",
		"Cache-Control", "no-cache", "Content-Disposition", "inline", "Content-Encoding", "identity",
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		b.do(call{method: method, path: b.path("key"), query: query(pairs...)}).want(http.StatusOK).wantHeader(want...)
	}
	b.get("key").wantHeader("Content-Type", "text/plain", "Cache-Control", "")
	r := b.do(call{method: http.MethodGet, path: b.path("key"), query: query(pairs...), noSign: true})
	if e := r.anError(); e == nil || r.status != http.StatusBadRequest && r.status != http.StatusForbidden {
		t.Errorf("anonymous with overrides: status %d, want 400 or 403", r.status)
	}
}

// Expect: 100-continue is answered by 100 before the body, or by the refusal
// in its place.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(50*kib, 32)
	exchange := func(t *testing.T, c call) (first string, r *reply) {
		s := b.with(t).sign(c)
		body := s.body
		s.body = nil
		s.header.Set("Expect", "100-continue")
		s.header.Set("Content-Length", itoa(len(body)))
		nc := b.with(t).dial()
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(callLimit))
		if _, err := nc.Write(s.wire()); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(nc)
		peek, err := in.Peek(len("HTTP/1.1 100"))
		if err != nil {
			t.Fatalf("no answer before the body: %v", err)
		}
		if first = string(peek); first == "HTTP/1.1 100" {
			if _, err := nc.Write(body); err != nil {
				t.Fatal(err)
			}
		}
		if r, err = readReply(t, in, "PUT "+s.target); err != nil {
			t.Fatal(err)
		}
		return first, r
	}
	t.Run("accepted", func(t *testing.T) {
		first, r := exchange(t, call{method: http.MethodPut, path: b.path("key"), body: data})
		if first != "HTTP/1.1 100" {
			t.Errorf("first answer %q, want 100 Continue", first)
		}
		r.want(http.StatusOK)
		b.with(t).get("key").wantBody(data)
	})
	t.Run("refused", func(t *testing.T) {
		first, r := exchange(t, call{method: http.MethodPut, path: b.path("key"), body: data, secretKey: "wrong"})
		if first != "HTTP/1.1 403" {
			t.Errorf("first answer %q, want the refusal", first)
		}
		r.wantError(http.StatusForbidden, "SignatureDoesNotMatch")
	})
	t.Run("missing bucket", func(t *testing.T) {
		_, r := exchange(t, call{method: http.MethodPut, path: "/" + randomName() + "/key", body: data})
		r.wantError(http.StatusNotFound, "NoSuchBucket")
	})
	// botocore takes a final answer without 100 for the state of the whole
	// connection, and waits for ever on its next request: an empty body must
	// be answered by 100 too, or the connection be closed.
	t.Run("empty body", func(t *testing.T) {
		first, r := exchange(t, call{method: http.MethodPut, path: b.path("empty")})
		r.want(http.StatusOK)
		if first != "HTTP/1.1 100" && !r.close {
			t.Errorf("first answer %q on a connection that stays open, want 100 Continue", first)
		}
	})
	t.Run("another value is ignored", func(t *testing.T) {
		b := b.with(t)
		s := b.sign(call{method: http.MethodPut, path: b.path("other"), body: data})
		s.header.Set("Expect", "200-ok")
		r := b.raw(s.wire(), callLimit)
		if r == nil {
			t.Fatal("no answer")
		}
		r.want(http.StatusOK)
	})
}

// Virtual-host style, where the server's domain is known.
func TestVirtualHostStyle(t *testing.T) {
	t.Parallel()
	c := connect(t)
	if c.Domain == "" {
		t.Skip("S3_DOMAIN is not set: the server's domain is unknown")
	}
	b := c.newBucket()
	host := b.name + "." + c.Domain
	for _, key := range []string{"key", "a/b", "bucket", b.name, "a//b"} {
		c.do(call{method: http.MethodPut, path: "/" + key, host: host, body: []byte(key)}).want(http.StatusOK)
		b.get(key).want(http.StatusOK).wantBody([]byte(key))
		c.do(call{method: http.MethodGet, path: "/" + key, host: host, presign: time.Minute}).want(http.StatusOK).wantBody([]byte(key))
	}
	var l listing
	c.do(call{method: http.MethodGet, path: "/", host: host, query: query("list-type", "2")}).wantXML("ListBucketResult", &l)
	if len(l.Contents) != 5 || l.Name != b.name {
		t.Errorf("list: %q %v", l.Name, l.keys())
	}
	c.do(call{method: http.MethodGet, path: "/", host: c.Domain}).wantXML("ListAllMyBucketsResult", nil)
	c.do(call{method: http.MethodGet, path: fmt.Sprintf("/%s/key", b.name), host: c.Domain}).want(http.StatusOK)
}
