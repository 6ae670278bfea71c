package object

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// CollectState is what the collector is doing. Counts are since the start.
type CollectState struct {
	// Off says that nothing is freed: after a restore, until every drive's
	// list was reconciled and an operator confirmed.
	Off bool

	TrashRows  uint64 // dropped
	TrashParts uint64 // freed
	TrashBytes uint64 // freed, without parity
	TrashWaits int    // rows that wait for readers or their time, as last seen
	OldestWait time.Duration

	Confirmed   uint64 // pending shards that the metadata refer to
	Quarantined int    // shards known as garbage that wait
	Overflow    uint64 // shards that did not fit into the quarantine and begin later
	Orphans     uint64 // freed
	OrphanBytes uint64
	Governed    uint64 // frees put off by the governor

	LastErrors []string // the newest last
}

const (
	trashPage    = 256 // rows
	trashParts   = 64  // parts dropped together
	trashChunks  = 256 // chunk rows a read
	trashBatch   = 512 // shards freed together on a drive
	pendingPage  = 512
	maxTrashMark = 256

	// While drives are nearly full: how often trash is looked at, how often a
	// new epoch begins so that new readers do not keep it, and how long a
	// reader may.
	pressedPeriod = 5 * time.Second
	pressedEpoch  = 30 * time.Second
	pressedRead   = time.Hour
)

// collector frees what nobody refers to: the trash of committed commands, and
// shards on drives of which the metadata know nothing.
type collector struct {
	g        *background
	governor governor

	mu         sync.Mutex // guards what follows
	state      CollectState
	lastErrors []string

	marks      [metadata.DataGroups + 1][]trashMark // trash pass only
	freed      freedTrash                           // trash pass only
	pressed    bool                                 // trash pass only
	epochAt    time.Time                            // trash pass only: when pressure last began an epoch
	quarantine quarantine                           // pending pass only
}

func newCollector(g *background) *collector {
	return &collector{g: g, governor: governor{now: g.e.options.Now, stored: g.o.Stored},
		quarantine: quarantine{rows: make(map[quarantineKey]quarantined)}}
}

// CollectState returns what the collector is doing.
func (e *Engine) CollectState() CollectState {
	c := e.bg.collect
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	s.LastErrors = slices.Clone(c.lastErrors)
	return s
}

func (c *collector) count(f func(s *CollectState)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.state)
}

func (c *collector) failed(err error) {
	c.g.e.log.Warn("collection", "err", err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lastErrors) >= maxLastErrors {
		c.lastErrors = slices.Delete(c.lastErrors, 0, 1)
	}
	c.lastErrors = append(c.lastErrors, err.Error())
}

// allowed reports whether anything may be freed.
func (c *collector) allowed(ctx context.Context) (bool, error) {
	i, err := c.g.e.meta.Incarnation(ctx)
	if err != nil {
		return false, fmt.Errorf("object: incarnation: %w", err)
	}
	on := i.Frees()
	c.count(func(s *CollectState) { s.Off = !on })
	return on, nil
}

// trashMark says that all rows of a group's trash up to an order were there at
// a time.
type trashMark struct {
	order uint64
	seen  time.Time
	epoch uint64 // newest that had been given out after the rows were seen
}

// trash frees trash in each period, and sooner under pressure, until ctx is
// done.
func (c *collector) trash(ctx context.Context) {
	last := time.Time{}
	for {
		if now := c.g.e.options.Now(); last.IsZero() || now.Sub(last) >= c.g.o.TrashPeriod || c.g.o.Pressure() {
			last = now
			if err := c.trashPass(ctx); err != nil && ctx.Err() == nil {
				c.g.e.log.ErrorContext(ctx, "background task failed", "task", "collect trash", "err", err)
			}
		}
		if pause(ctx, min(pressedPeriod, c.g.o.TrashPeriod)) != nil {
			return
		}
	}
}

// trashPass frees the trash of all groups that nobody can be reading any more.
func (c *collector) trashPass(ctx context.Context) error {
	on, err := c.allowed(ctx)
	if err != nil || !on {
		return err
	}
	for group := range dataGroups {
		if err := c.mark(ctx, group); err != nil {
			return err
		}
	}
	if c.pressed = c.g.o.Pressure(); c.pressed {
		if err := c.press(ctx); err != nil {
			return err
		}
	}
	waits, oldest := 0, time.Duration(0)
	for group := range dataGroups {
		waiting, age, err := c.trashGroup(ctx, group)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			c.failed(fmt.Errorf("trash of group %d: %w", group, err))
		}
		waits += waiting
		oldest = max(oldest, age)
	}
	waits += c.dropFreed(ctx)
	c.count(func(s *CollectState) { s.TrashWaits, s.OldestWait = waits, oldest })
	return nil
}

