package object

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Inventory is how far the comparison of all chunks with what drives list is.
// Shards and Failed are since the start.
type Inventory struct {
	Running  bool
	Groups   int       // placement groups and groups of the metadata to go through
	Done     int       // of these, in the pass that runs or was the last
	Chunks   uint64    // compared in that pass
	Shards   uint64    // found missing and handed to repair
	Failed   uint64    // groups left out because a drive or the metadata failed
	Finished time.Time // when the last pass ended; zero before the first
}

const (
	inventoryDelay = time.Hour // after the start, and after a pass that failed
	inventoryPage  = 256       // chunk rows
	// inventoryQueue is how many chunks may wait for repair before the
	// inventory waits for them: what it finds is not dropped.
	inventoryQueue = maxDamage / 2
)

// inventory finds shards that nobody would miss: of which the row in a drive's
// index is gone. A scrub walks rows, a rebuild looks at new members, and reads
// ask the data shards. First it merges what the members of each placement group
// list and compares each chunk with the newest generation; then it goes through
// the rows of all chunks for those that no drive lists.
//
// It only reads the indexes, in their order. What seems to be missing is asked
// for once more, and then repaired like any other damage.
type inventory struct {
	g     *background
	limit *limiter
	seen  chunkFilter // the one pass at a time only

	mu    sync.Mutex // guards state
	state Inventory
}

func newInventory(g *background) *inventory {
	return &inventory{g: g, limit: &limiter{now: g.e.options.Now, rate: func(bool) int64 { return g.o.InventoryRate }}}
}

func (v *inventory) get() Inventory {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state
}

func (v *inventory) count(f func(s *Inventory)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(&v.state)
}

// run takes inventory in each period until ctx is done.
func (v *inventory) run(ctx context.Context) {
	delay := min(inventoryDelay, v.g.o.InventoryPeriod)
	if v.g.o.InventoryNow {
		delay = 0
	}
	for pause(ctx, delay) == nil {
		delay = v.g.o.InventoryPeriod
		if err := v.pass(ctx); err != nil && ctx.Err() == nil {
			v.g.e.log.WarnContext(ctx, "inventory is not complete", "err", err)
			delay = min(inventoryDelay, delay)
		}
	}
}

// pass compares everything once. A group that cannot be compared is left out.
func (v *inventory) pass(ctx context.Context) error {
	table, err := v.g.e.meta.PGs(ctx)
	if err != nil {
		return fmt.Errorf("object: placement groups: %w", err)
	}
	_, shards := v.g.o.Stored()
	v.seen.reset(shards)
	before := v.get()
	v.count(func(s *Inventory) {
		s.Running, s.Groups, s.Done, s.Chunks = true, len(table.Groups)+metadata.DataGroups, 0, 0
	})
	defer v.count(func(s *Inventory) { s.Running = false })
	var errs []error
	done := func(what string, id uint32, err error) {
		v.count(func(s *Inventory) {
			s.Done++
			if err != nil {
				s.Failed++
			}
		})
		if err != nil && len(errs) < maxErrors {
			errs = append(errs, fmt.Errorf("%s %d: %w", what, id, err))
		}
	}
	for id := range table.Groups {
		err := v.group(ctx, uint32(id))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		done("placement group", uint32(id), err)
	}
	for group := range dataGroups {
		err := v.unlisted(ctx, group)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		done("metadata group", group, err)
	}
	v.seen = chunkFilter{}
	v.count(func(s *Inventory) { s.Finished = v.g.e.options.Now() })
	if s := v.get(); s.Shards > before.Shards {
		v.g.e.log.WarnContext(ctx, "inventory found shards missing", "shards", s.Shards-before.Shards, "chunks", s.Chunks)
	}
	return errors.Join(errs...)
}

