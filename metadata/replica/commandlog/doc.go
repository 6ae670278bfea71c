// Package commandlog keeps the command log of one store: the entries and the
// Raft state of all its groups, in one Pebble with a synced write-ahead log.
//
//	Append(writes of many groups) -> one batch -> one fsync -> visible to readers
//
// A group's log is a run of entries behind its start, a mark of index, term and
// hash:
//
//	start 100 | 101 102 103 ... | last
//
// Every entry carries a hash over the hash of the one before, its index, term,
// type and data; the first hash belongs to the cluster, the store and the
// group. So an entry that is missing, damaged, out of place or another log's is
// found whenever the log is opened or read from disk. It is rot, however near
// to the end it lies: the only end that may be torn is that of Pebble's own log,
// whose records tell what was synced before them.
//
// A log never gets shorter than what it promised: one whose commit lies behind
// its last entry does not open. Such a store is replaced under a new replica
// id; nothing in this package repairs a log.
//
// FORMAT.md describes the keys and values.
package commandlog
