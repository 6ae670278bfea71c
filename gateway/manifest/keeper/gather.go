package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
)

// change is what a page of an outbox says of one key, or of a bucket's
// settings if the key is empty.
type change struct {
	metadata.KeyRef
	order   uint64 // the highest
	deleted uint64 // the highest of a deletion, 0 for none
}

// gather sums up a page of an outbox by key, the keys of a bucket together.
func gather(entries []metadata.OutboxEntry) []change {
	at := make(map[metadata.KeyRef]int, len(entries))
	changes := make([]change, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		ref := metadata.KeyRef{Bucket: e.Bucket, Key: e.Key}
		switch e.Kind {
		case metadata.OutboxVersion, metadata.OutboxDeleted:
		case metadata.OutboxSettings, metadata.OutboxBucket:
			ref.Key = ""
		default:
			continue
		}
		n, known := at[ref]
		if !known {
			n = len(changes)
			at[ref] = n
			changes = append(changes, change{KeyRef: ref})
		}
		c := &changes[n]
		c.order = max(c.order, e.Order)
		if e.Kind == metadata.OutboxDeleted {
			c.deleted = max(c.deleted, e.Order)
		}
	}
	slices.SortStableFunc(changes, func(a, b change) int { return bytes.Compare(a.Bucket[:], b.Bucket[:]) })
	return changes
}

// encode adds the manifests of changes to a sink. It returns the keys of which
// it wrote a later version than asked for.
//
// What is written is what is current now, not what was current then: a version
// that was replaced since counts no more. But if nothing later than the page
// were written of a key that changes all the time, it would never have a
// manifest.
func (g *group) encode(ctx context.Context, s *sink, changes []change) (ahead map[metadata.KeyRef]uint64, err error) {
	ahead = make(map[metadata.KeyRef]uint64)
	var keys []metadata.KeyRef
	byKey := make(map[metadata.KeyRef]*change, len(changes))
	for i := range changes {
		c := &changes[i]
		if c.Key == "" {
			if err := g.settings(ctx, s, c); err != nil {
				return nil, err
			}
			continue
		}
		if written := g.ahead[c.KeyRef]; written >= c.order {
			ahead[c.KeyRef] = written
			continue
		}
		keys = append(keys, c.KeyRef)
		byKey[c.KeyRef] = c
	}
	err = g.open(ctx, keys, func(o *metadata.OpenedKey) error {
		c := byKey[o.KeyRef]
		if o.Found && o.Version.Order > c.order {
			ahead[c.KeyRef] = o.Version.Order
		}
		return g.changed(ctx, s, c, o)
	})
	return ahead, err
}

// open calls f for each key as it is now.
func (g *group) open(ctx context.Context, keys []metadata.KeyRef, f func(*metadata.OpenedKey) error) error {
	for len(keys) > 0 {
		opened, err := g.k.o.Metadata.OpenKeys(ctx, g.id, keys)
		if err != nil {
			return err
		}
		if len(opened) == 0 {
			return errors.New("keeper: no key opened")
		}
		for i := range opened {
			if err := f(&opened[i]); err != nil {
				return err
			}
		}
		keys = keys[len(opened):]
	}
	return nil
}

// changed adds the manifest of one key.
func (g *group) changed(ctx context.Context, s *sink, c *change, o *metadata.OpenedKey) error {
	if !o.Found && c.deleted == 0 {
		return nil // deleted since: that comes later in the outbox
	}
	b, err := g.k.bucket(ctx, c.Bucket)
	if errors.Is(err, metadata.ErrNoSuchBucket) {
		return nil // its deletion has a record of its own
	}
	if err != nil {
		return err
	}
	if o.Found {
		return g.version(ctx, s, b, o)
	}
	entries, err := manifest.Encode(&manifest.Manifest{Kind: manifest.KindTombstone, Key: c.Key, Order: c.deleted})
	if err != nil {
		return g.skip(ctx, c.KeyRef, err)
	}
	g.k.tombstones.Add(1)
	return s.add(ctx, b, entries)
}

// skip leaves a key out whose manifest cannot be made: the others must not
// wait for it.
func (g *group) skip(ctx context.Context, key metadata.KeyRef, err error) error {
	g.k.skipped.Add(1)
	g.k.failed(ctx, "no manifest of an object", err, "bucket", key.Bucket.String(), "group", g.id)
	return nil
}

// versionTries is how often a version is read that changes meanwhile.
const versionTries = 5

