package metadata

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// CommandVersion is the form of commands that this program makes and carries
// out.
const CommandVersion = 1

// Most elements of the repeated fields of commands.
const (
	// MaxDeleteKeys is how many keys one DeleteVersions names at most.
	MaxDeleteKeys = 1000
	// MaxPartNumber is the highest number of a part.
	MaxPartNumber = 10_000
	// MaxPartChunks is how many chunks a part has at most.
	MaxPartChunks = 1024
	// MaxTrashRows is how many rows one DropTrash names at most.
	MaxTrashRows = 1000
	// MaxShortRows is how many chunks one PutShort names at most.
	MaxShortRows = 1024
)

// Field numbers of the payloads within a command.
const (
	payloadFence         = 16
	payloadPGs           = 17
	payloadClock         = 18
	payloadAccount       = 19
	payloadAccessKey     = 20
	payloadDrives        = 21
	payloadBucket        = 22
	payloadIncarnation   = 23
	payloadSettle        = 24
	payloadCommitVersion = 25
	payloadDelete        = 26
	payloadCreateUpload  = 27
	payloadCommitPart    = 28
	payloadComplete      = 29
	payloadAbort         = 30
	payloadDropTrash     = 31
	payloadPutShort      = 32

	payloadClusters = 33
	payloadStores   = 34

	payloadManifested     = 40
	payloadMembers        = 41
	payloadRestoreVersion = 42
	payloadRestoreParts   = 43
)

// A message is a payload of a command.
type message interface {
	append(b []byte) []byte
	field(d *decoder)
}

// payload returns the number and the message of the payload that the kind of c
// asks for. With fresh, it first sets the payload to an empty one. It reports
// false for kinds it does not know, and returns a nil message for a missing
// payload.
func (c *Command) payload(fresh bool) (protowire.Number, message, bool) {
	switch c.Kind {
	case KindFence:
		return payloadFence, pick(&c.Fence, fresh), true
	case KindPushPGs:
		return payloadPGs, pick(&c.PGs, fresh), true
	case KindClock:
		return payloadClock, pick(&c.Clock, fresh), true
	case KindPutAccount:
		return payloadAccount, pick(&c.Account, fresh), true
	case KindPutAccessKey, KindDeleteAccessKey, KindRestoreAccessKey:
		return payloadAccessKey, pick(&c.AccessKey, fresh), true
	case KindPutDrives:
		return payloadDrives, pick(&c.Drives, fresh), true
	case KindReserveBucket, KindActivateBucket, KindRetireBucket, KindForgetBucket, KindRestoreBucket:
		return payloadBucket, pick(&c.Bucket, fresh), true
	case KindPutIncarnation:
		return payloadIncarnation, pick(&c.Incarnation, fresh), true
	case KindOpenBucket, KindPutSettings, KindCloseBucket, KindPurgeBucket:
		return payloadSettle, pick(&c.Settle, fresh), true
	case KindCommitVersion:
		return payloadCommitVersion, pick(&c.CommitVersion, fresh), true
	case KindDeleteVersions:
		return payloadDelete, pick(&c.Delete, fresh), true
	case KindCreateUpload:
		return payloadCreateUpload, pick(&c.CreateUpload, fresh), true
	case KindCommitPart:
		return payloadCommitPart, pick(&c.CommitPart, fresh), true
	case KindComplete:
		return payloadComplete, pick(&c.Complete, fresh), true
	case KindAbortUpload:
		return payloadAbort, pick(&c.Abort, fresh), true
	case KindDropTrash:
		return payloadDropTrash, pick(&c.DropTrash, fresh), true
	case KindPutShort:
		return payloadPutShort, pick(&c.PutShort, fresh), true
	case KindClusters:
		return payloadClusters, pick(&c.Clusters, fresh), true
	case KindPutStores:
		return payloadStores, pick(&c.Stores, fresh), true
	case KindManifested:
		return payloadManifested, pick(&c.Manifested, fresh), true
	case KindPutManifestMembers:
		return payloadMembers, pick(&c.Members, fresh), true
	case KindRestoreVersion:
		return payloadRestoreVersion, pick(&c.RestoreVersion, fresh), true
	case KindRestoreParts:
		return payloadRestoreParts, pick(&c.RestoreParts, fresh), true
	}
	return 0, nil, false
}

// pick returns *p as a message, and a nil interface for a nil pointer.
func pick[T any, P interface {
	*T
	message
}](p *P, fresh bool) message {
	if fresh {
		*p = new(T)
	}
	if *p == nil {
		return nil
	}
	return *p
}

// Known reports whether this program can carry out c: nil, or an error that
// wraps [ErrUnknownKind].
func (c *Command) Known() error {
	if c.Version != CommandVersion {
		return fmt.Errorf("metadata: %w: kind %d, version %d", ErrUnknownKind, c.Kind, c.Version)
	}
	if _, _, ok := c.payload(false); !ok {
		return fmt.Errorf("metadata: %w: kind %d", ErrUnknownKind, c.Kind)
	}
	return nil
}

