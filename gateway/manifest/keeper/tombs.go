package keeper

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/ruche-storage/ruche/metadata"
)

// keyHash stands for a key of a bucket.
type keyHash [16]byte

func hashOf(k metadata.KeyRef) keyHash {
	sum := sha256.Sum256(append(append(make([]byte, 0, len(k.Bucket)+len(k.Key)), k.Bucket[:]...), k.Key...))
	return keyHash(sum[:])
}

// share is the part of all keys whose tombstones a pass weighs: those of which
// the low bits of the hash have a value. So memory is bounded, and in the end
// every key has its turn.
type share struct {
	bits  uint
	value uint64
}

func (s share) has(h keyHash) bool {
	return binary.LittleEndian.Uint64(h[:])&(1<<s.bits-1) == s.value
}

// tombsMax is how many keys a pass remembers at most, of each kind: about 30
// MiB together.
const tombsMax = 256 << 10

// tombs finds out, in one pass, which tombstones kill nothing any more.
type tombs struct {
	share  share
	most   int // keys of each kind
	stones map[keyHash]stone
	killed map[keyHash]uint64 // lowest order of a manifest that a tombstone kills
}

// stone is the newest tombstone of a key.
type stone struct {
	order uint64
	group uint32
}

func newTombs(s share) *tombs {
	return &tombs{share: s, most: tombsMax, stones: make(map[keyHash]stone), killed: make(map[keyHash]uint64)}
}

// kill notes a manifest of a key that is gone. It needs its tombstone even if
// it is about to be freed: that may be undone by a crash.
func (t *tombs) kill(k metadata.KeyRef, order uint64) {
	h := hashOf(k)
	if !t.share.has(h) {
		return
	}
	if old, known := t.killed[h]; !known || order < old {
		t.killed[h] = order
		t.shrink()
	}
}

// stone notes a tombstone of a key that is gone, and reports whether the pass
// before has found that it is needless. It counts only if settled: it had been
// written to all drives before the pass began.
func (t *tombs) stone(k metadata.KeyRef, order uint64, group uint32, settled bool, needless map[keyHash]uint64) bool {
	h := hashOf(k)
	if settled && t.share.has(h) && t.stones[h].order < order {
		t.stones[h] = stone{order: order, group: group}
		t.shrink()
	}
	return needless[h] >= order
}

// shrink halves the share until there are few enough keys.
func (t *tombs) shrink() {
	for len(t.stones) > t.most || len(t.killed) > t.most {

		t.share.bits++
		for h := range t.stones {
			if !t.share.has(h) {
				delete(t.stones, h)
			}
		}
		for h := range t.killed {
			if !t.share.has(h) {
				delete(t.killed, h)
			}
		}
	}
}

// next returns the share of the next pass.
func (t *tombs) next() share {
	s := t.share
	if s.bits > 0 && len(t.stones) < t.most/4 && len(t.killed) < t.most/4 {
		s.bits--
	}
	s.value = (s.value + 1) & (1<<s.bits - 1)
	return s
}

// needless returns the tombstones, by the newest of each key, that kill nothing
// that the pass has seen. A group of which it has not seen everything has none.
func (t *tombs) needless(s *scan) map[keyHash]uint64 {
	if s.hung || s.k.o.Drives.Hanging() {
		return nil
	}
	orders := make(map[keyHash]uint64)
	for h, stone := range t.stones {
		if s.groups[stone.group].missed {
			continue
		}
		if lowest, kills := t.killed[h]; !kills || lowest > stone.order {
			orders[h] = stone.order
		}
	}
	return orders
}
