package keeper

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// memory is metadata of one group in memory: enough to run the loops of a
// keeper in a bubble, where no file system may wait.
type memory struct {
	Metadata
	mu      sync.Mutex
	order   uint64
	outbox  []metadata.OutboxEntry
	root    []metadata.OutboxEntry
	members [groupCount]metadata.ManifestMembers
	written int
	looks   int
}

func (m *memory) Drives(context.Context) (*metadata.DriveTable, error) {
	t := &metadata.DriveTable{}
	for i := range 6 {
		t.Drives = append(t.Drives, topology.Drive{ID: topology.DriveID{byte(i + 1)}, State: topology.DriveActive})
	}
	return t, nil
}

func (m *memory) PGs(context.Context) (*metadata.PGTable, error) {
	return &metadata.PGTable{Groups: []metadata.PG{{Scheme: metadata.NewScheme(4, 2)}}}, nil
}

func (m *memory) Accounts(context.Context) ([]metadata.Account, error)     { return nil, nil }
func (m *memory) AccessKeys(context.Context) ([]metadata.AccessKey, error) { return nil, nil }
func (m *memory) Incarnation(context.Context) (metadata.Incarnation, error) {
	return metadata.Incarnation{}, nil
}
func (m *memory) Buckets(context.Context, string, string, int) ([]metadata.Bucket, error) {
	return nil, nil
}
func (m *memory) CommandVersion(context.Context, uint32) (uint16, error) { return 2, nil }
func (m *memory) CurrentKeys(context.Context, uint32, metadata.KeyRef, int) ([]metadata.KeyOrder, error) {
	return nil, nil
}

func (m *memory) BucketByID(_ context.Context, id metadata.BucketID) (*metadata.Bucket, error) {
	return &metadata.Bucket{ID: id, Name: "b", Group: 1}, nil
}

func (m *memory) ManifestMembers(_ context.Context, group uint32) (*metadata.ManifestMembers, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	row := m.members[group]
	return &row, nil
}

func (m *memory) Orders(_ context.Context, _ uint32, keys []metadata.KeyRef) (*metadata.OrdersResult, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &metadata.OrdersResult{Order: m.order, Orders: make([]uint64, len(keys))}, nil
}

func (m *memory) Outbox(_ context.Context, group uint32, _ uint64, limit int) ([]metadata.OutboxEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looks++
	if group == metadata.RootGroup {
		return append([]metadata.OutboxEntry(nil), m.root[:min(limit, len(m.root))]...), nil
	}
	if group != 1 {
		return nil, nil
	}
	return append([]metadata.OutboxEntry(nil), m.outbox[:min(limit, len(m.outbox))]...), nil
}

// OpenKeys finds nothing: all that the memory tells of are deletions.
func (m *memory) OpenKeys(_ context.Context, _ uint32, keys []metadata.KeyRef) ([]metadata.OpenedKey, error) {
	opened := make([]metadata.OpenedKey, len(keys))
	for i := range keys {
		opened[i].KeyRef = keys[i]
	}
	return opened, nil
}

func (m *memory) propose(_ context.Context, cmd *metadata.Command) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if cmd.Members != nil {
		m.members[cmd.Group] = *cmd.Members
		return nil
	}
	for len(m.root) > 0 && cmd.Group == metadata.RootGroup && m.root[0].Order <= cmd.Manifested.Upto {
		m.root = m.root[1:]
	}
	for len(m.outbox) > 0 && cmd.Group == 1 && m.outbox[0].Order <= cmd.Manifested.Upto {
		m.outbox = m.outbox[1:]
		m.written++
	}
	return nil
}

// change adds deletions to the outbox.
func (m *memory) change(k *Keeper, n int) {
	m.mu.Lock()
	for range n {
		m.order = max(m.order+1, uint64(time.Now().UnixMicro()))
		m.outbox = append(m.outbox, metadata.OutboxEntry{Order: m.order, Kind: metadata.OutboxDeleted, Key: fmt.Sprint("k", m.order)})
	}
	m.mu.Unlock()
	for range n {
		k.Kick(1)
	}
}

func (m *memory) done() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.written
}

// loops runs a keeper in a bubble.
func loops(t *testing.T, test func(t *testing.T, m *memory, d *fakeDrives, k *Keeper)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		d := newFakeDrives()
		k, err := New(Options{Metadata: m, Drives: d, Propose: m.propose, Rand: zeros{}, PassPeriod: 3 * time.Hour,
			Epoch: func() (uint64, func(), error) { return 1, func() {}, nil }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { k.Run(ctx) })
		synctest.Wait()
		test(t, m, d, k)
		cancel()
		running.Wait()
	})
}

// zeros is a source of nothing random: in a bubble the real one may wait.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestChangesAreWrittenWithinTwoSeconds(t *testing.T) {
	loops(t, func(t *testing.T, m *memory, d *fakeDrives, k *Keeper) {
		m.change(k, 3)
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		if m.done() != 0 {
			t.Error("written before others could share the record")
		}
		if lag := k.State().Lag; lag < 0 {
			t.Errorf("lag %v", lag)
		}
		m.change(k, 2)
		time.Sleep(time.Second)
		synctest.Wait()
		if m.done() != 5 {
			t.Errorf("%d of 5 changes written after 1.5 s", m.done())
		}
		// Many do not wait.
		m.change(k, hurry)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if m.done() != 5+hurry {
			t.Errorf("%d changes written at once, want %d", m.done()-5, hurry)
		}
		if n := d.puts; n < 6 {
			t.Errorf("%d records", n)
		}
	})
}

