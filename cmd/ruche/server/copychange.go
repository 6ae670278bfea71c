package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// The methods here decide where copies of the metadata are to be. The caller
// holds changing.

// taken are the places that carry copies, or are to.
func (k *copyKeeper) taken() (out []place) {
	list, _, _, _ := k.snapshot()
	if len(list.Stores) == 0 {
		return []place{{path: k.p.localPath(), device: device(k.p.dir)}}
	}
	for _, s := range list.Stores {
		if s.State != storeGone && s.State != storeLeaving {
			out = append(out, place{s.Path, s.Drive, device(placeOf(&s))})
		}
	}
	return out
}

// placeOf is a directory that exists on the device of a copy, made or not.
func placeOf(s *storeRow) string { return place{path: s.Path, drive: s.Drive}.where() }

// placeNamed finds the place that an operator names by the path of a drive, of
// the state directory, or of a copy.
func (k *copyKeeper) placeNamed(path string) (place, error) {
	for _, p := range k.p.places() {
		if path == p.path || path == p.where() || !p.onDrive() && path == k.p.dir {
			return p, nil
		}
	}
	return place{}, &admin.Error{Status: http.StatusBadRequest, Code: admin.CodeBadRequest, Message: fmt.Sprintf("%s is neither a drive of this server that is open nor its state directory", path),
		Remedy: "name the path of a drive: see \"ruche drive list\""}
}

// enoughCopies is how many copies there are at most if nobody names a path.
const enoughCopies = 5

// occupied refuses a second copy in one place. The number of the first may be 0
// for unknown.
func occupied(p place, replica uint64) error {
	which := "a copy"
	if replica > 0 {
		which = fmt.Sprintf("copy %d", replica)
	}
	return &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: fmt.Sprintf("%s carries %s of the metadata already", p.where(), which),
		Remedy: "name a drive that carries none: see \"ruche metadata status\" and \"ruche drive list\""}
}

// placesToAdd chooses where copies are added: at the path named, or, for none,
// on devices that carry none, as many as make the number odd.
func (k *copyKeeper) placesToAdd(path string) ([]place, error) {
	taken := k.taken()
	if path != "" {
		p, err := k.placeNamed(path)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(taken, func(t place) bool { return t.path == p.path }) {
			return nil, occupied(p, 0)
		}
		return []place{p}, nil
	}
	if len(taken) >= enoughCopies {
		return nil, &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: fmt.Sprintf("there are %d copies of the metadata already, which survive the loss of any two", len(taken)),
			Remedy: "each more makes every change slower; name a PATH to have one all the same"}
	}
	var chosen []place
	for range 1 + len(taken)%2 {
		all := append(slices.Clone(taken), chosen...)
		p, ok := nextPlace(k.p.places(), all)
		if !ok || slices.ContainsFunc(all, p.sameDevice) {
			return nil, &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: fmt.Sprintf("too few devices for more copies of the metadata: there are %d, and each is to carry one", deviceCount(k.p.places())),
				Remedy: "add devices; or name a PATH to have several copies on one device all the same"}
		}
		chosen = append(chosen, p)
	}
	return chosen, nil
}

// add adds copies at places. If one cannot be made, none is added.
func (k *copyKeeper) add(ctx context.Context, chosen []place) error {
	if k.replicated() == nil {
		if err := k.grow(ctx); err != nil {
			return err
		}
	}
	var ids []uint64
	if err := k.note(func(l *storeList) {
		for _, p := range chosen {
			ids = append(ids, l.add(p, storeNew, k.p.Now()).Replica)
		}
	}); err != nil {
		return err
	}
	return k.makeNew(ctx, ids, nil)
}

// replace puts a new copy into the place of another, which leaves when the new
// one has caught up.
func (k *copyKeeper) replace(ctx context.Context, old uint64, to place) error {
	list, _, _, _ := k.snapshot()
	if i := slices.IndexFunc(list.Stores, func(s storeRow) bool {
		return s.Path == to.path && s.Replica != old && s.State != storeGone && s.State != storeLeaving
	}); i >= 0 {
		return occupied(to, list.Stores[i].Replica)
	}
	if row := list.row(old); row.Path == to.path {
		if row.Drive == to.drive {
			if err := k.dispensable(ctx, old); err != nil {
				return err
			}
		}
		// It runs no more, and its files are about to go.
		if err := k.replicated().RemoveStore(old); err != nil {
			k.log.Warn("end of a copy of the metadata", "replica", old, "err", err)
		}
	}
	var id uint64
	if err := k.note(func(l *storeList) {
		l.row(old).State = storeLeaving
		id = l.add(to, storeNew, k.p.Now()).Replica
	}); err != nil {
		return err
	}
	return k.makeNew(ctx, []uint64{id}, func(l *storeList) { l.row(old).State = storeReady })
}

// rebuild makes the copies anew that know less than they did. They have voted
// and acknowledged what they do not know of any more, so the others must be a
// majority without them.
func (k *copyKeeper) rebuild(ctx context.Context) error {
	if k.replicated() == nil {
		return nil
	}
	list, refused, _, _ := k.snapshot()
	for i := range list.Stores {
		row := &list.Stores[i]
		if row.State != storeReady || !isRolledBack(refused[row.Replica]) {
			continue
		}
		dir, err := k.openDir(row)
		if err == nil {
			err = k.replace(ctx, row.Replica, place{dir, row.Drive, device(placeOf(row))})
		}
		if err != nil {
			return fmt.Errorf("copy %d in %s was put back to an earlier time, or has lost the end of its log, and is not made anew yet: %w", row.Replica, row.Path, err)
		}
		k.log.Warn("a copy of the metadata that was put back to an earlier time, or has lost the end of its log, is made anew from the others", "path", dir, "replica", row.Replica)
	}
	return nil
}

