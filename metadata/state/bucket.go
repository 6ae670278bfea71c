package state

import (
	"github.com/ruche-storage/ruche/metadata"
)

// openBucket makes a bucket known in its group. Doing so twice is a retry.
func (a *applier) openBucket(s *metadata.Settings) (rejected, err error) {
	if s.Bucket == (metadata.BucketID{}) || s.Closed {
		return metadata.ErrInvalidCommand, nil
	}
	k, err := a.bucket(s.Bucket)
	switch {
	case err != nil:
		return nil, err
	case k.settings != nil && k.settings.Closed:
		return metadata.ErrNoSuchBucket, nil
	case k.settings != nil:
		return nil, nil
	}
	row := *s
	row.Epoch = max(row.Epoch, 1)
	k.settings = &row
	a.count(k)
	return nil, a.setSettings(&row)
}

// putSettings replaces a bucket's settings by those of the next epoch.
func (a *applier) putSettings(s *metadata.Settings) (rejected, err error) {
	k, err := a.bucket(s.Bucket)
	switch {
	case err != nil:
		return nil, err
	case k.settings == nil || k.settings.Closed:
		return metadata.ErrNoSuchBucket, nil
	case s.Epoch != k.settings.Epoch+1:
		return metadata.ErrStaleSettings, nil
	case s.Closed || s.Name != k.settings.Name:
		return metadata.ErrInvalidCommand, nil
	}
	row := *s
	k.settings = &row
	return nil, a.setSettings(&row)
}

// setSettings writes the row of settings that are open.
func (a *applier) setSettings(row *metadata.Settings) error {
	if err := a.set(appendBucket(nil, a.g.id, tableSettings, row.Bucket), row); err != nil {
		return err
	}
	return a.queue(metadata.OutboxSettings, row.Bucket, "")
}

// closeBucket ends all data commands on an empty bucket. Doing so twice is a
// retry.
func (a *applier) closeBucket(id metadata.BucketID) (rejected, err error) {
	k, err := a.bucket(id)
	switch {
	case err != nil:
		return nil, err
	case k.settings == nil:
		return metadata.ErrNoSuchBucket, nil
	case k.settings.Closed:
		return nil, nil
	case k.usage.Versions != 0 || k.usage.Uploads != 0:
		return metadata.ErrBucketNotEmpty, nil
	}
	// The counters say that it is empty; the rows decide.
	for _, t := range []table{tableCurrent, tableVersions, tableUploads} {
		if found, err := a.any(appendBucket(nil, a.g.id, t, id)); err != nil {
			return nil, err
		} else if found {
			return metadata.ErrBucketNotEmpty, nil
		}
	}
	row := *k.settings
	row.Closed = true
	k.settings = &row
	return nil, a.set(appendBucket(nil, a.g.id, tableSettings, id), &row)
}

// purgeBucket drops what a closed bucket leaves: its settings, counters and
// completions. What lies in the trash stays until the collector has freed it.
// A bucket that is not there is purged already.
func (a *applier) purgeBucket(id metadata.BucketID) (rejected, err error) {
	k, err := a.bucket(id)
	switch {
	case err != nil:
		return nil, err
	case k.settings == nil:
		return nil, nil
	case !k.settings.Closed:
		return metadata.ErrConflict, nil
	}
	for _, t := range []table{tableSettings, tableUsage, tableCurrent, tableVersions, tableNulls,
		tableUploads, tablePlaces, tableCompleted} {
		if err := a.deleteSpan(appendBucket(nil, a.g.id, t, id)); err != nil {
			return nil, err
		}
	}
	// Completions that expire later find nothing to drop.
	k.settings, k.usage, k.dirty = nil, metadata.Usage{}, false
	return nil, nil
}

// any reports whether a row begins with prefix.
func (a *applier) any(prefix []byte) (bool, error) {
	iter, err := span(a.b, prefix)
	if err != nil {
		return false, err
	}
	found := iter.First()
	return found, finish(iter)
}
