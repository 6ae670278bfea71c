package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/metadata/topology"
)

func TestStoreListIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cluster := newID()
	if l, err := readStores(dir, cluster); l != nil || err != nil {
		t.Fatalf("list of an empty directory: %v, %v", l, err)
	}
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	l := &storeList{Format: storesFormat, Cluster: cluster, Phase: storesReady, Setting: "3"}
	for i, p := range placesOn("a b s") {
		if got := l.add(p, storeReady, now); got.Replica != uint64(i+1) {
			t.Errorf("copy %d has number %d", i, got.Replica)
		}
	}
	if err := l.save(dir); err != nil {
		t.Fatal(err)
	}
	again, err := readStores(dir, cluster)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l, again); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	again.drop(3)
	if got := again.add(place{path: "/d3/meta", drive: topology.DriveID{3}}, storeNew, now); got.Replica != 4 {
		t.Errorf("a number was given twice: %d", got.Replica)
	}
	if again.row(3) != nil || again.row(4) == nil || len(l.Stores) != 3 {
		t.Error("the wrong copy was dropped")
	}
}

// TestStoreListsInTheMiddleOfAChange can be read: a start goes on from them.
func TestStoreListsInTheMiddleOfAChange(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	a := place{path: "/d1/meta", drive: topology.DriveID{1}}
	b := place{path: "/d1/meta", drive: topology.DriveID{2}}
	s := place{path: "/state/metadata"}
	for name, rows := range map[string][]struct {
		place
		state string
	}{
		"replaced where it is":          {{a, storeLeaving}, {a, storeNew}},
		"replaced, and catching up":     {{s, storeLeaving}, {s, storeReady}},
		"replaced twice":                {{a, storeLeaving}, {a, storeLeaving}, {a, storeNew}},
		"on the drive in its place":     {{a, storeLeaving}, {b, storeNew}},
		"away, its path taken by other": {{a, storeReady}, {b, storeReady}},
		"gone, and there again":         {{a, storeGone}, {a, storeReady}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, cluster := t.TempDir(), newID()
			l := &storeList{Format: storesFormat, Cluster: cluster, Phase: storesReady}
			for _, r := range rows {
				l.add(r.place, r.state, now)
			}
			if err := l.save(dir); err != nil {
				t.Fatal(err)
			}
			again, err := readStores(dir, cluster)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(l, again); diff != "" {
				t.Errorf("read (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStoreListsThatAreRefused(t *testing.T) {
	t.Parallel()
	cluster := newID()
	row := storeRow{Replica: 1, Store: newID(), Path: "/d1/meta", State: storeReady}
	for name, c := range map[string]struct {
		change func(*storeList)
		reason StartReason
		says   string
	}{
		"another cluster":  {func(l *storeList) { l.Cluster = newID() }, ForeignState, "of cluster"},
		"another format":   {func(l *storeList) { l.Format = 9 }, Damaged, "format 9"},
		"a number again":   {func(l *storeList) { l.Stores = append(l.Stores, row) }, Damaged, "copy 1"},
		"a number to come": {func(l *storeList) { l.Next = 1 }, Damaged, "copy 1"},
		"no id":            {func(l *storeList) { l.Stores[0].Store = id128{} }, Damaged, "missing"},
		"two in one place": {func(l *storeList) {
			two := row
			two.Replica = 2
			l.Next, l.Stores = 3, append(l.Stores, two)
		}, Damaged, "two copies"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			l := &storeList{Format: storesFormat, Cluster: cluster, Phase: storesReady, Next: 2, Stores: []storeRow{row}}
			c.change(l)
			if err := l.save(dir); err != nil {
				t.Fatal(err)
			}
			_, err := readStores(dir, cluster)
			wantReason(t, err, c.reason, c.says)
		})
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, storesName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := readStores(dir, cluster)
	wantReason(t, err, Damaged, storesName)
	if !strings.Contains(err.Error(), "restore") {
		t.Errorf("error without remedy: %v", err)
	}
}
