package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/ruche-storage/ruche/metadata"
)

// FormatVersion is the version of the messages and of the stage.
const FormatVersion = 1

// Limits.
const (
	// PieceBytes is the size that pieces are cut at. Only a piece of a single
	// row may be larger.
	PieceBytes = 8 << 20
	// MaxPieceBytes is the largest piece that a receiver takes.
	MaxPieceBytes = 32 << 20

	maxKeyBytes  = 8 << 10
	maxConfBytes = 64 << 10
)

// ID names a snapshot: 16 random bytes, new for every export.
type ID [16]byte

// NewID draws an id from a cryptographic source.
func NewID(random io.Reader) (ID, error) {
	var id ID
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return ID{}, fmt.Errorf("snapshot: random source: %w", err)
	}
	return id, nil
}

// String returns the id as hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Header says what a snapshot is of.
type Header struct {
	ID      ID
	Cluster [16]byte // id of the cluster
	Group   uint32

	// Index and Term are the position of the last entry of the group's log
	// that the rows contain, and Conf its configuration there, a
	// raftpb.ConfState as Raft encodes it. All are empty for a store without
	// a log.
	Index, Term uint64
	Conf        []byte
}

// Span returns the bounds of a group's keys: from lower, up to and without
// upper.
func Span(group uint32) (lower, upper []byte) {
	return binary.BigEndian.AppendUint32(nil, group), binary.BigEndian.AppendUint32(nil, group+1)
}

// Piece is one sorted table of a snapshot and its head.
type Piece struct {
	Snapshot    ID
	Number      uint64 // from 1, without gaps
	First, Last []byte // the least and the greatest key
	Rows        uint64
	Bytes       uint64       // length of Data
	Sum         metadata.Sum // SHA-256 of Data
	Chain       metadata.Sum // over all pieces up to this one

	Data []byte // not part of the encoded head
}

// Position is a place between two pieces, which a transfer can go on from. The
// zero value of all but Snapshot is the beginning.
type Position struct {
	Snapshot ID
	Pieces   uint64 // that lie before it
	After    []byte // the greatest key that lies before it
	Rows     uint64
	Bytes    uint64
	Chain    metadata.Sum
}

// Summary says what a whole snapshot is.
type Summary struct {
	Snapshot ID
	Pieces   uint64
	Rows     uint64
	Bytes    uint64 // of all tables
	Chain    metadata.Sum
}

// Start returns the position before the first piece.
func (h *Header) Start() Position {
	return Position{Snapshot: h.ID, Chain: sha256.Sum256(h.Append([]byte("ruche snapshot\x00")))}
}

// next returns the position behind piece p, whose chain it computes from what
// its head says.
func (at Position) next(p *Piece) Position {
	return Position{
		Snapshot: at.Snapshot,
		Pieces:   at.Pieces + 1,
		After:    p.Last,
		Rows:     at.Rows + p.Rows,
		Bytes:    at.Bytes + p.Bytes,
		Chain:    sha256.Sum256(p.appendBody(at.Chain[:])),
	}
}

// Summary says what lies before the position.
func (at Position) Summary() Summary {
	return Summary{Snapshot: at.Snapshot, Pieces: at.Pieces, Rows: at.Rows, Bytes: at.Bytes, Chain: at.Chain}
}

// Append appends the encoded header to b.
func (h *Header) Append(b []byte) []byte {
	b = appendUint(b, 1, FormatVersion)
	b = appendBytes(b, 2, h.ID[:])
	b = appendBytes(b, 3, h.Cluster[:])
	b = appendUint(b, 4, uint64(h.Group))
	b = appendUint(b, 5, h.Index)
	b = appendUint(b, 6, h.Term)
	return appendBytes(b, 7, h.Conf)
}

// DecodeHeader undoes Append. The header does not refer to b.
func DecodeHeader(b []byte) (Header, error) {
	var h Header
	d := decoder{b: b}
	d.version()
	d.fixed(2, h.ID[:])
	d.fixed(3, h.Cluster[:])
	group := d.uint(4)
	h.Index, h.Term = d.uint(5), d.uint(6)
	h.Conf = d.bytes(7, maxConfBytes)
	if group >= math.MaxUint32 {
		d.fail("group out of range")
	}
	h.Group = uint32(group)
	return h, d.end("header")
}

// AppendHead appends the encoded head, without Data, to b.
func (p *Piece) AppendHead(b []byte) []byte { return appendBytes(p.appendBody(b), 9, p.Chain[:]) }

// appendBody appends all of the head that the chain covers.
func (p *Piece) appendBody(b []byte) []byte {
	b = appendUint(b, 1, FormatVersion)
	b = appendBytes(b, 2, p.Snapshot[:])
	b = appendUint(b, 3, p.Number)
	b = appendBytes(b, 4, p.First)
	b = appendBytes(b, 5, p.Last)
	b = appendUint(b, 6, p.Rows)
	b = appendUint(b, 7, p.Bytes)
	return appendBytes(b, 8, p.Sum[:])
}

