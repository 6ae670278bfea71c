package metadata

import "github.com/ruche-storage/ruche/metadata/topology"

// Most elements of the tables of the root group.
const (
	maxGroups      = 1 << 16
	maxGenerations = 1 << 10
	maxMembers     = 32
	maxDrives      = 1 << 16
	maxLiving      = 1 << 16
)

// AppendTo appends the stored form of k to dst.
func (k *Bucket) AppendTo(dst []byte) []byte { return k.append(append(dst, RowVersion)) }

// Unmarshal sets k to what [Bucket.AppendTo] encoded. It keeps no reference
// to b.
func (k *Bucket) Unmarshal(b []byte) error {
	*k = Bucket{}
	return unmarshal(b, "bucket", k.field)
}

func (k *Bucket) append(b []byte) []byte {
	b = appendString(b, 1, k.Name)
	b = appendFixed(b, 2, k.ID[:])
	b = appendUint(b, 3, uint64(k.Group))
	b = appendUint(b, 4, uint64(k.State))
	b = appendFixed(b, 5, k.Owner[:])
	b = appendUint(b, 6, k.Order)
	b = appendString(b, 7, k.Region)
	b = appendFixed(b, 8, k.Key[:])
	b = appendString(b, 9, k.WrappedKey)
	return append(b, k.Unknown...)
}

func (k *Bucket) field(d *decoder) {
	switch d.num {
	case 1:
		k.Name = d.string()
	case 2:
		d.fixed(k.ID[:])
	case 3:
		k.Group = d.uint32()
	case 4:
		k.State = BucketState(d.uint8())
	case 5:
		d.fixed(k.Owner[:])
	case 6:
		k.Order = d.uint64()
	case 7:
		k.Region = d.string()
	case 8:
		d.fixed(k.Key[:])
	case 9:
		k.WrappedKey = d.string()
	default:
		d.keep(&k.Unknown)
	}
}

// AppendTo appends the stored form of s to dst.
func (s *Settings) AppendTo(dst []byte) []byte { return s.append(append(dst, RowVersion)) }

// Unmarshal sets s to what [Settings.AppendTo] encoded. It keeps no reference
// to b.
func (s *Settings) Unmarshal(b []byte) error {
	*s = Settings{}
	return unmarshal(b, "settings", s.field)
}

func (s *Settings) append(b []byte) []byte {
	b = appendFixed(b, 1, s.Bucket[:])
	b = appendString(b, 2, s.Name)
	b = appendUint(b, 3, s.Epoch)
	b = appendUint(b, 4, uint64(s.Compression))
	b = appendBool(b, 5, s.Closed)
	return append(b, s.Unknown...)
}

func (s *Settings) field(d *decoder) {
	switch d.num {
	case 1:
		d.fixed(s.Bucket[:])
	case 2:
		s.Name = d.string()
	case 3:
		s.Epoch = d.uint64()
	case 4:
		s.Compression = Compression(d.uint8())
	case 5:
		s.Closed = d.bool()
	default:
		d.keep(&s.Unknown)
	}
}

// AppendTo appends the stored form of u to dst.
func (u *Usage) AppendTo(dst []byte) []byte {
	dst = append(dst, RowVersion)
	dst = appendUint(dst, 1, uint64(u.Objects))
	dst = appendUint(dst, 2, uint64(u.Versions))
	dst = appendUint(dst, 3, uint64(u.Bytes))
	dst = appendUint(dst, 4, uint64(u.StoredBytes))
	dst = appendUint(dst, 5, uint64(u.Uploads))
	dst = appendUint(dst, 6, uint64(u.UploadBytes))
	return append(dst, u.Unknown...)
}

// Unmarshal sets u to what [Usage.AppendTo] encoded. It keeps no reference
// to b.
func (u *Usage) Unmarshal(b []byte) error {
	*u = Usage{}
	return unmarshal(b, "usage", func(d *decoder) {
		switch d.num {
		case 1:
			u.Objects = d.int64()
		case 2:
			u.Versions = d.int64()
		case 3:
			u.Bytes = d.int64()
		case 4:
			u.StoredBytes = d.int64()
		case 5:
			u.Uploads = d.int64()
		case 6:
			u.UploadBytes = d.int64()
		default:
			d.keepText(&u.Unknown)
		}
	})
}

// AppendTo appends the stored form of a to dst.
func (a *Account) AppendTo(dst []byte) []byte { return a.append(append(dst, RowVersion)) }

// Unmarshal sets a to what [Account.AppendTo] encoded. It keeps no reference
// to b.
func (a *Account) Unmarshal(b []byte) error {
	*a = Account{}
	return unmarshal(b, "account", a.field)
}

