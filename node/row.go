package node

import (
	"encoding/binary"
	"fmt"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node/segment"
)

// place is where a record lies.
type place struct {
	dir     uint32
	segment segment.ID
	offset  int64
}

func (p place) appendTo(key []byte) []byte {
	key = appendFileKey(key, p.dir, p.segment)
	return binary.BigEndian.AppendUint64(key, uint64(p.offset))
}

func parsePlace(key []byte) place {
	return place{
		dir:     binary.BigEndian.Uint32(key),
		segment: segment.ID(key[4:20]),
		offset:  int64(binary.BigEndian.Uint64(key[20:])),
	}
}

func appendFileKey(key []byte, dir uint32, id segment.ID) []byte {
	return append(binary.BigEndian.AppendUint32(key, dir), id[:]...)
}

func fileKey(table byte, dir uint32, id segment.ID) []byte {
	return appendFileKey([]byte{table}, dir, id)
}

// row is one record of the index.
type row struct {
	place
	own   bool // the record has a file of its own
	sound bool // its header was read lately; never stored
	entry segment.Entry
}

func (r *row) ref() metadata.ShardRef { return r.entry.Record.Ref() }

const rowOwn = 1

// key returns the key of r in the table of its type.
func (r *row) key() []byte {
	if r.entry.Record.Type == metadata.RecordShard {
		key := append(make([]byte, 0, refKeyBytes+placeKeyBytes), tableShard)
		return r.place.appendTo(appendRef(key, r.ref()))
	}
	key := binary.BigEndian.AppendUint64([]byte{tableRecord, byte(r.entry.Record.Type)}, r.entry.Born)
	return r.place.appendTo(key)
}

// idKey returns the key by which a record that is not a shard is found.
func (r *row) idKey() []byte {
	id := r.entry.Record.Shard.Bytes()
	return r.place.appendTo(append([]byte{tableByID}, id[:]...))
}

func (r *row) value() []byte {
	flags := byte(0)
	if r.own {
		flags |= rowOwn
	}
	return segment.AppendEntry(append(make([]byte, 0, 192), flags), &r.entry)
}

func parseRow(key, value []byte) (row, error) {
	if len(key) < placeKeyBytes || len(value) < 1 {
		return row{}, fmt.Errorf("node: index row %x: %w", key, metadata.ErrCorrupt)
	}
	e, err := segment.ParseEntry(value[1:])
	if err != nil {
		return row{}, fmt.Errorf("node: index row %x: %w", key, err)
	}
	return row{place: parsePlace(key[len(key)-placeKeyBytes:]), own: value[0]&rowOwn != 0, entry: e}, nil
}

func appendRef(key []byte, ref metadata.ShardRef) []byte {
	id := ref.Shard.Bytes()
	return append(binary.BigEndian.AppendUint32(key, ref.PG), id[:]...)
}

func parseRef(b []byte) metadata.ShardRef {
	ref := metadata.ShardRef{PG: binary.BigEndian.Uint32(b)}
	copy(ref.Shard.Chunk[:], b[4:20])
	ref.Shard.Index = b[20]
	return ref
}
