package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata"
)

// groupCount is how many groups every store has: the root and the data groups.
const groupCount = metadata.DataGroups + 1

// Failures of proposals that were not taken: nothing was done.
var (
	// ErrNoLeader means that the store knows no leader of the group at present.
	ErrNoLeader = errors.New("no leader")
	// ErrStopped means that the store has stopped itself.
	ErrStopped = errors.New("store has stopped")
)

// A ForgottenError says that a leader counts on entries that this store has
// acknowledged and does not have: its device was put back to an earlier time.
// The store has stopped and must be replaced under a new replica id.
type ForgottenError struct {
	Replica  uint64
	Group    uint32
	Last     uint64 // last position of the store's log
	Promised uint64 // position that the leader counts on
	Leader   uint64 // replica id
}

// Error implements error.
func (e *ForgottenError) Error() string {
	return fmt.Sprintf("replica: store %d has forgotten what it promised: the log of group %d ends at %d, its leader %d counts on %d; "+
		"the device was put back to an earlier time: replace this replica", e.Replica, e.Group, e.Last, e.Leader, e.Promised)
}

// core is the part of a store that decides: 17 members of Raft groups and what
// is known of the other stores. It does no writes, starts no goroutine and
// reads no clock. It is used by one goroutine.
type core struct {
	replica uint64
	session uint64
	version uint16
	rand    *rand.Rand
	limits  Limits

	groups  [groupCount]*member
	dirty   [groupCount]bool // has something to be handed out
	peers   map[uint64]*peer
	wish    *metadata.StoreTable // the root's, as far as it is applied
	ticks   uint64
	contest uint64 // counts rounds of reading

	out       []Message
	snapshots []SnapshotRequest
	reads     []ReadResult
	changes   []LeaderChange

	diverged []Divergence

	append  appendQueue
	apply   applyQueue
	slow    bool // the log does not keep up
	full    bool // set from outside: no room for commands that add
	stopped error

	slowUntil uint64        // tick, 0 while the log keeps up
	resting   uint64        // tick until which the store is to lead nothing
	sync      time.Duration // of writes of the log, on average
	laggard   int           // rises while the others are much faster
}

// ReadResult says up to where a group must be applied for the reads that
// asked: whatever was committed before they asked is visible there. An error
// means that they must ask again.
type ReadResult struct {
	Group uint32
	Index uint64
	Asked []uint64 // the numbers that ReadIndex was called with
}

// A LeaderChange says that the store knows another leader of a group, 0 for
// none.
type LeaderChange struct {
	Group  uint32
	Leader uint64
	Term   uint64
}

// A SnapshotRequest says that a member of a group can only be brought up to
// date by a snapshot. Whoever has sent it, or given up, calls
// [Store.ReportSnapshot].
type SnapshotRequest struct {
	Group uint32
	To    uint64
	Term  uint64
	Index uint64 // the snapshot must not be older
}

// Ready is what a store wants done. Messages may be sent at once, and be lost,
// doubled or reordered. Append and Apply must be carried out, in any order, by
// the methods of those names, and be returned by Appended and Applied; the
// store hands out no second one of a kind before.
type Ready struct {
	Messages  []Message
	Append    *AppendWork
	Apply     *ApplyWork
	Snapshots []SnapshotRequest
	Reads     []ReadResult
	Leaders   []LeaderChange
	Diverged  []Divergence
	Stopped   error // not nil once the store has stopped itself
}

// Empty reports whether there is nothing to do.
func (r *Ready) Empty() bool {
	return len(r.Messages) == 0 && r.Append == nil && r.Apply == nil && len(r.Snapshots) == 0 &&
		len(r.Reads) == 0 && len(r.Leaders) == 0 && len(r.Diverged) == 0 && r.Stopped == nil
}

