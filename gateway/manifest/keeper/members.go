package keeper

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// layout is what the choice of manifest drives rests on.
type layout struct {
	drives map[topology.DriveID]*topology.Drive
	need   int                      // manifest drives of a group
	load   map[topology.DriveID]int // groups that write to a drive
	unwell map[topology.DriveID]bool

	incarnation metadata.Incarnation
}

// layout reads the tables and the members of all groups.
func (k *Keeper) layout(ctx context.Context) (*layout, error) {
	table, err := k.o.Metadata.Drives(ctx)
	if err != nil {
		return nil, fmt.Errorf("keeper: drives: %w", err)
	}
	pgs, err := k.o.Metadata.PGs(ctx)
	if err != nil {
		return nil, fmt.Errorf("keeper: placement groups: %w", err)
	}
	incarnation, err := k.o.Metadata.Incarnation(ctx)
	if err != nil {
		return nil, fmt.Errorf("keeper: incarnation: %w", err)
	}
	l := &layout{incarnation: incarnation, drives: make(map[topology.DriveID]*topology.Drive), load: make(map[topology.DriveID]int),
		unwell: make(map[topology.DriveID]bool)}
	for i := range table.Drives {
		l.drives[table.Drives[i].ID] = &table.Drives[i]
	}
	for i := range pgs.Groups {
		l.need = max(l.need, int(pgs.Groups[i].Scheme.Parity)+1)
	}
	for id := uint32(1); id < groupCount; id++ {
		row, err := k.o.Metadata.ManifestMembers(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("keeper: manifest drives of group %d: %w", id, err)
		}
		for _, drive := range writersOf(row) {
			l.load[drive]++
		}
	}
	return l, nil
}

// state returns a drive's state; what the table does not know is retired.
func (l *layout) state(drive topology.DriveID) topology.DriveState {
	if d := l.drives[drive]; d != nil {
		return d.State
	}
	return topology.DriveRetired
}

// device names what a drive shares with those that fail together with it.
func (l *layout) device(drive topology.DriveID) string {
	d := l.drives[drive]
	if d == nil || d.Device == "" {
		return string(drive[:])
	}
	return string(d.Node[:]) + d.Device
}

// members returns the group's row, and chooses drives if there are none. The
// caller holds the turn.
func (g *group) members(ctx context.Context) (*metadata.ManifestMembers, error) {
	row, err := g.k.o.Metadata.ManifestMembers(ctx, g.id)
	if err != nil || len(writersOf(row)) > 0 {
		return row, err
	}
	l, err := g.k.layout(ctx)
	if err != nil {
		return nil, err
	}
	next := clone(row)
	l.renew(next)
	if g.enlist(l, next) == 0 {
		return nil, errNoDrives
	}
	return next, g.put(ctx, next)
}

// renew makes a row the first of an incarnation, unless it is of it already:
// every drive may hold manifests of a state that was lost, or of a history that
// ended, and what that history has freed must be written again. It reports
// whether it changed the row.
func (l *layout) renew(row *metadata.ManifestMembers) bool {
	if row.Version > 1 && row.Incarnation == l.incarnation.Number {
		return false
	}
	row.Incarnation = l.incarnation.Number
	for i := range row.Members {
		if m := &row.Members[i]; m.Writes() {
			*m = metadata.ManifestMember{Drive: m.Drive, State: metadata.MemberFilling, Since: row.Version, Unknown: m.Unknown}
		}
	}
	for id, d := range l.drives {
		if d.State != topology.DriveRetired && memberOf(row, id) == nil {
			row.Members = append(row.Members, metadata.ManifestMember{Drive: id, State: metadata.MemberLeaving})
		}
	}
	slices.SortFunc(row.Members, func(a, b metadata.ManifestMember) int { return bytes.Compare(a.Drive[:], b.Drive[:]) })
	return true
}

// clone returns the row that may follow.
func clone(row *metadata.ManifestMembers) *metadata.ManifestMembers {
	next := *row
	next.Version++
	next.Members = slices.Clone(row.Members)
	return &next
}

