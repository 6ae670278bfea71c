package replica

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/state"
)

// ErrAlone means that a store is the only voter: it needs no force.
var ErrAlone = errors.New("the store is the only voter already")

// forcedGap keeps the replica id of a store that was forced from those that the
// lost majority may have given without its knowledge.
const forcedGap = 1000

// Forced says what [Force] has done.
type Forced struct {
	Replica     uint64   // under which the store goes on
	Lost        []uint64 // voters that are given up
	Incarnation uint64
}

// Force makes the only voter of all groups of a store that no engine has open,
// after all other stores, or so many that no quorum is left, were lost for good.
//
// What is in the log of this store counts as committed from now on, and what is
// not is lost: whatever the others have acknowledged without this one. None of
// the others may ever run again: the store goes on under a replica id that never
// was, so that they could not meet it, but clients could meet both. The
// incarnation rises, and collection is off until it is confirmed.
//
// Force cannot be taken back. It may be repeated after a crash; a start of the
// store ends it as well. It refuses with [ErrAlone] if the store is the only
// voter, and with [commandlog.ErrRot], [commandlog.ErrShort] or
// [commandlog.ErrRetired] if it is not fit to be the only one.
func Force(dir string, o StoreOptions) (*Forced, error) {
	f, err := force(dir, o.withDefaults(dir))
	if err != nil {
		return nil, fmt.Errorf("replica: force %s: %w", dir, err)
	}
	return f, nil
}

func force(dir string, o StoreOptions) (*Forced, error) {
	s, err := OpenStore(dir, o)
	if err != nil {
		return nil, err
	}
	f, err := s.fitToForce()
	if err == nil {
		err = s.log.Force(f.Replica)
	}
	// What was only applied need not become durable: it is in the log.
	if err := errors.Join(err, s.Abandon()); err != nil {
		return nil, err
	}
	o.Want.Replica = 0
	if s, err = OpenStore(dir, o); err != nil { // which ends it
		return nil, err
	}
	i, err := state.NewView(s.db).Incarnation()
	f.Incarnation = i.Number
	return f, errors.Join(err, s.Close())
}

// fitToForce draws up what is to be done.
func (s *Store) fitToForce() (*Forced, error) {
	f := &Forced{Replica: s.replica}
	for _, m := range s.groups {
		if m.damaged {
			return nil, fmt.Errorf("the state of group %d is damaged: force another store", m.id)
		}
		if len(voters(m.conf)) == 0 {
			return nil, fmt.Errorf("the store never had group %d: force another store", m.id)
		}
		for _, id := range members(m.conf) {
			f.Replica = max(f.Replica, id)
			if id != s.replica && !slices.Contains(f.Lost, id) && m.votes(id) {
				f.Lost = append(f.Lost, id)
			}
		}
	}
	if len(f.Lost) == 0 {
		return nil, ErrAlone
	}
	for i := range s.wish.Stores {
		f.Replica = max(f.Replica, s.wish.Stores[i].Replica)
	}
	f.Replica += forcedGap
	slices.Sort(f.Lost)
	return f, nil
}

// endForce carries out what the mark in the log says. It is called before
// anything else reads the store, whose files are then to be opened anew.
func (s *Store) endForce() error {
	replica := s.log.Forced()
	if replica == 0 {
		return nil
	}
	conf := &pb.ConfState{Voters: []uint64{replica}}
	var starts []commandlog.Start
	a := &application{Store: s, work: new(ApplyWork)}
	for g := range uint32(groupCount) {
		start, err := a.applyLog(g)
		if err != nil {
			return fmt.Errorf("force: group %d: %w", g, err)
		}
		start.Conf = conf
		starts = append(starts, start)
	}
	if err := errors.Join(a.commit(), a.standAlone(replica, starts), s.db.Flush()); err != nil {
		return fmt.Errorf("force: %w", err)
	}
	id := s.id
	id.Replica = replica
	if err := s.log.Restart(id, starts); err != nil {
		return fmt.Errorf("force: %w", err)
	}
	s.opts.Logger.Warn("metadata store goes on alone", "store", s.dir, "replica", replica)
	return nil
}

