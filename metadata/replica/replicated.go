package replica

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
	"github.com/ruche-storage/ruche/metadata/state"
)

// Replicated is the engine of several copies. All methods may be called
// concurrently.
type Replicated struct {
	reader

	opts    ReplicatedOptions
	session uint64
	limit   *snapshot.Limiter
	counts  counters
	shared  *shared

	stampMu sync.Mutex // guards stamps and opts.Rand
	stamps  *stamper

	runnersMu sync.Mutex // held while runners are added and removed
	runners   atomic.Pointer[[]*runner]
	groups    [groupCount]groupState
	seq       atomic.Uint64
	waiting   atomic.Int64 // commands
	long      longReads

	refused []Refusal // fixed at the start

	failure atomic.Pointer[error] // why too few stores are left
	fenced  chan struct{}         // closed when failure is set

	closing chan struct{} // closed when Close begins
	begin   sync.Once     // of Close
	life    *gate         // of calls
	left    atomic.Bool   // calls in flight were waited for already
}

// ReplicatedOptions adjusts a replicated engine. The zero value is a working
// configuration. Options holds for all stores; its OnFailure is called once,
// when too few stores are left for a quorum.
type ReplicatedOptions struct {
	StoreOptions

	// Tick is the unit of all timeouts between stores. Zero means 100 ms.
	Tick time.Duration

	// Patience is how long a call waits for a quorum before it fails with
	// metadata.ErrUnavailable, or, if the command may have been taken,
	// metadata.ErrUnknownOutcome. The end of the engine or of a store waits as
	// long for calls in flight. Zero means 5 s.
	Patience time.Duration

	// Retry is how long a call waits for an answer before it proposes the
	// command again. It doubles every time. Zero means 1 s.
	Retry time.Duration

	// Transport connects the stores. Nil means one of this engine's own,
	// within the process.
	Transport Transport

	// SnapshotBytesPerSecond bounds how fast snapshots are sent. Zero means
	// 64 MiB, a negative value no bound.
	SnapshotBytesPerSecond int64
}

func (o ReplicatedOptions) withDefaults() ReplicatedOptions {
	o.StoreOptions = o.StoreOptions.withDefaults("")
	o.Rand = &lockedReader{r: o.Rand} // all stores read it
	if o.Tick == 0 {
		o.Tick = 100 * time.Millisecond
	}
	if o.Patience == 0 {
		o.Patience = 5 * time.Second
	}
	if o.Retry == 0 {
		o.Retry = time.Second
	}
	if o.Transport == nil {
		o.Transport = NewInProcess()
	}
	if o.Limits.CompareTicks == 0 {
		o.Limits.CompareTicks = int(time.Hour / o.Tick)
	}
	if o.SnapshotBytesPerSecond == 0 {
		o.SnapshotBytesPerSecond = 64 << 20
	}
	return o
}

// A Place is where a store lies. What is not nil or zero takes the place of
// the engine's option.
type Place struct {
	Dir          string
	FS           vfs.FS
	DiskUsage    func() (vfs.DiskUsage, error)
	ReserveBytes int64
	Want         commandlog.Identity
	Reached      []uint64 // see StoreOptions
}

// storeOptions returns the options of the store at a place.
func (e *Replicated) storeOptions(p Place) StoreOptions {
	o := e.opts.StoreOptions
	o.OnFailure, o.shared = nil, e.shared // the engine is told otherwise
	if p.FS != nil {
		o.FS = p.FS
	}
	if p.DiskUsage != nil {
		o.DiskUsage = p.DiskUsage
	}
	if p.ReserveBytes != 0 {
		o.ReserveBytes = p.ReserveBytes
	}
	o.Want, o.Reached = p.Want, p.Reached
	return o
}

