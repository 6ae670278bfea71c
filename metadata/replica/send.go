package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

// sendAttempts is how often a snapshot is offered before the member's leader
// begins a new one; between them passes sendPause.
const (
	sendAttempts = 5
	sendPause    = time.Second
)

// send sends a snapshot in a goroutine of its own, and reports how it ended.
func (r *runner) send(q SnapshotRequest) {
	select {
	case r.sending <- struct{}{}:
	default:
		r.store.ReportSnapshot(q.Group, q.To, false) // Raft asks again
		return
	}
	r.sends.Go(func() {
		defer func() { <-r.sending }()
		err := r.sendSnapshot(r.snapshots, q)
		log := r.engine.opts.Logger.With("group", q.Group, "from", r.id(), "to", q.To)
		if err != nil {
			log.Warn("metadata snapshot was not sent", "err", err)
		} else {
			r.engine.counts.snapshot()
			log.Info("metadata snapshot sent")
		}
		r.mail.put(func(m *mail) bool {
			m.reports = append(m.reports, report{SnapshotRequest: q, ok: err == nil})
			return true
		})
	})
}

// sendSnapshot sends one snapshot. After a failure it goes on where the
// receiver is, with the same rows.
func (r *runner) sendSnapshot(ctx context.Context, q SnapshotRequest) error {
	e, err := r.store.Export(q.Group, snapshot.ExportOptions{Limit: r.engine.limit})
	if err != nil {
		return err
	}
	defer e.Close()
	if have := e.Header().Index; have < q.Index {
		return fmt.Errorf("the state is of position %d, wanted %d: a snapshot is being installed here", have, q.Index)
	}
	for attempt := 1; ; attempt++ {
		err = r.sendPieces(ctx, q, e)
		if err == nil || ctx.Err() != nil || attempt == sendAttempts {
			return err
		}
		timer := time.NewTimer(sendPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

func (r *runner) sendPieces(ctx context.Context, q SnapshotRequest, e *snapshot.Export) (err error) {
	to, err := r.transport.Offer(ctx, Offer{From: r.id(), To: q.To, Term: q.Term, Header: e.Header()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := e.Seek(to.Position()); err != nil {
		return err
	}
	for {
		p, err := e.Next(ctx)
		if errors.Is(err, io.EOF) {
			return to.Complete(ctx, e.Summary())
		}
		if err != nil {
			return err
		}
		if err := to.Add(ctx, p); err != nil {
			return err
		}
	}
}

// outlast runs something that uses a device, and returns early if ctx ends or
// the store has stopped. What hangs goes on by itself.
func outlast(ctx context.Context, fenced <-chan struct{}, use func() error) error {
	done := make(chan error, 1)
	go func() { done <- use() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("replica: %w", context.Cause(ctx))
	case <-fenced:
		return fmt.Errorf("replica: %w: its device has failed", metadata.ErrUnavailable)
	}
}

// receptions keeps groups from receiving two snapshots at the same time.
type receptions struct {
	mu   sync.Mutex // guards busy
	busy [groupCount]bool
}

func (r *receptions) begin(group uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if int(group) >= len(r.busy) || r.busy[group] {
		return false
	}
	r.busy[group] = true
	return true
}

func (r *receptions) end(group uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy[group] = false
}

// Offer implements [Receiver].
func (r *runner) Offer(_ context.Context, o Offer) (Reception, error) {
	group := o.Header.Group
	if want := r.store.Identity().Cluster; o.Header.Cluster != want {
		return nil, fmt.Errorf("replica: store %d: %w: it is another cluster's", o.To, snapshot.ErrForeign)
	}
	if err := r.failed(); err != nil {
		return nil, err
	}
	if !r.receiving.begin(group) {
		return nil, fmt.Errorf("replica: store %d, group %d: %w: another snapshot is coming", o.To, group, metadata.ErrOverloaded)
	}
	if r.store.Installing(group) {
		r.receiving.end(group)
		return nil, fmt.Errorf("replica: store %d, group %d: %w: a snapshot is being installed", o.To, group, metadata.ErrOverloaded)
	}
	in, err := r.store.Stage().Begin(o.Header)
	if err != nil {
		r.receiving.end(group)
		return nil, err
	}
	return &reception{r: r, offer: o, in: in}, nil
}

// reception receives one snapshot for a store of this process.
type reception struct {
	r     *runner
	offer Offer
	in    *snapshot.Receive
	once  sync.Once
}

func (c *reception) Position() snapshot.Position { return c.in.Position() }

// Add and Complete come back although the device hangs: then they must not
// use what belongs to the sender any more.
func (c *reception) Add(ctx context.Context, p *snapshot.Piece) error {
	own := *p
	own.Data = bytes.Clone(p.Data)
	return outlast(ctx, c.r.store.Fenced(), func() error { return c.in.Add(&own) })
}

func (c *reception) Complete(ctx context.Context, sum snapshot.Summary) error {
	err := outlast(ctx, c.r.store.Fenced(), func() error {
		_, err := c.in.Complete(ctx, sum)
		return err
	})
	if err != nil {
		return err
	}
	// Restore is waited for although the sender gives up: Close lets the next
	// transfer begin, and that removes a staged snapshot that is still to be
	// installed. The wait ends with the store, which leaves no call unanswered.
	taken := make(chan bool, 1)
	err = c.r.do(context.WithoutCancel(ctx), func(s *Store) error {
		ok, err := s.Restore(c.offer.From, c.offer.Term, c.offer.Header)
		taken <- ok
		return err
	})
	if err != nil || <-taken {
		return err
	}
	return c.r.store.Stage().Remove(c.offer.Header.ID) // the log goes on without it
}

func (c *reception) Close() error {
	c.once.Do(func() { c.r.receiving.end(c.offer.Header.Group) })
	return nil
}