// press sees to it that trash does not wait for readers for long: those that
// come from now on are of a new epoch, and those that take too long are cut
// off.
func (c *collector) press(ctx context.Context) error {
	newest := uint64(0)
	for _, marks := range c.marks {
		for _, m := range marks {
			newest = max(newest, m.epoch)
		}
	}
	leases := c.g.e.Leases()
	if newest == 0 || leases.OldestReader == 0 || leases.OldestReader > newest {
		return nil
	}
	now := c.g.e.options.Now()
	if n := c.g.e.epochs.cut(newest, now.Add(-pressedRead)); n > 0 {
		c.g.e.log.WarnContext(ctx, "reads cut off, since drives are nearly full", "readers", n, "after", pressedRead)
	}
	if newest < leases.Current || now.Sub(c.epochAt) < pressedEpoch {
		return nil
	}
	c.epochAt = now
	return c.g.e.nextEpoch(ctx)
}

// mark notes which rows have come since the last pass. Orders rise, so what is
// new lies behind what is known.
func (c *collector) mark(ctx context.Context, group uint32) error {
	marks := c.marks[group]
	last := uint64(0)
	if len(marks) > 0 {
		last = marks[len(marks)-1].order
	}
	newest := last
	for {
		rows, err := c.g.e.meta.Trash(ctx, group, newest, trashPage)
		if err != nil {
			return fmt.Errorf("object: trash of group %d: %w", group, err)
		}
		if len(rows) > 0 {
			newest = rows[len(rows)-1].Order
		}
		if len(rows) < trashPage {
			break
		}
	}
	if newest == last {
		return nil
	}
	fresh := trashMark{order: newest, seen: c.g.e.options.Now(), epoch: c.g.e.Leases().Current}
	if len(marks) >= maxTrashMark {
		marks[len(marks)-1] = fresh // the rows of the one before wait a little longer
	} else {
		marks = append(marks, fresh)
	}
	c.marks[group] = marks
	return nil
}

// ripe reports whether the rows of a mark may be freed.
func (c *collector) ripe(m trashMark) bool {
	grace := c.g.e.options.TrashGrace
	if c.pressed {
		grace = 0
	}
	if c.g.e.options.Now().Sub(m.seen) < grace {
		return false
	}
	oldest := c.g.e.Leases().OldestReader
	return oldest == 0 || oldest > m.epoch
}

// trashGroup frees the rows of a group, oldest first. It returns how many
// wait and for how long the oldest of them has been known.
func (c *collector) trashGroup(ctx context.Context, group uint32) (waiting int, age time.Duration, err error) {
	var errs []error
	for after := uint64(0); ; {
		rows, err := c.g.e.meta.Trash(ctx, group, after, trashPage)
		if err != nil {
			return waiting, age, err
		}
		for i := range rows {
			row := &rows[i]
			after = row.Order
			mark, ok := c.markOf(group, row.Order)
			if !ok || !c.ripe(mark) {
				if ok {
					age = c.g.e.options.Now().Sub(mark.seen)
				}
				return waiting + len(rows) - i, age, errors.Join(errs...)
			}
			if c.freed.full() {
				waiting += c.dropFreed(ctx)
			}
			if err := c.freeRow(ctx, group, row); err != nil {
				waiting++
				if errs = append(errs, err); len(errs) >= maxErrors || ctx.Err() != nil {
					return waiting, age, errors.Join(errs...)
				}
			}
		}
		if len(rows) < trashPage {
			return waiting, age, errors.Join(errs...)
		}
	}
}

// markOf returns the oldest mark that covers an order, and drops those that
// cover only rows before it.
func (c *collector) markOf(group uint32, order uint64) (trashMark, bool) {
	marks := c.marks[group]
	at := slices.IndexFunc(marks, func(m trashMark) bool { return m.order >= order })
	if at < 0 {
		return trashMark{}, false
	}
	c.marks[group] = marks[at:]
	return marks[at], true
}

