package object

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/placement"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// ErrNoSuchDrive means that the table of drives does not know a drive, or that
// it is retired.
var ErrNoSuchDrive = errors.New("no such drive")

// ReplaceDrive puts a drive in the place of another: it joins the table of
// drives, the old one is drained, and every placement group of the old one gets
// a generation with the new one, which is moving until a rebuild has proved
// that all is there. The tables count for writes when it returns. Calling it
// again with the same drives finishes what was cut off.
func (e *Engine) ReplaceDrive(ctx context.Context, old topology.DriveID, replacement topology.Drive) error {
	g := e.bg
	if err := g.placement.Acquire(ctx, everybody); err != nil {
		return err
	}
	defer g.placement.Release(everybody)
	drives, err := e.meta.Drives(ctx)
	if err != nil {
		return fmt.Errorf("object: drives: %w", err)
	}
	next, err := replaceInTable(drives, old, replacement)
	if err != nil {
		return err
	}
	pgs, err := e.meta.PGs(ctx)
	if err != nil {
		return fmt.Errorf("object: placement groups: %w", err)
	}
	moved, changed, err := placement.Replace(pgs, old, replacement.ID)
	if err != nil {
		return fmt.Errorf("object: %w", err)
	}
	if next != drives {
		if err := g.putDrives(ctx, next); err != nil {
			return err
		}
	}
	if changed > 0 {
		if err := g.putPGs(ctx, moved); err != nil {
			return err
		}
	}
	if err := g.pushPGs(ctx, moved); err != nil {
		return err
	}
	if err := e.ReloadTopology(ctx); err != nil {
		return err
	}
	e.log.InfoContext(ctx, "drive replaced", "old", old.String(), "new", replacement.ID.String(), "groups", changed)
	wake(g.rebuild.kick)
	wake(g.records.kick)
	return nil
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// replaceInTable returns the table with replacement active and old draining,
// or the same table if it is so already.
func replaceInTable(t *metadata.DriveTable, old topology.DriveID, replacement topology.Drive) (*metadata.DriveTable, error) {
	at := slices.IndexFunc(t.Drives, func(d topology.Drive) bool { return d.ID == old })
	if at < 0 || t.Drives[at].State == topology.DriveRetired {
		return nil, fmt.Errorf("object: replace drive %s: %w", old, ErrNoSuchDrive)
	}
	known := slices.IndexFunc(t.Drives, func(d topology.Drive) bool { return d.ID == replacement.ID })
	if known >= 0 && t.Drives[known].State != topology.DriveActive {
		return nil, fmt.Errorf("object: replace by drive %s, which is %s: %w", replacement.ID, t.Drives[known].State, ErrNoSuchDrive)
	}
	if known >= 0 && t.Drives[at].State == topology.DriveDraining {
		return t, nil
	}
	next := &metadata.DriveTable{Version: t.Version + 1, Drives: slices.Clone(t.Drives), Unknown: t.Unknown}
	next.Drives[at].State = topology.DriveDraining
	if known < 0 {
		replacement.State = topology.DriveActive
		next.Drives = append(next.Drives, replacement)
		slices.SortFunc(next.Drives, func(a, b topology.Drive) int { return slices.Compare(a.ID[:], b.ID[:]) })
	}
	return next, nil
}

// rootTable commits a command of the root group that holds a table.
func (g *background) rootTable(ctx context.Context, cmd *metadata.Command) error {
	epoch, release, err := g.lease()
	if err != nil {
		return err
	}
	defer release()
	cmd.Version, cmd.Epoch = 1, epoch
	_, err = g.e.propose(ctx, cmd)
	return err
}

func (g *background) putDrives(ctx context.Context, t *metadata.DriveTable) error {
	err := g.rootTable(ctx, &metadata.Command{Kind: metadata.KindPutDrives, Group: metadata.RootGroup, Drives: t})
	if err != nil {
		return fmt.Errorf("object: put drives, version %d: %w", t.Version, err)
	}
	return nil
}

func (g *background) putPGs(ctx context.Context, t *metadata.PGTable) error {
	err := g.rootTable(ctx, &metadata.Command{Kind: metadata.KindPushPGs, Group: metadata.RootGroup, PGs: t})
	if err != nil {
		return fmt.Errorf("object: put placement groups, version %d: %w", t.Version, err)
	}
	return nil
}

// pushPGs hands a table to the data groups that do not have it.
func (g *background) pushPGs(ctx context.Context, t *metadata.PGTable) error {
	if t.Version == 0 {
		return nil
	}
	for group := range dataGroups {
		known, err := g.e.meta.Lookup(ctx, group, nil)
		if err != nil {
			return fmt.Errorf("object: group %d: %w", group, err)
		}
		if known.PGVersion >= t.Version {
			continue
		}
		err = g.rootTable(ctx, &metadata.Command{Kind: metadata.KindPushPGs, Group: group, PGs: t})
		if err != nil && !errors.Is(err, metadata.ErrConflict) { // a newer one came in between
			return fmt.Errorf("object: push placement groups, version %d, to group %d: %w", t.Version, group, err)
		}
	}
	return nil
}

// closeGenerations closes the generations of a group whose new members are
// complete, oldest first: whole has a bit for each of the newest generation's
// members that was proved to hold everything. It reports whether the newest
// is closed.
func (g *background) closeGenerations(ctx context.Context, scanned *metadata.PG, whole uint32) (closed bool, err error) {
	if err := g.placement.Acquire(ctx, everybody); err != nil {
		return false, err
	}
	defer g.placement.Release(everybody)
	table, err := g.e.meta.PGs(ctx)
	if err != nil {
		return false, fmt.Errorf("object: placement groups: %w", err)
	}
	if int(scanned.ID) >= len(table.Groups) {
		return false, fmt.Errorf("object: placement group %d: %w", scanned.ID, placement.ErrNoSuchGroup)
	}
	present := &table.Groups[scanned.ID]
	if present.Newest().Number != scanned.Newest().Number || len(present.Generations) != len(scanned.Generations) {
		return false, nil // replaced again meanwhile: another scan decides
	}
	next := table
	for _, number := range closable(scanned, whole) {
		if next, err = placement.Close(next, scanned.ID, number); err != nil {
			return false, fmt.Errorf("object: %w", err)
		}
		closed = number == scanned.Newest().Number
	}
	if next == table {
		return false, nil
	}
	if err := g.putPGs(ctx, next); err != nil {
		return false, err
	}
	if err := g.pushPGs(ctx, next); err != nil {
		return false, err
	}
	return closed, g.e.ReloadTopology(ctx)
}

// closable returns the generations of a group that may be closed, oldest
// first, if those members of the newest that whole names hold everything.
func closable(pg *metadata.PG, whole uint32) []uint32 {
	var numbers []uint32
	newest := pg.Newest().Members
	for at := range pg.Generations {
		gen := &pg.Generations[at]
		replacedAgain, complete := false, true
		for i, drive := range gen.Members {
			if at > 0 && pg.Generations[at-1].Members[i] == drive {
				continue // brought in earlier, or always there
			}
			if at == 0 && len(pg.Generations) > 1 {
				continue // what the moves began from
			}
			replacedAgain = replacedAgain || newest[i] != drive
			complete = complete && whole&(1<<i) != 0
		}
		if !gen.Moving || replacedAgain {
			continue // a later one is waited for instead
		}
		if !complete {
			break
		}
		numbers = append(numbers, gen.Number)
	}
	return numbers
}

// retireDrives retires drives that were replaced and that no generation names
// any more.
func (g *background) retireDrives(ctx context.Context) error {
	if err := g.placement.Acquire(ctx, everybody); err != nil {
		return err
	}
	defer g.placement.Release(everybody)
	drives, err := g.e.meta.Drives(ctx)
	if err != nil {
		return fmt.Errorf("object: drives: %w", err)
	}
	pgs, err := g.e.meta.PGs(ctx)
	if err != nil {
		return fmt.Errorf("object: placement groups: %w", err)
	}
	named := make(map[topology.DriveID]bool)
	for i := range pgs.Groups {
		for _, gen := range pgs.Groups[i].Generations {
			for _, drive := range gen.Members {
				named[drive] = true
			}
		}
	}
	next := &metadata.DriveTable{Version: drives.Version + 1, Drives: slices.Clone(drives.Drives), Unknown: drives.Unknown}
	changed := false
	for i := range next.Drives {
		if d := &next.Drives[i]; d.State == topology.DriveDraining && !named[d.ID] {
			d.State = topology.DriveRetired
			changed = true
			g.e.log.InfoContext(ctx, "drive retired", "drive", d.ID.String())
		}
	}
	if !changed {
		return nil
	}
	if err := g.putDrives(ctx, next); err != nil {
		return err
	}
	return g.e.ReloadTopology(ctx)
}
