package state

import (
	"errors"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
)

func (a *applier) createUpload(c *metadata.CreateUpload) (rejected, err error) {
	k, rejected, err := a.usable(c.Bucket)
	if rejected != nil || err != nil {
		return rejected, err
	}
	u := c.Upload
	if len(u.Key) == 0 || len(u.Key) > MaxKeyBytes || u.ID == (metadata.UploadID{}) {
		return metadata.ErrInvalidCommand, nil
	}
	place := idKey(nil, a.g.id, tablePlaces, c.Bucket, u.ID)
	if found, err := exists(a.b, place); err != nil {
		return nil, err
	} else if found {
		return metadata.ErrConflict, nil
	}
	u.Order = a.order
	a.count(k).Uploads++
	if err := a.set(place, &metadata.UploadPlace{Key: u.Key, Order: u.Order}); err != nil {
		return nil, err
	}
	return nil, a.set(uploadKey(nil, a.g.id, c.Bucket, u.Key, u.Order, u.ID), &u)
}

// place finds an upload by its id and key, nil if it is not in progress.
func (a *applier) place(b metadata.BucketID, key string, id metadata.UploadID) (*metadata.UploadPlace, error) {
	var p metadata.UploadPlace
	found, err := get(a.b, idKey(nil, a.g.id, tablePlaces, b, id), &p)
	if err != nil || !found || p.Key != key {
		return nil, err
	}
	return &p, nil
}

func (a *applier) commitPart(c *metadata.CommitPart) (rejected, err error) {
	k, rejected, err := a.usable(c.Bucket)
	if rejected != nil || err != nil {
		return rejected, err
	}
	switch p, err := a.place(c.Bucket, c.Key, c.Upload); {
	case err != nil:
		return nil, err
	case p == nil:
		return metadata.ErrNoSuchUpload, nil
	}
	part := c.Part
	if part.Number < 1 || part.Number > metadata.MaxPartNumber {
		return metadata.ErrInvalidPart, nil
	}
	if rejected := a.checkBody(&part, c.Chunks, c.Inline, c.Short); rejected != nil {
		return rejected, nil
	}
	key := numberKey(nil, a.g.id, tableParts, c.Bucket, c.Upload, part.Number)
	var old metadata.Part
	found, err := get(a.b, key, &old)
	if err != nil {
		return nil, err
	}
	if found {
		a.res.Replaced = true
		a.count(k).UploadBytes -= old.SealedBytes
		if err := a.discardPart(c.Bucket, &old); err != nil {
			return nil, err
		}
	}
	part.Modified = a.order
	a.count(k).UploadBytes += part.SealedBytes
	owner := metadata.Owner{Bucket: c.Bucket, Key: c.Key, List: c.Upload}
	if err := a.putBody(&part, c.Chunks, c.Inline, c.Short, &owner); err != nil {
		return nil, err
	}
	return nil, a.set(key, &part)
}

// complete makes an upload into the current version of its key. The parts
// that it names move into the pages of the version's list; the others stay
// where they are, as the trash of the upload.
func (a *applier) complete(c *metadata.Complete) (rejected, err error) {
	k, rejected, err := a.usable(c.Bucket)
	if rejected != nil || err != nil {
		return rejected, err
	}
	if done, rejected, err := a.repeated(c); done || err != nil {
		return rejected, err
	}
	place, err := a.place(c.Bucket, c.Key, c.Upload)
	if err != nil {
		return nil, err
	}
	if place == nil {
		return metadata.ErrNoSuchUpload, nil
	}
	old, err := a.current(c.Bucket, c.Key)
	if err != nil {
		return nil, err
	}
	if rejected := checkWrite(old, &c.Conditions); rejected != nil {
		return rejected, nil
	}
	sel, err := a.choose(c)
	if err != nil {
		return nil, err
	}
	v := c.Version
	v.Order = a.order
	if rejected := sel.check(&v, c); rejected != nil {
		return rejected, nil
	}

	if err := a.movePages(c, sel.parts); err != nil {
		return nil, err
	}
	u := a.count(k)
	u.Uploads--
	u.UploadBytes -= sel.stored + sel.restBytes
	if err := a.endUpload(c.Bucket, c.Upload, place, sel.rest, sel.restBytes); err != nil {
		return nil, err
	}
	if err := a.makeCurrent(k, c.Key, &v, old, false); err != nil {
		return nil, err
	}
	a.res.Version = &v
	done := idKey(nil, a.g.id, tableCompleted, c.Bucket, c.Upload)
	return nil, errors.Join(
		a.set(done, &metadata.Completion{Key: c.Key, ListHash: c.ListHash, Version: v}),
		a.expireLater(done))
}

// repeated answers a completion that was carried out before.
func (a *applier) repeated(c *metadata.Complete) (done bool, rejected, err error) {
	var row metadata.Completion
	found, err := get(a.b, idKey(nil, a.g.id, tableCompleted, c.Bucket, c.Upload), &row)
	switch {
	case err != nil || !found:
		return false, nil, err
	case row.Key != c.Key || row.ListHash != c.ListHash:
		return true, metadata.ErrNoSuchUpload, nil
	}
	a.res.Version = &row.Version
	return true, nil, nil
}

