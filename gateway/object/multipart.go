package object

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ruche-storage/ruche/gateway/checksum"
	"github.com/ruche-storage/ruche/metadata"
)

func hexMD5(sum [16]byte) string { return hex.EncodeToString(sum[:]) }

// CreateUpload begins a multipart upload.
func (e *Engine) CreateUpload(ctx context.Context, req *UploadRequest) (_ UploadInfo, err error) {
	defer e.forgetMissing(req.Bucket, &err)
	b, err := e.bucket(ctx, req.Bucket)
	if err != nil {
		return UploadInfo{}, err
	}
	l, err := e.epochs.writer()
	if err != nil {
		return UploadInfo{}, err
	}
	defer l.release()
	u := metadata.Upload{Key: req.Key, Headers: req.Attributes.Headers, User: req.Attributes.User,
		Class: req.Attributes.StorageClass, Owner: b.row.Owner}
	if u.Class == standardClass {
		u.Class = ""
	}
	if u.Algorithm = req.ChecksumAlgorithm; u.Algorithm != metadata.ChecksumNone {
		u.Composite = req.Composite
	}
	if err := e.random(u.ID[:]); err != nil {
		return UploadInfo{}, err
	}
	result, err := e.commitIn(ctx, b, l, func(b *bucket) (*metadata.Command, error) {
		return &metadata.Command{Kind: metadata.KindCreateUpload,
			CreateUpload: &metadata.CreateUpload{Bucket: b.row.ID, Upload: u}}, nil
	})
	if err != nil {
		return UploadInfo{}, err
	}
	u.Order = result.Order
	return uploadInfo(&u), nil
}

