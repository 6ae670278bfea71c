package state

import (
	"slices"

	"github.com/ruche-storage/ruche/metadata"
)

// commitVersion makes a version current. The earlier one goes to the trash,
// unless its parts are taken over.
func (a *applier) commitVersion(c *metadata.CommitVersion) (rejected, err error) {
	k, rejected, err := a.usable(c.Bucket)
	if rejected != nil || err != nil {
		return rejected, err
	}
	old, err := a.current(c.Bucket, c.Key)
	if err != nil {
		return nil, err
	}
	if rejected := checkWrite(old, &c.Conditions); rejected != nil {
		return rejected, nil
	}
	v := c.Version
	v.Order = a.order
	if c.Take != 0 {
		rejected = takeOver(&v, old, c)
	} else {
		rejected = a.checkPut(&v, c)
	}
	if rejected != nil {
		return rejected, nil
	}

	if c.Take == 0 {
		part := *v.Part
		part.Modified = a.order
		v.Part = &part
		owner := metadata.Owner{Bucket: c.Bucket, Key: c.Key, Order: a.order}
		if err := a.putBody(&part, c.Chunks, c.Inline, c.Short, &owner); err != nil {
			return nil, err
		}
	} else if v.Part != nil && v.Part.Body == metadata.BodyChunks {
		owner := metadata.Owner{Bucket: c.Bucket, Key: c.Key, Order: a.order}
		if err := a.set(idKey(nil, a.g.id, tableOwners, c.Bucket, v.Part.ID), &owner); err != nil {
			return nil, err
		}
	}
	return nil, a.makeCurrent(k, c.Key, &v, old, c.Take != 0)
}

// makeCurrent writes v in the place of old, which may be nil, and tells the
// outbox.
func (a *applier) makeCurrent(k *bucket, key string, v, old *metadata.Version, taken bool) error {
	if err := a.putCurrent(k, key, v, old, taken); err != nil {
		return err
	}
	return a.queue(metadata.OutboxVersion, k.id, key)
}

// putCurrent writes v in the place of old, which may be nil.
func (a *applier) putCurrent(k *bucket, key string, v, old *metadata.Version, taken bool) error {
	if old != nil {
		a.res.Replaced = true
		addVersion(a.count(k), old, -1)
		if !taken {
			if err := a.discard(k.id, old); err != nil {
				return err
			}
		}
	}
	addVersion(a.count(k), v, +1)
	a.key = objectKey(a.key[:0], a.g.id, tableCurrent, k.id, key)
	return a.set(a.key, v)
}

func addVersion(u *metadata.Usage, v *metadata.Version, n int64) {
	u.Versions += n
	if v.Marker {
		return
	}
	u.Objects += n
	u.Bytes += n * v.Bytes
	u.StoredBytes += n * v.StoredBytes
}

// current returns the current version of a key, nil if there is none.
func (a *applier) current(b metadata.BucketID, key string) (*metadata.Version, error) {
	a.key = objectKey(a.key[:0], a.g.id, tableCurrent, b, key)
	v := new(metadata.Version)
	if found, err := a.b.find(a.key, v); err != nil || !found {
		return nil, err
	}
	return v, nil
}

// checkWrite evaluates the conditions of a write against the current version.
func checkWrite(old *metadata.Version, w *metadata.WriteConditions) error {
	switch {
	case w.IfNoneMatch && old != nil:
		return metadata.ErrPreconditionFailed
	case w.IfMatch != "" && old == nil:
		return metadata.ErrNoSuchKey
	case w.IfMatch != "" && w.IfMatch != "*" && w.IfMatch != old.ETag:
		return metadata.ErrPreconditionFailed
	}
	return nil
}

// takeOver gives v the parts of the version it replaces.
func takeOver(v, old *metadata.Version, c *metadata.CommitVersion) error {
	switch {
	case old == nil || old.Order != c.Take:
		return metadata.ErrConflict
	case len(c.Chunks) != 0 || len(c.Inline) != 0 || len(c.Short) != 0 || !v.Null || v.Marker,
		v.Part != nil && (old.Part == nil || old.Part.ID != v.Part.ID),
		v.List != nil && (old.List == nil || old.List.ID != v.List.ID):
		return metadata.ErrInvalidCommand
	}
	// The proposer may seal the part's key or its pages' MACs anew; what it
	// does not bring stays as it is.
	if v.Part == nil {
		v.Part = old.Part
	}
	if v.List == nil {
		v.List = old.List
	}
	v.Bytes, v.StoredBytes = old.Bytes, old.StoredBytes
	return nil
}

// checkPut checks a version with a body of its own, and completes it.
func (a *applier) checkPut(v *metadata.Version, c *metadata.CommitVersion) error {
	if len(c.Key) == 0 || len(c.Key) > MaxKeyBytes || !v.Null || v.Marker ||
		v.Part == nil || v.List != nil || v.Bytes != v.Part.Bytes {
		return metadata.ErrInvalidCommand
	}
	v.StoredBytes = v.Part.SealedBytes
	return a.checkBody(v.Part, c.Chunks, c.Inline, c.Short)
}

// checkBody checks that a part and its rows belong together, and that there is
// room for an inline body.
func (a *applier) checkBody(p *metadata.Part, chunks []metadata.Chunk, inline []byte, short []metadata.Short) error {
	if rejected := checkBody(p, chunks, inline, short); rejected != nil {
		return rejected
	}
	if p.Body == metadata.BodyInline && a.g.head.InlineBytes+p.SealedBytes > InlineLimitBytes {
		return metadata.ErrInlineFull
	}
	return nil
}