// changeRoot changes a table of the root, and returns its order.
func (m *memory) changeRoot(k *Keeper) uint64 {
	m.mu.Lock()
	m.order = max(m.order+1, uint64(time.Now().UnixMicro()))
	order := m.order
	m.root = append(m.root, metadata.OutboxEntry{Order: order, Kind: metadata.OutboxRoot})
	m.mu.Unlock()
	k.Kick(metadata.RootGroup)
	return order
}

// roots returns how many tables of the root a drive was given, and up to which
// order.
func (d *fakeDrives) roots(t *testing.T, drive topology.DriveID) (n int, newest uint64) {
	t.Helper()
	err := d.Records(t.Context(), drive, metadata.RecordRoot, func(rec *metadata.Record, payload []byte) error {
		n++
		root, err := manifest.OpenRoot(nil, seal.ClusterID{}, rec.Shard.Chunk, payload)
		newest = max(newest, root.Order)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n, newest
}

// TestTablesOfTheRootAreWrittenAtOnce: a change of them, after which data may
// lie elsewhere, does not wait for others, nor for groups whose drives hang. Many
// changes share a record.
func TestTablesOfTheRootAreWrittenAtOnce(t *testing.T) {
	loops(t, func(t *testing.T, m *memory, d *fakeDrives, k *Keeper) {
		time.Sleep(time.Minute)
		drive := topology.DriveID{3}
		for range parallelGroups {
			k.writing <- struct{}{} // others are at work
		}
		want := m.changeRoot(k)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if _, newest := d.roots(t, drive); newest < want {
			t.Errorf("tables of order %d after 100 ms, want %d", newest, want)
		}
		d.mu.Lock()
		puts := d.puts
		d.mu.Unlock()
		for range 100 {
			want = m.changeRoot(k)
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if _, newest := d.roots(t, drive); newest < want {
			t.Errorf("tables of order %d, want %d", newest, want)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		// What is changed while tables are written has them written once more.
		if n := (d.puts - puts) / 6; n > 14 {
			t.Errorf("written %d times in 6 s", n)
		}
		for range parallelGroups {
			<-k.writing
		}
	})
}

func TestChangesNobodyToldOfAreFound(t *testing.T) {
	loops(t, func(t *testing.T, m *memory, _ *fakeDrives, k *Keeper) {
		m.mu.Lock()
		m.order++
		m.outbox = append(m.outbox, metadata.OutboxEntry{Order: m.order, Kind: metadata.OutboxDeleted, Key: "k"})
		looks := m.looks
		m.mu.Unlock()
		time.Sleep(pollPeriod + 2*time.Second)
		synctest.Wait()
		if m.done() != 1 {
			t.Error("not found")
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if n := m.looks - looks; n > 3*groupCount {
			t.Errorf("%d looks at idle outboxes in 32 s", n)
		}
	})
}

func TestFailuresAreTriedAgain(t *testing.T) {
	loops(t, func(t *testing.T, m *memory, d *fakeDrives, k *Keeper) {
		d.mu.Lock()
		d.fail = func(topology.DriveID) error { return metadata.ErrFenced }
		d.mu.Unlock()
		m.change(k, 1)
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := k.State(); m.done() != 0 || s.Lag < 50*time.Second || len(s.LastErrors) == 0 {
			t.Errorf("while all drives fail: %d written, %+v", m.done(), s)
		}
		d.mu.Lock()
		d.fail = nil
		d.mu.Unlock()
		time.Sleep(retryMax + 2*time.Second)
		synctest.Wait()
		if s := k.State(); m.done() != 1 || s.Lag != 0 {
			t.Errorf("afterwards: %d written, lag %v", m.done(), s.Lag)
		}
	})
}

func TestPassesAreMadeWhenDue(t *testing.T) {
	loops(t, func(t *testing.T, m *memory, _ *fakeDrives, k *Keeper) {
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := k.State().Passes; n != 1 {
			t.Errorf("%d passes after all drives were filled", n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := k.State().Passes; n != 1 {
			t.Errorf("%d passes in the first hour", n)
		}
		k.pass.wrote.Add(passBytes + 1)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := k.State().Passes; n != 2 {
			t.Errorf("%d passes after much was written", n)
		}
		k.Pass()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := k.State().Passes; n != 3 {
			t.Errorf("%d passes after one was asked for", n)
		}
		time.Sleep(3*time.Hour + time.Minute)
		synctest.Wait()
		if n := k.State().Passes; n != 4 {
			t.Errorf("%d passes a period later", n)
		}
	})
}

func TestOptionsAreValidated(t *testing.T) {
	t.Parallel()
	if err := (Options{PassPeriod: -1}).Validate(); err == nil {
		t.Error("no options are taken")
	}
	if _, err := New(Options{}); err == nil {
		t.Error("a keeper without options")
	}
}
