package recovery

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
)

// Tables are what drives carry of where data is.
type Tables struct {
	Incarnation uint64 // of the metadata that wrote them
	Drives      metadata.DriveTable
	PGs         metadata.PGTable
}

// ErrSilent means that no drive has answered in time.
var ErrSilent = errors.New("recovery: no drive answers: look for a device that hangs in the log of the kernel (dmesg)")

// NewestTables returns the newest tables that drives carry, nil if there are
// none, and the paths of the drives that have not told all of theirs within
// patience: what these have told by then counts, and a call on them may outlive
// this one. Only Path and Records of the drives are used. What cannot be read is
// logged and left out; an error is the end of ctx, or wraps [ErrSilent] if there
// are drives and not one has told all.
func NewestTables(ctx context.Context, cluster seal.ClusterID, keys manifest.RootKeys, drives []Drive, patience time.Duration, log *slog.Logger) (t *Tables, silent []string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex // guards newest
	var newest *manifest.Root
	done := make(chan int, len(drives))
	for i := range drives {
		d := &drives[i]
		go func() { // outlives the call only if the drive hangs
			readTablesOf(ctx, cluster, keys, d, log, func(root *manifest.Root) {
				mu.Lock()
				defer mu.Unlock()
				if newest == nil || root.Newer(newest) {
					newest = root
				}
			})
			done <- i
		}()
	}
	waits := make(map[int]bool, len(drives))
	for i := range drives {
		waits[i] = true
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	for ended := false; len(waits) > 0 && !ended; {
		select {
		case i := <-done:
			delete(waits, i)
		case <-late.C:
			ended = true
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	for i := range waits {
		silent = append(silent, drives[i].Path)
	}
	slices.Sort(silent)
	if len(drives) > 0 && len(silent) == len(drives) {
		return nil, silent, ErrSilent
	}
	mu.Lock()
	defer mu.Unlock()
	if newest == nil {
		return nil, silent, nil
	}
	return &Tables{Incarnation: newest.Incarnation.Number, Drives: newest.Drives, PGs: newest.PGs}, silent, nil
}

// readTablesOf calls found with all tables on a drive that open.
func readTablesOf(ctx context.Context, cluster seal.ClusterID, keys manifest.RootKeys, d *Drive, log *slog.Logger, found func(*manifest.Root)) {
	err := d.Records.Records(ctx, metadata.RecordRoot, func(rec *metadata.Record, payload []byte) error {
		root, err := manifest.OpenRoot(keys, cluster, rec.Shard.Chunk, payload)
		if err != nil {
			log.WarnContext(ctx, "tables of the root do not open", "path", d.Path, "record", rec.Shard.Chunk.String(), "err", err)
		} else {
			found(root)
		}
		return context.Cause(ctx)
	})
	if err != nil && ctx.Err() == nil {
		log.WarnContext(ctx, "tables of the root are not read from a drive", "path", d.Path, "err", err)
	}
}
