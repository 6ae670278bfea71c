package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
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

	// changing is held while something is decided or carried out.
	changing sync.Mutex
	marked   time.Time // when the generation was raised last; guarded by changing

	mu      sync.Mutex       // guards what follows
	list    *storeList       // nil as long as there never was more than one copy
	refused map[uint64]error // copies that were not opened
	waits   string           // what the last round could not finish, "" if all is done
	version uint16           // of commands, active in all groups; 0 before it is known

	kick chan struct{}
	work sync.WaitGroup
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

// openReplicated opens all copies that are there, and waits until they have
// agreed on leaders.
func (k *copyKeeper) openReplicated(ctx context.Context, all []found) (*replica.Replicated, error) {
	places, err := k.locateAll(all)
	if err != nil {
		return nil, err
	}
	if len(places) == 0 {
		return nil, quorumLost(k.missing(), nil)
	}
	e, err := replica.OpenReplicated(places, k.p.replicatedOptions(len(places)))
	if err != nil {
		if errors.Is(err, replica.ErrAbsurdClock) {
			return nil, k.p.openingError(k.p.localPath(), err)
		}
		return nil, quorumLost(k.missing(), err)
	}
	for dir, err := range e.Refused() {
		if i := slices.IndexFunc(k.list.Stores, func(s storeRow) bool { return s.Path == dir && s.State != storeGone }); i >= 0 {
			k.refuse(k.list.Stores[i].Replica, err)
		}
	}
	if err := awaitLeaders(ctx, e); err != nil {
		if ctx.Err() == nil {
			err = quorumLost(k.missing(), err)
		}
		return nil, errors.Join(err, e.Close())
	}
	for _, line := range k.missing() {
		k.log.Error("metadata without a copy", "copy", line)
	}
	return e, nil
}

// locateAll finds the directories of the copies that are to be opened, and
// finishes what a switch from one copy has begun.
func (k *copyKeeper) locateAll(all []found) (places []replica.Place, err error) {
	moved := false
	for i := range k.list.Stores {
		row := &k.list.Stores[i]
		if row.State == storeNew || row.State == storeGone {
			continue // made, or deleted, once the others serve
		}
		if row.State == storeForced {
			return nil, &StartError{NoQuorum, fmt.Sprintf("copy %d of the metadata in %s was being made the truth, and that was cut off", row.Replica, row.Path),
				"run \"ruche metadata force\" again", nil}
		}
		if row.Stale {
			k.refuse(row.Replica, putBack(row.Replica))
			continue
		}
		dir, err := k.p.locate(row, all)
		var at replica.Place
		if err == nil {
			at, err = k.p.storePlace(row, dir)
		}
		if err != nil {
			k.refuse(row.Replica, err)
			continue
		}
		if row.State == storeGrowing {
			if err := replica.Grow(dir, at.Want, k.p.storeOptions(at)); err != nil {
				return nil, k.p.openingError(dir, err)
			}
			row.State, moved = storeReady, true
		}
		if row.Path != dir {
			row.Path, moved = dir, true
		}
		places = append(places, at)
	}
	if moved {
		return places, k.list.save(k.p.dir)
	}
	return places, nil
}

// storeOptions are those for work on a copy that no engine has open.
func (p *process) storeOptions(at replica.Place) replica.StoreOptions {
	return replica.StoreOptions{Options: replica.Options{FS: at.FS, Now: p.Now, Logger: p.Log.With("part", "metadata")}, Want: at.Want}
}

// replicatedOptions share the memory of one copy among several.
func (p *process) replicatedOptions(copies int) replica.ReplicatedOptions {
	o := p.metadataOptions()
	o.OnFailure = func(err error) { p.Log.Error("too few copies of the metadata are left; nothing is served", "err", err) }
	o.CacheBytes = max(96<<20/int64(copies), 16<<20)
	o.MemTableBytes = 8 << 20
	return replica.ReplicatedOptions{StoreOptions: replica.StoreOptions{Options: o}, Tick: p.MetadataTick}
}

// missing words which copies are not open.
func (k *copyKeeper) missing() (out []string) {
	list, refused, _, _ := k.snapshot()
	for _, s := range list.Stores {
		if err := refused[s.Replica]; err != nil && s.State != storeGone {
			out = append(out, fmt.Sprintf("copy %d in %s: %v", s.Replica, s.Path, err))
		}
	}
	return out
}

