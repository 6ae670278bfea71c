package object

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// topologyCache keeps the tables of placement groups and drives. Readers take
// one pointer and see one version of each.
type topologyCache struct {
	mu     sync.Mutex // one reload at a time
	pgs    atomic.Pointer[metadata.PGTable]
	drives atomic.Pointer[metadata.DriveTable]
}

// ReloadTopology reads the tables of placement groups and drives again. The
// engine does so by itself every Options.TopologyPeriod; whoever changed them
// calls it so that the change counts at once.
func (e *Engine) ReloadTopology(ctx context.Context) error {
	t := e.topology
	t.mu.Lock()
	defer t.mu.Unlock()
	pgs, err := e.meta.PGs(ctx)
	if err != nil {
		return fmt.Errorf("object: placement groups: %w", err)
	}
	drives, err := e.meta.Drives(ctx)
	if err != nil {
		return fmt.Errorf("object: drives: %w", err)
	}
	t.pgs.Store(pgs)
	t.drives.Store(drives)
	return nil
}

// pg returns a placement group that a chunk names.
func (e *Engine) pg(ctx context.Context, id, generation uint32) (*metadata.PG, error) {
	for range 2 {
		table := e.topology.pgs.Load()
		if table != nil && int(id) < len(table.Groups) {
			pg := &table.Groups[id]
			if pg.ID == id && len(pg.Generations) > 0 && pg.Newest().Number >= generation {
				return pg, nil
			}
		}
		if err := e.ReloadTopology(ctx); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("object: placement group %d, generation %d, is not known: %w", id, generation, ErrUnreadable)
}

// homes appends the drives where shard i of a chunk of pg may be, the newest
// generation's first.
func homes(dst []topology.DriveID, pg *metadata.PG, i int) []topology.DriveID {
	for g := len(pg.Generations) - 1; g >= 0; g-- {
		members := pg.Generations[g].Members
		if i >= len(members) {
			continue
		}
		known := false
		for _, d := range dst {
			known = known || d == members[i]
		}
		if !known {
			dst = append(dst, members[i])
		}
	}
	return dst
}

// choosePG returns the placement group for a new chunk: one of those with most
// writable members, by chance.
func (e *Engine) choosePG() (*metadata.PG, error) {
	table := e.topology.pgs.Load()
	if table == nil || len(table.Groups) == 0 {
		return nil, fmt.Errorf("object: no placement groups: %w", ErrUnwritable)
	}
	r, err := e.quick()
	if err != nil {
		return nil, err
	}
	// A few draws find a whole group where most are; else all are looked at.
	best, bestWritable := (*metadata.PG)(nil), -1
	consider := func(pg *metadata.PG) (whole bool) {
		if len(pg.Generations) == 0 {
			return false
		}
		members := pg.Newest().Members
		writable := 0
		for _, d := range members {
			if e.options.Drives.Condition(d).Writable {
				writable++
			}
		}
		if writable > bestWritable {
			best, bestWritable = pg, writable
		}
		return writable == len(members)
	}
	for range 4 {
		if pg := &table.Groups[r.IntN(len(table.Groups))]; consider(pg) {
			return pg, nil
		}
	}
	first := r.IntN(len(table.Groups))
	for i := range table.Groups {
		if consider(&table.Groups[(first+i)%len(table.Groups)]) {
			break
		}
	}
	if best == nil {
		return nil, fmt.Errorf("object: no placement group has members: %w", ErrUnwritable)
	}
	return best, nil
}
