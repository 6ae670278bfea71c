package metadata

import (
	"errors"
	"fmt"
)

// rejections gives every rejection its stable name. Names are stored and sent
// between versions of the program, so a name never changes.
var rejections = []struct {
	code string
	err  error
}{
	{"no-such-bucket", ErrNoSuchBucket},
	{"bucket-exists", ErrBucketExists},
	{"bucket-not-empty", ErrBucketNotEmpty},
	{"no-such-key", ErrNoSuchKey},
	{"no-such-version", ErrNoSuchVersion},
	{"no-such-upload", ErrNoSuchUpload},
	{"invalid-part", ErrInvalidPart},
	{"precondition-failed", ErrPreconditionFailed},
	{"conflict", ErrConflict},
	{"stale-settings", ErrStaleSettings},
	{"fenced-epoch", ErrFencedEpoch},
	{"no-such-access-key", ErrNoSuchAccessKey},
	{"access-key-exists", ErrAccessKeyExists},
	{"too-many-buckets", ErrTooManyBuckets},
	{"inline-full", ErrInlineFull},
	{"invalid-command", ErrInvalidCommand},
	{"version-too-low", ErrVersionTooLow},
}

// RejectionCode returns the stable name of a rejection, "" for nil. It panics
// if err is not a rejection, as nothing else may be stored.
func RejectionCode(err error) string {
	if err == nil {
		return ""
	}
	for _, r := range rejections {
		if errors.Is(err, r.err) {
			return r.code
		}
	}
	panic("metadata: not a rejection: " + err.Error())
}

// IsRejection reports whether err is, or wraps, an answer of the state
// machine.
func IsRejection(err error) bool {
	for _, r := range rejections {
		if errors.Is(err, r.err) {
			return true
		}
	}
	return false
}

// RejectionFromCode returns the rejection of that name, and nil for "". The
// error is [ErrMalformed] for a name that this version of the program does not
// know.
func RejectionFromCode(code string) (rejected, err error) {
	if code == "" {
		return nil, nil
	}
	for _, r := range rejections {
		if r.code == code {
			return r.err, nil
		}
	}
	return nil, fmt.Errorf("metadata: %w: unknown rejection %q", ErrMalformed, code)
}
