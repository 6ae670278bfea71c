package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata"
)

// Times in ticks.
const (
	trimTicks  = 50 // between cuts of the log
	spaceTicks = 3  // between looks at the free space
	// retireTicks is how long others wait until a store is marked as retired.
	retireTicks = 50
)

// runner drives one store: a goroutine that decides, one that writes the log,
// one that applies, and one that looks at the free space.
type runner struct {
	store     *Store
	transport Transport
	engine    *Replicated
	tick      time.Duration
	mail      *mailbox

	appends chan *AppendWork // at most one is under way
	applies chan applyJob    // at most one work and one trim
	ended   chan struct{}    // closed when the deciding goroutine has ended
	stop    chan struct{}    // closed to end it
	done    sync.WaitGroup   // all goroutines but those that send snapshots

	snapshots context.Context // ends with the runner
	endSends  context.CancelFunc
	sends     sync.WaitGroup // goroutines that send snapshots
	sending   chan struct{}  // a place for each of them
	hashing   chan struct{}  // the place of the comparison that reads its rows
	trimming  atomic.Bool    // a trim is planned or under way
	receiving receptions
	full      atomic.Bool  // no room for commands that add
	syncing   atomic.Int64 // nanoseconds that a write of the log takes, on average of the newest
	used      atomic.Int64 // bytes of the store's files
	reason    atomic.Pointer[error]
	root      atomic.Pointer[rootConf]
	overdue   atomic.Int32 // reads that are running and late
}

// applyJob is what the applying goroutine does: a work or a trim.
type applyJob struct {
	work *ApplyWork
	trim *[groupCount]uint64
	turn bool // after the trim
}

// closePatience is how long the end of a store waits for its device.
const closePatience = 30 * time.Second

// maxSends is how many snapshots one store sends at the same time.
const maxSends = 2

func newRunner(s *Store, e *Replicated) *runner {
	r := &runner{
		store: s, transport: e.opts.Transport, engine: e, tick: e.opts.Tick,
		mail:    newMailbox(e.opts.QueueLength),
		appends: make(chan *AppendWork, 1), applies: make(chan applyJob, 2),
		ended: make(chan struct{}), stop: make(chan struct{}), sending: make(chan struct{}, maxSends),
		hashing: make(chan struct{}, 1),
	}
	r.snapshots, r.endSends = context.WithCancel(context.Background())
	r.look()
	return r
}

func (r *runner) id() uint64 { return r.store.Identity().Replica }

// start lets the store run.
func (r *runner) start() {
	r.observe()
	r.transport.Register(r.id(), r)
	r.done.Go(r.decide)
	r.done.Go(r.write)
	r.done.Go(r.change)
	r.done.Go(r.watchSpace)
}

// end stops the store and closes it. What hangs on the store's device for too
// long is left to itself until the process ends: reads if they have not ended
// within patience.
func (r *runner) end(patience time.Duration) error {
	select {
	case <-r.stop:
	default:
		close(r.stop)
	}
	done := make(chan error, 1)
	go func() {
		<-r.ended
		r.endSends()
		r.done.Wait()
		r.sends.Wait()
		if !r.store.views.end(patience) {
			r.store.fail(fmt.Errorf("replica: %s: a read has not ended: the device does not answer", r.store.Dir()))
		}
		done <- r.store.Close()
	}()
	limit := time.NewTimer(closePatience)
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-limit.C:
		r.store.fail(fmt.Errorf("replica: %s: the device does not answer", r.store.Dir()))
		return r.store.Failed()
	}
}

// failed returns why the store does not run any more, nil if it does.
func (r *runner) failed() error {
	if p := r.reason.Load(); p != nil {
		return fmt.Errorf("%w: %w", metadata.ErrUnavailable, *p)
	}
	return r.store.Failed()
}

// decide is the goroutine that drives the core.
func (r *runner) decide() {
	defer close(r.ended)
	defer close(r.appends)
	defer close(r.applies)
	defer r.leave()
	ticker := time.NewTicker(r.tick)
	defer ticker.Stop()
	for n := uint64(1); ; {
		select {
		case <-r.stop:
			return
		case <-r.store.Fenced():
			r.store.Fail(r.store.Failed())
		case <-ticker.C:
			r.store.SetFull(r.full.Load())
			r.store.SetSync(time.Duration(r.syncing.Load()))
			r.store.Tick()
			r.observe()
			r.trim(n)
			r.turn()
			n++
		case <-r.mail.wake:
			r.open(r.mail.take())
		}
		rd := r.store.Ready()
		r.carryOut(&rd)
		if rd.Stopped != nil {
			r.fall(rd.Stopped)
			return
		}
	}
}

