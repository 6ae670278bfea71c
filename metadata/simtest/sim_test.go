package simtest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/simtest"
	"github.com/ruche-storage/ruche/metadata/state"
)

// bugs are what a run can be planted with. Each takes away, outside of the
// stores' code, something that a driver of stores must do, or that a device or
// client must keep.
type bugs struct {
	unsynced  bool // the device forgets to sync the log
	tables    bool // the device forgets to sync tables
	early     bool // entries count as stored before they are
	staleRead bool // reads do not ask the leader
	hasty     bool // reads do not wait until the answer is applied
	noRequest bool // the request id is lost on the way to the log
	liveCut   bool // the log is cut at what is applied, not at what is durable
	noFlush   bool // a store is closed without a flush, and its log given up
	sameID    bool // a store that lost its files comes back under its old id
	fenceless bool // one group does not hear that an epoch has ended
	rot       bool // a row of a store's state is lost while it is closed
	eager     bool // the command version is raised before all stores know it
	hearsay   bool // rows are not compared before snapshots are sent
}

// counts are what happened in a run.
type counts struct {
	messages, lost, applied, reads, timeouts, refused, unknown   int
	starts, crashes, fenced, forgotten, refusals, leaders        int
	snapshots, restores, broken, cuts, partitions, replaced, old int
	transfers, epochs, events, members                           int
	settleTicks                                                  int64
	compared, odd, disputes                                      int
	upgrades, early, downgrades                                  int
	answers                                                      map[string]int
}

// sim is one run: a cluster, its clients, and what goes wrong.
type sim struct {
	*world
	seed    uint64
	bugs    bugs
	exact   bool
	hosts   []*host // by place
	net     network
	groups  []uint32 // that are used
	work    *simtest.Workload
	clients []*client
	fencer  *fencer
	zombie  uint64 // an epoch that some gateways still believe in
	journal *journal
	counts  counts
	open    []*transfer
	members *membership
	builds  *builds

	decay    decay
	digest   [32]byte // of everything that was seen, at the end
	harmEnds int64    // when nothing goes wrong any more
	hold     int64    // until when nothing else goes wrong
}

// settings of a run.
type plan struct {
	seed   uint64
	stores int
	bugs   bugs
	faults int64 // how long things go wrong
	log    bool
	// exact leaves out power cuts and errors in the middle of Pebble's background
	// work, which the machine's scheduler has a part in.
	exact bool
}

// settled is how long a cluster has, once everything works again, to answer all
// requests and to agree.
const settled = 20 * second

func newSim(p plan) *sim {
	r := rand.New(rand.NewPCG(p.seed, 0x5e))
	s := &sim{world: &world{r: r}, seed: p.seed, bugs: p.bugs, exact: p.exact, groups: []uint32{1, 2, 3}}
	s.counts.answers = make(map[string]int)
	if p.log {
		s.log = new(strings.Builder)
	}
	buckets := []metadata.BucketRef{{Group: 1, ID: metadata.BucketID{1}}, {Group: 1, ID: metadata.BucketID{2}},
		{Group: 2, ID: metadata.BucketID{3}}, {Group: 3, ID: metadata.BucketID{4}}}
	s.work = simtest.NewWorkload(rand.New(rand.NewPCG(p.seed, 0xc0)), 5, buckets)
	s.journal = newJournal(s.work.AllKeys())
	s.net = s.calm()
	var first []uint64
	for slot := range p.stores {
		first = append(first, uint64(slot+1))
	}
	s.members = newMembership(s, first)
	s.builds = newBuilds(s)
	for slot, id := range first {
		h := s.newHost(slot, id)
		h.knows = s.builds.program(slot)
		s.hosts = append(s.hosts, h)
		h.create(first)
		h.start()
	}
	for id := range 6 {
		s.clients = append(s.clients, &client{sim: s, id: id + 1})
	}
	s.fencer = &fencer{client: &client{sim: s, id: 99}, floors: make(map[uint32][]floor)}
	return s
}

// play runs everything and returns what must not be.
func (s *sim) play(p plan) error {
	defer s.finish()
	s.prepare()
	for _, c := range s.clients {
		c.next()
	}
	s.harmEnds = s.now + p.faults
	s.nemesis(s.harmEnds)
	s.builds.begin()
	s.run(s.harmEnds, s.failed)
	if s.failed() {
		return s.verdict()
	}
	s.heal()
	healed := s.now
	s.run(s.now+settled, func() bool { return s.failed() || s.agreed() })
	s.counts.settleTicks = (s.now - healed) / tick
	if !s.failed() && !s.agreed() {
		s.journal.problem("%d s after everything works again, the cluster is not settled: %s", settled/second, s.unsettled())
	}
	return s.verdict()
}

// failed reports whether there is no point in going on.
func (s *sim) ctx() context.Context { return context.Background() }

func (s *sim) failed() bool { return len(s.journal.problems) > 0 }

