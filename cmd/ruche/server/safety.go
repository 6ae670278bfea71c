package server

import (
	"context"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// movingMembers counts, for each drive, the groups where it does not hold
// everything yet.
func movingMembers(t *metadata.PGTable) map[topology.DriveID]int {
	out := make(map[topology.DriveID]int)
	for i := range t.Groups {
		for _, g := range movers(&t.Groups[i]) {
			out[g]++
		}
	}
	return out
}

// movers are the members of a group that do not hold everything yet.
func movers(pg *metadata.PG) (out []topology.DriveID) {
	for i, member := range pg.Newest().Members {
		if g := cameWith(pg, i, len(pg.Generations)-1); pg.Generations[g].Moving && g > 0 {
			out = append(out, member)
		}
	}
	return out
}

// cameWith returns the generation with which member i of generation g came in,
// the first one there is if it was there already.
func cameWith(pg *metadata.PG, i, g int) int {
	for g > 0 && pg.Generations[g-1].Members[i] == pg.Generations[g].Members[i] {
		g--
	}
	return g
}

// whole reports whether all that member i should hold can be read: what was
// written since a drive came in is there, what was written before is on those
// before it, back to one that has everything of its time.
func whole(pg *metadata.PG, i int, drives object.Drives) bool {
	for g := len(pg.Generations) - 1; ; g-- {
		if !drives.Condition(pg.Generations[g].Members[i]).Readable {
			return false
		}
		if g = cameWith(pg, i, g); g == 0 || !pg.Generations[g].Moving {
			return true
		}
	}
}

// safety is what may still be lost, by the groups' members and by the chunks
// that are known to be short.
func (c *control) safety(ctx context.Context) (*admin.Safety, error) {
	p := c.p
	pgs, err := p.meta.PGs(ctx)
	if err != nil {
		return nil, fmt.Errorf("placement groups: %w", err)
	}
	s := safetyOf(pgs, p.conditions, p.c.OnDriveLoss == "degrade")
	for group := uint32(1); group <= metadata.DataGroups; group++ {
		var after *metadata.Short
		for s.ShortChunks < maxShortRows {
			rows, err := p.meta.Short(ctx, group, after, pageLimit)
			if err != nil {
				return nil, fmt.Errorf("short chunks: %w", err)
			}
			for _, r := range rows {
				s.ShortChunks++
				s.LeastMargin = min(s.LeastMargin, int(r.Margin))
			}
			if len(rows) < pageLimit {
				break
			}
			after = &rows[len(rows)-1]
		}
	}
	s.MayLose = max(0, min(s.MayLose, s.LeastMargin))
	return s, nil
}

// safetyOf looks at groups only. A member that does not hold everything yet
// counts as lost while the one it replaced is away.
func safetyOf(t *metadata.PGTable, drives object.Drives, degrade bool) *admin.Safety {
	s := &admin.Safety{}
	if len(t.Groups) == 0 {
		return s
	}
	s.Parity = int(t.Groups[0].Scheme.Parity)
	s.MayLose = s.Parity
	away := make(map[topology.DriveID]bool)
	for i := range t.Groups {
		pg := &t.Groups[i]
		late := movers(pg)
		lost, writable := 0, 0
		for j, member := range pg.Newest().Members {
			condition := drives.Condition(member)
			if condition.Writable {
				writable++
			}
			if !whole(pg, j, drives) {
				lost++
			}
			if !condition.Readable || slices.Contains(late, member) {
				away[member] = true
			}
		}
		s.MayLose = min(s.MayLose, int(pg.Scheme.Parity)-lost)
		need := min(pg.Scheme.Total(), int(pg.Scheme.Data)+1)
		if degrade && pg.Scheme.Parity == 1 {
			need = int(pg.Scheme.Data)
		}
		s.Writable = s.Writable || writable >= need
	}
	s.Away, s.LeastMargin = len(away), s.MayLose
	return s
}
