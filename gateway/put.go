package gateway

import (
	"errors"
	"net/http"
	"strings"

	"github.com/ruche-storage/ruche/gateway/checksum"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/wire"
	"github.com/ruche-storage/ruche/metadata"
)

// putObject answers PutObject.
func (s *Server) putObject(c *call) error {
	attrs, err := s.attributes(c.r.Header)
	if err != nil {
		return err
	}
	cond, err := writeConditions(c.r.Header)
	if err != nil {
		return err
	}
	body, err := c.upload()
	if err != nil {
		return err
	}
	res, err := s.objects.Put(c.ctx, &object.PutRequest{Bucket: c.bucket, Key: c.key, Body: body, Attributes: attrs, Conditions: cond})
	if err != nil {
		return err
	}
	h := c.w.Header()
	setETag(h, res.ETag)
	setVersion(h, res.VersionID, res.Null)
	setChecksum(h, res.Checksum)
	s.setEncryption(h)
	h.Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// copyObject answers CopyObject.
func (s *Server) copyObject(c *call) error {
	h := c.r.Header
	replace, err := directive(h, wire.HeaderMetadataDirective)
	if err != nil {
		return err
	}
	if _, err := directive(h, wire.HeaderTaggingDirective); err != nil {
		return err
	}
	attrs, err := s.attributes(h)
	if err != nil {
		return err
	}
	if !replace {
		// Only these count without REPLACE.
		attrs = object.Attributes{
			Headers: metadata.Headers{WebsiteRedirect: attrs.Headers.WebsiteRedirect}, StorageClass: attrs.StorageClass,
		}
	}
	cond, err := writeConditions(h)
	if err != nil {
		return err
	}
	algorithm, err := wantedAlgorithm(h)
	if err != nil {
		return err
	}
	res, err := s.objects.Copy(c.ctx, &object.CopyRequest{
		Source: c.copySource(), Bucket: c.bucket, Key: c.key, ReplaceAttributes: replace, Attributes: attrs,
		Checksum: algorithm, Conditions: cond,
	})
	if err != nil {
		return copyError(err)
	}
	c.objectSize = res.Bytes
	s.describeCopy(c, res)
	return c.sendXML(wire.NewCopyResult(c.w, "CopyObjectResult", res.ETag, res.LastModified, wireChecksum(res.Checksum)))
}

func (s *Server) describeCopy(c *call, res *object.CopyResult) {
	h := c.w.Header()
	setVersion(h, res.VersionID, res.Null)
	if res.SourceVersionID != "" {
		h.Set(wire.HeaderCopySourceVersionID, res.SourceVersionID)
	}
	s.setEncryption(h)
}

// copyError words errors as copies have them: conditions that would say "not
// modified" of a read say "precondition failed" of a copy.
func copyError(err error) error {
	switch {
	case errors.Is(err, object.ErrNotModified):
		return wire.PreconditionFailed.Because(err)
	case errors.Is(err, object.ErrEntityTooLarge):
		return wire.InvalidRequest.Say("The specified copy source is larger than the maximum allowable size for a copy source: 5368709120").Because(err)
	}
	return err
}

// directive reads a header that is COPY (the default) or REPLACE.
func directive(h http.Header, name string) (replace bool, err error) {
	switch v := h.Get(name); strings.ToUpper(v) {
	case "", "COPY":
		return false, nil
	case "REPLACE":
		return true, nil
	default:
		what := "metadata"
		if name == wire.HeaderTaggingDirective {
			what = "tagging"
		}
		return false, wire.InvalidArgument.Say("Unknown "+what+" directive.").
			With("ArgumentName", strings.ToLower(name)).With("ArgumentValue", v)
	}
}

// wantedAlgorithm reads x-amz-checksum-algorithm of a call without body.
func wantedAlgorithm(h http.Header) (metadata.ChecksumAlgorithm, error) {
	v := h.Get(wire.HeaderChecksumAlgorithm)
	if v == "" {
		return metadata.ChecksumNone, nil
	}
	a, ok := checksum.Parse(v)
	if !ok {
		return a, wire.InvalidRequest.Say("Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
	}
	return a, nil
}