// awaitLeaders waits until all groups answer. It does not wait for what cannot
// be: a quorum of copies that are not open.
func awaitLeaders(ctx context.Context, e *replica.Replicated) error {
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	if err := quorumOpen(e.Status(ctx)); err != nil {
		return err
	}
	for g := range uint32(metadata.DataGroups + 1) {
		for {
			_, err := e.Head(ctx, g)
			if err == nil {
				break
			}
			if ctx.Err() != nil || !errors.Is(err, metadata.ErrUnavailable) {
				return err
			}
		}
	}
	return nil
}

// quorumOpen reports whether a majority of each group's voters runs, as far as
// the copies that run know them.
func quorumOpen(all []replica.StoreStatus) error {
	for g := range metadata.DataGroups + 1 {
		conf := newestGroup(all, g)
		if conf == nil {
			return errors.New("no copy runs")
		}
		there := 0
		for _, id := range conf.Voters {
			if slices.ContainsFunc(all, func(s replica.StoreStatus) bool { return s.Replica == id && s.Err == nil }) {
				there++
			}
		}
		if need := len(conf.Voters)/2 + 1; there < need && !conf.Joint {
			return fmt.Errorf("%d of %d copies are there, %d are needed", there, len(conf.Voters), need)
		}
	}
	return nil
}

// newestGroup returns what the copy that has applied most of a group says of it,
// nil if none runs.
func newestGroup(all []replica.StoreStatus, group int) (best *replica.GroupStatus) {
	for i := range all {
		if all[i].Err != nil || group >= len(all[i].Groups) {
			continue
		}
		if g := &all[i].Groups[group]; best == nil || g.Applied > best.Applied {
			best = g
		}
	}
	return best
}

// begin has all groups of a new store take the newest commands and, if there
// are several copies, names them in the metadata. Copies that were opened just
// now have to be heard first.
func (k *copyKeeper) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := k.raise(ctx)
		if e := k.replicated(); err == nil && e != nil {
			err = k.want(ctx, e)
		}
		if err == nil || !errors.Is(err, metadata.ErrUnavailable) && !errors.Is(err, replica.ErrNoLeader) {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return err
		}
	}
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
	k.changing.Lock()
	defer k.changing.Unlock()
	err := k.followSetting(ctx)
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

