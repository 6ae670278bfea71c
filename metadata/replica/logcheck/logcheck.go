// Package logcheck finds rot in the files that Pebble writes record by record:
// its write-ahead logs and its manifests.
//
// Pebble ends such a file at the first record that it cannot read, as a crash
// may have torn it. It looks for proof that the record was once whole, but only
// behind the 32 KiB block that the record lies in. So a flipped bit near the end
// makes it forget up to a block of what was synced, without a word. This
// package looks for that proof in the block itself:
//
//   - A chunk of a log tells up to where the log had been synced when it was
//     written. If it lies behind one that cannot be read, and tells of a sync
//     behind that one, it is rot.
//   - The current manifest is synced after every record. Behind a chunk that
//     cannot be read, one that begins another record proves rot.
//
// What the last write or two wrote has no proof, as Pebble tells of a sync only
// in what it writes later: there, rot is taken for a torn end. The formats are those of Pebble's format version 20.
package logcheck

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// ErrRot means that a file holds damage that no crash explains.
var ErrRot = errors.New("a log file of the store is damaged")

// The format of the files.
const (
	blockBytes = 32 << 10

	plainHead = 4 + 2 + 1         // checksum, length, type
	syncHead  = plainHead + 4 + 8 // log number, synced offset

	// Types of chunks: plain ones in manifests, the others in logs. Full and
	// first chunks begin a record.
	plainFull, plainFirst, plainLast = 1, 2, 4
	syncFull, syncLast               = 9, 12
)

// maxFileBytes bounds what is read into memory at once.
const maxFileBytes = 1 << 30

// Dir checks the logs and the manifest in the directory of a store that is not
// open. The error wraps [ErrRot] and names file and offset if one is damaged.
func Dir(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("logcheck: %w", err)
	}
	store, err := pebble.Peek(dir, fs)
	if err != nil {
		return fmt.Errorf("logcheck: %w", err)
	}
	manifest := fs.PathBase(store.ManifestFilename)
	for _, name := range names {
		c := checker{}
		if base, ok := strings.CutSuffix(name, ".log"); ok {
			n, err := strconv.ParseUint(base, 10, 64)
			if err != nil {
				continue // not one of Pebble's
			}
			c.log, c.number = true, uint32(n)
		} else if name != manifest || !store.Exists {
			continue
		}
		if c.data, err = read(fs, fs.PathJoin(dir, name)); err != nil {
			return fmt.Errorf("logcheck: %s: %w", name, err)
		}
		if at, proof, ok := c.rot(); ok {
			return fmt.Errorf("logcheck: %w: %s at offset %d, written before what is at offset %d", ErrRot, name, at, proof)
		}
	}
	return nil
}

func read(fs vfs.FS, path string) (data []byte, err error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err = io.ReadAll(io.LimitReader(f, maxFileBytes))
	return data, err
}

// checker checks one file.
type checker struct {
	data   []byte
	log    bool   // or a manifest
	number uint32 // of a log, its low half
}

// rot returns the offset of damage and that of the chunk that proves it.
func (c *checker) rot() (at, proof int, found bool) {
	end, trailer := c.end()
	if trailer {
		return 0, 0, false
	}
	for p := end; p+c.head() <= len(c.data); p++ {
		size, _, ok := c.chunk(p)
		if !ok {
			continue
		}
		if kind := c.data[p+6]; !c.log && kind <= plainFirst {
			return end, p, true
		} else if !c.log {
			continue
		}
		// A promise tells of what lies before it.
		synced := binary.LittleEndian.Uint64(c.data[p+plainHead+4:])
		if synced > uint64(end) && synced <= uint64(p) {
			return end, p, true
		}
		p += size - 1
	}
	return 0, 0, false
}

func (c *checker) head() int {
	if c.log {
		return syncHead
	}
	return plainHead
}

// end returns the offset behind the last chunk that can be read in order, and
// whether it is the one that ends a log on purpose.
func (c *checker) end() (at int, trailer bool) {
	for at < len(c.data) {
		if left := blockBytes - at%blockBytes; left < c.head() {
			if !zeros(c.data[at:min(at+left, len(c.data))]) {
				return at, false
			}
			at += left
			continue
		}
		size, trailer, ok := c.chunk(at)
		if !ok || trailer {
			return at, trailer
		}
		at += size
	}
	return at, false
}

func zeros(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// chunk reports whether a whole chunk of this file begins at an offset, how
// long it is, and whether it is the one behind the last of a log.
func (c *checker) chunk(at int) (size int, trailer, ok bool) {
	head := c.head()
	if at+head > len(c.data) || blockBytes-at%blockBytes < head {
		return 0, false, false
	}
	b := c.data[at:]
	size = head + int(binary.LittleEndian.Uint16(b[4:]))
	if size > len(b) || size > blockBytes-at%blockBytes {
		return 0, false, false
	}
	if kind := b[6]; c.log && (kind < syncFull || kind > syncLast) || !c.log && (kind < plainFull || kind > plainLast) {
		return 0, false, false
	}
	if c.log {
		n := binary.LittleEndian.Uint32(b[plainHead:])
		if trailer = n == c.number+1 && size == head; !trailer && n != c.number {
			return 0, false, false
		}
	}
	return size, trailer, checksum(b[6:size]) == binary.LittleEndian.Uint32(b)
}

// checksum is the CRC of chunks: Castagnoli's, rotated, plus a constant.
func checksum(b []byte) uint32 {
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	return (sum>>15 | sum<<17) + 0xa282ead8
}
