package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/ruche-storage/ruche/metadata"
)

// A table is the fifth byte of every key. The values are stored; never reuse
// one. FORMAT.md describes them.
type table byte

const (
	tableHead    table = 0x01
	tableFence   table = 0x02
	tablePGs     table = 0x03
	tableResults table = 0x04
	tableExpiry  table = 0x05
	tableRaft    table = 0x06
	tableVersion table = 0x07
	tableMembers table = 0x08

	tableAccounts    table = 0x10
	tableAccessKeys  table = 0x11
	tableDrives      table = 0x12
	tableNames       table = 0x13
	tableBucketIDs   table = 0x14
	tableIncarnation table = 0x15
	tableStores      table = 0x16

	tableSettings  table = 0x20
	tableUsage     table = 0x21
	tableCurrent   table = 0x22
	tableVersions  table = 0x23
	tableNulls     table = 0x24
	tableUploads   table = 0x25
	tablePlaces    table = 0x26
	tableParts     table = 0x27
	tableLists     table = 0x28
	tableChunks    table = 0x29
	tableOwners    table = 0x2a
	tableInline    table = 0x2b
	tableCompleted table = 0x2c
	tableTrash     table = 0x2d
	tableShort     table = 0x2e
	tableOutbox    table = 0x2f
)

// keyHead is the length of the group and table of a key, bucketHead with the
// bucket's id behind them.
const (
	keyHead    = 5
	bucketHead = keyHead + 16
)

var errKey = errors.New("state: malformed key")

func appendHead(k []byte, group uint32, t table) []byte {
	return append(binary.BigEndian.AppendUint32(k, group), byte(t))
}

func appendBucket(k []byte, group uint32, t table, b metadata.BucketID) []byte {
	return append(appendHead(k, group, t), b[:]...)
}

// appendEscaped appends an object key so that keys sort bytewise whatever
// follows them: a zero byte becomes 0x00 0xff. Without the terminator it is a
// prefix of every key that begins with s.
func appendEscaped(k []byte, s string) []byte {
	for {
		i := strings.IndexByte(s, 0)
		if i < 0 {
			return append(k, s...)
		}
		k = append(append(k, s[:i]...), 0x00, 0xff)
		s = s[i+1:]
	}
}

// appendKey appends an object key and its terminator, 0x00 0x01.
func appendKey(k []byte, s string) []byte { return append(appendEscaped(k, s), 0x00, 0x01) }

// cutKey undoes appendKey: it returns the object key at the start of k and what
// is behind its terminator.
func cutKey(k []byte) (key string, rest []byte, err error) {
	i := bytes.IndexByte(k, 0)
	if i >= 0 && i+1 < len(k) && k[i+1] == 0x01 {
		return string(k[:i]), k[i+2:], nil
	}
	var s []byte
	for {
		if i < 0 || i+1 >= len(k) {
			return "", nil, fmt.Errorf("%w: no end of the object key", errKey)
		}
		s = append(s, k[:i]...)
		switch k[i+1] {
		case 0x01:
			return string(s), k[i+2:], nil
		case 0xff:
			s = append(s, 0x00)
		default:
			return "", nil, fmt.Errorf("%w: bad escape", errKey)
		}
		k = k[i+2:]
		i = bytes.IndexByte(k, 0)
	}
}

// after returns the least key that is greater than every key that begins with
// prefix. Keys begin with a group and a table below 0xff, so there is one.
func after(prefix []byte) []byte {
	p := bytes.Clone(prefix)
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] != 0xff {
			p[i]++
			return p[:i+1]
		}
	}
	panic("state: no key is greater")
}

func objectKey(k []byte, group uint32, t table, b metadata.BucketID, key string) []byte {
	return appendKey(appendBucket(k, group, t, b), key)
}

// versionKey is of tableVersions: later orders sort first.
func versionKey(k []byte, group uint32, b metadata.BucketID, key string, order uint64) []byte {
	return binary.BigEndian.AppendUint64(objectKey(k, group, tableVersions, b, key), ^order)
}

func uploadKey(k []byte, group uint32, b metadata.BucketID, key string, order uint64, id metadata.UploadID) []byte {
	k = binary.BigEndian.AppendUint64(objectKey(k, group, tableUploads, b, key), order)
	return append(k, id[:]...)
}

// idKey is of the tables that are keyed by an upload or part id and, if
// numbered, a number.
func idKey(k []byte, group uint32, t table, b metadata.BucketID, id [16]byte) []byte {
	return append(appendBucket(k, group, t, b), id[:]...)
}

func numberKey(k []byte, group uint32, t table, b metadata.BucketID, id [16]byte, number uint32) []byte {
	return binary.BigEndian.AppendUint32(idKey(k, group, t, b, id), number)
}

func resultKey(k []byte, group uint32, epoch uint64, id metadata.RequestID) []byte {
	k = binary.BigEndian.AppendUint64(appendHead(k, group, tableResults), epoch)
	return append(k, id[:]...)
}

func orderKey(k []byte, group uint32, t table, order uint64) []byte {
	return binary.BigEndian.AppendUint64(appendHead(k, group, t), order)
}

func nameKey(k []byte, t table, name string) []byte {
	return append(appendHead(k, metadata.RootGroup, t), name...)
}
