package metadata

import "google.golang.org/protobuf/encoding/protowire"

// Most elements of the repeated fields of rows. They bound what decoding may
// allocate.
const (
	maxPairs = 4096
	maxPages = 10_000/PartsPerPage + 1
)

// AppendTo appends the stored form of v to dst.
func (v *Version) AppendTo(dst []byte) []byte { return v.append(append(dst, RowVersion)) }

// Unmarshal sets v to what [Version.AppendTo] encoded. It keeps no reference
// to b.
func (v *Version) Unmarshal(b []byte) error {
	*v = Version{}
	return unmarshal(b, "version", v.field)
}

func (v *Version) append(b []byte) []byte {
	b = appendUint(b, 1, v.Order)
	b = appendFixed(b, 2, v.Random[:])
	b = appendBool(b, 3, v.Null)
	b = appendBool(b, 4, v.Marker)
	b = appendFixed(b, 5, v.Salt[:])
	b = appendUint(b, 6, uint64(v.Bytes))
	b = appendUint(b, 7, uint64(v.StoredBytes))
	b = appendString(b, 8, v.ETag)
	b = v.Checksum.appendAs(b, 9)
	b = appendFixed64(b, 10, v.CRC64)
	if v.Part != nil {
		var m int
		b, m = begin(b, 11)
		b = end(v.Part.append(b), m)
	}
	if v.List != nil {
		var m int
		b, m = begin(b, 12)
		b = end(v.List.append(b), m)
	}
	b = appendUint(b, 13, v.Settings)
	b = appendFixed(b, 14, v.Owner[:])
	b = appendFixed(b, 15, v.MAC[:])
	b = appendFixed(b, 16, v.Key[:])
	b = appendUint(b, 17, v.Policy)
	b = appendString(b, 18, v.Class)
	b = v.Headers.append(b, 20)
	b = appendPairs(b, 30, v.User)
	return append(b, v.Unknown...)
}

func (v *Version) field(d *decoder) {
	switch d.num {
	case 1:
		v.Order = d.uint64()
	case 2:
		d.fixed(v.Random[:])
	case 3:
		v.Null = d.bool()
	case 4:
		v.Marker = d.bool()
	case 5:
		d.fixed(v.Salt[:])
	case 6:
		v.Bytes = d.int64()
	case 7:
		v.StoredBytes = d.int64()
	case 8:
		v.ETag = d.string()
	case 9:
		d.message(v.Checksum.field)
	case 10:
		v.CRC64 = d.fixed64()
	case 11:
		v.Part = new(Part)
		d.message(v.Part.field)
	case 12:
		v.List = new(PartList)
		d.message(v.List.field)
	case 13:
		v.Settings = d.uint64()
	case 14:
		d.fixed(v.Owner[:])
	case 15:
		d.fixed(v.MAC[:])
	case 16:
		d.fixed(v.Key[:])
	case 17:
		v.Policy = d.uint64()
	case 18:
		v.Class = d.string()
	case 30:
		fieldPairs(d, &v.User)
	default:
		if !v.Headers.field(d, 20) {
			d.keep(&v.Unknown)
		}
	}
}

// append appends the headers as seven fields of the row, from number first.
func (h *Headers) append(b []byte, first int32) []byte {
	for i, s := range [...]string{h.CacheControl, h.ContentDisposition, h.ContentEncoding,
		h.ContentLanguage, h.ContentType, h.Expires, h.WebsiteRedirect} {
		b = appendString(b, protowire.Number(first+int32(i)), s)
	}
	return b
}

func (h *Headers) field(d *decoder, first int32) bool {
	switch int32(d.num) - first {
	case 0:
		h.CacheControl = d.string()
	case 1:
		h.ContentDisposition = d.string()
	case 2:
		h.ContentEncoding = d.string()
	case 3:
		h.ContentLanguage = d.string()
	case 4:
		h.ContentType = d.string()
	case 5:
		h.Expires = d.string()
	case 6:
		h.WebsiteRedirect = d.string()
	default:
		return false
	}
	return true
}

func appendPairs(b []byte, num int32, pairs []Pair) []byte {
	for _, p := range pairs {
		var m int
		b, m = begin(b, protowire.Number(num))
		b = appendString(b, 1, p.Name)
		b = end(appendString(b, 2, p.Value), m)
	}
	return b
}

