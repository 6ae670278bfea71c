package object

import (
	"sync"

	"github.com/ruche-storage/ruche/metadata"
)

// Damage names a chunk of which a read or a write found shards missing or
// corrupt.
type Damage struct {
	Bucket  metadata.BucketRef
	Part    metadata.PartID
	Chunk   metadata.Chunk
	Missing uint32 // bit i: shard i is missing or corrupt
}

// maxDamage bounds the queue. What does not fit is found again by the next
// read, the scrubber, or the short index.
const maxDamage = 4096

// damageQueue holds the chunks that wait for repair, once each.
type damageQueue struct {
	mu      sync.Mutex
	waiting map[metadata.ChunkID]*Damage
	order   []metadata.ChunkID
	dropped uint64
	arrived chan struct{} // has a token while the queue is not empty
}

func newDamageQueue() *damageQueue {
	return &damageQueue{waiting: make(map[metadata.ChunkID]*Damage), arrived: make(chan struct{}, 1)}
}

// queueRepair reports damage to the repair queue. It never blocks.
func (e *Engine) queueRepair(d Damage) {
	q := e.damage
	q.mu.Lock()
	defer q.mu.Unlock()
	if known, ok := q.waiting[d.Chunk.ID]; ok {
		known.Missing |= d.Missing
		return
	}
	if len(q.waiting) >= maxDamage {
		q.dropped++
		return
	}
	q.waiting[d.Chunk.ID] = &d
	q.order = append(q.order, d.Chunk.ID)
	select {
	case q.arrived <- struct{}{}:
	default:
	}
}

// DamageArrived has a value when [Engine.TakeDamage] may return something.
func (e *Engine) DamageArrived() <-chan struct{} { return e.damage.arrived }

// TakeDamage removes and returns up to limit chunks of the repair queue,
// oldest first.
func (e *Engine) TakeDamage(limit int) []Damage {
	q := e.damage
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(limit, len(q.order))
	taken := make([]Damage, 0, n)
	for _, id := range q.order[:n] {
		taken = append(taken, *q.waiting[id])
		delete(q.waiting, id)
	}
	q.order = append(q.order[:0], q.order[n:]...)
	if len(q.order) > 0 {
		select {
		case q.arrived <- struct{}{}:
		default:
		}
	}
	return taken
}

func (q *damageQueue) state() (depth int, dropped uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.order), q.dropped
}
