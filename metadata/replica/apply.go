package replica

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
	"github.com/ruche-storage/ruche/metadata/state"
)

// Append stores in the log what groups have to store, in one batch. When it
// returns nil, that is on stable storage and w may be given to Appended.
func (s *Store) Append(w *AppendWork) error {
	writes := make([]commandlog.Write, 0, len(w.items))
	for _, it := range w.items {
		write := commandlog.Write{Group: it.group, Entries: it.entries, HardState: it.hard}
		if it.snapshot != nil {
			meta := it.snapshot.GetMetadata()
			write.Reset = &commandlog.Mark{Index: meta.GetIndex(), Term: meta.GetTerm(), Conf: pb.EnsureConfState(meta.GetConfState())}
			copy(write.Reset.Snapshot[:], it.snapshot.GetData())
		}
		writes = append(writes, write)
	}
	return s.guard(func() error { return s.log.Append(writes) })
}

// Apply changes the state as committed entries want it. When it returns nil,
// reads see the changes, w.Outcomes has the results, and w may be given to
// Applied. The changes are not durable: the log keeps them until they are.
func (s *Store) Apply(w *ApplyWork) error {
	return s.guard(func() error {
		a := &application{Store: s, work: w, compares: true}
		if err := a.run(); err != nil {
			if a.batch != nil {
				a.batch.Discard()
			}
			return errors.Join(err, dropComparisons(w))
		}
		return nil
	})
}

// application carries out one ApplyWork.
type application struct {
	*Store
	work    *ApplyWork
	batch   *state.Batch
	touched [groupCount]bool // groups of the batch
	wished  bool             // the table of stores was replaced

	compares bool // comparisons are wanted
}

func (a *application) run() error {
	for _, it := range a.work.items {
		if special := a.special(it); special != nil {
			if err := a.commit(); err != nil {
				return err
			}
			if err := special(it); err != nil {
				return err
			}
			continue
		}
		for _, e := range it.entries {
			if err := a.entry(it, e); err != nil {
				return fmt.Errorf("replica: group %d, position %d: %w", it.group, e.GetIndex(), err)
			}
		}
	}
	if err := a.commit(); err != nil {
		return err
	}
	if a.wished {
		wish, err := state.NewView(a.db).Stores()
		if err != nil {
			return err
		}
		a.work.wish = wish
	}
	a.publish()
	return nil
}

// special returns what is to be done for an item that is not of entries.
func (a *application) special(it *applyItem) func(*applyItem) error {
	switch {
	case it.snapshot != nil:
		return a.install
	case it.damage != nil:
		return a.breakGroup
	case it.repair != nil:
		return a.replaceBroken
	}
	return nil
}

// entry applies one entry, unless the state holds it already.
func (a *application) entry(it *applyItem, e *pb.Entry) error {
	at := &a.marks[it.group]
	if e.GetIndex() <= at.index {
		return nil
	}
	if e.GetIndex() != at.index+1 {
		return fmt.Errorf("the state is at %d", at.index)
	}
	if a.batch == nil {
		a.batch = a.machine.NewBatch()
	}
	change, err := decodeChange(e)
	switch {
	case err != nil:
	case change != nil:
		it.changes = append(it.changes, change)
		if at.conf, err = changeConf(at.conf, change); err == nil {
			it.conf = at.conf
			at.encoded, err = encodeConf(at.conf)
		}
	case a.broken[it.group]:
	case isComparison(e.GetData()):
		at.index, at.term = e.GetIndex(), e.GetTerm()
		a.touched[it.group] = true
		return a.compare(it.group, e)
	case len(e.GetData()) > 0:
		err = a.command(it.group, e)
	}
	if err != nil {
		return err
	}
	at.index, at.term = e.GetIndex(), e.GetTerm()
	// What a damaged state has passed over is applied to the one that replaces
	// it, so the mark on the disk stays where it is, and the log keeps it.
	a.touched[it.group] = !a.broken[it.group]
	if a.batch.Len() >= a.opts.BatchBytes {
		return a.commit()
	}
	return nil
}

func (a *application) command(group uint32, e *pb.Entry) error {
	ticket, cmd, err := a.decode(e.GetData())
	if err != nil {
		return err
	}
	position, err := a.batch.Position(group)
	if err != nil {
		return err
	}
	res, err := a.batch.Apply(group, position+1, cmd)
	if err != nil {
		return err
	}
	a.wished = a.wished || cmd.Kind == metadata.KindPutStores
	a.work.Outcomes = append(a.work.Outcomes, Outcome{Ticket: ticket, Group: group, Index: e.GetIndex(), Result: res})
	return nil
}

// decode returns what an entry says. The command must not be changed.
func (s *Store) decode(data []byte) (Ticket, *metadata.Command, error) {
	t, err := decodeTicket(data)
	if err != nil {
		return t, nil, err
	}
	if cmd := s.opts.shared.get(t, data); cmd != nil {
		return t, cmd, nil
	}
	cmd := new(metadata.Command)
	_, err = decodeEntry(data, cmd)
	return t, cmd, err
}

// commit writes the batch, with the positions that it makes true.
func (a *application) commit() error {
	if a.batch == nil {
		return nil
	}
	for g, touched := range a.touched {
		if touched {
			at := &a.marks[g]
			err := a.batch.SetRaft(uint32(g), &metadata.RaftPosition{Index: at.index, Term: at.term, Conf: at.encoded})
			if err != nil {
				return err
			}
		}
	}
	b := a.batch
	a.batch, a.touched = nil, [groupCount]bool{}
	return b.Commit(pebble.NoSync)
}

