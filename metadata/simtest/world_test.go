package simtest_test

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strings"
)

// Virtual time is counted in microseconds.
const (
	millisecond = 1000
	second      = 1000 * millisecond
)

// world is virtual time and what will happen in it. Everything that happens in
// a run is an event, one after the other in one goroutine. Events of the same
// moment happen in the order they were planned in.
type world struct {
	r    *rand.Rand
	now  int64
	next events
	n    uint64
	log  *strings.Builder // nil for none
}

type event struct {
	at int64
	n  uint64
	do func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].n < e[j].n
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	(*e)[len(*e)-1] = event{}
	*e = (*e)[:len(*e)-1]
	return last
}

// after plans an event.
func (w *world) after(delay int64, do func()) {
	w.n++
	heap.Push(&w.next, event{at: w.now + max(delay, 0), n: w.n, do: do})
}

// between returns a time between two, the lower ones more often.
func (w *world) between(low, high int64) int64 {
	x := w.r.Float64()
	return low + int64(float64(high-low)*x*x*x)
}

// run lets things happen until a time, or until done is true.
func (w *world) run(until int64, done func() bool) {
	for len(w.next) > 0 && w.next[0].at <= until && (done == nil || !done()) {
		e := heap.Pop(&w.next).(event)
		w.now = e.at
		e.do()
	}
	if done == nil || !done() {
		w.now = max(w.now, until)
	}
}

// chance is true with a probability of percent.
func (w *world) chance(percent float64) bool { return w.r.Float64()*100 < percent }

// logf notes something for whoever looks for a cause.
func (w *world) logf(format string, args ...any) {
	if w.log != nil {
		fmt.Fprintf(w.log, "%9.6f "+format+"\n", append([]any{float64(w.now) / second}, args...)...)
	}
}
