package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/gateway/wire"
	"github.com/ruche-storage/ruche/metadata"
)

// getObject answers GetObject and HeadObject.
func (s *Server) getObject(c *call) error {
	req, err := c.getRequest()
	if err != nil {
		return err
	}
	obj, err := s.objects.Get(c.ctx, req)
	if obj != nil {
		defer obj.Close()
	}
	h := c.w.Header()
	if err != nil {
		if obj == nil {
			return err
		}
		return c.describeFailure(h, obj, err)
	}
	c.objectSize = obj.Bytes
	s.describe(h, &obj.Info)
	if obj.Partial && obj.Length > 0 {
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", obj.Offset, obj.Offset+obj.Length-1, obj.Bytes))
	}
	if !obj.Partial && strings.EqualFold(c.r.Header.Get(wire.HeaderChecksumMode), "ENABLED") {
		setChecksum(h, obj.Checksum) // that of the whole does not fit a part
	}
	if req.PartNumber > 0 && obj.PartsCount > 0 {
		h.Set(wire.HeaderPartsCount, strconv.Itoa(obj.PartsCount))
	}
	override(h, c)
	h.Set("Content-Length", strconv.FormatInt(obj.Length, 10))
	status := http.StatusOK
	if obj.Partial {
		status = http.StatusPartialContent
	}
	c.w.WriteHeader(status)
	if req.HeadOnly || obj.Length == 0 {
		return nil
	}
	if n, err := obj.WriteTo(c.w); err != nil || n != obj.Length {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		s.abort(c, err)
	}
	return nil
}

// getRequest reads what a GET or HEAD asks for.
func (c *call) getRequest() (*object.GetRequest, error) {
	h := c.r.Header
	if err := refuseReadEncryption(h); err != nil {
		return nil, err
	}
	if c.id.Kind == sigv4.Anonymous && overrides(c) {
		return nil, wire.InvalidRequest.Say("Request specific response headers cannot be used for anonymous GET requests.")
	}
	version, err := versionID(c.query)
	if err != nil {
		return nil, err
	}
	req := &object.GetRequest{
		Bucket: c.bucket, Key: c.key, VersionID: version,
		Conditions: readConditions(h, ""),
		HeadOnly:   c.r.Method == http.MethodHead,
	}
	if v := h.Get("Range"); v != "" && ifRangeAllows(h) {
		if r, ok := wire.ParseRange(v); ok {
			req.Range = objectRange(r)
		}
	}
	if c.query.Has("partNumber") {
		if req.PartNumber, err = partNumber(c.query); err != nil {
			return nil, err
		}
		if req.Range.Kind != object.RangeWhole {
			return nil, wire.InvalidRequest.Say("Cannot specify both Range header and partNumber query parameter")
		}
	}
	return req, nil
}

// ifRangeAllows reports whether Range counts. S3 documents no If-Range; one
// that is sent gets the whole object, which is always right.
func ifRangeAllows(h http.Header) bool { return h.Get("If-Range") == "" }

func objectRange(r wire.Range) object.Range {
	switch {
	case r.Suffix:
		return object.Range{Kind: object.RangeSuffix, Suffix: r.Last}
	case r.Last < 0:
		return object.Range{Kind: object.RangeFrom, First: r.First}
	}
	return object.Range{Kind: object.RangeFromTo, First: r.First, Last: r.Last}
}

// describe sets the headers that describe an object.
func (s *Server) describe(h http.Header, info *object.Info) {
	s.setEncryption(h)
	setVersion(h, info.VersionID, info.Null)
	h.Set("Last-Modified", wire.HTTPTime(info.LastModified))
	setETag(h, info.ETag)
	h.Set("Accept-Ranges", "bytes")
	if info.StorageClass != "" && info.StorageClass != standard {
		h.Set(wire.HeaderStorageClass, info.StorageClass)
	}
	for _, p := range info.User {
		h["x-amz-meta-"+p.Name] = []string{p.Value} // in lower case, as AWS sends them
	}
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	set("Cache-Control", info.Headers.CacheControl)
	set("Content-Disposition", info.Headers.ContentDisposition)
	set("Content-Encoding", info.Headers.ContentEncoding)
	set("Content-Language", info.Headers.ContentLanguage)
	set("Expires", info.Headers.Expires)
	set(wire.HeaderWebsiteRedirect, info.Headers.WebsiteRedirect)
	h.Set("Content-Type", info.Headers.ContentType)
	if info.Headers.ContentType == "" {
		h.Set("Content-Type", defaultContentType)
	}
}

// describeFailure sets what a refused read still says about the object, and
// returns the error with the same in its body.
func (c *call) describeFailure(h http.Header, obj *object.Object, err error) error {
	switch {
	case errors.Is(err, object.ErrNotModified):
		setVersion(h, obj.VersionID, obj.Null)
		h.Set("Last-Modified", wire.HTTPTime(obj.LastModified))
		setETag(h, obj.ETag)
		if obj.Headers.CacheControl != "" {
			h.Set("Cache-Control", obj.Headers.CacheControl)
		}
	case errors.Is(err, object.ErrInvalidRange):
		size := strconv.FormatInt(obj.Bytes, 10)
		h.Set("Content-Range", "bytes */"+size)
		return s3Error(err).With("RangeRequested", c.r.Header.Get("Range")).With("ActualObjectSize", size)
	case errors.Is(err, object.ErrInvalidPartNumber):
		return s3Error(err).With("ActualPartCount", strconv.Itoa(max(1, obj.Parts))).
			With("PartNumberRequested", c.query.Get("partNumber"))
	}
	return err
}

