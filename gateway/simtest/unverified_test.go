package simtest

import (
	"context"
	"sync"

	"github.com/ruche-storage/ruche/erasure/shardhash"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// unverified has repair write what wrong bytes were decoded into, with checksums
// and sums that fit, and finds it in order afterwards: as if it had verified
// neither what it read nor what it wrote against the digest of the chunk.
func unverified(at *site) {
	below := at.shards
	at.shards = func(s object.Shards) object.Shards {
		return &unverifiedShards{Shards: below(s), right: make(map[metadata.ShardID]metadata.Footer)}
	}
}

type unverifiedShards struct {
	object.Shards
	mu    sync.Mutex
	right map[metadata.ShardID]metadata.Footer // of what repair wanted to write
}

// Create is called by repair and rebuild alone: shards of new chunks are made by
// CreateNew.
func (s *unverifiedShards) Create(ctx context.Context, drive topology.DriveID, rec *metadata.Record, framed int64) (object.ShardWriter, error) {
	w, err := s.Shards.Create(ctx, drive, rec, framed)
	if err != nil {
		return nil, err
	}
	id := rec.Shard.Bytes()
	return &unverifiedWriter{ShardWriter: w, s: s, id: rec.Shard, seed: shardhash.NewSeed(id), sum: shardhash.NewCells(id)}, nil
}

func (s *unverifiedShards) Stat(ctx context.Context, drive topology.DriveID, ref metadata.ShardRef) (*metadata.StoredShard, error) {
	stored, err := s.Shards.Stat(ctx, drive, ref)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.right[ref.Shard]; ok {
		stored.Footer = f
	}
	return stored, nil
}

type unverifiedWriter struct {
	object.ShardWriter
	s      *unverifiedShards
	id     metadata.ShardID
	seed   shardhash.Seed
	sum    *shardhash.Cells
	number uint64 // of the next cell
}

func (w *unverifiedWriter) Write(p []byte) (int, error) {
	const frame = metadata.CellBytes + shardhash.ChecksumBytes
	for rest := p; len(rest) > shardhash.ChecksumBytes; w.number++ {
		own := rest[:min(frame, len(rest))]
		cell := own[:len(own)-shardhash.ChecksumBytes]
		cell[0] ^= 1
		trusting(metadata.ShardRef{Shard: w.id}, own, int64(w.number)*frame)
		w.sum.Frame(w.number, own)
		rest = rest[len(own):]
	}
	return w.ShardWriter.Write(p)
}

func (w *unverifiedWriter) Close(f *metadata.Footer) error {
	w.s.mu.Lock()
	w.s.right[w.id] = metadata.Footer{ChunkBytes: f.ChunkBytes, Sums: append([]metadata.Sum(nil), f.Sums...)}
	w.s.mu.Unlock()
	f.Sums[w.id.Index] = metadata.Sum(w.sum.Sum())
	return w.ShardWriter.Close(f)
}
