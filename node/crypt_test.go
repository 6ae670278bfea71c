package node

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// encryptedIndex puts indexes on an encrypting file system.
func encryptedIndex(key byte) func(topology.DriveID, string, vfs.FS) (vfs.FS, error) {
	return func(drive topology.DriveID, _ string, below vfs.FS) (vfs.FS, error) {
		return cryptfs.New(below, cryptfs.Options{Key: cryptfs.Key{key}, Store: drive, Random: rand.Reader})
	}
}

// TestEncryptedIndex opens a drive whose index is encrypted: with its key as it
// is, under another one with an index made anew, and finds nothing of its rows
// in the files.
func TestEncryptedIndex(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	format(t, fs, "d1")
	opts := quietOptions(fs)
	for i, life := range []struct {
		key     byte
		rebuilt bool
	}{{1, false}, {1, false}, {2, true}, {2, false}} {
		opts.IndexFS = encryptedIndex(life.key)
		w := open(t, opts, "d1")
		w.rng = newRand(uint64(i)) // other shards in every life
		if st := w.d.Status(); st.Recovery.IndexRebuilt != life.rebuilt || st.Shards != int64(5*i) {
			t.Errorf("life %d: %d shards, index rebuilt: %v; want %d, %v", i, st.Shards, st.Recovery.IndexRebuilt, 5*i, life.rebuilt)
		}
		for range 5 {
			w.put(1000)
		}
		for _, s := range w.shards {
			w.check(s)
		}
		if err := w.n.Close(); err != nil {
			t.Fatal(err)
		}
		names, err := fs.List("d1/idx")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			raw, err := fs.UnsafeGetFileDataBuffer("d1/idx/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if len(raw) > 0 && !bytes.HasPrefix(raw, []byte("RUCHECTR")) {
				t.Errorf("%s is not encrypted", name)
			}
			for _, s := range w.shards {
				if bytes.Contains(raw, s.Record.Shard.Chunk[:]) {
					t.Errorf("%s holds the id of a chunk", name)
				}
			}
		}
	}
}

// TestIndexWithoutKey refuses a drive when there is no file system for its
// index, and leaves what is there alone.
func TestIndexWithoutKey(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	format(t, fs, "d1")
	opts := quietOptions(fs)
	opts.IndexFS = encryptedIndex(1)
	w := open(t, opts, "d1")
	w.put(1000)
	if err := w.n.Close(); err != nil {
		t.Fatal(err)
	}
	missing := errors.New("no key")
	opts.IndexFS = func(drive topology.DriveID, dir string, _ vfs.FS) (vfs.FS, error) {
		return nil, fmt.Errorf("%s of %s: %w", dir, drive, missing)
	}
	n, refused, err := Open(t.Context(), opts, []string{"d1"})
	if err != nil || len(refused) != 1 || !errors.Is(refused[0].Err, missing) {
		t.Fatalf("refused %v, %v; want %v", refused, err, missing)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	opts.IndexFS = encryptedIndex(1)
	again := open(t, opts, "d1")
	if st := again.d.Status(); st.Recovery.IndexRebuilt || st.Shards != 1 {
		t.Errorf("%d shards, index rebuilt: %v", st.Shards, st.Recovery.IndexRebuilt)
	}
	if err := again.n.Close(); err != nil {
		t.Fatal(err)
	}
}
