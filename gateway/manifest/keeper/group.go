package keeper

import (
	"context"
	"errors"
	"fmt"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// writeTries is how often a page is written when drives fail one after the
// other.
const writeTries = 4

// errNoDrives means that no drive takes manifests.
var errNoDrives = errors.New("keeper: no drive takes manifests")

// writePage makes what a page of a data group's outbox says durable on all
// manifest drives, and moves the cursor.
func (g *group) writePage(ctx context.Context, entries []metadata.OutboxEntry) error {
	if err := g.turn.Acquire(ctx, 1); err != nil {
		return err
	}
	defer g.turn.Release(1)
	changes := gather(entries)
	var ahead map[metadata.KeyRef]uint64
	set, err := g.write(ctx, func(s *sink) (err error) {
		ahead, err = g.encode(ctx, s, changes)
		return err
	})
	if err != nil {
		return err
	}
	if err := g.manifested(ctx, entries[len(entries)-1].Order, set); err != nil {
		return fmt.Errorf("keeper: cursor of group %d: %w", g.id, err)
	}
	g.ahead = ahead
	return nil
}

// write has fill add to a sink until all manifest drives have everything:
// drives that fail are replaced, and it begins again. It returns the set of
// drives. The caller holds the turn.
func (g *group) write(ctx context.Context, fill func(s *sink) error) (set uint64, err error) {
	for range writeTries {
		row, err := g.members(ctx)
		if err != nil {
			return 0, err
		}
		drives := writersOf(row)
		if len(drives) == 0 {
			return 0, errNoDrives
		}
		s, err := g.k.newSink(g.id, row.Version, drives)
		if err != nil {
			return 0, err
		}
		if err := fill(s); err != nil {
			s.abort()
			return 0, err
		}
		failed, err := s.close(ctx)
		if err != nil {
			return 0, err
		}
		if len(failed) == 0 {
			return row.Set, nil
		}
		if err := g.replace(ctx, row, failed); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("keeper: group %d: too many drives fail: %w", g.id, errNoDrives)
}

// writersOf returns the drives that get new manifests.
func writersOf(row *metadata.ManifestMembers) []topology.DriveID {
	var drives []topology.DriveID
	for i := range row.Members {
		if row.Members[i].Writes() {
			drives = append(drives, row.Members[i].Drive)
		}
	}
	return drives
}
