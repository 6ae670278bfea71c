package server

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// shelf is a drive that keeps small files in memory.
type shelf struct {
	id    topology.DriveID
	files map[string][]byte
}

func (s shelf) ID() topology.DriveID          { return s.id }
func (s shelf) Path() string                  { return s.id.String() }
func (s shelf) SmallFiles() ([]string, error) { return slices.Collect(maps.Keys(s.files)), nil }
func (s shelf) RemoveSmallFile(name string) error {
	delete(s.files, name)
	return nil
}

func (s shelf) WriteSmallFile(name string, data []byte) error {
	s.files[name] = data
	return nil
}

func (s shelf) ReadSmallFile(name string) ([]byte, error) {
	if text, ok := s.files[name]; ok {
		return text, nil
	}
	return nil, fs.ErrNotExist
}

// TestKeyringMajority: a change of the keyring needs more than half of all
// drives, not of those that happen to be open; without one the open ones do.
func TestKeyringMajority(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keyring")
	cluster := newID()
	if err := createKeyring(path, &identity{Cluster: cluster}, quickKDF, time.Now, func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	ring, err := openKeyring(path, cluster, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var all []keyringDrive
	for i := range 6 {
		all = append(all, shelf{topology.DriveID{byte(i + 1)}, make(map[string][]byte)})
	}
	for range 2 { // repeated: the change is still on too few
		if ring.admit(all[:3], 6) == nil {
			t.Error("a new key is used with the keyring on 3 of 6 drives")
		}
	}
	if err := ring.admit(all[:4], 6); err != nil {
		t.Errorf("on 4 of 6 drives: %v", err)
	}
	if err := ring.admit(all[:1], 6); err != nil {
		t.Errorf("nothing has changed, and the one open drive has it: %v", err)
	}
	if ring.retire(topology.DriveID{2}, all[2:4], 6) == nil {
		t.Error("a key was taken out with the keyring on 2 of 6 drives")
	}
}

// TestRestoringVerifies: whoever restores the keyring has the recovery code, and
// is not asked to show it.
func TestRestoringVerifies(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	c := settings(t, dir, nil)
	code := codeIn(succeed(t, c))
	remove(t, filepath.Join(dir, "keyring"))
	path, err := RestoreKeyring(c, "", code, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.Load(vfs.Default, path)
	if err != nil || ring.Verified().At == 0 || ring.Verified().Version != ring.Version() {
		t.Errorf("verified %+v, %v", ring.Verified(), err)
	}
}

// TestWrongRecoveryCodeIsSaidOnce: what is wrong with the code is not said for
// every drive.
func TestWrongRecoveryCodeIsSaidOnce(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, nil)
	c := settings(t, dir, nil)
	remove(t, filepath.Join(dir, "keyring"))
	const other = "89624-ZN3PG-BB5SD-0V2T8-FZDZM-MC01C" // of a store that is gone
	for code, want := range map[string]error{"ABCDE": keyring.ErrMistyped, other: keyring.ErrWrongCode} {
		_, err := RestoreKeyring(c, "", code, time.Now())
		if !errors.Is(err, want) || strings.Count(err.Error(), "recovery code") != 1 {
			t.Errorf("RestoreKeyring(%q) = %v, want %v once", code, err, want)
		}
	}
}
