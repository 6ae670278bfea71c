package keeper

import (
	"bytes"
	"context"
	"errors"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
)

// judge returns which entries of a bucket count, and the order up to which the
// group must have durable manifests before the others may go.
func (s *scan) judge(ctx context.Context, group uint32, b *bucket, entries []manifest.Entry) (live []bool, order uint64, err error) {
	own, err := s.rowsOf(ctx, b, entries)
	if err != nil {
		return nil, 0, err
	}
	keys := make([]metadata.KeyRef, len(entries))
	for i := range entries {
		keys[i] = metadata.KeyRef{Bucket: b.ID, Key: entries[i].Key}
	}
	now, err := s.k.o.Metadata.Orders(ctx, group, keys)
	if err != nil {
		return nil, 0, err
	}
	live = make([]bool, len(entries))
	for i := range entries {
		e, current := &entries[i], now.Orders[i]
		switch {
		case s.void(group, e):
			// of a history that ended: recovery leaves it out, too
		case e.Kind == manifest.KindSettings:
			live[i] = e.Order > now.Order || own.settingsCount(e)
		case e.Kind == manifest.KindBucket:
			live[i] = own.rowCounts(e)
		case e.Order > now.Order:
			live[i] = true // later than this state: it is not for us to judge
		case current != 0:
			// What is later than the current version and not than the state is
			// of changes that a recovery has not found.
			live[i] = e.Kind == manifest.KindVersion && e.Order == current
		case e.Kind == manifest.KindVersion:
			s.tombs.kill(keys[i], e.Order)
		default:
			live[i] = !s.tombs.stone(keys[i], e.Order, group, e.Order <= s.groups[group].cursor, s.k.pass.needless)
			if !live[i] {
				s.k.dropped.Add(1)
			}
		}
	}
	return live, now.Order, nil
}

// void reports whether an entry belongs to a history that a restore has ended.
func (s *scan) void(group uint32, e *manifest.Entry) bool {
	if e.Kind == manifest.KindBucket {
		group = metadata.RootGroup
	}
	return s.layout.incarnation.Voided(group, e.Order)
}

// bucketRows are the rows of a bucket as the state has them. What is not known
// is nil.
type bucketRows struct {
	settings *metadata.Settings
	row      *metadata.Bucket
	order    uint64 // of the root group; up to it, rows have durable manifests
}

// rowsOf reads the rows of a bucket, as far as entries are about them.
func (s *scan) rowsOf(ctx context.Context, b *bucket, entries []manifest.Entry) (rows bucketRows, err error) {
	m := s.k.o.Metadata
	var settings, row bool
	for i := range entries {
		settings = settings || entries[i].Kind == manifest.KindSettings
		row = row || entries[i].Kind == manifest.KindBucket
	}
	if settings {
		rows.settings, err = m.Settings(ctx, b.ref())
	}
	if err == nil && row {
		rows.row, err = m.BucketByID(ctx, b.ID)
	}
	if errors.Is(err, metadata.ErrNoSuchBucket) {
		return bucketRows{}, nil // it is being deleted
	}
	if err != nil || !row {
		return rows, err
	}
	// The barrier before records are freed asks for the bucket's own group: here
	// the root's outbox must have been written already.
	now, err := m.Orders(ctx, metadata.RootGroup, nil)
	if err != nil {
		return rows, err
	}
	written, err := s.k.cursor(ctx, metadata.RootGroup)
	if err != nil {
		return rows, err
	}
	if written < now.Order {
		rows.row = nil // next time
	}
	rows.order = now.Order
	return rows, nil
}

// settingsCount reports whether settings are not known to be of the past: those
// of the present, which have the highest epoch, are in a manifest of their own.
func (r *bucketRows) settingsCount(e *manifest.Entry) bool {
	m, err := manifest.Decode(e)
	return err != nil || r.settings == nil || m.Settings.Epoch >= r.settings.Epoch
}

// rowCounts is settingsCount for the row of the bucket in the root group.
func (r *bucketRows) rowCounts(e *manifest.Entry) bool {
	m, err := manifest.Decode(e)
	return err != nil || r.row == nil || e.Order > r.order || bytes.Equal(m.Bucket.AppendTo(nil), r.row.AppendTo(nil))
}
