// Package backup writes all of a store's metadata to one file, and makes a
// store of such a file.
//
// A backup is one point in time of all groups and is taken while writers write.
// It is read and written as a stream, with one piece of at most
// snapshot.PieceBytes in memory. With a keyring, all but its head is sealed
// under a key of its own, which the keyring's current master key wraps: whoever
// has the file alone learns its size and age. The keyring is not in it.
//
// [Restore] puts nothing in place before it has verified the whole file: it
// builds the store in a directory beside the one that is asked for, lets it
// forget that it may free anything (a higher incarnation, collection off), and
// only then gives it its name.
//
// What a restored store says is as old as the backup. What was written since is
// still on the drives, because nothing is freed until the operator confirms;
// what was deleted since is back.
//
// FORMAT.md has the bytes.
package backup

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"time"

	"github.com/ruche-storage/ruche/metadata"
)

// Failures that callers branch on.
var (
	// ErrNoBackup says that the file is something else.
	ErrNoBackup = errors.New("not a backup of metadata")

	// ErrTruncated says that the end of the file is missing.
	ErrTruncated = errors.New("backup is cut off: take the whole file, or another backup")

	// ErrDamaged says that the file is not what was written.
	ErrDamaged = errors.New("backup is damaged: take another copy of it, or another backup")

	// ErrNewer says that a newer version of the program wrote it.
	ErrNewer = errors.New("backup was written by a newer version of ruche: restore it with that version")

	// ErrKeys says that the backup is sealed and the keyring does not open
	// it.
	ErrKeys = errors.New("keyring does not open the backup: give the keyring of the cluster, newer than the backup")

	// ErrCluster says that the backup is of another cluster.
	ErrCluster = errors.New("backup is of another cluster")

	// ErrExists says that there is metadata where a backup was to be restored.
	ErrExists = errors.New("there is metadata already: move it away first if it is to be replaced")
)

const (
	magic    = "RUCHEMBK"
	format   = 1
	headBase = len(magic) + 4 + 4

	maxHeadBytes = 64 << 10
)

// Kinds of frames. The values are stored.
const (
	frameGroup   = 1 // snapshot.Header
	framePiece   = 2 // length and head of a piece, and its table
	frameSummary = 3 // snapshot.Summary
	frameEnd     = 4 // totals
)

// ID names a backup: 16 random bytes.
type ID [16]byte

// String returns the id as hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Info is what the head of a backup says. It can be read without a key.
type Info struct {
	ID      ID
	Cluster [16]byte
	Created time.Time // in whole seconds

	// StoreFormat and CommandVersion are what a program must know to restore
	// it.
	StoreFormat    uint64
	CommandVersion uint64

	// Sealed says that the backup opens with the master key Key only.
	Sealed  bool
	Key     metadata.KeyID
	wrapped []byte
}

// Totals say how much a backup holds.
type Totals struct {
	Groups uint64
	Pieces uint64
	Rows   uint64
	Bytes  uint64 // of all tables
}

// nonce is that of a frame, by its number in the file. No key seals more than
// one file.
func nonce(number uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 4), number) }
