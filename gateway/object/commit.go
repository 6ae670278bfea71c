package object

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ruche-storage/ruche/metadata"
)

const (
	commitPause    = 20 * time.Millisecond // before a commit is repeated, at first
	commitPauseMax = time.Second
	overloadTries  = 6 // of a command that was refused without being taken
	staleTries     = 4 // of a command that named old settings
)

// errNotSent says that a command certainly did not take effect and never will.
var errNotSent = errors.New("object: not committed")

// propose is proposeOnly for commands of which manifests must tell: whoever
// writes these learns of it, also if nobody knows whether it took effect.
func (e *Engine) propose(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error) {
	result, err := e.proposeOnly(ctx, cmd)
	if queues(cmd.Kind) && (err == nil || errors.Is(err, metadata.ErrUnknownOutcome)) {
		e.bg.manifests.Kick(cmd.Group)
	}
	return result, err
}

// proposeOnly commits cmd and repeats it with the same request id while its
// outcome is unknown. It gives cmd a request id. Once it was sent, ctx no
// longer ends it: only Options.CommitTimeout does, and the end of the engine if
// the outcome is still unknown then.
func (e *Engine) proposeOnly(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	id, err := e.newID()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	cmd.Request = id
	sent, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.options.CommitTimeout)
	defer cancel()
	pause, overloaded, unknown := commitPause, 0, false
	for {
		result, err := e.meta.Commit(sent, cmd)
		switch {
		case err == nil:
			return result, nil
		case errors.Is(err, metadata.ErrUnknownOutcome):
			unknown = true
		case errors.Is(err, metadata.ErrOverloaded):
			if overloaded++; overloaded < overloadTries {
				break
			}
			if unknown {
				return nil, fmt.Errorf("%w: %w", metadata.ErrUnknownOutcome, err)
			}
			return nil, fmt.Errorf("%w: %w: %w", ErrBusy, errNotSent, err)
		case errors.Is(err, metadata.ErrMetadataFull) && !unknown:
			return nil, fmt.Errorf("%w: %w: %w", ErrFull, errNotSent, err)
		default:
			return result, err
		}
		if errors.Is(context.Cause(ctx), errClosed) {
			return nil, err
		}
		e.counters.commitRetries.Add(1)
		select {
		case <-time.After(pause):
			pause = min(2*pause, commitPauseMax)
		case <-sent.Done():
			return nil, err
		}
	}
}

// commitIn commits a data command on a bucket, under the epoch of a request.
// If the bucket's settings have changed since, it reads them again and repeats
// the command under a new request id, since the rejection is the answer to the
// old one. build makes the command for the bucket as it then is.
func (e *Engine) commitIn(ctx context.Context, b *bucket, l *lease, build func(b *bucket) (*metadata.Command, error)) (*metadata.Result, error) {
	for try := 1; ; try++ {
		cmd, err := build(b)
		if err != nil {
			return nil, err
		}
		cmd.Version, cmd.Group, cmd.Settings, cmd.Epoch = 1, b.row.Group, b.settings.Epoch, l.epoch
		result, err := e.propose(ctx, cmd)
		if err == nil || try == staleTries || !errors.Is(err, metadata.ErrStaleSettings) {
			return result, err
		}
		name, id := b.row.Name, b.row.ID
		e.buckets.forget(name)
		if b, err = e.bucket(ctx, name); err != nil {
			return nil, err
		}
		if b.row.ID != id {
			return nil, metadata.ErrNoSuchBucket // another bucket has the name now
		}
	}
}
