package manifest

import (
	"fmt"

	"github.com/ruche-storage/ruche/metadata"
)

// Decode returns the manifest of an entry that is whole in one piece. The error
// wraps [ErrMalformed] or [ErrNewer], or [ErrIncomplete] for a piece.
func Decode(e *Entry) (*Manifest, error) {
	var a Assembler
	if err := a.Add(e); err != nil {
		return nil, err
	}
	return a.Manifest()
}

// Assembler puts the pieces of one manifest together. The zero value is ready;
// it is used by one goroutine at a time.
type Assembler struct {
	m      Manifest
	pieces int
	have   int // pieces 0 to have-1 were added
}

// Add takes the next piece. Pieces must come in order; one that was added
// already is ignored, so that copies of several drives may be given in turn. The
// error wraps [ErrMalformed] or [ErrNewer]; [ErrIncomplete] if a piece before it
// is missing.
func (a *Assembler) Add(e *Entry) error {
	switch {
	case a.pieces == 0:
		a.m = Manifest{Kind: e.Kind, Key: e.Key, Order: e.Order}
		a.pieces = e.Pieces
	case e.Kind != a.m.Kind || e.Key != a.m.Key || e.Order != a.m.Order || e.Pieces != a.pieces:
		return malformed("pieces of different manifests")
	}
	switch {
	case e.Piece < a.have:
		return nil
	case e.Piece > a.have:
		return fmt.Errorf("%w: %d of %d", ErrIncomplete, a.have, a.pieces)
	}
	a.have++
	return eachField(e.body, a.field)
}

// Manifest returns what was put together. The error wraps [ErrIncomplete] or
// [ErrMalformed].
func (a *Assembler) Manifest() (*Manifest, error) {
	if a.pieces == 0 || a.have < a.pieces {
		return nil, fmt.Errorf("%w: %d of %d are there", ErrIncomplete, a.have, a.pieces)
	}
	if err := a.m.Validate(); err != nil {
		return nil, err
	}
	m := a.m
	return &m, nil
}

func (a *Assembler) field(f field) (err error) {
	m := &a.m
	switch f.num {
	case fieldKind, fieldKey, fieldOrder, fieldPiece, fieldPieces:
		return nil // parseEntry has read them
	case fieldVersion:
		m.Version = new(metadata.Version)
		return f.into(m.Version)
	case fieldChunk:
		return addChunk(&m.Chunks, f)
	case fieldInline:
		m.Inline, err = f.raw()
		return err
	case fieldPart:
		return a.part(f)
	case fieldBucket:
		m.Bucket = new(metadata.Bucket)
		return f.into(m.Bucket)
	case fieldSettings:
		m.Settings = new(metadata.Settings)
		return f.into(m.Settings)
	}
	return f.unknown()
}

func (a *Assembler) part(f field) error {
	if len(a.m.Parts) >= metadata.MaxPartNumber {
		return malformed("more than %d parts", metadata.MaxPartNumber)
	}
	b, err := f.raw()
	if err != nil {
		return err
	}
	var p Part
	err = eachField(b, func(f field) (err error) {
		switch f.num {
		case fieldPartRow:
			return f.into(&p.Row)
		case fieldPartChunk:
			return addChunk(&p.Chunks, f)
		case fieldPartInline:
			p.Inline, err = f.raw()
			return err
		}
		return f.unknown()
	})
	a.m.Parts = append(a.m.Parts, p)
	return err
}

func addChunk(chunks *[]metadata.Chunk, f field) error {
	if len(*chunks) >= metadata.MaxPartChunks {
		return malformed("more than %d chunks in a part", metadata.MaxPartChunks)
	}
	var c metadata.Chunk
	err := f.into(&c)
	*chunks = append(*chunks, c)
	return err
}

// Validate reports why m is no manifest that could be restored, by an error
// wrapping [ErrMalformed], or nil. It checks lengths and counts, so that
// arithmetic on what it passes is safe; not that the bytes exist.
func (m *Manifest) Validate() error {
	switch {
	case len(m.Key) > maxKeyBytes || (m.Key == "") != m.Kind.ofBucket():
		return malformed("key of %d bytes", len(m.Key))
	case (m.Version != nil) != (m.Kind == KindVersion):
		return malformed("kind %d and its version", m.Kind)
	case (m.Bucket != nil) != (m.Kind == KindBucket) || (m.Settings != nil) != (m.Kind == KindSettings):
		return malformed("kind %d and its row of a bucket", m.Kind)
	case m.Kind == KindVersion:
		return m.validateVersion()
	case m.Order == 0:
		return malformed("order 0")
	case m.Kind != KindTombstone && !m.Kind.ofBucket():
		return malformed("kind %d", m.Kind)
	case len(m.Chunks) > 0 || len(m.Parts) > 0 || len(m.Inline) > 0:
		return malformed("kind %d with a body", m.Kind)
	}
	return nil
}