// settle carries out what the list says. The caller holds changing.
func (k *copyKeeper) settle(ctx context.Context) error {
	e := k.replicated()
	if e == nil {
		return k.lookUpVersion(ctx)
	}
	k.watch(ctx, e)
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
	if err := k.removeLeft(e); err != nil {
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

// watch ends copies whose directories have gone: what they write is lost with
// the next start. It ends the process when no copy is left.
func (k *copyKeeper) watch(ctx context.Context, e *replica.Replicated) {
	left := 0
	var last error
	for _, s := range e.Status(ctx) {
		switch {
		case errors.Is(s.Err, metadata.ErrUnavailable):
			last = s.Err
			continue
		case s.Err != nil: // it is busy
			left++
			continue
		}
		if _, err := os.Stat(s.Dir); !errors.Is(err, fs.ErrNotExist) {
			left++
			continue
		}
		k.log.Error("the directory of a copy of the metadata has gone", "path", s.Dir, "replica", s.Replica)
		last = fmt.Errorf("%s has gone", s.Dir)
		k.refuse(s.Replica, last)
		if err := e.RemoveStore(s.Replica); err != nil {
			k.log.Warn("end of a copy of the metadata", "replica", s.Replica, "err", err)
		}
	}
	if left == 0 && ctx.Err() == nil {
		k.p.metadataFailed(last)
	}
}

// makeStore makes the files of a new copy and lets it run, a member of no group
// yet.
func (k *copyKeeper) makeStore(ctx context.Context, e *replica.Replicated, id uint64) error {
	list, _, _, _ := k.snapshot()
	row := list.row(id)
	dir, err := k.openDir(row)
	if err != nil {
		return err
	}
	for _, s := range list.Stores {
		// Nothing may run from files that are about to go: neither the copy that
		// was here before, nor this one from an attempt that could not be noted.
		if s.Drive != row.Drive {
			continue
		}
		if s.Replica != id && s.State != storeGone {
			if err := k.dispensable(ctx, s.Replica); err != nil {
				return err
			}
		}
		if err := e.RemoveStore(s.Replica); err != nil {
			k.log.Warn("end of a copy of the metadata", "replica", s.Replica, "err", err)
		}
	}
	if err := k.p.createStore(row, dir, nil); err != nil {
		return err
	}
	at, err := k.p.storePlace(row, dir)
	if err != nil {
		return err
	}
	if _, err := e.AddStore(at); err != nil {
		return fmt.Errorf("open copy %d of the metadata: %w", id, err)
	}
	if err := k.note(func(l *storeList) {
		r := l.row(id)
		r.State, r.Path = storeReady, dir
	}); err != nil {
		return err
	}
	k.mark(ctx, e)
	return nil
}

// openDir is the directory of a copy whose drive is open.
func (k *copyKeeper) openDir(row *storeRow) (string, error) {
	for _, p := range k.p.places() {
		if p.drive == row.Drive {
			return p.path, nil
		}
	}
	return "", fmt.Errorf("drive %s is not open", row.Drive)
}

// want has the table of stores say what the list says: the copies that are ready
// vote, those that leave are gone, and so are strangers. A copy that the table
// has given up is given up here, too.
func (k *copyKeeper) want(ctx context.Context, e *replica.Replicated) error {
	table, err := e.Stores(ctx)
	if err != nil {
		return err
	}
	if err := k.followTable(table); err != nil {
		return err
	}
	list, _, _, _ := k.snapshot()
	left := strangers(list, table, func() []replica.StoreStatus { return e.Status(ctx) })
	if l := len(table.Stores); l > 0 && !differs(list, table) && len(left) == 0 {
		return nil
	}
	if err := k.raise(ctx); err != nil {
		return err
	}
	_, err = e.ChangeStores(ctx, func(t *metadata.StoreTable) error {
		for _, row := range list.Stores {
			role := metadata.StoreVoter
			switch row.State {
			case storeNew:
				continue
			case storeLeaving, storeGone:
				role = metadata.StoreGone
			}
			if s := t.Find(row.Replica); s == nil {
				t.Stores = append(t.Stores, metadata.Store{Replica: row.Replica, ID: row.Store, Place: row.Path, Site: site, Role: role})
			} else if s.Role != metadata.StoreGone {
				s.Role, s.Place = role, row.Path
			}
		}
		for _, id := range left {
			if s := t.Find(id); s != nil {
				s.Role = metadata.StoreGone
			}
		}
		return nil
	})
	return err
}

// followTable has copies leave that the table has given up: the process may have
// ended, or the list not have been written, right behind that.
func (k *copyKeeper) followTable(t *metadata.StoreTable) error {
	list, _, _, _ := k.snapshot()
	gone := func(row *storeRow) bool {
		s := t.Find(row.Replica)
		return row.State == storeReady && s != nil && s.Role == metadata.StoreGone
	}
	if !slices.ContainsFunc(list.Stores, func(row storeRow) bool { return gone(&row) }) {
		return nil
	}
	return k.note(func(l *storeList) {
		for i := range l.Stores {
			if gone(&l.Stores[i]) {
				l.Stores[i].State = storeLeaving
			}
		}
	})
}

// differs reports whether a list wants something that a table does not say.
func differs(list *storeList, t *metadata.StoreTable) bool {
	for _, row := range list.Stores {
		s := t.Find(row.Replica)
		switch {
		case row.State == storeNew:
		case s == nil:
			return true
		case s.Role == metadata.StoreGone: // what is gone stays gone
		case (s.Role != metadata.StoreVoter) != (row.State == storeLeaving || row.State == storeGone):
			return true
		}
	}
	return false
}

// removeLeft ends the copies that are members no more, deletes and forgets them.
func (k *copyKeeper) removeLeft(e *replica.Replicated) error {
	list, _, _, _ := k.snapshot()
	for _, row := range list.Stores {
		if row.State != storeLeaving && row.State != storeGone {
			continue
		}
		if row.State == storeLeaving {
			if err := e.RemoveStore(row.Replica); err != nil {
				k.log.Warn("end of a copy of the metadata", "replica", row.Replica, "err", err)
			}
			if err := k.note(func(l *storeList) { l.row(row.Replica).State = storeGone }); err != nil {
				return err
			}
		}
		shared := slices.ContainsFunc(list.Stores, func(s storeRow) bool { return s.Path == row.Path && s.Replica != row.Replica && s.State != storeGone })
		if dir, err := k.openDir(&row); err == nil && !shared {
			if err := removeStore(dir); err != nil {
				k.log.Error("files of a copy of the metadata stay", "path", dir, "err", err)
			}
		} // else the drive is away: what it brings back is deleted by the start that finds it
		if err := k.note(func(l *storeList) { l.drop(row.Replica) }); err != nil {
			return err
		}
		k.mu.Lock()
		delete(k.refused, row.Replica)
		k.mu.Unlock()
		k.log.Info("a copy of the metadata was taken away", "replica", row.Replica, "path", row.Path)
	}
	return nil
}

// grow makes the one copy that there is one of several that may be. Calls wait
// meanwhile.
func (k *copyKeeper) grow(ctx context.Context) error {
	if err := k.raise(ctx); err != nil {
		return err
	}
	var id uint64
	if err := k.note(func(l *storeList) {
		id = l.add(place{path: k.p.localPath()}, storeGrowing, k.p.Now()).Replica
	}); err != nil {
		return err
	}
	list, _, _, _ := k.snapshot()
	row := list.row(id)
	at, err := k.p.storePlace(row, row.Path)
	if err != nil {
		return err
	}
	began := k.p.Now()
	begun := false
	err = k.exchange(ctx, func(old replica.Engine) (replica.Engine, error) {
		begun = true
		if err := old.Close(); err != nil {
			return nil, err
		}
		if err := replica.Grow(at.Dir, at.Want, k.p.storeOptions(at)); err != nil {
			return k.reopen(err)
		}
		e, err := replica.OpenReplicated([]replica.Place{at}, k.p.replicatedOptions(3))
		if err != nil {
			return nil, err
		}
		if err := awaitLeaders(ctx, e); err != nil {
			return nil, errors.Join(err, e.Close())
		}
		return e, nil
	})
	if err != nil {
		if _, local := k.p.meta.Engine().(*replica.Local); local || !begun {
			return errors.Join(err, k.note(func(l *storeList) { l.drop(id) }))
		}
		return err // the process ends, and the next start goes on
	}
	k.log.Info("the metadata is replicated now", "took", k.p.Now().Sub(began).String())
	return k.note(func(l *storeList) { l.row(id).State = storeReady })
}

// reopen opens the one copy again after an exchange that did not work out.
func (k *copyKeeper) reopen(cause error) (replica.Engine, error) {
	local, err := k.p.openLocal()
	if err != nil {
		return nil, errors.Join(cause, err)
	}
	return local, cause
}

// exchange exchanges the engine. If none is left, the process ends.
func (k *copyKeeper) exchange(ctx context.Context, change func(replica.Engine) (replica.Engine, error)) error {
	ctx, cancel := context.WithTimeout(ctx, exchangeLimit)
	defer cancel()
	err := k.p.meta.Exchange(ctx, change)
	if k.p.meta.Engine() == nil {
		k.p.metadataFailed(err)
	}
	return err
}

// shrink goes back to one copy that does without consensus, once nothing else
// is left than that in the state directory. Calls wait meanwhile.
func (k *copyKeeper) shrink(ctx context.Context) error {
	list, _, _, _ := k.snapshot()
	if len(list.Stores) != 1 || !list.Stores[0].Drive.IsZero() || list.Stores[0].State != storeReady {
		return nil
	}
	row := list.Stores[0]
	at, err := k.p.storePlace(&row, row.Path)
	if err != nil {
		return err
	}
	if err := k.note(func(l *storeList) { l.row(row.Replica).State = storeShrinking }); err != nil {
		return err
	}
	began := k.p.Now()
	err = k.exchange(ctx, func(old replica.Engine) (replica.Engine, error) {
		if err := old.Close(); err != nil {
			return nil, err
		}
		if err := replica.Shrink(at.Dir, k.p.storeOptions(at)); err != nil {
			e, again := replica.OpenReplicated([]replica.Place{at}, k.p.replicatedOptions(1))
			if again != nil {
				return nil, errors.Join(err, again)
			}
			return e, err
		}
		return k.p.openLocal()
	})
	if err != nil {
		if k.replicated() != nil {
			err = errors.Join(err, k.note(func(l *storeList) { l.row(row.Replica).State = storeReady }))
		}
		return err
	}
	k.log.Info("there is one copy of the metadata now", "took", k.p.Now().Sub(began).String())
	return k.note(func(l *storeList) { l.drop(row.Replica) })
}

// finishShrinking ends at a start what shrink has begun.
func (p *process) finishShrinking(list *storeList) error {
	if list == nil || len(list.Stores) != 1 || list.Stores[0].State != storeShrinking {
		return nil
	}
	row := &list.Stores[0]
	at, err := p.storePlace(row, p.localPath())
	if err != nil {
		return err
	}
	if err := replica.Shrink(at.Dir, p.storeOptions(at)); err != nil {
		return p.openingError(at.Dir, err)
	}
	list.drop(row.Replica)
	return list.save(p.dir)
}
