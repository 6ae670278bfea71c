package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
)

// OpenChunks is how many chunks Open returns at most.
const OpenChunks = 16

// maxPage is the most rows that one read returns.
const maxPage = 1000

// A View reads the state. What one call returns is consistent if the reader
// is a snapshot. It may be used by several goroutines at once if the reader
// may.
type View struct{ r pebble.Reader }

// NewView returns a view of a snapshot, a store or an indexed batch.
func NewView(r pebble.Reader) View { return View{r} }

// rowOf is a pointer to a row that can be decoded.
type rowOf[T any] interface {
	*T
	Unmarshal([]byte) error
}

// read returns the row of key, or missing if there is none.
func read[T any, P rowOf[T]](v View, key []byte, missing error) (P, error) {
	row := P(new(T))
	found, err := get(v.r, key, row)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, missing
	}
	return row, nil
}

// scan decodes up to limit rows whose keys begin with prefix and are at least
// from, which may be nil.
func scan[T any, P rowOf[T]](v View, prefix, from []byte, limit int) ([]T, error) {
	iter, err := span(v.r, prefix)
	if err != nil {
		return nil, err
	}
	var rows []T
	ok := seek(iter, from)
	for ; ok && len(rows) < limit; ok = iter.Next() {
		var row T
		if err := P(&row).Unmarshal(iter.Value()); err != nil {
			return nil, errors.Join(err, iter.Close())
		}
		rows = append(rows, row)
	}
	return rows, finish(iter)
}

// seek moves to the first row from a key on, or to the first of all for nil. It
// passes over nothing that was deleted before that key.
func seek(iter *pebble.Iterator, from []byte) bool {
	if from == nil {
		return iter.First()
	}
	return iter.SeekGE(from)
}

// Head returns what a group knows of itself.
func (v View) Head(group uint32) (metadata.Head, error) {
	var h metadata.Head
	_, err := get(v.r, appendHead(nil, group, tableHead), &h)
	return h, err
}

// Fence returns the fence of a group, the zero value before the first.
func (v View) Fence(group uint32) (metadata.Fence, error) {
	var f metadata.Fence
	_, err := get(v.r, appendHead(nil, group, tableFence), &f)
	return f, err
}

// PGs returns the placement groups as a group knows them, the zero value
// before the first.
func (v View) PGs(group uint32) (*metadata.PGTable, error) {
	t := new(metadata.PGTable)
	_, err := get(v.r, appendHead(nil, group, tablePGs), t)
	return t, err
}

// Drives returns the drives that the root knows, the zero value before the
// first.
func (v View) Drives() (*metadata.DriveTable, error) {
	t := new(metadata.DriveTable)
	_, err := get(v.r, appendHead(nil, metadata.RootGroup, tableDrives), t)
	return t, err
}

// Incarnation returns the cluster's incarnation, the zero value before the
// first.
func (v View) Incarnation() (metadata.Incarnation, error) {
	var i metadata.Incarnation
	_, err := get(v.r, appendHead(nil, metadata.RootGroup, tableIncarnation), &i)
	return i, err
}

// Accounts returns all accounts in order of id.
func (v View) Accounts() ([]metadata.Account, error) {
	return scan[metadata.Account](v, nameKey(nil, tableAccounts, ""), nil, 1<<20)
}

// AccessKey returns an access key, or metadata.ErrNoSuchAccessKey.
func (v View) AccessKey(id string) (*metadata.AccessKey, error) {
	return read[metadata.AccessKey](v, nameKey(nil, tableAccessKeys, id), metadata.ErrNoSuchAccessKey)
}

// AccessKeys returns all access keys in order of id.
func (v View) AccessKeys() ([]metadata.AccessKey, error) {
	return scan[metadata.AccessKey](v, nameKey(nil, tableAccessKeys, ""), nil, 1<<20)
}

// Bucket returns a bucket in any state, or metadata.ErrNoSuchBucket.
func (v View) Bucket(name string) (*metadata.Bucket, error) {
	return read[metadata.Bucket](v, nameKey(nil, tableNames, name), metadata.ErrNoSuchBucket)
}

