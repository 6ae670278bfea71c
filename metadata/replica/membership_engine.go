package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/state"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Refusals to change the stores. Nothing was changed.
var (
	// ErrLastVoter means that no voter would be left.
	ErrLastVoter = errors.New("the last voting store cannot be removed: add another one first")
	// ErrTooFewStores means that those of the voters that would be left and
	// are well are fewer than a quorum.
	ErrTooFewStores = errors.New("too few stores would be left that are well: bring stores back or add some first")
	// ErrNoStore means that no store has the replica id that was named.
	ErrNoStore = errors.New("no such store")
)

// Stores returns the table of stores, an empty one before the first.
func (r reader) Stores(ctx context.Context) (*metadata.StoreTable, error) {
	return query(ctx, r, metadata.RootGroup, func(v state.View) (*metadata.StoreTable, error) { return v.Stores() })
}

// RaiseVersion raises the command version of all groups. It may be repeated,
// and goes on where it was cut off. A replicated engine must know from all its
// members that they know the version: see [Replicated.Knows].
func RaiseVersion(ctx context.Context, e Engine, to uint16) error {
	if to > metadata.LatestVersion {
		return fmt.Errorf("replica: command version %d, this program knows %d: %w", to, metadata.LatestVersion, metadata.ErrUnknownKind)
	}
	if r, ok := e.(*Replicated); ok {
		if err := r.Knows(ctx, to); err != nil {
			return err
		}
	}
	for g := range uint32(groupCount) {
		cmd := &metadata.Command{Kind: metadata.KindClusters, Version: metadata.CommandVersion, Group: g,
			Clusters: &metadata.ClusterVersion{Version: to}}
		if _, err := e.Commit(ctx, cmd); err != nil {
			return fmt.Errorf("replica: raise group %d to version %d: %w", g, to, err)
		}
	}
	return nil
}

// Knows returns nil if all members of all groups have told that they know a
// command version. It waits for those that are not heard as long as other calls
// wait for a quorum.
func (e *Replicated) Knows(ctx context.Context, version uint16) error {
	limited, cancel := e.patience(ctx)
	defer cancel()
	ticker := time.NewTicker(e.opts.Tick)
	defer ticker.Stop()
	var last error
	for g := uint32(0); g < groupCount; {
		err := e.onLeader(limited, g, func(s *Store) error { return s.AllKnow(g, version) })
		if err == nil {
			g++
			continue
		}
		if limited.Err() != nil && last != nil {
			return last
		}
		err = fmt.Errorf("replica: group %d: %w", g, err)
		if !errors.Is(err, metadata.ErrUnavailable) && !errors.Is(err, ErrNoLeader) {
			return err
		}
		last = err
		select {
		case <-ticker.C:
		case <-limited.Done():
			return err
		}
	}
	return nil
}

// AllKnow returns nil if all members of a group have told that they know a
// command version, so that the group may be raised to it.
func (c *core) AllKnow(group uint32, version uint16) error {
	if c.version < version {
		return fmt.Errorf("store %d knows command version %d only: start a newer program there: %w", c.replica, c.version, metadata.ErrVersionTooLow)
	}
	for _, id := range members(c.groups[group].conf) {
		if id == c.replica {
			continue
		}
		p := c.peers[id]
		if p == nil || p.beat == nil || !c.alive(id) {
			return fmt.Errorf("store %d is not heard: %w", id, metadata.ErrUnavailable)
		}
		if p.beat.Version < version {
			return fmt.Errorf("store %d knows command version %d only: start a newer program there: %w", id, p.beat.Version, metadata.ErrVersionTooLow)
		}
	}
	return nil
}

