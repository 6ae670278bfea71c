package simtest

import (
	"maps"
	"slices"
	"strings"

	"github.com/ruche-storage/ruche/metadata"
)

// Order returns the highest order that a group has given.
func (m *Model) Order(group uint32) uint64 { return m.group(group).order }

// Fence returns the fence of a group.
func (m *Model) Fence(group uint32) metadata.Fence { return m.group(group).fence }

// Clock returns a group's counter of monotonic time, in microseconds.
func (m *Model) Clock(group uint32) uint64 { return m.group(group).clock }

// Settings returns a bucket's settings, nil if the bucket is not there.
func (m *Model) Settings(r metadata.BucketRef) *metadata.Settings {
	b := m.group(r.Group).buckets[r.ID]
	if b == nil {
		return nil
	}
	s := b.settings
	return &s
}

// Version returns the current version of a key, nil if there is none.
func (m *Model) Version(r metadata.BucketRef, key string) *metadata.Version {
	b := m.group(r.Group).buckets[r.ID]
	if b == nil || b.objects[key] == nil {
		return nil
	}
	return &b.objects[key].version
}

// List returns the current versions of a bucket whose keys begin with prefix
// and are greater than after, at most limit, in order of key.
func (m *Model) List(r metadata.BucketRef, prefix, after string, limit int) []metadata.KeyVersion {
	b := m.group(r.Group).buckets[r.ID]
	if b == nil {
		return nil
	}
	var page []metadata.KeyVersion
	for _, key := range slices.Sorted(maps.Keys(b.objects)) {
		if strings.HasPrefix(key, prefix) && key > after && len(page) < limit {
			page = append(page, metadata.KeyVersion{Key: key, Version: b.objects[key].version, Latest: true})
		}
	}
	return page
}

// Uploads returns the uploads in progress of a bucket in order of key and
// initiation.
func (m *Model) Uploads(r metadata.BucketRef) []metadata.Upload {
	b := m.group(r.Group).buckets[r.ID]
	if b == nil {
		return nil
	}
	var all []metadata.Upload
	for _, u := range b.uploads {
		all = append(all, u.Upload)
	}
	slices.SortFunc(all, func(x, y metadata.Upload) int {
		if c := strings.Compare(x.Key, y.Key); c != 0 {
			return c
		}
		return int(int64(x.Order - y.Order))
	})
	return all
}

// Parts returns the parts of an upload in progress in order of number.
func (m *Model) Parts(r metadata.BucketRef, id metadata.UploadID) []metadata.Part {
	b := m.group(r.Group).buckets[r.ID]
	if b == nil || b.uploads[id] == nil {
		return nil
	}
	return slices.Clone(b.uploads[id].parts)
}

// Usage counts what a bucket holds.
func (m *Model) Usage(r metadata.BucketRef) (u metadata.Usage) {
	b := m.group(r.Group).buckets[r.ID]
	if b == nil {
		return u
	}
	for _, o := range b.objects {
		u.Objects++
		u.Versions++
		u.Bytes += o.version.Bytes
		u.StoredBytes += o.version.StoredBytes
	}
	for _, up := range b.uploads {
		u.Uploads++
		for _, p := range up.parts {
			u.UploadBytes += p.SealedBytes
		}
	}
	return u
}

// Trash returns a group's trash in order.
func (m *Model) Trash(group uint32) []Trash {
	g := m.group(group)
	var rows []Trash
	for _, order := range slices.Sorted(maps.Keys(g.trash)) {
		rows = append(rows, *g.trash[order])
	}
	return rows
}
