package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
)

// indexFormat pins the format of the index database. The index is derived
// data: raising the number rebuilds nothing, lowering it does.
const indexFormat = pebble.FormatMajorVersion(21)

// Tables of the index, the first byte of a key. Integers in keys are
// big-endian, so that byte order is numeric order.
const (
	tableMeta    = 0x00 // name -> value
	tableShard   = 0x01 // PG, chunk, index, place -> row
	tableSegment = 0x02 // directory, id -> shared segment, put after the rows of its records
	tableOwnFile = 0x03 // directory, id -> shard reference of an own file, likewise
	tableDoomed  = 0x04 // directory, id -> nothing: an own file whose unlink may not be durable
	tablePending = 0x05 // PG, chunk, index -> bytes of its newest record
	tableRecord  = 0x06 // type, born, place -> row of a record that is not a shard
	tableByID    = 0x07 // chunk, index, place -> key in tableRecord
)

const (
	refKeyBytes   = 1 + 4 + 17
	placeKeyBytes = 4 + 16 + 8
)

var metaTotals = []byte{tableMeta, 't'}
var metaKnown = []byte{tableMeta, 'k'}
var metaScrub = []byte{tableMeta, 's'}

// totals counts the rows of the index. Dead bytes are kept by segment.
type totals struct {
	Records, Bytes              int64 // of all types
	Shards                      int64 // records of shards
	PendingShards, PendingBytes int64
}

func (t *totals) fields() []*int64 {
	return []*int64{&t.Records, &t.Bytes, &t.Shards, &t.PendingShards, &t.PendingBytes}
}

// index is the derived list of everything on a drive. It has no log: a crash
// loses a suffix of what was applied, never something from the middle, so a
// row proves that everything applied before it is there.
type index struct {
	db *pebble.DB

	// mu orders batches, so that counters read from the index and written back
	// agree. It is held while a batch waits for the device.
	mu sync.Mutex

	totalsMu sync.Mutex // guards totals, which is changed with mu held too
	totals   totals

	// life is held shared by whoever uses db and exclusively to close it.
	life   sync.RWMutex
	closed bool
}

// indexComparer orders keys bytewise; rows of one shard share a prefix, which
// is what filters are made of.
func indexComparer() *pebble.Comparer {
	c := *pebble.DefaultComparer
	c.Name = "ruche.index.1"
	c.Split = func(key []byte) int {
		if len(key) > refKeyBytes && key[0] == tableShard {
			return refKeyBytes
		}
		return len(key)
	}
	return &c
}