// dispensable refuses to take the files of a copy away before another one has its
// vote, unless the others are a majority: one that failed may hold what is needed
// to come to one.
func (k *copyKeeper) dispensable(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	others := slices.DeleteFunc(k.replicated().Status(ctx), func(s replica.StoreStatus) bool { return s.Replica == id })
	if err := quorumOpen(others); err != nil {
		return conflict("copy %d cannot be made anew where it lies: without it, %v; bring other copies back first, or name another PATH", id, err)
	}
	return nil
}

// followDrive puts the copy that a lost drive carried onto the drive that has
// taken its place. It takes changing itself.
func (k *copyKeeper) followDrive(ctx context.Context, lost topology.DriveID, to *node.Drive) error {
	if !k.changing.take(ctx) {
		return context.Cause(ctx)
	}
	defer k.changing.give()
	list, _, _, _ := k.snapshot()
	i := slices.IndexFunc(list.Stores, func(s storeRow) bool { return s.Drive == lost && s.State == storeReady })
	if i < 0 {
		return nil
	}
	return k.replace(ctx, list.Stores[i].Replica, place{filepath.Join(to.Path(), metaName), to.ID(), device(to.Path())})
}

// makeNew makes the copies that were listed. If one cannot be made, what was
// listed is taken back.
func (k *copyKeeper) makeNew(ctx context.Context, ids []uint64, undo func(*storeList)) error {
	e := k.replicated()
	for _, id := range ids {
		err := k.makeStore(ctx, e, id)
		if err == nil {
			continue
		}
		return errors.Join(err, k.note(func(l *storeList) {
			for _, id := range ids {
				l.row(id).State = storeLeaving // never a member: the next round deletes it
			}
			if undo != nil {
				undo(l)
			}
		}))
	}
	defer k.nudge()
	return k.want(ctx, e)
}

// followSetting carries out another value of metadata-replicas than the one
// that was carried out last.
func (k *copyKeeper) followSetting(ctx context.Context) error {
	want := k.p.c.Replicas()
	list, _, _, _ := k.snapshot()
	if want == 0 || list.Setting == k.p.c.MetadataReplicas || want == 1 && k.replicated() == nil {
		return nil
	}
	if err := k.target(ctx, want); err != nil {
		return err
	}
	return k.note(func(l *storeList) { l.Setting = k.p.c.MetadataReplicas })
}

// target brings the number of copies to want.
func (k *copyKeeper) target(ctx context.Context, want int) error {
	have := k.taken()
	if want == 1 {
		return k.targetOne(ctx)
	}
	var chosen []place
	for len(have)+len(chosen) < want {
		p, ok := nextPlace(k.p.places(), append(slices.Clone(have), chosen...))
		if !ok {
			return fmt.Errorf("metadata-replicas is %d, and there are places for %d copies", want, len(have)+len(chosen))
		}
		chosen = append(chosen, p)
	}
	if len(chosen) > 0 {
		for _, text := range sharedDevices(append(slices.Clone(have), chosen...)) {
			k.log.Warn(text)
		}
		return k.add(ctx, chosen)
	}
	for n := len(have); n > want; n-- {
		if err := k.dismiss(ctx, k.leastUseful()); err != nil {
			return err
		}
	}
	return nil
}

// targetOne leaves the copy in the state directory only, which is made if it is
// not there.
func (k *copyKeeper) targetOne(ctx context.Context) error {
	list, _, _, _ := k.snapshot()
	local := func(s storeRow) bool {
		return s.Drive.IsZero() && s.State != storeGone && s.State != storeLeaving
	}
	if i := slices.IndexFunc(list.Stores, local); i >= 0 && list.Stores[i].Stale {
		return putBack(list.Stores[i].Replica)
	}
	if !slices.ContainsFunc(list.Stores, local) {
		if err := k.add(ctx, []place{{path: k.p.localPath(), device: device(k.p.dir)}}); err != nil {
			return err
		}
	}
	if err := k.note(func(l *storeList) {
		for i := range l.Stores {
			if !local(l.Stores[i]) && l.Stores[i].State != storeGone {
				l.Stores[i].State = storeLeaving
			}
		}
	}); err != nil {
		return err
	}
	return k.want(ctx, k.replicated())
}

// leastUseful is the copy that is missed least: one that is not open, one that
// shares its device, the one in the state directory, the newest.
func (k *copyKeeper) leastUseful() uint64 {
	list, refused, _, _ := k.snapshot()
	taken := k.taken()
	worst, most := uint64(0), -1
	for _, s := range list.Stores {
		if s.State == storeGone || s.State == storeLeaving {
			continue
		}
		cost := 0
		at := place{s.Path, s.Drive, device(placeOf(&s))}
		for _, t := range taken {
			if t.path != at.path && t.sameDevice(at) {
				cost += 2
			}
		}
		if refused[s.Replica] != nil {
			cost += 100
		}
		if s.Drive.IsZero() {
			cost++
		}
		if cost >= most {
			worst, most = s.Replica, cost
		}
	}
	return worst
}

// dismiss has the other copies go on without one.
func (k *copyKeeper) dismiss(ctx context.Context, id uint64) error {
	if err := k.replicated().Dismiss(ctx, id); err != nil {
		return err
	}
	return k.note(func(l *storeList) { l.row(id).State = storeLeaving })
}