// checkBody checks that a part and its rows belong together.
func checkBody(p *metadata.Part, chunks []metadata.Chunk, inline []byte, short []metadata.Short) error {
	if p.ID == (metadata.PartID{}) || p.Bytes < 0 || p.SealedBytes < 0 {
		return metadata.ErrInvalidCommand
	}
	switch p.Body {
	case metadata.BodyEmpty:
		if p.SealedBytes != 0 || len(chunks) != 0 || len(inline) != 0 {
			return metadata.ErrInvalidCommand
		}
	case metadata.BodyInline:
		if int64(len(inline)) != p.SealedBytes || len(chunks) != 0 {
			return metadata.ErrInvalidCommand
		}
	case metadata.BodyChunks:
		if len(inline) != 0 || len(chunks) == 0 || len(chunks) > metadata.MaxPartChunks {
			return metadata.ErrInvalidCommand
		}
		var sum int64
		for i := range chunks {
			if int(chunks[i].No) != i || chunks[i].Bytes <= 0 || chunks[i].Bytes > metadata.ChunkBytes {
				return metadata.ErrInvalidCommand
			}
			sum += chunks[i].Bytes
		}
		if sum != p.SealedBytes {
			return metadata.ErrInvalidCommand
		}
	default:
		return metadata.ErrInvalidCommand
	}
	if slices.ContainsFunc(short, func(s metadata.Short) bool {
		return s.Missing == 0 || int(s.ChunkNo) >= len(chunks)
	}) {
		return metadata.ErrInvalidCommand
	}
	return nil
}

// putBody writes the rows of a new part's bytes. Owner is kept for bodies on
// drives only: nothing looks up the others.
func (a *applier) putBody(p *metadata.Part, chunks []metadata.Chunk, inline []byte, short []metadata.Short, owner *metadata.Owner) error {
	b := owner.Bucket
	switch p.Body {
	case metadata.BodyInline:
		a.g.head.InlineBytes += p.SealedBytes
		a.key = idKey(a.key[:0], a.g.id, tableInline, b, p.ID)
		a.val = append(append(a.val[:0], metadata.RowVersion), inline...)
		return a.b.Set(a.key, a.val, nil)
	case metadata.BodyChunks:
		a.key = idKey(a.key[:0], a.g.id, tableOwners, b, p.ID)
		if err := a.set(a.key, owner); err != nil {
			return err
		}
	}
	for i := range chunks {
		a.key = numberKey(a.key[:0], a.g.id, tableChunks, b, p.ID, chunks[i].No)
		if err := a.set(a.key, &chunks[i]); err != nil {
			return err
		}
	}
	for _, s := range short {
		s.Bucket, s.Part, s.Since = b, p.ID, a.order
		a.key = numberKey(a.key[:0], a.g.id, tableShort, b, p.ID, s.ChunkNo)
		if err := a.set(a.key, &s); err != nil {
			return err
		}
	}
	return nil
}

// deleteVersions deletes each key on its own, in order.
func (a *applier) deleteVersions(c *metadata.DeleteVersions) (rejected, err error) {
	k, rejected, err := a.usable(c.Bucket)
	if rejected != nil || err != nil {
		return rejected, err
	}
	if len(c.Keys) > metadata.MaxDeleteKeys {
		return metadata.ErrInvalidCommand, nil
	}
	a.res.Deleted = make([]metadata.DeletedKey, len(c.Keys))
	for i := range c.Keys {
		if err := a.deleteKey(k, &c.Keys[i], &a.res.Deleted[i]); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (a *applier) deleteKey(k *bucket, d *metadata.DeleteKey, res *metadata.DeletedKey) error {
	v, err := a.current(k.id, d.Key)
	if err != nil {
		return err
	}
	if !named(v, d.VersionID) {
		if d.VersionID != "" && d.VersionID != metadata.NullVersionID {
			res.Rejected = metadata.ErrNoSuchVersion
			return nil
		}
		v = nil
	}
	if res.Rejected = checkDelete(v, &d.Conditions); res.Rejected != nil || v == nil {
		return nil
	}
	res.Existed, a.res.Replaced = true, true
	addVersion(a.count(k), v, -1)
	if err := a.discard(k.id, v); err != nil {
		return err
	}
	a.key = objectKey(a.key[:0], a.g.id, tableCurrent, k.id, d.Key)
	if err := a.b.Delete(a.key, nil); err != nil {
		return err
	}
	return a.queue(metadata.OutboxDeleted, k.id, d.Key)
}

// named reports whether a client's version id names the current version v,
// which may be nil. No id names whatever is current.
func named(v *metadata.Version, id string) bool {
	return v != nil && (id == "" || id == v.VersionID())
}

// checkDelete evaluates the conditions of a delete against the version that
// would go, nil if there is none.
func checkDelete(v *metadata.Version, d *metadata.DeleteConditions) error {
	switch {
	case v == nil && d.IfMatch != "":
		return metadata.ErrNoSuchKey
	case v == nil:
		return nil
	case d.IfMatch != "" && d.IfMatch != "*" && d.IfMatch != v.ETag,
		d.ModifiedUnix != 0 && d.ModifiedUnix != v.Modified().Unix(),
		d.HasBytes && d.Bytes != v.Bytes:
		return metadata.ErrPreconditionFailed
	}
	return nil
}
