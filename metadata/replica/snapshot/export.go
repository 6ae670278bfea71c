package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/ruche-storage/ruche/metadata"
)

// Source is what rows are read from: a pebble.DB or a pebble.Snapshot.
type Source interface {
	NewIter(*pebble.IterOptions) (*pebble.Iterator, error)
}

// ExportOptions adjusts an Export.
type ExportOptions struct {
	// Tables says how tables are written. Its TableFormat must be set, to one
	// that the receiver's store knows; take the receiver's block sizes and
	// filters, because the tables stay as they are for a long time.
	Tables sstable.WriterOptions

	// PieceBytes is the size that pieces are cut at. Zero means PieceBytes.
	PieceBytes int

	// Limit is waited for before a piece is returned. Nil limits nothing.
	Limit *Limiter

	// Skip leaves out the rows that it returns true for. Nil leaves out none.
	Skip func(key []byte) bool
}

// Export cuts the rows of a group, as they were when it was opened, into
// pieces. It holds one piece in memory and one iterator open, which keeps files
// of the store from being removed. It is used by one goroutine at a time.
type Export struct {
	header Header
	opts   ExportOptions
	iter   *pebble.Iterator
	begun  bool // the iterator stands at the first row of the next piece
	at     Position
	buf    objstorage.MemObj
}

// Open begins the export of a group. Describe is given a function that reads
// single rows of the very state that is exported, which returns nil for a row
// that is not there, and returns the header; its ID must be new and random. The
// caller must Close the Export before it closes the source.
func Open(src Source, group uint32, describe func(row func(key []byte) ([]byte, error)) (Header, error), o ExportOptions) (*Export, error) {
	if o.Tables.TableFormat == sstable.TableFormatUnspecified {
		return nil, errors.New("snapshot: export: no table format was given")
	}
	if o.PieceBytes <= 0 {
		o.PieceBytes = PieceBytes
	}
	lower, upper := Span(group)
	it, err := src.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, fmt.Errorf("snapshot: export of group %d: %w", group, err)
	}
	e := &Export{opts: o, iter: it}
	e.header, err = describe(e.row)
	if err == nil && (e.header.Group != group || e.header.ID == ID{}) {
		err = errors.New("the header is of another group, or has no id")
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot: export of group %d: %w", group, errors.Join(err, it.Close()))
	}
	e.at = e.header.Start()
	return e, nil
}

func (e *Export) row(key []byte) ([]byte, error) {
	if !e.iter.SeekGE(key) || !bytes.Equal(e.iter.Key(), key) {
		return nil, e.iter.Error()
	}
	v, err := e.iter.ValueAndErr()
	return bytes.Clone(v), err
}

// Header returns what the snapshot is of.
func (e *Export) Header() Header { return e.header }

// Seek lets the next piece be the one behind a receiver's position.
func (e *Export) Seek(at Position) error {
	if e.iter == nil {
		return ErrClosed
	}
	if at.Snapshot != e.header.ID {
		return fmt.Errorf("snapshot: %w: position of %s, the export is %s", ErrForeign, at.Snapshot, e.header.ID)
	}
	if at.Pieces == 0 {
		at = e.header.Start()
	}
	e.at, e.begun = at, false
	return nil
}

// Next returns the next piece, whose Data is valid until the next call. Behind
// the last piece it returns io.EOF; Summary is complete then.
func (e *Export) Next(ctx context.Context) (*Piece, error) {
	if e.iter == nil {
		return nil, ErrClosed
	}
	p, err := e.build(ctx)
	if err == io.EOF {
		return nil, err
	}
	if err == nil {
		err = e.opts.Limit.Wait(ctx, len(p.Data))
	}
	if err != nil {
		e.begun = false // the same piece can be asked for again
		return nil, fmt.Errorf("snapshot: export of group %d, piece %d: %w", e.header.Group, e.at.Pieces+1, err)
	}
	e.at = e.at.next(p)
	p.Chain = e.at.Chain
	return p, nil
}

