// Package object is the engine: it turns S3's calls into commands of the
// metadata and shards on drives, and is the only package that knows erasure
// coding, placement, metadata and shards together.
//
// A PUT reads the body once, straight into the cells of a stripe, and does
// everything there:
//
//	body -> hash -> [compress] -> seal in place -> parity -> cell checksums
//	     -> k+m shard writers -> all durable -> one commit -> 200
//
// A GET is one read of the metadata, arithmetic, reads of k shards a run of
// stripes, verification of every cell before it is used, and opening in place.
// Nothing is visible before the commit, everything after; a byte that was not
// verified is never returned.
//
// Bodies of up to Options.InlineBytes once sealed are kept in the metadata.
// FORMAT.md says what the package itself stores: the messages whose MACs bind
// parts to their version.
//
// # Who frees what
//
// Before a commit is sent, the engine discards what it wrote itself. From then
// on only the collector frees anything, also when the commit was rejected. The
// engine's part in that is the epoch: every request keeps the epoch it began
// with for its whole life, and publishes it ([Engine.Leases]) until it ended.
//
// # Slow drives
//
// A drive that answers much later than the others in the same writes, or not
// at all, is suspect. Placement groups without it are preferred; a chunk that
// has it as a member leaves it out, or writes to it without waiting, and is
// acknowledged by the same rule as ever: what is missing is in the short index
// and repaired once the drive is well, or after a quarter of an hour in any
// case. Reads ask it last. Probes, small shards that nobody refers to, are
// compared with those on other drives and end the suspicion.
//
// # Memory
//
// Stripes and runs come out of two budgets of bytes (Options.StripeBudgetBytes
// and ReadBudgetBytes). A request waits shortly for its first stripe and fails
// with [ErrBusy]; what it would like beyond, it takes only if it is free.
package object
