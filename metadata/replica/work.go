package replica

import (
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

// lazyTicks is how long a commit that nobody waits for is kept from the log.
const lazyTicks = 10

// AppendWork is what the groups have to store in the log, in one batch with
// one sync. See [Store.Append].
type AppendWork struct {
	items []*appendItem
}

type appendItem struct {
	group     uint32
	entries   []*pb.Entry
	hard      *pb.HardState
	snapshot  *pb.Snapshot // all entries come behind it
	responses []*pb.Message
}

// appendQueue merges what groups have to store until the log takes it.
type appendQueue struct {
	items [groupCount]*appendItem
	any   bool   // something waits
	sync  bool   // and somebody waits for it
	first uint64 // tick at which the first item came
	busy  bool   // some work is with the log
	begun uint64 // tick at which it was given out
}

func (q *appendQueue) add(m *member, r *pb.Message, tick uint64) {
	it := q.items[m.id]
	if it == nil {
		it = &appendItem{group: m.id}
		q.items[m.id] = it
	}
	if !q.any {
		q.any, q.first = true, tick
	}
	if s := r.GetSnapshot(); !raft.IsEmptySnap(s) {
		it.snapshot, it.entries = s, nil
		m.conf = pb.EnsureConfState(s.GetMetadata().GetConfState())
		m.restored = s.GetMetadata().GetIndex()
	}
	if es := r.GetEntries(); len(es) > 0 {
		it.entries = replaceTail(it.entries, es)
	}
	if r.GetTerm() != 0 || r.GetVote() != 0 || r.GetCommit() != 0 {
		it.hard = &pb.HardState{Term: r.Term, Vote: r.Vote, Commit: r.Commit}
	}
	it.responses = append(it.responses, r.GetResponses()...)
	q.sync = q.sync || len(r.GetResponses()) > 0 || len(it.entries) > 0 || it.snapshot != nil
}

// replaceTail appends entries in the place of those that have their indexes.
func replaceTail(old, more []*pb.Entry) []*pb.Entry {
	if len(old) == 0 {
		return slices.Clip(more)
	}
	first, from := old[0].GetIndex(), more[0].GetIndex()
	if from <= first {
		return slices.Clip(more)
	}
	keep := min(uint64(len(old)), from-first)
	return append(old[:keep:keep], more...)
}

// take returns what is to be stored now, nil if there is nothing or the log is
// busy.
func (q *appendQueue) take(tick uint64) *AppendWork {
	if q.busy || !q.any || !q.sync && tick < q.first+lazyTicks {
		return nil
	}
	w := new(AppendWork)
	for g, it := range q.items {
		if it != nil {
			w.items = append(w.items, it)
			q.items[g] = nil
		}
	}
	q.any, q.sync = false, false
	q.busy, q.begun = true, tick
	return w
}

// Appended takes back work that [Store.Append] has carried out.
func (c *core) Appended(w *AppendWork) {
	c.append.busy = false
	for _, it := range w.items {
		c.guarded(it.group, func(m *member) {
			if it.snapshot != nil {
				// The log says from now on that the snapshot will be in place:
				// Raft may go on, as what follows is applied behind it.
				c.apply.install(m, it.snapshot)
				c.learnPeers()
			}
			c.deliver(m, it.responses)
		})
	}
}

// ApplyWork is what is to be applied to the state, in order. See
// [Store.Apply].
type ApplyWork struct {
	items []*applyItem

	// Outcomes are the results of the commands, in order, once the work was
	// carried out.
	Outcomes []Outcome

	// Comparisons are wanted; each must be ended by its Hash.
	Comparisons []*Comparison

	wish *metadata.StoreTable // not nil if the table of stores was replaced
}

// An Outcome is the result of one command.
type Outcome struct {
	Ticket Ticket
	Group  uint32
	Index  uint64
	Result *metadata.Result
}

type applyItem struct {
	group     uint32
	entries   []*pb.Entry
	snapshot  *pb.Snapshot // to be installed; there are no entries then
	responses []*pb.Message

	damage   *commandlog.Damage // found in the group's state; there is nothing else then
	repair   *snapshot.Header   // that replaces a damaged state; there is nothing else then
	repaired bool               // it did

	changes []*pb.ConfChangeV2 // that were among the entries
	conf    *pb.ConfState      // after them
}

// applyQueue keeps what is to be applied until the last work has come back.
type applyQueue struct {
	items []*applyItem
	busy  bool
}

func (q *applyQueue) add(m *member, r *pb.Message) {
	q.items = append(q.items, &applyItem{group: m.id, entries: r.GetEntries(), responses: r.GetResponses()})
}

func (q *applyQueue) install(m *member, s *pb.Snapshot) {
	q.items = append(q.items, &applyItem{group: m.id, snapshot: s})
}

func (q *applyQueue) take() *ApplyWork {
	if q.busy || len(q.items) == 0 {
		return nil
	}
	w := &ApplyWork{items: q.items}
	q.items, q.busy = nil, true
	return w
}

// Applied takes back work that [Store.Apply] has carried out.
func (c *core) Applied(w *ApplyWork) {
	c.apply.busy = false
	if w.wish != nil {
		c.wish = w.wish
	}
	for _, it := range w.items {
		c.guarded(it.group, func(m *member) {
			if it.snapshot != nil {
				m.damaged = false
			}
			if it.repair != nil {
				c.endRepair(m, it)
			}
			c.reconfigure(m, it)
			m.applied = max(m.applied, it.index())
			if it.snapshot != nil || it.repaired {
				c.refilled(m)
			}
			c.beginRepair(m)
			c.deliver(m, it.responses)
		})
	}
}

// index returns up to where the group is applied after the item.
func (it *applyItem) index() uint64 {
	if it.snapshot != nil {
		return it.snapshot.GetMetadata().GetIndex()
	}
	if len(it.entries) == 0 {
		return 0
	}
	return it.entries[len(it.entries)-1].GetIndex()
}

// reconfigure tells Raft of the changes of the configuration that were
// applied, unless it has a later one from a snapshot already.
func (c *core) reconfigure(m *member, it *applyItem) {
	if len(it.changes) == 0 || it.index() <= m.restored {
		return
	}
	for _, change := range it.changes {
		m.conf = m.node.ApplyConfChange(change)
	}
	if err := m.conf.Equivalent(it.conf); err != nil {
		panic(err) // the stored configuration is not Raft's
	}
	m.wake()
	c.learnPeers()
}
