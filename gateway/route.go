package gateway

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/ruche-storage/ruche/gateway/wire"
)

// level says what a path names.
type level uint8

const (
	service level = iota
	bucketLevel
	objectLevel
)

func (l level) String() string { return [...]string{"SERVICE", "BUCKET", "OBJECT"}[l] }

// target is what a request addresses. The strings are decoded once.
type target struct {
	bucket, key string
	virtual     bool // the bucket came from the host name
}

func (t *target) level() level {
	switch {
	case t.bucket == "":
		return service
	case t.key == "":
		return bucketLevel
	}
	return objectLevel
}

// locate splits host and path of a request. The path is taken as the client
// sent it and package url decoded it, once: "a//b", "a/../b" and "./a" are keys
// of their own, and an escaped slash in a key is a slash.
func locate(u *url.URL, host string, domains []string) (target, error) {
	if !utf8.ValidString(u.Path) {
		return target{}, wire.InvalidURI
	}
	path := strings.TrimPrefix(u.Path, "/")
	if bucket := virtualBucket(host, domains); bucket != "" {
		t := target{bucket: bucket, key: path, virtual: true}
		return t, t.check()
	}
	bucket, key, _ := strings.Cut(path, "/")
	t := target{bucket: bucket, key: key}
	if bucket == "" && key != "" {
		return t, wire.InvalidBucketName.With("BucketName", "")
	}
	return t, t.check()
}

func (t *target) check() error {
	if t.bucket != "" && !wire.ValidBucketName(t.bucket) {
		return wire.InvalidBucketName.With("BucketName", t.bucket)
	}
	return wire.CheckKey(t.key)
}

// virtualBucket returns the bucket that a host names under one of the domains,
// or "". The longest domain counts.
func virtualBucket(host string, domains []string) string {
	name := hostName(host)
	bucket, longest := "", 0
	for _, d := range domains {
		if name == d {
			return ""
		}
		if b, ok := strings.CutSuffix(name, "."+d); ok && len(d) > longest {
			bucket, longest = b, len(d)
		}
	}
	return bucket
}

// hostName returns a host in lower case without port and final dot.
func hostName(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// resource is the path of t as errors show it.
func (t *target) resource() string {
	switch t.level() {
	case service:
		return "/"
	case bucketLevel:
		return "/" + t.bucket
	}
	return "/" + t.bucket + "/" + t.key
}

// find returns the operation of a request, or the error that answers it.
func find(r *http.Request, t *target, query url.Values) (*operation, error) {
	at := t.level()
	sub, err := subresource(at, r.Method, query)
	if err != nil {
		return nil, err
	}
	method := r.Method
	if sub == "" && at == objectLevel && query.Has("partNumber") && (method == http.MethodPut || method == http.MethodPost) {
		// A part whose upload id was lost must not become the object.
		return nil, wire.InvalidArgument.Say("This operation does not accept a partNumber without an uploadId").
			With("ArgumentName", "partNumber").With("ArgumentValue", query.Get("partNumber"))
	}
	if method == http.MethodPut && at == objectLevel && copies(r, query) {
		switch sub {
		case "":
			sub = "copy"
		case "uploadId":
			sub = "uploadId copy"
		}
	}
	if op := operations[route{at, method, sub}]; op != nil {
		return op, nil
	}
	if method == http.MethodOptions {
		return &preflight, nil
	}
	if allowed := allowedMethods(at, sub); len(allowed) > 0 {
		if reason, ok := notOffered[route{at, method, sub}]; ok {
			return nil, notImplemented(reason)
		}
		return nil, wire.MethodNotAllowed.With("Method", method).With("ResourceType", resourceType(at, sub)).With("AllowedMethods", strings.Join(allowed, ","))
	}
	return nil, notImplemented("The operation is not offered by this store: " + sub)
}

// copies reports whether a PUT takes its bytes from another object. Presigners
// may have moved the header into the query, and to miss it there would store an
// empty object.
func copies(r *http.Request, query url.Values) bool {
	if r.Header.Get(wire.HeaderCopySource) != "" {
		return true
	}
	if query.Has("X-Amz-Signature") {
		for name := range query {
			if strings.EqualFold(name, wire.HeaderCopySource) {
				return true
			}
		}
	}
	return false
}

func notImplemented(message string) *wire.Error { return wire.NotImplemented.Say(message) }

func resourceType(at level, sub string) string {
	if sub == "" {
		return at.String()
	}
	return strings.ToUpper(sub)
}

// allowedMethods lists the methods that a resource knows, the ones not offered
// included: asking for those is no mistake of the client's.
func allowedMethods(at level, sub string) []string {
	var methods []string
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete} {
		r := route{at, m, sub}
		_, known := notOffered[r]
		if operations[r] != nil || known {
			methods = append(methods, m)
		}
	}
	return methods
}

// subresource returns the query key that selects the operation, "" for none.
// What it does not know is refused if it looks like a sub-resource of S3 that
// came later: to take PUT /bucket/key?somethingNew for a plain PUT would
// overwrite the object.
func subresource(at level, method string, query url.Values) (string, error) {
	sub := ""
	for name, values := range query {
		switch {
		case subresources[at][name]:
			if sub != "" {
				return "", wire.InvalidArgument.Say("Conflicting query string parameters: "+min(sub, name)+", "+max(sub, name)).
					With("ResourceType", min(sub, name)+", "+max(sub, name))
			}
			sub = name
		case parameters[name], strings.HasPrefix(strings.ToLower(name), "x-amz-"):
		case len(values) == 1 && values[0] == "" && !(at == objectLevel && (method == http.MethodGet || method == http.MethodHead)):
			return "", notImplemented("The sub-resource is not known to this store: " + name)
		}
	}
	if sub == "list-type" && query.Get(sub) != "2" {
		return "", wire.InvalidArgument.Say("Invalid List Type specified in Request").
			With("ArgumentName", "list-type").With("ArgumentValue", query.Get(sub))
	}
	return sub, nil
}

// parameters are query keys that select no operation.
var parameters = set(
	"x-id", "versionId", "partNumber", "response-content-type", "response-content-language",
	"response-expires", "response-cache-control", "response-content-disposition",
	"response-content-encoding", "prefix", "delimiter", "marker", "max-keys", "encoding-type",
	"continuation-token", "start-after", "fetch-owner", "key-marker", "version-id-marker",
	"upload-id-marker", "max-uploads", "max-parts", "part-number-marker", "max-buckets",
	"bucket-region", "id", "AWSAccessKeyId", "Signature", "Expires",
)

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}
