package state

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
)

// queues reports whether the group keeps an outbox.
func (a *applier) queues() bool { return a.g.version >= metadata.ManifestVersion }

// queue adds an entry to the outbox. Each has an order of its own; the first
// one has the command's, which is also that of a version it makes.
func (a *applier) queue(kind metadata.OutboxKind, b metadata.BucketID, key string) error {
	if !a.queues() {
		return nil
	}
	a.queued = max(a.queued+1, a.order)
	a.last = max(a.last, a.queued)
	a.key = orderKey(a.key[:0], a.g.id, tableOutbox, a.queued)
	e := metadata.OutboxEntry{Order: a.queued, Kind: kind, Bucket: b, Key: key}
	a.val = e.AppendTo(a.val[:0])
	return a.b.Set(a.key, a.val, nil)
}

// manifested drops the outbox up to an order.
func (a *applier) manifested(c *metadata.Manifested) (rejected, err error) {
	if c.Upto > a.g.head.Order {
		return metadata.ErrInvalidCommand, nil
	}
	var members metadata.ManifestMembers
	if _, err := get(a.b, appendHead(nil, a.g.id, tableMembers), &members); err != nil {
		return nil, err
	}
	if members.Set != c.Set {
		return metadata.ErrConflict, nil
	}
	if c.Upto <= a.g.head.Manifested {
		return nil, nil
	}
	from, to := outboxKey(a.g.id, a.g.head.Manifested+1), outboxKey(a.g.id, c.Upto+1)
	a.g.head.Manifested = c.Upto
	return nil, a.dropRows(from, to)
}

// outboxKey is where the entries of a group from an order on begin.
func outboxKey(group uint32, order uint64) []byte { return orderKey(nil, group, tableOutbox, order) }

// dropRows deletes the rows of a range, each on its own: range deletions would
// slow every read until they are compacted away.
func (a *applier) dropRows(from, to []byte) error {
	iter, err := a.b.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return err
	}
	for ok := iter.First(); ok; ok = iter.Next() {
		if err := a.b.Delete(iter.Key(), nil); err != nil {
			return errors.Join(err, iter.Close())
		}
	}
	return finish(iter)
}

// putMembers replaces the row of the group's manifest drives by its next
// version.
func (a *applier) putMembers(m *metadata.ManifestMembers) (rejected, err error) {
	writes := make(map[[16]byte]bool, len(m.Members))
	for i := range m.Members {
		d := &m.Members[i]
		if _, twice := writes[d.Drive]; twice || d.State < metadata.MemberFilling || d.State > metadata.MemberLeaving {
			return metadata.ErrInvalidCommand, nil
		}
		writes[d.Drive] = d.Writes()
	}
	var old metadata.ManifestMembers
	key := appendHead(nil, a.g.id, tableMembers)
	if _, err := get(a.b, key, &old); err != nil {
		return nil, err
	}
	row := *m
	row.Set = old.Set
	if m.Version == old.Version {
		return sameTable(true, &row, &old), nil
	}
	if m.Version != old.Version+1 {
		return metadata.ErrConflict, nil
	}
	for i := range old.Members {
		if d := &old.Members[i]; d.Writes() && !writes[d.Drive] {
			row.Set = row.Version
		}
		if old.Members[i].Writes() {
			delete(writes, old.Members[i].Drive)
		}
	}
	for _, added := range writes {
		if added {
			row.Set = row.Version
		}
	}
	return nil, a.set(key, &row)
}
