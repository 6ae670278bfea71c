package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// RebuildState is what rebuilds are doing.
type RebuildState struct {
	Drives         []DriveRebuild // that do not hold everything yet
	BytesPerSecond int64          // read and written, of late
	Closed         uint64         // generations closed since the start
	LastErrors     []string       // the newest last
}

// DriveRebuild is the rebuild of one drive. Chunks and bytes are of the groups
// that were counted so far, and begin anew with the process.
type DriveRebuild struct {
	Drive      topology.DriveID
	Groups     int   // placement groups that move to it
	Chunks     int64 // found missing
	ChunksDone int64
	Bytes      int64 // of their shards on this drive
	BytesDone  int64
	Failed     int64         // chunks that could not be repaired in the last pass
	Counted    bool          // all its groups were counted
	ETA        time.Duration // 0 if not known
}

const (
	rebuildPage  = 512 // rows of a neighbour's index
	rebuildBatch = 128 // chunks looked up together
)

// rebuilder brings drives that took the place of others up to date. What is to
// be done is said by the generations that are moving, so a restart resumes; the
// chunks of a group are the union of what all its members list.
type rebuilder struct {
	g    *background
	kick chan struct{}

	mu         sync.Mutex // guards what follows
	groups     map[uint32]*groupRebuild
	rebuilt    map[topology.DriveID]driveRebuilt
	closed     uint64
	lastErrors []string
	speed      speed
}

// groupRebuild is what is known of a group that moves.
type groupRebuild struct {
	generation uint32
	// opened is an epoch that was given out no earlier than the generation
	// was: writers of it, and of those before, may still use the members
	// before.
	opened uint64
	drives [32]driveProgress // by member
	// due is when the group is scanned again after it could not be closed, and
	// tries how often that was. ready says that nothing but writers, who may
	// still use the members before, is waited for.
	due   time.Time
	tries int
	ready bool
}

// driveProgress counts shards that a member lacks.
type driveProgress struct {
	drive           topology.DriveID
	counted         bool
	missing, bytes  int64
	done, doneBytes int64
	failed          int64
}

func newRebuilder(g *background) *rebuilder {
	return &rebuilder{g: g, kick: make(chan struct{}, 1), groups: make(map[uint32]*groupRebuild),
		rebuilt: make(map[topology.DriveID]driveRebuilt), speed: speed{now: g.e.options.Now}}
}

// RebuildState returns what rebuilds are doing.
func (e *Engine) RebuildState() RebuildState {
	r := e.bg.rebuild
	r.mu.Lock()
	defer r.mu.Unlock()
	s := RebuildState{BytesPerSecond: r.speed.perSecond(), Closed: r.closed, LastErrors: slices.Clone(r.lastErrors)}
	byDrive := make(map[topology.DriveID]*DriveRebuild)
	for _, group := range r.groups {
		for i := range group.drives {
			p := &group.drives[i]
			if p.drive.IsZero() {
				continue
			}
			d := byDrive[p.drive]
			if d == nil {
				d = &DriveRebuild{Drive: p.drive, Counted: true}
				byDrive[p.drive] = d
			}
			d.Groups++
			d.Chunks += p.missing
			d.Bytes += p.bytes
			d.ChunksDone += p.done
			d.BytesDone += p.doneBytes
			d.Failed += p.failed
			d.Counted = d.Counted && p.counted
		}
	}
	for _, d := range byDrive {
		if s.BytesPerSecond > 0 && d.ChunksDone > 0 {
			perByte := float64(r.speed.total) / float64(max(1, d.BytesDone))
			d.ETA = time.Duration(float64(d.Bytes-d.BytesDone) * perByte / float64(s.BytesPerSecond) * float64(time.Second))
		}
		s.Drives = append(s.Drives, *d)
	}
	slices.SortFunc(s.Drives, func(a, b DriveRebuild) int { return bytes.Compare(a.Drive[:], b.Drive[:]) })
	return s
}

