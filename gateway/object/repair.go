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

// BadShard is a shard that a drive found damaged or gone while it scrubbed.
type BadShard struct {
	Drive  topology.DriveID
	Record metadata.Record
	Err    error // wraps metadata.ErrCorrupt or metadata.ErrShardNotFound, or is unknown
}

// ReportBadShard queues the chunk of a shard that a scrub found bad. It does
// not block. Before anything is written the shard is looked up in the metadata
// and verified once more.
func (e *Engine) ReportBadShard(b BadShard) {
	r := &b.Record
	if r.Type != metadata.RecordShard || int(r.Shard.Index) >= r.Scheme.Total() || r.Scheme.Total() > 32 {
		return
	}
	e.bg.repair.queue.add(repairItem{
		key: repairKey{part: r.Part, no: r.ChunkNo}, bucket: r.Bucket,
		missing: 1 << r.Shard.Index, margin: int(r.Scheme.Parity) - 1,
	})
}

// RepairState is what the repair of single chunks is doing. Counts are since
// the start.
type RepairState struct {
	Queued         int         // chunks that wait
	Delayed        int         // of these, not before some time has passed
	Running        int         // chunks being repaired
	ByMargin       map[int]int // chunks that wait, by the shards that may still be lost; below 0: unreadable
	Dropped        uint64      // reports that did not fit the queue
	Checked        uint64      // chunks looked at
	Chunks         uint64      // chunks of which shards were made anew
	Shards         uint64      // shards made anew
	Bytes          uint64      // read and written for repair and rebuild
	BytesPerSecond int64       // of late
	ETA            time.Duration
	Inventory      Inventory
	Unrepairable   []Unrepairable // at most 1,000
	More           bool           // there are more of these
	LastErrors     []string       // the newest last
}

// Unrepairable is a chunk of which fewer than k intact shards can be read.
// Nothing of it is deleted, and it is looked at again from time to time.
type Unrepairable struct {
	Bucket  metadata.BucketID
	Name    string // of the bucket
	Key     string // of the object
	Part    metadata.PartID
	ChunkNo uint32
	Chunk   metadata.ChunkID
	Lost    uint32 // bit i: shard i is missing or corrupt
	Away    uint32 // bit i: the drive of shard i cannot be read
	Since   time.Time
	Reason  string
}

const (
	maxUnrepairable = 1000
	maxLastErrors   = 16
	shortPage       = 256
	damageBatch     = 256
)

// repairer repairs single chunks: those that reads, writes and scrubs report,
// and those of the short index.
type repairer struct {
	g     *background
	queue *repairQueue

	mu           sync.Mutex // guards what follows
	unrepairable map[repairKey]Unrepairable
	more         bool
	checked      uint64
	chunks       uint64
	shards       uint64
	lastErrors   []string
	speed        speed
}

func newRepairer(g *background) *repairer {
	return &repairer{g: g, queue: newRepairQueue(g.e.options.Now),
		unrepairable: make(map[repairKey]Unrepairable), speed: speed{now: g.e.options.Now}}
}

// RepairState returns what the repair of single chunks is doing.
func (e *Engine) RepairState() RepairState {
	r := e.bg.repair
	var s RepairState
	s.ByMargin, s.Queued, s.Delayed, s.Running, s.Dropped = r.queue.depths()
	s.Inventory = e.bg.inventory.get()
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Checked, s.Chunks, s.Shards, s.More = r.checked, r.chunks, r.shards, r.more
	s.Bytes, s.BytesPerSecond = r.speed.total, r.speed.perSecond()
	if s.BytesPerSecond > 0 && r.chunks > 0 {
		perChunk := float64(r.speed.total) / float64(r.chunks)
		s.ETA = time.Duration(perChunk * float64(s.Queued-s.Delayed) / float64(s.BytesPerSecond) * float64(time.Second))
	}
	for _, u := range r.unrepairable {
		s.Unrepairable = append(s.Unrepairable, u)
	}
	slices.SortFunc(s.Unrepairable, func(a, b Unrepairable) int { return a.Since.Compare(b.Since) })
	s.LastErrors = slices.Clone(r.lastErrors)
	return s
}

// feed takes reports of damage into the queue.
func (r *repairer) feed(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.g.e.DamageArrived():
			r.takeDamage()
		}
	}
}

