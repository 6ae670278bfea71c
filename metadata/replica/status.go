package replica

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/ruche-storage/ruche/metadata"
)

// GroupStatus is what one store knows of a group.
type GroupStatus struct {
	Group   uint32
	Leader  uint64 // replica id, 0 if none is known
	Term    uint64
	Commit  uint64
	Applied uint64
	First   uint64 // position of the first entry of the store's log
	Last    uint64 // and of the last one
	// LastTerm is the term of the entry there.
	LastTerm uint64
	Quiet    bool // idle, and led by this store
	Damaged  bool // its state is not served and has to be replaced

	Voters, Learners []uint64
	Joint            bool     // between two configurations
	Outgoing         []uint64 // voters of the one that is left, while Joint
	Members          []MemberStatus
	Held             []HeldSnapshot // that this store, the leader, does not send yet
}

// HeldSnapshot is a snapshot that is not sent before the leader's rows are found
// to be those of the others.
type HeldSnapshot struct {
	To       uint64   // replica id
	WaitsFor []uint64 // voters whose rows are not known yet; nil while the comparison is not committed
	// Disputed says that others have different rows than the leader, and that no
	// majority knows better: a person has to find out who is right.
	Disputed bool
}

// MemberStatus is what the leader of a group knows of a member. Other stores
// know nothing.
type MemberStatus struct {
	Replica  uint64
	Match    uint64 // up to where it has the log
	Snapshot bool   // it is being sent one
	Active   bool   // it has answered lately
}

// StoreStatus is the state of a store.
type StoreStatus struct {
	Replica uint64
	Dir     string
	Err     error // why it has stopped, nil if it runs
	Slow    bool
	Full    bool
	Version uint16        // highest version of commands that it knows
	Groups  []GroupStatus // nil if it has stopped
	// Sync is how long the newest writes of the log took until they were
	// durable, on average; Disk the space of the file system, and UsedBytes
	// that of the store, when they were last looked at.
	Sync      time.Duration
	Disk      vfs.DiskUsage
	UsedBytes int64
	Peers     []PeerStatus
}

// PeerStatus is what a store knows of another one.
type PeerStatus struct {
	Replica uint64
	Alive   bool
	Failed  bool
	Slow    bool
	Full    bool
	Version uint16 // 0 if it was never heard
}

// Status returns what the core knows.
func (s *Store) Status() StoreStatus {
	st := StoreStatus{Replica: s.replica, Dir: s.dir, Err: s.stopped, Slow: s.slow, Full: s.full, Version: s.version}
	if s.stopped != nil {
		return st
	}
	for _, m := range s.groups {
		g := m.status()
		if t, err := s.log.Group(m.id).Term(m.last); err == nil {
			g.LastTerm = t
		}
		g.Held = s.held(m)
		st.Groups = append(st.Groups, g)
	}
	for id, p := range s.peers {
		ps := PeerStatus{Replica: id, Alive: s.alive(id), Failed: p.failed}
		if p.beat != nil {
			ps.Slow, ps.Full, ps.Version = p.beat.Slow, p.beat.Full, p.beat.Version
		}
		st.Peers = append(st.Peers, ps)
	}
	slices.SortFunc(st.Peers, func(a, b PeerStatus) int { return int(int64(a.Replica - b.Replica)) })
	return st
}

// usedBytes is the space of the files of state and log.
func (s *Store) usedBytes() int64 {
	n := new(int64)
	err := s.guard(func() error {
		*n = int64(s.db.Metrics().DiskSpaceUsage() + s.log.Metrics().Pebble.DiskSpaceUsage())
		return nil
	})
	if err != nil {
		return 0 // what guard has left behind may still write to n
	}
	return *n
}

// metrics returns what the state Pebble counts, nil if the store has stopped.
func (s *Store) metrics() *pebble.Metrics {
	m := new(*pebble.Metrics)
	err := s.guard(func() error {
		*m = s.db.Metrics()
		return nil
	})
	if err != nil {
		return nil
	}
	return *m
}

func (m *member) status() GroupStatus {
	g := GroupStatus{
		Group: m.id, Leader: m.lead, Term: m.term, Commit: m.commit, Applied: m.applied, Last: m.last,
		Quiet: m.quiet, Damaged: m.damaged,
		Voters: slices.Clone(m.conf.GetVoters()), Learners: slices.Clone(m.conf.GetLearners()),
		Joint: len(m.conf.GetVotersOutgoing()) > 0, Outgoing: slices.Clone(m.conf.GetVotersOutgoing()),
	}
	g.First, _ = m.storage.FirstIndex()
	if m.role == raft.StateLeader {
		m.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
			g.Members = append(g.Members, MemberStatus{
				Replica: id, Match: p.Match, Snapshot: p.State == tracker.StateSnapshot, Active: p.RecentActive,
			})
		})
	}
	return g
}

