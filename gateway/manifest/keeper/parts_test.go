package keeper

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

func TestGather(t *testing.T) {
	t.Parallel()
	a, b := metadata.BucketID{1}, metadata.BucketID{2}
	got := gather([]metadata.OutboxEntry{
		{Order: 1, Kind: metadata.OutboxVersion, Bucket: b, Key: "x"},
		{Order: 2, Kind: metadata.OutboxSettings, Bucket: a},
		{Order: 3, Kind: metadata.OutboxDeleted, Bucket: b, Key: "x"},
		{Order: 4, Kind: metadata.OutboxVersion, Bucket: a, Key: "x"},
		{Order: 5, Kind: metadata.OutboxVersion, Bucket: b, Key: "x"},
		{Order: 6, Kind: metadata.OutboxRoot},
		{Order: 7, Kind: metadata.OutboxBucket, Bucket: b, Key: "name"},
		{Order: 8, Kind: 200, Bucket: b, Key: "of a later version"},
		{Order: 9, Kind: metadata.OutboxDeleted, Bucket: b, Key: "y"},
	})
	want := []change{
		{KeyRef: metadata.KeyRef{Bucket: a}, order: 2},
		{KeyRef: metadata.KeyRef{Bucket: a, Key: "x"}, order: 4},
		{KeyRef: metadata.KeyRef{Bucket: b, Key: "x"}, order: 5, deleted: 3},
		{KeyRef: metadata.KeyRef{Bucket: b}, order: 7},
		{KeyRef: metadata.KeyRef{Bucket: b, Key: "y"}, order: 9, deleted: 9},
	}
	if !slices.Equal(got, want) {
		t.Errorf("gathered %+v, want %+v", got, want)
	}
}

// always are drives that never fail.
type always struct{ Drives }

func (always) Writable(topology.DriveID) bool { return true }

// TestManifestDrivesAreSpread counts how often drives and devices are chosen.
func TestManifestDrivesAreSpread(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name             string
		drives, devices  int
		need             int
		perGroup, spread int // most of a device in a group; most minus least of a drive
	}{
		{"a drive a device", 12, 12, 3, 1, 1},
		{"three drives a device", 12, 4, 3, 1, 2},
		{"fewer devices than copies", 8, 2, 3, 2, 2},
		{"one device", 6, 1, 3, 3, 1},
		{"one drive", 1, 1, 3, 1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := &layout{drives: make(map[topology.DriveID]*topology.Drive), need: test.need, load: make(map[topology.DriveID]int)}
			for i := range test.drives {
				id := topology.DriveID{byte(i + 1)}
				l.drives[id] = &topology.Drive{ID: id, State: topology.DriveActive, Device: fmt.Sprint(i % test.devices)}
			}
			k := &Keeper{o: Options{Drives: always{}}}
			count := make(map[topology.DriveID]int)
			for n := range uint32(metadata.DataGroups) {
				g := &group{k: k, id: n + 1}
				row := &metadata.ManifestMembers{Version: 1}
				if added := g.enlist(l, row); added != min(test.need, test.drives) {
					t.Fatalf("group %d: %d drives", n, added)
				}
				on := make(map[string]int)
				for _, id := range writersOf(row) {
					count[id]++
					if on[l.device(id)]++; on[l.device(id)] > test.perGroup {
						t.Errorf("group %d has more than %d on a device", n, test.perGroup)
					}
				}
				if g.enlist(l, row) != 0 {
					t.Error("enlisted twice")
				}
			}
			least, most := 1000, 0
			for id := range l.drives {
				least, most = min(least, count[id]), max(most, count[id])
			}
			if most-least > test.spread {
				t.Errorf("drives have %d to %d groups", least, most)
			}
		})
	}
}

// TestNeedlessTombstones compares with a naive model what a pass finds out.
func TestNeedlessTombstones(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		tombs, s := newTombs(share{}), &scan{k: &Keeper{o: Options{Drives: &fakeDrives{}}}}
		s.groups[2].missed = rng.IntN(3) == 0
		stones, killed := make(map[string]uint64), make(map[string][]uint64)
		groups := make(map[string]uint32)
		for range rng.IntN(60) {
			key, order := fmt.Sprint("k", rng.IntN(10)), 1+rng.Uint64N(50)
			group := uint32(1 + len(key+key)%2)
			if key > "k5" {
				group = 2
			}
			groups[key] = group
			ref := metadata.KeyRef{Key: key}
			if rng.IntN(2) == 0 {
				tombs.kill(ref, order)
				killed[key] = append(killed[key], order)
				continue
			}
			settled := rng.IntN(4) > 0
			tombs.stone(ref, order, group, settled, nil)
			if settled {
				stones[key] = max(stones[key], order)
			}
		}
		got := tombs.needless(s)
		for key, order := range stones {
			want := !s.groups[groups[key]].missed && !slices.ContainsFunc(killed[key], func(o uint64) bool { return o <= order })
			if is := got[hashOf(metadata.KeyRef{Key: key})] == order; is != want {
				t.Fatalf("tombstone %s of order %d, which kills %v: needless %v, want %v", key, order, killed[key], is, want)
			}
		}
		if len(got) > len(stones) {
			t.Fatal("needless tombstones that there are not")
		}
	}
}

// TestTombstonesTakeTurns sees that memory is bounded and that in the end every
// key is weighed.
func TestTombstonesTakeTurns(t *testing.T) {
	t.Parallel()
	const most, keys = 1000, 3000
	s := &scan{k: &Keeper{o: Options{Drives: &fakeDrives{}}}}
	weighed := make(map[keyHash]bool)
	next := share{}
	for pass := range 8 {
		tombs := newTombs(next)
		tombs.most = most
		for i := range keys {
			tombs.stone(metadata.KeyRef{Key: fmt.Sprint(i)}, 7, 1, true, nil)
			if len(tombs.stones) > most {
				t.Fatal("too many keys are kept")
			}
		}
		for h := range tombs.needless(s) {
			weighed[h] = true
		}
		if next = tombs.next(); pass == 0 && next.bits < 2 {
			t.Fatalf("share %+v after too many keys", next)
		}
	}
	if len(weighed) != keys {
		t.Errorf("%d of %d keys were weighed", len(weighed), keys)
	}
	few := newTombs(share{bits: 1, value: 1})
	if got := few.next(); got != (share{}) {
		t.Errorf("share %+v after few keys", got)
	}
}