// groupState is what the engine knows of one group.
type groupState struct {
	version atomic.Uint32 // of commands, as far as it was looked at
	skipped atomic.Uint64 // how often a store got to a position without applying what lies before

	mu       sync.Mutex // guards what follows
	leader   uint64     // replica id, 0 if none is known
	term     uint64
	calls    map[uint64]*call
	readers  map[uint64]chan uint64
	progress chan struct{} // closed when the group was applied further, nil if nobody waits
}

// OpenReplicated opens the stores at the given places, all of one cluster. A
// store that does not open for a reason of its own is left out, as long as
// one opens: Refused names it. Errors wrap [ErrAbsurdClock] if the clock
// contradicts the stores.
func OpenReplicated(places []Place, o ReplicatedOptions) (*Replicated, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	usage := o.DiskUsage
	o = o.withDefaults()
	o.DiskUsage = usage // each store asks about its own directory
	e := &Replicated{
		closing: make(chan struct{}), fenced: make(chan struct{}),
		life: newGate(), opts: o,
		limit: snapshot.NewLimiter(o.SnapshotBytesPerSecond, o.Now, nil),
	}
	e.reader = reader{from: e}
	e.stamps = newStamper(o.Now, func(wall, expected time.Time) {
		o.Logger.Warn("the clock has jumped; changes keep the time that passed until the next start",
			"clock", wall, "expected", expected)
	})
	e.runners.Store(new([]*runner))
	for g := range e.groups {
		e.groups[g].calls = make(map[uint64]*call)
		e.groups[g].readers = make(map[uint64]chan uint64)
	}
	var session [8]byte
	if _, err := io.ReadFull(o.Rand, session[:]); err != nil {
		return nil, fmt.Errorf("replica: session: %w", err)
	}
	e.session = binary.BigEndian.Uint64(session[:])
	e.shared = &shared{session: e.session}
	if err := e.openStores(places); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// openStores opens what can be opened, and lets it run.
func (e *Replicated) openStores(places []Place) error {
	opened, err := e.openEach(places)
	if len(opened) > 0 {
		err = e.checkStores(opened)
	}
	if err != nil || len(opened) == 0 {
		for _, s := range opened {
			err = errors.Join(err, s.Close())
		}
		return err
	}
	first := campaigners(opened)
	for _, s := range opened {
		err = errors.Join(err, e.add(newRunner(s, e)))
	}
	e.spread(first)
	return err
}

// openEach opens all stores at the same time: they are on devices of their own.
func (e *Replicated) openEach(places []Place) (opened []*Store, err error) {
	stores, errs := make([]*Store, len(places)), make([]error, len(places))
	var opening sync.WaitGroup
	for i, p := range places {
		opening.Go(func() { stores[i], errs[i] = OpenStore(p.Dir, e.storeOptions(p)) })
	}
	opening.Wait()
	for i, p := range places {
		if errs[i] != nil {
			e.opts.Logger.Error("metadata store does not open", "store", p.Dir, "err", errs[i])
			e.refused = append(e.refused, Refusal{p, errs[i]})
			continue
		}
		opened = append(opened, stores[i])
	}
	return opened, errors.Join(errs...)
}

// campaigners chooses for each group the store that asks for its leadership
// first: of the voters whose logs have most, which are those that get votes, not
// always the same one.
func campaigners(stores []*Store) (first [groupCount]uint64) {
	all := make([]StoreStatus, len(stores))
	for i, s := range stores {
		all[i] = s.Status()
	}
	for g := range first {
		var best []*StoreStatus
		for i := range all {
			s := &all[i]
			if s.Err != nil || !slices.Contains(s.Groups[g].Voters, s.Replica) {
				continue
			}
			c := -1
			if len(best) > 0 {
				c = cmp.Or(cmp.Compare(best[0].Groups[g].LastTerm, s.Groups[g].LastTerm), cmp.Compare(best[0].Groups[g].Last, s.Groups[g].Last))
			}
			if c < 0 {
				best = best[:0]
			}
			if c <= 0 {
				best = append(best, s)
			}
		}
		if len(best) > 0 {
			first[g] = best[g%len(best)].Replica
		}
	}
	return first
}

// checkStores finds stores that do not belong together, and an absurd clock.
func (e *Replicated) checkStores(stores []*Store) error {
	var newest uint64
	for i, s := range stores {
		if s.Identity().Cluster != stores[0].Identity().Cluster {
			return fmt.Errorf("replica: stores %s and %s are of different clusters", stores[0].Dir(), s.Dir())
		}
		for _, other := range stores[:i] {
			if s.Identity().Replica == other.Identity().Replica {
				return fmt.Errorf("replica: stores %s and %s are copies of one store: remove one", other.Dir(), s.Dir())
			}
		}
		for g := range uint32(groupCount) {
			h, err := state.NewView(s.db).Head(g)
			if err != nil {
				return err
			}
			newest = max(newest, h.Order)
		}
	}
	err := checkClock(e.opts.Now(), newest)
	if err != nil && e.opts.AcceptClock {
		e.opts.Logger.Warn("clock accepted", "err", err)
		return nil
	}
	return err
}

// add lets a store run, unless the engine is being closed.
func (e *Replicated) add(r *runner) error {
	e.runnersMu.Lock()
	defer e.runnersMu.Unlock()
	if e.life.closed.Load() {
		return fmt.Errorf("%w: closed", metadata.ErrUnavailable)
	}
	all := append(slices.Clone(*e.runners.Load()), r)
	e.runners.Store(&all)
	for g := range e.groups {
		e.groups[g].skipped.Add(1)
	}
	r.start()
	return nil
}

// spread lets every store ask for the leadership of its share of the groups,
// instead of waiting until a leader that nobody has is missed.
func (e *Replicated) spread(first [groupCount]uint64) {
	for _, r := range *e.runners.Load() {
		r.mail.call(func(s *Store) {
			for g := uint32(0); s != nil && g < groupCount; g++ {
				if first[g] == r.id() || s.onlyVoter(g) {
					s.Campaign(g)
				}
			}
		})
	}
}

// Close waits for calls, flushes the stores and closes them. Calls after Close
// fail with metadata.ErrUnavailable. Calls that hang on a device are left to
// themselves after a while, with the store that they read: the error names it.
func (e *Replicated) Close() error {
	e.long.end()
	e.begin.Do(func() { close(e.closing) })
	if !e.life.shut() {
		return nil
	}
	patience := e.opts.Patience // no call lasts longer unless it hangs
	if e.left.Load() || !e.life.wait(patience) {
		patience = 0 // the stores they use have had it
	}
	e.runnersMu.Lock()
	defer e.runnersMu.Unlock()
	all := *e.runners.Load()
	errs := make([]error, len(all))
	var ends sync.WaitGroup
	for i, r := range all {
		told := r.store.Failed() != nil
		ends.Go(func() {
			if err := r.end(patience); !told {
				errs[i] = err
			}
		})
	}
	ends.Wait()
	return errors.Join(errs...)
}

// enter begins a call that ends with life.leave, unless there is an error.
func (e *Replicated) enter() error {
	if !e.life.enter() {
		return fmt.Errorf("%w: closed", metadata.ErrUnavailable)
	}
	err := e.usable()
	if err != nil {
		e.life.leave()
	}
	return err
}

// usable says why no call can be answered, nil if it can.
func (e *Replicated) usable() error {
	if e.life.closed.Load() {
		return fmt.Errorf("%w: closed", metadata.ErrUnavailable)
	}
	if p := e.failure.Load(); p != nil {
		return fmt.Errorf("%w: too few stores are left: %w", metadata.ErrUnavailable, *p)
	}
	return nil
}

// lost is told that a store has stopped. It reports whether too few are left
// since then: the caller then calls OnFailure.
func (e *Replicated) lost(r *runner, err error) (tooFew bool) {
	e.opts.Logger.Error("metadata store has stopped", "store", r.store.Dir(), "replica", r.id(), "err", err)
	// Others may know of fewer voters than the store did.
	quorum := e.quorum(func(o *runner) bool { return o != r })
	if !quorum && e.failure.CompareAndSwap(nil, &err) {
		close(e.fenced)
		tooFew = true
	}
	for g := range e.groups {
		e.groups[g].forget(r.id())
	}
	return tooFew
}

// quorum reports whether those stores that run and fit are a quorum of the root
// group. What counts is the newest configuration that one that runs knows: each
// has its own moment at which it hears of a change.
func (e *Replicated) quorum(fits func(*runner) bool) bool {
	var newest *rootConf
	fit := make(map[uint64]bool)
	for _, r := range *e.runners.Load() {
		if r.failed() != nil {
			continue
		}
		if c := r.root.Load(); c != nil && (newest == nil || c.at > newest.at) {
			newest = c
		}
		fit[r.id()] = fits(r)
	}
	if newest == nil {
		return false
	}
	for _, voters := range [][]uint64{newest.GetVoters(), newest.GetVotersOutgoing()} {
		n := 0
		for _, id := range voters {
			if fit[id] {
				n++
			}
		}
		if n < len(voters)/2+1 && len(voters) > 0 {
			return false
		}
	}
	return true
}

// forget notes that a store leads no more.
func (g *groupState) forget(id uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leader == id {
		g.leader = 0
	}
	g.nudge()
}

// leads is told by a store whom it takes for a group's leader.
func (e *Replicated) leads(l LeaderChange) {
	g := &e.groups[l.Group]
	g.mu.Lock()
	defer g.mu.Unlock()
	if l.Term < g.term || l.Leader == 0 {
		return
	}
	if g.leader == l.Leader && g.term == l.Term {
		return
	}
	g.leader, g.term = l.Leader, l.Term
	g.nudge()
}

// nudge lets all who wait for a command look again. It is called with mu held.
func (g *groupState) nudge() {
	for _, c := range g.calls {
		c.nudge()
	}
	g.moved()
}

// moved wakes readers. It is called with mu held.
func (g *groupState) moved() {
	if g.progress != nil {
		close(g.progress)
		g.progress = nil
	}
}

// pick returns the store that is best asked about a group, nil if none runs.
func (e *Replicated) pick(group uint32) *runner {
	g := &e.groups[group]
	g.mu.Lock()
	leader := g.leader
	g.mu.Unlock()
	var best *runner
	for _, r := range *e.runners.Load() {
		if r.failed() != nil {
			continue
		}
		if r.id() == leader {
			return r
		}
		if best == nil || !best.votes() {
			best = r
		}
	}
	return best
}

// admit refuses commands that add while those of the voters that run and have
// room for them are no quorum: the full ones would be written to, too.
func (e *Replicated) admit(kind metadata.Kind) error {
	if !adds(kind) {
		return nil
	}
	full := false
	for _, r := range *e.runners.Load() {
		full = full || r.failed() == nil && r.full.Load() && r.votes()
	}
	if full && !e.quorum(func(r *runner) bool { return !r.full.Load() }) {
		return metadata.ErrMetadataFull
	}
	return nil
}

// stamp returns the time and, unless there is one, a request id.
func (e *Replicated) stamp(id metadata.RequestID) (uint64, metadata.RequestID, error) {
	e.stampMu.Lock()
	defer e.stampMu.Unlock()
	if id == (metadata.RequestID{}) {
		if _, err := io.ReadFull(e.opts.Rand, id[:]); err != nil {
			return 0, id, fmt.Errorf("replica: request id: %w", err)
		}
	}
	return e.stamps.stamp(), id, nil
}

// patience returns a context that ends when a call has waited long enough.
func (e *Replicated) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, e.opts.Patience, errNoQuorum)
}

// errNoQuorum is the reason of calls that found no quorum in time.
var errNoQuorum = errors.New("no quorum of metadata stores answers")