// Limits bound what a store keeps in memory, and how fast it gives up. The
// zero value is a working configuration.
type Limits struct {
	// ElectionTicks is how long followers wait for a sign of their leader, at
	// least; at most it is twice as long. Zero means 10.
	ElectionTicks int
	// UncommittedBytes is how much a leader takes in each group before it is
	// committed. Zero means 16 MiB.
	UncommittedBytes uint64
	// MessageBytes is the size of one message with entries. Zero means 1 MiB.
	MessageBytes uint64
	// InflightMessages is how many of them a follower is sent ahead. Zero
	// means 64.
	InflightMessages int
	// QuietTicks is how long nothing must have happened in a group before its
	// members stop talking about it. Zero means 5, a negative value never.
	QuietTicks int
	// BalanceTicks is how often a store gives a group to one that leads fewer.
	// Zero means 50, a negative value never.
	BalanceTicks int
	// CompareTicks is how often the members of each group compare their rows.
	// Unless it is zero, they do so, too, before their leader sends a
	// snapshot, and whoever drives a store must see to the Comparisons of its
	// ApplyWork. Zero means never, a negative value only before snapshots.
	CompareTicks int
	// KeepEntries is how many entries of each group stay in the log, although
	// the state holds them durably, for members that were away for a moment.
	// Zero means 2,048.
	KeepEntries uint64
	// KeepBytes is how much these entries of all groups together take at most,
	// each group its share of the log. Zero means 4 MiB.
	KeepBytes int64
}

func (l Limits) withDefaults() Limits {
	if l.ElectionTicks == 0 {
		l.ElectionTicks = 10
	}
	if l.UncommittedBytes == 0 {
		l.UncommittedBytes = 16 << 20
	}
	if l.MessageBytes == 0 {
		l.MessageBytes = 1 << 20
	}
	if l.InflightMessages == 0 {
		l.InflightMessages = 64
	}
	if l.QuietTicks == 0 {
		l.QuietTicks = 5
	}
	if l.BalanceTicks == 0 {
		l.BalanceTicks = 50
	}
	if l.KeepEntries == 0 {
		l.KeepEntries = 2048
	}
	if l.KeepBytes == 0 {
		l.KeepBytes = 4 << 20
	}
	return l
}

// stop ends the core. What it would have sent is dropped, but for the last
// beats.
func (c *core) stop(err error) {
	if c.stopped != nil {
		return
	}
	c.stopped = err
	c.out, c.snapshots, c.reads, c.changes = nil, nil, nil, nil
	c.beats()
}

// guarded calls f. Raft panics where it cannot go on; then this store stops,
// and no other.
func (c *core) guarded(group uint32, f func(m *member)) {
	if c.stopped != nil || int(group) >= len(c.groups) {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			c.stop(fmt.Errorf("replica: store %d, group %d: %w: %v", c.replica, group, ErrStopped, p))
		}
	}()
	c.dirty[group] = true
	f(c.groups[group])
}

// Step takes a message from another store.
func (c *core) Step(msg Message) {
	if c.stopped != nil || msg.To != c.replica {
		return
	}
	if msg.Beat != nil {
		c.beat(msg.From, msg.Beat)
		return
	}
	if msg.Raft == nil || int(msg.Group) >= len(c.groups) {
		return
	}
	c.guarded(msg.Group, func(m *member) { c.step(m, msg.From, msg.Raft) })
}

func (c *core) step(m *member, from uint64, r *pb.Message) {
	if raft.IsLocalMsgTarget(from) || !sentBy(from, r) {
		return // no store sends that
	}
	switch r.GetType() {
	case pb.MsgHeartbeat:
		if r.GetCommit() > m.last {
			c.stop(&ForgottenError{Replica: c.replica, Group: m.id, Last: m.last, Promised: r.GetCommit(), Leader: from})
			return
		}
		m.sign(r.GetTerm())
	case pb.MsgApp, pb.MsgSnap:
		if r.GetType() == pb.MsgApp && !c.checkAppend(m, from, r) {
			return
		}
		m.sign(r.GetTerm())
		m.wake()
	case pb.MsgAppResp:
		if !c.checkAppended(m, from, r) {
			return
		}
		m.wake()
	case pb.MsgReadIndex:
		if c.unproven(m) {
			return // the sender asks again
		}
	case pb.MsgHeartbeatResp, pb.MsgReadIndexResp:
	default:
		m.wake()
	}
	// A message that Raft does not want is like one that was lost.
	_ = m.node.Step(r)
}

