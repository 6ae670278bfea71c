package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

// Source is an engine: both have it.
type Source interface {
	// Whole calls read with one point in time of all groups.
	Whole(ctx context.Context, read replica.WholeReader) error
}

// Options say how a backup is written.
type Options struct {
	Cluster [16]byte

	// Now returns the wall clock. Required.
	Now func() time.Time

	// Random must be a cryptographic source. Required.
	Random io.Reader

	// Keys seals the backup. Nil writes it readable by anybody.
	Keys *keyring.Keyring

	// BytesPerSecond bounds how fast tables are made. Zero bounds nothing.
	BytesPerSecond int64

	limit *snapshot.Limiter
}

// Write writes a backup of all groups to w and returns what it holds. It does
// not close w. After an error, or without one of Close or Sync of what w writes
// to, there is no backup.
func Write(ctx context.Context, w io.Writer, src Source, o Options) (Info, Totals, error) {
	i := Info{
		Cluster: o.Cluster, Created: o.Now().Truncate(time.Second).UTC(),
		StoreFormat: replica.StoreFormat, CommandVersion: metadata.LatestVersion,
	}
	o.limit = snapshot.NewLimiter(o.BytesPerSecond, o.Now, nil)
	var t Totals
	err := src.Whole(ctx, func(ctx context.Context, it *pebble.Iterator) (err error) {
		t, err = write(ctx, w, it, &i, o)
		return err
	})
	if err != nil {
		return Info{}, Totals{}, fmt.Errorf("backup: write: %w", err)
	}
	return i, t, nil
}

func write(ctx context.Context, w io.Writer, it *pebble.Iterator, i *Info, o Options) (Totals, error) {
	if _, err := io.ReadFull(o.Random, i.ID[:]); err != nil {
		return Totals{}, fmt.Errorf("random source: %w", err)
	}
	var key []byte
	if o.Keys != nil {
		var err error
		if key, err = newKey(o.Random, o.Keys, i); err != nil {
			return Totals{}, err
		}
	}
	out, err := newWriter(w, key, i)
	if err != nil {
		return Totals{}, err
	}
	for group := range uint32(metadata.DataGroups + 1) {
		if err := out.group(ctx, pinned{it}, group, o); err != nil {
			return Totals{}, fmt.Errorf("group %d: %w", group, err)
		}
	}
	return out.totals, out.frame(frameEnd, appendTotals(nil, &out.totals))
}

// pinned makes iterators of the state that one iterator shows.
type pinned struct{ it *pebble.Iterator }

// NewIter implements snapshot.Source.
func (p pinned) NewIter(o *pebble.IterOptions) (*pebble.Iterator, error) {
	return p.it.Clone(pebble.CloneOptions{IterOptions: o})
}

// writer writes frames.
type writer struct {
	w      io.Writer
	seal   *sealer
	number uint64 // of the next frame
	totals Totals
	buf    []byte
}

func newWriter(w io.Writer, key []byte, i *Info) (*writer, error) {
	head := appendHead(nil, i)
	if _, err := w.Write(head); err != nil {
		return nil, err
	}
	s, err := newSealer(key, sumOf(head))
	return &writer{w: w, seal: s}, err
}

// raftTable is the fifth byte of the key of the row that says where in a log
// the group stands. A restored store has no log.
const raftTable = 0x06

func logRow(key []byte) bool { return len(key) > 4 && key[4] == raftTable }

// group writes the frames of a group.
func (w *writer) group(ctx context.Context, src snapshot.Source, group uint32, o Options) (err error) {
	h := snapshot.Header{Cluster: o.Cluster, Group: group}
	if h.ID, err = snapshot.NewID(o.Random); err != nil {
		return err
	}
	describe := func(func([]byte) ([]byte, error)) (snapshot.Header, error) { return h, nil }
	e, err := snapshot.Open(src, group, describe, snapshot.ExportOptions{Tables: replica.TableOptions(), Limit: o.limit, Skip: logRow})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	if err := w.frame(frameGroup, h.Append(nil)); err != nil {
		return err
	}
	for {
		p, err := e.Next(ctx)
		if err == io.EOF {
			break
		}
		if err == nil {
			err = w.piece(p)
		}
		if err != nil {
			return err
		}
	}
	sum := e.Summary()
	w.totals.Groups++
	w.totals.Pieces += sum.Pieces
	w.totals.Rows += sum.Rows
	w.totals.Bytes += sum.Bytes
	return w.frame(frameSummary, sum.Append(nil))
}

func (w *writer) piece(p *snapshot.Piece) error {
	head := p.AppendHead(nil)
	w.buf = binary.LittleEndian.AppendUint32(w.buf[:0], uint32(len(head)))
	w.buf = append(w.buf, head...)
	w.buf = append(w.buf, p.Data...)
	return w.frame(framePiece, w.buf)
}

// frame writes a frame. It may change b.
func (w *writer) frame(kind byte, b []byte) error {
	b = w.seal.seal(w.number, kind, b)
	w.number++
	prefix := binary.LittleEndian.AppendUint32([]byte{kind}, uint32(len(b)))
	if _, err := w.w.Write(prefix); err != nil {
		return err
	}
	_, err := w.w.Write(b)
	return err
}