// BucketByID returns a bucket in any state, or metadata.ErrNoSuchBucket.
func (v View) BucketByID(id metadata.BucketID) (*metadata.Bucket, error) {
	name, closer, err := v.r.Get(nameKey(nil, tableBucketIDs, string(id[:])))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, metadata.ErrNoSuchBucket
	}
	if err != nil {
		return nil, err
	}
	k, err := v.Bucket(string(name))
	return k, closeAfter(closer, err)
}

// Buckets returns up to limit buckets in any state whose names begin with
// prefix and are greater than after.
func (v View) Buckets(prefix, after string, limit int) ([]metadata.Bucket, error) {
	return scan[metadata.Bucket](v, nameKey(nil, tableNames, prefix), pastName(after), limit)
}

// pastName returns the least key of a bucket behind a name, nil for none.
func pastName(name string) []byte {
	if name == "" {
		return nil
	}
	return append(nameKey(nil, tableNames, name), 0)
}

// Settings returns a bucket's settings, closed ones too, or
// metadata.ErrNoSuchBucket.
func (v View) Settings(b metadata.BucketRef) (*metadata.Settings, error) {
	return read[metadata.Settings](v, appendBucket(nil, b.Group, tableSettings, b.ID), metadata.ErrNoSuchBucket)
}

// Usage returns a bucket's counters, or metadata.ErrNoSuchBucket.
func (v View) Usage(b metadata.BucketRef) (metadata.Usage, error) {
	var u metadata.Usage
	found, err := get(v.r, appendBucket(nil, b.Group, tableUsage, b.ID), &u)
	if err == nil && !found {
		err = metadata.ErrNoSuchBucket
	}
	return u, err
}

// Version returns the version that a client's version id names: the current
// one for "". It fails with metadata.ErrNoSuchBucket, ErrNoSuchKey or, if an
// id was given, ErrNoSuchVersion.
func (v View) Version(b metadata.BucketRef, key, versionID string) (*metadata.Version, error) {
	row, err := read[metadata.Version](v, objectKey(nil, b.Group, tableCurrent, b.ID, key), metadata.ErrNoSuchKey)
	if err == nil && named(row, versionID) {
		return row, nil
	}
	if err != nil && !errors.Is(err, metadata.ErrNoSuchKey) {
		return nil, err
	}
	if versionID != "" {
		return v.older(b, key, versionID)
	}
	return nil, v.missing(b, metadata.ErrNoSuchKey)
}

// older looks for a version that is not current.
func (v View) older(b metadata.BucketRef, key, versionID string) (*metadata.Version, error) {
	order, _, ok := metadata.ParseVersionID(versionID)
	if versionID == metadata.NullVersionID {
		value, closer, err := v.r.Get(objectKey(nil, b.Group, tableNulls, b.ID, key))
		if err != nil && !errors.Is(err, pebble.ErrNotFound) {
			return nil, err
		}
		if err == nil {
			if ok = len(value) == 8; ok {
				order = binary.BigEndian.Uint64(value)
			}
			if err := closer.Close(); err != nil {
				return nil, err
			}
		}
	}
	if ok {
		row, err := read[metadata.Version](v, versionKey(nil, b.Group, b.ID, key, order), metadata.ErrNoSuchVersion)
		if err == nil && row.VersionID() == versionID {
			return row, nil
		}
		if err != nil && !errors.Is(err, metadata.ErrNoSuchVersion) {
			return nil, err
		}
	}
	return nil, v.missing(b, metadata.ErrNoSuchVersion)
}

// missing says why something is not there: the bucket's absence comes first.
func (v View) missing(b metadata.BucketRef, what error) error {
	s, err := v.Settings(b)
	if err != nil {
		return err
	}
	if s.Closed {
		return metadata.ErrNoSuchBucket
	}
	return what
}

// Open returns a version as [View.Version] does, with its inline body or its
// first chunks.
func (v View) Open(b metadata.BucketRef, key, versionID string) (*metadata.Opened, error) {
	row, err := v.Version(b, key, versionID)
	if err != nil {
		return nil, err
	}
	o := &metadata.Opened{Version: *row}
	return o, v.body(b, o)
}

// body reads what Open returns beside the version.
func (v View) body(b metadata.BucketRef, o *metadata.Opened) (err error) {
	part := o.Version.Part
	if part == nil {
		return nil
	}
	switch part.Body {
	case metadata.BodyInline:
		o.Inline, err = v.Inline(b, part.ID)
	case metadata.BodyChunks:
		o.Chunks, err = v.Chunks(b, part.ID, 0, OpenChunks)
	}
	if err != nil {
		// The version is there in the same snapshot: its body must be too.
		return fmt.Errorf("state: body of %s: %w", part.ID, err)
	}
	return nil
}

