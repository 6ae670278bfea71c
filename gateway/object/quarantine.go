package object

import (
	"sync"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// maxQuarantine bounds the shards that are known as garbage. Others wait until
// there is room.
const maxQuarantine = 1 << 17

// quarantine remembers since when shards have been known as garbage, by the
// counter of their group. It is kept in memory only: a restart begins anew,
// which frees later, never earlier.
type quarantine struct {
	rows     map[quarantineKey]quarantined
	pass     uint32
	overflow uint64
}

type quarantineKey struct {
	drive topology.DriveID
	ref   metadata.ShardRef
}

type quarantined struct {
	since uint64 // counter when it was first seen, microseconds
	pass  uint32 // that saw it last
}

// sweep forgets the shards of a drive that the present pass has not seen.
func (q *quarantine) sweep(drive topology.DriveID) {
	for key, row := range q.rows {
		if key.drive == drive && row.pass != q.pass {
			delete(q.rows, key)
		}
	}
}

// quarantined reports whether a shard has been known as garbage for long
// enough and may be freed now.
func (c *collector) quarantined(drive topology.DriveID, v *verdict, bytes int64) bool {
	q := &c.quarantine
	key := quarantineKey{drive: drive, ref: v.record.Ref()}
	row, known := q.rows[key]
	if !known && len(q.rows) >= maxQuarantine {
		q.overflow++
		return false
	}
	if !known || v.clock < row.since {
		row.since = v.clock
	}
	row.pass = q.pass
	q.rows[key] = row
	if v.clock-row.since < uint64(c.g.o.Quarantine.Microseconds()) {
		return false
	}
	if !c.governor.allow(bytes) {
		c.count(func(s *CollectState) { s.Governed++ })
		return false
	}
	return true
}

// governor bounds what is freed on inference alone, so that a mistake cannot
// take much before somebody notices.
type governor struct {
	now    func() time.Time
	stored func() (bytes, shards int64)

	mu   sync.Mutex
	past []governed // by minute, oldest first, of the last hour
}

// governed is what was freed in a minute.
type governed struct {
	minute        time.Time
	bytes, shards int64
}

const (
	governedSpan   = time.Hour
	governedBytes  = 1 << 30 // always allowed in an hour
	governedShards = 10_000
	governedPart   = 20  // 1/20 of the bytes
	governedCount  = 100 // 1/100 of the shards
)

// allow takes one shard off what may be freed in an hour, or reports false.
func (g *governor) allow(bytes int64) bool {
	stored, shards := g.stored()
	limit := governed{bytes: max(governedBytes, stored/governedPart), shards: max(governedShards, shards/governedCount)}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	for len(g.past) > 0 && now.Sub(g.past[0].minute) >= governedSpan+time.Minute {
		g.past = g.past[1:]
	}
	var used governed
	for i := range g.past {
		used.bytes += g.past[i].bytes
		used.shards += g.past[i].shards
	}
	if used.bytes+bytes > limit.bytes || used.shards >= limit.shards {
		return false
	}
	if n := len(g.past); n == 0 || now.Sub(g.past[n-1].minute) >= time.Minute {
		g.past = append(g.past, governed{minute: now})
	}
	last := &g.past[len(g.past)-1]
	last.bytes += bytes
	last.shards++
	return true
}