// overridable are the parameters that replace headers of a reply.
var overridable = map[string]string{
	"response-content-type":        "Content-Type",
	"response-content-language":    "Content-Language",
	"response-expires":             "Expires",
	"response-cache-control":       "Cache-Control",
	"response-content-disposition": "Content-Disposition",
	"response-content-encoding":    "Content-Encoding",
}

func overrides(c *call) bool {
	for name := range overridable {
		if c.query.Has(name) {
			return true
		}
	}
	return false
}

func override(h http.Header, c *call) {
	for name, header := range overridable {
		if v := c.query.Get(name); v != "" {
			h.Set(header, v)
		}
	}
}

// objectAttributes answers GetObjectAttributes.
func (s *Server) objectAttributes(c *call) error {
	h := c.r.Header
	if err := refuseReadEncryption(h); err != nil {
		return err
	}
	want, err := wantedAttributes(h)
	if err != nil {
		return err
	}
	version, err := versionID(c.query)
	if err != nil {
		return err
	}
	req := &object.AttributesRequest{Bucket: c.bucket, Key: c.key, VersionID: version}
	if req.PartsLimit, err = wire.ParseCount("max-parts", h.Get(wire.HeaderMaxParts), 0, 1000); err != nil {
		return err
	}
	if v := h.Get(wire.HeaderPartNumberMarker); v != "" {
		if req.PartsAfter, err = wire.ParseCount("part-number-marker", v, 0, 1<<31-1); err != nil {
			return err
		}
	}
	res, err := s.objects.Attributes(c.ctx, req)
	if err != nil {
		return err
	}
	c.w.Header().Set("Last-Modified", wire.HTTPTime(res.LastModified))
	setVersion(c.w.Header(), res.VersionID, res.Null)
	return c.sendXML(wire.NewAttributes(c.w, attributesReply(want, req, res)))
}

func attributesReply(want map[string]bool, req *object.AttributesRequest, res *object.AttributesResult) *wire.Attributes {
	a := &wire.Attributes{Size: -1}
	if want["ETag"] {
		a.ETag = res.ETag
	}
	if want["Checksum"] {
		a.Checksum = wireChecksum(res.Checksum)
	}
	if want["StorageClass"] {
		a.StorageClass = storageClass(res.StorageClass)
	}
	if want["ObjectSize"] {
		a.Size = res.Bytes
	}
	if want["ObjectParts"] && res.Parts > 0 {
		p := &wire.AttributesParts{Total: res.Parts, Marker: req.PartsAfter, Next: res.NextPart, Max: req.PartsLimit, Truncated: res.Truncated}
		for _, part := range res.ObjectParts {
			if part.Checksum.Algorithm == metadata.ChecksumNone {
				continue // AWS lists parts only by their checksums
			}
			p.Parts = append(p.Parts, wire.Part{Number: part.Number, Size: part.Bytes, Checksum: wireChecksum(part.Checksum)})
		}
		a.Parts = p
	}
	return a
}

// wantedAttributes reads x-amz-object-attributes.
func wantedAttributes(h http.Header) (map[string]bool, error) {
	want := make(map[string]bool)
	for _, v := range h[wire.HeaderObjectAttributes] {
		for name := range strings.SplitSeq(v, ",") {
			switch name = strings.TrimSpace(name); name {
			case "ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize":
				want[name] = true
			case "":
			default:
				return nil, wire.InvalidArgument.Say("Invalid attribute name specified.").
					With("ArgumentName", "x-amz-object-attributes").With("ArgumentValue", name)
			}
		}
	}
	if len(want) == 0 {
		return nil, wire.InvalidRequest.Say("Missing required header for this request: x-amz-object-attributes")
	}
	return want, nil
}

// exists reports by its error that an object cannot be read. It is what calls
// do that answer the same for every object.
func (s *Server) exists(c *call) (*object.Info, error) {
	version, err := versionID(c.query)
	if err != nil {
		return nil, err
	}
	obj, err := s.objects.Get(c.ctx, &object.GetRequest{Bucket: c.bucket, Key: c.key, VersionID: version, HeadOnly: true})
	if obj != nil {
		obj.Close()
	}
	if err != nil {
		return nil, err
	}
	return &obj.Info, nil
}

// objectTagging answers GetObjectTagging: objects have no tags yet.
func (s *Server) objectTagging(c *call) error {
	info, err := s.exists(c)
	if err != nil {
		return err
	}
	setVersion(c.w.Header(), info.VersionID, info.Null)
	e := c.xml("Tagging")
	e.Opening("TagSet")
	e.Closing("TagSet")
	return c.sendXML(e)
}

// deleteTagging answers DeleteObjectTagging: no object has tags yet.
func (s *Server) deleteTagging(c *call) error {
	info, err := s.exists(c)
	if err != nil {
		return err
	}
	setVersion(c.w.Header(), info.VersionID, info.Null)
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// objectLockState answers GetObjectRetention and GetObjectLegalHold: no bucket
// has object lock yet.
func (s *Server) objectLockState(c *call) error {
	if _, err := s.exists(c); err != nil {
		return err
	}
	return wire.InvalidRequest.Say("Bucket is missing Object Lock Configuration")
}
