package server

import "context"

// turn is a lock for which a caller waits only as long as it likes.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits until the lock is free, and reports whether it was before ctx
// ended.
func (t turn) take(ctx context.Context) bool {
	select {
	case t <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// give lets the next one in.
func (t turn) give() { <-t }
