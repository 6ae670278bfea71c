package recovery

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
)

// epochMargin is how far above the highest epoch of any drive the fences are
// set: drives that are missing may have seen later ones. An epoch is 10
// minutes.
const epochMargin = 1 << 12

// Restore puts everything into an empty state. Nothing else may change it
// meanwhile. After an error the state is worth nothing.
func (c *Collection) Restore(ctx context.Context, to Engine) (*Report, error) {
	if err := c.restoreTables(ctx, to); err != nil {
		return nil, fmt.Errorf("recovery: root tables: %w", err)
	}
	if err := c.restoreBuckets(ctx, to); err != nil {
		return nil, fmt.Errorf("recovery: buckets: %w", err)
	}
	c.progress.Phase = PhaseRestore
	if err := c.restoreObjects(ctx, to); err != nil {
		return nil, fmt.Errorf("recovery: objects: %w", err)
	}
	if err := c.raise(ctx, to); err != nil {
		return nil, fmt.Errorf("recovery: placement groups: %w", err)
	}
	// The fence comes last: its order lies above that of all that was found.
	fence := &metadata.Fence{Floor: c.epoch + epochMargin, Living: []uint64{c.epoch + epochMargin}}
	for group := range uint32(metadata.DataGroups + 1) {
		if err := commit(ctx, to, &metadata.Command{Kind: metadata.KindFence, Group: group, Fence: fence}); err != nil {
			return nil, fmt.Errorf("recovery: fence of group %d: %w", group, err)
		}
	}
	return c.finish(), nil
}

// commit proposes a command that has no proposer of its own.
func commit(ctx context.Context, to Engine, cmd *metadata.Command) error {
	cmd.Version = metadata.CommandVersion
	_, err := to.Commit(ctx, cmd)
	return err
}

// restoreTables writes what the root group needs: version, incarnation,
// drives, placement groups, accounts and access keys.
func (c *Collection) restoreTables(ctx context.Context, to Engine) error {
	root := c.root
	c.report.Incarnation = root.Incarnation.Number + 1
	version := max(uint16(root.CommandVersion), metadata.ManifestVersion)
	for group := range uint32(metadata.DataGroups + 1) {
		if err := commit(ctx, to, &metadata.Command{Kind: metadata.KindClusters, Group: group, Clusters: &metadata.ClusterVersion{Version: version}}); err != nil {
			return fmt.Errorf("command version of group %d: %w", group, err)
		}
		if err := commit(ctx, to, &metadata.Command{Kind: metadata.KindPushPGs, Group: group, PGs: &root.PGs}); err != nil {
			return fmt.Errorf("placement groups of group %d: %w", group, err)
		}
	}
	cmds := []*metadata.Command{
		{Kind: metadata.KindPutIncarnation, Incarnation: c.incarnation()},
		{Kind: metadata.KindPutDrives, Drives: &root.Drives},
	}
	for _, a := range c.accounts {
		cmds = append(cmds, &metadata.Command{Kind: metadata.KindPutAccount, Account: &a.row})
	}
	for i := range root.AccessKeys {
		cmds = append(cmds, &metadata.Command{Kind: metadata.KindRestoreAccessKey, AccessKey: &root.AccessKeys[i]})
	}
	for _, cmd := range cmds {
		if err := commit(ctx, to, cmd); err != nil {
			return fmt.Errorf("command of kind %d: %w", cmd.Kind, err)
		}
	}
	c.report.Accounts, c.report.AccessKeys = len(c.accounts), len(root.AccessKeys)
	return nil
}

// incarnation returns the next one. What was void is so still, unless it was
// restored.
func (c *Collection) incarnation() *metadata.Incarnation {
	next := c.root.Incarnation
	if c.o.Ended {
		next.Void = nil
	}
	next.Number, next.Collection = c.report.Incarnation, false
	return &next
}

