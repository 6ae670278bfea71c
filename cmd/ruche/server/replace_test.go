package server

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// TestReplacementGoesOnAfterACrash leaves a replacement as a crash would, and
// starts the server.
func TestReplacementGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		leave    func(t *testing.T, path string, id *identity)
		replaced bool
	}{
		{"before anything was written", func(*testing.T, string, *identity) {}, true},
		{"while formatting", func(t *testing.T, path string, _ *identity) {
			if err := os.Mkdir(filepath.Join(path, "seg"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(path, "superblock.1"), []byte("torn"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"after formatting", func(t *testing.T, path string, id *identity) {
			if _, err := format(path, id); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"and the lost drive is back", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := made(t)
			path := filepath.Join(dir, "d2")
			id, err := readIdentity(dir)
			if err != nil {
				t.Fatal(err)
			}
			old, ok := id.at(path)
			if !ok {
				t.Fatal("the drive is not known")
			}
			if tt.leave != nil {
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
				tt.leave(t, path, id)
			}
			id.Replacing = []replacing{{path, old}}
			if err := id.save(dir); err != nil {
				t.Fatal(err)
			}
			succeed(t, settings(t, dir, nil))

			if id, err = readIdentity(dir); err != nil {
				t.Fatal(err)
			}
			now, _ := id.at(path)
			if len(id.Replacing) != 0 || (now != old) != tt.replaced {
				t.Errorf("still to replace: %v; drive %s, before %s", id.Replacing, now, old)
			}
			super, err := node.Inspect(vfs.Default, path)
			if err != nil || super.Drive != now {
				t.Errorf("superblock %+v, %v; want drive %s", super, err, now)
			}
			checkTables(t, dir, old, now)
		})
	}
}

// TestReplacementIsTriedAgain fails after the new drive was formatted, and
// repeats the call.
func TestReplacementIsTriedAgain(t *testing.T) {
	t.Parallel()
	dir := made(t)
	path := filepath.Join(dir, "d2")
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	p := opened(t, settings(t, dir, nil))
	old, _ := p.id.at(path)
	keyringPath := p.ring.path
	p.ring.path = filepath.Join(dir, "cluster.json", "keyring") // no directory
	if _, err := p.ctl.ReplaceDrive(t.Context(), &admin.ReplaceRequest{Path: path}); err == nil {
		t.Error("replaced without a keyring")
	}
	if super, err := node.Inspect(vfs.Default, path); err != nil || super.Drive == old {
		t.Fatalf("nothing was formatted: %v", err)
	}
	p.ring.path = keyringPath
	d, err := p.ctl.ReplaceDrive(t.Context(), &admin.ReplaceRequest{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.id.Replacing) != 0 || d.Path != path {
		t.Errorf("drive %+v, still to replace: %v", d, p.id.Replacing)
	}
	if _, err := p.ctl.ReplaceDrive(t.Context(), &admin.ReplaceRequest{Path: path}); err == nil {
		t.Error("a drive that works was replaced")
	}
	closed(t, p)
	id, err := readIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	now, _ := id.at(path)
	checkTables(t, dir, old, now)
}

// checkTables looks at what the metadata says of two drives, which may be one.
func checkTables(t *testing.T, dir string, old, now topology.DriveID) {
	t.Helper()
	meta, err := replica.Open(filepath.Join(dir, "metadata"), replica.Options{FS: stateFiles(t, dir)})
	if err != nil {
		t.Fatal(err)
	}
	defer meta.Close()
	drives, err := meta.Drives(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	states := make(map[topology.DriveID]topology.DriveState)
	for _, d := range drives.Drives {
		states[d.ID] = d.State
	}
	if states[now] != topology.DriveActive || (old != now && states[old] == topology.DriveActive) {
		t.Errorf("new drive is %v, old one %v", states[now], states[old])
	}
	pgs, err := meta.PGs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, pg := range pgs.Groups {
		for _, member := range pg.Newest().Members {
			if old != now && member == old {
				t.Errorf("group %d still has the lost drive", pg.ID)
			}
		}
	}
}
