package metadata

import "errors"

// Classes of storage failures. A caller branches on them with [errors.Is];
// they keep their identity over the wire. An error of none of these classes is
// unknown, which never means missing and never means healthy.
var (
	// ErrShardNotFound means that the drive was asked and does not hold it.
	ErrShardNotFound = errors.New("shard not found")
	// ErrCorrupt means that bytes were read and do not match their checksum.
	ErrCorrupt = errors.New("corrupt")
	// ErrFenced means that the drive failed a write or sync, or was taken out,
	// and serves nothing until it was verified anew.
	ErrFenced = errors.New("drive fenced")
	// ErrDriveFull means that the drive accepts no more shards; reads and
	// deletes work.
	ErrDriveFull = errors.New("drive full")
	// ErrDriveAbsent means that no drive of that id is mounted here.
	ErrDriveAbsent = errors.New("drive absent")
	// ErrSlow means that the drive did not answer in time.
	ErrSlow = errors.New("drive slow")
)
