package admin

import "time"

// SigningRegion is the region in the credential scope of admin calls.
const SigningRegion = "ruche-admin"

// Health is how the store is, in one word.
type Health string

// Degrees of health, best first.
const (
	Green  Health = "green"  // everything is as it should be
	Yellow Health = "yellow" // everything works; something asks for attention
	Red    Health = "red"    // something cannot be read or written
)

// Status is the answer to "how is it".
type Status struct {
	Version string    `json:"version"`
	Cluster string    `json:"cluster"`
	Started time.Time `json:"started"`
	Uptime  Seconds   `json:"uptime_seconds"`
	Health  Health    `json:"health"`
	// Summary says in sentences what may still be lost and what is being
	// done about it, most important first.
	Summary    []string  `json:"summary"`
	Warnings   []Warning `json:"warnings,omitempty"`
	Scheme     string    `json:"scheme"`
	Encryption bool      `json:"encryption"`
	Drives     []Drive   `json:"drives"`
	Usage      Usage     `json:"usage"`
	Safety     Safety    `json:"safety"`
	Repair     Repair    `json:"repair"`
	Scrub      Scrub     `json:"scrub"`
	Metadata   Metadata  `json:"metadata"`
	Endpoints  Endpoints `json:"endpoints"`
}

// Warning is something that asks for attention. Code is stable.
type Warning struct {
	Code   string `json:"code"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`

	health Health // how bad it is
}

// Seconds is a duration in whole seconds.
type Seconds int64

// Endpoints are the addresses where the server really listens.
type Endpoints struct {
	S3    []string `json:"s3"`
	Admin []string `json:"admin"`
	// Certificate is the file with the certificate that the server shows, for
	// clients on the same machine; empty without TLS.
	Certificate string `json:"certificate,omitempty"`
}

// Safety is what may still be lost. Zero margin means that the loss of one
// more drive may lose data.
type Safety struct {
	Parity        int     `json:"parity"`          // m of the scheme
	MayLose       int     `json:"may_lose"`        // drives that may be lost now without losing an object
	Away          int     `json:"away"`            // drives that are absent, fenced or being rebuilt
	ShortChunks   int64   `json:"short_chunks"`    // chunks with fewer shards than they should have
	LeastMargin   int     `json:"least_margin"`    // shards that the worst of them may still lose
	Unrepairable  int64   `json:"unrepairable"`    // chunks with too few shards left
	BackInSeconds Seconds `json:"back_in_seconds"` // estimate until all is whole; 0 for none or unknown
	Writable      bool    `json:"writable"`        // enough drives take shards for a PUT to succeed
}

// Usage counts what is stored.
type Usage struct {
	Buckets      int64 `json:"buckets"`
	Objects      int64 `json:"objects"`
	Versions     int64 `json:"versions"`
	Uploads      int64 `json:"uploads"`
	LogicalBytes int64 `json:"logical_bytes"` // as clients see it
	StoredBytes  int64 `json:"stored_bytes"`  // compressed and sealed, without parity
	UploadBytes  int64 `json:"upload_bytes"`  // parts of uploads in progress
}

// DriveState is the state of a drive, in one word.
type DriveState string

// States of drives.
const (
	DriveOK         DriveState = "ok"
	DriveFull       DriveState = "full"
	DriveReadOnly   DriveState = "read-only"
	DriveSlow       DriveState = "slow"   // answers much later than the others: writes avoid it
	DriveFenced     DriveState = "fenced" // failed a write; serves nothing
	DriveAbsent     DriveState = "absent" // not mounted, or not the drive that belongs there
	DriveRebuilding DriveState = "rebuilding"
	DriveDraining   DriveState = "draining" // replaced, read until everything was rebuilt
)

// Drive is one drive.
type Drive struct {
	ID             string     `json:"id"`
	Path           string     `json:"path,omitempty"`
	State          DriveState `json:"state"`
	Reason         string     `json:"reason,omitempty"` // why it is in that state
	Device         string     `json:"device,omitempty"`
	CapacityBytes  int64      `json:"capacity_bytes"`
	UsedBytes      int64      `json:"used_bytes"`
	FreeBytes      int64      `json:"free_bytes"`
	LiveBytes      int64      `json:"live_bytes"`
	Shards         int64      `json:"shards"`
	Segments       int64      `json:"segments"`
	Errors         int64      `json:"errors"`
	RebuildPercent float64    `json:"rebuild_percent,omitempty"`
}

// DriveList is all drives.
type DriveList struct {
	Drives []Drive `json:"drives"`
}

// ReplaceRequest asks for the drive at Path to be formatted and to take the
// place of the one that was there. Drive names the lost one, if Path alone
// does not tell.
type ReplaceRequest struct {
	Path  string `json:"path"`
	Drive string `json:"drive,omitempty"`
}

// Scrub is how far the reading of everything has come.
type Scrub struct {
	Running        bool         `json:"running"`
	Drives         []DriveScrub `json:"drives"`
	BytesPerSecond int64        `json:"bytes_per_second"` // limit a drive
}

