package sigv4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// signedPut returns a request that is signed and valid at exampleTime.
func signedPut(t testing.TB, prepare func(r *http.Request)) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodPut, "http://s3.test/bucket/key", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(r)
	}
	s := Signer{AccessKey: exampleKey, Secret: exampleSecret, Region: "fr-metro"}
	if err := s.Sign(r, UnsignedPayload, exampleTime()); err != nil {
		t.Fatal(err)
	}
	return r
}

// edit replaces text in the Authorization header.
func edit(old, replacement string) func(*http.Request) {
	return func(r *http.Request) {
		v := r.Header.Get("Authorization")
		if !strings.Contains(v, old) {
			panic("nothing to replace: " + old)
		}
		r.Header.Set("Authorization", strings.Replace(v, old, replacement, 1))
	}
}

func set(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func checkError(t *testing.T, err error, status int, code, message string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v; want %s", err, code)
	}
	if e.Status != status || e.Code != code || !strings.Contains(e.Message, message) {
		t.Errorf("got %d %s %q; want %d %s %q", e.Status, e.Code, e.Message, status, code, message)
	}
}

func TestHeaderRefusals(t *testing.T) {
	t.Parallel()
	const bad = "AuthorizationHeaderMalformed"
	for _, c := range []struct {
		name    string
		change  func(*http.Request)
		status  int
		code    string
		message string
	}{
		{"wrong signature", edit("Signature=", "Signature=0"), 403, "SignatureDoesNotMatch", "does not match"},
		{"short signature", set("Authorization", "AWS4-HMAC-SHA256 Credential="+exampleScope+
			", SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=00"), 403, "SignatureDoesNotMatch", "does not match"},
		{"unknown key", edit(exampleKey, "NOBODY"), 403, "InvalidAccessKeyId", "does not exist"},
		{"no space", set("Authorization", "AWS4-HMAC-SHA256"), 400, "InvalidArgument", "one and only one ' '"},
		{"version 2", set("Authorization", "AWS AKID:c2lnbmF0dXJl"), 400, "InvalidRequest", "Please use AWS4-HMAC-SHA256"},
		{"ECDSA", edit("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), 400, "InvalidRequest", "Please use AWS4-HMAC-SHA256"},
		{"bearer", set("Authorization", "Bearer secret"), 400, "InvalidArgument", "Unsupported Authorization Type"},
		{"two headers", func(r *http.Request) { r.Header.Add("Authorization", "x") }, 400, "InvalidArgument", "Only one auth"},
		{"header and query", func(r *http.Request) { r.URL.RawQuery = "X-Amz-Algorithm=x" }, 400, "InvalidArgument", "Only one auth"},
		{"no credential", edit("Credential=", "Credentials="), 400, bad, "component"},
		{"empty credential", edit("Credential="+exampleKey+"/20130524/fr-metro/s3/aws4_request", "Credential="), 400, bad, "component"},
		{"only credential", set("Authorization", "AWS4-HMAC-SHA256 Credential="+exampleScope), 400, bad, "missing SignedHeaders"},
		{"no signature", set("Authorization", "AWS4-HMAC-SHA256 Credential="+exampleScope+", SignedHeaders=host"), 400, bad, "missing Signature"},
		{"no credential at all", set("Authorization", "AWS4-HMAC-SHA256 SignedHeaders=host, Signature=00"), 400, bad, "missing Credential"},
		{"credential twice", edit("Credential=", "Credential=a, Credential="), 400, bad, "component"},
		{"short credential", edit("/s3/aws4_request", "/aws4_request"), 400, bad, "mal-formed; expecting"},
		{"very short credential", edit("/20130524/fr-metro/s3/aws4_request", "/aws4_request"), 400, bad, "mal-formed; expecting"},
		{"long access key", edit(exampleKey, strings.Repeat("K", 129)), 400, bad, "mal-formed; expecting"},
		{"terminator", edit("aws4_request", "aws5_request"), 400, bad, `incorrect terminal "aws5_request"`},
		{"service", edit("/s3/", "/ec2/"), 400, bad, `incorrect service "ec2"`},
		{"region", edit("/fr-metro/", "//"), 400, bad, `expecting "fr-metro"`},
		{"date", edit("/20130524/", "/2013-05-24/"), 400, bad, "incorrect date format"},
		{"another day", edit("/20130524/", "/20130523/"), 400, bad, "Invalid credential date"},
		{"host not signed", edit("host;", ""), 403, "AccessDenied", "headers present in the request which were not signed"},
		{"x-amz-date not signed", edit(";x-amz-date", ""), 403, "AccessDenied", "not signed"},
		{"x-amz-meta not signed", set("X-Amz-Meta-A", "b"), 403, "AccessDenied", "not signed"},
		{"header signed twice", edit("host;", "host;host;"), 400, bad, "SignedHeaders"},
		{"very many signed headers", edit("host;", strings.Repeat("a;", 5000)), 400, bad, "SignedHeaders"},
		{"no date", func(r *http.Request) { r.Header.Del("X-Amz-Date") }, 403, "AccessDenied", "valid Date or x-amz-date"},
		{"bad date", set("X-Amz-Date", "yesterday"), 403, "AccessDenied", "valid Date or x-amz-date"},
		{"date with a fraction", set("X-Amz-Date", "20130524T000000.1Z"), 403, "AccessDenied", "valid Date"},
		{"too early", set("X-Amz-Date", "20130523T234459Z"), 403, "RequestTimeTooSkewed", "too large"},
		{"too late", set("X-Amz-Date", "20130524T001501Z"), 403, "RequestTimeTooSkewed", "too large"},
		{"no hash", func(r *http.Request) { r.Header.Del("X-Amz-Content-Sha256") }, 400, "InvalidRequest", "Missing required header"},
		{"no hash at all", set("X-Amz-Content-Sha256", "GIBBERISH"), 400, "InvalidArgument", "x-amz-content-sha256 must be"},
		{"64 digits, not all hex", set("X-Amz-Content-Sha256", strings.Repeat("g", 64)), 400, "InvalidArgument", "x-amz-content-sha256 must be"},
		{"ECDSA chunks", set("X-Amz-Content-Sha256", streamingECDSA), 501, "NotImplemented", "not supported"},
		{"token for a permanent key", nil, 400, "InvalidToken", "malformed or otherwise invalid"},
		{"bad query", func(r *http.Request) { r.URL.RawQuery = "a=%zz" }, 400, "InvalidURI", "Couldn't parse"},
		{"very many parameters", func(r *http.Request) { r.URL.RawQuery = strings.Repeat("a&", 1025) }, 400, "InvalidURI", "Couldn't parse"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var r *http.Request
			if c.change == nil {
				r = signedPut(t, set("X-Amz-Security-Token", "token"))
			} else {
				r = signedPut(t, nil)
				c.change(r)
			}
			id, err := NewVerifier(Options{Region: "fr-metro"}).Verify(r, "", exampleTime(), exampleLookup)
			if id != nil {
				t.Errorf("identity %+v beside an error", id)
			}
			checkError(t, err, c.status, c.code, c.message)
		})
	}
}

func TestQueryRefusals(t *testing.T) {
	t.Parallel()
	const bad = "AuthorizationQueryParametersError"
	put := func(name, value string) func(url.Values) { return func(q url.Values) { q.Set(name, value) } }
	drop := func(name string) func(url.Values) { return func(q url.Values) { q.Del(name) } }
	credential := func(s string) func(url.Values) { return put("X-Amz-Credential", s) }
	for _, c := range []struct {
		name    string
		change  func(url.Values)
		after   time.Duration
		status  int
		code    string
		message string
	}{
		{"wrong signature", put("X-Amz-Signature", "00"), 0, 403, "SignatureDoesNotMatch", "does not match"},
		{"another parameter", put("prefix", "x"), 0, 403, "SignatureDoesNotMatch", "does not match"},
		{"longer life", put("X-Amz-Expires", "61"), 0, 403, "SignatureDoesNotMatch", "does not match"},
		{"expired", nil, 61 * time.Second, 403, "AccessDenied", "Request has expired"},
		{"not yet valid", nil, -16 * time.Minute, 403, "AccessDenied", "not yet valid"},
		{"no algorithm", drop("X-Amz-Algorithm"), 0, 400, bad, "requires the X-Amz-Algorithm"},
		{"no credential", drop("X-Amz-Credential"), 0, 400, bad, "requires the X-Amz-Algorithm"},
		{"no date", drop("X-Amz-Date"), 0, 400, bad, "requires the X-Amz-Algorithm"},
		{"no expiry", drop("X-Amz-Expires"), 0, 400, bad, "requires the X-Amz-Algorithm"},
		{"no signed headers", drop("X-Amz-SignedHeaders"), 0, 400, bad, "requires the X-Amz-Algorithm"},
		{"no signature", drop("X-Amz-Signature"), 0, 400, bad, "requires the X-Amz-Algorithm"},
		{"signature twice", func(q url.Values) { q.Add("X-Amz-Signature", "00") }, 0, 400, bad, "requires the X-Amz-Algorithm"},
		{"algorithm", put("X-Amz-Algorithm", "AWS4-HMAC-SHA1"), 0, 400, bad, "X-Amz-Algorithm only supports"},
		{"date", put("X-Amz-Date", "Fri, 24 May 2013 00:00:00 GMT"), 0, 400, bad, "ISO8601"},
		{"another day", credential(exampleKey + "/20130523/fr-metro/s3/aws4_request"), 0, 400, bad, "Invalid credential date"},
		{"short credential", credential("x"), 0, 400, bad, "Error parsing the X-Amz-Credential parameter; the Credential is mal-formed"},
		{"terminator", credential(exampleKey + "/20130524/fr-metro/s3/x"), 0, 400, bad, `incorrect terminal "x"`},
		{"service", credential(exampleKey + "/20130524/fr-metro/sts/aws4_request"), 0, 400, bad, `incorrect service "sts"`},
		{"region", credential(exampleKey + "/20130524/us-east-1/s3/aws4_request"), 0, 400, bad, `the region "us-east-1" is wrong`},
		{"unknown key", credential("NOBODY/20130524/fr-metro/s3/aws4_request"), 0, 403, "InvalidAccessKeyId", "does not exist"},
		{"eight days", put("X-Amz-Expires", "604801"), 0, 400, bad, "less than 604800"},
		{"very long", put("X-Amz-Expires", "99999999999999999999"), 0, 400, bad, "less than 604800"},
		{"negative", put("X-Amz-Expires", "-1"), 0, 400, bad, "non-negative"},
		{"very negative", put("X-Amz-Expires", "-99999999999999999999"), 0, 400, bad, "non-negative"},
		{"zero", put("X-Amz-Expires", "0"), 0, 400, bad, "at least 1 second"},
		{"no number", put("X-Amz-Expires", "1h"), 0, 400, bad, "should be a number"},
		{"host not signed", put("X-Amz-SignedHeaders", "x-amz-acl"), 0, 403, "AccessDenied", "not signed"},
		{"header signed twice", put("X-Amz-SignedHeaders", "host;host"), 0, 400, bad, "SignedHeaders"},
		{"token for a permanent key", put("X-Amz-Security-Token", "x"), 0, 403, "SignatureDoesNotMatch", "does not match"},
		{"hash", put("X-Amz-Content-Sha256", "x"), 0, 400, "InvalidArgument", "x-amz-content-sha256 must be"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := presigned(t, nil)
			q := r.URL.Query()
			if c.change != nil {
				c.change(q)
			}
			r.URL.RawQuery = q.Encode()
			v := NewVerifier(Options{Region: "fr-metro", StrictRegion: true})
			_, err := v.Verify(r, "", exampleTime().Add(c.after), exampleLookup)
			checkError(t, err, c.status, c.code, c.message)
		})
	}
}

