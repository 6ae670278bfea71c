package keeper

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// rootRecord keeps the tables of the root on all drives.
type rootRecord struct {
	turn    *semaphore.Weighted // one write at a time; guards what follows
	order   uint64              // of the newest tables that were written
	written map[topology.DriveID]uint64
}

// writeRoot makes a page of the root's outbox durable: the tables on all
// drives, and the rows of buckets with the manifests of their groups.
func (g *group) writeRoot(ctx context.Context, entries []metadata.OutboxEntry) error {
	tables := false
	for i := range entries {
		tables = tables || entries[i].Kind == metadata.OutboxRoot
	}
	if tables {
		if err := g.k.root.write(ctx, g.k); err != nil {
			return err
		}
	}
	for _, c := range gather(entries) {
		if err := g.k.writeBucket(ctx, &c); err != nil {
			return fmt.Errorf("keeper: row of bucket %s: %w", c.Bucket, err)
		}
	}
	if err := g.manifested(ctx, entries[len(entries)-1].Order, 0); err != nil {
		return fmt.Errorf("keeper: cursor of the root group: %w", err)
	}
	return nil
}

// writeBucket writes the row of a bucket to the manifest drives of its group.
// That of a bucket that is gone is told by its own record.
func (k *Keeper) writeBucket(ctx context.Context, c *change) error {
	k.forget(c.Bucket)
	row, err := k.o.Metadata.BucketByID(ctx, c.Bucket)
	if errors.Is(err, metadata.ErrNoSuchBucket) {
		return nil
	}
	if err != nil {
		return err
	}
	if row.Group == metadata.RootGroup || row.Group >= groupCount {
		return fmt.Errorf("group %d: %w", row.Group, metadata.ErrInvalidCommand)
	}
	g := k.groups[row.Group]
	if on, err := g.keepsOutbox(ctx); err != nil || !on {
		return err // its drives are filled once it does
	}
	if err := g.turn.Acquire(ctx, 1); err != nil {
		return err
	}
	defer g.turn.Release(1)
	_, err = g.write(ctx, func(s *sink) error { return g.bucketRow(ctx, s, row, c.order) })
	return err
}

// tables reads the tables of the root. What changes meanwhile has a higher
// order than they are given.
func (r *rootRecord) tables(ctx context.Context, k *Keeper) (*manifest.Root, error) {
	m := k.o.Metadata
	at, err := m.Orders(ctx, metadata.RootGroup, nil)
	if err != nil {
		return nil, err
	}
	t := &manifest.Root{Order: at.Order}
	version, err := m.CommandVersion(ctx, metadata.RootGroup)
	if err != nil {
		return nil, err
	}
	t.CommandVersion = uint64(version)
	if t.Incarnation, err = m.Incarnation(ctx); err != nil {
		return nil, err
	}
	if t.Accounts, err = m.Accounts(ctx); err != nil {
		return nil, err
	}
	if t.AccessKeys, err = m.AccessKeys(ctx); err != nil {
		return nil, err
	}
	drives, err := m.Drives(ctx)
	if err != nil {
		return nil, err
	}
	pgs, err := m.PGs(ctx)
	if err != nil {
		return nil, err
	}
	t.Drives, t.PGs = *drives, *pgs
	return t, nil
}

// write puts the tables on all drives. It needs m+1 of them, or all that there
// are.
func (r *rootRecord) write(ctx context.Context, k *Keeper) error {
	if err := r.turn.Acquire(ctx, 1); err != nil {
		return err
	}
	defer r.turn.Release(1)
	t, err := r.tables(ctx, k)
	if err != nil {
		return fmt.Errorf("keeper: tables of the root: %w", err)
	}
	r.order = t.Order
	written, errs := r.spread(ctx, k, t, nil)
	need := 1
	for i := range t.PGs.Groups {
		need = max(need, int(t.PGs.Groups[i].Scheme.Parity)+1)
	}
	if written == 0 || written < need && len(errs) > 0 {
		return fmt.Errorf("keeper: tables of the root on %d drives, need %d: %w", written, need, errors.Join(append(errs, errNoDrives)...))
	}
	return nil
}

