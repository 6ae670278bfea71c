package replica

import "sync/atomic"

// opening opens a Pebble, or what lies above one. Pebble writes what its log
// holds into tables while it opens, and tries one that it cannot write, as on a
// full disk, again for ever. So the first such failure ends the wait: it is the
// error, and what was begun hangs until the process ends.
//
// Open is given the function that Pebble must call for what it cannot go on
// from; set fences the engine, which closes fenced, and failed says why.
func opening[T any](fenced <-chan struct{}, failed func() error, set func(error), open func(fail func(error)) (T, error)) (T, error) {
	const begun, done, given = 0, 1, 2
	var state atomic.Int32
	fail := func(err error) {
		set(err)
		state.CompareAndSwap(begun, given)
		if state.Load() == given {
			select {} // whoever waits is told
		}
	}
	type opened struct {
		what T
		err  error
	}
	var none T
	result := make(chan opened, 1)
	go func() {
		what, err := open(fail)
		result <- opened{what, err}
	}()
	select {
	case o := <-result:
		if !state.CompareAndSwap(begun, done) {
			return none, failed()
		}
		return o.what, o.err
	case <-fenced:
		return none, failed()
	}
}
