package object

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// pendingPass looks up what drives hold as pending: what the metadata refer to
// becomes live, and what they never can is freed after a quarantine.
func (c *collector) pendingPass(ctx context.Context) error {
	drives, err := c.g.e.meta.Drives(ctx)
	if err != nil {
		return fmt.Errorf("object: drives: %w", err)
	}
	for i := range drives.Drives {
		d := &drives.Drives[i]
		if d.State == topology.DriveRetired || !c.g.e.options.Drives.Condition(d.ID).Readable {
			continue
		}
		if err := c.pendingDrive(ctx, d.ID); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			c.failed(fmt.Errorf("pending shards of drive %s: %w", d.ID, err))
		}
	}
	c.count(func(s *CollectState) { s.Quarantined, s.Overflow = len(c.quarantine.rows), c.quarantine.overflow })
	return nil
}

// pendingDrive looks up the pending shards of one drive.
func (c *collector) pendingDrive(ctx context.Context, drive topology.DriveID) error {
	c.quarantine.pass++
	for after := (metadata.ShardRef{}); ; {
		var page []metadata.StoredShard
		_, err := c.g.guard.do(ctx, drive, longCall, func(ctx context.Context) (err error) {
			page, err = c.g.e.shards.List(ctx, drive, after, true, pendingPage)
			return err
		})
		if err != nil {
			return err
		}
		if err := c.judge(ctx, drive, page); err != nil {
			return err
		}
		if len(page) < pendingPage {
			break
		}
		after = page[len(page)-1].Ref()
	}
	c.quarantine.sweep(drive)
	return nil
}

// judge decides on a page of pending shards.
func (c *collector) judge(ctx context.Context, drive topology.DriveID, page []metadata.StoredShard) error {
	if len(page) == 0 {
		return nil
	}
	// Members do not change while what follows from them is carried out.
	if err := c.g.placement.Acquire(ctx, 1); err != nil {
		return err
	}
	defer c.g.placement.Release(1)
	table, err := c.g.e.meta.PGs(ctx)
	if err != nil {
		return fmt.Errorf("object: placement groups: %w", err)
	}
	records := make([]*metadata.Record, len(page))
	for i := range page {
		records[i] = &page[i].Record
	}
	verdicts, err := c.g.lookup(ctx, records, true)
	if err != nil {
		return err
	}
	on, err := c.allowed(ctx)
	if err != nil {
		return err
	}
	var live, garbage []metadata.ShardRef
	var bytes int64
	for i := range verdicts {
		v := &verdicts[i]
		switch decide(v, drive, table) {
		case keepLive:
			live = append(live, v.record.Ref())
		case maybeGarbage:
			if on && c.quarantined(drive, v, page[i].Bytes) {
				garbage = append(garbage, v.record.Ref())
				bytes += page[i].Bytes
			}
		}
	}
	return errors.Join(c.confirm(ctx, drive, live), c.freeOrphans(ctx, drive, garbage, bytes))
}

func (c *collector) confirm(ctx context.Context, drive topology.DriveID, refs []metadata.ShardRef) error {
	if len(refs) == 0 {
		return nil
	}
	_, err := c.g.guard.do(ctx, drive, longCall, func(ctx context.Context) error {
		return c.g.e.shards.Confirm(ctx, drive, refs)
	})
	if err == nil {
		c.count(func(s *CollectState) { s.Confirmed += uint64(len(refs)) })
	}
	return err
}

func (c *collector) freeOrphans(ctx context.Context, drive topology.DriveID, refs []metadata.ShardRef, bytes int64) error {
	if len(refs) == 0 {
		return nil
	}
	if err := c.free(ctx, drive, refs); err != nil {
		return err
	}
	for _, ref := range refs {
		delete(c.quarantine.rows, quarantineKey{drive: drive, ref: ref})
	}
	c.g.e.log.InfoContext(ctx, "orphans freed", "drive", drive.String(), "shards", len(refs), "bytes", bytes)
	c.count(func(s *CollectState) {
		s.Orphans += uint64(len(refs))
		s.OrphanBytes += uint64(bytes)
	})
	return nil
}

// decision is what becomes of a pending shard.
type decision uint8

const (
	keepPending  decision = iota // nothing is known for certain
	keepLive                     // the metadata refer to it, here
	maybeGarbage                 // nothing refers to it and nothing ever will
)

// decide judges a pending shard by a snapshot of the metadata: it is live if a
// chunk row names its chunk and the drive is its member in the newest or any
// unclosed generation. It is garbage if not, provided that the snapshot is as
// new as the record's generation and as the table of groups, and that no
// command of the record's epoch can be applied any more.
func decide(v *verdict, drive topology.DriveID, table *metadata.PGTable) decision {
	r := v.record
	if int(r.PG) >= len(table.Groups) || len(v.fences) == 0 {
		return keepPending
	}
	pg := &table.Groups[r.PG]
	current := v.pgVersion == table.Version && len(pg.Generations) > 0 && pg.Newest().Number >= r.Generation
	if !current {
		return keepPending
	}
	if v.found.Referenced && v.found.Chunk.PG == r.PG && slices.Contains(homes(nil, pg, int(r.Shard.Index)), drive) {
		return keepLive
	}
	if !v.dead() {
		return keepPending
	}
	return maybeGarbage
}
