package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
	"github.com/ruche-storage/ruche/metadata/state"
)

// Times in ticks.
const (
	// tellTicks is how long a store's hash goes out with its beats, which may
	// be lost.
	tellTicks = 100
	// repairTicks is how long a leader waits before it offers a snapshot again
	// to a member whose state is damaged.
	repairTicks = 100
)

// ErrVoid means that a comparison has no result: the state was replaced
// meanwhile.
var ErrVoid = errors.New("the state was replaced during the comparison")

// A GroupHash is the hash of a group's rows at a position: see
// [state.SpanHash].
type GroupHash struct {
	Group uint32
	Index uint64
	Sum   metadata.Sum
}

// A Divergence says that stores do not have the same rows of a group.
type Divergence struct {
	Group uint32
	Index uint64
	// Odd are the replica ids whose rows differ from those that a majority of
	// the voters has. They are nil if no majority has the same: then nobody
	// knows who is right, and nothing is done.
	Odd []uint64
}

// comparison is what a member knows of the last one.
type comparison struct {
	index    uint64
	sums     map[uint64]metadata.Sum // by replica id
	told     uint64                  // tick up to which the own sum goes out
	judged   bool
	disputed bool // nobody has a majority, and that was said
}

// A Comparison is a state of one group of which the hash is wanted. It must be
// ended by Hash, at any time until the store is closed, in any goroutine.
type Comparison struct {
	Group uint32
	Index uint64

	store    *Store
	snap     *pebble.Snapshot
	replaced uint64 // of the group, when the snapshot was taken
}

// dropComparisons ends those of work that has failed.
func dropComparisons(w *ApplyWork) (err error) {
	for _, c := range w.Comparisons {
		err = errors.Join(err, c.snap.Close())
		c.store.comparing[c.Group].Store(false)
	}
	w.Comparisons = nil
	return err
}

// Hash reads all rows of the group and returns their hash, for Compared.
func (c *Comparison) Hash(ctx context.Context) (metadata.Sum, error) {
	sum, err := state.SpanHash(ctx, c.snap, c.Group)
	cerr := c.store.guard(c.snap.Close)
	c.store.comparing[c.Group].Store(false)
	if c.store.replaced[c.Group].Load() != c.replaced {
		return metadata.Sum{}, ErrVoid // taking rows out empties snapshots, too
	}
	return sum, errors.Join(err, cerr)
}

// Compare lets all members of a group that this store leads compare their rows.
func (c *core) Compare(group uint32) error {
	if c.stopped != nil {
		return c.stopped
	}
	err := ErrNoLeader
	c.guarded(group, func(m *member) {
		if m.role == raft.StateLeader {
			m.wake()
			err = m.node.Propose(encodeComparison(c.replica, c.session))
		}
	})
	return err
}

// compareAtTimes proposes a comparison when it is the group's turn.
func (c *core) compareAtTimes(m *member) {
	every := uint64(max(c.limits.CompareTicks, 0))
	if every == 0 || len(voters(m.conf)) < 2 || (c.ticks+uint64(m.id)*every/groupCount)%every != 0 {
		return
	}
	m.wake()
	_ = m.node.Propose(encodeComparison(c.replica, c.session))
}

// compare takes what a Comparison needs, at the very position of the entry. A
// store that has not ended the last one of the group gives no answer.
func (a *application) compare(group uint32, e *pb.Entry) error {
	if !a.compares || a.broken[group] {
		return nil
	}
	if err := a.commit(); err != nil {
		return err
	}
	if !a.comparing[group].CompareAndSwap(false, true) {
		return nil
	}
	a.work.Comparisons = append(a.work.Comparisons, &Comparison{
		Group: group, Index: e.GetIndex(), store: a.Store, snap: a.db.NewSnapshot(), replaced: a.replaced[group].Load(),
	})
	return nil
}

