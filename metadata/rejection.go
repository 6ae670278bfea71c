package metadata

import "errors"

// Rejections are answers of the state machine, equal on every replica; they
// are never failures of storage. Callers test for them with [errors.Is]. Their
// codes, not their texts, are stored and sent: see [RejectionCode].
var (
	ErrNoSuchBucket       = errors.New("no such bucket")
	ErrBucketExists       = errors.New("bucket exists")
	ErrBucketNotEmpty     = errors.New("bucket not empty")
	ErrNoSuchKey          = errors.New("no such key")
	ErrNoSuchVersion      = errors.New("no such version")
	ErrNoSuchUpload       = errors.New("no such upload")
	ErrInvalidPart        = errors.New("part is missing or not the one named")
	ErrPreconditionFailed = errors.New("precondition failed")
	ErrConflict           = errors.New("changed concurrently")
	ErrStaleSettings      = errors.New("bucket settings have changed")
	ErrFencedEpoch        = errors.New("epoch is fenced off")
	ErrNoSuchAccessKey    = errors.New("no such access key")
	ErrAccessKeyExists    = errors.New("access key exists")
	ErrTooManyBuckets     = errors.New("too many buckets")
	// ErrVersionTooLow means that the kind of command came with a command
	// version that the group does not have yet.
	ErrVersionTooLow = errors.New("command version of the group is too low")
	// ErrInlineFull means that the group keeps no more inline bodies; the
	// body must be written as chunks.
	ErrInlineFull = errors.New("no room for inline bodies")
	// ErrInvalidCommand means that the proposer made a command that
	// contradicts itself.
	ErrInvalidCommand = errors.New("invalid command")
)

// Failures that are not answers.
var (
	// ErrOverloaded means that a queue or budget is full; nothing was done.
	ErrOverloaded = errors.New("overloaded")
	// ErrUnknownOutcome means that a command was proposed and may or may not
	// have been applied. Retry it with the same request id.
	ErrUnknownOutcome = errors.New("outcome unknown")
	// ErrUnavailable means that this copy of the metadata cannot serve.
	ErrUnavailable = errors.New("metadata unavailable")
	// ErrMetadataFull means that the state directory has no room for commands
	// that add; deletes still work.
	ErrMetadataFull = errors.New("metadata storage full")
)
