// Package manifest is the format of what drives carry so that the objects can
// be found without any metadata: manifests of versions and deletions, in
// batches, and the tables of the root group.
//
//	record of type manifest          one bucket, at most 256 KiB sealed
//	  head | wrapped key | box of    entry, entry, entry ...
//	                                   a version, with its parts and chunks
//	                                   a tombstone
//	                                   a row of the bucket itself
//	record of type root              all tables of the root group together
//
// A batch is sealed by a fresh key that the bucket's wrapping key wraps; the id
// of the record, which is made with it, is bound by both. In a bucket without
// keys batches are readable by whoever reads the drive, as its objects are.
//
// A manifest that is longer than a batch, such as that of an upload of
// thousands of parts, is cut into pieces, each an entry of its own; an
// [Assembler] puts them together again or says that some are missing. There is
// never half an object.
//
// The package computes only. It reads no drive and decides nothing: which of
// two manifests of a key counts is decided by their orders, in package
// gateway/recovery. FORMAT.md has the stored form, which testdata pins.
package manifest

import (
	"errors"

	"github.com/ruche-storage/ruche/metadata"
)

// Failures that callers branch on.
var (
	// ErrMalformed means that something is not what a writer could have made.
	ErrMalformed = errors.New("manifest: malformed")
	// ErrNewer means that a later version of the program wrote it.
	ErrNewer = errors.New("manifest: written by a later version of ruche: use that version")
	// ErrNoKey means that a batch is sealed under a bucket key that is not at
	// hand.
	ErrNoKey = errors.New("manifest: sealed under a key that is not at hand")
	// ErrIncomplete means that pieces of a manifest are missing.
	ErrIncomplete = errors.New("manifest: pieces are missing")
)

const (
	// BatchBytes is the most that the payload of a record of several entries
	// has, sealed. A single entry may be longer.
	BatchBytes = 256 << 10

	// MaxBytes bounds the payload of every record of this package, the root
	// tables included.
	MaxBytes = 16 << 20

	// maxPieces bounds the pieces of one manifest: more than 10,000 parts of
	// the most chunks can need.
	maxPieces = 1 << 16

	// maxKeyBytes is the longest key of an object.
	maxKeyBytes = 1024
)

// Kind says what a manifest tells. The values are stored.
type Kind uint8

const (
	// KindVersion is a version of an object that became current.
	KindVersion Kind = 1
	// KindTombstone says that what manifests of lower orders tell of the key
	// is gone.
	KindTombstone Kind = 2
	// KindBucket carries the bucket's row in the root group, and that group's
	// order.
	KindBucket Kind = 3
	// KindSettings carries the bucket's settings, and the order of its own
	// group.
	KindSettings Kind = 4
)

// Part is one part of a multipart upload.
type Part struct {
	Row    metadata.Part
	Chunks []metadata.Chunk // of BodyChunks, in order of number
	Inline []byte           // sealed body, of BodyInline
}

// Manifest is all that must be known to serve a version again, or that there
// is none. It holds what the rows hold, as they are.
type Manifest struct {
	Kind  Kind
	Key   string // of the object; empty for rows of the bucket
	Order uint64 // of the commit; the highest of a key, or of a kind of rows, counts

	// Version is set for KindVersion; its Order is the manifest's.
	Version *metadata.Version
	Chunks  []metadata.Chunk // of Version.Part, if its body is in chunks
	Inline  []byte           // of Version.Part, if its body is inline: sealed
	Parts   []Part           // of Version.List, in order of number

	Bucket   *metadata.Bucket   // of KindBucket
	Settings *metadata.Settings // of KindSettings
}
