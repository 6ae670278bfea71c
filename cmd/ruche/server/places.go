package server

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ruche-storage/ruche/metadata/topology"
)

// place is a directory that may carry a copy of the metadata: one on a drive,
// or the one in the state directory.
type place struct {
	path   string           // of the copy
	drive  topology.DriveID // zero for the state directory
	device string           // "" if it cannot be told: then a device of its own
}

// metaName is the directory on a drive that carries a copy.
const metaName = "meta"

// indexName is what every drive holds besides its superblock.
const indexName = "idx"

func (p place) onDrive() bool { return !p.drive.IsZero() }

// where is the directory by which the operator knows a place.
func (p place) where() string {
	if p.onDrive() {
		return filepath.Dir(p.path)
	}
	return p.path
}

// sameDevice reports whether one failing device takes both places.
func (p place) sameDevice(o place) bool {
	return p.path == o.path || p.device != "" && p.device == o.device
}

// deviceCount is on how many devices places lie.
func deviceCount(places []place) int {
	var seen []place
	for _, p := range places {
		if !slices.ContainsFunc(seen, p.sameDevice) {
			seen = append(seen, p)
		}
	}
	return len(seen)
}

// autoReplicas is how many copies a new store gets, given where they may lie: as
// many devices may fail as drives may be lost, and an even number of copies
// survives no more than the odd one below it.
func autoReplicas(parity int, places []place) int {
	want := 5
	if parity < 2 {
		want = 3
	}
	n := min(want, deviceCount(places))
	return max(1, n-(n+1)%2)
}

// nextPlace chooses a place for one more copy: on a device that carries none,
// drives before the state directory; else on the device that carries the
// fewest. It returns false if all places are taken.
func nextPlace(places, taken []place) (place, bool) {
	best, least := -1, 0
	for i, p := range places {
		if slices.ContainsFunc(taken, func(t place) bool { return t.path == p.path }) {
			continue
		}
		cost := 0
		for _, t := range taken {
			if p.sameDevice(t) {
				cost += 2
			}
		}
		if !p.onDrive() {
			cost++
		}
		if best < 0 || cost < least {
			best, least = i, cost
		}
	}
	if best < 0 {
		return place{}, false
	}
	return places[best], true
}

// choosePlaces chooses where the copies of a new store lie, fewer than wanted
// if there are not as many places. One copy alone lies in the state directory:
// the local engine is never on a drive.
func choosePlaces(places []place, want int) (chosen []place) {
	if want == 1 {
		return slices.DeleteFunc(slices.Clone(places), place.onDrive)
	}
	for len(chosen) < want {
		p, ok := nextPlace(places, chosen)
		if !ok {
			break
		}
		chosen = append(chosen, p)
	}
	return chosen
}

// sharedDevices words which copies go with one failing device, a sentence for
// each such device.
func sharedDevices(chosen []place) (out []string) {
	var seen []place
	for _, p := range chosen {
		if slices.ContainsFunc(seen, p.sameDevice) {
			continue
		}
		seen = append(seen, p)
		var names []string
		for _, o := range chosen {
			if p.sameDevice(o) {
				names = append(names, o.where())
			}
		}
		if len(names) > 1 {
			out = append(out, fmt.Sprintf("the copies of the metadata in %s are on one device: its loss takes %d of %d", strings.Join(names, ", "), len(names), len(chosen)))
		}
	}
	return out
}