func (r *repairer) takeDamage() {
	for _, d := range r.g.e.TakeDamage(damageBatch) {
		r.queue.add(repairItem{
			key: repairKey{part: d.Part, no: d.Chunk.No}, bucket: d.Bucket.ID,
			missing: d.Missing, margin: int(d.Chunk.Scheme.Parity) - ones(d.Missing),
		})
	}
}

// scanShort takes the short index of all groups into the queue.
func (r *repairer) scanShort(ctx context.Context) error {
	for group := range dataGroups {
		var after *metadata.Short
		for {
			rows, err := r.g.e.meta.Short(ctx, group, after, shortPage)
			if err != nil {
				return fmt.Errorf("object: short index of group %d: %w", group, err)
			}
			for i := range rows {
				s := &rows[i]
				r.queue.add(repairItem{key: repairKey{part: s.Part, no: s.ChunkNo}, bucket: s.Bucket,
					missing: s.Missing, short: true, margin: int(s.Margin)})
			}
			if len(rows) < shortPage {
				break
			}
			after = &rows[len(rows)-1]
		}
	}
	return nil
}

// work is one worker of the repair queue.
func (r *repairer) work(ctx context.Context) {
	for {
		item := r.queue.next(ctx)
		if item == nil {
			return
		}
		r.handle(ctx, item)
	}
}

// handle repairs one item, and decides when it is tried again.
func (r *repairer) handle(ctx context.Context, item *repairItem) {
	delay, err := r.repairItem(ctx, item)
	if ctx.Err() != nil {
		delay = r.g.o.RetryDelay
	} else if err != nil {
		r.failed(item, err)
		delay = max(delay, r.backoff(item))
	}
	r.queue.done(item, delay)
}

func (r *repairer) failed(item *repairItem, err error) {
	r.g.e.log.Warn("chunk not repaired", "part", item.key.part.String(), "chunk", item.key.no, "err", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lastErrors) >= maxLastErrors {
		r.lastErrors = slices.Delete(r.lastErrors, 0, 1)
	}
	r.lastErrors = append(r.lastErrors, fmt.Sprintf("part %s, chunk %d: %v", item.key.part, item.key.no, err))
}

// health is what is known of the shards of a chunk.
type health struct {
	good    uint32 // header and footer are right, and the cells too if they were in doubt
	gone    uint32 // missing or corrupt at their place
	away    uint32 // the drive is absent, fenced, or takes nothing
	unknown uint32 // no answer, or one of no class
	moved   uint32 // of gone: an earlier member has it
	reason  error
}

// repairItem repairs one chunk. It returns how long the chunk is to wait if
// something is left to do, else 0.
func (r *repairer) repairItem(ctx context.Context, item *repairItem) (delay time.Duration, err error) {
	bucket, id, err := r.find(ctx, item)
	if err != nil {
		return 0, err
	}
	if id == nil {
		r.forget(item.key)
		return 0, nil
	}
	if !r.g.chunks.try(*id) {
		return r.g.o.RetryDelay, nil
	}
	defer r.g.chunks.release(*id)
	// Asked while nobody can free it: it is referenced until we are done.
	ref := metadata.LookupRef{Bucket: bucket.ID, Part: item.key.part, ChunkNo: item.key.no, Chunk: *id}
	found, err := r.g.e.meta.Lookup(ctx, bucket.Group, []metadata.LookupRef{ref})
	if err != nil {
		return 0, err
	}
	if !found.Found[0].Referenced {
		r.forget(item.key)
		return 0, nil
	}
	chunk := &found.Found[0].Chunk
	pg, err := r.g.e.pg(ctx, chunk.PG, chunk.Generation)
	if err != nil {
		return 0, err
	}
	if item.short && item.tries > 0 && r.unwritable(item.missing, pg) {
		return r.backoff(item), nil
	}
	if delay := r.forSuspects(item, pg); delay > 0 {
		return delay, nil
	}
	return r.mendItem(ctx, item, &bucket, chunk, found.Found[0].Owner, pg)
}

// find returns the id of the chunk that an item means, nil if there is none.
func (r *repairer) find(ctx context.Context, item *repairItem) (b metadata.Bucket, id *metadata.ChunkID, err error) {
	b, err = r.g.bucketRow(ctx, item.bucket)
	if errors.Is(err, metadata.ErrNoSuchBucket) {
		return b, nil, nil
	}
	if err != nil {
		return b, nil, err
	}
	rows, err := r.g.e.meta.Chunks(ctx, metadata.BucketRef{Group: b.Group, ID: b.ID}, item.key.part, item.key.no, 1)
	if err != nil || len(rows) == 0 || rows[0].No != item.key.no {
		return b, nil, err
	}
	return b, &rows[0].ID, nil
}

