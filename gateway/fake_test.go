package gateway_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/gateway/checksum"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
)

// fake is a small honest engine: maps under one lock, every body read to its
// end and checked before anything is visible. Buckets never have versions.
type fake struct {
	now func() time.Time

	mu      sync.Mutex
	buckets map[string]*fakeBucket
	uploads map[metadata.UploadID]*fakeUpload
	ids     uint64
	// fault, if set, is returned by every call with that name.
	fault map[string]error
	// broken makes bodies end early, as when shards are lost under way.
	broken bool
	// hold, if set, is waited for by Get, which says on waiting that it does.
	hold, waiting chan struct{}
	// closed, if set, is told of every body that is closed.
	closed chan struct{}
	// panics makes Get panic.
	panics bool
}

type fakeBucket struct {
	info    object.BucketInfo
	objects map[string]*fakeObject
}

type fakeObject struct {
	info  object.Info
	data  []byte
	parts []object.PartInfo
}

type fakeUpload struct {
	bucket string
	info   object.UploadInfo
	attrs  object.Attributes
	parts  map[int]*fakePart
	done   *object.PutResult
}

type fakePart struct {
	info object.PartInfo
	data []byte
}

func newFake(now func() time.Time) *fake {
	return &fake{now: now, buckets: map[string]*fakeBucket{}, uploads: map[metadata.UploadID]*fakeUpload{}, fault: map[string]error{}}
}

func (f *fake) bucket(call, name string) (*fakeBucket, error) {
	if err := f.fault[call]; err != nil {
		return nil, fmt.Errorf("fake: %w", err)
	}
	b := f.buckets[name]
	if b == nil {
		return nil, fmt.Errorf("fake: %w", metadata.ErrNoSuchBucket)
	}
	return b, nil
}

func (f *fake) CreateBucket(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.buckets[name] != nil {
		return metadata.ErrBucketExists
	}
	f.buckets[name] = &fakeBucket{info: object.BucketInfo{Name: name, Created: f.now()}, objects: map[string]*fakeObject{}}
	return nil
}

func (f *fake) DeleteBucket(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.bucket("DeleteBucket", name)
	if err != nil {
		return err
	}
	if len(b.objects) > 0 {
		return metadata.ErrBucketNotEmpty
	}
	delete(f.buckets, name)
	return nil
}

func (f *fake) Bucket(_ context.Context, name string) (object.BucketInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.bucket("Bucket", name)
	if err != nil {
		return object.BucketInfo{}, err
	}
	return b.info, nil
}

func (f *fake) Buckets(_ context.Context, req *object.BucketsRequest) (*object.BucketsPage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	page := &object.BucketsPage{}
	for _, name := range slices.Sorted(maps.Keys(f.buckets)) {
		if name <= req.After || !strings.HasPrefix(name, req.Prefix) {
			continue
		}
		if len(page.Buckets) == req.Limit {
			page.Truncated = true
			break
		}
		page.Buckets = append(page.Buckets, f.buckets[name].info)
	}
	return page, nil
}

// read takes a body whole and checks everything that came with it.
func read(b *object.Body) ([]byte, metadata.Checksum, error) {
	data, err := io.ReadAll(b.Reader)
	if err != nil {
		return nil, metadata.Checksum{}, err
	}
	switch {
	case int64(len(data)) < b.Bytes:
		return nil, metadata.Checksum{}, object.ErrIncompleteBody
	case int64(len(data)) > b.Bytes:
		return nil, metadata.Checksum{}, object.ErrBodyTooLong
	case b.MD5 != nil && md5.Sum(data) != *b.MD5:
		return nil, metadata.Checksum{}, object.ErrBadDigest
	}
	sum := b.Checksum
	if sum.Algorithm == metadata.ChecksumNone {
		sum.Algorithm = metadata.ChecksumCRC64NVME
	}
	h := checksum.New(sum.Algorithm)
	h.Write(data)
	want := b.Checksum.Value
	if b.Trailer != nil {
		if want, err = b.Trailer(); err != nil {
			return nil, metadata.Checksum{}, err
		}
	}
	sum.Value = string(h.Sum(nil))
	if want != "" && want != sum.Value {
		return nil, metadata.Checksum{}, object.ErrBadChecksum
	}
	return data, sum, nil
}

func hexMD5(data []byte) string {
	sum := md5.Sum(data)
	return hex.EncodeToString(sum[:])
}

