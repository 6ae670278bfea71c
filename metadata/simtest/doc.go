// Package simtest tells whether metadata behaves: it holds the reference that
// the state machine, the engines and whole clusters are compared with, and the
// simulation of clusters that does so.
//
// A [Model] does what commands are defined to do with maps, and no thought of
// speed: no rows, no counters that could disagree with what they count, no
// batches. Commands are given to it one after the other, as a group's log holds
// them, and it answers as [state.Machine] has to.
//
// [Spec] makes the same rules the sequential specification of one object key,
// by which porcupine decides whether what clients have seen, at the same time
// and with answers that never came, can be explained at all.
//
// The tests of this package run clusters of production code
// (metadata/replica) in one goroutine on crashable memory file systems. One
// number, the seed, decides what happens in a run, but for one thing: where a
// power cut falls in the middle of Pebble's background work. A run that fails
// prints the seed; repeat that run, more than once if need be, with
//
//	go test ./metadata/simtest -run Cluster -sim-seed=N -sim-seeds=1
//
// and try many others with -sim-seeds=5000.
package simtest
