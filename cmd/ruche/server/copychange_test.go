package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ruche-storage/ruche/gateway/admin"
)

// TestNothingIsTakenFromTheMajority: with one copy away, the directory of
// another one goes and comes back. What it holds is needed, so no new copy is
// made in its place meanwhile.
func TestNothingIsTakenFromTheMajority(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, three)
	rename(t, filepath.Join(dir, "d3"), filepath.Join(dir, "d3-away"))
	p := opened(t, settings(t, dir, three))
	await(t, p, "two serve", func(m *admin.Metadata) bool { return m.Healthy == 2 && m.Leaderless == 0 })
	meta := filepath.Join(dir, "d2", "meta")
	rename(t, meta, meta+"-away")
	await(t, p, "the loss is seen", func(m *admin.Metadata) bool { return m.Healthy == 1 })
	_, err := p.ctl.ReplaceCopy(t.Context(), &admin.ReplaceCopyRequest{Store: "2"})
	if err == nil || !strings.Contains(err.Error(), "bring them back") {
		t.Errorf("a copy that is needed was made anew: %v", err)
	}
	if _, err := os.Stat(meta); err == nil {
		t.Error("there is a new copy")
	}
	closed(t, p)
	// What has hung in this process keeps the locks of its files.
	if err := os.CopyFS(meta, os.DirFS(meta+"-away")); err != nil {
		t.Fatal(err)
	}
	rename(t, filepath.Join(dir, "d3-away"), filepath.Join(dir, "d3"))
	p = opened(t, settings(t, dir, three))
	await(t, p, "all are back", well(3))
	getObject(t, p, secret+"-1")
	closed(t, p)
}

// TestReplacementWhereTheCopyLiesIsCutOff before the new copy was made: the next
// start goes on, although the one that leaves can still be opened.
func TestReplacementWhereTheCopyLiesIsCutOff(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, three)
	p := opened(t, settings(t, dir, three))
	await(t, p, "three copies", well(3))
	closed(t, p)
	cluster := p.id.Cluster
	list, err := readStores(dir, cluster)
	if err != nil {
		t.Fatal(err)
	}
	old := list.row(2)
	old.State = storeLeaving
	list.add(place{path: old.Path, drive: old.Drive}, storeNew, p.Now())
	if err := list.save(dir); err != nil {
		t.Fatal(err)
	}
	p = opened(t, settings(t, dir, three))
	m := await(t, p, "the new copy is one", func(m *admin.Metadata) bool { return well(3)(m) && m.Find("2") == nil })
	if s := m.Find("4"); s == nil || s.Path != filepath.Join(dir, "d2", "meta") {
		t.Errorf("copies %+v", m)
	}
	getObject(t, p, secret+"-1")
	closed(t, p)
	p = opened(t, settings(t, dir, three))
	await(t, p, "all start", well(3))
	closed(t, p)
}

// TestDismissalIsCutOff behind the table of stores: the list follows it.
func TestDismissalIsCutOff(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, three)
	p := opened(t, settings(t, dir, three))
	await(t, p, "three copies", well(3))
	if err := p.copies.replicated().Dismiss(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	await(t, p, "it leaves", func(m *admin.Metadata) bool { return m.Find("3") == nil && len(m.Stores) == 2 && m.Leaderless == 0 })
	closed(t, p)
	if _, err := os.Stat(filepath.Join(dir, "d3", "meta")); err == nil {
		t.Error("its files are still there")
	}
}
