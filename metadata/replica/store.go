package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
	"github.com/ruche-storage/ruche/metadata/state"
)

// newLogIndex is the position at which the logs of an empty store begin.
const newLogIndex = 1

// Names in the directory of a store.
const (
	logName   = "log"
	stageName = "snap"
)

// A Store is one copy of all groups of the replicated metadata, on one device.
//
// It does nothing by itself: whoever drives it calls its methods and carries
// out what [Store.Ready] returns. There are three kinds of them.
//
//   - Those that decide, without writing: Tick, Step, Propose, ReadIndex,
//     Campaign, TransferLeader, ProposeConfChange, SetFull, SetSync, Ready, Appended, Applied, the
//     Reports, Restore, Status and Floors. They are called by one goroutine.
//   - Append, which writes the log, by one goroutine, which may be another.
//   - Apply and Cut, which change the state and drop what the log holds
//     of it, by one goroutine, which may be a third.
//
// All others may be called at any time. A write that fails stops the store
// and no other: the call that needed it returns the error, as do all later
// ones, and whoever waits on Fenced is told.
type Store struct {
	core

	id      commandlog.Identity
	dir     string
	opts    StoreOptions
	fs      *fenceFS
	cache   *pebble.Cache
	db      *pebble.DB
	machine *state.Machine
	log     *commandlog.Log
	stage   *snapshot.Stage
	space   *space
	views   *views

	marks      [groupCount]mark // of the state; of the goroutine that applies
	broken     [groupCount]bool // states that are damaged; of the goroutine that applies
	replaced   [groupCount]atomic.Uint64
	comparing  [groupCount]atomic.Bool // a Comparison is not ended
	installing [groupCount]atomic.Bool
	randMu     sync.Mutex // held while opts.Rand is read

	failure atomic.Pointer[error]
	fenced  chan struct{} // closed when failure is set
}

// mark is up to where a group is applied.
type mark struct {
	index, term uint64
	conf        *pb.ConfState
	encoded     []byte // conf
}

// StoreOptions adjusts a Store. The zero value is a working configuration.
type StoreOptions struct {
	Options
	Limits Limits

	// Rand is the source of sessions and of the spread of elections. Nil
	// means crypto/rand. With the same one, the same calls give the same
	// decisions.
	Rand io.Reader

	// Want is whose store must be found where one is opened, or else that fails
	// with commandlog.ErrForeign. What is zero in it is not compared.
	Want commandlog.Identity

	// Reached are positions by group that the store had applied once: it is
	// refused with a [*RolledBackError] where its log ends before. Nil means
	// that nothing is known.
	Reached []uint64

	// TurnBytes is after how many bytes of the log whoever drives the store
	// brings the state to its tables and cuts the log. About four times as much
	// is in memory while it is busy. Zero means 8 MiB.
	TurnBytes uint64

	// LogMemTableBytes is the size of one memtable of the log; zero means
	// twice TurnBytes.
	LogMemTableBytes uint64

	shared *shared // commands that the process has decoded already, may be nil
}

// An OpenError says why a store's files contradict each other. The store must
// be replaced under a new replica id, or its files be put back.
type OpenError struct {
	Dir    string
	Group  uint32
	Log    uint64 // last position of the log, or the one in front of its first
	State  uint64 // position of the state
	Reason string
}

// Error implements error.
func (e *OpenError) Error() string {
	return fmt.Sprintf("replica: store %s: group %d: %s (log %d, state %d): replace this replica",
		e.Dir, e.Group, e.Reason, e.Log, e.State)
}

// ErrNotReplicated means that a directory holds no command log: it is of one
// copy that was never grown, or is empty.
var ErrNotReplicated = errors.New("no command log")

