// Package recovery makes the metadata anew from what drives carry.
//
// Every drive of a cluster holds the root tables, and on m+1 drives lie the
// records of accounts and buckets and the manifests of all objects. Recovery
// reads all of it and writes a new state with the same ids and orders:
//
//	[Collect]             root tables, accounts, buckets; all manifests, sorted
//	                      by bucket, key and order
//	[Collection.Restore]  commands that put each key's newest version back
//
// The order alone decides between two manifests of a key, and a tombstone is a
// manifest like any other. A version of which pieces are missing is not
// restored, and told in the [Report]; nothing older takes its place, since what
// an older one names may have been freed.
//
// What is not there afterwards: uploads in progress, what was committed in the
// seconds before the loss and had no manifest yet, the answers to repeated
// requests, and the trash. Shards of these are garbage that the collector finds
// once the operator has switched it on again: a recovery raises the incarnation
// and switches collection off.
//
// The drives are only read. The new state is worth nothing until Restore has
// returned nil; a recovery that was cut off is begun anew in an empty one.
package recovery

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Failures that callers branch on.
var (
	// ErrNoGroups means that no drive has the root tables and the shards do
	// not tell either how placement groups lie on the drives.
	ErrNoGroups = errors.New("recovery: no drive tells how the data is placed: mount more of the drives")
	// ErrNothing means that no drive has a record of any account.
	ErrNothing = errors.New("recovery: no drive has a record of an account: mount the drives of the cluster")
	// ErrNoManifests means that no drive has root tables or manifests: the
	// cluster is older than command version 2, or these are not its drives.
	ErrNoManifests = errors.New("recovery: no drive has a manifest: restore the metadata from a backup")
	// ErrNewer means that the drives were written by a later version.
	ErrNewer = errors.New("recovery: the drives were written by a later version of ruche: use that version")
	// ErrAbsurdClock means that the clock contradicts the newest manifest.
	ErrAbsurdClock = errors.New("recovery: the clock contradicts what the drives hold: set it, or accept it once")
)

// Records is what recovery asks of a drive. *node.Drive is one.
type Records interface {
	// Records calls yield for every record of one type, oldest first, until
	// yield returns an error, which it returns. Records that cannot be read
	// are left out and told at the end, by an error.
	Records(ctx context.Context, typ metadata.RecordType, yield func(rec *metadata.Record, payload []byte) error) error
	// List returns up to limit rows of the drive's index after the given one.
	List(ctx context.Context, after metadata.ShardRef, pendingOnly bool, limit int) ([]metadata.StoredShard, error)
}

// Drive is a drive of the cluster that is there.
type Drive struct {
	// Row is what the drive table would say of it, if the table is lost.
	Row     topology.Drive
	Path    string
	Epoch   uint64 // the highest it has seen
	Records Records
}

// Keys opens what the keyring seals.
type Keys interface {
	manifest.RootKeys
	// UnwrapAccount returns the key of an account.
	UnwrapAccount(ctx context.Context, account metadata.AccountID, key, master metadata.KeyID, wrapped []byte) (seal.Key, error)
}

// Engine takes the commands. *replica.Local is one.
type Engine interface {
	Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error)
}

// Options say what to recover from. Cluster, Keys, Drives, Now, FS and Scratch
// are required.
type Options struct {
	Cluster seal.ClusterID
	Keys    Keys
	Drives  []Drive // at least one
	Now     func() time.Time

	// Scheme is that of the cluster. Zero means that of the tables or, without
	// them, of the shards.
	Scheme metadata.Scheme

	// Known are drives that the cluster had, as far as the keyring tells. They
	// count only if no drive has the root tables.
	Known []topology.DriveID

	// FS and Scratch are where manifests are sorted: a directory that is made
	// anew and removed at the end. It takes as much room as all manifests.
	FS      vfs.FS
	Scratch string

	// MemoryBytes is what sorting and restoring hold each. Zero means 64 MiB.
	MemoryBytes int
	// Workers is how many commands are under way at a time. Zero means 256:
	// as many as the local engine syncs together.
	Workers int

	// Ended takes manifests of histories that a restore or a forced start has
	// ended, too: what is later counts, whatever the operator decided then. It
	// is of use until collection was confirmed; then shards of these are freed.
	Ended bool

	// AcceptClock goes on although the clock seems absurd.
	AcceptClock bool
	// Progress is told from time to time how far it is, one call at a time.
	Progress func(Progress)
	// Log takes what operators should know.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.MemoryBytes == 0 {
		o.MemoryBytes = 64 << 20
	}
	if o.Workers == 0 {
		o.Workers = 256
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Phase names a part of a recovery.
type Phase string

// Phases in order.
const (
	PhaseRecords   Phase = "records"   // accounts, buckets and tables are read
	PhaseManifests Phase = "manifests" // manifests are read
	PhaseRestore   Phase = "restore"   // objects are restored
)

// Progress says how far a recovery is.
type Progress struct {
	Phase       Phase
	Drives      int   // whose manifests have been read
	TotalDrives int   //
	Batches     int64 // of manifests, read and opened
	Manifests   int64 // in them, older ones and tombstones included
	Keys        int64 // decided
	Objects     int64 // restored
	Bytes       int64 // of them, plain
}
