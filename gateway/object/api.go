package object

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/ruche-storage/ruche/metadata"
)

// Failures of the engine that callers branch on. Rejections of the metadata
// (metadata.ErrNoSuchBucket and so on) come through as they are.
var (
	// ErrBusy means that the global budget of stripes or requests is used
	// up. The client should come back later.
	ErrBusy = errors.New("object: busy")
	// ErrUnreadable means that too few intact shards could be read.
	ErrUnreadable = errors.New("object: too few readable shards")
	// ErrDamaged means that what was read is not what was written: metadata
	// that does not match its MAC, or bytes that do not match the checksum of
	// their part. Nothing of it is returned.
	ErrDamaged = errors.New("object: damaged")
	// ErrUnwritable means that too few drives took their shard.
	ErrUnwritable = errors.New("object: too few writable drives")
	// ErrFull means that the drives have no room for more objects.
	ErrFull = errors.New("object: storage full")
	// ErrIncompleteBody means that the body was shorter than declared.
	ErrIncompleteBody = errors.New("object: body shorter than declared")
	// ErrBodyTooLong means that the body was longer than declared.
	ErrBodyTooLong = errors.New("object: body longer than declared")
	// ErrBadDigest means that a body does not match its Content-MD5.
	ErrBadDigest = errors.New("object: body does not match Content-MD5")
	// ErrBadChecksum means that a body, or a whole upload, does not match a
	// checksum that the client gave.
	ErrBadChecksum = errors.New("object: body does not match its checksum")
	// ErrChecksumType means that a part or a completion names another
	// checksum algorithm or type than its upload.
	ErrChecksumType = errors.New("object: checksum type does not match the upload")
	// ErrEntityTooSmall means that a part other than the last has less than
	// 5 MiB.
	ErrEntityTooSmall = errors.New("object: part too small")
	// ErrEntityTooLarge means that the object would exceed 48.8 TiB.
	ErrEntityTooLarge = errors.New("object: object too large")
	// ErrSizeMismatch means that x-amz-mp-object-size is not the sum of the
	// parts.
	ErrSizeMismatch = errors.New("object: size does not match the upload")
	// ErrInvalidRange means that a range begins beyond the end.
	ErrInvalidRange = errors.New("object: range not satisfiable")
	// ErrInvalidPartNumber means that the object has no such part.
	ErrInvalidPartNumber = errors.New("object: no such part number")
	// ErrNotModified means that a conditional read found nothing new. The
	// object's information is returned with it.
	ErrNotModified = errors.New("object: not modified")
	// ErrCopyOntoItself means that a copy would change nothing.
	ErrCopyOntoItself = errors.New("object: copy onto itself without a change")
)

// Limits of S3.
const (
	MaxPutBytes    = 5 << 30            // a PUT, a part, a copy
	MaxObjectBytes = 10_000 * (5 << 30) // 48.8 TiB
	MinPartBytes   = 5 << 20            // every part but the last
	MaxParts       = 10_000
)

// Body is the bytes of a PUT or of a part, decoded from any framing.
type Body struct {
	// Reader yields the plain bytes. Its errors end the request and are
	// returned as they are (a signature error, for example).
	Reader io.Reader
	// Bytes is the declared length of what Reader yields. It is always known.
	Bytes int64
	// MD5 is the client's Content-MD5, nil if none was sent.
	MD5 *[16]byte
	// Checksum names the additional checksum the client announced, and its
	// value if that came in a header.
	Checksum metadata.Checksum
	// Trailer returns the checksum value that came behind the body, raw
	// bytes. It is called after Reader returned io.EOF. Nil if the checksum
	// is not in a trailer.
	Trailer func() (value string, err error)
}

// Attributes are what a client gives an object besides its bytes.
type Attributes struct {
	Headers      metadata.Headers
	User         []metadata.Pair // x-amz-meta-*, names in lower case without the prefix
	StorageClass string          // "" means STANDARD
}

// WriteConditions are the conditions of PUT, Complete and Copy. They are
// evaluated at the commit.
type WriteConditions = metadata.WriteConditions

// DeleteConditions are the conditions of a DELETE.
type DeleteConditions = metadata.DeleteConditions

// ReadConditions are the conditional headers of GET, HEAD and copy sources.
// Empty strings and zero times are absent conditions. Precedence is RFC 9110's
// and AWS's: If-Match before If-Unmodified-Since, If-None-Match before
// If-Modified-Since.
type ReadConditions struct {
	IfMatch           []string // ETags without quotes, or "*"
	IfNoneMatch       []string
	IfModifiedSince   time.Time
	IfUnmodifiedSince time.Time
}