// sentBy reports whether a store sends such messages. What followers pass on to
// a leader names whom the answer is for, or who is to lead.
func sentBy(from uint64, r *pb.Message) bool {
	switch r.GetType() {
	case pb.MsgProp, pb.MsgReadIndex, pb.MsgTransferLeader:
		return !raft.IsLocalMsgTarget(r.GetFrom())
	}
	return r.GetFrom() == from && !raft.IsLocalMsg(r.GetType())
}

// Propose hands the data of an entry to the group's leader. An error means
// that nothing was done; without one, the outcome is open until the entry
// comes out of Apply somewhere.
func (c *core) Propose(group uint32, data []byte) error { return c.ProposeAll(group, [][]byte{data}) }

// ProposeAll is Propose for the data of several entries, which go to the
// followers together. An error means that none was taken; fewer might be.
func (c *core) ProposeAll(group uint32, data [][]byte) error {
	if c.stopped != nil {
		return c.stopped
	}
	err := ErrNoLeader
	c.guarded(group, func(m *member) {
		if m.lead == raft.None {
			return
		}
		m.wake()
		entries := make([]*pb.Entry, len(data))
		for i := range data {
			entries[i] = &pb.Entry{Data: data[i]}
		}
		err = m.node.Step(&pb.Message{Type: pb.MsgProp.Enum(), From: new(c.replica), Entries: entries})
		if errors.Is(err, raft.ErrProposalDropped) {
			err = c.dropped(m)
		}
	})
	if c.stopped != nil {
		return c.stopped
	}
	return err
}

// dropped says why the member did not take a proposal.
func (c *core) dropped(m *member) error {
	if s := m.node.BasicStatus(); s.RaftState == raft.StateLeader && s.LeadTransferee == raft.None && m.knows(c.replica) {
		return metadata.ErrOverloaded
	}
	return ErrNoLeader
}

// ProposeConfChange proposes to change the members of a group. This store must
// lead it. Nil does not mean that the change is taken: whoever proposes it looks
// at the configuration later.
func (c *core) ProposeConfChange(group uint32, change *pb.ConfChangeV2) error {
	if c.stopped != nil {
		return c.stopped
	}
	err := ErrNoLeader
	c.guarded(group, func(m *member) {
		if m.role != raft.StateLeader {
			return
		}
		m.wake()
		if err = m.node.ProposeConfChange(change); errors.Is(err, raft.ErrProposalDropped) {
			err = c.dropped(m)
		}
	})
	if c.stopped != nil {
		return c.stopped
	}
	return err
}

// TransferLeader asks the leader of a group, this store or another, to hand
// leadership over to a voter. It has ended, in success or not, after
// Limits.ElectionTicks.
func (c *core) TransferLeader(group uint32, to uint64) {
	c.guarded(group, func(m *member) {
		m.wake()
		m.node.TransferLeader(to)
	})
}

// Campaign lets the store ask for the leadership of a group at once.
func (c *core) Campaign(group uint32) {
	c.guarded(group, func(m *member) { c.campaign(m) })
}

// onlyVoter reports whether this store is a group's only voter.
func (c *core) onlyVoter(group uint32) bool {
	v := voters(c.groups[group].conf)
	return len(v) == 1 && v[0] == c.replica
}

// SetFull says whether the store's device has room for commands that add. One
// that has none does not lead if another store can.
func (c *core) SetFull(full bool) { c.full = full }

// ReportUnreachable says that messages to another store are being lost.
func (c *core) ReportUnreachable(to uint64) {
	for g := range c.groups {
		c.guarded(uint32(g), func(m *member) {
			if m.role == raft.StateLeader && m.knows(to) {
				m.node.ReportUnreachable(to)
			}
		})
	}
}

