package simtest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/simtest"
)

// puts makes commands on the key k of one bucket.
type puts struct{ ref metadata.BucketRef }

func (p puts) put(etag string, w metadata.WriteConditions) *metadata.Command {
	part := &metadata.Part{Number: 1, ID: metadata.PartID{etag[0]}, Body: metadata.BodyEmpty}
	return &metadata.Command{Kind: metadata.KindCommitVersion, Group: p.ref.Group, CommitVersion: &metadata.CommitVersion{
		Bucket: p.ref.ID, Key: "k", Conditions: w, Version: metadata.Version{Null: true, ETag: etag, Part: part}}}
}

func (p puts) delete(keys ...string) *metadata.Command {
	c := &metadata.Command{Kind: metadata.KindDeleteVersions, Group: p.ref.Group, Delete: &metadata.DeleteVersions{Bucket: p.ref.ID}}
	for _, k := range keys {
		c.Delete.Keys = append(c.Delete.Keys, metadata.DeleteKey{Key: k})
	}
	return c
}

// TestSpec judges short histories by hand.
func TestSpec(t *testing.T) {
	t.Parallel()
	p := puts{metadata.BucketRef{Group: 1, ID: metadata.BucketID{1}}}
	none := metadata.WriteConditions{}
	absent := metadata.WriteConditions{IfNoneMatch: true}
	v := func(etag string, order uint64) *metadata.Version { return &metadata.Version{ETag: etag, Order: order} }
	ok := func(order uint64, replaced bool) *metadata.Result {
		return &metadata.Result{Order: order, Replaced: replaced}
	}
	failed := &metadata.Result{Rejected: metadata.ErrPreconditionFailed}

	tests := []struct {
		name string
		make func(h *simtest.History)
		good bool
	}{
		{"a read sees the write before it", func(h *simtest.History) {
			h.Did(1, 0, 10, p.put("a", none), ok(1, false))
			h.Read(2, 11, 12, p.ref, "k", v("a", 1))
		}, true},
		{"a read misses the write before it", func(h *simtest.History) {
			h.Did(1, 0, 10, p.put("a", none), ok(1, false))
			h.Read(2, 11, 12, p.ref, "k", nil)
		}, false},
		{"a read during a write sees either", func(h *simtest.History) {
			h.Did(1, 0, 10, p.put("a", none), ok(1, false))
			h.Read(2, 1, 2, p.ref, "k", nil)
			h.Read(2, 3, 4, p.ref, "k", v("a", 1))
		}, true},
		{"what was seen stays", func(h *simtest.History) {
			h.Did(1, 0, 10, p.put("a", none), ok(1, false))
			h.Read(2, 1, 2, p.ref, "k", v("a", 1))
			h.Read(2, 3, 4, p.ref, "k", nil)
		}, false},
		{"a write of unknown outcome appears late", func(h *simtest.History) {
			h.Did(1, 0, 0, p.put("a", none), nil)
			h.Read(2, 100, 101, p.ref, "k", nil)
			h.Read(2, 102, 103, p.ref, "k", v("a", 5))
		}, true},
		{"a write of unknown outcome vanishes", func(h *simtest.History) {
			h.Did(1, 0, 0, p.put("a", none), nil)
			h.Read(2, 102, 103, p.ref, "k", v("a", 5))
			h.Read(2, 104, 105, p.ref, "k", nil)
		}, false},
		{"two conditional writes both succeed", func(h *simtest.History) {
			h.Did(1, 0, 10, p.put("a", absent), ok(1, false))
			h.Did(2, 0, 10, p.put("b", absent), ok(2, false))
		}, false},
		{"one of two conditional writes succeeds", func(h *simtest.History) {
			h.Did(1, 0, 10, p.put("a", absent), ok(1, false))
			h.Did(2, 0, 10, p.put("b", absent), failed)
		}, true},
		{"a write is carried out twice", func(h *simtest.History) {
			h.Did(1, 0, 10, p.put("a", none), ok(1, false))
			h.Did(1, 11, 12, p.put("b", none), ok(2, true))
			h.Read(2, 13, 14, p.ref, "k", v("a", 3))
		}, false},
		{"orders fall", func(h *simtest.History) {
			h.Did(1, 0, 10, p.put("a", none), ok(5, false))
			h.Did(1, 11, 12, p.put("b", none), ok(4, true))
		}, false},
		{"a page shows a deleted key", func(h *simtest.History) {
			h.Did(1, 0, 10, p.put("a", none), ok(1, false))
			h.Did(1, 11, 12, p.delete("j", "k"), &metadata.Result{Order: 2, Deleted: []metadata.DeletedKey{{}, {Existed: true}}})
			h.Listed(2, 13, 14, p.ref, []metadata.KeyVersion{{Key: "k", Version: *v("a", 1)}}, []string{"j", "k"}, "", "")
		}, false},
		{"a page lacks a key that lies behind it", func(h *simtest.History) {
			h.Did(1, 0, 10, p.put("a", none), ok(1, false))
			h.Listed(2, 13, 14, p.ref, nil, []string{"j", "k"}, "", "j")
			h.Listed(2, 15, 16, p.ref, nil, []string{"j", "k"}, "k", "")
		}, true},
		{"a page lacks a key", func(h *simtest.History) {
			h.Did(1, 0, 10, p.put("a", none), ok(1, false))
			h.Listed(2, 13, 14, p.ref, nil, []string{"j", "k"}, "", "k")
		}, false},
		{"a refused epoch says nothing", func(h *simtest.History) {
			h.Did(1, 0, 10, p.put("a", none), &metadata.Result{Rejected: metadata.ErrFencedEpoch})
			h.Read(2, 13, 14, p.ref, "k", nil)
		}, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var h simtest.History
			test.make(&h)
			err := h.Check(10 * time.Second)
			if (err == nil) != test.good {
				t.Errorf("Check = %v, want good: %v", err, test.good)
			}
			if err != nil && !strings.Contains(err.Error(), "Illegal") {
				t.Errorf("Check = %v", err)
			}
		})
	}
}

