package replica

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// Options adjusts an engine. The zero value is a working configuration.
type Options struct {
	// FS is the file system of the store. Nil means the operating system's.
	FS vfs.FS

	// Now returns the wall clock. Nil means time.Now.
	Now func() time.Time

	// Logger takes what operators should know. Nil discards it.
	Logger *slog.Logger

	// OnFailure is called once when a write failed and the engine has fenced
	// itself. It must not call the engine, and not block. Nil does nothing.
	OnFailure func(error)

	// Knows is the highest version of commands that the engine knows. Zero
	// means metadata.LatestVersion; tests run programs of before.
	Knows uint16

	// AcceptClock opens the store although the clock seems absurd.
	AcceptClock bool

	// CacheBytes is the size of the block cache. Zero means 64 MiB.
	CacheBytes int64

	// MemTableBytes is the size of one memtable. Two are in memory while the
	// store is busy, four at most. Zero means 16 MiB.
	MemTableBytes uint64

	// QueueLength is how many proposals may wait. More are refused with
	// metadata.ErrOverloaded. Zero means 4,096.
	QueueLength int

	// BatchCommands and BatchBytes limit what is committed together. Zero
	// means 256 commands and 2 MiB.
	BatchCommands int
	BatchBytes    int

	// ReserveBytes is kept free for deletes and compactions: with less free
	// space, commands that add are refused with metadata.ErrMetadataFull.
	// Zero means 1/50 of the file system, at least 16 and at most 512 MiB;
	// a negative value switches the check off. One eighth of it is taken by a
	// ballast file, which goes when a write finds no space all the same.
	ReserveBytes int64

	// DiskUsage returns the free and total bytes of the file system. Nil asks
	// FS.
	DiskUsage func() (vfs.DiskUsage, error)
}

// formatVersion is the format of the store's files. It is raised by an
// explicit step of the whole cluster, never by a new library. Version 20
// writes its log in a form that tells damage in the middle from a torn end.
const formatVersion = pebble.FormatMajorVersion(20)

func (o Options) withDefaults(dir string) Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Knows == 0 {
		o.Knows = metadata.LatestVersion
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OnFailure == nil {
		o.OnFailure = func(error) {}
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 16 << 20
	}
	if o.QueueLength == 0 {
		o.QueueLength = 4096
	}
	if o.BatchCommands == 0 {
		o.BatchCommands = 256
	}
	if o.BatchBytes == 0 {
		o.BatchBytes = 2 << 20
	}
	if o.DiskUsage == nil {
		o.DiskUsage = func() (vfs.DiskUsage, error) { return o.FS.GetDiskUsage(dir) }
	}
	return o
}

// Validate reports everything that is wrong with o, or nil.
func (o Options) Validate() error {
	var errs []error
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"CacheBytes", o.CacheBytes}, {"QueueLength", int64(o.QueueLength)},
		{"BatchCommands", int64(o.BatchCommands)}, {"BatchBytes", int64(o.BatchBytes)},
	} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("replica: %s is %d", f.name, f.value))
		}
	}
	if o.MemTableBytes > 1<<30 {
		errs = append(errs, fmt.Errorf("replica: MemTableBytes is %d, more than 1 GiB", o.MemTableBytes))
	}
	return errors.Join(errs...)
}

// checkVersions refuses a state with a group whose commands the program does not
// know all: it would have to stop in the middle of the work.
func (o Options) checkVersions(v state.View) error {
	for g := range uint32(groupCount) {
		version, err := v.CommandVersion(g)
		if err != nil {
			return err
		}
		if version > o.Knows {
			return fmt.Errorf("%w: group %d has command version %d, this program knows %d: start a newer one",
				metadata.ErrUnknownKind, g, version, o.Knows)
		}
	}
	return nil
}

// newCache makes the block cache of a store. Pebble takes memtables off its
// size: two of them would leave nothing of a small one.
func (o Options) newCache() *pebble.Cache {
	return pebble.NewCache(o.CacheBytes + 2*int64(o.MemTableBytes))
}

// pebbleOptions returns the options of the store. fail is called for whatever
// Pebble cannot go on from.
func (o Options) pebbleOptions(fs vfs.FS, cache *pebble.Cache, fail func(error)) *pebble.Options {
	p := &pebble.Options{
		FS:                          fs,
		Cache:                       cache,
		MemTableSize:                o.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		FormatMajorVersion:          formatVersion,
		Logger:                      storeLogger{log: o.Logger, fail: fail},
	}
	for i := range p.Levels {
		l := &p.Levels[i]
		l.BlockSize = 8 << 10 // measured, see docs/design/0009: lookups want short blocks, LIST does not mind
		l.IndexBlockSize = 256 << 10
		l.FilterPolicy = bloom.FilterPolicy(10)
	}
	p.EventListener = &pebble.EventListener{
		BackgroundError: func(err error) {
			if !errors.Is(err, pebble.ErrCancelledCompaction) {
				fail(fmt.Errorf("replica: background: %w", err))
			}
		},
	}
	return p
}

// storeLogger keeps Pebble from ending the process: what it calls fatal fences
// the engine.
type storeLogger struct {
	log  *slog.Logger
	fail func(error)
}

func (l storeLogger) Infof(string, ...any) {}

func (l storeLogger) Errorf(format string, args ...any) {
	l.log.Warn("metadata store", "msg", fmt.Sprintf(format, args...))
}

func (l storeLogger) Fatalf(format string, args ...any) {
	fatal := &fatalError{text: fmt.Sprintf("replica: store: "+format, args...)}
	for _, a := range args {
		if err, ok := a.(error); ok {
			fatal.cause = err
		}
	}
	l.fail(fatal)
}

// fatalError is what Pebble calls fatal. It is worded without wrapping.
type fatalError struct {
	text  string
	cause error
}

func (e *fatalError) Error() string { return e.text }
func (e *fatalError) Unwrap() error { return e.cause }
