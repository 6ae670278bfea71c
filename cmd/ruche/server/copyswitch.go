package server

import (
	"context"
	"errors"

	"github.com/ruche-storage/ruche/metadata/replica"
)

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
		e, err := replica.OpenReplicated([]replica.Place{at}, k.p.replicatedOptions(3, at))
		if err != nil {
			return nil, err
		}
		if err := awaitLeaders(ctx, e, k.log); err != nil {
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
			e, again := replica.OpenReplicated([]replica.Place{at}, k.p.replicatedOptions(1, at))
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
