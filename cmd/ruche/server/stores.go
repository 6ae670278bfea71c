package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/ruche-storage/ruche/metadata/topology"
)

const (
	storesFormat = 1
	storesName   = "metadata.json"
)

// How far the copies of a new store have come.
const (
	storesMaking = "making" // nothing was ever stored in them
	storesReady  = "ready"
)

// storeList is metadata.json: which copies of the metadata there are, and where.
// It is durable before a copy is used for the first time, and a number that it
// has given is never given again: a directory that does not hold what the list
// says is not this copy, whatever it looks like.
//
// Without the file, or with an empty list, there is one copy without consensus,
// in the state directory.
type storeList struct {
	Format  int    `json:"format"`
	Cluster id128  `json:"cluster"`
	Phase   string `json:"phase"`
	// Setting is the value of metadata-replicas that was last carried out. Only
	// another one makes a start change what operators have chosen since.
	Setting string `json:"setting"`
	// Lost are the numbers of copies that were given up when one was forced. If
	// they come back, they are set aside and not deleted.
	Lost []uint64 `json:"lost,omitempty"`
	// Generation rises with every start and more often. No marker of a copy is
	// ahead of the newest list: see nextGeneration.
	Generation uint64 `json:"generation,omitempty"`
	// Next is the next number of a copy.
	Next   uint64     `json:"next"`
	Stores []storeRow `json:"stores"`
}

// How far a copy has come.
const (
	// storeNew copies are being made: nothing has been promised in their name,
	// and what lies there is made anew.
	storeNew = "new"
	// storeGrowing is the one copy that there was, while it gets its log.
	storeGrowing = "growing"
	storeReady   = "ready"
	// storeLeaving copies are not wanted any more; the others go on without
	// them as soon as they can.
	storeLeaving = "leaving"
	// storeShrinking is the one copy that is left, while it loses its log.
	storeShrinking = "shrinking"
	// storeForced is the copy that is being made the truth, offline.
	storeForced = "forced"
	// storeGone copies are members no more; their directories are deleted.
	storeGone = "gone"
)

// storeRow is one copy.
type storeRow struct {
	Replica uint64           `json:"replica"`
	Store   id128            `json:"store"`
	Path    string           `json:"path"`
	Drive   topology.DriveID `json:"drive,omitzero"` // zero: in the state directory
	State   string           `json:"state"`
	Created time.Time        `json:"created"`
	// Stale copies lie in a state directory that was put back: they are not
	// opened under their number again.
	Stale bool `json:"stale,omitempty"`
}

// readStores returns nil if there is no list.
func readStores(dir string, cluster id128) (*storeList, error) {
	name := filepath.Join(dir, storesName)
	text, err := readFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fileError("read "+name, err)
	}
	var l storeList
	if err = json.Unmarshal(text, &l); err == nil {
		err = l.check()
	}
	switch {
	case err != nil:
		return nil, &StartError{Damaged, name, "restore the state directory from its backup", err}
	case l.Format != storesFormat:
		return nil, &StartError{Damaged, fmt.Sprintf("%s has format %d, this program knows %d", name, l.Format, storesFormat), "start the version of ruche that wrote it", nil}
	case l.Cluster != cluster:
		return nil, &StartError{ForeignState, fmt.Sprintf("%s is of cluster %s, not of this one (%s)", name, l.Cluster, cluster), "restore the state directory from its backup", nil}
	}
	return &l, nil
}

// check refuses a list that contradicts itself. Where a copy on a drive was seen
// last may be where another drive is mounted by now; and a copy that leaves may
// lie where the one is made that takes its place.
func (l *storeList) check() error {
	type where struct {
		path  string
		drive topology.DriveID
	}
	seen := make(map[uint64]bool)
	taken := make(map[where]bool)
	for _, s := range l.Stores {
		switch {
		case s.Replica == 0 || s.Replica >= l.Next || seen[s.Replica]:
			return fmt.Errorf("copy %d is listed wrongly: the next one is %d", s.Replica, l.Next)
		case s.Store == id128{} || s.Path == "":
			return fmt.Errorf("id or path of copy %d is missing", s.Replica)
		}
		seen[s.Replica] = true
		if s.State == storeGone || s.State == storeLeaving {
			continue
		}
		at := where{drive: s.Drive}
		if s.Drive.IsZero() {
			at.path = s.Path
		}
		if taken[at] {
			return fmt.Errorf("two copies lie in %s", s.Path)
		}
		taken[at] = true
	}
	return nil
}

func (l *storeList) save(dir string) error {
	name := filepath.Join(dir, storesName)
	return fileError("write "+name, writeJSON(name, l, 0o600))
}

// add gives a new copy its number. It is not saved yet.
func (l *storeList) add(p place, state string, now time.Time) *storeRow {
	l.Next = max(l.Next, 1)
	l.Stores = append(l.Stores, storeRow{Replica: l.Next, Store: newID(), Path: p.path, Drive: p.drive, State: state, Created: now.UTC().Truncate(time.Second)})
	l.Next++
	return &l.Stores[len(l.Stores)-1]
}

// drop forgets a copy. Its number stays taken.
func (l *storeList) drop(replica uint64) {
	l.Stores = slices.DeleteFunc(l.Stores, func(s storeRow) bool { return s.Replica == replica })
}

// row finds a copy, nil if there is none.
func (l *storeList) row(replica uint64) *storeRow {
	for i := range l.Stores {
		if l.Stores[i].Replica == replica {
			return &l.Stores[i]
		}
	}
	return nil
}

// carries reports whether the list has a copy on a drive, and whether that is
// being made the truth.
func (l *storeList) carries(drive topology.DriveID) (listed, forced bool) {
	if l == nil {
		return false, false
	}
	for _, s := range l.Stores {
		if s.Drive == drive {
			listed, forced = true, forced || s.State == storeForced
		}
	}
	return listed, forced
}

// replicated reports whether the copies agree by consensus. One that is being
// grown does not before its log is there.
func (l *storeList) replicated() bool { return l != nil && len(l.Stores) > 0 }

// clone copies the list.
func (l *storeList) clone() *storeList {
	c := *l
	c.Stores = slices.Clone(l.Stores)
	return &c
}
