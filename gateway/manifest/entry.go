package manifest

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/ruche-storage/ruche/metadata"
)

// Entry is one manifest, or one piece of a long one, as a batch holds it. It
// never changes and may be put into another batch as it is.
type Entry struct {
	Kind   Kind
	Key    string
	Order  uint64
	Piece  int // from 0
	Pieces int // at least 1

	body []byte // all of it, encoded
}

// ofBucket reports whether the manifest is a row of the bucket itself.
func (k Kind) ofBucket() bool { return k == KindBucket || k == KindSettings }

// Bytes is how long the entry is in a batch, before sealing.
func (e *Entry) Bytes() int {
	return protowire.SizeTag(fieldEntry) + protowire.SizeBytes(len(e.body))
}

// Fields of a batch.
const fieldEntry = 1

// Fields of an entry.
const (
	fieldKind     = 1
	fieldKey      = 2
	fieldOrder    = 3
	fieldPiece    = 4
	fieldPieces   = 5
	fieldVersion  = 6
	fieldChunk    = 7
	fieldInline   = 8
	fieldPart     = 9
	fieldBucket   = 10
	fieldSettings = 11
)

// Fields of a part within an entry.
const (
	fieldPartRow    = 1
	fieldPartChunk  = 2
	fieldPartInline = 3
)

// Encode returns m as entries: one, or several pieces of at most half of
// [BatchBytes] each if it is longer, which may go into different batches. A
// piece that cannot be cut, such as one part with an inline body, may be
// longer. The error wraps [ErrMalformed] if m is no manifest.
//
// A writer may count a manifest as durable only when all its pieces are.
func Encode(m *Manifest) ([]Entry, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	switch m.Kind {
	case KindTombstone:
		return pack(m, nil), nil
	case KindBucket:
		return pack(m, appendBytes(nil, fieldBucket, m.Bucket.AppendTo(nil))), nil
	case KindSettings:
		return pack(m, appendBytes(nil, fieldSettings, m.Settings.AppendTo(nil))), nil
	}
	b := make([]byte, 0, len(m.Inline)+160*len(m.Chunks)+1024)
	b = appendBytes(b, fieldVersion, m.Version.AppendTo(make([]byte, 0, 768)))
	b = appendChunks(b, fieldChunk, m.Chunks)
	if len(m.Inline) > 0 {
		b = appendBytes(b, fieldInline, m.Inline)
	}
	bodies := [][]byte{b}
	for i := range m.Parts {
		p := &m.Parts[i]
		part := appendBytes(nil, fieldPartRow, p.Row.AppendTo(nil))
		part = appendChunks(part, fieldPartChunk, p.Chunks)
		if len(p.Inline) > 0 {
			part = appendBytes(part, fieldPartInline, p.Inline)
		}
		last := len(bodies) - 1
		if len(bodies[last])+len(part)+16 > pieceBytes {
			bodies, last = append(bodies, nil), last+1
		}
		bodies[last] = appendBytes(bodies[last], fieldPart, part)
	}
	return pack(m, bodies...), nil
}

// pieceBytes is the length at which a manifest is cut: half a batch, so that
// pieces do not leave batches half empty.
const pieceBytes = BatchBytes / 2

// pack makes entries of the given bodies, one if there are none.
func pack(m *Manifest, bodies ...[]byte) []Entry {
	entries := make([]Entry, max(1, len(bodies)))
	for i := range entries {
		e := &entries[i]
		*e = Entry{Kind: m.Kind, Key: m.Key, Order: m.Order, Piece: i, Pieces: len(entries)}
		size := len(e.Key) + 64
		if len(bodies) > 0 {
			size += len(bodies[i])
		}
		b := appendUint(make([]byte, 0, size), fieldKind, uint64(e.Kind))
		if e.Key != "" {
			b = appendBytes(b, fieldKey, []byte(e.Key))
		}
		b = appendUint(b, fieldOrder, e.Order)
		b = appendUint(b, fieldPiece, uint64(e.Piece))
		b = appendUint(b, fieldPieces, uint64(e.Pieces))
		if len(bodies) > 0 {
			b = append(b, bodies[i]...)
		}
		e.body = b
	}
	return entries
}

func appendChunks(b []byte, field protowire.Number, chunks []metadata.Chunk) []byte {
	for i := range chunks {
		b = appendBytes(b, field, chunks[i].AppendTo(nil))
	}
	return b
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func appendUint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

// parseEntry reads what an entry says of itself. It keeps a reference to b.
func parseEntry(b []byte) (Entry, error) {
	e := Entry{body: b}
	err := eachField(b, func(f field) error {
		var n uint64
		var err error
		switch f.num {
		case fieldKind:
			n, err = f.uint(255)
			e.Kind = Kind(n)
		case fieldKey:
			var key []byte
			key, err = f.raw()
			e.Key = string(key)
		case fieldOrder:
			e.Order, err = f.uint(1<<64 - 1)
		case fieldPiece:
			n, err = f.uint(maxPieces)
			e.Piece = int(n)
		case fieldPieces:
			n, err = f.uint(maxPieces)
			e.Pieces = int(n)
		}
		return err
	})
	switch {
	case err != nil:
		return Entry{}, err
	case e.Kind < KindVersion || e.Kind > KindSettings:
		return Entry{}, fmt.Errorf("%w: kind %d", ErrNewer, e.Kind)
	case e.Pieces < 1 || e.Piece >= e.Pieces || e.Pieces > 1 && e.Kind != KindVersion:
		return Entry{}, malformed("piece %d of %d", e.Piece, e.Pieces)
	case len(e.Key) > maxKeyBytes || (e.Key == "") != e.Kind.ofBucket():
		return Entry{}, malformed("key of %d bytes", len(e.Key))
	}
	return e, nil
}

// Marshal appends the entry as it stands in a batch, for what keeps entries
// elsewhere for a while.
func (e *Entry) Marshal(dst []byte) []byte { return append(dst, e.body...) }

// UnmarshalEntry is the reverse of [Entry.Marshal]. It keeps a reference to b.
func UnmarshalEntry(b []byte) (Entry, error) { return parseEntry(b) }
