package object

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/ruche-storage/ruche/gateway/manifest/keeper"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// BackgroundOptions adjusts what an engine does beside serving: repair,
// rebuild, collection and upkeep. The zero value is a working configuration.
type BackgroundOptions struct {
	// RepairWorkers is how many chunks of the repair queue are repaired at a
	// time. Each takes (k+m) * 256 KiB of memory. Zero means 2.
	RepairWorkers int
	// RebuildWorkers is how many placement groups are rebuilt at a time, each
	// with as much memory. Zero means 2.
	RebuildWorkers int
	// RepairBytesPerSecond bounds what repair and rebuild together read and
	// write. Zero means 256 MiB/s, a negative value no limit.
	RepairBytesPerSecond int64
	// RepairClientPercent is how much of RepairBytesPerSecond is used while
	// clients are at work, unless a chunk is one loss from being unreadable.
	// Zero means 25.
	RepairClientPercent int
	// TransientDelay is how long a loss that may pass (the drive is slow or
	// answers something unknown) waits for repair, unless at most one further
	// loss can be borne. Zero means 15 minutes.
	TransientDelay time.Duration
	// RetryDelay is how long a chunk that could not be repaired waits at
	// first; it doubles up to TransientDelay. Zero means 1 minute.
	RetryDelay time.Duration
	// ShortPeriod is how often the short index of all groups is read. Zero
	// means 1 minute.
	ShortPeriod time.Duration
	// RebuildPeriod is how often the placement groups are looked at for
	// generations that are moving. Zero means 10 s.
	RebuildPeriod time.Duration

	// InventoryPeriod is how often all chunks are compared with what drives
	// list, at InventoryRate chunks a second. The first time is an hour after
	// the start, or at once if InventoryNow: a drive has lost a part of its
	// index or files. Zero means 7 days and 5,000 a second.
	InventoryPeriod time.Duration
	InventoryRate   int64
	InventoryNow    bool

	// TrashPeriod is how often trash is looked at. Zero means 1 minute.
	TrashPeriod time.Duration
	// PendingPeriod is how often pending shards are looked up. Zero means 10
	// minutes.
	PendingPeriod time.Duration
	// Quarantine is how long, by the counter of the metadata, a shard must be
	// known as garbage before it is freed. Zero means 24 hours.
	Quarantine time.Duration
	// Stored returns what all drives hold. The collector frees an hour at most
	// 5 % of the bytes and 1 % of the shards of orphans, but always 1 GiB and
	// 10,000 shards. Nil means that only these are allowed.
	Stored func() (bytes, shards int64)
	// Pressure reports whether drives are so full that trash is freed as soon
	// as nobody reads it, which a reader may delay by an hour. It is asked
	// every few seconds. Nil means never.
	Pressure func() bool

	// ClockPeriod is how often the groups are told what time has passed. Zero
	// means 1 minute.
	ClockPeriod time.Duration
	// JanitorPeriod is how often buckets are looked at whose creation or
	// deletion was cut off. Zero means 1 minute.
	JanitorPeriod time.Duration
	// ManifestPeriod is how often all manifests are read and those freed that
	// count no more; it happens sooner if many were written. Zero means 24
	// hours. The first time is an hour after the start, or at once if
	// ManifestsNow: a drive was away, and missed the passes meanwhile.
	ManifestPeriod time.Duration
	ManifestsNow   bool
	// RecordsPeriod is how often the records of accounts and buckets on drives
	// are counted. Zero means 24 hours.
	RecordsPeriod time.Duration
}

