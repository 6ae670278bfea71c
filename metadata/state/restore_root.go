package state

import (
	"errors"

	"github.com/ruche-storage/ruche/metadata"
)

// restoreBucket puts back the row of a bucket with the time of its creation.
// One of that name and id changes nothing; the group's next orders lie above
// the row's.
func (a *applier) restoreBucket(k *metadata.Bucket) (rejected, err error) {
	if k.Name == "" || k.ID == (metadata.BucketID{}) || k.Group == metadata.RootGroup || k.State != metadata.BucketLive || k.Order == 0 {
		return metadata.ErrInvalidCommand, nil
	}
	var old metadata.Bucket
	key, ids := nameKey(nil, tableNames, k.Name), nameKey(nil, tableBucketIDs, string(k.ID[:]))
	switch found, err := get(a.b, key, &old); {
	case err != nil:
		return nil, err
	case found && old.ID == k.ID:
		return nil, nil
	case found:
		return metadata.ErrBucketExists, nil
	}
	if found, err := exists(a.b, ids); err != nil {
		return nil, err
	} else if found {
		return metadata.ErrInvalidCommand, nil // the id belongs to another name
	}
	if a.g.head.Buckets >= MaxBuckets {
		return metadata.ErrTooManyBuckets, nil
	}
	a.g.head.Buckets++
	a.last = max(a.last, k.Order)
	if err := a.set(key, k); err != nil {
		return nil, err
	}
	return nil, errors.Join(a.b.Set(ids, []byte(k.Name), nil), a.queue(metadata.OutboxBucket, k.ID, k.Name))
}

// restoreAccessKey puts back an access key with the time of its creation.
func (a *applier) restoreAccessKey(k *metadata.AccessKey) (rejected, err error) {
	if k.ID == "" || k.Order == 0 {
		return metadata.ErrInvalidCommand, nil
	}
	key := nameKey(nil, tableAccessKeys, k.ID)
	if found, err := exists(a.b, key); err != nil {
		return nil, err
	} else if found {
		return metadata.ErrAccessKeyExists, nil
	}
	a.last = max(a.last, k.Order)
	return nil, a.setRoot(key, k)
}
