package replica

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

// QueuedCalls returns how many calls wait for a store's decisions.
func QueuedCalls(r Receiver) int {
	b := r.(*runner).mail
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.next.calls)
}
