package simtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ruche-storage/ruche/metadata"
)

// How long, by a group's orders, completions and the results of epoch 0 are
// kept, and how many of them one command drops at most.
const (
	keepMicros = 7 * 24 * 3600 * 1_000_000
	expireStep = 4
)

// A Model is what all groups hold after some commands. The zero value is not
// usable, see [NewModel]. It is used by one goroutine at a time.
//
// It takes for granted that a command does not contradict itself: what is
// rejected with metadata.ErrInvalidCommand, and inline bodies beyond their
// limit, are tested where commands are carried out. Placement groups, drives
// and accounts decide no answer and are not kept.
type Model struct {
	groups map[uint32]*group
}

// group is what one group holds.
type group struct {
	version uint16 // of commands
	order   uint64
	clock   uint64
	fence   metadata.Fence
	results map[request]*metadata.Result
	buckets map[metadata.BucketID]*bucket
	trash   map[uint64]*Trash
	names   map[string]*metadata.Bucket // of the root group

	expiring []expiring // sorted
	expiry   uint64     // order from which the first of expiring is looked at, 0 for none
}

type request struct {
	epoch uint64
	id    metadata.RequestID
}

// expiring is a result, or the completion of an upload, that is dropped some
// time after order.
type expiring struct {
	order  uint64
	key    string // sorts those of one order: results first
	forget func()
}

// Trash is a row of a group's trash with the parts that are left of it.
type Trash struct {
	metadata.Trash
	Parts []metadata.Part
}

// NewModel returns a model of empty groups.
func NewModel() *Model { return &Model{groups: make(map[uint32]*group)} }

func (m *Model) group(id uint32) *group {
	g := m.groups[id]
	if g == nil {
		g = &group{
			version: 1,
			results: make(map[request]*metadata.Result), buckets: make(map[metadata.BucketID]*bucket),
			trash: make(map[uint64]*Trash), names: make(map[string]*metadata.Bucket),
		}
		m.groups[id] = g
	}
	return g
}

// Apply carries out the next command of its group's log and returns the answer.
func (m *Model) Apply(c *metadata.Command) *metadata.Result {
	g := m.group(c.Group)
	if metadata.VersionOf(c.Kind) > g.version {
		return &metadata.Result{Rejected: metadata.ErrVersionTooLow}
	}
	if c.Epoch != 0 && !slices.Contains(g.fence.Living, c.Epoch) {
		return &metadata.Result{Rejected: metadata.ErrFencedEpoch}
	}
	at := request{c.Epoch, c.Request}
	if res := g.results[at]; res != nil && at.id != (metadata.RequestID{}) {
		return res
	}
	fx := &effects{order: max(c.Stamp, g.order+1), outbox: g.version >= metadata.ManifestVersion}
	fx.last = fx.order
	res := g.do(c, fx)
	if res.Rejected == nil {
		res.Order, g.order = fx.order, fx.last
		for _, t := range fx.dropped {
			g.trash[t.Order] = t
		}
		g.expire(fx.order)
	}
	if at.id != (metadata.RequestID{}) {
		g.results[at] = res
		if c.Epoch == 0 {
			g.expireLater(fx.order, "1"+string(at.id[:]), func() { delete(g.results, at) })
		}
	}
	return res
}

// effects are what a command does besides its answer: the orders it uses up,
// and what it gives up. Each row of the trash, and each of what manifests must
// tell, has an order of its own; the first one has the command's.
type effects struct {
	order, last uint64
	dropped     []*Trash
	outbox      bool // the group keeps what manifests must tell
	told        uint64
}

// drop gives up rows of trash.
func (fx *effects) drop(rows ...*Trash) {
	for _, t := range rows {
		if len(fx.dropped) > 0 {
			fx.last++
		}
		t.Order = fx.last
		fx.dropped = append(fx.dropped, t)
	}
}

// tell notes something that manifests must tell.
func (fx *effects) tell() {
	if fx.outbox {
		fx.told = max(fx.told+1, fx.order)
		fx.last = max(fx.last, fx.told)
	}
}

