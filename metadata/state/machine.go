package state

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
)

// Limits of a group.
const (
	// InlineLimitBytes is how many sealed bytes of inline bodies a group keeps
	// at most. Beyond it commits are rejected with metadata.ErrInlineFull.
	InlineLimitBytes = 64 << 30
	// MaxBuckets is how many buckets the root group holds at most.
	MaxBuckets = 100_000
	// MaxKeyBytes is the longest object key, S3's limit.
	MaxKeyBytes = 1024
	// keepMicros is how long, by the group's orders, completions and results
	// of epoch 0 are kept: 7 days.
	keepMicros = 7 * 24 * 3600 * 1_000_000
	// expireStep is how many expired rows one command drops at most. It is
	// more than one command adds, so that the backlog always shrinks.
	expireStep = 4
	// maxCached is how many buckets a group's cache holds at the start of a
	// batch.
	maxCached = 4096
)

// A Machine applies commands to one store. It caches the few rows that every
// command reads. It is used by one goroutine at a time and has at most one
// open Batch.
type Machine struct {
	db     *pebble.DB
	knows  uint16 // the highest command version
	groups map[uint32]*group
	seed   maphash.Seed // of the hashes of keys within a batch
}

// group is the cached rows of one group, as they are after the last command
// of the open batch.
type group struct {
	id      uint32
	version uint16 // of commands
	head    metadata.Head
	fence   metadata.Fence
	dirty   bool // head differs from its row
	buckets map[metadata.BucketID]*bucket
}

// bucket is the cached rows of one bucket.
type bucket struct {
	id       metadata.BucketID
	settings *metadata.Settings // nil: the bucket is not there
	usage    metadata.Usage
	dirty    bool // usage differs from its row
}

// New returns the machine of a store.
func New(db *pebble.DB) *Machine { return NewKnowing(db, metadata.LatestVersion) }

// NewKnowing returns a machine that knows the kinds up to a command version, as
// the program did before later ones came. It stops at commands of later kinds,
// and at groups that were raised to a later version.
func NewKnowing(db *pebble.DB, version uint16) *Machine {
	return &Machine{db: db, knows: version, groups: make(map[uint32]*group), seed: maphash.MakeSeed()}
}

// A Batch holds the effects of commands until they are committed together. It
// must end with Commit or Discard.
type Batch struct {
	m   *Machine
	b   *rows
	err error // of an Apply; the batch can then only be discarded

	groups  []*group  // with a dirty head
	buckets []touched // with dirty usage

	key, val []byte // scratch
}

type touched struct {
	group  *group
	bucket *bucket
}

// NewBatch begins a batch.
func (m *Machine) NewBatch() *Batch {
	for _, g := range m.groups {
		if len(g.buckets) > maxCached {
			clear(g.buckets)
		}
	}
	return &Batch{m: m, b: newRows(m.db, m.seed)}
}

// Position returns the position of the last command that a group has applied,
// those in b included. The first command has position 1.
func (b *Batch) Position(groupID uint32) (uint64, error) {
	g, err := b.group(groupID)
	if err != nil {
		return 0, err
	}
	return g.head.Position, nil
}

// Order returns the highest order that a group has given, the commands in b
// included.
func (b *Batch) Order(groupID uint32) (uint64, error) {
	g, err := b.group(groupID)
	if err != nil {
		return 0, err
	}
	return g.head.Order, nil
}

// Len returns the bytes that are collected so far.
func (b *Batch) Len() int { return b.b.Len() }

// Commit writes what was applied. After an error the store's content is
// unknown and neither the batch nor the machine may be used again.
func (b *Batch) Commit(sync *pebble.WriteOptions) error {
	if err := b.Finish(); err != nil {
		b.Discard()
		return err
	}
	err := b.b.Commit(sync)
	if err != nil {
		clear(b.m.groups)
	}
	return errors.Join(err, b.b.Close())
}

