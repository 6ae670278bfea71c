package server

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// A StartError says why a server did not start and what to do about it.
type StartError struct {
	Reason StartReason
	What   string // what is wrong, naming the path or address
	Remedy string // what the operator can do, a sentence without full stop
	Err    error  // the cause, nil if What says it all
}

func (e *StartError) Error() string {
	if e.Err == nil {
		return e.What + "\n  remedy: " + e.Remedy
	}
	return fmt.Sprintf("%s: %v\n  remedy: %s", e.What, e.Err, e.Remedy)
}

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }

// StartReason names a class of start errors. The names do not change.
type StartReason string

// Reasons why a server does not start.
const (
	PortTaken          StartReason = "port-taken"
	AddressUnusable    StartReason = "address-unusable"
	ForeignDrive       StartReason = "foreign-drive"
	UnknownDrive       StartReason = "unknown-drive"
	DriveNotEmpty      StartReason = "drive-not-empty"
	DriveUnusable      StartReason = "drive-unusable"
	NotWritable        StartReason = "not-writable"
	DiskFull           StartReason = "disk-full"
	TooOpen            StartReason = "permissions-too-open"
	ClockAbsurd        StartReason = "clock-absurd"
	KeyringMissing     StartReason = "keyring-missing"
	KeyringMismatch    StartReason = "keyring-mismatch"
	ForeignState       StartReason = "foreign-state"
	MetadataLost       StartReason = "metadata-lost"
	MetadataExists     StartReason = "metadata-exists"
	NothingToRecover   StartReason = "nothing-to-recover"
	BackupUnusable     StartReason = "backup-unusable"
	NoQuorum           StartReason = "no-quorum"
	NothingToForce     StartReason = "nothing-to-force"
	TooFewPlaces       StartReason = "too-few-places"
	AlreadyRunning     StartReason = "already-running"
	EncryptionChanged  StartReason = "encryption-changed"
	SchemeChanged      StartReason = "scheme-changed"
	CredentialsMissing StartReason = "credentials-missing"
	BadCertificate     StartReason = "bad-certificate"
	Damaged            StartReason = "damaged"
)

// fileError makes the error of a file operation below the state directory into
// a StartError: a full disk and missing rights are told apart from the rest.
func fileError(what string, err error) error {
	if err == nil {
		return nil
	}
	if known, ok := errors.AsType[*StartError](err); ok {
		return known
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &StartError{DiskFull, what, "free space on that file system", err}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return &StartError{NotWritable, what, "give the user of the server write access there, or choose another directory", err}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// fileErrorOr is fileError with a reason and remedy for what it does not know.
func fileErrorOr(reason StartReason, what, remedy string, err error) error {
	known := fileError(what, err)
	if _, ok := errors.AsType[*StartError](known); ok {
		return known
	}
	return &StartError{reason, what, remedy, err}
}
