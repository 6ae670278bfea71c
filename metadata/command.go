package metadata

// Groups of the metadata. Group 0 is the root: names, accounts, access keys,
// drives and placement groups, never objects. Groups 1 to DataGroups hold
// buckets.
const (
	RootGroup  = 0
	DataGroups = 16
)

// Kind numbers the commands. The values are stored; never reuse one.
type Kind uint16

// Commands of every group.
const (
	KindFence    Kind = 1 // Fence
	KindPushPGs  Kind = 2 // PGTable: into the root, and from there into the data groups
	KindClock    Kind = 3 // Clock
	KindClusters Kind = 4 // ClusterVersion: raises the group's command version
)

// Commands of the root group.
const (
	KindPutAccount      Kind = 20 // Account
	KindPutAccessKey    Kind = 21 // AccessKey: rejected if it exists
	KindDeleteAccessKey Kind = 22 // AccessKey.ID
	KindPutDrives       Kind = 23 // DriveTable
	KindReserveBucket   Kind = 24 // Bucket: takes the name, state creating
	KindActivateBucket  Kind = 25 // Bucket name and id: creating becomes live
	KindRetireBucket    Kind = 26 // Bucket name and id: becomes deleting
	KindForgetBucket    Kind = 27 // Bucket name and id: the name is free again
	KindPutIncarnation  Kind = 28 // Incarnation
	KindPutStores       Kind = 29 // StoreTable
)

// Commands of data groups.
const (
	KindOpenBucket     Kind = 40 // Settings: idempotent
	KindPutSettings    Kind = 41 // Settings: Settle.Epoch must be the present epoch + 1, else ErrStaleSettings
	KindCloseBucket    Kind = 42 // Settings.Bucket: rejected unless empty
	KindPurgeBucket    Kind = 43 // Settings.Bucket: drops the rows of a closed bucket
	KindCommitVersion  Kind = 44 // CommitVersion
	KindDeleteVersions Kind = 45 // DeleteVersions
	KindCreateUpload   Kind = 46 // CreateUpload
	KindCommitPart     Kind = 47 // CommitPart
	KindComplete       Kind = 48 // Complete
	KindAbortUpload    Kind = 49 // AbortUpload
	KindDropTrash      Kind = 50 // DropTrash
	KindPutShort       Kind = 51 // PutShort
)

// Commands of manifests and recovery. They come with [ManifestVersion].
const (
	KindManifested         Kind = 60 // Manifested: of every group
	KindPutManifestMembers Kind = 61 // Members: of data groups
	KindRestoreVersion     Kind = 62 // RestoreVersion: of data groups
	KindRestoreParts       Kind = 63 // RestoreParts: of data groups
	KindRestoreBucket      Kind = 64 // Bucket: of the root group; the row as it is, live
	KindRestoreAccessKey   Kind = 65 // AccessKey: of the root group; the row as it is
)

// Command is one change, proposed to one group. Exactly one payload, the one
// of its Kind, is set.
type Command struct {
	Kind       Kind
	Version    uint16 // of the command's form, 1
	Group      uint32
	RangeEpoch uint64 // of the key range; 0 until ranges split
	Settings   uint64 // settings epoch of the bucket, for data commands on objects
	Epoch      uint64 // of the gateway; Apply refuses fenced ones. 0 is never fenced: only for what has no proposer of its own
	Request    RequestID
	Stamp      uint64 // microseconds since 1970, set by the engine when it takes the command

	Fence         *Fence
	PGs           *PGTable
	Clock         *Clock
	Account       *Account
	AccessKey     *AccessKey
	Drives        *DriveTable
	Bucket        *Bucket
	Incarnation   *Incarnation
	Settle        *Settings
	CommitVersion *CommitVersion
	Delete        *DeleteVersions
	CreateUpload  *CreateUpload
	CommitPart    *CommitPart
	Complete      *Complete
	Abort         *AbortUpload
	DropTrash     *DropTrash
	PutShort      *PutShort

	Clusters *ClusterVersion
	Stores   *StoreTable

	Manifested     *Manifested
	Members        *ManifestMembers
	RestoreVersion *RestoreVersion
	RestoreParts   *RestoreParts
}

// Fence is a value of each group: Floor and the few living epochs above it.
// Commands of any other epoch are refused, and results stored for them are
// dropped. Epochs above the highest named one are not born yet and refused. A
// fence only rises: Apply rejects a lower Floor, or an epoch that was dead, with
// ErrConflict.
type Fence struct {
	Floor  uint64   // epochs below are dead
	Living []uint64 // ascending, all >= Floor
	// Highest is the highest epoch that was ever named. Apply keeps it and does
	// not read it from commands: an epoch at or below it that is not living
	// never lives again.
	Highest uint64
}

