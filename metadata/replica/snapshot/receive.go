package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/cockroachdb/pebble/v2/sstable"
)

// Receive takes the pieces of one snapshot. Its methods may be called
// concurrently; they carry out one after the other.
type Receive struct {
	stage  *Stage
	header Header

	// ended is set by the stage when the snapshot is removed or begun anew.
	// It has a lock of its own, because the stage holds its own lock then.
	endMu sync.Mutex
	ended bool

	mu    sync.Mutex // guards what follows, and the files of the snapshot
	at    Position
	heads []Piece
}

func (r *Receive) end() {
	r.endMu.Lock()
	defer r.endMu.Unlock()
	r.ended = true
}

func (r *Receive) usable() error {
	r.endMu.Lock()
	defer r.endMu.Unlock()
	if r.ended {
		return ErrClosed
	}
	return nil
}

// Header returns what the snapshot is of.
func (r *Receive) Header() Header { return r.header }

// Position returns where the transfer is to go on.
func (r *Receive) Position() Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

// Add verifies the next piece and makes it durable. After an error the
// position is what it was; errors wrap ErrCorrupt, ErrForeign or ErrOrder if
// the piece is to blame, ErrFull if there is no room, and are those of the file
// system otherwise. p is not changed, and not looked at after the return.
func (r *Receive) Add(p *Piece) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.at
	err := r.usable()
	if err == nil {
		at, err = r.header.Check(r.at, p)
	}
	if err == nil {
		err = r.store(p)
	}
	if err != nil {
		return fmt.Errorf("snapshot: piece %d of %s: %w", p.Number, r.header.ID, full(err))
	}
	head := *p
	head.First, head.Last, head.Data = bytes.Clone(p.First), bytes.Clone(p.Last), nil
	r.at, r.at.After = at, head.Last
	r.heads = append(r.heads, head)
	return nil
}

// Check compares a piece with its head, its table and the position that it
// comes behind, and returns the position behind it.
func (h *Header) Check(at Position, p *Piece) (Position, error) {
	if p.Snapshot != h.ID {
		return at, fmt.Errorf("%w: it is of %s", ErrForeign, p.Snapshot)
	}
	if p.Number != at.Pieces+1 {
		return at, fmt.Errorf("%w: piece %d is next", ErrOrder, at.Pieces+1)
	}
	if p.Bytes > MaxPieceBytes || uint64(len(p.Data)) != p.Bytes || sha256.Sum256(p.Data) != p.Sum {
		return at, fmt.Errorf("%w: its bytes differ from its sum", ErrCorrupt)
	}
	next := at.next(p)
	if next.Chain != p.Chain {
		return at, fmt.Errorf("%w: it does not follow on piece %d", ErrCorrupt, at.Pieces)
	}
	lower, upper := Span(h.Group)
	if bytes.Compare(p.First, lower) < 0 || bytes.Compare(p.Last, upper) >= 0 {
		return at, fmt.Errorf("%w: its keys are not of group %d", ErrForeign, h.Group)
	}
	if bytes.Compare(p.First, p.Last) > 0 || at.Pieces > 0 && bytes.Compare(p.First, at.After) <= 0 {
		return at, fmt.Errorf("%w: its keys are not behind those of piece %d", ErrOrder, at.Pieces)
	}
	if err := checkTable(p); err != nil {
		return at, err
	}
	return next, nil
}

// checkTable opens the table of a piece and compares its bounds with the head:
// Pebble takes whatever a table holds, in the span that it replaces or not.
func checkTable(p *Piece) error {
	t, err := sstable.NewMemReader(p.Data, sstable.ReaderOptions{})
	if err != nil {
		return fmt.Errorf("%w: it is no table: %w", ErrCorrupt, err)
	}
	defer t.Close()
	it, err := t.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		return fmt.Errorf("%w: its table: %w", ErrCorrupt, err)
	}
	defer it.Close()
	first := it.First()
	if first == nil || !bytes.Equal(first.K.UserKey, p.First) {
		return errors.Join(fmt.Errorf("%w: its table does not begin where it says", ErrForeign), it.Error())
	}
	last := it.Last()
	if last == nil || !bytes.Equal(last.K.UserKey, p.Last) {
		return errors.Join(fmt.Errorf("%w: its table does not end where it says", ErrForeign), it.Error())
	}
	return nil
}

// store makes a piece durable: its table first, then the head that makes it
// count. What a failure leaves of it is removed.
func (r *Receive) store(p *Piece) error {
	s, id := r.stage, r.header.ID
	if err := s.reserve(id, p.Bytes); err != nil {
		return err
	}
	err := writeFile(s.fs, s.path(id, tableName(p.Number)), bytes.Clone(p.Data))
	if err == nil {
		err = s.writeMessage(id, headName(p.Number), p.AppendHead(nil))
	}
	if err == nil {
		err = syncDir(s.fs, s.path(id, ""))
	}
	if err == nil {
		return nil
	}
	s.giveBack(id, p.Bytes)
	for _, name := range []string{headName(p.Number), tableName(p.Number)} {
		if gone := s.fs.Remove(s.path(id, name)); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

// Complete compares what came with the sender's summary, verifies all of it
// again from the disk and notes durably that it is whole. It may be repeated.
// An error wraps ErrIncomplete if pieces are missing, and ErrCorrupt if the
// snapshot has to be removed and begun anew.
func (r *Receive) Complete(ctx context.Context, sum Summary) (*Staged, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.complete(ctx, sum); err != nil {
		return nil, fmt.Errorf("snapshot: complete %s: %w", r.header.ID, full(err))
	}
	return &Staged{stage: r.stage, Header: r.header, Summary: sum, heads: r.heads}, nil
}

func (r *Receive) complete(ctx context.Context, sum Summary) error {
	if err := r.usable(); err != nil {
		return err
	}
	have := r.at.Summary()
	switch {
	case sum.Snapshot != r.header.ID:
		return fmt.Errorf("%w: summary of %s", ErrForeign, sum.Snapshot)
	case have.Pieces < sum.Pieces:
		return fmt.Errorf("%w: %d of %d pieces are here", ErrIncomplete, have.Pieces, sum.Pieces)
	case have != sum:
		return fmt.Errorf("%w: it differs from its summary", ErrCorrupt)
	}
	s, id := r.stage, r.header.ID
	if err := s.verify(ctx, id, r.heads); err != nil {
		return err
	}
	if err := s.writeMessage(id, completeName, sum.Append(nil)); err != nil {
		return err
	}
	return syncDir(s.fs, s.path(id, ""))
}
