package server

import "time"

// clock is the time of the process, as package node wants it.
type clock struct{ now func() time.Time }

// Now implements node.Clock.
func (c clock) Now() time.Time { return c.now() }

// After implements node.Clock.
func (c clock) After(d time.Duration) <-chan time.Time { return time.After(d) }
