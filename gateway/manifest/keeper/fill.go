package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// fillAll fills the drives of a group that are to be filled, those that have
// come equally far by one scan, and returns how many are full now.
func (g *group) fillAll(ctx context.Context) (filled int, err error) {
	if on, err := g.keepsOutbox(ctx); err != nil || !on {
		return 0, err
	}
	row, err := g.k.o.Metadata.ManifestMembers(ctx, g.id)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, f := range fillings(row) {
		n, err := g.fill(ctx, row, f)
		if filled += n; errors.Is(err, errMembersChanged) {
			err = nil
		}
		errs = append(errs, err)
	}
	return filled, errors.Join(errs...)
}

// filling is a scan for drives that have come equally far.
type filling struct {
	members []*metadata.ManifestMember // those that have everything up to now
	failed  []error                    // of those that have not
}

// fillings returns the scans that a group needs.
func fillings(row *metadata.ManifestMembers) []*filling {
	var all []*filling
	for i := range row.Members {
		m := &row.Members[i]
		if m.State != metadata.MemberFilling {
			continue
		}
		at := slices.IndexFunc(all, func(f *filling) bool { return f.members[0].Fill == m.Fill })
		if at < 0 {
			at, all = len(all), append(all, &filling{})
		}
		all[at].members = append(all[at].members, m)
	}
	return all
}

// drives are those that have everything up to now.
func (f *filling) drives() []topology.DriveID {
	ids := make([]topology.DriveID, len(f.members))
	for i, m := range f.members {
		ids[i] = m.Drive
	}
	return ids
}

// drop goes on without drives that have failed. It fails if none is left.
func (f *filling) drop(failed map[topology.DriveID]error) error {
	f.members = slices.DeleteFunc(f.members, func(m *metadata.ManifestMember) bool {
		err := failed[m.Drive]
		if err != nil {
			f.failed = append(f.failed, fmt.Errorf("drive %s: %w", m.Drive, err))
		}
		return err != nil
	})
	if len(f.members) == 0 {
		return errors.Join(f.failed...)
	}
	return nil
}

// fill writes manifests of all that the group holds to drives, from where an
// earlier scan was cut off, and then calls them full. It returns how many are,
// and the errors of the others.
func (g *group) fill(ctx context.Context, row *metadata.ManifestMembers, f *filling) (filled int, err error) {
	after, saved := f.members[0].Fill, g.k.o.Now()
	if after == (metadata.KeyRef{}) {
		if err := g.fillBuckets(ctx, row, f); err != nil {
			return 0, err
		}
	}
	for pages := 0; ; {
		keys, err := g.k.o.Metadata.CurrentKeys(ctx, g.id, after, fillPage)
		if err != nil {
			return 0, err
		}
		if len(keys) == 0 {
			if err := g.filled(ctx, f, metadata.MemberFull, metadata.KeyRef{}); err != nil {
				return 0, err
			}
			n := len(f.members)
			g.k.o.Logger.DebugContext(ctx, "manifest drives are full", "group", g.id, "drives", f.drives())
			g.k.filling.Add(-int64(n)) // until they are counted again
			g.k.bare.Add(int64(n))
			return n, errors.Join(f.failed...)
		}
		if err := g.fillKeys(ctx, row, f, keys); err != nil {
			return 0, err
		}
		after = keys[len(keys)-1].KeyRef
		if pages++; pages < savePages && g.k.o.Now().Sub(saved) < savePeriod {
			continue
		}
		if err := g.filled(ctx, f, metadata.MemberFilling, after); err != nil {
			return 0, err
		}
		pages, saved = 0, g.k.o.Now()
	}
}

// fillWith writes what add brings to the drives.
func (g *group) fillWith(ctx context.Context, row *metadata.ManifestMembers, f *filling, add func(s *sink) error) error {
	s, err := g.k.newSink(g.id, row.Version, f.drives())
	if err != nil {
		return err
	}
	if err := add(s); err != nil {
		s.abort()
		return err
	}
	failed, err := s.close(ctx)
	if err == nil {
		err = f.drop(failed)
	}
	if err != nil {
		return err
	}
	return g.k.o.Limit(ctx, s.bytes*int64(len(f.members)))
}

func (g *group) fillKeys(ctx context.Context, row *metadata.ManifestMembers, f *filling, keys []metadata.KeyOrder) error {
	refs := make([]metadata.KeyRef, len(keys))
	for i := range keys {
		refs[i] = keys[i].KeyRef
	}
	return g.fillWith(ctx, row, f, func(s *sink) error {
		return g.open(ctx, refs, func(o *metadata.OpenedKey) error {
			if !o.Found {
				return nil // deleted since the page was read
			}
			g.k.filled.Add(uint64(len(f.members)))
			return g.changed(ctx, s, &change{KeyRef: o.KeyRef}, o)
		})
	})
}

// fillBuckets writes the rows of the group's buckets.
func (g *group) fillBuckets(ctx context.Context, row *metadata.ManifestMembers, f *filling) error {
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
		err = g.fillWith(ctx, row, f, func(s *sink) error {
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

// filled stores how far drives are filled, but for those that began anew or
// left. It fails with errMembersChanged if none is left.
func (g *group) filled(ctx context.Context, f *filling, state metadata.MemberState, upto metadata.KeyRef) (err error) {
	f.members, err = g.changeAll(ctx, f.members, func(row *metadata.ManifestMembers, i int) {
		row.Members[i].State, row.Members[i].Fill = state, upto
	})
	return err
}

// change replaces the group's row by one that f has changed at the place of a
// member. It fails with errMembersChanged if the member is no longer as it was.
func (g *group) change(ctx context.Context, m *metadata.ManifestMember, f func(row *metadata.ManifestMembers, i int)) error {
	_, err := g.changeAll(ctx, []*metadata.ManifestMember{m}, f)
	return err
}

// changeAll is change for several members. It returns those that were still as
// they were.
func (g *group) changeAll(ctx context.Context, members []*metadata.ManifestMember, f func(row *metadata.ManifestMembers, i int)) (left []*metadata.ManifestMember, err error) {
	if err := g.turn.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer g.turn.Release(1)
	row, err := g.k.o.Metadata.ManifestMembers(ctx, g.id)
	if err != nil {
		return nil, err
	}
	next := clone(row)
	for _, m := range members {
		i := slices.IndexFunc(next.Members, func(n metadata.ManifestMember) bool {
			return n.Drive == m.Drive && n.Since == m.Since && n.State == m.State
		})
		if i >= 0 {
			f(next, i)
			left = append(left, m)
		}
	}
	if len(left) == 0 {
		return nil, errMembersChanged
	}
	return left, g.put(ctx, next)
}
