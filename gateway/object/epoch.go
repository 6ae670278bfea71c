package object

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/ruche-storage/ruche/metadata"
)

// epochs hands out the epoch of requests and knows which are in use. A request
// holds a lease from its first shard or read to its end.
type epochs struct {
	mu      sync.Mutex
	current uint64         // 0 before the first was raised
	writers map[uint64]int // running writers by epoch
	readers map[uint64]int // running readers by epoch
	living  []uint64       // as the groups have it
	reads   map[*lease]struct{}

	raising *semaphore.Weighted // one new epoch at a time
}

// lease is one request's hold on the epoch it began in.
type lease struct {
	epochs *epochs
	of     map[uint64]int
	epoch  uint64
	once   sync.Once

	// Of readers: when they began, and what ends them.
	since  time.Time
	cancel context.CancelCauseFunc
}

// errReadCut ends a read that took too long while drives were nearly full.
var errReadCut = errors.New("object: read cut off: it took more than an hour while drives are nearly full")

func newEpochs() *epochs {
	return &epochs{writers: make(map[uint64]int), readers: make(map[uint64]int), reads: make(map[*lease]struct{}),
		raising: semaphore.NewWeighted(1)}
}

func (e *epochs) writer() (*lease, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.hold(e.writers)
}

// reader returns a lease and a context that ends with it.
func (e *epochs) reader(ctx context.Context, now time.Time) (context.Context, *lease, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l, err := e.hold(e.readers)
	if err != nil {
		return nil, nil, err
	}
	l.since = now
	ctx, l.cancel = context.WithCancelCause(ctx)
	e.reads[l] = struct{}{}
	return ctx, l, nil
}

// hold needs mu.
func (e *epochs) hold(of map[uint64]int) (*lease, error) {
	if e.current == 0 {
		return nil, fmt.Errorf("object: not started: %w", metadata.ErrUnavailable)
	}
	of[e.current]++
	return &lease{epochs: e, of: of, epoch: e.current}, nil
}

// cut ends the readers of an epoch and those before it that began before a
// time. Their leases count no more: what they try to read from now on fails,
// and what is read beside that is verified as ever.
func (e *epochs) cut(epoch uint64, before time.Time) (n int) {
	e.mu.Lock()
	var old []*lease
	for l := range e.reads {
		if l.epoch <= epoch && l.since.Before(before) {
			old = append(old, l)
		}
	}
	e.mu.Unlock()
	for _, l := range old {
		l.cancel(errReadCut)
		l.release()
	}
	return len(old)
}

// release ends the lease. It may be called more than once.
func (l *lease) release() {
	l.once.Do(func() {
		l.epochs.mu.Lock()
		defer l.epochs.mu.Unlock()
		if l.of[l.epoch]--; l.of[l.epoch] == 0 {
			delete(l.of, l.epoch)
		}
		delete(l.epochs.reads, l)
		if l.cancel != nil {
			l.cancel(errClosedObject)
		}
	})
}

// Leases is what the collector must know of running requests.
type Leases struct {
	Current      uint64   // the epoch that new requests get
	Writers      []uint64 // epochs with running writers, ascending
	OldestReader uint64   // oldest epoch with a running reader, 0 for none
}

// Leases returns the epochs in use. Trash that was seen when Current was e may
// be freed when every later answer has OldestReader 0 or above e.
func (e *Engine) Leases() Leases {
	s := e.epochs
	s.mu.Lock()
	defer s.mu.Unlock()
	l := Leases{Current: s.current, Writers: slices.Sorted(maps.Keys(s.writers))}
	if len(s.readers) > 0 {
		l.OldestReader = slices.Min(slices.Collect(maps.Keys(s.readers)))
	}
	return l
}

// Epoch leases the current epoch for a command of a background task, which is
// fenced like a request. The caller must call release.
func (e *Engine) Epoch() (epoch uint64, release func(), err error) {
	l, err := e.epochs.writer()
	if err != nil {
		return 0, nil, err
	}
	return l.epoch, l.release, nil
}

// firstEpoch takes an epoch above every one that a group or drive has seen and
// raises the fence of all groups to it, so that nothing of an earlier life of
// this process can be committed any more.
func (e *Engine) firstEpoch(ctx context.Context) error {
	highest := e.options.HighestEpoch
	for group := range uint32(metadata.DataGroups + 1) {
		f, err := e.meta.Fence(ctx, group)
		if err != nil {
			return fmt.Errorf("object: fence of group %d: %w", group, err)
		}
		highest = max(highest, f.Floor, f.Highest)
		for _, living := range f.Living {
			highest = max(highest, living)
		}
	}
	return e.raise(ctx, highest+1, []uint64{highest + 1})
}

// nextEpoch begins a new epoch and lets go of those that nobody writes in any
// more. If a group does not take the new fence, requests keep the old epoch.
func (e *Engine) nextEpoch(ctx context.Context) error {
	s := e.epochs
	if err := s.raising.Acquire(ctx, 1); err != nil {
		return err
	}
	defer s.raising.Release(1)
	s.mu.Lock()
	next := s.current + 1
	if n := len(s.living); n > 0 {
		next = max(next, s.living[n-1]+1) // an earlier try may have failed half-way
	}
	// The current one stays: requests still begin in it until all groups know
	// the next.
	living := []uint64{s.current}
	for epoch := range s.writers {
		if epoch != s.current {
			living = append(living, epoch)
		}
	}
	s.living = append(slices.Clone(s.living), next)
	s.mu.Unlock()
	slices.Sort(living)
	return e.raise(ctx, next, append(living, next))
}

func (e *Engine) raise(ctx context.Context, epoch uint64, living []uint64) error {
	fence := &metadata.Fence{Floor: living[0], Living: living}
	for group := range uint32(metadata.DataGroups + 1) {
		cmd := &metadata.Command{Kind: metadata.KindFence, Version: 1, Group: group, Fence: fence}
		if _, err := e.propose(ctx, cmd); err != nil {
			return fmt.Errorf("object: raise fence of group %d to epoch %d: %w", group, epoch, err)
		}
	}
	e.epochs.mu.Lock()
	defer e.epochs.mu.Unlock()
	e.epochs.current, e.epochs.living = epoch, living
	e.log.DebugContext(ctx, "new epoch", "epoch", epoch, "living", living)
	return nil
}
