package metadata

import "time"

// Pair is a name and a value, in the order a client sent them.
type Pair struct{ Name, Value string }

// Headers are the system metadata of an object. An empty string means that the
// client did not send the header.
type Headers struct {
	CacheControl       string
	ContentDisposition string
	ContentEncoding    string // without aws-chunked
	ContentLanguage    string
	ContentType        string
	Expires            string
	WebsiteRedirect    string
}

// BodyKind says where the bytes of a part are. The values are stored.
type BodyKind uint8

const (
	// BodyEmpty is a part of no bytes.
	BodyEmpty BodyKind = 0
	// BodyInline bodies are kept in metadata under a row of their own.
	BodyInline BodyKind = 1
	// BodyChunks bodies are coded into chunks on drives.
	BodyChunks BodyKind = 2
	// BodyPacked is reserved: a run of bytes within a chunk that several
	// parts share.
	BodyPacked BodyKind = 3
)

// Compression numbers the way a part was compressed before sealing. The
// values are stored.
type Compression uint8

// The ways of compression.
const (
	CompressionOff  Compression = 0
	CompressionZstd Compression = 1
	CompressionS2   Compression = 2
)

// Part describes the bytes of one part: what was sealed and how to open it.
type Part struct {
	Number      uint32 // 1 for a plain PUT
	ID          PartID
	Bytes       int64 // plain bytes, as the client sees them
	SealedBytes int64 // bytes after compression and sealing
	Body        BodyKind
	Compression Compression
	IndexBytes  int64  // length of the frame index at the end, before sealing
	Sealed      bool   // false: the bytes are not encrypted
	Key         KeyID  // the bucket key that wraps WrappedKey
	WrappedKey  string // the part's data key, wrapped; empty if not sealed
	CRC64       uint64 // CRC64-NVME of the plain bytes
	MD5         [16]byte
	Checksum    Checksum // as the client sees it
	Modified    uint64   // order of the commit, microseconds; set by Apply

	Unknown string // fields of later versions, kept as they came
}

// Chunk is the row of one chunk of a part. It is never rewritten by moves.
type Chunk struct {
	No         uint32 // within the part, from 0
	ID         ChunkID
	PG         uint32
	Generation uint32 // birth generation of PG
	Scheme     Scheme
	Bytes      int64 // sealed bytes, at most ChunkBytes
	Digest     Sum   // SHA-256 over the shard sums

	Unknown string // fields of later versions, kept as they came
}

// PartPage is where a page of a long part list begins.
type PartPage struct {
	FirstNumber uint32 // part number of the page's first part
	Offset      int64  // plain offset of the page's first byte in the object
	MAC         Sum    // over the parts of the page, see package gateway/object
}

// PartList names the part list of a version that was a multipart upload. The
// list itself lies in pages of at most PartsPerPage parts, so that a read
// needs only the pages its range touches.
type PartList struct {
	ID    UploadID
	Parts uint32
	Pages []PartPage

	Unknown string // fields of later versions, kept as they came
}

// PartsPerPage is how many parts a page of a part list holds at most.
const PartsPerPage = 256

// Version is one version of an object or a delete marker. In a bucket that
// never had versioning the only version of a key is its null version.
type Version struct {
	Order       uint64  // set by Apply; microseconds since 1970, unique in the group
	Random      [8]byte // second half of the version id, chosen by the proposer
	Null        bool
	Marker      bool
	Salt        [16]byte // for ledger commitments
	Bytes       int64
	StoredBytes int64  // sealed bytes of all parts, without parity
	ETag        string // without quotes
	Headers     Headers
	User        []Pair
	Checksum    Checksum
	CRC64       uint64    // CRC64-NVME of all plain bytes
	Part        *Part     // a plain PUT
	List        *PartList // a multipart upload
	Class       string    // storage class; "" means STANDARD
	Settings    uint64    // settings epoch it was written under
	Owner       AccountID
	Policy      uint64 // residency policy version
	Key         KeyID  // bucket key whose MAC key made MAC
	MAC         Sum    // binds the parts to this version, see package gateway/object

	Unknown []byte // fields of later versions, kept as they came
}

