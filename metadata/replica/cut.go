package replica

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// What stays in the log of a leader, although its state holds it durably, for
// members that are being brought up to date.
const (
	keepForMembers = 100_000   // entries
	keepBytes      = 512 << 20 // of a group
)

// Floors returns, for each group, the position below which no member needs
// the log of this store.
func (c *core) Floors() (floors [groupCount]uint64) {
	all := int64(1)
	for _, m := range c.groups {
		all += m.storage.Bytes()
	}
	for g, m := range c.groups {
		floors[g] = m.last - min(m.last, c.limits.KeepEntries)
		if own := m.storage.Bytes(); own > 0 {
			share := float64(c.limits.KeepBytes) * float64(own) / float64(all)
			floors[g] = max(floors[g], m.storage.Tail(int64(share)))
		}
		if m.role != raft.StateLeader {
			continue
		}
		m.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
			need := p.Match
			if p.State == tracker.StateSnapshot {
				need = max(need, p.PendingSnapshot)
			}
			if id != c.replica && c.alive(id) && need+keepForMembers > m.last {
				floors[g] = min(floors[g], need)
			}
		})
	}
	return floors
}

// DurableMarks returns up to where the state of each group is on stable
// storage: what a loss of power would leave.
func (s *Store) DurableMarks() (marks [groupCount]uint64, err error) {
	v := state.NewView(durable{s.db})
	for g := range marks {
		var p metadata.RaftPosition
		if p, _, err = v.Raft(uint32(g)); err != nil {
			return marks, err
		}
		marks[g] = p.Index
	}
	return marks, nil
}

// Cut drops what the log holds below the given positions, usually the lower of
// DurableMarks and Floors. It must never be given more than DurableMarks.
func (s *Store) Cut(upto [groupCount]uint64) error {
	return s.guard(func() error {
		for g, index := range upto {
			if index == 0 {
				continue
			}
			if err := s.log.Cut(uint32(g), index); err != nil {
				return err
			}
		}
		return nil
	})
}

// Trim cuts the log of what is durable in the state and nobody needs. It may
// be called by the goroutine that applies.
func (s *Store) Trim(floors [groupCount]uint64) error {
	marks, err := s.DurableMarks()
	if err != nil {
		return err
	}
	for g := range marks {
		keep := floors[g]
		if s.log.Group(uint32(g)).Bytes() > keepBytes {
			keep = marks[g] // too much, whoever would need it
		}
		marks[g] = min(marks[g], keep)
	}
	return s.Cut(marks)
}

// Fresh returns about how many bytes the log has written since the last Turn.
func (s *Store) Fresh() uint64 { return s.log.Fresh() }

// Turn has what the log holds in memory brought to tables, without waiting for
// it. Whoever drives a store does so when Fresh has grown, after a Flush of the
// state and a Cut: then little is left to be brought.
func (s *Store) Turn() error { return s.guard(s.log.Turn) }

// durable reads a store as a loss of power would leave it.
type durable struct{ db *pebble.DB }

var _ pebble.Reader = durable{}

// Get implements [pebble.Reader].
func (d durable) Get(key []byte) ([]byte, io.Closer, error) {
	it, err := d.NewIter(&pebble.IterOptions{LowerBound: key})
	if err != nil {
		return nil, nil, err
	}
	if !it.SeekGE(key) || !bytes.Equal(it.Key(), key) {
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			return nil, nil, err
		}
		return nil, nil, pebble.ErrNotFound
	}
	v, err := it.ValueAndErr()
	if err != nil {
		return nil, nil, errors.Join(err, it.Close())
	}
	return v, it, nil
}

// NewIter implements [pebble.Reader].
func (d durable) NewIter(o *pebble.IterOptions) (*pebble.Iterator, error) {
	return d.NewIterWithContext(context.Background(), o)
}

// NewIterWithContext implements [pebble.Reader].
func (d durable) NewIterWithContext(ctx context.Context, o *pebble.IterOptions) (*pebble.Iterator, error) {
	if o == nil {
		o = new(pebble.IterOptions)
	}
	o.OnlyReadGuaranteedDurable = true
	return d.db.NewIterWithContext(ctx, o)
}

// Close implements [pebble.Reader]. The store stays open.
func (durable) Close() error { return nil }
