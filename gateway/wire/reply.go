package wire

import (
	"io"
	"time"
)

// Owner is an account as replies show it.
type Owner struct{ ID, DisplayName string }

func (e *Encoder) owner(element string, o Owner) {
	e.Opening(element)
	e.Text("ID", o.ID)
	e.Optional("DisplayName", o.DisplayName)
	e.Closing(element)
}

// Checksum is a checksum as replies show it. The zero value is none.
type Checksum struct {
	Algorithm string // CRC32, CRC32C, CRC64NVME, SHA1 or SHA256; "" for none
	Type      string // COMPOSITE or FULL_OBJECT
	Value     string // base64, with -N if composite; may be "" in lists
}

func (e *Encoder) checksum(c Checksum, withType bool) {
	if c.Algorithm == "" || c.Value == "" {
		return
	}
	e.Text("Checksum"+c.Algorithm, c.Value)
	if withType {
		e.Optional("ChecksumType", c.Type)
	}
}

// ListHead is what the replies to ListObjects and ListObjectsV2 say before
// their entries. Fields of the other version are ignored.
type ListHead struct {
	Bucket, Prefix, Delimiter string
	MaxKeys                   int
	EncodingType              string // "url" or ""
	Truncated                 bool

	Marker, NextMarker string // version 1

	KeyCount          int // version 2
	StartAfter        string
	ContinuationToken string
	HasToken          bool // an empty token is echoed too
	NextToken         string
}

// NewListObjects begins the reply to ListObjects. Entries follow by
// [Encoder.Object] and [Encoder.CommonPrefix].
func NewListObjects(w io.Writer, h *ListHead) *Encoder {
	e := NewEncoder(w, "ListBucketResult", h.EncodingType == "url")
	e.Text("Name", h.Bucket)
	e.Key("Prefix", h.Prefix)
	e.Key("Marker", h.Marker)
	if h.NextMarker != "" {
		e.Key("NextMarker", h.NextMarker)
	}
	e.listEnd(h)
	return e
}

// NewListObjectsV2 begins the reply to ListObjectsV2.
func NewListObjectsV2(w io.Writer, h *ListHead) *Encoder {
	e := NewEncoder(w, "ListBucketResult", h.EncodingType == "url")
	e.Text("Name", h.Bucket)
	e.Key("Prefix", h.Prefix)
	if h.StartAfter != "" {
		e.Key("StartAfter", h.StartAfter)
	}
	if h.HasToken {
		e.Text("ContinuationToken", h.ContinuationToken)
	}
	e.Optional("NextContinuationToken", h.NextToken)
	e.Int("KeyCount", int64(h.KeyCount))
	e.listEnd(h)
	return e
}

func (e *Encoder) listEnd(h *ListHead) {
	e.Int("MaxKeys", int64(h.MaxKeys))
	if h.Delimiter != "" {
		e.Key("Delimiter", h.Delimiter)
	}
	e.Optional("EncodingType", h.EncodingType)
	e.Bool("IsTruncated", h.Truncated)
}

// Object is one entry of a list of objects or versions.
type Object struct {
	Key          string
	VersionID    string // lists of versions only
	Latest       bool   // lists of versions only
	LastModified time.Time
	ETag         string // without quotes
	Size         int64
	StorageClass string
	Checksum     Checksum // algorithm and type are shown
	Owner        *Owner
}

// Object writes a <Contents> element.
func (e *Encoder) Object(o *Object) {
	e.Opening("Contents")
	e.Key("Key", o.Key)
	e.Time("LastModified", o.LastModified)
	e.objectEnd(o)
	e.Closing("Contents")
}

func (e *Encoder) objectEnd(o *Object) {
	e.ETag(o.ETag)
	if o.Checksum.Algorithm != "" {
		e.Text("ChecksumAlgorithm", o.Checksum.Algorithm)
		e.Optional("ChecksumType", o.Checksum.Type)
	}
	e.Int("Size", o.Size)
	if o.Owner != nil {
		e.owner("Owner", *o.Owner)
	}
	e.Text("StorageClass", o.StorageClass)
}