// Finish puts the rows that are written once a batch into it, for callers that
// commit the batch below it themselves and then call Close. They must not
// apply more commands to b.
func (b *Batch) Finish() error {
	if b.err != nil {
		return b.err
	}
	for _, t := range b.buckets {
		if !t.bucket.dirty {
			continue
		}
		t.bucket.dirty = false
		b.key = appendBucket(b.key[:0], t.group.id, tableUsage, t.bucket.id)
		if err := b.set(b.key, &t.bucket.usage); err != nil {
			return err
		}
	}
	for _, g := range b.groups {
		g.dirty = false
		b.key = appendHead(b.key[:0], g.id, tableHead)
		if err := b.set(b.key, &g.head); err != nil {
			return err
		}
	}
	b.groups, b.buckets = b.groups[:0], b.buckets[:0]
	return b.b.ended()
}

// Pebble returns the batch below b, to be committed after Finish.
func (b *Batch) Pebble() *pebble.Batch { return b.b.Batch }

// Close frees a batch that was committed by way of Pebble.
func (b *Batch) Close() error { return b.b.Close() }

// Discard drops what was applied since the batch began.
func (b *Batch) Discard() {
	clear(b.m.groups)
	b.b.Close()
}

// Apply carries out the command at a position of a group's log. Positions
// rise; a position that the group has passed is a replay, does nothing and
// returns the stored result, or nil if there is none.
//
// A rejection is in the result. An error means that the store could not be
// read or that this program cannot carry out the command; b can then only be
// discarded.
func (b *Batch) Apply(groupID uint32, position uint64, cmd *metadata.Command) (*metadata.Result, error) {
	res, err := b.apply(groupID, position, cmd)
	if err != nil {
		b.err = fmt.Errorf("state: group %d, position %d: %w", groupID, position, err)
		return nil, b.err
	}
	return res, nil
}

func (b *Batch) apply(groupID uint32, position uint64, cmd *metadata.Command) (*metadata.Result, error) {
	if b.err != nil {
		return nil, b.err
	}
	g, err := b.group(groupID)
	if err != nil {
		return nil, err
	}
	if position <= g.head.Position {
		return b.stored(g, cmd)
	}
	if err := cmd.Known(); err != nil {
		return nil, err
	}
	version := metadata.VersionOf(cmd.Kind)
	if version > b.m.knows {
		return nil, fmt.Errorf("%w: kind %d", metadata.ErrUnknownKind, cmd.Kind)
	}
	b.dirtyHead(g)
	g.head.Position = position
	if version > g.version {
		// Not stored: the same request may succeed once the version was raised.
		return &metadata.Result{Rejected: metadata.ErrVersionTooLow}, nil
	}
	if cmd.Epoch != 0 && !slices.Contains(g.fence.Living, cmd.Epoch) {
		// Not stored: the results of this epoch are gone, or not born yet.
		return &metadata.Result{Rejected: metadata.ErrFencedEpoch}, nil
	}
	if res, err := b.stored(g, cmd); err != nil || res != nil {
		return res, err
	}

	a := &applier{Batch: b, g: g, cmd: cmd, order: max(cmd.Stamp, g.head.Order+1), res: new(metadata.Result)}
	a.last = a.order
	rejected, err := a.dispatch()
	if err != nil {
		return nil, err
	}
	if rejected != nil {
		a.res = &metadata.Result{Rejected: rejected}
	} else {
		a.res.Order = a.order
		g.head.Order = a.last
		if err := a.expire(); err != nil {
			return nil, err
		}
	}
	return a.res, a.store()
}

// applier carries out one command. Its methods check everything before the
// first write, so that a rejected command leaves no trace.
type applier struct {
	*Batch
	g   *group
	cmd *metadata.Command
	res *metadata.Result

	order   uint64 // of the command, if it is applied
	last    uint64 // highest order the command has used
	trashed bool   // order was given to a trash row
	queued  uint64 // order of the command's last outbox entry, 0 before the first
}