// prepare opens the buckets.
func (s *sim) prepare() {
	left := 0
	for _, group := range append([]uint32{metadata.RootGroup, quietGroup}, s.groups...) {
		cs := s.work.Begin(group)
		if group == quietGroup {
			cs = append(cs, &metadata.Command{Kind: metadata.KindOpenBucket, Version: metadata.CommandVersion, Group: group, Request: s.work.ID(),
				Settle: &metadata.Settings{Bucket: metadata.BucketID{9}, Name: "quiet"}})
		}
		if s.builds == nil && (group == metadata.RootGroup || s.seed%4 > 0) {
			cs = append(cs, &metadata.Command{Kind: metadata.KindClusters, Version: metadata.CommandVersion, Group: group, Request: s.work.ID(),
				Clusters: &metadata.ClusterVersion{Version: metadata.LatestVersion}})
		}
		if group == metadata.RootGroup && s.builds == nil {
			cs = append(cs, s.members.put())
		}
		left += len(cs)
		var next func(*metadata.Result)
		next = func(res *metadata.Result) {
			if res != nil {
				left--
			}
			if len(cs) > 0 {
				c := cs[0]
				cs = cs[1:]
				s.fencer.write(c, next)
			}
		}
		next(nil)
	}
	s.run(30*second, func() bool { return left == 0 || s.failed() })
	if left > 0 {
		s.journal.problem("a cluster without faults does not begin within 30 s")
	}
}

// anyHost returns a store that runs, nil if there is none.
func (s *sim) anyHost() *host {
	var up []*host
	for _, h := range s.hosts {
		if h.store != nil {
			up = append(up, h)
		}
	}
	if len(up) == 0 {
		return nil
	}
	return up[s.r.IntN(len(up))]
}

// heal lets everything work again, and the clients come to an end.
func (s *sim) heal() {
	s.logf("heal")
	for _, c := range s.clients {
		c.stopped, c.patience = true, 0
	}
	s.fencer.stopped = true
	s.mend()
	s.builds.finish()
}

// agreed reports whether all requests are answered and all stores have applied
// everything.
func (s *sim) agreed() bool { return s.unsettled() == "" }

// unsettled says what is missing until a run is over.
func (s *sim) unsettled() string {
	for _, c := range s.clients {
		if c.busy {
			return fmt.Sprintf("client %d waits for an answer", c.id)
		}
	}
	if s.fencer.busy {
		return "an epoch does not begin"
	}
	if why := s.members.unsettled(); why != "" {
		return why
	}
	for group := range uint32(metadata.DataGroups + 1) {
		var first uint64
		for _, h := range s.hosts {
			if h.gone {
				continue
			}
			if h.store == nil {
				return h.String() + " is down"
			}
			index := h.applied(group)
			if first == 0 {
				first = index
			}
			if index != first || index < s.journal.last(group) {
				return fmt.Sprintf("group %d: %v is at %d, others at %d, the log goes to %d", group, h, index, first, s.journal.last(group))
			}
		}
	}
	if s.decay.of != 0 {
		return s.mended()
	}
	return ""
}

// applied returns up to where a store has applied a group.
func (h *host) applied(group uint32) (at uint64) {
	err := h.store.View(group, func(_ state.View, index uint64) error {
		at = index
		return nil
	})
	if err != nil {
		return 0
	}
	return at
}

// verdict checks everything there is.
func (s *sim) verdict() error {
	model, err := s.journal.check()
	if err != nil {
		return err
	}
	if err := s.journal.history.Check(30 * time.Second); err != nil {
		return err
	}
	s.compareStates(model)
	s.shrink(model)
	return errors.Join(s.journal.problems...)
}

// compareStates compares the states of all stores with each other and with the
// model.
func (s *sim) compareStates(model *simtest.Model) {
	for group := range uint32(metadata.DataGroups + 1) {
		var want metadata.Sum
		var first *host
		for _, h := range s.hosts {
			if h.gone || h.store == nil {
				continue
			}
			err := h.store.View(group, func(v state.View, _ uint64) error {
				sum, err := v.SpanHash(context.Background(), group)
				if first == nil {
					first, want = h, sum
				} else if sum != want {
					s.journal.problem("group %d: the states of %v and %v differ", group, first, h)
				}
				return err
			})
			if err != nil {
				s.journal.problem("group %d: %v: %w", group, h, err)
			}
		}
		if first == nil {
			continue
		}
		err := first.store.View(group, func(v state.View, _ uint64) error {
			for _, diff := range differences(v, model, s.bucketsOf(group)) {
				s.journal.problem("group %d: %v: %w", group, first, diff)
			}
			return nil
		})
		if err != nil {
			s.journal.problem("group %d: %v: %w", group, first, err)
		}
	}
}

func (s *sim) bucketsOf(group uint32) []metadata.BucketRef {
	return slices.DeleteFunc(slices.Clone(s.work.Buckets), func(b metadata.BucketRef) bool { return b.Group != group })
}

// finish closes everything. Stores whose writes have failed never end: what
// they hold on to must not be the whole run.
func (s *sim) finish() {
	for _, h := range s.hosts {
		if h.store != nil {
			h.end(h.store.Abandon)
		}
	}
	s.digest = s.journal.digest()
	s.world.next, s.hosts, s.clients, s.open, s.journal, s.members, s.builds, s.fencer, s.work = nil, nil, nil, nil, nil, nil, nil, nil, nil
}
