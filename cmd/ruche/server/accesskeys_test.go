package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/metadata"
)

// fakeKeys is a key store in memory. It is used by one goroutine at a time.
type fakeKeys struct {
	changed   int // calls of RootChanged
	rows      map[string]metadata.AccessKey
	lookups   int
	meanwhile func() // called in the middle of the next lookup
	unknown   int    // commits whose outcome stays unknown at first
	requests  map[metadata.RequestID]int
}

func (f *fakeKeys) Commit(_ context.Context, cmd *metadata.Command) (*metadata.Result, error) {
	f.requests[cmd.Request]++
	if f.unknown > 0 {
		f.unknown--
		return nil, metadata.ErrUnknownOutcome
	}
	_, exists := f.rows[cmd.AccessKey.ID]
	switch {
	case cmd.Kind == metadata.KindPutAccessKey && exists:
		return nil, metadata.ErrAccessKeyExists
	case cmd.Kind == metadata.KindPutAccessKey:
		f.rows[cmd.AccessKey.ID] = *cmd.AccessKey
	case !exists:
		return nil, metadata.ErrNoSuchAccessKey
	default:
		delete(f.rows, cmd.AccessKey.ID)
	}
	return &metadata.Result{Order: 1}, nil
}

func (f *fakeKeys) AccessKey(_ context.Context, id string) (*metadata.AccessKey, error) {
	f.lookups++
	row, ok := f.rows[id]
	if hook := f.meanwhile; hook != nil {
		f.meanwhile = nil
		hook()
	}
	if !ok {
		return nil, metadata.ErrNoSuchAccessKey
	}
	return &row, nil
}

func (f *fakeKeys) AccessKeys(context.Context) (out []metadata.AccessKey, err error) {
	for _, row := range f.rows {
		out = append(out, row)
	}
	return out, nil
}

func (f *fakeKeys) Epoch() (uint64, func(), error) { return 7, func() {}, nil }

func (f *fakeKeys) RootChanged() { f.changed++ }

// TestDrivesAreToldOfKeys: a key that was made, or deleted, must be on the drives
// as soon as an object would.
func TestDrivesAreToldOfKeys(t *testing.T) {
	t.Parallel()
	f, keys := newFakeKeys(t)
	made, err := keys.CreateKey(t.Context(), &admin.CreateKeyRequest{Description: "app"})
	if err != nil || f.changed != 1 {
		t.Fatalf("CreateKey = %v, told %d times, want 1", err, f.changed)
	}
	if err := keys.DeleteKey(t.Context(), made.ID); err != nil || f.changed != 2 {
		t.Errorf("DeleteKey = %v, told %d times, want 2", err, f.changed)
	}
}

func newFakeKeys(t *testing.T) (*fakeKeys, *accessKeys) {
	t.Helper()
	key, err := seal.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeKeys{rows: make(map[string]metadata.AccessKey), requests: make(map[metadata.RequestID]int)}
	return f, &accessKeys{root: Credentials{"root", "rootsecret"}, store: f, epochs: f, account: &metadata.Account{}, keys: seal.DeriveAccount(key), secrets: make(map[string]string)}
}

func TestSecretsAreSealedAndCached(t *testing.T) {
	t.Parallel()
	f, a := newFakeKeys(t)
	made, err := a.CreateKey(t.Context(), &admin.CreateKeyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if row := f.rows[made.ID]; row.SealedSecret == "" || row.SealedSecret == made.Secret {
		t.Errorf("stored secret %q", row.SealedSecret)
	}
	for range 3 {
		got, err := a.lookup(t.Context(), made.ID)
		if err != nil || got.Secret != made.Secret {
			t.Errorf("lookup = %v, %v", got, err)
		}
	}
	if f.lookups != 1 {
		t.Errorf("%d lookups in the metadata, want 1", f.lookups)
	}
	if got, err := a.lookup(t.Context(), "root"); err != nil || got.Secret != "rootsecret" || f.lookups != 1 {
		t.Errorf("root: %v, %v", got, err)
	}
	if _, err := a.lookup(t.Context(), "nobody"); !errors.Is(err, sigv4.ErrUnknownKey) {
		t.Errorf("unknown key: %v", err)
	}
	row := f.rows[made.ID]
	row.Disabled = true
	f.rows[made.ID] = row
	a.forget(made.ID)
	if _, err := a.lookup(t.Context(), made.ID); !errors.Is(err, sigv4.ErrUnknownKey) {
		t.Errorf("disabled key: %v", err)
	}
}

// TestALookupDoesNotReviveADeletedKey deletes a key while a lookup has read its
// row and not cached it yet.
func TestALookupDoesNotReviveADeletedKey(t *testing.T) {
	t.Parallel()
	f, a := newFakeKeys(t)
	made, err := a.CreateKey(t.Context(), &admin.CreateKeyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	f.meanwhile = func() {
		if err := a.DeleteKey(t.Context(), made.ID); err != nil {
			t.Error(err)
		}
	}
	if _, err := a.lookup(t.Context(), made.ID); err != nil {
		t.Errorf("the lookup that came first: %v", err)
	}
	if _, err := a.lookup(t.Context(), made.ID); !errors.Is(err, sigv4.ErrUnknownKey) {
		t.Errorf("after the deletion: %v", err)
	}
}

func TestTheCacheOfSecretsIsBounded(t *testing.T) {
	t.Parallel()
	f, a := newFakeKeys(t)
	for i := range maxCachedKeys + 10 {
		id := fmt.Sprintf("key-%d", i)
		sealed, err := a.keys.SealSecret(rand.Reader, id, []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		f.rows[id] = metadata.AccessKey{ID: id, SealedSecret: string(sealed)}
		if _, err := a.lookup(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(a.secrets); n > maxCachedKeys {
		t.Errorf("%d secrets are cached", n)
	}
}

func TestACommandOfUnknownOutcomeIsRepeatedUnderItsID(t *testing.T) {
	t.Parallel()
	f, a := newFakeKeys(t)
	f.unknown = 2
	if _, err := a.CreateKey(t.Context(), &admin.CreateKeyRequest{}); err != nil {
		t.Fatal(err)
	}
	if len(f.requests) != 1 {
		t.Errorf("%d request ids for one command", len(f.requests))
	}
	for _, n := range f.requests {
		if n != 3 {
			t.Errorf("proposed %d times, want 3", n)
		}
	}
}

// TestASecretIsBoundToItsKey moves a sealed secret to another key.
func TestASecretIsBoundToItsKey(t *testing.T) {
	t.Parallel()
	f, a := newFakeKeys(t)
	made, err := a.CreateKey(t.Context(), &admin.CreateKeyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	row := f.rows[made.ID]
	row.ID = "another"
	f.rows["another"] = row
	if _, err := a.lookup(t.Context(), "another"); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("lookup = %v, want %v", err, seal.ErrOpen)
	}
}