func fieldPairs(d *decoder, pairs *[]Pair) {
	if !d.room(len(*pairs), maxPairs) {
		return
	}
	var p Pair
	d.message(func(d *decoder) {
		switch d.num {
		case 1:
			p.Name = d.string()
		case 2:
			p.Value = d.string()
		default:
			d.closed()
		}
	})
	*pairs = append(*pairs, p)
}

func (c *Checksum) appendAs(b []byte, num int32) []byte {
	if *c == (Checksum{}) {
		return b
	}
	b, m := begin(b, protowire.Number(num))
	b = appendUint(b, 1, uint64(c.Algorithm))
	b = appendBool(b, 2, c.Composite)
	b = appendUint(b, 3, uint64(c.Parts))
	return end(appendString(b, 4, c.Value), m)
}

func (c *Checksum) field(d *decoder) {
	switch d.num {
	case 1:
		c.Algorithm = ChecksumAlgorithm(d.uint8())
	case 2:
		c.Composite = d.bool()
	case 3:
		c.Parts = d.uint32()
	case 4:
		c.Value = d.string()
	default:
		d.closed()
	}
}

// AppendTo appends the stored form of p to dst.
func (p *Part) AppendTo(dst []byte) []byte { return p.append(append(dst, RowVersion)) }

// Unmarshal sets p to what [Part.AppendTo] encoded. It keeps no reference to b.
func (p *Part) Unmarshal(b []byte) error {
	*p = Part{}
	return unmarshal(b, "part", p.field)
}

func (p *Part) append(b []byte) []byte {
	b = appendUint(b, 1, uint64(p.Number))
	b = appendFixed(b, 2, p.ID[:])
	b = appendUint(b, 3, uint64(p.Bytes))
	b = appendUint(b, 4, uint64(p.SealedBytes))
	b = appendUint(b, 5, uint64(p.Body))
	b = appendUint(b, 6, uint64(p.Compression))
	b = appendUint(b, 7, uint64(p.IndexBytes))
	b = appendBool(b, 8, p.Sealed)
	b = appendFixed(b, 9, p.Key[:])
	b = appendString(b, 10, p.WrappedKey)
	b = appendFixed64(b, 11, p.CRC64)
	b = appendFixed(b, 12, p.MD5[:])
	b = p.Checksum.appendAs(b, 13)
	b = appendUint(b, 14, p.Modified)
	return append(b, p.Unknown...)
}

func (p *Part) field(d *decoder) {
	switch d.num {
	case 1:
		p.Number = d.uint32()
	case 2:
		d.fixed(p.ID[:])
	case 3:
		p.Bytes = d.int64()
	case 4:
		p.SealedBytes = d.int64()
	case 5:
		p.Body = BodyKind(d.uint8())
	case 6:
		p.Compression = Compression(d.uint8())
	case 7:
		p.IndexBytes = d.int64()
	case 8:
		p.Sealed = d.bool()
	case 9:
		d.fixed(p.Key[:])
	case 10:
		p.WrappedKey = d.string()
	case 11:
		p.CRC64 = d.fixed64()
	case 12:
		d.fixed(p.MD5[:])
	case 13:
		d.message(p.Checksum.field)
	case 14:
		p.Modified = d.uint64()
	default:
		d.keepText(&p.Unknown)
	}
}

func (l *PartList) append(b []byte) []byte {
	b = appendFixed(b, 1, l.ID[:])
	b = appendUint(b, 2, uint64(l.Parts))
	for i := range l.Pages {
		p := &l.Pages[i]
		var m int
		b, m = begin(b, 3)
		b = appendUint(b, 1, uint64(p.FirstNumber))
		b = appendUint(b, 2, uint64(p.Offset))
		b = end(appendFixed(b, 3, p.MAC[:]), m)
	}
	return append(b, l.Unknown...)
}

func (l *PartList) field(d *decoder) {
	switch d.num {
	case 1:
		d.fixed(l.ID[:])
	case 2:
		l.Parts = d.uint32()
	case 3:
		if !d.room(len(l.Pages), maxPages) {
			return
		}
		var p PartPage
		d.message(p.field)
		l.Pages = append(l.Pages, p)
	default:
		d.keepText(&l.Unknown)
	}
}

