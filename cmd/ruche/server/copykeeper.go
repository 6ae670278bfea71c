package server

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// copyKeeper knows which copies of the metadata there are, and carries out what
// was decided about them. A decision is durable in metadata.json first; then the
// copy is made, then the table of stores in the metadata wants it, and the
// groups follow. A start goes on wherever that was cut off.
type copyKeeper struct {
	p   *process
	log *slog.Logger

	// changing is taken while something is decided or carried out.
	changing turn
	marked   time.Time // when the generation was raised last; guarded by changing

	mu      sync.Mutex       // guards what follows
	list    *storeList       // nil as long as there never was more than one copy
	refused map[uint64]error // copies that were not opened
	waits   string           // what the last round could not finish, "" if all is done
	version uint16           // of commands, active in all groups; 0 before it is known

	kick chan struct{}
	work sync.WaitGroup
}

// newCopyKeeper makes one for a list, which may be nil.
func newCopyKeeper(p *process, list *storeList) *copyKeeper {
	return &copyKeeper{
		p: p, log: p.Log.With("part", "metadata"), list: list, refused: make(map[uint64]error), changing: newTurn(), kick: make(chan struct{}, 1),
	}
}

const (
	roundEvery = 2 * time.Second // between looks at what is to be done
	// roundSoon is that while something is being done.
	roundSoon = 250 * time.Millisecond
	// roundLimit bounds one look: what it could not finish is done by the next.
	roundLimit = 30 * time.Second
	// exchangeLimit is how long calls in flight may hold up an exchange of the
	// engine.
	exchangeLimit = 10 * time.Second
)

// snapshot returns a copy of what is known.
func (k *copyKeeper) snapshot() (list *storeList, refused map[uint64]error, waits string, version uint16) {
	k.mu.Lock()
	defer k.mu.Unlock()
	list = &storeList{}
	if k.list != nil {
		list = k.list.clone()
	}
	refused = make(map[uint64]error, len(k.refused))
	for id, err := range k.refused {
		refused[id] = err
	}
	return list, refused, k.waits, k.version
}

// note changes the list, durably.
func (k *copyKeeper) note(change func(*storeList)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := &storeList{Format: storesFormat, Cluster: k.p.id.Cluster, Phase: storesReady, Next: 1}
	if k.list != nil {
		next = k.list.clone()
	}
	change(next)
	if err := next.save(k.p.dir); err != nil {
		return err
	}
	k.list = next
	return nil
}

func (k *copyKeeper) refuse(id uint64, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refused[id] = err
}

// replicated returns the engine of several copies, nil if there is one copy.
func (k *copyKeeper) replicated() *replica.Replicated {
	e, _ := k.p.meta.Engine().(*replica.Replicated)
	return e
}

// start begins to carry out what was decided.
func (k *copyKeeper) start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	k.p.onClose("copies of the metadata", func() error {
		cancel()
		k.work.Wait()
		return k.lastGeneration(context.WithoutCancel(ctx))
	})
	k.work.Go(func() {
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			select {
			case <-run.Done():
				return
			case <-timer.C:
			case <-k.kick:
			}
			timer.Reset(k.round(run))
		}
	})
	return nil
}

// nudge has the next round begin at once.
func (k *copyKeeper) nudge() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// round does what is to be done and can be, and returns when to look again.
func (k *copyKeeper) round(ctx context.Context) (next time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, roundLimit)
	defer cancel()
	if !k.changing.take(ctx) {
		return roundEvery
	}
	defer k.changing.give()
	err := k.look(ctx)
	if err == nil {
		err = k.followSetting(ctx)
	}
	if err == nil {
		err = k.rebuild(ctx)
	}
	if err == nil {
		err = k.settle(ctx)
	}
	if k.p.Now().Sub(k.marked) >= generationEvery {
		err = errors.Join(err, k.raiseGeneration(ctx))
	}
	why := ""
	if err != nil && ctx.Err() == nil {
		why = err.Error()
	}
	k.mu.Lock()
	was := k.waits
	k.waits = why
	k.mu.Unlock()
	if why != was && why != "" && !errors.Is(err, replica.ErrUnsettled) {
		k.log.Warn("copies of the metadata are not as they should be yet", "err", err)
	}
	if errors.Is(err, replica.ErrUnsettled) {
		return roundSoon
	}
	return roundEvery
}

// look ends copies whose files have gone, and refuses to go on while a majority
// is lost: whatever came next would only wait for it.
func (k *copyKeeper) look(ctx context.Context) error {
	e := k.replicated()
	if e == nil {
		return nil
	}
	k.watch(ctx, e)
	return quorumLostFor(e.Status(ctx))
}

// settle carries out what the list says. The caller holds changing.
func (k *copyKeeper) settle(ctx context.Context) error {
	e := k.replicated()
	if e == nil {
		return k.lookUpVersion(ctx)
	}
	list, _, _, _ := k.snapshot()
	for _, row := range list.Stores {
		if row.State == storeNew {
			if err := k.makeStore(ctx, e, row.Replica); err != nil {
				return err
			}
		}
	}
	if err := k.lookUpVersion(ctx); err != nil {
		return err
	}
	if err := k.want(ctx, e); err != nil {
		return err
	}
	if err := e.Settled(ctx); err != nil {
		return err
	}
	if err := k.removeLeft(ctx, e); err != nil {
		return err
	}
	return k.shrink(ctx)
}

// lookUpVersion notes which version of commands all groups have.
func (k *copyKeeper) lookUpVersion(ctx context.Context) error {
	k.mu.Lock()
	known := k.version
	k.mu.Unlock()
	if known >= metadata.LatestVersion {
		return nil
	}
	least := uint16(metadata.LatestVersion)
	for g := range uint32(metadata.DataGroups + 1) {
		v, err := k.p.meta.CommandVersion(ctx, g)
		if err != nil {
			return err
		}
		least = min(least, v)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.version = least
	return nil
}

// raise has all groups take the newest commands.
func (k *copyKeeper) raise(ctx context.Context) error {
	if err := k.lookUpVersion(ctx); err != nil {
		return err
	}
	k.mu.Lock()
	known := k.version
	k.mu.Unlock()
	if known >= metadata.LatestVersion {
		return nil
	}
	if err := replica.RaiseVersion(ctx, k.p.meta.Engine(), metadata.LatestVersion); err != nil {
		return err
	}
	return k.lookUpVersion(ctx)
}
