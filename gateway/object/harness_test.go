package object

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// world is a machine: production metadata and drives on a file system in
// memory, faults in between, and an engine.
type world struct {
	*Engine
	t      testing.TB
	fs     vfs.FS
	meta   *faultyMetadata
	shards *faultyShards
	drives []topology.DriveID
	node   *node.Node
}

type setup struct {
	scheme  metadata.Scheme
	drives  int // 0: as many as the scheme needs
	groups  int // 0: 4
	fs      vfs.FS
	dir     string
	options func(*Options)
	memory  int64 // of the metadata; 0: 12 MiB
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// staticKeys is a keyring of one master key for tests: it wraps by exclusive or.
type staticKeys struct{ pad seal.Key }

func (k staticKeys) WrapAccount(_ context.Context, _ metadata.AccountID, _ metadata.KeyID, plain seal.Key) (metadata.KeyID, []byte, error) {
	out := make([]byte, len(plain))
	for i := range plain {
		out[i] = plain[i] ^ k.pad[i]
	}
	return metadata.KeyID{1}, out, nil
}

func (k staticKeys) UnwrapAccount(_ context.Context, _ metadata.AccountID, _, _ metadata.KeyID, wrapped []byte) (key seal.Key, err error) {
	if len(wrapped) != len(key) {
		return key, errors.New("not a wrapped key")
	}
	for i := range key {
		key[i] = wrapped[i] ^ k.pad[i]
	}
	return key, nil
}

// newWorld starts a machine with one bucket, "b".
func newWorld(t testing.TB, s setup) *world {
	t.Helper()
	if s.scheme == (metadata.Scheme{}) {
		s.scheme = metadata.NewScheme(4, 2)
	}
	if s.drives == 0 {
		s.drives = s.scheme.Total()
	}
	if s.groups == 0 {
		s.groups = 4
	}
	if s.fs == nil {
		s.fs = vfs.NewMem()
	}
	w := &world{t: t, fs: s.fs}
	s.memory = max(s.memory, 12<<20)
	local, err := replica.Open(s.fs.PathJoin(s.dir, "state"), replica.Options{FS: s.fs, ReserveBytes: -1, AcceptClock: true,
		MemTableBytes: uint64(s.memory / 3), CacheBytes: s.memory * 2 / 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, local.Close()) })
	w.meta = &faultyMetadata{Metadata: local}
	w.openNode(s)
	w.shards = &faultyShards{Shards: w.node}
	w.layOut(s)
	o := Options{
		Metadata: w.meta, Shards: w.shards, Drives: w.shards, Keys: staticKeys{seal.Key{7}}, Encryption: true,
		Region: "fr-metro", HedgeAfter: time.Second,
	}
	if testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if s.options != nil {
		s.options(&o)
	}
	if w.Engine, err = New(o); err != nil {
		t.Fatal(err)
	}
	w.start()
	if err := w.CreateBucket(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) openNode(s setup) {
	w.t.Helper()
	opts := node.Options{FS: s.fs, Clock: systemClock{}, Cluster: node.ClusterID{9}, BallastBytes: -1, PreallocateBytes: -1,
		MaintenanceInterval: time.Hour, ScrubInterval: -1}
	var paths []string
	for i := range s.drives {
		path := s.fs.PathJoin(s.dir, fmt.Sprintf("d%d", i+1))
		id, err := node.Format(s.fs, rand.Reader, path, node.Formatting{Cluster: opts.Cluster, Site: "par1"})
		if err != nil {
			w.t.Fatal(err)
		}
		w.drives = append(w.drives, id)
		paths = append(paths, path)
	}
	n, refused, err := node.Open(context.Background(), opts, paths)
	if err != nil || len(refused) > 0 {
		w.t.Fatal(err, refused)
	}
	w.node = n
	w.t.Cleanup(func() { check(w.t, n.Close()) })
}

// layOut makes the tables of drives and placement groups.
func (w *world) layOut(s setup) {
	w.t.Helper()
	drives := &metadata.DriveTable{Version: 1}
	for _, id := range slices.SortedFunc(slices.Values(w.drives), func(a, b topology.DriveID) int { return bytes.Compare(a[:], b[:]) }) {
		drives.Drives = append(drives.Drives, topology.Drive{ID: id, Site: "par1", State: topology.DriveActive, CapacityBytes: 1 << 40})
	}
	pgs := &metadata.PGTable{Version: 1}
	for g := range s.groups {
		members := slices.Clone(w.drives)
		mathrand.New(mathrand.NewPCG(uint64(g), 1)).Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		pgs.Groups = append(pgs.Groups, metadata.PG{ID: uint32(g), Scheme: s.scheme,
			Generations: []metadata.Generation{{Number: 1, Members: members[:s.scheme.Total()]}}})
	}
	for _, cmd := range []*metadata.Command{
		{Kind: metadata.KindPutDrives, Drives: drives},
		{Kind: metadata.KindPushPGs, PGs: pgs},
	} {
		cmd.Version = 1
		rand.Read(cmd.Request[:])
		if _, err := w.meta.Metadata.Commit(context.Background(), cmd); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) start() {
	w.t.Helper()
	if err := w.Start(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.stop)
	if _, err := w.EnsureAccount(context.Background(), "root", "c0ffee"); err != nil {
		w.t.Fatal(err)
	}
}

// stop closes the engine and sees that nothing was leaked.
func (w *world) stop() {
	w.shards.reset()
	check(w.t, w.Close())
	s := w.State()
	if s.Writes.UsedBytes != 0 || s.Reads.UsedBytes != 0 || s.Writes.Waiting+s.Reads.Waiting != 0 {
		w.t.Errorf("budgets at the end: writes %+v, reads %+v", s.Writes, s.Reads)
	}
	if s.RunningReads != 0 || s.RunningWrites != 0 || s.HangingTasks != 0 || len(s.Leases.Writers) != 0 || s.Leases.OldestReader != 0 {
		w.t.Errorf("running at the end: %+v", s)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// faultyMetadata passes commits through a function.
type faultyMetadata struct {
	Metadata
	mu     sync.Mutex
	commit func(cmd *metadata.Command, next func() (*metadata.Result, error)) (*metadata.Result, error)
}

func (m *faultyMetadata) set(f func(cmd *metadata.Command, next func() (*metadata.Result, error)) (*metadata.Result, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commit = f
}

func (m *faultyMetadata) Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error) {
	m.mu.Lock()
	f := m.commit
	m.mu.Unlock()
	next := func() (*metadata.Result, error) { return m.Metadata.Commit(ctx, cmd) }
	if f == nil {
		return next()
	}
	return f(cmd, next)
}

// fault is what happens to one call on a drive.
type fault struct {
	err   error
	wait  <-chan struct{}           // before the call
	spoil func(p []byte)            // what a read returned, or before it is written
	rot   func(p []byte, off int64) // what a read from there returned
}

// faultyShards puts faults before production drives.
type faultyShards struct {
	Shards
	mu     sync.Mutex
	decide func(op string, drive topology.DriveID, ref metadata.ShardRef) fault
	down   map[topology.DriveID]bool
	freed  []metadata.ShardRef
	open   int // writers
}

func (s *faultyShards) set(f func(op string, drive topology.DriveID, ref metadata.ShardRef) fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decide = f
}

func (s *faultyShards) reset() {
	s.set(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = nil
}

// lose makes drives unreachable; health knows.
func (s *faultyShards) lose(drives ...topology.DriveID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down == nil {
		s.down = make(map[topology.DriveID]bool)
	}
	for _, d := range drives {
		s.down[d] = true
	}
}

func (s *faultyShards) Condition(d topology.DriveID) Condition {
	s.mu.Lock()
	defer s.mu.Unlock()
	up := !s.down[d]
	return Condition{Readable: up, Writable: up}
}

func (s *faultyShards) fault(op string, d topology.DriveID, ref metadata.ShardRef) fault {
	s.mu.Lock()
	f, down := s.decide, s.down[d]
	s.mu.Unlock()
	if down {
		return fault{err: metadata.ErrDriveAbsent}
	}
	if f == nil {
		return fault{}
	}
	k := f(op, d, ref)
	if k.wait != nil {
		<-k.wait
	}
	return k
}

func (s *faultyShards) Create(ctx context.Context, d topology.DriveID, rec *metadata.Record, n int64) (ShardWriter, error) {
	return s.create(s.Shards.Create, ctx, d, rec, n)
}

func (s *faultyShards) CreateNew(ctx context.Context, d topology.DriveID, rec *metadata.Record, n int64) (ShardWriter, error) {
	return s.create(s.Shards.CreateNew, ctx, d, rec, n)
}

type createFunc func(ctx context.Context, d topology.DriveID, rec *metadata.Record, n int64) (ShardWriter, error)

func (s *faultyShards) create(next createFunc, ctx context.Context, d topology.DriveID, rec *metadata.Record, n int64) (ShardWriter, error) {
	if f := s.fault("create", d, rec.Ref()); f.err != nil {
		return nil, f.err
	}
	w, err := next(ctx, d, rec, n)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	return &faultyWriter{s: s, w: w, drive: d, ref: rec.Ref()}, nil
}

type faultyWriter struct {
	s     *faultyShards
	w     ShardWriter
	drive topology.DriveID
	ref   metadata.ShardRef
	ended bool
}

func (w *faultyWriter) Write(p []byte) (int, error) {
	f := w.s.fault("write", w.drive, w.ref)
	if f.err != nil {
		return 0, f.err
	}
	if f.spoil != nil {
		f.spoil(p)
	}
	return w.w.Write(p)
}

func (w *faultyWriter) Close(footer *metadata.Footer) error {
	if f := w.s.fault("close", w.drive, w.ref); f.err != nil {
		return f.err
	}
	err := w.w.Close(footer)
	w.end()
	return err
}

func (w *faultyWriter) Abort() {
	w.w.Abort()
	w.end()
}

func (w *faultyWriter) end() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if !w.ended {
		w.ended = true
		w.s.open--
	}
}

func (s *faultyShards) ReadAt(ctx context.Context, d topology.DriveID, ref metadata.ShardRef, dst []byte, off int64) error {
	f := s.fault("read", d, ref)
	if f.err != nil {
		return f.err
	}
	if err := s.Shards.ReadAt(ctx, d, ref, dst, off); err != nil {
		return err
	}
	if f.spoil != nil {
		f.spoil(dst)
	}
	if f.rot != nil {
		f.rot(dst, off)
	}
	return nil
}

func (s *faultyShards) PutRecord(ctx context.Context, d topology.DriveID, rec *metadata.Record, payload metadata.Payload) error {
	if f := s.fault("record", d, rec.Ref()); f.err != nil {
		return f.err
	}
	return s.Shards.PutRecord(ctx, d, rec, payload)
}

func (s *faultyShards) List(ctx context.Context, d topology.DriveID, after metadata.ShardRef, pendingOnly bool, limit int) ([]metadata.StoredShard, error) {
	if f := s.fault("list", d, after); f.err != nil {
		return nil, f.err
	}
	return s.Shards.List(ctx, d, after, pendingOnly, limit)
}

func (s *faultyShards) Free(ctx context.Context, d topology.DriveID, refs []metadata.ShardRef) error {
	s.mu.Lock()
	s.freed = append(s.freed, refs...)
	s.mu.Unlock()
	return s.Shards.Free(ctx, d, refs)
}

func (s *faultyShards) Settle(ctx context.Context, d topology.DriveID) error {
	if f := s.fault("settle", d, metadata.ShardRef{}); f.err != nil {
		return f.err
	}
	return s.Shards.Settle(ctx, d)
}

// stored counts the shards on all drives.
func (w *world) stored() int {
	w.t.Helper()
	n := 0
	for _, d := range w.drives {
		rows, err := w.node.List(context.Background(), d, metadata.ShardRef{}, false, 100_000)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range rows {
			if r.Type == metadata.RecordShard {
				n++
			}
		}
	}
	return n
}

// payload returns n bytes that depend on seed and place.
func payload(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := mathrand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(n), byte(n >> 8), byte(n >> 16)})
	r.Read(b)
	return b
}

// text returns n bytes that compress well.
func text(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "line %d of a log that repeats itself, and again %d\n", i, i%17)
	}
	return b.Bytes()[:n]
}

