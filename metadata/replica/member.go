package replica

import (
	"encoding/binary"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

// Times in ticks.
const (
	// behindTicks is how long a leader's own log may lag behind what the
	// others have committed before it hands leadership over.
	behindTicks = 5
	// stuckTicks is how long the log may be busy with one write before the
	// store counts as slow, and slowTicks how long it counts as slow then.
	stuckTicks = 5
	slowTicks  = 100
	// roundTicks is how long a round of reading may take before it is begun
	// anew; staleTicks is when those who asked are forgotten.
	roundTicks = 5
	staleTicks = 100
	// aliveTicks is how long a store counts as alive after its last beat.
	aliveTicks = 5
)

// maxAsked is how many readers may wait for a round of a group.
const maxAsked = 1 << 16

// member is the store's part in one group.
type member struct {
	id   uint32
	node *raft.RawNode
	conf *pb.ConfState // as of what is applied

	storage *groupStorage

	// What Raft has said, as of the last collect.
	role               raft.StateType
	lead               uint64
	term, vote, commit uint64
	last               uint64 // position, entries that are not stored yet included
	applied            uint64
	restored           uint64 // position of the last snapshot that Raft took

	quiet   bool // of a leader: not ticking, told of in beats
	idle    int  // ticks since something happened
	heard   int  // ticks since the leader gave a sign
	timeout int  // of heard
	signed  bool // since the last tick
	behind  int  // ticks in which the own log lagged behind by more than one
	// committed is commit, as of the last tick in which the member led.
	committed uint64
	damaged   bool

	heir  uint64 // whom leadership was handed to last
	moved uint64 // and the tick of that

	compared  comparison
	inquiry   inquiry
	fresh     uint64           // the rows are those of another store up to here
	repaired  uint64           // tick at which a snapshot was offered to damaged members
	repair    *snapshot.Header // that takes the place of the damaged state
	repairing bool             // it is with the applying goroutine

	planned uint64 // tick of the last step towards the wanted configuration

	round *round
	asked []uint64 // who waits for the next round
	since uint64   // tick at which the first of them came
}

// round is one question to the leader up to where reads must wait.
type round struct {
	context string
	asked   []uint64
	begun   uint64
}

// wake says that something happens in the group.
func (m *member) wake() { m.idle, m.quiet = 0, false }

// sign says that a leader of a term was heard.
func (m *member) sign(term uint64) {
	if term >= m.term {
		m.heard, m.signed = 0, true
	}
}

func (m *member) knows(id uint64) bool { return slices.Contains(members(m.conf), id) }

func (m *member) votes(id uint64) bool { return slices.Contains(voters(m.conf), id) }

// Tick says that time has passed: Options.Tick, 100 ms if nothing else is
// said.
func (c *core) Tick() {
	if c.stopped != nil {
		return
	}
	c.ticks++
	c.watchLog()
	for g := range c.groups {
		c.guarded(uint32(g), c.tick)
	}
	if c.stopped == nil {
		c.balance()
		c.beats()
	}
}

func (c *core) tick(m *member) {
	m.idle++
	c.tickRound(m)
	if m.role != raft.StateLeader {
		c.tickFollower(m)
		return
	}
	c.reconcile(m)
	c.compareAtTimes(m)
	c.offerRepairs(m)
	c.inquire(m)
	if m.quiet && (!c.allAlive(m) || c.tired() && c.hasSuccessor(m)) {
		m.wake()
	}
	if m.quiet {
		return
	}
	m.node.Tick()
	c.handOver(m)
	m.quiet = c.mayRest(m)
}

// tickFollower asks for votes once the leader was silent for too long. Raft's
// own timer is not used: its length comes from the operating system's
// randomness, which no simulation can repeat.
func (c *core) tickFollower(m *member) {
	if m.signed {
		m.signed = false
		return
	}
	m.node.TickQuiesced()
	m.heard++
	if m.heard >= m.timeout && m.votes(c.replica) {
		c.campaign(m)
	}
}

// campaign asks for votes, and for more time the next time.
func (c *core) campaign(m *member) {
	c.newTimeout(m)
	if m.role == raft.StateLeader || !m.votes(c.replica) {
		return
	}
	m.wake()
	_ = m.node.Campaign()
}

func (c *core) newTimeout(m *member) {
	m.heard = 0
	m.timeout = c.limits.ElectionTicks + c.rand.IntN(c.limits.ElectionTicks)
	if c.tired() || m.damaged {
		m.timeout += c.limits.ElectionTicks
	}
}

// mayRest reports whether nothing is left to be said in a group that the store
// leads.
func (c *core) mayRest(m *member) bool {
	if c.limits.QuietTicks < 0 || m.idle < c.limits.QuietTicks || m.applied != m.last || m.commit != m.last ||
		m.round != nil || len(m.conf.GetVotersOutgoing()) > 0 || !c.allAlive(m) {
		return false
	}
	rest := m.node.BasicStatus().LeadTransferee == raft.None
	m.node.WithProgress(func(_ uint64, _ raft.ProgressType, p tracker.Progress) {
		rest = rest && p.Match == m.last && p.State == tracker.StateReplicate
	})
	return rest
}

// allAlive reports whether all other members' stores were heard lately.
func (c *core) allAlive(m *member) bool {
	for _, id := range members(m.conf) {
		if id != c.replica && !c.alive(id) {
			return false
		}
	}
	return true
}

// hasSuccessor reports whether another store may be given leadership of a group.
func (c *core) hasSuccessor(m *member) bool {
	return slices.ContainsFunc(voters(m.conf), func(id uint64) bool {
		return id != c.replica && c.fit(id) && !c.damagedIn(m, id)
	})
}

// watchLog decides whether the store's log keeps up.
func (c *core) watchLog() {
	switch q := &c.append; {
	case q.busy && c.ticks >= q.begun+stuckTicks:
		c.slowUntil = c.ticks + slowTicks
	case c.ticks >= c.slowUntil:
		c.slowUntil = 0
	}
	c.watchSync()
	c.slow = c.slowUntil != 0
}

// handOver gives leadership away if this store's log does not keep up with
// that of the others, or its device is full.
func (c *core) handOver(m *member) {
	var own uint64
	m.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		if id == c.replica {
			own = p.Match
		}
	})
	committed := m.committed // a tick ago
	m.committed = m.commit
	if own < committed {
		m.behind++
	} else if m.behind > 0 {
		m.behind--
	}
	if m.behind < behindTicks && !c.tired() && !m.damaged {
		return
	}
	to := c.heir(c.heirs(m))
	if to == raft.None {
		return
	}
	if m.behind >= behindTicks {
		c.slowUntil = c.ticks + slowTicks
		c.slow = true
	}
	m.behind = 0
	c.move(m, to)
}

