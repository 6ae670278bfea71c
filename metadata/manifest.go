package metadata

import "github.com/ruche-storage/ruche/metadata/topology"

// OutboxKind says what happened. The values are stored.
type OutboxKind uint8

const (
	// OutboxVersion: a version became the current one of its key. The entry's
	// order is the version's.
	OutboxVersion OutboxKind = 1
	// OutboxDeleted: the key has no current version any more.
	OutboxDeleted OutboxKind = 2
	// OutboxSettings: the settings of a bucket changed, in its group.
	OutboxSettings OutboxKind = 3
	// OutboxBucket: the row of a bucket changed, in the root group. Key is the
	// bucket's name.
	OutboxBucket OutboxKind = 4
	// OutboxRoot: one of the root's small tables changed.
	OutboxRoot OutboxKind = 5
)

// OutboxEntry is a change of the state that is not known to be in a durable
// manifest yet. A group keeps them in order, from command version
// [ManifestVersion] on.
type OutboxEntry struct {
	Order  uint64 // unique in the group; set by Apply
	Kind   OutboxKind
	Bucket BucketID
	Key    string

	Unknown string // fields of later versions, kept as they came
}

// ManifestVersion is the command version from which on groups keep an outbox.
const ManifestVersion = 2

// Manifested drops the outbox of a group up to an order: its manifests are
// durable on the drives that Set names.
type Manifested struct {
	Upto uint64 // not above the highest order the group has given
	// Set is ManifestMembers.Set as it was when the first of the manifests was
	// written; 0 in the root group. Another set is rejected with ErrConflict:
	// some member does not have them.
	Set uint64
}

// MemberState is what a manifest drive is good for. The values are stored.
type MemberState uint8

const (
	// MemberFilling: gets every new manifest, and those of older versions by a
	// scan of the state.
	MemberFilling MemberState = 1
	// MemberFull: holds a manifest of every version of the group.
	MemberFull MemberState = 2
	// MemberLeaving: gets nothing, and may still hold manifests.
	MemberLeaving MemberState = 3
)

// A ManifestMember is a drive that holds manifests of a group.
type ManifestMember struct {
	Drive topology.DriveID
	State MemberState
	Fill  KeyRef // MemberFilling: the last key whose version was written
	// Since is the Version with which the drive became a member, or began to
	// be filled anew: records of lower ones on it are not counted on.
	Since uint64
	// Tombs says that a full member also holds every tombstone that counts:
	// those of before Since were copied to it, since the state has none.
	Tombs bool

	Unknown string // fields of later versions, kept as they came
}

// ManifestMembers are the manifest drives of a group. The row is replaced as a
// whole by that of the next Version; any other is rejected with ErrConflict.
type ManifestMembers struct {
	Version uint64
	// Set is the Version with which the drives that get new manifests changed
	// last. Apply keeps it and does not read it from commands.
	Set     uint64
	Members []ManifestMember // in any order, each drive once
	// Incarnation is the number of the cluster's when the drives began to be
	// filled: what drives hold of an earlier one fits another history.
	Incarnation uint64

	Unknown string // fields of later versions, kept as they came
}

// Writes reports whether manifests are written to the member.
func (m *ManifestMember) Writes() bool { return m.State == MemberFilling || m.State == MemberFull }

// RestoreVersion puts back a version as a manifest tells it: with its own
// order, above which the group's next orders lie. The pages and bodies of a
// part list come first, by [RestoreParts]. A version that is older than the
// key's current one, or is that one, changes nothing. Nothing is added to the
// outbox: the group's manifest drives are filled afterwards.
type RestoreVersion struct {
	Bucket  BucketID
	Key     string
	Version Version
	Chunks  []Chunk // all of Version.Part
	Inline  []byte  // sealed body, for BodyInline
}

// RestoreParts puts back a page of a part list, or bodies of its parts, in as
// many commands as keep each below [MaxRestoreBytes]. Repeating one changes
// nothing.
type RestoreParts struct {
	Bucket BucketID
	Key    string
	List   UploadID
	Page   uint32     // index of the page
	Parts  []Part     // all of the page, or none
	Bodies []PartBody // of parts of any page
}

// MaxRestoreBytes is the longest encoded command that recovery makes.
const MaxRestoreBytes = 1 << 20

// PartBody is where the bytes of a part are: some of its chunks, or its sealed
// inline body.
type PartBody struct {
	Part   PartID
	Chunks []Chunk
	Inline []byte
}

// KeyRef names an object of a group.
type KeyRef struct {
	Bucket BucketID
	Key    string
}

// KeyOrder is a key and the order of its current version.
type KeyOrder struct {
	KeyRef
	Order uint64
}

// OpenedKey is a key with its current version, as [Opened]; Found is false if
// there is none.
type OpenedKey struct {
	KeyRef
	Found bool
	Opened
}

// OrdersResult is the answer of one snapshot of one group.
type OrdersResult struct {
	Order  uint64   // the highest the group has given
	Orders []uint64 // of the current versions of the keys asked for, 0 for none
}
