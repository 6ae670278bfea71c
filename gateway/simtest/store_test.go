package simtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/placement"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// plan is the shape of a store and the pace of what it does by itself.
type plan struct {
	scheme metadata.Scheme
	drives int
	groups int // placement groups
	copies int // of the metadata; 1 is the engine without consensus

	segment    int64 // bytes of a shared segment
	inline     int   // longest body that is kept in the metadata
	maintain   time.Duration
	epoch      time.Duration
	trash      time.Duration // period and grace
	pending    time.Duration // period
	quarantine time.Duration
	clock      time.Duration
	background bool
	spare      bool  // there is one drive more, that no table knows
	reserve    int64 // bytes that the metadata keep free, -1 for none
}

const sparePath = "drives/spare"

// smallPlan has cells, segments and times so small that little work does
// everything.
func smallPlan(drives int) plan {
	p := plan{
		scheme: metadata.SchemeFor(drives), drives: drives, groups: 4, copies: 1, reserve: -1,
		segment: 32 << 10, inline: 1 << 10, maintain: 5 * time.Second, epoch: time.Minute, trash: 20 * time.Second,
		pending: time.Minute, quarantine: 2 * time.Minute, clock: 30 * time.Second, background: true,
	}
	return p
}

var cluster = node.ClusterID{9}

// bucketName is that of the bucket that every store begins with.
const bucketName = "b"

// systemClock is the time of the bubble.
type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// masterKey is a keyring of one key: it wraps by exclusive or.
type masterKey struct{ pad seal.Key }

func (k masterKey) wrap(key seal.Key) (out seal.Key) {
	for i := range key {
		out[i] = key[i] ^ k.pad[i]
	}
	return out
}

func (k masterKey) WrapAccount(_ context.Context, _ metadata.AccountID, _ metadata.KeyID, plain seal.Key) (metadata.KeyID, []byte, error) {
	wrapped := k.wrap(plain)
	return metadata.KeyID{1}, wrapped[:], nil
}

func (k masterKey) UnwrapAccount(_ context.Context, _ metadata.AccountID, _, _ metadata.KeyID, wrapped []byte) (key seal.Key, err error) {
	if copy(key[:], wrapped) != len(key) {
		return key, errors.New("simtest: not a wrapped key")
	}
	return k.wrap(key), nil
}

// randomness is a source of random bytes with a seed.
func randomness(seed uint64) *rand.ChaCha8 {
	var s [32]byte
	binary.LittleEndian.PutUint64(s[:], seed)
	return rand.NewChaCha8(s)
}

// lockedRandom lets several goroutines read from one source.
type lockedRandom struct {
	mu  sync.Mutex
	src *rand.ChaCha8
}

func (r *lockedRandom) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.src.Read(p)
}

// metadataEngine is what a store needs of the metadata.
type metadataEngine interface {
	object.Metadata
	replica.Restorable
	Close() error
}

// store is the production code of one machine, open.
type store struct {
	*object.Engine
	plan   plan
	disk   *disk
	meta   metadataEngine
	node   *node.Node
	drives []topology.DriveID // as the table has them
	away   []node.Refused
	tasks  *sync.WaitGroup
}

// site is where everything is, wrappers around what the parts see of each
// other, and what the last life has left to remember.
type site struct {
	plan     plan
	fs       *vfs.MemFS
	seed     uint64
	skip     []string           // paths of drives that are not mounted
	absent   []topology.DriveID // drives that were away and were not looked up since
	hooks    *disk              // hooks of the disk; its FS is replaced
	metadata func(object.Metadata) object.Metadata
	shards   func(object.Shards) object.Shards
	node     func(*node.Options)
	engine   func(*object.Options)
	tasks    sync.WaitGroup // of wrappers
	log      *slog.Logger
}

// drivePath is where a drive of a new store is mounted.
func drivePath(i int) string { return fmt.Sprintf("drives/d%d", i+1) }

// format makes the files of a new store: drives without anything on them.
func format(p plan, seed uint64) (*vfs.MemFS, error) {
	fs := vfs.NewCrashableMem()
	if err := errors.Join(fs.MkdirAll("drives", 0o700), fs.MkdirAll("state", 0o700)); err != nil {
		return nil, err
	}
	random := randomness(seed)
	paths := make([]string, p.drives, p.drives+1)
	for i := range paths {
		paths[i] = drivePath(i)
	}
	if p.spare {
		paths = append(paths, sparePath)
	}
	for _, path := range paths {
		if _, err := node.Format(fs, random, path, node.Formatting{Cluster: cluster, Site: "par1"}); err != nil {
			return nil, err
		}
	}
	root, err := fs.OpenDir("/")
	if err != nil {
		return nil, err
	}
	drives, err := fs.OpenDir("drives")
	if err != nil {
		return nil, err
	}
	return fs, errors.Join(root.Sync(), root.Close(), drives.Sync(), drives.Close())
}