// Info is what is known of a stored object version.
type Info struct {
	Key          string
	Bytes        int64
	ETag         string // without quotes
	LastModified time.Time
	VersionID    string // "null" in buckets that never had versioning
	Null         bool   // the null version of a never versioned bucket: no x-amz-version-id
	Attributes
	Checksum metadata.Checksum
	Parts    int // number of parts of a multipart object, 0 for a plain one
}

// PutResult is the answer to a PUT, a part or a completion.
type PutResult struct {
	ETag         string
	Checksum     metadata.Checksum
	Bytes        int64
	LastModified time.Time
	Null         bool
	VersionID    string
}

// Range selects bytes of an object. The zero value is the whole.
type Range struct {
	Kind   RangeKind
	First  int64 // RangeFromTo, RangeFrom
	Last   int64 // RangeFromTo, inclusive
	Suffix int64 // RangeSuffix
}

// RangeKind says which fields of a Range count.
type RangeKind uint8

// Kinds of ranges.
const (
	RangeWhole RangeKind = iota
	RangeFromTo
	RangeFrom
	RangeSuffix
)

// GetRequest asks for an object. Which of Range and PartNumber is set makes
// the reply partial.
type GetRequest struct {
	Bucket, Key string
	VersionID   string // "" for the current version
	Range       Range
	PartNumber  int // 0 for none
	Conditions  ReadConditions
	HeadOnly    bool // no body is read
}

// Object is an open object: its information and the selected bytes. Close must
// be called, also after WriteTo.
type Object struct {
	Info
	Partial bool  // the reply is 206
	Offset  int64 // of the first selected byte
	Length  int64 // of the selected bytes
	// PartsCount is the number of parts, for a request by part number.
	PartsCount int

	body    io.ReadCloser // nil for HEAD
	version *metadata.Version
}

// PutRequest writes an object.
type PutRequest struct {
	Bucket, Key string
	Body        Body
	Attributes  Attributes
	Conditions  WriteConditions
}

// CopySource names the source of a copy.
type CopySource struct {
	Bucket, Key string
	VersionID   string
	Conditions  ReadConditions
}

// CopyRequest copies an object.
type CopyRequest struct {
	Source            CopySource
	Bucket, Key       string
	ReplaceAttributes bool // else those of the source are kept
	Attributes        Attributes
	Checksum          metadata.ChecksumAlgorithm // asked for; none keeps the source's
	Conditions        WriteConditions
}

// CopyResult is the answer to a copy of an object or a part.
type CopyResult struct {
	PutResult
	SourceVersionID string // "" if the source bucket never had versioning
}

// DeleteRequest deletes one key or version.
type DeleteRequest struct {
	Key        string
	VersionID  string
	Conditions DeleteConditions
}

// DeleteResult is the answer for one key. Err is nil for keys that did not
// exist, as S3 wants it.
type DeleteResult struct {
	Err             error
	VersionID       string // the version that was deleted, "" if none was named
	DeleteMarker    bool
	MarkerVersionID string
}

// ListRequest asks for a page of the current versions of a bucket, in bytewise
// order of keys.
type ListRequest struct {
	Bucket    string
	Prefix    string
	Delimiter string
	After     string // keys and common prefixes after this one, exclusive
	Limit     int    // keys and common prefixes together
}

// ListPage is one page. Entries and Prefixes are each in order; Next is the
// last key or common prefix of the page if Truncated.
type ListPage struct {
	Entries   []Entry
	Prefixes  []string
	Truncated bool
	Next      string
}

// Entry is one row of a list.
type Entry struct {
	Key          string
	Bytes        int64
	ETag         string
	LastModified time.Time
	StorageClass string
	Checksum     metadata.Checksum
	VersionID    string
	Latest       bool
	Marker       bool
}

// VersionsRequest asks for a page of all versions of a bucket.
type VersionsRequest struct {
	Bucket       string
	Prefix       string
	Delimiter    string
	KeyMarker    string
	VersionAfter string // within KeyMarker; "" means all versions after KeyMarker
	Limit        int
}

// VersionsPage is one page of versions.
type VersionsPage struct {
	Entries     []Entry
	Prefixes    []string
	Truncated   bool
	NextKey     string
	NextVersion string
}

// UploadRequest begins a multipart upload.
type UploadRequest struct {
	Bucket, Key       string
	Attributes        Attributes
	ChecksumAlgorithm metadata.ChecksumAlgorithm
	Composite         bool // checksum type; counts only with an algorithm
}

// UploadInfo describes a multipart upload.
type UploadInfo struct {
	ID                metadata.UploadID
	Key               string
	Initiated         time.Time
	StorageClass      string
	ChecksumAlgorithm metadata.ChecksumAlgorithm
	Composite         bool
}

// PartRequest writes one part.
type PartRequest struct {
	Bucket, Key string
	Upload      metadata.UploadID
	Number      int // 1 to 10,000
	Body        Body
}