func check(cond object.WriteConditions, old *fakeObject) error {
	switch {
	case cond.IfNoneMatch && old != nil:
		return metadata.ErrPreconditionFailed
	case cond.IfMatch == "":
		return nil
	case old == nil:
		return metadata.ErrNoSuchKey
	case cond.IfMatch != "*" && cond.IfMatch != old.info.ETag:
		return metadata.ErrPreconditionFailed
	}
	return nil
}

func (f *fake) store(b *fakeBucket, key string, o *fakeObject) *object.PutResult {
	o.info.Key, o.info.Bytes, o.info.LastModified = key, int64(len(o.data)), f.now()
	o.info.VersionID, o.info.Null = "null", true
	b.objects[key] = o
	return &object.PutResult{ETag: o.info.ETag, Checksum: o.info.Checksum, Bytes: o.info.Bytes, LastModified: o.info.LastModified, Null: true, VersionID: "null"}
}

func (f *fake) Put(_ context.Context, req *object.PutRequest) (*object.PutResult, error) {
	f.mu.Lock()
	_, err := f.bucket("Put", req.Bucket)
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	data, sum, err := read(&req.Body)
	if err != nil {
		return nil, fmt.Errorf("fake: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.bucket("Put", req.Bucket)
	if err != nil {
		return nil, err
	}
	if err := check(req.Conditions, b.objects[req.Key]); err != nil {
		return nil, err
	}
	o := &fakeObject{data: data, info: object.Info{ETag: hexMD5(data), Attributes: req.Attributes, Checksum: sum}}
	return f.store(b, req.Key, o), nil
}

func (f *fake) find(call, bucket, key, version string) (*fakeObject, error) {
	b, err := f.bucket(call, bucket)
	if err != nil {
		return nil, err
	}
	o := b.objects[key]
	switch {
	case version != "" && (version != "null" || o == nil):
		return nil, metadata.ErrNoSuchVersion
	case o == nil:
		return nil, metadata.ErrNoSuchKey
	}
	return o, nil
}

func readable(c *object.ReadConditions, i *object.Info) error {
	modified := i.LastModified.Truncate(time.Second)
	has := func(tags []string) bool { return slices.Contains(tags, "*") || slices.Contains(tags, i.ETag) }
	if len(c.IfMatch) > 0 {
		if !has(c.IfMatch) {
			return metadata.ErrPreconditionFailed
		}
	} else if !c.IfUnmodifiedSince.IsZero() && modified.After(c.IfUnmodifiedSince) {
		return metadata.ErrPreconditionFailed
	}
	if len(c.IfNoneMatch) > 0 {
		if has(c.IfNoneMatch) {
			return object.ErrNotModified
		}
	} else if !c.IfModifiedSince.IsZero() && !modified.After(c.IfModifiedSince) {
		return object.ErrNotModified
	}
	return nil
}

// cut returns the bytes that a range selects.
func cut(r object.Range, n int64) (off, length int64, partial bool, err error) {
	switch {
	case r.Kind == object.RangeWhole:
		return 0, n, false, nil
	case r.Kind == object.RangeSuffix && n == 0:
		return 0, 0, false, nil
	case r.Kind == object.RangeSuffix && r.Suffix == 0, r.Kind != object.RangeSuffix && r.First >= n:
		return 0, 0, false, object.ErrInvalidRange
	case r.Kind == object.RangeSuffix:
		length = min(n, r.Suffix)
		return n - length, length, true, nil
	case r.Kind == object.RangeFrom:
		return r.First, n - r.First, true, nil
	}
	return r.First, min(r.Last, n-1) - r.First + 1, true, nil
}

type fakeBody struct {
	*bytes.Reader
	closed chan struct{}
}

func (b fakeBody) Close() error {
	if b.closed != nil {
		b.closed <- struct{}{}
	}
	return nil
}

func (f *fake) Get(ctx context.Context, req *object.GetRequest) (*object.Object, error) {
	if f.panics {
		panic("fake: asked to")
	}
	if f.hold != nil {
		f.waiting <- struct{}{}
		select {
		case <-f.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	stored, err := f.find("Get", req.Bucket, req.Key, req.VersionID)
	if err != nil {
		return nil, err
	}
	o := object.Object{Info: stored.info}
	if err := readable(&req.Conditions, &o.Info); err != nil {
		return object.NewObject(o, nil), err
	}
	if req.PartNumber > 0 {
		o.Partial, o.PartsCount = true, max(1, len(stored.parts))
		if req.PartNumber > o.PartsCount {
			return object.NewObject(o, nil), object.ErrInvalidPartNumber
		}
		o.Length = o.Bytes
		for i, p := range stored.parts {
			if i+1 == req.PartNumber {
				o.Length = p.Bytes
				break
			}
			o.Offset += p.Bytes
		}
	} else if o.Offset, o.Length, o.Partial, err = cut(req.Range, o.Bytes); err != nil {
		return object.NewObject(o, nil), err
	}
	if req.HeadOnly {
		return object.NewObject(o, nil), nil
	}
	data := stored.data[o.Offset : o.Offset+o.Length]
	if f.broken {
		data = data[:len(data)/2]
	}
	return object.NewObject(o, fakeBody{bytes.NewReader(data), f.closed}), nil
}

func (f *fake) Attributes(_ context.Context, req *object.AttributesRequest) (*object.AttributesResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o, err := f.find("Attributes", req.Bucket, req.Key, req.VersionID)
	if err != nil {
		return nil, err
	}
	res := &object.AttributesResult{Info: o.info}
	for _, p := range o.parts {
		if p.Number <= req.PartsAfter {
			continue
		}
		if len(res.ObjectParts) == req.PartsLimit {
			res.Truncated = true
			break
		}
		res.ObjectParts = append(res.ObjectParts, p)
		res.NextPart = p.Number
	}
	return res, nil
}

func (f *fake) source(src *object.CopySource) (*fakeObject, error) {
	o, err := f.find("Copy", src.Bucket, src.Key, src.VersionID)
	if err != nil {
		return nil, err
	}
	return o, readable(&src.Conditions, &o.info)
}

func (f *fake) Copy(_ context.Context, req *object.CopyRequest) (*object.CopyResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	src, err := f.source(&req.Source)
	if err != nil {
		return nil, err
	}
	b, err := f.bucket("Copy", req.Bucket)
	if err != nil {
		return nil, err
	}
	if err := check(req.Conditions, b.objects[req.Key]); err != nil {
		return nil, err
	}
	if !req.ReplaceAttributes && b.objects[req.Key] == src {
		return nil, object.ErrCopyOntoItself
	}
	o := &fakeObject{data: src.data, info: src.info}
	o.info.ETag, o.info.Parts = hexMD5(src.data), 0
	if req.ReplaceAttributes {
		o.info.Attributes = req.Attributes
	}
	if req.Checksum != metadata.ChecksumNone {
		h := checksum.New(req.Checksum)
		h.Write(o.data)
		o.info.Checksum = metadata.Checksum{Algorithm: req.Checksum, Value: string(h.Sum(nil))}
	}
	return &object.CopyResult{PutResult: *f.store(b, req.Key, o)}, nil
}

func (f *fake) Delete(_ context.Context, bucket string, reqs []object.DeleteRequest) ([]object.DeleteResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.bucket("Delete", bucket)
	if err != nil {
		return nil, err
	}
	out := make([]object.DeleteResult, len(reqs))
	for i, r := range reqs {
		o := b.objects[r.Key]
		cond := r.Conditions
		out[i].VersionID = r.VersionID
		switch {
		case r.VersionID != "" && r.VersionID != "null":
			out[i].Err = metadata.ErrNoSuchVersion
		case o == nil && cond.IfMatch != "":
			out[i].Err = metadata.ErrNoSuchKey
		case o == nil:
		case cond.IfMatch != "" && cond.IfMatch != "*" && cond.IfMatch != o.info.ETag,
			cond.HasBytes && cond.Bytes != o.info.Bytes,
			cond.ModifiedUnix != 0 && cond.ModifiedUnix != o.info.LastModified.Unix():
			out[i].Err = metadata.ErrPreconditionFailed
		default:
			delete(b.objects, r.Key)
		}
	}
	return out, nil
}

// fold walks names in order as lists do: what shares a prefix up to a
// delimiter counts once. visit reports false to stop.
func fold(names []string, prefix, delimiter, after string, visit func(name string, common bool) bool) {
	last := ""
	for _, name := range names {
		if !strings.HasPrefix(name, prefix) || name <= after {
			continue
		}
		common := false
		if delimiter != "" {
			if i := strings.Index(name[len(prefix):], delimiter); i >= 0 {
				name, common = name[:len(prefix)+i+len(delimiter)], true
			}
		}
		if common && (name == last || name == after) {
			continue
		}
		if !visit(name, common) {
			return
		}
		if common {
			last = name
		}
	}
}

func (f *fake) List(_ context.Context, req *object.ListRequest) (*object.ListPage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.bucket("List", req.Bucket)
	if err != nil {
		return nil, err
	}
	page := &object.ListPage{}
	fold(slices.Sorted(maps.Keys(b.objects)), req.Prefix, req.Delimiter, req.After, func(name string, common bool) bool {
		if len(page.Entries)+len(page.Prefixes) == req.Limit {
			page.Truncated = true
			return false
		}
		page.Next = name
		if common {
			page.Prefixes = append(page.Prefixes, name)
		} else {
			page.Entries = append(page.Entries, entry(b.objects[name]))
		}
		return true
	})
	return page, nil
}

func entry(o *fakeObject) object.Entry {
	i := &o.info
	return object.Entry{Key: i.Key, Bytes: i.Bytes, ETag: i.ETag, LastModified: i.LastModified, StorageClass: i.StorageClass, Checksum: i.Checksum, VersionID: "null", Latest: true}
}

func (f *fake) Versions(ctx context.Context, req *object.VersionsRequest) (*object.VersionsPage, error) {
	list, err := f.List(ctx, &object.ListRequest{Bucket: req.Bucket, Prefix: req.Prefix, Delimiter: req.Delimiter, After: req.KeyMarker, Limit: req.Limit})
	if err != nil {
		return nil, err
	}
	return &object.VersionsPage{Entries: list.Entries, Prefixes: list.Prefixes, Truncated: list.Truncated, NextKey: list.Next, NextVersion: "null"}, nil
}

func (f *fake) CreateUpload(_ context.Context, req *object.UploadRequest) (object.UploadInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.bucket("CreateUpload", req.Bucket); err != nil {
		return object.UploadInfo{}, err
	}
	f.ids++
	info := object.UploadInfo{Key: req.Key, Initiated: f.now(), ChecksumAlgorithm: req.ChecksumAlgorithm, Composite: req.Composite}
	binary.BigEndian.PutUint64(info.ID[8:], f.ids)
	f.uploads[info.ID] = &fakeUpload{bucket: req.Bucket, info: info, attrs: req.Attributes, parts: map[int]*fakePart{}}
	return info, nil
}

func (f *fake) upload(bucket, key string, id metadata.UploadID) (*fakeUpload, error) {
	if _, err := f.bucket("Upload", bucket); err != nil {
		return nil, err
	}
	u := f.uploads[id]
	if u == nil || u.bucket != bucket || u.info.Key != key {
		return nil, metadata.ErrNoSuchUpload
	}
	return u, nil
}

func (f *fake) PutPart(_ context.Context, req *object.PartRequest) (*object.PutResult, error) {
	data, sum, err := read(&req.Body)
	if err != nil {
		return nil, err
	}
	return f.part(req.Bucket, req.Key, req.Upload, req.Number, data, sum)
}

func (f *fake) part(bucket, key string, id metadata.UploadID, number int, data []byte, sum metadata.Checksum) (*object.PutResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, err := f.upload(bucket, key, id)
	if err != nil {
		return nil, err
	}
	if a := u.info.ChecksumAlgorithm; a != metadata.ChecksumNone && a != sum.Algorithm {
		return nil, object.ErrChecksumType
	}
	p := &fakePart{data: data, info: object.PartInfo{Number: number, Bytes: int64(len(data)), ETag: hexMD5(data), LastModified: f.now(), Checksum: sum}}
	u.parts[number] = p
	return &object.PutResult{ETag: p.info.ETag, Checksum: sum, Bytes: p.info.Bytes, LastModified: f.now()}, nil
}

func (f *fake) CopyPart(_ context.Context, req *object.PartCopyRequest) (*object.CopyResult, error) {
	f.mu.Lock()
	src, err := f.source(&req.Source)
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if req.Range.Kind != object.RangeWhole && req.Range.Last >= src.info.Bytes {
		return nil, object.ErrInvalidRange
	}
	off, n, _, err := cut(req.Range, src.info.Bytes)
	if err != nil {
		return nil, err
	}
	data := src.data[off : off+n]
	h := checksum.New(metadata.ChecksumCRC64NVME)
	h.Write(data)
	res, err := f.part(req.Bucket, req.Key, req.Upload, req.Number, data, metadata.Checksum{Algorithm: metadata.ChecksumCRC64NVME, Value: string(h.Sum(nil))})
	if err != nil {
		return nil, err
	}
	return &object.CopyResult{PutResult: *res}, nil
}

func (f *fake) Complete(_ context.Context, req *object.CompleteRequest) (*object.PutResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, err := f.upload(req.Bucket, req.Key, req.Upload)
	if err != nil {
		return nil, err
	}
	if u.done != nil {
		return u.done, nil
	}
	b := f.buckets[req.Bucket]
	if err := check(req.Conditions, b.objects[req.Key]); err != nil {
		return nil, err
	}
	o := &fakeObject{info: object.Info{Attributes: u.attrs, Parts: len(req.Parts)}}
	var sums []byte
	var parts []checksum.Part
	for i, want := range req.Parts {
		p := u.parts[want.Number]
		switch {
		case p == nil || p.info.ETag != want.ETag:
			return nil, metadata.ErrInvalidPart
		case want.Checksum.Value != "" && want.Checksum.Value != p.info.Checksum.Value:
			return nil, metadata.ErrInvalidPart
		case i < len(req.Parts)-1 && len(p.data) < object.MinPartBytes:
			return nil, object.ErrEntityTooSmall
		}
		raw, err := hex.DecodeString(p.info.ETag)
		if err != nil {
			return nil, err
		}
		sums = append(sums, raw...)
		o.data = append(o.data, p.data...)
		o.parts = append(o.parts, p.info)
		parts = append(parts, checksum.Part{Value: p.info.Checksum.Value, Bytes: p.info.Bytes})
	}
	if req.Bytes >= 0 && req.Bytes != int64(len(o.data)) {
		return nil, object.ErrSizeMismatch
	}
	o.info.ETag = fmt.Sprintf("%s-%d", hexMD5(sums), len(req.Parts))
	if a := u.info.ChecksumAlgorithm; a != metadata.ChecksumNone {
		if o.info.Checksum, err = checksum.Whole(a, u.info.Composite, parts); err != nil {
			return nil, err
		}
	}
	if want := req.Checksum; want.Value != "" && want.Value != o.info.Checksum.Value {
		return nil, object.ErrBadChecksum
	}
	u.done = f.store(b, req.Key, o)
	return u.done, nil
}

func (f *fake) Abort(_ context.Context, bucket, key string, id metadata.UploadID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.upload(bucket, key, id); err != nil {
		return err
	}
	delete(f.uploads, id)
	return nil
}

func (f *fake) Uploads(_ context.Context, req *object.UploadsRequest) (*object.UploadsPage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.bucket("Uploads", req.Bucket); err != nil {
		return nil, err
	}
	var all []object.UploadInfo
	for _, u := range f.uploads {
		if u.bucket == req.Bucket && u.done == nil && strings.HasPrefix(u.info.Key, req.Prefix) && u.info.Key > req.KeyMarker {
			all = append(all, u.info)
		}
	}
	slices.SortFunc(all, func(a, b object.UploadInfo) int {
		return strings.Compare(a.Key+"\x00"+a.ID.String(), b.Key+"\x00"+b.ID.String())
	})
	page := &object.UploadsPage{Uploads: all}
	if len(all) > req.Limit {
		page.Uploads, page.Truncated = all[:req.Limit], true
		last := all[req.Limit-1]
		page.NextKey, page.NextUploadID = last.Key, last.ID.String()
	}
	return page, nil
}

func (f *fake) Parts(_ context.Context, req *object.PartsRequest) (*object.PartsPage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, err := f.upload(req.Bucket, req.Key, req.Upload)
	if err != nil {
		return nil, err
	}
	page := &object.PartsPage{Upload: u.info}
	for _, n := range slices.Sorted(maps.Keys(u.parts)) {
		if n <= req.After {
			continue
		}
		if len(page.Parts) == req.Limit {
			page.Truncated = true
			break
		}
		page.Parts = append(page.Parts, u.parts[n].info)
		page.Next = n
	}
	return page, nil
}

// faults are the errors that scripts may ask for.
var faults = map[string]error{
	"none":        nil,
	"busy":        object.ErrBusy,
	"full":        object.ErrFull,
	"unreadable":  object.ErrUnreadable,
	"unwritable":  object.ErrUnwritable,
	"overloaded":  metadata.ErrOverloaded,
	"conflict":    metadata.ErrConflict,
	"unavailable": metadata.ErrUnavailable,
	"too-large":   object.ErrEntityTooLarge,
	"other":       errors.New("disk on fire at node 7"),
}
