package simtest_test

import (
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/state"
)

// quietGroup is written to at the start only, and never read by clients: there
// rows may rot unseen.
const quietGroup = 5

// mendTime is how long a cluster has to find a row that was lost, and to bring
// it back, while nothing else is wrong; copyTime if another store is lost
// meanwhile and must not be given the wrong rows.
const (
	mendTime = 15 * second
	copyTime = 22 * second
)

// decay is the loss of a row in the quiet group, of which there is one in a run.
type decay struct {
	of       uint64 // replica id of the store that has lost it, 0 for none
	key, val []byte
	right    metadata.Sum // of the rows that all had
	copied   bool         // another store is to be lost while the rows are wrong
	lost     int64        // when that was, 0 before
	returned bool         // somebody has put the row back
	until    int64        // all must be well then
}

// rotOnce takes a row away from a store. It must be found odd when rows are
// compared, and be mended. If the wrong rows are to be copied, the store is made
// the leader, and another one loses its files: the one that replaces it must not
// get wrong rows, nor may the right ones be called odd.
func (s *sim) rotOnce(h *host, copied bool) {
	limit := int64(mendTime)
	if copied {
		limit = copyTime
	}
	if !s.healthy(h) || h.store == nil || h.gone || s.decay.of != 0 || s.hosts[h.slot] != h || s.now+limit > s.harmEnds {
		return
	}
	right, err := h.quietSum()
	if err != nil {
		return // it has not got there
	}
	disk := h.disk
	h.end(h.store.Close)
	s.decay = decay{of: h.id, right: right, copied: copied, until: s.now + limit}
	s.decay.key, s.decay.val = rot(disk.mem, quietGroup, 0x20) // settings
	s.logf("a row of %v rots, copied %v", h, copied)
	s.hold = s.decay.until + second
	h.disk = h.newDisk(disk.mem)
	h.start()
	s.after(second/2, s.awaitMended)
}

// awaitMended has rows compared until the one that was lost is back.
func (s *sim) awaitMended() {
	d := &s.decay
	why := s.mended()
	switch {
	case s.failed():
		return
	case why == "" && (s.counts.odd > 0 || d.returned):
		s.hold = s.now
		return
	case s.now >= d.until:
		s.journal.problem("%d s after a row was lost: %s", copyTime/second, why)
		return
	case d.copied && d.lost == 0 && s.counts.odd == 0:
		s.loseAnother()
	case d.copied && d.lost != 0 && !d.returned && s.now >= d.lost+8*second && s.nobodyKnows():
		s.giveBack()
	case !d.copied || s.now >= d.lost+4*second:
		s.compareQuiet()
	}
	s.after(second/2, s.awaitMended)
}

// compareQuiet has the quiet group's rows compared.
func (s *sim) compareQuiet() {
	if h := s.quietLeader(); h != nil {
		_ = h.store.Compare(quietGroup) // it may lead no more
		h.pump()
	}
}

func (s *sim) quietLeader() *host {
	for _, h := range s.hosts {
		if h.store != nil && h.leaders[quietGroup] == h.id {
			return h
		}
	}
	return nil
}

// loseAnother wipes a store once the one with the wrong rows leads.
func (s *sim) loseAnother() {
	d := &s.decay
	leader := s.quietLeader()
	switch {
	case leader == nil:
	case leader.id != d.of:
		leader.store.TransferLeader(quietGroup, d.of)
		leader.pump()
	default:
		voters := s.members.wanted(metadata.StoreVoter)
		others := slices.DeleteFunc(slices.Clone(s.hosts), func(h *host) bool { return h.gone || h.id == d.of || !slices.Contains(voters, h.id) })
		h := others[s.r.IntN(len(others))]
		if !s.healthy(h) {
			return
		}
		d.lost = s.now
		s.wipe(h)
	}
}

// nobodyKnows reports whether those with the right rows are no majority, so that
// a person has to say which rows are right.
func (s *sim) nobodyKnows() bool {
	right := 0
	voters := s.members.wanted(metadata.StoreVoter)
	for _, h := range s.hosts {
		if h.store == nil || h.gone || h.id == s.decay.of || !slices.Contains(voters, h.id) {
			continue
		}
		if sum, err := h.quietSum(); err == nil && sum == s.decay.right {
			right++
		}
	}
	return right <= len(voters)/2 && s.counts.odd == 0
}

// giveBack puts the row back where it was lost.
func (s *sim) giveBack() {
	h := s.host(s.decay.of)
	if h == nil {
		return
	}
	s.logf("%v gets its row back", h)
	s.decay.returned = true
	disk := h.disk
	h.end(h.store.Close)
	db := openState(disk.mem)
	must(errors.Join(db.Set(s.decay.key, s.decay.val, pebble.NoSync), db.Flush(), db.Close()))
	h.disk = h.newDisk(disk.mem)
	h.start()
}

// quietSum returns the hash of a store's rows in the quiet group.
func (h *host) quietSum() (sum metadata.Sum, err error) {
	err = h.store.View(quietGroup, func(v state.View, _ uint64) (err error) {
		sum, err = v.SpanHash(h.ctx(), quietGroup)
		return err
	})
	return sum, err
}

// mended says what is missing until all have the row that was lost.
func (s *sim) mended() string {
	for _, h := range s.hosts {
		switch {
		case h.gone:
			continue
		case h.store == nil:
			return h.String() + " is down"
		}
		switch sum, err := h.quietSum(); {
		case err != nil:
			return err.Error()
		case sum != s.decay.right:
			return h.String() + " has not the rows that all had"
		}
	}
	return ""
}

// rot takes away a row of a store that is closed, the first one of a table, and
// returns it.
func rot(mem *vfs.MemFS, group, table byte) (key, val []byte) {
	db := openState(mem)
	iter, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{0, 0, 0, group, table}, UpperBound: []byte{0, 0, 0, group, table + 1}})
	must(err)
	if iter.First() {
		key, val = slices.Clone(iter.Key()), slices.Clone(iter.Value())
	}
	must(iter.Close())
	if key != nil {
		must(errors.Join(db.Delete(key, pebble.NoSync), db.Flush()))
	}
	must(db.Close())
	return key, val
}

func openState(mem *vfs.MemFS) *pebble.DB {
	db, err := pebble.Open(storeDir, &pebble.Options{FS: mem, Logger: quiet{}, FormatMajorVersion: pebble.FormatMajorVersion(replica.StoreFormat), DisableWAL: true})
	must(err)
	return db
}
