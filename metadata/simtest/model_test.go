package simtest_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/simtest"
	"github.com/ruche-storage/ruche/metadata/state"
)

// quiet discards what Pebble logs and turns what it calls fatal into a panic.
type quiet struct{}

func (quiet) Infof(string, ...any)              {}
func (quiet) Errorf(string, ...any)             {}
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// lockstep applies commands to the state machine and to the model.
type lockstep struct {
	t        *testing.T
	db       *pebble.DB
	machine  *state.Machine
	model    *simtest.Model
	work     *simtest.Workload
	r        *rand.Rand
	stamp    uint64
	position map[uint32]uint64
	applied  []*metadata.Command
	answers  map[string]int // by the code of the rejection
}

func newLockstep(t *testing.T, seed uint64) *lockstep {
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), Logger: quiet{}, MemTableSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	r := rand.New(rand.NewPCG(seed, 7))
	buckets := []metadata.BucketRef{{Group: 1, ID: metadata.BucketID{1}}, {Group: 1, ID: metadata.BucketID{2}}, {Group: 2, ID: metadata.BucketID{3}}}
	l := &lockstep{t: t, db: db, machine: state.New(db), model: simtest.NewModel(), r: r, stamp: 1_000_000,
		work: simtest.NewWorkload(r, 6, buckets), position: make(map[uint32]uint64), answers: make(map[string]int)}
	for _, group := range []uint32{1, 2} {
		for _, c := range l.work.Begin(group) {
			l.apply(c)
		}
	}
	return l
}

// apply gives a command to both and compares the answers.
func (l *lockstep) apply(c *metadata.Command) *metadata.Result {
	l.t.Helper()
	l.stamp += uint64(l.r.IntN(1000))
	switch l.r.IntN(300) {
	case 0:
		l.stamp += 3 * 24 * 3600 * 1_000_000 // so that results expire
	case 1:
		l.stamp -= min(l.stamp, uint64(l.r.IntN(1e9))) // another engine's clock
	}
	c.Stamp = l.stamp
	l.position[c.Group]++
	b := l.machine.NewBatch()
	got, err := b.Apply(c.Group, l.position[c.Group], c)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		l.t.Fatal(err)
	}
	want := l.model.Apply(c)
	if !bytes.Equal(got.AppendTo(nil), want.AppendTo(nil)) {
		l.t.Fatalf("group %d, position %d: %+v\nanswer %+v\nmodel  %+v", c.Group, l.position[c.Group], c, got, want)
	}
	l.answers[metadata.RejectionCode(got.Rejected)]++
	l.work.Told(c, got)
	if got.Rejected == metadata.ErrStaleSettings {
		for _, b := range l.work.Buckets {
			l.work.Settings(b, l.model.Settings(b).Epoch)
		}
	}
	l.applied = append(l.applied, c)
	return got
}

// step makes and applies the next command, or one that was there before.
func (l *lockstep) step() {
	switch n := l.r.IntN(100); {
	case n < 80:
		c := l.work.Next()
		if l.r.IntN(10) == 0 && c.Kind == metadata.KindCommitVersion {
			l.copyOntoItself(c)
		}
		if l.r.IntN(10) == 0 {
			c.Epoch = 0
		}
		if l.r.IntN(20) == 0 {
			c.Request = metadata.RequestID{}
		}
		l.apply(c)
	case n < 88:
		again := *l.applied[l.r.IntN(len(l.applied))]
		l.apply(&again)
	case n < 96:
		group := uint32(1 + l.r.IntN(2))
		rows := l.model.Trash(group)
		l.apply(l.work.Collect(group, rows[:min(len(rows), l.r.IntN(8))]))
	case n < 98:
		l.apply(&metadata.Command{Kind: metadata.KindClock, Version: metadata.CommandVersion, Group: 1, Clock: &metadata.Clock{ElapsedMicros: 5}})
	default:
		l.raise()
	}
}

// copyOntoItself makes a commit take over the parts of the current version, or
// of one that was current before.
func (l *lockstep) copyOntoItself(c *metadata.Command) {
	v := l.model.Version(metadata.BucketRef{Group: c.Group, ID: c.CommitVersion.Bucket}, c.CommitVersion.Key)
	if v == nil {
		return
	}
	c.CommitVersion.Chunks, c.CommitVersion.Inline = nil, nil
	c.CommitVersion.Version.Part, c.CommitVersion.Take = nil, v.Order-uint64(l.r.IntN(8)/7)
}

// raise lets an epoch begin in both groups, and now and then ends those before.
func (l *lockstep) raise() {
	epoch := l.work.Epoch + uint64(l.r.IntN(3)) - min(1, uint64(l.r.IntN(8)))
	for _, group := range []uint32{1, 2} {
		next := &metadata.Fence{Floor: epoch, Living: []uint64{epoch}}
		if f := l.model.Fence(group); l.r.IntN(3) > 0 && len(f.Living) > 0 && f.Living[len(f.Living)-1] < epoch {
			next = &metadata.Fence{Floor: f.Floor, Living: append(f.Living, epoch)}
		}
		l.apply(&metadata.Command{Kind: metadata.KindFence, Version: metadata.CommandVersion, Group: group, Fence: next})
	}
	l.work.Epoch = max(epoch, l.work.Epoch)
}