// CreateStore makes the files of a store that is empty. With voters, it is one
// of those with which a cluster begins; without, it is blank and waits until it
// is made a member. The directory must hold no log; what else lies there would
// be taken for its state.
func CreateStore(dir string, id commandlog.Identity, first []uint64, o StoreOptions) error {
	o = o.withDefaults(dir)
	starts := make([]commandlog.Start, groupCount)
	for g := range starts {
		starts[g] = commandlog.Start{Group: uint32(g), Conf: new(pb.ConfState)}
		if len(first) > 0 {
			starts[g] = commandlog.Start{Group: uint32(g), Index: newLogIndex, Term: 1, Conf: &pb.ConfState{Voters: first}}
		}
	}
	if err := o.FS.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("replica: create %s: %w", dir, err)
	}
	if err := commandlog.Create(o.FS.PathJoin(dir, logName), o.logOptions(o.FS, nil), id, starts); err != nil {
		return fmt.Errorf("replica: create %s: %w", dir, err)
	}
	return nil
}

func (o StoreOptions) withDefaults(dir string) StoreOptions {
	o.Options = o.Options.withDefaults(dir)
	o.Limits = o.Limits.withDefaults()
	if o.Rand == nil {
		o.Rand = cryptoRand()
	}
	if o.TurnBytes == 0 {
		o.TurnBytes = 8 << 20
	}
	if o.LogMemTableBytes == 0 {
		o.LogMemTableBytes = 2 * o.TurnBytes
	}
	return o
}

func (o StoreOptions) logOptions(fs vfs.FS, fatal func(error)) commandlog.Options {
	return commandlog.Options{FS: fs, Logger: o.Logger, Fatal: fatal, Want: o.Want, MemTableBytes: o.LogMemTableBytes}
}

// OpenStore opens the store in dir. Errors are [ErrNotReplicated], an
// [*OpenError], a [*RolledBackError], or those of package commandlog if the files are not what the
// store has left.
func OpenStore(dir string, o StoreOptions) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	s := &Store{
		dir: dir, opts: o.withDefaults(dir), views: newViews(), fenced: make(chan struct{}),
	}
	o = s.opts
	s.space = newSpace(dir, o.Options)
	s.fs = &fenceFS{FS: o.FS, fail: s.fail, failed: s.Failed, relieve: s.space.relieve}
	s.cache = o.newCache()
	if err := s.open(); err != nil {
		s.cache.Unref()
		return nil, fmt.Errorf("replica: open %s: %w", dir, err)
	}
	s.fs.armed.Store(true)
	s.publish()
	return s, nil
}

// open opens what the store consists of. What was opened before an error is
// closed again.
func (s *Store) open() (err error) {
	o, path := s.opts, s.opts.FS.PathJoin(s.dir, logName)
	if there, err := commandlog.Exists(o.FS, path); err != nil || !there {
		return errors.Join(err, ErrNotReplicated)
	}
	if o.ReserveBytes >= 0 {
		if err := s.space.ballast.find(); err != nil {
			return err
		}
	}
	if err := s.openFiles(); err != nil {
		return err
	}
	if s.log.Forced() != 0 {
		if err := errors.Join(s.endForce(), s.db.Close(), s.log.Close()); err != nil {
			return err
		}
		s.opts.Want.Replica = 0 // it has another one now
		s.opts.Reached = nil    // under the one before
		if err := s.openFiles(); err != nil {
			return err
		}
	}
	if err := s.openGroups(); err != nil {
		return errors.Join(err, s.db.Close(), s.log.Close())
	}
	return nil
}

// openFiles opens log and state.
func (s *Store) openFiles() (err error) {
	o, path := s.opts, s.opts.FS.PathJoin(s.dir, logName)
	s.log, err = opening(s.fenced, s.Failed, s.fail, func(fail func(error)) (*commandlog.Log, error) {
		return commandlog.Open(path, o.logOptions(s.fs, fail))
	})
	if err != nil {
		return err
	}
	s.id = s.log.Identity()
	if err := checkFiles(o.FS, s.dir); err != nil {
		return errors.Join(err, s.log.Close())
	}
	s.db, err = opening(s.fenced, s.Failed, s.fail, func(fail func(error)) (*pebble.DB, error) {
		p := o.pebbleOptions(s.fs, s.cache, fail)
		p.DisableWAL = true
		return pebble.Open(s.dir, p)
	})
	if err != nil {
		return errors.Join(err, s.log.Close())
	}
	s.machine = state.NewKnowing(s.db, o.Knows)
	s.stage, err = snapshot.OpenStage(o.FS, o.FS.PathJoin(s.dir, stageName), snapshot.StageOptions{})
	if err != nil {
		return errors.Join(err, s.db.Close(), s.log.Close())
	}
	return nil
}

