package keeper

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

const (
	groupCount = metadata.DataGroups + 1

	// parallelGroups is how many groups write at a time beside the root,
	// parallelRecords how many records each of them has under way: together they
	// bound the memory.
	parallelGroups  = 4
	parallelRecords = 4

	// pollPeriod is how often an outbox is looked at that nobody told of.
	pollPeriod = 30 * time.Second
	// hurry is how many changes end the wait for more.
	hurry = 512

	retryMin = 250 * time.Millisecond
	retryMax = 15 * time.Second
)

// Keeper keeps the manifests of all groups. Exactly one of a cluster runs at a
// time; a second one would do no harm but write much twice. See [Keeper.Run].
type Keeper struct {
	o       Options
	groups  [groupCount]*group
	buckets bucketCache
	// builders keeps *manifest.Builder with the memory of a batch.
	builders sync.Pool
	writing  chan struct{} // a token a group that writes
	counters

	root rootRecord
	pass passes
}

// group is the writer of one group's manifests.
type group struct {
	k    *Keeper
	id   uint32
	kick chan struct{} // holds one
	told atomic.Int64  // changes since the last look
	// wrote is when something was written last. Only drain and rest use it.
	wrote time.Time

	// turn is held while manifests of the outbox are written and while the row
	// of members changes: a member that joins misses nothing. It guards what
	// follows.
	turn  *semaphore.Weighted
	knows bool // the group keeps an outbox; never ends
	// ahead holds the keys of which a later version was written than the last
	// batch asked for.
	ahead map[metadata.KeyRef]uint64

	oldest atomic.Int64 // order of the oldest entry that waits, 0 for none
}

// New returns a keeper. It does nothing before Run.
func New(o Options) (*Keeper, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	k := &Keeper{o: o.withDefaults(), writing: make(chan struct{}, parallelGroups)}
	k.buckets.known = make(map[metadata.BucketID]*bucket)
	k.root.turn = semaphore.NewWeighted(1)
	k.root.written = make(map[topology.DriveID]uint64)
	k.pass.kick, k.pass.percent, k.pass.waits = make(chan struct{}, 1), livePercent, barrierTime
	for id := range k.groups {
		k.groups[id] = &group{k: k, id: uint32(id), kick: make(chan struct{}, 1), turn: semaphore.NewWeighted(1)}
	}
	return k, nil
}

// Kick says that something was committed in a group. It never blocks.
func (k *Keeper) Kick(id uint32) {
	if id < groupCount {
		g := k.groups[id]
		g.told.Add(1)
		g.pending()
		wake(g.kick)
	}
}

// pending notes that something may wait from now on, unless something does
// already.
func (g *group) pending() { g.oldest.CompareAndSwap(0, g.k.o.Now().UnixMicro()) }

// nothing notes that nothing waits but what was told of since told was cleared.
func (g *group) nothing() {
	g.oldest.Store(0)
	if g.told.Load() > 0 {
		g.pending()
	}
}

// Pass asks for a pass over all manifests now.
func (k *Keeper) Pass() { wake(k.pass.kick) }

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run keeps manifests until ctx is done, and returns when all that it started
// has ended.
func (k *Keeper) Run(ctx context.Context) {
	var loops sync.WaitGroup
	for _, g := range k.groups {
		g.pending() // until it has looked
		loops.Go(func() { g.run(ctx) })
	}
	loops.Go(func() { k.watch(ctx) })
	loops.Wait()
}

// run empties the outbox of a group whenever there is something in it.
func (g *group) run(ctx context.Context) {
	delay := retryMin
	for {
		err := g.drain(ctx)
		wait := pollPeriod
		if err != nil && ctx.Err() == nil {
			g.k.failed(ctx, "manifests not written", err, "group", g.id)
			wait = delay
			delay = min(2*delay, retryMax)
		} else {
			delay = retryMin
		}
		if !g.rest(ctx, wait, err == nil) {
			return
		}
	}
}