// restoreBuckets writes the rows of all buckets and opens them in their groups.
func (c *Collection) restoreBuckets(ctx context.Context, to Engine) error {
	for _, b := range c.liveBuckets() {
		row := b.row
		row.State, row.Order = metadata.BucketLive, cmp.Or(b.oldest, uint64(c.o.Now().UnixMicro()))
		if b.born != nil {
			row.Order, row.Unknown = cmp.Or(b.born.Order, row.Order), b.born.Unknown
		}
		if err := commit(ctx, to, &metadata.Command{Kind: metadata.KindRestoreBucket, Bucket: &row}); err != nil {
			return fmt.Errorf("row of %s: %w", row.Name, err)
		}
		// A later epoch than any that was given: nothing that was decided by
		// other settings is let in.
		s := metadata.Settings{Bucket: row.ID}
		if b.settings != nil {
			s = *b.settings
		}
		s.Name, s.Epoch, s.Closed = row.Name, s.Epoch+1, false
		b.settings = &s
		if err := commit(ctx, to, &metadata.Command{Kind: metadata.KindOpenBucket, Group: row.Group, Settle: &s}); err != nil {
			return fmt.Errorf("settings of %s: %w", row.Name, err)
		}
	}
	return nil
}

// liveBuckets returns the buckets to restore, in order of creation as far as
// it is known, each with a name of its own. A bucket that nothing was ever
// found of gives way to one of the same name; else the later record has it.
func (c *Collection) liveBuckets() []*bucket {
	var all []*bucket
	for _, b := range c.buckets {
		if !b.deleted && b.err == nil {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(x, y *bucket) int {
		if x.found != y.found {
			return map[bool]int{true: -1, false: 1}[x.found]
		}
		return cmp.Or(cmp.Compare(y.epoch, x.epoch), bytes.Compare(x.row.ID[:], y.row.ID[:]))
	})
	names := make(map[string]bool)
	live := all[:0]
	for _, b := range all {
		if names[b.row.Name] {
			if !b.found {
				b.deleted = true
				continue
			}
			was := b.row.Name
			b.row.Name = otherName(b)
			c.report.Renamed = append(c.report.Renamed, Renamed{b.row.ID, was, b.row.Name})
		}
		names[b.row.Name] = true
		live = append(live, b)
	}
	slices.SortStableFunc(live, func(x, y *bucket) int { return cmp.Compare(x.oldest, y.oldest) })
	return live
}

// otherName is a name for a bucket whose own is taken, valid in S3.
func otherName(b *bucket) string {
	suffix := "-recovered-" + b.row.ID.String()[:8]
	return strings.TrimRight(b.row.Name[:min(len(b.row.Name), 63-len(suffix))], ".-") + suffix
}

// sortKey is the key by which an entry is sorted: bucket, object key, the later
// order first, piece.
func sortKey(id metadata.BucketID, e *manifest.Entry) []byte {
	k := make([]byte, 0, len(id)+len(e.Key)+16)
	k = append(k, id[:]...)
	for rest := e.Key; ; {
		at := strings.IndexByte(rest, 0)
		if at < 0 {
			k = append(append(k, rest...), 0x00, 0x01)
			break
		}
		k = append(append(k, rest[:at]...), 0x00, 0xff)
		rest = rest[at+1:]
	}
	k = binary.BigEndian.AppendUint64(k, ^e.Order)
	return binary.BigEndian.AppendUint32(k, uint32(e.Piece))
}

// Within a sort key: what is behind the object key, and the order in it.
const (
	sortTail  = 8 + 4
	sortPiece = 4
)

// job is the newest manifest of a key, in pieces.
type job struct {
	b      *bucket
	pieces [][]byte
	weight int
}

// restoreObjects restores the newest version of every key. The manifests come
// in order from one goroutine and are decoded and committed by several.
func (c *Collection) restoreObjects(ctx context.Context, to Engine) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	room := newRoom(c.o.MemoryBytes)
	jobs := make(chan job)
	var group sync.WaitGroup
	for range c.o.Workers {
		group.Go(func() {
			for j := range jobs {
				if ctx.Err() == nil {
					if err := c.restoreKey(ctx, to, &j); err != nil {
						cancel(err)
					}
				}
				room.give(j.weight)
			}
		})
	}
	err := c.eachNewest(func(j job) error {
		j.weight = room.weigh(j.pieces)
		if err := room.take(ctx, j.weight); err != nil {
			return err
		}
		select {
		case jobs <- j:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(jobs)
	group.Wait()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// eachNewest calls f with the newest manifest of each key, in order.
func (c *Collection) eachNewest(f func(job) error) error {
	var j job
	var prefix []byte // of the key at hand, with its newest order
	flush := func() error {
		if len(j.pieces) == 0 {
			return nil
		}
		err := f(j)
		j = job{}
		return err
	}
	err := c.sorted.each(func(key, value []byte) error {
		object, version := key[:len(key)-sortTail], key[:len(key)-sortPiece]
		switch {
		case bytes.Equal(version, prefix):
		case len(prefix) > 0 && bytes.Equal(object, prefix[:len(prefix)-8]):
			return nil // an older one
		default:
			if err := flush(); err != nil {
				return err
			}
			prefix = append(prefix[:0], version...)
			j.b = c.buckets[metadata.BucketID(key[:16])]
		}
		j.pieces = append(j.pieces, bytes.Clone(value))
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// restoreKey restores one key. An error ends the recovery.
func (c *Collection) restoreKey(ctx context.Context, to Engine, j *job) error {
	if j.b.deleted {
		return nil
	}
	var a manifest.Assembler
	var first manifest.Entry
	for i, piece := range j.pieces {
		e, err := manifest.UnmarshalEntry(piece)
		if err != nil {
			return err // it was read before
		}
		if i == 0 {
			first = e
		}
		if err := a.Add(&e); err != nil {
			c.lose(j.b, &first, err)
			return nil
		}
	}
	m, err := a.Manifest()
	if err != nil {
		c.lose(j.b, &first, err)
		return nil
	}
	if m.Kind == manifest.KindTombstone {
		c.tell(func(p *Progress) { p.Keys++ })
		return nil
	}
	if m.Version.Marker || !m.Version.Null {
		c.lose(j.b, &first, fmt.Errorf("%w: versions of a bucket", manifest.ErrNewer))
		return nil
	}
	if err := restoreVersion(ctx, to, j.b, m); err != nil {
		if !errors.Is(err, metadata.ErrInvalidCommand) && !errors.Is(err, metadata.ErrConflict) {
			return fmt.Errorf("%s/%s: %w", j.b.row.Name, m.Key, err)
		}
		c.lose(j.b, &first, err)
		return nil
	}
	c.born(m)
	j.b.objects.Add(1)
	j.b.bytes.Add(m.Version.Bytes)
	c.tell(func(p *Progress) {
		p.Keys++
		p.Objects++
		p.Bytes += m.Version.Bytes
	})
	return nil
}

// lose notes that a version is not restored.
func (c *Collection) lose(b *bucket, e *manifest.Entry, why error) {
	b.lost.Add(1)
	c.o.Log.Error("a version is not restored", "bucket", b.row.Name, "order", e.Order, "err", why)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress.Keys++
	c.report.LostCount++
	if len(c.report.Lost) < maxLost {
		c.report.Lost = append(c.report.Lost, Lost{Bucket: b.row.Name, Key: e.Key, Order: e.Order, Reason: why.Error()})
	}
}

// finish completes the report.
func (c *Collection) finish() *Report {
	r := &c.report
	r.Newest = c.Newest()
	for _, b := range c.buckets {
		if b.deleted || b.err != nil {
			continue
		}
		r.Buckets = append(r.Buckets, BucketReport{Name: b.row.Name, ID: b.row.ID, Objects: b.objects.Load(), Bytes: b.bytes.Load(),
			Lost: b.lost.Load(), Unopened: b.unopened})
		r.Objects += b.objects.Load()
		r.Bytes += b.bytes.Load()
	}
	// Buckets without any manifest have only their records to tell of them.
	for id, b := range c.buckets {
		if b.err != nil && c.unknown[id] == nil && len(r.Unknown) < maxUnknown {
			r.Unknown = append(r.Unknown, UnknownBucket{ID: id, Reason: b.err.Error()})
		}
	}
	slices.SortFunc(r.Buckets, func(x, y BucketReport) int { return strings.Compare(x.Name, y.Name) })
	slices.SortFunc(r.Unknown, func(x, y UnknownBucket) int { return bytes.Compare(x.ID[:], y.ID[:]) })
	slices.SortFunc(r.Lost, func(x, y Lost) int {
		return cmp.Or(strings.Compare(x.Bucket, y.Bucket), strings.Compare(x.Key, y.Key))
	})
	return r
}

// newIncarnation is the number of the present incarnation if no table tells:
// above every one that counts restores.
func newIncarnation(now time.Time) uint64 { return uint64(max(now.Unix(), 0)) }