// TestMachineAgreesWithModel applies long streams of commands to both: answers
// and everything that can be read are the same.
func TestMachineAgreesWithModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			l := newLockstep(t, seed)
			for i := range 3000 {
				l.step()
				if i == 1000 && seed%2 == 0 {
					for _, group := range []uint32{1, 2} {
						l.apply(&metadata.Command{Kind: metadata.KindClusters, Version: metadata.CommandVersion, Group: group,
							Clusters: &metadata.ClusterVersion{Version: metadata.LatestVersion}})
					}
				}
				if i%100 == 0 {
					compare(t, state.NewView(l.db), l.model, l.work.Buckets)
				}
			}
			compare(t, state.NewView(l.db), l.model, l.work.Buckets)
			for _, code := range []string{"", "conflict", "fenced-epoch", "no-such-key", "no-such-upload", "precondition-failed", "stale-settings"} {
				if l.answers[code] < 5 {
					t.Errorf("the answer %q came %d times: the stream proves little", code, l.answers[code])
				}
			}
		})
	}
}

// TestBucketsAgreeWithModel does the same with the life of buckets.
func TestBucketsAgreeWithModel(t *testing.T) {
	t.Parallel()
	l := newLockstep(t, 99)
	for range 4000 {
		n := byte(10 + l.r.IntN(3))
		id := metadata.BucketID{n, byte(l.r.IntN(2))}
		c := &metadata.Command{Version: metadata.CommandVersion}
		if l.r.IntN(2) == 0 {
			c.Kind = metadata.KindReserveBucket + metadata.Kind(l.r.IntN(4))
			c.Bucket = &metadata.Bucket{Name: fmt.Sprint("name", n), ID: id, Group: 1}
			l.apply(c)
			continue
		}
		c.Kind, c.Group = metadata.KindOpenBucket+metadata.Kind(l.r.IntN(4)), 1
		c.Settle = &metadata.Settings{Bucket: id, Name: fmt.Sprint("name", n), Epoch: uint64(1 + l.r.IntN(3))}
		if c.Kind == metadata.KindPutSettings && l.r.IntN(4) == 0 {
			p := metadata.Part{Number: 1, ID: l.work.ID(), Body: metadata.BodyEmpty}
			c.Kind, c.Settings = metadata.KindCommitVersion, c.Settle.Epoch
			c.CommitVersion = &metadata.CommitVersion{Bucket: id, Key: "k", Version: metadata.Version{Null: true, Part: &p}}
		} else if c.Kind == metadata.KindPutSettings && l.r.IntN(3) == 0 {
			c.Kind, c.Settings = metadata.KindDeleteVersions, c.Settle.Epoch
			c.Delete = &metadata.DeleteVersions{Bucket: id, Keys: []metadata.DeleteKey{{Key: "k"}}}
		}
		l.apply(c)
	}
}

// compare compares everything that can be read of the buckets and their groups
// with the model.
func compare(t testing.TB, v state.View, m *simtest.Model, buckets []metadata.BucketRef) {
	t.Helper()
	for _, err := range differences(v, m, buckets) {
		t.Error(err)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// differences returns what a store holds otherwise than the model.
func differences(v state.View, m *simtest.Model, buckets []metadata.BucketRef) (diffs []error) {
	differ := func(what string, got, want any, err error) {
		if err != nil || !reflect.DeepEqual(got, want) {
			a, b := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want)
			at := 0 // where they differ
			for at < min(len(a), len(b)) && a[at] == b[at] {
				at++
			}
			from := max(0, at-60)
			diffs = append(diffs, fmt.Errorf("%s, error %v: ... %.200s; the model has ... %.200s", what, err, a[from:], b[from:]))
		}
	}
	seen := make(map[uint32]bool)
	for _, b := range buckets {
		if !seen[b.Group] {
			seen[b.Group] = true
			head, err := v.Head(b.Group)
			differ(fmt.Sprint("order of group ", b.Group), head.Order, m.Order(b.Group), err)
			differ(fmt.Sprint("clock of group ", b.Group), head.ClockMicros, m.Clock(b.Group), err)
			fence, err := v.Fence(b.Group)
			differ(fmt.Sprint("fence of group ", b.Group), fence, m.Fence(b.Group), err)
			rows, err := trash(v, b.Group)
			differ(fmt.Sprint("trash of group ", b.Group), rows, m.Trash(b.Group), err)
		}
		name := fmt.Sprintf(" of bucket %x in group %d", b.ID[:2], b.Group)
		usage, err := v.Usage(b)
		differ("usage"+name, usage, m.Usage(b), err)
		settings, err := v.Settings(b)
		differ("settings"+name, settings, m.Settings(b), err)
		list, err := v.List(&metadata.ListQuery{Bucket: b, Limit: 1000})
		differ("objects"+name, list.Keys, m.List(b, "", "", 1000), err)
		uploads, err := v.Uploads(&metadata.UploadsQuery{Bucket: b, Limit: 1000})
		differ("uploads"+name, uploads.Uploads, m.Uploads(b), err)
		for _, u := range uploads.Uploads {
			parts, err := v.Parts(b, u.ID, 0, 100)
			differ("parts of upload "+u.ID.String(), parts, m.Parts(b, u.ID), err)
		}
	}
	return diffs
}

// trash reads a group's trash with the parts that are left.
func trash(v state.View, group uint32) ([]simtest.Trash, error) {
	rows, err := v.Trash(group, 0, 1<<20)
	if err != nil {
		return nil, err
	}
	var all []simtest.Trash
	for i := range rows {
		parts, err := v.TrashParts(group, &rows[i], 1<<20)
		if err != nil {
			return nil, errors.Join(err, fmt.Errorf("of row %d", rows[i].Order))
		}
		all = append(all, simtest.Trash{Trash: rows[i], Parts: parts})
	}
	return all, nil
}
