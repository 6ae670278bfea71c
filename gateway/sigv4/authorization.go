package sigv4

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Limits of what a client may send; AWS's own values are far below.
const (
	maxAccessKeyBytes = 128
	maxExpires        = 7 * 24 * time.Hour
	maxSkew           = 15 * time.Minute
)

// claim is what a request says about its own signature, whether in the
// Authorization header or in the query, before anything is verified.
type claim struct {
	accessKey     string
	date          string // YYYYMMDD of the credential scope
	region        string
	scope         string // date/region/s3/aws4_request
	signedHeaders string
	signature     string
	stamp         string    // X-Amz-Date in its basic format
	time          time.Time // of stamp
	token         string    // session token
	presigned     bool
	contentSHA256 string // X-Amz-Content-Sha256 of the query
}

// malformed makes the error for a bad claim: header and query signatures
// differ in code and in how the message begins.
type malformed func(format string, args ...any) *Error

func (c *claim) malformed() malformed {
	if c.presigned {
		return queryMalformed
	}
	return headerMalformed
}

func headerMalformed(format string, args ...any) *Error {
	return refuse(http.StatusBadRequest, "AuthorizationHeaderMalformed",
		"The authorization header is malformed; "+fmt.Sprintf(format, args...))
}

func queryMalformed(format string, args ...any) *Error {
	return refuse(http.StatusBadRequest, "AuthorizationQueryParametersError", fmt.Sprintf(format, args...))
}

func credentialMalformed(format string, args ...any) *Error {
	return queryMalformed("Error parsing the X-Amz-Credential parameter; "+format, args...)
}

// parseAuthorization reads the value of an Authorization header.
func parseAuthorization(value string, o *Options) (claim, *Error) {
	var c claim
	scheme, rest, ok := strings.Cut(strings.TrimSpace(value), " ")
	if !ok {
		return c, invalidArgument("Authorization header is invalid -- one and only one ' ' (space) required.",
			"Authorization", "")
	}
	switch {
	case scheme == algorithm:
	case scheme == "AWS" || strings.HasPrefix(scheme, "AWS4-"):
		return c, unsupportedMechanism()
	default:
		return c, invalidArgument("Unsupported Authorization Type", "Authorization", "")
	}
	var credential string
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		var field *string
		switch name {
		case "Credential":
			field = &credential
		case "SignedHeaders":
			field = &c.signedHeaders
		case "Signature":
			field = &c.signature
		}
		if field == nil || *field != "" || value == "" {
			return c, headerMalformed("the authorization component %q is malformed.", shorten(part))
		}
		*field = value
	}
	switch {
	case credential == "":
		return c, headerMalformed("missing Credential.")
	case c.signedHeaders == "":
		return c, headerMalformed("missing SignedHeaders.")
	case c.signature == "":
		return c, headerMalformed("missing Signature.")
	}
	err := c.parseCredential(credential, o, headerMalformed)
	return c, err
}

// parseCredential reads KEY/DATE/REGION/SERVICE/TERMINATOR. The access key may
// hold slashes, so it is taken apart from the right.
func (c *claim) parseCredential(credential string, o *Options, bad malformed) *Error {
	rest := credential
	var parts [4]string // date, region, service, terminator
	for i := 3; i >= 0; i-- {
		at := strings.LastIndexByte(rest, '/')
		if at < 0 {
			return bad(`the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".`)
		}
		rest, parts[i] = rest[:at], rest[at+1:]
	}
	c.accessKey, c.date, c.region = rest, parts[0], parts[1]
	switch {
	case rest == "" || len(rest) > maxAccessKeyBytes:
		return bad(`the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".`)
	case parts[3] != terminator:
		return bad("incorrect terminal %q. This endpoint uses %q.", shorten(parts[3]), terminator)
	case parts[2] != service:
		return bad("incorrect service %q. This endpoint belongs to %q.", shorten(parts[2]), service)
	case c.region == "" || o.StrictRegion && c.region != o.Region:
		err := bad("the region %q is wrong; expecting %q", shorten(c.region), o.Region)
		err.Details = []Field{{"Region", o.Region}}
		return err
	}
	if _, err := time.Parse(dayLayout, c.date); err != nil {
		return bad(`incorrect date format %q. This date in the credential must be in the format "yyyyMMdd".`, shorten(c.date))
	}
	c.scope = credential[len(rest)+1:]
	return nil
}

// setTime finds the time of a request signed in the header: X-Amz-Date, or
// else the Date header.
func (c *claim) setTime(h http.Header) *Error {
	const message = "AWS authentication requires a valid Date or x-amz-date header"
	if v := h["X-Amz-Date"]; len(v) > 0 {
		t, ok := parseStamp(v[0])
		if !ok {
			return accessDenied(message)
		}
		c.stamp, c.time = v[0], t
		return nil
	}
	v := h["Date"]
	if len(v) == 0 {
		return accessDenied(message)
	}
	t, ok := parseStamp(v[0])
	if !ok {
		var err error
		if t, err = http.ParseTime(v[0]); err != nil {
			return accessDenied(message)
		}
	}
	c.time = t.UTC()
	c.stamp = c.time.Format(stampLayout)
	return nil
}

