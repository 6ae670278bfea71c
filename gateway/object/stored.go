package object

import (
	"context"
	"fmt"

	"github.com/ruche-storage/ruche/erasure/shardhash"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// stat returns header and footer of a shard.
func (g *background) stat(ctx context.Context, drive topology.DriveID, ref metadata.ShardRef) (*metadata.StoredShard, error) {
	var stored *metadata.StoredShard
	_, err := g.guard.do(ctx, drive, g.e.options.ReadTimeout, func(ctx context.Context) (err error) {
		stored, err = g.e.shards.Stat(ctx, drive, ref)
		return err
	})
	if err != nil {
		return nil, err
	}
	return stored, nil
}

// belongs reports whether the footer of a shard belongs to a chunk: nil, or
// metadata.ErrCorrupt.
func belongs(c *metadata.Chunk, s *metadata.StoredShard) error {
	sums := make([]shardhash.Sum, len(s.Footer.Sums))
	for i := range sums {
		sums[i] = shardhash.Sum(s.Footer.Sums[i])
	}
	switch {
	case s.Shard.Chunk != c.ID || s.Scheme != c.Scheme || s.Footer.ChunkBytes != c.Bytes,
		len(sums) != c.Scheme.Total(), metadata.Sum(shardhash.ChunkDigest(sums)) != c.Digest:
		return fmt.Errorf("object: shard %s does not fit its chunk: %w", s.Shard, metadata.ErrCorrupt)
	}
	return nil
}

// confirm tells drives that the metadata refer to shards made anew. The caller
// has the chunk to itself and has looked it up since. It is a hint.
func (g *background) confirm(ctx context.Context, chunk *metadata.Chunk, pg *metadata.PG, made uint32) {
	for i, drive := range pg.Newest().Members {
		if made&(1<<i) == 0 {
			continue
		}
		refs := []metadata.ShardRef{{PG: chunk.PG, Shard: metadata.ShardID{Chunk: chunk.ID, Index: uint8(i)}}}
		_, err := g.guard.do(ctx, drive, g.e.options.ReadTimeout, func(ctx context.Context) error {
			return g.e.shards.Confirm(ctx, drive, refs)
		})
		if err != nil {
			g.e.log.DebugContext(ctx, "hint of a repair not taken", "drive", drive.String(), "err", err)
		}
	}
}
