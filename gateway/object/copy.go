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
func (e *Engine) Copy(ctx context.Context, req *CopyRequest) (_ *CopyResult, err error) {
	defer e.forgetMissing(req.Bucket, &err)
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
	if itself {
		head, err := e.openSource(ctx, &GetRequest{HeadOnly: true}, &req.Source)
		if err != nil {
			return nil, err
		}
		if req.Checksum == metadata.ChecksumNone || req.Checksum == head.Checksum.Algorithm {
			return e.copyAttributes(ctx, b, l, req, head)
		}
	}
	source, err := e.openSource(ctx, &GetRequest{}, &req.Source)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	if source.Bytes > MaxPutBytes {
		return nil, ErrEntityTooLarge
	}
	algorithm := req.Checksum
	if algorithm == metadata.ChecksumNone {
		algorithm = source.Checksum.Algorithm
	}
	put := &PutRequest{Bucket: req.Bucket, Key: req.Key, Attributes: req.attributes(source), Conditions: req.Conditions,
		Body: Body{Reader: source, Bytes: source.Bytes, Checksum: metadata.Checksum{Algorithm: algorithm}}}
	result, err := e.putBody(ctx, b, l, put)
	if err != nil {
		return nil, err
	}
	return copyResult(result, source), nil
}

// attributes are those of the copy. The storage class is always the request's.
func (req *CopyRequest) attributes(source *Object) Attributes {
	a := req.Attributes
	if !req.ReplaceAttributes {
		a.Headers, a.User = source.Headers, source.User
	}
	return a
}

// openSource opens the source of a copy. A condition that would be "not
// modified" for a GET fails here.
func (e *Engine) openSource(ctx context.Context, get *GetRequest, s *CopySource) (*Object, error) {
	get.Bucket, get.Key, get.VersionID, get.Conditions = s.Bucket, s.Key, s.VersionID, s.Conditions
	o, err := e.Get(ctx, get)
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
func (e *Engine) copyAttributes(ctx context.Context, b *bucket, l *lease, req *CopyRequest, source *Object) (*CopyResult, error) {
	v := *source.version
	take := v.Order
	attributes := req.attributes(source)
	setAttributes(&v, &attributes)
	if !req.ReplaceAttributes && v.Class == source.version.Class {
		return nil, ErrCopyOntoItself
	}
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
func (e *Engine) CopyPart(ctx context.Context, req *PartCopyRequest) (_ *CopyResult, err error) {
	defer e.forgetMissing(req.Bucket, &err)
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
	source, err := e.openSource(ctx, &GetRequest{Range: req.Range}, &req.Source)
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