// fall tells the engine why the store has stopped, before anything is written:
// a device that hangs must not keep the store among those that run. OnFailure
// may end the process and comes last, so that a device that works has the mark
// of a retired store by then.
func (r *runner) fall(why error) {
	r.reason.CompareAndSwap(nil, &why)
	tooFew := r.engine.lost(r, why)
	if _, forgotten := errors.AsType[*ForgottenError](why); forgotten {
		r.retire(why)
	}
	if tooFew {
		r.engine.opts.OnFailure(why)
	}
}

// retire marks the store as retired. It does not wait for long: what hangs goes
// on by itself, and end waits for it.
func (r *runner) retire(why error) {
	marked := make(chan struct{})
	r.done.Go(func() {
		defer close(marked)
		if err := r.store.Retire(why.Error()); err != nil {
			r.engine.opts.Logger.Error("store is not marked as retired", "store", r.store.Dir(), "err", err)
		}
	})
	patience := time.NewTimer(retireTicks * r.tick)
	defer patience.Stop()
	select {
	case <-marked:
	case <-patience.C:
		r.engine.opts.Logger.Warn("store is not marked as retired yet: its device does not answer", "store", r.store.Dir())
	}
}

// leave says good-bye to all who wait for the store.
func (r *runner) leave() {
	r.transport.Unregister(r.id())
	left := r.mail.close()
	why := fmt.Errorf("%w: closed", metadata.ErrUnavailable)
	r.reason.CompareAndSwap(nil, &why)
	for _, a := range left.proposals {
		a.refuse(ErrNoLeader)
	}
	for _, f := range left.calls {
		f(nil)
	}
}

// open carries out what the mail asks for.
func (r *runner) open(m mail) {
	s := r.store
	if m.appended != nil {
		s.Appended(m.appended)
	}
	if m.applied != nil {
		s.Applied(m.applied)
	}
	for _, msg := range m.messages {
		s.Step(msg)
	}
	for _, p := range m.reports {
		s.ReportSnapshot(p.Group, p.To, p.ok)
	}
	for _, id := range m.unreachable {
		s.ReportUnreachable(id)
	}
	r.propose(m.proposals)
	for _, q := range m.questions {
		_ = s.ReadIndex(q.group, q.number) // whoever asked asks another store
	}
	for _, f := range m.calls {
		f(s)
	}
}

// propose proposes what no caller has given up, all of a group together.
func (r *runner) propose(attempts []*attempt) {
	var groups [groupCount][]*attempt
	for _, a := range attempts {
		if a.take() {
			groups[a.group] = append(groups[a.group], a)
		}
	}
	data := make([][]byte, 0, len(attempts))
	for g, of := range groups {
		for len(of) > 0 {
			n, size := 0, uint64(0)
			data = data[:0]
			for n < len(of) && (n == 0 || size+uint64(len(of[n].data)) <= r.store.limits.MessageBytes) {
				size += uint64(len(of[n].data))
				data = append(data, of[n].data)
				n++
			}
			if err := r.store.ProposeAll(uint32(g), data); err != nil {
				r.proposeEach(of[:n])
			}
			of = of[n:]
		}
	}
}

// proposeEach proposes one by one what was too much together.
func (r *runner) proposeEach(attempts []*attempt) {
	for _, a := range attempts {
		if err := r.store.Propose(a.group, a.data); err != nil {
			a.refuse(err)
		}
	}
}

// carryOut hands out what the core wants done.
func (r *runner) carryOut(rd *Ready) {
	if len(rd.Messages) > 0 {
		r.transport.Send(rd.Messages)
	}
	if rd.Append != nil {
		r.appends <- rd.Append
	}
	if rd.Apply != nil {
		r.applies <- applyJob{work: rd.Apply}
	}
	for _, q := range rd.Snapshots {
		r.send(q)
	}
	for _, d := range rd.Diverged {
		r.differ(d)
	}
	for _, res := range rd.Reads {
		r.engine.answered(res)
	}
	for _, l := range rd.Leaders {
		r.engine.leads(l)
	}
}

// differ raises the alarm.
func (r *runner) differ(d Divergence) {
	log := r.engine.opts.Logger.With("group", d.Group, "position", d.Index, "found by", r.id())
	if len(d.Odd) > 0 {
		log.Error("metadata stores differ; the odd ones are rebuilt from the others", "odd", d.Odd)
		return
	}
	log.Error("metadata stores differ, and no majority has the same rows: nothing is changed and no snapshot of the group is sent; " +
		"find out which copies are right and replace the others")
}

