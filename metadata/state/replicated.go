package state

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
)

// SetRaft says which entry of a group's log the rows will be the state of once
// the batch is committed. It counts as no command.
func (b *Batch) SetRaft(groupID uint32, p *metadata.RaftPosition) error {
	if b.err != nil {
		return b.err
	}
	b.key = appendHead(b.key[:0], groupID, tableRaft)
	return b.set(b.key, p)
}

// Raft returns which entry of a group's log its rows are the state of, and
// false if no replicated engine ever wrote here.
func (v View) Raft(group uint32) (metadata.RaftPosition, bool, error) {
	var p metadata.RaftPosition
	found, err := get(v.r, appendHead(nil, group, tableRaft), &p)
	return p, found, err
}

// CommandVersion returns the command version of a group, 1 unless it was
// raised.
func (v View) CommandVersion(group uint32) (uint16, error) { return commandVersion(v.r, group) }

func commandVersion(r pebble.Reader, group uint32) (uint16, error) {
	row := metadata.ClusterVersion{}
	_, err := get(r, appendHead(nil, group, tableVersion), &row)
	return max(row.Version, 1), err
}

// Stores returns the stores that the cluster wants, an empty table before the
// first.
func (v View) Stores() (*metadata.StoreTable, error) {
	t := new(metadata.StoreTable)
	_, err := get(v.r, appendHead(nil, metadata.RootGroup, tableStores), t)
	return t, err
}

// raiseVersion raises the group's command version. Raising it to what it is, or
// was, does nothing.
func (a *applier) raiseVersion(v *metadata.ClusterVersion) (rejected, err error) {
	if v.Version == 0 {
		return metadata.ErrInvalidCommand, nil
	}
	if v.Version > a.m.knows {
		return nil, fmt.Errorf("%w: command version %d, this program knows %d: start a newer one",
			metadata.ErrUnknownKind, v.Version, a.m.knows)
	}
	if v.Version <= a.g.version {
		return nil, nil
	}
	a.g.version = v.Version
	key := appendHead(nil, a.g.id, tableVersion)
	if a.g.id == metadata.RootGroup {
		return nil, a.setRoot(key, v)
	}
	return nil, a.set(key, v)
}

// putStores replaces the table of stores by a later version.
func (a *applier) putStores(t *metadata.StoreTable) (rejected, err error) {
	var old metadata.StoreTable
	key := appendHead(nil, a.g.id, tableStores)
	found, err := get(a.b, key, &old)
	if err != nil {
		return nil, err
	}
	if found && t.Version <= old.Version {
		return sameTable(t.Version == old.Version, t, &old), nil
	}
	if !followsOn(t, &old) {
		return metadata.ErrInvalidCommand, nil
	}
	return nil, a.setRoot(key, t)
}

// followsOn reports whether a table of stores may come after another: it
// contradicts itself in nothing, wants a voter, forgets no store, and brings
// none back.
func followsOn(t, old *metadata.StoreTable) bool {
	voters := 0
	ids, replicas := make(map[[16]byte]bool), make(map[uint64]bool)
	for i := range t.Stores {
		s := &t.Stores[i]
		if s.Replica == 0 || replicas[s.Replica] || s.Role < metadata.StoreVoter || s.Role > metadata.StoreGone {
			return false
		}
		replicas[s.Replica] = true
		if s.Role == metadata.StoreGone {
			continue
		}
		if ids[s.ID] || s.ID == [16]byte{} {
			return false
		}
		ids[s.ID] = true
		if s.Role == metadata.StoreVoter {
			voters++
		}
	}
	for i := range old.Stores {
		before := &old.Stores[i]
		now := t.Find(before.Replica)
		if now == nil || now.ID != before.ID || before.Role == metadata.StoreGone && now.Role != metadata.StoreGone {
			return false
		}
	}
	return voters > 0
}

// checkEvery is after how many bytes SpanHash looks whether to go on.
const checkEvery = 1 << 20

// SpanHash returns the SHA-256 of a group's keys and values, each behind its
// length, in order. The row of [metadata.RaftPosition] is left out, so that the
// same commands give the same hash under every engine. It reads the whole span
// and stops early when ctx ends.
func SpanHash(ctx context.Context, r pebble.Reader, group uint32) (metadata.Sum, error) {
	sum, err := spanHash(ctx, r, group)
	if err != nil {
		return metadata.Sum{}, fmt.Errorf("state: hash of group %d: %w", group, err)
	}
	return sum, nil
}

func spanHash(ctx context.Context, r pebble.Reader, group uint32) (sum metadata.Sum, err error) {
	iter, err := span(r, binary.BigEndian.AppendUint32(nil, group))
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	h := sha256.New()
	var lengths [16]byte
	read := 0
	for iter.First(); iter.Valid(); iter.Next() {
		key, value := iter.Key(), iter.Value()
		if len(key) < keyHead {
			return sum, errKey
		}
		if table(key[keyHead-1]) == tableRaft {
			continue
		}
		binary.BigEndian.PutUint64(lengths[:], uint64(len(key)))
		binary.BigEndian.PutUint64(lengths[8:], uint64(len(value)))
		h.Write(lengths[:])
		h.Write(key)
		h.Write(value)
		if read += len(key) + len(value); read >= checkEvery {
			read = 0
			if ctx.Err() != nil {
				return sum, context.Cause(ctx)
			}
		}
	}
	h.Sum(sum[:0])
	return sum, iter.Error()
}

// SpanHash returns the hash of a group's rows, see [SpanHash].
func (v View) SpanHash(ctx context.Context, group uint32) (metadata.Sum, error) {
	return SpanHash(ctx, v.r, group)
}
