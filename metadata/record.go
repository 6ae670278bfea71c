package metadata

import "crypto/sha256"

// RecordType says what a record on a drive holds. The values are stored.
type RecordType uint8

const (
	// RecordShard holds one shard of a chunk.
	RecordShard RecordType = 1
	// RecordManifest holds sealed manifests of a bucket. PG is the metadata
	// group of the bucket, Generation the version of that group's
	// [ManifestMembers].
	RecordManifest RecordType = 2
	// RecordAccount holds an account's id and wrapped key.
	RecordAccount RecordType = 3
	// RecordBucket holds a bucket's id, sealed name and wrapped key.
	RecordBucket RecordType = 4
	// RecordRoot holds the sealed tables of the root group.
	RecordRoot RecordType = 5
)

// Record is what the header of a record on a drive says of its content. It
// never names a version: gateways do not know version ids before the commit,
// and moves or copies onto itself must not touch drives.
type Record struct {
	Type       RecordType
	Shard      ShardID // for other types than RecordShard: a fresh random id, index 0
	Part       PartID
	ChunkNo    uint32 // number of the chunk within its part, from 0
	Scheme     Scheme
	PG         uint32 // placement group
	Generation uint32 // the group's newest generation when the record was written
	Bucket     BucketID
	Account    AccountID
	Epoch      uint64 // the epoch of the request that wrote it
	Policy     uint64 // residency policy version
}

// Sum is a SHA-256.
type Sum [32]byte

// Payload is what a record of another type than a shard carries, with its
// checksum, so that several drives get both for one computation. Nobody changes
// it.
type Payload struct {
	Bytes []byte
	Sum   Sum // of Bytes; who reads the record back checks it
}

// PayloadOf computes the checksum of what a record is to carry. It keeps b.
func PayloadOf(b []byte) Payload { return Payload{Bytes: b, Sum: sha256.Sum256(b)} }

// Footer ends a shard record. The gateway makes it after the last cell.
type Footer struct {
	ChunkBytes int64 // sealed bytes of the whole chunk, without padding
	Sums       []Sum // the shard sums of all k+m shards, in order of index
}

// ShardRef finds a shard on a drive: drives order their index by placement
// group first.
type ShardRef struct {
	PG    uint32
	Shard ShardID
}

// Ref returns where r is found.
func (r *Record) Ref() ShardRef { return ShardRef{PG: r.PG, Shard: r.Shard} }

// StoredShard is a row of a drive's index, with what a lookup in metadata
// needs to decide whether anything refers to the shard.
type StoredShard struct {
	Record
	Footer  Footer // Sums is empty unless asked for
	Bytes   int64  // bytes of the whole record on the drive
	Pending bool   // no commit hint or lookup has confirmed it in this life
}
