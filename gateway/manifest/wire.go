package manifest

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// field is one field of a message.
type field struct {
	num protowire.Number
	typ protowire.Type
	val uint64
	b   []byte
}

func (f *field) uint(most uint64) (uint64, error) {
	if f.typ != protowire.VarintType || f.val > most {
		return 0, malformed("field %d is no number, or out of range", f.num)
	}
	return f.val, nil
}

func (f *field) raw() ([]byte, error) {
	if f.typ != protowire.BytesType {
		return nil, malformed("field %d is no text", f.num)
	}
	return f.b, nil
}

// into lets a row decode the field.
func (f *field) into(row interface{ Unmarshal([]byte) error }) error {
	b, err := f.raw()
	if err != nil {
		return err
	}
	if err := row.Unmarshal(b); err != nil {
		return fmt.Errorf("%w: field %d: %w", ErrMalformed, f.num, err)
	}
	return nil
}

// unknown refuses a field. Leaving it out would lose what a later version
// thought worth keeping.
func (f *field) unknown() error { return fmt.Errorf("%w: field %d", ErrNewer, f.num) }

// eachField calls f for every field of b.
func eachField(b []byte, f func(field) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return malformed("bad tag")
		}
		b = b[n:]
		v := field{num: num, typ: typ}
		switch typ {
		case protowire.VarintType:
			v.val, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			v.b, n = protowire.ConsumeBytes(b)
		default:
			return malformed("wire type %d", typ)
		}
		if n < 0 {
			return malformed("field %d is cut short", num)
		}
		if err := f(v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}
