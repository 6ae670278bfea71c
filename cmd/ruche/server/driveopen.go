package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// openDrives formats, at the first start only, the drives that are not yet, and
// opens all that are there.
func (p *process) openDrives(ctx context.Context) error {
	paths := make([]string, 0, len(p.c.DrivePaths()))
	for _, path := range p.c.DrivePaths() {
		abs, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		paths = append(paths, abs)
	}
	if p.first.is {
		if err := p.formatAll(paths); err != nil {
			return err
		}
		if err := p.knowDrives(ctx); err != nil {
			return err
		}
	}
	n, refused, err := node.Open(ctx, p.nodeOptions(), paths)
	if err != nil {
		return fmt.Errorf("drives: %w", err)
	}
	p.node, p.away = n, refused
	p.conditions = &conditions{ask: func() map[topology.DriveID]object.Condition { return conditionsOf(n) }, now: p.Now}
	p.onClose("drives", p.closeDrives)
	for _, r := range refused {
		if p.first.is || errors.Is(r.Err, node.ErrInUse) || errors.Is(r.Err, node.ErrForeignDrive) {
			return driveError(r.Path, r.Err)
		}
		p.Log.Error("drive is absent", "path", r.Path, "err", r.Err)
	}
	if len(n.Drives()) == 0 {
		return fileErrorOr(DriveUnusable, fmt.Sprintf("none of the drives %v can be opened", paths), "mount the drives, and check their owner", errors.Join(causes(refused)...))
	}
	for _, d := range n.Drives() {
		p.id.place(d.Path(), d.ID())
		p.raise(d)
	}
	if err := p.id.save(p.dir); err != nil {
		return err
	}
	if newest := newestSealed(keyringDrives(n)); newest > p.ring.current().Version() {
		return p.olderKeyring(newest)
	}
	active, err := p.activeDrives(ctx)
	if err != nil {
		return err
	}
	return p.ring.admit(keyringDrives(n), active)
}

// activeDrives is how many drives hold data or are to, open or not. Before the
// first table it is 0.
func (p *process) activeDrives(ctx context.Context) (n int, err error) {
	table, err := p.meta.Drives(ctx)
	if err != nil {
		return 0, fmt.Errorf("drive table: %w", err)
	}
	for _, d := range table.Drives {
		if d.State == topology.DriveActive {
			n++
		}
	}
	return n, nil
}

// raise gives a drive a new incarnation and notes it: a copy of the drive made
// before this start, mounted alone, is refused from now on. The drive comes
// first, so that it is never behind what is expected of it.
func (p *process) raise(d *node.Drive) {
	next := max(d.Superblock().Incarnation, p.id.Incarnations[d.ID()]) + 1
	if err := d.SetIncarnation(next); err != nil {
		p.Log.Error("older copies of a drive are not refused", "path", d.Path(), "err", err)
		return
	}
	p.id.incarnate(d.ID(), next)
}

func causes(refused []node.Refused) (errs []error) {
	for _, r := range refused {
		errs = append(errs, r.Err)
	}
	return errs
}

func keyringDrives(n *node.Node) (out []keyringDrive) {
	for _, d := range n.Drives() {
		out = append(out, d)
	}
	return out
}

// formatAll formats the drives of a first start that are not formatted yet.
func (p *process) formatAll(paths []string) error {
	all, err := survey(paths)
	if err != nil {
		return err
	}
	for _, f := range all {
		switch {
		case f.super != nil: // of this cluster: checkOwner has looked
			continue
		case !slices.ContainsFunc(p.id.Slots, func(s slot) bool { return s.Path == f.path }):
			return &StartError{UnknownDrive, f.path + " was not among the drives when the first start began",
				"start with the same drives again, or empty state directory and drives and begin anew", nil}
		}
		if _, err := format(f.path, p.id); err != nil {
			return err
		}
	}
	return nil
}

func (p *process) nodeOptions() node.Options {
	o := node.Options{
		Clock: clock{p.Now}, Log: p.Log.With("part", "node"), Cluster: node.ClusterID(p.id.Cluster), Incarnations: maps.Clone(p.id.Incarnations),
		PreallocateBytes: orNone(int64(p.c.Preallocate)), ScrubBytesPerSecond: int64(p.c.ScrubRate), OnBadShard: p.badShard,
	}
	if p.id.Encryption {
		o.IndexFS = p.indexFS
	}
	if p.c.ScrubRate == 0 {
		o.ScrubInterval = -1 // on demand, at the default rate
	}
	if p.c.Reserve > 0 {
		o.ReserveBytes = int64(p.c.Reserve)
	}
	if p.c.Ballast >= 0 {
		o.BallastBytes = orNone(int64(p.c.Ballast))
	}
	return o
}

// orNone turns zero, which means none in the settings, into what means none in
// options where zero means the default.
func orNone(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// orNoneTime is orNone for durations: an hour is the default of what zero
// stands for, a nanosecond is none.
func orNoneTime(d time.Duration) time.Duration { return max(d, 1) }
