package simtest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
)

// A Workload makes commands that make sense for what it was told of earlier
// ones: conditions that hold or just do not, parts of uploads in progress,
// completions that name some of them, settings that others have changed. It is
// used by one goroutine. Equal generators that are told the same make the same
// commands.
type Workload struct {
	// Buckets are where objects are written; Keys is how many keys of each.
	Buckets []metadata.BucketRef
	Keys    int
	// Epoch is that of the commands, see metadata.Command.
	Epoch uint64

	r        *rand.Rand
	n        int
	settings map[metadata.BucketRef]uint64
	etags    map[string]string // of bucket and key: the last one seen
	uploads  []*begun
}

// begun is an upload that was acknowledged, with its acknowledged parts.
type begun struct {
	bucket metadata.BucketRef
	key    string
	id     metadata.UploadID
	parts  []metadata.Part // in order of number
}

// NewWorkload returns a workload over buckets.
func NewWorkload(r *rand.Rand, keys int, buckets []metadata.BucketRef) *Workload {
	w := &Workload{Buckets: buckets, Keys: keys, Epoch: 1, r: r,
		settings: make(map[metadata.BucketRef]uint64), etags: make(map[string]string)}
	for _, b := range buckets {
		w.settings[b] = 1
	}
	return w
}

// ID returns 128 random bits.
func (w *Workload) ID() (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], w.r.Uint64())
	binary.BigEndian.PutUint64(id[8:], w.r.Uint64())
	return id
}

// Key returns the name of one of the keys.
func (w *Workload) Key() string { return keyName(w.r.IntN(w.Keys)) }

func keyName(i int) string { return fmt.Sprintf("k/%02d", i) }

// Bucket returns one of the buckets.
func (w *Workload) Bucket() metadata.BucketRef { return w.Buckets[w.r.IntN(len(w.Buckets))] }

// Begin returns the commands that raise the fence of a group and open its
// buckets.
func (w *Workload) Begin(group uint32) []*metadata.Command {
	cs := []*metadata.Command{w.finish(&metadata.Command{Kind: metadata.KindFence, Group: group,
		Fence: &metadata.Fence{Floor: 1, Living: []uint64{1}}})}
	for i, b := range w.Buckets {
		if b.Group == group {
			cs = append(cs, w.finish(&metadata.Command{Kind: metadata.KindOpenBucket, Group: group,
				Settle: &metadata.Settings{Bucket: b.ID, Name: fmt.Sprint("bucket", i)}}))
		}
	}
	return cs
}

// Next returns a command on objects.
func (w *Workload) Next() *metadata.Command {
	b, key := w.Bucket(), w.Key()
	c := &metadata.Command{Group: b.Group, Settings: w.settings[b]}
	switch n := w.r.IntN(100); {
	case n < 45:
		c.Kind, c.CommitVersion = metadata.KindCommitVersion, w.put(b, key)
	case n < 60:
		c.Kind, c.Delete = metadata.KindDeleteVersions, w.delete(b)
	case n < 70:
		c.Kind = metadata.KindCreateUpload
		c.CreateUpload = &metadata.CreateUpload{Bucket: b.ID, Upload: metadata.Upload{ID: w.ID(), Key: key}}
	case n < 98 && len(w.uploads) > 0:
		w.proceed(c, w.uploads[w.r.IntN(len(w.uploads))])
	default:
		c.Kind = metadata.KindPutSettings
		i := slices.Index(w.Buckets, b)
		c.Settle = &metadata.Settings{Bucket: b.ID, Name: fmt.Sprint("bucket", i), Epoch: w.settings[b] + 1}
	}
	return w.finish(c)
}

func (w *Workload) finish(c *metadata.Command) *metadata.Command {
	c.Version, c.Request = metadata.CommandVersion, w.ID()
	if c.Kind != metadata.KindFence {
		c.Epoch = w.Epoch
	}
	return c
}

func (w *Workload) etag() string {
	w.n++
	return fmt.Sprintf("%x-%d", w.Epoch, w.n)
}