func (s *Store) openGroups() (err error) {
	var seed [32]byte
	var session [8]byte
	if _, err := io.ReadFull(s.opts.Rand, seed[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(s.opts.Rand, session[:]); err != nil {
		return err
	}
	s.core = core{
		replica: s.id.Replica, session: binary.BigEndian.Uint64(session[:]), version: s.opts.Knows,
		rand: rand.New(rand.NewChaCha8(seed)), limits: s.opts.Limits, peers: make(map[uint64]*peer),
	}
	for g := range s.groups {
		if err := s.reinstall(uint32(g)); err != nil {
			return err
		}
	}
	if err := s.opts.checkVersions(state.NewView(s.db)); err != nil {
		return err
	}
	for g := range s.groups {
		if err := s.openGroup(uint32(g)); err != nil {
			return err
		}
	}
	s.learnPeers()
	s.wish, err = state.NewView(s.db).Stores()
	return err
}

// openGroup compares a group's log with its state and makes its member.
func (s *Store) openGroup(g uint32) error {
	log := s.log.Group(g)
	if log == nil {
		return &OpenError{Dir: s.dir, Group: g, Reason: "the log does not know the group"}
	}
	first, _ := log.FirstIndex()
	last, _ := log.LastIndex()
	at, err := s.readMark(g, first-1)
	if err != nil {
		return err
	}
	switch {
	case at.index > last:
		return &OpenError{Dir: s.dir, Group: g, Log: last, State: at.index, Reason: "the log ends before the state"}
	case at.index < first-1:
		return &OpenError{Dir: s.dir, Group: g, Log: first - 1, State: at.index, Reason: "the log begins behind the state"}
	case int(g) < len(s.opts.Reached) && last < s.opts.Reached[g]:
		return &RolledBackError{Dir: s.dir, Group: g, Log: last, Reached: s.opts.Reached[g]}
	}
	s.marks[g] = at
	m := &member{id: g, conf: at.conf, last: last, applied: at.index}
	_, m.damaged = log.Damaged()
	s.broken[g] = m.damaged
	storage := &groupStorage{Group: log, applied: at.index, conf: at.conf, member: m}
	hard, _, err := storage.InitialState()
	if err != nil {
		return err
	}
	m.term, m.vote, m.commit = hard.GetTerm(), hard.GetVote(), hard.GetCommit()
	m.storage = storage
	m.node, err = newNode(s.replica, storage, s.opts)
	if err != nil {
		return err
	}
	s.groups[g] = m
	s.newTimeout(m)
	return nil
}

// readMark reads up to where a group is applied. A state without a mark is
// that with which the log began, at position start: the empty one of a new
// store, whose log was never cut. Behind a later start there was a state, and
// it is gone.
func (s *Store) readMark(g uint32, start uint64) (mark, error) {
	p, found, err := state.NewView(s.db).Raft(g)
	if err != nil {
		return mark{}, err
	}
	log := s.log.Group(g)
	if !found {
		if start > newLogIndex {
			return mark{}, &OpenError{Dir: s.dir, Group: g, Log: start, Reason: "the log begins behind the state"}
		}
		term, err := log.Term(start)
		if err != nil {
			return mark{}, err
		}
		_, conf, err := log.InitialState()
		if err != nil {
			return mark{}, err
		}
		encoded, err := encodeConf(conf)
		return mark{index: start, term: term, conf: conf, encoded: encoded}, err
	}
	conf, err := decodeConf(p.Conf)
	return mark{index: p.Index, term: p.Term, conf: conf, encoded: p.Conf}, err
}

// newNode makes the member's Raft.
func newNode(id uint64, storage *groupStorage, o StoreOptions) (node *raft.RawNode, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrStopped, p)
		}
	}()
	return raft.NewRawNode(&raft.Config{
		ID:                        id,
		ElectionTick:              o.Limits.ElectionTicks,
		HeartbeatTick:             1,
		Storage:                   storage,
		Applied:                   storage.applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             o.Limits.MessageBytes,
		MaxCommittedSizePerReady:  o.Limits.MessageBytes,
		MaxUncommittedEntriesSize: o.Limits.UncommittedBytes,
		MaxInflightMsgs:           o.Limits.InflightMessages,
		CheckQuorum:               true,
		PreVote:                   true,
		StepDownOnRemoval:         true,
		Logger:                    raftLogger{o.Logger},
	})
}

