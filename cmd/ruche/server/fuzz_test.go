package server

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/metadata/topology"
)

// FuzzStateFiles reads the files of a state directory: what is refused is said
// with a remedy, what is taken contradicts nothing and is written as the same.
func FuzzStateFiles(f *testing.F) {
	id := identity{Format: identityFormat, Phase: phaseReady, Cluster: id128{1}, Node: topology.NodeID{2}, Scheme: "4+2",
		Slots: []slot{{Path: "/srv/d1", Drive: topology.DriveID{3}}}, State: &stateStore{ID: topology.DriveID{4}}}
	list := storeList{Format: storesFormat, Cluster: id128{1}, Phase: "ready", Next: 3, Stores: []storeRow{
		{Replica: 1, Store: id128{5}, Path: "/x", State: storeReady}, {Replica: 2, Store: id128{6}, Path: "/y", Drive: topology.DriveID{3}, State: storeNew}}}
	for _, v := range []any{id, list} {
		text, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("RUCHE_ROOT_USER=a\nRUCHE_ROOT_PASSWORD=b=c\n"))
	f.Add([]byte(`{"format":1,"stores":[{"replica":1}]}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		put := func(name string, text []byte) {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put("cluster.json", text)
		roundTrip(t, "cluster.json", put, func() (*identity, error) { return readIdentity(dir) })
		var named struct{ Cluster id128 }
		_ = json.Unmarshal(text, &named) // or no input gets past the comparison
		put(storesName, text)
		if l := roundTrip(t, storesName, put, func() (*storeList, error) { return readStores(dir, named.Cluster) }); l != nil {
			seen := make(map[uint64]bool)
			for _, s := range l.Stores {
				if seen[s.Replica] || s.Replica == 0 || s.Replica >= l.Next {
					t.Errorf("copy %d is listed wrongly in %s", s.Replica, text)
				}
				seen[s.Replica] = true
			}
		}
		put(CredentialsFile, text)
		if c, err := ReadCredentials(dir); err != nil {
			remedied(t, err)
		} else if c.AccessKey == "" || c.Secret == "" {
			t.Errorf("%q has credentials %q", text, c.AccessKey)
		}
	})
}

// roundTrip reads a file, writes what was taken, and reads that.
func roundTrip[T any](t *testing.T, name string, put func(string, []byte), read func() (*T, error)) *T {
	t.Helper()
	v, err := read()
	if err != nil {
		remedied(t, err)
		return nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	put(name, text)
	again, err := read()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, text)
	}
	if diff := cmp.Diff(v, again); diff != "" {
		t.Errorf("%s is written as another: %s", name, diff)
	}
	return v
}

// remedied fails unless an error says what to do.
func remedied(t *testing.T, err error) {
	t.Helper()
	if e, ok := errors.AsType[*StartError](err); !ok || e.Remedy == "" {
		t.Errorf("no remedy for %v", err)
	}
}