// Clock adds monotonic time to the group's counter, by which quarantines are
// counted.
type Clock struct{ ElapsedMicros uint64 }

// Incarnation counts restores; collection is off until it was confirmed.
type Incarnation struct {
	Number     uint64
	Collection bool
	// Void are the orders of histories that restores have ended, Epochs the
	// last epoch of each of them. A recovery leaves out what has such an order.
	// Both are empty below command version 2.
	Void   []VoidOrders
	Epochs []uint64
}

// Frees reports whether what is deleted may be freed. A cluster that was never
// restored has incarnation 0.
func (i *Incarnation) Frees() bool { return i.Number == 0 || i.Collection }

// WriteConditions are evaluated inside Apply, against the current version.
type WriteConditions struct {
	IfNoneMatch bool   // "*": there must be no current version
	IfMatch     string // ETag without quotes, or "*"; "" for none. A missing key is ErrNoSuchKey
}

// DeleteConditions are evaluated inside Apply, against the version deleted.
// They hold together; a missing key fails IfMatch conditions with ErrNoSuchKey.
type DeleteConditions struct {
	IfMatch      string // ETag without quotes, or "*"; "" for none
	ModifiedUnix int64  // last modified, whole seconds; 0 for none
	Bytes        int64  // counts if HasBytes
	HasBytes     bool
}

// CommitVersion makes a version current. Order of Version is set by Apply; an
// earlier null version is replaced and goes to the trash.
type CommitVersion struct {
	Bucket     BucketID
	Key        string
	Version    Version
	Chunks     []Chunk // of Version.Part
	Inline     []byte  // sealed body, for BodyInline
	Short      []Short
	Conditions WriteConditions
	// Take is the order of the current version whose parts the new one takes
	// over (a copy onto itself); Chunks and Inline are then empty and nothing
	// goes to the trash. Rejected with ErrConflict if that version is no
	// longer current.
	Take uint64
}

// DeleteVersions deletes up to 1,000 keys of one bucket, each on its own.
type DeleteVersions struct {
	Bucket BucketID
	Keys   []DeleteKey
}

// DeleteKey is one key to delete.
type DeleteKey struct {
	Key        string
	VersionID  string // "" or "null" until buckets have versions
	Conditions DeleteConditions
}

// CreateUpload begins a multipart upload.
type CreateUpload struct {
	Bucket BucketID
	Upload Upload
}

// CommitPart makes a part of an upload; an earlier one of its number goes to
// the trash.
type CommitPart struct {
	Bucket BucketID
	Key    string
	Upload UploadID
	Part   Part
	Chunks []Chunk
	Inline []byte
	Short  []Short
}

// Complete makes an upload into a version. The proposer read the upload's
// parts, and computed Version.List, its pages' offsets and MACs; Apply refuses
// with ErrConflict if one of Parts is no longer the upload's part of that
// number, and with ErrNoSuchUpload if the upload is gone. Parts not named go
// to the trash. A repeated Complete with the same ListHash returns the stored
// answer (7 days).
type Complete struct {
	Bucket     BucketID
	Key        string
	Upload     UploadID
	Version    Version
	Parts      []PartRef // in order of number
	ListHash   Sum       // over the client's list of numbers and ETags
	Conditions WriteConditions
}

// PartRef names a part of an upload.
type PartRef struct {
	Number uint32
	ID     PartID
}

// AbortUpload drops an upload.
type AbortUpload struct {
	Bucket BucketID
	Key    string
	Upload UploadID
}

// DropTrash removes what the collector has freed on all drives: the rows of
// whole parts (chunks, owner, inline body) and, with the last of them, the
// trash row.
type DropTrash struct {
	Rows []TrashRef
}

// TrashRef names parts of one trash row. Done says that the row itself goes.
type TrashRef struct {
	Order  uint64
	Bucket BucketID
	List   UploadID // for rows of lists and uploads
	Parts  []PartRef
	Done   bool
}

// PutShort records or, with Missing 0, removes short chunks. A chunk that no
// longer exists is skipped.
type PutShort struct {
	Rows []Short
}

// Result is the answer to a command. It is stored per epoch and request id, so
// that a retry gets the same one.
type Result struct {
	Rejected error  // one of the rejections, nil if applied
	Order    uint64 // given by Apply
	Replaced bool   // a current version was replaced or deleted
	// Deleted answers DeleteVersions, in order of its keys.
	Deleted []DeletedKey
	// Version answers a completion, also a repeated one.
	Version *Version
}

// DeletedKey is the answer for one key.
type DeletedKey struct {
	Rejected error
	Existed  bool
}