// rest waits for a change, and then for some more of them. Those of the root
// are few, and where data lies may hang on them: the first is not kept waiting
// if there was none of late.
func (g *group) rest(ctx context.Context, wait time.Duration, kicked bool) bool {
	kick := g.kick
	if !kicked {
		kick = nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-kick:
	}
	const step = 50 * time.Millisecond
	linger := g.k.o.Linger
	if g.id == metadata.RootGroup {
		linger = max(min(step, linger), linger-g.k.o.Now().Sub(g.wrote))
	}
	for waited := time.Duration(0); waited < linger && g.told.Load() < hurry; waited += step {
		if pause(ctx, step) != nil {
			return false
		}
	}
	return true
}

// pause waits for d or the end of ctx, whose cause it returns.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pageEntries is how many entries of an outbox are taken together.
const pageEntries = 512

// drain writes manifests of all that is in the outbox.
func (g *group) drain(ctx context.Context) error {
	g.told.Store(0)
	if on, err := g.keepsOutbox(ctx); err != nil || !on {
		if err == nil {
			g.nothing()
		}
		return err
	}
	if g.id != metadata.RootGroup { // whose tables must not wait for others
		select {
		case g.k.writing <- struct{}{}:
			defer func() { <-g.k.writing }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for {
		entries, err := g.k.o.Metadata.Outbox(ctx, g.id, 0, pageEntries)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			g.nothing()
			return nil
		}
		g.oldest.Store(int64(entries[0].Order))
		write := g.writePage
		if g.id == metadata.RootGroup {
			write = g.writeRoot
		}
		if err := write(ctx, entries); err != nil {
			return err
		}
		g.k.entries.Add(uint64(len(entries)))
		g.wrote = g.k.o.Now()
	}
}

// keepsOutbox reports whether the group's command version is high enough.
func (g *group) keepsOutbox(ctx context.Context) (bool, error) {
	if err := g.turn.Acquire(ctx, 1); err != nil {
		return false, err
	}
	defer g.turn.Release(1)
	if g.knows {
		return true, nil
	}
	version, err := g.k.o.Metadata.CommandVersion(ctx, g.id)
	g.knows = err == nil && version >= metadata.ManifestVersion
	return g.knows, err
}

// manifested moves the cursor of the group.
func (g *group) manifested(ctx context.Context, upto, set uint64) error {
	return g.k.o.Propose(ctx, &metadata.Command{Kind: metadata.KindManifested, Group: g.id,
		Manifested: &metadata.Manifested{Upto: upto, Set: set}})
}

// bucket is what is needed to seal and open manifests of a bucket. It never
// changes.
type bucket struct {
	row metadata.Bucket
	manifest.Bucket
}

func (b *bucket) ref() metadata.BucketRef {
	return metadata.BucketRef{Group: b.row.Group, ID: b.row.ID}
}

// bucketCache keeps buckets by id. Beyond bucketCacheMax it begins anew.
type bucketCache struct {
	mu    sync.Mutex
	known map[metadata.BucketID]*bucket
}

const bucketCacheMax = 4096

// bucket returns a bucket by its id. It fails with metadata.ErrNoSuchBucket
// only if the root says so now, or did not know it when it was asked.
func (k *Keeper) bucket(ctx context.Context, id metadata.BucketID) (*bucket, error) {
	c := &k.buckets
	c.mu.Lock()
	b := c.known[id]
	c.mu.Unlock()
	if b != nil {
		return b, nil
	}
	row, err := k.o.Metadata.BucketByID(ctx, id)
	if err != nil {
		return nil, err
	}
	return k.learn(ctx, row)
}

// learn puts a bucket into the cache.
func (k *Keeper) learn(ctx context.Context, row *metadata.Bucket) (*bucket, error) {
	keys, err := k.o.Keys(ctx, row)
	if err != nil {
		return nil, err
	}
	b := &bucket{row: *row, Bucket: manifest.Bucket{Cluster: k.o.Cluster, ID: row.ID, Keys: keys}}
	if keys != nil {
		b.Key = row.Key
	}
	c := &k.buckets
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= bucketCacheMax {
		clear(c.known)
	}
	c.known[row.ID] = b
	return b, nil
}

// forget drops a bucket from the cache.
func (k *Keeper) forget(id metadata.BucketID) {
	k.buckets.mu.Lock()
	defer k.buckets.mu.Unlock()
	delete(k.buckets.known, id)
}