// PutPart writes a part of an upload. If a number is written more than once,
// the part whose writing ends last counts.
func (e *Engine) PutPart(ctx context.Context, req *PartRequest) (_ *PutResult, err error) {
	defer e.forgetMissing(req.Bucket, &err)
	if req.Body.Bytes < 0 || req.Body.Bytes > MaxPutBytes {
		return nil, ErrEntityTooLarge
	}
	if req.Number < 1 || req.Number > MaxParts {
		return nil, ErrInvalidPartNumber
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
	return e.putPart(ctx, b, l, req)
}

func (e *Engine) putPart(ctx context.Context, b *bucket, l *lease, req *PartRequest) (*PutResult, error) {
	u, err := e.meta.Upload(ctx, b.ref(), req.Key, req.Upload)
	if err != nil {
		return nil, err
	}
	body := req.Body
	switch {
	case u.Algorithm == metadata.ChecksumNone:
	case body.Checksum.Algorithm == metadata.ChecksumNone:
		// The client leaves it to us.
		body.Checksum = metadata.Checksum{Algorithm: u.Algorithm}
		body.Trailer = nil
	case body.Checksum.Algorithm != u.Algorithm:
		return nil, fmt.Errorf("%w: part with %s", ErrChecksumType, checksum.Name(body.Checksum.Algorithm))
	}
	stored, err := e.storePart(ctx, b, l, &body, uint32(req.Number))
	if err != nil {
		return nil, err
	}
	defer stored.close()
	result, err := e.commitPart(ctx, b, l, stored, func(b *bucket) *metadata.Command {
		return &metadata.Command{Kind: metadata.KindCommitPart, CommitPart: &metadata.CommitPart{
			Bucket: b.row.ID, Key: req.Key, Upload: req.Upload, Part: stored.part,
			Chunks: stored.chunks, Inline: stored.inline, Short: stored.short}}
	})
	if err != nil {
		return nil, err
	}
	p := &stored.part
	return &PutResult{ETag: hexMD5(p.MD5), Checksum: p.Checksum, Bytes: p.Bytes,
		LastModified: time.UnixMicro(int64(result.Order)).UTC()}, nil
}

// Abort drops an upload and its parts.
func (e *Engine) Abort(ctx context.Context, bucketName, key string, upload metadata.UploadID) (err error) {
	defer e.forgetMissing(bucketName, &err)
	b, err := e.bucket(ctx, bucketName)
	if err != nil {
		return err
	}
	l, err := e.epochs.writer()
	if err != nil {
		return err
	}
	defer l.release()
	_, err = e.commitIn(ctx, b, l, func(b *bucket) (*metadata.Command, error) {
		return &metadata.Command{Kind: metadata.KindAbortUpload,
			Abort: &metadata.AbortUpload{Bucket: b.row.ID, Key: key, Upload: upload}}, nil
	})
	return err
}

// completeTries is how often a completion is built anew because a part was
// uploaded again meanwhile.
const completeTries = 4

// Complete makes an upload into a version. Repeated with the same list it
// answers the same.
func (e *Engine) Complete(ctx context.Context, req *CompleteRequest) (_ *PutResult, err error) {
	defer e.forgetMissing(req.Bucket, &err)
	b, err := e.bucket(ctx, req.Bucket)
	if err != nil {
		return nil, err
	}
	l, err := e.epochs.writer()
	if err != nil {
		return nil, err
	}
	defer l.release()
	for range completeTries {
		u, err := e.meta.Upload(ctx, b.ref(), req.Key, req.Upload)
		if errors.Is(err, metadata.ErrNoSuchUpload) {
			return e.completedBefore(ctx, b, req)
		}
		if err != nil {
			return nil, err
		}
		c, err := e.newCompletion(ctx, b, u, req)
		if err != nil {
			return nil, err
		}
		v, err := e.complete(ctx, b, l, req, c)
		switch {
		case err == nil:
			return putResult(v), nil
		case errors.Is(err, metadata.ErrNoSuchUpload):
			return e.completedBefore(ctx, b, req) // by another, just now
		case !errors.Is(err, metadata.ErrConflict):
			return nil, err
		}
	}
	return nil, metadata.ErrInvalidPart
}

// completedBefore answers a repeated completion.
func (e *Engine) completedBefore(ctx context.Context, b *bucket, req *CompleteRequest) (*PutResult, error) {
	v, hash, err := e.meta.Completed(ctx, b.ref(), req.Key, req.Upload)
	if err != nil {
		return nil, err
	}
	if hash != listHash(req.Parts) {
		return nil, metadata.ErrNoSuchUpload
	}
	return putResult(v), nil
}

// listHash identifies a client's list of parts: see FORMAT.md.
func listHash(parts []CompletePart) metadata.Sum {
	h := sha256.New()
	var le [8]byte
	for i := range parts {
		binary.LittleEndian.PutUint32(le[:4], uint32(parts[i].Number))
		binary.LittleEndian.PutUint32(le[4:], uint32(len(parts[i].ETag)))
		h.Write(le[:])
		h.Write([]byte(parts[i].ETag))
	}
	return metadata.Sum(h.Sum(nil))
}

// completion is the version that an upload will be, and its parts.
type completion struct {
	version metadata.Version
	parts   []metadata.Part // in order of number
	refs    []metadata.PartRef
}

// newCompletion checks a client's list against the stored parts.
func (e *Engine) newCompletion(ctx context.Context, b *bucket, u *metadata.Upload, req *CompleteRequest) (*completion, error) {
	if len(req.Parts) == 0 || len(req.Parts) > MaxParts {
		return nil, metadata.ErrInvalidPart
	}
	stored, err := e.storedParts(ctx, b, req)
	if err != nil {
		return nil, err
	}
	c := &completion{parts: stored, refs: make([]metadata.PartRef, len(stored))}
	v := &c.version
	*v = metadata.Version{Null: true, Headers: u.Headers, User: u.User, Class: u.Class, Owner: u.Owner}
	whole := make([]checksum.Part, len(stored))
	sums := md5.New()
	for i := range stored {
		p := &stored[i]
		if p.Bytes < MinPartBytes && i+1 < len(stored) {
			return nil, fmt.Errorf("part %d of %d bytes: %w", p.Number, p.Bytes, ErrEntityTooSmall)
		}
		v.Bytes += p.Bytes
		v.StoredBytes += p.SealedBytes
		sums.Write(p.MD5[:])
		c.refs[i] = metadata.PartRef{Number: p.Number, ID: p.ID}
		whole[i] = checksum.Part{Value: crcValue(p.CRC64), Bytes: p.Bytes}
	}
	switch {
	case v.Bytes > MaxObjectBytes:
		return nil, ErrEntityTooLarge
	case req.Bytes >= 0 && req.Bytes != v.Bytes:
		return nil, ErrSizeMismatch
	}
	v.ETag = fmt.Sprintf("%x-%d", sums.Sum(nil), len(stored))
	crc, err := checksum.Whole(metadata.ChecksumCRC64NVME, false, whole)
	if err != nil {
		return nil, err
	}
	v.CRC64 = binary.BigEndian.Uint64([]byte(crc.Value))
	if v.Checksum, err = wholeChecksum(u, stored, req, crc); err != nil {
		return nil, err
	}
	if want := req.Checksum; want.Value != "" && want.Value != v.Checksum.Value {
		return nil, fmt.Errorf("%w: of the whole object", ErrBadChecksum)
	}
	return c, nil
}

func crcValue(crc uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], crc)
	return string(b[:])
}

// storedParts reads the parts of an upload that the list names, and compares
// them with what it says of them.
func (e *Engine) storedParts(ctx context.Context, b *bucket, req *CompleteRequest) ([]metadata.Part, error) {
	parts := make([]metadata.Part, 0, len(req.Parts))
	after, next := uint32(0), 0
	for next < len(req.Parts) {
		page, err := e.meta.Parts(ctx, b.ref(), req.Upload, after, maxListLimit)
		if err != nil {
			return nil, err
		}
		for i := range page {
			p := &page[i]
			after = p.Number
			if next == len(req.Parts) || int(p.Number) != req.Parts[next].Number {
				continue
			}
			if err := fits(p, &req.Parts[next]); err != nil {
				return nil, err
			}
			parts = append(parts, *p)
			next++
		}
		if len(page) < maxListLimit {
			break
		}
	}
	if next < len(req.Parts) {
		return nil, fmt.Errorf("part %d: %w", req.Parts[next].Number, metadata.ErrInvalidPart)
	}
	return parts, nil
}

