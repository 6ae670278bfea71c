package placement_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/placement"
	"github.com/ruche-storage/ruche/metadata/topology"
)

func drive(n int, capacity int64, device string) topology.Drive {
	return topology.Drive{
		ID: topology.DriveID{byte(n >> 8), byte(n)}, CapacityBytes: capacity, Device: device, State: topology.DriveActive,
	}
}

func drives(n int) []topology.Drive {
	var ds []topology.Drive
	for i := range n {
		ds = append(ds, drive(i+1, 1<<40, fmt.Sprintf("sd%d", i)))
	}
	return ds
}

func build(t *testing.T, ds []topology.Drive, s metadata.Scheme, count int) *metadata.PGTable {
	t.Helper()
	table, err := placement.Build(ds, s, count, 42)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// uses counts in how many groups a drive keeps any shard and a data shard.
func uses(table *metadata.PGTable) (all, data map[topology.DriveID]int) {
	all, data = make(map[topology.DriveID]int), make(map[topology.DriveID]int)
	for _, pg := range table.Groups {
		for i, id := range pg.Newest().Members {
			all[id]++
			if i < int(pg.Scheme.Data) {
				data[id]++
			}
		}
	}
	return all, data
}

func TestGroupsAreTuplesOfDistinctDrives(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 24; n++ {
		scheme := metadata.SchemeFor(n)
		table := build(t, drives(n), scheme, 0)
		if len(table.Groups) < 64 || table.Version != 1 {
			t.Errorf("%d drives: %d groups of version %d", n, len(table.Groups), table.Version)
		}
		for i, pg := range table.Groups {
			members := slices.Clone(pg.Newest().Members)
			slices.SortFunc(members, func(a, b topology.DriveID) int { return slices.Compare(a[:], b[:]) })
			if len(slices.Compact(members)) != scheme.Total() || int(pg.ID) != i || pg.Newest().Moving {
				t.Errorf("%d drives: group %d is %+v", n, i, pg)
			}
		}
	}
}

func TestLoadIsEven(t *testing.T) {
	t.Parallel()
	for n := 2; n <= 24; n++ {
		scheme := metadata.SchemeFor(n)
		table := build(t, drives(n), scheme, 0)
		all, data := uses(table)
		want := float64(len(table.Groups)*scheme.Total()) / float64(n)
		wantData := float64(len(table.Groups)*int(scheme.Data)) / float64(n)
		for _, d := range drives(n) {
			if got := float64(all[d.ID]); got < want-1.01 || got > want+1.01 {
				t.Errorf("%d drives: %s is in %v groups, want %v", n, d.ID, got, want)
			}
			if got := float64(data[d.ID]); got < wantData-3 || got > wantData+3 {
				t.Errorf("%d drives: %s keeps data of %v groups, want %v", n, d.ID, got, wantData)
			}
		}
	}
}

func TestLoadFollowsCapacity(t *testing.T) {
	t.Parallel()
	ds := drives(12)
	ds[0].CapacityBytes *= 2
	ds[1].CapacityBytes /= 2
	table := build(t, ds, metadata.NewScheme(4, 2), 512)
	all, _ := uses(table)
	plain := float64(all[ds[5].ID])
	for i, want := range []float64{2, 0.5} {
		if got := float64(all[ds[i].ID]) / plain; got < want*0.97 || got > want*1.03 {
			t.Errorf("drive of %v times the capacity has %v times the groups", want, got)
		}
	}
}

func TestDevicesAreKeptApart(t *testing.T) {
	t.Parallel()
	var ds []topology.Drive
	for i := range 12 {
		ds = append(ds, drive(i+1, 1<<40, fmt.Sprintf("sd%d", i/2))) // two drives a device
	}
	for name, test := range map[string]struct {
		scheme metadata.Scheme
		most   int
	}{
		"as many devices as members": {metadata.NewScheme(4, 2), 1},
		"fewer devices":              {metadata.NewScheme(6, 3), 2},
	} {
		for _, pg := range build(t, ds, test.scheme, 0).Groups {
			on := make(map[string]int)
			for _, id := range pg.Newest().Members {
				on[ds[int(id[1])-1].Device]++
			}
			for dev, n := range on {
				if n > test.most {
					t.Errorf("%s: group %d has %d members on %s, want at most %d", name, pg.ID, n, dev, test.most)
				}
			}
		}
	}
}

func TestOneDeviceIsNoObstacle(t *testing.T) {
	t.Parallel()
	var ds []topology.Drive
	for i := range 6 {
		ds = append(ds, drive(i+1, 1<<40, "vda"))
	}
	build(t, ds, metadata.NewScheme(4, 2), 0)
}

func TestBuildDependsOnNothingElse(t *testing.T) {
	t.Parallel()
	ds := drives(9)
	first := build(t, ds, metadata.NewScheme(5, 3), 0)
	slices.Reverse(ds)
	if diff := cmp.Diff(first, build(t, ds, metadata.NewScheme(5, 3), 0)); diff != "" {
		t.Errorf("the order of the drives matters:\n%s", diff)
	}
	other, err := placement.Build(ds, metadata.NewScheme(5, 3), 0, 43)
	if err != nil || cmp.Equal(first, other) {
		t.Errorf("another seed gives the same table (%v)", err)
	}
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	retired := drives(6)
	retired[2].State = topology.DriveDraining
	if _, err := placement.Build(retired, metadata.NewScheme(4, 2), 0, 1); !errors.Is(err, placement.ErrTooFewDrives) {
		t.Errorf("with a draining drive: %v, want %v", err, placement.ErrTooFewDrives)
	}
	twice := append(drives(6), drives(1)...)
	if _, err := placement.Build(twice, metadata.NewScheme(4, 2), 0, 1); err == nil {
		t.Error("a drive named twice was accepted")
	}
	if _, err := placement.Build(drives(6), metadata.Scheme{}, 0, 1); err == nil {
		t.Error("a scheme of nothing was accepted")
	}
	if _, err := placement.Build(drives(6), metadata.NewScheme(4, 2), 1<<17, 1); err == nil {
		t.Error("131,072 groups were accepted")
	}
}

func TestDefaultCount(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		drives int
		scheme metadata.Scheme
		want   int
	}{
		{1, metadata.NewScheme(1, 0), 64},
		{6, metadata.NewScheme(4, 2), 64},
		{24, metadata.NewScheme(8, 4), 64},
		{144, metadata.NewScheme(6, 3), 256},
		{10_000, metadata.NewScheme(8, 4), 16384},
	} {
		if got := placement.DefaultCount(test.drives, test.scheme); got != test.want {
			t.Errorf("DefaultCount(%d, %s) = %d, want %d", test.drives, test.scheme, got, test.want)
		}
	}
}