func (p *PartPage) field(d *decoder) {
	switch d.num {
	case 1:
		p.FirstNumber = d.uint32()
	case 2:
		p.Offset = d.int64()
	case 3:
		d.fixed(p.MAC[:])
	default:
		d.closed()
	}
}

// AppendPartPage appends the stored form of a page of a part list to dst. A
// page holds at most [PartsPerPage] parts.
func AppendPartPage(dst []byte, parts []Part) []byte {
	dst = append(dst, RowVersion)
	for i := range parts {
		var m int
		dst, m = begin(dst, 1)
		dst = end(parts[i].append(dst), m)
	}
	return dst
}

// UnmarshalPartPage returns the parts that [AppendPartPage] encoded.
func UnmarshalPartPage(b []byte) ([]Part, error) {
	var parts []Part
	err := unmarshal(b, "part page", func(d *decoder) {
		if d.num != 1 {
			d.closed()
			return
		}
		if !d.room(len(parts), PartsPerPage) {
			return
		}
		parts = append(parts, Part{})
		d.message(parts[len(parts)-1].field)
	})
	if err != nil {
		return nil, err
	}
	return parts, nil
}

// AppendTo appends the stored form of c to dst.
func (c *Chunk) AppendTo(dst []byte) []byte { return c.append(append(dst, RowVersion)) }

// Unmarshal sets c to what [Chunk.AppendTo] encoded. It keeps no reference to b.
func (c *Chunk) Unmarshal(b []byte) error {
	*c = Chunk{}
	return unmarshal(b, "chunk", c.field)
}

func (c *Chunk) append(b []byte) []byte {
	b = appendUint(b, 1, uint64(c.No))
	b = appendFixed(b, 2, c.ID[:])
	b = appendUint(b, 3, uint64(c.PG))
	b = appendUint(b, 4, uint64(c.Generation))
	b = c.Scheme.appendAs(b, 5)
	b = appendUint(b, 6, uint64(c.Bytes))
	b = appendFixed(b, 7, c.Digest[:])
	return append(b, c.Unknown...)
}

func (c *Chunk) field(d *decoder) {
	switch d.num {
	case 1:
		c.No = d.uint32()
	case 2:
		d.fixed(c.ID[:])
	case 3:
		c.PG = d.uint32()
	case 4:
		c.Generation = d.uint32()
	case 5:
		c.Scheme.decode(d)
	case 6:
		c.Bytes = d.int64()
	case 7:
		d.fixed(c.Digest[:])
	default:
		d.keepText(&c.Unknown)
	}
}

// appendAs appends the scheme as one number: a byte each of Data, Parity, Code
// and CellLog2, the first one lowest.
func (s Scheme) appendAs(b []byte, num int32) []byte {
	return appendUint(b, protowire.Number(num),
		uint64(s.Data)|uint64(s.Parity)<<8|uint64(s.Code)<<16|uint64(s.CellLog2)<<24)
}

func (s *Scheme) decode(d *decoder) {
	v := d.uint32()
	*s = Scheme{Data: uint8(v), Parity: uint8(v >> 8), Code: uint8(v >> 16), CellLog2: uint8(v >> 24)}
}

// AppendTo appends the stored form of u to dst.
func (u *Upload) AppendTo(dst []byte) []byte { return u.append(append(dst, RowVersion)) }

// Unmarshal sets u to what [Upload.AppendTo] encoded. It keeps no reference
// to b.
func (u *Upload) Unmarshal(b []byte) error {
	*u = Upload{}
	return unmarshal(b, "upload", u.field)
}

func (u *Upload) append(b []byte) []byte {
	b = appendFixed(b, 1, u.ID[:])
	b = appendString(b, 2, u.Key)
	b = appendUint(b, 3, u.Order)
	b = appendString(b, 4, u.Class)
	b = appendUint(b, 5, uint64(u.Algorithm))
	b = appendBool(b, 6, u.Composite)
	b = appendFixed(b, 7, u.Owner[:])
	b = u.Headers.append(b, 20)
	b = appendPairs(b, 30, u.User)
	return append(b, u.Unknown...)
}

