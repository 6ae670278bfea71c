package replica

import (
	"maps"
	"slices"

	"go.etcd.io/raft/v3"
)

// maxPeers is how many other stores one store listens to.
const maxPeers = 64

// peer is what a store knows of another one.
type peer struct {
	session uint64
	heard   uint64 // tick of the last beat, 0 for never
	beat    *Beat  // the last one
	failed  bool   // for the session
	slowAt  uint64 // tick of the last beat that called it slow, 0 for never
	wake    []uint32
}

func (c *core) alive(id uint64) bool {
	p := c.peers[id]
	return p != nil && !p.failed && p.heard != 0 && c.ticks < p.heard+aliveTicks
}

// fit reports whether a store may be given leadership.
func (c *core) fit(id uint64) bool {
	return c.alive(id) && !c.peers[id].beat.Slow && !c.peers[id].beat.Full
}

// learnPeers brings the list of stores in line with the groups'
// configurations.
func (c *core) learnPeers() {
	wanted := make(map[uint64]bool)
	for _, m := range c.groups {
		for _, id := range members(m.conf) {
			wanted[id] = id != c.replica
		}
	}
	for id, want := range wanted {
		if want && c.peers[id] == nil {
			c.peers[id] = new(peer)
		}
	}
	maps.DeleteFunc(c.peers, func(id uint64, p *peer) bool {
		return !wanted[id] && c.ticks >= p.heard+uint64(10*c.limits.ElectionTicks)
	})
}

// beats tells all other stores about this one.
func (c *core) beats() {
	hashes := c.hashes()
	for _, id := range slices.Sorted(maps.Keys(c.peers)) {
		p := c.peers[id]
		b := &Beat{
			Session: c.session, Version: c.version, Failed: c.stopped != nil,
			Slow: c.slow || c.ticks < c.resting, Full: c.full, Sync: c.sync, Wake: p.wake, Hashes: hashes,
		}
		p.wake = nil
		for _, m := range c.groups {
			if m.damaged {
				b.Damaged = append(b.Damaged, m.id)
			}
			if m.quiet && m.role == raft.StateLeader && c.stopped == nil && m.knows(id) {
				b.Quiet = append(b.Quiet, Quiet{Group: m.id, Term: m.term, Commit: m.commit})
			}
		}
		c.out = append(c.out, Message{From: c.replica, To: id, Beat: b})
	}
}

// beat takes another store's beat.
func (c *core) beat(from uint64, b *Beat) {
	p := c.peers[from]
	if p == nil {
		if len(c.peers) >= maxPeers {
			return
		}
		p = new(peer)
		c.peers[from] = p
	}
	if p.failed && p.session == b.Session {
		return // an older beat of a store that has stopped
	}
	if p.session != b.Session {
		c.rouse(from)
	}
	p.session, p.heard, p.beat, p.failed = b.Session, c.ticks, b, false
	if b.Slow {
		p.slowAt = c.ticks
	}
	if b.Failed {
		p.failed = true
		c.bury(from)
		return
	}
	for _, q := range b.Quiet {
		c.guarded(q.Group, func(m *member) { c.rest(m, from, p, q) })
	}
	for _, g := range b.Wake {
		c.guarded(g, func(m *member) { m.wake() })
	}
	for _, h := range b.Hashes {
		c.guarded(h.Group, func(m *member) { c.answer(m, from, h) })
	}
}

// rest takes the word of a group's leader that nothing happens there. Unless
// this store has everything that the leader means, it asks for proper
// heartbeats.
func (c *core) rest(m *member, leader uint64, p *peer, q Quiet) {
	switch {
	case q.Commit > m.last && m.knows(c.replica):
		c.stop(&ForgottenError{Replica: c.replica, Group: m.id, Last: m.last, Promised: q.Commit, Leader: leader})
	case m.lead == leader && m.term == q.Term && m.commit == q.Commit:
		m.sign(q.Term)
	default:
		p.wake = append(p.wake, m.id)
	}
}

// rouse wakes the groups that this store leads and another one has a member
// in: it was started again, and knows of no leader.
func (c *core) rouse(id uint64) {
	for _, m := range c.groups {
		if m.role == raft.StateLeader && m.knows(id) {
			m.wake()
		}
	}
}

// bury lets the groups that a stopped store led elect another leader: the
// first voter at once, the others a little later.
func (c *core) bury(id uint64) {
	for g := range c.groups {
		c.guarded(uint32(g), func(m *member) {
			if m.role == raft.StateLeader {
				m.node.ReportUnreachable(id)
				m.wake()
			}
			if m.lead != id {
				return
			}
			_ = m.node.ForgetLeader()
			left := slices.DeleteFunc(voters(m.conf), func(v uint64) bool { return v == id })
			if rank := slices.Index(left, c.replica); rank >= 0 {
				// Groups begin with different voters, so that their leaders
				// are spread.
				rank = (rank + g) % len(left)
				m.heard = max(m.heard, m.timeout-3*rank)
				if rank == 0 {
					c.campaign(m)
				}
			}
		})
	}
}
