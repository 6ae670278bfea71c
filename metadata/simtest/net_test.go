package simtest_test

import (
	"context"
	"io"
	"slices"

	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

// network is what lies between stores.
type network struct {
	drop, double float64 // percent of messages
	delay        int64   // at most, for most messages
	cut          map[[2]int]bool
}

func (s *sim) calm() network { return network{delay: 3 * millisecond, cut: make(map[[2]int]bool)} }

// host returns who has a replica id, nil if nobody is up under it.
func (s *sim) host(id uint64) *host {
	for _, h := range s.hosts {
		if h.id == id && h.store != nil {
			return h
		}
	}
	return nil
}

// send hands a message to the network: it comes late, twice, out of order, or
// never.
func (h *host) send(m replica.Message) {
	h.counts.messages++
	to := h.slotOf(m.To)
	if to < 0 || h.net.cut[[2]int{h.slot, to}] || h.chance(h.net.drop) {
		h.counts.lost++
		return
	}
	copies := 1
	if h.chance(h.net.double) {
		copies = 2
	}
	for range copies {
		delay := 100 + h.between(0, h.net.delay)
		if h.net.drop > 0 && h.chance(2) {
			delay += h.between(0, 5*second)
		}
		h.after(delay, func() {
			if to := h.sim.host(m.To); to != nil {
				to.store.Step(m)
				to.pump()
			}
		})
	}
}

func (s *sim) slotOf(id uint64) int {
	for _, h := range s.hosts {
		if h.id == id && !h.gone {
			return h.slot
		}
	}
	return -1
}

// exportKey names a transfer of a group to a store: one is enough.
type exportKey struct {
	group uint32
	to    uint64
}

// transfer is a snapshot on its way.
type transfer struct {
	from   *host
	life   uint64
	req    replica.SnapshotRequest
	export *snapshot.Export
	tries  int

	receiver *host // and its life, as long as it is the same
	rlife    uint64
	receive  *snapshot.Receive
}

// sendSnapshot begins to send a group's state to a member that is too far
// behind.
func (h *host) sendSnapshot(req replica.SnapshotRequest) {
	key := exportKey{req.Group, req.To}
	if h.exports[key] {
		return
	}
	h.counts.snapshots++
	export, err := h.store.Export(req.Group, snapshot.ExportOptions{PieceBytes: 512 << h.r.IntN(8)})
	if err != nil || export.Header().Index < req.Index {
		if err == nil {
			err = export.Close()
		}
		h.logf("store %d: no snapshot of group %d for %d: %v", h.id, req.Group, req.To, err)
		h.soon(tick, func() { h.reportSnapshot(req, false) })
		return
	}
	h.exports[key] = true
	t := &transfer{from: h, life: h.life, req: req, export: export}
	h.open = append(h.open, t)
	h.after(millisecond, t.step)
}

func (h *host) reportSnapshot(req replica.SnapshotRequest, ok bool) {
	h.store.ReportSnapshot(req.Group, req.To, ok)
	h.pump()
}

// end closes the export and tells the sender.
func (t *transfer) end(ok bool) {
	if t.export == nil {
		return
	}
	if err := t.export.Close(); err != nil {
		t.from.journal.problem("export: %w", err)
	}
	t.export = nil
	t.from.open = slices.DeleteFunc(t.from.open, func(o *transfer) bool { return o == t })
	if t.from.life == t.life && t.from.store != nil {
		delete(t.from.exports, exportKey{t.req.Group, t.req.To})
		t.from.reportSnapshot(t.req, ok)
	}
}

// step sends the next piece.
func (t *transfer) step() {
	if t.export == nil {
		return
	}
	if t.from.life != t.life || t.from.store == nil {
		t.end(false)
		return
	}
	to := t.from.sim.host(t.req.To)
	if to == nil || t.from.net.cut[[2]int{t.from.slot, to.slot}] || t.from.chance(t.from.net.drop) {
		t.receive = nil // the connection is broken
		if t.tries++; t.tries > 8 {
			t.end(false)
			return
		}
		t.from.after(t.from.between(50*millisecond, second), t.step)
		return
	}
	done, err := t.piece(to)
	if to.disk.dark() {
		to.write(false, func() error { return nil }) // the power was cut on the way
		done, err = false, nil
	}
	if err != nil {
		t.from.counts.broken++
		t.from.logf("snapshot of group %d for store %d: %v", t.req.Group, t.req.To, err)
		t.end(false)
		return
	}
	if !done {
		t.from.after(100+t.from.between(0, 20*millisecond), t.step)
	}
}

// piece hands one piece to the receiver, beginning with those it lacks. It
// reports whether the transfer has ended.
func (t *transfer) piece(to *host) (done bool, err error) {
	ctx := context.Background()
	if to.store.Installing(t.req.Group) {
		return false, errInstalling
	}
	if t.receive == nil || t.receiver != to || t.rlife != to.life {
		if t.receive, err = to.store.Stage().Begin(t.export.Header()); err != nil {
			return false, err
		}
		t.receiver, t.rlife = to, to.life
		if err := t.export.Seek(t.receive.Position()); err != nil {
			return false, err
		}
	}
	p, err := t.export.Next(ctx)
	if err == nil {
		return false, t.receive.Add(p)
	}
	if err != io.EOF {
		return false, err
	}
	if _, err := t.receive.Complete(ctx, t.export.Summary()); err != nil {
		return false, err
	}
	to.soon(to.between(0, 100*millisecond), func() {
		taken, err := to.store.Restore(t.from.id, t.req.Term, t.receive.Header())
		if err == nil {
			to.counts.restores++
			if taken {
				to.installs++
			} else {
				err = to.store.Stage().Remove(t.receive.Header().ID)
			}
		}
		if err != nil && to.store.Failed() == nil {
			to.journal.problem("store %d: restore of group %d: %w", to.id, t.req.Group, err)
		}
		to.pump()
	})
	t.from.after(150*millisecond, func() { t.end(true) })
	return true, nil
}
