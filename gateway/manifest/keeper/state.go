package keeper

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// counters count since the start.
type counters struct {
	entries, versions, tombstones, skipped atomic.Uint64
	records, bytes                         atomic.Uint64
	failures, replaced                     atomic.Uint64
	filled                                 atomic.Uint64
	passes, rewritten, freed, unopened     atomic.Uint64
	dropped                                atomic.Uint64
	filling, bare, short                   atomic.Int64

	errMu  sync.Mutex // guards errors
	errors []string
}

// State is what status and metrics show. Counts are since the start.
type State struct {
	// Lag is how old the oldest change is that is not in a durable manifest,
	// 0 if there is none.
	Lag time.Duration
	// Filling is how many drives are being filled, with versions or with
	// tombstones, counted once a group; Short how many groups have fewer
	// manifest drives than they should.
	Filling, Short int

	Entries    uint64 // of outboxes, done
	Versions   uint64 // manifests of versions
	Tombstones uint64 // manifests of deletions
	Skipped    uint64 // keys whose manifest could not be made: something is wrong with the state
	Records    uint64 // written, each counted once a drive
	Bytes      uint64 // of these
	Failures   uint64 // of writes to drives
	Replaced   uint64 // manifest drives that were given up
	Filled     uint64 // manifests written to drives that are filled

	Passes    uint64 // over all manifests
	Rewritten uint64 // manifests put together anew
	Freed     uint64 // records
	Dropped   uint64 // tombstones that nothing needs any more
	Unopened  uint64 // records that passes could not open

	LastErrors []string // the newest last
}

const maxLastErrors = 8

// State returns what the keeper is doing.
func (k *Keeper) State() State {
	s := State{
		Filling: max(0, int(k.filling.Load()+k.bare.Load())), Short: int(k.short.Load()),
		Entries: k.entries.Load(), Versions: k.versions.Load(), Tombstones: k.tombstones.Load(), Skipped: k.skipped.Load(),
		Records: k.records.Load(), Bytes: k.bytes.Load(), Failures: k.failures.Load(), Replaced: k.replaced.Load(),
		Filled: k.filled.Load(), Passes: k.passes.Load(), Rewritten: k.rewritten.Load(), Freed: k.freed.Load(),
		Dropped: k.dropped.Load(), Unopened: k.unopened.Load(),
	}
	now := k.o.Now()
	for _, g := range k.groups {
		if oldest := g.oldest.Load(); oldest != 0 {
			s.Lag = max(s.Lag, now.Sub(time.UnixMicro(oldest)))
		}
	}
	k.errMu.Lock()
	defer k.errMu.Unlock()
	s.LastErrors = slices.Clone(k.errors)
	return s
}

// failed logs and remembers a failure.
func (k *Keeper) failed(ctx context.Context, what string, err error, args ...any) {
	k.o.Logger.WarnContext(ctx, what, append(args, "err", err)...)
	k.errMu.Lock()
	defer k.errMu.Unlock()
	if len(k.errors) >= maxLastErrors {
		k.errors = slices.Delete(k.errors, 0, 1)
	}
	k.errors = append(k.errors, what+": "+err.Error())
}
