package simtest_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/state"
)

const (
	storeDir = "meta"
	logDir   = storeDir + "/log"
	// began is the wall clock's time at the start of a run.
	began = 1_800_000_000 * second
	// tick is how often stores are told that time has passed.
	tick = 100 * millisecond
)

// A host is where a store lives: its device, its clock, and what drives it.
type host struct {
	*sim
	slot  int
	id    uint64 // replica id
	disk  *disk
	store *replica.Store // nil while it is down
	life  uint64         // counts starts
	skew  int64          // of the clock
	knows uint16         // version of commands that its program knows, 0 for the latest
	slow  int64          // how much longer writes take, 1 for not at all
	sync  int64          // how long they took, on average

	seq      uint64 // of tickets and reads
	waiting  map[replica.Ticket]func(*metadata.Result)
	reading  map[uint64]*reading
	leaders  map[uint32]uint64
	compares []*replica.Comparison
	exports  map[exportKey]bool
	installs int  // snapshots that are being put in place
	expected bool // the store may stop: its device was tampered with
	gone     bool // its files are lost, or it is no member any more

	// reached is how far the store had come when its device had all of it: that
	// is in the log whenever it is opened again.
	reached []uint64
}

// reading is a read that waits for its place in the log.
type reading struct {
	group uint32
	index uint64
	known bool
	look  func(v state.View, index uint64)
}

func (s *sim) newHost(slot int, id uint64) *host {
	h := &host{sim: s, slot: slot, id: id, slow: 1}
	h.disk = h.newDisk(vfs.NewCrashableMem())
	return h
}

func (h *host) newDisk(mem *vfs.MemFS) *disk {
	var forgets func(name string) bool
	switch {
	case h.bugs.unsynced:
		forgets = func(name string) bool { return strings.HasPrefix(name, logDir) && strings.HasSuffix(name, ".log") }
	case h.bugs.tables:
		forgets = func(name string) bool { return strings.HasSuffix(name, ".sst") }
	}
	return newDisk(mem, forgets)
}

func (h *host) identity() commandlog.Identity {
	var store [16]byte
	binary.BigEndian.PutUint64(store[:], h.id)
	return commandlog.Identity{Cluster: [16]byte{0xc1}, Store: store, Replica: h.id}
}

func (h *host) clock() uint64 { return uint64(began + h.now + h.skew) }

func (h *host) options() replica.StoreOptions {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], h.seed)
	binary.BigEndian.PutUint64(seed[8:], h.id)
	binary.BigEndian.PutUint64(seed[16:], h.life)
	limits := replica.Limits{CompareTicks: 40}
	if h.bugs.hearsay {
		limits.CompareTicks = 0
	}
	var reached []uint64
	if h.bugs == (bugs{}) && !h.expected {
		reached = h.reached
	}
	return replica.StoreOptions{
		Reached: reached,
		Options: replica.Options{
			FS: h.disk, Now: func() time.Time { return time.UnixMicro(int64(h.clock())) }, AcceptClock: true, Knows: h.knows,
			ReserveBytes: -1, CacheBytes: 1 << 20, MemTableBytes: 4 << 20,
		},
		Rand: rand.NewChaCha8(seed), LogMemTableBytes: 4 << 20, Limits: limits,
	}
}

// create makes the files of a new store.
func (h *host) create(first []uint64) {
	if err := replica.CreateStore(storeDir, h.identity(), first, h.options()); err != nil {
		h.journal.problem("create store %d: %w", h.id, err)
	}
	syncNames(h.disk.mem, "")
}

// start opens the store. It must open whatever the power cut has left.
func (h *host) start() {
	if h.store != nil || h.gone {
		return
	}
	h.life++
	h.waiting, h.reading = make(map[replica.Ticket]func(*metadata.Result)), make(map[uint64]*reading)
	h.leaders, h.compares, h.exports = make(map[uint32]uint64), nil, make(map[exportKey]bool)
	store, err := replica.OpenStore(storeDir, h.options())
	if err != nil {
		h.refuse(err)
		return
	}
	h.store, h.installs = store, 0
	h.counts.starts++
	if !h.write(true, func() error { return nil }) {
		return
	}
	life := h.life
	var beat func()
	beat = func() {
		if h.life == life && h.store != nil {
			h.store.Tick()
			h.pump()
			h.after(tick+h.r.Int64N(4*millisecond)-2*millisecond, beat)
		}
	}
	h.after(h.r.Int64N(tick), beat)
	h.pump()
}

// refuse notes that the store does not open.
func (h *host) refuse(err error) {
	if h.builds.refused(h, err) {
		return
	}
	if h.expected {
		h.counts.refusals++
		h.lose()
		return
	}
	h.journal.problem("store %d does not open: %w", h.id, err)
	h.gone = true
}

