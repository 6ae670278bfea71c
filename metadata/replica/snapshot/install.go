package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Staged is a snapshot that lies whole in a stage.
type Staged struct {
	Header  Header
	Summary Summary

	stage *Stage
	heads []Piece
}

// Find returns a snapshot that was completed, after a restart too, and verifies
// all of it again. The error wraps ErrUnknown if it is not there or was never
// completed.
func (s *Stage) Find(ctx context.Context, id ID) (*Staged, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := s.findComplete(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("snapshot: find %s: %w", id, err)
	}
	return st, nil
}

func (s *Stage) findComplete(ctx context.Context, id ID) (*Staged, error) {
	h, at, heads, err := s.load(id)
	var b []byte
	if err == nil {
		b, err = s.readMessage(id, completeName)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) { // torn by a power cut
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if err != nil {
		return nil, err
	}
	sum, err := DecodeSummary(b)
	if err != nil {
		return nil, err
	}
	if at.Summary() != sum {
		return nil, fmt.Errorf("%w: it differs from its summary", ErrCorrupt)
	}
	if err := s.verify(ctx, id, heads); err != nil {
		return nil, err
	}
	return &Staged{stage: s, Header: h, Summary: sum, heads: heads}, nil
}

// Install puts the rows of a staged snapshot into a state Pebble in place of
// all rows of the group, at once, and returns when that is durable. It can be
// repeated, after a crash at any moment too; whether it has to be is told by
// the store's own row of the group. The staged files stay until Stage.Remove,
// which is for the time when nothing will ask for a repetition any more.
//
// Nobody may write rows of the group meanwhile, or read them through a
// pebble.Snapshot that is older than the installation: it shows an empty group
// from then on. Writes of other groups go on.
//
// The files are handed to Pebble as links, because Pebble removes what it was
// given as soon as it has taken it in, which in a store without a log is before
// that is durable.
func Install(ctx context.Context, db *pebble.DB, st *Staged) error {
	if err := st.install(ctx, db); err != nil {
		return fmt.Errorf("snapshot: install %s in group %d: %w", st.Header.ID, st.Header.Group, full(err))
	}
	return nil
}

func (st *Staged) install(ctx context.Context, db *pebble.DB) error {
	s, id := st.stage, st.Header.ID
	paths := make([]string, len(st.heads))
	for i := range st.heads {
		n := st.heads[i].Number
		paths[i] = s.path(id, installName(n))
		if err := s.fs.Remove(paths[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := vfs.LinkOrCopy(s.fs, s.path(id, tableName(n)), paths[i]); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	lower, upper := Span(st.Header.Group)
	span := pebble.KeyRange{Start: lower, End: upper}
	if _, err := db.IngestAndExcise(ctx, paths, nil, nil, span); err != nil {
		return err
	}
	// With rows of the group in a memtable, the tables were only queued
	// behind it.
	return db.Flush()
}