// Compared takes the result of a Comparison. Rows that cannot be read are
// damaged. A result of rows that were replaced since says nothing.
func (c *core) Compared(group uint32, index uint64, sum metadata.Sum, err error) {
	c.guarded(group, func(m *member) {
		switch {
		case index <= m.fresh:
		case pebble.IsCorruptionError(err):
			c.damage(m, index, "it cannot be read: "+err.Error())
		case err == nil:
			c.answer(m, c.replica, GroupHash{group, index, sum})
			m.compared.told = c.ticks + tellTicks
		}
	})
}

// refilled notes that another store's rows are in the place of a member's own,
// up to what is applied: hashes of the old ones, and of the new ones up to
// there, are not evidence of this store's.
func (c *core) refilled(m *member) {
	m.fresh = max(m.fresh, m.applied)
	delete(m.compared.sums, c.replica)
	m.compared.told = 0
	m.inquiry.vouched = 0
}

// hashes returns what goes out with the beats.
func (c *core) hashes() (hashes []GroupHash) {
	for _, m := range c.groups {
		if sum, ok := m.compared.sums[c.replica]; ok && c.ticks < m.compared.told {
			hashes = append(hashes, GroupHash{m.id, m.compared.index, sum})
		}
	}
	return hashes
}

// answer notes a store's hash, and judges once a majority is known.
func (c *core) answer(m *member, from uint64, h GroupHash) {
	if h.Index < m.compared.index || !m.knows(from) {
		return
	}
	if h.Index > m.compared.index {
		m.compared = comparison{index: h.Index, sums: make(map[uint64]metadata.Sum)}
	}
	if _, known := m.compared.sums[from]; known {
		return
	}
	m.compared.sums[from] = h.Sum
	c.judge(m)
}

// judge finds those whose rows are not the majority's.
func (c *core) judge(m *member) {
	cmp, votes := &m.compared, voters(m.conf)
	count, answered := make(map[metadata.Sum]int), 0
	for _, id := range votes {
		if sum, ok := cmp.sums[id]; ok {
			count[sum]++
			answered++
		}
	}
	for sum, n := range count {
		if n <= len(votes)/2 {
			continue
		}
		var odd []uint64
		for _, id := range members(m.conf) {
			if other, ok := cmp.sums[id]; ok && other != sum {
				odd = append(odd, id)
			}
		}
		if len(odd) > 0 && (!cmp.judged || odd[len(odd)-1] == c.replica) {
			c.diverged = append(c.diverged, Divergence{Group: m.id, Index: cmp.index, Odd: odd})
			cmp.judged = true
		}
		if cmp.sums[c.replica] == sum {
			m.inquiry.vouched = c.ticks
		}
		if slices.Contains(odd, c.replica) {
			c.damage(m, cmp.index, fmt.Sprintf("its rows differ from those of %d of %d voters", n, len(votes)))
		}
		return
	}
	if answered == len(votes) {
		c.contradict(m)
	}
}

// damage marks the state of a group as one that must be replaced: nothing is
// served from it and nothing applied to it. The log goes on, and with it the
// store's vote.
func (c *core) damage(m *member, index uint64, reason string) {
	if m.damaged {
		return
	}
	m.damaged = true
	m.wake()
	c.apply.items = append(c.apply.items, &applyItem{group: m.id, damage: &commandlog.Damage{Index: index, Reason: reason}})
}

// damagedIn reports whether a store has told that its state of a group is
// damaged.
func (c *core) damagedIn(m *member, id uint64) bool {
	p := c.peers[id]
	return p != nil && p.beat != nil && slices.Contains(p.beat.Damaged, m.id)
}

// offerRepairs offers snapshots to members whose state is damaged.
func (c *core) offerRepairs(m *member) {
	if m.damaged || m.applied == 0 || c.ticks < m.repaired+repairTicks && m.repaired != 0 {
		return
	}
	for _, id := range members(m.conf) {
		if id == c.replica || !c.alive(id) || !c.damagedIn(m, id) {
			continue
		}
		m.repaired = c.ticks
		c.offer(m, SnapshotRequest{Group: m.id, To: id, Term: m.term, Index: m.applied})
	}
}