// openIndex opens the index in dir. onError is told of errors of background
// work; it must not block or use the index.
func openIndex(fs vfs.FS, dir string, cache *pebble.Cache, onError func(error)) (*index, error) {
	opts := &pebble.Options{
		FS:                          fs,
		Cache:                       cache,
		Comparer:                    indexComparer(),
		DisableWAL:                  true,
		FormatMajorVersion:          indexFormat,
		MemTableSize:                4 << 20,
		MemTableStopWritesThreshold: 8,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       64,
		MaxOpenFiles:                256,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 1 },
	}
	opts.Levels[0].FilterPolicy = bloom.FilterPolicy(10)
	for i := 1; i < len(opts.Levels); i++ {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := openDatabase(dir, opts, onError)
	if err != nil {
		return nil, err
	}
	x := &index{db: db}
	if err := x.loadTotals(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return x, nil
}

// openDatabase opens the database of the index. It writes while it opens, and
// tries what it cannot write, as on a full device, again for ever. So the first
// such failure ends the wait: it is the error, and what the database has begun
// hangs until the process ends. What it cannot read because it has rotted does
// not keep it from being closed.
func openDatabase(dir string, opts *pebble.Options, onError func(error)) (*pebble.DB, error) {
	const opening, open, failed = 0, 1, 2
	var state atomic.Int32
	failure := make(chan error, 1)
	var rot atomic.Pointer[error]
	told := func(err error) {
		onError(err)
		if state.CompareAndSwap(opening, failed) {
			failure <- err
		}
		if state.Load() == failed {
			select {} // whoever waits is told
		}
	}
	opts.Logger = indexLogger{told}
	opts.EventListener = &pebble.EventListener{
		BackgroundError: func(err error) {
			if rot.Load() == nil || !pebble.IsCorruptionError(err) {
				told(err)
			}
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			err := fmt.Errorf("%s has rotted: %w", info.Path, info.Details)
			if state.Load() != opening {
				told(err)
			} else {
				rot.CompareAndSwap(nil, &err)
			}
		},
	}
	type opened struct {
		db  *pebble.DB
		err error
	}
	done := make(chan opened, 1)
	go func() {
		db, err := pebble.Open(dir, opts)
		done <- opened{db, err}
	}()
	select {
	case o := <-done:
		if !state.CompareAndSwap(opening, open) {
			return nil, <-failure
		}
		if found := rot.Load(); found != nil && o.err == nil {
			return nil, errors.Join(*found, o.db.Close())
		}
		return o.db, o.err
	case err := <-failure:
		return nil, err
	}
}

// indexLogger keeps the database from ending the process: what it calls fatal
// fences the drive.
type indexLogger struct{ onError func(error) }

func (indexLogger) Infof(string, ...any)  {}
func (indexLogger) Errorf(string, ...any) {}
func (l indexLogger) Fatalf(format string, args ...any) {
	fatal := &fatalError{text: fmt.Sprintf(format, args...)}
	for _, a := range args {
		if err, ok := a.(error); ok {
			fatal.cause = err
		}
	}
	l.onError(fatal)
}

// fatalError is what the database cannot go on from. It is worded without
// wrapping.
type fatalError struct {
	text  string
	cause error
}

func (e *fatalError) Error() string { return e.text }
func (e *fatalError) Unwrap() error { return e.cause }

func (x *index) loadTotals() error {
	v, closer, err := x.db.Get(metaTotals)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer closer.Close()
	for _, f := range x.totals.fields() {
		if len(v) < 8 {
			return fmt.Errorf("node: index totals: %w", metadata.ErrCorrupt)
		}
		*f, v = int64(binary.LittleEndian.Uint64(v)), v[8:]
	}
	return nil
}

// use calls fn while the index is open.
func (x *index) use(fn func() error) error {
	x.life.RLock()
	defer x.life.RUnlock()
	if x.closed {
		return ErrClosed
	}
	return fn()
}

// apply calls fn with a batch that it reads its own writes through, and the
// totals as they will be after it, and commits both.
func (x *index) apply(fn func(b *pebble.Batch, t *totals) error) error {
	return x.commit(x.db.NewIndexedBatch, fn)
}

// applyBlind is apply with a batch that cannot be read, which is cheaper.
func (x *index) applyBlind(fn func(b *pebble.Batch, t *totals) error) error {
	return x.commit(func() *pebble.Batch { return x.db.NewBatch() }, fn)
}

func (x *index) commit(newBatch func() *pebble.Batch, fn func(b *pebble.Batch, t *totals) error) error {
	return x.use(func() error {
		x.mu.Lock()
		defer x.mu.Unlock()
		b := newBatch()
		defer b.Close()
		t := x.totals
		if err := fn(b, &t); err != nil {
			return err
		}
		if b.Empty() {
			return nil
		}
		var value []byte
		for _, f := range t.fields() {
			value = binary.LittleEndian.AppendUint64(value, uint64(*f))
		}
		if err := b.Set(metaTotals, value, nil); err != nil {
			return err
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			return err
		}
		x.totalsMu.Lock()
		defer x.totalsMu.Unlock()
		x.totals = t
		return nil
	})
}

// snapshotTotals returns the counters. It does not wait for the device.
func (x *index) snapshotTotals() totals {
	x.totalsMu.Lock()
	defer x.totalsMu.Unlock()
	return x.totals
}

// flush makes everything applied so far durable. It gives up when stop is
// closed, as a flush on a failing device never ends.
func (x *index) flush(stop <-chan struct{}) error {
	return x.use(func() error {
		done, err := x.db.AsyncFlush()
		if err != nil {
			return err
		}
		select {
		case <-done:
			return nil
		case <-stop:
			return metadata.ErrFenced
		}
	})
}

// close closes the index without flushing it.
func (x *index) close() error {
	x.life.Lock()
	defer x.life.Unlock()
	if x.closed {
		return nil
	}
	x.closed = true
	return x.db.Close()
}

// putRow adds a row. As pending it waits for a commit hint or a lookup.
func putRow(b *pebble.Batch, t *totals, r *row, pending bool) error {
	if err := b.Set(r.key(), r.value(), nil); err != nil {
		return err
	}
	t.Records++
	t.Bytes += r.entry.Bytes
	if r.entry.Record.Type != metadata.RecordShard {
		return b.Set(r.idKey(), r.key(), nil)
	}
	t.Shards++
	if !pending {
		return nil
	}
	return putPending(b, b, t, r.ref(), r.entry.Bytes)
}

// deleteRow removes a row, but not the pending mark of its shard.
func deleteRow(b *pebble.Batch, t *totals, r *row) error {
	if err := b.Delete(r.key(), nil); err != nil {
		return err
	}
	t.Records--
	t.Bytes -= r.entry.Bytes
	if r.entry.Record.Type != metadata.RecordShard {
		return b.Delete(r.idKey(), nil)
	}
	t.Shards--
	return nil
}

// putPending marks a shard as pending. An older mark is looked for in r; with
// nil there is none, as a shard without rows has no mark.
func putPending(r pebble.Reader, b *pebble.Batch, t *totals, ref metadata.ShardRef, bytes int64) error {
	if r != nil {
		if err := clearPending(r, b, t, ref); err != nil {
			return err
		}
	}
	t.PendingShards++
	t.PendingBytes += bytes
	return b.Set(appendRef([]byte{tablePending}, ref), binary.AppendUvarint(nil, uint64(bytes)), nil)
}

// clearPending removes the pending mark of a shard, if r has one.
func clearPending(r pebble.Reader, b *pebble.Batch, t *totals, ref metadata.ShardRef) error {
	key := appendRef([]byte{tablePending}, ref)
	v, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	bytes, _ := binary.Uvarint(v)
	if err := closer.Close(); err != nil {
		return err
	}
	t.PendingShards--
	t.PendingBytes -= int64(bytes)
	return b.Delete(key, nil)
}

// rowsOf appends the rows of a shard to dst, oldest first.
func rowsOf(it *pebble.Iterator, ref metadata.ShardRef, dst []row) ([]row, error) {
	prefix := appendRef(append(make([]byte, 0, refKeyBytes), tableShard), ref)
	for ok := it.SeekPrefixGE(prefix); ok; ok = it.Next() {
		r, err := parseRow(it.Key(), it.Value())
		if err != nil {
			return dst, err
		}
		dst = append(dst, r)
	}
	if err := it.Error(); err != nil {
		return dst, err
	}
	slices.SortFunc(dst, func(a, b row) int { return bytes.Compare(a.segment[:], b.segment[:]) })
	return dst, nil
}

// lookup returns the rows of a shard, oldest first.
func (x *index) lookup(ref metadata.ShardRef) (rows []row, err error) {
	err = x.use(func() error {
		it, err := x.db.NewIter(nil)
		if err != nil {
			return err
		}
		rows, err = rowsOf(it, ref, nil)
		return errors.Join(err, it.Close())
	})
	return rows, err
}

// recordsByID returns the rows of a record that is not a shard.
func recordsByID(b *pebble.Batch, id metadata.ShardID) ([]row, error) {
	bytes := id.Bytes()
	prefix := append([]byte{tableByID}, bytes[:]...)
	it, err := b.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: upperBound(prefix)})
	if err != nil {
		return nil, err
	}
	var rows []row
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var r row
		if r, err = getRow(b, it.Value()); err == nil {
			rows = append(rows, r)
		}
	}
	return rows, errors.Join(err, it.Error(), it.Close())
}

