package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/gateway/object/shardtest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

var simSeed = flag.Uint64("sim-seed", 1, "seed of the power cuts")

// simCuts is how many power cuts TestPowerCuts makes: RUCHE_SIM_CUTS, or 1,000
// and 100 with -short.
func simCuts(t *testing.T) int {
	if v := os.Getenv("RUCHE_SIM_CUTS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatalf("RUCHE_SIM_CUTS: %v", err)
		}
		return n
	}
	if testing.Short() {
		return 100
	}
	return 1000
}

type wallClock struct{}

func (wallClock) Now() time.Time                         { return time.Now() }
func (wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// simShard is what the model knows of one shard.
type simShard struct {
	*shardtest.Shard
	acked   bool // some Close of it returned nil
	freeing bool // Free was called: it may be there or not
	freed   bool // Free returned nil in this life: it must not be there
	busy    bool // an operation on it is under way
}

// simRecord is a record of another type and whether it was acknowledged.
type simRecord struct {
	rec     metadata.Record
	payload []byte
	acked   bool
}

// sim is one drive with its model through several lives.
type sim struct {
	rng    *rand.Rand
	fs     *vfs.MemFS
	path   string
	drive  topology.DriveID
	faults faults
	crypt  bool // the index is encrypted

	mu      sync.Mutex // guards everything below
	shards  []*simShard
	records []*simRecord
	nextPG  uint32
	cut     *vfs.MemFS // the file system as a power cut left it
	atCut   []simShard
	recsCut []simRecord
	ops     int // file system operations until the cut
	acks    int // answers until the cut
	pct     int
	cutRNG  *rand.Rand

	cuts, checked int
}

func newSim(seed uint64, f faults) (*sim, error) {
	s := &sim{rng: rand.New(rand.NewPCG(seed, 77)), fs: vfs.NewCrashableMem(), path: "drives/d1", faults: f, crypt: seed%2 == 0}
	var err error
	s.drive, err = Format(s.fs, rand.NewChaCha8([32]byte{byte(seed)}), s.path, Formatting{Cluster: ClusterID{1}, Site: "par1"})
	return s, err
}

func (s *sim) options(fs vfs.FS) Options {
	var indexFS func(topology.DriveID, string, vfs.FS) (vfs.FS, error)
	if s.crypt {
		indexFS = encryptedIndex(1)
	}
	return Options{
		FS: fs, IndexFS: indexFS, Clock: wallClock{}, Cluster: ClusterID{1}, Rand: rand.NewChaCha8([32]byte{byte(s.rng.Uint32())}),
		SegmentBytes: 8192 << s.rng.IntN(4), SmallShardBytes: 4096, BufferBytes: 256 << 10, QueueRecords: 4,
		MaintenanceInterval: -1, ScrubInterval: -1, ScrubBytesPerSecond: -1, CompactGrace: time.Nanosecond,
		CompactLivePercent: 70, IndexCacheBytes: 1 << 20, faults: s.faults, filesPerDir: 6,
	}
}

// maybeError takes the picture of the power cut when its time has come. It is
// asked before every operation of the file system.
func (s *sim) maybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
		return nil
	}
	if s.faults.ackEarly {
		for range 100 {
			runtime.Gosched() // a device takes its time: whoever was answered goes on
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ops--; s.ops == 0 && s.cut == nil {
		s.takeCut()
	}
	return nil
}

// takeCut keeps what would be left after a power cut now. The caller holds mu.
func (s *sim) takeCut() {
	s.cut = s.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: s.pct, RNG: s.cutRNG})
	for _, sh := range s.shards {
		s.atCut = append(s.atCut, *sh)
	}
	for _, r := range s.records {
		s.recsCut = append(s.recsCut, *r)
	}
}

