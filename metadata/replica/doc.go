// Package replica runs the state machine of the metadata: it takes commands,
// makes them durable, applies them and answers reads.
//
// [Local] is the engine for one copy of the metadata. There is no consensus in
// front of it. Proposals of all groups meet in one queue:
//
//	Commit -> queue -> applier: one indexed batch -> WAL -> syncer: answers
//
// The applier stamps and applies whatever waits, up to a limit, in one batch,
// and hands it to the write-ahead log. While the log is being synced it applies
// the next batch. Nothing is answered, and nothing is visible to reads, before
// the batch is on stable storage: reads use a snapshot taken after the newest
// synced batch.
//
// A failed write or sync is never tried again. It fences the engine: from then
// on every call fails with metadata.ErrUnavailable, until the process was
// started anew and what is on the disk was read back.
//
// [Replicated] is the engine for several copies, by etcd's Raft. Each copy is a
// [Store]: a pure core around one member of each group, with the command log
// (package commandlog) and the state (a Pebble without a log of its own) as
// separate steps:
//
//	Commit -> leader's core -> append: log batch, sync -> quorum -> apply: state batch -> answer
//	            |  ^ messages
//	            v  |
//	          other stores
//
// The engine drives its stores with a few goroutines each; a simulation drives
// them by hand. A failed write stops one store; the engine goes on while a
// quorum is left. Reads ask a quorum whether the leader still leads and use any
// store that has applied as much. docs/design/0006-replicas.md has the reasons.
//
// [Grow] and [Shrink] lead from one engine to the other, and a [Switch] lets
// that happen under the calls.
package replica
