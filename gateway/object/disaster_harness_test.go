package object

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/recovery"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/placement"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// machine is production metadata, drives and an engine on a file system that
// can crash, and be opened again from what was durable.
type machine struct {
	*Engine
	t      *testing.T
	rng    *mathrand.Rand // of the clients, one goroutine
	luck   *mathrand.Rand // of the power, guarded by mu
	fs     *vfs.MemFS
	state  string // directory of the metadata
	local  *replica.Local
	meta   *faultyMetadata
	node   *node.Node
	shards *faultyShards
	paths  map[topology.DriveID]string // of all drives that are or were there
	made   int                         // drives ever formatted
	away   map[topology.DriveID]bool   // drives that do not answer

	mu    sync.Mutex // guards what follows
	fuse  int        // steps until the power fails, 0 for never
	crash *vfs.MemFS // what was durable when it failed; nil while it has not
}

const disasterDrives = 8

func newMachine(t *testing.T, seed uint64) *machine {
	m := &machine{t: t, rng: mathrand.New(mathrand.NewPCG(seed, 11)), luck: mathrand.New(mathrand.NewPCG(seed, 12)), fs: vfs.NewCrashableMem(), state: "state", paths: make(map[topology.DriveID]string), away: make(map[topology.DriveID]bool)}
	var drives []topology.Drive
	for range disasterDrives {
		drives = append(drives, m.format())
	}
	m.openStores(true)
	pgs, err := placement.Build(drives, metadata.NewScheme(4, 2), 16, seed)
	m.check(err)
	pgs.Version = 1
	slices.SortFunc(drives, func(a, b topology.Drive) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	m.commit(&metadata.Command{Kind: metadata.KindPutDrives, Drives: &metadata.DriveTable{Version: 1, Drives: drives}})
	m.commit(&metadata.Command{Kind: metadata.KindPushPGs, PGs: pgs})
	for group := range uint32(metadata.DataGroups + 1) {
		m.commit(&metadata.Command{Kind: metadata.KindClusters, Group: group, Clusters: &metadata.ClusterVersion{Version: metadata.ManifestVersion}})
	}
	m.startEngine()
	return m
}

func (m *machine) check(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) commit(cmd *metadata.Command) {
	m.t.Helper()
	cmd.Version = 1
	rand.Read(cmd.Request[:])
	_, err := m.local.Commit(context.Background(), cmd)
	m.check(err)
}

func (m *machine) nodeOptions() node.Options {
	return node.Options{FS: m.fs, Clock: systemClock{}, Cluster: node.ClusterID{9}, BallastBytes: -1, PreallocateBytes: -1, ReserveBytes: 1 << 20,
		MaintenanceInterval: 10 * time.Minute, ScrubInterval: -1, IndexCacheBytes: 1 << 20}
}

// format makes an empty drive.
func (m *machine) format() topology.Drive {
	m.t.Helper()
	m.made++
	path := fmt.Sprintf("d%d", m.made)
	id, err := node.Format(m.fs, rand.Reader, path, node.Formatting{Cluster: node.ClusterID{9}, Site: "par1"})
	m.check(err)
	m.paths[id] = path
	return m.row(id)
}

func (m *machine) row(id topology.DriveID) topology.Drive {
	return topology.Drive{ID: id, Site: "par1", Device: m.paths[id], State: topology.DriveActive, CapacityBytes: 1 << 40}
}

// openStores opens the drives that are there, and the metadata if wanted.
func (m *machine) openStores(state bool) {
	m.t.Helper()
	var paths []string
	for _, path := range m.paths {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	n, refused, err := node.Open(context.Background(), m.nodeOptions(), paths)
	if err != nil || len(refused) > 0 {
		m.t.Fatal(err, refused)
	}
	m.node = n
	if state {
		m.openState()
	}
}

func (m *machine) openState() {
	m.t.Helper()
	var err error
	m.local, err = replica.Open(m.state, replica.Options{FS: m.fs, ReserveBytes: -1, AcceptClock: true, MemTableBytes: 4 << 20, CacheBytes: 8 << 20})
	m.check(err)
}

// startEngine starts an engine on what is open.
func (m *machine) startEngine() {
	m.t.Helper()
	m.meta = &faultyMetadata{Metadata: m.local}
	m.shards = &faultyShards{Shards: m.node}
	m.meta.set(func(_ *metadata.Command, next func() (*metadata.Result, error)) (*metadata.Result, error) {
		var result *metadata.Result
		err := m.step(func() (err error) {
			result, err = next()
			return err
		})
		return result, err
	})
	m.shards.set(func(op string, _ topology.DriveID, _ metadata.ShardRef) fault {
		if op == "list" || op == "read" {
			return fault{}
		}
		return fault{err: m.step(func() error { return nil })}
	})
	for id := range m.away {
		m.shards.lose(id)
	}
	var epoch uint64
	for _, d := range m.node.Drives() {
		epoch = max(epoch, d.Superblock().HighestEpoch)
	}
	var err error
	m.Engine, err = New(Options{Metadata: m.meta, Shards: m.shards, Drives: m.shards, Keys: staticKeys{seal.Key{7}}, RootKeys: rootKeys{}, Encryption: true,
		Region: "fr-metro", HedgeAfter: time.Second, CommitTimeout: 5 * time.Second, HighestEpoch: epoch,
		Background: &BackgroundOptions{ManifestPeriod: 30 * time.Minute, TransientDelay: time.Minute, Quarantine: 30 * time.Minute}})
	m.check(err)
	m.check(m.Start(context.Background()))
	_, err = m.EnsureAccount(context.Background(), "root", "c0ffee")
	m.check(err)
}

// errPower is what everything fails with once the power has failed.
var errPower = fmt.Errorf("no power: %w", metadata.ErrFenced)

// step lets the power fail before or after something, when the fuse is burnt.
func (m *machine) step(f func() error) error {
	m.mu.Lock()
	if m.crash != nil {
		m.mu.Unlock()
		return errPower
	}
	fails := m.fuse == 1
	m.fuse = max(0, m.fuse-1)
	after := fails && m.luck.IntN(2) == 0
	if fails && !after {
		m.cut()
		m.mu.Unlock()
		return errPower
	}
	m.mu.Unlock()
	err := f()
	if after {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.cut()
		return errPower
	}
	return err
}

// cut keeps what is durable, and some of what is not. The caller holds mu.
func (m *machine) cut() {
	m.crash = m.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: m.luck.IntN(91), RNG: mathrand.New(mathrand.NewPCG(m.luck.Uint64(), 3))})
}