// life opens the drive, checks what must be there, works on it until the power
// is cut, and leaves what the cut left.
func (s *sim) life(ctx context.Context) error {
	s.ops, s.acks = 1<<30, 1<<30
	switch s.rng.IntN(5) {
	case 0: // the cut comes after all is done
	case 1, 2:
		s.acks = 1 + s.rng.IntN(20)
	default:
		s.ops = 1 + s.rng.IntN(150)
	}
	s.pct = []int{0, 10, 50, 90}[s.rng.IntN(4)]
	s.cutRNG = rand.New(rand.NewPCG(s.rng.Uint64(), 1))
	s.cut, s.atCut, s.recsCut = nil, nil, nil
	n, refused, err := Open(ctx, s.options(errorfs.Wrap(s.fs, errorfs.InjectorFunc(s.maybeError))), []string{s.path})
	if err != nil || len(refused) > 0 {
		return fmt.Errorf("open: %v %w", refused, err)
	}
	if err := s.check(ctx, n); err != nil {
		return errors.Join(err, n.Close())
	}
	errs := make(chan error, 3)
	for range cap(errs) {
		rng := rand.New(rand.NewPCG(s.rng.Uint64(), 2))
		go func() { errs <- s.work(ctx, n, rng) }()
	}
	for range cap(errs) {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return errors.Join(err, n.Close())
	}
	graceful := s.rng.IntN(5) == 0
	s.mu.Lock()
	if s.cut == nil && !graceful {
		s.takeCut()
	}
	s.mu.Unlock()
	if err := s.check(ctx, n); err != nil {
		return errors.Join(fmt.Errorf("before the cut: %w", err), n.Close())
	}
	if err := n.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut != nil {
		s.cuts++
		s.afterCut()
	}
	if s.rng.IntN(6) == 0 {
		for _, sh := range s.shards {
			sh.freed = false // what is not collected yet may show up again
		}
		return s.fs.RemoveAll(s.fs.PathJoin(s.path, "idx"))
	}
	return nil
}

// afterCut goes on with what the cut left.
func (s *sim) afterCut() {
	s.fs = s.cut
	s.shards, s.records = nil, nil
	for _, sh := range s.atCut {
		sh.busy, sh.freed = false, false
		s.shards = append(s.shards, &sh)
	}
	for _, r := range s.recsCut {
		s.records = append(s.records, &r)
	}
}