// write is the goroutine that writes the log.
func (r *runner) write() {
	for w := range r.appends {
		began := r.engine.opts.Now()
		if err := r.store.Append(w); err != nil {
			return // fenced; there is no more than one under way
		}
		took := r.engine.opts.Now().Sub(began)
		r.engine.counts.sync(took)
		r.syncing.Store((7*r.syncing.Load() + int64(took)) / 8)
		r.mail.put(func(m *mail) bool {
			m.appended = w
			return true
		})
	}
}

// change is the goroutine that changes the state.
func (r *runner) change() {
	for j := range r.applies {
		if j.trim != nil {
			err := r.store.Trim(*j.trim)
			if j.turn && err == nil {
				err = r.store.Turn()
			}
			if err != nil {
				r.engine.opts.Logger.Warn("command log is not cut", "store", r.store.Dir(), "err", err)
			}
			r.trimming.Store(false)
			continue
		}
		if err := r.store.Apply(j.work); err != nil {
			continue // fenced
		}
		r.engine.applied(r, j.work)
		for _, c := range j.work.Comparisons {
			r.hash(c)
		}
		r.mail.put(func(m *mail) bool {
			m.applied = j.work
			return true
		})
	}
}

// hash ends a comparison in a goroutine of its own. There are no more of them
// than groups, and one reads at a time, so that the device has time for others.
func (r *runner) hash(c *Comparison) {
	r.sends.Go(func() {
		select {
		case r.hashing <- struct{}{}:
			defer func() { <-r.hashing }()
		case <-r.snapshots.Done():
		}
		sum, err := c.Hash(r.snapshots)
		r.mail.call(func(s *Store) {
			if s != nil {
				s.Compared(c.Group, c.Index, sum, err)
			}
		})
	})
}

// trim lets the log be cut now and then.
func (r *runner) trim(n uint64) {
	if n%trimTicks != 0 || !r.trimming.CompareAndSwap(false, true) {
		return
	}
	floors := r.store.Floors()
	r.applies <- applyJob{trim: &floors}
}

// turn brings the state to its tables, and cuts the log of it, once enough was
// written: entries then never leave the memory but for the write-ahead log.
func (r *runner) turn() {
	if r.store.Fresh() < r.store.opts.TurnBytes || !r.trimming.CompareAndSwap(false, true) {
		return
	}
	r.sends.Go(func() {
		err := r.store.Flush()
		planned := err == nil && r.mail.call(func(s *Store) {
			if s == nil {
				return // closed
			}
			floors := s.Floors()
			r.applies <- applyJob{trim: &floors, turn: true}
		})
		if !planned {
			r.trimming.Store(false)
		}
	})
}

// watchSpace is the goroutine that looks at the free space, which may take as
// long as the device likes.
func (r *runner) watchSpace() {
	r.used.Store(r.store.usedBytes())
	ticker := time.NewTicker(spaceTicks * r.tick)
	defer ticker.Stop()
	for {
		select {
		case <-r.ended:
			return
		case <-ticker.C:
			err := outlast(r.snapshots, r.store.Fenced(), func() error {
				r.look()
				return nil
			})
			if err == nil && r.failed() == nil {
				r.used.Store(r.store.usedBytes())
			}
		}
	}
}

// look asks whether there is room for commands that add.
func (r *runner) look() {
	err := r.store.space.admit(metadata.KindCommitVersion, r.engine.opts.Now())
	r.full.Store(errors.Is(err, metadata.ErrMetadataFull))
}

// rootConf is the configuration of the root group as a store knows it.
type rootConf struct {
	*pb.ConfState
	at uint64 // position that the store had applied when it saw it
}

// observe notes what others want to know of the core.
func (r *runner) observe() {
	g := r.store.groups[metadata.RootGroup]
	if c := r.root.Load(); c == nil || c.ConfState != g.conf {
		r.root.Store(&rootConf{g.conf, g.applied})
	}
}

// votes reports whether the store is a voter of the root group, as it knows.
func (r *runner) votes() bool {
	c := r.root.Load()
	return c != nil && (slices.Contains(c.GetVoters(), r.id()) || slices.Contains(c.GetVotersOutgoing(), r.id()))
}

// Receive implements [Receiver].
func (r *runner) Receive(messages []Message) int { return r.mail.receive(messages) }

// Unreachable implements [Receiver].
func (r *runner) Unreachable(replica uint64) { r.mail.unreachable(replica) }

// do runs f with the store in the goroutine that decides, and waits for it.
func (r *runner) do(ctx context.Context, f func(*Store) error) error {
	done := make(chan error, 1)
	ok := r.mail.call(func(s *Store) {
		if s == nil {
			done <- r.failed()
			return
		}
		done <- f(s)
	})
	if !ok {
		if err := r.failed(); err != nil {
			return err
		}
		return metadata.ErrOverloaded
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("replica: %w", context.Cause(ctx))
	}
}
