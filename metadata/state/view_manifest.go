package state

import (
	"errors"

	"github.com/ruche-storage/ruche/metadata"
)

// OpenedBytes is about how many bytes of inline bodies OpenKeys returns at
// most.
const OpenedBytes = 4 << 20

// Outbox returns up to limit entries of a group's outbox behind an order.
func (v View) Outbox(group uint32, after uint64, limit int) ([]metadata.OutboxEntry, error) {
	head, err := v.Head(group)
	if err != nil {
		return nil, err
	}
	// What was dropped before the head's order need not be passed over.
	return scan[metadata.OutboxEntry](v, appendHead(nil, group, tableOutbox),
		outboxKey(group, max(after, head.Manifested)+1), limit)
}

// ManifestMembers returns the manifest drives of a group, the zero value
// before the first.
func (v View) ManifestMembers(group uint32) (*metadata.ManifestMembers, error) {
	m := new(metadata.ManifestMembers)
	_, err := get(v.r, appendHead(nil, group, tableMembers), m)
	return m, err
}

// OpenKeys returns the current versions of keys of a group, as [View.Open]
// does, in order: of the first of them at least, and of as many as have
// together no more than OpenedBytes of inline bodies. A key without a current
// version is no error, nor is a bucket that is not there.
func (v View) OpenKeys(group uint32, keys []metadata.KeyRef) ([]metadata.OpenedKey, error) {
	opened := make([]metadata.OpenedKey, 0, len(keys))
	bytes, key := 0, []byte(nil)
	for _, k := range keys {
		opened = append(opened, metadata.OpenedKey{KeyRef: k})
		res := &opened[len(opened)-1]
		var err error
		key = objectKey(key[:0], group, tableCurrent, k.Bucket, k.Key)
		if res.Found, err = get(v.r, key, &res.Version); err == nil && res.Found {
			err = v.body(metadata.BucketRef{Group: group, ID: k.Bucket}, &res.Opened)
		}
		if err != nil {
			return nil, err
		}
		if bytes += len(res.Inline); bytes > OpenedBytes {
			break
		}
	}
	return opened, nil
}

// PartChunks returns up to limit chunks of parts of a bucket, in the order of
// the parts, behind the given one; nil for the first.
func (v View) PartChunks(b metadata.BucketRef, parts []metadata.PartID, after *metadata.ChunkRow, limit int) ([]metadata.ChunkRow, error) {
	var rows []metadata.ChunkRow
	for i, part := range parts {
		from := uint32(0)
		if after != nil {
			if part != after.Part {
				continue
			}
			from, after = after.Chunk.No+1, nil
		}
		chunks, err := v.Chunks(b, parts[i], from, limit-len(rows))
		if err != nil {
			return nil, err
		}
		for _, c := range chunks {
			rows = append(rows, metadata.ChunkRow{Bucket: b.ID, Part: part, Chunk: c})
		}
		if len(rows) >= limit {
			break
		}
	}
	return rows, nil
}

// CurrentKeys returns up to limit keys of a group that have a current version,
// in order of bucket and key, behind the given one; the zero value for the
// first.
func (v View) CurrentKeys(group uint32, after metadata.KeyRef, limit int) ([]metadata.KeyOrder, error) {
	iter, err := span(v.r, appendHead(nil, group, tableCurrent))
	if err != nil {
		return nil, err
	}
	var from []byte
	if after != (metadata.KeyRef{}) {
		from = append(objectKey(nil, group, tableCurrent, after.Bucket, after.Key), 0)
	}
	ok := seek(iter, from)
	var keys []metadata.KeyOrder
	for ; ok && len(keys) < limit; ok = iter.Next() {
		k := iter.Key()
		if len(k) < bucketHead {
			return nil, errors.Join(errKey, iter.Close())
		}
		var row metadata.KeyOrder
		copy(row.Bucket[:], k[keyHead:])
		var version metadata.Version
		if row.Key, _, err = cutKey(k[bucketHead:]); err == nil {
			err = version.Unmarshal(iter.Value())
		}
		if err != nil {
			return nil, errors.Join(err, iter.Close())
		}
		row.Order = version.Order
		keys = append(keys, row)
	}
	return keys, finish(iter)
}

// Orders returns the orders of the current versions of keys, and the highest
// that the group has given.
func (v View) Orders(group uint32, keys []metadata.KeyRef) (*metadata.OrdersResult, error) {
	head, err := v.Head(group)
	if err != nil {
		return nil, err
	}
	res := &metadata.OrdersResult{Order: head.Order, Orders: make([]uint64, len(keys))}
	var version metadata.Version
	for i, k := range keys {
		if _, err := get(v.r, objectKey(nil, group, tableCurrent, k.Bucket, k.Key), &version); err != nil {
			return nil, err
		}
		res.Orders[i] = version.Order
		version.Order = 0
	}
	return res, nil
}
