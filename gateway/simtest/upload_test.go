package simtest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/gateway/object"
)

func (c *client) create(ctx context.Context) error {
	key := c.key()
	c.k.mu.Lock()
	crowded := len(c.k.uploads) > 6
	if !crowded {
		c.k.begun[key]++
	}
	c.k.mu.Unlock()
	if crowded {
		return nil
	}
	u, err := c.s.CreateUpload(ctx, &object.UploadRequest{Bucket: bucketName, Key: key})
	if err != nil {
		if c.lenient {
			return nil
		}
		return err
	}
	c.k.mu.Lock()
	c.k.begun[key]--
	c.k.uploads = append(c.k.uploads, &upload{key: key, id: u.ID})
	w := c.k.Begin(uploadName(key, u.ID), openUpload)
	w.Done(openUpload)
	c.k.mu.Unlock()
	c.k.told()
	return nil
}

func (c *client) part(ctx context.Context) error {
	u := c.k.take(c.rng)
	if u == nil {
		return nil
	}
	defer c.k.giveBack(u)
	number, size := 1+c.rng.IntN(2), c.size()
	if number == 1 && c.rng.IntN(40) == 0 {
		size = object.MinPartBytes // so that there may be a second one
	}
	v := c.k.value(size)
	w := c.k.Begin(partName(u.id, number), v)
	res, err := c.s.PutPart(ctx, &object.PartRequest{Bucket: bucketName, Key: u.key, Upload: u.id, Number: number, Body: body(v.Bytes)})
	if err == nil && res.ETag != v.ETag {
		return fmt.Errorf("part %d has ETag %s, not %s", number, res.ETag, v.ETag)
	}
	return c.end(w, v, err)
}

// complete makes an upload, whose parts nobody else writes now, into an object.
func (c *client) complete(ctx context.Context) error {
	u := c.k.take(c.rng)
	if u == nil {
		return nil
	}
	defer c.k.giveBack(u)
	req := &object.CompleteRequest{Bucket: bucketName, Key: u.key, Upload: u.id, Bytes: -1}
	var parts []*Value
	for number := 1; number <= 2; number++ {
		possible := c.k.Possible(partName(u.id, number), c.k.Now())
		if len(possible) != 1 {
			return nil // a part whose end is unknown
		}
		if v := possible[0]; v != nil {
			parts = append(parts, v)
			req.Parts = append(req.Parts, object.CompletePart{Number: number, ETag: v.ETag})
		}
	}
	if len(parts) == 0 || len(parts) == 2 && len(parts[0].Bytes) < object.MinPartBytes {
		return nil
	}
	v := Join(parts)
	name := uploadName(u.key, u.id)
	w, gone := c.k.Begin(u.key, v), c.k.Begin(name, nil)
	res, err := c.s.Complete(ctx, req)
	if err == nil && res.ETag != v.ETag {
		return fmt.Errorf("upload of %s has ETag %s, not %s", u.key, res.ETag, v.ETag)
	}
	if refused(err) && !slices.Contains(gone.PossibleBeside(), nil) {
		return fmt.Errorf("complete %s: %w, but it is open", u.key, err)
	}
	if err == nil || refused(err) {
		c.k.forget(u)
		defer c.settleParts(u)
	}
	return errors.Join(c.end(gone, nil, err), c.end(w, v, err))
}

// settleParts forgets the parts of an upload that is gone.
func (c *client) settleParts(u *upload) {
	for number := 1; number <= 2; number++ {
		w := c.k.Begin(partName(u.id, number), nil)
		w.Done(nil)
	}
}

func (c *client) abort(ctx context.Context) error {
	u := c.k.take(c.rng)
	if u == nil {
		return nil
	}
	defer c.k.giveBack(u)
	gone := c.k.Begin(uploadName(u.key, u.id), nil)
	err := c.s.Abort(ctx, bucketName, u.key, u.id)
	if refused(err) && !slices.Contains(gone.PossibleBeside(), nil) {
		return fmt.Errorf("abort %s: %w, but it is open", u.key, err)
	}
	if err == nil || refused(err) {
		c.k.forget(u)
		defer c.settleParts(u)
	}
	return c.end(gone, nil, err)
}
