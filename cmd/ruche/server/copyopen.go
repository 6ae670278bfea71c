package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

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
	began := k.p.Now()
	e, err := replica.OpenReplicated(places, k.p.replicatedOptions(len(places), places...))
	k.log.Debug("start", "step", "open the copies", "took", k.p.Now().Sub(began).Round(time.Millisecond/10).String())
	if err != nil {
		if errors.Is(err, replica.ErrAbsurdClock) {
			return nil, k.p.openingError(k.p.localPath(), err)
		}
		return nil, quorumLost(k.missing(), err)
	}
	for _, r := range e.Refused() {
		k.refuse(r.Place.Want.Replica, worded(r.Err))
	}
	began = k.p.Now()
	err = awaitLeaders(ctx, e, k.log)
	k.log.Debug("start", "step", "agree on leaders", "took", k.p.Now().Sub(began).Round(time.Millisecond/10).String())
	if err != nil {
		k.noteStopped(e.Status(ctx))
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

// wordedError says something in the words of operators, who know where the copy
// lies.
type wordedError struct {
	text string
	err  error
}

func (e *wordedError) Error() string { return e.text }

func (e *wordedError) Unwrap() error { return e.err }

// worded says why a copy did not open.
func worded(err error) error {
	if back, ok := errors.AsType[*replica.RolledBackError](err); ok {
		return &wordedError{fmt.Sprintf("it knows less than it did (group %d ends at change %d, and was at %d): its files were put back to an earlier time, or the end of its log is lost; "+
			"it is made anew as soon as the other copies are a majority", back.Group, back.Log, back.Reached), err}
	}
	if open, ok := errors.AsType[*replica.OpenError](err); ok {
		return &wordedError{fmt.Sprintf("its files are not of one time: %s (group %d: log %d, state %d)", open.Reason, open.Group, open.Log, open.State), err}
	}
	if errors.Is(err, replica.ErrNotReplicated) {
		return &wordedError{"it is empty, or its log was taken away (no command log)", err}
	}
	return err
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

// replicatedOptions share the memory of one copy among several, of which those
// in places are known.
func (p *process) replicatedOptions(copies int, places ...replica.Place) replica.ReplicatedOptions {
	o := p.metadataOptions()
	o.OnFailure = func(err error) { p.Log.Error("too few copies of the metadata are left; nothing is served", "err", err) }
	o.CacheBytes = max(96<<20/int64(copies), 16<<20)
	var reserves []int64
	for _, at := range places {
		reserves = append(reserves, p.storeReserve(at.Dir))
	}
	turn := turnBytes(memory(), copies, reserves)
	o.MemTableBytes = turn + turn/2 // rows take more than the commands that write them
	return replica.ReplicatedOptions{StoreOptions: replica.StoreOptions{Options: o, TurnBytes: turn}, Tick: p.MetadataTick}
}

// noteStopped notes why copies that were open do not run any more.
func (k *copyKeeper) noteStopped(all []replica.StoreStatus) {
	_, refused, _, _ := k.snapshot()
	for _, s := range all {
		if s.Err != nil && refused[s.Replica] == nil {
			k.refuse(s.Replica, s.Err)
		}
	}
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

// askAgain is how long a group may take to answer before a start looks whether
// it still can.
const askAgain = time.Second

// awaitLeaders waits until all groups answer. It does not wait for what cannot
// be: a majority of copies that are not open, or have stopped meanwhile.
func awaitLeaders(ctx context.Context, e *replica.Replicated, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	for g := range uint32(metadata.DataGroups + 1) {
		for {
			if err := quorumLostFor(e.Status(ctx)); err != nil {
				return err
			}
			err := answers(ctx, e, g)
			if err == nil {
				break
			}
			if ctx.Err() != nil || e.Metrics().Failed || !errors.Is(err, metadata.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
			log.Warn("the copies of the metadata have not agreed on a leader yet", "group", g, "err", err)
		}
	}
	return nil
}

// answers reports whether a group answers soon.
func answers(ctx context.Context, e *replica.Replicated, group uint32) error {
	ctx, cancel := context.WithTimeout(ctx, askAgain)
	defer cancel()
	_, err := e.Head(ctx, group)
	return err
}

// quorumOpen reports whether a majority of each group's voters runs, as far as
// the copies that run know them.
func quorumOpen(all []replica.StoreStatus) error {
	runs := func(s *replica.StoreStatus) bool { return s.Err == nil }
	for g := range metadata.DataGroups + 1 {
		conf := newestGroup(all, g)
		if conf == nil {
			return errors.New("no copy runs")
		}
		if err := majorityOf(conf, all, runs); err != nil {
			return err
		}
	}
	return nil
}

// quorumLostFor returns an error if it is certain that a group has no majority:
// no copy that is only busy could be one of it, and none is about to apply
// another configuration.
func quorumLostFor(all []replica.StoreStatus) error {
	mayRun := func(s *replica.StoreStatus) bool { return s.Err == nil || !errors.Is(s.Err, metadata.ErrUnavailable) }
	for g := range metadata.DataGroups + 1 {
		conf := newestGroup(all, g)
		if conf == nil && !slices.ContainsFunc(all, func(s replica.StoreStatus) bool { return mayRun(&s) }) {
			return errors.New("no copy runs")
		}
		if conf == nil || slices.ContainsFunc(all, func(s replica.StoreStatus) bool { return s.Err == nil && s.Groups[g].Commit > conf.Applied }) {
			continue
		}
		if err := majorityOf(conf, all, mayRun); err != nil {
			return err
		}
	}
	return nil
}

// majorityOf returns an error unless a majority of the voters of a group is
// there: of both configurations, while it is between two.
func majorityOf(conf *replica.GroupStatus, all []replica.StoreStatus, there func(*replica.StoreStatus) bool) error {
	for _, voters := range [][]uint64{conf.Voters, conf.Outgoing} {
		n := 0
		for _, id := range voters {
			if slices.ContainsFunc(all, func(s replica.StoreStatus) bool { return s.Replica == id && there(&s) }) {
				n++
			}
		}
		if need := len(voters)/2 + 1; len(voters) > 0 && n < need {
			return fmt.Errorf("%d of %d copies are there, %d are needed", n, len(voters), need)
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