// repair takes a snapshot for a damaged state. Raft does not want it, as the log
// leads on from it already. It reports whether it will be put in place.
func (s *Store) repair(m *member, h snapshot.Header) bool {
	first, err := s.log.Group(m.id).FirstIndex()
	if !m.damaged || m.repair != nil || err != nil || h.Index+1 < first || h.Index > m.commit {
		return false
	}
	m.repair = &h
	s.beginRepair(m)
	return true
}

// beginRepair puts a snapshot in the place of a damaged state once Raft has
// handed out what the snapshot holds.
func (c *core) beginRepair(m *member) {
	if h := m.repair; h != nil && h.Index <= m.applied && !m.repairing {
		m.repairing = true
		c.apply.items = append(c.apply.items, &applyItem{group: m.id, repair: h})
	}
}

// endRepair is called when the item was carried out.
func (c *core) endRepair(m *member, it *applyItem) {
	m.repair, m.repairing = nil, false
	m.damaged = !it.repaired
}

// breakGroup marks a group's state as damaged.
func (a *application) breakGroup(it *applyItem) error {
	a.broken[it.group] = true
	return a.log.SetDamaged(it.group, *it.damage)
}

// replaceBroken puts a snapshot in the place of a group's damaged state and
// applies again what the log holds behind it.
func (a *application) replaceBroken(it *applyItem) error {
	defer a.installing[it.group].Store(false)
	id := it.repair.ID
	if !a.broken[it.group] { // a later snapshot has mended it
		it.repaired = true
		return a.stage.Remove(id)
	}
	if _, err := a.stage.Find(context.Background(), id); err != nil {
		a.opts.Logger.Warn("metadata snapshot is not whole; another one is awaited", "group", it.group, "err", err)
		return nil
	}
	want := a.marks[it.group]
	mark := commandlog.Installing{Snapshot: id, Index: it.repair.Index, Term: it.repair.Term}
	switch err := a.log.SetInstalling(it.group, mark); {
	case errors.Is(err, commandlog.ErrInvalid): // Raft has taken a later snapshot
		return a.stage.Remove(id)
	case err != nil:
		return err
	}
	a.discardViews()
	a.replaced[it.group].Add(1)
	if err := a.putInPlace(it.group, id); err != nil {
		return err
	}
	at, err := a.readMark(it.group, it.repair.Index)
	if err != nil {
		return err
	}
	if at.index != it.repair.Index {
		return fmt.Errorf("replica: group %d: the snapshot is of position %d, wanted %d", it.group, at.index, it.repair.Index)
	}
	a.marks[it.group] = at
	a.machine = state.NewKnowing(a.db, a.opts.Knows)
	a.broken[it.group] = false
	a.wished = a.wished || it.group == metadata.RootGroup
	a.compares = false // what is read there was told before
	defer func() { a.compares = true }()
	for next := at.index + 1; next <= want.index; {
		entries, err := a.log.Group(it.group).Entries(next, want.index+1, a.opts.Limits.MessageBytes)
		if errors.Is(err, raft.ErrCompacted) {
			// Raft has taken a later snapshot just now.
			a.broken[it.group], a.marks[it.group] = true, want
			return a.log.SetDamaged(it.group, commandlog.Damage{Index: want.index, Reason: "a later snapshot is to be installed"})
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			// Raft has seen the changes of the configuration before.
			if err := a.entry(&applyItem{group: it.group}, e); err != nil {
				return fmt.Errorf("replica: group %d, position %d: %w", it.group, e.GetIndex(), err)
			}
		}
		next += uint64(len(entries))
	}
	it.repaired = true
	return a.commit()
}
