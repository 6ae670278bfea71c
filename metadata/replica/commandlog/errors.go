package commandlog

import (
	"errors"
	"fmt"
)

// What may be wrong with a log. They are found by [errors.Is] in the errors of
// Open and of reads.
var (
	// ErrRot means that a log contradicts itself: an entry or a row is
	// missing, damaged or another's. The store must be replaced.
	ErrRot = errors.New("command log is damaged")
	// ErrShort means that a log ends before what it has promised. The store
	// must be replaced.
	ErrShort = errors.New("command log ends before what it has promised")
	// ErrForeign means that a log belongs to another cluster or store.
	ErrForeign = errors.New("command log belongs to another store")
	// ErrRetired means that the store was found to have forgotten promises
	// and must never serve again.
	ErrRetired = errors.New("store is retired")
	// ErrVersion means that a later version of the program wrote the log.
	ErrVersion = errors.New("command log of an unknown version")
	// ErrExists means that there is a log already where one is to be made.
	ErrExists = errors.New("command log exists")
	// ErrInvalid means that the caller asked for what no log may hold: a gap,
	// another entry in the place of a committed one, a commit behind the end.
	ErrInvalid = errors.New("invalid change of a command log")
	// ErrFailed means that an earlier write failed. It is not known what is
	// on the disk; nothing is written any more.
	ErrFailed = errors.New("command log failed")
)

// A PositionError says where in a log what was found. It wraps one of the
// errors of this package.
type PositionError struct {
	Group  uint32
	At     uint64 // the position in question
	Bound  uint64 // the position it contradicts, 0 for none
	Detail string // what contradicts, "" if Err says all
	Err    error
}

// Error implements error.
func (e *PositionError) Error() string {
	s := fmt.Sprintf("commandlog: group %d, position %d", e.Group, e.At)
	if e.Bound != 0 {
		s += fmt.Sprintf(" against %d", e.Bound)
	}
	s += ": " + e.Err.Error()
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if errors.Is(e.Err, ErrRot) || errors.Is(e.Err, ErrShort) {
		s += "; replace this replica"
	}
	return s
}

// Unwrap returns the error of this package.
func (e *PositionError) Unwrap() error { return e.Err }

func rot(group uint32, at, bound uint64, format string, args ...any) error {
	return &PositionError{Group: group, At: at, Bound: bound, Detail: fmt.Sprintf(format, args...), Err: ErrRot}
}

func invalid(group uint32, at, bound uint64, format string, args ...any) error {
	return &PositionError{Group: group, At: at, Bound: bound, Detail: fmt.Sprintf(format, args...), Err: ErrInvalid}
}
