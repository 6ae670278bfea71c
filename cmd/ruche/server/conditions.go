package server

import (
	"sync"
	"time"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// conditionAge is how old what the engine is told of drives may be. Asking a
// drive costs some microseconds, and the engine asks for every chunk.
const conditionAge = 100 * time.Millisecond

// conditions tells the engine how drives are. It is safe for concurrent use.
type conditions struct {
	ask func() map[topology.DriveID]object.Condition
	now func() time.Time

	// mu guards known, what was true at the time asked, if fresh.
	mu    sync.Mutex
	known map[topology.DriveID]object.Condition
	asked time.Time
	fresh bool
}

// Condition implements object.Drives.
func (c *conditions) Condition(id topology.DriveID) object.Condition {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if age := now.Sub(c.asked); !c.fresh || age < 0 || age > conditionAge {
		c.known, c.asked, c.fresh = c.ask(), now, true
	}
	return c.known[id]
}

// forget has the next question asked anew: a drive has come or gone.
func (c *conditions) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fresh = false
}

func conditionsOf(n *node.Node) map[topology.DriveID]object.Condition {
	out := make(map[topology.DriveID]object.Condition)
	for _, s := range n.Status() {
		switch s.State {
		case node.StateOnline:
			out[s.ID] = object.Condition{Readable: true, Writable: true, FreeBytes: s.FreeBytes, Queue: s.QueueRecords}
		case node.StateFull:
			out[s.ID] = object.Condition{Readable: true}
		}
	}
	return out
}