// round looks for groups that move and works on each once: first on the chunks
// of all of them that bear no further loss, then on all chunks; a group of
// which a last scan then finds nothing missing is closed.
func (r *rebuilder) round(ctx context.Context) error {
	table, err := r.g.e.meta.PGs(ctx)
	if err != nil {
		return fmt.Errorf("object: placement groups: %w", err)
	}
	if err := r.g.placement.Acquire(ctx, 1); err != nil {
		return err
	}
	err = r.g.pushPGs(ctx, table)
	r.g.placement.Release(1)
	if err != nil {
		return err
	}
	moving := r.note(table)
	if len(moving) == 0 {
		return r.g.retireDrives(ctx)
	}
	err = r.each(ctx, moving, func(ctx context.Context, pg *metadata.PG) error {
		_, err := r.scan(ctx, pg, scanUrgent)
		return err
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err = errors.Join(err, r.each(ctx, moving, r.complete))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.putOff(moving)
	return errors.Join(err, r.g.retireDrives(ctx))
}

// putOff has groups that are still moving wait before they are scanned again:
// a scan reads the index of all their drives.
func (r *rebuilder) putOff(groups []*metadata.PG) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.g.e.options.Now()
	for _, pg := range groups {
		if group := r.groups[pg.ID]; group != nil && !group.ready {
			group.due = now.Add(min(r.g.o.RetryDelay<<min(group.tries, 16), r.g.o.TransientDelay))
			group.tries++
		}
	}
}

// isDue reports whether a group is to be worked on. It needs mu.
func (r *rebuilder) isDue(group *groupRebuild) bool {
	if group.ready {
		return !r.g.writersUntil(group.opened)
	}
	return !group.due.After(r.g.e.options.Now())
}

// each calls f for groups, some at a time. Their failures are noted; only the
// end of ctx ends all.
func (r *rebuilder) each(ctx context.Context, groups []*metadata.PG, f func(context.Context, *metadata.PG) error) error {
	var workers errgroup.Group
	workers.SetLimit(r.g.o.RebuildWorkers)
	for _, pg := range groups {
		workers.Go(func() error {
			if ctx.Err() != nil || !r.writable(pg) {
				return nil
			}
			if err := f(ctx, pg); err != nil && ctx.Err() == nil {
				r.failed(fmt.Errorf("placement group %d: %w", pg.ID, err))
			}
			return nil
		})
	}
	return workers.Wait()
}

// writable reports whether the new members of a group can be written. If not,
// the group waits.
func (r *rebuilder) writable(pg *metadata.PG) bool {
	targets := moved(pg)
	for i, drive := range pg.Newest().Members {
		if targets&(1<<i) != 0 && !r.g.e.options.Drives.Condition(drive).Writable {
			return false
		}
	}
	return true
}

func (r *rebuilder) failed(err error) {
	r.g.e.log.Warn("rebuild", "err", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lastErrors) >= maxLastErrors {
		r.lastErrors = slices.Delete(r.lastErrors, 0, 1)
	}
	r.lastErrors = append(r.lastErrors, err.Error())
}

// note returns the groups of a table that are moving and due, those with the
// fewest readable members first, and forgets those that are not moving.
func (r *rebuilder) note(table *metadata.PGTable) []*metadata.PG {
	r.mu.Lock()
	defer r.mu.Unlock()
	var moving []*metadata.PG
	still := make(map[uint32]bool)
	for i := range table.Groups {
		pg := &table.Groups[i]
		targets := moved(pg)
		if targets == 0 {
			continue
		}
		still[pg.ID] = true
		if known := r.groups[pg.ID]; known != nil && known.generation == pg.Newest().Number {
			if r.isDue(known) {
				moving = append(moving, pg)
			}
			continue
		}
		moving = append(moving, pg)
		fresh := &groupRebuild{generation: pg.Newest().Number, opened: r.g.e.Leases().Current}
		for i, drive := range pg.Newest().Members {
			if targets&(1<<i) != 0 {
				fresh.drives[i].drive = drive
			}
		}
		r.groups[pg.ID] = fresh
	}
	for id := range r.groups {
		if !still[id] {
			delete(r.groups, id)
		}
	}
	readable := func(pg *metadata.PG) int {
		n := 0
		for _, drive := range pg.Newest().Members {
			if r.g.e.options.Drives.Condition(drive).Readable {
				n++
			}
		}
		return n - int(pg.Scheme.Data)
	}
	slices.SortStableFunc(moving, func(a, b *metadata.PG) int { return readable(a) - readable(b) })
	return moving
}

// moved returns the members of the newest generation that do not hold
// everything yet.
func moved(pg *metadata.PG) (targets uint32) {
	if len(pg.Generations) == 0 {
		return 0
	}
	newest := pg.Newest()
	for i, drive := range newest.Members {
		if len(pg.Generations) == 1 && newest.Moving {
			targets |= 1 << i
		}
		for _, gen := range pg.Generations[:len(pg.Generations)-1] {
			if gen.Members[i] != drive {
				targets |= 1 << i
			}
		}
	}
	if targets == 0 && newest.Moving {
		targets = 1<<len(newest.Members) - 1
	}
	return targets
}

// complete repairs what a group's new members lack, and closes their
// generations if a scan that began after all writers of the earlier ones have
// ended finds nothing missing.
func (r *rebuilder) complete(ctx context.Context, pg *metadata.PG) error {
	found, err := r.scan(ctx, pg, scanAll)
	if err != nil {
		return err
	}
	targets := moved(pg)
	for i := range found.failed {
		if found.failed[i] > 0 {
			targets &^= 1 << i
		}
	}
	if targets == 0 || !r.writersGone(pg) {
		r.setReady(pg, targets != 0)
		return nil
	}
	r.setReady(pg, false)
	found, err = r.scan(ctx, pg, scanProof)
	if err != nil {
		return err
	}
	if !found.proof {
		return errors.New("too many of its drives did not list what they hold")
	}
	for i := range found.missing {
		if found.missing[i] > 0 {
			targets &^= 1 << i
		}
	}
	closed, err := r.g.closeGenerations(ctx, pg, targets)
	if err != nil || !closed {
		return err
	}
	r.g.suspect(ctx, pg)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed++
	r.g.e.log.DebugContext(ctx, "placement group rebuilt", "pg", pg.ID, "generation", pg.Newest().Number, "chunks", found.chunks)
	r.finished(ctx, pg.ID, targets, found.chunks)
	return nil
}

// finished forgets a group, of which some members are whole now, and tells of
// the drives that have everything of all groups. It needs mu.
func (r *rebuilder) finished(ctx context.Context, id, whole uint32, chunks int64) {
	group := r.groups[id]
	delete(r.groups, id)
	if group == nil {
		return
	}
	left := make(map[topology.DriveID]bool)
	for _, other := range r.groups {
		for i := range other.drives {
			left[other.drives[i].drive] = true
		}
	}
	for i := range group.drives {
		drive := group.drives[i].drive
		if drive.IsZero() || whole&(1<<i) == 0 {
			continue
		}
		sum := r.rebuilt[drive]
		sum.groups++
		sum.chunks += chunks
		r.rebuilt[drive] = sum
		if !left[drive] {
			r.g.e.log.InfoContext(ctx, "drive rebuilt", "drive", drive.String(), "placement_groups", sum.groups, "chunks", sum.chunks)
			delete(r.rebuilt, drive)
		}
	}
}

// driveRebuilt sums up the groups of a drive that were closed.
type driveRebuilt struct {
	groups int
	chunks int64
}

func (r *rebuilder) setReady(pg *metadata.PG, ready bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if group := r.groups[pg.ID]; group != nil {
		group.ready = ready
	}
}

// writersGone reports whether no request is running that may have chosen an
// earlier generation's members.
func (r *rebuilder) writersGone(pg *metadata.PG) bool {
	r.mu.Lock()
	group := r.groups[pg.ID]
	r.mu.Unlock()
	if group == nil || group.generation != pg.Newest().Number {
		return false
	}
	return !r.g.writersUntil(group.opened)
}

// suspecter is what Shards may offer besides: to look all shards of a group on
// a drive up anew.
type suspecter interface {
	// Suspect makes the rows of shards pending again: of one placement
	// group, or of all for a nil pg.
	Suspect(ctx context.Context, drive topology.DriveID, pg *uint32) error
}

// suspect has drives that left a group look up what they still hold of it. The
// collector frees it.
func (g *background) suspect(ctx context.Context, pg *metadata.PG) {
	shards, ok := g.e.shards.(suspecter)
	if !ok {
		return
	}
	for _, drive := range drivesOf(pg) {
		if slices.Contains(pg.Newest().Members, drive) || !g.e.options.Drives.Condition(drive).Readable {
			continue
		}
		_, err := g.guard.do(ctx, drive, longCall, func(ctx context.Context) error { return shards.Suspect(ctx, drive, &pg.ID) })
		if err != nil {
			g.e.log.WarnContext(ctx, "drive that left a group keeps its shards until the next scrub", "drive", drive.String(), "pg", pg.ID, "err", err)
		}
	}
}

// drivesOf returns every drive of every unclosed generation, once.
func drivesOf(pg *metadata.PG) []topology.DriveID {
	var drives []topology.DriveID
	for i := range pg.Newest().Members {
		for _, drive := range homes(nil, pg, i) {
			if !slices.Contains(drives, drive) {
				drives = append(drives, drive)
			}
		}
	}
	return drives
}
