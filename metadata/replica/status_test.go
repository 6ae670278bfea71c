package replica_test

import (
	"errors"
	"testing"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
)

// TestStoresThatAreNotThoseWanted are left out and named: the others serve.
func TestStoresThatAreNotThoseWanted(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	for i := range ps {
		ps[i].Want = identity(uint64(i + 1))
		ps[i].Dir = "meta"
	}
	other := places(t, 3)
	ps[1].FS = other[2].FS // replica 3 where 2 is to be
	e := openReplicated(t, ps, engineOptions())
	prepareReplicated(t, e)
	// All have the same path, each on a device of its own.
	if r := e.Refused(); len(r) != 1 || r[0].Place.Want.Replica != 2 || !errors.Is(r[0].Err, commandlog.ErrForeign) {
		t.Errorf("the foreign store: %+v", r)
	}
	all := e.Status(t.Context())
	if len(all) != 2 || all[0].Replica != 1 || all[1].Replica != 3 {
		t.Fatalf("stores %+v, want 1 and 3", all)
	}
	for _, s := range all {
		if s.Err != nil || len(s.Groups) != metadata.DataGroups+1 {
			t.Errorf("store %d: %v, %d groups", s.Replica, s.Err, len(s.Groups))
		}
	}
	if _, err := e.AddStore(replica.Place{Dir: "meta", FS: ps[1].FS, Want: identity(2)}); !errors.Is(err, commandlog.ErrForeign) {
		t.Errorf("the foreign store was added: %v", err)
	}
}
