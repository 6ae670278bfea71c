package node

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node/segment"
)

// afterRef returns the first key behind all keys of a reference in a table, or
// the first of the table for the zero value.
func afterRef(table byte, ref metadata.ShardRef) []byte {
	if ref == (metadata.ShardRef{}) {
		return []byte{table}
	}
	return upperBound(appendRef([]byte{table}, ref))
}

func stored(r *row) metadata.StoredShard {
	return metadata.StoredShard{
		Record: r.entry.Record,
		Footer: metadata.Footer{ChunkBytes: r.entry.ChunkBytes},
		Bytes:  r.entry.Bytes,
	}
}

// listAll returns rows of shards after the given one, with their pending marks.
func (x *index) listAll(after metadata.ShardRef, limit int) (list []metadata.StoredShard, err error) {
	rows, err := x.db.NewIter(&pebble.IterOptions{LowerBound: afterRef(tableShard, after), UpperBound: []byte{tableShard + 1}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	marks, err := x.db.NewIter(&pebble.IterOptions{LowerBound: afterRef(tablePending, after), UpperBound: []byte{tablePending + 1}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, marks.Close()) }()

	var last []byte
	marked := marks.First()
	for ok := rows.First(); ok; ok = rows.Next() {
		ref := rows.Key()[1:refKeyBytes]
		if bytes.Equal(ref, last) {
			continue // another record of the same shard
		}
		if len(list) >= limit {
			break
		}
		last = append(last[:0], ref...)
		for marked && bytes.Compare(marks.Key()[1:], ref) < 0 {
			marked = marks.Next()
		}
		r, err := parseRow(rows.Key(), rows.Value())
		if err != nil {
			return nil, err
		}
		s := stored(&r)
		s.Pending = marked && bytes.Equal(marks.Key()[1:], ref)
		list = append(list, s)
	}
	return list, errors.Join(rows.Error(), marks.Error())
}

// listPending returns pending shards after the given one.
func (x *index) listPending(after metadata.ShardRef, limit int) (list []metadata.StoredShard, err error) {
	marks, err := x.db.NewIter(&pebble.IterOptions{LowerBound: afterRef(tablePending, after), UpperBound: []byte{tablePending + 1}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, marks.Close()) }()
	it, err := x.db.NewIter(nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()

	var rows []row
	for ok := marks.First(); ok && len(list) < limit; ok = marks.Next() {
		if rows, err = rowsOf(it, parseRef(marks.Key()[1:]), rows[:0]); err != nil {
			return nil, err
		}
		if len(rows) == 0 {
			continue // freed between the two iterators
		}
		s := stored(&rows[len(rows)-1])
		s.Pending = true
		list = append(list, s)
	}
	return list, marks.Error()
}

// recordsPage is how many rows of records are read at a time: no iterator
// stays open while a caller is at work.
const recordsPage = 256

// pageOfRecords returns rows of [from, to) and where the next page begins, nil
// after the last.
func (x *index) pageOfRecords(from, to []byte) (rows []row, next []byte, err error) {
	err = x.scan(from, to, func(key, value []byte) (bool, error) {
		if len(rows) == recordsPage {
			next = bytes.Clone(key)
			return false, nil
		}
		r, err := parseRow(key, value)
		rows = append(rows, r)
		return true, err
	})
	return rows, next, err
}

// movedRecord returns the row that a record that is not a shard has now.
func (x *index) movedRecord(old *row) (moved row, found bool, err error) {
	err = x.use(func() error {
		b := x.db.NewIndexedBatch()
		defer b.Close()
		rows, err := recordsByID(b, old.entry.Record.Shard)
		if len(rows) > 0 {
			moved, found = rows[len(rows)-1], true
		}
		return err
	})
	return moved, found, err
}

// readChecked reads the payload of a record and checks it.
func readChecked(f io.ReaderAt, r *row, footer *segment.Footer) ([]byte, error) {
	payload := make([]byte, footer.Body)
	n, err := f.ReadAt(payload, r.offset+int64(r.entry.HeaderBytes))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if n < len(payload) || metadata.Sum(sha256.Sum256(payload)) != footer.Own {
		return nil, fmt.Errorf("%s: payload at %d: %w", fileName(r.dir, r.segment), r.offset, metadata.ErrCorrupt)
	}
	return payload, nil
}

// placeCache remembers where shards lie that were read lately, with headers
// found sound. It may be stale: who finds nothing there asks the index.
type placeCache struct {
	slots [placeSlots]placeSlot
}

const placeSlots = 8192

type placeSlot struct {
	mu    sync.Mutex
	ref   metadata.ShardRef
	place place
	own   bool
	body  int64
	head  int
}

func newPlaceCache() *placeCache { return new(placeCache) }

func (c *placeCache) slot(ref metadata.ShardRef) *placeSlot {
	id := &ref.Shard.Chunk // random bits
	n := uint32(id[0])<<16 | uint32(id[1])<<8 | uint32(id[2]) + 37*uint32(ref.Shard.Index)
	return &c.slots[n%placeSlots]
}

// get returns what of the row of a shard is needed to read it.
func (c *placeCache) get(ref metadata.ShardRef) (row, bool) {
	s := c.slot(ref)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ref != ref || s.head == 0 {
		return row{}, false
	}
	return row{place: s.place, own: s.own, sound: true, entry: segment.Entry{Body: s.body, HeaderBytes: s.head}}, true
}

func (c *placeCache) put(ref metadata.ShardRef, r *row) {
	s := c.slot(ref)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ref, s.place, s.own, s.body, s.head = ref, r.place, r.own, r.entry.Body, r.entry.HeaderBytes
}

func (c *placeCache) forget(ref metadata.ShardRef) {
	s := c.slot(ref)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ref == ref {
		s.head = 0
	}
}

// readSeal reads the list of records that a sealed segment ends with.
func readSeal(f io.ReaderAt, id segment.ID, size int64) ([]segment.Entry, error) {
	last, header, footer, err := segment.ReadLast(f, id, size)
	if err != nil {
		return nil, err
	}
	if last.Record.Type != segment.TypeSeal {
		return nil, fmt.Errorf("segment %s has no seal: %w", id, metadata.ErrCorrupt)
	}
	r := row{place: place{segment: id, offset: last.Offset}, entry: segment.Entry{HeaderBytes: len(header)}}
	body, err := readChecked(f, &r, footer)
	if err != nil {
		return nil, err
	}
	return segment.ParseSeal(body)
}
