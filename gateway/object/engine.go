package object

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/ruche-storage/ruche/erasure"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Engine answers S3's calls. It is safe for concurrent use. See [New].
type Engine struct {
	options Options
	meta    Metadata
	shards  Shards
	log     *slog.Logger

	writes  *budget
	reads   *budget
	buffers buffers
	hashes  hashPool
	cells   sync.Pool // of *shardhash.Cells
	codes   codeCache
	codecs  *seal.Codecs

	epochs   *epochs
	topology *topologyCache
	buckets  *bucketCache
	accounts *accountCache
	latency  latencies
	suspects *suspects
	confirms *confirmer
	damage   *damageQueue
	counters counters
	bg       *background

	randomMu sync.Mutex // guards options.Rand

	tasks *tasks // Close waits for them

	mu      sync.Mutex // guards stop and started
	started bool
	stop    context.CancelCauseFunc
	loops   sync.WaitGroup
}

var _ s3Calls = (*Engine)(nil)

// errClosed is the cause of what ends because the engine was closed.
var errClosed = errors.New("object: engine closed")

// New returns an engine. It does nothing before [Engine.Start].
func New(o Options) (*Engine, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	e := &Engine{
		options:  o,
		meta:     o.Metadata,
		shards:   o.Shards,
		log:      o.Logger,
		writes:   newBudget(o.StripeBudgetBytes),
		reads:    newBudget(o.ReadBudgetBytes),
		codecs:   seal.NewCodecs(),
		epochs:   newEpochs(),
		topology: &topologyCache{turn: semaphore.NewWeighted(1)},
		buckets:  newBucketCache(),
		accounts: newAccountCache(),
		damage:   newDamageQueue(),
		tasks:    newTasks(),
	}
	e.confirms = newConfirmer(e)
	e.latency.now = o.Now
	e.suspects = newSuspects(o.Now, e.suspectChanged)
	var err error
	if e.bg, err = newBackground(e); err != nil {
		return nil, err
	}
	return e, nil
}

// Start reads the topology, raises the fences of all groups to a new epoch and
// starts what runs in the background. Calls before it fail with
// metadata.ErrUnavailable. It can be called again after it failed.
func (e *Engine) Start(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.started {
		return errors.New("object: started already")
	}
	if err := e.ReloadTopology(ctx); err != nil {
		return err
	}
	if err := e.firstEpoch(ctx); err != nil {
		return err
	}
	run, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	e.started, e.stop = true, stop
	e.loops.Go(func() { e.every(run, e.options.EpochPeriod, "next epoch", e.nextEpoch) })
	e.loops.Go(func() { e.every(run, e.options.TopologyPeriod, "reload topology", e.ReloadTopology) })
	e.loops.Go(func() { e.confirms.run(run) })
	e.loops.Go(func() { e.probeForever(run) })
	if e.options.Background != nil {
		e.bg.start(run, &e.loops)
	}
	return nil
}

// ErrHanging means that calls on drives did not return in time. What they use
// must not be closed: the process should end.
var ErrHanging = errors.New("object: drives do not answer")

// A HangingError is an ErrHanging that names the drives.
type HangingError struct {
	Drives []topology.DriveID
	After  time.Duration // how long they were waited for
}

// Error implements error.
func (e *HangingError) Error() string {
	return fmt.Sprintf("%v for %v: %v", ErrHanging, e.After, e.Drives)
}

// Unwrap returns ErrHanging.
func (e *HangingError) Unwrap() error { return ErrHanging }

// Close stops what runs in the background and waits for it. Requests must have
// ended before, and objects be closed. It fails with a [*HangingError] if calls on drives have not returned after Options.CloseTimeout.
func (e *Engine) Close() error {
	e.mu.Lock()
	stop := e.stop
	e.stop = nil
	e.mu.Unlock()
	if stop != nil {
		stop(errClosed)
	}
	done := make(chan struct{})
	go func() { // outlives Close only if that fails
		defer close(done)
		e.loops.Wait()
		e.tasks.Wait()
	}()
	timer := time.NewTimer(e.options.CloseTimeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		return &HangingError{e.tasks.busy(), e.options.CloseTimeout}
	}
	e.tasks.close()
	e.hashes.lanes.close()
	return nil
}

// every calls f in each period until ctx is done. Its failures are logged.
func (e *Engine) every(ctx context.Context, period time.Duration, what string, f func(context.Context) error) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := f(ctx); err != nil && ctx.Err() == nil {
			e.log.ErrorContext(ctx, "background task failed", "task", what, "err", err)
		}
	}
}

// random fills b from the source of randomness.
func (e *Engine) random(b []byte) error {
	e.randomMu.Lock()
	defer e.randomMu.Unlock()
	if _, err := io.ReadFull(e.options.Rand, b); err != nil {
		return fmt.Errorf("object: randomness: %w", err)
	}
	return nil
}

