package object

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"math/bits"

	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
)

func ones(mask uint32) int { return bits.OnesCount32(mask) }

// storedPart is a part whose bytes are durable and that waits for its commit.
type storedPart struct {
	part   metadata.Part
	chunks []metadata.Chunk
	inline []byte
	short  []metadata.Short
	writer *partWriter // nil for inline bodies
}

// Put writes an object. The version is visible when it returns without error,
// and not at all otherwise, except after metadata.ErrUnknownOutcome.
func (e *Engine) Put(ctx context.Context, req *PutRequest) (_ *PutResult, err error) {
	defer e.forgetMissing(req.Bucket, &err)
	if req.Body.Bytes < 0 || req.Body.Bytes > MaxPutBytes {
		return nil, ErrEntityTooLarge
	}
	b, err := e.bucket(ctx, req.Bucket)
	if err != nil {
		return nil, err
	}
	l, err := e.beginWrite()
	if err != nil {
		return nil, err
	}
	defer e.endWrite(l)
	if err := e.precheck(ctx, b, req.Key, req.Conditions); err != nil {
		return nil, err
	}
	return e.putBody(ctx, b, l, req)
}

func (e *Engine) beginWrite() (*lease, error) {
	l, err := e.epochs.writer()
	if err == nil {
		e.counters.writing.Add(1)
	}
	return l, err
}

func (e *Engine) endWrite(l *lease) {
	l.release()
	e.counters.writing.Add(-1)
}

// precheck saves the client from sending a body that the commit would refuse.
// The commit decides again.
func (e *Engine) precheck(ctx context.Context, b *bucket, key string, c WriteConditions) error {
	if !c.IfNoneMatch && c.IfMatch == "" {
		return nil
	}
	v, err := e.meta.Version(ctx, b.ref(), key, "")
	switch {
	case errors.Is(err, metadata.ErrNoSuchKey) && c.IfNoneMatch && c.IfMatch == "":
		return nil
	case err != nil:
		return err
	case c.IfNoneMatch:
		return metadata.ErrPreconditionFailed
	case c.IfMatch != "*" && c.IfMatch != v.ETag:
		return metadata.ErrPreconditionFailed
	}
	return nil
}

// putBody stores a body and commits it as a version.
func (e *Engine) putBody(ctx context.Context, b *bucket, l *lease, req *PutRequest) (*PutResult, error) {
	stored, err := e.storePart(ctx, b, l, &req.Body, 1)
	if err != nil {
		return nil, err
	}
	defer stored.close()
	p := &stored.part
	v := metadata.Version{
		Null: true, Bytes: p.Bytes, StoredBytes: p.SealedBytes, ETag: hex.EncodeToString(p.MD5[:]),
		Checksum: p.Checksum, CRC64: p.CRC64, Part: p, Owner: b.row.Owner,
	}
	setAttributes(&v, &req.Attributes)
	if err := errors.Join(e.random(v.Random[:]), e.random(v.Salt[:])); err != nil {
		stored.discard()
		return nil, err
	}
	result, err := e.commitPart(ctx, b, l, stored, func(b *bucket) *metadata.Command {
		v.Settings = b.settings.Epoch
		b.bindVersion(req.Key, &v)
		return &metadata.Command{Kind: metadata.KindCommitVersion, CommitVersion: &metadata.CommitVersion{
			Bucket: b.row.ID, Key: req.Key, Version: v,
			Chunks: stored.chunks, Inline: stored.inline, Short: stored.short, Conditions: req.Conditions}}
	})
	if err != nil {
		return nil, err
	}
	v.Order = result.Order
	return putResult(&v), nil
}

func setAttributes(v *metadata.Version, a *Attributes) {
	v.Headers, v.User, v.Class = a.Headers, a.User, a.StorageClass
	if v.Class == standardClass {
		v.Class = ""
	}
}

const standardClass = "STANDARD"

func putResult(v *metadata.Version) *PutResult {
	return &PutResult{ETag: v.ETag, Checksum: v.Checksum, Bytes: v.Bytes, LastModified: v.Modified(), Null: v.Null, VersionID: v.VersionID()}
}

// commitPart commits what was stored by the command that build makes, and then
// tells drives and the repair queue. A body for which the group has no more
// room is written as chunks instead. If the command was certainly not sent,
// what was written is discarded; otherwise only the collector may free it.
func (e *Engine) commitPart(ctx context.Context, b *bucket, l *lease, stored *storedPart, build func(b *bucket) *metadata.Command) (*metadata.Result, error) {
	commit := func() (*metadata.Result, error) {
		return e.commitIn(ctx, b, l, func(b *bucket) (*metadata.Command, error) { return build(b), nil })
	}
	result, err := commit()
	if stored.inline != nil && errors.Is(err, metadata.ErrInlineFull) {
		if err := e.moveOut(ctx, b, l, stored); err != nil {
			return nil, err
		}
		result, err = commit()
	}
	if err != nil {
		if errors.Is(err, errNotSent) {
			stored.discard()
		}
		return nil, err
	}
	e.counters.bytesIn.Add(uint64(stored.part.Bytes))
	if stored.writer != nil {
		for _, c := range stored.writer.done {
			e.confirms.add(confirmation{drives: c.drives, row: c.row, acked: c.acked})
		}
	}
	for _, s := range stored.short {
		e.counters.shortWrites.Add(1)
		e.queueRepair(Damage{Bucket: b.ref(), Part: s.Part, Chunk: stored.chunks[s.ChunkNo], Missing: s.Missing})
	}
	return result, nil
}