// presigned returns a request with a URL that lives 60 s from exampleTime.
func presigned(t testing.TB, h http.Header) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodPut, "http://s3.test/bucket/a%20b?partNumber=1&uploadId=x", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = h
	s := Signer{AccessKey: exampleKey, Secret: exampleSecret, Region: "fr-metro"}
	signed, err := s.Presign(r, time.Minute, exampleTime())
	if err != nil {
		t.Fatal(err)
	}
	if r.URL, err = url.Parse(signed); err != nil {
		t.Fatal(err)
	}
	if r.Header == nil {
		r.Header = http.Header{}
	}
	return r
}

func TestPresigned(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		signed  http.Header
		sent    http.Header
		after   time.Duration
		payload Payload
		code    string
	}{
		{"plain", nil, nil, 0, PayloadUnsigned, ""},
		{"last second", nil, nil, time.Minute, PayloadUnsigned, ""},
		{"clock of the signer ahead", nil, nil, -15 * time.Minute, PayloadUnsigned, ""},
		{"content type unsigned", nil, http.Header{"Content-Type": {"text/plain"}}, 0, PayloadUnsigned, ""},
		{"metadata signed", http.Header{"X-Amz-Meta-A": {"1"}}, http.Header{"X-Amz-Meta-A": {" 1 "}}, 0, PayloadUnsigned, ""},
		{"metadata changed", http.Header{"X-Amz-Meta-A": {"1"}}, http.Header{"X-Amz-Meta-A": {"2"}}, 0, 0, "SignatureDoesNotMatch"},
		{"metadata unsigned", nil, http.Header{"X-Amz-Meta-A": {"1"}}, 0, 0, "AccessDenied"},
		{"hash signed", http.Header{"X-Amz-Content-Sha256": {EmptySHA256}}, http.Header{"X-Amz-Content-Sha256": {EmptySHA256}}, 0, PayloadSigned, ""},
		{"hash unsigned", nil, http.Header{"X-Amz-Content-Sha256": {UnsignedPayload}}, 0, PayloadUnsigned, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := presigned(t, c.signed)
			r.Header = c.sent
			id, err := NewVerifier(Options{}).Verify(r, "", exampleTime().Add(c.after), exampleLookup)
			if c.code != "" {
				checkError(t, err, 403, c.code, "")
				return
			}
			if err != nil {
				t.Fatal(err, details(err))
			}
			if id.Payload != c.payload || id.Kind != Presigned {
				t.Errorf("payload %v, kind %v", id.Payload, id.Kind)
			}
		})
	}
	s := Signer{AccessKey: exampleKey, Secret: exampleSecret, Region: "fr-metro"}
	for _, expires := range []time.Duration{0, 999 * time.Millisecond, 7*24*time.Hour + 1} {
		if _, err := s.Presign(presigned(t, nil), expires, exampleTime()); err == nil {
			t.Errorf("presigned for %s", expires)
		}
	}
}

