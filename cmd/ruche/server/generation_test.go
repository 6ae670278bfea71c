package server

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ruche-storage/ruche/gateway/admin"
)

// kept are the files of a state directory that a backup of files has.
var kept = []string{"metadata", "metadata.json", "cluster.json"}

// keepState copies the state directory, without the drives that lie in it here.
func keepState(t *testing.T, from, to string) {
	t.Helper()
	for _, name := range kept {
		remove(t, filepath.Join(to, name))
		info, err := os.Stat(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			if err := os.CopyFS(filepath.Join(to, name), os.DirFS(filepath.Join(from, name))); err != nil {
				t.Fatal(err)
			}
			continue
		}
		text, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// withStateCopy makes a store whose copies lie in the state directory (1), on
// d1 (2) and on d2 (3).
func withStateCopy(t *testing.T) (dir string) {
	t.Helper()
	dir = withBucket(t, nil)
	p := opened(t, settings(t, dir, nil))
	for _, d := range []string{"d1", "d2"} {
		if _, err := p.ctl.AddCopy(t.Context(), &admin.AddCopyRequest{Path: filepath.Join(dir, d)}); err != nil {
			t.Fatal(err)
		}
	}
	await(t, p, "three copies", well(3))
	closed(t, p)
	return dir
}

// oneRefused wants two copies that work, and one that is refused because the
// state directory was put back.
func oneRefused(t *testing.T, p *process, number uint64) {
	t.Helper()
	m := await(t, p, "two copies go on", func(m *admin.Metadata) bool {
		return m.Voters == 3 && m.Healthy == 2 && len(m.Stores) == 3 && m.Leaderless == 0
	})
	for _, s := range m.Stores {
		if s.Replica == number && (s.Health != admin.CopyRefused || !strings.Contains(s.Reason, "put back") || !strings.Contains(s.Reason, "ruche metadata replace")) {
			t.Errorf("copy in the state directory: %+v", s)
		}
	}
	if m.Find(filepath.Join(p.dir, "metadata")) == nil {
		t.Errorf("no copy in the state directory: %+v", m.Stores)
	}
}

func replaceCopy(t *testing.T, p *process, name string, number uint64) {
	t.Helper()
	if _, err := p.ctl.ReplaceCopy(t.Context(), &admin.ReplaceCopyRequest{Store: name}); err != nil {
		t.Fatal(err)
	}
	m := await(t, p, "three copies again", well(3))
	for _, s := range m.Stores {
		if s.Drive == "" && s.Replica != number {
			t.Errorf("the new copy is %d, want %d", s.Replica, number)
		}
	}
}

// TestStateDirectoryPutBack has changes in two of three copies only, and puts
// one of the two back: it must not vote for the third.
func TestStateDirectoryPutBack(t *testing.T) {
	t.Parallel()
	dir, backup, away := withStateCopy(t), t.TempDir(), filepath.Join(t.TempDir(), "meta")
	c := settings(t, dir, nil)
	behind := filepath.Join(dir, "d2", "meta")
	keepState(t, dir, backup)
	rename(t, behind, away)
	p := opened(t, c)
	putSmall(t, p, "late")
	closed(t, p)
	newest := t.TempDir()
	keepState(t, dir, newest)
	keepState(t, backup, dir)
	rename(t, away, behind)

	// The one that knows more is not there: nothing starts.
	ahead, gone := filepath.Join(dir, "d1", "meta"), filepath.Join(t.TempDir(), "meta")
	rename(t, ahead, gone)
	for range 2 {
		_, err := attempt(t, c, nil)
		wantReason(t, err, NoQuorum, "put back", "ruche metadata replace 1")
	}
	stop := errors.New("stop")
	if _, err := force(t, c, func(plan *ForcePlan) error {
		if plan.Copies[0].Chosen || !strings.Contains(plan.Copies[0].Missing, "put back") || !plan.Copies[2].Chosen {
			t.Errorf("plan %+v", plan.Copies)
		}
		return stop
	}); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	rename(t, gone, ahead)

	// The newest state directory is right all the same.
	older := t.TempDir()
	keepState(t, dir, older)
	keepState(t, newest, dir)
	p = opened(t, c)
	await(t, p, "three copies", well(3))
	getObject(t, p, "late")
	closed(t, p)

	keepState(t, older, dir)
	for range 2 { // it stays refused
		p = opened(t, c)
		oneRefused(t, p, 1)
		getObject(t, p, "late")
		if err := p.copies.targetOne(t.Context()); err == nil {
			t.Error("the copy that was put back is to be the only one")
		}
		closed(t, p)
	}
	p = opened(t, c)
	replaceCopy(t, p, "1", 4)
	closed(t, p)
	p = opened(t, c)
	await(t, p, "three copies", well(3))
	getObject(t, p, "late")
	closed(t, p)
}

// TestStateDirectoryOfARunningServer copies the files between a start and a
// stop, which is as good a backup as any where the file system has snapshots.
func TestStateDirectoryOfARunningServer(t *testing.T) {
	t.Parallel()
	dir, backup := withStateCopy(t), t.TempDir()
	c := settings(t, dir, nil)
	p := opened(t, c)
	name := filepath.Join(dir, storesName)
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	closed(t, p)
	keepState(t, dir, backup)
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	p = opened(t, c)
	oneRefused(t, p, 1)
	closed(t, p)
}

// TestNumbersOfAnOlderList puts back the state directory of before its copy got
// another number, which must not be given again.
func TestNumbersOfAnOlderList(t *testing.T) {
	t.Parallel()
	dir, backup := withStateCopy(t), t.TempDir()
	c := settings(t, dir, nil)
	keepState(t, dir, backup)
	remove(t, filepath.Join(dir, "metadata"))
	p := opened(t, c)
	replaceCopy(t, p, "1", 4)
	putSmall(t, p, "late")
	closed(t, p)
	keepState(t, backup, dir)
	p = opened(t, c)
	oneRefused(t, p, 4)
	getObject(t, p, "late")
	closed(t, p)
	p = opened(t, c)
	oneRefused(t, p, 4)
	replaceCopy(t, p, "4", 5)
	closed(t, p)
}

// TestGenerationThatWasNotCopied cuts starts off between raising the generation
// and copying it.
func TestGenerationThatWasNotCopied(t *testing.T) {
	t.Parallel()
	dir := withStateCopy(t)
	id, err := readIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	list, err := readStores(dir, id.Cluster)
	if err != nil || list.Generation == 0 {
		t.Fatalf("list %+v, %v", list, err)
	}
	for _, row := range list.Stores[1:] {
		m, err := readMarker(row.Path)
		if err != nil || m.Generation != list.Generation || m.Replica != row.Replica || m.Store != row.Store || m.Cluster != id.Cluster {
			t.Errorf("marker %+v, %v; want generation %d", m, err, list.Generation)
		}
	}
	list.Generation += 3
	if err := list.save(dir); err != nil {
		t.Fatal(err)
	}
	p := opened(t, settings(t, dir, nil))
	await(t, p, "three copies", well(3))
	closed(t, p)
}

// TestForceOfTheOneThatWasPutBack has nothing but the copy that was put back.
// What it gave up does not make it stale again when it comes back.
func TestForceOfTheOneThatWasPutBack(t *testing.T) {
	t.Parallel()
	dir, backup, away := withStateCopy(t), t.TempDir(), t.TempDir()
	c := settings(t, dir, nil)
	keepState(t, dir, backup)
	succeed(t, c)
	keepState(t, backup, dir)
	_, err := attempt(t, c, nil) // notes that it was
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"d1", "d2"} {
		rename(t, filepath.Join(dir, d, "meta"), filepath.Join(away, d))
	}
	plan, err := force(t, c, yes)
	if err != nil || !plan.Copies[0].Chosen || plan.Copies[0].Missing != "" {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	rename(t, filepath.Join(away, "d1"), filepath.Join(dir, "d1", "meta"))
	for range 2 {
		p := opened(t, c)
		await(t, p, "it goes on alone", func(m *admin.Metadata) bool { return m.Healthy == 1 && len(m.Stores) == 1 && m.Leaderless == 0 })
		getObject(t, p, secret+"-1")
		closed(t, p)
	}
}

// TestListIsNoMarker: the list lies where the marker of the copy in the state
// directory would.
func TestListIsNoMarker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"metadata.json", "meta.json"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, remove := range []func(string) error{removeStore, func(dir string) error { return setAside(dir, 1) }} {
		for _, name := range []string{"metadata", metaName} {
			if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "metadata.json")); err != nil {
		t.Errorf("the list has gone: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "meta.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the marker stays: %v", err)
	}
}