// dispatch carries out the command by its kind. See STYLE: rejected is the
// answer, err stops the replica.
func (a *applier) dispatch() (rejected, err error) {
	c := a.cmd
	if !c.HasPayload() || c.Group != a.g.id || rootOnly(c.Kind) && a.g.id != metadata.RootGroup ||
		dataOnly(c.Kind) && a.g.id == metadata.RootGroup {
		return metadata.ErrInvalidCommand, nil
	}
	switch c.Kind {
	case metadata.KindFence:
		return a.raiseFence(c.Fence)
	case metadata.KindPushPGs:
		return a.pushPGs(c.PGs)
	case metadata.KindClock:
		a.g.head.ClockMicros += c.Clock.ElapsedMicros
		return nil, nil
	case metadata.KindPutAccount:
		return a.putAccount(c.Account)
	case metadata.KindPutAccessKey:
		return a.putAccessKey(c.AccessKey)
	case metadata.KindDeleteAccessKey:
		return a.deleteAccessKey(c.AccessKey.ID)
	case metadata.KindPutDrives:
		return a.putDrives(c.Drives)
	case metadata.KindReserveBucket:
		return a.reserveBucket(c.Bucket)
	case metadata.KindActivateBucket, metadata.KindRetireBucket:
		return a.moveBucket(c.Kind, c.Bucket)
	case metadata.KindForgetBucket:
		return a.forgetBucket(c.Bucket)
	case metadata.KindPutIncarnation:
		return a.putIncarnation(c.Incarnation)
	case metadata.KindOpenBucket:
		return a.openBucket(c.Settle)
	case metadata.KindPutSettings:
		return a.putSettings(c.Settle)
	case metadata.KindCloseBucket:
		return a.closeBucket(c.Settle.Bucket)
	case metadata.KindPurgeBucket:
		return a.purgeBucket(c.Settle.Bucket)
	case metadata.KindCommitVersion:
		return a.commitVersion(c.CommitVersion)
	case metadata.KindDeleteVersions:
		return a.deleteVersions(c.Delete)
	case metadata.KindCreateUpload:
		return a.createUpload(c.CreateUpload)
	case metadata.KindCommitPart:
		return a.commitPart(c.CommitPart)
	case metadata.KindComplete:
		return a.complete(c.Complete)
	case metadata.KindAbortUpload:
		return a.abortUpload(c.Abort)
	case metadata.KindDropTrash:
		return a.dropTrash(c.DropTrash)
	case metadata.KindPutShort:
		return a.putShort(c.PutShort)
	case metadata.KindClusters:
		return a.raiseVersion(c.Clusters)
	case metadata.KindPutStores:
		return a.putStores(c.Stores)
	case metadata.KindManifested:
		return a.manifested(c.Manifested)
	case metadata.KindPutManifestMembers:
		return a.putMembers(c.Members)
	case metadata.KindRestoreVersion:
		return a.restoreVersion(c.RestoreVersion)
	case metadata.KindRestoreParts:
		return a.restoreParts(c.RestoreParts)
	case metadata.KindRestoreBucket:
		return a.restoreBucket(c.Bucket)
	case metadata.KindRestoreAccessKey:
		return a.restoreAccessKey(c.AccessKey)
	}
	return nil, fmt.Errorf("%w: kind %d", metadata.ErrUnknownKind, c.Kind)
}

func rootOnly(k metadata.Kind) bool {
	return k >= metadata.KindPutAccount && k <= metadata.KindPutStores ||
		k == metadata.KindRestoreBucket || k == metadata.KindRestoreAccessKey
}

func dataOnly(k metadata.Kind) bool {
	return k >= metadata.KindOpenBucket && k != metadata.KindManifested && !rootOnly(k)
}