// selection is what a completion takes of an upload's parts.
type selection struct {
	parts         []metadata.Part // named, in order of number; nil if one is not there
	bytes, stored int64           // of the named ones
	rest          int             // how many are not named
	restBytes     int64           // their sealed bytes
}

// choose reads the upload's parts, at most 10,000, and matches them with those
// that the completion names.
func (a *applier) choose(c *metadata.Complete) (*selection, error) {
	iter, err := span(a.b, idKey(nil, a.g.id, tableParts, c.Bucket, c.Upload))
	if err != nil {
		return nil, err
	}
	sel := &selection{parts: make([]metadata.Part, 0, min(len(c.Parts), metadata.MaxPartNumber))}
	want := c.Parts
	for iter.First(); iter.Valid(); iter.Next() {
		var p metadata.Part
		if err := p.Unmarshal(iter.Value()); err != nil {
			return nil, errors.Join(err, iter.Close())
		}
		if len(want) > 0 && want[0].Number == p.Number && want[0].ID == p.ID {
			want = want[1:]
			sel.parts = append(sel.parts, p)
			sel.bytes += p.Bytes
			sel.stored += p.SealedBytes
			continue
		}
		sel.rest++
		sel.restBytes += p.SealedBytes
	}
	if len(want) > 0 {
		sel.parts = nil
	}
	return sel, finish(iter)
}

// check compares the version that the proposer made with the parts.
func (s *selection) check(v *metadata.Version, c *metadata.Complete) error {
	ordered := slices.IsSortedFunc(c.Parts, func(x, y metadata.PartRef) int { return int(x.Number) - int(y.Number) })
	if len(c.Parts) == 0 || len(c.Parts) > metadata.MaxPartNumber || !ordered {
		return metadata.ErrInvalidCommand
	}
	if s.parts == nil {
		return metadata.ErrConflict
	}
	pages := (len(c.Parts) + metadata.PartsPerPage - 1) / metadata.PartsPerPage
	if !v.Null || v.Marker || v.Part != nil || v.List == nil || v.Bytes != s.bytes ||
		v.List.ID != c.Upload || int(v.List.Parts) != len(c.Parts) || len(v.List.Pages) != pages {
		return metadata.ErrInvalidCommand
	}
	var offset int64
	for i := range s.parts {
		if page := i / metadata.PartsPerPage; i%metadata.PartsPerPage == 0 &&
			(v.List.Pages[page].FirstNumber != s.parts[i].Number || v.List.Pages[page].Offset != offset) {
			return metadata.ErrInvalidCommand
		}
		offset += s.parts[i].Bytes
	}
	v.StoredBytes = s.stored
	return nil
}

// movePages writes the pages of a list and drops the parts' own rows.
func (a *applier) movePages(c *metadata.Complete, parts []metadata.Part) error {
	for page := 0; len(parts) > 0; page++ {
		n := min(len(parts), metadata.PartsPerPage)
		a.key = numberKey(a.key[:0], a.g.id, tableLists, c.Bucket, c.Upload, uint32(page))
		a.val = metadata.AppendPartPage(a.val[:0], parts[:n])
		if err := a.b.Set(a.key, a.val, nil); err != nil {
			return err
		}
		for i := range n {
			a.key = numberKey(a.key[:0], a.g.id, tableParts, c.Bucket, c.Upload, parts[i].Number)
			if err := a.b.Delete(a.key, nil); err != nil {
				return err
			}
		}
		parts = parts[n:]
	}
	return nil
}

// endUpload drops the rows that make an upload be in progress. Parts that are
// left become the trash of the upload.
func (a *applier) endUpload(b metadata.BucketID, id metadata.UploadID, p *metadata.UploadPlace, parts int, bytes int64) error {
	err := errors.Join(
		a.b.Delete(uploadKey(nil, a.g.id, b, p.Key, p.Order, id), nil),
		a.b.Delete(idKey(nil, a.g.id, tablePlaces, b, id), nil))
	if err != nil || parts == 0 {
		return err
	}
	return a.trash(&metadata.Trash{Kind: metadata.TrashUpload, Bucket: b, List: id, Bytes: bytes})
}

func (a *applier) abortUpload(c *metadata.AbortUpload) (rejected, err error) {
	k, rejected, err := a.usable(c.Bucket)
	if rejected != nil || err != nil {
		return rejected, err
	}
	place, err := a.place(c.Bucket, c.Key, c.Upload)
	if err != nil {
		return nil, err
	}
	if place == nil {
		return metadata.ErrNoSuchUpload, nil
	}
	sel, err := a.choose(&metadata.Complete{Bucket: c.Bucket, Upload: c.Upload})
	if err != nil {
		return nil, err
	}
	u := a.count(k)
	u.Uploads--
	u.UploadBytes -= sel.restBytes
	return nil, a.endUpload(c.Bucket, c.Upload, place, sel.rest, sel.restBytes)
}
