package commandlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	pb "go.etcd.io/raft/v3/raftpb"
)

// A Log is the command log of one store. Its methods may be called
// concurrently; those that change it wait for each other.
type Log struct {
	opts   Options
	db     *pebble.DB
	id     Identity
	groups map[uint32]*Group
	forced uint64       // replica id under which the store goes on alone, 0 for none
	cached atomic.Int64 // bytes in the entry caches of all groups

	append sync.Mutex // held by Append and by what changes marks

	failure atomic.Pointer[error]

	counts struct{ appends, syncs, entries, bytes atomic.Uint64 }
	turned atomic.Uint64 // counts.bytes at the last Turn
}

// Start is where the log of a group begins when it is made.
type Start struct {
	Group uint32
	Index uint64 // of the last entry that the state holds already
	Term  uint64 // of that entry, and the group's present term
	Conf  *pb.ConfState
}

// A Mark says where a group goes on after a snapshot.
type Mark struct {
	Index, Term uint64        // of the last entry that the snapshot holds
	Conf        *pb.ConfState // the configuration of the snapshot
	// Snapshot is the id of a snapshot that is to be installed. Unless it is
	// zero, the group has an [Installing] mark from the same sync on, until
	// ClearInstalling.
	Snapshot [16]byte
}

// Installing says that a snapshot is being installed in the place of a group's
// state: a start must do it again.
type Installing struct {
	Snapshot    [16]byte
	Index, Term uint64
}

// Damage says that a group's state is not that of the other replicas, or not
// readable, and must be replaced by a snapshot. Nothing is served from it.
type Damage struct {
	Index  uint64 // where it was found
	Reason string
}

// Write is what one group has to store. Its parts are stored in the order of
// the fields.
type Write struct {
	Group uint32
	// Reset drops all entries and begins anew behind a snapshot.
	Reset *Mark
	// Entries are appended. They may begin before the end of the log: what was
	// there is replaced, as is what stood behind. They are not copied and must
	// not change any more.
	Entries []*pb.Entry
	// HardState is stored unless it is nil or empty.
	HardState *pb.HardState
}

// Metrics is what a log has counted since it was opened.
type Metrics struct {
	Appends, Syncs, Entries uint64
	EntryBytes              uint64 // that were appended, with their rows' heads
	CachedBytes             int64
	Pebble                  *pebble.Metrics
}

// Identity returns whose log it is.
func (l *Log) Identity() Identity { return l.id }

