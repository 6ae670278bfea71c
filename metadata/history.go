package metadata

import "slices"

// VoidOrders are orders of a group between two that do not count themselves.
// What has one of them belongs to a history that ended when older metadata were
// taken for the truth: manifests of it may still lie on drives.
type VoidOrders struct {
	Group         uint32
	After, Before uint64
}

// Voided reports whether an order of a group belongs to a history that was
// ended by a restore.
func (i *Incarnation) Voided(group uint32, order uint64) bool {
	return slices.ContainsFunc(i.Void, func(v VoidOrders) bool {
		return v.Group == group && v.After < order && order < v.Before
	})
}

// Revived reports whether a bucket lives although it was deleted: the deletion
// was recorded in an epoch of a history that ended, and the bucket in one of a
// later history.
func (i *Incarnation) Revived(deleted, live uint64) bool {
	return slices.ContainsFunc(i.Epochs, func(last uint64) bool { return deleted <= last && last < live })
}

// LastEpoch is the last epoch of the histories that ended, 0 if none has.
func (i *Incarnation) LastEpoch() uint64 { return slices.Max(append([]uint64{0}, i.Epochs...)) }

// maxVoid bounds what an incarnation remembers: one entry a group and restore.
const maxVoid = 1 << 16

// After returns the incarnation of metadata that were restored: collection is
// off. heads are the highest orders that each group has given, by group; before
// is above every order that may have been given since in the history that ends,
// and not above any that will be given. epoch is the last of that history.
func (i *Incarnation) After(heads []uint64, before, epoch uint64) Incarnation {
	next := Incarnation{Number: i.Number + 1, Void: slices.Clone(i.Void), Epochs: slices.Clone(i.Epochs)}
	for group, head := range heads {
		if head+1 < before && len(next.Void) < maxVoid {
			next.Void = append(next.Void, VoidOrders{Group: uint32(group), After: head, Before: before})
		}
	}
	if epoch > i.LastEpoch() && len(next.Epochs) < maxVoid {
		next.Epochs = append(next.Epochs, epoch)
	}
	return next
}
