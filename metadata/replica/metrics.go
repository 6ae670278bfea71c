package replica

import (
	"math/bits"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Metrics is what an engine counts. Counters start with the process.
type Metrics struct {
	Queue      int // proposals that wait
	QueueLimit int

	Commands   uint64 // applied, rejections included
	Rejections uint64
	Overloads  uint64 // refused, because the queue was full
	Batches    Histogram
	Sync       Histogram // nanoseconds from handing a batch to the log until it was durable
	ClockJumps uint64    // readings of the clock that were not believed
	Snapshots  uint64    // of groups that were sent to other copies

	Disk   vfs.DiskUsage // when it was last asked for
	Full   bool          // commands that add are refused
	Failed bool          // fenced after a failed write

	Pebble *pebble.Metrics // nil when closed or failed
}

// Histogram counts values by powers of two: Buckets[i] counts those below
// 2^i that are not in a lower bucket.
type Histogram struct {
	Count   uint64
	Sum     uint64
	Buckets [40]uint64
}

func (h *Histogram) add(v uint64) {
	h.Count++
	h.Sum += v
	h.Buckets[min(bits.Len64(v), len(h.Buckets)-1)]++
}

// counters is the part of Metrics that the engine's goroutines keep.
type counters struct {
	mu sync.Mutex // guards m
	m  Metrics
}

func (c *counters) batch(commands, rejections int, sync time.Duration, jumps uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.Commands += uint64(commands)
	c.m.Rejections += uint64(rejections)
	c.m.Batches.add(uint64(commands))
	c.m.Sync.add(uint64(max(sync, 0)))
	c.m.ClockJumps = jumps
}

func (c *counters) overload() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.Overloads++
}

func (c *counters) commands(n, rejections int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.Commands += uint64(n)
	c.m.Rejections += uint64(rejections)
	c.m.Batches.add(uint64(n))
}

func (c *counters) sync(took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.Sync.add(uint64(max(took, 0)))
}

func (c *counters) snapshot() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.Snapshots++
}