// freeRow frees the shards of all parts of a trash row on all drives where they
// may be, and has the row dropped. Drives that are absent are not waited for:
// when they return their shards are pending, and nothing refers to them.
func (c *collector) freeRow(ctx context.Context, group uint32, row *metadata.Trash) error {
	for {
		parts, err := c.g.e.meta.TrashParts(ctx, group, row, trashParts)
		if err != nil {
			return err
		}
		done := len(parts) < trashParts
		if err := c.freeParts(ctx, group, row, parts, done); err != nil {
			return fmt.Errorf("trash row %d: %w", row.Order, err)
		}
		if done {
			return nil
		}
		// The next parts are listed once these are dropped.
		if c.dropFreed(ctx) > 0 {
			return fmt.Errorf("trash row %d: a part of it was not dropped", row.Order)
		}
	}
}

// freeParts frees some parts of a row. Until their rows are dropped nobody else
// may have their chunks in hand.
func (c *collector) freeParts(ctx context.Context, group uint32, row *metadata.Trash, parts []metadata.Part, done bool) error {
	var chunks []metadata.Chunk
	bytes := int64(0)
	refs := make([]metadata.PartRef, len(parts))
	for i := range parts {
		refs[i] = metadata.PartRef{Number: parts[i].Number, ID: parts[i].ID}
		bytes += parts[i].SealedBytes
		if parts[i].Body != metadata.BodyChunks {
			continue
		}
		for from := uint32(0); ; {
			page, err := c.g.e.meta.Chunks(ctx, metadata.BucketRef{Group: group, ID: row.Bucket}, parts[i].ID, from, trashChunks)
			if err != nil {
				return err
			}
			chunks = append(chunks, page...)
			if len(page) < trashChunks {
				break
			}
			from = page[len(page)-1].No + 1
		}
	}
	ids := make([]metadata.ChunkID, len(chunks))
	for i := range chunks {
		ids[i] = chunks[i].ID
	}
	if !c.g.chunks.try(ids...) {
		return errors.New("a chunk is being repaired")
	}
	on, err := c.freeChunks(ctx, chunks)
	if err != nil {
		c.g.chunks.release(ids...)
		return err
	}
	ref := metadata.TrashRef{Order: row.Order, Bucket: row.Bucket, List: row.List, Done: done}
	if row.Kind != metadata.TrashPart {
		ref.Parts = refs
	}
	c.freed.add(group, freedRow{ref: ref, chunks: ids, parts: len(parts), bytes: bytes}, on)
	return nil
}

// freeChunks frees all shards of chunks, by drive, and returns on which.
func (c *collector) freeChunks(ctx context.Context, chunks []metadata.Chunk) (on []topology.DriveID, err error) {
	byDrive := make(map[topology.DriveID][]metadata.ShardRef)
	for i := range chunks {
		chunk := &chunks[i]
		pg, err := c.g.e.pg(ctx, chunk.PG, chunk.Generation)
		if err != nil {
			return nil, err
		}
		for index := range chunk.Scheme.Total() {
			ref := metadata.ShardRef{PG: chunk.PG, Shard: metadata.ShardID{Chunk: chunk.ID, Index: uint8(index)}}
			for _, drive := range homes(nil, pg, index) {
				byDrive[drive] = append(byDrive[drive], ref)
			}
		}
	}
	for drive, refs := range byDrive {
		for page := range slices.Chunk(refs, trashBatch) {
			err := c.free(ctx, drive, page)
			if away(err) {
				break // pending on its return
			}
			if err != nil {
				return nil, err
			}
		}
		on = append(on, drive)
	}
	return on, nil
}

// away reports whether a drive is not there, so that all it holds is looked up
// when it returns.
func away(err error) bool {
	return errors.Is(err, metadata.ErrDriveAbsent) || errors.Is(err, metadata.ErrFenced)
}

// free deletes shards on one drive.
func (c *collector) free(ctx context.Context, drive topology.DriveID, refs []metadata.ShardRef) error {
	if !c.g.e.options.Drives.Condition(drive).Readable {
		return fmt.Errorf("free on drive %s: %w", drive, metadata.ErrDriveAbsent)
	}
	_, err := c.g.guard.do(ctx, drive, longCall, func(ctx context.Context) error {
		return c.g.e.shards.Free(ctx, drive, refs)
	})
	if err != nil {
		return fmt.Errorf("free on drive %s: %w", drive, err)
	}
	return nil
}