// PartCopyRequest writes one part from an existing object.
type PartCopyRequest struct {
	Source      CopySource
	Range       Range // RangeWhole or RangeFromTo
	Bucket, Key string
	Upload      metadata.UploadID
	Number      int
}

// CompletePart names one part of a completion.
type CompletePart struct {
	Number   int
	ETag     string            // without quotes
	Checksum metadata.Checksum // zero if the client gave none
}

// CompleteRequest makes an upload into an object. Parts are in ascending order
// of number; the gateway has checked that.
type CompleteRequest struct {
	Bucket, Key string
	Upload      metadata.UploadID
	Parts       []CompletePart
	Checksum    metadata.Checksum // of the whole object, as the client gave it
	Type        string            // x-amz-checksum-type: "", COMPOSITE or FULL_OBJECT
	Bytes       int64             // x-amz-mp-object-size, -1 if not given
	Conditions  WriteConditions
}

// UploadsRequest asks for a page of the uploads in progress.
type UploadsRequest struct {
	Bucket         string
	Prefix         string
	Delimiter      string
	KeyMarker      string
	UploadIDMarker string // as the client sent it; counts only with KeyMarker
	Limit          int
}

// UploadsPage is one page of uploads, in order of key and time of initiation.
type UploadsPage struct {
	Uploads      []UploadInfo
	Prefixes     []string
	Truncated    bool
	NextKey      string
	NextUploadID string
}

// PartsRequest asks for the parts of an upload after a part number.
type PartsRequest struct {
	Bucket, Key string
	Upload      metadata.UploadID
	After       int
	Limit       int
}

// PartInfo describes a stored part.
type PartInfo struct {
	Number       int
	Bytes        int64
	ETag         string
	LastModified time.Time
	Checksum     metadata.Checksum
}

// PartsPage is one page of the parts of an upload.
type PartsPage struct {
	Upload    UploadInfo
	Parts     []PartInfo
	Truncated bool
	Next      int
}

// AttributesRequest asks for GetObjectAttributes.
type AttributesRequest struct {
	Bucket, Key string
	VersionID   string
	PartsAfter  int
	PartsLimit  int
}

// AttributesResult is the answer to GetObjectAttributes. ObjectParts is filled
// for multipart objects only.
type AttributesResult struct {
	Info
	ObjectParts []PartInfo
	Truncated   bool
	NextPart    int
}

// BucketInfo describes a bucket.
type BucketInfo struct {
	Name    string
	Created time.Time
	Region  string
	Owner   metadata.AccountID
}

// BucketsRequest asks for a page of buckets in order of name.
type BucketsRequest struct {
	Prefix string
	After  string
	Limit  int
}

// BucketsPage is one page of buckets.
type BucketsPage struct {
	Buckets   []BucketInfo
	Truncated bool
}

// The methods of *Engine that answer S3's calls, for the reader; package
// gateway declares what it uses as an interface of its own.
type s3Calls interface {
	CreateBucket(ctx context.Context, name string) error
	DeleteBucket(ctx context.Context, name string) error
	Bucket(ctx context.Context, name string) (BucketInfo, error)
	Buckets(ctx context.Context, req *BucketsRequest) (*BucketsPage, error)

	Put(ctx context.Context, req *PutRequest) (*PutResult, error)
	// Get opens an object. With ErrNotModified and
	// metadata.ErrPreconditionFailed the returned object carries Info and no
	// body. The body is verified before its last byte is yielded: a reader
	// that ends with an error has yielded less than Length bytes.
	Get(ctx context.Context, req *GetRequest) (*Object, error)
	Attributes(ctx context.Context, req *AttributesRequest) (*AttributesResult, error)
	Copy(ctx context.Context, req *CopyRequest) (*CopyResult, error)
	// Delete deletes up to 1,000 keys of one bucket; results are in order of
	// the requests. The error is for the bucket as a whole.
	Delete(ctx context.Context, bucket string, reqs []DeleteRequest) ([]DeleteResult, error)

	List(ctx context.Context, req *ListRequest) (*ListPage, error)
	Versions(ctx context.Context, req *VersionsRequest) (*VersionsPage, error)

	CreateUpload(ctx context.Context, req *UploadRequest) (UploadInfo, error)
	PutPart(ctx context.Context, req *PartRequest) (*PutResult, error)
	CopyPart(ctx context.Context, req *PartCopyRequest) (*CopyResult, error)
	Complete(ctx context.Context, req *CompleteRequest) (*PutResult, error)
	Abort(ctx context.Context, bucket, key string, upload metadata.UploadID) error
	Uploads(ctx context.Context, req *UploadsRequest) (*UploadsPage, error)
	Parts(ctx context.Context, req *PartsRequest) (*PartsPage, error)
}
