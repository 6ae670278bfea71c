// Package metadata is the vocabulary of Ruche: the identities, rows, commands
// and rejections that the gateway, the state machine and the nodes share.
//
// It holds values and their stored encodings only; it opens nothing and
// imports no storage engine, so that every importer compiles fast. The truth
// itself is kept by metadata/state and replicated by metadata/replica.
//
// Three identities must not be confused:
//
//   - a version id is S3's and exists only in metadata;
//   - a [PartID] is new for every attempt to write a part, and is what is
//     sealed; a plain PUT is one part;
//   - a [ChunkID] is new for every coding of bytes. A [ShardID] is a chunk id
//     and an index, and is what drives store.
package metadata

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// PartID is given to every attempt to write a part: random, and [Dated].
type PartID [16]byte

// ChunkID is 128 random bits for every coding of a chunk. Chunk ids are never
// used again.
type ChunkID [16]byte

// BucketID is 128 random bits given to a bucket when it is created. A bucket
// created again under the same name has another id.
type BucketID [16]byte

// AccountID is 128 random bits given to an account.
type AccountID [16]byte

// UploadID is 128 random bits given to a multipart upload. It also names the
// part list of the version that the upload became.
type UploadID [16]byte

// RequestID is chosen by whoever proposes a command, at random, so that a retry
// is recognised. One that is [Dated] costs the store less.
type RequestID [16]byte

// Dated puts the second in which it was made into the first four bytes of a
// random id; 96 random bits are left. Rows under such ids lie in the order in
// which they came: a store finds a new one not to be there without reading
// tables, keeps what is read soon after together, and does not have to rewrite
// old rows to add new ones. Nothing else may rest on the order: clocks differ.
func Dated(id [16]byte, now time.Time) [16]byte {
	binary.BigEndian.PutUint32(id[:], uint32(now.Unix()))
	return id
}

// KeyID names an encryption key of the keyring or of the key chain.
type KeyID [16]byte

// ShardID names one shard: all cells of one index of one chunk.
type ShardID struct {
	Chunk ChunkID
	Index uint8
}

// String returns the id as hexadecimal digits.
func (p PartID) String() string { return hex.EncodeToString(p[:]) }

// String returns the id as hexadecimal digits.
func (c ChunkID) String() string { return hex.EncodeToString(c[:]) }

// String returns the id as hexadecimal digits.
func (b BucketID) String() string { return hex.EncodeToString(b[:]) }

// String returns the id as hexadecimal digits.
func (a AccountID) String() string { return hex.EncodeToString(a[:]) }

// String returns the id as hexadecimal digits.
func (u UploadID) String() string { return hex.EncodeToString(u[:]) }

// String returns the id as hexadecimal digits.
func (r RequestID) String() string { return hex.EncodeToString(r[:]) }

// String returns the id as hexadecimal digits.
func (k KeyID) String() string { return hex.EncodeToString(k[:]) }

// String returns the chunk id and the index.
func (s ShardID) String() string { return fmt.Sprintf("%s/%d", s.Chunk, s.Index) }

// Bytes returns the 17 bytes that seed cell checksums and key index rows: the
// chunk id and the index.
func (s ShardID) Bytes() [17]byte {
	var b [17]byte
	copy(b[:], s.Chunk[:])
	b[16] = s.Index
	return b
}

// ParseUploadID parses what [UploadID.String] returns. It reports false for
// anything else.
func ParseUploadID(s string) (UploadID, bool) {
	var u UploadID
	if len(s) != 2*len(u) || strings.ToLower(s) != s {
		return UploadID{}, false
	}
	if _, err := hex.Decode(u[:], []byte(s)); err != nil {
		return UploadID{}, false
	}
	return u, true
}