// DecodePiece undoes AppendHead; Data is left empty. The piece does not refer
// to b.
func DecodePiece(b []byte) (Piece, error) {
	var p Piece
	d := decoder{b: b}
	d.version()
	d.fixed(2, p.Snapshot[:])
	p.Number = d.uint(3)
	p.First, p.Last = d.bytes(4, maxKeyBytes), d.bytes(5, maxKeyBytes)
	p.Rows, p.Bytes = d.uint(6), d.uint(7)
	d.fixed(8, p.Sum[:])
	d.fixed(9, p.Chain[:])
	if p.Bytes > MaxPieceBytes {
		d.fail("piece too large")
	}
	return p, d.end("piece")
}

// Append appends the encoded position to b.
func (at *Position) Append(b []byte) []byte {
	b = appendUint(b, 1, FormatVersion)
	b = appendBytes(b, 2, at.Snapshot[:])
	b = appendUint(b, 3, at.Pieces)
	b = appendBytes(b, 4, at.After)
	b = appendUint(b, 5, at.Rows)
	b = appendUint(b, 6, at.Bytes)
	return appendBytes(b, 7, at.Chain[:])
}

// DecodePosition undoes Append. The position does not refer to b.
func DecodePosition(b []byte) (Position, error) {
	var at Position
	d := decoder{b: b}
	d.version()
	d.fixed(2, at.Snapshot[:])
	at.Pieces = d.uint(3)
	at.After = d.bytes(4, maxKeyBytes)
	at.Rows, at.Bytes = d.uint(5), d.uint(6)
	d.fixed(7, at.Chain[:])
	return at, d.end("position")
}

// Append appends the encoded summary to b.
func (s *Summary) Append(b []byte) []byte {
	b = appendUint(b, 1, FormatVersion)
	b = appendBytes(b, 2, s.Snapshot[:])
	b = appendUint(b, 3, s.Pieces)
	b = appendUint(b, 4, s.Rows)
	b = appendUint(b, 5, s.Bytes)
	return appendBytes(b, 6, s.Chain[:])
}

// DecodeSummary undoes Append.
func DecodeSummary(b []byte) (Summary, error) {
	var s Summary
	d := decoder{b: b}
	d.version()
	d.fixed(2, s.Snapshot[:])
	s.Pieces, s.Rows, s.Bytes = d.uint(3), d.uint(4), d.uint(5)
	d.fixed(6, s.Chain[:])
	return s, d.end("summary")
}

// Messages have every field exactly once and in order, so that one message has
// one encoding: chains are made over it.

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// decoder reads the fields of a message in order. The first error ends it.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(why string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrCorrupt, why)
	}
}

// tag consumes the tag of field num.
func (d *decoder) tag(num protowire.Number, typ protowire.Type) bool {
	if d.err != nil {
		return false
	}
	n, t, size := protowire.ConsumeTag(d.b)
	if size < 0 || n != num || t != typ || size != protowire.SizeTag(num) {
		d.fail(fmt.Sprintf("field %d is missing", num))
		return false
	}
	d.b = d.b[size:]
	return true
}

func (d *decoder) version() {
	if v := d.uint(1); d.err == nil && v != FormatVersion {
		d.err = fmt.Errorf("%w: %d, this program knows %d", ErrVersion, v, FormatVersion)
	}
}

func (d *decoder) uint(num protowire.Number) uint64 {
	if !d.tag(num, protowire.VarintType) {
		return 0
	}
	v, size := protowire.ConsumeVarint(d.b)
	if size < 0 || size != protowire.SizeVarint(v) {
		d.fail(fmt.Sprintf("field %d is not a number", num))
		return 0
	}
	d.b = d.b[size:]
	return v
}

// raw returns a part of the message.
func (d *decoder) raw(num protowire.Number) []byte {
	if !d.tag(num, protowire.BytesType) {
		return nil
	}
	v, size := protowire.ConsumeBytes(d.b)
	if size < 0 || size != protowire.SizeBytes(len(v)) {
		d.fail(fmt.Sprintf("field %d is cut short", num))
		return nil
	}
	d.b = d.b[size:]
	return v
}

func (d *decoder) bytes(num protowire.Number, limit int) []byte {
	v := d.raw(num)
	if len(v) > limit {
		d.fail(fmt.Sprintf("field %d is too long", num))
	}
	if d.err != nil || len(v) == 0 {
		return nil
	}
	return bytes.Clone(v)
}

func (d *decoder) fixed(num protowire.Number, into []byte) {
	if v := d.raw(num); d.err == nil && len(v) != len(into) {
		d.fail(fmt.Sprintf("field %d has a wrong length", num))
	} else {
		copy(into, v)
	}
}

func (d *decoder) end(what string) error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("unknown fields")
	}
	if d.err != nil {
		return fmt.Errorf("snapshot: %s: %w", what, d.err)
	}
	return nil
}