// do carries out a command that is not fenced and has no answer yet.
func (g *group) do(c *metadata.Command, fx *effects) *metadata.Result {
	switch c.Kind {
	case metadata.KindFence:
		return &metadata.Result{Rejected: g.raiseFence(c.Fence)}
	case metadata.KindClusters:
		g.version = max(g.version, c.Clusters.Version)
		return &metadata.Result{}
	case metadata.KindClock:
		g.clock += c.Clock.ElapsedMicros
		return &metadata.Result{}
	case metadata.KindReserveBucket, metadata.KindActivateBucket, metadata.KindRetireBucket, metadata.KindForgetBucket:
		return &metadata.Result{Rejected: g.name(c.Kind, c.Bucket, fx.order)}
	case metadata.KindOpenBucket, metadata.KindPutSettings, metadata.KindCloseBucket, metadata.KindPurgeBucket:
		return &metadata.Result{Rejected: g.settle(c.Kind, c.Settle)}
	case metadata.KindDropTrash:
		return &metadata.Result{Rejected: g.dropTrash(c.DropTrash)}
	case metadata.KindCommitVersion, metadata.KindDeleteVersions, metadata.KindCreateUpload,
		metadata.KindCommitPart, metadata.KindComplete, metadata.KindAbortUpload:
		return g.data(c, fx)
	}
	return &metadata.Result{} // decides no answer
}

// data carries out a command on objects.
func (g *group) data(c *metadata.Command, fx *effects) *metadata.Result {
	id := BucketOf(c)
	b := g.buckets[id]
	switch {
	case b == nil || b.settings.Closed:
		return &metadata.Result{Rejected: metadata.ErrNoSuchBucket}
	case b.settings.Epoch != c.Settings:
		return &metadata.Result{Rejected: metadata.ErrStaleSettings}
	}
	res := b.do(c, fx)
	for _, t := range fx.dropped {
		t.Bucket = id
	}
	if done, ok := b.completed[uploadOf(c)]; ok && c.Kind == metadata.KindComplete && res.Rejected == nil && done.Version.Order == fx.order {
		u := c.Complete.Upload
		g.expireLater(fx.order, "2"+string(u[:]), func() { delete(b.completed, u) })
	}
	return res
}

func uploadOf(c *metadata.Command) (u metadata.UploadID) {
	if c.Complete != nil {
		return c.Complete.Upload
	}
	return u
}

// BucketOf returns the bucket of a command on objects, the zero id for others.
func BucketOf(c *metadata.Command) (id metadata.BucketID) {
	switch c.Kind {
	case metadata.KindCommitVersion:
		return c.CommitVersion.Bucket
	case metadata.KindDeleteVersions:
		return c.Delete.Bucket
	case metadata.KindCreateUpload:
		return c.CreateUpload.Bucket
	case metadata.KindCommitPart:
		return c.CommitPart.Bucket
	case metadata.KindComplete:
		return c.Complete.Bucket
	case metadata.KindAbortUpload:
		return c.Abort.Bucket
	}
	return id
}

func (g *group) raiseFence(f *metadata.Fence) error {
	old := g.fence
	if f.Floor < old.Floor {
		return metadata.ErrConflict
	}
	for _, e := range f.Living {
		if e <= old.Highest && !slices.Contains(old.Living, e) {
			return metadata.ErrConflict
		}
	}
	maps.DeleteFunc(g.results, func(r request, _ *metadata.Result) bool {
		return slices.Contains(old.Living, r.epoch) && !slices.Contains(f.Living, r.epoch)
	})
	g.fence = metadata.Fence{Floor: f.Floor, Living: slices.Clone(f.Living), Highest: old.Highest}
	if f.Floor > old.Highest {
		g.fence.Highest = f.Floor - 1
	}
	for _, e := range f.Living {
		g.fence.Highest = max(g.fence.Highest, e)
	}
	return nil
}

