package recovery

import (
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Report says what was recovered and what is missing.
type Report struct {
	// Newest is the time of the newest change that was found: what came later
	// is lost.
	Newest      time.Time
	Incarnation uint64 // of the new state
	// Tables says whether root tables were found. If not, all access keys are
	// lost and the placement was read off the shards.
	Tables     bool
	Accounts   int
	AccessKeys int
	Objects    int64
	Bytes      int64 // plain bytes of them
	Buckets    []BucketReport

	// Missing are drives of the cluster that were not there, Damaged those of
	// which some records could not be read.
	Missing []topology.DriveID
	Damaged []DamagedDrive
	// Parity is how many drives may be missing or damaged without any manifest
	// being lost.
	Parity int

	// Ended are the manifests that were left out because they are of a history
	// that a restore or a forced start has ended; some copies count, too.
	Ended int64

	// Lost are the first of the LostCount versions that were not restored.
	Lost      []Lost
	LostCount int64
	// Unknown are batches of manifests of buckets that have no record, or
	// whose key does not open.
	Unknown []UnknownBucket
	// Unopened are batches that do not open although the bucket's key is
	// there.
	Unopened int64
	// Renamed are buckets that had to get another name.
	Renamed []Renamed
}

// BucketReport is what was recovered of a bucket.
type BucketReport struct {
	Name     string
	ID       metadata.BucketID
	Objects  int64
	Bytes    int64
	Lost     int64 // versions that were not restored
	Unopened int64 // batches that do not open
}

// Lost is a version that was not restored.
type Lost struct {
	Bucket string
	Key    string
	Order  uint64 // of the version
	Reason string
}

// UnknownBucket is a bucket that could not be restored.
type UnknownBucket struct {
	ID      metadata.BucketID
	Batches int64
	Reason  string
}

// DamagedDrive is a drive of which something could not be read.
type DamagedDrive struct {
	Drive  topology.DriveID
	Path   string
	Reason string
	Counts bool // others than tables of the root, which every drive has
}

// Renamed is a bucket whose name another one has.
type Renamed struct {
	ID       metadata.BucketID
	Was, Now string
}

const (
	// maxLost is how many lost versions a report names.
	maxLost = 1000
	// maxUnknown is how many unknown buckets a report names.
	maxUnknown = 1000
)

// Complete reports whether everything is there that had a manifest: enough
// drives were read, and nothing was left out.
func (r *Report) Complete() bool {
	damaged := 0
	for i := range r.Damaged {
		if r.Damaged[i].Counts {
			damaged++
		}
	}
	return r.Tables && r.LostCount == 0 && r.Unopened == 0 && len(r.Unknown) == 0 && len(r.Renamed) == 0 &&
		len(r.Missing)+damaged <= r.Parity
}
