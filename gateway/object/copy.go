package object

import (
	"context"
	"errors"

	"github.com/ruche-storage/ruche/metadata"
)

// copyTries is how often a copy onto itself begins anew because the object
// was replaced meanwhile.
const copyTries = 4

// Copy copies an object: it is opened and sealed anew, under a new part id. A
// copy onto itself that only changes attributes takes the parts over.
func (e *Engine) Copy(ctx context.Context, req *CopyRequest) (*CopyResult, error) {
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
	itself := req.Source.Bucket == req.Bucket && req.Source.Key == req.Key
	for range copyTries {
		result, err := e.copyOnce(ctx, b, l, req, itself)
		if !errors.Is(err, metadata.ErrConflict) {
			return result, err
		}
	}
	return nil, metadata.ErrConflict
}

func (e *Engine) copyOnce(ctx context.Context, b *bucket, l *lease, req *CopyRequest, itself bool) (*CopyResult, error) {
	source, err := e.openSource(ctx, &req.Source, Range{})
	if err != nil {
		return nil, err
	}
	defer source.Close()
	if source.Bytes > MaxPutBytes {
		return nil, ErrEntityTooLarge
	}
	attributes := source.Attributes
	// The storage class of a copy is what the request says, not the source's.
	attributes.StorageClass = req.Attributes.StorageClass
	if req.ReplaceAttributes {
		attributes = req.Attributes
	}
	algorithm := req.Checksum
	if algorithm == metadata.ChecksumNone {
		algorithm = source.Checksum.Algorithm
	}
	if itself && algorithm == source.Checksum.Algorithm {
		class := attributes.StorageClass
		if class == "" {
			class = standardClass
		}
		if !req.ReplaceAttributes && class == source.StorageClass {
			return nil, ErrCopyOntoItself
		}
		return e.copyAttributes(ctx, b, l, req, source, &attributes)
	}
	put := &PutRequest{Bucket: req.Bucket, Key: req.Key, Attributes: attributes, Conditions: req.Conditions,
		Body: Body{Reader: source, Bytes: source.Bytes, Checksum: metadata.Checksum{Algorithm: algorithm}}}
	result, err := e.putBody(ctx, b, l, put)
	if err != nil {
		return nil, err
	}
	return copyResult(result, source), nil
}

// openSource opens the source of a copy. A condition that would be "not
// modified" for a GET fails here.
func (e *Engine) openSource(ctx context.Context, s *CopySource, r Range) (*Object, error) {
	o, err := e.Get(ctx, &GetRequest{Bucket: s.Bucket, Key: s.Key, VersionID: s.VersionID, Range: r, Conditions: s.Conditions})
	if errors.Is(err, ErrNotModified) {
		err = metadata.ErrPreconditionFailed
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}

func copyResult(r *PutResult, source *Object) *CopyResult {
	result := &CopyResult{PutResult: *r}
	if !source.Null {
		result.SourceVersionID = source.VersionID
	}
	return result
}

// copyAttributes makes a version with other attributes out of the parts of the
// one that is current.
func (e *Engine) copyAttributes(ctx context.Context, b *bucket, l *lease, req *CopyRequest, source *Object, a *Attributes) (*CopyResult, error) {
	body := source.body.(*objectBody)
	if body.bucket.row.ID != b.row.ID {
		return nil, metadata.ErrNoSuchBucket
	}
	v := *body.version
	take := v.Order
	setAttributes(&v, a)
	if err := errors.Join(e.random(v.Random[:]), e.random(v.Salt[:])); err != nil {
		return nil, err
	}
	result, err := e.commitIn(ctx, b, l, func(b *bucket) (*metadata.Command, error) {
		v.Settings = b.settings.Epoch
		b.bindVersion(req.Key, &v)
		return &metadata.Command{Kind: metadata.KindCommitVersion, CommitVersion: &metadata.CommitVersion{
			Bucket: b.row.ID, Key: req.Key, Version: v, Conditions: req.Conditions, Take: take}}, nil
	})
	if err != nil {
		return nil, err
	}
	v.Order = result.Order
	return copyResult(putResult(&v), source), nil
}

// CopyPart writes a part of an upload from an object or a range of it.
func (e *Engine) CopyPart(ctx context.Context, req *PartCopyRequest) (*CopyResult, error) {
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
	source, err := e.openSource(ctx, &req.Source, req.Range)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	if req.Range.Kind == RangeFromTo && req.Range.Last >= source.Bytes {
		return nil, ErrInvalidRange // unlike a GET, a copy is not cut off
	}
	if source.Length > MaxPutBytes {
		return nil, ErrEntityTooLarge
	}
	result, err := e.putPart(ctx, b, l, &PartRequest{Bucket: req.Bucket, Key: req.Key, Upload: req.Upload, Number: req.Number,
		Body: Body{Reader: source, Bytes: source.Length}})
	if err != nil {
		return nil, err
	}
	return copyResult(result, source), nil
}
