package gateway

import (
	"cmp"
	"net/http"
	"strconv"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/wire"
)

// deleteObject answers DeleteObject.
func (s *Server) deleteObject(c *call) error {
	version, err := versionID(c.query)
	if err != nil {
		return err
	}
	req := object.DeleteRequest{Key: c.key, VersionID: version}
	if req.Conditions, err = deleteConditions(c.r.Header); err != nil {
		return err
	}
	results, err := s.objects.Delete(c.ctx, c.bucket, []object.DeleteRequest{req})
	if err != nil {
		return err
	}
	res := results[0]
	if res.Err != nil {
		return res.Err
	}
	h := c.w.Header()
	if res.DeleteMarker {
		h.Set(wire.HeaderDeleteMarker, "true")
	}
	id := cmp.Or(res.VersionID, res.MarkerVersionID)
	setVersion(h, id, id == "null") // no bucket has versioning yet
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// deleteConditions reads the conditions of DeleteObject.
func deleteConditions(h http.Header) (object.DeleteConditions, error) {
	var cond object.DeleteConditions
	cond.IfMatch = wire.TrimETag(h.Get("If-Match"))
	if v := h.Get("X-Amz-If-Match-Last-Modified-Time"); v != "" {
		t, ok := wire.ParseTime(v)
		if !ok {
			return cond, wire.InvalidArgument.With("ArgumentName", "x-amz-if-match-last-modified-time").With("ArgumentValue", v)
		}
		cond.ModifiedUnix = t.Unix()
	}
	if v := h.Get("X-Amz-If-Match-Size"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return cond, wire.InvalidArgument.With("ArgumentName", "x-amz-if-match-size").With("ArgumentValue", v)
		}
		cond.Bytes, cond.HasBytes = n, true
	}
	return cond, nil
}

// deleteObjects answers DeleteObjects. A key that cannot exist fails alone.
func (s *Server) deleteObjects(c *call) error {
	doc, err := c.document()
	if err != nil {
		return err
	}
	body, err := wire.ReadDelete(doc)
	if err != nil {
		return err
	}
	reqs := make([]object.DeleteRequest, 0, len(body.Objects))
	bad := make(map[int]error)
	for i, o := range body.Objects {
		if err := wire.CheckKey(o.Key); err != nil {
			bad[i] = err
			continue
		}
		reqs = append(reqs, deleteRequest(&o))
	}
	var results []object.DeleteResult
	if len(reqs) > 0 {
		results, err = s.objects.Delete(c.ctx, c.bucket, reqs)
	} else {
		_, err = s.objects.Bucket(c.ctx, c.bucket)
	}
	if err != nil {
		return err
	}
	e := c.xml("DeleteResult")
	next := 0
	for i, o := range body.Objects {
		res := object.DeleteResult{Err: bad[i]}
		if res.Err == nil {
			res = results[next]
			next++
		}
		switch {
		case res.Err != nil:
			answer := s3Error(res.Err)
			s.opts.Log.Log(c.ctx, levelOf(answer), "delete failed", "request", c.reqID, "bucket", c.bucket, "key", o.Key, "err", res.Err)
			e.DeleteError(o.Key, o.VersionID, answer)
		case !body.Quiet:
			e.Deleted(o.Key, o.VersionID, res.DeleteMarker, markerID(&o, &res))
		}
	}
	return c.sendXML(e)
}

func deleteRequest(o *wire.DeleteObject) object.DeleteRequest {
	req := object.DeleteRequest{Key: o.Key, VersionID: o.VersionID}
	req.Conditions.IfMatch = o.ETag
	if !o.LastModified.IsZero() {
		req.Conditions.ModifiedUnix = o.LastModified.Unix()
	}
	if o.Size >= 0 {
		req.Conditions.Bytes, req.Conditions.HasBytes = o.Size, true
	}
	return req
}

// markerID is the version id of the marker that a delete made, or removed.
func markerID(o *wire.DeleteObject, res *object.DeleteResult) string {
	if res.MarkerVersionID != "" {
		return res.MarkerVersionID
	}
	return o.VersionID
}
