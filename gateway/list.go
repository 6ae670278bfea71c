package gateway

import (
	"encoding/base64"
	"strings"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/wire"
)

// maxPage is the most entries of any list but that of buckets.
const maxPage = 1000

// encodingType reads encoding-type, which is url or absent.
func encodingType(c *call) (string, error) {
	switch v := c.query.Get("encoding-type"); v {
	case "", "url":
		return v, nil
	default:
		return "", wire.InvalidArgument.Say("Invalid Encoding Method specified in Request").
			With("ArgumentName", "encoding-type").With("ArgumentValue", v)
	}
}

// listQuery reads what all lists have in common.
func listQuery(c *call, limitName string) (prefix, delimiter, encoding string, limit int, err error) {
	prefix, delimiter = c.query.Get("prefix"), c.query.Get("delimiter")
	for _, name := range []string{"prefix", "delimiter", "marker", "start-after", "key-marker"} {
		if err := checkText(c.query.Get(name)); err != nil {
			return "", "", "", 0, err
		}
	}
	if encoding, err = encodingType(c); err != nil {
		return "", "", "", 0, err
	}
	limit, err = wire.ParseCount(limitName, c.query.Get(limitName), 0, maxPage)
	return prefix, delimiter, encoding, limit, err
}

// checkText refuses what is not UTF-8 and so can neither be in a key nor in a
// reply. Longer texts than keys are legal, they match nothing.
func checkText(s string) error {
	if strings.ToValidUTF8(s, "") != s {
		return wire.InvalidURI
	}
	return nil
}

// listPage gets one page from the engine. A page of nothing needs the bucket to
// exist and no more.
func (s *Server) listPage(c *call, req *object.ListRequest) (*object.ListPage, error) {
	if req.Limit == 0 {
		_, err := s.objects.Bucket(c.ctx, req.Bucket)
		return &object.ListPage{}, err
	}
	return s.objects.List(c.ctx, req)
}

// listObjects answers ListObjects, the first version.
func (s *Server) listObjects(c *call) error {
	prefix, delimiter, encoding, limit, err := listQuery(c, "max-keys")
	if err != nil {
		return err
	}
	marker := c.query.Get("marker")
	page, err := s.listPage(c, &object.ListRequest{Bucket: c.bucket, Prefix: prefix, Delimiter: delimiter, After: marker, Limit: limit})
	if err != nil {
		return err
	}
	head := &wire.ListHead{
		Bucket: c.bucket, Prefix: prefix, Delimiter: delimiter, MaxKeys: limit, EncodingType: encoding,
		Truncated: page.Truncated, Marker: marker,
	}
	if page.Truncated && delimiter != "" {
		head.NextMarker = page.Next
	}
	c.w.Header().Set(wire.HeaderBucketRegion, s.opts.Region)
	e := wire.NewListObjects(c.w, head)
	s.entries(e, page, &s.opts.Owner)
	return c.sendXML(e)
}

// listObjectsV2 answers ListObjectsV2.
func (s *Server) listObjectsV2(c *call) error {
	prefix, delimiter, encoding, limit, err := listQuery(c, "max-keys")
	if err != nil {
		return err
	}
	head := &wire.ListHead{
		Bucket: c.bucket, Prefix: prefix, Delimiter: delimiter, MaxKeys: limit, EncodingType: encoding,
		StartAfter: c.query.Get("start-after"), ContinuationToken: c.query.Get("continuation-token"),
		HasToken: c.query.Has("continuation-token"),
	}
	after := head.StartAfter
	if head.ContinuationToken != "" {
		if after, err = openToken(head.ContinuationToken); err != nil {
			return err
		}
	}
	var owner *wire.Owner
	if strings.EqualFold(c.query.Get("fetch-owner"), "true") {
		owner = &s.opts.Owner
	}
	page, err := s.listPage(c, &object.ListRequest{Bucket: c.bucket, Prefix: prefix, Delimiter: delimiter, After: after, Limit: limit})
	if err != nil {
		return err
	}
	head.Truncated, head.KeyCount = page.Truncated, len(page.Entries)+len(page.Prefixes)
	if page.Truncated {
		head.NextToken = sealToken(page.Next)
	}
	c.w.Header().Set(wire.HeaderBucketRegion, s.opts.Region)
	e := wire.NewListObjectsV2(c.w, head)
	s.entries(e, page, owner)
	return c.sendXML(e)
}

