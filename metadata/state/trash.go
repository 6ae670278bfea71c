package state

import (
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
)

// trash records that something waits for its readers. Each row has an order
// of its own, which is its key; the first one has the command's.
func (a *applier) trash(t *metadata.Trash) error {
	if a.trashed {
		a.last++
	}
	a.trashed = true
	t.Order = a.last
	return a.set(orderKey(nil, a.g.id, tableTrash, t.Order), t)
}

// discard gives up the bytes of a version that is no longer there.
func (a *applier) discard(b metadata.BucketID, v *metadata.Version) error {
	if v.List != nil {
		return a.trash(&metadata.Trash{Kind: metadata.TrashList, Bucket: b, List: v.List.ID, Bytes: v.StoredBytes})
	}
	if v.Part != nil {
		return a.discardPart(b, v.Part)
	}
	return nil
}

// discardPart gives up a single part. Inline bodies go at once: whoever reads
// one got it together with its version.
func (a *applier) discardPart(b metadata.BucketID, p *metadata.Part) error {
	if p.Body != metadata.BodyChunks {
		return a.dropPart(b, p.ID, p.Body, p.SealedBytes)
	}
	return a.trash(&metadata.Trash{Kind: metadata.TrashPart, Bucket: b, Part: p.ID, Body: p.Body, Bytes: p.SealedBytes})
}

// dropPart deletes the rows of a part's bytes.
func (a *applier) dropPart(b metadata.BucketID, id metadata.PartID, body metadata.BodyKind, sealedBytes int64) error {
	switch body {
	case metadata.BodyInline:
		a.g.head.InlineBytes -= sealedBytes
		return a.b.Delete(idKey(nil, a.g.id, tableInline, b, id), nil)
	case metadata.BodyChunks:
	default:
		return nil
	}
	for _, t := range []table{tableChunks, tableShort} {
		if err := a.deleteRows(idKey(nil, a.g.id, t, b, id)); err != nil {
			return err
		}
	}
	return a.b.Delete(idKey(nil, a.g.id, tableOwners, b, id), nil)
}

// deleteRows deletes the few rows that begin with prefix, each on its own:
// many small range deletions would slow every later iteration.
func (a *applier) deleteRows(prefix []byte) error {
	iter, err := span(a.b, prefix)
	if err != nil {
		return err
	}
	var keys [][]byte
	for iter.First(); iter.Valid(); iter.Next() {
		keys = append(keys, slices.Clone(iter.Key()))
	}
	if err := finish(iter); err != nil {
		return err
	}
	for _, k := range keys {
		if err := a.b.Delete(k, nil); err != nil {
			return err
		}
	}
	return nil
}

// drop is what one TrashRef removes.
type drop struct {
	ref   *metadata.TrashRef
	row   metadata.Trash
	parts []metadata.Part // whose rows go
	pages []page          // of the list, that change
	rows  [][]byte        // part rows of the upload that go
}

// page is a page of a part list after some of its parts were dropped.
type page struct {
	key  []byte
	left []metadata.Part
}

