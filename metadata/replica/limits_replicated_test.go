package replica_test

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// TestReplicatedClock refuses a clock that contradicts any of the stores.
func TestReplicatedClock(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	e, err := replica.OpenReplicated(ps, engineOptions())
	if err != nil {
		t.Fatal(err)
	}
	prepareReplicated(t, e)
	mustPut(t, e, 1)
	waitFor(t, "all to apply it", func() bool { return allApplied(e.Status(t.Context())) })
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	o := engineOptions()
	o.Now = fixed(start.Add(-2 * time.Hour))
	if _, err := replica.OpenReplicated(ps, o); !errors.Is(err, replica.ErrAbsurdClock) {
		t.Fatalf("OpenReplicated with an old clock: %v, want %v", err, replica.ErrAbsurdClock)
	}
	o.AcceptClock = true
	e = openReplicated(t, ps, o)
	mustPut(t, e, 2)
}

// disk is a device whose free space can be changed.
type disk struct{ free atomic.Uint64 }

func (d *disk) usage() (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: d.free.Load(), TotalBytes: 100 << 30}, nil
}

// TestUsedBytesFromTheStart: what stores take is known before time has passed.
func TestUsedBytesFromTheStart(t *testing.T) {
	t.Parallel()
	o := engineOptions()
	o.Tick = 24 * time.Hour
	e := openReplicated(t, places(t, 3), o)
	waitFor(t, "the space that stores take", func() bool {
		return !slices.ContainsFunc(e.Status(t.Context()), func(s replica.StoreStatus) bool { return s.UsedBytes == 0 })
	})
}

// TestFullDevices: one of three is not missed, and leads no more; with two,
// only what makes room is taken.
func TestFullDevices(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	disks := make([]*disk, len(ps))
	for i := range ps {
		disks[i] = new(disk)
		disks[i].free.Store(50 << 30)
		ps[i].DiskUsage = disks[i].usage
		ps[i].ReserveBytes = 64 << 20
	}
	o := engineOptions()
	var now atomic.Int64
	o.Now = func() time.Time { return start.Add(time.Duration(now.Add(1)) * time.Second) }
	e := openReplicated(t, ps, o)
	prepareReplicated(t, e)
	mustPut(t, e, 1)

	leader := e.Leader(testBucket.Group)
	disks[leader-1].free.Store(1 << 20)
	waitFor(t, "another leader", func() bool { return e.Leader(testBucket.Group) != leader })
	mustPut(t, e, 2)
	if e.Metrics().Full {
		t.Error("full with one device of three")
	}
	second := e.Leader(testBucket.Group)
	disks[second-1].free.Store(1 << 20)
	waitFor(t, "the second device to be full", func() bool { return e.Metrics().Full })
	if _, err := e.Commit(t.Context(), put(request(3, 3), "k3", "v")); !errors.Is(err, metadata.ErrMetadataFull) {
		t.Errorf("Commit with two full devices: %v, want %v", err, metadata.ErrMetadataFull)
	}
	del := &metadata.Command{
		Kind: metadata.KindDeleteVersions, Version: metadata.CommandVersion, Group: testBucket.Group, Settings: 1, Epoch: 1,
		Request: request(4, 4),
		Delete:  &metadata.DeleteVersions{Bucket: testBucket.ID, Keys: []metadata.DeleteKey{{Key: "k1"}}},
	}
	if _, err := e.Commit(t.Context(), del); err != nil {
		t.Errorf("a delete with two full devices: %v", err)
	}
	disks[leader-1].free.Store(50 << 30)
	waitFor(t, "room", func() bool { return !e.Metrics().Full })
	mustPut(t, e, 5)
}

// TestFullDeviceAndOneAway: a quorum can only be had with the device that is
// full, so nothing that adds is taken before it cannot be written to at all.
func TestFullDeviceAndOneAway(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	full := new(disk)
	full.free.Store(50 << 30)
	ps[1].DiskUsage, ps[1].ReserveBytes = full.usage, 64<<20
	o := engineOptions()
	var now atomic.Int64
	o.Now = func() time.Time { return start.Add(time.Duration(now.Add(1)) * time.Second) }
	e := openReplicated(t, ps, o)
	prepareReplicated(t, e)
	mustPut(t, e, 1)
	if err := e.RemoveStore(3); err != nil {
		t.Fatal(err)
	}
	mustPut(t, e, 2)
	full.free.Store(1 << 20)
	waitFor(t, "the device to be full", func() bool { return e.Metrics().Full })
	if _, err := e.Commit(t.Context(), put(request(3, 3), "k3", "v")); !errors.Is(err, metadata.ErrMetadataFull) {
		t.Errorf("Commit: %v, want %v", err, metadata.ErrMetadataFull)
	}
	full.free.Store(50 << 30)
	waitFor(t, "room", func() bool { return !e.Metrics().Full })
	mustPut(t, e, 4)
}

// TestBrokenCommandsAreNotProposed: an entry that cannot be read back would
// stop every store.
func TestBrokenCommandsAreNotProposed(t *testing.T) {
	t.Parallel()
	e := openReplicated(t, places(t, 1), engineOptions())
	prepareReplicated(t, e)
	for _, test := range []struct {
		name string
		cmd  metadata.Command
		want error
	}{
		{"an unknown kind", metadata.Command{Kind: 9999, Version: metadata.CommandVersion}, metadata.ErrUnknownKind},
		{"no group", metadata.Command{Kind: metadata.KindClock, Version: metadata.CommandVersion, Group: 17, Clock: new(metadata.Clock)}, metadata.ErrInvalidCommand},
		{"no payload", metadata.Command{Kind: metadata.KindClock, Version: metadata.CommandVersion}, metadata.ErrInvalidCommand},
		{"a kind that is not active", metadata.Command{
			Kind: metadata.KindPutStores, Version: metadata.CommandVersion, Stores: new(metadata.StoreTable),
		}, metadata.ErrVersionTooLow},
	} {
		if _, err := e.Commit(t.Context(), &test.cmd); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	mustPut(t, e, 1)
}
