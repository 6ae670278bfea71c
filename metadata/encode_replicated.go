package metadata

import "github.com/ruche-storage/ruche/metadata/topology"

// maxStores is how many stores a table has at most, those that are gone
// included.
const maxStores = 1 << 12

// AppendTo appends the stored form of v to dst.
func (v *ClusterVersion) AppendTo(dst []byte) []byte { return v.append(append(dst, RowVersion)) }

// Unmarshal sets v to what [ClusterVersion.AppendTo] encoded.
func (v *ClusterVersion) Unmarshal(b []byte) error {
	*v = ClusterVersion{}
	return unmarshal(b, "command version", v.field)
}

func (v *ClusterVersion) append(b []byte) []byte { return appendUint(b, 1, uint64(v.Version)) }

func (v *ClusterVersion) field(d *decoder) {
	if d.num != 1 {
		d.closed()
		return
	}
	v.Version = d.uint16()
}

// AppendTo appends the stored form of p to dst.
func (p *RaftPosition) AppendTo(dst []byte) []byte {
	dst = append(dst, RowVersion)
	dst = appendUint(dst, 1, p.Index)
	dst = appendUint(dst, 2, p.Term)
	dst = appendBytes(dst, 3, p.Conf)
	return append(dst, p.Unknown...)
}

// Unmarshal sets p to what [RaftPosition.AppendTo] encoded. It keeps no
// reference to b.
func (p *RaftPosition) Unmarshal(b []byte) error {
	*p = RaftPosition{}
	return unmarshal(b, "raft", func(d *decoder) {
		switch d.num {
		case 1:
			p.Index = d.uint64()
		case 2:
			p.Term = d.uint64()
		case 3:
			p.Conf = d.bytes()
		default:
			d.keep(&p.Unknown)
		}
	})
}

// AppendTo appends the stored form of t to dst.
func (t *StoreTable) AppendTo(dst []byte) []byte { return t.append(append(dst, RowVersion)) }

// Unmarshal sets t to what [StoreTable.AppendTo] encoded. It keeps no
// reference to b.
func (t *StoreTable) Unmarshal(b []byte) error {
	*t = StoreTable{}
	return unmarshal(b, "stores", t.field)
}

func (t *StoreTable) append(b []byte) []byte {
	b = appendUint(b, 1, t.Version)
	for i := range t.Stores {
		s := &t.Stores[i]
		var m int
		b, m = begin(b, 2)
		b = appendUint(b, 1, s.Replica)
		b = appendFixed(b, 2, s.ID[:])
		b = appendString(b, 3, s.Place)
		b = appendString(b, 4, string(s.Site))
		b = appendUint(b, 5, uint64(s.Role))
		b = end(append(b, s.Unknown...), m)
	}
	return append(b, t.Unknown...)
}

func (t *StoreTable) field(d *decoder) {
	switch d.num {
	case 1:
		t.Version = d.uint64()
	case 2:
		if d.room(len(t.Stores), maxStores) {
			t.Stores = append(t.Stores, Store{})
			d.message(t.Stores[len(t.Stores)-1].field)
		}
	default:
		d.keepText(&t.Unknown)
	}
}

func (s *Store) field(d *decoder) {
	switch d.num {
	case 1:
		s.Replica = d.uint64()
	case 2:
		d.fixed(s.ID[:])
	case 3:
		s.Place = d.string()
	case 4:
		s.Site = topology.SiteID(d.string())
	case 5:
		s.Role = StoreRole(d.uint8())
	default:
		d.keepText(&s.Unknown)
	}
}