// newestBorn returns the highest birth of all records that are not shards.
func (x *index) newestBorn() (born uint64, err error) {
	err = x.use(func() error {
		it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: []byte{tableRecord}, UpperBound: []byte{tableRecord + 1}})
		if err != nil {
			return err
		}
		// The last of each type is its youngest.
		for ok := it.Last(); ok; {
			key := it.Key()
			if len(key) < 10 {
				break
			}
			born = max(born, binary.BigEndian.Uint64(key[2:]))
			ok = it.SeekLT(bytes.Clone(key[:2]))
		}
		return errors.Join(it.Error(), it.Close())
	})
	return born, err
}

// getRow reads one row by its key.
func getRow(r pebble.Reader, key []byte) (row, error) {
	v, closer, err := r.Get(key)
	if err != nil {
		return row{}, err
	}
	defer closer.Close()
	return parseRow(key, v)
}

// has reports whether a key is there.
func (x *index) has(key []byte) (found bool, err error) {
	err = x.use(func() error {
		found, err = hasKey(x.db, key)
		return err
	})
	return found, err
}

func hasKey(r pebble.Reader, key []byte) (bool, error) {
	_, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, closer.Close()
}

// get returns a copy of the value of a key, nil if there is none.
func (x *index) get(key []byte) (value []byte, err error) {
	err = x.use(func() error {
		v, closer, err := x.db.Get(key)
		if errors.Is(err, pebble.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		value = bytes.Clone(v)
		return closer.Close()
	})
	return value, err
}

// scan calls fn with every key of [from, to) and its value, until fn returns
// false or an error. Both are only valid during the call.
func (x *index) scan(from, to []byte, fn func(key, value []byte) (bool, error)) error {
	return x.use(func() error {
		it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
		if err != nil {
			return err
		}
		more := true
		for ok := it.First(); ok && more && err == nil; ok = it.Next() {
			more, err = fn(it.Key(), it.Value())
		}
		return errors.Join(err, it.Error(), it.Close())
	})
}

// upperBound returns the first key behind all keys with the given prefix.
func upperBound(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}
