package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// scanMode says what a scan of a group does.
type scanMode uint8

const (
	scanUrgent scanMode = iota // count what is missing; repair what bears no further loss
	scanAll                    // repair everything missing
	scanProof                  // ask for every shard's footer; repair what is missing
)

// scanResult is what a scan of a group found, by member.
type scanResult struct {
	chunks  int64     // that the metadata refer to
	missing [32]int64 // lacked by a new member when the scan came by
	failed  [32]int64 // of these, not repaired
	proof   bool      // of a scanProof: every chunk that can be read was listed
}

// listing walks the rows of a group in the index of one drive.
type listing struct {
	g     *background
	drive topology.DriveID
	pg    uint32
	after metadata.ShardRef
	page  []metadata.StoredShard
	end   bool
}

// beforePG is the last possible row before those of a group.
func beforePG(pg uint32) metadata.ShardRef {
	if pg == 0 {
		return metadata.ShardRef{}
	}
	last := metadata.ShardRef{PG: pg - 1}
	copy(last.Shard.Chunk[:], bytes.Repeat([]byte{0xff}, len(last.Shard.Chunk)))
	last.Shard.Index = 0xff
	return last
}

// head returns the next row, nil at the end.
func (l *listing) head(ctx context.Context) (*metadata.StoredShard, error) {
	if len(l.page) == 0 && !l.end {
		var page []metadata.StoredShard
		_, err := l.g.guard.do(ctx, l.drive, longCall, func(ctx context.Context) (err error) {
			page, err = l.g.e.shards.List(ctx, l.drive, l.after, false, rebuildPage)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list of drive %s: %w", l.drive, err)
		}
		l.page, l.end = page, len(page) < rebuildPage
		if len(page) > 0 {
			l.after = page[len(page)-1].Ref()
		}
	}
	if len(l.page) == 0 || l.page[0].PG != l.pg {
		l.page, l.end = nil, true
		return nil, nil
	}
	return &l.page[0], nil
}

// listed is a chunk that drives of a group list.
type listed struct {
	record metadata.Record // of any of its shards
	held   uint32          // shards listed by a drive that is a home of theirs
	home   uint32          // shards listed by the newest generation's member
}

// union yields the chunks that the drives of a group list, in order, and
// returns those of its drives that did not list all: that cannot be read or
// failed meanwhile. Those named in must have to answer.
func (g *background) union(ctx context.Context, pg *metadata.PG, must []topology.DriveID, yield func(listed) error) (silent []topology.DriveID, err error) {
	u := &unionOfLists{pg: pg, must: must}
	for _, drive := range drivesOf(pg) {
		if !g.e.options.Drives.Condition(drive).Readable {
			u.silent = append(u.silent, drive)
			continue
		}
		u.lists = append(u.lists, &listing{g: g, drive: drive, pg: pg.ID, after: beforePG(pg.ID)})
	}
	for {
		found, err := u.next(ctx)
		if err != nil || found == nil {
			return u.silent, err
		}
		if err := yield(*found); err != nil {
			return u.silent, err
		}
	}
}

// unionOfLists merges the listings of a group's drives.
type unionOfLists struct {
	pg     *metadata.PG
	must   []topology.DriveID // whose failure ends all
	lists  []*listing
	silent []topology.DriveID
}

// next returns the next chunk, nil after the last.
func (u *unionOfLists) next(ctx context.Context) (*listed, error) {
	var least *metadata.StoredShard
	for at := 0; at < len(u.lists); at++ {
		head, err := u.lists[at].head(ctx)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil && slices.Contains(u.must, u.lists[at].drive):
			return nil, err
		case err != nil:
			u.silent = append(u.silent, u.lists[at].drive)
			u.lists = slices.Delete(u.lists, at, at+1)
			at--
		case head != nil && (least == nil || bytes.Compare(head.Shard.Chunk[:], least.Shard.Chunk[:]) < 0):
			least = head
		}
	}
	if least == nil {
		return nil, nil
	}
	found := &listed{record: least.Record}
	for _, l := range u.lists {
		l.collect(u.pg, found)
	}
	return found, nil
}

