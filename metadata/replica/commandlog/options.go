package commandlog

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options adjusts a log. The zero value is a working configuration.
type Options struct {
	// FS is the file system of the log. Nil means the operating system's.
	// Pebble panics or tries again for ever where its log cannot be written:
	// an FS that may fail should therefore not return from writes that
	// failed, but tell whoever waits.
	FS vfs.FS

	// Logger takes what operators should know. Nil discards it.
	Logger *slog.Logger

	// Fatal is called once, when the log has failed: what Pebble cannot go on
	// from, or rot that a read met. It must neither call the log nor block.
	// Nil does nothing.
	Fatal func(error)

	// Want is whose log Open must find, or else it fails with ErrForeign. What
	// is zero in it is not compared.
	Want Identity

	// MemTableBytes is the size of one memtable; up to four are in memory.
	// Zero means 4 MiB.
	MemTableBytes uint64

	// EntryCacheBytes is how much of the newest entries of all groups together
	// is kept in memory. It may be exceeded twofold while many groups are
	// busy. Zero means 16 MiB.
	EntryCacheBytes int64
}

// formatVersion is the format of Pebble's files, that of the state's store.
const formatVersion = pebble.FormatMajorVersion(20)

// l0Tables is twice the number of tables that may lie over each other before
// they are put together: many, because the log is read when it is opened and
// hardly ever after, and because they are soon cut.
const l0Tables = 24

// blockCacheBytes is small: what is read again is in the entry cache.
const blockCacheBytes = 1 << 20

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Fatal == nil {
		o.Fatal = func(error) {}
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 4 << 20
	}
	if o.EntryCacheBytes == 0 {
		o.EntryCacheBytes = 16 << 20
	}
	return o
}

func (o Options) pebbleOptions(fatal func(error)) *pebble.Options {
	return &pebble.Options{
		FS:                          o.FS,
		CacheSize:                   blockCacheBytes,
		MemTableSize:                o.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       l0Tables,
		L0StopWritesThreshold:       4 * l0Tables,
		FormatMajorVersion:          formatVersion,
		Logger:                      storeLogger{log: o.Logger, fatal: fatal},
		EventListener: &pebble.EventListener{
			// Pebble tries a flush again for ever, also while it opens.
			BackgroundError: func(err error) {
				switch {
				case pebble.IsCorruptionError(err):
					fatal(fmt.Errorf("%w: %w", ErrRot, err))
				case !errors.Is(err, pebble.ErrCancelledCompaction):
					fatal(fmt.Errorf("commandlog: background: %w", err))
				}
			},
		},
	}
}

// storeLogger keeps Pebble from ending the process.
type storeLogger struct {
	log   *slog.Logger
	fatal func(error)
}

func (l storeLogger) Infof(string, ...any) {}

func (l storeLogger) Errorf(format string, args ...any) {
	l.log.Warn("command log", "msg", fmt.Sprintf(format, args...))
}

func (l storeLogger) Fatalf(format string, args ...any) {
	for _, a := range args {
		if err, ok := a.(error); ok {
			l.fatal(fmt.Errorf("commandlog: %w", err))
			return
		}
	}
	l.fatal(fmt.Errorf("commandlog: "+format, args...))
}
