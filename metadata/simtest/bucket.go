package simtest

import (
	"maps"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
)

// bucket is what a data group holds of one bucket.
type bucket struct {
	settings  metadata.Settings
	objects   map[string]*object
	uploads   map[metadata.UploadID]*upload
	completed map[metadata.UploadID]metadata.Completion
}

// object is the current version of a key, with its parts if it was a multipart
// upload. It is never changed.
type object struct {
	version metadata.Version
	parts   []metadata.Part
}

// upload is an upload in progress. Parts is in order of number.
type upload struct {
	metadata.Upload
	parts []metadata.Part
}

func newBucket(s metadata.Settings) *bucket {
	return &bucket{settings: s, objects: make(map[string]*object),
		uploads: make(map[metadata.UploadID]*upload), completed: make(map[metadata.UploadID]metadata.Completion)}
}

// clone returns a copy that shares nothing that is ever changed.
func (b *bucket) clone() *bucket {
	c := &bucket{settings: b.settings, objects: maps.Clone(b.objects), uploads: make(map[metadata.UploadID]*upload, len(b.uploads)),
		completed: maps.Clone(b.completed)}
	for id, u := range b.uploads {
		c.uploads[id] = &upload{u.Upload, slices.Clone(u.parts)}
	}
	return c
}

// do carries out a command on objects of the bucket.
func (b *bucket) do(c *metadata.Command, fx *effects) *metadata.Result {
	switch c.Kind {
	case metadata.KindCommitVersion:
		return b.commitVersion(c.CommitVersion, fx)
	case metadata.KindDeleteVersions:
		return b.deleteVersions(c.Delete, fx)
	case metadata.KindCreateUpload:
		u := c.CreateUpload.Upload
		if b.uploads[u.ID] != nil {
			return rejected(metadata.ErrConflict)
		}
		u.Order = fx.order
		b.uploads[u.ID] = &upload{Upload: u}
		return &metadata.Result{}
	case metadata.KindCommitPart:
		return b.commitPart(c.CommitPart, fx)
	case metadata.KindComplete:
		return b.complete(c.Complete, fx)
	}
	u := b.find(c.Abort.Upload, c.Abort.Key)
	if u == nil {
		return rejected(metadata.ErrNoSuchUpload)
	}
	delete(b.uploads, u.ID)
	fx.drop(giveUp(u.ID, u.parts)...)
	return &metadata.Result{}
}

func rejected(err error) *metadata.Result { return &metadata.Result{Rejected: err} }

func (b *bucket) find(id metadata.UploadID, key string) *upload {
	if u := b.uploads[id]; u != nil && u.Key == key {
		return u
	}
	return nil
}

// writable evaluates the conditions of a write against what is current.
func writable(old *object, w *metadata.WriteConditions) error {
	switch {
	case w.IfNoneMatch && old != nil:
		return metadata.ErrPreconditionFailed
	case w.IfMatch != "" && old == nil:
		return metadata.ErrNoSuchKey
	case w.IfMatch != "" && w.IfMatch != "*" && w.IfMatch != old.version.ETag:
		return metadata.ErrPreconditionFailed
	}
	return nil
}

func (b *bucket) commitVersion(c *metadata.CommitVersion, fx *effects) *metadata.Result {
	old := b.objects[c.Key]
	if err := writable(old, &c.Conditions); err != nil {
		return rejected(err)
	}
	if c.Take != 0 && (old == nil || old.version.Order != c.Take) {
		return rejected(metadata.ErrConflict)
	}
	o := &object{version: c.Version}
	v := &o.version
	v.Order = fx.order
	if c.Take != 0 {
		o.parts = old.parts
		v.Bytes, v.StoredBytes = old.version.Bytes, old.version.StoredBytes
		if v.Part == nil {
			v.Part = old.version.Part
		}
		if v.List == nil {
			v.List = old.version.List
		}
		b.objects[c.Key] = o
		fx.tell()
		return &metadata.Result{Replaced: true}
	}
	part := *v.Part
	part.Modified = fx.order
	v.Part, v.StoredBytes = &part, part.SealedBytes
	b.objects[c.Key] = o
	fx.drop(old.discard()...)
	fx.tell()
	return &metadata.Result{Replaced: old != nil}
}

