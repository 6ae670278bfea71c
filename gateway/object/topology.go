package object

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/placement"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// topologyCache keeps the tables of placement groups and drives. Readers take
// one pointer and see one version of each.
type topologyCache struct {
	turn    *semaphore.Weighted // one reload at a time
	pgs     atomic.Pointer[metadata.PGTable]
	drives  atomic.Pointer[metadata.DriveTable]
	chooser atomic.Pointer[chooser] // nil: to be made anew
}

// ReloadTopology reads the tables of placement groups and drives again. The
// engine does so by itself every Options.TopologyPeriod; whoever changed them
// calls it so that the change counts at once.
func (e *Engine) ReloadTopology(ctx context.Context) error {
	t := e.topology
	if err := t.turn.Acquire(ctx, 1); err != nil {
		return err
	}
	defer t.turn.Release(1)
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
	t.chooser.Store(nil)
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

// chooserAge is how long a choice of placement groups relies on what was known
// of the drives. A shard that could not be written ends it at once.
const chooserAge = time.Second

// chooser is a prepared choice of placement groups.
type chooser struct {
	*placement.Chooser
	table *metadata.PGTable // that it chooses from; of another it is void
	made  time.Time
	full  bool // there is no choice, and would be if no drive were full
}

// newChooser prepares a choice by what is known of the drives now. Those that
// are suspect count as unavailable, unless nothing else is left.
func (e *Engine) newChooser(table *metadata.PGTable, now time.Time) *chooser {
	load := func(suspects bool) func(topology.DriveID) placement.Load {
		return func(d topology.DriveID) placement.Load {
			k := e.options.Drives.Condition(d)
			return placement.Load{Writable: k.Writable && (suspects || !e.suspects.has(d)), FreeBytes: k.FreeBytes, Queue: k.Queue}
		}
	}
	c := &chooser{table: table, made: now, Chooser: placement.NewChooser(table, load(false))}
	if _, err := c.Choose(0); err != nil {
		c.Chooser = placement.NewChooser(table, load(true))
	}
	if _, err := c.Choose(0); err != nil {
		// A drive that is read and takes nothing has no room.
		_, err := placement.NewChooser(table, func(d topology.DriveID) placement.Load {
			return placement.Load{Writable: e.options.Drives.Condition(d).Readable}
		}).Choose(0)
		c.full = err == nil
	}
	return c
}

// choosePG returns the placement group for a new chunk: by chance, one of
// those with most writable members.
func (e *Engine) choosePG() (*metadata.PG, error) {
	now := e.options.Now()
	table := e.topology.pgs.Load()
	if table == nil {
		return nil, fmt.Errorf("object: not started: %w", metadata.ErrUnavailable)
	}
	c := e.topology.chooser.Load()
	if c == nil || c.table != table || now.Sub(c.made) > chooserAge {
		c = e.newChooser(table, now)
		e.topology.chooser.Store(c)
	}
	var random [8]byte
	if err := e.random(random[:]); err != nil {
		return nil, err
	}
	choice, err := c.Choose(binary.LittleEndian.Uint64(random[:]))
	if err != nil {
		class := ErrUnwritable
		if c.full {
			class = ErrFull
		}
		return nil, fmt.Errorf("object: %w: %w", class, err)
	}
	return choice.PG, nil
}