// Groups returns the groups of the log in order.
func (l *Log) Groups() []uint32 {
	ids := make([]uint32, 0, len(l.groups))
	for id := range l.groups {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Group returns the log of a group, nil if there is none.
func (l *Log) Group(id uint32) *Group { return l.groups[id] }

// Append stores what groups have to store, each named at most once, in one
// batch. It returns after the batch was synced, and readers see it from then
// on. The sync is left out if nothing but commits was written: these may be
// lost.
//
// After an error that wraps ErrInvalid nothing was written. After any other the
// log has failed.
func (l *Log) Append(writes []Write) error {
	l.append.Lock()
	defer l.append.Unlock()
	if err := l.failed(); err != nil {
		return err
	}
	b := l.db.NewBatch()
	defer b.Close()
	changes := make([]*change, 0, len(writes))
	defer func() {
		for _, c := range changes {
			c.release()
		}
	}()
	sync := false
	for i := range writes {
		c, err := l.prepare(b, &writes[i])
		if err != nil {
			return err
		}
		changes = append(changes, c)
		sync = sync || c.sync
	}
	if b.Empty() {
		return nil
	}
	if err := l.commit(b, sync); err != nil {
		return err
	}
	for _, c := range changes {
		c.publish(&l.cached, l.opts.EntryCacheBytes, len(l.groups))
		l.counts.entries.Add(uint64(len(c.tail)))
	}
	l.counts.appends.Add(1)
	return nil
}

// prepare puts a write into b and returns what is to be done once b is stored.
func (l *Log) prepare(b *pebble.Batch, w *Write) (*change, error) {
	g := l.groups[w.Group]
	if g == nil {
		return nil, invalid(w.Group, 0, 0, "no such group")
	}
	c := g.begin()
	err := c.reset(b, w.Reset)
	if err == nil {
		err = c.extend(b, w.Entries)
	}
	if err == nil {
		err = c.promise(b, w.HardState)
	}
	if err != nil {
		c.release()
		return nil, err
	}
	return c, nil
}

// commit writes a batch.
func (l *Log) commit(b *pebble.Batch, sync bool) error {
	opts := pebble.NoSync
	if sync {
		opts = pebble.Sync
		l.counts.syncs.Add(1)
	}
	l.counts.bytes.Add(uint64(b.Len()))
	if err := b.Commit(opts); err != nil {
		l.fail(fmt.Errorf("commandlog: write: %w", err))
	}
	return l.failed()
}

// fail makes every further change fail. Only the first error counts.
func (l *Log) fail(err error) {
	if l.failure.CompareAndSwap(nil, &err) {
		l.opts.Logger.Error("command log failed", "err", err)
		l.opts.Fatal(err)
	}
}

func (l *Log) failed() error {
	if p := l.failure.Load(); p != nil {
		return fmt.Errorf("%w: %w", ErrFailed, *p)
	}
	return nil
}

// Cut drops a group's entries up to an index, or up to the stored commit if
// that is lower. It does not sync. The caller guarantees that its state holds
// them durably.
func (l *Log) Cut(group uint32, upto uint64) error {
	g := l.groups[group]
	if g == nil {
		return invalid(group, upto, 0, "no such group")
	}
	if err := l.failed(); err != nil {
		return err
	}
	g.cutting.Lock()
	defer g.cutting.Unlock()
	s, ok, err := g.cutPoint(upto)
	if err != nil || !ok {
		return err
	}
	b := l.db.NewBatch()
	defer b.Close()
	if err := errors.Join(
		b.Set(groupKey(group, kindStart), s.encode(), nil),
		b.DeleteRange(entryKey(group, 0), entryKey(group, s.index+1), nil)); err != nil {
		return fmt.Errorf("commandlog: cut group %d: %w", group, err)
	}
	if err := l.commit(b, false); err != nil {
		return err
	}
	g.cut(s)
	return nil
}

// Fresh returns about how many bytes were written since the last Turn, or since
// the log was opened.
func (l *Log) Fresh() uint64 { return l.counts.bytes.Load() - l.turned.Load() }

// Turn has what was written since the last one brought from memory to tables,
// and does not wait for it. What was cut by then never gets there: a log that
// turns shortly after it was cut writes most entries once, to its write-ahead
// log, and no more.
func (l *Log) Turn() error {
	if err := l.failed(); err != nil {
		return err
	}
	l.turned.Store(l.counts.bytes.Load())
	if _, err := l.db.AsyncFlush(); err != nil {
		l.fail(fmt.Errorf("commandlog: turn: %w", err))
	}
	return l.failed()
}

// setRow stores or, with a nil value, drops a row, synced, and then calls done.
// It is called with append held.
func (l *Log) setRow(key, value []byte, done func()) error {
	if err := l.failed(); err != nil {
		return err
	}
	b := l.db.NewBatch()
	defer b.Close()
	err := b.Delete(key, nil)
	if value != nil {
		err = b.Set(key, value, nil)
	}
	if err != nil {
		return fmt.Errorf("commandlog: %w", err)
	}
	if err := l.commit(b, true); err != nil {
		return err
	}
	done()
	return nil
}

// setMark is setRow of a group, if the group allows it as it is.
func (l *Log) setMark(group uint32, k kind, value []byte, allow func(*Group) (bool, error), done func(*Group)) error {
	g := l.groups[group]
	if g == nil {
		return invalid(group, 0, 0, "no such group")
	}
	l.append.Lock()
	defer l.append.Unlock()
	if allow != nil {
		g.mu.RLock()
		ok, err := allow(g)
		g.mu.RUnlock()
		if err != nil || !ok {
			return err
		}
	}
	return l.setRow(groupKey(group, k), value, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		done(g)
	})
}

// SetInstalling marks a snapshot that is to be installed although the log goes
// on as it is: a damaged state is replaced by one that the log leads on from.
// It fails with ErrInvalid if the log does not, or another one is being
// installed.
func (l *Log) SetInstalling(group uint32, i Installing) error {
	allow := func(g *Group) (bool, error) {
		switch {
		case g.installing != nil && g.installing.Snapshot != i.Snapshot:
			return false, invalid(group, i.Index, g.installing.Index, "another snapshot is being installed")
		case i.Index < g.start.index || i.Index > g.last:
			return false, invalid(group, i.Index, g.start.index, "the log does not lead on from the snapshot")
		}
		return true, nil
	}
	return l.setMark(group, kindInstalling, i.encode(), allow, func(g *Group) { g.installing = &i })
}

// ClearInstalling says that a snapshot is installed in a group, durably. It does
// nothing if another one is being installed by now.
func (l *Log) ClearInstalling(group uint32, snapshot [16]byte) error {
	allow := func(g *Group) (bool, error) { return g.installing != nil && g.installing.Snapshot == snapshot, nil }
	return l.setMark(group, kindInstalling, nil, allow, func(g *Group) { g.installing = nil })
}

// SetDamaged marks a group's state as one that must be replaced.
func (l *Log) SetDamaged(group uint32, d Damage) error {
	return l.setMark(group, kindDamaged, d.encode(), nil, func(g *Group) { g.damaged = &d })
}

// ClearDamaged says that a group's state was replaced, durably.
func (l *Log) ClearDamaged(group uint32) error {
	return l.setMark(group, kindDamaged, nil, nil, func(g *Group) { g.damaged = nil })
}

// Retire says for ever that the store must not serve: what it promised is
// partly forgotten. Open fails with ErrRetired and the reason from then on.
func (l *Log) Retire(reason string) error {
	l.append.Lock()
	defer l.append.Unlock()
	return l.setRow([]byte{keyRetired}, append([]byte{version}, reason...), func() {
		l.opts.Logger.Error("store retired", "reason", reason)
	})
}

// Force says that the store goes on alone, under a replica id that never was:
// the first step of what Restart ends. It cannot be taken back.
func (l *Log) Force(replica uint64) error {
	l.append.Lock()
	defer l.append.Unlock()
	return l.setRow([]byte{keyForced}, binary.BigEndian.AppendUint64([]byte{version}, replica), func() { l.forced = replica })
}

// Forced returns the replica id under which the store is to go on alone, 0 if
// it is not. It must not be called while Force is.
func (l *Log) Forced() uint64 { return l.forced }

// Restart replaces the identity and all groups' logs in one synced batch:
// what a store does that goes on alone after the majority was lost. Groups that
// no start names keep nothing. The log must be closed and opened again
// afterwards; until then it only fails.
func (l *Log) Restart(id Identity, starts []Start) error {
	l.append.Lock()
	defer l.append.Unlock()
	if err := l.failed(); err != nil {
		return err
	}
	b := l.db.NewBatch()
	defer b.Close()
	err := errors.Join(b.DeleteRange([]byte{keyGroups}, []byte{keyGroups + 1}, nil), b.Delete([]byte{keyForced}, nil))
	if err != nil {
		return fmt.Errorf("commandlog: restart: %w", err)
	}
	if err := begin(b, id, starts); err != nil {
		return err
	}
	if err := l.commit(b, true); err != nil {
		return err
	}
	err = errors.New("commandlog: restarted, to be opened again")
	l.failure.CompareAndSwap(nil, &err)
	return nil
}

// Metrics returns what the log has counted.
func (l *Log) Metrics() Metrics {
	return Metrics{
		Appends: l.counts.appends.Load(), Syncs: l.counts.syncs.Load(), Entries: l.counts.entries.Load(),
		EntryBytes: l.counts.bytes.Load(), CachedBytes: l.cached.Load(), Pebble: l.db.Metrics(),
	}
}

// Close closes the log, so that all of it lies in tables. Nothing may be in
// flight, and nothing be called any more. A log that has failed is closed as it
// is.
func (l *Log) Close() error {
	var err error
	if l.failure.Load() == nil {
		err = l.db.Flush()
	}
	if err := errors.Join(err, l.db.Close()); err != nil {
		return fmt.Errorf("commandlog: close: %w", err)
	}
	return nil
}
