package server

import (
	"encoding/binary"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// A store of the first version has no row that says so. The next start of a
// newer program has its groups take all commands.
func TestOlderStoresTakeNewCommands(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	c := settings(t, dir, func(c *config.Config) { c.Encryption = "off" })
	succeed(t, c)
	path := filepath.Join(dir, "metadata")
	db, err := pebble.Open(path, &pebble.Options{FormatMajorVersion: pebble.FormatMajorVersion(20)})
	if err != nil {
		t.Fatal(err)
	}
	const tableVersion = 0x07
	for group := range uint32(metadata.DataGroups + 1) {
		key := append(binary.BigEndian.AppendUint32(nil, group), tableVersion)
		if _, closer, err := db.Get(key); err != nil {
			t.Fatalf("group %d: %v", group, err)
		} else if err := closer.Close(); err != nil {
			t.Fatal(err)
		}
		if err := db.Delete(key, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	succeed(t, c)
	meta, err := replica.Open(path, replica.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer meta.Close()
	for group := range uint32(metadata.DataGroups + 1) {
		if v, err := meta.CommandVersion(t.Context(), group); err != nil || v != metadata.LatestVersion {
			t.Errorf("group %d has version %d, %v", group, v, err)
		}
	}
}