// name does what the root group does with the names of buckets.
func (g *group) name(kind metadata.Kind, k *metadata.Bucket, order uint64) error {
	row := g.names[k.Name]
	mine := row != nil && row.ID == k.ID
	switch {
	case kind == metadata.KindReserveBucket && mine, kind == metadata.KindForgetBucket && !mine:
		return nil
	case kind == metadata.KindReserveBucket && row != nil:
		return metadata.ErrBucketExists
	case kind == metadata.KindReserveBucket:
		row := *k
		row.Order, row.State = order, metadata.BucketCreating
		g.names[k.Name] = &row
		return nil
	case !mine:
		return metadata.ErrNoSuchBucket
	case kind == metadata.KindRetireBucket:
		row.State = metadata.BucketDeleting
		return nil
	case kind == metadata.KindForgetBucket && row.State != metadata.BucketDeleting,
		kind == metadata.KindActivateBucket && row.State == metadata.BucketDeleting:
		return metadata.ErrConflict
	case kind == metadata.KindForgetBucket:
		delete(g.names, k.Name)
		return nil
	}
	row.State = metadata.BucketLive
	return nil
}

// settle does what a data group does with a bucket as a whole.
func (g *group) settle(kind metadata.Kind, s *metadata.Settings) error {
	b := g.buckets[s.Bucket]
	switch {
	case b == nil && kind == metadata.KindOpenBucket:
		row := *s
		row.Epoch = max(row.Epoch, 1)
		g.buckets[s.Bucket] = newBucket(row)
		return nil
	case b == nil && kind == metadata.KindPurgeBucket:
		return nil
	case b == nil:
		return metadata.ErrNoSuchBucket
	case kind == metadata.KindCloseBucket && !b.settings.Closed && (len(b.objects) > 0 || len(b.uploads) > 0):
		return metadata.ErrBucketNotEmpty
	case kind == metadata.KindCloseBucket:
		b.settings.Closed = true
		return nil
	case kind == metadata.KindPurgeBucket && !b.settings.Closed:
		return metadata.ErrConflict
	case kind == metadata.KindPurgeBucket:
		delete(g.buckets, s.Bucket)
		return nil
	case b.settings.Closed:
		return metadata.ErrNoSuchBucket
	case kind == metadata.KindPutSettings && s.Epoch != b.settings.Epoch+1:
		return metadata.ErrStaleSettings
	case kind == metadata.KindPutSettings:
		b.settings = *s
	}
	return nil
}

// dropTrash removes the parts that were freed, and rows of which none is left.
func (g *group) dropTrash(d *metadata.DropTrash) error {
	left := func(ref *metadata.TrashRef, t *Trash) []metadata.Part {
		if t.Kind == metadata.TrashPart && ref.Done {
			return nil
		}
		return slices.DeleteFunc(slices.Clone(t.Parts), func(p metadata.Part) bool {
			return t.Kind != metadata.TrashPart && slices.ContainsFunc(ref.Parts, func(r metadata.PartRef) bool { return r.ID == p.ID })
		})
	}
	for i := range d.Rows {
		if t := g.trash[d.Rows[i].Order]; t != nil && d.Rows[i].Done && len(left(&d.Rows[i], t)) > 0 {
			return metadata.ErrConflict
		}
	}
	for i := range d.Rows {
		ref := &d.Rows[i]
		t := g.trash[ref.Order]
		if t == nil {
			continue
		}
		if t.Parts = left(ref, t); len(t.Parts) == 0 {
			t.Parts = nil
		}
		if ref.Done {
			delete(g.trash, ref.Order)
		}
	}
	return nil
}

// expireLater has forget called keepMicros after order, by the group's orders.
func (g *group) expireLater(order uint64, key string, forget func()) {
	if g.expiry == 0 {
		g.expiry = order
	}
	e := expiring{order, key, forget}
	i, found := slices.BinarySearchFunc(g.expiring, e, func(x, y expiring) int {
		if x.order != y.order {
			return int(int64(x.order - y.order))
		}
		return strings.Compare(x.key, y.key)
	})
	if found {
		panic(fmt.Sprintf("simtest: %q expires twice", key))
	}
	g.expiring = slices.Insert(g.expiring, i, e)
}

// expire drops a few of those whose time has passed.
func (g *group) expire(order uint64) {
	if g.expiry == 0 || order < g.expiry+keepMicros {
		return
	}
	g.expiry = 0
	for n := 0; len(g.expiring) > 0; n++ {
		e := g.expiring[0]
		if n == expireStep || order < e.order+keepMicros {
			g.expiry = e.order
			return
		}
		e.forget()
		g.expiring = g.expiring[1:]
	}
}
