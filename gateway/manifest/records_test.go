package manifest_test

import (
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
)

// Records as testdata/golden.txt of package gateway/object has them.
const (
	goldenAccount = "0101000000000000000000000000000000020000000000000000000000000000000300000000000000000000000000000007000000777261707065640300000061626304000000726f6f74"
	goldenBucket  = "01010100000000000000000000000000000002000000000000000000000000000000030000000000000000000000000000000500000001000000770100000062020000006672"
	goldenDeleted = "010201000000000000000000000000000000020000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseRecords(t *testing.T) {
	t.Parallel()
	account, err := manifest.ParseAccount(unhex(t, goldenAccount))
	want := &metadata.Account{ID: metadata.AccountID{1}, Key: metadata.KeyID{2}, MasterKey: metadata.KeyID{3}, WrappedKey: "wrapped", Canonical: "abc", Name: "root"}
	if diff := cmp.Diff(want, account); diff != "" || err != nil {
		t.Error(err, diff)
	}
	live, err := manifest.ParseBucket(unhex(t, goldenBucket))
	row := metadata.Bucket{ID: metadata.BucketID{1}, Owner: metadata.AccountID{2}, Key: metadata.KeyID{3}, Group: 5,
		WrappedKey: "w", Region: "fr", State: metadata.BucketLive}
	if diff := cmp.Diff(&manifest.BucketRecord{Row: row, Name: []byte("b")}, live); diff != "" || err != nil {
		t.Error(err, diff)
	}
	deleted, err := manifest.ParseBucket(unhex(t, goldenDeleted))
	if err != nil || !deleted.Deleted || deleted.Row.ID != (metadata.BucketID{1}) || deleted.Row.Owner != (metadata.AccountID{2}) {
		t.Errorf("%+v, %v", deleted, err)
	}
}

func TestParseRecordsRefuses(t *testing.T) {
	t.Parallel()
	account, bucket := unhex(t, goldenAccount), unhex(t, goldenBucket)
	for n := range account {
		if _, err := manifest.ParseAccount(account[:n]); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("account of %d bytes: %v", n, err)
		}
	}
	for n := range bucket {
		if _, err := manifest.ParseBucket(bucket[:n]); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("bucket of %d bytes: %v", n, err)
		}
	}
	bucket[0], account[0] = 2, 2
	if _, err := manifest.ParseBucket(bucket); !errors.Is(err, manifest.ErrNewer) {
		t.Errorf("a later bucket record: %v", err)
	}
	if _, err := manifest.ParseAccount(account); !errors.Is(err, manifest.ErrNewer) {
		t.Errorf("a later account record: %v", err)
	}
	bucket[0], bucket[1] = 1, 3
	if _, err := manifest.ParseBucket(bucket); !errors.Is(err, manifest.ErrNewer) {
		t.Errorf("another state: %v", err)
	}
}

// FuzzParseRecords reads damaged records.
func FuzzParseRecords(f *testing.F) {
	for _, s := range []string{goldenAccount, goldenBucket, goldenDeleted} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := manifest.ParseBucket(b); err == nil && r.Row.ID == (metadata.BucketID{}) {
			t.Error("a bucket without id")
		}
		if a, err := manifest.ParseAccount(b); err == nil && a.ID == (metadata.AccountID{}) {
			t.Error("an account without id")
		}
	})
}
