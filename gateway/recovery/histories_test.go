package recovery_test

import (
	"errors"
	"testing"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// TestEndedHistories: what was committed after a backup that was restored
// later does not count, nor does the deletion of a bucket; what came before the
// backup and after the restore does. Manifests of a retired drive do not count.
func TestEndedHistories(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	c.root.Drives.Drives[5].State = topology.DriveRetired
	heads := make([]uint64, metadata.DataGroups+1)
	for i := range heads {
		heads[i] = order(100)
	}
	c.root.Incarnation = c.root.Incarnation.After(heads, order(200), 5)
	c.putRoot()
	b, revived, gone, void := c.bucket("bucket", true), c.bucket("revived", true), c.bucket("gone", true), c.bucket("void", true)
	kept := []*manifest.Manifest{
		c.inline("overwritten since", order(10), "old"), c.inline("deleted since", order(11), "old"), c.inline("later", order(200), "new"),
	}
	b.put(kept, 0, 1, 2)
	b.put([]*manifest.Manifest{c.inline("overwritten since", order(101), "void"), tombstone("deleted since", order(102)),
		c.inline("later", order(199), "void"), c.inline("created since", order(150), "void"), tombstone("kept", order(160))}, 2, 3, 4)
	b.put([]*manifest.Manifest{c.inline("deleted before the drive was retired", order(9), "old")}, 5)

	at := func(b *fakeBucket, epoch uint64) {
		name, err := b.keys.SealName(c.random, b.row.ID, b.row.Name)
		c.check(err)
		c.put(metadata.Record{Type: metadata.RecordBucket, Bucket: b.row.ID, Account: c.account.ID, Epoch: epoch}, bucketRecord(&b.row, 1, name), 1)
	}
	object := c.inline("k", order(300), "v")
	for _, b := range []*fakeBucket{revived, gone} {
		b.delete(3) // in epoch 1
		b.put([]*manifest.Manifest{object}, 1)
	}
	at(revived, 6)
	at(gone, 5)
	void.put([]*manifest.Manifest{c.inline("k", order(110), "void")}, 0)

	l, report := recoverAll(t, c.options())
	same(t, l, b, kept...)
	same(t, l, revived, object)
	same(t, l, void)
	if _, err := l.BucketByID(t.Context(), gone.row.ID); !errors.Is(err, metadata.ErrNoSuchBucket) {
		t.Errorf("the deleted bucket: %v", err)
	}
	i, err := l.Incarnation(t.Context())
	if err != nil || i.Number != c.root.Incarnation.Number+1 || i.Collection || !i.Voided(3, order(150)) || i.LastEpoch() != 5 {
		t.Errorf("incarnation %+v, %v", i, err)
	}
	if report.LostCount != 0 || report.Ended < 6 {
		t.Errorf("%+v", report)
	}

	// All the same, the later history can be had.
	o := c.options()
	o.Ended = true
	l, report = recoverAll(t, o)
	if held(t, l, b, "created since") == nil || held(t, l, b, "deleted since") != nil || held(t, l, b, "later") == nil || held(t, l, void, "k") == nil || report.Ended != 0 {
		t.Errorf("the ended history is not restored: %+v", report)
	}
	if i, err := l.Incarnation(t.Context()); err != nil || len(i.Void) != 0 || i.Number != c.root.Incarnation.Number+1 {
		t.Errorf("incarnation %+v, %v", i, err)
	}
}
