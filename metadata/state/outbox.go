package state

import (
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
	return a.set(a.key, &metadata.OutboxEntry{Order: a.queued, Kind: kind, Bucket: b, Key: key})
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
	from := appendHead(nil, a.g.id, tableOutbox)
	return nil, a.b.DeleteRange(from, orderKey(nil, a.g.id, tableOutbox, c.Upto+1), nil)
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