// storePart reads a body and makes its bytes durable, or keeps them for the
// commit if they are few. On error nothing is left.
func (e *Engine) storePart(ctx context.Context, b *bucket, l *lease, body *Body, number uint32) (*storedPart, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	id, err := e.newID()
	if err != nil {
		return nil, err
	}
	s := &storedPart{part: metadata.Part{ID: id, Number: number, Bytes: body.Bytes}}
	hashed := newHashedBody(&e.hashes, body)
	defer hashed.close()
	if err := e.storeBytes(ctx, b, l, s, hashed); err != nil {
		s.discard()
		s.close()
		return nil, err
	}
	d, err := hashed.finish()
	if err != nil {
		s.discard()
		s.close()
		return nil, err
	}
	s.part.MD5, s.part.CRC64, s.part.Checksum = d.md5, d.crc64, d.checksum
	return s, nil
}

// storeBytes seals the body and stores it as what it becomes: nothing, an
// inline body, or chunks.
func (e *Engine) storeBytes(ctx context.Context, b *bucket, l *lease, s *storedPart, body io.Reader) error {
	if s.part.Bytes == 0 {
		s.part.Body = metadata.BodyEmpty
		return nil
	}
	key, wrapped, err := e.newPartKey(b, s.part.ID)
	if err != nil {
		return err
	}
	if wrapped != "" {
		s.part.Sealed, s.part.Key, s.part.WrappedKey = true, b.row.Key, wrapped
	}
	format := seal.FormatOf(s.part.Sealed)
	o := seal.Options{Format: format, Key: key, Part: s.part.ID, Length: s.part.Bytes}
	length := format.SealedLength(s.part.Bytes)
	if length <= int64(e.options.InlineBytes) {
		source := seal.NewSource(o, body)
		defer source.Close()
		return e.storeInline(ctx, s, source, length)
	}
	if o.Compression = b.settings.Compression; o.Compression != metadata.CompressionOff {
		o.Codecs, length = e.codecs, -1
	}
	source := seal.NewSource(o, body)
	defer source.Close()
	s.writer = &partWriter{e: e, bucket: b, part: s.part.ID, lease: l, sealed: length}
	if err := s.writer.write(ctx, source); err != nil {
		return err
	}
	r := source.Result()
	s.part.Compression, s.part.IndexBytes = r.Compression, r.IndexBytes
	s.chunked(b, r.SealedBytes)
	return nil
}

// chunked takes over what the writer made.
func (s *storedPart) chunked(b *bucket, sealedBytes int64) {
	s.part.Body, s.part.SealedBytes = metadata.BodyChunks, sealedBytes
	for _, c := range s.writer.done {
		s.chunks = append(s.chunks, c.row)
		if short, ok := c.short(b, s.part.ID); ok {
			s.short = append(s.short, short)
		}
	}
}

// storeInline seals a small body into memory.
func (e *Engine) storeInline(ctx context.Context, s *storedPart, source *seal.Source, length int64) error {
	if err := e.writes.acquire(ctx, seal.SegmentBytes, e.options.BudgetWait); err != nil {
		return err
	}
	defer e.writes.release(seal.SegmentBytes)
	room := e.buffers.get(seal.SegmentBytes)
	defer e.buffers.put(room)
	s.inline = make([]byte, 0, length)
	for last := false; !last; {
		var n int
		var err error
		if n, last, err = source.Next(room.b); err != nil {
			return err
		}
		s.inline = append(s.inline, room.b[:n]...)
	}
	s.part.Body, s.part.SealedBytes = metadata.BodyInline, int64(len(s.inline))
	return nil
}

// moveOut writes an inline body as chunks.
func (e *Engine) moveOut(ctx context.Context, b *bucket, l *lease, s *storedPart) error {
	s.writer = &partWriter{e: e, bucket: b, part: s.part.ID, lease: l, sealed: s.part.SealedBytes}
	if err := s.writer.write(ctx, &sealedBytes{rest: s.inline}); err != nil {
		s.discard()
		return err
	}
	s.inline = nil
	s.chunked(b, s.part.SealedBytes)
	return nil
}

// sealedBytes yields the segments of a part that is in memory.
type sealedBytes struct{ rest []byte }

func (s *sealedBytes) Next(dst []byte) (n int, last bool, err error) {
	n = copy(dst[:seal.SegmentBytes], s.rest)
	s.rest = s.rest[n:]
	return n, len(s.rest) == 0, nil
}

func (s *storedPart) discard() {
	if s.writer != nil {
		s.writer.discard()
	}
}

func (s *storedPart) close() {
	if s.writer != nil {
		s.writer.close()
	}
}