// ChangeStores changes the table of stores. The groups follow it: see
// [Replicated.AwaitSettled]. It calls change with a copy of the newest table,
// again if another change came in between.
func (e *Replicated) ChangeStores(ctx context.Context, change func(*metadata.StoreTable) error) (*metadata.StoreTable, error) {
	for {
		old, err := e.Stores(ctx)
		if err != nil {
			return nil, err
		}
		t := &metadata.StoreTable{Version: old.Version + 1, Stores: slices.Clone(old.Stores), Unknown: old.Unknown}
		if err := change(t); err != nil {
			return nil, err
		}
		_, err = e.Commit(ctx, &metadata.Command{Kind: metadata.KindPutStores, Version: metadata.CommandVersion, Stores: t})
		if !errors.Is(err, metadata.ErrConflict) {
			return t, err
		}
	}
}

// Admit makes a blank store at a place where there is none, under a replica id
// that never was, lets it run, and wants it in a role. The groups make it a
// member on their own.
func (e *Replicated) Admit(ctx context.Context, p Place, site topology.SiteID, role metadata.StoreRole) (uint64, error) {
	return e.admitStore(ctx, p, site, role, 0)
}

// Replace is Admit of a voter that takes the place of a store that is lost or
// damaged, which goes at the moment at which the new one has its vote.
func (e *Replicated) Replace(ctx context.Context, old uint64, p Place, site topology.SiteID) (uint64, error) {
	return e.admitStore(ctx, p, site, metadata.StoreVoter, old)
}

func (e *Replicated) admitStore(ctx context.Context, p Place, site topology.SiteID, role metadata.StoreRole, old uint64) (uint64, error) {
	cluster, err := e.cluster()
	if err != nil {
		return 0, err
	}
	id := commandlog.Identity{Cluster: cluster}
	if err := e.drawStore(&id.Store); err != nil {
		return 0, err
	}
	// The id is taken before there is a store that has it: after a crash in
	// between, the row is all there is, and the id is not used again.
	_, err = e.ChangeStores(ctx, func(t *metadata.StoreTable) error {
		if old != 0 {
			s := t.Find(old)
			if s == nil || s.Role == metadata.StoreGone {
				return fmt.Errorf("replica: store %d: %w", old, ErrNoStore)
			}
			s.Role = metadata.StoreGone
		}
		id.Replica = 1
		for i := range t.Stores {
			id.Replica = max(id.Replica, t.Stores[i].Replica+1)
		}
		for _, r := range *e.runners.Load() {
			id.Replica = max(id.Replica, r.id()+1)
		}
		t.Stores = append(t.Stores, metadata.Store{Replica: id.Replica, ID: id.Store, Place: p.Dir, Site: site, Role: role})
		return nil
	})
	if err != nil {
		return 0, err
	}
	err = CreateStore(p.Dir, id, nil, e.storeOptions(p))
	if err == nil {
		p.Want = id
		_, err = e.AddStore(p)
	}
	if err != nil {
		return 0, errors.Join(err, e.takeBack(ctx, id.Replica, old))
	}
	return id.Replica, nil
}

// takeBack gives up a store that could not be made. The one it was to replace
// keeps its vote, unless the groups have gone on without it.
func (e *Replicated) takeBack(ctx context.Context, replica, old uint64) error {
	_, err := e.ChangeStores(ctx, func(t *metadata.StoreTable) error {
		t.Find(replica).Role = metadata.StoreGone
		return nil
	})
	if err != nil && old != 0 {
		return fmt.Errorf("replica: store %d stays until another one replaces it: %w", old, err)
	}
	return err
}

func (e *Replicated) cluster() (id [16]byte, err error) {
	for _, r := range *e.runners.Load() {
		return r.store.Identity().Cluster, nil
	}
	return id, fmt.Errorf("%w: no store runs", metadata.ErrUnavailable)
}

func (e *Replicated) drawStore(id *[16]byte) error {
	if _, err := io.ReadFull(e.opts.Rand, id[:]); err != nil {
		return fmt.Errorf("replica: store id: %w", err)
	}
	return nil
}

