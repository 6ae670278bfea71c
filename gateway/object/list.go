package object

import (
	"context"
	"time"

	"github.com/ruche-storage/ruche/metadata"
)

// List returns a page of the current versions of a bucket.
func (e *Engine) List(ctx context.Context, req *ListRequest) (*ListPage, error) {
	page := &ListPage{}
	err := e.read(ctx, req.Bucket, func(b *bucket) error {
		if req.Limit <= 0 {
			return nil // legal, and always empty
		}
		r, err := e.meta.List(ctx, &metadata.ListQuery{Bucket: b.ref(), Prefix: req.Prefix,
			Delimiter: req.Delimiter, After: req.After, Limit: min(req.Limit, maxListLimit)})
		if err != nil {
			return err
		}
		page.Entries, page.Prefixes = entries(r.Keys), r.Prefixes
		page.Truncated, page.Next = r.Truncated, r.Next
		return nil
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// maxListLimit is the most rows of a page that S3 has.
const maxListLimit = 1000

func entries(keys []metadata.KeyVersion) []Entry {
	list := make([]Entry, len(keys))
	for i := range keys {
		v := &keys[i].Version
		list[i] = Entry{
			Key: keys[i].Key, Bytes: v.Bytes, ETag: v.ETag, LastModified: v.Modified(), StorageClass: v.Class,
			Checksum: v.Checksum, VersionID: v.VersionID(), Latest: keys[i].Latest, Marker: v.Marker,
		}
		if list[i].StorageClass == "" {
			list[i].StorageClass = standardClass
		}
	}
	return list
}

// Versions returns a page of all versions of a bucket.
func (e *Engine) Versions(ctx context.Context, req *VersionsRequest) (*VersionsPage, error) {
	page := &VersionsPage{}
	err := e.read(ctx, req.Bucket, func(b *bucket) error {
		if req.Limit <= 0 {
			return nil
		}
		r, err := e.meta.Versions(ctx, &metadata.VersionsQuery{Bucket: b.ref(), Prefix: req.Prefix, Delimiter: req.Delimiter,
			KeyAfter: req.KeyMarker, VersionAfter: req.VersionAfter, Limit: min(req.Limit, maxListLimit)})
		if err != nil {
			return err
		}
		page.Entries, page.Prefixes, page.Truncated = entries(r.Keys), r.Prefixes, r.Truncated
		if r.Truncated {
			page.NextKey = r.Next
			if n := len(r.Keys); n > 0 && r.Keys[n-1].Key == r.Next {
				page.NextVersion = r.Keys[n-1].Version.VersionID()
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// Uploads returns a page of the uploads in progress.
func (e *Engine) Uploads(ctx context.Context, req *UploadsRequest) (*UploadsPage, error) {
	page := &UploadsPage{}
	err := e.read(ctx, req.Bucket, func(b *bucket) error {
		if req.Limit <= 0 {
			return nil
		}
		q := &metadata.UploadsQuery{Bucket: b.ref(), Prefix: req.Prefix, Delimiter: req.Delimiter,
			KeyAfter: req.KeyMarker, Limit: min(req.Limit, maxListLimit)}
		if id, ok := metadata.ParseUploadID(req.UploadIDMarker); ok && req.KeyMarker != "" {
			q.UploadAfter = &id
		}
		r, err := e.meta.Uploads(ctx, q)
		if err != nil {
			return err
		}
		page.Prefixes, page.Truncated = r.Prefixes, r.Truncated
		for i := range r.Uploads {
			page.Uploads = append(page.Uploads, uploadInfo(&r.Uploads[i]))
		}
		if r.Truncated {
			page.NextKey = r.NextKey
			if r.NextID != (metadata.UploadID{}) {
				page.NextUploadID = r.NextID.String()
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

func uploadInfo(u *metadata.Upload) UploadInfo {
	i := UploadInfo{ID: u.ID, Key: u.Key, Initiated: time.UnixMicro(int64(u.Order)).UTC(), StorageClass: u.Class,
		ChecksumAlgorithm: u.Algorithm, Composite: u.Composite}
	if i.StorageClass == "" {
		i.StorageClass = standardClass
	}
	return i
}

// Parts returns a page of the parts of an upload.
func (e *Engine) Parts(ctx context.Context, req *PartsRequest) (*PartsPage, error) {
	page := &PartsPage{}
	err := e.read(ctx, req.Bucket, func(b *bucket) error {
		u, err := e.meta.Upload(ctx, b.ref(), req.Key, req.Upload)
		if err != nil {
			return err
		}
		page.Upload = uploadInfo(u)
		if req.Limit <= 0 {
			return nil
		}
		limit := min(req.Limit, maxListLimit)
		parts, err := e.meta.Parts(ctx, b.ref(), req.Upload, uint32(max(0, req.After)), limit+1)
		if err != nil {
			return err
		}
		if page.Truncated = len(parts) > limit; page.Truncated {
			parts = parts[:limit]
		}
		for i := range parts {
			page.Parts = append(page.Parts, partInfo(&parts[i]))
			page.Next = int(parts[i].Number)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

func partInfo(p *metadata.Part) PartInfo {
	return PartInfo{Number: int(p.Number), Bytes: p.Bytes, ETag: hexMD5(p.MD5),
		LastModified: time.UnixMicro(int64(p.Modified)).UTC(), Checksum: p.Checksum}
}

// Attributes returns what is known of an object and a page of its parts.
func (e *Engine) Attributes(ctx context.Context, req *AttributesRequest) (*AttributesResult, error) {
	var result *AttributesResult
	err := e.read(ctx, req.Bucket, func(b *bucket) error {
		v, err := e.meta.Version(ctx, b.ref(), req.Key, req.VersionID)
		if err != nil {
			return err
		}
		if v.Marker {
			return metadata.ErrNoSuchKey
		}
		if err := e.checkVersion(b, req.Key, v); err != nil {
			return err
		}
		result = &AttributesResult{Info: info(req.Key, v)}
		if v.List == nil || req.PartsLimit <= 0 {
			return nil
		}
		return e.objectParts(ctx, b, v, req, result)
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}

// objectParts fills in the parts after req.PartsAfter.
func (e *Engine) objectParts(ctx context.Context, b *bucket, v *metadata.Version, req *AttributesRequest, result *AttributesResult) error {
	limit := min(req.PartsLimit, maxListLimit)
	for page := range v.List.Pages {
		if page+1 < len(v.List.Pages) && int(v.List.Pages[page+1].FirstNumber) <= req.PartsAfter {
			continue
		}
		parts, err := e.listPage(ctx, b, v, page)
		if err != nil {
			return err
		}
		for i := range parts {
			if int(parts[i].Number) <= req.PartsAfter {
				continue
			}
			if len(result.ObjectParts) == limit {
				result.Truncated = true
				return nil
			}
			result.ObjectParts = append(result.ObjectParts, partInfo(&parts[i]))
			result.NextPart = int(parts[i].Number)
		}
	}
	return nil
}