// Summary says what was exported up to the last piece that Next has returned.
func (e *Export) Summary() Summary { return e.at.Summary() }

// Close ends the export. It may be called again.
func (e *Export) Close() error {
	if e.iter == nil {
		return nil
	}
	it := e.iter
	e.iter = nil
	if err := it.Close(); err != nil {
		return fmt.Errorf("snapshot: export of group %d: %w", e.header.Group, err)
	}
	return nil
}

// slackBytes is room for what a table holds beside its rows: index, filter and
// properties.
func slackBytes(piece int) int { return piece / 16 }

// build makes the table of the next piece.
func (e *Export) build(ctx context.Context) (*Piece, error) {
	valid := e.iter.Valid()
	if !e.begun {
		valid = e.rewind()
	}
	for valid && e.skip() {
		valid = e.iter.Next()
	}
	if !valid {
		e.begun = false
		if err := e.iter.Error(); err != nil {
			return nil, err
		}
		return nil, io.EOF
	}
	e.begun = true
	e.buf.Abort() // empties it
	p := &Piece{Snapshot: e.header.ID, Number: e.at.Pieces + 1, First: bytes.Clone(e.iter.Key())}
	w := sstable.NewWriter(&e.buf, e.opts.Tables)
	if err := e.fill(ctx, w, p); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	p.Data = e.buf.Data()
	p.Bytes, p.Sum = uint64(len(p.Data)), sha256.Sum256(p.Data)
	if p.Bytes > MaxPieceBytes {
		return nil, fmt.Errorf("row %x is too large: a piece of %d bytes", p.First, p.Bytes)
	}
	return p, nil
}

// fill writes rows until the piece is large enough.
func (e *Export) fill(ctx context.Context, w *sstable.Writer, p *Piece) error {
	room := uint64(e.opts.PieceBytes - slackBytes(e.opts.PieceBytes))
	for ok := true; ok; ok = e.iter.Next() {
		if p.Rows%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if e.skip() {
			continue
		}
		k := e.iter.Key()
		v, err := e.iter.ValueAndErr()
		if err != nil {
			return err
		}
		if p.Rows > 0 && w.Raw().EstimatedSize()+uint64(len(k)+len(v)) > room {
			return nil
		}
		if err := w.Set(k, v); err != nil {
			return err
		}
		p.Rows++
		p.Last = append(p.Last[:0], k...)
	}
	return e.iter.Error()
}

// rewind moves to the first row behind the position.
func (e *Export) rewind() bool {
	if e.at.Pieces == 0 {
		return e.iter.First()
	}
	// No key lies between one and the same key with a zero byte behind it.
	return e.iter.SeekGE(append(bytes.Clone(e.at.After), 0))
}

func (e *Export) skip() bool { return e.opts.Skip != nil && e.opts.Skip(e.iter.Key()) }

// raftTable is the table of the row that says which entry of a group's log its
// rows are the state of; metadata/FORMAT.md has all tables.
const raftTable = 0x06

// Describe returns what Open asks for a group of a replicated store: the
// header that the group's own row of metadata.RaftPosition gives. Index, Term
// and Conf stay empty if no replicated engine ever wrote there.
func Describe(cluster [16]byte, id ID, group uint32) func(row func(key []byte) ([]byte, error)) (Header, error) {
	return func(row func(key []byte) ([]byte, error)) (Header, error) {
		h := Header{ID: id, Cluster: cluster, Group: group}
		lower, _ := Span(group)
		v, err := row(append(lower, raftTable))
		if v == nil || err != nil {
			return h, err
		}
		var p metadata.RaftPosition
		if err := p.Unmarshal(v); err != nil {
			return Header{}, err
		}
		h.Index, h.Term, h.Conf = p.Index, p.Term, p.Conf
		return h, nil
	}
}