// withDefaults returns a copy of o with its zero fields filled in.
func (o BackgroundOptions) withDefaults() BackgroundOptions {
	o.RepairWorkers = cmp.Or(o.RepairWorkers, 2)
	o.RebuildWorkers = cmp.Or(o.RebuildWorkers, 2)
	o.RepairBytesPerSecond = cmp.Or(o.RepairBytesPerSecond, 256<<20)
	o.RepairClientPercent = cmp.Or(o.RepairClientPercent, 25)
	o.TransientDelay = cmp.Or(o.TransientDelay, 15*time.Minute)
	o.RetryDelay = cmp.Or(o.RetryDelay, time.Minute)
	o.ShortPeriod = cmp.Or(o.ShortPeriod, time.Minute)
	o.RebuildPeriod = cmp.Or(o.RebuildPeriod, 10*time.Second)
	o.InventoryPeriod = cmp.Or(o.InventoryPeriod, 7*24*time.Hour)
	o.InventoryRate = cmp.Or(o.InventoryRate, 5000)
	o.TrashPeriod = cmp.Or(o.TrashPeriod, time.Minute)
	o.PendingPeriod = cmp.Or(o.PendingPeriod, 10*time.Minute)
	o.Quarantine = cmp.Or(o.Quarantine, 24*time.Hour)
	o.ClockPeriod = cmp.Or(o.ClockPeriod, time.Minute)
	o.JanitorPeriod = cmp.Or(o.JanitorPeriod, time.Minute)
	o.ManifestPeriod = cmp.Or(o.ManifestPeriod, 24*time.Hour)
	o.RecordsPeriod = cmp.Or(o.RecordsPeriod, 24*time.Hour)
	if o.Stored == nil {
		o.Stored = func() (int64, int64) { return 0, 0 }
	}
	if o.Pressure == nil {
		o.Pressure = func() bool { return false }
	}
	return o
}

// Validate reports everything that is wrong with o, or nil.
func (o BackgroundOptions) Validate() error {
	var errs []error
	for _, d := range []time.Duration{o.TransientDelay, o.RetryDelay, o.ShortPeriod, o.RebuildPeriod, o.InventoryPeriod,
		o.TrashPeriod, o.PendingPeriod, o.Quarantine, o.ClockPeriod, o.JanitorPeriod, o.ManifestPeriod, o.RecordsPeriod} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("object: background options: negative duration %v", d))
		}
	}
	if o.RepairWorkers < 0 || o.RebuildWorkers < 0 {
		errs = append(errs, errors.New("object: background options: negative number of workers"))
	}
	if o.InventoryRate < 0 {
		errs = append(errs, fmt.Errorf("object: background options: inventory of %d chunks a second", o.InventoryRate))
	}
	if o.RepairClientPercent < 0 || o.RepairClientPercent > 100 {
		errs = append(errs, fmt.Errorf("object: background options: %d percent", o.RepairClientPercent))
	}
	return errors.Join(errs...)
}

// everybody is the weight of who must be alone.
const everybody = 1 << 30

// background is what the parts of the engine that run by themselves share.
type background struct {
	e *Engine
	o BackgroundOptions

	// chunks holds those that somebody repairs or frees: a shard written anew
	// between the two halves of freeing its chunk would never be found.
	chunks chunkSet
	// placement is held exclusively while tables of drives and placement
	// groups are changed, and shared while shards are freed because their
	// drive is no member.
	placement *semaphore.Weighted // of everybody; one who shares it takes 1
	guard     *driveGuard
	limit     *limiter
	groups    bucketGroups

	leaseMu sync.Mutex     // guards leases
	leases  map[uint64]int // writers' leases of the background itself, by epoch

	repair    *repairer
	rebuild   *rebuilder
	inventory *inventory
	collect   *collector
	janitor   *janitor
	clock     *clock
	records   *recordKeeper
	manifests *keeper.Keeper
}

func newBackground(e *Engine) (*background, error) {
	var o BackgroundOptions
	if e.options.Background != nil {
		o = *e.options.Background
	}
	g := &background{e: e, o: o.withDefaults()}
	g.guard = &driveGuard{e: e, hanging: make(map[topology.DriveID]int)}
	g.limit = &limiter{now: e.options.Now, rate: g.rate}
	g.placement = semaphore.NewWeighted(everybody)
	g.leases = make(map[uint64]int)
	g.groups.known = make(map[metadata.BucketID]metadata.Bucket)
	g.chunks.busy = make(map[metadata.ChunkID]struct{})
	g.repair = newRepairer(g)
	g.rebuild = newRebuilder(g)
	g.inventory = newInventory(g)
	g.collect = newCollector(g)
	g.janitor = &janitor{g: g, stuck: make(map[metadata.BucketID]stuckBucket)}
	g.clock = &clock{g: g, last: e.options.Now()}
	g.records = &recordKeeper{g: g, kick: make(chan struct{}, 1)}
	var err error
	g.manifests, err = newKeeper(g)
	return g, err
}