// TestAccepted holds forms that are legal though unusual.
func TestAccepted(t *testing.T) {
	t.Parallel()
	const others = "x-amz-content-sha256;x-amz-date"
	for _, c := range []struct {
		name    string
		prepare func(*http.Request)
		change  func(*http.Request)
	}{
		{"plain", nil, nil},
		{"no blanks between components", nil, func(r *http.Request) {
			r.Header.Set("Authorization", strings.ReplaceAll(r.Header.Get("Authorization"), ", ", ","))
		}},
		{"many blanks", nil, func(r *http.Request) {
			r.Header.Set("Authorization", " "+strings.ReplaceAll(r.Header.Get("Authorization"), ", ", " ,   ")+" ")
		}},
		{"names of signed headers in capitals", nil, edit(others, "X-Amz-Content-Sha256;X-Amz-Date")},
		{"unsigned header of no interest", nil, set("Accept-Encoding", "gzip")},
		{"blanks folded", set("X-Amz-Meta-A", "a b"), set("X-Amz-Meta-A", "  a \t  b ")},
		{"signed 15 minutes ago", nil, nil},
		{"Date instead of x-amz-date", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := signedPut(t, c.prepare)
			now := exampleTime()
			switch c.name {
			case "signed 15 minutes ago":
				now = now.Add(15 * time.Minute)
			case "Date instead of x-amz-date":
				r = receive(t, dateExample(t))
			}
			if c.change != nil {
				c.change(r)
			}
			if _, err := NewVerifier(Options{}).Verify(r, "", now, exampleLookup); err != nil {
				t.Fatal(err, details(err))
			}
		})
	}
}

