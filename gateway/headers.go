package gateway

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/ruche-storage/ruche/gateway/checksum"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/gateway/wire"
	"github.com/ruche-storage/ruche/metadata"
)

// defaultContentType is what an object has that came without one.
const defaultContentType = "binary/octet-stream"

// attributes reads from the headers of a write what the object gets besides
// its bytes. Headers that ask for what is not offered are refused.
func (s *Server) attributes(h http.Header) (object.Attributes, error) {
	if err := s.refuseHeaders(h); err != nil {
		return object.Attributes{}, err
	}
	user, err := wire.UserMetadata(h)
	if err != nil {
		return object.Attributes{}, err
	}
	class := h.Get(wire.HeaderStorageClass)
	if class != "" && !s.classes[class] {
		return object.Attributes{}, wire.InvalidStorageClass.With("StorageClassRequested", class)
	}
	if class == standard {
		class = ""
	}
	redirect := h.Get(wire.HeaderWebsiteRedirect)
	if redirect != "" && !strings.HasPrefix(redirect, "/") && !strings.HasPrefix(redirect, "http://") && !strings.HasPrefix(redirect, "https://") {
		return object.Attributes{}, wire.NewError(http.StatusBadRequest, "InvalidRedirectLocation",
			"The website redirect location must have a prefix of 'http://' or 'https://' or '/'.")
	}
	a := object.Attributes{
		Headers: metadata.Headers{
			CacheControl:       h.Get("Cache-Control"),
			ContentDisposition: h.Get("Content-Disposition"),
			ContentEncoding:    sigv4.StripChunked(strings.Join(h["Content-Encoding"], ",")),
			ContentLanguage:    h.Get("Content-Language"),
			ContentType:        h.Get("Content-Type"),
			Expires:            h.Get("Expires"),
			WebsiteRedirect:    redirect,
		},
		StorageClass: class,
	}
	for _, p := range user {
		a.User = append(a.User, metadata.Pair{Name: p.Name, Value: p.Value})
	}
	return a, nil
}

// refuseHeaders refuses headers of a write that ask for what is not offered.
func (s *Server) refuseHeaders(h http.Header) error {
	if err := s.checkEncryption(h); err != nil {
		return err
	}
	if err := checkACL(h); err != nil {
		return err
	}
	for _, name := range []string{wire.HeaderLockMode, wire.HeaderLockUntil, wire.HeaderLockHold} {
		if h.Get(name) != "" {
			return wire.InvalidRequest.Say("Bucket is missing Object Lock Configuration")
		}
	}
	if v := h.Get(wire.HeaderTagging); v != "" {
		if _, err := wire.ParseTagging(v); err != nil {
			return err
		}
		return notImplemented(noTags).With("Header", "x-amz-tagging")
	}
	if h.Get("X-Amz-Write-Offset-Bytes") != "" {
		return notImplemented("Appending to objects is not offered.").With("Header", "x-amz-write-offset-bytes")
	}
	return nil
}

// customerKeyPrefix begins the headers of SSE-C. net/http has brought all names
// into this spelling.
const customerKeyPrefix = "X-Amz-Server-Side-Encryption-Customer-"

// checkEncryption takes AES256 where objects are encrypted, and refuses every
// other encryption: to store such an object otherwise would be a lie.
func (s *Server) checkEncryption(h http.Header) error {
	for name := range h {
		switch {
		case strings.HasPrefix(name, customerKeyPrefix), strings.HasPrefix(name, "X-Amz-Copy-Source-Server-Side-Encryption-Customer-"):
			return notImplemented("Encryption with keys of the client (SSE-C) is not offered in this version.").With("Header", strings.ToLower(name))
		case name == "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", name == "X-Amz-Server-Side-Encryption-Context":
			return notImplemented("Encryption with KMS keys (SSE-KMS) is not offered in this version.").With("Header", strings.ToLower(name))
		}
	}
	switch v := h.Get(wire.HeaderSSE); {
	case v == "":
	case v == "AES256" && s.opts.Encrypted:
	case v == "AES256":
		return notImplemented("Encryption at rest is switched off on this store.").With("Header", "x-amz-server-side-encryption")
	case strings.HasPrefix(v, "aws:"):
		return notImplemented("Encryption with KMS keys (SSE-KMS) is not offered in this version.").With("Header", "x-amz-server-side-encryption")
	default:
		return wire.InvalidEncryptionAlgorithm.With("ArgumentName", "x-amz-server-side-encryption").With("ArgumentValue", v)
	}
	return nil
}

