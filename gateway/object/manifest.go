package object

import (
	"context"
	"fmt"
	"time"

	"github.com/ruche-storage/ruche/gateway/manifest/keeper"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// manifestTimeout is how long a drive may take for one record of manifests
// before another drive takes its place: a commit's manifest is to be durable
// within 5 s.
const manifestTimeout = 3 * time.Second

// newKeeper returns what writes and keeps manifests.
func newKeeper(g *background) (*keeper.Keeper, error) {
	e := g.e
	k, err := keeper.New(keeper.Options{
		Metadata: e.meta,
		Drives:   manifestDrives{g},
		Propose: func(ctx context.Context, cmd *metadata.Command) error {
			return g.rootTable(ctx, cmd)
		},
		Epoch:      g.lease,
		Cluster:    e.options.Cluster,
		Keys:       e.bucketKeys,
		RootKeys:   e.options.RootKeys,
		Limit:      func(ctx context.Context, n int64) error { return g.limit.wait(ctx, n, false) },
		Pressure:   g.o.Pressure,
		Allowed:    g.collect.allowed,
		PassPeriod: g.o.ManifestPeriod,
		Rand:       randomReader{e},
		Now:        e.options.Now,
		Logger:     e.log,
	})
	if err != nil {
		return nil, fmt.Errorf("object: %w", err)
	}
	return k, nil
}

// ManifestState returns what becomes of manifests.
func (e *Engine) ManifestState() keeper.State { return e.bg.manifests.State() }

// RootChanged has the small tables of the root written to the drives soon. Who
// commits a change of them past the engine calls it, or else that takes half a
// minute.
func (e *Engine) RootChanged() { e.bg.manifests.Kick(metadata.RootGroup) }

// queues reports whether commands of a kind tell of what manifests must hold.
func queues(k metadata.Kind) bool {
	switch k {
	case metadata.KindCommitVersion, metadata.KindDeleteVersions, metadata.KindComplete, metadata.KindOpenBucket, metadata.KindPutSettings:
		return true
	}
	return k == metadata.KindPushPGs || k >= metadata.KindPutAccount && k < metadata.KindOpenBucket
}

// manifestDrives gives the keeper drives whose calls end in time.
type manifestDrives struct{ g *background }

func (d manifestDrives) Writable(drive topology.DriveID) bool {
	return d.g.e.options.Drives.Condition(drive).Writable
}

func (d manifestDrives) Readable(drive topology.DriveID) bool {
	return d.g.e.options.Drives.Condition(drive).Readable
}

func (d manifestDrives) Hanging() bool { return d.g.e.counters.hanging.Load() > 0 }

func (d manifestDrives) PutRecord(ctx context.Context, drive topology.DriveID, rec *metadata.Record, payload metadata.Payload) error {
	own := *rec // the call may go on for longer
	_, err := d.g.guard.do(ctx, drive, manifestTimeout, func(ctx context.Context) error {
		return d.g.e.shards.PutRecord(ctx, drive, &own, payload)
	})
	return err
}

func (d manifestDrives) Free(ctx context.Context, drive topology.DriveID, refs []metadata.ShardRef) error {
	return d.g.collect.free(ctx, drive, refs)
}

func (d manifestDrives) Settle(ctx context.Context, drive topology.DriveID) error {
	_, err := d.g.guard.do(ctx, drive, longCall, func(ctx context.Context) error { return d.g.e.shards.Settle(ctx, drive) })
	return err
}

// storedRecord is a record on its way from a drive.
type storedRecord struct {
	rec     metadata.Record
	payload []byte
}

// Records hands the records of a drive over one by one: the drive may take its
// time for each, and the keeper for what it does with it.
func (d manifestDrives) Records(ctx context.Context, drive topology.DriveID, typ metadata.RecordType, yield func(rec *metadata.Record, payload []byte) error) error {
	e, guard := d.g.e, d.g.guard
	if guard.stuck(drive) {
		return fmt.Errorf("object: drive %s does not answer: %w", drive, metadata.ErrSlow)
	}
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	found, done := make(chan storedRecord), make(chan error, 1)
	e.tasks.Go(func() {
		defer e.tasks.on(drive)()
		done <- e.shards.Records(run, drive, typ, func(rec *metadata.Record, payload []byte) error {
			select {
			case found <- storedRecord{*rec, payload}:
				return nil
			case <-run.Done():
				return context.Cause(run)
			}
		})
	})
	timer := time.NewTimer(longCall)
	defer timer.Stop()
	for {
		timer.Reset(longCall)
		select {
		case r := <-found:
			if err := yield(&r.rec, r.payload); err != nil {
				cancel()
				guard.abandon(drive, done)
				return err
			}
		case err := <-done:
			return err
		case <-timer.C:
			guard.abandon(drive, done)
			return fmt.Errorf("object: records of drive %s: none for %v: %w", drive, longCall, metadata.ErrSlow)
		case <-ctx.Done():
			guard.abandon(drive, done)
			return context.Cause(ctx)
		}
	}
}