// publish lets readers see what was applied.
func (s *Store) publish() {
	v := &view{snap: s.db.NewSnapshot()}
	for g := range s.marks {
		v.applied[g] = s.marks[g].index
		_, v.damaged[g] = s.log.Group(uint32(g)).Damaged()
	}
	s.closeSnapshots(s.views.publish(v))
}

// install puts a received snapshot in the place of a group's state. Nobody may
// read meanwhile: an older view would show an empty group.
func (a *application) install(it *applyItem) error {
	a.discardViews()
	a.replaced[it.group].Add(1)
	if err := a.putInPlace(it.group, snapshotID(it.snapshot)); err != nil {
		return err
	}
	a.broken[it.group] = false
	first, err := a.log.Group(it.group).FirstIndex()
	if err != nil {
		return err
	}
	at, err := a.readMark(it.group, first-1)
	if err != nil {
		return err
	}
	if want := it.index(); at.index != want {
		return fmt.Errorf("replica: group %d: the snapshot is of position %d, wanted %d", it.group, at.index, want)
	}
	a.marks[it.group] = at
	a.machine = state.NewKnowing(a.db, a.opts.Knows) // the old one remembers rows
	a.wished = a.wished || it.group == metadata.RootGroup
	a.installing[it.group].Store(false)
	return a.opts.checkVersions(state.NewView(a.db))
}

// putInPlace installs a staged snapshot and then removes its mark.
func (s *Store) putInPlace(group uint32, id snapshot.ID) error {
	staged, err := s.stage.Find(context.Background(), id)
	if err != nil {
		return err
	}
	if err := snapshot.Install(context.Background(), s.db, staged); err != nil {
		return err
	}
	if _, damaged := s.log.Group(group).Damaged(); damaged {
		if err := s.log.ClearDamaged(group); err != nil {
			return err
		}
	}
	if err := s.log.ClearInstalling(group, id); err != nil {
		return err
	}
	return s.stage.Remove(id)
}

// reinstall finishes the installation that an end of the process has cut off.
func (s *Store) reinstall(group uint32) error {
	log := s.log.Group(group)
	if log == nil {
		return nil
	}
	if i, ok := log.Installing(); ok {
		return s.putInPlace(group, i.Snapshot)
	}
	return nil
}

// snapshotID returns the id of the staged snapshot that Raft was told of.
func snapshotID(s *pb.Snapshot) (id snapshot.ID) {
	copy(id[:], s.GetData())
	return id
}

// Export begins the export of a group's state for a member that asks for it.
// The caller closes it. It may be called at any time.
func (s *Store) Export(group uint32, o snapshot.ExportOptions) (*snapshot.Export, error) {
	if err := s.Failed(); err != nil {
		return nil, err
	}
	v := s.views.acquire()
	if v == nil {
		return nil, fmt.Errorf("replica: group %d: %w: a snapshot is being installed", group, metadata.ErrUnavailable)
	}
	defer s.views.release(v)
	if v.damaged[group] {
		return nil, fmt.Errorf("replica: group %d: %w: its state is damaged", group, metadata.ErrUnavailable)
	}
	p, found, err := state.NewView(v.snap).Raft(group)
	if err != nil {
		return nil, err
	}
	if !found {
		at, err := s.readMark(group, v.applied[group])
		if err != nil {
			return nil, err
		}
		p = metadata.RaftPosition{Index: at.index, Term: at.term, Conf: at.encoded}
	}
	tables := s.opts.pebbleOptions(s.fs, s.cache, s.fail)
	tables.EnsureDefaults()
	o.Tables = tables.MakeWriterOptions(0, s.db.TableFormat())
	h := snapshot.Header{Cluster: s.id.Cluster, Group: group, Index: p.Index, Term: p.Term, Conf: p.Conf}
	return snapshot.Open(v.snap, group, func(func([]byte) ([]byte, error)) (snapshot.Header, error) {
		return h, s.newSnapshotID(&h.ID)
	}, o)
}

// Stage is where snapshots are received. See [Store.Restore].
func (s *Store) Stage() *snapshot.Stage { return s.stage }

// Installing reports whether a received snapshot of a group is being put in
// place. No other one may be received meanwhile.
func (s *Store) Installing(group uint32) bool { return s.installing[group].Load() }

// Restore tells the group's member of a snapshot that lies complete in the
// stage, sent by a store that led the group in a term. It reports whether the
// snapshot will be installed; otherwise the member needs it no more.
func (s *Store) Restore(from, term uint64, h snapshot.Header) (bool, error) {
	conf, err := decodeConf(h.Conf)
	if err != nil {
		return false, err
	}
	taken := false
	s.guarded(h.Group, func(m *member) {
		if !s.agrees(m, from, term, h.Index, h.Term) {
			return
		}
		m.sign(term)
		m.wake()
		_ = m.node.Step(&pb.Message{
			Type: pb.MsgSnap.Enum(), From: new(from), To: new(s.replica), Term: new(term),
			Snapshot: &pb.Snapshot{
				Data:     h.ID[:],
				Metadata: &pb.SnapshotMetadata{Index: new(h.Index), Term: new(h.Term), ConfState: conf},
			},
		})
		s.collect(m)
		it := s.append.items[h.Group]
		taken = it != nil && !raft.IsEmptySnap(it.snapshot) && snapshotID(it.snapshot) == h.ID || s.repair(m, h)
		if taken {
			s.installing[h.Group].Store(true)
		}
	})
	return taken, s.stopped
}