// TestSpecOfUploads judges the life of an upload, and a part that was lost.
func TestSpecOfUploads(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		ref, u := metadata.BucketRef{Group: 1, ID: metadata.BucketID{1}}, metadata.UploadID{7}
		part := metadata.Part{Number: 1, ID: metadata.PartID{9}, Bytes: 3, SealedBytes: 3}
		var h simtest.History
		h.Did(1, 0, 1, &metadata.Command{Kind: metadata.KindCreateUpload, Group: 1,
			CreateUpload: &metadata.CreateUpload{Bucket: ref.ID, Upload: metadata.Upload{ID: u, Key: "k"}}}, &metadata.Result{Order: 1})
		h.Did(1, 2, 3, &metadata.Command{Kind: metadata.KindCommitPart, Group: 1,
			CommitPart: &metadata.CommitPart{Bucket: ref.ID, Key: "k", Upload: u, Part: part}}, &metadata.Result{Order: 2})
		if lost {
			h.ReadParts(2, 4, 5, ref, "k", u, []metadata.PartID{})
		} else {
			h.ReadParts(2, 4, 5, ref, "k", u, []metadata.PartID{part.ID})
		}
		done := metadata.Version{ETag: "e", Order: 3, Bytes: 3}
		h.Did(1, 6, 7, &metadata.Command{Kind: metadata.KindComplete, Group: 1, Complete: &metadata.Complete{Bucket: ref.ID, Key: "k", Upload: u,
			Version: done, Parts: []metadata.PartRef{{Number: 1, ID: part.ID}}}}, &metadata.Result{Order: 3, Version: &done})
		h.ReadParts(2, 8, 9, ref, "k", u, nil)
		h.Read(2, 8, 9, ref, "k", &done)
		if err := h.Check(10 * time.Second); (err != nil) != lost {
			t.Errorf("with a lost part %v: %v", lost, err)
		}
	}
}
