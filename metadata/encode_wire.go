package metadata

import (
	"bytes"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// RowVersion is the first byte of every stored value of this version.
const RowVersion = 1

// Failures of decoding.
var (
	// ErrRowVersion means that a value was written by a later version of the
	// program and must not be touched by this one.
	ErrRowVersion = errors.New("stored value has an unknown version")
	// ErrMalformed means that a value is not what its writer could have made.
	ErrMalformed = errors.New("stored value is malformed")
	// ErrUnknownKind means that a command is of a kind or version that this
	// program cannot carry out.
	ErrUnknownKind = errors.New("command of an unknown kind or version")
)

// A source is an encoded value. Strings share one copy of it, made when the
// first one is asked for, so that nothing refers to the caller's buffer.
type source struct {
	b []byte
	s string
	// kept says that the buffer never changes: bytes refer to it, and strings,
	// which are few beside a body, are copied one by one.
	kept bool
}

// A decoder walks over the fields of one message within a source. Accessors
// record the first error, which ends the walk.
type decoder struct {
	src      *source
	pos, end int

	num        protowire.Number
	typ        protowire.Type
	start      int    // offset of the field's tag
	val        uint64 // value of a varint or fixed field
	from, till int    // place of a length-delimited field
	err        error

	kept   []byte  // unknown fields, if there are several
	keptIn *string // where they go
}

// next moves to the next field and reports whether there is one.
func (d *decoder) next() bool {
	if d.err != nil || d.pos >= d.end {
		d.keepAll()
		return false
	}
	d.start = d.pos
	num, typ, n := protowire.ConsumeTag(d.src.b[d.pos:d.end])
	if n < 0 {
		return d.fail("bad tag")
	}
	d.num, d.typ = num, typ
	d.pos += n
	rest := d.src.b[d.pos:d.end]
	switch typ {
	case protowire.VarintType:
		d.val, n = protowire.ConsumeVarint(rest)
	case protowire.Fixed64Type:
		d.val, n = protowire.ConsumeFixed64(rest)
	case protowire.BytesType:
		var v []byte
		v, n = protowire.ConsumeBytes(rest)
		d.till = d.pos + n
		d.from = d.till - len(v)
	default:
		return d.fail("bad wire type")
	}
	if n < 0 {
		return d.fail("cut short")
	}
	d.pos += n
	return true
}

func (d *decoder) fail(why string) bool {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s in field %d", ErrMalformed, why, d.num)
	}
	return false
}

func (d *decoder) uint64() uint64 {
	if d.typ != protowire.VarintType {
		d.fail("not a number")
	}
	return d.val
}

func (d *decoder) int64() int64 { return int64(d.uint64()) }

func (d *decoder) uint32() uint32 {
	v := d.uint64()
	if v > 1<<32-1 {
		d.fail("number out of range")
	}
	return uint32(v)
}

func (d *decoder) uint16() uint16 {
	v := d.uint64()
	if v > 1<<16-1 {
		d.fail("number out of range")
	}
	return uint16(v)
}

func (d *decoder) uint8() uint8 {
	v := d.uint64()
	if v > 1<<8-1 {
		d.fail("number out of range")
	}
	return uint8(v)
}

func (d *decoder) bool() bool {
	v := d.uint64()
	if v > 1 {
		d.fail("not a truth value")
	}
	return v == 1
}

func (d *decoder) fixed64() uint64 {
	if d.typ != protowire.Fixed64Type {
		d.fail("not eight bytes")
	}
	return d.val
}

// raw returns the place of a length-delimited value.
func (d *decoder) raw() []byte {
	if d.typ != protowire.BytesType {
		d.fail("not bytes")
		return nil
	}
	return d.src.b[d.from:d.till]
}

func (d *decoder) string() string {
	if d.typ != protowire.BytesType {
		d.fail("not a string")
		return ""
	}
	return d.src.text(d.from, d.till)
}

func (s *source) text(from, till int) string {
	if from == till {
		return ""
	}
	if s.kept {
		return string(s.b[from:till])
	}
	if s.s == "" {
		s.s = string(s.b)
	}
	return s.s[from:till]
}