// movedTo returns the drives of the members in targets.
func movedTo(pg *metadata.PG, targets uint32) (drives []topology.DriveID) {
	for i, member := range pg.Newest().Members {
		if targets&(1<<i) != 0 {
			drives = append(drives, member)
		}
	}
	return drives
}

// collect takes the rows of a chunk off the page. Rows of one chunk are at most
// as many as a drive has shards of it, in most cases one; if the page ends
// within them, the rest is yielded as if it were another chunk, which costs a
// needless check.
func (l *listing) collect(pg *metadata.PG, found *listed) {
	for len(l.page) > 0 && l.page[0].PG == pg.ID && l.page[0].Shard.Chunk == found.record.Shard.Chunk {
		i := int(l.page[0].Shard.Index)
		if i < len(pg.Newest().Members) {
			var room [4]topology.DriveID
			for at, drive := range homes(room[:0], pg, i) {
				if drive != l.drive {
					continue
				}
				found.held |= 1 << i
				if at == 0 {
					found.home |= 1 << i
				}
			}
		}
		l.page = l.page[1:]
	}
}

// scan goes through all chunks of a group.
func (r *rebuilder) scan(ctx context.Context, pg *metadata.PG, mode scanMode) (*scanResult, error) {
	found := &scanResult{}
	targets := moved(pg)
	batch := make([]listed, 0, rebuildBatch)
	flush := func() error {
		err := r.scanBatch(ctx, pg, targets, mode, batch, found)
		batch = batch[:0]
		return err
	}
	silent, err := r.g.union(ctx, pg, movedTo(pg, targets), func(c listed) error {
		if batch = append(batch, c); len(batch) < cap(batch) {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return found, err
	}
	r.counted(pg, mode, found)
	if mode == scanProof {
		found.proof, err = r.listedAll(ctx, pg, silent)
	}
	return found, err
}

// listedAll reports whether a union of lists, to which some drives were silent,
// names every chunk of a group. A chunk of which k shards are left is missed
// only if k drives are silent. But then too it was written to all members, so
// that any that is not new lists it, unless the short index says otherwise.
// Only a drive that listed to its end vouches: that it can be read by what is
// known of it says nothing.
func (r *rebuilder) listedAll(ctx context.Context, pg *metadata.PG, silent []topology.DriveID) (bool, error) {
	if len(silent) < int(pg.Scheme.Data) {
		return true, nil
	}
	targets := moved(pg)
	vouches := false
	for i, drive := range pg.Newest().Members {
		vouches = vouches || targets&(1<<i) == 0 && !slices.Contains(silent, drive)
	}
	if !vouches {
		return false, nil
	}
	for group := range dataGroups {
		for after := (*metadata.Short)(nil); ; {
			rows, err := r.g.e.meta.Short(ctx, group, after, shortPage)
			if err != nil {
				return false, fmt.Errorf("object: short index of group %d: %w", group, err)
			}
			for i := range rows {
				ref := metadata.BucketRef{Group: group, ID: rows[i].Bucket}
				chunks, err := r.g.e.meta.Chunks(ctx, ref, rows[i].Part, rows[i].ChunkNo, 1)
				if err != nil || len(chunks) > 0 && chunks[0].PG == pg.ID {
					return false, err
				}
			}
			if len(rows) < shortPage {
				break
			}
			after = &rows[len(rows)-1]
		}
	}
	return true, nil
}

// counted takes over what a scan has counted.
func (r *rebuilder) counted(pg *metadata.PG, mode scanMode, found *scanResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	group := r.groups[pg.ID]
	if group == nil {
		return
	}
	for i := range group.drives {
		p := &group.drives[i]
		p.counted = true
		if mode != scanUrgent {
			p.failed = found.failed[i]
		}
	}
}

// scanBatch looks some chunks up and repairs those that lack shards.
func (r *rebuilder) scanBatch(ctx context.Context, pg *metadata.PG, targets uint32, mode scanMode, batch []listed, found *scanResult) error {
	records := make([]*metadata.Record, len(batch))
	for i := range batch {
		records[i] = &batch[i].record
	}
	verdicts, err := r.g.lookup(ctx, records, false)
	if err != nil {
		return err
	}
	for i := range batch {
		v := &verdicts[i]
		if !v.found.Referenced {
			continue // garbage is the collector's business
		}
		found.chunks++
		chunk := &v.found.Chunk
		lacking := targets &^ batch[i].home
		if mode == scanProof {
			lacking |= r.unproved(ctx, pg, chunk, targets&batch[i].home)
		}
		if lacking == 0 {
			continue
		}
		margin := ones(batch[i].held) - int(chunk.Scheme.Data)
		made := uint32(0)
		if mode != scanUrgent || margin <= 0 {
			made, err = r.mend(ctx, v, chunk, pg, lacking, batch[i].held, margin)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				r.failed(fmt.Errorf("placement group %d, chunk %s: %w", pg.ID, chunk.ID, err))
			}
		}
		r.count(pg, chunk, mode, lacking, made, found)
	}
	return nil
}

// count counts the shards of a chunk that were lacking and those made.
func (r *rebuilder) count(pg *metadata.PG, chunk *metadata.Chunk, mode scanMode, lacking, made uint32, found *scanResult) {
	shardBytes := layout(chunk.Scheme, chunk.Bytes).FramedLength()
	r.mu.Lock()
	defer r.mu.Unlock()
	group := r.groups[pg.ID]
	for i := range pg.Newest().Members {
		bit := uint32(1) << i
		if lacking&bit == 0 {
			continue
		}
		found.missing[i]++
		if made&bit == 0 {
			found.failed[i]++
		}
		if group == nil {
			continue
		}
		p := &group.drives[i]
		if !p.counted || mode == scanProof {
			p.missing++
			p.bytes += shardBytes
		}
		if made&bit != 0 {
			p.done++
			p.doneBytes += shardBytes
		}
	}
}

// unproved returns the shards that new members list but that do not answer
// with a footer that fits.
func (r *rebuilder) unproved(ctx context.Context, pg *metadata.PG, chunk *metadata.Chunk, listed uint32) (bad uint32) {
	for i, drive := range pg.Newest().Members {
		if listed&(1<<i) != 0 && r.g.repair.check(ctx, chunk, drive, i, false) != nil {
			bad |= 1 << i
		}
	}
	return bad
}

// mend makes the lacking shards of a chunk.
func (r *rebuilder) mend(ctx context.Context, v *verdict, chunk *metadata.Chunk, pg *metadata.PG, lacking, held uint32, margin int) (made uint32, err error) {
	if !r.g.chunks.try(chunk.ID) {
		return 0, errors.New("is being repaired or freed")
	}
	defer r.g.chunks.release(chunk.ID)
	again, err := r.g.e.meta.Lookup(ctx, v.group, []metadata.LookupRef{refOf(v.record)})
	if err != nil {
		return 0, err
	}
	if !again.Found[0].Referenced {
		return lacking, nil // freed since
	}
	epoch, release, err := r.g.lease()
	if err != nil {
		return 0, err
	}
	defer release()
	bucket := metadata.Bucket{ID: v.record.Bucket, Owner: v.record.Account, Group: v.group}
	m, err := r.g.newMend(bucket, v.record.Part, *chunk, pg, epoch)
	if err != nil {
		return 0, err
	}
	m.urgent = margin <= 0
	m.sources &= held
	made, err = m.run(ctx, lacking)
	r.g.confirm(ctx, chunk, pg, made)
	if lost := m.lost &^ made; lost != 0 {
		r.g.e.queueRepair(Damage{Bucket: metadata.BucketRef{Group: v.group, ID: v.record.Bucket}, Part: v.record.Part, Chunk: *chunk, Missing: lost})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.speed.add(m.moved)
	return made, err
}