// start begins the loops. They end with ctx.
func (g *background) start(ctx context.Context, loops *sync.WaitGroup) {
	g.clock.last = g.e.options.Now()
	every := func(period time.Duration, what string, kick <-chan struct{}, f func(context.Context) error) {
		loops.Go(func() { g.every(ctx, period, what, kick, f) })
	}
	for range g.o.RepairWorkers {
		loops.Go(func() { g.repair.work(ctx) })
	}
	every(g.o.ShortPeriod, "repair: read the short index", nil, g.repair.scanShort)
	loops.Go(func() { g.repair.feed(ctx) })
	every(g.o.RebuildPeriod, "rebuild", g.rebuild.kick, g.rebuild.round)
	loops.Go(func() { g.inventory.run(ctx) })
	loops.Go(func() { g.collect.trash(ctx) })
	every(g.o.PendingPeriod, "look up pending shards", nil, g.collect.pendingPass)
	every(g.o.JanitorPeriod, "finish buckets", nil, g.janitor.pass)
	every(g.o.ClockPeriod, "count time", nil, g.clock.tick)
	if g.o.ManifestsNow {
		g.manifests.Pass()
	}
	loops.Go(func() { g.manifests.Run(ctx) })
	every(g.o.RecordsPeriod, "count records on drives", g.records.kick, g.records.pass)
}

// every calls f at once, in each period, and when kicked, until ctx is done.
// Its failures are logged.
func (g *background) every(ctx context.Context, period time.Duration, what string, kick <-chan struct{}, f func(context.Context) error) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		if err := f(ctx); err != nil && ctx.Err() == nil {
			g.e.log.ErrorContext(ctx, "background task failed", "task", what, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-kick:
		}
	}
}

// rate is how many bytes a second repair may move now, 0 for no limit.
func (g *background) rate(urgent bool) int64 {
	limit := g.o.RepairBytesPerSecond
	if limit < 0 {
		return 0
	}
	c := &g.e.counters
	if !urgent && c.writing.Load()+c.reading.Load() > 0 {
		limit = limit * int64(g.o.RepairClientPercent) / 100
	}
	return max(1, limit)
}

// lease holds the current epoch for commands and shards of the background.
func (g *background) lease() (epoch uint64, release func(), err error) {
	l, err := g.e.epochs.writer()
	if err != nil {
		return 0, nil, err
	}
	count := func(n int) {
		g.leaseMu.Lock()
		defer g.leaseMu.Unlock()
		if g.leases[l.epoch] += n; g.leases[l.epoch] == 0 {
			delete(g.leases, l.epoch)
		}
	}
	count(1)
	return l.epoch, func() { count(-1); l.release() }, nil
}

// writersUntil reports whether requests, not tasks of the background, are
// writing in an epoch or one before it.
func (g *background) writersUntil(epoch uint64) bool {
	g.leaseMu.Lock()
	defer g.leaseMu.Unlock()
	s := g.e.epochs
	s.mu.Lock()
	defer s.mu.Unlock()
	for of, n := range s.writers {
		if of <= epoch && n > g.leases[of] {
			return true
		}
	}
	return false
}

// chunkSet is a set of chunks that one of several tasks has to itself.
type chunkSet struct {
	mu   sync.Mutex
	busy map[metadata.ChunkID]struct{}
}

// try takes all of ids, or none and reports false.
func (s *chunkSet) try(ids ...metadata.ChunkID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if _, taken := s.busy[id]; taken {
			return false
		}
	}
	for _, id := range ids {
		s.busy[id] = struct{}{}
	}
	return true
}

func (s *chunkSet) release(ids ...metadata.ChunkID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		delete(s.busy, id)
	}
}