// ReportSnapshot says how a SnapshotRequest has ended: ok means that the
// receiver has all of it and was told so.
func (c *core) ReportSnapshot(group uint32, to uint64, ok bool) {
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
	}
	c.guarded(group, func(m *member) { m.node.ReportSnapshot(to, status) })
}

// Ready returns what is to be done now.
func (c *core) Ready() Ready {
	for g := range c.groups {
		if c.dirty[g] {
			c.guarded(uint32(g), c.collect)
			c.dirty[g] = false
		}
	}
	r := Ready{Messages: c.out, Snapshots: c.snapshots, Reads: c.reads, Leaders: c.changes, Diverged: c.diverged, Stopped: c.stopped}
	c.diverged = nil
	c.out, c.snapshots, c.reads, c.changes = nil, nil, nil, nil
	if c.stopped == nil {
		r.Append, r.Apply = c.append.take(c.ticks), c.apply.take()
	}
	return r
}

// collect takes over what a member of a group wants done.
func (c *core) collect(m *member) {
	for m.node.HasReady() {
		rd := m.node.Ready()
		if h := rd.HardState; !raft.IsEmptyHardState(h) {
			if h.GetVote() != m.vote && h.GetVote() != raft.None {
				m.heard = 0 // whoever got the vote gets time, too
			}
			m.term, m.vote, m.commit = h.GetTerm(), h.GetVote(), h.GetCommit()
		}
		if !raft.IsEmptySnap(rd.Snapshot) {
			m.last = rd.Snapshot.GetMetadata().GetIndex()
		}
		if n := len(rd.Entries); n > 0 {
			m.last = rd.Entries[n-1].GetIndex()
		}
		if s := rd.SoftState; s != nil {
			c.soft(m, s)
		}
		for _, rs := range rd.ReadStates {
			c.finishRound(m, rs)
		}
		for _, r := range rd.Messages {
			c.route(m, r)
		}
		if len(m.asked) > 0 && c.onlyVoter(m.id) {
			c.beginRound(m) // it may have committed by now
		}
	}
}

// soft notes a change of the leader or of the member's role.
func (c *core) soft(m *member, s *raft.SoftState) {
	m.role = s.RaftState
	if m.lead == s.Lead {
		return
	}
	m.lead = s.Lead
	m.heard = 0
	m.inquiry = inquiry{}
	m.wake()
	m.lostRound()
	c.changes = append(c.changes, LeaderChange{Group: m.id, Leader: m.lead, Term: m.term})
}

func (c *core) route(m *member, r *pb.Message) {
	switch {
	case r.GetTo() == raft.LocalAppendThread:
		c.append.add(m, r, c.ticks)
	case r.GetTo() == raft.LocalApplyThread:
		c.apply.add(m, r)
	case r.GetType() == pb.MsgSnap:
		c.offer(m, SnapshotRequest{
			Group: m.id, To: r.GetTo(), Term: r.GetTerm(), Index: r.GetSnapshot().GetMetadata().GetIndex(),
		})
	default:
		c.out = append(c.out, Message{From: c.replica, To: r.GetTo(), Group: m.id, Raft: r})
	}
}

// deliver hands on the responses of finished work.
func (c *core) deliver(m *member, responses []*pb.Message) {
	for _, r := range responses {
		if r.GetTo() == c.replica {
			_ = m.node.Step(r)
		} else {
			c.out = append(c.out, Message{From: c.replica, To: r.GetTo(), Group: m.id, Raft: r})
		}
	}
}

// voters returns the replica ids of a configuration's voters, in order.
func voters(conf *pb.ConfState) []uint64 {
	ids := slices.Concat(conf.GetVoters(), conf.GetVotersOutgoing())
	slices.Sort(ids)
	return slices.Compact(ids)
}

// members returns the replica ids of all members, in order.
func members(conf *pb.ConfState) []uint64 {
	ids := slices.Concat(conf.GetVoters(), conf.GetVotersOutgoing(), conf.GetLearners(), conf.GetLearnersNext())
	slices.Sort(ids)
	return slices.Compact(ids)
}
