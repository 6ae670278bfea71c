package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

const (
	// smallRecord: shorter payloads are put together with others.
	smallRecord = 32 << 10
	// rewriteBytes is how much a pass holds at most before it writes.
	rewriteBytes = 8 << 20
	// freeBatch is how many records are freed together.
	freeBatch = 256
	// condemnedMax is how many records wait at most to be freed.
	condemnedMax = 4096
	// barrierTime is how long a pass waits for an outbox to be written.
	barrierTime  = 10 * time.Second
	barrierPause = 50 * time.Millisecond
)

// rewriter puts together anew what counts of a drive's manifests, and frees
// records.
type rewriter struct {
	s     *scan
	drive topology.DriveID
	seen  [groupCount]int // records
	// unopened are groups of which a record did not open.
	unopened [groupCount]bool
	open     map[metadata.BucketID]*rebuilt
	bytes    int // in the builders of open

	condemned [groupCount]condemned
	waiting   int
}

// condemned are the records of a group that are to be freed once the group's
// manifests up to an order are durable.
type condemned struct {
	refs  []metadata.ShardRef
	order uint64
}

// rebuilt is a record that is being put together.
type rebuilt struct {
	bucket  *bucket
	group   uint32
	builder manifest.Builder
	holds   map[piece]bool
	bytes   int                 // of entries in builder
	refs    []metadata.ShardRef // of records all of which is in builder, or was written
	order   uint64
	worth   bool // more is gained than one record less
}

// piece names an entry. Two of one name are equal.
type piece struct {
	kind  manifest.Kind
	key   string
	order uint64
	piece int
}

// decide keeps a record as it is, or takes over what counts in it.
func (w *rewriter) decide(ctx context.Context, b *bucket, rec *metadata.Record, payload []byte, entries []manifest.Entry, live []bool, order uint64) error {
	total, lives := 0, 0
	for i := range entries {
		total += entries[i].Bytes()
		if live[i] {
			lives += entries[i].Bytes()
		}
	}
	switch {
	case lives == 0:
		return w.condemn(ctx, rec.PG, rec.Ref(), order)
	case 100*lives >= w.s.percent*total && len(payload) >= smallRecord:
		w.s.kept += int64(len(payload))
		return nil
	}
	r := w.open[b.ID]
	if r == nil {
		r = &rebuilt{bucket: b, group: rec.PG, holds: make(map[piece]bool)}
		w.open[b.ID] = r
	}
	w.s.kept += int64(lives)
	for i := range entries {
		if !live[i] {
			continue
		}
		if err := w.add(ctx, r, &entries[i]); err != nil {
			return err
		}
	}
	r.refs, r.order = append(r.refs, rec.Ref()), max(r.order, order)
	r.worth = r.worth || 100*lives < w.s.percent*total
	if w.bytes < rewriteBytes {
		return nil
	}
	return w.writeAll(ctx)
}

// add takes over one entry.
func (w *rewriter) add(ctx context.Context, r *rebuilt, e *manifest.Entry) error {
	name := piece{kind: e.Kind, key: e.Key, order: e.Order, piece: e.Piece}
	if r.holds[name] {
		return nil
	}
	if !r.builder.Add(e) {
		if err := w.write(ctx, r); err != nil {
			return err
		}
		r.builder.Add(e)
		r.worth = true // the first half of the record was written
	}
	r.holds[name] = true
	r.bytes += e.Bytes()
	w.bytes += e.Bytes()
	w.s.k.rewritten.Add(1)
	return nil
}

func (w *rewriter) writeAll(ctx context.Context) error {
	for id, r := range w.open {
		if len(r.refs) > 1 || r.worth {
			if err := w.write(ctx, r); err != nil {
				return err
			}
		}
		delete(w.open, id)
	}
	w.bytes = 0
	return nil
}

// write writes what was put together and condemns what it came from.
func (w *rewriter) write(ctx context.Context, r *rebuilt) error {
	id, payload, err := r.builder.Seal(w.s.k.o.Rand, &r.bucket.Bucket)
	if err != nil {
		return err
	}
	r.builder.Reset()
	w.bytes -= r.bytes
	r.bytes = 0
	clear(r.holds)
	epoch, release, err := w.s.k.o.Epoch()
	if err != nil {
		return err
	}
	defer release()
	rec := metadata.Record{Type: metadata.RecordManifest, Shard: metadata.ShardID{Chunk: id}, PG: r.group,
		Generation: uint32(w.s.groups[r.group].row.Version), Bucket: r.bucket.ID, Account: r.bucket.row.Owner, Epoch: epoch}
	if err := w.s.k.put(ctx, w.drive, &rec, metadata.PayloadOf(payload)); err != nil {
		return err
	}
	for _, ref := range r.refs {
		if err := w.condemn(ctx, r.group, ref, r.order); err != nil {
			return err
		}
	}
	r.refs, r.worth = r.refs[:0], false
	return w.s.k.o.Limit(ctx, int64(len(payload)))
}

// condemn has a record freed as soon as what takes its place is durable.
func (w *rewriter) condemn(ctx context.Context, group uint32, ref metadata.ShardRef, order uint64) error {
	c := &w.condemned[group]
	c.refs, c.order = append(c.refs, ref), max(c.order, order)
	if w.waiting++; w.waiting < condemnedMax {
		return nil
	}
	return w.free(ctx)
}

// finish writes and frees what is left.
func (w *rewriter) finish(ctx context.Context) error {
	if err := w.writeAll(ctx); err != nil {
		return err
	}
	return w.free(ctx)
}

// errBehind means that an outbox was not written in time.
var errBehind = errors.New("keeper: newer manifests are not durable yet")

// free frees what was condemned. What has to wait for too long is left for the
// next pass.
func (w *rewriter) free(ctx context.Context) error {
	var errs []error
	for group := range w.condemned {
		c := &w.condemned[group]
		if len(c.refs) == 0 {
			continue
		}
		err := w.s.k.barrier(ctx, uint32(group), c.order)
		for refs := range slices.Chunk(c.refs, freeBatch) {
			if err != nil {
				break
			}
			if err = w.s.k.o.Drives.Free(ctx, w.drive, refs); err == nil {
				w.s.k.freed.Add(uint64(len(refs)))
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("group %d: %w", group, err))
		}
		*c = condemned{}
	}
	w.waiting = 0
	return errors.Join(errs...)
}

// barrier waits until everything up to an order has a durable manifest.
func (k *Keeper) barrier(ctx context.Context, group uint32, order uint64) error {
	for waited := time.Duration(0); ; waited += barrierPause {
		cursor, err := k.cursor(ctx, group)
		if err != nil || cursor >= order {
			return err
		}
		if waited >= k.pass.waits {
			return fmt.Errorf("%w: up to %d, need %d", errBehind, cursor, order)
		}
		k.Kick(group)
		if err := pause(ctx, barrierPause); err != nil {
			return err
		}
	}
}