// unwritable reports whether none of the shards could be written now.
func (r *repairer) unwritable(shards uint32, pg *metadata.PG) bool {
	for i, drive := range pg.Newest().Members {
		if shards&(1<<i) != 0 && r.g.e.options.Drives.Condition(drive).Writable {
			return false
		}
	}
	return true
}

// forSuspects returns how long an item waits because all drives that it is to be
// written on are suspect: no longer than for a loss that may pass, and not at
// all if hardly a further loss can be borne.
func (r *repairer) forSuspects(item *repairItem, pg *metadata.PG) time.Duration {
	if item.margin <= 1 || item.missing == 0 {
		return 0
	}
	for i, drive := range pg.Newest().Members {
		if item.missing&(1<<i) != 0 && !r.g.e.suspects.has(drive) {
			return 0
		}
	}
	left := r.g.o.TransientDelay - r.g.e.options.Now().Sub(item.since)
	return min(left, r.g.o.RetryDelay)
}

func (r *repairer) backoff(item *repairItem) time.Duration {
	return min(r.g.o.RetryDelay<<min(item.tries, 16), r.g.o.TransientDelay)
}

// mendItem repairs a chunk that the caller has to itself.
func (r *repairer) mendItem(ctx context.Context, item *repairItem, bucket *metadata.Bucket, chunk *metadata.Chunk, owner metadata.Owner, pg *metadata.PG) (delay time.Duration, err error) {
	h := r.assess(ctx, chunk, pg, item.missing)
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	r.mu.Lock()
	r.checked++
	r.mu.Unlock()
	margin := ones(h.good|h.moved) - int(chunk.Scheme.Data)
	want, delay := r.wanted(item, &h, pg, margin)
	epoch, release, err := r.g.lease()
	if err != nil {
		return 0, err
	}
	defer release()
	var made uint32
	if want != 0 && ones(h.good|h.moved|h.unknown) >= int(chunk.Scheme.Data) {
		made, err = r.make(ctx, *bucket, item, chunk, pg, want, margin, epoch, &h)
	}
	left := (h.gone | (h.unknown|h.away)&item.missing) &^ made
	still := ones(h.good|h.moved|made) - int(chunk.Scheme.Data)
	if recordErr := r.record(ctx, item, bucket, chunk, epoch, made, left, still); recordErr != nil {
		return r.backoff(item), errors.Join(err, recordErr)
	}
	r.g.confirm(ctx, chunk, pg, made)
	if still < 0 || errors.Is(err, errTooFew) || errors.Is(err, errDigest) {
		r.note(item, bucket, chunk, owner, &h, err)
		return r.backoff(item), err
	}
	r.forget(item.key)
	if left == 0 && err == nil {
		return 0, nil
	}
	return max(delay, r.backoff(item)), err
}

// assess asks for the footers of all shards, and has those verified whole that
// are in doubt.
func (r *repairer) assess(ctx context.Context, chunk *metadata.Chunk, pg *metadata.PG, doubt uint32) health {
	var h health
	for i := range chunk.Scheme.Total() {
		bit := uint32(1) << i
		err := r.check(ctx, chunk, pg.Newest().Members[i], i, doubt&bit != 0)
		switch {
		case err == nil:
			h.good |= bit
			continue
		case errors.Is(err, metadata.ErrShardNotFound), errors.Is(err, metadata.ErrCorrupt):
			h.gone |= bit
			if r.elsewhere(ctx, chunk, pg, i) {
				h.moved |= bit
			}
		case errors.Is(err, metadata.ErrDriveAbsent), errors.Is(err, metadata.ErrFenced):
			h.away |= bit
		default:
			h.unknown |= bit
		}
		h.reason = err
	}
	return h
}

// check looks at one shard on one drive.
func (r *repairer) check(ctx context.Context, chunk *metadata.Chunk, drive topology.DriveID, i int, whole bool) error {
	if !r.g.e.options.Drives.Condition(drive).Readable {
		return fmt.Errorf("object: drive %s: %w", drive, metadata.ErrDriveAbsent)
	}
	ref := metadata.ShardRef{PG: chunk.PG, Shard: metadata.ShardID{Chunk: chunk.ID, Index: uint8(i)}}
	stored, err := r.g.stat(ctx, drive, ref)
	if err == nil {
		err = belongs(chunk, stored)
	}
	if err == nil && whole {
		_, err = r.g.guard.do(ctx, drive, longCall, func(ctx context.Context) error {
			return r.g.e.shards.Verify(ctx, drive, ref)
		})
	}
	return err
}