// Chunks returns up to limit chunks of a part from a chunk number on. It is no
// error if there are none.
func (v View) Chunks(b metadata.BucketRef, part metadata.PartID, from uint32, limit int) ([]metadata.Chunk, error) {
	return scan[metadata.Chunk](v, idKey(nil, b.Group, tableChunks, b.ID, part),
		numberKey(nil, b.Group, tableChunks, b.ID, part, from), limit)
}

// ChunkRows returns up to limit chunks of a group behind the given one, nil for
// the first, in order of bucket, part and number: those of objects, of uploads,
// and of trash that is not freed yet.
func (v View) ChunkRows(group uint32, after *metadata.ChunkRow, limit int) ([]metadata.ChunkRow, error) {
	iter, err := span(v.r, appendHead(nil, group, tableChunks))
	if err != nil {
		return nil, err
	}
	var from []byte
	if after != nil {
		from = append(numberKey(nil, group, tableChunks, after.Bucket, after.Part, after.Chunk.No), 0)
	}
	ok := seek(iter, from)
	var rows []metadata.ChunkRow
	for ; ok && len(rows) < limit; ok = iter.Next() {
		var row metadata.ChunkRow
		key := iter.Key()
		if len(key) != bucketHead+len(row.Part)+4 {
			return nil, errors.Join(errKey, iter.Close())
		}
		copy(row.Bucket[:], key[keyHead:])
		copy(row.Part[:], key[bucketHead:])
		if err := row.Chunk.Unmarshal(iter.Value()); err != nil {
			return nil, errors.Join(err, iter.Close())
		}
		rows = append(rows, row)
	}
	return rows, finish(iter)
}

// Inline returns the sealed body of an inline part, or
// metadata.ErrInvalidPart.
func (v View) Inline(b metadata.BucketRef, part metadata.PartID) ([]byte, error) {
	value, closer, err := v.r.Get(idKey(nil, b.Group, tableInline, b.ID, part))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, metadata.ErrInvalidPart
	}
	if err != nil {
		return nil, err
	}
	if len(value) == 0 || value[0] != metadata.RowVersion {
		return nil, closeAfter(closer, fmt.Errorf("state: inline body: %w", metadata.ErrRowVersion))
	}
	body := bytes.Clone(value[1:])
	return body, closer.Close()
}

// ListPage returns the parts of one page of a part list, by the page's index,
// or metadata.ErrInvalidPart if there is no such page.
func (v View) ListPage(b metadata.BucketRef, list metadata.UploadID, page int) ([]metadata.Part, error) {
	value, closer, err := v.r.Get(numberKey(nil, b.Group, tableLists, b.ID, list, uint32(page)))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, metadata.ErrInvalidPart
	}
	if err != nil {
		return nil, err
	}
	parts, err := metadata.UnmarshalPartPage(value)
	return parts, closeAfter(closer, err)
}

// Upload returns an upload in progress, or metadata.ErrNoSuchBucket or
// ErrNoSuchUpload.
func (v View) Upload(b metadata.BucketRef, key string, id metadata.UploadID) (*metadata.Upload, error) {
	place, err := read[metadata.UploadPlace](v, idKey(nil, b.Group, tablePlaces, b.ID, id), metadata.ErrNoSuchUpload)
	if err == nil && place.Key == key {
		return read[metadata.Upload](v, uploadKey(nil, b.Group, b.ID, key, place.Order, id), metadata.ErrNoSuchUpload)
	}
	if err != nil && !errors.Is(err, metadata.ErrNoSuchUpload) {
		return nil, err
	}
	return nil, v.missing(b, metadata.ErrNoSuchUpload)
}

// Parts returns up to limit parts of an upload whose numbers are greater than
// after. It does not tell whether the upload is in progress.
func (v View) Parts(b metadata.BucketRef, id metadata.UploadID, after uint32, limit int) ([]metadata.Part, error) {
	if after >= metadata.MaxPartNumber {
		return nil, nil
	}
	return scan[metadata.Part](v, idKey(nil, b.Group, tableParts, b.ID, id),
		numberKey(nil, b.Group, tableParts, b.ID, id, after+1), limit)
}

