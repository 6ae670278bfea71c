package replica

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// Times in ticks.
const (
	// vouchTicks is how long the result of a comparison lets a leader send
	// snapshots.
	vouchTicks = 600
	// quorumTicks is how long a comparison may take to be committed. A group
	// that commits nothing may need the very snapshot to do so.
	quorumTicks = 100
	// inquiryTicks is when a comparison without a result is followed by another
	// one, at first; later ones get twice as long, because the rows may be many.
	inquiryTicks = 300
	// absenceTicks is how long one that is away is waited for: a new leader may
	// not have heard it yet.
	absenceTicks = 20
	// silenceTicks is when a witness that does not answer is no longer one.
	silenceTicks = 36_000
)

// inquiry is what a leader does before it sends a snapshot of a group: rows that
// are silently wrong in its state would get the copy as a second witness, and
// the comparison after that would find the right ones odd. So the members
// compare their rows first.
type inquiry struct {
	held    []SnapshotRequest // that wait for the result, one a member
	since   uint64            // tick at which the first of them came
	asked   uint64            // tick of the last comparison, 0 for none
	index   uint64            // its position, or one behind it
	wait    uint64            // ticks from it to the next
	vouched uint64            // tick of the last result that was well, 0 for none
}

// offer hands out a request for a snapshot, or keeps it until the own rows were
// compared with those of other voters.
func (c *core) offer(m *member, q SnapshotRequest) {
	if c.vouched(m) {
		c.snapshots = append(c.snapshots, q)
		return
	}
	i := &m.inquiry
	i.held = slices.DeleteFunc(i.held, func(o SnapshotRequest) bool { return o.To == q.To })
	if len(i.held) == 0 {
		i.since = c.ticks
	}
	i.held = append(i.held, q)
}

// vouched reports whether a snapshot of a group that this store leads may be
// sent: its rows were found to be those of the others a while ago, or there is
// nobody to compare with.
func (c *core) vouched(m *member) bool {
	return c.limits.CompareTicks == 0 ||
		m.inquiry.vouched != 0 && c.ticks < m.inquiry.vouched+vouchTicks ||
		len(c.witnesses(m)) == 0
}

// witnesses returns the other voters whose rows this store's can be compared
// with: not those that need a snapshot themselves, or know that their rows are
// damaged. They may be away.
func (c *core) witnesses(m *member) (ids []uint64) {
	m.node.WithProgress(func(id uint64, typ raft.ProgressType, p tracker.Progress) {
		if id != c.replica && typ == raft.ProgressTypePeer && p.State != tracker.StateSnapshot && !c.damagedIn(m, id) {
			ids = append(ids, id)
		}
	})
	return ids
}

// inquire lets held requests go, or does what is needed for that. It is called
// at every tick of a group that the store leads.
func (c *core) inquire(m *member) {
	i := &m.inquiry
	if len(i.held) == 0 {
		return
	}
	switch {
	case m.damaged || i.held[0].Term != m.term:
		for _, q := range i.held {
			m.node.ReportSnapshot(q.To, raft.SnapshotFailure)
		}
		*i = inquiry{}
	case c.vouched(m) || c.testified(m):
		c.snapshots = append(c.snapshots, i.held...)
		*i = inquiry{vouched: i.vouched}
	case i.asked == 0 || c.ticks >= i.asked+i.wait:
		m.wake()
		if m.node.Propose(encodeComparison(c.replica, c.session)) != nil {
			return // at the next tick
		}
		c.collect(m)
		i.asked, i.index, i.wait = c.ticks, m.last, min(max(2*i.wait, inquiryTicks), silenceTicks)
	}
}

// testified reports whether all that can be asked have the same rows, or that
// waiting for them longer would be of no use.
func (c *core) testified(m *member) bool {
	i := &m.inquiry
	if i.asked == 0 || m.commit < i.index {
		return c.ticks >= i.since+quorumTicks
	}
	own, ok := m.compared.sums[c.replica]
	if !ok {
		return false
	}
	for _, id := range c.witnesses(m) {
		sum, answered := m.compared.sums[id]
		switch {
		case !answered && c.alive(id) && c.ticks < i.since+silenceTicks, !answered && c.ticks < i.since+absenceTicks:
			return false
		case answered && sum != own:
			c.contradict(m)
			i.wait = vouchTicks // until somebody has put it right
			return false
		}
	}
	i.vouched = c.ticks
	return true
}

// held says what a leader keeps back, and why.
func (c *core) held(m *member) (out []HeldSnapshot) {
	i := &m.inquiry
	for _, q := range i.held {
		h := HeldSnapshot{To: q.To, Disputed: m.compared.disputed}
		if i.asked != 0 && m.commit >= i.index {
			for _, id := range c.witnesses(m) {
				if _, answered := m.compared.sums[id]; !answered {
					h.WaitsFor = append(h.WaitsFor, id)
				}
			}
		}
		out = append(out, h)
	}
	return out
}

// contradict says once that members have different rows and that no majority
// knows better.
func (c *core) contradict(m *member) {
	if !m.compared.disputed {
		m.compared.disputed = true
		c.diverged = append(c.diverged, Divergence{Group: m.id, Index: m.compared.index})
	}
}
