package kill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sync/errgroup"
)

const (
	bucket        = "kill"
	region        = "fr-metro"
	writers       = 8
	keysOfWriter  = 12
	inlineBytes   = 16 << 10 // bodies up to that are kept in the metadata
	firstPart     = 5 << 20  // smallest part but the last
	callLimit     = 30 * time.Second
	readers       = 4
	maxListedKeys = 1000
)

func makeOptions() minio.MakeBucketOptions { return minio.MakeBucketOptions{Region: region} }

// client returns a client of the running server that tries everything once.
func (h *harness) client() *minio.Core {
	h.t.Helper()
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: writers + readers, ResponseHeaderTimeout: callLimit}
	h.t.Cleanup(transport.CloseIdleConnections)
	core, err := minio.NewCore(strings.TrimPrefix(h.server.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(h.options.AccessKey, h.options.SecretKey, ""), Region: region,
		Transport: transport, MaxRetries: 1, BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return core
}

// writer makes one call after the other, each for one of its own keys.
type writer struct {
	h    *harness
	id   int
	rand *rand.Rand
	last uint64 // id of a value
	open *upload

	calls, acked, refused int
}

// upload is a multipart upload whose completion was not asked for.
type upload struct {
	key, id string
	value   uint64
	data    []byte
	parts   []minio.CompletePart // acknowledged
}

// write calls until the server is killed. It returns an error if a call fails
// for another reason than the kill, or with an answer that the server should
// not give.
func (w *writer) write(ctx context.Context, c *minio.Core) error {
	for !w.h.dying.Load() {
		err := w.one(ctx, c)
		var reply minio.ErrorResponse
		switch {
		case err == nil || w.h.dying.Load():
		case errors.As(err, &reply) && reply.StatusCode >= 500:
			w.refused++ // what came of it is not known
		default:
			return fmt.Errorf("writer %d: %w", w.id, err)
		}
	}
	return nil
}

// one makes one call.
func (w *writer) one(ctx context.Context, c *minio.Core) error {
	key := w.key(w.rand.IntN(keysOfWriter))
	w.calls++
	switch n := w.rand.IntN(100); {
	case n < 20:
		return w.call(key, Value{}, func() error {
			return c.RemoveObject(ctx, bucket, key, minio.RemoveObjectOptions{})
		})
	case n < 28:
		return w.multipart(ctx, c, key)
	case n < 60:
		return w.put(ctx, c, key, w.rand.IntN(inlineBytes+1))
	case n < 85:
		return w.put(ctx, c, key, 128<<10+w.rand.IntN(3)-1)
	default:
		return w.put(ctx, c, key, 2<<20-w.rand.IntN(100))
	}
}

// call makes a call that makes v of key and tells the model.
func (w *writer) call(key string, v Value, f func() error) error {
	w.h.model.Begin(key, v)
	if err := f(); err != nil {
		return err
	}
	w.acked++
	w.h.model.Ack(key)
	return nil
}

// id returns the id of a new value, different for all writers.
func (w *writer) newID() uint64 {
	w.last++
	return w.last*writers + uint64(w.id) + 1
}

func (w *writer) put(ctx context.Context, c *minio.Core, key string, size int) error {
	v, data := NewValue(w.newID(), size)
	return w.call(key, v, func() error {
		_, err := c.PutObject(ctx, bucket, key, bytes.NewReader(data), int64(size), "", v.SHA256, minio.PutObjectOptions{})
		return err
	})
}

// multipart uploads two parts and completes them. What it has when it is
// interrupted before the completion stays in w.open.
func (w *writer) multipart(ctx context.Context, c *minio.Core, key string) error {
	u := &upload{key: key, value: w.newID()}
	_, u.data = NewValue(u.value, firstPart+w.rand.IntN(200<<10))
	var err error
	if u.id, err = c.NewMultipartUpload(ctx, bucket, key, minio.PutObjectOptions{}); err != nil {
		return err
	}
	w.open = u
	for i, data := range [][]byte{u.data[:firstPart], u.data[firstPart:]} {
		part, err := c.PutObjectPart(ctx, bucket, key, u.id, i+1, bytes.NewReader(data), int64(len(data)), minio.PutObjectPartOptions{})
		if err != nil {
			return err
		}
		u.parts = append(u.parts, minio.CompletePart{PartNumber: i + 1, ETag: part.ETag})
	}
	w.open = nil
	return w.complete(ctx, c, u)
}

// complete completes an upload with the parts that were acknowledged.
func (w *writer) complete(ctx context.Context, c *minio.Core, u *upload) error {
	data := u.data
	if len(u.parts) == 1 {
		data = data[:firstPart]
	}
	return w.call(u.key, Sum(u.value, data), func() error {
		_, err := c.CompleteMultipartUpload(ctx, bucket, u.key, u.id, u.parts, minio.PutObjectOptions{})
		return err
	})
}

// verify compares the server with the model: the keys that were written to
// since the last time, or all, by their bytes; all by HEAD and listing.
func (h *harness) verify(all bool) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*time.Minute)
	defer cancel()
	c := h.client()
	// Before an upload is completed nothing of it can be seen.
	h.read(ctx, c, all)
	h.resume(ctx, c)
	h.read(ctx, c, false)
	h.compareListing(ctx, c)
}