// HasPayload reports whether the payload of c's kind is set.
func (c *Command) HasPayload() bool {
	_, m, _ := c.payload(false)
	return m != nil
}

// AppendTo appends the logged form of c to dst. Only the payload of its kind
// is encoded.
func (c *Command) AppendTo(dst []byte) []byte {
	dst = append(dst, RowVersion)
	dst = appendUint(dst, 1, uint64(c.Kind))
	dst = appendUint(dst, 2, uint64(c.Version))
	dst = appendUint(dst, 3, uint64(c.Group))
	dst = appendUint(dst, 4, c.RangeEpoch)
	dst = appendUint(dst, 5, c.Settings)
	dst = appendUint(dst, 6, c.Epoch)
	dst = appendFixed(dst, 7, c.Request[:])
	dst = appendUint(dst, 8, c.Stamp)
	if num, p, _ := c.payload(false); p != nil {
		var m int
		dst, m = begin(dst, num)
		dst = end(p.append(dst), m)
	}
	return dst
}

// Unmarshal sets c to what [Command.AppendTo] encoded. It keeps no reference
// to b. A kind, version or field that this program does not know is refused:
// carrying out the rest would make this copy differ from the others.
func (c *Command) Unmarshal(b []byte) error { return c.unmarshal(&source{b: b}) }

// UnmarshalKept is Unmarshal of bytes that never change: an inline body refers
// to them.
func (c *Command) UnmarshalKept(b []byte) error { return c.unmarshal(&source{b: b, kept: true}) }

func (c *Command) unmarshal(src *source) error {
	*c = Command{}
	begun := false // the payload, which was judged by the head
	return unmarshalFrom(src, "command", func(d *decoder) {
		if d.num < payloadFence {
			if begun {
				d.fail("head behind the payload")
				return
			}
			c.head(d)
			return
		}
		begun = true
		if err := c.Known(); err != nil {
			d.err = err
			return
		}
		num, p, _ := c.payload(true)
		if num != d.num {
			d.fail("payload of another kind")
			return
		}
		d.message(p.field)
	})
}

func (c *Command) head(d *decoder) {
	switch d.num {
	case 1:
		c.Kind = Kind(d.uint16())
	case 2:
		c.Version = d.uint16()
	case 3:
		c.Group = d.uint32()
	case 4:
		c.RangeEpoch = d.uint64()
	case 5:
		c.Settings = d.uint64()
	case 6:
		c.Epoch = d.uint64()
	case 7:
		d.fixed(c.Request[:])
	case 8:
		c.Stamp = d.uint64()
	default:
		d.closed()
	}
}

func (c *Clock) append(b []byte) []byte { return appendUint(b, 1, c.ElapsedMicros) }

func (c *Clock) field(d *decoder) {
	if d.num != 1 {
		d.closed()
		return
	}
	c.ElapsedMicros = d.uint64()
}

func (w *WriteConditions) append(b []byte) []byte {
	b = appendBool(b, 1, w.IfNoneMatch)
	return appendString(b, 2, w.IfMatch)
}

func (w *WriteConditions) field(d *decoder) {
	switch d.num {
	case 1:
		w.IfNoneMatch = d.bool()
	case 2:
		w.IfMatch = d.string()
	default:
		d.closed()
	}
}

func (w *WriteConditions) appendAs(b []byte, num protowire.Number) []byte {
	if *w == (WriteConditions{}) {
		return b
	}
	b, m := begin(b, num)
	return end(w.append(b), m)
}

// appendEach appends rows as messages of one field.
func appendEach[T any, P interface {
	*T
	append([]byte) []byte
}](b []byte, num protowire.Number, rows []T) []byte {
	for i := range rows {
		var m int
		b, m = begin(b, num)
		b = end(P(&rows[i]).append(b), m)
	}
	return b
}

func fieldChunks(d *decoder, chunks *[]Chunk) {
	if d.room(len(*chunks), MaxPartChunks) {
		*chunks = append(*chunks, Chunk{})
		d.message((*chunks)[len(*chunks)-1].field)
	}
}

func fieldShorts(d *decoder, rows *[]Short) {
	if d.room(len(*rows), MaxShortRows) {
		*rows = append(*rows, Short{})
		d.message((*rows)[len(*rows)-1].field)
	}
}

func appendParts(b []byte, num protowire.Number, parts []PartRef) []byte {
	for i := range parts {
		var m int
		b, m = begin(b, num)
		b = appendUint(b, 1, uint64(parts[i].Number))
		b = end(appendFixed(b, 2, parts[i].ID[:]), m)
	}
	return b
}