// driveGuard calls drives with a limit of time, also those that do not look at
// contexts. What hangs goes on as a task of the engine.
type driveGuard struct {
	e       *Engine
	mu      sync.Mutex
	hanging map[topology.DriveID]int
}

// maxHanging is how many calls may hang on a drive before no more are made.
const maxHanging = 4

// longCall is how long a call may take that reads or lists a lot.
const longCall = 2 * time.Minute

// do calls f. It returns metadata.ErrSlow if f has not returned in time; what
// f uses is then not the caller's until late is closed. late is nil if f has
// returned.
func (g *driveGuard) do(ctx context.Context, drive topology.DriveID, timeout time.Duration, f func(ctx context.Context) error) (late <-chan struct{}, err error) {
	if g.stuck(drive) {
		return nil, fmt.Errorf("object: drive %s does not answer: %w", drive, metadata.ErrSlow)
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	done := make(chan error, 1)
	g.e.tasks.Go(func() {
		defer g.e.tasks.on(drive)()
		done <- f(limited)
	})
	select {
	case err := <-done:
		return nil, err
	case <-limited.Done():
	}
	select {
	case err := <-done: // in the last moment
		return nil, err
	default:
	}
	late = g.abandon(drive, done)
	if ctx.Err() != nil {
		return late, context.Cause(ctx)
	}
	return late, fmt.Errorf("object: drive %s did not answer in %v: %w", drive, timeout, metadata.ErrSlow)
}

// stuck reports whether too many calls hang on a drive.
func (g *driveGuard) stuck(drive topology.DriveID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.hanging[drive] >= maxHanging
}

// abandon counts a call until it returns, and then closes late.
func (g *driveGuard) abandon(drive topology.DriveID, done <-chan error) <-chan struct{} {
	late := make(chan struct{})
	g.mu.Lock()
	g.hanging[drive]++
	g.mu.Unlock()
	g.e.counters.hanging.Add(1)
	g.e.tasks.Go(func() {
		<-done
		close(late)
		g.e.counters.hanging.Add(-1)
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.hanging[drive]--; g.hanging[drive] == 0 {
			delete(g.hanging, drive)
		}
	})
	return late
}

// limiter spreads bytes over time.
type limiter struct {
	now  func() time.Time
	rate func(urgent bool) int64

	mu   sync.Mutex
	next time.Time // when the bytes taken so far are paid for
}

// wait takes n bytes and waits until they are paid for.
func (l *limiter) wait(ctx context.Context, n int64, urgent bool) error {
	rate := l.rate(urgent)
	if rate == 0 || n <= 0 {
		return context.Cause(ctx)
	}
	l.mu.Lock()
	now := l.now()
	if l.next.Before(now) {
		l.next = now
	}
	delay := l.next.Sub(now)
	l.next = l.next.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	l.mu.Unlock()
	return pause(ctx, delay)
}

// pause waits for d or the end of ctx, whose cause it returns.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// bucketGroups remembers the rows of buckets by id: what a record on a drive
// names. Group, owner and id of a bucket never change.
type bucketGroups struct {
	mu    sync.Mutex
	known map[metadata.BucketID]metadata.Bucket
}

// bucketRow returns the row of a bucket, as it once was. It fails with
// metadata.ErrNoSuchBucket only if the root group says so now.
func (g *background) bucketRow(ctx context.Context, id metadata.BucketID) (metadata.Bucket, error) {
	c := &g.groups
	c.mu.Lock()
	row, ok := c.known[id]
	c.mu.Unlock()
	if ok {
		return row, nil
	}
	found, err := g.e.meta.BucketByID(ctx, id)
	if err != nil {
		return metadata.Bucket{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= bucketCacheMax {
		clear(c.known)
	}
	c.known[id] = *found
	return *found, nil
}

// dataGroups yields the numbers of the groups that hold buckets.
func dataGroups(yield func(uint32) bool) {
	for group := uint32(1); group <= metadata.DataGroups; group++ {
		if !yield(group) {
			return
		}
	}
}
