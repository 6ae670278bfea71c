package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
)

// A scanner walks over the keys of one table of a bucket that begin with a
// prefix, and skips what lies under a common prefix with one seek.
type scanner struct {
	iter  *pebble.Iterator
	group uint32
	table table
	b     metadata.BucketID

	ok   bool
	key  string
	rest []byte // of the store's key, behind the object key
	err  error
}

func newScanner(v View, b metadata.BucketRef, t table, prefix string) (*scanner, error) {
	iter, err := span(v.r, appendEscaped(appendBucket(nil, b.Group, t, b.ID), prefix))
	if err != nil {
		return nil, err
	}
	return &scanner{iter: iter, group: b.Group, table: t, b: b.ID}, nil
}

// first moves to the first key that follows after, the way a page follows
// another: past is the key or common prefix to go behind, "" for none.
func (s *scanner) first(past mark) {
	switch {
	case past.key == "":
		s.decode(s.iter.First())
	case past.common:
		s.skip(past.key)
	default:
		// Behind the key and whatever is stored under it.
		s.decode(s.iter.SeekGE(after(s.keyOf(past.key))))
	}
}

func (s *scanner) keyOf(key string) []byte {
	return objectKey(nil, s.group, s.table, s.b, key)
}

// skip moves behind everything that begins with prefix.
func (s *scanner) skip(prefix string) {
	s.decode(s.iter.SeekGE(after(appendEscaped(appendBucket(nil, s.group, s.table, s.b), prefix))))
}

func (s *scanner) next() { s.decode(s.iter.Next()) }

func (s *scanner) decode(ok bool) {
	s.ok = ok && s.err == nil
	if !s.ok {
		return
	}
	s.key, s.rest, s.err = cutKey(s.iter.Key()[bucketHead:])
	s.ok = s.err == nil
}

func (s *scanner) close() error {
	return errors.Join(s.err, s.iter.Error(), s.iter.Close())
}

// mark is where an earlier page ended.
type mark struct {
	key    string
	common bool // key is a common prefix: everything under it was answered
}

// markOf tells whether the last item of an earlier page was a key or a common
// prefix of this listing.
func markOf(prefix, delimiter, after string) mark {
	return mark{key: after, common: after != "" && commonPrefix(prefix, delimiter, after) == after}
}

// commonPrefix returns the common prefix that a key is listed under, "" if it
// is listed by itself.
func commonPrefix(prefix, delimiter, key string) string {
	if delimiter == "" || !strings.HasPrefix(key, prefix) {
		return ""
	}
	i := strings.Index(key[len(prefix):], delimiter)
	if i < 0 {
		return ""
	}
	return key[:len(prefix)+i+len(delimiter)]
}

// pageLimit bounds what a page may hold.
func pageLimit(limit int) int { return max(0, min(limit, maxPage)) }

// appendKeyVersion appends k to a page. Versions are large, so a page that is
// not a short one gets its room at once.
func appendKeyVersion(page []metadata.KeyVersion, k metadata.KeyVersion, limit int) []metadata.KeyVersion {
	const short = 32
	if len(page) == short {
		page = slices.Grow(page, limit-short)
	}
	return append(page, k)
}

// List returns a page of current versions.
func (v View) List(q *metadata.ListQuery) (*metadata.ListResult, error) {
	res := new(metadata.ListResult)
	limit := pageLimit(q.Limit)
	if err := v.missing(q.Bucket, nil); err != nil || limit == 0 {
		return res, err
	}
	s, err := newScanner(v, q.Bucket, tableCurrent, q.Prefix)
	if err != nil {
		return nil, err
	}
	for s.first(markOf(q.Prefix, q.Delimiter, q.After)); s.ok; {
		if len(res.Keys)+len(res.Prefixes) == limit {
			res.Truncated = true
			break
		}
		if c := commonPrefix(q.Prefix, q.Delimiter, s.key); c != "" {
			res.Prefixes = append(res.Prefixes, c)
			res.Next = c
			s.skip(c)
			continue
		}
		k := metadata.KeyVersion{Key: s.key, Latest: true}
		if err := k.Version.Unmarshal(s.iter.Value()); err != nil {
			return nil, errors.Join(err, s.close())
		}
		res.Keys = appendKeyVersion(res.Keys, k, limit)
		res.Next = s.key
		s.next()
	}
	return res, s.close()
}

