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
package replica
