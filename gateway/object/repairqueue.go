package object

import (
	"container/heap"
	"context"
	"math"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/metadata"
)

// maxRepair bounds the repair queue. What does not fit is found again in the
// short index or by the next read or scrub.
const maxRepair = 1 << 15

// repairKey names a chunk by its place: a part never has two of one number.
type repairKey struct {
	part metadata.PartID
	no   uint32
}

// repairItem is a chunk that waits for repair.
type repairItem struct {
	key     repairKey
	bucket  metadata.BucketID
	missing uint32    // shards reported missing or corrupt
	short   bool      // there is a row in the short index
	margin  int       // shards that may still be lost, as far as is known
	since   time.Time // when it was first reported
	due     time.Time // not before
	tries   int

	at int // place in its heap
}

// repairHeap orders items by less.
type repairHeap struct {
	items []*repairItem
	less  func(a, b *repairItem) bool
}

func (h *repairHeap) Len() int           { return len(h.items) }
func (h *repairHeap) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }
func (h *repairHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].at, h.items[j].at = i, j
}

// Push implements heap.Interface.
func (h *repairHeap) Push(x any) {
	item := x.(*repairItem)
	item.at = len(h.items)
	h.items = append(h.items, item)
}

// Pop implements heap.Interface.
func (h *repairHeap) Pop() any {
	last := len(h.items) - 1
	item := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	return item
}

// repairQueue holds chunks that wait for repair, once each: those that are due,
// worst margin first and then oldest, and those that are not due yet.
type repairQueue struct {
	now func() time.Time

	mu      sync.Mutex // guards what follows
	known   map[repairKey]*repairItem
	running map[repairKey]*repairItem // taken, not yet done
	ready   repairHeap
	later   repairHeap
	margins [34]int // items by margin+1
	dropped uint64
	arrived chan struct{} // has a token when ready may have grown
}

func newRepairQueue(now func() time.Time) *repairQueue {
	return &repairQueue{
		now: now, known: make(map[repairKey]*repairItem), running: make(map[repairKey]*repairItem),
		ready: repairHeap{less: func(a, b *repairItem) bool {
			if a.margin != b.margin {
				return a.margin < b.margin
			}
			return a.since.Before(b.since)
		}},
		later:   repairHeap{less: func(a, b *repairItem) bool { return a.due.Before(b.due) }},
		arrived: make(chan struct{}, 1),
	}
}

func marginSlot(margin int) int { return min(max(margin+1, 0), 33) }

// add reports a chunk. If it waits already, what is new is taken over; what a
// worker has in hand is reported again once it is done.
func (q *repairQueue) add(item repairItem) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if item.since.IsZero() {
		item.since = q.now()
	}
	if taken := q.running[item.key]; taken != nil {
		taken.missing |= item.missing
		taken.short = taken.short || item.short
		return
	}
	if known := q.known[item.key]; known != nil {
		q.merge(known, &item)
		return
	}
	if len(q.known) >= maxRepair && !q.evict(item.margin) {
		q.dropped++
		return
	}
	own := item
	q.insert(&own)
}

// merge takes what is new of a report into a waiting item. It needs mu.
func (q *repairQueue) merge(known, item *repairItem) {
	known.short = known.short || item.short
	worse := item.margin < known.margin || item.missing&^known.missing != 0
	if !worse {
		return
	}
	q.remove(known)
	known.missing |= item.missing
	known.margin = min(known.margin, item.margin)
	known.due, known.tries = time.Time{}, 0 // something has happened since
	q.insert(known)
}

// evict makes room for an item of a margin by dropping one with a better
// margin. It needs mu.
func (q *repairQueue) evict(margin int) bool {
	for slot := len(q.margins) - 1; slot > marginSlot(margin); slot-- {
		if q.margins[slot] == 0 {
			continue
		}
		for _, item := range q.known {
			if marginSlot(item.margin) == slot {
				q.remove(item)
				q.dropped++
				return true
			}
		}
	}
	return false
}

// insert and remove need mu.
func (q *repairQueue) insert(item *repairItem) {
	q.known[item.key] = item
	q.margins[marginSlot(item.margin)]++
	if item.due.After(q.now()) {
		heap.Push(&q.later, item)
	} else {
		item.due = time.Time{}
		heap.Push(&q.ready, item)
	}
	q.wake()
}

func (q *repairQueue) remove(item *repairItem) {
	delete(q.known, item.key)
	q.margins[marginSlot(item.margin)]--
	if item.due.IsZero() {
		heap.Remove(&q.ready, item.at)
	} else {
		heap.Remove(&q.later, item.at)
	}
}

func (q *repairQueue) wake() {
	select {
	case q.arrived <- struct{}{}:
	default:
	}
}

// take removes the first item that is due, or returns nil and how long it is
// until one may be. done must be called with it.
func (q *repairQueue) take() (*repairItem, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	for len(q.later.items) > 0 && !q.later.items[0].due.After(now) {
		item := heap.Pop(&q.later).(*repairItem)
		item.due = time.Time{}
		heap.Push(&q.ready, item)
	}
	if len(q.ready.items) == 0 {
		if len(q.later.items) == 0 {
			return nil, math.MaxInt64
		}
		return nil, q.later.items[0].due.Sub(now)
	}
	item := heap.Pop(&q.ready).(*repairItem)
	delete(q.known, item.key)
	q.margins[marginSlot(item.margin)]--
	taken := *item
	item.missing, item.short = 0, false // what is reported from now on
	q.running[item.key] = item
	if len(q.ready.items) > 0 {
		q.wake() // another worker
	}
	return &taken, 0
}

// done ends what take began. With a positive delay the item waits again, with
// what was reported meanwhile.
func (q *repairQueue) done(item *repairItem, delay time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	reported := q.running[item.key]
	delete(q.running, item.key)
	if delay <= 0 && reported.missing == 0 {
		return
	}
	again := *item
	again.missing |= reported.missing
	again.short = again.short || reported.short
	again.due, again.tries = q.now().Add(delay), item.tries+1
	if delay <= 0 {
		again.tries = 0
	}
	q.insert(&again)
}

// next waits for an item that is due. It returns nil when ctx is done.
func (q *repairQueue) next(ctx context.Context) *repairItem {
	for ctx.Err() == nil {
		item, wait := q.take()
		if item != nil {
			return item
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-q.arrived:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// depths returns how many items wait, by margin: -1 is for chunks that cannot
// be read.
func (q *repairQueue) depths() (byMargin map[int]int, waiting, delayed, running int, dropped uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	byMargin = make(map[int]int)
	for slot, n := range q.margins {
		if n > 0 {
			byMargin[slot-1] = n
		}
	}
	return byMargin, len(q.known), len(q.later.items), len(q.running), q.dropped
}
