package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata"
)

// usage sums what all buckets hold.
func (c *control) usage(ctx context.Context) (admin.Usage, error) {
	var sum admin.Usage
	err := c.eachBucket(ctx, func(_ *metadata.Bucket, u admin.Usage) error {
		sum.Buckets++
		sum.Objects += u.Objects
		sum.Versions += u.Versions
		sum.Uploads += u.Uploads
		sum.LogicalBytes += u.LogicalBytes
		sum.StoredBytes += u.StoredBytes
		sum.UploadBytes += u.UploadBytes
		return nil
	})
	return sum, err
}

func (c *control) eachBucket(ctx context.Context, yield func(*metadata.Bucket, admin.Usage) error) error {
	after := ""
	for {
		rows, err := c.p.meta.Buckets(ctx, "", after, pageLimit)
		if err != nil {
			return fmt.Errorf("buckets: %w", err)
		}
		for i := range rows {
			row := &rows[i]
			after = row.Name
			if row.State != metadata.BucketLive {
				continue
			}
			u, err := c.p.meta.Usage(ctx, metadata.BucketRef{Group: row.Group, ID: row.ID})
			if errors.Is(err, metadata.ErrNoSuchBucket) {
				continue // deleted meanwhile
			}
			if err != nil {
				return fmt.Errorf("usage of bucket %s: %w", row.Name, err)
			}
			if err := yield(row, admin.Usage{Buckets: 1, Objects: u.Objects, Versions: u.Versions, Uploads: u.Uploads,
				LogicalBytes: u.Bytes, StoredBytes: u.StoredBytes, UploadBytes: u.UploadBytes}); err != nil {
				return err
			}
		}
		if len(rows) < pageLimit {
			return nil
		}
	}
}

// compressions are the names of ways of compression.
var compressions = map[metadata.Compression]string{
	metadata.CompressionOff: "off", metadata.CompressionZstd: "zstd", metadata.CompressionS2: "s2",
}

// Buckets implements admin.Buckets.
func (c *control) Buckets(ctx context.Context) ([]admin.Bucket, error) {
	out := []admin.Bucket{}
	err := c.eachBucket(ctx, func(row *metadata.Bucket, u admin.Usage) error {
		settings, err := c.p.meta.Settings(ctx, metadata.BucketRef{Group: row.Group, ID: row.ID})
		if errors.Is(err, metadata.ErrNoSuchBucket) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("settings of bucket %s: %w", row.Name, err)
		}
		out = append(out, admin.Bucket{Name: row.Name, Created: time.UnixMicro(int64(row.Order)).UTC(), Compression: compressions[settings.Compression], Usage: u})
		return nil
	})
	return out, err
}

// SetBucket implements admin.Buckets.
func (c *control) SetBucket(ctx context.Context, name string, req *admin.SetBucketRequest) (*admin.Bucket, error) {
	if req.Compression != nil {
		way, ok := compressionNamed(*req.Compression)
		if !ok {
			return nil, &admin.Error{Status: http.StatusBadRequest, Code: admin.CodeBadRequest, Message: fmt.Sprintf("compression %q is none of zstd, s2 and off", *req.Compression)}
		}
		if err := c.p.eng.SetCompression(ctx, name, way); err != nil {
			return nil, bucketError(name, err)
		}
	}
	info, err := c.p.eng.Bucket(ctx, name)
	if err != nil {
		return nil, bucketError(name, err)
	}
	way, err := c.p.eng.Compression(ctx, name)
	if err != nil {
		return nil, bucketError(name, err)
	}
	u, err := c.p.eng.Usage(ctx, name)
	if err != nil {
		return nil, bucketError(name, err)
	}
	return &admin.Bucket{Name: name, Created: info.Created, Compression: compressions[way], Usage: admin.Usage{
		Buckets: 1, Objects: u.Objects, Versions: u.Versions, Uploads: u.Uploads,
		LogicalBytes: u.Bytes, StoredBytes: u.StoredBytes, UploadBytes: u.UploadBytes,
	}}, nil
}

func compressionNamed(name string) (metadata.Compression, bool) {
	for way, known := range compressions {
		if known == name {
			return way, true
		}
	}
	return 0, false
}

func bucketError(name string, err error) error {
	if errors.Is(err, metadata.ErrNoSuchBucket) {
		return &admin.Error{Status: http.StatusNotFound, Code: admin.CodeNotFound, Message: "there is no bucket " + name}
	}
	return err
}
