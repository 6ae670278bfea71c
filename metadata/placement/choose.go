package placement

import (
	"math/bits"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Load is what is known of a drive when a group is chosen.
type Load struct {
	Writable  bool  // mounted, healthy and with room
	FreeBytes int64 // room for more; weighs the choice
	Queue     int   // writes that wait there; a long queue makes a group less likely
}

// Choice is a group for a new chunk.
type Choice struct {
	PG *metadata.PG // of the table; do not change it
	// Unavailable has bit i set if member i of the newest generation cannot
	// be written now. Whether what is left is enough is for the ack rule.
	Unavailable uint32
}

// A Chooser chooses groups by what was known of the drives when it was made.
// It is never changed and may be used by several goroutines at once; make a
// new one when loads change.
type Chooser struct {
	table    *metadata.PGTable
	groups   []candidate
	heaviest uint64 // the sum of all weights
}

// candidate is a group that may be chosen, with the sum of the weights up to
// and including its own.
type candidate struct {
	index       int
	unavailable uint32
	upTo        uint64
}

// weightUnit is the free space that counts one: finer differences do not
// matter, and sums of many groups stay far from overflow.
const weightUnit = 1 << 20

// NewChooser prepares choices from a table. Only groups with the fewest members
// unavailable are chosen, in most cases none. Among them the chance is as the
// free space of the fullest member, divided by the longest queue.
func NewChooser(t *metadata.PGTable, load func(topology.DriveID) Load) *Chooser {
	c := &Chooser{table: t}
	least := 33
	for i := range t.Groups {
		pg := &t.Groups[i]
		unavailable, weight := weigh(pg, load)
		switch n := bits.OnesCount32(unavailable); {
		case n == len(pg.Newest().Members) || n > least:
			continue
		case n < least:
			least, c.groups, c.heaviest = n, nil, 0
		}
		c.heaviest += weight
		c.groups = append(c.groups, candidate{index: i, unavailable: unavailable, upTo: c.heaviest})
	}
	return c
}

// weigh returns which members of a group are unavailable, and how likely it
// should be chosen, at least 1.
func weigh(pg *metadata.PG, load func(topology.DriveID) Load) (unavailable uint32, weight uint64) {
	free, queue := int64(1<<62), 0
	for i, id := range pg.Newest().Members {
		l := load(id)
		if !l.Writable {
			unavailable |= 1 << i
			continue
		}
		free, queue = min(free, l.FreeBytes), max(queue, l.Queue)
	}
	free = max(free, 0) / weightUnit / int64(1+queue)
	return unavailable, uint64(min(free, 1<<40)) + 1
}

// Choose returns the group that a random number stands for, or
// [ErrNoPlacement] if no group has a member that can be written.
func (c *Chooser) Choose(random uint64) (Choice, error) {
	if len(c.groups) == 0 {
		return Choice{}, ErrNoPlacement
	}
	// The upper half of the product spreads all 64 bits over the weights.
	at, _ := bits.Mul64(random, c.heaviest)
	i, found := slices.BinarySearchFunc(c.groups, at, func(g candidate, at uint64) int {
		switch {
		case g.upTo < at:
			return -1
		case g.upTo > at:
			return 1
		}
		return 0
	})
	if found {
		i++ // upTo is exclusive
	}
	g := c.groups[i]
	return Choice{PG: &c.table.Groups[g.index], Unavailable: g.unavailable}, nil
}

// Choose is [NewChooser] and [Chooser.Choose] in one, for callers that choose
// once.
func Choose(t *metadata.PGTable, load func(topology.DriveID) Load, random uint64) (Choice, error) {
	return NewChooser(t, load).Choose(random)
}
