package keeper

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// stones copies tombstones, in a pass, to drives that were filled: the state,
// from which they were, has none. A drive has all of them if those were read
// that lie on one other drive that has all, or, if there is none, on all drives
// that can be read.
type stones struct {
	s    *scan
	to   [groupCount][]*metadata.ManifestMember // that lack tombstones
	have map[keyHash]struct{}                   // tombstones that were copied
	open map[metadata.BucketID]*copied
	// bytes of what is in open.
	bytes int

	wanting map[topology.DriveID]bool // drives that did not get all
	source  [groupCount]bool          // a drive that has all tombstones was read
	blurred [groupCount]bool          // a drive that could be read was not read to its end
}

// copied is a record of tombstones of a bucket that is being put together.
type copied struct {
	bucket  *bucket
	group   uint32
	builder manifest.Builder
}

// stonesMax is how many tombstones are remembered, so that they are not copied
// from several drives: what is copied twice costs space until the next pass.
const stonesMax = 256 << 10

func newStones(s *scan) *stones {
	c := &stones{s: s, have: make(map[keyHash]struct{}), open: make(map[metadata.BucketID]*copied), wanting: make(map[topology.DriveID]bool)}
	for id := uint32(1); id < groupCount; id++ {
		members := s.groups[id].row.Members
		for i := range members {
			if bare(&members[i]) {
				c.to[id] = append(c.to[id], &members[i])
			}
		}
	}
	return c
}

// bare reports whether a drive has all versions and not all tombstones.
func bare(m *metadata.ManifestMember) bool { return m.State == metadata.MemberFull && !m.Tombs }

// any reports whether any drive lacks tombstones.
func (c *stones) any() bool {
	for id := range c.to {
		if len(c.to[id]) > 0 {
			return true
		}
	}
	return false
}

// take copies the tombstones among the entries of a record that count.
func (c *stones) take(ctx context.Context, b *bucket, group uint32, entries []manifest.Entry, live []bool) error {
	if len(c.to[group]) == 0 {
		return nil
	}
	for i := range entries {
		if e := &entries[i]; live[i] && e.Kind == manifest.KindTombstone {
			if err := c.add(ctx, b, group, e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *stones) add(ctx context.Context, b *bucket, group uint32, e *manifest.Entry) error {
	name := binary.BigEndian.AppendUint64(append(append(make([]byte, 0, 24+len(e.Key)), b.ID[:]...), e.Key...), e.Order)
	sum := sha256.Sum256(name)
	if _, known := c.have[keyHash(sum[:])]; known {
		return nil
	}
	if len(c.have) < stonesMax {
		c.have[keyHash(sum[:])] = struct{}{}
	}
	r := c.open[b.ID]
	if r == nil {
		r = &copied{bucket: b, group: group}
		c.open[b.ID] = r
	}
	before := r.builder.Bytes()
	if !r.builder.Add(e) {
		if err := c.write(ctx, r); err != nil {
			return err
		}
		r.builder.Add(e)
	}
	if c.bytes += r.builder.Bytes() - before; c.bytes < rewriteBytes {
		return nil
	}
	return c.flush(ctx)
}

// flush writes all that was put together.
func (c *stones) flush(ctx context.Context) error {
	for id, r := range c.open {
		if err := c.write(ctx, r); err != nil {
			return err
		}
		delete(c.open, id)
	}
	c.bytes = 0
	return nil
}

// write writes a record to all drives of its group that lack tombstones. One
// that fails is left for the next pass.
func (c *stones) write(ctx context.Context, r *copied) error {
	if r.builder.Entries() == 0 {
		return nil
	}
	k := c.s.k
	id, payload, err := r.builder.Seal(k.o.Rand, &r.bucket.Bucket)
	if err != nil {
		return err
	}
	r.builder.Reset()
	epoch, release, err := k.o.Epoch()
	if err != nil {
		return err
	}
	defer release()
	for _, m := range c.to[r.group] {
		if c.wanting[m.Drive] {
			continue
		}
		rec := metadata.Record{Type: metadata.RecordManifest, Shard: metadata.ShardID{Chunk: id}, PG: r.group,
			Generation: uint32(c.s.groups[r.group].row.Version), Bucket: r.bucket.ID, Account: r.bucket.row.Owner, Epoch: epoch}
		if err := k.put(ctx, m.Drive, &rec, metadata.PayloadOf(payload)); err != nil {
			k.failed(ctx, "tombstones not copied", err, "group", r.group, "drive", m.Drive.String())
			c.wanting[m.Drive] = true
		}
	}
	return k.o.Limit(ctx, int64(len(payload)*len(c.to[r.group])))
}

// read notes that a drive was read to its end, or why it was not. unopened are
// the groups of which something on it does not open.
func (c *stones) read(drive topology.DriveID, err error, unopened *[groupCount]bool) {
	for id := uint32(1); id < groupCount; id++ {
		m := memberOf(c.s.groups[id].row, drive)
		switch {
		case m == nil || errors.Is(err, metadata.ErrDriveAbsent):
		case err != nil:
			c.blurred[id] = true
		case m.State == metadata.MemberFull && m.Tombs && !unopened[id]:
			c.source[id] = true
		}
	}
}

// finish writes what is left, and notes which drives have all tombstones now.
func (c *stones) finish(ctx context.Context) error {
	if err := c.flush(ctx); err != nil {
		return err
	}
	for id := uint32(1); id < groupCount; id++ {
		if !c.source[id] && c.blurred[id] {
			continue
		}
		for _, m := range c.to[id] {
			if c.wanting[m.Drive] {
				continue
			}
			err := c.s.k.groups[id].change(ctx, m, func(row *metadata.ManifestMembers, _ int) { c.complete(id, row) })
			if err == nil {
				break
			}
			if !errors.Is(err, errMembersChanged) {
				return err
			}
		}
	}
	return nil
}

// complete says of all drives of a row that got all tombstones that they did,
// unless they began anew.
func (c *stones) complete(group uint32, row *metadata.ManifestMembers) {
	for _, m := range c.to[group] {
		n := memberOf(row, m.Drive)
		if n != nil && n.Since == m.Since && bare(n) && !c.wanting[m.Drive] {
			n.Tombs = true
			c.s.k.bare.Add(-1) // until they are counted again
		}
	}
}
