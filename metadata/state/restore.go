package state

import (
	"bytes"

	"github.com/ruche-storage/ruche/metadata"
)

// restoreVersion puts back a version with its own order. One that is not newer
// than the current version of its key changes nothing.
func (a *applier) restoreVersion(c *metadata.RestoreVersion) (rejected, err error) {
	k, rejected, err := a.usable(c.Bucket)
	if rejected != nil || err != nil {
		return rejected, err
	}
	v := &c.Version
	if len(c.Key) == 0 || len(c.Key) > MaxKeyBytes || v.Order == 0 || !v.Null || v.Marker || (v.Part == nil) == (v.List == nil) {
		return metadata.ErrInvalidCommand, nil
	}
	if v.List != nil {
		rejected, err = a.checkRestoredList(c)
	} else {
		rejected, err = a.checkRestoredPart(c)
	}
	if rejected != nil || err != nil {
		return rejected, err
	}
	old, err := a.current(c.Bucket, c.Key)
	if err != nil {
		return nil, err
	}
	if old != nil && old.Order >= v.Order {
		return nil, nil
	}
	a.last = max(a.last, v.Order)
	if v.Part != nil {
		owner := metadata.Owner{Bucket: c.Bucket, Key: c.Key, Order: v.Order}
		if err := a.putBody(v.Part, c.Chunks, c.Inline, nil, &owner); err != nil {
			return nil, err
		}
	}
	return nil, a.putCurrent(k, c.Key, v, old, false)
}

// checkRestoredPart checks the body of a plain version. Inline bodies are
// taken whatever there is of them already: they were there before.
func (a *applier) checkRestoredPart(c *metadata.RestoreVersion) (rejected, err error) {
	v := &c.Version
	if v.Bytes != v.Part.Bytes || v.StoredBytes != v.Part.SealedBytes {
		return metadata.ErrInvalidCommand, nil
	}
	if rejected := checkBody(v.Part, c.Chunks, c.Inline, nil); rejected != nil {
		return rejected, nil
	}
	return nil, nil
}

// checkRestoredList checks that the pages of a version's list were put back.
func (a *applier) checkRestoredList(c *metadata.RestoreVersion) (rejected, err error) {
	list := c.Version.List
	pages := (int(list.Parts) + metadata.PartsPerPage - 1) / metadata.PartsPerPage
	if len(c.Chunks) != 0 || len(c.Inline) != 0 || list.Parts == 0 || list.Parts > metadata.MaxPartNumber || len(list.Pages) != pages {
		return metadata.ErrInvalidCommand, nil
	}
	view, ref := NewView(a.b), metadata.BucketRef{Group: a.g.id, ID: c.Bucket}
	found, stored := 0, int64(0)
	for page := range pages {
		parts, err := view.ListPage(ref, list.ID, page)
		if err == metadata.ErrInvalidPart {
			return metadata.ErrConflict, nil
		}
		if err != nil {
			return nil, err
		}
		found += len(parts)
		for i := range parts {
			stored += parts[i].SealedBytes
		}
	}
	if found != int(list.Parts) || stored != c.Version.StoredBytes {
		return metadata.ErrConflict, nil
	}
	return nil, nil
}

// restoreParts puts back a page of a part list, and bodies of its parts.
func (a *applier) restoreParts(c *metadata.RestoreParts) (rejected, err error) {
	if _, rejected, err := a.usable(c.Bucket); rejected != nil || err != nil {
		return rejected, err
	}
	if len(c.Key) == 0 || len(c.Key) > MaxKeyBytes || c.List == (metadata.UploadID{}) || len(c.Parts) > metadata.PartsPerPage {
		return metadata.ErrInvalidCommand, nil
	}
	for i := range c.Bodies {
		b := &c.Bodies[i]
		if b.Part == (metadata.PartID{}) || (len(b.Chunks) == 0) == (len(b.Inline) == 0) || len(b.Chunks) > metadata.MaxPartChunks {
			return metadata.ErrInvalidCommand, nil
		}
	}
	if len(c.Parts) > 0 {
		if rejected, err := a.restorePage(c); rejected != nil || err != nil {
			return rejected, err
		}
	}
	for i := range c.Bodies {
		if err := a.restoreBody(c, &c.Bodies[i]); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (a *applier) restorePage(c *metadata.RestoreParts) (rejected, err error) {
	key := numberKey(nil, a.g.id, tableLists, c.Bucket, c.List, c.Page)
	page := metadata.AppendPartPage(nil, c.Parts)
	found, err := exists(a.b, key)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, a.b.Set(key, page, nil)
	}
	old, closer, err := a.b.Get(key)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(old, page) {
		rejected = metadata.ErrConflict
	}
	return rejected, closer.Close()
}

// restoreBody writes the rows of a part's bytes, or a piece of them.
func (a *applier) restoreBody(c *metadata.RestoreParts, b *metadata.PartBody) error {
	if len(b.Inline) > 0 {
		found, err := exists(a.b, idKey(nil, a.g.id, tableInline, c.Bucket, b.Part))
		if err != nil || found {
			return err
		}
		p := metadata.Part{ID: b.Part, Body: metadata.BodyInline, SealedBytes: int64(len(b.Inline))}
		return a.putBody(&p, nil, b.Inline, nil, &metadata.Owner{Bucket: c.Bucket})
	}
	p := metadata.Part{ID: b.Part, Body: metadata.BodyChunks}
	return a.putBody(&p, b.Chunks, nil, nil, &metadata.Owner{Bucket: c.Bucket, Key: c.Key, List: c.List})
}