func (b *bucket) deleteVersions(c *metadata.DeleteVersions, fx *effects) *metadata.Result {
	res := new(metadata.Result)
	for _, k := range c.Keys {
		old, d := b.objects[k.Key], &k.Conditions
		var answer metadata.DeletedKey
		switch {
		case k.VersionID != "" && k.VersionID != metadata.NullVersionID && (old == nil || old.version.VersionID() != k.VersionID):
			answer.Rejected = metadata.ErrNoSuchVersion
		case old == nil && d.IfMatch != "":
			answer.Rejected = metadata.ErrNoSuchKey
		case old == nil:
		case d.IfMatch != "" && d.IfMatch != "*" && d.IfMatch != old.version.ETag,
			d.ModifiedUnix != 0 && d.ModifiedUnix != old.version.Modified().Unix(),
			d.HasBytes && d.Bytes != old.version.Bytes:
			answer.Rejected = metadata.ErrPreconditionFailed
		default:
			answer.Existed, res.Replaced = true, true
			fx.drop(old.discard()...)
			fx.tell()
			delete(b.objects, k.Key)
		}
		res.Deleted = append(res.Deleted, answer)
	}
	return res
}

func (b *bucket) commitPart(c *metadata.CommitPart, fx *effects) *metadata.Result {
	u := b.find(c.Upload, c.Key)
	if u == nil {
		return rejected(metadata.ErrNoSuchUpload)
	}
	p := c.Part
	p.Modified = fx.order
	i, found := slices.BinarySearchFunc(u.parts, p, byNumber)
	if !found {
		u.parts = slices.Insert(u.parts, i, p)
		return &metadata.Result{}
	}
	old := u.parts[i]
	u.parts[i] = p
	fx.drop(discardPart(&old)...)
	return &metadata.Result{Replaced: true}
}

func byNumber(x, y metadata.Part) int { return int(x.Number) - int(y.Number) }

func (b *bucket) complete(c *metadata.Complete, fx *effects) *metadata.Result {
	if done, ok := b.completed[c.Upload]; ok {
		if done.Key != c.Key || done.ListHash != c.ListHash {
			return rejected(metadata.ErrNoSuchUpload)
		}
		return &metadata.Result{Version: &done.Version}
	}
	u := b.find(c.Upload, c.Key)
	if u == nil {
		return rejected(metadata.ErrNoSuchUpload)
	}
	old := b.objects[c.Key]
	if err := writable(old, &c.Conditions); err != nil {
		return rejected(err)
	}
	named := func(p metadata.Part) bool {
		return slices.Contains(c.Parts, metadata.PartRef{Number: p.Number, ID: p.ID})
	}
	o := &object{version: c.Version}
	var rest []metadata.Part
	o.version.StoredBytes = 0
	for _, p := range u.parts {
		if named(p) {
			o.parts = append(o.parts, p)
			o.version.StoredBytes += p.SealedBytes
		} else {
			rest = append(rest, p)
		}
	}
	if len(o.parts) != len(c.Parts) {
		return rejected(metadata.ErrConflict)
	}
	o.version.Order = fx.order
	delete(b.uploads, u.ID)
	b.objects[c.Key] = o
	b.completed[u.ID] = metadata.Completion{Key: c.Key, ListHash: c.ListHash, Version: o.version}
	fx.drop(giveUp(u.ID, rest)...)
	fx.drop(old.discard()...)
	fx.tell()
	return &metadata.Result{Version: &o.version, Replaced: old != nil}
}

// giveUp returns the trash of an upload's parts.
func giveUp(id metadata.UploadID, parts []metadata.Part) []*Trash {
	if len(parts) == 0 {
		return nil
	}
	t := &Trash{Trash: metadata.Trash{Kind: metadata.TrashUpload, List: id}, Parts: parts}
	for _, p := range parts {
		t.Bytes += p.SealedBytes
	}
	return []*Trash{t}
}

// discard returns the trash of an object, which may be nil.
func (o *object) discard() []*Trash {
	switch {
	case o == nil:
		return nil
	case o.version.List == nil:
		return discardPart(o.version.Part)
	}
	return []*Trash{{Parts: o.parts,
		Trash: metadata.Trash{Kind: metadata.TrashList, List: o.version.List.ID, Bytes: o.version.StoredBytes}}}
}

// discardPart returns the trash of a part. Inline bodies leave none.
func discardPart(p *metadata.Part) []*Trash {
	if p.Body != metadata.BodyChunks {
		return nil
	}
	return []*Trash{{Parts: []metadata.Part{{ID: p.ID, Body: p.Body, SealedBytes: p.SealedBytes}},
		Trash: metadata.Trash{Kind: metadata.TrashPart, Part: p.ID, Body: p.Body, Bytes: p.SealedBytes}}}
}