// group returns the cached rows of a group, read from the store at first.
func (b *Batch) group(id uint32) (*group, error) {
	if g, ok := b.m.groups[id]; ok {
		return g, nil
	}
	g := &group{id: id, buckets: make(map[metadata.BucketID]*bucket)}
	if _, err := get(b.b, appendHead(nil, id, tableHead), &g.head); err != nil {
		return nil, err
	}
	if _, err := get(b.b, appendHead(nil, id, tableFence), &g.fence); err != nil {
		return nil, err
	}
	var err error
	if g.version, err = commandVersion(b.b, id); err != nil {
		return nil, err
	}
	if g.version > b.m.knows {
		return nil, fmt.Errorf("%w: the group has command version %d, this program knows %d: start a newer one",
			metadata.ErrUnknownKind, g.version, b.m.knows)
	}
	b.m.groups[id] = g
	return g, nil
}

// bucket returns the cached rows of a bucket, read from the store at first.
func (a *applier) bucket(id metadata.BucketID) (*bucket, error) {
	if k, ok := a.g.buckets[id]; ok {
		return k, nil
	}
	k := &bucket{id: id}
	var s metadata.Settings
	found, err := get(a.b, appendBucket(nil, a.g.id, tableSettings, id), &s)
	if err != nil {
		return nil, err
	}
	if found {
		k.settings = &s
	}
	if _, err := get(a.b, appendBucket(nil, a.g.id, tableUsage, id), &k.usage); err != nil {
		return nil, err
	}
	a.g.buckets[id] = k
	return k, nil
}

// usable returns a bucket that takes data commands, or the rejection.
func (a *applier) usable(id metadata.BucketID) (k *bucket, rejected, err error) {
	k, err = a.bucket(id)
	switch {
	case err != nil:
		return nil, nil, err
	case k.settings == nil || k.settings.Closed:
		return nil, metadata.ErrNoSuchBucket, nil
	case k.settings.Epoch != a.cmd.Settings:
		return nil, metadata.ErrStaleSettings, nil
	}
	return k, nil, nil
}

// count says that the usage of k changes.
func (a *applier) count(k *bucket) *metadata.Usage {
	if !k.dirty {
		k.dirty = true
		a.buckets = append(a.buckets, touched{a.g, k})
	}
	return &k.usage
}

func (b *Batch) dirtyHead(g *group) {
	if !g.dirty {
		g.dirty = true
		b.groups = append(b.groups, g)
	}
}

// stored returns the result of an earlier proposal of the same request, or
// nil.
func (b *Batch) stored(g *group, cmd *metadata.Command) (*metadata.Result, error) {
	if cmd.Request == (metadata.RequestID{}) {
		return nil, nil
	}
	var res metadata.Result
	b.key = resultKey(b.key[:0], g.id, cmd.Epoch, cmd.Request)
	found, err := b.b.find(b.key, &res)
	if err != nil || !found {
		return nil, err
	}
	return &res, nil
}

// store keeps the command's result for retries. Results of an epoch go with
// the fence; epoch 0 is never fenced, so its results expire.
func (a *applier) store() error {
	if a.cmd.Request == (metadata.RequestID{}) {
		return nil
	}
	a.key = resultKey(a.key[:0], a.g.id, a.cmd.Epoch, a.cmd.Request)
	if err := a.set(a.key, a.res); err != nil {
		return err
	}
	if a.cmd.Epoch != 0 {
		return nil
	}
	return a.expireLater(a.key)
}

// expireLater has the row of key dropped after keepMicros.
func (a *applier) expireLater(key []byte) error {
	if a.g.head.Expiry == 0 {
		a.g.head.Expiry = a.order
	}
	k := orderKey(nil, a.g.id, tableExpiry, a.order)
	return a.b.Set(append(k, key[keyHead-1:]...), []byte{metadata.RowVersion}, nil)
}