// ReadIndex asks up to where a group must be applied for a read that begins
// now. The answer is in a Ready, with the number; there may be none.
func (c *core) ReadIndex(group uint32, number uint64) error {
	if c.stopped != nil {
		return c.stopped
	}
	err := error(nil)
	c.guarded(group, func(m *member) {
		if len(m.asked) >= maxAsked {
			err = ErrNoLeader
			return
		}
		if len(m.asked) == 0 {
			m.since = c.ticks
		}
		m.asked = append(m.asked, number)
		c.beginRound(m)
	})
	if c.stopped != nil {
		return c.stopped
	}
	return err
}

// beginRound begins a round for all that wait, unless one is in flight: a read
// must not join a round that began before it.
func (c *core) beginRound(m *member) {
	if m.round != nil || len(m.asked) == 0 || m.lead == raft.None || c.unproven(m) {
		return
	}
	c.contest++
	context := binary.BigEndian.AppendUint64(nil, c.replica)
	context = binary.BigEndian.AppendUint64(context, c.session)
	context = binary.BigEndian.AppendUint64(context, c.contest)
	m.round = &round{context: string(context), asked: m.asked, begun: c.ticks}
	m.asked = nil
	m.node.ReadIndex(context)
}

// unproven reports whether this store leads a group as its only voter and has
// not committed anything in its term: then its commit position may be older
// than what was answered before it was started anew. Raft answers reads with it
// all the same, unless there are other voters.
func (c *core) unproven(m *member) bool {
	if !c.onlyVoter(m.id) {
		return false
	}
	s := m.node.BasicStatus()
	if s.RaftState != raft.StateLeader {
		return false
	}
	term, err := m.storage.Term(s.GetCommit())
	return err != nil || term != s.GetTerm()
}

// finishRound answers those of the round in flight, and begins the next.
func (c *core) finishRound(m *member, rs raft.ReadState) {
	if m.round == nil || m.round.context != string(rs.RequestCtx) {
		return // of a round that was given up
	}
	c.reads = append(c.reads, ReadResult{Group: m.id, Index: rs.Index, Asked: m.round.asked})
	m.round = nil
	m.since = c.ticks
	c.beginRound(m)
}

// lostRound puts those of the round in flight back: the leader that was asked
// leads no more, or does not answer.
func (m *member) lostRound() {
	if m.round == nil {
		return
	}
	m.asked = append(m.round.asked, m.asked...)
	m.since = m.round.begun
	m.round = nil
}

func (c *core) tickRound(m *member) {
	if m.round != nil && c.ticks >= m.round.begun+roundTicks {
		begun := m.round.begun
		m.lostRound()
		m.since = begun
	}
	if len(m.asked) > 0 && m.round == nil && c.ticks >= m.since+staleTicks {
		m.asked = nil // nobody waits that long
	}
	c.beginRound(m)
}
