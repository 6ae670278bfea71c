package state

import (
	"bytes"
	"errors"
	"hash/maphash"

	"github.com/cockroachdb/pebble/v2"
)

// rows is a batch of changes that is read together with the store below it.
//
// Nearly every command looks for two rows that are not there: the result of an
// earlier proposal, and the version that an object replaces. The batch itself
// finds that out by reading a block of the lowest level, as Pebble uses its
// filters only above. So rows that the batch has not changed are looked for in
// the store by an iterator that uses them all.
type rows struct {
	*pebble.Batch
	db *pebble.DB

	seed    maphash.Seed
	changed map[uint64]struct{} // hashes of keys
	spans   bool                // ranges were deleted, too

	before *pebble.Iterator // of the store as it was before the batch, nil until it is needed
}

func newRows(db *pebble.DB, seed maphash.Seed) *rows {
	return &rows{Batch: db.NewIndexedBatch(), db: db, seed: seed, changed: make(map[uint64]struct{})}
}

// sought reports whether a key is of a table of which find looks for rows.
func sought(key []byte) bool {
	return len(key) > keyHead && (table(key[keyHead-1]) == tableCurrent || table(key[keyHead-1]) == tableResults)
}

func (r *rows) change(key []byte) {
	if sought(key) {
		r.changed[maphash.Bytes(r.seed, key)] = struct{}{}
	}
}

// Set shadows that of the batch.
func (r *rows) Set(key, value []byte, o *pebble.WriteOptions) error {
	r.change(key)
	return r.Batch.Set(key, value, o)
}

// Delete shadows that of the batch.
func (r *rows) Delete(key []byte, o *pebble.WriteOptions) error {
	r.change(key)
	return r.Batch.Delete(key, o)
}

// DeleteRange shadows that of the batch.
func (r *rows) DeleteRange(from, to []byte, o *pebble.WriteOptions) error {
	r.spans = true
	return r.Batch.DeleteRange(from, to, o)
}

// find decodes a row of a table for which sought is true, and reports whether
// there is one.
func (r *rows) find(key []byte, into interface{ Unmarshal([]byte) error }) (bool, error) {
	if _, changed := r.changed[maphash.Bytes(r.seed, key)]; changed || r.spans {
		return get(r.Batch, key, into)
	}
	if r.before == nil {
		var err error
		if r.before, err = r.db.NewIter(&pebble.IterOptions{UseL6Filters: true}); err != nil {
			return false, err
		}
	}
	if !r.before.SeekPrefixGE(key) {
		return false, r.before.Error()
	}
	if !bytes.Equal(r.before.Key(), key) {
		return false, nil
	}
	value, err := r.before.ValueAndErr()
	if err != nil {
		return false, err
	}
	return true, into.Unmarshal(value)
}

// ended says that nothing more is looked for.
func (r *rows) ended() error {
	before := r.before
	r.before = nil
	if before == nil {
		return nil
	}
	return before.Close()
}

// Commit shadows that of the batch.
func (r *rows) Commit(o *pebble.WriteOptions) error {
	return errors.Join(r.ended(), r.Batch.Commit(o))
}

// Close shadows that of the batch.
func (r *rows) Close() error { return errors.Join(r.ended(), r.Batch.Close()) }
