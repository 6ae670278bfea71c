package node

import (
	"context"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sync/semaphore"
)

// shared is what all drives of a node have in common.
type shared struct {
	cache   *pebble.Cache
	files   *fileCache
	budget  *budget // bytes of buffers
	buffers *bufferPool
	headers *headerPool
}

// budget bounds the bytes of all buffers of a node. Shards hold theirs for as
// long as a client is slow. Records and compaction cannot do without a buffer:
// they have a part of their own, and hold it no longer than a drive needs to
// write.
type budget struct {
	shards  *semaphore.Weighted
	records *semaphore.Weighted
	most    int64 // that one record counts
	used    atomic.Int64
}

// newBudget returns a budget of so many bytes, an eighth of it for records.
func newBudget(bytes int64) *budget {
	records := max(bytes/8, 1)
	return &budget{
		shards:  semaphore.NewWeighted(max(bytes-records, 0)),
		records: semaphore.NewWeighted(records),
		most:    records,
	}
}

// tryShard takes n bytes for a shard if there is room for them now.
func (b *budget) tryShard(n int64) bool {
	ok := b.shards.TryAcquire(n)
	if ok {
		b.used.Add(n)
	}
	return ok
}

// releaseShard gives n bytes of a shard back.
func (b *budget) releaseShard(n int64) {
	b.used.Add(-n)
	b.shards.Release(n)
}

// record waits until there is room for a record of n bytes; a larger one than
// there could ever be room for waits for all of it. The bytes are given back by
// release.
func (b *budget) record(ctx context.Context, n int64) (release func(), err error) {
	n = min(n, b.most)
	if err := b.records.Acquire(ctx, n); err != nil {
		return nil, ended(ctx)
	}
	b.used.Add(n)
	return func() {
		b.used.Add(-n)
		b.records.Release(n)
	}, nil
}

func newShared(opts *Options) *shared {
	return &shared{
		cache:   pebble.NewCache(opts.IndexCacheBytes),
		files:   newFileCache(opts.OpenFiles),
		budget:  newBudget(opts.BufferBytes),
		buffers: new(bufferPool),
		headers: new(headerPool),
	}
}
