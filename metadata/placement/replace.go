package placement

import (
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Replace returns the table in which to takes the place of from, with the next
// version. Each group whose newest generation holds from gets one more
// generation, which is moving until [Close]. It returns how many groups
// changed; with none, the table is t itself.
func Replace(t *metadata.PGTable, from, to topology.DriveID) (*metadata.PGTable, int, error) {
	if from == to || to.IsZero() {
		return nil, 0, fmt.Errorf("placement: replace %s by %s: not another drive", from, to)
	}
	next := &metadata.PGTable{Version: t.Version + 1, Groups: slices.Clone(t.Groups), Unknown: t.Unknown}
	changed := 0
	for i := range next.Groups {
		pg := &next.Groups[i]
		newest := pg.Newest()
		at := slices.Index(newest.Members, from)
		if at < 0 {
			continue
		}
		if slices.Contains(newest.Members, to) {
			return nil, 0, fmt.Errorf("placement: replace %s by %s in group %d: %w", from, to, pg.ID, ErrMember)
		}
		members := slices.Clone(newest.Members)
		members[at] = to
		pg.Generations = append(slices.Clone(pg.Generations),
			metadata.Generation{Number: newest.Number + 1, Members: members, Moving: true})
		changed++
	}
	if changed == 0 {
		return t, 0, nil
	}
	return next, changed, nil
}

// Close returns the table in which a generation of a group is not moving any
// more, with the next version: a scan has proved that every chunk of the group
// is on the drive that the generation brought in. The earlier generations are
// gone from it, so it is [ErrMoving] while one of them still waits for a drive
// that the closed one relies on. A drive that was replaced again before it had
// everything need not be waited for.
func Close(t *metadata.PGTable, pg, generation uint32) (*metadata.PGTable, error) {
	if int(pg) >= len(t.Groups) || t.Groups[pg].ID != pg {
		return nil, fmt.Errorf("placement: close group %d: %w", pg, ErrNoSuchGroup)
	}
	at := slices.IndexFunc(t.Groups[pg].Generations, func(g metadata.Generation) bool { return g.Number == generation })
	if at < 0 {
		return nil, fmt.Errorf("placement: close generation %d of group %d: %w", generation, pg, ErrNoSuchGroup)
	}
	if waits(t.Groups[pg].Generations[:at+1]) {
		return nil, fmt.Errorf("placement: close generation %d of group %d: %w", generation, pg, ErrMoving)
	}
	next := &metadata.PGTable{Version: t.Version + 1, Groups: slices.Clone(t.Groups), Unknown: t.Unknown}
	next.Groups[pg].Generations = slices.Clone(t.Groups[pg].Generations[at:])
	next.Groups[pg].Generations[0].Moving = false
	return next, nil
}

// waits reports whether a generation before the last of gens brought in a
// drive that the last one has at the same place.
func waits(gens []metadata.Generation) bool {
	last := gens[len(gens)-1].Members
	for i := 1; i < len(gens)-1; i++ {
		for j, id := range gens[i].Members {
			if gens[i].Moving && id != gens[i-1].Members[j] && id == last[j] {
				return true
			}
		}
	}
	return false
}
