// Package simtest tells whether a whole store on one machine behaves: it holds
// the reference that clients of a store are compared with, and the simulation
// of machines that does so.
//
// A [Model] knows what every key may hold, from what clients have begun and
// what they were told, and nothing of how a store works. What was under way
// when the power was cut may have happened or not, and from the first look on
// it is one of both for ever.
//
// The tests of this package run production code of the metadata, of drives and
// of the engine in one process, on memory that forgets in a power cut what was
// not synced, and in a time of its own (testing/synctest), so that days of
// quarantine take milliseconds. Between the code and its files stands a disk
// whose every step has a name, can fail, lie, hang, or be the last one.
//
// One number, the seed, decides what clients do, and which step is the last.
// The order in which goroutines run is not part of it: a run that fails is
// repeated with its seed, and perhaps more than once, by
//
//	go test ./gateway/simtest -run PowerCuts -sim-seed=N -sim-cuts=1000
package simtest
