package commandlog

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// version begins every value.
const version = 1

// Keys of the store, and the byte that begins those of groups. The values are
// stored; never reuse one.
const (
	keyIdentity = 0x01
	keyRetired  = 0x02
	keyForced   = 0x03
	keyGroups   = 0x10
)

// A kind of a group's row is the byte behind the group in its key. The values
// are stored.
type kind byte

const (
	kindHard       kind = 0x01
	kindStart      kind = 0x02
	kindConf       kind = 0x03
	kindInstalling kind = 0x04
	kindDamaged    kind = 0x05
	kindEntry      kind = 0x10
)

// groupHead is the length of a group's keys up to the kind.
const groupHead = 1 + 4 + 1

// hashBytes is the length of a link of the chain: SHA-256, cut off.
const hashBytes = 16

type hash [hashBytes]byte

// entryHead is what comes before the data of a stored entry.
const entryHead = 1 + 1 + 8 + hashBytes

var errValue = errors.New("malformed value")

// Identity says whose log it is.
type Identity struct {
	Cluster [16]byte
	Store   [16]byte
	Replica uint64 // the store's member in all its groups; never 0, never used twice
}

func groupKey(group uint32, k kind) []byte {
	return appendGroupKey(make([]byte, 0, groupHead), group, k)
}

func appendGroupKey(b []byte, group uint32, k kind) []byte {
	return append(binary.BigEndian.AppendUint32(append(b, keyGroups), group), byte(k))
}

func entryKey(group uint32, index uint64) []byte {
	return appendEntryKey(make([]byte, 0, groupHead+8), group, index)
}

func appendEntryKey(b []byte, group uint32, index uint64) []byte {
	return binary.BigEndian.AppendUint64(appendGroupKey(b, group, kindEntry), index)
}

// parseKey undoes groupKey and entryKey; index is 0 for other rows.
func parseKey(key []byte) (group uint32, k kind, index uint64, err error) {
	if len(key) < groupHead || key[0] != keyGroups {
		return 0, 0, 0, fmt.Errorf("key %x: %w", key, errValue)
	}
	group, k = binary.BigEndian.Uint32(key[1:]), kind(key[5])
	if k == kindEntry && len(key) == groupHead+8 {
		return group, k, binary.BigEndian.Uint64(key[groupHead:]), nil
	}
	if k == kindEntry || len(key) != groupHead {
		return 0, 0, 0, fmt.Errorf("key %x: %w", key, errValue)
	}
	return group, k, 0, nil
}

// atLeast is a length of a value that may be longer.
func atLeast(n int) int { return -n - 1 }

// cutVersion returns a value behind its version byte, which must have length
// bytes, or be of a length that atLeast made.
func cutVersion(v []byte, length int) ([]byte, error) {
	if len(v) == 0 {
		return nil, errValue
	}
	if v[0] != version {
		return nil, fmt.Errorf("%w: %d, this program knows %d", ErrVersion, v[0], version)
	}
	if n := len(v) - 1; length >= 0 && n != length || length < 0 && n < -length-1 {
		return nil, errValue
	}
	return v[1:], nil
}

func (id Identity) encode() []byte {
	b := append([]byte{version}, id.Cluster[:]...)
	b = append(b, id.Store[:]...)
	return binary.BigEndian.AppendUint64(b, id.Replica)
}

func decodeIdentity(v []byte) (id Identity, err error) {
	if v, err = cutVersion(v, 40); err != nil {
		return id, err
	}
	copy(id.Cluster[:], v)
	copy(id.Store[:], v[16:])
	id.Replica = binary.BigEndian.Uint64(v[32:])
	return id, nil
}

// hard is a group's HardState.
type hard struct{ term, vote, commit uint64 }

func (h hard) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{version}, h.term)
	b = binary.BigEndian.AppendUint64(b, h.vote)
	return binary.BigEndian.AppendUint64(b, h.commit)
}

func decodeHard(v []byte) (h hard, err error) {
	if v, err = cutVersion(v, 24); err != nil {
		return h, err
	}
	return hard{binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:]), binary.BigEndian.Uint64(v[16:])}, nil
}

// start is the mark in front of a group's first entry.
type start struct {
	index, term uint64
	hash        hash
}