// Completed returns the version that an upload became and the hash of the list
// it was completed with, or metadata.ErrNoSuchUpload.
func (v View) Completed(b metadata.BucketRef, key string, id metadata.UploadID) (*metadata.Version, metadata.Sum, error) {
	row, err := read[metadata.Completion](v, idKey(nil, b.Group, tableCompleted, b.ID, id), metadata.ErrNoSuchUpload)
	if err != nil {
		return nil, metadata.Sum{}, err
	}
	if row.Key != key {
		return nil, metadata.Sum{}, metadata.ErrNoSuchUpload
	}
	return &row.Version, row.ListHash, nil
}

// Trash returns up to limit rows of a group's trash behind an order.
func (v View) Trash(group uint32, after uint64, limit int) ([]metadata.Trash, error) {
	return scan[metadata.Trash](v, appendHead(nil, group, tableTrash),
		orderKey(nil, group, tableTrash, after+1), limit)
}

// TrashParts returns up to limit parts of a trash row that are not dropped
// yet. Of a single part it knows the id, the kind of body and the stored bytes
// only.
func (v View) TrashParts(group uint32, t *metadata.Trash, limit int) ([]metadata.Part, error) {
	if found, err := exists(v.r, orderKey(nil, group, tableTrash, t.Order)); err != nil || !found {
		return nil, err
	}
	b := metadata.BucketRef{Group: group, ID: t.Bucket}
	switch t.Kind {
	case metadata.TrashPart:
		return []metadata.Part{{ID: t.Part, Body: t.Body, SealedBytes: t.Bytes}}, nil
	case metadata.TrashUpload:
		return v.Parts(b, t.List, 0, limit)
	case metadata.TrashList:
		return v.listParts(b, t.List, limit)
	}
	return nil, fmt.Errorf("state: trash of kind %d", t.Kind)
}

// listParts returns the first parts of a list, whatever is left of its pages.
func (v View) listParts(b metadata.BucketRef, list metadata.UploadID, limit int) ([]metadata.Part, error) {
	iter, err := span(v.r, idKey(nil, b.Group, tableLists, b.ID, list))
	if err != nil {
		return nil, err
	}
	var parts []metadata.Part
	for iter.First(); iter.Valid() && len(parts) < limit; iter.Next() {
		page, err := metadata.UnmarshalPartPage(iter.Value())
		if err != nil {
			return nil, errors.Join(err, iter.Close())
		}
		parts = append(parts, page[:min(len(page), limit-len(parts))]...)
	}
	return parts, finish(iter)
}

// Short returns up to limit chunks with too few shards, in order of bucket,
// part and number, behind the given one; nil for the first.
func (v View) Short(group uint32, after *metadata.Short, limit int) ([]metadata.Short, error) {
	var from []byte
	if after != nil {
		from = append(numberKey(nil, group, tableShort, after.Bucket, after.Part, after.ChunkNo), 0)
	}
	return scan[metadata.Short](v, appendHead(nil, group, tableShort), from, limit)
}

// Lookup answers for each ref whether the group refers to it.
func (v View) Lookup(group uint32, refs []metadata.LookupRef) (*metadata.LookupResult, error) {
	res := &metadata.LookupResult{Found: make([]metadata.Found, len(refs))}
	head, err := v.Head(group)
	if err != nil {
		return nil, err
	}
	pgs, err := v.PGs(group)
	if err != nil {
		return nil, err
	}
	if res.Fence, err = v.Fence(group); err != nil {
		return nil, err
	}
	res.PGVersion, res.ClockMicro = pgs.Version, head.ClockMicros
	for i, ref := range refs {
		f := &res.Found[i]
		found, err := get(v.r, numberKey(nil, group, tableChunks, ref.Bucket, ref.Part, ref.ChunkNo), &f.Chunk)
		if err != nil {
			return nil, err
		}
		if !found || f.Chunk.ID != ref.Chunk {
			f.Chunk = metadata.Chunk{}
			continue
		}
		f.Referenced = true
		if _, err := get(v.r, idKey(nil, group, tableOwners, ref.Bucket, ref.Part), &f.Owner); err != nil {
			return nil, err
		}
	}
	return res, nil
}