// lose says that the store will never be back under its id.
func (h *host) lose() {
	h.gone = true
	h.replace(h)
}

// soon plans something that happens only if the store is not started anew
// before.
func (h *host) soon(delay int64, do func()) {
	life := h.life
	h.after(delay, func() {
		if h.life == life && h.store != nil {
			do()
		}
	})
}

// pump carries out what the store wants done.
func (h *host) pump() {
	if h.store == nil {
		return
	}
	for {
		r := h.store.Ready()
		if r.Empty() {
			return
		}
		for _, m := range r.Messages {
			h.send(m)
		}
		if r.Stopped != nil {
			h.halted(r.Stopped)
			return
		}
		if r.Append != nil {
			h.append(r.Append)
		}
		if r.Apply != nil {
			h.soon(h.between(50, 2*millisecond)*h.slow, func() { h.apply(r.Apply) })
		}
		for _, l := range r.Leaders {
			h.counts.leaders++
			h.leaders[l.Group] = l.Leader
		}
		for _, read := range r.Reads {
			for _, n := range read.Asked {
				if w := h.reading[n]; w != nil {
					w.index, w.known = read.Index, true
				}
			}
		}
		for _, s := range r.Snapshots {
			h.sendSnapshot(s)
		}
		for _, d := range r.Diverged {
			h.odd(d)
		}
		h.look()
	}
}

// append stores entries; the power may be cut before, within and after.
func (h *host) append(w *replica.AppendWork) {
	if h.bugs.early {
		h.store.Appended(w)
		h.soon(h.between(millisecond, 50*millisecond), func() {
			h.write(false, func() error { return h.store.Append(w) })
		})
		return
	}
	took := h.between(100, 8*millisecond) * h.slow
	h.soon(took, func() {
		if !h.write(false, func() error { return h.store.Append(w) }) {
			return
		}
		h.sync = (7*h.sync + took) / 8
		h.store.SetSync(time.Duration(h.sync) * time.Microsecond)
		h.soon(h.between(50, 2*millisecond)*h.slow, func() {
			h.store.Appended(w)
			h.pump()
		})
	})
}

// write does something that writes. It reports whether the store goes on. What
// may begin work in the background is waited for: it must not depend on the
// timing of the machine which write the power is cut in.
func (h *host) write(settle bool, do func() error) bool {
	err := do()
	if err == nil && (settle || h.installs > 0) {
		err = h.store.Settle()
	}
	switch {
	case h.disk.dark():
		h.crash(0) // as it was then
		h.restart()
		return false
	case err != nil:
		h.failed(err)
		return false
	}
	if at := h.store.Positions(); at != nil {
		h.reached = at
	}
	return true
}

// apply changes the state and answers.
func (h *host) apply(w *replica.ApplyWork) {
	if !h.write(false, func() error { return h.store.Apply(w) }) {
		return
	}
	if h.installs > 0 {
		h.installs = 0
		for group := range uint32(metadata.DataGroups + 1) {
			if h.store.Installing(group) {
				h.installs++
			}
		}
	}
	for _, o := range w.Outcomes {
		h.counts.applied++
		h.journal.applied(h.id, o)
	}
	for _, c := range w.Comparisons {
		h.compare(c)
	}
	h.soon(h.between(20, millisecond), func() {
		h.store.Applied(w)
		for _, o := range w.Outcomes {
			if answer := h.waiting[o.Ticket]; answer != nil {
				delete(h.waiting, o.Ticket)
				answer(o.Result)
			}
		}
		h.pump()
	})
	h.look()
}

// compare hashes the rows of a group, some time later.
func (h *host) compare(c *replica.Comparison) {
	h.compares = append(h.compares, c)
	h.soon(h.between(0, 100*millisecond), func() {
		h.compares = slices.DeleteFunc(h.compares, func(o *replica.Comparison) bool { return o == c })
		h.counts.compared++
		sum, err := c.Hash(h.ctx())
		h.store.Compared(c.Group, c.Index, sum, err)
		h.pump()
	})
}

// odd notes that rows of stores differ.
func (h *host) odd(d replica.Divergence) {
	switch {
	case d.Group == quietGroup && h.decay.of != 0 && len(d.Odd) == 0:
		h.counts.disputes++
	case d.Group == quietGroup && h.decay.of != 0 && slices.Equal(d.Odd, []uint64{h.decay.of}):
		h.counts.odd++
	default:
		h.journal.problem("group %d, position %d: store %d says that the rows of %v differ", d.Group, d.Index, h.id, d.Odd)
		return
	}
	h.logf("store %d says that the rows of %v differ in group %d at %d", h.id, d.Odd, d.Group, d.Index)
}