func (a *Account) append(b []byte) []byte {
	b = appendFixed(b, 1, a.ID[:])
	b = appendString(b, 2, a.Name)
	b = appendString(b, 3, a.Canonical)
	b = appendFixed(b, 4, a.Key[:])
	b = appendFixed(b, 5, a.MasterKey[:])
	b = appendString(b, 6, a.WrappedKey)
	return append(b, a.Unknown...)
}

func (a *Account) field(d *decoder) {
	switch d.num {
	case 1:
		d.fixed(a.ID[:])
	case 2:
		a.Name = d.string()
	case 3:
		a.Canonical = d.string()
	case 4:
		d.fixed(a.Key[:])
	case 5:
		d.fixed(a.MasterKey[:])
	case 6:
		a.WrappedKey = d.string()
	default:
		d.keep(&a.Unknown)
	}
}

// AppendTo appends the stored form of k to dst.
func (k *AccessKey) AppendTo(dst []byte) []byte { return k.append(append(dst, RowVersion)) }

// Unmarshal sets k to what [AccessKey.AppendTo] encoded. It keeps no reference
// to b.
func (k *AccessKey) Unmarshal(b []byte) error {
	*k = AccessKey{}
	return unmarshal(b, "access key", k.field)
}

func (k *AccessKey) append(b []byte) []byte {
	b = appendString(b, 1, k.ID)
	b = appendString(b, 2, k.SealedSecret)
	b = appendFixed(b, 3, k.Account[:])
	b = appendUint(b, 4, k.Order)
	b = appendString(b, 5, k.Description)
	b = appendBool(b, 6, k.Disabled)
	return append(b, k.Unknown...)
}

func (k *AccessKey) field(d *decoder) {
	switch d.num {
	case 1:
		k.ID = d.string()
	case 2:
		k.SealedSecret = d.string()
	case 3:
		d.fixed(k.Account[:])
	case 4:
		k.Order = d.uint64()
	case 5:
		k.Description = d.string()
	case 6:
		k.Disabled = d.bool()
	default:
		d.keep(&k.Unknown)
	}
}

// AppendTo appends the stored form of f to dst.
func (f *Fence) AppendTo(dst []byte) []byte { return f.append(append(dst, RowVersion)) }

// Unmarshal sets f to what [Fence.AppendTo] encoded.
func (f *Fence) Unmarshal(b []byte) error {
	*f = Fence{}
	return unmarshal(b, "fence", f.field)
}

func (f *Fence) append(b []byte) []byte {
	b = appendUint(b, 1, f.Floor)
	for _, e := range f.Living {
		b = appendUint(b, 2, e)
	}
	return appendUint(b, 3, f.Highest)
}

func (f *Fence) field(d *decoder) {
	switch d.num {
	case 1:
		f.Floor = d.uint64()
	case 2:
		e := d.uint64()
		if e == 0 {
			d.fail("epoch 0")
		}
		if d.room(len(f.Living), maxLiving) {
			f.Living = append(f.Living, e)
		}
	case 3:
		f.Highest = d.uint64()
	default:
		d.closed()
	}
}

// AppendTo appends the stored form of i to dst.
func (i *Incarnation) AppendTo(dst []byte) []byte { return i.append(append(dst, RowVersion)) }

// Unmarshal sets i to what [Incarnation.AppendTo] encoded.
func (i *Incarnation) Unmarshal(b []byte) error {
	*i = Incarnation{}
	return unmarshal(b, "incarnation", i.field)
}

func (i *Incarnation) append(b []byte) []byte {
	b = appendUint(b, 1, i.Number)
	b = appendBool(b, 2, i.Collection)
	b = appendEach(b, 3, i.Void)
	for _, e := range i.Epochs {
		b = appendUint(b, 4, e)
	}
	return b
}

func (i *Incarnation) field(d *decoder) {
	switch d.num {
	case 1:
		i.Number = d.uint64()
	case 2:
		i.Collection = d.bool()
	case 3:
		if d.room(len(i.Void), maxVoid) {
			i.Void = append(i.Void, VoidOrders{})
			d.message(i.Void[len(i.Void)-1].field)
		}
	case 4:
		e := d.uint64()
		if e == 0 {
			d.fail("epoch 0")
		}
		if d.room(len(i.Epochs), maxVoid) {
			i.Epochs = append(i.Epochs, e)
		}
	default:
		d.closed()
	}
}

func (v *VoidOrders) append(b []byte) []byte {
	b = appendUint(b, 1, uint64(v.Group))
	b = appendUint(b, 2, v.After)
	return appendUint(b, 3, v.Before)
}

