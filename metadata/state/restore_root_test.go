package state_test

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// TestRestoreRoot puts rows back as they were, once, above the orders of which
// the group goes on.
func TestRestoreRoot(t *testing.T) {
	t.Parallel()
	db := openDB(t)
	batch := state.New(db).NewBatch()
	position := uint64(0)
	apply := func(c *metadata.Command) error {
		t.Helper()
		position++
		c.Version, c.Stamp = metadata.CommandVersion, 10
		res, err := batch.Apply(metadata.RootGroup, position, c)
		if err != nil {
			t.Fatal(err)
		}
		return res.Rejected
	}
	bucket := metadata.Bucket{Name: "b", ID: metadata.BucketID{1}, Group: 3, State: metadata.BucketLive, Order: 1000, Region: "fr"}
	key := metadata.AccessKey{ID: "AKIA", Account: metadata.AccountID{2}, Order: 2000}
	restore := func(b metadata.Bucket) error {
		return apply(&metadata.Command{Kind: metadata.KindRestoreBucket, Bucket: &b})
	}

	if err := restore(bucket); !errors.Is(err, metadata.ErrVersionTooLow) {
		t.Errorf("before the version was raised: %v", err)
	}
	if err := apply(&metadata.Command{Kind: metadata.KindClusters, Clusters: &metadata.ClusterVersion{Version: metadata.ManifestVersion}}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again is a retry
		if err := restore(bucket); err != nil {
			t.Error(err)
		}
	}
	if err := apply(&metadata.Command{Kind: metadata.KindRestoreAccessKey, AccessKey: &key}); err != nil {
		t.Error(err)
	}
	if err := apply(&metadata.Command{Kind: metadata.KindRestoreAccessKey, AccessKey: &key}); !errors.Is(err, metadata.ErrAccessKeyExists) {
		t.Errorf("a second key: %v", err)
	}
	for name, test := range map[string]struct {
		change func(b *metadata.Bucket)
		want   error
	}{
		"another bucket of the name": {func(b *metadata.Bucket) { b.ID[0]++ }, metadata.ErrBucketExists},
		"another name of the bucket": {func(b *metadata.Bucket) { b.Name = "c" }, metadata.ErrInvalidCommand},
		"a bucket without order":     {func(b *metadata.Bucket) { b.Order = 0 }, metadata.ErrInvalidCommand},
		"a bucket that is not live":  {func(b *metadata.Bucket) { b.State = metadata.BucketCreating }, metadata.ErrInvalidCommand},
		"a bucket of the root group": {func(b *metadata.Bucket) { b.Group = 0 }, metadata.ErrInvalidCommand},
	} {
		b := bucket
		test.change(&b)
		if err := restore(b); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if order, err := batch.Order(metadata.RootGroup); err != nil || order < key.Order {
		t.Errorf("the group goes on from order %d, %v", order, err)
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	view := state.NewView(db)
	if got, err := view.Bucket("b"); err != nil || got.Order != 1000 || got.Region != "fr" {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := view.AccessKey("AKIA"); err != nil || got.Order != 2000 {
		t.Errorf("%+v, %v", got, err)
	}
}
