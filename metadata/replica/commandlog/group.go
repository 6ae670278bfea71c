package commandlog

import (
	"errors"
	"fmt"
	"sort"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// A Group is the log of one group. With a method Snapshot it is a
// [raft.Storage]. All methods may be called concurrently.
type Group struct {
	log *Log
	id  uint32

	// cutting is held while the start moves, so that a cut and a reset never
	// meet.
	cutting sync.Mutex

	// mu guards what is below. It is all stored, and newer than what is stored
	// only where the sync was left out.
	mu         sync.RWMutex
	hard       hard
	start      start
	conf       *pb.ConfState // since Create, Restart or the last reset
	installing *Installing
	damaged    *Damage

	last    uint64
	bytes   int64
	sizes   []uint32  // stored bytes of each entry behind start
	terms   []termRun // ascending; the first one is start's
	newest  []cached  // the newest entries, up to last
	inCache int64
}

// termRun says that entries from an index on have a term.
type termRun struct{ from, term uint64 }

// cached is an entry in memory.
type cached struct {
	entry *pb.Entry
	hash  hash
}

// InitialState returns the stored HardState, and the configuration with which
// the group's log began: at Create, Restart or the last Reset. Raft needs the
// one of the applied position instead, which is in the state's row; a caller
// whose state has applied more must put that in its place.
func (g *Group) InitialState() (*pb.HardState, *pb.ConfState, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	h := &pb.HardState{Term: new(g.hard.term), Vote: new(g.hard.vote), Commit: new(g.hard.commit)}
	return h, proto.Clone(g.conf).(*pb.ConfState), nil
}

// Commit returns the stored commit. What was applied may be ahead of it by
// what Raft has not handed out for storing yet.
func (g *Group) Commit() uint64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.hard.commit
}

// FirstIndex implements [raft.Storage]. It does not read the disk.
func (g *Group) FirstIndex() (uint64, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.start.index + 1, nil
}

// LastIndex implements [raft.Storage]. It does not read the disk.
func (g *Group) LastIndex() (uint64, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.last, nil
}

// Term implements [raft.Storage]. It does not read the disk.
func (g *Group) Term(i uint64) (uint64, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	switch {
	case i < g.start.index:
		return 0, raft.ErrCompacted
	case i > g.last:
		return 0, raft.ErrUnavailable
	}
	return g.term(i), nil
}

// term is called with mu held and an index from start to last.
func (g *Group) term(i uint64) uint64 {
	n := sort.Search(len(g.terms), func(n int) bool { return g.terms[n].from > i })
	return g.terms[n-1].term
}

// Len returns how many entries the group has.
func (g *Group) Len() int {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return len(g.sizes)
}

// Bytes returns how many bytes the group's entries take as they are stored.
func (g *Group) Bytes() int64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.bytes
}

// Tail returns the position behind which the newest entries take no more than
// so many bytes as they are stored.
func (g *Group) Tail(bytes int64) uint64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	n := len(g.sizes)
	for n > 0 && bytes >= int64(g.sizes[n-1]) {
		n--
		bytes -= int64(g.sizes[n])
	}
	return g.start.index + uint64(n)
}

// Installing returns the mark of a snapshot that is being installed.
func (g *Group) Installing() (Installing, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.installing == nil {
		return Installing{}, false
	}
	return *g.installing, true
}

// Damaged returns why the group's state must be replaced.
func (g *Group) Damaged() (Damage, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.damaged == nil {
		return Damage{}, false
	}
	return *g.damaged, true
}

// Entries implements [raft.Storage]. What is not in memory is read from the
// disk and verified; rot fails the log, and Raft with it.
func (g *Group) Entries(lo, hi, maxSize uint64) ([]*pb.Entry, error) {
	g.mu.RLock()
	if err := g.within(lo, hi); err != nil {
		g.mu.RUnlock()
		return nil, err
	}
	cacheFrom := g.last + 1 - uint64(len(g.newest))
	if lo >= cacheFrom {
		defer g.mu.RUnlock()
		return limit(g.newest[lo-cacheFrom:hi-cacheFrom], maxSize), nil
	}
	s := g.start
	g.mu.RUnlock()
	for {
		entries, err := g.read(s, lo, hi, maxSize)
		if err == nil {
			return entries, nil
		}
		// A cut may have come before the read.
		now := g.settled()
		switch {
		case lo <= now.index:
			return nil, raft.ErrCompacted
		case now == s:
			g.log.fail(err)
			return nil, err
		}
		s = now
	}
}

// settled returns the start once no cut is in flight.
func (g *Group) settled() start {
	g.cutting.Lock()
	defer g.cutting.Unlock()
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.start
}

func (g *Group) within(lo, hi uint64) error {
	switch {
	case lo <= g.start.index:
		return raft.ErrCompacted
	case hi > g.last+1 || lo >= hi:
		return raft.ErrUnavailable
	}
	return nil
}

