package object

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

const (
	freedRows   = 4096  // dropped together at most
	freedChunks = 16384 // whose shards are freed before a drop is due
	dropRows    = 64    // in one command
)

// freedTrash is trash whose shards were freed and whose rows stay until that is
// durable: the index of a drive has no log, so a crash would bring the rows of
// shards back as live ones, which nobody looks up for a long time. Drives make it
// durable for many rows at once.
type freedTrash struct {
	groups       [metadata.DataGroups + 1][]freedRow
	rows, chunks int
	drives       map[topology.DriveID]struct{} // where something was freed
}

// freedRow is a row of trash, or some parts of it.
type freedRow struct {
	ref    metadata.TrashRef
	chunks []metadata.ChunkID // that nobody else may have in hand meanwhile
	parts  int
	bytes  int64
}

func (f *freedTrash) add(group uint32, row freedRow, drives []topology.DriveID) {
	if f.drives == nil {
		f.drives = make(map[topology.DriveID]struct{})
	}
	f.groups[group] = append(f.groups[group], row)
	f.rows++
	f.chunks += len(row.chunks)
	for _, drive := range drives {
		f.drives[drive] = struct{}{}
	}
}

func (f *freedTrash) full() bool { return f.rows >= freedRows || f.chunks >= freedChunks }

// dropFreed makes durable on all drives what was freed, and drops the rows. It
// returns how many stay: what went wrong is kept for the state of the collector,
// and all of it is done once more by a later pass.
func (c *collector) dropFreed(ctx context.Context) (left int) {
	f := c.freed
	c.freed = freedTrash{}
	defer func() {
		for _, rows := range f.groups {
			for i := range rows {
				c.g.chunks.release(rows[i].chunks...)
			}
		}
	}()
	if err := c.settleDrives(ctx, f.drives); err != nil {
		c.notDropped(ctx, err)
		return f.rows
	}
	for group, rows := range f.groups {
		for page := range slices.Chunk(rows, dropRows) {
			if err := c.dropRows(ctx, uint32(group), page); err != nil {
				c.notDropped(ctx, fmt.Errorf("trash of group %d: %w", group, err))
				left += len(page)
			}
		}
	}
	return left
}

func (c *collector) notDropped(ctx context.Context, err error) {
	if ctx.Err() == nil {
		c.failed(err)
	}
}

// settleDrives makes durable what drives have freed. One that is away looks up
// all it holds when it returns.
func (c *collector) settleDrives(ctx context.Context, drives map[topology.DriveID]struct{}) error {
	var wg sync.WaitGroup
	var mu sync.Mutex // guards errs
	var errs []error
	for drive := range drives {
		wg.Go(func() {
			_, err := c.g.guard.do(ctx, drive, longCall, func(ctx context.Context) error {
				return c.g.e.shards.Settle(ctx, drive)
			})
			if err == nil || away(err) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, fmt.Errorf("what was freed on drive %s may come back: %w", drive, err))
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// dropRows drops rows of one group.
func (c *collector) dropRows(ctx context.Context, group uint32, rows []freedRow) error {
	epoch, release, err := c.g.lease()
	if err != nil {
		return err
	}
	defer release()
	drop := &metadata.DropTrash{Rows: make([]metadata.TrashRef, len(rows))}
	for i := range rows {
		drop.Rows[i] = rows[i].ref
	}
	cmd := &metadata.Command{Kind: metadata.KindDropTrash, Version: 1, Group: group, Epoch: epoch, DropTrash: drop}
	if _, err := c.g.e.propose(ctx, cmd); err != nil {
		return err
	}
	c.count(func(s *CollectState) {
		for i := range rows {
			s.TrashParts += uint64(rows[i].parts)
			s.TrashBytes += uint64(rows[i].bytes)
			if rows[i].ref.Done {
				s.TrashRows++
			}
		}
	})
	return nil
}