// dateExample signs a request that has no X-Amz-Date.
func dateExample(t *testing.T) string {
	t.Helper()
	s := Signer{AccessKey: exampleKey, Secret: exampleSecret, Region: "fr-metro"}
	raw := "GET /b/k HTTP/1.1\r\nHost: s3.test\r\nDate: Fri, 24 May 2013 00:00:00 GMT\r\nx-amz-content-sha256: " +
		UnsignedPayload + "\r\n"
	out := s.begin(exampleTime())
	if err := out.finish(receive(t, raw+"\r\n"), "date;host;x-amz-content-sha256", UnsignedPayload, false); err != nil {
		t.Fatal(err)
	}
	return raw + "Authorization: AWS4-HMAC-SHA256 Credential=" + exampleKey + "/" + out.scope +
		", SignedHeaders=date;host;x-amz-content-sha256, Signature=" + string(out.seed[:]) + "\r\n\r\n"
}

func TestAnonymous(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, head, code string }{
		{"nothing", "", ""},
		{"empty header", "Authorization: \r\n", ""},
		{"unsigned", "x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n", ""},
		{"unsigned chunks", "x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\nx-amz-decoded-content-length: 0\r\n", ""},
		{"signed chunks", "x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\n", "InvalidRequest"},
	} {
		id, err := verifyExample(receive(t, "PUT /b/k HTTP/1.1\r\nHost: s3.test\r\n"+c.head+"\r\n"))
		if c.code != "" {
			checkError(t, err, 400, c.code, "")
			continue
		}
		if err != nil || id.Kind != Anonymous || id.AccessKey != "" {
			t.Errorf("%s: %+v, %v", c.name, id, err)
		}
	}
	_, err := verifyExample(receive(t, "GET /b/k?AWSAccessKeyId=a&Expires=1&Signature=b HTTP/1.1\r\nHost: s3.test\r\n\r\n"))
	checkError(t, err, 400, "InvalidRequest", "Please use AWS4-HMAC-SHA256")
}