// Versions returns a page of all versions, those of one key with the newest
// first.
func (v View) Versions(q *metadata.VersionsQuery) (*metadata.ListResult, error) {
	res := new(metadata.ListResult)
	limit := pageLimit(q.Limit)
	if err := v.missing(q.Bucket, nil); err != nil || limit == 0 {
		return res, err
	}
	m, err := newMerger(v, q)
	if err != nil {
		return nil, err
	}
	for m.settle(); m.ok; {
		if len(res.Keys)+len(res.Prefixes) == limit {
			res.Truncated = true
			break
		}
		key := m.at.key
		if c := commonPrefix(q.Prefix, q.Delimiter, key); c != "" {
			res.Prefixes = append(res.Prefixes, c)
			res.Next = c
			m.skip(c)
			continue
		}
		k := metadata.KeyVersion{Key: key, Latest: m.latest()}
		if err := k.Version.Unmarshal(m.at.iter.Value()); err != nil {
			return nil, errors.Join(err, m.close())
		}
		res.Keys = appendKeyVersion(res.Keys, k, limit)
		res.Next = key
		m.next()
	}
	return res, m.close()
}

// merger walks over the current and the other versions of a bucket, in order
// of key and, within a key, from the newest to the oldest.
type merger struct {
	current, others *scanner

	ok   bool
	at   *scanner // where the next version is
	seen string   // key of a version that was passed
	any  bool     // seen is set
}

