package simtest_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/simtest"
)

var errInstalling = errors.New("another snapshot is being installed")

// nemesis lets things go wrong until a time.
func (s *sim) nemesis(until int64) {
	var next func()
	next = func() {
		if s.now >= until {
			return
		}
		if s.now >= s.hold {
			s.counts.events++
			s.harm()
		}
		s.after(s.between(20*millisecond, 3*second), next)
	}
	s.after(s.between(0, 2*second), next)
	if s.seed%4 == 3 { // rot would be rare
		s.after(s.between(second, 5*second), func() {
			s.inPeace(func() { s.rotOnce(s.hosts[s.r.IntN(len(s.hosts))], s.chance(75)) })
		})
	}
	for _, h := range s.hosts {
		s.tending(h.slot, until)
	}
}

// tending lets a place's store be tended now and then.
func (s *sim) tending(slot int, until int64) {
	s.after(s.between(500*millisecond, 6*second), func() {
		s.hosts[slot].tend()
		if s.now < until {
			s.tending(slot, until)
		}
	})
}

// harm does one thing.
func (s *sim) harm() {
	h := s.hosts[s.r.IntN(len(s.hosts))]
	switch n := s.r.IntN(100); {
	case n < 22:
		s.cutPower(h)
	case n < 28:
		for _, h := range s.hosts { // the whole house
			s.cutPower(h)
		}
	case n < 44:
		s.part(h)
	case n < 52:
		s.net.drop, s.net.double = s.r.Float64()*15, s.r.Float64()*15
		s.net.delay = s.between(millisecond, 400*millisecond)
	case n < 60:
		c := s.calm()
		c.cut = s.net.cut
		s.net = c
	case n < 66:
		h.slow = s.between(2, 300)
		s.later(func() { h.slow = 1 })
	case n < 72:
		h.breakDisk()
	case n < 78:
		s.transfer()
	case n < 82:
		h.skew += s.between(-300*second, 300*second) * int64(1+s.r.IntN(2)*1000)
	case n < 86:
		s.counts.epochs++
		s.fencer.begin()
	case n < 90:
		s.closeAndOpen(h)
	case n < 94:
		s.members.change()
	default:
		s.inPeace(func() {
			switch s.r.IntN(5) {
			case 0:
				s.members.change()
			case 1:
				s.putBack(h)
			case 2:
				s.rotOnce(h, s.chance(50))
			default:
				s.wipe(h)
			}
		})
	}
}

// inPeace does what the cluster must stand only while nothing else is wrong.
func (s *sim) inPeace(do func()) {
	s.mend()
	s.hold = s.now + 3*second
	s.after(2*second, do)
}

// mend lets everything work again for the moment.
func (s *sim) mend() {
	s.net = s.calm()
	for _, h := range s.hosts {
		h.slow = 1
		h.disk.failAt(nil)
		h.start()
	}
}

// later plans something for when a repair would have taken place.
func (s *sim) later(do func()) { s.after(s.between(50*millisecond, 6*second), do) }

// cutPower cuts the power of a store: at once, or in the middle of its next
// write to the log or of a flush.
func (s *sim) cutPower(h *host) {
	if h.store == nil {
		return
	}
	kept, seed := s.r.Float64(), s.r.Uint64()
	if s.chance(20) {
		kept = float64(s.r.IntN(2))
	}
	s.logf("power cut of %v, %.0f %% kept", h, kept*100)
	n := s.r.IntN(4)
	if s.exact {
		n %= 2
	}
	switch n {
	case 0:
		h.crash(kept)
		h.restart()
	case 1, 2:
		at := onLogSync
		if n == 2 {
			at = onChange(s.r.IntN(40)) // in whatever is written next: the log, tables, a snapshot
		}
		h.disk.cutAt(kept, seed, at)
		h.soon(s.between(millisecond, 300*millisecond), func() {
			h.crash(kept)
			h.restart()
		})
	default:
		h.disk.cutAt(kept, seed, onChange(s.r.IntN(30)))
		if h.write(true, h.store.Flush) {
			h.crash(kept)
			h.restart()
		}
	}
}

// restart opens the store some time later.
func (h *host) restart() {
	h.later(func() {
		if h.hosts[h.slot] == h {
			h.start()
		}
	})
}

// part cuts connections: of one store to all others, of some pairs, or of one
// direction only.
func (s *sim) part(h *host) {
	s.counts.partitions++
	s.net.cut = make(map[[2]int]bool)
	mode := s.r.IntN(4)
	for a := range s.hosts {
		for b := range s.hosts {
			var cut bool
			switch mode {
			case 0:
				cut = a == h.slot || b == h.slot
			case 1:
				cut = (a <= h.slot) != (b <= h.slot)
			case 2:
				cut = b == h.slot
			default:
				cut = s.chance(30)
			}
			s.net.cut[[2]int{a, b}] = cut && a != b
		}
	}
	s.logf("partition %d at %v", mode, h)
	s.later(func() { s.net.cut = make(map[[2]int]bool) })
}

