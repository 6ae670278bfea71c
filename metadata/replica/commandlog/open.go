package commandlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ruche-storage/ruche/metadata/replica/logcheck"
)

// Exists reports whether dir holds a log.
func Exists(fs vfs.FS, dir string) (bool, error) {
	if fs == nil {
		fs = vfs.Default
	}
	if _, err := fs.Stat(dir); oserror.IsNotExist(err) {
		return false, nil
	}
	desc, err := pebble.Peek(dir, fs)
	if err != nil {
		return false, fmt.Errorf("commandlog: %s: %w", dir, err)
	}
	return desc.Exists, nil
}

// Create makes the log of a store in dir: synced, under another name first, so
// that after a crash dir is either not there or complete. It fails with
// ErrExists if dir is there. Every group's log is empty and begins behind its
// start, which counts as committed.
func Create(dir string, o Options, id Identity, starts []Start) error {
	if err := create(dir, o.withDefaults(), id, starts); err != nil {
		return fmt.Errorf("commandlog: create %s: %w", dir, err)
	}
	return nil
}

func create(dir string, o Options, id Identity, starts []Start) (err error) {
	if _, err := o.FS.Stat(dir); err == nil {
		return ErrExists
	}
	unfinished := dir + ".new"
	if err := o.FS.RemoveAll(unfinished); err != nil {
		return err
	}
	var failure error
	db, err := pebble.Open(unfinished, o.pebbleOptions(func(err error) { failure = err }))
	if err != nil {
		return err
	}
	b := db.NewBatch()
	err = begin(b, id, starts)
	if err == nil {
		err = b.Commit(pebble.Sync)
	}
	if err = errors.Join(err, b.Close(), db.Close(), failure); err != nil {
		return err
	}
	if err := o.FS.Rename(unfinished, dir); err != nil {
		return err
	}
	return syncDir(o.FS, o.FS.PathDir(dir))
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// begin puts an identity and the starts of groups into a batch.
func begin(b *pebble.Batch, id Identity, starts []Start) error {
	if id.Replica == 0 || id.Cluster == [16]byte{} || id.Store == [16]byte{} {
		return invalid(0, 0, 0, "an identity with nothing in it")
	}
	errs := []error{b.Set([]byte{keyIdentity}, id.encode(), nil)}
	for i, s := range starts {
		if slices.ContainsFunc(starts[:i], func(o Start) bool { return o.Group == s.Group }) {
			return invalid(s.Group, s.Index, 0, "two starts of a group")
		}
		conf, err := encodeConf(pb.EnsureConfState(proto.Clone(s.Conf).(*pb.ConfState)))
		mark := start{s.Index, s.Term, firstHash(id, s.Group, s.Index, s.Term)}
		errs = append(errs, err,
			b.Set(groupKey(s.Group, kindHard), hard{term: s.Term, commit: s.Index}.encode(), nil),
			b.Set(groupKey(s.Group, kindStart), mark.encode(), nil),
			b.Set(groupKey(s.Group, kindConf), conf, nil))
	}
	return errors.Join(errs...)
}

// Open opens the log in dir and reads all of it. It fails with an error that
// wraps ErrRot or ErrShort if the log is damaged, ErrForeign if it is not the
// one that Options.Want names, ErrRetired if the store must not serve, and
// ErrVersion if a later program wrote it.
func Open(dir string, o Options) (*Log, error) {
	l := &Log{opts: o.withDefaults(), groups: make(map[uint32]*Group)}
	if err := logcheck.Dir(l.opts.FS, dir); err != nil {
		if errors.Is(err, logcheck.ErrRot) {
			err = fmt.Errorf("%w; replace this replica: %w", ErrRot, err)
		}
		return nil, fmt.Errorf("commandlog: open %s: %w", dir, err)
	}
	p := l.opts.pebbleOptions(l.fail)
	p.ErrorIfNotExists = true
	db, err := pebble.Open(dir, p)
	if pebble.IsCorruptionError(err) {
		err = fmt.Errorf("%w; replace this replica: %w", ErrRot, err)
	}
	if err != nil {
		return nil, fmt.Errorf("commandlog: open %s: %w", dir, err)
	}
	l.db = db
	err = l.load()
	if err == nil {
		err = l.failed()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("commandlog: open %s: %w", dir, err), db.Close())
	}
	return l, nil
}

