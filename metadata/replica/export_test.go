package replica

import (
	"context"

	"github.com/ruche-storage/ruche/metadata/state"
)

// HoldDecisions keeps the goroutine that decides for a store from deciding, from
// the time that the returned channel is closed until release is.
func HoldDecisions(r Receiver, release <-chan struct{}) (held <-chan struct{}) {
	begun := make(chan struct{})
	r.(*runner).mail.call(func(*Store) {
		close(begun)
		<-release
	})
	return begun
}

// View runs a read of a group.
func View(ctx context.Context, e Engine, group uint32, read func()) error {
	return e.view(ctx, group, func(state.View) error {
		read()
		return nil
	})
}

// QueuedCalls returns how many calls wait for a store's decisions.
func QueuedCalls(r Receiver) int {
	b := r.(*runner).mail
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.next.calls)
}