func TestChooseAvoidsUnavailableMembers(t *testing.T) {
	t.Parallel()
	table := build(t, drives(12), metadata.NewScheme(4, 2), 0)
	bad := drives(12)[3].ID
	c := placement.NewChooser(table, func(id topology.DriveID) placement.Load {
		return placement.Load{Writable: id != bad, FreeBytes: 1 << 40}
	})
	r := rand.New(rand.NewPCG(1, 2))
	seen := make(map[uint32]bool)
	for range 5000 {
		choice, err := c.Choose(r.Uint64())
		if err != nil {
			t.Fatal(err)
		}
		if choice.Unavailable != 0 || slices.Contains(choice.PG.Newest().Members, bad) {
			t.Fatalf("group %d chosen, with %b unavailable", choice.PG.ID, choice.Unavailable)
		}
		seen[choice.PG.ID] = true
	}
	all, _ := uses(table)
	if want := len(table.Groups) - all[bad]; len(seen) != want {
		t.Errorf("%d groups chosen, want all %d without the drive", len(seen), want)
	}
}

func TestChooseNamesUnavailableMembers(t *testing.T) {
	t.Parallel()
	ds := drives(6)
	table := build(t, ds, metadata.NewScheme(4, 2), 0)
	load := func(id topology.DriveID) placement.Load {
		return placement.Load{Writable: id != ds[1].ID && id != ds[4].ID, FreeBytes: 1}
	}
	for i := range uint64(100) {
		choice, err := placement.Choose(table, load, i<<57)
		if err != nil {
			t.Fatal(err)
		}
		for j, id := range choice.PG.Newest().Members {
			if bad := choice.Unavailable>>j&1 == 1; bad == load(id).Writable {
				t.Errorf("member %d of group %d: unavailable is %v", j, choice.PG.ID, bad)
			}
		}
	}
	none := func(topology.DriveID) placement.Load { return placement.Load{} }
	if _, err := placement.Choose(table, none, 1); !errors.Is(err, placement.ErrNoPlacement) {
		t.Errorf("with no drive: %v, want %v", err, placement.ErrNoPlacement)
	}
	if _, err := placement.Choose(&metadata.PGTable{}, none, 1); !errors.Is(err, placement.ErrNoPlacement) {
		t.Errorf("with no group: %v, want %v", err, placement.ErrNoPlacement)
	}
}

