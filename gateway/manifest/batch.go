package manifest

import (
	"bytes"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
)

// Bucket is whose manifests a batch holds, and how it is sealed.
type Bucket struct {
	Cluster seal.ClusterID
	ID      metadata.BucketID
	Key     metadata.KeyID   // id of the bucket key; zero without Keys
	Keys    *seal.BucketKeys // nil: the bucket has no key, and batches are not sealed
}

const (
	payloadVersion = 1

	formPlain  = 0
	formSealed = 1

	labelBatch = "ruche 1 manifests"

	// headBytes stand before what is sealed: version, form, bucket.
	headBytes = 1 + 1 + 16
	// sealedBytes are what sealing adds to the head and the entries.
	sealedBytes = 16 + seal.WrappedBytes + seal.BoxOverhead
)

// Builder fills a batch with entries of one bucket. The zero value is empty
// and ready. It is used by one goroutine at a time.
type Builder struct {
	body    []byte
	entries int
}

// Add appends an entry and reports true, or reports false if the batch is full:
// then it is to be sealed first. An empty batch takes every entry.
func (b *Builder) Add(e *Entry) bool {
	if b.entries > 0 && headBytes+sealedBytes+len(b.body)+e.Bytes() > BatchBytes {
		return false
	}
	b.body = appendBytes(b.body, fieldEntry, e.body)
	b.entries++
	return true
}

// Entries is how many entries were added.
func (b *Builder) Entries() int { return b.entries }

// Bytes is how long the payload would be now.
func (b *Builder) Bytes() int { return headBytes + sealedBytes + len(b.body) }

// Reset empties the batch.
func (b *Builder) Reset() { b.body, b.entries = b.body[:0], 0 }

// Seal returns the payload of a record with all that was added, and the id that
// the record must have: Record.Shard.Chunk. The id is new for every call, since
// it must never seal two batches; copies of the record on several drives have
// the same id and bytes. random must be a cryptographic source. The builder is
// left as it is.
func (b *Builder) Seal(random io.Reader, bucket *Bucket) (id metadata.ChunkID, payload []byte, err error) {
	if b.entries == 0 {
		return id, nil, malformed("batch without entries")
	}
	if b.Bytes() > MaxBytes {
		return id, nil, malformed("batch of %d bytes", b.Bytes())
	}
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return id, nil, fmt.Errorf("manifest: record id: %w", err)
	}
	payload = make([]byte, 0, b.Bytes())
	if bucket.Keys == nil {
		payload = append(payload, payloadVersion, formPlain)
		payload = append(payload, bucket.ID[:]...)
		return id, append(payload, b.body...), nil
	}
	key, err := seal.NewKey(random)
	if err != nil {
		return id, nil, fmt.Errorf("manifest: %w", err)
	}
	payload = append(payload, payloadVersion, formSealed)
	payload = append(payload, bucket.ID[:]...)
	payload = append(payload, bucket.Key[:]...)
	payload = append(payload, bucket.Keys.WrapManifest(bucket.binding(id, bucket.Key), key)...)
	box, err := seal.Box(key, random, bucket.additional(id, payload), b.body)
	if err != nil {
		return id, nil, fmt.Errorf("manifest: %w", err)
	}
	return id, append(payload, box...), nil
}

func (b *Bucket) binding(id metadata.ChunkID, key metadata.KeyID) seal.Binding {
	return seal.Binding{Cluster: b.Cluster, Bucket: b.ID, Part: metadata.PartID(id), Key: key}
}

// additional is what is authenticated with the entries: where they belong and
// all that stands before them.
func (b *Bucket) additional(id metadata.ChunkID, head []byte) []byte {
	return bytes.Join([][]byte{[]byte(labelBatch), b.Cluster[:], id[:], head}, nil)
}

// BatchHead is what a batch says of itself without its key.
type BatchHead struct {
	Bucket metadata.BucketID
	Sealed bool
	Key    metadata.KeyID // id of the bucket key that wraps, if sealed
}

// Inspect returns what a batch says of itself. The error wraps [ErrMalformed]
// or [ErrNewer].
func Inspect(payload []byte) (BatchHead, error) {
	var h BatchHead
	switch {
	case len(payload) < headBytes || len(payload) > MaxBytes:
		return h, malformed("batch of %d bytes", len(payload))
	case payload[0] != payloadVersion || payload[1] > formSealed:
		return h, fmt.Errorf("%w: batch of version %d, form %d", ErrNewer, payload[0], payload[1])
	}
	copy(h.Bucket[:], payload[2:])
	h.Sealed = payload[1] == formSealed
	if !h.Sealed {
		return h, nil
	}
	if len(payload) < headBytes+sealedBytes {
		return h, malformed("sealed batch of %d bytes", len(payload))
	}
	copy(h.Key[:], payload[headBytes:])
	return h, nil
}

// Open returns the entries of a batch in the order in which they were added. id
// is that of the record it is the payload of. The error wraps [ErrMalformed],
// [ErrNewer], [ErrNoKey] or seal.ErrOpen. A batch that is not sealed is refused,
// as malformed, if the bucket has a key: nobody who can only write drives can
// add objects to it.
//
// The entries refer to payload if it is not sealed.
func Open(bucket *Bucket, id metadata.ChunkID, payload []byte) ([]Entry, error) {
	h, err := Inspect(payload)
	if err != nil {
		return nil, err
	}
	switch {
	case h.Bucket != bucket.ID:
		return nil, malformed("batch of bucket %s, not %s", h.Bucket, bucket.ID)
	case h.Sealed && (bucket.Keys == nil || bucket.Key != h.Key):
		return nil, fmt.Errorf("%w: bucket key %s", ErrNoKey, h.Key)
	case !h.Sealed && bucket.Keys != nil:
		return nil, malformed("batch of an encrypted bucket that is not sealed")
	case !h.Sealed:
		return parseBatch(payload[headBytes:])
	}
	head := payload[:headBytes+16+seal.WrappedBytes]
	key, err := bucket.Keys.UnwrapManifest(bucket.binding(id, h.Key), head[headBytes+16:])
	if err != nil {
		return nil, fmt.Errorf("manifest: batch %s: %w", id, err)
	}
	body, err := seal.OpenBox(key, bucket.additional(id, head), payload[len(head):])
	if err != nil {
		return nil, fmt.Errorf("manifest: batch %s: %w", id, err)
	}
	return parseBatch(body)
}

func parseBatch(body []byte) ([]Entry, error) {
	var entries []Entry
	err := eachField(body, func(f field) error {
		if f.num != fieldEntry {
			return f.unknown()
		}
		if f.typ != protowire.BytesType {
			return malformed("entry")
		}
		e, err := parseEntry(f.b)
		entries = append(entries, e)
		return err
	})
	if err == nil && len(entries) == 0 {
		err = malformed("batch without entries")
	}
	if err != nil {
		return nil, err
	}
	return entries, nil
}
