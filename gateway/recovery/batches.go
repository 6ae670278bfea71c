package recovery

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
)

// readManifests reads the manifests of all drives, a few at a time.
func (c *Collection) readManifests(ctx context.Context) error {
	c.progress.Phase = PhaseManifests
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	drives := make(chan *Drive, len(c.o.Drives))
	for i := range c.o.Drives {
		if d := &c.o.Drives[i]; c.retired(d.Row.ID) {
			// Nobody has kept the tombstones of what lies on it.
			c.o.Log.Warn("manifests of a retired drive are not read", "path", d.Path)
		} else {
			drives <- d
		}
	}
	close(drives)
	var group sync.WaitGroup
	for range min(readers, len(c.o.Drives)) {
		group.Go(func() {
			for d := range drives {
				err := c.each(ctx, d, metadata.RecordManifest, func(rec *metadata.Record, payload []byte) error {
					return c.readBatch(rec, payload)
				})
				if err != nil {
					cancel(err)
					return
				}
				c.tell(func(p *Progress) { p.Drives++ })
			}
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, id := range c.failed { // those that no copy of opened
		c.report.Unopened++
		c.buckets[id].unopened++
	}
	for _, u := range c.unknown {
		if len(c.report.Unknown) < maxUnknown {
			c.report.Unknown = append(c.report.Unknown, *u)
		}
	}
	return nil
}

// tell changes the progress and passes it on.
func (c *Collection) tell(change func(p *Progress)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.progress)
	c.o.Progress(c.progress)
}

// readBatch sorts the entries of a batch in. Its error ends the recovery.
func (c *Collection) readBatch(rec *metadata.Record, payload []byte) error {
	b, known := c.bucketOf(rec)
	if known || b == nil {
		return nil
	}
	id := rec.Shard.Chunk
	whose := &manifest.Bucket{Cluster: c.o.Cluster, ID: b.row.ID, Key: b.row.Key, Keys: b.keys}
	entries, err := manifest.Open(whose, id, payload)
	if errors.Is(err, manifest.ErrNewer) {
		return fmt.Errorf("%w: bucket %s: %w", ErrNewer, b.row.Name, err)
	}
	if err != nil {
		c.o.Log.Error("manifests do not open", "bucket", b.row.Name, "record", id.String(), "err", err)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failed[id] = b.row.ID
		return nil
	}
	for i := range entries {
		if err := c.sort(b, &entries[i]); err != nil {
			return err
		}
	}
	c.mu.Lock()
	delete(c.failed, id)
	_, again := c.opened[id] // another drive's copy was read meanwhile
	if len(c.opened) < maxOpened {
		c.opened[id] = struct{}{}
	}
	c.mu.Unlock()
	if again {
		return nil
	}
	c.tell(func(p *Progress) {
		p.Batches++
		p.Manifests += int64(len(entries))
	})
	return nil
}

// bucketOf returns the bucket of a batch, nil if it is none to restore. It
// reports true for records of which a copy was read.
func (c *Collection) bucketOf(rec *metadata.Record) (b *bucket, read bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b = c.buckets[rec.Bucket]
	if b != nil && b.deleted {
		return nil, false
	}
	if b != nil && b.err == nil {
		_, read = c.opened[rec.Shard.Chunk]
		return b, read
	}
	if _, read := c.opened[rec.Shard.Chunk]; read {
		return nil, true
	}
	if len(c.opened) < maxOpened {
		c.opened[rec.Shard.Chunk] = struct{}{}
	}
	u := c.unknown[rec.Bucket]
	if u == nil {
		u = &UnknownBucket{ID: rec.Bucket, Reason: "there is no record of the bucket"}
		if b != nil {
			u.Reason = b.err.Error()
		}
		c.unknown[rec.Bucket] = u
	}
	u.Batches++
	return nil, false
}

// sort takes one entry.
func (c *Collection) sort(b *bucket, e *manifest.Entry) error {
	group := b.row.Group
	if e.Kind == manifest.KindBucket {
		group = metadata.RootGroup
	}
	void := !c.o.Ended && c.root.Incarnation.Voided(group, e.Order)
	c.mu.Lock()
	c.newest = max(c.newest, e.Order)
	if void { // a restore has ended the history that it belongs to
		c.report.Ended++
		c.mu.Unlock()
		return nil
	}
	b.found = true
	if e.Key != "" && (b.oldest == 0 || e.Order < b.oldest) {
		b.oldest = e.Order
	}
	c.mu.Unlock()
	if e.Key == "" {
		return c.bucketRow(b, e)
	}
	if err := c.sorted.add(sortKey(b.row.ID, e), e.Marshal(nil)); err != nil {
		return fmt.Errorf("recovery: sort manifests: %w", err)
	}
	return nil
}

// bucketRow takes a row of the bucket itself.
func (c *Collection) bucketRow(b *bucket, e *manifest.Entry) error {
	m, err := manifest.Decode(e)
	if err != nil {
		c.o.Log.Error("row of a bucket does not open", "bucket", b.row.Name, "err", err)
		return nil // its creation and settings take their defaults
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case m.Kind == manifest.KindBucket && m.Order >= b.rowOrder[0] && m.Bucket.ID == b.row.ID:
		b.born, b.rowOrder[0] = m.Bucket, m.Order
	case m.Kind == manifest.KindSettings && m.Order >= b.rowOrder[1] && m.Settings.Bucket == b.row.ID:
		b.settings, b.rowOrder[1] = m.Settings, m.Order
	}
	return nil
}
