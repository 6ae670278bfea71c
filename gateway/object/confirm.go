package object

import (
	"context"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

const (
	confirmQueue = 4096                   // chunks
	confirmBatch = 256                    // refs a drive
	confirmDelay = 200 * time.Millisecond // how long a hint may wait for others
	// confirmTimeout is how long a drive may take for its hints: others wait.
	confirmTimeout = 2 * time.Second
)

// confirmer tells drives, in batches, that metadata refers to their shards. The
// hints may be lost: the collector looks pending shards up.
type confirmer struct {
	e     *Engine
	queue chan confirmation
}

type confirmation struct {
	drives []topology.DriveID // members of the group
	row    metadata.Chunk
	acked  uint32
}

func newConfirmer(e *Engine) *confirmer {
	return &confirmer{e: e, queue: make(chan confirmation, confirmQueue)}
}

// add queues the hints for one chunk, or drops them.
func (c *confirmer) add(k confirmation) {
	select {
	case c.queue <- k:
	default:
		c.e.counters.confirmsDropped.Add(1)
	}
}

// run sends hints until ctx is done, then what is left in the queue.
func (c *confirmer) run(ctx context.Context) {
	batches := make(map[topology.DriveID][]metadata.ShardRef)
	timer := time.NewTimer(confirmDelay)
	timer.Stop()
	defer timer.Stop()
	for waiting := false; ; {
		select {
		case <-ctx.Done():
			c.drain(batches)
			return
		case k := <-c.queue:
			c.spread(ctx, batches, k)
			if !waiting {
				timer.Reset(confirmDelay)
				waiting = true
			}
		case <-timer.C:
			waiting = false
			c.flush(ctx, batches)
		}
	}
}

func (c *confirmer) spread(ctx context.Context, batches map[topology.DriveID][]metadata.ShardRef, k confirmation) {
	for i, drive := range k.drives {
		if k.acked&(1<<i) == 0 {
			continue
		}
		ref := metadata.ShardRef{PG: k.row.PG, Shard: metadata.ShardID{Chunk: k.row.ID, Index: uint8(i)}}
		batches[drive] = append(batches[drive], ref)
		if len(batches[drive]) >= confirmBatch {
			c.send(ctx, drive, batches[drive])
			delete(batches, drive)
		}
	}
}

func (c *confirmer) flush(ctx context.Context, batches map[topology.DriveID][]metadata.ShardRef) {
	for drive, refs := range batches {
		if len(refs) > 0 {
			c.send(ctx, drive, refs)
		}
		delete(batches, drive) // so that drives that are gone are forgotten
	}
}

func (c *confirmer) drain(batches map[topology.DriveID][]metadata.ShardRef) {
	ctx := context.Background() // the loop's own context has ended
	for {
		select {
		case k := <-c.queue:
			c.spread(ctx, batches, k)
		default:
			c.flush(ctx, batches)
			return
		}
	}
}

func (c *confirmer) send(ctx context.Context, drive topology.DriveID, refs []metadata.ShardRef) {
	_, err := c.e.bg.guard.do(ctx, drive, confirmTimeout, func(ctx context.Context) error {
		return c.e.shards.Confirm(ctx, drive, refs)
	})
	if err != nil {
		c.e.log.DebugContext(ctx, "commit hint not taken", "drive", drive.String(), "shards", len(refs), "err", err)
	}
}