// DriveScrub is the scrub of one drive.
type DriveScrub struct {
	Drive        string    `json:"drive"`
	Path         string    `json:"path,omitempty"`
	Running      bool      `json:"running"`
	DoneBytes    int64     `json:"done_bytes"`
	TotalBytes   int64     `json:"total_bytes"`
	BadShards    int64     `json:"bad_shards"`
	Passes       int64     `json:"passes"`
	LastFinished time.Time `json:"last_finished,omitzero"`
}

// Repair is what is being fixed.
type Repair struct {
	QueuedChunks  int64         `json:"queued_chunks"`  // those being repaired included
	RepairedTotal int64         `json:"repaired_total"` // since the start
	DoneShards    int64         `json:"done_shards"`    // of the rebuild in progress
	TotalShards   int64         `json:"total_shards"`
	BytesPerSec   int64         `json:"bytes_per_second"`
	ETA           Seconds       `json:"eta_seconds"` // 0 for none or unknown
	Unrepairable  []BadChunk    `json:"unrepairable,omitempty"`
	More          bool          `json:"more,omitempty"` // Unrepairable was cut
	Rebuilding    []RebuildItem `json:"rebuilding,omitempty"`
	LastErrors    []string      `json:"last_errors,omitempty"` // the newest last
	// CollectionOff says that nothing that was deleted is freed, since objects
	// that the metadata does not know may need it; OffCause says why.
	CollectionOff bool     `json:"collection_off,omitempty"`
	OffCause      OffCause `json:"collection_off_cause,omitempty"`
}

// OffCause is why nothing that was deleted is freed.
type OffCause string

// Why nothing that was deleted is freed.
const (
	OffOlder     OffCause = "older"     // the metadata was found older than the drives
	OffLost      OffCause = "lost"      // the newest changes of the metadata are missing
	OffRestored  OffCause = "restored"  // the metadata is from a backup
	OffRecovered OffCause = "recovered" // the metadata was made anew from the drives
	OffForced    OffCause = "forced"    // one copy of the metadata was made the truth
)

// RebuildItem is the rebuild of one drive.
type RebuildItem struct {
	Drive   string `json:"drive"`
	Path    string `json:"path,omitempty"`
	Done    int64  `json:"done"`    // chunks
	Total   int64  `json:"total"`   // chunks found so far
	Counted bool   `json:"counted"` // Total is final
}

// BadChunk is a chunk that cannot be repaired from what is there.
type BadChunk struct {
	Bucket string `json:"bucket"`
	Key    string `json:"key"`
	Chunk  string `json:"chunk"`
	Reason string `json:"reason"`
}

// Key is an access key. Secret is set in the answer to its creation only.
type Key struct {
	ID          string    `json:"id"`
	Secret      string    `json:"secret,omitempty"`
	Description string    `json:"description,omitempty"`
	Created     time.Time `json:"created,omitzero"`
	Root        bool      `json:"root,omitempty"`
}

// KeyList is all access keys.
type KeyList struct {
	Keys []Key `json:"keys"`
}

// CreateKeyRequest asks for a new access key. Without ID and Secret both are
// generated.
type CreateKeyRequest struct {
	ID          string `json:"id,omitempty"`
	Secret      string `json:"secret,omitempty"`
	Description string `json:"description,omitempty"`
}

// Keyring is what may be known of the encryption keys.
type Keyring struct {
	Path     string    `json:"path"`
	Version  uint64    `json:"version"`
	Verified time.Time `json:"verified,omitzero"` // the last backup or verification
	Copies   int       `json:"copies"`            // drives with the sealed copy of this version
}

// KeyringBackup is the keyring sealed under the recovery code.
type KeyringBackup struct {
	Name   string `json:"name"`
	Sealed []byte `json:"sealed"`
}

// VerifyRequest asks whether the recovery code opens the sealed keyring.
type VerifyRequest struct {
	RecoveryCode string `json:"recovery_code"`
}

// Bucket is a bucket with its settings and what it holds.
type Bucket struct {
	Name        string    `json:"name"`
	Created     time.Time `json:"created"`
	Compression string    `json:"compression"` // off, zstd or s2
	Usage       Usage     `json:"usage"`
}

// BucketList is all buckets.
type BucketList struct {
	Buckets []Bucket `json:"buckets"`
}

// SetBucketRequest changes settings; nil leaves one as it is.
type SetBucketRequest struct {
	Compression *string `json:"compression,omitempty"`
}

// Error is a refusal or failure as the API words it.
type Error struct {
	Status  int    `json:"-"` // HTTP status
	Code    string `json:"code"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
}

// Codes of errors. They do not change.
const (
	CodeBadRequest   = "bad-request"
	CodeDenied       = "denied"
	CodeNotFound     = "not-found"
	CodeConflict     = "conflict"
	CodeTooLarge     = "too-large"
	CodeUnavailable  = "unavailable"
	CodeInternal     = "internal"
	CodeNotSupported = "not-supported"
)

// Error returns the message and the remedy.
func (e *Error) Error() string {
	if e.Remedy == "" {
		return e.Message
	}
	return e.Message + "; " + e.Remedy
}

// Is reports whether target is an *Error of the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}
