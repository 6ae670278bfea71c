package recovery

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/placement"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// listPage is how many rows of an index are read at a time.
const listPage = 1000

// readTables makes root tables from what the shards on the drives tell: which
// drive holds which shards of a placement group. It is for clusters that never
// wrote root tables, or lost every drive that had them.
func (c *Collection) readTables(ctx context.Context) (*manifest.Root, error) {
	found, err := c.holders(ctx, func(uint32) bool { return true })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoGroups, err)
	}
	root := &manifest.Root{Incarnation: metadata.Incarnation{Number: newIncarnation(c.o.Now())}}
	root.Drives.Version = 1
	for i := range c.o.Drives {
		root.Drives.Drives = append(root.Drives.Drives, c.o.Drives[i].Row)
	}
	var lost []topology.DriveID
	for _, id := range c.o.Known {
		if !c.present(id) {
			first := c.o.Drives[0].Row
			lost = append(lost, id)
			root.Drives.Drives = append(root.Drives.Drives, topology.Drive{ID: id, Node: first.Node, Site: first.Site, State: topology.DriveActive})
		}
	}
	slices.SortFunc(root.Drives.Drives, func(a, b topology.Drive) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	slices.SortFunc(lost, func(a, b topology.DriveID) int { return bytes.Compare(a[:], b[:]) })
	if c.o.Scheme == (metadata.Scheme{}) {
		return nil, fmt.Errorf("%w: there is no shard; name the scheme", ErrNoGroups)
	}
	pgs, err := found.table(root.Drives.Drives, lost, c.o.Scheme, binary.LittleEndian.Uint64(c.o.Cluster[:8]))
	if err != nil {
		return nil, err
	}
	root.PGs = *pgs
	return root, nil
}

// holders reads off the indexes of the drives which of them hold shards of
// placement groups that of says, and sets the scheme if it is not known.
func (c *Collection) holders(ctx context.Context, of func(pg uint32) bool) (holders, error) {
	found := make(holders)
	for i := range c.o.Drives {
		d := &c.o.Drives[i]
		var after metadata.ShardRef
		for {
			page, err := d.Records.List(ctx, after, false, listPage)
			if err != nil {
				return found, fmt.Errorf("index of drive %s: %w", d.Path, err)
			}
			for j := range page {
				if of(page[j].PG) {
					found.add(d.Row.ID, &page[j].Record)
				}
				if page[j].Type == metadata.RecordShard && c.o.Scheme == (metadata.Scheme{}) {
					c.o.Scheme = page[j].Scheme
				}
			}
			if len(page) < listPage {
				break
			}
			after = page[len(page)-1].Ref()
		}
	}
	return found, nil
}

// place is a member of a placement group.
type place struct {
	pg    uint32
	index uint8
}

// holders says which drives hold shards of a place, and the latest generation
// that a shard there was written in.
type holders map[place]map[topology.DriveID]uint32

func (h holders) add(drive topology.DriveID, rec *metadata.Record) {
	if rec.Type != metadata.RecordShard {
		return
	}
	at := place{rec.PG, rec.Shard.Index}
	if h[at] == nil {
		h[at] = make(map[topology.DriveID]uint32)
	}
	h[at][drive] = max(h[at][drive], rec.Generation)
}

// table returns the placement groups that put every shard where it is. Members
// that no shard tells of are drives that are lost or, if there are not enough,
// others; and in groups without any shard those that a new cluster would
// choose. If a place was moved, the
// earlier drive is in a generation before that is still moving, so that readers
// look there too.
func (h holders) table(drives []topology.Drive, lost []topology.DriveID, scheme metadata.Scheme, seed uint64) (*metadata.PGTable, error) {
	count := 0
	for at := range h {
		count = max(count, int(at.pg)+1)
	}
	count = max(count, placement.DefaultCount(len(drives), scheme))
	t, err := placement.Build(drives, scheme, count, seed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoGroups, err)
	}
	t.Version = 1
	for i := range t.Groups {
		if err := h.group(&t.Groups[i], lost, drives); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// group sets the generations of one group.
func (h holders) group(pg *metadata.PG, lost []topology.DriveID, drives []topology.Drive) error {
	now := make([]topology.DriveID, pg.Scheme.Total())
	before := make([]topology.DriveID, len(now))
	latest, known, moved := uint32(1), 0, false
	for i := range now {
		held := h[place{pg.ID, uint8(i)}]
		if len(held) == 0 {
			continue
		}
		known++
		ids := make([]topology.DriveID, 0, len(held))
		for id, generation := range held {
			ids = append(ids, id)
			latest = max(latest, generation)
		}
		slices.SortFunc(ids, func(a, b topology.DriveID) int {
			return cmp.Or(cmp.Compare(held[b], held[a]), bytes.Compare(a[:], b[:]))
		})
		now[i], before[i] = ids[0], ids[0]
		if len(ids) > 1 {
			before[i], moved = ids[1], true
		}
	}
	if known == 0 {
		return nil // it holds nothing: any members will do
	}
	if err := fillLost(pg.ID, now, lost, drives); err != nil {
		return err
	}
	pg.Generations = []metadata.Generation{{Number: latest, Members: now}}
	if moved {
		for i := range before {
			if before[i].IsZero() {
				before[i] = now[i]
			}
		}
		pg.Generations = []metadata.Generation{{Number: latest, Members: before}, {Number: latest + 1, Members: now, Moving: true}}
	}
	return nil
}

// fillLost puts drives where no shard is, lost ones first. Which of them was
// where makes no difference: their shards are gone, and repair makes them anew
// in the same place.
func fillLost(pg uint32, members []topology.DriveID, lost []topology.DriveID, drives []topology.Drive) error {
	free := slices.Clone(lost)
	for i := range drives {
		if id := drives[i].ID; !slices.Contains(lost, id) && !slices.Contains(members, id) {
			free = append(free, id)
		}
	}
	for i := range members {
		if slices.Contains(members[:i], members[i]) && !members[i].IsZero() {
			return fmt.Errorf("%w: drive %s holds two places of group %d", ErrNoGroups, members[i], pg)
		}
		if !members[i].IsZero() {
			continue
		}
		if len(free) == 0 {
			return fmt.Errorf("%w: no drive for place %d of group %d", ErrNoGroups, i, pg)
		}
		members[i], free = free[0], free[1:]
	}
	return nil
}
