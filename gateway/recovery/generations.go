package recovery

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// admit puts drives that are there and that the tables do not know into them:
// they were taken in right before the metadata were lost.
func (c *Collection) admit() {
	t := &c.root.Drives
	for i := range c.o.Drives {
		d := &c.o.Drives[i]
		if slices.ContainsFunc(t.Drives, func(row topology.Drive) bool { return row.ID == d.Row.ID }) {
			continue
		}
		c.o.Log.Warn("a drive of the cluster is later than the tables", "path", d.Path, "drive", d.Row.ID.String())
		t.Drives = append(t.Drives, d.Row)
		c.admitted = true
	}
	if c.admitted {
		t.Version++
		slices.SortFunc(t.Drives, func(a, b topology.Drive) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	}
}

// born notes the generations that the chunks of a restored version are of.
func (c *Collection) born(m *manifest.Manifest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	note := func(chunks []metadata.Chunk) {
		for i := range chunks {
			c.births[chunks[i].PG] = max(c.births[chunks[i].PG], chunks[i].Generation)
		}
	}
	note(m.Chunks)
	for i := range m.Parts {
		note(m.Parts[i].Chunks)
	}
}

// raise gives placement groups the generations that restored chunks were born
// in, if the tables are older than these. Who is a member then is read off the
// shards; a place of which they do not tell keeps its member. The generation is
// moving: readers look at the members before, too, until a scan has proved the
// new ones.
func (c *Collection) raise(ctx context.Context, to Engine) error {
	later := make(map[uint32]uint32)
	for id, generation := range c.births {
		if int(id) < len(c.root.PGs.Groups) && generation > c.root.PGs.Groups[id].Newest().Number {
			later[id] = generation
		}
	}
	if len(later) == 0 {
		return nil
	}
	found, err := c.holders(ctx, func(pg uint32) bool { return later[pg] > 0 })
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil { // places that are not found keep their members
		c.o.Log.Error("not all shards are known", "err", err)
	}
	t := c.root.PGs
	t.Version++
	t.Groups = slices.Clone(t.Groups)
	for id, generation := range later {
		pg := &t.Groups[id]
		c.o.Log.Warn("placement of a group is later than the tables", "group", id, "generation", generation, "known", pg.Newest().Number)
		pg.Generations = append(slices.Clone(pg.Generations), found.next(pg, generation))
	}
	c.root.PGs = t
	for group := range uint32(metadata.DataGroups + 1) {
		if err := commit(ctx, to, &metadata.Command{Kind: metadata.KindPushPGs, Group: group, PGs: &t}); err != nil {
			return fmt.Errorf("placement groups of group %d: %w", group, err)
		}
	}
	return nil
}

// next returns a later generation of a group: where a shard of a generation
// after its newest lies elsewhere, its drive is the member.
func (h holders) next(pg *metadata.PG, generation uint32) metadata.Generation {
	newest := pg.Newest()
	next := metadata.Generation{Number: generation, Members: slices.Clone(newest.Members), Moving: true}
	for i := range next.Members {
		held := h[place{pg.ID, uint8(i)}]
		latest := newest.Number
		for _, id := range byID(held) {
			if held[id] > latest && !slices.Contains(next.Members, id) {
				latest, next.Members[i] = held[id], id
			}
		}
	}
	return next
}

func byID(held map[topology.DriveID]uint32) []topology.DriveID {
	ids := make([]topology.DriveID, 0, len(held))
	for id := range held {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b topology.DriveID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}