// work does random operations until the power is cut or it has done enough.
func (s *sim) work(ctx context.Context, n *Node, rng *rand.Rand) error {
	d, err := n.Drive(s.drive)
	if err != nil {
		return err
	}
	for range 12 {
		s.mu.Lock()
		over := s.cut != nil
		s.mu.Unlock()
		if over {
			return nil
		}
		switch k := rng.IntN(100); {
		case k < 5:
			err = s.abort(ctx, n, rng)
		case k < 50:
			err = s.put(ctx, n, rng, nil)
		case k < 60:
			err = s.again(ctx, n, rng)
		case k < 75:
			err = s.free(ctx, n, rng)
		case k < 82:
			err = s.putRecord(ctx, n, rng)
		case k < 88:
			err = s.confirm(ctx, n, rng)
		case k < 96:
			err = d.maintain(ctx)
		default:
			err = d.index.flush(d.fenced)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *sim) put(ctx context.Context, n *Node, rng *rand.Rand, sh *simShard) error {
	write := shardtest.Put
	if sh == nil {
		if rng.IntN(2) == 0 {
			write = shardtest.PutNew
		}
		size := rng.IntN(3000)
		if rng.IntN(4) == 0 {
			size = rng.IntN(20_000)
		}
		s.mu.Lock()
		sh = &simShard{Shard: shardtest.NewShard(rng, s.nextPG%3, size), busy: true}
		s.nextPG++
		s.shards = append(s.shards, sh)
		s.mu.Unlock()
	}
	announced := int64(len(sh.Framed))
	if rng.IntN(3) == 0 {
		announced = -1
	}
	err := write(ctx, n, s.drive, sh.Shard, announced)
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.busy = false
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	sh.acked = true
	s.answered()
	return nil
}

// answered takes the picture of a power cut right after an answer. The caller
// holds mu.
func (s *sim) answered() {
	if s.acks--; s.acks == 0 && s.cut == nil {
		s.takeCut()
	}
}

// abort begins a large shard and gives it up.
func (s *sim) abort(ctx context.Context, n *Node, rng *rand.Rand) error {
	s.mu.Lock()
	sh := &simShard{Shard: shardtest.NewShard(rng, 1, 8000+rng.IntN(20_000)), busy: true}
	s.shards = append(s.shards, sh)
	s.mu.Unlock()
	w, err := n.Create(ctx, s.drive, &sh.Record, int64(len(sh.Framed)))
	if err != nil {
		return err
	}
	_, err = w.Write(slices.Clone(sh.Framed))
	w.Abort()
	return err
}

// pick returns a shard that is acknowledged and that nobody works on.
func (s *sim) pick(rng *rand.Rand, mark func(*simShard)) *simShard {
	s.mu.Lock()
	defer s.mu.Unlock()
	var candidates []*simShard
	for _, sh := range s.shards {
		if sh.acked && !sh.busy && !sh.freeing {
			candidates = append(candidates, sh)
		}
	}
	if len(candidates) == 0 {
		return nil
	}
	sh := candidates[rng.IntN(len(candidates))]
	sh.busy = true
	mark(sh)
	return sh
}

// again writes a shard that is there, as a repair does.
func (s *sim) again(ctx context.Context, n *Node, rng *rand.Rand) error {
	if sh := s.pick(rng, func(*simShard) {}); sh != nil {
		return s.put(ctx, n, rng, sh)
	}
	return nil
}

func (s *sim) free(ctx context.Context, n *Node, rng *rand.Rand) error {
	sh := s.pick(rng, func(sh *simShard) { sh.freeing = true })
	if sh == nil {
		return nil
	}
	if err := n.Free(ctx, s.drive, []metadata.ShardRef{sh.Ref()}); err != nil {
		return fmt.Errorf("free: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.freed, sh.busy = true, false
	return nil
}

func (s *sim) confirm(ctx context.Context, n *Node, rng *rand.Rand) error {
	sh := s.pick(rng, func(*simShard) {})
	if sh == nil {
		return nil
	}
	err := n.Confirm(ctx, s.drive, []metadata.ShardRef{sh.Ref()})
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.busy = false
	return err
}

func (s *sim) putRecord(ctx context.Context, n *Node, rng *rand.Rand) error {
	r := &simRecord{rec: metadata.Record{Type: metadata.RecordManifest, Epoch: rng.Uint64()}, payload: make([]byte, rng.IntN(900))}
	for i := range r.payload {
		r.payload[i] = byte(rng.Uint32())
	}
	for i := range r.rec.Shard.Chunk {
		r.rec.Shard.Chunk[i] = byte(rng.Uint32())
	}
	s.mu.Lock()
	s.records = append(s.records, r)
	s.mu.Unlock()
	if err := n.PutRecord(ctx, s.drive, &r.rec, metadata.PayloadOf(r.payload)); err != nil {
		return fmt.Errorf("put record: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.acked = true
	s.answered()
	return nil
}

// check compares the drive with the model.
func (s *sim) check(ctx context.Context, n *Node) error {
	rows, err := n.List(ctx, s.drive, metadata.ShardRef{}, false, 1<<20)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	listed := map[metadata.ShardRef]bool{}
	for i := range rows {
		listed[rows[i].Ref()] = true
	}
	s.mu.Lock()
	shards := slices.Clone(s.shards)
	records := slices.Clone(s.records)
	s.mu.Unlock()
	for _, sh := range shards {
		err := shardtest.Check(ctx, n, s.drive, sh.Shard)
		if err != nil && !sh.acked {
			// Bytes are not verified as they are read: Verify tells.
			err = n.Verify(ctx, s.drive, sh.Ref())
			if err == nil {
				return errors.New("shard that was not acknowledged has other bytes and passes Verify")
			}
		}
		missing := errors.Is(err, metadata.ErrShardNotFound)
		s.checked++
		switch {
		case sh.acked && !sh.freeing:
			if err != nil {
				return fmt.Errorf("acknowledged shard of %d bytes is lost: %w", len(sh.Framed), err)
			}
			if !listed[sh.Ref()] {
				return errors.New("acknowledged shard is not listed")
			}
		case sh.freed && (!missing || listed[sh.Ref()]):
			return fmt.Errorf("freed shard is there in the same life: %v, listed %t", err, listed[sh.Ref()])
		case err == nil && !listed[sh.Ref()]:
			return errors.New("shard is there but not listed")
		case err != nil && !missing && !errors.Is(err, metadata.ErrCorrupt):
			return fmt.Errorf("shard that was not acknowledged: %w", err)
		}
		delete(listed, sh.Ref())
	}
	// After a cut a shard whose Put had not ended is unknown to nobody: all are
	// in the model.
	if len(listed) > 0 {
		return fmt.Errorf("%d rows of shards that never were", len(listed))
	}
	if err := s.checkFiles(n); err != nil {
		return err
	}
	return s.checkRecords(ctx, n, records)
}

// checkFiles says that no file is there that the index does not know: nobody
// would ever remove it.
func (s *sim) checkFiles(n *Node) error {
	d := n.Drives()[0]
	dirs, err := d.listDirs(0)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		ids, err := d.listDir(dir)
		if err != nil {
			return err
		}
		for _, id := range ids {
			d.segMu.Lock()
			known, err := d.knowsFile(dir, id)
			d.segMu.Unlock()
			if err != nil || !known {
				return fmt.Errorf("%s is there and unknown to the index: %v", fileName(dir, id), err)
			}
		}
	}
	return nil
}

func (s *sim) checkRecords(ctx context.Context, n *Node, records []*simRecord) error {
	found := map[metadata.ChunkID]string{}
	err := n.Records(ctx, s.drive, metadata.RecordManifest, func(rec *metadata.Record, payload []byte) error {
		found[rec.Shard.Chunk] = string(payload)
		return nil
	})
	if err != nil {
		return fmt.Errorf("records: %w", err)
	}
	for _, r := range records {
		s.checked++
		if payload, ok := found[r.rec.Shard.Chunk]; r.acked && (!ok || payload != string(r.payload)) {
			return fmt.Errorf("acknowledged record of %d bytes is lost", len(r.payload))
		}
	}
	return nil
}

// runSim makes cuts until there were so many or one has shown an error.
func runSim(ctx context.Context, seed uint64, cuts int, f faults) (done, checked int, err error) {
	for iteration := uint64(0); done < cuts; iteration++ {
		s, err := newSim(seed<<32|iteration, f)
		if err != nil {
			return done, checked, err
		}
		for life := 0; s.cuts < 4 && life < 8; life++ {
			if err := s.life(ctx); err != nil {
				return done + s.cuts, checked + s.checked, fmt.Errorf("iteration %d, life %d: %w", iteration, life, err)
			}
		}
		done += s.cuts
		checked += s.checked
	}
	return done, checked, nil
}

// TestPowerCuts is T-SIM of the reliability plan: nothing acknowledged is ever
// lost in a power cut, whatever else is.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	const workers = 2
	total := simCuts(t)
	for w := range workers {
		t.Run(strconv.Itoa(w), func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			cuts, checked, err := runSim(t.Context(), *simSeed*workers+uint64(w), total/workers, faults{})
			t.Logf("seed %d: %d cuts, %d shards and records checked, %.0f cuts/s",
				*simSeed, cuts, checked, float64(cuts)/time.Since(start).Seconds())
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPowerCutsFindBugs shows that the simulation has teeth.
func TestPowerCutsFindBugs(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]faults{
		"segments are not synced":               {skipDataSync: true},
		"directories are not synced":            {skipDirSync: true},
		"answers come before the sync":          {ackEarly: true},
		"unsealed segments are trusted":         {trustUnsealed: true},
		"an old record goes before the new is":  {freeEarly: true},
		"compaction does not look at the index": {keepFreed: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cuts, _, err := runSim(t.Context(), *simSeed+1000, 1000, f)
			if err == nil {
				t.Errorf("not found in %d cuts", cuts)
			}
			t.Logf("found after %d cuts: %v", cuts, err)
		})
	}
}