func TestChooseFollowsFreeSpaceAndQueues(t *testing.T) {
	t.Parallel()
	table := &metadata.PGTable{Groups: make([]metadata.PG, 3)}
	for i := range table.Groups {
		table.Groups[i] = metadata.PG{ID: uint32(i), Generations: []metadata.Generation{{Members: []topology.DriveID{{byte(i)}}}}}
	}
	loads := []placement.Load{
		{Writable: true, FreeBytes: 3 << 40},
		{Writable: true, FreeBytes: 1 << 40},
		{Writable: true, FreeBytes: 4 << 40, Queue: 3},
	}
	c := placement.NewChooser(table, func(id topology.DriveID) placement.Load { return loads[id[0]] })
	var got [3]int
	r := rand.New(rand.NewPCG(3, 4))
	for range 50_000 {
		choice, err := c.Choose(r.Uint64())
		if err != nil {
			t.Fatal(err)
		}
		got[choice.PG.ID]++
	}
	for i, want := range []int{30_000, 10_000, 10_000} {
		if got[i] < want*95/100 || got[i] > want*105/100 {
			t.Errorf("group %d chosen %d times, want about %d", i, got[i], want)
		}
	}
	for _, edge := range []uint64{0, 1<<64 - 1} {
		if _, err := c.Choose(edge); err != nil {
			t.Errorf("Choose(%d): %v", edge, err)
		}
	}
}

func TestReplaceAndClose(t *testing.T) {
	t.Parallel()
	ds := drives(8)
	table := build(t, ds, metadata.NewScheme(4, 2), 0)
	before := build(t, ds, metadata.NewScheme(4, 2), 0)
	fresh, third := topology.DriveID{9}, topology.DriveID{10}
	next, changed, err := placement.Replace(table, ds[0].ID, fresh)
	if err != nil {
		t.Fatal(err)
	}
	all, _ := uses(table)
	if changed != all[ds[0].ID] || next.Version != 2 {
		t.Errorf("%d groups changed in version %d, want %d in 2", changed, next.Version, all[ds[0].ID])
	}
	if diff := cmp.Diff(before, table); diff != "" {
		t.Errorf("the table before was changed:\n%s", diff)
	}
	at := slices.IndexFunc(next.Groups, func(pg metadata.PG) bool { return len(pg.Generations) == 2 })
	pg := next.Groups[at]
	if g := pg.Newest(); !g.Moving || g.Number != 2 || slices.Contains(g.Members, ds[0].ID) || !slices.Contains(g.Members, fresh) {
		t.Errorf("newest generation is %+v", g)
	}

	// The new drive fails before it had everything and is replaced again.
	again, _, err := placement.Replace(next, fresh, third)
	if err != nil {
		t.Fatal(err)
	}
	closed, err := placement.Close(again, pg.ID, 3)
	if err != nil {
		t.Fatal(err)
	}
	if g := closed.Groups[at].Generations; len(g) != 1 || g[0].Number != 3 || g[0].Moving {
		t.Errorf("closed generations are %+v", g)
	}

	// Another member moves at the same time: the later generation relies on both.
	other := next.Groups[at].Newest().Members[(slices.Index(next.Groups[at].Newest().Members, fresh)+1)%6]
	both, _, err := placement.Replace(next, other, third)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := placement.Close(both, pg.ID, 3); !errors.Is(err, placement.ErrMoving) {
		t.Errorf("closing the later generation first: %v, want %v", err, placement.ErrMoving)
	}
	both, err = placement.Close(both, pg.ID, 2)
	if err != nil {
		t.Fatal(err)
	}
	if g := both.Groups[at].Generations; len(g) != 2 || g[0].Moving || !g[1].Moving {
		t.Errorf("generations after closing the earlier one are %+v", g)
	}
}

func TestReplaceRefuses(t *testing.T) {
	t.Parallel()
	ds := drives(6)
	table := build(t, ds, metadata.NewScheme(4, 2), 0)
	if _, _, err := placement.Replace(table, ds[0].ID, ds[1].ID); !errors.Is(err, placement.ErrMember) {
		t.Errorf("replace by a member: %v, want %v", err, placement.ErrMember)
	}
	if _, _, err := placement.Replace(table, ds[0].ID, ds[0].ID); err == nil {
		t.Error("replace by itself was accepted")
	}
	if same, n, err := placement.Replace(table, topology.DriveID{77}, topology.DriveID{78}); same != table || n != 0 || err != nil {
		t.Errorf("replace of an unknown drive = %p, %d, %v", same, n, err)
	}
	if _, err := placement.Close(table, 99, 1); !errors.Is(err, placement.ErrNoSuchGroup) {
		t.Errorf("close of no group: %v", err)
	}
	if _, err := placement.Close(table, 1, 5); !errors.Is(err, placement.ErrNoSuchGroup) {
		t.Errorf("close of no generation: %v", err)
	}
}
