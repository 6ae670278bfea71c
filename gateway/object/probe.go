package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ruche-storage/ruche/erasure/shardhash"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

const (
	// probeCell is the length of the only cell of a probe.
	probeCell = 4 << 10
	// probeReferences is how many other drives are probed to compare with.
	probeReferences = 3
)

// probeForever probes suspect drives, every Options.LagTimeout while there are
// any, until ctx is done.
func (e *Engine) probeForever(ctx context.Context) {
	for {
		if e.suspects.count.Load() == 0 {
			select {
			case <-ctx.Done():
				return
			case <-e.suspects.kick:
			}
		}
		if pause(ctx, e.options.LagTimeout) != nil {
			return
		}
		e.probeRound(ctx)
	}
}

// probeRound begins a probe of every suspect drive that none is running on, if
// it may be written at all. It waits for drives that are not suspect only.
func (e *Engine) probeRound(ctx context.Context) {
	var due []topology.DriveID
	for _, d := range e.suspects.list() {
		if e.options.Drives.Condition(d).Writable && e.suspects.beginProbe(d) {
			due = append(due, d)
		}
	}
	if len(due) == 0 {
		return
	}
	limit := e.probeLimit(ctx)
	for _, d := range due {
		e.tasks.Go(func() {
			defer e.tasks.on(d)()
			took, err := e.probe(context.WithoutCancel(ctx), d)
			if err != nil {
				e.log.Debug("probe of a suspect drive failed", "drive", d.String(), "err", err)
			}
			e.suspects.probed(d, err == nil && took <= limit)
		})
	}
}

// probeLimit is how long a probe may take now: as the others do, with the
// allowance that writes have.
func (e *Engine) probeLimit(ctx context.Context) time.Duration {
	table := e.topology.drives.Load()
	var took []time.Duration
	for i := range table.Drives {
		d := table.Drives[i].ID
		if len(took) == probeReferences {
			break
		}
		if e.suspects.has(d) || !e.options.Drives.Condition(d).Writable {
			continue
		}
		var t time.Duration
		_, err := e.bg.guard.do(ctx, d, e.options.LagTimeout, func(ctx context.Context) (err error) {
			t, err = e.probe(ctx, d)
			return err
		})
		if err == nil {
			took = append(took, t)
		}
	}
	if len(took) == 0 {
		return e.options.LagTimeout
	}
	return max(e.options.HedgeAfter, lagFactor*median(took))
}

// probe writes a shard that nobody will ever refer to, reads it, frees it, and
// returns how long writing and reading took. What is left of it after a crash
// is garbage like any other.
func (e *Engine) probe(ctx context.Context, drive topology.DriveID) (time.Duration, error) {
	rec, footer, framed, err := e.newProbe(drive)
	if err != nil {
		return 0, err
	}
	started := e.options.Now()
	if err := e.writeProbe(ctx, drive, rec, footer, slices.Clone(framed)); err != nil {
		return 0, err
	}
	got := make([]byte, len(framed))
	err = e.shards.ReadAt(ctx, drive, rec.Ref(), got, 0)
	took := e.options.Now().Sub(started)
	if err == nil && !bytes.Equal(got, framed) {
		err = fmt.Errorf("object: drive %s returns other bytes than were written: %w", drive, metadata.ErrCorrupt)
	}
	return took, errors.Join(err, e.shards.Free(ctx, drive, []metadata.ShardRef{rec.Ref()}))
}

func (e *Engine) writeProbe(ctx context.Context, drive topology.DriveID, rec *metadata.Record, footer *metadata.Footer, framed []byte) error {
	w, err := e.shards.CreateNew(ctx, drive, rec, int64(len(framed)))
	if err != nil {
		return err
	}
	if _, err := w.Write(framed); err != nil {
		w.Abort()
		return err
	}
	if err := w.Close(footer); err != nil {
		w.Abort()
		return err
	}
	return nil
}

// newProbe makes a shard of a chunk of zeros in a placement group that the
// drive is a member of.
func (e *Engine) newProbe(drive topology.DriveID) (*metadata.Record, *metadata.Footer, []byte, error) {
	pg, member := e.groupOf(drive)
	if pg == nil {
		return nil, nil, nil, fmt.Errorf("object: drive %s is in no placement group: %w", drive, metadata.ErrDriveAbsent)
	}
	l, err := e.epochs.writer()
	if err != nil {
		return nil, nil, nil, err
	}
	epoch := l.epoch
	l.release() // nothing is committed in it
	rec := &metadata.Record{Type: metadata.RecordShard, Scheme: pg.Scheme, PG: pg.ID, Generation: pg.Newest().Number, Epoch: epoch}
	if err := e.random(rec.Shard.Chunk[:]); err != nil {
		return nil, nil, nil, err
	}
	footer := &metadata.Footer{ChunkBytes: int64(pg.Scheme.Data) * probeCell}
	var framed []byte
	for i := range pg.Scheme.Total() {
		rec.Shard.Index = uint8(i)
		frame := make([]byte, probeCell+shardhash.ChecksumBytes)
		cells := e.getCells(rec.Shard.Bytes())
		cells.Frame(0, frame)
		footer.Sums = append(footer.Sums, metadata.Sum(cells.Sum()))
		e.putCells(cells)
		if i == member {
			framed = frame
		}
	}
	rec.Shard.Index = uint8(member)
	return rec, footer, framed, nil
}

// groupOf returns a placement group that a drive is a member of, and as which
// one; nil if there is none.
func (e *Engine) groupOf(drive topology.DriveID) (*metadata.PG, int) {
	table := e.topology.pgs.Load()
	for i := range table.Groups {
		pg := &table.Groups[i]
		if m := slices.Index(pg.Newest().Members, drive); m >= 0 {
			return pg, m
		}
	}
	return nil, 0
}