// put replaces the group's row. The caller holds the turn.
func (g *group) put(ctx context.Context, row *metadata.ManifestMembers) error {
	err := g.k.o.Propose(ctx, &metadata.Command{Kind: metadata.KindPutManifestMembers, Group: g.id, Members: row})
	if err != nil {
		return fmt.Errorf("keeper: manifest drives of group %d, version %d: %w", g.id, row.Version, err)
	}
	stored, err := g.k.o.Metadata.ManifestMembers(ctx, g.id)
	if err == nil {
		*row = *stored // Apply has set Set
	}
	return err
}

// enlist adds drives to a row until it has enough that write, and returns how
// many it added. Drives of devices that are not used yet come first, then those
// with the fewest groups.
func (g *group) enlist(l *layout, row *metadata.ManifestMembers) (added int) {
	used := make(map[string]bool)
	at := make(map[topology.DriveID]int)
	writers := 0
	for i := range row.Members {
		m := &row.Members[i]
		at[m.Drive] = i + 1
		if m.Writes() {
			writers++
			used[l.device(m.Drive)] = true
		}
	}
	for ; writers < l.need; writers++ {
		drive, ok := g.candidate(l, row, at, used)
		if !ok {
			return added
		}
		m := metadata.ManifestMember{Drive: drive, State: metadata.MemberFilling, Since: row.Version}
		if i := at[drive]; i > 0 {
			row.Members[i-1] = m
		} else {
			row.Members = append(row.Members, m)
			at[drive] = len(row.Members)
		}
		used[l.device(drive)] = true
		l.load[drive]++
		added++
	}
	return added
}

// candidate returns the best drive that does not write yet.
func (g *group) candidate(l *layout, row *metadata.ManifestMembers, at map[topology.DriveID]int, used map[string]bool) (topology.DriveID, bool) {
	type choice struct {
		drive  topology.DriveID
		shared int
		load   int
		tie    uint64
	}
	var best *choice
	for id, d := range l.drives {
		if d.State != topology.DriveActive || l.unwell[id] || !g.k.o.Drives.Writable(id) {
			continue
		}
		if i := at[id]; i > 0 && row.Members[i-1].Writes() {
			continue
		}
		c := choice{drive: id, load: l.load[id], tie: tie(g.id, id)}
		if used[l.device(id)] {
			c.shared = 1
		}
		if best == nil || cmp.Or(cmp.Compare(c.shared, best.shared), cmp.Compare(c.load, best.load), cmp.Compare(c.tie, best.tie)) < 0 {
			best = &c
		}
	}
	if best == nil {
		return topology.DriveID{}, false
	}
	return best.drive, true
}

// tie orders drives differently for each group.
func tie(group uint32, drive topology.DriveID) uint64 {
	h := fnv.New64a()
	h.Write([]byte{byte(group >> 8), byte(group)})
	h.Write(drive[:])
	return h.Sum64()
}

// replace gives up drives that failed: others take their places, if there are
// any. The caller holds the turn. With no drive left the row stays as it is.
func (g *group) replace(ctx context.Context, row *metadata.ManifestMembers, failed map[topology.DriveID]error) error {
	l, err := g.k.layout(ctx)
	if err != nil {
		return err
	}
	next := clone(row)
	var causes []error
	for i := range next.Members {
		m := &next.Members[i]
		if err, is := failed[m.Drive]; is && m.Writes() {
			m.State, m.Fill = metadata.MemberLeaving, metadata.KeyRef{}
			l.unwell[m.Drive] = true
			causes = append(causes, fmt.Errorf("drive %s: %w", m.Drive, err))
		}
	}
	added := g.enlist(l, next)
	if len(writersOf(next)) == 0 {
		return fmt.Errorf("%w: %w", errNoDrives, errors.Join(causes...))
	}
	g.k.failed(ctx, "manifest drives given up", errors.Join(causes...), "group", g.id, "new", added)
	g.k.replaced.Add(uint64(len(causes)))
	return g.put(ctx, next)
}
