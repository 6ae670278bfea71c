package state

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
)

func (a *applier) putAccount(acc *metadata.Account) (rejected, err error) {
	if acc.ID == (metadata.AccountID{}) {
		return metadata.ErrInvalidCommand, nil
	}
	return nil, a.setRoot(nameKey(nil, tableAccounts, string(acc.ID[:])), acc)
}

func (a *applier) putAccessKey(k *metadata.AccessKey) (rejected, err error) {
	if k.ID == "" {
		return metadata.ErrInvalidCommand, nil
	}
	key := nameKey(nil, tableAccessKeys, k.ID)
	if found, err := exists(a.b, key); err != nil {
		return nil, err
	} else if found {
		return metadata.ErrAccessKeyExists, nil
	}
	row := *k
	row.Order = a.order
	return nil, a.setRoot(key, &row)
}

func (a *applier) deleteAccessKey(id string) (rejected, err error) {
	key := nameKey(nil, tableAccessKeys, id)
	if found, err := exists(a.b, key); err != nil {
		return nil, err
	} else if !found {
		return metadata.ErrNoSuchAccessKey, nil
	}
	if err := a.b.Delete(key, nil); err != nil {
		return nil, err
	}
	return nil, a.queue(metadata.OutboxRoot, metadata.BucketID{}, "")
}

func (a *applier) putDrives(t *metadata.DriveTable) (rejected, err error) {
	var old metadata.DriveTable
	key := appendHead(nil, a.g.id, tableDrives)
	found, err := get(a.b, key, &old)
	if err != nil {
		return nil, err
	}
	if found && t.Version <= old.Version {
		return sameTable(t.Version == old.Version, t, &old), nil
	}
	return nil, a.setRoot(key, t)
}

func (a *applier) putIncarnation(i *metadata.Incarnation) (rejected, err error) {
	var old metadata.Incarnation
	key := appendHead(nil, a.g.id, tableIncarnation)
	if _, err := get(a.b, key, &old); err != nil {
		return nil, err
	}
	if i.Number < old.Number {
		return metadata.ErrConflict, nil
	}
	return nil, a.setRoot(key, i)
}

// setRoot writes a row of the root's small tables.
func (a *applier) setRoot(key []byte, r row) error {
	if err := a.set(key, r); err != nil {
		return err
	}
	return a.queue(metadata.OutboxRoot, metadata.BucketID{}, "")
}

// reserveBucket takes a name. Reserving it again with the same id is a retry.
func (a *applier) reserveBucket(k *metadata.Bucket) (rejected, err error) {
	if k.Name == "" || k.ID == (metadata.BucketID{}) || k.Group == metadata.RootGroup {
		return metadata.ErrInvalidCommand, nil
	}
	var old metadata.Bucket
	key := nameKey(nil, tableNames, k.Name)
	switch found, err := get(a.b, key, &old); {
	case err != nil:
		return nil, err
	case found && old.ID == k.ID:
		return nil, nil
	case found:
		return metadata.ErrBucketExists, nil
	}
	if a.g.head.Buckets >= MaxBuckets {
		return metadata.ErrTooManyBuckets, nil
	}
	ids := nameKey(nil, tableBucketIDs, string(k.ID[:]))
	if found, err := exists(a.b, ids); err != nil {
		return nil, err
	} else if found {
		return metadata.ErrInvalidCommand, nil // the id belongs to another name
	}
	a.g.head.Buckets++
	row := *k
	row.Order, row.State = a.order, metadata.BucketCreating
	if err := a.set(key, &row); err != nil {
		return nil, err
	}
	return nil, errors.Join(a.b.Set(ids, []byte(k.Name), nil), a.queue(metadata.OutboxBucket, k.ID, k.Name))
}

// moveBucket activates or retires a bucket. Doing so twice is a retry.
func (a *applier) moveBucket(kind metadata.Kind, k *metadata.Bucket) (rejected, err error) {
	var row metadata.Bucket
	key := nameKey(nil, tableNames, k.Name)
	switch found, err := get(a.b, key, &row); {
	case err != nil:
		return nil, err
	case !found || row.ID != k.ID:
		return metadata.ErrNoSuchBucket, nil
	}
	to := metadata.BucketLive
	if kind == metadata.KindRetireBucket {
		to = metadata.BucketDeleting
	}
	if to == metadata.BucketLive && row.State == metadata.BucketDeleting {
		return metadata.ErrConflict, nil
	}
	if row.State == to {
		return nil, nil
	}
	row.State = to
	if err := a.set(key, &row); err != nil {
		return nil, err
	}
	return nil, a.queue(metadata.OutboxBucket, k.ID, k.Name)
}

// forgetBucket frees the name of a retired bucket. A name that is free, or
// taken by another bucket, is forgotten already.
func (a *applier) forgetBucket(k *metadata.Bucket) (rejected, err error) {
	var row metadata.Bucket
	key := nameKey(nil, tableNames, k.Name)
	switch found, err := get(a.b, key, &row); {
	case err != nil || !found || row.ID != k.ID:
		return nil, err
	case row.State != metadata.BucketDeleting:
		return metadata.ErrConflict, nil
	}
	a.g.head.Buckets--
	return nil, errors.Join(a.b.Delete(key, nil),
		a.b.Delete(nameKey(nil, tableBucketIDs, string(k.ID[:])), nil),
		a.queue(metadata.OutboxBucket, k.ID, k.Name))
}

func exists(r pebble.Reader, key []byte) (bool, error) {
	_, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, closer.Close()
}