// refuseReadEncryption refuses encryption headers on reads, where AWS knows
// none but those of SSE-C.
func refuseReadEncryption(h http.Header) error {
	if h.Get(wire.HeaderSSE) != "" {
		return wire.InvalidArgument.Say("x-amz-server-side-encryption header is not supported for this operation.").
			With("ArgumentName", "x-amz-server-side-encryption").With("ArgumentValue", h.Get(wire.HeaderSSE))
	}
	for name := range h {
		if strings.HasPrefix(name, customerKeyPrefix) {
			return wire.InvalidRequest.Say("The encryption parameters are not applicable to this object.")
		}
	}
	return nil
}

// checkACL takes the ACLs that say what is the case anyway: the owner has full
// control. It is what AWS does with object ownership "bucket owner enforced".
func checkACL(h http.Header) error {
	switch v := h.Get(wire.HeaderACL); v {
	case "", "private", "bucket-owner-full-control":
	case "public-read", "public-read-write", "authenticated-read", "aws-exec-read", "bucket-owner-read", "log-delivery-write":
		return wire.AccessControlListNotSupported
	default:
		return wire.InvalidArgument.With("ArgumentName", "x-amz-acl").With("ArgumentValue", v)
	}
	for name := range h {
		if strings.HasPrefix(name, "X-Amz-Grant-") {
			return wire.AccessControlListNotSupported
		}
	}
	return nil
}

// writeConditions reads If-Match and If-None-Match of a write. AWS knows no
// other value of If-None-Match there than "*".
func writeConditions(h http.Header) (object.WriteConditions, error) {
	var c object.WriteConditions
	if v := h.Get("If-None-Match"); v != "" {
		if strings.TrimSpace(v) != "*" {
			return c, wire.NotImplemented.With("Header", "If-None-Match")
		}
		c.IfNoneMatch = true
	}
	if v := h.Get("If-Match"); v != "" {
		if c.IfNoneMatch {
			return c, wire.NotImplemented.Say("If-Match and If-None-Match together are not offered").With("Header", "If-Match")
		}
		c.IfMatch = wire.TrimETag(v)
	}
	return c, nil
}

// readConditions reads the four conditions of a read, or of the source of a
// copy with that prefix.
func readConditions(h http.Header, prefix string) object.ReadConditions {
	return object.ReadConditions{
		IfMatch:           wire.ParseETags(h.Get(prefix + "If-Match")),
		IfNoneMatch:       wire.ParseETags(h.Get(prefix + "If-None-Match")),
		IfModifiedSince:   wire.ParseConditionTime(h.Get(prefix + "If-Modified-Since")),
		IfUnmodifiedSince: wire.ParseConditionTime(h.Get(prefix + "If-Unmodified-Since")),
	}
}

// copySource is x-amz-copy-source, parsed.
type copySource struct{ bucket, key, versionID string }

func parseCopySource(h http.Header) (copySource, error) {
	var src copySource
	var err error
	src.bucket, src.key, src.versionID, err = wire.ParseCopySource(h.Get(wire.HeaderCopySource))
	return src, err
}

func (c *call) copySource() object.CopySource {
	return object.CopySource{
		Bucket: c.source.bucket, Key: c.source.key, VersionID: c.source.versionID,
		Conditions: readConditions(c.r.Header, "X-Amz-Copy-Source-"),
	}
}

// contentMD5 reads Content-MD5, nil if there is none.
func contentMD5(h http.Header) (*[16]byte, error) {
	values, ok := h["Content-Md5"]
	if !ok {
		return nil, nil
	}
	raw, err := base64.StdEncoding.DecodeString(values[0])
	if err != nil || len(raw) != 16 {
		return nil, wire.InvalidDigest.With("Content-MD5", values[0])
	}
	return (*[16]byte)(raw), nil
}