func TestHostIsTheClients(t *testing.T) {
	t.Parallel()
	r := signedPut(t, nil)
	r.Host = "10.0.0.7:9000"
	v := NewVerifier(Options{})
	_, err := v.Verify(r, "", exampleTime(), exampleLookup)
	checkError(t, err, 403, "SignatureDoesNotMatch", "")
	if _, err := v.Verify(r, "s3.test", exampleTime(), exampleLookup); err != nil {
		t.Error(err)
	}
}

func TestEscapedSlash(t *testing.T) {
	t.Parallel()
	s := Signer{AccessKey: exampleKey, Secret: exampleSecret, Region: "fr-metro"}
	for _, keep := range []bool{false, true} {
		r := receive(t, "GET /b/a%2Fb%C3%A9(1) HTTP/1.1\r\nHost: s3.test\r\nx-amz-date: 20130524T000000Z\r\nx-amz-content-sha256: "+
			UnsignedPayload+"\r\n\r\n")
		out := s.begin(exampleTime())
		var sc scratch
		if err := sc.build(canonical{request: r, host: "s3.test", signedHeaders: "host;x-amz-content-sha256;x-amz-date",
			payloadHash: UnsignedPayload, keepSlash: keep}); err != nil {
			t.Fatal(err)
		}
		if want := map[bool]string{false: "\n/b/a/b%C3%A9%281%29\n", true: "\n/b/a%2Fb%C3%A9%281%29\n"}[keep]; !strings.Contains(string(sc.buf), want) {
			t.Errorf("canonical request %q lacks %q", sc.buf, want)
		}
		seed := sc.sign(&out.key, out.stamp, out.scope)
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+exampleKey+"/"+out.scope+
			",SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature="+string(seed[:]))
		if _, err := verifyExample(r); err != nil {
			t.Errorf("keep %v: %v", keep, err)
		}
	}
}

