package metadata

// maxManifestDrives is how many drives a group's row names at most: members
// and those that leave.
const maxManifestDrives = 1 << 16

// AppendTo appends the stored form of e to dst.
func (e *OutboxEntry) AppendTo(dst []byte) []byte {
	dst = append(dst, RowVersion)
	dst = appendUint(dst, 1, e.Order)
	dst = appendUint(dst, 2, uint64(e.Kind))
	dst = appendFixed(dst, 3, e.Bucket[:])
	dst = appendString(dst, 4, e.Key)
	return append(dst, e.Unknown...)
}

// Unmarshal sets e to what [OutboxEntry.AppendTo] encoded. It keeps no
// reference to b.
func (e *OutboxEntry) Unmarshal(b []byte) error {
	*e = OutboxEntry{}
	return unmarshal(b, "outbox entry", func(d *decoder) {
		switch d.num {
		case 1:
			e.Order = d.uint64()
		case 2:
			e.Kind = OutboxKind(d.uint8())
		case 3:
			d.fixed(e.Bucket[:])
		case 4:
			e.Key = d.string()
		default:
			d.keepText(&e.Unknown)
		}
	})
}

// AppendTo appends the stored form of m to dst.
func (m *ManifestMembers) AppendTo(dst []byte) []byte { return m.append(append(dst, RowVersion)) }

// Unmarshal sets m to what [ManifestMembers.AppendTo] encoded. It keeps no
// reference to b.
func (m *ManifestMembers) Unmarshal(b []byte) error {
	*m = ManifestMembers{}
	return unmarshal(b, "manifest members", m.field)
}

func (m *ManifestMembers) append(b []byte) []byte {
	b = appendUint(b, 1, m.Version)
	b = appendUint(b, 2, m.Set)
	for i := range m.Members {
		var mark int
		b, mark = begin(b, 3)
		b = end(m.Members[i].append(b), mark)
	}
	b = appendUint(b, 4, m.Incarnation)
	return append(b, m.Unknown...)
}

func (m *ManifestMembers) field(d *decoder) {
	switch d.num {
	case 1:
		m.Version = d.uint64()
	case 2:
		m.Set = d.uint64()
	case 3:
		if d.room(len(m.Members), maxManifestDrives) {
			m.Members = append(m.Members, ManifestMember{})
			d.message(m.Members[len(m.Members)-1].field)
		}
	case 4:
		m.Incarnation = d.uint64()
	default:
		d.keepText(&m.Unknown)
	}
}

func (m *ManifestMember) append(b []byte) []byte {
	b = appendFixed(b, 1, m.Drive[:])
	b = appendUint(b, 2, uint64(m.State))
	b = appendFixed(b, 3, m.Fill.Bucket[:])
	b = appendString(b, 4, m.Fill.Key)
	b = appendUint(b, 5, m.Since)
	b = appendBool(b, 6, m.Tombs)
	return append(b, m.Unknown...)
}

func (m *ManifestMember) field(d *decoder) {
	switch d.num {
	case 1:
		d.fixed(m.Drive[:])
	case 2:
		m.State = MemberState(d.uint8())
	case 3:
		d.fixed(m.Fill.Bucket[:])
	case 4:
		m.Fill.Key = d.string()
	case 5:
		m.Since = d.uint64()
	case 6:
		m.Tombs = d.bool()
	default:
		d.keepText(&m.Unknown)
	}
}

func (c *Manifested) append(b []byte) []byte {
	b = appendUint(b, 1, c.Upto)
	return appendUint(b, 2, c.Set)
}

func (c *Manifested) field(d *decoder) {
	switch d.num {
	case 1:
		c.Upto = d.uint64()
	case 2:
		c.Set = d.uint64()
	default:
		d.closed()
	}
}

func (c *RestoreVersion) append(b []byte) []byte {
	return appendWritten(b, &c.Bucket, c.Key, &c.Version, c.Chunks, c.Inline)
}

func (c *RestoreVersion) field(d *decoder) {
	fieldWritten(d, &c.Bucket, &c.Key, &c.Version, &c.Chunks, &c.Inline)
}

func (c *RestoreParts) append(b []byte) []byte {
	b = appendFixed(b, 1, c.Bucket[:])
	b = appendString(b, 2, c.Key)
	b = appendFixed(b, 3, c.List[:])
	b = appendUint(b, 4, uint64(c.Page))
	b = appendEach(b, 5, c.Parts)
	return appendEach(b, 6, c.Bodies)
}

func (c *RestoreParts) field(d *decoder) {
	switch d.num {
	case 1:
		d.fixed(c.Bucket[:])
	case 2:
		c.Key = d.string()
	case 3:
		d.fixed(c.List[:])
	case 4:
		c.Page = d.uint32()
	case 5:
		if d.room(len(c.Parts), PartsPerPage) {
			c.Parts = append(c.Parts, Part{})
			d.message(c.Parts[len(c.Parts)-1].field)
		}
	case 6:
		if d.room(len(c.Bodies), MaxPartNumber) {
			c.Bodies = append(c.Bodies, PartBody{})
			d.message(c.Bodies[len(c.Bodies)-1].field)
		}
	default:
		d.closed()
	}
}

func (p *PartBody) append(b []byte) []byte {
	b = appendFixed(b, 1, p.Part[:])
	b = appendEach(b, 2, p.Chunks)
	return appendBytes(b, 3, p.Inline)
}

func (p *PartBody) field(d *decoder) {
	switch d.num {
	case 1:
		d.fixed(p.Part[:])
	case 2:
		fieldChunks(d, &p.Chunks)
	case 3:
		p.Inline = d.bytes()
	default:
		d.closed()
	}
}
