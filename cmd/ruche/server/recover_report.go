package server

import (
	"crypto/rand"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/recovery"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// RecoverReport is what a recovery brought back.
type RecoverReport struct {
	// Complete says that everything is there that had a manifest.
	Complete bool      `json:"complete"`
	Newest   time.Time `json:"newest"` // newest change found, zero if none
	// Credentials is the file with new credentials of root, "" if there were
	// some.
	Credentials string `json:"credentials,omitempty"`
	Tables      bool   `json:"tables"` // false: access keys are lost, the placement was read off the shards
	// Copies are the copies of the metadata that were taken over as they are;
	// then nothing was rebuilt. LostCopies were given up.
	Copies     []string        `json:"copies,omitempty"`
	LostCopies []string        `json:"lost_copies,omitempty"`
	Accounts   int             `json:"accounts"`
	AccessKeys int             `json:"access_keys"`
	Objects    int64           `json:"objects"`
	Bytes      int64           `json:"bytes"`
	Buckets    []RecoverBucket `json:"buckets"`

	MissingDrives []topology.DriveID `json:"missing_drives,omitempty"`
	DamagedDrives []RecoverDrive     `json:"damaged_drives,omitempty"`
	Lost          int64              `json:"lost"` // versions that were not restored
	LostVersions  []RecoverLost      `json:"lost_versions,omitempty"`
	Unopened      int64              `json:"unopened"` // batches of manifests that do not open
	UnknownBucket []RecoverUnknown   `json:"unknown_buckets,omitempty"`
	Renamed       []RecoverRenamed   `json:"renamed,omitempty"`
	// Ended are manifests of a history that a restore or a forced start has
	// ended; they were left out.
	Ended int64 `json:"ended,omitempty"`
}

// RecoverBucket is a bucket that was recovered.
type RecoverBucket struct {
	Name     string `json:"name"`
	Objects  int64  `json:"objects"`
	Bytes    int64  `json:"bytes"`
	Lost     int64  `json:"lost"`
	Unopened int64  `json:"unopened"`
}

// RecoverDrive is a drive of which some records cannot be read.
type RecoverDrive struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// RecoverLost is a version that was not restored.
type RecoverLost struct {
	Bucket   string    `json:"bucket"`
	Key      string    `json:"key"`
	Modified time.Time `json:"modified"`
	Reason   string    `json:"reason"`
}

// RecoverUnknown is a bucket that was not restored.
type RecoverUnknown struct {
	ID      metadata.BucketID `json:"-"`
	Bucket  string            `json:"bucket"`  // its id
	Batches int64             `json:"batches"` // of manifests
	Reason  string            `json:"reason"`
}

// RecoverRenamed is a bucket that got another name.
type RecoverRenamed struct {
	Was string `json:"was"`
	Now string `json:"now"`
}

func newReport(f *recovery.Report) *RecoverReport {
	r := &RecoverReport{
		Complete: f.Complete(), Newest: f.Newest, Tables: f.Tables, Accounts: f.Accounts, AccessKeys: f.AccessKeys,
		Objects: f.Objects, Bytes: f.Bytes, MissingDrives: f.Missing, Lost: f.LostCount, Unopened: f.Unopened, Ended: f.Ended,
		Buckets: make([]RecoverBucket, 0, len(f.Buckets)),
	}
	for _, b := range f.Buckets {
		r.Buckets = append(r.Buckets, RecoverBucket{b.Name, b.Objects, b.Bytes, b.Lost, b.Unopened})
	}
	for _, d := range f.Damaged {
		r.DamagedDrives = append(r.DamagedDrives, RecoverDrive{d.Path, d.Reason})
	}
	for _, l := range f.Lost {
		r.LostVersions = append(r.LostVersions, RecoverLost{l.Bucket, l.Key, time.UnixMicro(int64(l.Order)).UTC(), l.Reason})
	}
	for _, u := range f.Unknown {
		r.UnknownBucket = append(r.UnknownBucket, RecoverUnknown{u.ID, u.ID.String(), u.Batches, u.Reason})
	}
	for _, n := range f.Renamed {
		r.Renamed = append(r.Renamed, RecoverRenamed{n.Was, n.Now})
	}
	return r
}

// scratchFS is a file system for files that nobody reads after this process:
// they are sealed under a key that only it has.
func scratchFS(fs vfs.FS) (vfs.FS, error) {
	var key cryptfs.Key
	var store topology.DriveID
	rand.Read(key[:]) // never fails
	rand.Read(store[:])
	return cryptfs.New(fs, cryptfs.Options{Key: key, Store: store, Random: rand.Reader})
}