// Status returns the state of all stores of this process, in order of replica
// id.
func (e *Replicated) Status(ctx context.Context) []StoreStatus {
	var all []StoreStatus
	for _, r := range *e.runners.Load() {
		st := StoreStatus{Replica: r.id(), Dir: r.store.Dir(), Err: r.failed(), Full: r.full.Load()}
		if st.Err == nil {
			got := new(StoreStatus) // may be written after the call was given up
			if st.Err = r.do(ctx, func(s *Store) error {
				*got = s.Status()
				return nil
			}); st.Err == nil {
				st = *got
			}
		}
		st.Sync, st.UsedBytes = time.Duration(r.syncing.Load()), r.used.Load()
		st.Disk, _ = r.store.space.state()
		all = append(all, st)
	}
	slices.SortFunc(all, func(a, b StoreStatus) int { return int(int64(a.Replica - b.Replica)) })
	return all
}

// A Refusal says why the store at a place did not open.
type Refusal struct {
	Place Place
	Err   error
}

// Refused returns the stores that did not open when the engine was, in the order
// of their places.
func (e *Replicated) Refused() []Refusal { return slices.Clone(e.refused) }

// Leader returns the replica id of a group's leader as far as the engine knows
// it, 0 if there is none.
func (e *Replicated) Leader(group uint32) uint64 {
	if int(group) >= len(e.groups) {
		return 0
	}
	g := &e.groups[group]
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.leader
}

// TransferLeader asks the leader of a group to hand leadership over to a
// voter. It does not wait for that.
func (e *Replicated) TransferLeader(ctx context.Context, group uint32, to uint64) error {
	return e.onLeader(ctx, group, func(s *Store) error {
		s.TransferLeader(group, to)
		return nil
	})
}

// ProposeConfChange proposes to change the members of a group, to its leader.
// Nil says that it was proposed, not that it will be made: see
// [Store.ProposeConfChange]. It is [ErrNoLeader] if no store of this process
// leads the group.
func (e *Replicated) ProposeConfChange(ctx context.Context, group uint32, change *pb.ConfChangeV2) error {
	return e.onLeader(ctx, group, func(s *Store) error { return s.ProposeConfChange(group, change) })
}

// onLeader runs f in the goroutine that decides for the store that leads a
// group.
func (e *Replicated) onLeader(ctx context.Context, group uint32, f func(*Store) error) error {
	if err := e.enter(); err != nil {
		return err
	}
	defer e.life.leave()
	id := e.Leader(group)
	for _, r := range *e.runners.Load() {
		if r.id() == id && r.failed() == nil {
			return r.do(ctx, f)
		}
	}
	return ErrNoLeader
}

// AddStore opens one more store of the cluster, which may be blank, and lets
// it run. It is a member of no group until the configurations are changed.
func (e *Replicated) AddStore(p Place) (replica uint64, err error) {
	if err := e.usable(); err != nil {
		return 0, err
	}
	s, err := OpenStore(p.Dir, e.storeOptions(p))
	if err != nil {
		return 0, err
	}
	for _, r := range *e.runners.Load() {
		switch {
		case r.store.Identity().Cluster != s.Identity().Cluster:
			err = errors.New("replica: " + p.Dir + " is a store of another cluster")
		case r.id() == s.Identity().Replica && r.failed() == nil:
			err = errors.New("replica: " + p.Dir + " is a copy of a store that runs")
		}
	}
	if err != nil {
		return 0, errors.Join(err, s.Close())
	}
	if err := e.add(newRunner(s, e)); err != nil {
		return 0, errors.Join(err, s.Close())
	}
	return s.Identity().Replica, nil
}

// RemoveStore stops a store of this process and closes it. Whether it is a
// member of a group is not looked at.
func (e *Replicated) RemoveStore(replica uint64) error {
	e.runnersMu.Lock()
	defer e.runnersMu.Unlock()
	old := *e.runners.Load()
	i := slices.IndexFunc(old, func(r *runner) bool { return r.id() == replica })
	if i < 0 {
		return nil
	}
	left := slices.Delete(slices.Clone(old), i, i+1)
	e.runners.Store(&left)
	for g := range e.groups {
		e.groups[g].forget(replica)
	}
	return old[i].end(e.opts.Patience)
}

// Metrics returns what the engine has counted. Disk is that of the first
// store that runs, Pebble its state.
func (e *Replicated) Metrics() Metrics {
	e.counts.mu.Lock()
	m := e.counts.m
	e.counts.mu.Unlock()
	m.Queue, m.QueueLimit = int(e.waiting.Load()), e.opts.QueueLength
	m.Full = e.admit(metadata.KindCommitVersion) != nil
	m.Failed = e.failure.Load() != nil
	e.stampMu.Lock()
	m.ClockJumps = e.stamps.jumps
	e.stampMu.Unlock()
	if !e.life.enter() {
		return m
	}
	defer e.life.leave()
	for _, r := range *e.runners.Load() {
		if r.failed() == nil {
			m.Disk, _ = r.store.space.state()
			m.Pebble = r.store.metrics()
			break
		}
	}
	return m
}
