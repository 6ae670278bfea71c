package gateway

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/ruche-storage/ruche/gateway/checksum"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/wire"
	"github.com/ruche-storage/ruche/metadata"
)

// createUpload answers CreateMultipartUpload.
func (s *Server) createUpload(c *call) error {
	h := c.r.Header
	attrs, err := s.attributes(h)
	if err != nil {
		return err
	}
	req := &object.UploadRequest{Bucket: c.bucket, Key: c.key, Attributes: attrs}
	if req.ChecksumAlgorithm, err = wantedAlgorithm(h); err != nil {
		return err
	}
	typ := h.Get(wire.HeaderChecksumType)
	switch {
	case req.ChecksumAlgorithm != metadata.ChecksumNone:
		if req.Composite, err = checksum.MultipartType(req.ChecksumAlgorithm, typ); err != nil {
			return badChecksumType(typ, checksum.Name(req.ChecksumAlgorithm)).Because(err)
		}
	case typ != "":
		return wire.InvalidRequest.Say("The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.")
	}
	up, err := s.objects.CreateUpload(c.ctx, req)
	if err != nil {
		return err
	}
	if up.ChecksumAlgorithm != metadata.ChecksumNone {
		c.w.Header().Set(wire.HeaderChecksumAlgorithm, checksum.Name(up.ChecksumAlgorithm))
		c.w.Header().Set(wire.HeaderChecksumType, uploadType(up))
	}
	s.setEncryption(c.w.Header())
	return c.sendXML(wire.NewInitiated(c.w, c.bucket, c.key, up.ID.String()))
}

func badChecksumType(typ, algorithm string) *wire.Error {
	return wire.InvalidRequest.Say("The " + strings.ToUpper(typ) + " checksum type cannot be used with the " + strings.ToLower(algorithm) + " checksum algorithm.")
}

func uploadType(up object.UploadInfo) string {
	return checksum.TypeName(metadata.Checksum{Algorithm: up.ChecksumAlgorithm, Composite: up.Composite})
}