// part makes a body: inline, of one chunk or of two.
func (w *Workload) part(number uint32) (p metadata.Part, chunks []metadata.Chunk, inline []byte) {
	p = metadata.Part{Number: number, ID: w.ID(), Bytes: int64(2 + w.r.IntN(100)), Body: metadata.BodyChunks}
	p.SealedBytes = p.Bytes
	if w.r.IntN(2) == 0 {
		p.Body = metadata.BodyInline
		return p, nil, append(p.ID[:], make([]byte, p.Bytes)...)[:p.Bytes]
	}
	first := p.SealedBytes
	if w.r.IntN(2) == 0 {
		first /= 2
		chunks = []metadata.Chunk{{No: 1, ID: w.ID(), Bytes: p.SealedBytes - first}}
	}
	return p, append([]metadata.Chunk{{ID: w.ID(), Bytes: first}}, chunks...), nil
}

func (w *Workload) conditions(b metadata.BucketRef, key string) (c metadata.WriteConditions) {
	switch w.r.IntN(6) {
	case 0:
		c.IfNoneMatch = true
	case 1:
		c.IfMatch = w.etags[at(b, key)]
	case 2:
		c.IfMatch = "*"
	}
	return c
}

func at(b metadata.BucketRef, key string) string { return fmt.Sprintf("%d/%s/%s", b.Group, b.ID, key) }

func (w *Workload) put(b metadata.BucketRef, key string) *metadata.CommitVersion {
	p, chunks, inline := w.part(1)
	return &metadata.CommitVersion{Bucket: b.ID, Key: key, Chunks: chunks, Inline: inline, Conditions: w.conditions(b, key),
		Version: metadata.Version{Null: true, Bytes: p.Bytes, ETag: w.etag(), Part: &p}}
}

func (w *Workload) delete(b metadata.BucketRef) *metadata.DeleteVersions {
	d := &metadata.DeleteVersions{Bucket: b.ID}
	for range 1 + w.r.IntN(2)*w.r.IntN(4) {
		k := metadata.DeleteKey{Key: w.Key()}
		if slices.ContainsFunc(d.Keys, func(o metadata.DeleteKey) bool { return o.Key == k.Key }) {
			continue
		}
		if w.r.IntN(4) == 0 {
			k.Conditions.IfMatch = w.etags[at(b, k.Key)]
		}
		d.Keys = append(d.Keys, k)
	}
	return d
}

// proceed makes the next step of an upload.
func (w *Workload) proceed(c *metadata.Command, u *begun) {
	c.Group, c.Settings = u.bucket.Group, w.settings[u.bucket]
	switch n := w.r.IntN(10); {
	case n < 6 || len(u.parts) == 0 && n < 9:
		p, chunks, inline := w.part(uint32(1 + w.r.IntN(4)))
		c.Kind = metadata.KindCommitPart
		c.CommitPart = &metadata.CommitPart{Bucket: u.bucket.ID, Key: u.key, Upload: u.id, Part: p, Chunks: chunks, Inline: inline}
	case n < 9:
		c.Kind, c.Complete = metadata.KindComplete, w.complete(u)
	default:
		c.Kind, c.Abort = metadata.KindAbortUpload, &metadata.AbortUpload{Bucket: u.bucket.ID, Key: u.key, Upload: u.id}
	}
}

// complete names some of the parts of an upload, at least one.
func (w *Workload) complete(u *begun) *metadata.Complete {
	c := &metadata.Complete{Bucket: u.bucket.ID, Key: u.key, Upload: u.id, Conditions: w.conditions(u.bucket, u.key)}
	c.Version = metadata.Version{Null: true, ETag: w.etag()}
	for i, p := range u.parts {
		if i > 0 && w.r.IntN(4) == 0 {
			continue
		}
		c.Parts = append(c.Parts, metadata.PartRef{Number: p.Number, ID: p.ID})
		c.Version.Bytes += p.Bytes
	}
	c.Version.List = &metadata.PartList{ID: u.id, Parts: uint32(len(c.Parts)), Pages: []metadata.PartPage{{FirstNumber: c.Parts[0].Number}}}
	c.ListHash = sha256.Sum256(fmt.Append(nil, c.Parts))
	return c
}