func (m *Manifest) validateVersion() error {
	v := m.Version
	switch {
	case v.Order != m.Order || v.Order == 0:
		return malformed("version of order %d in a manifest of order %d", v.Order, m.Order)
	case v.Marker && (v.Part != nil || v.List != nil), !v.Marker && (v.Part == nil) == (v.List == nil):
		return malformed("version without one body")
	case v.Part == nil && (len(m.Chunks) > 0 || len(m.Inline) > 0), v.List == nil && len(m.Parts) > 0:
		return malformed("bodies that the version does not name")
	case v.Part != nil:
		if v.Part.Bytes != v.Bytes {
			return malformed("version of %d bytes with a part of %d", v.Bytes, v.Part.Bytes)
		}
		return validatePart(v.Part, m.Chunks, m.Inline)
	case v.List != nil:
		return m.validateList()
	}
	return nil
}

func (m *Manifest) validateList() error {
	list := m.Version.List
	pages := (len(m.Parts) + metadata.PartsPerPage - 1) / metadata.PartsPerPage
	if len(m.Parts) == 0 || int64(list.Parts) != int64(len(m.Parts)) || len(list.Pages) != pages {
		return malformed("%d parts and %d pages where %d belong", len(m.Parts), len(list.Pages), list.Parts)
	}
	var offset int64
	for i := range m.Parts {
		p := &m.Parts[i]
		if i > 0 && p.Row.Number <= m.Parts[i-1].Row.Number {
			return malformed("part %d behind part %d", p.Row.Number, m.Parts[i-1].Row.Number)
		}
		if i%metadata.PartsPerPage == 0 {
			page := &list.Pages[i/metadata.PartsPerPage]
			if page.FirstNumber != p.Row.Number || page.Offset != offset {
				return malformed("page from part %d does not begin there", p.Row.Number)
			}
		}
		if err := validatePart(&p.Row, p.Chunks, p.Inline); err != nil {
			return err
		}
		if offset += p.Row.Bytes; offset < 0 {
			return malformed("length of the parts")
		}
	}
	if offset != m.Version.Bytes {
		return malformed("version of %d bytes with parts of %d", m.Version.Bytes, offset)
	}
	return nil
}

func validatePart(p *metadata.Part, chunks []metadata.Chunk, inline []byte) error {
	if p.Bytes < 0 || p.SealedBytes < 0 || p.Body != metadata.BodyChunks && len(chunks) > 0 || p.Body != metadata.BodyInline && len(inline) > 0 {
		return malformed("part %s: body of kind %d", p.ID, p.Body)
	}
	switch p.Body {
	case metadata.BodyEmpty:
		if p.Bytes != 0 {
			return malformed("part %s: %d bytes and no body", p.ID, p.Bytes)
		}
	case metadata.BodyInline:
		if int64(len(inline)) != p.SealedBytes {
			return malformed("part %s: inline body of %d bytes instead of %d", p.ID, len(inline), p.SealedBytes)
		}
	case metadata.BodyChunks:
		return validateChunks(p, chunks)
	default:
		return fmt.Errorf("%w: part %s: body of kind %d", ErrNewer, p.ID, p.Body)
	}
	return nil
}

func validateChunks(p *metadata.Part, chunks []metadata.Chunk) error {
	var sum int64
	for i := range chunks {
		c := &chunks[i]
		switch {
		case int64(c.No) != int64(i):
			return malformed("part %s: chunk %d in the place of %d", p.ID, c.No, i)
		case c.Bytes < 1 || c.Bytes > metadata.ChunkBytes || i+1 < len(chunks) && c.Bytes != metadata.ChunkBytes:
			return malformed("part %s: chunk %d of %d bytes", p.ID, i, c.Bytes)
		case c.Scheme.Validate() != nil:
			return malformed("part %s: chunk %d: %v", p.ID, i, c.Scheme.Validate())
		}
		sum += c.Bytes
	}
	if sum != p.SealedBytes || len(chunks) == 0 {
		return malformed("part %s: chunks of %d bytes instead of %d", p.ID, sum, p.SealedBytes)
	}
	return nil
}
