package metadata

// BucketRef finds a bucket's rows.
type BucketRef struct {
	Group uint32
	ID    BucketID
}

// ListQuery asks a group for a page of current versions, in bytewise order of
// keys. After is exclusive and may be a key or a common prefix: if it ends
// with Delimiter, everything under it is skipped.
type ListQuery struct {
	Bucket    BucketRef
	Prefix    string
	Delimiter string
	After     string
	Limit     int // keys and common prefixes together, 1 to 1,000
}

// KeyVersion is a key and one of its versions.
type KeyVersion struct {
	Key     string
	Version Version
	Latest  bool
}

// ListResult is a page. Next is the last key or common prefix of it.
type ListResult struct {
	Keys      []KeyVersion
	Prefixes  []string
	Truncated bool
	Next      string
}

// VersionsQuery asks for a page of all versions. With VersionAfter "" it
// begins after all versions of KeyAfter, otherwise after that version of it.
type VersionsQuery struct {
	Bucket       BucketRef
	Prefix       string
	Delimiter    string
	KeyAfter     string
	VersionAfter string
	Limit        int
}

// UploadsQuery asks for a page of uploads in order of key and initiation. With
// a nil UploadAfter it begins after all uploads of KeyAfter.
type UploadsQuery struct {
	Bucket      BucketRef
	Prefix      string
	Delimiter   string
	KeyAfter    string
	UploadAfter *UploadID
	Limit       int
}

// UploadsResult is a page of uploads.
type UploadsResult struct {
	Uploads   []Upload
	Prefixes  []string
	Truncated bool
	NextKey   string
	NextID    UploadID
}

// Opened is what a read of an object needs in one answer.
type Opened struct {
	Version Version
	// Inline is the sealed body if the version's only part is kept inline.
	Inline []byte
	// Chunks are the first chunks of the version's only part, at most 16.
	Chunks []Chunk
}

// ChunkRow is a chunk with its place in a group.
type ChunkRow struct {
	Bucket BucketID
	Part   PartID
	Chunk  Chunk
}

// LookupRef names a record that a drive holds.
type LookupRef struct {
	Bucket  BucketID
	Part    PartID
	ChunkNo uint32
	Chunk   ChunkID
}

// Found is what one snapshot of a group says of a record.
type Found struct {
	// Referenced: a chunk row names this chunk. Only the collector removes
	// chunk rows, after it has freed the shards.
	Referenced bool
	Chunk      Chunk
	Owner      Owner
}

// LookupResult is the answer of one snapshot of one group.
type LookupResult struct {
	Fence      Fence
	PGVersion  uint64 // of the table pushed into the group
	ClockMicro uint64 // the group's monotonic counter
	Found      []Found
}

// Owner is what a part belongs to.
type Owner struct {
	Bucket BucketID
	Key    string
	Order  uint64   // of the version, for a plain PUT
	List   UploadID // of the upload, or of the version it became

	Unknown string // fields of later versions, kept as they came
}
