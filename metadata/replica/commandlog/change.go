package commandlog

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// A change is what one group's write will have changed once its batch is
// stored. Only the appender has changes, one at a time of each group.
type change struct {
	g     *Group
	hard  hard
	start start
	last  uint64
	sync  bool

	anew       bool // entries are all dropped; cutting is held
	conf       *pb.ConfState
	installing *Installing

	from  uint64   // the first of tail
	tail  []cached // in the place of whatever the log has from there on
	sizes []uint32
}

func (g *Group) begin() *change {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return &change{g: g, hard: g.hard, start: g.start, last: g.last}
}

// release ends a change, published or not.
func (c *change) release() {
	if c.anew {
		c.g.cutting.Unlock()
	}
}

// reset begins the log anew behind m.
func (c *change) reset(b *pebble.Batch, m *Mark) error {
	if m == nil {
		return nil
	}
	g := c.g
	if m.Index < c.hard.commit || m.Index == 0 {
		return invalid(g.id, m.Index, c.hard.commit, "a snapshot of what is committed already")
	}
	c.conf = pb.EnsureConfState(proto.Clone(m.Conf).(*pb.ConfState))
	conf, err := encodeConf(c.conf)
	if err != nil {
		return err
	}
	g.cutting.Lock()
	c.anew, c.sync = true, true
	c.start = start{m.Index, m.Term, firstHash(g.log.id, g.id, m.Index, m.Term)}
	c.last, c.hard.commit = m.Index, m.Index
	err = errors.Join(
		b.DeleteRange(entryKey(g.id, 0), groupKey(g.id, kindEntry+1), nil),
		b.Set(groupKey(g.id, kindStart), c.start.encode(), nil),
		b.Set(groupKey(g.id, kindConf), conf, nil),
		b.Set(groupKey(g.id, kindHard), c.hard.encode(), nil),
		b.Delete(groupKey(g.id, kindInstalling), nil))
	if m.Snapshot != [16]byte{} {
		c.installing = &Installing{Snapshot: m.Snapshot, Index: m.Index, Term: m.Term}
		err = errors.Join(err, b.Set(groupKey(g.id, kindInstalling), c.installing.encode(), nil))
	}
	if err != nil {
		return fmt.Errorf("commandlog: reset group %d: %w", g.id, err)
	}
	return nil
}

// extend appends entries, in the place of others if need be.
func (c *change) extend(b *pebble.Batch, entries []*pb.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	g := c.g
	c.from = entries[0].GetIndex()
	switch {
	case c.from > c.last+1:
		return invalid(g.id, c.from, c.last, "a gap behind the last entry")
	case c.from <= c.hard.commit:
		return invalid(g.id, c.from, c.hard.commit, "an entry in the place of a committed one")
	}
	before, term, err := c.before()
	if err != nil {
		return err
	}
	c.tail, c.sizes = make([]cached, 0, len(entries)), make([]uint32, 0, len(entries))
	if c.from <= c.last {
		if err := b.DeleteRange(entryKey(g.id, c.from), groupKey(g.id, kindEntry+1), nil); err != nil {
			return fmt.Errorf("commandlog: group %d: %w", g.id, err)
		}
	}
	for i, e := range entries {
		if e.GetIndex() != c.from+uint64(i) || e.GetTerm() < term {
			return invalid(g.id, e.GetIndex(), c.from+uint64(i), "entries out of order")
		}
		term, before = e.GetTerm(), link(before, e)
		row := b.SetDeferred(groupHead+8, entryHead+len(e.GetData())) // no copy more than one
		appendEntryKey(row.Key[:0], g.id, e.GetIndex())
		appendEntry(row.Value[:0], e, before)
		if err := row.Finish(); err != nil {
			return fmt.Errorf("commandlog: group %d: %w", g.id, err)
		}
		c.tail = append(c.tail, cached{e, before})
		c.sizes = append(c.sizes, uint32(groupHead+8+entryHead+len(e.GetData())))
	}
	c.last, c.sync = c.from+uint64(len(entries))-1, true
	return nil
}