// Dismiss wants a store to go: its groups go on without it. It fails with
// ErrLastVoter or ErrTooFewStores if they could not. The store itself may be
// removed once the groups are settled.
func (e *Replicated) Dismiss(ctx context.Context, replica uint64) error {
	return e.retain(ctx, replica, metadata.StoreGone)
}

// Demote wants a voter to have everything and not to vote any more.
func (e *Replicated) Demote(ctx context.Context, replica uint64) error {
	return e.retain(ctx, replica, metadata.StoreLearner)
}

// retain gives a store a role in which it has no vote.
func (e *Replicated) retain(ctx context.Context, replica uint64, role metadata.StoreRole) error {
	_, err := e.ChangeStores(ctx, func(t *metadata.StoreTable) error {
		s := t.Find(replica)
		if s == nil || s.Role == metadata.StoreGone {
			return fmt.Errorf("replica: store %d: %w", replica, ErrNoStore)
		}
		s.Role = role
		var left []uint64
		for i := range t.Stores {
			if t.Stores[i].Role == metadata.StoreVoter {
				left = append(left, t.Stores[i].Replica)
			}
		}
		if len(left) == 0 {
			return fmt.Errorf("replica: store %d: %w", replica, ErrLastVoter)
		}
		return e.wellAs(ctx, left)
	})
	return err
}

// wellTicks is how often a leader is asked whether stores are well, which one
// may not be for a moment. A leader itself is waited for as in every call.
const wellTicks = 20

// wellAs asks the leaders of all groups whether some stores could be their
// voters.
func (e *Replicated) wellAs(ctx context.Context, voters []uint64) error {
	limited, cancel := e.patience(ctx)
	defer cancel()
	ticker := time.NewTicker(e.opts.Tick)
	defer ticker.Stop()
	asked := 0
	for g := uint32(0); g < groupCount; {
		err := e.onLeader(limited, g, func(s *Store) error { return s.wellAs(g, voters) })
		switch {
		case err == nil:
			g++
			asked = 0
			continue
		case errors.Is(err, ErrTooFewStores) && asked < wellTicks:
			asked++
		case !errors.Is(err, ErrNoLeader):
			return fmt.Errorf("replica: %w", err)
		}
		select {
		case <-ticker.C:
		case <-limited.Done():
			return fmt.Errorf("replica: %w: %w", context.Cause(limited), err)
		}
	}
	return nil
}

// ErrUnsettled means that the groups have not yet become what the table of
// stores wants.
var ErrUnsettled = errors.New("the stores are being changed")

// Settled returns nil if all groups have a leader in this process and are as the
// table of stores wants them. The error wraps ErrUnsettled and says why if not.
func (e *Replicated) Settled(ctx context.Context) error {
	wish, err := e.Stores(ctx)
	if err != nil {
		return err
	}
	for g := range uint32(groupCount) {
		err := e.onLeader(ctx, g, func(s *Store) error {
			if known := s.Wish(); known == nil || known.Version < wish.Version {
				return fmt.Errorf("%w: group %d: its leader does not know of it yet", ErrUnsettled, g)
			}
			if ok, why := s.settled(s.groups[g]); !ok {
				return fmt.Errorf("%w: group %d: %s", ErrUnsettled, g, why)
			}
			return nil
		})
		if errors.Is(err, ErrNoLeader) {
			err = fmt.Errorf("%w: group %d: it has no leader", ErrUnsettled, g)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// AwaitSettled waits until Settled returns nil. If ctx ends first, the error
// says what it has waited for.
func (e *Replicated) AwaitSettled(ctx context.Context) error {
	ticker := time.NewTicker(e.opts.Tick)
	defer ticker.Stop()
	for {
		err := e.Settled(ctx)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrUnsettled) && !errors.Is(err, metadata.ErrUnavailable) {
			return err
		}
		if e.life.closed.Load() {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("replica: %w: %w", context.Cause(ctx), err)
		}
	}
}