// CommonPrefix writes a <CommonPrefixes> element.
func (e *Encoder) CommonPrefix(prefix string) {
	e.Opening("CommonPrefixes")
	e.Key("Prefix", prefix)
	e.Closing("CommonPrefixes")
}

// VersionsHead is what the reply to ListObjectVersions says before its entries.
type VersionsHead struct {
	Bucket, Prefix, Delimiter      string
	KeyMarker, VersionIDMarker     string
	NextKeyMarker, NextVersionMark string
	MaxKeys                        int
	EncodingType                   string
	Truncated                      bool
}

// NewListVersions begins the reply to ListObjectVersions. Entries follow by
// [Encoder.Version], [Encoder.DeleteMarker] and [Encoder.CommonPrefix].
func NewListVersions(w io.Writer, h *VersionsHead) *Encoder {
	e := NewEncoder(w, "ListVersionsResult", h.EncodingType == "url")
	e.Text("Name", h.Bucket)
	e.Key("Prefix", h.Prefix)
	e.Key("KeyMarker", h.KeyMarker)
	e.Text("VersionIdMarker", h.VersionIDMarker)
	if h.Truncated {
		e.Key("NextKeyMarker", h.NextKeyMarker)
		e.Optional("NextVersionIdMarker", h.NextVersionMark)
	}
	e.Int("MaxKeys", int64(h.MaxKeys))
	if h.Delimiter != "" {
		e.Key("Delimiter", h.Delimiter)
	}
	e.Optional("EncodingType", h.EncodingType)
	e.Bool("IsTruncated", h.Truncated)
	return e
}

// Version writes a <Version> element.
func (e *Encoder) Version(o *Object) {
	e.Opening("Version")
	e.versionStart(o)
	e.objectEnd(o)
	e.Closing("Version")
}

// DeleteMarker writes a <DeleteMarker> element.
func (e *Encoder) DeleteMarker(o *Object) {
	e.Opening("DeleteMarker")
	e.versionStart(o)
	if o.Owner != nil {
		e.owner("Owner", *o.Owner)
	}
	e.Closing("DeleteMarker")
}

func (e *Encoder) versionStart(o *Object) {
	e.Key("Key", o.Key)
	e.Text("VersionId", o.VersionID)
	e.Bool("IsLatest", o.Latest)
	e.Time("LastModified", o.LastModified)
}

// UploadsHead is what the reply to ListMultipartUploads says before its
// entries.
type UploadsHead struct {
	Bucket, Prefix, Delimiter       string
	KeyMarker, UploadIDMarker       string
	NextKeyMarker, NextUploadIDMark string
	MaxUploads                      int
	EncodingType                    string
	Truncated                       bool
}

// NewListUploads begins the reply to ListMultipartUploads. Entries follow by
// [Encoder.Upload] and [Encoder.CommonPrefix].
func NewListUploads(w io.Writer, h *UploadsHead) *Encoder {
	e := NewEncoder(w, "ListMultipartUploadsResult", h.EncodingType == "url")
	e.Text("Bucket", h.Bucket)
	e.Key("KeyMarker", h.KeyMarker)
	e.Text("UploadIdMarker", h.UploadIDMarker)
	e.Key("NextKeyMarker", h.NextKeyMarker)
	e.Key("Prefix", h.Prefix)
	if h.Delimiter != "" {
		e.Key("Delimiter", h.Delimiter)
	}
	e.Text("NextUploadIdMarker", h.NextUploadIDMark)
	e.Int("MaxUploads", int64(h.MaxUploads))
	e.Optional("EncodingType", h.EncodingType)
	e.Bool("IsTruncated", h.Truncated)
	return e
}

// Upload is a multipart upload in a list or at the head of a list of parts.
type Upload struct {
	Key, UploadID string
	Initiated     time.Time
	StorageClass  string
	Owner         Owner
	Checksum      Checksum // algorithm and type
}