// burn has the power fail within some steps from now.
func (m *machine) burn(steps int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fuse = steps
}

func (m *machine) failed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.crash != nil
}

// close ends everything. What is not durable may be lost with that.
func (m *machine) close() {
	m.t.Helper()
	m.check(m.Close())
	m.check(m.node.Close())
	m.check(m.local.Close())
}

// reboot opens everything again after the power has failed.
func (m *machine) reboot() {
	m.t.Helper()
	m.mu.Lock()
	fs := m.crash
	m.mu.Unlock()
	m.close()
	m.fs, m.crash, m.fuse = fs, nil, 0
	m.openStores(true)
	m.startEngine()
}

// disaster loses the metadata, some drives and all that is not durable, and
// recovers.
func (m *machine) disaster(lost []topology.DriveID) {
	m.t.Helper()
	m.mu.Lock()
	if m.crash == nil {
		m.cut()
	}
	fs := m.crash
	m.mu.Unlock()
	m.close()
	m.fs, m.crash, m.fuse = fs, nil, 0
	for _, id := range lost {
		delete(m.paths, id)
	}
	m.check(m.fs.RemoveAll(m.state))
	m.openStores(false)
	o := recovery.Options{Keys: rootKeys{staticKeys{seal.Key{7}}}, FS: vfs.NewMem(), Scratch: "scratch", Now: time.Now, Workers: 8, MemoryBytes: 1 << 20}
	for _, d := range m.node.Drives() {
		o.Drives = append(o.Drives, recovery.Drive{Row: m.row(d.ID()), Path: d.Path(), Epoch: d.Superblock().HighestEpoch, Records: d})
	}
	found, err := recovery.Collect(context.Background(), o)
	m.check(err)
	m.state += "'"
	m.openState()
	report, err := found.Restore(context.Background(), m.local)
	m.check(err)
	m.check(found.Close())
	if !report.Complete() {
		m.t.Errorf("report %+v", report)
	}
	m.check(m.node.Close())
	m.openStores(false)
	for _, d := range m.node.Drives() {
		m.check(d.Suspect(context.Background(), nil))
	}
	m.startEngine()
}

// confirm says that nothing more comes back: garbage may be freed.
func (m *machine) confirm() {
	m.t.Helper()
	i, err := m.local.Incarnation(context.Background())
	m.check(err)
	i.Collection = true
	epoch, release, err := m.Epoch()
	m.check(err)
	defer release()
	cmd := &metadata.Command{Kind: metadata.KindPutIncarnation, Version: 1, Epoch: epoch, Incarnation: &i}
	rand.Read(cmd.Request[:])
	_, err = m.local.Commit(context.Background(), cmd)
	m.check(err)
}

// settled reports whether another two drives may be lost: everything is where
// it should be.
func (m *machine) settled() bool {
	drives, err := m.local.Drives(context.Background())
	m.check(err)
	pgs, err := m.local.PGs(context.Background())
	m.check(err)
	if slices.ContainsFunc(drives.Drives, func(d topology.Drive) bool { return d.State == topology.DriveDraining }) ||
		slices.ContainsFunc(pgs.Groups, func(g metadata.PG) bool { return len(g.Generations) > 1 || g.Newest().Moving }) {
		return false
	}
	s, r := m.ManifestState(), m.RepairState()
	return s.Lag == 0 && s.Filling == 0 && s.Short == 0 && len(m.RebuildState().Drives) == 0 && r.Queued+r.Running == 0 && m.short() == 0
}

// short is how many chunks lack shards.
func (m *machine) short() (n int) {
	for group := uint32(1); group <= metadata.DataGroups; group++ {
		rows, err := m.local.Short(context.Background(), group, nil, 1000)
		m.check(err)
		n += len(rows)
	}
	return n
}

// fetch returns an object, nil if there is none.
func (m *machine) fetch(bucket, key string) ([]byte, error) {
	o, err := m.Get(context.Background(), &GetRequest{Bucket: bucket, Key: key})
	if errors.Is(err, metadata.ErrNoSuchKey) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer o.Close()
	got := bytes.NewBuffer(make([]byte, 0, 1))
	_, err = o.WriteTo(got)
	return got.Bytes(), err
}
