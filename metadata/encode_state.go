package metadata

// Head is what a group knows of itself. One row a group.
type Head struct {
	Order       uint64 // highest order ever given
	Position    uint64 // of the last command applied
	ClockMicros uint64 // monotonic counter, see [Clock]
	Expiry      uint64 // order of the oldest row that expires, 0 for none
	InlineBytes int64  // sealed bytes of all inline bodies
	Buckets     uint64 // rows of buckets, in the root group
	Manifested  uint64 // the highest order up to which the outbox was dropped

	Unknown string // fields of later versions, kept as they came
}

// AppendTo appends the stored form of h to dst.
func (h *Head) AppendTo(dst []byte) []byte {
	dst = append(dst, RowVersion)
	dst = appendUint(dst, 1, h.Order)
	dst = appendUint(dst, 2, h.Position)
	dst = appendUint(dst, 3, h.ClockMicros)
	dst = appendUint(dst, 4, h.Expiry)
	dst = appendUint(dst, 5, uint64(h.InlineBytes))
	dst = appendUint(dst, 6, h.Buckets)
	dst = appendUint(dst, 7, h.Manifested)
	return append(dst, h.Unknown...)
}

// Unmarshal sets h to what [Head.AppendTo] encoded.
func (h *Head) Unmarshal(b []byte) error {
	*h = Head{}
	return unmarshal(b, "group", func(d *decoder) {
		switch d.num {
		case 1:
			h.Order = d.uint64()
		case 2:
			h.Position = d.uint64()
		case 3:
			h.ClockMicros = d.uint64()
		case 4:
			h.Expiry = d.uint64()
		case 5:
			h.InlineBytes = d.int64()
		case 6:
			h.Buckets = d.uint64()
		case 7:
			h.Manifested = d.uint64()
		default:
			d.keepText(&h.Unknown)
		}
	})
}

// UploadPlace finds the row of an upload by its id.
type UploadPlace struct {
	Key   string
	Order uint64

	Unknown string // fields of later versions, kept as they came
}

// AppendTo appends the stored form of p to dst.
func (p *UploadPlace) AppendTo(dst []byte) []byte {
	dst = append(dst, RowVersion)
	dst = appendString(dst, 1, p.Key)
	dst = appendUint(dst, 2, p.Order)
	return append(dst, p.Unknown...)
}

// Unmarshal sets p to what [UploadPlace.AppendTo] encoded. It keeps no
// reference to b.
func (p *UploadPlace) Unmarshal(b []byte) error {
	*p = UploadPlace{}
	return unmarshal(b, "upload place", func(d *decoder) {
		switch d.num {
		case 1:
			p.Key = d.string()
		case 2:
			p.Order = d.uint64()
		default:
			d.keepText(&p.Unknown)
		}
	})
}

// Completion is the answer to a completed upload, kept for repetitions.
type Completion struct {
	Key      string
	ListHash Sum
	Version  Version

	Unknown string // fields of later versions, kept as they came
}

// AppendTo appends the stored form of c to dst.
func (c *Completion) AppendTo(dst []byte) []byte {
	dst = append(dst, RowVersion)
	dst = appendString(dst, 1, c.Key)
	dst = appendFixed(dst, 2, c.ListHash[:])
	dst, m := begin(dst, 3)
	dst = end(c.Version.append(dst), m)
	return append(dst, c.Unknown...)
}

// Unmarshal sets c to what [Completion.AppendTo] encoded. It keeps no
// reference to b.
func (c *Completion) Unmarshal(b []byte) error {
	*c = Completion{}
	return unmarshal(b, "completion", func(d *decoder) {
		switch d.num {
		case 1:
			c.Key = d.string()
		case 2:
			d.fixed(c.ListHash[:])
		case 3:
			d.message(c.Version.field)
		default:
			d.keepText(&c.Unknown)
		}
	})
}
