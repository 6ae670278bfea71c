// Package state is the deterministic state machine of the metadata: it carries
// out commands against a Pebble store, and reads from it.
//
// A [Machine] belongs to one store. Commands are applied through a [Batch],
// which holds the effects of one or many commands until they are committed
// together:
//
//	b := machine.NewBatch()
//	result, err := b.Apply(group, position, command)
//	...
//	err = b.Commit(pebble.Sync)
//
// Apply reads the command, its own group's rows and nothing else: no clock, no
// randomness, no map order, no other group. So replicas that apply the same
// commands have the same bytes, however the commands were batched.
//
// There are two kinds of "no". A rejection is in the result: it is the
// command's answer, equal on every replica, and leaves nothing but itself. An
// error means that this replica could not apply; it must stop, because its
// state would no longer be that of the others.
//
// A [View] reads from a snapshot. Keys and rows are described in
// metadata/FORMAT.md.
package state