// uploadPart answers UploadPart.
func (s *Server) uploadPart(c *call) error {
	upload, number, err := c.part()
	if err != nil {
		return err
	}
	if err := s.checkEncryption(c.r.Header); err != nil {
		return err
	}
	body, err := c.upload()
	if err != nil {
		return err
	}
	res, err := s.objects.PutPart(c.ctx, &object.PartRequest{Bucket: c.bucket, Key: c.key, Upload: upload, Number: number, Body: body})
	if err != nil {
		return err
	}
	h := c.w.Header()
	setETag(h, res.ETag)
	if v := checksum.Format(res.Checksum); v != "" {
		h.Set(checksum.Header(res.Checksum.Algorithm), v)
	}
	s.setEncryption(h)
	h.Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// part reads which part of which upload is meant.
func (c *call) part() (metadata.UploadID, int, error) {
	number, err := partNumber(c.query)
	if err != nil {
		return metadata.UploadID{}, 0, err
	}
	upload, err := uploadID(c.query)
	return upload, number, err
}

// uploadPartCopy answers UploadPartCopy.
func (s *Server) uploadPartCopy(c *call) error {
	upload, number, err := c.part()
	if err != nil {
		return err
	}
	if err := s.checkEncryption(c.r.Header); err != nil {
		return err
	}
	req := &object.PartCopyRequest{Source: c.copySource(), Bucket: c.bucket, Key: c.key, Upload: upload, Number: number}
	if v := c.r.Header.Get(wire.HeaderCopySourceRange); v != "" {
		first, last, ok := wire.ParseCopyRange(v)
		if !ok {
			return wire.InvalidArgument.Say("The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy").
				With("ArgumentName", "x-amz-copy-source-range").With("ArgumentValue", v)
		}
		req.Range = object.Range{Kind: object.RangeFromTo, First: first, Last: last}
	}
	res, err := s.objects.CopyPart(c.ctx, req)
	if err != nil {
		return copyError(err)
	}
	c.objectSize = res.Bytes
	s.describeCopy(c, res)
	return c.sendXML(wire.NewCopyResult(c.w, "CopyPartResult", res.ETag, res.LastModified, wireChecksum(res.Checksum)))
}

// completeUpload answers CompleteMultipartUpload.
func (s *Server) completeUpload(c *call) error {
	h := c.r.Header
	upload, err := uploadID(c.query)
	if err != nil {
		return err
	}
	cond, err := writeConditions(h)
	if err != nil {
		return err
	}
	req := &object.CompleteRequest{Bucket: c.bucket, Key: c.key, Upload: upload, Bytes: -1, Conditions: cond}
	if err := completeChecksum(h, req); err != nil {
		return err
	}
	if v := h.Get(wire.HeaderObjectSize); v != "" {
		if req.Bytes, err = strconv.ParseInt(v, 10, 64); err != nil || req.Bytes < 0 {
			return wire.InvalidRequest.Say("Value for x-amz-mp-object-size header is invalid.")
		}
	}
	parts, err := wire.ReadComplete(c.verified())
	if err != nil {
		return err
	}
	if req.Parts, err = completeParts(parts, req.Type); err != nil {
		return err
	}
	res, err := s.objects.Complete(c.ctx, req)
	if err != nil {
		return err
	}
	c.objectSize = res.Bytes
	setVersion(c.w.Header(), res.VersionID, res.Null)
	s.setEncryption(c.w.Header())
	return c.sendXML(wire.NewCompleted(c.w, c.location(), c.bucket, c.key, res.ETag, wireChecksum(res.Checksum)))
}

// completeChecksum reads the checksum of the whole object and its type. Here
// the checksum headers do not speak of the body of the request.
func completeChecksum(h http.Header, req *object.CompleteRequest) error {
	req.Type = strings.ToUpper(h.Get(wire.HeaderChecksumType))
	switch req.Type {
	case "", checksum.Composite, checksum.FullObject:
	default:
		return wire.InvalidRequest.Say("Value for x-amz-checksum-type header is invalid.")
	}
	for _, a := range checksum.Algorithms() {
		v := h.Get(checksum.Header(a))
		if v == "" {
			continue
		}
		if req.Checksum.Algorithm != metadata.ChecksumNone {
			return manyChecksums
		}
		raw, parts, err := checksum.ParseComposite(a, v)
		if err != nil {
			return wire.InvalidRequest.Say("Value for " + checksum.Header(a) + " header is invalid.").Because(err)
		}
		if parts > 0 && req.Type == checksum.FullObject {
			return wire.InvalidRequest.Say("Value for " + checksum.Header(a) + " header is invalid.")
		}
		if req.Type != "" {
			if _, err := checksum.MultipartType(a, req.Type); err != nil {
				return badChecksumType(req.Type, checksum.Name(a)).Because(err)
			}
		}
		req.Checksum = metadata.Checksum{
			Algorithm: a, Composite: parts > 0 || req.Type == checksum.Composite, Parts: parts, Value: string(raw),
		}
	}
	return nil
}

// completeParts turns the parts of a completion into the engine's.
func completeParts(parts []wire.CompletedPart, typ string) ([]object.CompletePart, error) {
	out := make([]object.CompletePart, len(parts))
	for i, p := range parts {
		out[i] = object.CompletePart{Number: p.Number, ETag: p.ETag}
		for _, f := range p.Checksums {
			a, ok := checksum.Parse(f.Name)
			if !ok {
				continue // such as ChecksumType, which some clients add
			}
			if out[i].Checksum.Algorithm != metadata.ChecksumNone {
				return nil, manyChecksums
			}
			raw, err := checksum.ParseValue(a, f.Value)
			if err != nil {
				return nil, wire.InvalidPart.Because(err)
			}
			out[i].Checksum = metadata.Checksum{Algorithm: a, Composite: typ == checksum.Composite, Value: string(raw)}
		}
	}
	return out, nil
}

// abortUpload answers AbortMultipartUpload.
func (s *Server) abortUpload(c *call) error {
	upload, err := uploadID(c.query)
	if err != nil {
		return err
	}
	if err := s.objects.Abort(c.ctx, c.bucket, c.key, upload); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// listParts answers ListParts.
func (s *Server) listParts(c *call) error {
	upload, err := uploadID(c.query)
	if err != nil {
		return err
	}
	limit, err := wire.ParseCount("max-parts", c.query.Get("max-parts"), 0, 1000)
	if err != nil {
		return err
	}
	after := 0
	if v := c.query.Get("part-number-marker"); v != "" {
		if after, err = wire.ParseCount("part-number-marker", v, 0, 1<<31-1); err != nil {
			return err
		}
	}
	encoding, err := encodingType(c)
	if err != nil {
		return err
	}
	page, err := s.objects.Parts(c.ctx, &object.PartsRequest{Bucket: c.bucket, Key: c.key, Upload: upload, After: after, Limit: limit})
	if err != nil {
		return err
	}
	next := page.Next
	if len(page.Parts) > 0 {
		next = page.Parts[len(page.Parts)-1].Number
	}
	page.Upload.ID, page.Upload.Key = upload, c.key
	e := wire.NewListParts(c.w, &wire.PartsHead{
		Bucket: c.bucket, Upload: s.wireUpload(&page.Upload), Marker: after, Next: next, MaxParts: limit,
		EncodingType: encoding, Truncated: page.Truncated,
	})
	for i := range page.Parts {
		p := &page.Parts[i]
		e.Part(&wire.Part{Number: p.Number, LastModified: p.LastModified, ETag: p.ETag, Size: p.Bytes, Checksum: wireChecksum(p.Checksum)})
	}
	return c.sendXML(e)
}

func (s *Server) wireUpload(up *object.UploadInfo) wire.Upload {
	return wire.Upload{
		Key: up.Key, UploadID: up.ID.String(), Initiated: up.Initiated, StorageClass: storageClass(up.StorageClass),
		Owner:    s.opts.Owner,
		Checksum: wire.Checksum{Algorithm: checksum.Name(up.ChecksumAlgorithm), Type: uploadType(*up)},
	}
}