func (u *Upload) field(d *decoder) {
	switch d.num {
	case 1:
		d.fixed(u.ID[:])
	case 2:
		u.Key = d.string()
	case 3:
		u.Order = d.uint64()
	case 4:
		u.Class = d.string()
	case 5:
		u.Algorithm = ChecksumAlgorithm(d.uint8())
	case 6:
		u.Composite = d.bool()
	case 7:
		d.fixed(u.Owner[:])
	case 30:
		fieldPairs(d, &u.User)
	default:
		if !u.Headers.field(d, 20) {
			d.keep(&u.Unknown)
		}
	}
}

// AppendTo appends the stored form of o to dst.
func (o *Owner) AppendTo(dst []byte) []byte {
	dst = append(dst, RowVersion)
	dst = appendFixed(dst, 1, o.Bucket[:])
	dst = appendString(dst, 2, o.Key)
	dst = appendUint(dst, 3, o.Order)
	dst = appendFixed(dst, 4, o.List[:])
	return append(dst, o.Unknown...)
}

// Unmarshal sets o to what [Owner.AppendTo] encoded. It keeps no reference
// to b.
func (o *Owner) Unmarshal(b []byte) error {
	*o = Owner{}
	return unmarshal(b, "owner", func(d *decoder) {
		switch d.num {
		case 1:
			d.fixed(o.Bucket[:])
		case 2:
			o.Key = d.string()
		case 3:
			o.Order = d.uint64()
		case 4:
			d.fixed(o.List[:])
		default:
			d.keepText(&o.Unknown)
		}
	})
}

// AppendTo appends the stored form of t to dst.
func (t *Trash) AppendTo(dst []byte) []byte {
	dst = append(dst, RowVersion)
	dst = appendUint(dst, 1, t.Order)
	dst = appendUint(dst, 2, uint64(t.Kind))
	dst = appendFixed(dst, 3, t.Bucket[:])
	dst = appendFixed(dst, 4, t.Part[:])
	dst = appendUint(dst, 5, uint64(t.Body))
	dst = appendFixed(dst, 6, t.List[:])
	dst = appendUint(dst, 7, uint64(t.Bytes))
	return append(dst, t.Unknown...)
}

// Unmarshal sets t to what [Trash.AppendTo] encoded. It keeps no reference
// to b.
func (t *Trash) Unmarshal(b []byte) error {
	*t = Trash{}
	return unmarshal(b, "trash", func(d *decoder) {
		switch d.num {
		case 1:
			t.Order = d.uint64()
		case 2:
			t.Kind = TrashKind(d.uint8())
		case 3:
			d.fixed(t.Bucket[:])
		case 4:
			d.fixed(t.Part[:])
		case 5:
			t.Body = BodyKind(d.uint8())
		case 6:
			d.fixed(t.List[:])
		case 7:
			t.Bytes = d.int64()
		default:
			d.keepText(&t.Unknown)
		}
	})
}

// AppendTo appends the stored form of s to dst.
func (s *Short) AppendTo(dst []byte) []byte { return s.append(append(dst, RowVersion)) }

// Unmarshal sets s to what [Short.AppendTo] encoded. It keeps no reference
// to b.
func (s *Short) Unmarshal(b []byte) error {
	*s = Short{}
	return unmarshal(b, "short", s.field)
}

func (s *Short) append(b []byte) []byte {
	b = appendFixed(b, 1, s.Bucket[:])
	b = appendFixed(b, 2, s.Part[:])
	b = appendUint(b, 3, uint64(s.ChunkNo))
	b = appendUint(b, 4, uint64(s.Missing))
	b = appendUint(b, 5, uint64(s.Margin))
	b = appendUint(b, 6, s.Since)
	return append(b, s.Unknown...)
}

func (s *Short) field(d *decoder) {
	switch d.num {
	case 1:
		d.fixed(s.Bucket[:])
	case 2:
		d.fixed(s.Part[:])
	case 3:
		s.ChunkNo = d.uint32()
	case 4:
		s.Missing = d.uint32()
	case 5:
		s.Margin = d.uint8()
	case 6:
		s.Since = d.uint64()
	default:
		d.keepText(&s.Unknown)
	}
}
