package server

import (
	"slices"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// fakeDrives says that all drives are well but those named.
type fakeDrives struct{ away, full []byte }

func (f fakeDrives) Condition(id topology.DriveID) object.Condition {
	if slices.Contains(f.away, id[0]) {
		return object.Condition{}
	}
	return object.Condition{Readable: true, Writable: !slices.Contains(f.full, id[0])}
}

// placed makes a placement group; each generation is the first bytes of its
// members' ids. All but the first are moving.
func placed(scheme metadata.Scheme, generations ...string) metadata.PG {
	pg := metadata.PG{Scheme: scheme}
	for i, members := range generations {
		g := metadata.Generation{Number: uint32(i + 1), Moving: i > 0}
		for _, m := range []byte(members) {
			g.Members = append(g.Members, topology.DriveID{m})
		}
		pg.Generations = append(pg.Generations, g)
	}
	return pg
}

func TestSafetyOf(t *testing.T) {
	t.Parallel()
	two, one, none := metadata.NewScheme(2, 2), metadata.NewScheme(2, 1), metadata.NewScheme(1, 0)
	for _, tt := range []struct {
		name       string
		scheme     metadata.Scheme
		groups     [][]string
		away, full string
		degrade    bool
		want       admin.Safety
	}{
		{"all is well", two, [][]string{{"abcd"}}, "", "", false, admin.Safety{Parity: 2, MayLose: 2, Writable: true}},
		{"one is away", two, [][]string{{"abcd"}}, "b", "", false, admin.Safety{Parity: 2, MayLose: 1, Away: 1, Writable: true}},
		{"two are away: what is written would not survive a third", two, [][]string{{"abcd"}}, "bc", "", false, admin.Safety{Parity: 2, MayLose: 0, Away: 2}},
		{"the group that lost most counts, and any group takes writes", two, [][]string{{"abcd"}, {"efgh"}}, "bc", "", false, admin.Safety{Parity: 2, MayLose: 0, Away: 2, Writable: true}},
		{"data is lost", two, [][]string{{"abcd"}}, "abc", "", false, admin.Safety{Parity: 2, MayLose: -1, Away: 3}},
		{"full drives are whole and take nothing", two, [][]string{{"abcd"}}, "", "cd", false, admin.Safety{Parity: 2, MayLose: 2}},
		{"a new drive holds nothing yet, and the old one is away", two, [][]string{{"abcd", "axcd"}}, "b", "", false, admin.Safety{Parity: 2, MayLose: 1, Away: 1, Writable: true}},
		{"a new drive holds nothing yet, and the old one is there", two, [][]string{{"abcd", "axcd"}}, "", "", false, admin.Safety{Parity: 2, MayLose: 2, Away: 1, Writable: true}},
		{"replaced twice", two, [][]string{{"abcd", "axcd", "axcy"}}, "bd", "", false, admin.Safety{Parity: 2, MayLose: 0, Away: 2, Writable: true}},
		{"what was written to a new drive that is away is not on the old one", two, [][]string{{"abcd", "axcd"}}, "x", "", false, admin.Safety{Parity: 2, MayLose: 1, Away: 1, Writable: true}},
		{"replaced again before it had everything", two, [][]string{{"abcd", "axcd", "aycd"}}, "", "", false, admin.Safety{Parity: 2, MayLose: 2, Away: 1, Writable: true}},
		{"replaced again, the one between is away", two, [][]string{{"abcd", "axcd", "aycd"}}, "x", "", false, admin.Safety{Parity: 2, MayLose: 1, Away: 1, Writable: true}},
		{"one parity shard: writes are refused", one, [][]string{{"abc"}}, "a", "", false, admin.Safety{Parity: 1, MayLose: 0, Away: 1}},
		{"one parity shard: writes are taken if asked", one, [][]string{{"abc"}}, "a", "", true, admin.Safety{Parity: 1, MayLose: 0, Away: 1, Writable: true}},
		{"one drive", none, [][]string{{"a"}}, "", "", false, admin.Safety{Writable: true}},
		{"one drive, away", none, [][]string{{"a"}}, "a", "", false, admin.Safety{MayLose: -1, Away: 1}},
	} {
		table := &metadata.PGTable{}
		for _, generations := range tt.groups {
			table.Groups = append(table.Groups, placed(tt.scheme, generations...))
		}
		tt.want.LeastMargin = tt.want.MayLose
		if got := *safetyOf(table, fakeDrives{[]byte(tt.away), []byte(tt.full)}, tt.degrade); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
	if got := *safetyOf(&metadata.PGTable{}, fakeDrives{}, false); got != (admin.Safety{}) {
		t.Errorf("without groups: %+v", got)
	}
}

func TestMovers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		generations []string
		closed      int // generations that are not moving, from the first
		want        string
	}{
		{[]string{"abcd"}, 1, ""},
		{[]string{"abcd", "axcd"}, 1, "x"},
		{[]string{"abcd", "axcd"}, 2, ""},
		{[]string{"abcd", "axcd", "axcy"}, 1, "xy"},
		{[]string{"abcd", "axcd", "axcy"}, 2, "y"},
		{[]string{"abcd", "axcd", "aycd"}, 1, "y"},
	} {
		pg := placed(metadata.NewScheme(2, 2), tt.generations...)
		for i := range pg.Generations {
			pg.Generations[i].Moving = i >= tt.closed
		}
		got := ""
		for _, d := range movers(&pg) {
			got += string(d[:1])
		}
		if got != tt.want {
			t.Errorf("generations %v, %d closed: movers %q, want %q", tt.generations, tt.closed, got, tt.want)
		}
	}
}

// TestConditionsAreOldBySoMuch uses a clock of its own and drives that are not
// there: what counts is when they are asked.
func TestConditionsAreOldBySoMuch(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	id := topology.DriveID{1}
	fresh := map[topology.DriveID]object.Condition{id: {Readable: true, Writable: true}}
	asked := 0
	c := &conditions{now: func() time.Time { return now }, ask: func() map[topology.DriveID]object.Condition { asked++; return fresh }}
	for range 5 {
		if got := c.Condition(id); !got.Writable {
			t.Errorf("condition %+v", got)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times at one time", asked)
	}
	fresh = nil
	now = now.Add(conditionAge)
	if got := c.Condition(id); !got.Writable || asked != 1 {
		t.Errorf("at %v: %+v, asked %d times", conditionAge, got, asked)
	}
	now = now.Add(1)
	if got := c.Condition(id); got.Writable || asked != 2 {
		t.Errorf("after %v: %+v, asked %d times", conditionAge, got, asked)
	}
	c.forget()
	c.Condition(id)
	now = now.Add(-time.Hour) // a clock that was set back must not freeze them
	c.Condition(id)
	if asked != 4 {
		t.Errorf("asked %d times, want 4", asked)
	}
}