// read reads objects and compares their bytes.
func (h *harness) read(ctx context.Context, c *minio.Core, all bool) {
	keys := h.model.Touched()
	if all {
		keys = h.model.Keys()
	}
	var g errgroup.Group
	g.SetLimit(readers)
	for _, key := range keys {
		g.Go(func() error {
			seen, err := readObject(ctx, c, key)
			if err != nil {
				h.t.Errorf("GET %s: %v", key, err)
			} else if err := h.model.Observe(key, seen); err != nil {
				h.t.Error(err)
			}
			return nil
		})
	}
	_ = g.Wait() // the calls return nil and report for themselves
}

// readObject returns what is there, the zero Value if nothing is.
func readObject(ctx context.Context, c *minio.Core, key string) (Value, error) {
	body, info, _, err := c.GetObject(ctx, bucket, key, minio.GetObjectOptions{})
	var reply minio.ErrorResponse
	if errors.As(err, &reply) && reply.Code == minio.NoSuchKey {
		return Value{}, nil
	}
	if err != nil {
		return Value{}, err
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		return Value{}, fmt.Errorf("after %d of %d bytes: %w", len(data), info.Size, err)
	}
	if int64(len(data)) != info.Size {
		return Value{}, fmt.Errorf("%d bytes, announced are %d", len(data), info.Size)
	}
	v := Sum(0, data)
	return v, nil
}

// resume completes the uploads that the kill interrupted with the parts that
// were acknowledged, and aborts those that nothing is known of.
func (h *harness) resume(ctx context.Context, c *minio.Core) {
	for _, w := range h.writers {
		if u := w.open; u != nil && len(u.parts) > 0 {
			if err := w.complete(ctx, c, u); err != nil {
				h.t.Errorf("complete upload of %s with %d acknowledged parts: %v", u.key, len(u.parts), err)
			}
		}
		w.open = nil
	}
	list, err := c.ListMultipartUploads(ctx, bucket, "", "", "", "", maxListedKeys)
	if err != nil {
		h.t.Errorf("list uploads: %v", err)
		return
	}
	for _, u := range list.Uploads {
		if err := c.AbortMultipartUpload(ctx, bucket, u.Key, u.UploadID); err != nil {
			h.t.Errorf("abort upload of %s: %v", u.Key, err)
		}
	}
}

// compareListing compares the listing with a HEAD of every key.
func (h *harness) compareListing(ctx context.Context, c *minio.Core) {
	var listed, heads []Entry
	list, err := c.ListObjectsV2(bucket, "", "", "", "", maxListedKeys)
	if err != nil {
		h.t.Errorf("list: %v", err)
		return
	}
	for _, o := range list.Contents {
		listed = append(listed, Entry{Key: o.Key, Size: o.Size, ETag: o.ETag})
	}
	for _, key := range h.model.Keys() {
		info, err := c.StatObject(ctx, bucket, key, minio.StatObjectOptions{})
		var reply minio.ErrorResponse
		switch {
		case err == nil:
			heads = append(heads, Entry{Key: key, Size: info.Size, ETag: `"` + info.ETag + `"`})
		case !errors.As(err, &reply) || reply.StatusCode != http.StatusNotFound:
			h.t.Errorf("HEAD %s: %v", key, err)
		}
	}
	for i := range listed {
		listed[i].ETag = `"` + strings.Trim(listed[i].ETag, `"`) + `"`
	}
	if err := CompareListing(listed, heads); err != nil {
		h.t.Error(err)
	}
}
