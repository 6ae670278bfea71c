package metadata_test

import (
	"testing"

	"github.com/ruche-storage/ruche/metadata"
)

func TestIncarnationsEndHistories(t *testing.T) {
	t.Parallel()
	first := metadata.Incarnation{Number: 3, Collection: true}
	i := first.After([]uint64{10, 20, 0}, 100, 7)
	i = i.After([]uint64{130, 120, 149}, 150, 9)
	if i.Number != 5 || i.Collection || i.LastEpoch() != 9 || first.LastEpoch() != 0 {
		t.Errorf("incarnation %+v", i)
	}
	for _, c := range []struct {
		group uint32
		order uint64
		void  bool
	}{
		{0, 10, false}, {0, 11, true}, {0, 99, true}, {0, 100, false}, {0, 130, false}, {0, 131, true}, {0, 150, false},
		{1, 20, false}, {1, 21, true}, {1, 110, false}, {1, 121, true},
		{2, 1, true}, {2, 99, true}, {2, 149, false}, {2, 150, false}, {3, 50, false},
	} {
		if got := i.Voided(c.group, c.order); got != c.void {
			t.Errorf("order %d of group %d is void: %v", c.order, c.group, got)
		}
	}
	for _, c := range []struct {
		deleted, live uint64
		revived       bool
	}{{7, 7, false}, {7, 8, true}, {8, 9, false}, {8, 10, true}, {10, 11, false}, {3, 20, true}} {
		if got := i.Revived(c.deleted, c.live); got != c.revived {
			t.Errorf("deleted in epoch %d, live in %d: revived is %v", c.deleted, c.live, got)
		}
	}
}