func (d *decoder) bytes() []byte {
	v := d.raw()
	if d.src.kept {
		return v[:len(v):len(v)]
	}
	return bytes.Clone(v)
}

// fixed copies a value of exactly len(dst) bytes.
func (d *decoder) fixed(dst []byte) {
	v := d.raw()
	if len(v) != len(dst) {
		d.fail("wrong length")
		return
	}
	copy(dst, v)
}

// message walks over a nested message and calls field for each field of it.
func (d *decoder) message(field func(*decoder)) {
	if d.typ != protowire.BytesType {
		d.fail("not a message")
		return
	}
	in := decoder{src: d.src, pos: d.from, end: d.till}
	for in.next() {
		field(&in)
	}
	if in.err != nil && d.err == nil {
		d.err = fmt.Errorf("field %d: %w", d.num, in.err)
	}
}

// room reports whether a repeated field of n elements may get one more.
func (d *decoder) room(n, limit int) bool {
	if n >= limit {
		return d.fail("too many elements")
	}
	return true
}

// closed refuses a field of a message that never gains one.
func (d *decoder) closed() { d.fail("unknown field in a closed message") }

// keep appends the present field, tag included, to the unknown ones.
func (d *decoder) keep(unknown *[]byte) {
	*unknown = append(*unknown, d.src.b[d.start:d.pos]...)
}

// keepText is keep for values that stay comparable. The text is whole when next
// has reported that there are no more fields.
func (d *decoder) keepText(unknown *string) {
	if d.keptIn != unknown {
		d.keepAll()
		d.keptIn = unknown
		if *unknown == "" {
			*unknown = d.src.text(d.start, d.pos) // mostly there is only one
			return
		}
	}
	if d.kept == nil {
		d.kept = []byte(*unknown)
	}
	d.kept = append(d.kept, d.src.b[d.start:d.pos]...)
}

// keepAll sets the text of several unknown fields.
func (d *decoder) keepAll() {
	if d.kept != nil {
		*d.keptIn = string(d.kept)
	}
	d.kept, d.keptIn = nil, nil
}

// unmarshal decodes a row: a version byte and a message.
func unmarshal(b []byte, what string, field func(*decoder)) error {
	return unmarshalFrom(&source{b: b}, what, field)
}

func unmarshalFrom(src *source, what string, field func(*decoder)) error {
	b := src.b
	if len(b) == 0 {
		return fmt.Errorf("metadata: %s: %w: empty", what, ErrMalformed)
	}
	if b[0] != RowVersion {
		return fmt.Errorf("metadata: %s: %w: %d, this program knows %d", what, ErrRowVersion, b[0], RowVersion)
	}
	d := decoder{src: src, pos: 1, end: len(b)}
	for d.next() {
		field(&d)
	}
	if d.err != nil {
		return fmt.Errorf("metadata: %s: %w", what, d.err)
	}
	return nil
}

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendBool(b []byte, num protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return appendUint(b, num, 1)
}

func appendFixed64(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendFixed64(protowire.AppendTag(b, num, protowire.Fixed64Type), v)
}

func appendString(b []byte, num protowire.Number, v string) []byte {
	if v == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
}

func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// appendFixed appends an id or a sum, and nothing if it is all zero.
func appendFixed(b []byte, num protowire.Number, v []byte) []byte {
	for _, c := range v {
		if c != 0 {
			return appendBytes(b, num, v)
		}
	}
	return b
}

// begin opens a nested message; the returned mark is for end.
func begin(b []byte, num protowire.Number) ([]byte, int) {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	b = append(b, 0) // the length, most often one byte
	return b, len(b)
}

// end closes a nested message by putting its length before it.
func end(b []byte, mark int) []byte {
	n := len(b) - mark
	extra := protowire.SizeVarint(uint64(n)) - 1
	if extra > 0 {
		b = append(b, make([]byte, extra)...)
		copy(b[mark+extra:], b[mark:mark+n])
	}
	protowire.AppendVarint(b[:mark-1], uint64(n))
	return b
}
