package replica

import (
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// Leaders are spread over the voters, and away from devices that are much slower
// than the others: a leader's device takes part in every read and write of its
// groups.
const (
	// moveDiff is how many more groups than another store a store must lead to
	// give it one. With less, every transfer that somebody has asked for would
	// be undone.
	moveDiff = 3
	// calmTicks is how long a store must not have been slow before it is given
	// groups to spread them.
	calmTicks = 1200
	// laggardFactor times what the others' devices take for a write, and
	// laggardFloor, is too slow to lead, if that lasts for laggardTicks. The
	// device is as good as others again below half of it.
	laggardFactor = 8
	laggardFloor  = 20 * time.Millisecond
	laggardTicks  = 20
	// recentTicks is how old the newest write may be for its time to count.
	recentTicks = 100
)

// SetSync says how long writes of this store's log take until they are durable,
// on average of the newest ones.
func (c *core) SetSync(took time.Duration) { c.sync = took }

// watchSync finds out whether the device is much slower than those of the
// others.
func (c *core) watchSync() {
	others := c.syncOfOthers()
	limit := max(laggardFactor*others, laggardFloor)
	if c.laggard >= laggardTicks {
		limit /= 2
	}
	switch recent := c.append.begun != 0 && c.ticks < c.append.begun+recentTicks; {
	case others == 0 || !recent || c.sync <= limit:
		c.laggard = max(c.laggard-1, 0)
		if c.laggard < laggardTicks {
			return
		}
	default:
		c.laggard = min(c.laggard+1, 2*laggardTicks)
	}
	if c.laggard >= laggardTicks {
		c.slowUntil = max(c.slowUntil, c.ticks+slowTicks)
	}
}

// syncOfOthers returns the time in which half of the other stores that run have
// written, 0 if none has told.
func (c *core) syncOfOthers() time.Duration {
	var all []time.Duration
	for id, p := range c.peers {
		if c.alive(id) && p.beat.Sync > 0 {
			all = append(all, p.beat.Sync)
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[(len(all)-1)/2]
}

// load returns how many groups a store leads, or is about to.
func (c *core) load(id uint64) (n int) {
	for _, m := range c.groups {
		lead := m.lead
		if m.heir != raft.None && c.ticks < m.moved+uint64(c.limits.ElectionTicks) {
			lead = m.heir
		}
		if lead == id {
			n++
		}
	}
	return n
}

// heirs returns the voters that may take over a group which this store leads:
// those of which the log is nearly as long as the longest one.
func (c *core) heirs(m *member) (ids []uint64) {
	match, longest := make(map[uint64]uint64), uint64(0)
	m.node.WithProgress(func(id uint64, typ raft.ProgressType, p tracker.Progress) {
		if id == c.replica || typ != raft.ProgressTypePeer || p.State != tracker.StateReplicate || !c.fit(id) || c.damagedIn(m, id) {
			return
		}
		ids = append(ids, id)
		match[id] = p.Match
		longest = max(longest, p.Match)
	})
	return slices.DeleteFunc(ids, func(id uint64) bool { return match[id]+closeEntries < longest })
}

// heir returns the one of some stores that leads the fewest groups, none if
// there are none.
func (c *core) heir(ids []uint64) uint64 {
	best, least := uint64(raft.None), 0
	for _, id := range ids {
		if n := c.load(id); best == raft.None || n < least {
			best, least = id, n
		}
	}
	return best
}

// move hands a group over, unless that is under way.
func (c *core) move(m *member, to uint64) {
	if m.node.BasicStatus().LeadTransferee != raft.None {
		return
	}
	m.heir, m.moved = to, c.ticks
	m.wake()
	m.node.TransferLeader(to)
}

// balance gives a group to a store that leads fewer. Stores do so in turn, and
// only while there is nothing else to be done about the group.
func (c *core) balance() {
	every := uint64(max(c.limits.BalanceTicks, 0))
	if every == 0 || (c.ticks+c.replica)%every != 0 || c.tired() {
		return
	}
	own := c.load(c.replica)
	for g, m := range c.groups {
		if m.role != raft.StateLeader || joint(m.conf) || m.damaged || len(m.inquiry.held) > 0 {
			continue
		}
		calm := slices.DeleteFunc(c.heirs(m), func(id uint64) bool {
			p := c.peers[id]
			return p.slowAt != 0 && c.ticks < p.slowAt+calmTicks || !c.caughtUp(m, id)
		})
		if to := c.heir(calm); to != raft.None && own >= c.load(to)+moveDiff {
			c.guarded(uint32(g), func(m *member) { c.move(m, to) })
			return
		}
	}
}
