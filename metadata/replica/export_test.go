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

// Asked returns the store that would be asked for the next read of a group.
func Asked(e *Replicated, group uint32) uint64 {
	e.groups[group].mu.Lock()
	leader := e.groups[group].leader
	e.groups[group].mu.Unlock()
	r, v := e.findView(group, 0, leader)
	if r == nil {
		return 0
	}
	r.store.views.release(v)
	return r.id()
}

// Late returns the stores that have not answered a read in time.
func Late(e *Replicated) (ids []uint64) {
	for _, r := range *e.runners.Load() {
		if r.overdue.Load() > 0 {
			ids = append(ids, r.id())
		}
	}
	return ids
}

// QueuedCalls returns how many calls wait for a store's decisions.
func QueuedCalls(r Receiver) int {
	b := r.(*runner).mail
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.next.calls)
}