func fieldParts(d *decoder, parts *[]PartRef) {
	if !d.room(len(*parts), MaxPartNumber) {
		return
	}
	var p PartRef
	d.message(func(d *decoder) {
		switch d.num {
		case 1:
			p.Number = d.uint32()
		case 2:
			d.fixed(p.ID[:])
		default:
			d.closed()
		}
	})
	*parts = append(*parts, p)
}

// appendWritten appends what the commands have in common that write a version.
func appendWritten(b []byte, bucket *BucketID, key string, v *Version, chunks []Chunk, inline []byte) []byte {
	b = appendFixed(b, 1, bucket[:])
	b = appendString(b, 2, key)
	b, m := begin(b, 3)
	b = end(v.append(b), m)
	b = appendEach(b, 4, chunks)
	return appendBytes(b, 5, inline)
}

// fieldWritten decodes what appendWritten encodes; nothing else may come.
func fieldWritten(d *decoder, bucket *BucketID, key *string, v *Version, chunks *[]Chunk, inline *[]byte) {
	switch d.num {
	case 1:
		d.fixed(bucket[:])
	case 2:
		*key = d.string()
	case 3:
		d.message(v.field)
	case 4:
		fieldChunks(d, chunks)
	case 5:
		*inline = d.bytes()
	default:
		d.closed()
	}
}

func (c *CommitVersion) append(b []byte) []byte {
	b = appendWritten(b, &c.Bucket, c.Key, &c.Version, c.Chunks, c.Inline)
	b = appendEach(b, 6, c.Short)
	b = c.Conditions.appendAs(b, 7)
	return appendUint(b, 8, c.Take)
}

func (c *CommitVersion) field(d *decoder) {
	switch d.num {
	case 6:
		fieldShorts(d, &c.Short)
	case 7:
		d.message(c.Conditions.field)
	case 8:
		c.Take = d.uint64()
	default:
		fieldWritten(d, &c.Bucket, &c.Key, &c.Version, &c.Chunks, &c.Inline)
	}
}

func (c *DeleteVersions) append(b []byte) []byte {
	b = appendFixed(b, 1, c.Bucket[:])
	for i := range c.Keys {
		k := &c.Keys[i]
		var m int
		b, m = begin(b, 2)
		b = appendString(b, 1, k.Key)
		b = appendString(b, 2, k.VersionID)
		b = appendString(b, 3, k.Conditions.IfMatch)
		b = appendUint(b, 4, uint64(k.Conditions.ModifiedUnix))
		b = appendUint(b, 5, uint64(k.Conditions.Bytes))
		b = end(appendBool(b, 6, k.Conditions.HasBytes), m)
	}
	return b
}

func (c *DeleteVersions) field(d *decoder) {
	switch d.num {
	case 1:
		d.fixed(c.Bucket[:])
	case 2:
		if d.room(len(c.Keys), MaxDeleteKeys) {
			c.Keys = append(c.Keys, DeleteKey{})
			d.message(c.Keys[len(c.Keys)-1].field)
		}
	default:
		d.closed()
	}
}

func (k *DeleteKey) field(d *decoder) {
	switch d.num {
	case 1:
		k.Key = d.string()
	case 2:
		k.VersionID = d.string()
	case 3:
		k.Conditions.IfMatch = d.string()
	case 4:
		k.Conditions.ModifiedUnix = d.int64()
	case 5:
		k.Conditions.Bytes = d.int64()
	case 6:
		k.Conditions.HasBytes = d.bool()
	default:
		d.closed()
	}
}

func (c *CreateUpload) append(b []byte) []byte {
	b = appendFixed(b, 1, c.Bucket[:])
	b, m := begin(b, 2)
	return end(c.Upload.append(b), m)
}

func (c *CreateUpload) field(d *decoder) {
	switch d.num {
	case 1:
		d.fixed(c.Bucket[:])
	case 2:
		d.message(c.Upload.field)
	default:
		d.closed()
	}
}

func (c *CommitPart) append(b []byte) []byte {
	b = appendFixed(b, 1, c.Bucket[:])
	b = appendString(b, 2, c.Key)
	b = appendFixed(b, 3, c.Upload[:])
	b, m := begin(b, 4)
	b = end(c.Part.append(b), m)
	b = appendEach(b, 5, c.Chunks)
	b = appendBytes(b, 6, c.Inline)
	return appendEach(b, 7, c.Short)
}

func (c *CommitPart) field(d *decoder) {
	switch d.num {
	case 1:
		d.fixed(c.Bucket[:])
	case 2:
		c.Key = d.string()
	case 3:
		d.fixed(c.Upload[:])
	case 4:
		d.message(c.Part.field)
	case 5:
		fieldChunks(d, &c.Chunks)
	case 6:
		c.Inline = d.bytes()
	case 7:
		fieldShorts(d, &c.Short)
	default:
		d.closed()
	}
}

