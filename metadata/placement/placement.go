// Package placement decides which drives keep the shards of a chunk.
//
// Drives are joined into placement groups: ordered tuples of k+m drives, of
// which member i keeps shard i. A chunk names its group and never moves by
// itself; when a drive is replaced, its groups get a new generation. The
// number of groups bounds the number of sets of drives that fail together: a
// loss of m+1 drives hurts only if all of them are in one group.
//
// The package is pure: the same arguments give the same answer, and no
// argument is changed.
package placement

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Failures that callers branch on.
var (
	// ErrTooFewDrives means that the scheme needs more drives than there are.
	ErrTooFewDrives = errors.New("too few drives for the scheme")
	// ErrNoPlacement means that there is no placement group to write to.
	ErrNoPlacement = errors.New("no placement group")
	// ErrMember means that a drive is a member of the group already. Two
	// shards of a chunk never lie on one drive.
	ErrMember = errors.New("drive is a member already")
	// ErrNoSuchGroup means that the table has no such group or generation.
	ErrNoSuchGroup = errors.New("no such placement group")
	// ErrMoving means that an earlier generation has not moved everything.
	ErrMoving = errors.New("an earlier generation is still moving")
)

// Bounds of the number of groups.
const (
	minGroups = 64
	maxGroups = 1 << 16
	// slotsPerDrive is how many groups a drive is in, about, if it is like
	// the others. The chunks of a lost drive are then spread over up to
	// slotsPerDrive*(k+m-1) others.
	slotsPerDrive = 16
)

// DefaultCount is the number of groups for so many drives: the power of two
// that puts a drive into at least 16 groups, and at least 64, so that small
// machines spread the roles of data and parity evenly too.
func DefaultCount(drives int, scheme metadata.Scheme) int {
	n := minGroups
	for n < maxGroups && n*scheme.Total() < drives*slotsPerDrive {
		n *= 2
	}
	return n
}

// Build returns the first table of placement groups, with version 1. Count 0
// means [DefaultCount]. Only active drives are used; their order does not
// matter. The share of a drive in the groups is as its capacity, as far as one
// drive a group allows; drives of no known capacity count like the smallest.
// Within a group drives lie on distinct devices as far as there are devices.
func Build(drives []topology.Drive, scheme metadata.Scheme, count int, seed uint64) (*metadata.PGTable, error) {
	if err := scheme.Validate(); err != nil {
		return nil, err
	}
	b, err := newBuilder(drives, scheme, seed)
	if err != nil {
		return nil, err
	}
	if count == 0 {
		count = DefaultCount(len(b.slots), scheme)
	}
	if count < 1 || count > maxGroups {
		return nil, fmt.Errorf("placement: %d groups, want 1 to %d", count, maxGroups)
	}
	t := &metadata.PGTable{Version: 1, Groups: make([]metadata.PG, count)}
	for i := range t.Groups {
		t.Groups[i] = metadata.PG{
			ID:          uint32(i),
			Scheme:      scheme,
			Generations: []metadata.Generation{{Number: 1, Members: b.group()}},
		}
	}
	return t, nil
}

// slot is a drive while groups are built.
type slot struct {
	drive  topology.Drive
	device device
	weight float64
	used   int // groups it is in
	data   int // groups it keeps a data shard of
	tie    uint64
}

// device names a physical device. Drives of no known device have one of their
// own.
type device struct {
	node topology.NodeID
	name string
	own  topology.DriveID
}

type builder struct {
	scheme    metadata.Scheme
	slots     []*slot
	perDevice int // how many members of a group one device may keep
	random    random
}

func newBuilder(drives []topology.Drive, scheme metadata.Scheme, seed uint64) (*builder, error) {
	b := &builder{scheme: scheme, random: random(seed)}
	smallest := int64(0)
	for _, d := range drives {
		if d.State != topology.DriveActive {
			continue
		}
		dev := device{node: d.Node, name: d.Device}
		if d.Device == "" {
			dev = device{own: d.ID}
		}
		if d.CapacityBytes > 0 && (smallest == 0 || d.CapacityBytes < smallest) {
			smallest = d.CapacityBytes
		}
		b.slots = append(b.slots, &slot{drive: d, device: dev})
	}
	slices.SortFunc(b.slots, func(x, y *slot) int { return slices.Compare(x.drive.ID[:], y.drive.ID[:]) })
	for i, s := range b.slots {
		if i > 0 && b.slots[i-1].drive.ID == s.drive.ID {
			return nil, fmt.Errorf("placement: drive %s is named twice", s.drive.ID)
		}
		s.weight = float64(max(s.drive.CapacityBytes, smallest, 1))
		if s.drive.CapacityBytes > 0 {
			s.weight = float64(s.drive.CapacityBytes)
		}
	}
	if len(b.slots) < scheme.Total() {
		return nil, fmt.Errorf("placement: %w: %s needs %d, there are %d",
			ErrTooFewDrives, scheme, scheme.Total(), len(b.slots))
	}
	b.perDevice = b.devices()
	return b, nil
}

// devices returns how many members of a group have to share a device at least.
func (b *builder) devices() int {
	count := make(map[device]int)
	for _, s := range b.slots {
		count[s.device]++
	}
	for limit := 1; ; limit++ {
		room := 0
		for _, n := range count {
			room += min(n, limit)
		}
		if room >= b.scheme.Total() {
			return limit
		}
	}
}

// group chooses the members of one more group: those that are least used for
// their weight, on as many devices as possible. Those that keep the least data
// shards get the data shards of this one.
func (b *builder) group() []topology.DriveID {
	for _, s := range b.slots {
		s.tie = b.random.next()
	}
	order := slices.Clone(b.slots)
	slices.SortFunc(order, func(x, y *slot) int {
		return cmp.Or(cmp.Compare(float64(x.used+1)/x.weight, float64(y.used+1)/y.weight), cmp.Compare(x.tie, y.tie))
	})
	members := make([]*slot, 0, b.scheme.Total())
	on := make(map[device]int)
	for _, s := range order {
		if len(members) < b.scheme.Total() && on[s.device] < b.perDevice {
			on[s.device]++
			s.used++
			members = append(members, s)
		}
	}
	slices.SortFunc(members, func(x, y *slot) int {
		return cmp.Or(cmp.Compare(float64(x.data)/float64(x.used), float64(y.data)/float64(y.used)), cmp.Compare(x.tie, y.tie))
	})
	k := int(b.scheme.Data)
	for _, s := range members[:k] {
		s.data++
	}
	b.random.shuffle(members[:k])
	b.random.shuffle(members[k:])
	ids := make([]topology.DriveID, len(members))
	for i, s := range members {
		ids[i] = s.drive.ID
	}
	return ids
}

// random is splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
// generators, 2014). It is written out so that a table can be made again.
type random uint64

func (r *random) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (r *random) shuffle(s []*slot) {
	for i := len(s) - 1; i > 0; i-- {
		j := int(r.next() % uint64(i+1))
		s[i], s[j] = s[j], s[i]
	}
}