func (s *Server) entries(e *wire.Encoder, page *object.ListPage, owner *wire.Owner) {
	for i := range page.Entries {
		o := wireObject(&page.Entries[i], owner)
		e.Object(&o)
	}
	for _, p := range page.Prefixes {
		e.CommonPrefix(p)
	}
}

func wireObject(entry *object.Entry, owner *wire.Owner) wire.Object {
	o := wire.Object{
		Key: entry.Key, VersionID: entry.VersionID, Latest: entry.Latest, LastModified: entry.LastModified,
		ETag: entry.ETag, Size: entry.Bytes, StorageClass: storageClass(entry.StorageClass), Owner: owner,
	}
	if entry.Checksum.Algorithm != 0 {
		o.Checksum = wireChecksum(entry.Checksum)
	}
	return o
}

// Continuation tokens carry the place where the next page begins. They are
// opaque to clients and begin with the number of their form.
const tokenForm = "\x01"

func sealToken(after string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(tokenForm + after))
}

func openToken(token string) (string, error) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	after, ok := strings.CutPrefix(string(raw), tokenForm)
	if err != nil || !ok || checkText(after) != nil || len(after) > 2*wire.MaxKeyBytes {
		return "", wire.InvalidArgument.Say("The continuation token provided is incorrect").
			With("ArgumentName", "continuation-token").With("ArgumentValue", token)
	}
	return after, nil
}

// listVersions answers ListObjectVersions.
func (s *Server) listVersions(c *call) error {
	prefix, delimiter, encoding, limit, err := listQuery(c, "max-keys")
	if err != nil {
		return err
	}
	head := &wire.VersionsHead{
		Bucket: c.bucket, Prefix: prefix, Delimiter: delimiter, MaxKeys: limit, EncodingType: encoding,
		KeyMarker: c.query.Get("key-marker"), VersionIDMarker: c.query.Get("version-id-marker"),
	}
	if head.VersionIDMarker != "" && head.KeyMarker == "" {
		return wire.InvalidArgument.Say("A version-id marker cannot be specified without a key marker.").
			With("ArgumentName", "version-id-marker").With("ArgumentValue", head.VersionIDMarker)
	}
	page := &object.VersionsPage{}
	if limit == 0 {
		_, err = s.objects.Bucket(c.ctx, c.bucket)
	} else {
		page, err = s.objects.Versions(c.ctx, &object.VersionsRequest{
			Bucket: c.bucket, Prefix: prefix, Delimiter: delimiter,
			KeyMarker: head.KeyMarker, VersionAfter: head.VersionIDMarker, Limit: limit,
		})
	}
	if err != nil {
		return err
	}
	head.Truncated, head.NextKeyMarker, head.NextVersionMark = page.Truncated, page.NextKey, page.NextVersion
	e := wire.NewListVersions(c.w, head)
	for i := range page.Entries {
		o := wireObject(&page.Entries[i], &s.opts.Owner)
		if o.VersionID == "" {
			o.VersionID = "null"
		}
		if page.Entries[i].Marker {
			e.DeleteMarker(&o)
		} else {
			e.Version(&o)
		}
	}
	for _, p := range page.Prefixes {
		e.CommonPrefix(p)
	}
	return c.sendXML(e)
}

// listUploads answers ListMultipartUploads.
func (s *Server) listUploads(c *call) error {
	prefix, delimiter, encoding, limit, err := listQuery(c, "max-uploads")
	if err != nil {
		return err
	}
	head := &wire.UploadsHead{
		Bucket: c.bucket, Prefix: prefix, Delimiter: delimiter, MaxUploads: limit, EncodingType: encoding,
		KeyMarker: c.query.Get("key-marker"), UploadIDMarker: c.query.Get("upload-id-marker"),
	}
	page := &object.UploadsPage{}
	if limit == 0 {
		_, err = s.objects.Bucket(c.ctx, c.bucket)
	} else {
		page, err = s.objects.Uploads(c.ctx, &object.UploadsRequest{
			Bucket: c.bucket, Prefix: prefix, Delimiter: delimiter,
			KeyMarker: head.KeyMarker, UploadIDMarker: head.UploadIDMarker, Limit: limit,
		})
	}
	if err != nil {
		return err
	}
	head.Truncated = page.Truncated
	if page.Truncated {
		head.NextKeyMarker, head.NextUploadIDMark = page.NextKey, page.NextUploadID
	}
	e := wire.NewListUploads(c.w, head)
	for i := range page.Uploads {
		u := s.wireUpload(&page.Uploads[i])
		e.Upload(&u)
	}
	for _, p := range page.Prefixes {
		e.CommonPrefix(p)
	}
	return c.sendXML(e)
}
