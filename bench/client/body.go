package client

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
)

// maxPattern bounds the memory of a body: longer ones repeat that much. It is
// a multiple of ChunkBytes, so that chunks of repeated bytes have the same
// hashes.
const maxPattern = 64 << 20

// A Body is the bytes of an object or a part, made and hashed once. It is safe
// for concurrent use.
type Body struct {
	Size   int64
	SHA256 string // of all bytes, in hexadecimal

	pattern []byte
	chunks  [][2 * sha256.Size]byte // of the pattern's whole chunks
	tail    [2 * sha256.Size]byte   // of the last chunk, if it is not whole
}

// NewBody returns a body of random bytes, the same ones for the same seed and
// size. A body of more than 64 MiB repeats its first 64 MiB.
func NewBody(seed uint64, size int64) *Body {
	b := &Body{Size: size, pattern: make([]byte, min(size, maxPattern))}
	var key [32]byte
	copy(key[:], fmt.Sprintf("bench %016x %x", seed, size))
	mathrand.NewChaCha8(key).Read(b.pattern)
	for off := 0; off+ChunkBytes <= len(b.pattern); off += ChunkBytes {
		b.chunks = append(b.chunks, hexSum(b.pattern[off:off+ChunkBytes]))
	}
	if rest := size % ChunkBytes; rest > 0 {
		b.tail = hexSum(b.slice(size-rest, rest))
	}
	whole := sha256.New()
	for off := int64(0); off < size; {
		s := b.slice(off, size-off)
		whole.Write(s)
		off += int64(len(s))
	}
	b.SHA256 = hex.EncodeToString(whole.Sum(nil))
	return b
}

// slice returns up to n bytes at off.
func (b *Body) slice(off, n int64) []byte {
	at := off % int64(len(b.pattern))
	return b.pattern[at:min(at+n, int64(len(b.pattern)))]
}

// chunk returns the bytes at off, which is a multiple of ChunkBytes, up to the
// end of their chunk, and their hash.
func (b *Body) chunk(off int64) ([]byte, [2 * sha256.Size]byte) {
	if rest := b.Size - off; rest < ChunkBytes {
		return b.slice(off, rest), b.tail
	}
	at := off % int64(len(b.pattern))
	return b.pattern[at : at+ChunkBytes], b.chunks[at/ChunkBytes]
}

func hexSum(b []byte) (out [2 * sha256.Size]byte) {
	sum := sha256.Sum256(b)
	hex.Encode(out[:], sum[:])
	return out
}

// Bytes returns a body of exactly the bytes given, which must not change.
func Bytes(data []byte) *Body {
	b := &Body{Size: int64(len(data)), pattern: data}
	whole := hexSum(data)
	b.SHA256 = string(whole[:])
	for off := 0; off+ChunkBytes <= len(data); off += ChunkBytes {
		b.chunks = append(b.chunks, hexSum(data[off:off+ChunkBytes]))
	}
	if rest := len(data) % ChunkBytes; rest > 0 {
		b.tail = hexSum(data[len(data)-rest:])
	}
	return b
}
