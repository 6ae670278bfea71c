package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/ruche-storage/ruche/metadata/replica"
)

// Beside each copy of the metadata lies a file that says how far it has come:
// meta.reached on drives, metadata.reached in the state directory. It is written
// behind what is on stable storage, so a copy that knows less was put back to an
// earlier time, or has lost the end of its log. The one copy that there is
// without consensus says so on every drive, too, for the case that the whole
// state directory is put back.
//
// The file is two slots, which are written in turn: one that a loss of power cut
// off in the middle leaves the other. A slot is a line of JSON, filled up with
// spaces, and its checksum. Losing the file loses a check, and nothing else.

const (
	reachedFormat = 1
	reachedSuffix = ".reached"
	slotBytes     = 1024
	sumBytes      = 9 // eight digits and a line feed
)

// reached says how far a copy has come.
type reached struct {
	Format   int    `json:"format"`
	Sequence uint64 `json:"sequence"` // of the slots of one file
	Cluster  id128  `json:"cluster"`
	// Store and Replica are zero for the copy without consensus.
	Store   id128  `json:"store"`
	Replica uint64 `json:"replica"`
	// Incarnation is that of the metadata. Positions of an earlier one say
	// nothing: a restore has ended that history. Copies that agree by consensus
	// get another number then, and it is zero.
	Incarnation uint64 `json:"incarnation"`
	// Positions are of the last change of each group.
	Positions []uint64 `json:"positions"`
}

// same reports whether two say the same.
func (r *reached) same(o *reached) bool {
	return r.Cluster == o.Cluster && r.Store == o.Store && r.Replica == o.Replica && r.Incarnation == o.Incarnation && slices.Equal(r.Positions, o.Positions)
}

// missing is how many changes a copy at these positions lacks.
func (r *reached) missing(positions []uint64) (n uint64) {
	for g, at := range r.Positions {
		if g < len(positions) && positions[g] < at {
			n += at - positions[g]
		}
	}
	return n
}

func reachedPath(dir string) string { return dir + reachedSuffix }

// slot encodes r.
func (r *reached) slot() ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if len(text) > slotBytes-sumBytes {
		return nil, fmt.Errorf("%d bytes do not fit a slot", len(text))
	}
	text = append(text, bytes.Repeat([]byte{' '}, slotBytes-sumBytes-len(text))...)
	return fmt.Appendf(text, "%08x\n", slotSum(text)), nil
}

func slotSum(text []byte) uint32 { return crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)) }

// parseReached returns the newest of the slots that are whole, nil if none is.
func parseReached(text []byte) (newest *reached) {
	for slot := range slices.Chunk(text, slotBytes) {
		if len(slot) < slotBytes {
			continue
		}
		body, digits := slot[:slotBytes-sumBytes], slot[slotBytes-sumBytes:slotBytes-1]
		if sum, err := strconv.ParseUint(string(digits), 16, 32); err != nil || uint32(sum) != slotSum(body) {
			continue
		}
		r := new(reached)
		if err := json.Unmarshal(body, r); err != nil || r.Format != reachedFormat {
			continue
		}
		if newest == nil || r.Sequence > newest.Sequence {
			newest = r
		}
	}
	return newest
}

// readReached returns what the file beside a copy says, nil if there is none or
// it says nothing of this cluster.
func (p *process) readReached(name string) *reached {
	text, err := readBounded(name, 2*slotBytes)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			p.Log.Warn("how far a copy of the metadata had come is not known", "path", name, "err", err)
		}
		return nil
	}
	r := parseReached(text)
	if r == nil || r.Cluster != p.id.Cluster {
		return nil
	}
	return r
}

// knownReached is how far a copy of the list had come, nil if that is not known.
func (p *process) knownReached(row *storeRow, dir string) []uint64 {
	r := p.readReached(reachedPath(dir))
	if r == nil || r.Store != row.Store || r.Replica != row.Replica {
		return nil
	}
	return r.Positions
}

// removeReached forgets how far a copy had come that is not used any more.
func removeReached(dir string) error {
	if err := os.Remove(reachedPath(dir)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// lostChanges is how many changes the only copy of the metadata has lost that
// were on stable storage: as it was opened, it knew less than the files know
// that lie beside it and on the drives. What is of a later incarnation counts
// as well, with at least one.
func (p *process) lostChanges(incarnation uint64) (lost uint64) {
	if p.opened == nil {
		return 0 // those that agree by consensus were looked at one by one
	}
	names := []string{reachedPath(p.localPath())}
	for _, d := range p.node.Drives() {
		names = append(names, farReached(d.Path()))
	}
	answers := make(chan uint64, len(names))
	for _, name := range names {
		go func() { // outlives the call only if a drive hangs
			n := uint64(0)
			if r := p.readReached(name); r != nil && r.Replica == 0 && r.Incarnation >= incarnation {
				n = r.missing(p.opened)
				if r.Incarnation > incarnation {
					n = max(n, 1)
				}
			}
			answers <- n
		}()
	}
	late := time.NewTimer(markPatience)
	defer late.Stop()
	for range names {
		select {
		case n := <-answers:
			lost = max(lost, n)
		case <-late.C:
			p.Log.Error("a drive does not say how far the metadata had come")
			return lost
		}
	}
	return lost
}

// farReached is where a drive says how far the copy in the state directory has
// come.
func farReached(drive string) string { return filepath.Join(drive, "metadata"+reachedSuffix) }

// isRolledBack reports whether a copy was refused because it knows less than it
// did.
func isRolledBack(err error) bool {
	_, is := errors.AsType[*replica.RolledBackError](err)
	return is
}
