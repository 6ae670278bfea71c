package simtest_test

import (
	"fmt"
	"maps"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
)

// membership is which stores the cluster is to have, as the table in the root
// group says, or will say.
type membership struct {
	*client
	table   metadata.StoreTable
	next    uint64            // replica id
	leaving map[uint64]uint64 // when the groups were first seen without a store
}

func newMembership(s *sim, first []uint64) *membership {
	m := &membership{client: &client{sim: s, id: 98}, next: uint64(len(first)) + 1, leaving: make(map[uint64]uint64)}
	for _, id := range first {
		m.add(id, metadata.StoreVoter)
	}
	m.table.Version = 1
	return m
}

func (m *membership) add(id uint64, role metadata.StoreRole) {
	m.table.Stores = append(m.table.Stores, metadata.Store{Replica: id, ID: [16]byte{0xd, byte(id >> 8), byte(id)}, Place: storeDir, Role: role})
}

// put proposes the table.
func (m *membership) put() *metadata.Command {
	t := m.table
	t.Stores = slices.Clone(t.Stores)
	return &metadata.Command{Kind: metadata.KindPutStores, Version: metadata.CommandVersion, Request: m.work.ID(), Stores: &t}
}

// settle writes the table as it is wanted now.
func (m *membership) settle() {
	m.table.Version++
	m.busy = true
	m.patience = 0
	m.logf("stores: %v", m.describe())
	m.write(m.put(), func(res *metadata.Result) {
		m.busy = false
		if res == nil || res.Rejected != nil {
			m.journal.problem("table of stores: %+v", res)
		}
		m.await()
	})
}

func (m *membership) describe() (out []string) {
	for _, s := range m.table.Stores {
		out = append(out, fmt.Sprint(s.Replica, " ", s.Role))
	}
	return out
}

// await ends stores that are gone once no group counts on them.
func (m *membership) await() {
	if m.changing() {
		m.after(second, m.await)
		return
	}
	for _, h := range m.hosts {
		if s := m.table.Find(h.id); s != nil && s.Role == metadata.StoreGone && !h.gone {
			if h.store != nil {
				h.end(h.store.Abandon)
			}
			h.gone = true
		}
	}
}

// voters returns the replica ids that are wanted in a role.
func (m *membership) wanted(role metadata.StoreRole) (ids []uint64) {
	for _, s := range m.table.Stores {
		if s.Role == role {
			ids = append(ids, s.Replica)
		}
	}
	slices.Sort(ids)
	return ids
}

// changing reports whether the table, or a group, is not yet as it is to be.
func (m *membership) changing() bool { return m.busy || m.unsettled() != "" }

// unsettled says what is missing until all groups have the wanted members.
func (m *membership) unsettled() string {
	if m.busy {
		return "the table of stores is not written"
	}
	left := make(map[uint32]bool)
	for group := range uint32(metadata.DataGroups + 1) {
		left[group] = true
	}
	voters, learners := m.wanted(metadata.StoreVoter), m.wanted(metadata.StoreLearner)
	for _, h := range m.hosts {
		if h.store == nil {
			continue
		}
		for _, g := range h.store.Status().Groups {
			if g.Leader != h.id || g.Joint {
				continue
			}
			slices.Sort(g.Voters)
			slices.Sort(g.Learners)
			if slices.Equal(g.Voters, voters) && slices.Equal(g.Learners, learners) {
				delete(left, g.Group)
			}
		}
	}
	if len(left) > 0 {
		return fmt.Sprintf("groups %v have other members than %v", slices.Sorted(maps.Keys(left)), m.describe())
	}
	return ""
}

// place makes a new store in a place.
func (m *membership) place(slot int, role metadata.StoreRole) {
	h := m.newHost(slot, m.next)
	m.next++
	m.add(h.id, role)
	if slot == len(m.hosts) {
		m.hosts = append(m.hosts, h)
		m.tending(slot, m.harmEnds)
	} else {
		m.hosts[slot] = h
	}
	h.create(nil)
	h.restart()
}

// replace lets a new store take the place of one that is lost.
func (s *sim) replace(h *host) {
	m := s.members
	row := m.table.Find(h.id)
	s.counts.replaced++
	role := row.Role
	row.Role = metadata.StoreGone
	if role == metadata.StoreGone {
		return // it was to leave anyway
	}
	m.place(h.slot, role)
	m.settle()
}

// change lets the operator want something else.
func (m *membership) change() {
	if m.changing() {
		return
	}
	voters, learners := m.wanted(metadata.StoreVoter), m.wanted(metadata.StoreLearner)
	row := func(ids []uint64) *metadata.Store { return m.table.Find(ids[m.r.IntN(len(ids))]) }
	switch n := m.r.IntN(4); {
	case n == 0 && len(voters)+len(learners) < 6:
		m.place(len(m.hosts), metadata.StoreLearner)
	case n == 1 && len(learners) > 0:
		row(learners).Role = metadata.StoreVoter
	case n == 2 && len(learners) > 0:
		row(learners).Role = metadata.StoreGone
	case n == 2 && len(voters) > 3:
		row(voters).Role = metadata.StoreGone
	case n == 3 && len(voters) > 3:
		row(voters).Role = metadata.StoreLearner
	default:
		return
	}
	m.counts.members++
	m.settle()
}
