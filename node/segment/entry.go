package segment

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
)

// Entry is what a seal and the index of a drive keep of one record: its place
// and everything its header says.
type Entry struct {
	Offset      int64
	Bytes       int64 // of the whole record with the zeros behind it
	HeaderBytes int
	Body        int64
	ChunkBytes  int64
	Damaged     bool // the footer is missing or bad: kept until a lookup says what it was

	Born    uint64
	Record  metadata.Record
	Unknown []byte
}

const (
	entryVersion = 1
	entryDamaged = 1
	minEntry     = 9 // bytes of the shortest entry
)

// NewEntry returns the entry of a record of which header and footer were read.
// f is nil if the footer is bad.
func NewEntry(h *Header, headerBytes int, f *Footer, recordBytes int64) Entry {
	e := Entry{
		Offset: h.Offset, Bytes: recordBytes, HeaderBytes: headerBytes, Body: max(h.Body, 0),
		Damaged: f == nil, Born: h.Born, Record: h.Record, Unknown: h.Unknown,
	}
	if f != nil {
		e.Body, e.ChunkBytes = f.Body, f.ChunkBytes
	}
	return e
}

// AppendEntry appends the encoded entry to dst.
func AppendEntry(dst []byte, e *Entry) []byte {
	flags := byte(0)
	if e.Damaged {
		flags |= entryDamaged
	}
	dst = append(dst, entryVersion, flags, byte(e.Record.Type))
	dst = binary.AppendUvarint(dst, uint64(e.Offset))
	dst = binary.AppendUvarint(dst, uint64(e.Bytes))
	dst = binary.AppendUvarint(dst, uint64(e.HeaderBytes))
	dst = binary.AppendUvarint(dst, uint64(e.Body))
	dst = binary.AppendUvarint(dst, uint64(e.ChunkBytes))
	h := Header{Born: e.Born, Record: e.Record, Unknown: e.Unknown}
	return appendFields(dst, &h)
}

// ParseEntry parses src, which must be exactly one entry.
func ParseEntry(src []byte) (Entry, error) {
	var e Entry
	if len(src) < minEntry-1 {
		return e, fmt.Errorf("%w: entry of %d bytes", ErrBad, len(src))
	}
	if src[0] != entryVersion {
		return e, fmt.Errorf("%w: entry of version %d", ErrIncompatible, src[0])
	}
	e.Damaged = src[1]&entryDamaged != 0
	var h Header
	h.Record.Type = metadata.RecordType(src[2])
	src = src[3:]
	var numbers [5]int64
	for i := range numbers {
		v, n := binary.Uvarint(src)
		if n <= 0 || v > 1<<62 {
			return e, fmt.Errorf("%w: number of an entry", ErrBad)
		}
		numbers[i], src = int64(v), src[n:]
	}
	e.Offset, e.Bytes, e.Body, e.ChunkBytes = numbers[0], numbers[1], numbers[3], numbers[4]
	if e.Offset%Align != 0 || numbers[2] > MaxHeaderBytes || e.Body > MaxBodyBytes {
		return e, fmt.Errorf("%w: entry at %d with header %d and body %d", ErrBad, e.Offset, numbers[2], e.Body)
	}
	e.HeaderBytes = int(numbers[2])
	if err := parseFields(src, &h); err != nil {
		return e, err
	}
	e.Born, e.Record, e.Unknown = h.Born, h.Record, h.Unknown
	return e, nil
}

// AppendSeal appends the body of a seal record to dst: the entries in the
// order of type, placement group, chunk, index and offset. It sorts entries in
// place.
func AppendSeal(dst []byte, entries []Entry) []byte {
	slices.SortFunc(entries, compareEntries)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(entries)))
	var one []byte
	for i := range entries {
		one = AppendEntry(one[:0], &entries[i])
		dst = binary.AppendUvarint(dst, uint64(len(one)))
		dst = append(dst, one...)
	}
	return dst
}

func compareEntries(a, b Entry) int {
	return cmp.Or(
		cmp.Compare(a.Record.Type, b.Record.Type),
		cmp.Compare(a.Record.PG, b.Record.PG),
		bytes.Compare(a.Record.Shard.Chunk[:], b.Record.Shard.Chunk[:]),
		cmp.Compare(a.Record.Shard.Index, b.Record.Shard.Index),
		cmp.Compare(a.Offset, b.Offset),
	)
}

// ParseSeal parses the body of a seal record.
func ParseSeal(src []byte) ([]Entry, error) {
	if len(src) < 4 {
		return nil, fmt.Errorf("%w: seal of %d bytes", ErrBad, len(src))
	}
	count := int(binary.LittleEndian.Uint32(src))
	src = src[4:]
	if count > len(src)/minEntry {
		return nil, fmt.Errorf("%w: seal of %d entries in %d bytes", ErrBad, count, len(src))
	}
	entries := make([]Entry, 0, min(count, 1<<10)) // grows with what is really there
	for range count {
		length, n := binary.Uvarint(src)
		if n <= 0 || length > uint64(len(src)-n) {
			return nil, fmt.Errorf("%w: entry of a seal runs over the end", ErrBad)
		}
		e, err := ParseEntry(src[n : n+int(length)])
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
		src = src[n+int(length):]
	}
	if len(src) != 0 {
		return nil, fmt.Errorf("%w: %d bytes behind the last entry of a seal", ErrBad, len(src))
	}
	return entries, nil
}
