package simtest_test

import (
	"errors"
	"strings"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// builds is the upgrade of a cluster in which some stores are run by a program
// of before, which knows one command version less. The stores get the new
// program one after the other, the operator tries to raise the version all the
// time, and once that was possible, a store is started with the old program
// again. All methods do nothing in runs without old programs.
type builds struct {
	*client
	raising, raised bool
	hurry           bool  // nothing goes wrong any more
	back            *host // with the old program by mistake
}

// newBuilds gives some stores an old program in every fifth run.
func newBuilds(s *sim) *builds {
	if s.seed%5 != 2 && !s.bugs.eager {
		return nil
	}
	s.members.busy = true // the table of stores is written with the new version
	return &builds{client: &client{sim: s, id: 97}}
}

// program draws what a first store knows. There is an old one at least.
func (b *builds) program(slot int) uint16 {
	if b == nil || slot > 0 && b.chance(40) {
		return 0
	}
	return metadata.LatestVersion - 1
}

func (h *host) old() bool { return h.knows != 0 }

// begin plans the upgrade.
func (b *builds) begin() {
	if b != nil {
		b.after(b.between(0, 3*second), b.step)
	}
}

// finish gives all stores the new program soon.
func (b *builds) finish() {
	if b != nil {
		b.hurry = true
		b.after(0, b.step)
	}
}

// step is one of the operator's.
func (b *builds) step() {
	if b.failed() || b.raised {
		return
	}
	b.tryRaise()
	for _, h := range b.hosts {
		if h.old() && !h.gone && (b.hurry || b.chance(15)) && !b.raising {
			b.upgrade(h)
			break
		}
	}
	if b.hurry {
		b.after(100*millisecond, b.step)
	} else {
		b.after(b.between(100*millisecond, 3*second), b.step)
	}
}

// upgrade starts a store with the new program.
func (b *builds) upgrade(h *host) {
	b.logf("%v gets the new program", h)
	b.counts.upgrades++
	h.knows = 0
	if h.store == nil {
		return // at its next start
	}
	disk := h.disk
	disk.failAt(nil)
	h.end(h.store.Close)
	h.disk = h.newDisk(disk.mem)
	h.start()
}

// tryRaise raises the version of all groups if their leaders say that all
// members know it.
func (b *builds) tryRaise() {
	if b.raising {
		return
	}
	for group := range uint32(metadata.DataGroups + 1) {
		if b.bugs.eager {
			break
		}
		leader := b.leader(group)
		if leader == nil {
			return
		}
		if err := leader.store.AllKnow(group, metadata.LatestVersion); err != nil {
			b.counts.early++
			return
		}
	}
	for _, h := range b.hosts {
		if h.old() && !h.gone && !b.bugs.eager {
			b.journal.problem("the version may be raised, although %v does not know it", h)
		}
	}
	b.raising = true
	b.raise(0)
}

// leader returns the store that leads a group, nil if none does.
func (s *sim) leader(group uint32) *host {
	for _, h := range s.hosts {
		if h.store != nil && h.leaders[group] == h.id {
			return h
		}
	}
	return nil
}

// raise raises one group after the other.
func (b *builds) raise(group uint32) {
	if group > metadata.DataGroups {
		b.raised = true
		b.members.settle()
		b.after(b.between(second, 5*second), b.goBack)
		return
	}
	cmd := &metadata.Command{Kind: metadata.KindClusters, Version: metadata.CommandVersion, Group: group, Request: b.work.ID(),
		Clusters: &metadata.ClusterVersion{Version: metadata.LatestVersion}}
	b.write(cmd, func(res *metadata.Result) {
		if res == nil || res.Rejected != nil {
			b.journal.problem("group %d: raise the version: %+v", group, res)
		}
		b.raise(group + 1)
	})
}

// goBack starts a store with the old program by mistake.
func (b *builds) goBack() {
	h := b.anyHost()
	if h == nil || b.hurry || b.failed() || h.gone || h.expected {
		return
	}
	raised := false
	err := h.store.View(metadata.RootGroup, func(v state.View, _ uint64) error {
		version, err := v.CommandVersion(metadata.RootGroup)
		raised = version == metadata.LatestVersion
		return err
	})
	if err != nil || !raised {
		return // it has not got there
	}
	b.logf("%v is started with the old program", h)
	b.back = h
	disk := h.disk
	disk.failAt(nil)
	h.end(h.store.Close)
	h.disk = h.newDisk(disk.mem)
	h.knows = metadata.LatestVersion - 1
	h.start()
	if h.store != nil {
		b.journal.problem("%v opens with a program that does not know the version", h)
	}
}

// refused reports whether a store does not open because of its program. It gets
// the new one.
func (b *builds) refused(h *host, err error) bool {
	if b == nil || b.back != h || !h.old() {
		return false
	}
	if !errors.Is(err, metadata.ErrUnknownKind) || !strings.Contains(err.Error(), "start a newer one") {
		b.journal.problem("%v is refused for another reason: %w", h, err)
	}
	b.counts.downgrades++
	h.knows = 0
	h.restart()
	return true
}

// stopped notes that a store has met what its program does not know.
func (b *builds) stopped(h *host, err error) {
	h.journal.problem("%v has stopped: %w", h, err)
}