func parseStamp(s string) (time.Time, bool) {
	if len(s) != len(stampLayout) { // time.Parse would take fractions too
		return time.Time{}, false
	}
	t, err := time.Parse(stampLayout, s)
	return t, err == nil
}

// queryFields are the parameters of a presigned URL, as sent and then decoded.
type queryFields struct {
	algorithm, credential, date, expires, signedHeaders, signature, token, contentSHA256 string

	signed   bool // it is meant to be a presigned request
	v2       bool // it is one of Signature Version 2
	repeated bool // one of the fields came twice
}

// scanQuery finds the signature's parameters in a raw query.
func scanQuery(raw string) (queryFields, *Error) {
	var q queryFields
	if !strings.Contains(raw, "X-Amz-") && !strings.Contains(raw, "AWSAccessKeyId=") {
		return q, nil
	}
	var v2Key, v2Signature bool
	for raw != "" {
		var part string
		part, raw, _ = strings.Cut(raw, "&")
		name, value, _ := strings.Cut(part, "=")
		field := q.field(name)
		if field == nil {
			v2Key = v2Key || name == "AWSAccessKeyId"
			v2Signature = v2Signature || name == "Signature"
			continue
		}
		decoded, err := url.QueryUnescape(value)
		if err != nil {
			return q, invalidURI()
		}
		q.repeated = q.repeated || *field != ""
		*field = decoded
	}
	q.signed = q.algorithm != "" || q.credential != "" || q.signature != ""
	q.v2 = v2Key && v2Signature
	return q, nil
}

func (q *queryFields) field(name string) *string {
	switch name {
	case "X-Amz-Algorithm":
		return &q.algorithm
	case "X-Amz-Credential":
		return &q.credential
	case "X-Amz-Date":
		return &q.date
	case "X-Amz-Expires":
		return &q.expires
	case "X-Amz-SignedHeaders":
		return &q.signedHeaders
	case "X-Amz-Signature":
		return &q.signature
	case "X-Amz-Security-Token":
		return &q.token
	case "X-Amz-Content-Sha256":
		return &q.contentSHA256
	}
	return nil
}

// claim reads a presigned URL and checks its times.
func (q *queryFields) claim(o *Options, now time.Time) (claim, *Error) {
	c := claim{
		presigned: true, signedHeaders: q.signedHeaders, signature: q.signature,
		stamp: q.date, token: q.token, contentSHA256: q.contentSHA256,
	}
	if q.repeated || q.algorithm == "" || q.credential == "" || q.date == "" || q.expires == "" ||
		q.signedHeaders == "" || q.signature == "" {
		return c, queryMalformed("Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, " +
			"X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.")
	}
	if q.algorithm != algorithm {
		return c, queryMalformed("X-Amz-Algorithm only supports %q", algorithm)
	}
	if err := c.parseCredential(q.credential, o, credentialMalformed); err != nil {
		return c, err
	}
	t, ok := parseStamp(q.date)
	if !ok {
		return c, queryMalformed(`X-Amz-Date must be in the ISO8601 Long Format "yyyyMMdd'T'HHmmss'Z'"`)
	}
	c.time = t
	return c, checkExpiry(q.expires, t, now)
}

// checkExpiry checks the life time of a presigned URL.
func checkExpiry(expires string, signed, now time.Time) *Error {
	seconds, err := strconv.ParseInt(expires, 10, 64)
	switch {
	case err != nil && !allDigits(strings.TrimPrefix(expires, "-")):
		return queryMalformed("X-Amz-Expires should be a number")
	case strings.HasPrefix(expires, "-"):
		return queryMalformed("X-Amz-Expires must be non-negative")
	case err != nil || seconds > int64(maxExpires/time.Second):
		return queryMalformed("X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires " +
			"must be less than 604800 seconds")
	}
	if seconds == 0 {
		return queryMalformed("X-Amz-Expires must be at least 1 second")
	}
	end := signed.Add(time.Duration(seconds) * time.Second)
	if now.After(end) {
		return accessDenied("Request has expired", Field{"X-Amz-Expires", expires},
			Field{"Expires", end.Format(time.RFC3339)}, Field{"ServerTime", now.UTC().Format(time.RFC3339)})
	}
	if signed.After(now.Add(maxSkew)) {
		return accessDenied("Request is not yet valid", Field{"X-Amz-Date", signed.Format(stampLayout)},
			Field{"ServerTime", now.UTC().Format(time.RFC3339)})
	}
	return nil
}

func allDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// shorten bounds what of the client's own text goes into a message.
func shorten(s string) string {
	const most = 128
	if len(s) > most {
		return s[:most]
	}
	return s
}
