package replica

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/ruche-storage/ruche/metadata"
)

// StoreFormat is the format of the files of stores, a
// pebble.FormatMajorVersion. Tables of a later one cannot be put into a store.
const StoreFormat = uint64(formatVersion)

// TableOptions says how tables that are to be put into a store are written.
func TableOptions() sstable.WriterOptions {
	p := Options{}.pebbleOptions(nil, nil, nil)
	p.EnsureDefaults()
	return p.MakeWriterOptions(0, formatVersion.MaxTableFormat())
}

// Build makes a store in dir, where none is, and calls fill with it; the engine
// of a single copy opens it afterwards. All that fill has put in is durable
// when Build returns nil; after an error the directory is to be removed. An
// error of the file system that the store cannot go on from ends Build at once:
// what hangs in the store, and fill with it, ends with the process.
func Build(dir string, o Options, fill func(*pebble.DB) error) error {
	if err := o.Validate(); err != nil {
		return err
	}
	b := &builder{opts: o.withDefaults(dir), fenced: make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- b.build(dir, fill) }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("replica: build %s: %w", dir, err)
		}
		return nil
	case <-b.fenced:
		return fmt.Errorf("replica: build %s: %w", dir, b.failed())
	}
}

// builder is a store that is being made.
type builder struct {
	opts    Options
	failure atomic.Pointer[error]
	fenced  chan struct{} // closed when failure is set
}

func (b *builder) fail(err error) {
	if b.failure.CompareAndSwap(nil, &err) {
		close(b.fenced)
	}
}

func (b *builder) failed() error {
	if p := b.failure.Load(); p != nil {
		return fmt.Errorf("%w: %w", metadata.ErrUnavailable, *p)
	}
	return nil
}

func (b *builder) build(dir string, fill func(*pebble.DB) error) (err error) {
	cache := pebble.NewCache(b.opts.CacheBytes)
	defer cache.Unref()
	fs := &fenceFS{FS: b.opts.FS, fail: b.fail, failed: b.failed, relieve: func(error) bool { return false }}
	fs.armed.Store(true)
	p := b.opts.pebbleOptions(fs, cache, func(err error) {
		b.fail(err)
		select {} // the store expects not to go on
	})
	p.ErrorIfExists = true
	db, err := pebble.Open(dir, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := fill(db); err != nil {
		return err
	}
	return db.Flush()
}
