package replica_test

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// TestPowerCutAfterStoresWereDeleted has a group rest with one store of three,
// deletes the others, and cuts the power: the one that is left leads.
func TestPowerCutAfterStoresWereDeleted(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	e := listed(t, ps)
	mustPut(t, e, 1)
	settled(t, e)
	if _, err := e.ChangeStores(t.Context(), func(table *metadata.StoreTable) error {
		table.Find(2).Role, table.Find(3).Role = metadata.StoreGone, metadata.StoreGone
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	settled(t, e)
	for id := uint64(2); id <= 3; id++ {
		if err := e.RemoveStore(id); err != nil {
			t.Fatal(err)
		}
		if err := e.Forget(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	left := ps[0]
	left.Want, left.FS = identity(1), left.FS.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
	e = openReplicated(t, []replica.Place{left}, engineOptions())
	for g := range uint32(metadata.DataGroups + 1) {
		if _, err := e.Head(t.Context(), g); err != nil {
			t.Fatalf("group %d: %v", g, err)
		}
	}
	mustPut(t, e, 2)
}

// TestForgetAMember is refused.
func TestForgetAMember(t *testing.T) {
	t.Parallel()
	e := listed(t, places(t, 3))
	settled(t, e)
	if err := e.Forget(t.Context(), 2); !errors.Is(err, replica.ErrUnsettled) {
		t.Errorf("Forget of a voter: %v, want %v", err, replica.ErrUnsettled)
	}
	if err := e.Forget(t.Context(), 9); err != nil {
		t.Errorf("Forget of nobody: %v", err)
	}
}

// TestForgetStoresThatGoTogether: of two that go at the same time, neither is
// told any more that the other one has gone.
func TestForgetStoresThatGoTogether(t *testing.T) {
	t.Parallel()
	e := listed(t, places(t, 3))
	_, err := e.ChangeStores(t.Context(), func(table *metadata.StoreTable) error {
		table.Find(2).Role, table.Find(3).Role = metadata.StoreGone, metadata.StoreGone
		return nil
	})
	must(t, err)
	settled(t, e)
	for id := uint64(2); id <= 3; id++ {
		must(t, e.Forget(t.Context(), id))
	}
}