// breakDisk lets writes, or syncs alone, fail. The store must stop, and is
// started again on what was durable.
func (h *host) breakDisk() {
	if h.store == nil {
		return
	}
	err, skip := error(errorfs.ErrInjected), h.r.IntN(6)
	if h.chance(30) {
		err = fmt.Errorf("write: %w", syscall.ENOSPC)
	}
	onlySync := h.chance(40)
	h.disk.failAt(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		case errorfs.OpFileWrite, errorfs.OpCreate, errorfs.OpRename:
			if onlySync {
				return nil
			}
		default:
			return nil
		}
		if !strings.HasPrefix(op.Path, storeDir) || h.exact && !onLogSync(op) {
			return nil
		}
		if skip--; skip >= 0 {
			return nil
		}
		return err
	})
	d := h.disk
	h.later(func() { d.failAt(nil) })
}

// transfer lets another store lead a group.
func (s *sim) transfer() {
	group := s.groups[s.r.IntN(len(s.groups))]
	for _, h := range s.hosts {
		if h.store != nil && h.leaders[group] == h.id {
			s.counts.transfers++
			h.store.TransferLeader(group, s.hosts[s.r.IntN(len(s.hosts))].id)
			h.pump()
		}
	}
}

// closeAndOpen ends a store in order and starts it again.
func (s *sim) closeAndOpen(h *host) {
	if h.store == nil {
		return
	}
	disk := h.disk
	disk.failAt(nil)
	h.end(h.store.Close)
	if s.bugs.rot {
		rot(disk.mem, 1, 0x22) // a current version
	}
	h.disk = h.newDisk(disk.mem)
	h.restart()
}

// healthy reports whether all stores but one run and can talk, so that one may
// be lost for good.
func (s *sim) healthy(but *host) bool {
	if s.members.changing() || len(s.net.cut) > 0 && s.cutNow() {
		return false
	}
	for _, h := range s.hosts {
		if h != but && (h.store == nil || h.gone || h.slow > 1) {
			return false
		}
	}
	return true
}

func (s *sim) cutNow() bool {
	for _, cut := range s.net.cut {
		if cut {
			return true
		}
	}
	return false
}

// wipe takes a store's files away. Another one, with a new id, takes its place.
func (s *sim) wipe(h *host) {
	if !s.healthy(h) || h.gone || s.hosts[h.slot] != h {
		return
	}
	s.logf("%v is wiped", h)
	h.crash(1)
	if !s.bugs.sameID {
		h.lose()
		return
	}
	h.disk = h.newDisk(vfs.NewCrashableMem())
	h.create(nil)
	h.restart()
}

// putBack starts a store with its files of an earlier time, as the snapshot of
// a machine does. The store must find out before it takes part in a decision:
// that is sure only if it hears a leader first.
func (s *sim) putBack(h *host) {
	if !s.healthy(h) || h.store == nil || h.gone || s.hosts[h.slot] != h {
		return
	}
	copied := h.disk.mem.CrashClone(vfs.CrashCloneCfg{})
	life := h.life
	s.hold = s.now + 6*second
	s.after(s.between(second, 4*second), func() {
		if h.life != life || h.store == nil || !s.healthy(h) || s.hosts[h.slot] != h {
			return
		}
		s.counts.old++
		s.logf("%v is put back to an earlier time", h)
		h.end(h.store.Abandon)
		h.disk = h.newDisk(copied)
		h.expected = true
		s.hold = s.now + 2*second
		h.start()
	})
}

// shrink makes one copy of the cluster, as an operator would: a store is closed
// in order, its log is given up, and the engine of one copy opens it.
func (s *sim) shrink(model *simtest.Model) {
	var h *host
	for _, o := range s.hosts {
		if o.store != nil && !o.gone {
			h = o
		}
	}
	if h == nil || s.failed() {
		return
	}
	o := h.options().Options
	if s.bugs.noFlush {
		h.end(h.store.Abandon)
	} else {
		h.end(h.store.Close)
	}
	left := crashed(h.disk.mem, 0, 0) // what is closed in order survives
	must(left.RemoveAll(logDir))
	o.FS = left
	l, err := replica.Open(storeDir, o)
	if err != nil {
		s.journal.problem("%v does not open as the only copy: %w", h, err)
		return
	}
	for _, group := range s.groups {
		for _, b := range s.bucketsOf(group) {
			usage, err := l.Usage(s.ctx(), b)
			if want := model.Usage(b); err != nil || usage != want {
				s.journal.problem("as the only copy, %v has usage %+v, %w; the model has %+v", h, usage, err, want)
			}
			list, err := l.List(s.ctx(), &metadata.ListQuery{Bucket: b, Limit: 1000})
			if err != nil || len(list.Keys) != len(model.List(b, "", "", 1000)) {
				s.journal.problem("as the only copy, %v has %d keys, %w", h, len(list.Keys), err)
			}
		}
	}
	if err := l.Close(); err != nil {
		s.journal.problem("%v: %w", h, err)
	}
}