func newMerger(v View, q *metadata.VersionsQuery) (*merger, error) {
	current, err := newScanner(v, q.Bucket, tableCurrent, q.Prefix)
	if err != nil {
		return nil, err
	}
	others, err := newScanner(v, q.Bucket, tableVersions, q.Prefix)
	if err != nil {
		return nil, errors.Join(err, current.close())
	}
	m := &merger{current: current, others: others}
	past := markOf(q.Prefix, q.Delimiter, q.KeyAfter)
	if q.VersionAfter == "" || past.key == "" || past.common || !strings.HasPrefix(q.KeyAfter, q.Prefix) {
		current.first(past)
		others.first(past)
		return m, nil
	}
	if err := m.within(v, q); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

// within moves behind one version of a key.
func (m *merger) within(v View, q *metadata.VersionsQuery) error {
	order, _, ok := metadata.ParseVersionID(q.VersionAfter)
	cur, err := read[metadata.Version](v, objectKey(nil, q.Bucket.Group, tableCurrent, q.Bucket.ID, q.KeyAfter), nil)
	if err != nil {
		return err
	}
	if !ok {
		// The null version is the current one or a row of its own; if it is
		// neither, there is nothing to go on from in this key.
		row, err := v.Version(q.Bucket, q.KeyAfter, q.VersionAfter)
		if err != nil && !errors.Is(err, metadata.ErrNoSuchVersion) {
			return err
		}
		if row != nil {
			order = row.Order
		}
	}
	past := mark{key: q.KeyAfter}
	m.current.first(past)
	if cur != nil && cur.Order < order {
		m.current.decode(m.current.iter.SeekGE(m.current.keyOf(q.KeyAfter)))
	}
	if order == 0 {
		m.others.first(past)
		return nil
	}
	from := binary.BigEndian.AppendUint64(m.others.keyOf(q.KeyAfter), ^order+1)
	m.others.decode(m.others.iter.SeekGE(from))
	m.seen, m.any = q.KeyAfter, cur != nil && cur.Order >= order
	if !m.any {
		return m.newer(v, q, order)
	}
	return nil
}

// newer finds out whether versions of the key that are not current are at or
// before the order that the page begins behind.
func (m *merger) newer(v View, q *metadata.VersionsQuery, order uint64) error {
	iter, err := v.r.NewIter(&pebble.IterOptions{
		LowerBound: m.others.keyOf(q.KeyAfter),
		UpperBound: binary.BigEndian.AppendUint64(m.others.keyOf(q.KeyAfter), ^order+1),
	})
	if err != nil {
		return err
	}
	m.any = iter.First()
	return finish(iter)
}

// settle chooses the scanner that is at the next version. Of one key the
// current version is the newest.
func (m *merger) settle() {
	m.at = m.current
	if !m.current.ok || m.others.ok && m.others.key < m.current.key {
		m.at = m.others
	}
	m.ok = m.at.ok && m.current.err == nil && m.others.err == nil
}

// latest reports whether no version of the key came before.
func (m *merger) latest() bool { return !m.any || m.seen != m.at.key }

func (m *merger) next() {
	m.seen, m.any = m.at.key, true
	m.at.next()
	m.settle()
}

func (m *merger) skip(prefix string) {
	for _, s := range []*scanner{m.current, m.others} {
		if s.ok && strings.HasPrefix(s.key, prefix) {
			s.skip(prefix)
		}
	}
	m.settle()
}

func (m *merger) close() error { return errors.Join(m.current.close(), m.others.close()) }

// Uploads returns a page of the uploads in progress.
func (v View) Uploads(q *metadata.UploadsQuery) (*metadata.UploadsResult, error) {
	res := new(metadata.UploadsResult)
	limit := pageLimit(q.Limit)
	if err := v.missing(q.Bucket, nil); err != nil || limit == 0 {
		return res, err
	}
	s, err := newScanner(v, q.Bucket, tableUploads, q.Prefix)
	if err != nil {
		return nil, err
	}
	for v.firstUpload(s, q); s.ok; {
		if len(res.Uploads)+len(res.Prefixes) == limit {
			res.Truncated = true
			break
		}
		if c := commonPrefix(q.Prefix, q.Delimiter, s.key); c != "" {
			res.Prefixes = append(res.Prefixes, c)
			res.NextKey, res.NextID = c, metadata.UploadID{}
			s.skip(c)
			continue
		}
		var u metadata.Upload
		if err := u.Unmarshal(s.iter.Value()); err != nil {
			return nil, errors.Join(err, s.close())
		}
		res.Uploads = append(res.Uploads, u)
		res.NextKey, res.NextID = s.key, u.ID
		s.next()
	}
	return res, s.close()
}

// firstUpload moves to where the page begins. An upload that has ended since
// the page before is not known any more: the page then begins with the first
// upload that is left of its key, so that none is missed by a client that
// ends the uploads it lists.
func (v View) firstUpload(s *scanner, q *metadata.UploadsQuery) {
	past := markOf(q.Prefix, q.Delimiter, q.KeyAfter)
	if q.UploadAfter == nil || past.key == "" || past.common {
		s.first(past)
		return
	}
	var place metadata.UploadPlace
	found, err := get(v.r, idKey(nil, s.group, tablePlaces, s.b, *q.UploadAfter), &place)
	if err != nil {
		s.err = err
		return
	}
	from := s.keyOf(q.KeyAfter)
	if found && place.Key == q.KeyAfter {
		from = append(uploadKey(nil, s.group, s.b, place.Key, place.Order, *q.UploadAfter), 0)
	}
	s.decode(s.iter.SeekGE(from))
}

// leadingOrder reads the order at the start of k.
func leadingOrder(k []byte) (uint64, error) {
	if len(k) < 8 {
		return 0, fmt.Errorf("%w: no order", errKey)
	}
	return binary.BigEndian.Uint64(k), nil
}
