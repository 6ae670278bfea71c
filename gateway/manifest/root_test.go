package manifest_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/topology"
)

func testRoot() *manifest.Root {
	scheme := metadata.NewScheme(1, 1)
	return &manifest.Root{
		Order: 99, CommandVersion: 2, Incarnation: metadata.Incarnation{Number: 3, Collection: true},
		Accounts:   []metadata.Account{{ID: metadata.AccountID{1}, Name: "commune", WrappedKey: "wrapped"}},
		AccessKeys: []metadata.AccessKey{{ID: "AKIA", SealedSecret: "sealed", Account: metadata.AccountID{1}, Order: 5}},
		Drives:     metadata.DriveTable{Version: 4, Drives: []topology.Drive{{ID: topology.DriveID{1}, State: topology.DriveActive}}},
		PGs: metadata.PGTable{Version: 6, Groups: []metadata.PG{{Scheme: scheme,
			Generations: []metadata.Generation{{Number: 1, Members: []topology.DriveID{{1}, {2}}}}}}},
	}
}

func testKeyring(t *testing.T) *keyring.Keyring {
	t.Helper()
	k, _, err := keyring.Create(keyring.Options{Cluster: keyring.ClusterID{1, 2}, Random: source(3), Now: time.Unix(1_790_000_000, 0),
		KDF: keyring.KDF{Time: 1, MemoryKiB: 8, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestRoot(t *testing.T) {
	t.Parallel()
	cluster := seal.ClusterID{1, 2}
	keys := testKeyring(t)
	for _, k := range []manifest.RootKeys{nil, keys} {
		id, payload, err := manifest.SealRoot(source(4), k, cluster, testRoot())
		if err != nil {
			t.Fatal(err)
		}
		got, err := manifest.OpenRoot(k, cluster, id, payload)
		if diff := cmp.Diff(testRoot(), got); diff != "" || err != nil {
			t.Error(err, diff)
		}
		if _, err := manifest.OpenRoot(k, seal.ClusterID{9}, id, payload); err == nil {
			t.Error("tables of another cluster were opened")
		}
		if k == nil {
			if _, err := manifest.OpenRoot(keys, cluster, id, payload); !errors.Is(err, manifest.ErrMalformed) {
				t.Errorf("tables that are not sealed: %v", err)
			}
			continue
		}
		if _, err := manifest.OpenRoot(nil, cluster, id, payload); !errors.Is(err, manifest.ErrNoKey) {
			t.Errorf("without keyring: %v", err)
		}
		if bytes.Contains(payload, []byte("AKIA")) {
			t.Error("an access key is readable")
		}
		for i := range payload {
			flipped := bytes.Clone(payload)
			flipped[i] ^= 1
			if _, err := manifest.OpenRoot(k, cluster, id, flipped); err == nil {
				t.Errorf("byte %d flipped: opened", i)
			}
		}
		id[0]++
		if _, err := manifest.OpenRoot(k, cluster, id, payload); !errors.Is(err, keyring.ErrOpenBytes) {
			t.Errorf("another record id: %v", err)
		}
	}
}

func TestNewer(t *testing.T) {
	t.Parallel()
	a, b := testRoot(), testRoot()
	if a.Newer(b) {
		t.Error("equal tables are newer")
	}
	b.Order++
	if !b.Newer(a) || a.Newer(b) {
		t.Error("the higher order does not count")
	}
	a.Incarnation.Number++
	if b.Newer(a) || !a.Newer(b) {
		t.Error("the higher incarnation does not count")
	}
}

// FuzzOpenRoot reads root tables that are not sealed.
func FuzzOpenRoot(f *testing.F) {
	cluster := seal.ClusterID{1, 2}
	_, payload, err := manifest.SealRoot(source(1), nil, cluster, testRoot())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(payload)
	f.Fuzz(func(t *testing.T, payload []byte) {
		r, err := manifest.OpenRoot(nil, cluster, metadata.ChunkID{}, payload)
		if err != nil {
			return
		}
		_, again, err := manifest.SealRoot(source(1), nil, cluster, r)
		if err != nil {
			return
		}
		got, err := manifest.OpenRoot(nil, cluster, metadata.ChunkID{}, again)
		if diff := cmp.Diff(r, got, same); diff != "" || err != nil {
			t.Fatal(err, diff)
		}
	})
}