// fits compares a stored part with what a completion says of it.
func fits(p *metadata.Part, c *CompletePart) error {
	if !strings.EqualFold(c.ETag, hexMD5(p.MD5)) {
		return fmt.Errorf("part %d has another ETag: %w", p.Number, metadata.ErrInvalidPart)
	}
	if c.Checksum.Value == "" {
		return nil
	}
	same := c.Checksum.Algorithm == p.Checksum.Algorithm && c.Checksum.Value == p.Checksum.Value
	if c.Checksum.Algorithm == metadata.ChecksumCRC64NVME {
		same = c.Checksum.Value == crcValue(p.CRC64) // known of every part
	}
	if !same {
		return fmt.Errorf("part %d has another checksum: %w", p.Number, metadata.ErrInvalidPart)
	}
	return nil
}

// wholeChecksum computes the checksum of the object that clients see. It is of
// the upload's algorithm and type. An upload that named none takes them from
// the completion, or from its parts if they agree on one; else the object has
// our CRC64-NVME.
func wholeChecksum(u *metadata.Upload, parts []metadata.Part, req *CompleteRequest, crc metadata.Checksum) (metadata.Checksum, error) {
	algorithm, typ := u.Algorithm, ""
	if algorithm != metadata.ChecksumNone {
		typ = checksum.FullObject
		if u.Composite {
			typ = checksum.Composite
		}
		if req.Type != "" && !strings.EqualFold(req.Type, typ) ||
			req.Checksum.Algorithm != metadata.ChecksumNone && req.Checksum.Algorithm != algorithm {
			return metadata.Checksum{}, ErrChecksumType
		}
	} else {
		typ = req.Type
		algorithm = req.Checksum.Algorithm
		if algorithm == metadata.ChecksumNone {
			algorithm = commonAlgorithm(parts)
		}
	}
	if algorithm == metadata.ChecksumCRC64NVME {
		if typ != "" && !strings.EqualFold(typ, checksum.FullObject) {
			return metadata.Checksum{}, ErrChecksumType
		}
		return crc, nil
	}
	composite, err := checksum.MultipartType(algorithm, typ)
	if err != nil {
		return metadata.Checksum{}, fmt.Errorf("%w: %w", ErrChecksumType, err)
	}
	values := make([]checksum.Part, len(parts))
	for i := range parts {
		if parts[i].Checksum.Algorithm != algorithm {
			return metadata.Checksum{}, fmt.Errorf("%w: part %d has none of %s", ErrChecksumType, parts[i].Number, checksum.Name(algorithm))
		}
		values[i] = checksum.Part{Value: parts[i].Checksum.Value, Bytes: parts[i].Bytes}
	}
	return checksum.Whole(algorithm, composite, values)
}

// commonAlgorithm is the algorithm that all parts have, else CRC64NVME.
func commonAlgorithm(parts []metadata.Part) metadata.ChecksumAlgorithm {
	first := parts[0].Checksum.Algorithm
	other := slices.ContainsFunc(parts, func(p metadata.Part) bool { return p.Checksum.Algorithm != first })
	if other || first == metadata.ChecksumNone {
		return metadata.ChecksumCRC64NVME
	}
	return first
}

// complete commits a completion.
func (e *Engine) complete(ctx context.Context, b *bucket, l *lease, req *CompleteRequest, c *completion) (*metadata.Version, error) {
	v := &c.version
	if err := errors.Join(e.random(v.Random[:]), e.random(v.Salt[:])); err != nil {
		return nil, err
	}
	result, err := e.commitIn(ctx, b, l, func(b *bucket) (*metadata.Command, error) {
		v.Settings = b.settings.Epoch
		v.List = b.pageList(req.Upload, c.parts)
		b.bindVersion(req.Key, v)
		return &metadata.Command{Kind: metadata.KindComplete, Complete: &metadata.Complete{
			Bucket: b.row.ID, Key: req.Key, Upload: req.Upload, Version: *v, Parts: c.refs,
			ListHash: listHash(req.Parts), Conditions: req.Conditions}}, nil
	})
	if err != nil {
		return nil, err
	}
	if result.Version != nil {
		return result.Version, nil
	}
	v.Order = result.Order
	return v, nil
}

// pageList makes the page directory of a part list, with the MAC of each page.
func (b *bucket) pageList(id metadata.UploadID, parts []metadata.Part) *metadata.PartList {
	list := &metadata.PartList{ID: id, Parts: uint32(len(parts))}
	var off int64
	for page := range slices.Chunk(parts, metadata.PartsPerPage) {
		row := metadata.PartPage{FirstNumber: page[0].Number, Offset: off}
		if b.keys != nil {
			row.MAC = b.keys.MAC(pageMessage(b.row.ID, id, len(list.Pages), page))
		}
		for i := range page {
			off += page[i].Bytes
		}
		list.Pages = append(list.Pages, row)
	}
	return list
}
