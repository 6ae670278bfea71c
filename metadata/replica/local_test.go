package replica_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func fixed(t time.Time) func() time.Time { return func() time.Time { return t } }

func open(t testing.TB, o replica.Options) *replica.Local {
	t.Helper()
	if o.FS == nil {
		o.FS = vfs.NewMem()
	}
	if o.Now == nil {
		o.Now = fixed(start)
	}
	o.ReserveBytes = cmpOr(o.ReserveBytes, -1)
	l, err := replica.Open("meta", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil && l.Metrics().Failed == false {
			t.Errorf("Close: %v", err)
		}
	})
	return l
}

func cmpOr(v, or int64) int64 {
	if v == 0 {
		return or
	}
	return v
}

var testBucket = metadata.BucketRef{Group: 3, ID: metadata.BucketID{0xb}}

// request returns a request id made of two numbers.
func request(a, b int) metadata.RequestID {
	var id metadata.RequestID
	copy(id[:], fmt.Sprintf("%08d%08d", a, b))
	return id
}

// prepare raises the fence of the test bucket's group to epoch 1 and opens the
// bucket.
func prepare(t testing.TB, l *replica.Local) {
	t.Helper()
	for _, c := range preparing() {
		if _, err := l.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
}

// preparing are the commands of prepare.
func preparing() []*metadata.Command {
	return []*metadata.Command{
		{
			Kind: metadata.KindFence, Version: metadata.CommandVersion, Group: testBucket.Group,
			Fence: &metadata.Fence{Floor: 1, Living: []uint64{1}},
		},
		{
			Kind: metadata.KindOpenBucket, Version: metadata.CommandVersion, Group: testBucket.Group,
			Settle: &metadata.Settings{Bucket: testBucket.ID, Name: "b", Epoch: 1},
		},
	}
}

// put is the command that stores an inline object.
func put(id metadata.RequestID, key, body string) *metadata.Command {
	v := metadata.Version{Null: true, Bytes: int64(len(body)), ETag: body}
	v.Part = &metadata.Part{Number: 1, ID: metadata.PartID(id), Bytes: v.Bytes, SealedBytes: v.Bytes, Body: metadata.BodyInline}
	return &metadata.Command{
		Kind: metadata.KindCommitVersion, Version: metadata.CommandVersion, Group: testBucket.Group,
		Settings: 1, Epoch: 1, Request: id,
		CommitVersion: &metadata.CommitVersion{Bucket: testBucket.ID, Key: key, Version: v, Inline: []byte(body)},
	}
}

func TestPutIsReadBack(t *testing.T) {
	t.Parallel()
	l := open(t, replica.Options{})
	prepare(t, l)
	res, err := l.Commit(t.Context(), put(request(1, 1), "a", "hello"))
	if err != nil {
		t.Fatal(err)
	}
	if want := uint64(start.UnixMicro()); res.Order < want || res.Order > want+10 {
		t.Errorf("order = %d, want about %d", res.Order, want)
	}
	o, err := l.Open(t.Context(), testBucket, "a", "")
	if err != nil {
		t.Fatal(err)
	}
	if string(o.Inline) != "hello" || o.Version.Order != res.Order {
		t.Errorf("Open = %q of order %d, want hello of %d", o.Inline, o.Version.Order, res.Order)
	}
	again, err := l.Commit(t.Context(), put(request(1, 1), "a", "hello"))
	if err != nil || again.Order != res.Order {
		t.Errorf("repeated Commit = %+v, %v; want order %d", again, err, res.Order)
	}
	c := put(request(1, 2), "a", "x")
	c.CommitVersion.Conditions.IfNoneMatch = true
	if res, err := l.Commit(t.Context(), c); !errors.Is(err, metadata.ErrPreconditionFailed) || res == nil {
		t.Errorf("conditional Commit = %v, %v; want a result and %v", res, err, metadata.ErrPreconditionFailed)
	}
}

func TestManyWritersAgree(t *testing.T) {
	t.Parallel()
	l := open(t, replica.Options{})
	prepare(t, l)
	const writers, each = 16, 50
	var g sync.WaitGroup
	for w := range writers {
		g.Go(func() {
			for i := range each {
				if _, err := l.Commit(context.Background(), put(request(w, i), fmt.Sprintf("k%d-%d", w, i), "v")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	u, err := l.Usage(t.Context(), testBucket)
	if err != nil || u.Objects != writers*each {
		t.Errorf("Usage = %+v, %v; want %d objects", u, err, writers*each)
	}
	if m := l.Metrics(); m.Commands != writers*each+2 {
		t.Errorf("Metrics.Commands = %d, want %d", m.Commands, writers*each+2)
	}
}
