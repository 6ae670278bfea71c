package object

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/metadata"
)

// janitor finishes creations and deletions of buckets that were cut off. Each
// of their steps may be repeated, so what the janitor does beside a request
// that is still running is harmless; the minute only saves work.
type janitor struct {
	g *background

	mu       sync.Mutex // guards what follows
	stuck    map[metadata.BucketID]stuckBucket
	passes   uint64
	finished uint64
}

// stuckBucket is a bucket that is neither live nor gone.
type stuckBucket struct {
	state metadata.BucketState
	since time.Time
	seen  uint64 // pass that saw it last
}

const (
	// stuckAfter is how long a bucket must be in one state.
	stuckAfter = time.Minute
	// closedEvery: a deletion that was cut off after its group closed the
	// bucket is seen only in the group, which is asked at every so many
	// passes.
	closedEvery = 60
)

func (j *janitor) pass(ctx context.Context) error {
	j.mu.Lock()
	number := j.passes
	j.passes++
	j.mu.Unlock()
	var errs []error
	for after := ""; ; {
		rows, err := j.g.e.meta.Buckets(ctx, "", after, bucketPage)
		if err != nil {
			return err
		}
		for i := range rows {
			row := &rows[i]
			after = row.Name
			if err := j.look(ctx, row, number); err != nil {
				errs = append(errs, err)
			}
			if len(errs) >= maxErrors || ctx.Err() != nil {
				return errors.Join(errs...)
			}
		}
		if len(rows) < bucketPage {
			break
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for id, s := range j.stuck {
		if s.seen != number {
			delete(j.stuck, id)
		}
	}
	return errors.Join(errs...)
}

// maxErrors is how many failures a pass collects before it ends.
const maxErrors = 16

// look finishes what has been in one state for too long.
func (j *janitor) look(ctx context.Context, row *metadata.Bucket, number uint64) error {
	j.mu.Lock()
	s, known := j.stuck[row.ID]
	j.mu.Unlock()
	state := row.State
	if state == metadata.BucketLive {
		if !known && number%closedEvery != 0 {
			return nil
		}
		settings, err := j.g.e.meta.Settings(ctx, metadata.BucketRef{Group: row.Group, ID: row.ID})
		if err != nil || !settings.Closed {
			return err
		}
	}
	now := j.g.e.options.Now()
	if !known || s.state != state {
		s = stuckBucket{state: state, since: now}
	}
	s.seen = number
	j.mu.Lock()
	if known || len(j.stuck) < bucketCacheMax {
		j.stuck[row.ID] = s
	}
	j.mu.Unlock()
	if now.Sub(s.since) < stuckAfter {
		return nil
	}
	return j.finish(ctx, row)
}

// finish rolls a bucket forward: a creation becomes a live bucket, a deletion
// a free name.
func (j *janitor) finish(ctx context.Context, row *metadata.Bucket) error {
	e := j.g.e
	l, err := e.epochs.writer()
	if err != nil {
		return err
	}
	defer l.release()
	switch row.State {
	case metadata.BucketCreating:
		err = e.finishCreate(ctx, row, l)
	case metadata.BucketLive: // and closed in its group
		if _, err = e.propose(ctx, e.rootCommand(metadata.KindRetireBucket, l, row)); err != nil {
			break
		}
		deleting := *row
		deleting.State = metadata.BucketDeleting
		err = e.finishDelete(ctx, &deleting, l)
	default:
		err = e.finishDelete(ctx, row, l)
	}
	e.buckets.forget(row.Name)
	if errors.Is(err, metadata.ErrNoSuchBucket) {
		return nil // somebody else was faster
	}
	if err == nil {
		e.log.InfoContext(ctx, "bucket finished that was cut off", "bucket", row.ID.String(), "state", row.State)
		j.mu.Lock()
		j.finished++
		j.mu.Unlock()
	}
	return err
}