// Told says how a command was answered. A nil result means that nobody knows.
func (w *Workload) Told(c *metadata.Command, res *metadata.Result) {
	if res == nil {
		return
	}
	switch c.Kind {
	case metadata.KindCommitVersion:
		if v := &c.CommitVersion.Version; res.Rejected == nil {
			w.Seen(metadata.BucketRef{Group: c.Group, ID: c.CommitVersion.Bucket}, c.CommitVersion.Key, v.ETag)
		}
	case metadata.KindCreateUpload:
		if u := &c.CreateUpload.Upload; res.Rejected == nil {
			w.uploads = append(w.uploads, &begun{bucket: metadata.BucketRef{Group: c.Group, ID: c.CreateUpload.Bucket}, key: u.Key, id: u.ID})
		}
	case metadata.KindCommitPart:
		w.toldPart(c.CommitPart, res)
	case metadata.KindComplete:
		// Some go on as if they had not heard: the same list is answered
		// again, another one is refused.
		if (res.Rejected == nil || res.Rejected == metadata.ErrNoSuchUpload) && w.r.IntN(3) > 0 {
			w.forget(c.Complete.Upload)
		}
	case metadata.KindAbortUpload:
		w.forget(c.Abort.Upload)
	case metadata.KindPutSettings:
		if res.Rejected == nil {
			w.Settings(metadata.BucketRef{Group: c.Group, ID: c.Settle.Bucket}, c.Settle.Epoch)
		}
	}
}

func (w *Workload) toldPart(c *metadata.CommitPart, res *metadata.Result) {
	i := slices.IndexFunc(w.uploads, func(u *begun) bool { return u.id == c.Upload })
	if i < 0 {
		return
	}
	u := w.uploads[i]
	switch res.Rejected {
	case nil:
		at, found := slices.BinarySearchFunc(u.parts, c.Part, byNumber)
		if found {
			u.parts[at] = c.Part
		} else {
			u.parts = slices.Insert(u.parts, at, c.Part)
		}
	case metadata.ErrNoSuchUpload:
		w.forget(c.Upload)
	}
}

func (w *Workload) forget(id metadata.UploadID) {
	w.uploads = slices.DeleteFunc(w.uploads, func(u *begun) bool { return u.id == id })
}

// Upload returns one of the uploads that the workload knows of.
func (w *Workload) Upload() (b metadata.BucketRef, key string, id metadata.UploadID, ok bool) {
	if len(w.uploads) == 0 {
		return b, "", id, false
	}
	u := w.uploads[w.r.IntN(len(w.uploads))]
	return u.bucket, u.key, u.id, true
}

// AllKeys returns the names of all keys.
func (w *Workload) AllKeys() []string {
	var keys []string
	for i := range w.Keys {
		keys = append(keys, keyName(i))
	}
	return keys
}

// Seen says that a key was read, or written, with an ETag.
func (w *Workload) Seen(b metadata.BucketRef, key, etag string) { w.etags[at(b, key)] = etag }

// Settings says that a bucket's settings have an epoch.
func (w *Workload) Settings(b metadata.BucketRef, epoch uint64) {
	w.settings[b] = max(w.settings[b], epoch)
}

// Collect returns a command that drops some of what lies in a group's trash.
func (w *Workload) Collect(group uint32, rows []Trash) *metadata.Command {
	c := &metadata.Command{Kind: metadata.KindDropTrash, Group: group, DropTrash: new(metadata.DropTrash)}
	for i := range rows {
		t := &rows[i]
		ref := metadata.TrashRef{Order: t.Order, Bucket: t.Bucket, List: t.List, Done: true}
		for _, p := range t.Parts {
			if w.r.IntN(5) == 0 && t.Kind != metadata.TrashPart {
				ref.Done = false
				continue
			}
			ref.Parts = append(ref.Parts, metadata.PartRef{Number: p.Number, ID: p.ID})
		}
		c.DropTrash.Rows = append(c.DropTrash.Rows, ref)
	}
	return w.finish(c)
}