// Modified is the time of the commit, in microseconds.
func (v *Version) Modified() time.Time { return time.UnixMicro(int64(v.Order)).UTC() }

// Upload is a multipart upload in progress.
type Upload struct {
	ID        UploadID
	Key       string
	Order     uint64 // time of initiation; set by Apply
	Headers   Headers
	User      []Pair
	Class     string
	Algorithm ChecksumAlgorithm // none: parts bring what they like
	Composite bool
	Owner     AccountID

	Unknown []byte
}

// BucketState is the state of a bucket's name in the root group. The values
// are stored.
type BucketState uint8

const (
	// BucketCreating: the name is taken, the group does not know it yet.
	BucketCreating BucketState = 1
	// BucketLive: open to clients.
	BucketLive BucketState = 2
	// BucketDeleting: found empty and closed, its name not yet free.
	BucketDeleting BucketState = 3
)

// Bucket is the row of a bucket in the root group.
type Bucket struct {
	Name       string
	ID         BucketID
	Group      uint32
	State      BucketState
	Owner      AccountID
	Order      uint64 // time of creation; set by Apply
	Region     string
	Key        KeyID  // id of the bucket key
	WrappedKey string // bucket key, wrapped by the account's key; empty if not sealed

	Unknown []byte
}

// Settings is a bucket's row in its own group. Every data command names its
// Epoch; Apply refuses an older one and decides by this row.
type Settings struct {
	Bucket      BucketID
	Name        string
	Epoch       uint64
	Compression Compression
	Closed      bool // being deleted: refuses every data command

	Unknown []byte
}

// Usage counts what a bucket holds. It changes in the same batch as what it
// counts.
type Usage struct {
	Objects     int64 // current versions that are not markers
	Versions    int64 // all versions and markers, current ones included
	Bytes       int64 // plain bytes of all versions
	StoredBytes int64 // sealed bytes of all versions
	Uploads     int64
	UploadBytes int64 // sealed bytes of parts of uploads in progress

	Unknown string // fields of later versions, kept as they came
}

// Account is a body that owns buckets.
type Account struct {
	ID         AccountID
	Name       string
	Canonical  string // canonical user id, 64 hexadecimal digits
	Key        KeyID  // id of the account key
	MasterKey  KeyID  // master key that wraps it
	WrappedKey string

	Unknown []byte
}

// AccessKey is a pair of access key and secret.
type AccessKey struct {
	ID           string // the access key as clients send it
	SealedSecret string // sealed under the account's key
	Account      AccountID
	Order        uint64 // time of creation; set by Apply
	Description  string
	Disabled     bool

	Unknown []byte
}

// TrashKind says what a trash row holds. The values are stored.
type TrashKind uint8

const (
	// TrashPart drops one part.
	TrashPart TrashKind = 1
	// TrashList drops all parts of a part list.
	TrashList TrashKind = 2
	// TrashUpload drops all parts of an upload that was aborted.
	TrashUpload TrashKind = 3
)

// Trash is something that a committed command dropped and that waits for its
// readers. Rows are kept in order of Order.
type Trash struct {
	Order  uint64 // set by Apply
	Kind   TrashKind
	Bucket BucketID
	Part   PartID   // TrashPart
	Body   BodyKind // TrashPart
	List   UploadID // TrashList, TrashUpload
	Bytes  int64    // stored bytes that will come free, without parity

	Unknown string // fields of later versions, kept as they came
}

// Short says that a chunk has fewer shards than its scheme asks for. It is the
// first place where repair looks.
type Short struct {
	Bucket  BucketID
	Part    PartID
	ChunkNo uint32
	Missing uint32 // bit i: shard i is missing
	Margin  uint8  // shards that may still be lost
	Since   uint64 // order of the commit that recorded it; set by Apply

	Unknown string // fields of later versions, kept as they came
}