func TestMismatchShowsWhatWasSigned(t *testing.T) {
	t.Parallel()
	r := signedPut(t, nil)
	r.URL.RawQuery = "x-id=PutObject"
	_, err := verifyExample(r)
	var e *Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range e.Details {
		got[f.Name] = f.Value
	}
	want := "PUT\n/bucket/key\nx-id=PutObject\nhost:s3.test\nx-amz-content-sha256:UNSIGNED-PAYLOAD\n" +
		"x-amz-date:20130524T000000Z\n\nhost;x-amz-content-sha256;x-amz-date\nUNSIGNED-PAYLOAD"
	if got["CanonicalRequest"] != want {
		t.Errorf("canonical request %q, want %q", got["CanonicalRequest"], want)
	}
	if !strings.HasPrefix(got["StringToSign"], "AWS4-HMAC-SHA256\n20130524T000000Z\n20130524/fr-metro/s3/aws4_request\n") ||
		!strings.HasPrefix(got["StringToSignBytes"], "41 57 53 34 ") || len(got["SignatureProvided"]) != 64 ||
		got["AWSAccessKeyId"] != exampleKey || got["CanonicalRequestBytes"] == "" {
		t.Errorf("details %q", e.Details)
	}
	if strings.Contains(fmt.Sprint(e.Details), exampleSecret) {
		t.Error("the secret is in the error")
	}
}

func TestLookupErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("metadata is away")
	_, err := NewVerifier(Options{}).Verify(signedPut(t, nil), "", exampleTime(),
		func(context.Context, string) (Credentials, error) { return Credentials{}, broken })
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestSessionToken(t *testing.T) {
	t.Parallel()
	temporary := func(context.Context, string) (Credentials, error) {
		return Credentials{Secret: exampleSecret, SessionToken: "right"}, nil
	}
	for token, ok := range map[string]bool{"right": true, "wrong": false, "": false} {
		s := Signer{AccessKey: exampleKey, Secret: exampleSecret, SessionToken: token, Region: "fr-metro"}
		inHeader := signedPut(t, nil)
		if err := s.Sign(inHeader, UnsignedPayload, exampleTime()); err != nil {
			t.Fatal(err)
		}
		inQuery := presigned(t, nil)
		inQuery.URL.RawQuery = ""
		signed, err := s.Presign(inQuery, time.Minute, exampleTime())
		if err != nil {
			t.Fatal(err)
		}
		if inQuery.URL, err = url.Parse(signed); err != nil {
			t.Fatal(err)
		}
		for _, r := range []*http.Request{inHeader, inQuery} {
			_, err := NewVerifier(Options{}).Verify(r, "", exampleTime(), temporary)
			if ok && err != nil {
				t.Errorf("token %q: %v", token, err)
			}
			if !ok {
				checkError(t, err, 400, "InvalidToken", "")
			}
		}
	}
}