// Identity says whose store it is.
func (s *Store) Identity() commandlog.Identity { return s.id }

// Dir returns the store's directory.
func (s *Store) Dir() string { return s.dir }

// fail stops the store's writes. Only the first error counts.
func (s *Store) fail(err error) {
	if s.failure.CompareAndSwap(nil, &err) {
		close(s.fenced)
		s.opts.Logger.Error("metadata store fenced", "store", s.dir, "err", err)
		s.opts.OnFailure(err)
	}
}

// Failed returns why the store writes no more, nil if it does.
func (s *Store) Failed() error {
	if p := s.failure.Load(); p != nil {
		return fmt.Errorf("%w: %w", metadata.ErrUnavailable, *p)
	}
	return nil
}

// Fenced is closed when a write has failed. Whoever drives the store then
// calls Fail, sends what Ready returns once more, and stops.
func (s *Store) Fenced() <-chan struct{} { return s.fenced }

// Fail stops the store: the next Ready tells the other stores.
func (c *core) Fail(err error) { c.stop(err) }

// guard runs something that writes. A write that fails does not return; then
// guard does, with the reason, and what hangs ends with the process.
func (s *Store) guard(write func() error) error {
	if err := s.Failed(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- write() }()
	var err error
	select {
	case err = <-done:
	case <-s.fenced:
		return s.Failed()
	}
	if err != nil {
		s.fail(err)
		return s.Failed()
	}
	return nil
}

// Retire marks the store as one that must never be opened again, for a reason:
// what a store does that was stopped by a [*ForgottenError].
func (s *Store) Retire(reason string) error {
	return s.guard(func() error { return s.log.Retire(reason) })
}

// Close flushes the state and closes the store. No other call may be in
// flight. A store that has stopped writing cannot be closed: Close returns why,
// and what hangs in it ends with the process.
func (s *Store) Close() error {
	err := s.guard(func() error {
		s.discardViews()
		return s.db.Flush()
	})
	if err != nil {
		return fmt.Errorf("replica: close %s: %w", s.dir, err)
	}
	return s.Abandon()
}

// Abandon closes the store without making durable what was only applied, as
// a loss of power would: it is applied again from the log. If the device fails
// meanwhile, it returns why, and what hangs ends with the process.
func (s *Store) Abandon() error {
	if err := s.Failed(); err != nil {
		return fmt.Errorf("replica: close %s: %w", s.dir, err)
	}
	// Writes that fail still do not return: Pebble would end the process.
	closed := make(chan error, 1)
	go func() {
		s.discardViews()
		closed <- errors.Join(s.db.Close(), s.log.Close())
	}()
	var err error
	select {
	case err = <-closed:
		s.cache.Unref()
	case <-s.fenced:
		err = s.Failed()
	}
	if err != nil {
		return fmt.Errorf("replica: close %s: %w", s.dir, err)
	}
	return nil
}

func (s *Store) discardViews() {
	s.closeSnapshots(s.views.publish(nil))
	s.closeSnapshots(s.views.drain())
}

func (s *Store) closeSnapshots(snaps []*pebble.Snapshot) {
	for _, snap := range snaps {
		if err := snap.Close(); err != nil {
			s.opts.Logger.Error("metadata snapshot", "err", err)
		}
	}
}