// Upload writes an <Upload> element.
func (e *Encoder) Upload(u *Upload) {
	e.Opening("Upload")
	e.Key("Key", u.Key)
	e.Text("UploadId", u.UploadID)
	e.owner("Initiator", u.Owner)
	e.owner("Owner", u.Owner)
	e.Text("StorageClass", u.StorageClass)
	e.Time("Initiated", u.Initiated)
	e.Optional("ChecksumAlgorithm", u.Checksum.Algorithm)
	e.Optional("ChecksumType", u.Checksum.Type)
	e.Closing("Upload")
}

// PartsHead is what the reply to ListParts says before its entries.
type PartsHead struct {
	Bucket       string
	Upload       Upload
	Marker, Next int
	MaxParts     int
	EncodingType string
	Truncated    bool
}

// NewListParts begins the reply to ListParts. Entries follow by
// [Encoder.Part].
func NewListParts(w io.Writer, h *PartsHead) *Encoder {
	e := NewEncoder(w, "ListPartsResult", h.EncodingType == "url")
	e.Text("Bucket", h.Bucket)
	e.Key("Key", h.Upload.Key)
	e.Text("UploadId", h.Upload.UploadID)
	e.owner("Initiator", h.Upload.Owner)
	e.owner("Owner", h.Upload.Owner)
	e.Text("StorageClass", h.Upload.StorageClass)
	e.Int("PartNumberMarker", int64(h.Marker))
	e.Int("NextPartNumberMarker", int64(h.Next))
	e.Int("MaxParts", int64(h.MaxParts))
	e.Optional("EncodingType", h.EncodingType)
	e.Bool("IsTruncated", h.Truncated)
	e.Optional("ChecksumAlgorithm", h.Upload.Checksum.Algorithm)
	e.Optional("ChecksumType", h.Upload.Checksum.Type)
	return e
}

// Part is one part in a list.
type Part struct {
	Number       int
	LastModified time.Time
	ETag         string // without quotes; "" leaves it out
	Size         int64
	Checksum     Checksum
}

// Part writes a <Part> element.
func (e *Encoder) Part(p *Part) {
	e.Opening("Part")
	e.Int("PartNumber", int64(p.Number))
	if p.ETag != "" {
		e.Time("LastModified", p.LastModified)
		e.ETag(p.ETag)
	}
	e.Int("Size", p.Size)
	e.checksum(p.Checksum, false)
	e.Closing("Part")
}

// Bucket is one bucket in a list.
type Bucket struct {
	Name    string
	Created time.Time
	Region  string
}

// NewListBuckets begins the reply to ListBuckets. Entries follow by
// [Encoder.Bucket]; [Encoder.EndBuckets] comes before Close.
func NewListBuckets(w io.Writer, owner Owner) *Encoder {
	e := NewEncoder(w, "ListAllMyBucketsResult", false)
	e.owner("Owner", owner)
	e.Opening("Buckets")
	return e
}

// Bucket writes a <Bucket> element.
func (e *Encoder) Bucket(b *Bucket) {
	e.Opening("Bucket")
	e.Text("Name", b.Name)
	e.Time("CreationDate", b.Created)
	e.Optional("BucketRegion", b.Region)
	e.Closing("Bucket")
}

// EndBuckets ends the list of buckets.
func (e *Encoder) EndBuckets(prefix, nextToken string) {
	e.Closing("Buckets")
	e.Optional("Prefix", prefix)
	e.Optional("ContinuationToken", nextToken)
}

// Deleted writes the <Deleted> element of a reply to DeleteObjects.
func (e *Encoder) Deleted(key, versionID string, marker bool, markerVersionID string) {
	e.Opening("Deleted")
	e.Text("Key", key)
	e.Optional("VersionId", versionID)
	if marker {
		e.Bool("DeleteMarker", true)
		e.Optional("DeleteMarkerVersionId", markerVersionID)
	}
	e.Closing("Deleted")
}