// newID returns an id for a part or a request.
func (e *Engine) newID() (id [16]byte, err error) {
	if err := e.random(id[:]); err != nil {
		return id, err
	}
	return metadata.Dated(id, e.options.Now()), nil
}

// randomReader is the engine's source of randomness as an io.Reader.
type randomReader struct{ e *Engine }

func (r randomReader) Read(p []byte) (int, error) {
	if err := r.e.random(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// quick returns a generator for choices that need not be secret.
func (e *Engine) quick() (*rand.Rand, error) {
	var seed [16]byte
	if err := e.random(seed[:]); err != nil {
		return nil, err
	}
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(seed[:]), binary.LittleEndian.Uint64(seed[8:]))), nil
}

// codeCache keeps a code per scheme: making one inverts a matrix.
type codeCache struct {
	codes sync.Map // [2]uint8 -> *erasure.Code
}

func (c *codeCache) get(s metadata.Scheme) (*erasure.Code, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	key := [2]uint8{s.Data, s.Parity}
	if code, ok := c.codes.Load(key); ok {
		return code.(*erasure.Code), nil
	}
	code, err := erasure.NewCode(int(s.Data), int(s.Parity))
	if err != nil {
		return nil, err
	}
	kept, _ := c.codes.LoadOrStore(key, code)
	return kept.(*erasure.Code), nil
}

// layout is the layout of a chunk of s with so many sealed bytes.
func layout(s metadata.Scheme, bytes int64) erasure.Layout {
	return erasure.Layout{Data: int(s.Data), Parity: int(s.Parity), CellBytes: 1 << s.CellLog2, ChunkLength: bytes}
}

// counters count what happened since the start.
type counters struct {
	writing, reading   atomic.Int64
	stripes            atomic.Uint64
	shortWrites        atomic.Uint64
	shardsPassed       atomic.Uint64
	shardWriteFailures atomic.Uint64
	shardReads         atomic.Uint64
	shardReadFailures  atomic.Uint64
	corruptCells       atomic.Uint64
	runs, hedges       atomic.Uint64
	degradedRuns       atomic.Uint64
	unreadable         atomic.Uint64
	macFailures        atomic.Uint64
	commitRetries      atomic.Uint64
	confirmsDropped    atomic.Uint64
	bracketFailures    atomic.Uint64
	bytesIn, bytesOut  atomic.Uint64
	hanging            atomic.Int64
}

// State is what status and metrics show of an engine. Counts are since the
// start.
type State struct {
	Writes, Reads BudgetState
	Leases        Leases

	RunningWrites int64 // PUTs, parts and copies
	RunningReads  int64 // open objects

	Stripes            uint64 // encoded
	BytesIn, BytesOut  uint64 // plain
	ShortWrites        uint64 // chunks committed with shards missing
	ShardsPassed       uint64 // not written because their drive was suspect
	ShardWriteFailures uint64
	ShardReads         uint64
	ShardReadFailures  uint64 // of any class, corrupt ones included
	CorruptShards      uint64 // reads that found a damaged cell or record
	Runs               uint64 // runs of stripes read
	DegradedRuns       uint64 // runs that needed decoding
	Hedges             uint64 // runs for which one more shard was asked
	Unreadable         uint64 // runs with too few intact shards
	MACFailures        uint64
	CommitRetries      uint64
	ConfirmsDropped    uint64 // hints that did not fit their queue
	BracketFailures    uint64 // stripes that did not decode to their data: the machine is faulty
	HangingTasks       int64  // shard reads and writes that were given up and have not returned

	DamageDepth   int    // chunks in the repair queue
	DamageDropped uint64 // reports that did not fit it; scrub will find them

	ReadP95 time.Duration // of shard reads

	Suspects []topology.DriveID // drives that answer late, or not at all
}

// State returns what the engine is doing.
func (e *Engine) State() State {
	c := &e.counters
	depth, dropped := e.damage.state()
	return State{
		Writes: e.writes.state(), Reads: e.reads.state(), Leases: e.Leases(),
		RunningWrites: c.writing.Load(), RunningReads: c.reading.Load(),
		Stripes: c.stripes.Load(), BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(),
		ShortWrites: c.shortWrites.Load(), ShardsPassed: c.shardsPassed.Load(), ShardWriteFailures: c.shardWriteFailures.Load(),
		ShardReads: c.shardReads.Load(), ShardReadFailures: c.shardReadFailures.Load(),
		CorruptShards: c.corruptCells.Load(), Runs: c.runs.Load(), DegradedRuns: c.degradedRuns.Load(),
		Hedges: c.hedges.Load(), Unreadable: c.unreadable.Load(), MACFailures: c.macFailures.Load(),
		CommitRetries: c.commitRetries.Load(), ConfirmsDropped: c.confirmsDropped.Load(),
		BracketFailures: c.bracketFailures.Load(), HangingTasks: c.hanging.Load(),
		DamageDepth: depth, DamageDropped: dropped,
		ReadP95: e.latency.p95(), Suspects: e.suspects.list(),
	}
}