func (s start) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{version}, s.index)
	b = binary.BigEndian.AppendUint64(b, s.term)
	return append(b, s.hash[:]...)
}

func decodeStart(v []byte) (s start, err error) {
	if v, err = cutVersion(v, 16+hashBytes); err != nil {
		return s, err
	}
	s.index, s.term = binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])
	copy(s.hash[:], v[16:])
	return s, nil
}

// encodeConf encodes the configuration that a log began with.
func encodeConf(c *pb.ConfState) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend([]byte{version}, c)
	if err != nil {
		return nil, fmt.Errorf("commandlog: configuration: %w", err)
	}
	return b, nil
}

func decodeConf(v []byte) (*pb.ConfState, error) {
	v, err := cutVersion(v, atLeast(0))
	if err != nil {
		return nil, err
	}
	c := new(pb.ConfState)
	if err := proto.Unmarshal(v, c); err != nil {
		return nil, fmt.Errorf("%w: %w", errValue, err)
	}
	return pb.EnsureConfState(c), nil
}

func (i Installing) encode() []byte {
	b := append([]byte{version}, i.Snapshot[:]...)
	b = binary.BigEndian.AppendUint64(b, i.Index)
	return binary.BigEndian.AppendUint64(b, i.Term)
}

func decodeInstalling(v []byte) (i Installing, err error) {
	if v, err = cutVersion(v, 32); err != nil {
		return i, err
	}
	copy(i.Snapshot[:], v)
	i.Index, i.Term = binary.BigEndian.Uint64(v[16:]), binary.BigEndian.Uint64(v[24:])
	return i, nil
}

func (d Damage) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{version}, d.Index)
	return append(b, d.Reason...)
}

func decodeDamage(v []byte) (d Damage, err error) {
	if v, err = cutVersion(v, atLeast(8)); err != nil {
		return d, err
	}
	return Damage{Index: binary.BigEndian.Uint64(v), Reason: string(v[8:])}, nil
}

func appendEntry(b []byte, e *pb.Entry, h hash) []byte {
	b = append(b, version, byte(e.GetType()))
	b = binary.BigEndian.AppendUint64(b, e.GetTerm())
	b = append(b, h[:]...)
	return append(b, e.GetData()...)
}

// decodeEntry returns the entry of an index and the hash stored with it. The
// entry keeps no reference to v.
func decodeEntry(index uint64, v []byte) (*pb.Entry, hash, error) {
	v, err := cutVersion(v, atLeast(entryHead-1))
	if err != nil {
		return nil, hash{}, err
	}
	t := pb.EntryType(v[0])
	if t > pb.EntryConfChangeV2 {
		return nil, hash{}, fmt.Errorf("%w: entry type %d", errValue, t)
	}
	e := &pb.Entry{Index: new(index), Term: new(binary.BigEndian.Uint64(v[1:])), Type: t.Enum()}
	var h hash
	copy(h[:], v[9:])
	if data := v[9+hashBytes:]; len(data) > 0 {
		e.Data = append([]byte(nil), data...)
	}
	return e, h, nil
}

// firstHash is the hash of a start that no entry stands behind.
func firstHash(id Identity, group uint32, index, term uint64) hash {
	b := append([]byte("ruche command log\x00"), id.Cluster[:]...)
	b = append(b, id.Store[:]...)
	b = binary.BigEndian.AppendUint32(b, group)
	b = binary.BigEndian.AppendUint64(b, index)
	b = binary.BigEndian.AppendUint64(b, term)
	sum := sha256.Sum256(b)
	return hash(sum[:hashBytes])
}

// link is the hash of an entry behind one with the hash before.
func link(before hash, e *pb.Entry) hash {
	var head [hashBytes + 17]byte
	copy(head[:], before[:])
	binary.BigEndian.PutUint64(head[hashBytes:], e.GetIndex())
	binary.BigEndian.PutUint64(head[hashBytes+8:], e.GetTerm())
	head[hashBytes+16] = byte(e.GetType())
	d := sha256.New()
	d.Write(head[:])
	d.Write(e.GetData())
	var sum [sha256.Size]byte
	return hash(d.Sum(sum[:0])[:hashBytes])
}
