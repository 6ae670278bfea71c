package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

const (
	// fillPage is how many keys of the state are read at a time.
	fillPage = 512
	// savePages and savePeriod are after how many pages, or after what time,
	// the place of a scan is stored.
	savePages  = 64
	savePeriod = 30 * time.Second
)

// errMembersChanged ends a scan for a drive that is not to be filled any more.
var errMembersChanged = errors.New("keeper: the drive is not to be filled any more")

// fillAll fills the drives of a group that are to be filled, one after the
// other, and returns how many are full now.
func (g *group) fillAll(ctx context.Context) (filled int, err error) {
	if on, err := g.keepsOutbox(ctx); err != nil || !on {
		return 0, err
	}
	row, err := g.k.o.Metadata.ManifestMembers(ctx, g.id)
	if err != nil {
		return 0, err
	}
	for i := range row.Members {
		m := &row.Members[i]
		if m.State != metadata.MemberFilling {
			continue
		}
		switch err := g.fill(ctx, row, m); {
		case err == nil:
			filled++
		case !errors.Is(err, errMembersChanged):
			return filled, fmt.Errorf("drive %s: %w", m.Drive, err)
		}
	}
	return filled, nil
}

// fill writes manifests of all that the group holds to a drive, from where an
// earlier scan was cut off, and then calls it full.
func (g *group) fill(ctx context.Context, row *metadata.ManifestMembers, m *metadata.ManifestMember) error {
	after, saved := m.Fill, g.k.o.Now()
	if after == (metadata.KeyRef{}) {
		if err := g.fillBuckets(ctx, row, m); err != nil {
			return err
		}
	}
	for pages := 0; ; {
		keys, err := g.k.o.Metadata.CurrentKeys(ctx, g.id, after, fillPage)
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			g.k.o.Logger.DebugContext(ctx, "manifest drive is full", "group", g.id, "drive", m.Drive.String())
			if err := g.filled(ctx, m, metadata.MemberFull, metadata.KeyRef{}); err != nil {
				return err
			}
			g.k.filling.Add(-1) // until they are counted again
			g.k.bare.Add(1)
			return nil
		}
		if err := g.fillKeys(ctx, row, m.Drive, keys); err != nil {
			return err
		}
		after = keys[len(keys)-1].KeyRef
		if pages++; pages < savePages && g.k.o.Now().Sub(saved) < savePeriod {
			continue
		}
		if err := g.filled(ctx, m, metadata.MemberFilling, after); err != nil {
			return err
		}
		pages, saved = 0, g.k.o.Now()
	}
}

// fillWith writes what add brings to one drive.
func (g *group) fillWith(ctx context.Context, row *metadata.ManifestMembers, drive topology.DriveID, add func(s *sink) error) error {
	s, err := g.k.newSink(g.id, row.Version, []topology.DriveID{drive})
	if err != nil {
		return err
	}
	if err := add(s); err != nil {
		s.abort()
		return err
	}
	failed, err := s.close(ctx)
	if err != nil || len(failed) > 0 {
		return errors.Join(err, failed[drive])
	}
	return g.k.o.Limit(ctx, s.bytes)
}

func (g *group) fillKeys(ctx context.Context, row *metadata.ManifestMembers, drive topology.DriveID, keys []metadata.KeyOrder) error {
	refs := make([]metadata.KeyRef, len(keys))
	for i := range keys {
		refs[i] = keys[i].KeyRef
	}
	return g.fillWith(ctx, row, drive, func(s *sink) error {
		return g.open(ctx, refs, func(o *metadata.OpenedKey) error {
			if !o.Found {
				return nil // deleted since the page was read
			}
			g.k.filled.Add(1)
			return g.changed(ctx, s, &change{KeyRef: o.KeyRef}, o)
		})
	})
}

// fillBuckets writes the rows of the group's buckets.
func (g *group) fillBuckets(ctx context.Context, row *metadata.ManifestMembers, m *metadata.ManifestMember) error {
	for after := ""; ; {
		root, err := g.k.o.Metadata.Orders(ctx, metadata.RootGroup, nil)
		if err != nil {
			return err
		}
		own, err := g.k.o.Metadata.Orders(ctx, g.id, nil)
		if err != nil {
			return err
		}
		page, err := g.k.o.Metadata.Buckets(ctx, "", after, fillPage)
		if err != nil || len(page) == 0 {
			return err
		}
		err = g.fillWith(ctx, row, m.Drive, func(s *sink) error {
			for i := range page {
				if page[i].Group != g.id {
					continue
				}
				// A change after the orders were read has a higher one.
				err := errors.Join(g.bucketRow(ctx, s, &page[i], root.Order),
					g.settings(ctx, s, &change{KeyRef: metadata.KeyRef{Bucket: page[i].ID}, order: max(own.Order, 1)}))
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		after = page[len(page)-1].Name
	}
}

// bucketRow adds the manifest of a bucket's row in the root group.
func (g *group) bucketRow(ctx context.Context, s *sink, row *metadata.Bucket, order uint64) error {
	b, err := g.k.learn(ctx, row)
	if err != nil {
		return err
	}
	entries, err := manifest.Encode(&manifest.Manifest{Kind: manifest.KindBucket, Order: order, Bucket: row})
	if err != nil {
		return fmt.Errorf("keeper: row of bucket %s: %w", row.ID, err)
	}
	return s.add(ctx, b, entries)
}

// filled stores how far a drive is filled, unless it began anew or left.
func (g *group) filled(ctx context.Context, m *metadata.ManifestMember, state metadata.MemberState, upto metadata.KeyRef) error {
	return g.change(ctx, m, func(row *metadata.ManifestMembers, i int) {
		row.Members[i].State, row.Members[i].Fill = state, upto
	})
}

// change replaces the group's row by one that f has changed at the place of a
// member. It fails with errMembersChanged if the member is no longer as it was.
func (g *group) change(ctx context.Context, m *metadata.ManifestMember, f func(row *metadata.ManifestMembers, i int)) error {
	if err := g.turn.Acquire(ctx, 1); err != nil {
		return err
	}
	defer g.turn.Release(1)
	row, err := g.k.o.Metadata.ManifestMembers(ctx, g.id)
	if err != nil {
		return err
	}
	next := clone(row)
	for i := range next.Members {
		n := &next.Members[i]
		if n.Drive == m.Drive && n.Since == m.Since && n.State == m.State {
			f(next, i)
			return g.put(ctx, next)
		}
	}
	return errMembersChanged
}