// version adds the manifest of a current version.
func (g *group) version(ctx context.Context, s *sink, b *bucket, o *metadata.OpenedKey) error {
	for try := 1; ; try++ {
		entries, err := g.manifestOf(ctx, b, o)
		if err == nil {
			g.k.versions.Add(1)
			return s.add(ctx, b, entries)
		}
		if !errors.Is(err, manifest.ErrMalformed) && !errors.Is(err, metadata.ErrInvalidPart) {
			return err
		}
		// Its rows may have been dropped while they were read.
		again, openErr := g.k.o.Metadata.OpenKeys(ctx, g.id, []metadata.KeyRef{o.KeyRef})
		if openErr != nil {
			return openErr
		}
		if !again[0].Found {
			return nil // its deletion is in the outbox
		}
		if try == versionTries || again[0].Version.Order == o.Version.Order {
			return g.skip(ctx, o.KeyRef, err)
		}
		o = &again[0]
	}
}

// manifestOf makes the manifest of a version, reading what Open did not return.
func (g *group) manifestOf(ctx context.Context, b *bucket, o *metadata.OpenedKey) ([]manifest.Entry, error) {
	m := &manifest.Manifest{Kind: manifest.KindVersion, Key: o.Key, Order: o.Version.Order, Version: &o.Version,
		Chunks: o.Chunks, Inline: o.Inline}
	var err error
	switch {
	case o.Version.List != nil:
		m.Parts, err = g.parts(ctx, b.ref(), o.Version.List)
	case o.Version.Part != nil && o.Version.Part.Body == metadata.BodyChunks:
		m.Chunks, err = g.chunks(ctx, b.ref(), o.Version.Part, o.Chunks)
	}
	if err != nil {
		return nil, err
	}
	return manifest.Encode(m)
}

// chunkPage is how many chunk rows are read at a time.
const chunkPage = 4096

// chunks returns all chunks of a part of which the first few are known.
func (g *group) chunks(ctx context.Context, ref metadata.BucketRef, p *metadata.Part, known []metadata.Chunk) ([]metadata.Chunk, error) {
	var sum int64
	for i := range known {
		sum += known[i].Bytes
	}
	if sum >= p.SealedBytes || len(known) == 0 {
		return known, nil
	}
	after := &metadata.ChunkRow{Bucket: ref.ID, Part: p.ID, Chunk: known[len(known)-1]}
	rows, err := g.k.o.Metadata.PartChunks(ctx, ref, []metadata.PartID{p.ID}, after, metadata.MaxPartChunks)
	for i := range rows {
		known = append(known, rows[i].Chunk)
	}
	return known, err
}

// parts returns all parts of a list with their chunks.
func (g *group) parts(ctx context.Context, ref metadata.BucketRef, list *metadata.PartList) ([]manifest.Part, error) {
	parts := make([]manifest.Part, 0, list.Parts)
	for page := range list.Pages {
		rows, err := g.k.o.Metadata.ListPage(ctx, ref, list.ID, page)
		if err != nil {
			return nil, err
		}
		first := len(parts)
		for i := range rows {
			parts = append(parts, manifest.Part{Row: rows[i]})
		}
		if err := g.bodies(ctx, ref, parts[first:]); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

// bodies reads where the bytes of the parts of a page are.
func (g *group) bodies(ctx context.Context, ref metadata.BucketRef, parts []manifest.Part) error {
	at := make(map[metadata.PartID]*manifest.Part, len(parts))
	var ids []metadata.PartID
	for i := range parts {
		p := &parts[i]
		switch p.Row.Body {
		case metadata.BodyChunks:
			at[p.Row.ID] = p
			ids = append(ids, p.Row.ID)
		case metadata.BodyInline:
			var err error
			if p.Inline, err = g.k.o.Metadata.Inline(ctx, ref, p.Row.ID); err != nil {
				return err
			}
		}
	}
	for after := (*metadata.ChunkRow)(nil); len(ids) > 0; {
		rows, err := g.k.o.Metadata.PartChunks(ctx, ref, ids, after, chunkPage)
		if err != nil {
			return err
		}
		for i := range rows {
			p := at[rows[i].Part]
			p.Chunks = append(p.Chunks, rows[i].Chunk)
		}
		if len(rows) < chunkPage {
			break
		}
		after = &rows[len(rows)-1]
	}
	return nil
}

// settings adds the manifest of a bucket's settings, as they are now.
func (g *group) settings(ctx context.Context, s *sink, c *change) error {
	b, err := g.k.bucket(ctx, c.Bucket)
	if errors.Is(err, metadata.ErrNoSuchBucket) {
		return nil
	}
	if err != nil {
		return err
	}
	row, err := g.k.o.Metadata.Settings(ctx, b.ref())
	if errors.Is(err, metadata.ErrNoSuchBucket) {
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := manifest.Encode(&manifest.Manifest{Kind: manifest.KindSettings, Order: c.order, Settings: row})
	if err != nil {
		return fmt.Errorf("keeper: settings of bucket %s: %w", c.Bucket, err)
	}
	return s.add(ctx, b, entries)
}