// open starts the store as a server does. What was opened is closed after an
// error.
func (at *site) open(ctx context.Context) (s *store, err error) {
	progress.Add(1)
	s = &store{plan: at.plan, disk: &disk{}, tasks: &at.tasks}
	if at.hooks != nil {
		*s.disk = *at.hooks
	}
	s.disk.FS = at.fs
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	meta, err := at.openMetadata(ctx, s.disk)
	if err != nil {
		return s, fmt.Errorf("open metadata: %w", err)
	}
	s.meta = meta
	if err := at.openNode(ctx, s); err != nil {
		return s, fmt.Errorf("open drives: %w", err)
	}
	if err := at.tables(ctx, s); err != nil {
		return s, fmt.Errorf("tables: %w", err)
	}
	if err := at.lookUpReturned(ctx, s); err != nil {
		return s, err
	}
	if err := at.noticeRestore(ctx, s); err != nil {
		return s, err
	}
	if err := at.openEngine(ctx, s); err != nil {
		return s, fmt.Errorf("open engine: %w", err)
	}
	return s, nil
}

func (at *site) openNode(ctx context.Context, s *store) error {
	o := node.Options{
		FS: s.disk, Clock: systemClock{}, Cluster: cluster, Rand: &lockedRandom{src: randomness(at.seed + 1)}, Log: at.log,
		SmallShardBytes: at.plan.segment / 2, BufferBytes: 4 << 20, SegmentBytes: at.plan.segment, PreallocateBytes: -1, BallastBytes: -1,
		QueueRecords: 16, IndexCacheBytes: 1 << 20, MaintenanceInterval: at.plan.maintain, ScrubInterval: -1, ScrubBytesPerSecond: -1,
		CompactGrace: at.plan.maintain, OnBadShard: func(b node.BadShard) {
			if s.Engine != nil {
				s.ReportBadShard(object.BadShard{Drive: b.Drive, Record: b.Shard.Record, Err: b.Err})
			}
		},
	}
	if at.node != nil {
		at.node(&o)
	}
	paths, err := at.mounted()
	if err != nil {
		return err
	}
	s.node, s.away, err = node.Open(ctx, o, paths)
	return err
}