// expire drops a few rows whose time has passed.
func (a *applier) expire() error {
	if a.g.head.Expiry == 0 || a.order < a.g.head.Expiry+keepMicros {
		return nil
	}
	lower := appendHead(nil, a.g.id, tableExpiry)
	iter, err := a.b.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: after(lower)})
	if err != nil {
		return err
	}
	var due [][]byte
	a.g.head.Expiry = 0
	for iter.First(); iter.Valid(); iter.Next() {
		order, err := leadingOrder(iter.Key()[keyHead:])
		if err != nil {
			return errors.Join(err, iter.Close())
		}
		if len(due) == expireStep || a.order < order+keepMicros {
			a.g.head.Expiry = order
			break
		}
		due = append(due, slices.Clone(iter.Key()))
	}
	if err := errors.Join(iter.Error(), iter.Close()); err != nil {
		return err
	}
	for _, k := range due {
		// The row's own key is the group and what follows the order.
		row := append(slices.Clone(k[:keyHead-1]), k[keyHead+8:]...)
		if err := errors.Join(a.b.Delete(row, nil), a.b.Delete(k, nil)); err != nil {
			return err
		}
	}
	return nil
}

// row is a value that can be stored.
type row interface{ AppendTo([]byte) []byte }

func (b *Batch) set(key []byte, r row) error {
	b.val = r.AppendTo(b.val[:0])
	return b.b.Set(key, b.val, nil)
}

// deleteSpan deletes every row whose key begins with prefix.
func (b *Batch) deleteSpan(prefix []byte) error {
	return b.b.DeleteRange(prefix, after(prefix), nil)
}

// get decodes the row of key and reports whether there is one.
func get(r pebble.Reader, key []byte, row interface{ Unmarshal([]byte) error }) (bool, error) {
	v, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, closeAfter(closer, row.Unmarshal(v))
}

func closeAfter(c io.Closer, err error) error {
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	return err
}

// raiseFence changes which epochs live, and drops the results of those that
// died.
func (a *applier) raiseFence(f *metadata.Fence) (rejected, err error) {
	old := &a.g.fence
	if f.Floor < old.Floor {
		return metadata.ErrConflict, nil
	}
	highest := old.Highest
	if f.Floor > highest {
		highest = f.Floor - 1
	}
	prev := uint64(0)
	for _, e := range f.Living {
		switch {
		case e <= prev || e < f.Floor:
			return metadata.ErrInvalidCommand, nil
		case e <= old.Highest && !slices.Contains(old.Living, e):
			return metadata.ErrConflict, nil
		}
		prev = e
		highest = max(highest, e)
	}
	for _, e := range old.Living {
		if slices.Contains(f.Living, e) {
			continue
		}
		id := metadata.RequestID{}
		span := resultKey(nil, a.g.id, e, id)
		if err := a.deleteSpan(span[:len(span)-len(id)]); err != nil {
			return nil, err
		}
	}
	a.g.fence = metadata.Fence{Floor: f.Floor, Living: slices.Clone(f.Living), Highest: highest}
	return nil, a.set(appendHead(nil, a.g.id, tableFence), &a.g.fence)
}

// pushPGs replaces the table of placement groups by a newer one.
func (a *applier) pushPGs(t *metadata.PGTable) (rejected, err error) {
	var old metadata.PGTable
	key := appendHead(nil, a.g.id, tablePGs)
	found, err := get(a.b, key, &old)
	if err != nil {
		return nil, err
	}
	if found && t.Version <= old.Version {
		return sameTable(t.Version == old.Version, t, &old), nil
	}
	if a.g.id == metadata.RootGroup {
		return nil, a.setRoot(key, t)
	}
	return nil, a.set(key, t)
}

// sameTable accepts a table that is there already, and nothing else.
func sameTable(version bool, t, old row) error {
	if version && slices.Equal(t.AppendTo(nil), old.AppendTo(nil)) {
		return nil
	}
	return metadata.ErrConflict
}