func (v *VoidOrders) field(d *decoder) {
	switch d.num {
	case 1:
		v.Group = d.uint32()
	case 2:
		v.After = d.uint64()
	case 3:
		v.Before = d.uint64()
	default:
		d.closed()
	}
}

// AppendTo appends the stored form of t to dst.
func (t *PGTable) AppendTo(dst []byte) []byte { return t.append(append(dst, RowVersion)) }

// Unmarshal sets t to what [PGTable.AppendTo] encoded. It keeps no reference
// to b.
func (t *PGTable) Unmarshal(b []byte) error {
	*t = PGTable{}
	return unmarshal(b, "placement groups", t.field)
}

func (t *PGTable) append(b []byte) []byte {
	b = appendUint(b, 1, t.Version)
	b = appendEach(b, 2, t.Groups)
	return append(b, t.Unknown...)
}

func (t *PGTable) field(d *decoder) {
	switch d.num {
	case 1:
		t.Version = d.uint64()
	case 2:
		if d.room(len(t.Groups), maxGroups) {
			t.Groups = append(t.Groups, PG{})
			d.message(t.Groups[len(t.Groups)-1].field)
		}
	default:
		d.keepText(&t.Unknown)
	}
}

func (p *PG) append(b []byte) []byte {
	b = appendUint(b, 1, uint64(p.ID))
	b = p.Scheme.appendAs(b, 2)
	for i := range p.Generations {
		g := &p.Generations[i]
		var m int
		b, m = begin(b, 3)
		b = appendUint(b, 1, uint64(g.Number))
		for j := range g.Members {
			b = appendBytes(b, 2, g.Members[j][:])
		}
		b = end(appendBool(b, 3, g.Moving), m)
	}
	return append(b, p.Unknown...)
}

func (p *PG) field(d *decoder) {
	switch d.num {
	case 1:
		p.ID = d.uint32()
	case 2:
		p.Scheme.decode(d)
	case 3:
		if d.room(len(p.Generations), maxGenerations) {
			p.Generations = append(p.Generations, Generation{})
			d.message(p.Generations[len(p.Generations)-1].field)
		}
	default:
		d.keepText(&p.Unknown)
	}
}

func (g *Generation) field(d *decoder) {
	switch d.num {
	case 1:
		g.Number = d.uint32()
	case 2:
		if d.room(len(g.Members), maxMembers) {
			var id topology.DriveID
			d.fixed(id[:])
			g.Members = append(g.Members, id)
		}
	case 3:
		g.Moving = d.bool()
	default:
		d.closed()
	}
}

// AppendTo appends the stored form of t to dst.
func (t *DriveTable) AppendTo(dst []byte) []byte { return t.append(append(dst, RowVersion)) }

// Unmarshal sets t to what [DriveTable.AppendTo] encoded. It keeps no
// reference to b.
func (t *DriveTable) Unmarshal(b []byte) error {
	*t = DriveTable{}
	return unmarshal(b, "drives", t.field)
}

func (t *DriveTable) append(b []byte) []byte {
	b = appendUint(b, 1, t.Version)
	for i := range t.Drives {
		r := &t.Drives[i]
		var m int
		b, m = begin(b, 2)
		b = appendFixed(b, 1, r.ID[:])
		b = appendFixed(b, 2, r.Node[:])
		b = appendString(b, 3, string(r.Site))
		b = appendString(b, 4, r.Device)
		b = appendUint(b, 5, uint64(r.CapacityBytes))
		b = appendUint(b, 6, uint64(r.State))
		b = end(append(b, r.Unknown...), m)
	}
	return append(b, t.Unknown...)
}

func (t *DriveTable) field(d *decoder) {
	switch d.num {
	case 1:
		t.Version = d.uint64()
	case 2:
		if d.room(len(t.Drives), maxDrives) {
			t.Drives = append(t.Drives, topology.Drive{})
			r := &t.Drives[len(t.Drives)-1]
			d.message(func(d *decoder) { driveField(r, d) })
		}
	default:
		d.keepText(&t.Unknown)
	}
}

func driveField(r *topology.Drive, d *decoder) {
	switch d.num {
	case 1:
		d.fixed(r.ID[:])
	case 2:
		d.fixed(r.Node[:])
	case 3:
		r.Site = topology.SiteID(d.string())
	case 4:
		r.Device = d.string()
	case 5:
		r.CapacityBytes = d.int64()
	case 6:
		r.State = topology.DriveState(d.uint8())
	default:
		d.keepText(&r.Unknown)
	}
}