// applyLog applies all that the log holds of a group, and returns where the log
// is to begin. Changes of the configuration are passed over.
func (a *application) applyLog(g uint32) (commandlog.Start, error) {
	log := a.log.Group(g)
	if log == nil {
		return commandlog.Start{}, errors.New("the log does not know the group")
	}
	if err := a.reinstall(g); err != nil {
		return commandlog.Start{}, err
	}
	first, _ := log.FirstIndex()
	last, _ := log.LastIndex()
	at, err := a.readMark(g, first-1)
	if err != nil {
		return commandlog.Start{}, err
	}
	if at.index > last || at.index < first-1 {
		return commandlog.Start{}, &OpenError{Dir: a.dir, Group: g, Log: last, State: at.index, Reason: "log and state do not meet"}
	}
	a.marks[g] = at
	for at.index < last {
		entries, err := log.Entries(at.index+1, last+1, a.opts.Limits.MessageBytes)
		if err != nil {
			return commandlog.Start{}, err
		}
		for _, e := range entries {
			if err := a.forcedEntry(g, e); err != nil {
				return commandlog.Start{}, fmt.Errorf("position %d: %w", e.GetIndex(), err)
			}
		}
		at = a.marks[g]
	}
	hard, _, err := log.InitialState()
	return commandlog.Start{Group: g, Index: max(last, 1), Term: hard.GetTerm() + 1}, err
}

func (a *application) forcedEntry(g uint32, e *pb.Entry) error {
	if e.GetType() == pb.EntryNormal {
		return a.entry(&applyItem{group: g}, e)
	}
	a.marks[g].index, a.marks[g].term = e.GetIndex(), e.GetTerm()
	return nil
}

// standAlone writes what a store that goes on alone must know: where its groups
// are, who votes, which stores there are, and that it counts as restored.
func (a *application) standAlone(replica uint64, starts []commandlog.Start) error {
	encoded, err := encodeConf(starts[0].Conf)
	if err != nil {
		return err
	}
	v, now := state.NewView(a.db), a.opts.Now()
	incarnation, err := renounced(now, 0, historyOf(v))
	if err != nil {
		return err
	}
	commands := []*metadata.Command{{Kind: metadata.KindPutIncarnation, Incarnation: &incarnation}}
	for group := range uint32(groupCount) { // no order that is void is given again
		commands = append(commands, &metadata.Command{Kind: metadata.KindClock, Group: group, Clock: new(metadata.Clock)})
	}
	stores, err := v.Stores()
	if err != nil {
		return err
	}
	if len(stores.Stores) > 0 {
		commands = append(commands, &metadata.Command{Kind: metadata.KindPutStores, Stores: aloneOf(stores, a.id, replica)})
	}
	b := a.machine.NewBatch()
	for _, s := range starts {
		err = errors.Join(err, b.SetRaft(s.Group, &metadata.RaftPosition{Index: s.Index, Term: s.Term, Conf: encoded}))
	}
	for _, c := range commands {
		c.Version, c.Stamp = metadata.CommandVersion, uint64(max(now.UnixMicro(), 0))
		position, perr := b.Position(c.Group)
		res, aerr := b.Apply(c.Group, position+1, c)
		if err = errors.Join(err, perr, aerr); err == nil {
			err = res.Rejected
		}
	}
	if err != nil {
		b.Discard()
		return err
	}
	return b.Commit(pebble.NoSync)
}

// aloneOf returns the table of stores in which the one with an identity has
// another replica id, and all others are gone.
func aloneOf(old *metadata.StoreTable, id commandlog.Identity, replica uint64) *metadata.StoreTable {
	t := &metadata.StoreTable{Version: old.Version + 1, Stores: slices.Clone(old.Stores), Unknown: old.Unknown}
	self := metadata.Store{ID: id.Store}
	for i := range t.Stores {
		if t.Stores[i].Replica == id.Replica {
			self = t.Stores[i]
		}
		t.Stores[i].Role = metadata.StoreGone
	}
	self.Replica, self.Role = replica, metadata.StoreVoter
	if own := t.Find(replica); own != nil { // from before a crash
		*own = self
		return t
	}
	t.Stores = append(t.Stores, self)
	return t
}