// limit returns the entries of a piece of the cache that fit into maxSize, at
// least one.
func limit(from []cached, maxSize uint64) []*pb.Entry {
	entries := make([]*pb.Entry, 0, min(len(from), 256))
	size := uint64(0)
	for _, c := range from {
		size += uint64(proto.Size(c.entry))
		if len(entries) > 0 && size > maxSize {
			break
		}
		entries = append(entries, c.entry)
	}
	return entries
}

// read reads entries from the disk, with the hash of the one before, and
// verifies them.
func (g *Group) read(s start, lo, hi, maxSize uint64) (entries []*pb.Entry, err error) {
	before, known := s.hash, lo == s.index+1
	from := lo
	if !known {
		from = lo - 1
	}
	iter, err := g.log.db.NewIter(&pebble.IterOptions{LowerBound: entryKey(g.id, from), UpperBound: entryKey(g.id, hi)})
	if err != nil {
		return nil, fmt.Errorf("commandlog: group %d: %w", g.id, err)
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	size, next := uint64(0), from
	for iter.First(); iter.Valid(); iter.Next() {
		e, h, err := g.decode(iter.Key(), iter.Value(), next)
		if err != nil {
			return nil, err
		}
		if known && link(before, e) != h {
			return nil, rot(g.id, next, next-1, "hash chain")
		}
		before, known, next = h, true, next+1
		if e.GetIndex() < lo {
			continue
		}
		size += uint64(proto.Size(e))
		if len(entries) > 0 && size > maxSize {
			return entries, nil
		}
		entries = append(entries, e)
	}
	if err := iter.Error(); err != nil {
		return nil, &PositionError{Group: g.id, At: next, Detail: err.Error(), Err: ErrRot}
	}
	if next != hi {
		return nil, rot(g.id, next, 0, "entry is missing")
	}
	return entries, nil
}

// decode decodes a stored entry that must have the index want.
func (g *Group) decode(key, value []byte, want uint64) (*pb.Entry, hash, error) {
	_, _, index, err := parseKey(key)
	if err != nil {
		return nil, hash{}, rot(g.id, want, 0, "%v", err)
	}
	if index != want {
		return nil, hash{}, rot(g.id, want, index, "entry is missing")
	}
	e, h, err := decodeEntry(index, value)
	if errors.Is(err, ErrVersion) {
		return nil, hash{}, fmt.Errorf("commandlog: group %d, position %d: %w", g.id, index, err)
	}
	if err != nil {
		return nil, hash{}, rot(g.id, index, 0, "%v", err)
	}
	return e, h, nil
}

// hashOf returns the hash of an entry, or of the start.
func (g *Group) hashOf(index uint64) (hash, error) {
	if h, ok := g.knownHash(index); ok {
		return h, nil
	}
	value, closer, err := g.log.db.Get(entryKey(g.id, index))
	if err != nil {
		return hash{}, rot(g.id, index, 0, "%v", err)
	}
	_, h, err := g.decode(entryKey(g.id, index), value, index)
	return h, errors.Join(err, closer.Close())
}

// knownHash is hashOf without the disk.
func (g *Group) knownHash(index uint64) (hash, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if index == g.start.index {
		return g.start.hash, true
	}
	if from := g.last + 1 - uint64(len(g.newest)); index >= from && index <= g.last {
		return g.newest[index-from].hash, true
	}
	return hash{}, false
}

// cutPoint returns the start that a cut up to an index leads to, and false if
// there is nothing to cut. It is called with cutting held.
func (g *Group) cutPoint(upto uint64) (s start, ok bool, err error) {
	g.mu.RLock()
	upto = min(upto, g.hard.commit)
	if upto <= g.start.index {
		g.mu.RUnlock()
		return start{}, false, nil
	}
	s = start{index: upto, term: g.term(upto)}
	g.mu.RUnlock()
	s.hash, err = g.hashOf(upto)
	return s, err == nil, err
}

// cut moves the start up to an entry.
func (g *Group) cut(s start) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := int(s.index - g.start.index)
	for _, size := range g.sizes[:n] {
		g.bytes -= int64(size)
	}
	g.sizes = g.sizes[n:]
	g.start = s
	for len(g.terms) > 1 && g.terms[1].from <= s.index {
		g.terms = g.terms[1:]
	}
	g.terms[0] = termRun{s.index, s.term}
	if over := len(g.newest) - len(g.sizes); over > 0 {
		g.evict(over)
	}
}

// evict drops the oldest n entries from the cache. It is called with mu held.
func (g *Group) evict(n int) {
	freed := int64(0)
	for i := range g.newest[:n] {
		freed += cost(g.newest[i].entry)
		g.newest[i] = cached{} // the array stays until the slice outgrows it
	}
	g.newest = g.newest[n:]
	g.inCache -= freed
	g.log.cached.Add(-freed)
}

// cost is about what an entry takes in memory.
func cost(e *pb.Entry) int64 { return int64(len(e.GetData())) + 200 }