func (c *Complete) append(b []byte) []byte {
	b = appendFixed(b, 1, c.Bucket[:])
	b = appendString(b, 2, c.Key)
	b = appendFixed(b, 3, c.Upload[:])
	b, m := begin(b, 4)
	b = end(c.Version.append(b), m)
	b = appendParts(b, 5, c.Parts)
	b = appendFixed(b, 6, c.ListHash[:])
	return c.Conditions.appendAs(b, 7)
}

func (c *Complete) field(d *decoder) {
	switch d.num {
	case 1:
		d.fixed(c.Bucket[:])
	case 2:
		c.Key = d.string()
	case 3:
		d.fixed(c.Upload[:])
	case 4:
		d.message(c.Version.field)
	case 5:
		fieldParts(d, &c.Parts)
	case 6:
		d.fixed(c.ListHash[:])
	case 7:
		d.message(c.Conditions.field)
	default:
		d.closed()
	}
}

func (c *AbortUpload) append(b []byte) []byte {
	b = appendFixed(b, 1, c.Bucket[:])
	b = appendString(b, 2, c.Key)
	return appendFixed(b, 3, c.Upload[:])
}

func (c *AbortUpload) field(d *decoder) {
	switch d.num {
	case 1:
		d.fixed(c.Bucket[:])
	case 2:
		c.Key = d.string()
	case 3:
		d.fixed(c.Upload[:])
	default:
		d.closed()
	}
}

func (c *DropTrash) append(b []byte) []byte {
	for i := range c.Rows {
		r := &c.Rows[i]
		var m int
		b, m = begin(b, 1)
		b = appendUint(b, 1, r.Order)
		b = appendFixed(b, 2, r.Bucket[:])
		b = appendFixed(b, 3, r.List[:])
		b = appendParts(b, 4, r.Parts)
		b = end(appendBool(b, 5, r.Done), m)
	}
	return b
}

func (c *DropTrash) field(d *decoder) {
	if d.num != 1 {
		d.closed()
		return
	}
	if d.room(len(c.Rows), MaxTrashRows) {
		c.Rows = append(c.Rows, TrashRef{})
		d.message(c.Rows[len(c.Rows)-1].field)
	}
}

func (r *TrashRef) field(d *decoder) {
	switch d.num {
	case 1:
		r.Order = d.uint64()
	case 2:
		d.fixed(r.Bucket[:])
	case 3:
		d.fixed(r.List[:])
	case 4:
		fieldParts(d, &r.Parts)
	case 5:
		r.Done = d.bool()
	default:
		d.closed()
	}
}

func (c *PutShort) append(b []byte) []byte { return appendEach(b, 1, c.Rows) }

func (c *PutShort) field(d *decoder) {
	if d.num != 1 {
		d.closed()
		return
	}
	fieldShorts(d, &c.Rows)
}

// AppendTo appends the stored form of r to dst. Rejections are stored as their
// codes.
func (r *Result) AppendTo(dst []byte) []byte {
	dst = append(dst, RowVersion)
	dst = appendString(dst, 1, RejectionCode(r.Rejected))
	dst = appendUint(dst, 2, r.Order)
	dst = appendBool(dst, 3, r.Replaced)
	for _, k := range r.Deleted {
		var m int
		dst, m = begin(dst, 4)
		dst = appendString(dst, 1, RejectionCode(k.Rejected))
		dst = end(appendBool(dst, 2, k.Existed), m)
	}
	if r.Version != nil {
		var m int
		dst, m = begin(dst, 5)
		dst = end(r.Version.append(dst), m)
	}
	return dst
}

// Unmarshal sets r to what [Result.AppendTo] encoded. It keeps no reference
// to b.
func (r *Result) Unmarshal(b []byte) error {
	*r = Result{}
	return unmarshal(b, "result", r.field)
}

func (r *Result) field(d *decoder) {
	switch d.num {
	case 1:
		r.Rejected = d.rejection()
	case 2:
		r.Order = d.uint64()
	case 3:
		r.Replaced = d.bool()
	case 4:
		if d.room(len(r.Deleted), MaxDeleteKeys) {
			r.Deleted = append(r.Deleted, DeletedKey{})
			d.message(r.Deleted[len(r.Deleted)-1].field)
		}
	case 5:
		r.Version = new(Version)
		d.message(r.Version.field)
	default:
		d.closed()
	}
}

func (k *DeletedKey) field(d *decoder) {
	switch d.num {
	case 1:
		k.Rejected = d.rejection()
	case 2:
		k.Existed = d.bool()
	default:
		d.closed()
	}
}

func (d *decoder) rejection() error {
	rejected, err := RejectionFromCode(d.string())
	if err != nil && d.err == nil {
		d.err = err
	}
	return rejected
}