// mounted returns the directories of drives.
func (at *site) mounted() ([]string, error) {
	names, err := at.fs.List("drives")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var paths []string
	for _, name := range names {
		if path := "drives/" + name; !slices.Contains(at.skip, path) {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// commit repeats a command while its outcome is unknown.
func (s *store) commit(ctx context.Context, cmd *metadata.Command, random *lockedRandom) error {
	cmd.Version = metadata.CommandVersion
	if _, err := random.Read(cmd.Request[:]); err != nil {
		return err
	}
	for {
		_, err := s.meta.Commit(ctx, cmd)
		if !errors.Is(err, metadata.ErrUnknownOutcome) && !errors.Is(err, metadata.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// tables gives a new store the newest commands, its drives and placement groups.
func (at *site) tables(ctx context.Context, s *store) error {
	random := &lockedRandom{src: randomness(at.seed + 2)}
	for group := range uint32(metadata.DataGroups + 1) {
		version, err := s.meta.CommandVersion(ctx, group)
		if err != nil {
			return err
		}
		if version < metadata.LatestVersion {
			cmd := &metadata.Command{Kind: metadata.KindClusters, Group: group, Clusters: &metadata.ClusterVersion{Version: metadata.LatestVersion}}
			if err := s.commit(ctx, cmd, random); err != nil {
				return err
			}
		}
	}
	drives, err := s.meta.Drives(ctx)
	if err != nil {
		return err
	}
	if len(drives.Drives) == 0 {
		drives = &metadata.DriveTable{Version: 1}
		for _, st := range s.node.Status() {
			if st.Path == sparePath {
				continue
			}
			drives.Drives = append(drives.Drives, tableRow(st.ID))
		}
		if err := s.commit(ctx, &metadata.Command{Kind: metadata.KindPutDrives, Drives: drives}, random); err != nil {
			return err
		}
	}
	for _, d := range drives.Drives {
		s.drives = append(s.drives, d.ID)
	}
	pgs, err := s.meta.PGs(ctx)
	if err != nil || len(pgs.Groups) > 0 {
		return err
	}
	if pgs, err = placement.Build(drives.Drives, at.plan.scheme, at.plan.groups, 1); err != nil {
		return err
	}
	for n := range uint32(metadata.DataGroups + 1) {
		cmd := &metadata.Command{Kind: metadata.KindPushPGs, Group: (n + 1) % (metadata.DataGroups + 1), PGs: pgs}
		if err := s.commit(ctx, cmd, random); err != nil {
			return err
		}
	}
	return nil
}

// tableRow is what the table says of a drive in use.
func tableRow(id topology.DriveID) topology.Drive {
	return topology.Drive{ID: id, Site: "par1", State: topology.DriveActive, CapacityBytes: 1 << 40}
}

// lookUpReturned has drives that were away look up everything they hold.
func (at *site) lookUpReturned(ctx context.Context, s *store) error {
	for _, id := range s.drives {
		d, err := s.node.Drive(id)
		switch {
		case err != nil && !slices.Contains(at.absent, id):
			at.absent = append(at.absent, id)
		case err == nil && slices.Contains(at.absent, id):
			if err := d.Suspect(ctx, nil); err != nil {
				return fmt.Errorf("look up what a drive holds that has returned: %w", err)
			}
		}
	}
	return nil
}

// highestEpoch is the highest that any drive has seen.
func (s *store) highestEpoch() (highest uint64) {
	for _, d := range s.node.Drives() {
		highest = max(highest, d.Superblock().HighestEpoch)
	}
	return highest
}

// noticeRestore begins a new history if the metadata is older than the drives.
func (at *site) noticeRestore(ctx context.Context, s *store) error {
	known, seen := uint64(0), s.highestEpoch()
	for group := range uint32(metadata.DataGroups + 1) {
		f, err := s.meta.Fence(ctx, group)
		if err != nil {
			return err
		}
		known = max(known, f.Floor, f.Highest)
	}
	if seen <= known {
		return nil
	}
	random := &lockedRandom{src: randomness(at.seed + 3)}
	_, err := replica.Renounce(ctx, s.meta, time.Now(), 0, seen, func() (id metadata.RequestID, err error) {
		_, err = random.Read(id[:])
		return id, err
	})
	return err
}

func (at *site) openEngine(ctx context.Context, s *store) error {
	p := at.plan
	o := object.Options{
		Metadata: s.meta, Shards: s.node, Drives: conditions{s.node}, Keys: masterKey{seal.Key{7}}, Encryption: true,
		Region: "fr", HighestEpoch: s.highestEpoch(), InlineBytes: p.inline, StripeBudgetBytes: 16 << 20, ReadBudgetBytes: 16 << 20,
		EpochPeriod: p.epoch, TrashGrace: p.trash, HedgeAfter: time.Second, TopologyPeriod: time.Minute,
		StallTimeout: 4 * p.quarantine, CloseTimeout: 4 * p.quarantine, // some writers are made to pause
		Rand: randomness(at.seed + 4), Logger: at.log,
	}
	if p.background {
		o.Background = &object.BackgroundOptions{
			RepairBytesPerSecond: -1, RetryDelay: 5 * time.Second, ShortPeriod: 10 * time.Second, RebuildPeriod: 30 * time.Second, TrashPeriod: p.trash,
			PendingPeriod: p.pending, Quarantine: p.quarantine, ClockPeriod: p.clock, InventoryPeriod: time.Hour,
			InventoryNow: recovered(s.node.Status()),
		}
	}
	if at.metadata != nil {
		o.Metadata = at.metadata(o.Metadata)
	}
	if at.shards != nil {
		o.Shards = at.shards(o.Shards)
	}
	if at.engine != nil {
		at.engine(&o)
	}
	e, err := object.New(o)
	if err != nil {
		return err
	}
	s.Engine = e
	if err := e.Start(ctx); err != nil {
		return err
	}
	if _, err := e.EnsureAccount(ctx, "root", "c0ffee"); err != nil {
		return err
	}
	if err := e.CreateBucket(ctx, bucketName); err != nil && !errors.Is(err, metadata.ErrBucketExists) {
		return err
	}
	return nil
}

// recovered reports whether a drive may miss shards of which no row is left.
func recovered(all []node.DriveStatus) bool {
	return slices.ContainsFunc(all, func(s node.DriveStatus) bool {
		return s.Recovery.IndexRebuilt || s.Recovery.Damaged > 0 || s.Recovery.Unreadable > 0
	})
}

// close ends everything in the order in which a server does.
func (s *store) close() error {
	var errs []error
	if s.Engine != nil {
		errs = append(errs, s.Engine.Close())
	}
	s.tasks.Wait()
	if s.node != nil {
		errs = append(errs, s.node.Close())
	}
	if s.meta != nil {
		errs = append(errs, s.meta.Close())
	}
	return errors.Join(errs...)
}

// conditions are asked of the drives themselves.
type conditions struct{ n *node.Node }

func (c conditions) Condition(drive topology.DriveID) object.Condition {
	d, err := c.n.Drive(drive)
	if err != nil {
		return object.Condition{}
	}
	st := d.Status()
	return object.Condition{Readable: st.State != node.StateFenced, Writable: st.State == node.StateOnline, FreeBytes: st.FreeBytes, Queue: st.QueueRecords}
}

// read returns the whole body of a key.
func (s *store) read(ctx context.Context, key string) ([]byte, *object.Info, error) {
	o, err := s.Get(ctx, &object.GetRequest{Bucket: bucketName, Key: key})
	if err != nil {
		return nil, nil, err
	}
	defer o.Close()
	var got bytes.Buffer
	if _, err := o.WriteTo(&got); err != nil {
		return nil, nil, err
	}
	if int64(got.Len()) != o.Length {
		return nil, nil, fmt.Errorf("read %d bytes of %d without an error", got.Len(), o.Length)
	}
	return got.Bytes(), &o.Info, nil
}