// failed says that a write has failed: the store tells the others and ends.
func (h *host) failed(err error) {
	h.counts.fenced++
	if errors.Is(err, metadata.ErrUnknownKind) {
		h.builds.stopped(h, err)
	}
	h.store.Fail(err)
	h.pump()
}

// halted says that the store has stopped itself.
func (h *host) halted(err error) {
	_, isForgot := errors.AsType[*replica.ForgottenError](err)
	switch {
	case h.store.Failed() != nil:
		// A write failed: the process is started again later, with a device
		// that works.
		h.crash(h.r.Float64())
		h.later(h.start)
	case h.expected:
		if isForgot {
			h.counts.forgotten++
		}
		h.logf("store %d: %v", h.id, err)
		h.crash(1)
		h.lose()
	default:
		h.journal.problem("store %d has stopped: %w", h.id, err)
		h.crash(1)
		h.gone = true
	}
}

// crash ends the store as a power cut does.
func (h *host) crash(kept float64) {
	if h.store == nil {
		return
	}
	h.counts.crashes++
	left := h.disk.crash(kept, h.r.Uint64())
	h.disk.failAt(nil)
	h.end(h.store.Abandon)
	h.disk = h.newDisk(left)
}

// end lets the store end in the world that is past.
func (h *host) end(how func() error) {
	store := h.store
	h.store = nil
	h.life++ // what was planned does not happen any more
	for _, t := range slices.Clone(h.open) {
		if t.from == h {
			t.end(false)
		}
	}
	for _, c := range h.compares {
		if _, err := c.Hash(h.ctx()); err != nil && store.Failed() == nil && !errors.Is(err, replica.ErrVoid) {
			h.journal.problem("store %d: hash of group %d: %w", h.id, c.Group, err)
		}
	}
	if store.Failed() != nil {
		return // what hangs in it ends with the process
	}
	if err := how(); err != nil {
		h.journal.problem("store %d does not close: %w", h.id, err)
	}
}

// propose hands a command to the group's leader.
func (h *host) propose(t replica.Ticket, c *metadata.Command) error {
	if h.bugs.noRequest {
		one := *c
		one.Request = metadata.RequestID{}
		c = &one
	}
	err := h.store.Propose(c.Group, replica.EncodeEntry(t, c))
	h.pump()
	return err
}

// read asks for a linearizable view of a group. It reports whether there may be
// an answer.
func (h *host) read(group uint32, look func(v state.View, index uint64)) bool {
	h.seq++
	w := &reading{group: group, look: look}
	n := h.seq
	h.reading[n] = w
	if h.bugs.staleRead {
		w.known = true // the leader was not asked
		h.look()
		return true
	}
	if err := h.store.ReadIndex(group, n); err != nil {
		delete(h.reading, n)
		h.pump()
		return false
	}
	h.pump()
	return h.store != nil
}

// look answers the reads whose place in the log is applied.
func (h *host) look() {
	if h.store == nil || len(h.reading) == 0 {
		return
	}
	var due []uint64
	for n, w := range h.reading {
		if w.known {
			due = append(due, n)
		}
	}
	slices.Sort(due)
	for _, n := range due {
		w := h.reading[n]
		if w == nil || h.store == nil {
			continue
		}
		err := h.store.View(w.group, func(v state.View, index uint64) error {
			if index >= w.index || h.bugs.hasty {
				delete(h.reading, n)
				w.look(v, index)
			}
			return nil
		})
		if err != nil && h.store.Failed() == nil && !errors.Is(err, metadata.ErrUnavailable) {
			h.journal.problem("store %d: read of group %d: %w", h.id, w.group, err)
		}
	}
}

// tend flushes the state and cuts the log, as a store's driver does now and
// then.
func (h *host) tend() {
	if h.store == nil {
		return
	}
	if h.chance(60) && !h.write(true, h.store.Flush) {
		return
	}
	marks, err := h.store.DurableMarks()
	if err != nil {
		h.failed(err)
		return
	}
	for g := range marks {
		if h.bugs.liveCut {
			marks[g] = h.applied(uint32(g))
			continue
		}
		marks[g] -= min(marks[g], uint64(h.r.IntN(20)))
	}
	h.counts.cuts++
	if h.write(true, func() error { return h.store.Cut(marks) }) && h.chance(50) {
		h.write(true, h.store.Turn)
	}
}

func (h *host) String() string { return fmt.Sprintf("store %d in place %d", h.id, h.slot) }