func (w *world) put(key string, body []byte) (*PutResult, error) {
	return w.Put(w.t.Context(), &PutRequest{Bucket: "b", Key: key, Body: Body{Reader: bytes.NewReader(body), Bytes: int64(len(body))}})
}

func (w *world) mustPut(key string, body []byte) *PutResult {
	w.t.Helper()
	r, err := w.put(key, body)
	if err != nil {
		w.t.Fatalf("Put %s of %d bytes: %v", key, len(body), err)
	}
	return r
}

func (w *world) read(key string, r Range) ([]byte, error) {
	o, err := w.Get(w.t.Context(), &GetRequest{Bucket: "b", Key: key, Range: r})
	if err != nil {
		return nil, err
	}
	defer o.Close()
	var got bytes.Buffer
	if _, err := o.WriteTo(&got); err != nil {
		return got.Bytes(), err
	}
	if int64(got.Len()) != o.Length {
		return got.Bytes(), fmt.Errorf("read %d bytes of %d without an error", got.Len(), o.Length)
	}
	return got.Bytes(), nil
}

func (w *world) expect(key string, want []byte) {
	w.t.Helper()
	got, err := w.read(key, Range{})
	if err != nil {
		w.t.Fatalf("Get %s: %v", key, err)
	}
	if !bytes.Equal(got, want) {
		w.t.Fatalf("Get %s: %d bytes that are not the %d written", key, len(got), len(want))
	}
}

var _ io.WriterTo = (*Object)(nil)

func refsOf(c *metadata.Chunk, i int) []metadata.ShardRef {
	return []metadata.ShardRef{{PG: c.PG, Shard: metadata.ShardID{Chunk: c.ID, Index: uint8(i)}}}
}