// group compares the chunks that drives of a placement group list. Members that
// cannot be read are left out, and those that a rebuild brings up to date.
func (v *inventory) group(ctx context.Context, id uint32) error {
	table, err := v.g.e.meta.PGs(ctx)
	if err != nil {
		return err
	}
	if int(id) >= len(table.Groups) || len(table.Groups[id].Generations) == 0 {
		return nil
	}
	pg := &table.Groups[id]
	var readable []topology.DriveID
	expected := uint32(0)
	for i, drive := range pg.Newest().Members {
		if v.g.e.options.Drives.Condition(drive).Readable {
			readable = append(readable, drive)
			expected |= 1 << i
		}
	}
	expected &^= moved(pg)
	batch := make([]listed, 0, rebuildBatch)
	flush := func() error {
		err := v.compare(ctx, pg, expected, batch)
		batch = batch[:0]
		return err
	}
	_, err = v.g.union(ctx, pg, readable, func(c listed) error {
		if batch = append(batch, c); len(batch) < cap(batch) {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

// compare looks some chunks up and reports those of which members lack shards.
func (v *inventory) compare(ctx context.Context, pg *metadata.PG, expected uint32, batch []listed) error {
	records := make([]*metadata.Record, len(batch))
	for i := range batch {
		records[i] = &batch[i].record
	}
	verdicts, err := v.g.lookup(ctx, records, false)
	if err != nil {
		return err
	}
	for i := range verdicts {
		found, r := &verdicts[i].found, verdicts[i].record
		if !found.Referenced || found.Chunk.PG != pg.ID {
			continue
		}
		v.seen.add(found.Chunk.ID)
		v.count(func(s *Inventory) { s.Chunks++ })
		ref := metadata.BucketRef{Group: verdicts[i].group, ID: r.Bucket}
		if err := v.report(ctx, ref, r.Part, &found.Chunk, pg, expected&^batch[i].home); err != nil {
			return err
		}
	}
	return v.limit.wait(ctx, int64(len(batch)), false)
}

// unlisted looks for chunks of a group of the metadata that no drive lists.
func (v *inventory) unlisted(ctx context.Context, group uint32) error {
	for after := (*metadata.ChunkRow)(nil); ; {
		rows, err := v.g.e.meta.ChunkRows(ctx, group, after, inventoryPage)
		if err != nil {
			return fmt.Errorf("object: chunks of group %d: %w", group, err)
		}
		for i := range rows {
			row := &rows[i]
			if v.seen.has(row.Chunk.ID) {
				continue
			}
			pg, err := v.g.e.pg(ctx, row.Chunk.PG, row.Chunk.Generation)
			if err != nil {
				return err
			}
			all := uint32(1)<<len(pg.Newest().Members) - 1
			if err := v.report(ctx, metadata.BucketRef{Group: group, ID: row.Bucket}, row.Part, &row.Chunk, pg, all&^moved(pg)); err != nil {
				return err
			}
		}
		if err := v.limit.wait(ctx, int64(len(rows)), false); err != nil || len(rows) < inventoryPage {
			return err
		}
		after = &rows[len(rows)-1]
	}
}

// report asks members for shards of a chunk that they did not list, which may
// have been written meanwhile, and queues what is missing for repair.
func (v *inventory) report(ctx context.Context, bucket metadata.BucketRef, part metadata.PartID, chunk *metadata.Chunk, pg *metadata.PG, lacking uint32) error {
	missing := uint32(0)
	for i, drive := range pg.Newest().Members {
		if lacking&(1<<i) == 0 {
			continue
		}
		err := v.g.repair.check(ctx, chunk, drive, i, false)
		if errors.Is(err, metadata.ErrShardNotFound) || errors.Is(err, metadata.ErrCorrupt) {
			missing |= 1 << i
		}
	}
	if missing == 0 || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for v.g.repair.backlog() >= inventoryQueue {
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	v.count(func(s *Inventory) { s.Shards += uint64(ones(missing)) })
	v.g.e.queueRepair(Damage{Bucket: bucket, Part: part, Chunk: *chunk, Missing: missing})
	return nil
}

// backlog is how many chunks wait for repair and could be tried now.
func (r *repairer) backlog() int {
	_, waiting, delayed, _, _ := r.queue.depths()
	reported, _ := r.g.e.damage.state()
	return reported + waiting - delayed
}

// chunkFilter remembers chunk ids in bounded memory: it knows every one that
// was added, and one in hundred others, or more if there are more than 13
// million. Chunk ids are random, and which of them it takes for known changes
// from pass to pass, so that none hides for long.
type chunkFilter struct {
	bits []uint64 // a power of two
	salt uint64
}

const (
	filterMin    = 1 << 14 // words: 128 KiB
	filterMax    = 1 << 21 // words: 16 MiB
	filterHashes = 4
)

// reset empties the filter and makes room for so many chunks, if it may.
func (f *chunkFilter) reset(chunks int64) {
	words := filterMin
	for words < filterMax && int64(words)*64 < 10*chunks {
		words *= 2
	}
	f.bits, f.salt = make([]uint64, words), f.salt+1
}

// places yields the bits of an id.
func (f *chunkFilter) places(id metadata.ChunkID) (at [filterHashes]uint64) {
	a := binary.LittleEndian.Uint64(id[:8]) + f.salt*0x9e3779b97f4a7c15
	hi, lo := bits.Mul64(a, 0xff51afd7ed558ccd)
	a = hi ^ lo
	b := binary.LittleEndian.Uint64(id[8:]) | 1
	for i := range at {
		at[i] = (a + uint64(i)*b) % (uint64(len(f.bits)) * 64)
	}
	return at
}

func (f *chunkFilter) add(id metadata.ChunkID) {
	for _, at := range f.places(id) {
		f.bits[at/64] |= 1 << (at % 64)
	}
}

func (f *chunkFilter) has(id metadata.ChunkID) bool {
	for _, at := range f.places(id) {
		if f.bits[at/64]&(1<<(at%64)) == 0 {
			return false
		}
	}
	return true
}