// DeleteError writes the <Error> element of a reply to DeleteObjects.
func (e *Encoder) DeleteError(key, versionID string, err *Error) {
	e.Opening("Error")
	e.Text("Key", key)
	e.Optional("VersionId", versionID)
	e.Text("Code", err.Code)
	e.Text("Message", legalText(err.Message))
	e.Closing("Error")
}

// NewCopyResult makes the reply to CopyObject (root CopyObjectResult) or
// UploadPartCopy (CopyPartResult).
func NewCopyResult(w io.Writer, root, etag string, modified time.Time, c Checksum) *Encoder {
	e := NewEncoder(w, root, false)
	e.Time("LastModified", modified)
	e.ETag(etag)
	e.checksum(c, root == "CopyObjectResult")
	return e
}

// NewInitiated makes the reply to CreateMultipartUpload.
func NewInitiated(w io.Writer, bucket, key, uploadID string) *Encoder {
	e := NewEncoder(w, "InitiateMultipartUploadResult", false)
	e.Text("Bucket", bucket)
	e.Text("Key", key)
	e.Text("UploadId", uploadID)
	return e
}

// NewCompleted makes the reply to CompleteMultipartUpload.
func NewCompleted(w io.Writer, location, bucket, key, etag string, c Checksum) *Encoder {
	e := NewEncoder(w, "CompleteMultipartUploadResult", false)
	e.Text("Location", location)
	e.Text("Bucket", bucket)
	e.Text("Key", key)
	e.ETag(etag)
	e.checksum(c, true)
	return e
}

// NewLocation makes the reply to GetBucketLocation. The region us-east-1 is
// shown as no location at all.
func NewLocation(w io.Writer, region string) *Encoder {
	e := NewEncoder(w, "LocationConstraint", false)
	if region != "us-east-1" {
		e.b = appendEscaped(e.b, region)
	}
	return e
}

// NewACL makes the reply to GetBucketAcl and GetObjectAcl: the owner has full
// control and nobody else has any.
func NewACL(w io.Writer, owner Owner) *Encoder {
	e := NewEncoder(w, "AccessControlPolicy", false)
	e.owner("Owner", owner)
	e.Opening("AccessControlList")
	e.Opening("Grant")
	e.b = append(e.b, `<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser">`...)
	e.Text("ID", owner.ID)
	e.Optional("DisplayName", owner.DisplayName)
	e.Closing("Grantee")
	e.Text("Permission", "FULL_CONTROL")
	e.Closing("Grant")
	e.Closing("AccessControlList")
	return e
}

// Attributes is the reply to GetObjectAttributes. Elements that were not asked
// for are left at their zero values; Size is -1 then.
type Attributes struct {
	ETag         string
	Checksum     Checksum
	StorageClass string
	Size         int64
	Parts        *AttributesParts
}

// AttributesParts is the list of parts in [Attributes].
type AttributesParts struct {
	Total, Marker, Next, Max int
	Truncated                bool
	Parts                    []Part // shown only if they have checksums
}

// NewAttributes makes the reply to GetObjectAttributes.
func NewAttributes(w io.Writer, a *Attributes) *Encoder {
	e := NewEncoder(w, "GetObjectAttributesResponse", false)
	e.Optional("ETag", a.ETag) // without quotes here
	if a.Checksum.Value != "" {
		e.Opening("Checksum")
		e.checksum(a.Checksum, true)
		e.Closing("Checksum")
	}
	if p := a.Parts; p != nil {
		e.Opening("ObjectParts")
		e.Int("PartsCount", int64(p.Total))
		e.Int("PartNumberMarker", int64(p.Marker))
		e.Int("NextPartNumberMarker", int64(p.Next))
		e.Int("MaxParts", int64(p.Max))
		e.Bool("IsTruncated", p.Truncated)
		for i := range p.Parts {
			e.Part(&p.Parts[i])
		}
		e.Closing("ObjectParts")
	}
	e.Optional("StorageClass", a.StorageClass)
	if a.Size >= 0 {
		e.Int("ObjectSize", a.Size)
	}
	return e
}