// load reads and verifies everything.
func (l *Log) load() (err error) {
	iter, err := l.db.NewIter(nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	valid := iter.First()
	for ; valid && iter.Key()[0] < keyGroups; valid = iter.Next() {
		if err := l.loadStore(iter.Key(), iter.Value()); err != nil {
			return err
		}
	}
	if l.id == (Identity{}) && iter.Error() == nil {
		return fmt.Errorf("%w: it has no identity; replace this replica", ErrRot)
	}
	if err := l.opts.Want.matches(l.id); err != nil {
		return err
	}
	var g *loading
	for ; valid; valid = iter.Next() {
		id, k, index, err := parseKey(iter.Key())
		if err != nil {
			return fmt.Errorf("%w; replace this replica: %w", ErrRot, err)
		}
		if g == nil || g.id != id {
			if err := g.finish(); err != nil {
				return err
			}
			g = &loading{Group: &Group{log: l, id: id}}
			l.groups[id] = g.Group
		}
		if err := g.row(k, index, iter.Key(), iter.Value()); err != nil {
			return err
		}
	}
	if err := iter.Error(); err != nil {
		return fmt.Errorf("%w; replace this replica: %w", ErrRot, err)
	}
	if err := g.finish(); err != nil {
		return err
	}
	share := l.opts.EntryCacheBytes / int64(max(len(l.groups), 1))
	for _, g := range l.groups {
		g.shrink(share)
	}
	return nil
}

// matches reports what of another identity is not what is wanted.
func (id Identity) matches(found Identity) error {
	switch {
	case id.Cluster != [16]byte{} && id.Cluster != found.Cluster:
		return fmt.Errorf("%w: it is of cluster %x, not %x; use the directory that belongs here", ErrForeign, found.Cluster, id.Cluster)
	case id.Store != [16]byte{} && id.Store != found.Store:
		return fmt.Errorf("%w: it is of store %x, not %x; use the directory that belongs here", ErrForeign, found.Store, id.Store)
	case id.Replica != 0 && id.Replica != found.Replica:
		return fmt.Errorf("%w: it is of replica %d, not %d; use the directory that belongs here", ErrForeign, found.Replica, id.Replica)
	}
	return nil
}

func (l *Log) loadStore(key, value []byte) (err error) {
	switch {
	case len(key) == 1 && key[0] == keyIdentity:
		if l.id, err = decodeIdentity(value); err != nil {
			return fmt.Errorf("identity: %w", err)
		}
		return nil
	case len(key) == 1 && key[0] == keyForced:
		v, err := cutVersion(value, 8)
		if err != nil {
			return fmt.Errorf("forced: %w", err)
		}
		l.forced = binary.BigEndian.Uint64(v)
		return nil
	case len(key) == 1 && key[0] == keyRetired:
		reason, err := cutVersion(value, atLeast(0))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRetired, err)
		}
		return fmt.Errorf("%w: %s; replace this replica", ErrRetired, reason)
	}
	return fmt.Errorf("%w: key %x", ErrVersion, key)
}

// loading is a group of which rows are read.
type loading struct {
	*Group
	hashed  hash // of the last entry
	hasHard bool
	began   bool
}

func (g *loading) row(k kind, index uint64, key, value []byte) error {
	var err error
	switch k {
	case kindHard:
		g.hard, err = decodeHard(value)
		g.hasHard = err == nil
	case kindStart:
		g.start, err = decodeStart(value)
		g.began, g.last, g.hashed = err == nil, g.start.index, g.start.hash
		g.terms = []termRun{{g.start.index, g.start.term}}
	case kindConf:
		g.conf, err = decodeConf(value)
	case kindInstalling:
		var i Installing
		i, err = decodeInstalling(value)
		g.installing = &i
	case kindDamaged:
		var d Damage
		d, err = decodeDamage(value)
		g.damaged = &d
	case kindEntry:
		return g.entry(index, key, value)
	default:
		return fmt.Errorf("%w: key %x", ErrVersion, key)
	}
	if err != nil && !errors.Is(err, ErrVersion) {
		return rot(g.id, 0, 0, "row %d: %v", k, err)
	}
	return err
}

func (g *loading) entry(index uint64, key, value []byte) error {
	if !g.began {
		return rot(g.id, index, 0, "the start is missing")
	}
	e, h, err := g.decode(key, value, g.last+1)
	if err != nil {
		return err
	}
	if link(g.hashed, e) != h {
		return rot(g.id, index, index-1, "hash chain")
	}
	if e.GetTerm() < g.terms[len(g.terms)-1].term {
		return rot(g.id, index, index-1, "term %d falls", e.GetTerm())
	}
	g.hashed = h
	g.push(cached{e, h}, uint32(len(key)+len(value)))
	if most := g.log.opts.EntryCacheBytes / 8; g.inCache > most {
		g.shrink(most / 2)
	}
	return nil
}

// finish verifies what a group's rows say together. g may be nil.
func (g *loading) finish() error {
	switch {
	case g == nil:
		return nil
	case !g.began || !g.hasHard || g.conf == nil:
		return rot(g.id, 0, 0, "the start, promise or configuration is missing")
	case g.hard.commit > g.last:
		return &PositionError{Group: g.id, At: g.hard.commit, Bound: g.last, Err: ErrShort}
	case g.hard.commit < g.start.index:
		return rot(g.id, g.hard.commit, g.start.index, "the commit lies before the start")
	case g.hard.term < g.terms[len(g.terms)-1].term:
		return rot(g.id, g.last, 0, "term %d is below the last entry's", g.hard.term)
	}
	return nil
}

// shrink keeps no more than about share bytes in the cache.
func (g *Group) shrink(share int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for own := g.inCache; own > share; n++ {
		own -= cost(g.newest[n].entry)
	}
	g.evict(n)
}
