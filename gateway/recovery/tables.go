package recovery

import (
	"context"
	"log/slog"

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

// NewestTables returns the newest tables that drives carry, nil if there are
// none. What cannot be read is logged and left out; only the end of ctx is an
// error.
func NewestTables(ctx context.Context, cluster seal.ClusterID, keys manifest.RootKeys, drives []Records, log *slog.Logger) (*Tables, error) {
	var newest *manifest.Root
	for _, d := range drives {
		err := d.Records(ctx, metadata.RecordRoot, func(rec *metadata.Record, payload []byte) error {
			root, err := manifest.OpenRoot(keys, cluster, rec.Shard.Chunk, payload)
			switch {
			case err != nil:
				log.WarnContext(ctx, "tables of the root do not open", "record", rec.Shard.Chunk.String(), "err", err)
			case newest == nil || root.Newer(newest):
				newest = root
			}
			return context.Cause(ctx)
		})
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			log.WarnContext(ctx, "tables of the root are not read from a drive", "err", err)
		}
	}
	if newest == nil {
		return nil, nil
	}
	return &Tables{Incarnation: newest.Incarnation.Number, Drives: newest.Drives, PGs: newest.PGs}, nil
}
