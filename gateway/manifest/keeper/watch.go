package keeper

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// patience is how long a manifest drive may be away or full while nothing is
// written to it. A write does not wait.
const patience = time.Minute

// watch looks after the manifest drives and the root record, and beside that
// fills drives and passes over all manifests, until ctx is done.
func (k *Keeper) watch(ctx context.Context) {
	var loops sync.WaitGroup
	defer loops.Wait()
	fill := make(chan struct{}, 1)
	loops.Go(func() { k.tidy(ctx, fill) })
	unwell := make(map[topology.DriveID]time.Time)
	for {
		if err := errors.Join(k.tend(ctx, unwell), k.root.tend(ctx, k)); err != nil && ctx.Err() == nil {
			k.failed(ctx, "manifest drives not looked at", err)
		}
		wake(fill)
		if pause(ctx, k.o.WatchPeriod) != nil {
			return
		}
	}
}

// tend sees to it that every group has manifest drives enough.
func (k *Keeper) tend(ctx context.Context, unwell map[topology.DriveID]time.Time) error {
	l, err := k.layout(ctx)
	if err != nil {
		return err
	}
	if l.need == 0 {
		return nil // no placement groups yet
	}
	k.diagnose(l, unwell)
	var errs []error
	filling, lacking, short := 0, 0, 0
	for _, g := range k.groups[1:] {
		on, err := g.keepsOutbox(ctx)
		if err == nil && on {
			var row *metadata.ManifestMembers
			if row, err = g.tend(ctx, l); err == nil {
				writers := 0
				for i := range row.Members {
					if row.Members[i].Writes() {
						writers++
					}
					if row.Members[i].State == metadata.MemberFilling {
						filling++
					}
					if bare(&row.Members[i]) {
						lacking++
					}
				}
				if writers < l.need {
					short++
				}
			}
		}
		errs = append(errs, err)
	}
	k.filling.Store(int64(filling))
	k.bare.Store(int64(lacking))
	k.short.Store(int64(short))
	return errors.Join(errs...)
}

// diagnose notes which drives have not been writable for too long.
func (k *Keeper) diagnose(l *layout, unwell map[topology.DriveID]time.Time) {
	now := k.o.Now()
	for id := range l.drives {
		if k.o.Drives.Writable(id) {
			delete(unwell, id)
			continue
		}
		if _, known := unwell[id]; !known {
			unwell[id] = now
		}
		l.unwell[id] = now.Sub(unwell[id]) >= patience
	}
}

// tend changes the row of a group if drives have gone or are missing.
func (g *group) tend(ctx context.Context, l *layout) (*metadata.ManifestMembers, error) {
	if err := g.turn.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer g.turn.Release(1)
	row, err := g.k.o.Metadata.ManifestMembers(ctx, g.id)
	if err != nil {
		return nil, err
	}
	next := clone(row)
	renewed := l.renew(next)
	before := len(next.Members)
	next.Members = slices.DeleteFunc(next.Members, func(m metadata.ManifestMember) bool {
		return l.state(m.Drive) == topology.DriveRetired
	})
	changed := len(next.Members) < before || renewed && row.Version > 0
	for i := range next.Members {
		m := &next.Members[i]
		if m.Writes() && (l.state(m.Drive) != topology.DriveActive || l.unwell[m.Drive]) {
			m.State, m.Fill = metadata.MemberLeaving, metadata.KeyRef{}
			changed = true
			g.k.replaced.Add(1)
			g.k.o.Logger.InfoContext(ctx, "manifest drive leaves", "group", g.id, "drive", m.Drive.String())
		}
	}
	if g.enlist(l, next) == 0 && !changed || len(writersOf(next)) == 0 {
		return row, nil // a drive that is away is better than none
	}
	return next, g.put(ctx, next)
}

// tidy fills drives when told, and passes over all manifests when that is due:
// also once drives were filled, now or in an earlier life of the process, since
// they lack tombstones.
func (k *Keeper) tidy(ctx context.Context, fill <-chan struct{}) {
	next := k.o.Now().Add(k.o.FirstPass)
	kicked, first := false, true
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.pass.kick:
			kicked = true
		case <-fill:
		}
		kicked, first = kicked || first && k.bare.Load() > 0, false
		whole := true
		for _, g := range k.groups[1:] {
			filled, err := g.fillAll(ctx)
			kicked = kicked || filled > 0
			if err != nil && ctx.Err() == nil {
				whole = false
				k.failed(ctx, "manifest drive not filled", err, "group", g.id)
			}
		}
		now := k.o.Now()
		if ctx.Err() != nil || !(kicked && whole) && now.Before(next) && !k.pass.due(now, k.o.Pressure()) {
			continue
		}
		passes := k.passes.Load()
		if err := k.passOnce(ctx); err != nil && ctx.Err() == nil {
			k.failed(ctx, "manifests not all looked at", err)
		}
		next, kicked = k.o.Now().Add(k.o.PassPeriod), false
		if k.passes.Load() == passes || k.bare.Load() > 0 {
			next = k.o.Now().Add(min(k.o.PassPeriod, k.o.FirstPass))
		}
	}
}