// dropTrash removes what the collector has freed. Rows that are not there are
// dropped already.
func (a *applier) dropTrash(c *metadata.DropTrash) (rejected, err error) {
	if len(c.Rows) > metadata.MaxTrashRows {
		return metadata.ErrInvalidCommand, nil
	}
	drops := make([]drop, 0, len(c.Rows))
	seen := make(map[uint64]bool, len(c.Rows))
	for i := range c.Rows {
		d := drop{ref: &c.Rows[i]}
		if seen[d.ref.Order] {
			return metadata.ErrInvalidCommand, nil
		}
		seen[d.ref.Order] = true
		found, err := get(a.b, orderKey(nil, a.g.id, tableTrash, d.ref.Order), &d.row)
		if err != nil {
			return nil, err
		}
		if !found {
			continue
		}
		if rejected, err := a.planDrop(&d); rejected != nil || err != nil {
			return rejected, err
		}
		drops = append(drops, d)
	}
	for i := range drops {
		if err := a.carryOut(&drops[i]); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// planDrop finds what one reference removes.
func (a *applier) planDrop(d *drop) (rejected, err error) {
	if d.row.Bucket != d.ref.Bucket || d.row.List != d.ref.List || len(d.ref.Parts) > metadata.MaxPartNumber {
		return metadata.ErrInvalidCommand, nil
	}
	if d.row.Kind == metadata.TrashPart {
		if d.ref.Done {
			d.parts = []metadata.Part{{ID: d.row.Part, Body: d.row.Body, SealedBytes: d.row.Bytes}}
		}
		return nil, nil
	}
	gone := make(map[metadata.PartID]bool, len(d.ref.Parts))
	for _, p := range d.ref.Parts {
		gone[p.ID] = true
	}
	plan := a.planUpload
	if d.row.Kind == metadata.TrashList {
		plan = a.planList
	}
	left, err := plan(d, gone)
	if err != nil {
		return nil, err
	}
	if d.ref.Done && left {
		return metadata.ErrConflict, nil
	}
	return nil, nil
}

// planUpload finds the part rows that go, and reports whether some are left.
func (a *applier) planUpload(d *drop, gone map[metadata.PartID]bool) (left bool, err error) {
	iter, err := span(a.b, idKey(nil, a.g.id, tableParts, d.row.Bucket, d.row.List))
	if err != nil {
		return false, err
	}
	for iter.First(); iter.Valid(); iter.Next() {
		if len(gone) == 0 {
			left = true
			break
		}
		var p metadata.Part
		if err := p.Unmarshal(iter.Value()); err != nil {
			return false, errors.Join(err, iter.Close())
		}
		if !gone[p.ID] {
			left = true
			continue
		}
		delete(gone, p.ID)
		d.parts = append(d.parts, p)
		d.rows = append(d.rows, slices.Clone(iter.Key()))
	}
	return left, finish(iter)
}

// planList finds the pages that change, and reports whether parts are left.
func (a *applier) planList(d *drop, gone map[metadata.PartID]bool) (left bool, err error) {
	iter, err := span(a.b, idKey(nil, a.g.id, tableLists, d.row.Bucket, d.row.List))
	if err != nil {
		return false, err
	}
	for iter.First(); iter.Valid(); iter.Next() {
		if len(gone) == 0 {
			left = true
			break
		}
		parts, err := metadata.UnmarshalPartPage(iter.Value())
		if err != nil {
			return false, errors.Join(err, iter.Close())
		}
		pg := page{key: slices.Clone(iter.Key())}
		for i := range parts {
			if gone[parts[i].ID] {
				delete(gone, parts[i].ID)
				d.parts = append(d.parts, parts[i])
			} else {
				pg.left = append(pg.left, parts[i])
			}
		}
		left = left || len(pg.left) > 0
		if len(pg.left) < len(parts) {
			d.pages = append(d.pages, pg)
		}
	}
	return left, finish(iter)
}

// carryOut writes what planDrop found.
func (a *applier) carryOut(d *drop) error {
	for i := range d.parts {
		p := &d.parts[i]
		if err := a.dropPart(d.row.Bucket, p.ID, p.Body, p.SealedBytes); err != nil {
			return err
		}
	}
	for _, k := range d.rows {
		if err := a.b.Delete(k, nil); err != nil {
			return err
		}
	}
	for _, pg := range d.pages {
		var err error
		if len(pg.left) == 0 {
			err = a.b.Delete(pg.key, nil)
		} else {
			err = a.b.Set(pg.key, metadata.AppendPartPage(nil, pg.left), nil)
		}
		if err != nil {
			return err
		}
	}
	if !d.ref.Done {
		return nil
	}
	return a.b.Delete(orderKey(nil, a.g.id, tableTrash, d.row.Order), nil)
}

// putShort records chunks that have too few shards, and removes those that
// have them again.
func (a *applier) putShort(c *metadata.PutShort) (rejected, err error) {
	if len(c.Rows) > metadata.MaxShortRows {
		return metadata.ErrInvalidCommand, nil
	}
	for _, s := range c.Rows {
		if err := a.putShortRow(s); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (a *applier) putShortRow(s metadata.Short) error {
	key := numberKey(nil, a.g.id, tableShort, s.Bucket, s.Part, s.ChunkNo)
	found, err := exists(a.b, numberKey(nil, a.g.id, tableChunks, s.Bucket, s.Part, s.ChunkNo))
	if err != nil {
		return err
	}
	if !found || s.Missing == 0 {
		return a.b.Delete(key, nil)
	}
	var old metadata.Short
	if found, err = get(a.b, key, &old); err != nil {
		return err
	}
	s.Since = a.order
	if found {
		s.Since = old.Since
	}
	return a.set(key, &s)
}

// span returns an iterator over the keys that begin with prefix.
func span(r pebble.Reader, prefix []byte) (*pebble.Iterator, error) {
	return r.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
}

// finish closes an iterator and returns what went wrong with it.
func finish(iter *pebble.Iterator) error { return errors.Join(iter.Error(), iter.Close()) }
