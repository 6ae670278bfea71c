package replica_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// TestOldProgramIsRefused opens what a newer program has raised to a later
// command version: that fails before anything is served.
func TestOldProgramIsRefused(t *testing.T) {
	t.Parallel()
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, metadata.ErrUnknownKind) || !strings.Contains(err.Error(), "has command version 2, this program knows 1: start a newer one") {
			t.Errorf("%s: %v", what, err)
		}
	}
	o := storeOptions(vfs.NewMem(), 1)
	l, err := replica.Open("local", o.Options)
	must(t, err)
	must(t, replica.RaiseVersion(t.Context(), l, 2))
	must(t, l.Close())
	o.Knows = 1
	_, err = replica.Open("local", o.Options)
	refused("one copy", err)

	ps := places(t, 1)
	e := openReplicated(t, ps, engineOptions())
	must(t, replica.RaiseVersion(t.Context(), e, 2))
	must(t, e.Close())
	old := engineOptions()
	old.Knows = 1
	_, err = replica.OpenReplicated(ps, old)
	refused("one of several copies", err)
}

// TestVersionThatOneDoesNotKnow: members of an old program keep the version from
// being raised, the leader among them.
func TestVersionThatOneDoesNotKnow(t *testing.T) {
	t.Parallel()
	for id := uint64(1); id <= 2; id++ {
		c := newCluster(t, 3)
		must(t, c.stores[id].Close())
		o := storeOptions(c.fs, id)
		o.Knows = 1
		s, err := replica.OpenStore(storeDir(id), o)
		must(t, err)
		c.stores[id] = s
		c.tick(2)
		c.lead(1)
		c.tick(2)
		if err := c.stores[1].AllKnow(3, 1); err != nil {
			t.Errorf("version 1: %v", err)
		}
		if err := c.stores[1].AllKnow(3, 2); !errors.Is(err, metadata.ErrVersionTooLow) || !strings.Contains(err.Error(), "start a newer program there") {
			t.Errorf("version 2, which store %d does not know: %v", id, err)
		}
	}
}
