package server

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ruche-storage/ruche/gateway/admin"
)

// TestOldMetadataLearnOfReplacedDrives replaces a drive, and then puts the
// metadata of before back: where the data is, only drives know.
func TestOldMetadataLearnOfReplacedDrives(t *testing.T) {
	t.Parallel()
	dir := made(t)
	state, kept := filepath.Join(dir, "metadata"), filepath.Join(t.TempDir(), "metadata")
	keep := func(from, to string) {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	keep(state, kept)
	path := filepath.Join(dir, "d2")
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	p := opened(t, settings(t, dir, nil))
	was, err := p.meta.PGs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	old, _ := p.id.at(path)
	if _, err := p.ctl.ReplaceDrive(t.Context(), &admin.ReplaceRequest{Path: path}); err != nil {
		t.Fatal(err)
	}
	now, _ := p.id.at(path)
	eventually(t, "no drive tells of the new one", func() bool {
		found, err := p.newestTables(t.Context())
		return err == nil && found != nil && found.PGs.Version > was.Version
	})
	closed(t, p)

	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	keep(kept, state)
	succeed(t, settings(t, dir, nil))
	checkTables(t, dir, old, now)

	// A restore has ended that history: its tables are not taken.
	p = opened(t, settings(t, dir, nil))
	defer closed(t, p)
	found, err := p.newestTables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i, err := p.meta.Incarnation(t.Context())
	if err != nil || i.Number != 1 || i.Collection || len(i.Void) == 0 {
		t.Fatalf("incarnation %+v, %v; want one of older metadata", i, err)
	}
	if found == nil || found.Incarnation > i.Number {
		t.Errorf("tables %+v", found)
	}
}