// before returns the hash and term of the entry in front of the tail.
func (c *change) before() (hash, uint64, error) {
	if c.anew {
		return c.start.hash, c.start.term, nil // the tail begins behind it
	}
	h, err := c.g.hashOf(c.from - 1)
	if err != nil {
		// A cut may have come before the read.
		if s := c.g.settled(); s.index == c.from-1 {
			return s.hash, s.term, nil
		}
		c.g.log.fail(err)
		return hash{}, 0, err
	}
	term, err := c.g.Term(c.from - 1)
	return h, term, err
}

// promise stores the HardState.
func (c *change) promise(b *pebble.Batch, s *pb.HardState) error {
	g, old := c.g, c.hard
	if !raft.IsEmptyHardState(s) {
		c.hard = hard{s.GetTerm(), s.GetVote(), s.GetCommit()}
	}
	last := c.start.term
	if len(c.tail) > 0 {
		last = c.tail[len(c.tail)-1].entry.GetTerm()
	}
	switch {
	case c.hard.commit > c.last:
		return invalid(g.id, c.hard.commit, c.last, "a commit behind the last entry")
	case c.hard.commit < old.commit:
		return invalid(g.id, c.hard.commit, old.commit, "a commit that falls")
	case c.hard.term < old.term || c.hard.term < last:
		return invalid(g.id, c.last, 0, "term %d falls below %d", c.hard.term, max(old.term, last))
	case c.hard == old:
		return nil
	}
	c.sync = c.sync || c.hard.term != old.term || c.hard.vote != old.vote
	if err := b.Set(groupKey(g.id, kindHard), c.hard.encode(), nil); err != nil {
		return fmt.Errorf("commandlog: group %d: %w", g.id, err)
	}
	return nil
}

// publish lets readers see the change. The entries of all groups in memory may
// take budget bytes, more only while this group has less than its share.
func (c *change) publish(total *atomic.Int64, budget int64, groups int) {
	g := c.g
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hard = c.hard
	if c.anew {
		g.evict(len(g.newest))
		g.start, g.conf, g.installing = c.start, c.conf, c.installing
		g.last, g.bytes, g.sizes = c.start.index, 0, nil
		g.terms = []termRun{{c.start.index, c.start.term}}
	}
	if len(c.tail) == 0 {
		return
	}
	g.truncate(c.from)
	for i, t := range c.tail {
		g.push(t, c.sizes[i])
	}
	share := budget / int64(groups)
	n := 0
	for over, own := total.Load()-budget, g.inCache; n < len(g.newest) && over > 0 && own > share; n++ {
		over -= cost(g.newest[n].entry)
		own -= cost(g.newest[n].entry)
	}
	g.evict(n)
}

// truncate drops what is known of the entries from an index on. It is called
// with mu held.
func (g *Group) truncate(from uint64) {
	for g.last >= from {
		n := len(g.sizes) - 1
		g.bytes -= int64(g.sizes[n])
		g.sizes = g.sizes[:n]
		if n := len(g.newest) - 1; n >= 0 {
			freed := cost(g.newest[n].entry)
			g.newest[n] = cached{}
			g.newest = g.newest[:n]
			g.inCache -= freed
			g.log.cached.Add(-freed)
		}
		g.last--
	}
	for n := len(g.terms) - 1; n > 0 && g.terms[n].from >= from; n-- {
		g.terms = g.terms[:n]
	}
}

// push adds the next entry. It is called with mu held.
func (g *Group) push(t cached, size uint32) {
	g.last = t.entry.GetIndex()
	g.sizes = append(g.sizes, size)
	g.bytes += int64(size)
	if term := t.entry.GetTerm(); g.terms[len(g.terms)-1].term != term {
		g.terms = append(g.terms, termRun{g.last, term})
	}
	g.newest = append(g.newest, t)
	g.inCache += cost(t.entry)
	g.log.cached.Add(cost(t.entry))
}