// tend writes the tables to drives that do not have the newest: those that were
// away, and all of them after a start.
func (r *rootRecord) tend(ctx context.Context, k *Keeper) error {
	if on, err := k.groups[metadata.RootGroup].keepsOutbox(ctx); err != nil || !on {
		return err
	}
	if err := r.turn.Acquire(ctx, 1); err != nil {
		return err
	}
	defer r.turn.Release(1)
	table, err := k.o.Metadata.Drives(ctx)
	if err != nil {
		return err
	}
	behind := make(map[topology.DriveID]bool)
	for i := range table.Drives {
		id := table.Drives[i].ID
		written, known := r.written[id]
		if table.Drives[i].State != topology.DriveRetired && k.o.Drives.Writable(id) && (!known || written < r.order) {
			behind[id] = true
		}
	}
	if len(behind) == 0 {
		return nil
	}
	t, err := r.tables(ctx, k)
	if err != nil {
		return fmt.Errorf("keeper: tables of the root: %w", err)
	}
	if len(r.written) == 0 {
		r.order = t.Order
	}
	_, errs := r.spread(ctx, k, t, behind)
	return errors.Join(errs...)
}

// spread writes tables to the drives that only names, or to all if it is nil,
// and frees older ones there.
func (r *rootRecord) spread(ctx context.Context, k *Keeper, t *manifest.Root, only map[topology.DriveID]bool) (written int, errs []error) {
	id, body, err := manifest.SealRoot(k.o.Rand, k.o.RootKeys, k.o.Cluster, t)
	if err != nil {
		return 0, []error{err}
	}
	epoch, release, err := k.o.Epoch()
	if err != nil {
		return 0, []error{err}
	}
	defer release()
	payload := metadata.PayloadOf(body)
	var puts sync.WaitGroup
	var mu sync.Mutex // guards written, errs and r.written
	for i := range t.Drives.Drives {
		d := &t.Drives.Drives[i]
		if d.State == topology.DriveRetired || only != nil && !only[d.ID] || !k.o.Drives.Writable(d.ID) {
			continue
		}
		puts.Go(func() {
			rec := metadata.Record{Type: metadata.RecordRoot, Shard: metadata.ShardID{Chunk: id}, Epoch: epoch}
			err := k.put(ctx, d.ID, &rec, payload)
			mu.Lock()
			if err != nil {
				errs = append(errs, fmt.Errorf("drive %s: %w", d.ID, err))
				mu.Unlock()
				return
			}
			written++
			r.written[d.ID] = t.Order
			mu.Unlock()
			if err := k.freeRoots(ctx, d.ID, id, t); err != nil && ctx.Err() == nil {
				k.o.Logger.WarnContext(ctx, "older tables of the root not freed", "drive", d.ID.String(), "err", err)
			}
		})
	}
	puts.Wait()
	return written, errs
}

// freeRoots frees the tables on a drive that newer ones replace. Those that do
// not open stay.
func (k *Keeper) freeRoots(ctx context.Context, drive topology.DriveID, newest metadata.ChunkID, t *manifest.Root) error {
	if on, err := k.o.Allowed(ctx); err != nil || !on {
		return err
	}
	var older []metadata.ShardRef
	err := k.o.Drives.Records(ctx, drive, metadata.RecordRoot, func(rec *metadata.Record, payload []byte) error {
		if rec.Shard.Chunk == newest {
			return nil
		}
		other, err := manifest.OpenRoot(k.o.RootKeys, k.o.Cluster, rec.Shard.Chunk, payload)
		if err == nil && !other.Newer(t) {
			older = append(older, rec.Ref())
		}
		return nil
	})
	if len(older) > 0 {
		err = errors.Join(err, k.o.Drives.Free(ctx, drive, older))
	}
	return err
}