// elsewhere reports whether an earlier member has the shard.
func (r *repairer) elsewhere(ctx context.Context, chunk *metadata.Chunk, pg *metadata.PG, i int) bool {
	var room [4]topology.DriveID
	for _, drive := range homes(room[:0], pg, i)[1:] {
		if r.check(ctx, chunk, drive, i, false) == nil {
			return true
		}
	}
	return false
}

// wanted chooses the shards to make now: those that are certainly gone, and,
// if hardly a further loss can be borne or enough time has passed, those of
// drives that do not answer. What cannot be written waits.
func (r *repairer) wanted(item *repairItem, h *health, pg *metadata.PG, margin int) (want uint32, delay time.Duration) {
	want = h.gone
	if transient := h.unknown & item.missing; transient != 0 {
		waited := r.g.e.options.Now().Sub(item.since)
		if margin <= 1 || waited >= r.g.o.TransientDelay {
			want |= transient
		} else {
			delay = r.g.o.TransientDelay - waited
		}
	}
	for i, drive := range pg.Newest().Members {
		if !r.g.e.options.Drives.Condition(drive).Writable {
			want &^= 1 << i
		}
	}
	return want, delay
}

// make makes shards anew and learns what was found bad on the way.
func (r *repairer) make(ctx context.Context, bucket metadata.Bucket, item *repairItem, chunk *metadata.Chunk, pg *metadata.PG, want uint32, margin int, epoch uint64, h *health) (made uint32, err error) {
	m, err := r.g.newMend(bucket, item.key.part, *chunk, pg, epoch)
	if err != nil {
		return 0, err
	}
	m.urgent = margin <= 0
	m.sources &= h.good | h.moved | h.unknown
	made, err = m.run(ctx, want)
	h.good &^= m.lost
	h.gone |= m.lost
	r.mu.Lock()
	defer r.mu.Unlock()
	r.speed.add(m.moved)
	if made != 0 {
		r.chunks++
		r.shards += uint64(ones(made))
	}
	return made, err
}

// record writes what is still missing to the short index, or that nothing is.
func (r *repairer) record(ctx context.Context, item *repairItem, bucket *metadata.Bucket, chunk *metadata.Chunk, epoch uint64, made, left uint32, margin int) error {
	if made == 0 && left == 0 && !item.short || item.short && left == item.missing {
		return nil // the index says so already
	}
	row := metadata.Short{Bucket: bucket.ID, Part: item.key.part, ChunkNo: chunk.No,
		Missing: left, Margin: uint8(max(0, margin))}
	cmd := &metadata.Command{Kind: metadata.KindPutShort, Version: 1, Group: bucket.Group, Epoch: epoch,
		PutShort: &metadata.PutShort{Rows: []metadata.Short{row}}}
	if _, err := r.g.e.propose(ctx, cmd); err != nil {
		return fmt.Errorf("object: record short chunk: %w", err)
	}
	item.missing, item.short, item.margin = left, left != 0, margin
	return nil
}

// note lists a chunk that cannot be repaired.
func (r *repairer) note(item *repairItem, bucket *metadata.Bucket, chunk *metadata.Chunk, owner metadata.Owner, h *health, err error) {
	if err == nil {
		err = fmt.Errorf("%w: %d of %d: %w", errTooFew, ones(h.good|h.moved), chunk.Scheme.Data, h.reason)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	u, known := r.unrepairable[item.key]
	if !known {
		if len(r.unrepairable) >= maxUnrepairable {
			r.more = true
			return
		}
		u.Since = item.since
		r.g.e.log.Error("chunk cannot be repaired", "bucket", bucket.ID.String(), "part", item.key.part.String(),
			"chunk", chunk.ID.String(), "err", err)
	}
	u.Bucket, u.Name, u.Key = bucket.ID, bucket.Name, owner.Key
	u.Part, u.ChunkNo, u.Chunk = item.key.part, chunk.No, chunk.ID
	u.Lost, u.Away, u.Reason = h.gone, h.away|h.unknown, err.Error()
	r.unrepairable[item.key] = u
}

func (r *repairer) forget(key repairKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.unrepairable, key)
	r.more = r.more && len(r.unrepairable) > 0
}
