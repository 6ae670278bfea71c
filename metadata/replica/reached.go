package replica

import (
	"fmt"
	"slices"
)

// A RolledBackError says that the log of a store ends before what the store had
// applied once, as [StoreOptions.Reached] knows: its files were put back to an
// earlier time, or the end of its log is lost. It has forgotten what it had
// promised, and must be replaced under a new replica id.
type RolledBackError struct {
	Dir     string
	Group   uint32
	Log     uint64 // last position of the log
	Reached uint64 // that the store had applied
}

// Error implements error.
func (e *RolledBackError) Error() string {
	return fmt.Sprintf("replica: store %s: the log of group %d ends at %d, and it had reached %d: "+
		"the files were put back to an earlier time, or the end of the log is lost", e.Dir, e.Group, e.Log, e.Reached)
}

// Positions returns the position of each group that is on stable storage. It
// waits for nothing, and never returns less than it did.
func (l *Local) Positions() []uint64 {
	out := make([]uint64, groupCount)
	for g := range out {
		out[g] = l.reached[g].Load()
	}
	return out
}

// StorePositions says up to where a store has applied the groups.
type StorePositions struct {
	Replica   uint64
	Dir       string
	Positions []uint64 // by group
}

// Positions returns the position of each group up to which the stores that run
// have applied it. What is applied is in their logs, on stable storage. It waits
// for nothing; a store that is taking in a snapshot is left out.
func (e *Replicated) Positions() (out []StorePositions) {
	for _, r := range *e.runners.Load() {
		if r.failed() != nil {
			continue
		}
		if at := r.store.Positions(); at != nil {
			out = append(out, StorePositions{Replica: r.id(), Dir: r.store.Dir(), Positions: at})
		}
	}
	return out
}

// Positions returns the position up to which each group is applied, nil if that
// cannot be told at present. The log has all of it on stable storage. It may be
// called at any time.
func (s *Store) Positions() []uint64 {
	v := s.views.acquire()
	if v == nil {
		return nil
	}
	defer s.views.release(v)
	return slices.Clone(v.applied[:])
}
