package node

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node/segment"
)

// FuzzParseSuperblock: what was parsed is written so that it is parsed as the
// same again, with the fields of later versions.
func FuzzParseSuperblock(f *testing.F) {
	f.Add((&Superblock{Site: "x", Sequence: 3}).encode()[:200])
	f.Add((&Superblock{Fenced: "why", unknown: []byte{200, 2, 1, 2}}).encode()[:200])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 16 && len(b) <= superblockBytes { // or no input gets past the checksum
			b = bytes.Clone(b)
			end := min(12+int(binary.LittleEndian.Uint32(b[8:])&0xfff), len(b)-4)
			copy(b, "RcSB")
			binary.LittleEndian.PutUint32(b[8:], uint32(end-12))
			binary.LittleEndian.PutUint32(b[end:], crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)))
		}
		s, err := parseSuperblock(b)
		if err != nil {
			return
		}
		again, err := parseSuperblock(s.encode())
		if err != nil {
			t.Fatalf("%x is written as what is no superblock: %v", b, err)
		}
		if diff := cmp.Diff(s, again, cmp.AllowUnexported(Superblock{})); diff != "" {
			t.Errorf("%x is written as another: %s", b, diff)
		}
	})
}

// FuzzRow reads rows of the index: a row that is taken is written as the same
// row, under the same key.
func FuzzRow(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 3 {
		var rec metadata.Record
		for i := range rec.Shard.Chunk {
			rec.Shard.Chunk[i] = byte(random.Uint32())
		}
		rec.Type, rec.PG, rec.Shard.Index = metadata.RecordShard, 7, 3
		r := row{place: place{dir: 3, segment: segment.ID{1}, offset: 4096}, own: true, entry: segment.Entry{Record: rec}}
		f.Add(r.key(), r.value())
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		r, err := parseRow(key, value)
		if err != nil {
			return
		}
		again, err := parseRow(r.key(), r.value())
		if err != nil {
			t.Fatalf("row %+v: %v", r, err)
		}
		if diff := cmp.Diff(r, again, cmp.AllowUnexported(row{}, place{})); diff != "" {
			t.Errorf("row %x: %x is written as another: %s", key, value, diff)
		}
		if r.entry.Record.Type == metadata.RecordShard {
			if ref := parseRef(r.key()[1:]); ref != r.ref() {
				t.Errorf("the key of %v names %v", r.ref(), ref)
			}
		}
	})
}

// FuzzSegmentRow reads the rows of shared segments.
func FuzzSegmentRow(f *testing.F) {
	f.Add(fileKey(tableSegment, 1, segment.ID{2}), []byte{segmentRowVersion, 10, 5})
	f.Add(fileKey(tableSegment, 1, segment.ID{2}), append(binary.AppendUvarint([]byte{segmentRowVersion}, 1<<63), 0, segmentNewer))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		id, info, err := parseSegment(key, value)
		if err != nil {
			return
		}
		if info.bytes < 0 || info.dead < 0 {
			t.Errorf("row %x: %d bytes, %d dead", value, info.bytes, info.dead)
		}
		if again := fileKey(key[0], info.dir, id); !bytes.Equal(again, key) {
			t.Errorf("key %x is written as %x", key, again)
		}
	})
}

// FuzzDirectory: numbered directories have one name each.
func FuzzDirectory(f *testing.F) {
	f.Add("0")
	f.Add("+1")
	f.Add("4294967296")
	f.Fuzz(func(t *testing.T, name string) {
		if n, ok := parseDir(name); ok && fmt.Sprint(n) != name {
			t.Errorf("%q is directory %d", name, n)
		}
	})
}
