package simtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ruche-storage/ruche/erasure/shardhash"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// settle reads everything while nobody writes and holds it against the model,
// which knows afterwards what each name holds.
func (s *store) settle(ctx context.Context, k *known) error {
	for _, key := range k.all() {
		if err := s.settleKey(ctx, k, key); err != nil {
			return err
		}
	}
	if err := s.settleUploads(ctx, k); err != nil {
		return err
	}
	c := &client{s: s, k: k}
	return c.list(ctx)
}

func (s *store) settleKey(ctx context.Context, k *known, key string) error {
	since := k.Now()
	b, info, err := s.read(ctx, key)
	if errors.Is(err, metadata.ErrNoSuchKey) {
		return k.Settle(key, nil)
	}
	if err != nil {
		return fmt.Errorf("read %s, possible is %s: %w", key, Describe(k.Possible(key, since)...), err)
	}
	v, err := k.Match(key, since, b, info.ETag)
	if err != nil {
		return err
	}
	return k.Settle(key, v)
}

// settleUploads compares the uploads that are listed, and their parts.
func (s *store) settleUploads(ctx context.Context, k *known) error {
	page, err := s.Uploads(ctx, &object.UploadsRequest{Bucket: bucketName, Limit: 1000})
	if err != nil {
		return fmt.Errorf("list uploads: %w", err)
	}
	k.mu.Lock()
	uploads := slices.Clone(k.uploads)
	k.mu.Unlock()
	listed := make(map[metadata.UploadID]object.UploadInfo)
	for _, u := range page.Uploads {
		listed[u.ID] = u
	}
	for _, u := range uploads {
		_, open := listed[u.id]
		delete(listed, u.id)
		var v *Value
		if open {
			v = openUpload
		}
		if err := k.Settle(uploadName(u.key, u.id), v); err != nil {
			return fmt.Errorf("upload: %w", err)
		}
		if !open {
			k.forget(u)
		}
		for number := 1; number <= 2; number++ {
			if !open {
				w := k.Begin(partName(u.id, number), nil)
				w.Done(nil)
			}
		}
		if open {
			if err := s.settleParts(ctx, k, u); err != nil {
				return err
			}
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, u := range listed {
		if k.begun[u.Key] == 0 {
			return fmt.Errorf("upload %s of %s is listed and was never begun, or has ended", id, u.Key)
		}
		k.begun[u.Key]--
		k.uploads = append(k.uploads, &upload{key: u.Key, id: id})
		w := k.Begin(uploadName(u.Key, id), openUpload)
		w.Done(openUpload)
	}
	clear(k.begun) // what is not listed now never will be
	return nil
}

func (s *store) settleParts(ctx context.Context, k *known, u *upload) error {
	page, err := s.Parts(ctx, &object.PartsRequest{Bucket: bucketName, Key: u.key, Upload: u.id, Limit: 1000})
	if err != nil {
		return fmt.Errorf("list parts: %w", err)
	}
	for number := 1; number <= 2; number++ {
		name := partName(u.id, number)
		var v *Value
		if i := slices.IndexFunc(page.Parts, func(p object.PartInfo) bool { return p.Number == number }); i >= 0 {
			p := page.Parts[i]
			possible := k.Possible(name, k.Now())
			at := slices.IndexFunc(possible, func(v *Value) bool { return v != nil && v.ETag == p.ETag && int64(len(v.Bytes)) == p.Bytes })
			if at < 0 {
				return fmt.Errorf("part %d of an upload of %s has %d bytes and ETag %s, possible is %s", number, u.key, p.Bytes, p.ETag, Describe(possible...))
			}
			v = possible[at]
		}
		if err := k.Settle(name, v); err != nil {
			return err
		}
	}
	return nil
}

// chunkOf is where metadata say a shard is.
type chunkOf struct {
	row   metadata.ChunkRow
	group uint32
}

// audit compares what drives hold with what the metadata refer to.
type audit struct {
	chunks  int
	missing []string // shards that a chunk should have on an open drive and has not
	bad     []string // shards there that do not verify
	orphans []string // shards that nothing refers to
	live    int      // of them, with a row that says they are live
	trash   int      // rows that wait
	short   int      // rows of the short index
	moving  int      // generations that are not complete
}

func (a *audit) String() string {
	cut := func(l []string) string { return strings.Join(l[:min(len(l), 5)], "; ") }
	return fmt.Sprintf("%d chunks, %d trash rows, %d short, %d moving, %d missing (%s), %d bad (%s), %d orphans (%s), of which %d are marked as live",
		a.chunks, a.trash, a.short, a.moving, len(a.missing), cut(a.missing), len(a.bad), cut(a.bad), len(a.orphans), cut(a.orphans), a.live)
}

// audit looks at all drives that are open. With verify it reads every byte.
func (s *store) audit(ctx context.Context, verify bool) (*audit, error) {
	a := new(audit)
	refs := make(map[metadata.ChunkID]chunkOf)
	for group := uint32(1); group <= metadata.DataGroups; group++ {
		rows, err := s.meta.ChunkRows(ctx, group, nil, 1<<20)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			refs[r.Chunk.ID] = chunkOf{r, group}
		}
		trash, err := s.meta.Trash(ctx, group, 0, 1<<20)
		if err != nil {
			return nil, err
		}
		short, err := s.meta.Short(ctx, group, nil, 1<<20)
		if err != nil {
			return nil, err
		}
		a.trash, a.short = a.trash+len(trash), a.short+len(short)
	}
	a.chunks = len(refs)
	table, err := s.meta.PGs(ctx)
	if err != nil {
		return nil, err
	}
	for i := range table.Groups {
		a.moving += len(table.Groups[i].Generations) - 1
	}
	drives, err := s.meta.Drives(ctx)
	if err != nil {
		return nil, err
	}
	held := make(map[topology.DriveID]map[metadata.ShardID]bool)
	for _, d := range s.node.Drives() {
		if slices.ContainsFunc(drives.Drives, func(row topology.Drive) bool { return row.ID == d.ID() && row.State == topology.DriveRetired }) {
			continue // it is to be taken out, with whatever is on it
		}
		rows, err := d.List(ctx, metadata.ShardRef{}, false, 1<<20)
		if err != nil {
			return nil, err
		}
		waiting, err := d.List(ctx, metadata.ShardRef{}, true, 1<<20)
		if err != nil {
			return nil, err
		}
		pending := make(map[metadata.ShardID]bool)
		for i := range waiting {
			pending[waiting[i].Shard] = true
		}
		mine := make(map[metadata.ShardID]bool)
		for i := range rows {
			r := &rows[i]
			if r.Type != metadata.RecordShard {
				continue
			}
			mine[r.Shard] = true
			c, ok := refs[r.Shard.Chunk]
			if !ok || !slices.Contains(homesOf(table, &c.row, int(r.Shard.Index)), d.ID()) {
				a.orphans = append(a.orphans, fmt.Sprintf("shard %d of %s, epoch %d, on %s", r.Shard.Index, hexOf(r.Shard.Chunk[:]), r.Epoch, d.Path()))
				if !pending[r.Shard] {
					a.live++
				}
			}
		}
		held[d.ID()] = mine
	}
	for _, c := range refs {
		s.auditChunk(ctx, a, table, &c.row, held, verify)
	}
	slices.Sort(a.missing)
	slices.Sort(a.orphans)
	return a, nil
}

// homesOf returns the drives on which a shard may be.
func homesOf(table *metadata.PGTable, c *metadata.ChunkRow, index int) (drives []topology.DriveID) {
	for _, g := range table.Groups[c.Chunk.PG].Generations {
		drives = append(drives, g.Members[index])
	}
	return drives
}

func (s *store) auditChunk(ctx context.Context, a *audit, table *metadata.PGTable, c *metadata.ChunkRow, held map[topology.DriveID]map[metadata.ShardID]bool, verify bool) {
	newest := table.Groups[c.Chunk.PG].Newest()
	for i, drive := range newest.Members {
		mine, open := held[drive]
		if !open {
			continue
		}
		ref := metadata.ShardRef{PG: c.Chunk.PG, Shard: metadata.ShardID{Chunk: c.Chunk.ID, Index: uint8(i)}}
		name := fmt.Sprintf("shard %d of %s, generation %d, on %s", i, hexOf(c.Chunk.ID[:]), c.Chunk.Generation, s.path(drive))
		if !mine[ref.Shard] {
			a.missing = append(a.missing, name)
			continue
		}
		if verify {
			if err := s.verify(ctx, drive, ref, &c.Chunk); err != nil {
				a.bad = append(a.bad, fmt.Sprintf("%s: %v", name, err))
			}
		}
	}
}

// path says where a drive is mounted.
func (s *store) path(drive topology.DriveID) string {
	d, err := s.node.Drive(drive)
	if err != nil {
		return drive.String()
	}
	return d.Path()
}

// verify reads a shard whole and holds its sums against the digest in the
// metadata.
func (s *store) verify(ctx context.Context, drive topology.DriveID, ref metadata.ShardRef, c *metadata.Chunk) error {
	if err := s.node.Verify(ctx, drive, ref); err != nil {
		return err
	}
	stored, err := s.node.Stat(ctx, drive, ref)
	if err != nil {
		return err
	}
	sums := make([]shardhash.Sum, len(stored.Footer.Sums))
	for i, sum := range stored.Footer.Sums {
		sums[i] = shardhash.Sum(sum)
	}
	if shardhash.ChunkDigest(sums) != shardhash.Digest(c.Digest) {
		return errors.New("its sums are not those that the metadata have")
	}
	return nil
}

// clean reports whether nothing is left to be collected or repaired.
func (a *audit) clean() bool {
	return a.trash == 0 && a.short == 0 && a.moving == 0 && len(a.missing) == 0 && len(a.orphans) == 0
}

// quiesce waits until everything is collected and repaired, for so long at
// most, and fails if something is left.
func (s *store) quiesce(ctx context.Context, patience time.Duration) error {
	for waited := time.Duration(0); ; {
		progress.Add(1)
		a, err := s.audit(ctx, false)
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		if a.clean() {
			if a, err = s.audit(ctx, true); err != nil || len(a.bad) == 0 {
				return err
			}
			if waited >= patience {
				return fmt.Errorf("shards are bad after %v: %s\n%+v", patience, a, s.RepairState())
			}
			for _, d := range s.node.Drives() {
				if err := d.StartScrub(); err != nil {
					return err
				}
			}
		}
		if waited >= patience {
			return fmt.Errorf("not collected after %v: %s\n%+v\n%+v", patience, a, s.CollectState(), s.RepairState())
		}
		step := max(patience/20, time.Second)
		time.Sleep(step)
		waited += step
	}
}