// announcedChecksum reads which checksum a body has: its value from a header,
// or the algorithm alone if the value follows in the trailer.
func announcedChecksum(h http.Header, trailers []string) (sum metadata.Checksum, trailer string, err error) {
	for _, a := range checksum.Algorithms() {
		v := h.Get(checksum.Header(a))
		if v == "" {
			continue
		}
		if sum.Algorithm != metadata.ChecksumNone {
			return sum, "", manyChecksums
		}
		raw, err := checksum.ParseValue(a, v)
		if err != nil {
			return sum, "", wire.InvalidRequest.Say("Value for " + checksum.Header(a) + " header is invalid.").Because(err)
		}
		sum = metadata.Checksum{Algorithm: a, Value: string(raw)}
	}
	for _, name := range trailers {
		a, ok := checksum.FromHeader(name)
		if !ok {
			continue // a checksum that we do not know is not checked (rule 2 of S3.md)
		}
		if sum.Algorithm != metadata.ChecksumNone {
			return sum, "", manyChecksums
		}
		sum.Algorithm, trailer = a, name
	}
	if a, ok := checksum.Parse(h.Get(wire.HeaderSDKChecksum)); ok && a != sum.Algorithm {
		if sum.Algorithm != metadata.ChecksumNone {
			return sum, "", wire.InvalidRequest.Say("Value for x-amz-sdk-checksum-algorithm header is invalid.")
		}
		return sum, "", wire.InvalidRequest.Say("x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found.")
	}
	return sum, trailer, nil
}

var manyChecksums = wire.InvalidRequest.Say("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")

// setChecksum shows a checksum in the headers of a reply.
func setChecksum(h http.Header, sum metadata.Checksum) {
	v := checksum.Format(sum)
	if v == "" {
		return
	}
	h.Set(checksum.Header(sum.Algorithm), v)
	h.Set(wire.HeaderChecksumType, checksum.TypeName(sum))
}

// wireChecksum is a checksum as XML shows it.
func wireChecksum(sum metadata.Checksum) wire.Checksum {
	return wire.Checksum{Algorithm: checksum.Name(sum.Algorithm), Type: checksum.TypeName(sum), Value: checksum.Format(sum)}
}

// setETag shows an ETag in the spelling of the header that S3 uses, for the sake
// of clients that know no other.
func setETag(h http.Header, etag string) { h["ETag"] = []string{wire.QuoteETag(etag)} }

// setVersion shows a version id unless the bucket never had versions.
func setVersion(h http.Header, id string, null bool) {
	if id != "" && !null {
		h.Set(wire.HeaderVersionID, id)
	}
}

// setEncryption says how what was written or read is encrypted.
func (s *Server) setEncryption(h http.Header) {
	if s.opts.Encrypted {
		h.Set(wire.HeaderSSE, "AES256")
	}
}

// storageClass is the class as replies show it.
func storageClass(class string) string {
	if class == "" {
		return standard
	}
	return class
}

// versionID reads ?versionId=, which may be absent but not empty.
func versionID(query url.Values) (string, error) {
	v := query.Get("versionId")
	if v == "" && query.Has("versionId") {
		return "", wire.InvalidArgument.Say("Version id cannot be the empty string").
			With("ArgumentName", "versionId").With("ArgumentValue", "")
	}
	return v, nil
}

// partNumber reads ?partNumber=, 1 to 10,000.
func partNumber(query url.Values) (int, error) {
	v := query.Get("partNumber")
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > object.MaxParts || strings.HasPrefix(v, "+") {
		return 0, wire.InvalidPartNumberArgument(v)
	}
	return n, nil
}

// uploadID reads ?uploadId=. Ids that are not ours name no upload.
func uploadID(query url.Values) (metadata.UploadID, error) {
	id, ok := metadata.ParseUploadID(query.Get("uploadId"))
	if !ok {
		return id, wire.NoSuchUpload
	}
	return id, nil
}