func TestKeyCache(t *testing.T) {
	t.Parallel()
	c := newKeyCache(2)
	id := func(i int) keyID { return keyID{accessKey: fmt.Sprint("k", i), date: "20130524", region: "r"} }
	for i := range 10 {
		if got := c.get(id(i), "s"); got != DeriveKey("s", "20130524", "r") {
			t.Fatalf("key %d: %x", i, got)
		}
		if n := len(c.young) + len(c.old); n > 4 {
			t.Fatalf("%d keys are kept", n)
		}
	}
	if _, ok := c.young[id(0)]; ok {
		t.Error("the oldest key is still young")
	}
	first := c.get(id(9), "s")
	if c.get(id(9), "another") == first {
		t.Error("a new secret gives the old key")
	}
	if c.get(id(9), "another") != DeriveKey("another", "20130524", "r") {
		t.Error("the cache does not follow the secret")
	}
	// A key of the old generation comes back to the young one.
	c.get(id(20), "s")
	c.get(id(21), "s")
	c.get(id(20), "s")
	if _, ok := c.young[id(20)]; !ok {
		t.Error("a used key was not kept")
	}
}

// TestDeriveKey holds the example of AWS's General Reference, "Examples of how
// to derive a signing key", moved to the service s3 by its own definition.
func TestDeriveKey(t *testing.T) {
	t.Parallel()
	key := DeriveKey(exampleSecret, "20130524", "us-east-1")
	const want = "dbb893acc010964918f1fd433add87c70e8b0db6be30c1fbeafefa5ec6ba8378"
	if got := fmt.Sprintf("%x", key); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPlainBodies(t *testing.T) {
	t.Parallel()
	hello := "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	for _, c := range []struct {
		name, hash, sent string
		length           int64
		code             string
	}{
		{"unsigned", UnsignedPayload, "hello", 5, ""},
		{"unsigned, length unknown", UnsignedPayload, "hello", -1, ""},
		{"signed", hello, "hello", 5, ""},
		{"signed, hash in capitals", strings.ToUpper(hello), "hello", 5, ""},
		{"signed, length unknown", hello, "hello", -1, ""},
		{"signed, wrong", hello, "hallo", 5, "XAmzContentSHA256Mismatch"},
		{"signed, wrong, length unknown", hello, "hallo", -1, "XAmzContentSHA256Mismatch"},
		{"signed, empty instead", hello, "", 0, "XAmzContentSHA256Mismatch"},
		{"unsigned, short", UnsignedPayload, "hell", 5, "IncompleteBody"},
		{"signed, short", hello, "hell", 5, "IncompleteBody"},
		{"unsigned, long", UnsignedPayload, "hello!", 5, "IncompleteBody"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := http.NewRequest(http.MethodPut, "http://s3.test/b/k", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.ContentLength = c.length
			s := Signer{AccessKey: exampleKey, Secret: exampleSecret, Region: "fr-metro"}
			if err := s.Sign(r, c.hash, exampleTime()); err != nil {
				t.Fatal(err)
			}
			id, err := verifyExample(r)
			if err != nil {
				t.Fatal(err)
			}
			body := id.Body(strings.NewReader(c.sent))
			got, err := io.ReadAll(body)
			if c.code == "" {
				if err != nil || string(got) != c.sent {
					t.Errorf("read %q, %v", got, err)
				}
				return
			}
			checkError(t, err, 400, c.code, "")
			if _, again := body.Read(make([]byte, 1)); again != err {
				t.Errorf("the error is not lasting: %v", again)
			}
			if c.length >= 0 && int64(len(got)) >= c.length && c.length > 0 {
				t.Errorf("the whole content was handed out: %q", got)
			}
		})
	}
}

func TestBodyReadErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("time-out")
	id := &Identity{Length: 5}
	body := id.Body(io.MultiReader(strings.NewReader("he"), errReader{broken}))
	if _, err := io.ReadAll(body); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	body = id.Body(io.MultiReader(strings.NewReader("he"), errReader{io.ErrUnexpectedEOF}))
	_, err := io.ReadAll(body)
	checkError(t, err, 400, "IncompleteBody", "terminated unexpectedly")
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v does not tell its cause", err)
	}
	body = id.Body(strings.NewReader("hello"))
	body.Close()
	if _, err := body.Read(make([]byte, 1)); err == nil {
		t.Error("read after Close")
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

func TestStripChunked(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "", "aws-chunked": "", "gzip": "gzip", "aws-chunked,gzip": "gzip", "gzip, aws-chunked": "gzip",
		"gzip , AWS-Chunked, br": "gzip,br", "aws-chunked,": "", "gzip,  br": "gzip,  br", "x-aws-chunked": "x-aws-chunked",
	} {
		if got := StripChunked(in); got != want {
			t.Errorf("StripChunked(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	id, err := verifyExample(signedPut(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	key := DeriveKey(exampleSecret, "20130524", "fr-metro")
	s := &Signer{AccessKey: exampleKey, Secret: exampleSecret, SessionToken: exampleSecret}
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	for _, v := range []any{id, s, Credentials{Secret: exampleSecret}} {
		fmt.Fprintf(&out, "%v %+v", v, v)
		log.Info("x", "value", v)
	}
	for _, hidden := range []string{exampleSecret, fmt.Sprint(key[:4]), fmt.Sprintf("%x", key[:4])} {
		if strings.Contains(out.String(), strings.Trim(hidden, "[]")) {
			t.Errorf("%q holds %q", out.String(), hidden)
		}
	}
	if !strings.Contains(out.String(), exampleKey) {
		t.Errorf("%q does not name the access key", out.String())
	}
}

func TestVerifyAllocations(t *testing.T) {
	r := receive(t, exampleSingleGet)
	v := NewVerifier(Options{})
	if n := testing.AllocsPerRun(200, func() {
		if _, err := v.Verify(r, "", exampleTime(), exampleLookup); err != nil {
			t.Fatal(err)
		}
	}); n > 4 { // one, but for the race detector's pools, which forget
		t.Errorf("a verification makes %v allocations", n)
	}
}

func TestCanonicalHeaders(t *testing.T) {
	t.Parallel()
	long := "x-amz-meta-" + strings.Repeat("long-", 20)
	r := &http.Request{ContentLength: 7, TransferEncoding: []string{"chunked"}, Header: http.Header{
		"X-Amz-Meta-A": {" a ", "b  c"}, http.CanonicalHeaderKey(long): {"v"}, "Etag": {`"a  b"`},
	}}
	for name, want := range map[string]string{
		"host": "h", "content-length": "7", "transfer-encoding": "chunked", "x-amz-meta-a": "a,b c", long: "v",
		"etag": `"a b"`, "x-absent": "", "": "",
	} {
		if got := string(appendHeader(nil, r, name, " h ")); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	r.Header["Content-Length"], r.ContentLength = []string{"9"}, -1
	if got := string(appendHeader(nil, r, "content-length", "")); got != "9" {
		t.Errorf("content-length %q, want the one that was sent", got)
	}
}

func TestUnsortedSignedHeaders(t *testing.T) {
	t.Parallel()
	r := signedPut(t, nil)
	const names = "x-amz-date;x-amz-content-sha256;host"
	s := Signer{AccessKey: exampleKey, Secret: exampleSecret, Region: "fr-metro"}
	out := s.begin(exampleTime())
	if err := out.finish(r, names, UnsignedPayload, false); err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+exampleKey+"/"+out.scope+", SignedHeaders="+names+
		", Signature="+string(out.seed[:]))
	if _, err := verifyExample(r); err != nil {
		t.Error(err, details(err))
	}
}
