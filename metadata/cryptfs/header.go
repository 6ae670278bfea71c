package cryptfs

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/ruche-storage/ruche/metadata/topology"
)

// HeaderBytes is what stands before the content of an encrypted file. It is a
// page, so that what is aligned to pages in the content is so in the file.
const HeaderBytes = 4096

const (
	magic      = "RUCHECTR"
	format     = 1
	label      = "ruche 1 encrypted file"
	fixedBytes = 32 // magic, format, header length, store
	saltBytes  = 32
	checkBytes = 16
	sumAt      = fixedBytes + saltBytes + checkBytes
	knownBytes = sumAt + 4 // the rest of the header is zero
)

// header is what stands before the content. FORMAT.md has its layout.
type header struct {
	store topology.DriveID
	salt  [saltBytes]byte
	check [checkBytes]byte
}

// fixed returns the part of the header that the derived key is bound to,
// besides the salt.
func (h *header) fixed() []byte {
	b := make([]byte, 0, fixedBytes)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, format)
	b = binary.LittleEndian.AppendUint32(b, HeaderBytes)
	return append(b, h.store[:]...)
}

// marshal returns all HeaderBytes.
func (h *header) marshal() []byte {
	b := make([]byte, 0, HeaderBytes)
	b = append(b, h.fixed()...)
	b = append(b, h.salt[:]...)
	b = append(b, h.check[:]...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
	return b[:HeaderBytes]
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// kind is what the first bytes of a file say it is.
type kind uint8

const (
	// unwritten files have no content: they are empty, or a crash has left
	// them before their header was on stable storage. Nothing is behind it.
	unwritten kind = iota
	plain
	encrypted
)

// parseHeader looks at the first bytes of a file, knownBytes of them if it has
// as many. The header is that of an encrypted file. The error wraps ErrDamaged
// or ErrNewer.
func parseHeader(b []byte) (h header, k kind, err error) {
	b = b[:min(len(b), knownBytes)]
	switch {
	case len(bytes.Trim(b, "\x00")) == 0:
		return h, unwritten, nil
	case string(b[:min(len(b), len(magic))]) != magic[:min(len(b), len(magic))]:
		return h, plain, nil
	case len(b) < knownBytes:
		return h, unwritten, nil
	}
	if f := binary.LittleEndian.Uint32(b[8:]); f != format {
		return h, encrypted, fmt.Errorf("%w (format %d)", ErrNewer, f)
	}
	if crc32.Checksum(b[:sumAt], castagnoli()) != binary.LittleEndian.Uint32(b[sumAt:]) ||
		binary.LittleEndian.Uint32(b[12:]) != HeaderBytes {
		return h, encrypted, ErrDamaged
	}
	copy(h.store[:], b[16:])
	copy(h.salt[:], b[fixedBytes:])
	copy(h.check[:], b[fixedBytes+saltBytes:])
	return h, encrypted, nil
}

// derive returns the cipher of the file with the given header, and what its
// check has to be.
func derive(key *Key, h *header) (*stream, [checkBytes]byte, error) {
	var check [checkBytes]byte
	okm, err := hkdf.Key(sha256.New, key[:], h.salt[:], label+string(h.fixed()), 32+checkBytes)
	if err != nil {
		return nil, check, fmt.Errorf("derive the key: %w", err)
	}
	block, err := aes.NewCipher(okm[:32])
	if err != nil {
		return nil, check, err
	}
	copy(check[:], okm[32:])
	clear(okm)
	return &stream{block}, check, nil
}

// unlock derives the cipher of a file that was made before. The error wraps
// ErrForeign if another store has made it, ErrKey if the key is not the one it
// was made with.
func unlock(key *Key, store topology.DriveID, h *header) (*stream, error) {
	if h.store != store {
		return nil, fmt.Errorf("%w (the file is of store %s, this is store %s)", ErrForeign, h.store, store)
	}
	s, check, err := derive(key, h)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(check[:], h.check[:]) != 1 {
		return nil, fmt.Errorf("%w (of store %s)", ErrKey, store)
	}
	return s, nil
}

// stream is the keystream of one file. It does not change, so it is safe for
// concurrent use.
type stream struct{ block cipher.Block }

// at returns the keystream from an offset in the content on.
func (s *stream) at(offset int64) cipher.Stream {
	var counter [aes.BlockSize]byte
	binary.BigEndian.PutUint64(counter[8:], uint64(offset)/aes.BlockSize)
	ctr := cipher.NewCTR(s.block, counter[:])
	if skip := offset % aes.BlockSize; skip > 0 {
		var waste [aes.BlockSize]byte
		ctr.XORKeyStream(waste[:skip], waste[:skip])
	}
	return ctr
}

// Failures that callers branch on. Each text names the remedy.
var (
	// ErrKey says that a file was encrypted under another key.
	ErrKey = errors.New("file is encrypted under another key: give the keyring of this store, newest version, " +
		"or write it anew with \"ruche keyring restore\"")

	// ErrForeign says that a file belongs to another store.
	ErrForeign = errors.New("file belongs to another store: put the files of this store there")

	// ErrDamaged says that the header of a file is damaged, so that nothing of
	// it can be read.
	ErrDamaged = errors.New("header of an encrypted file is damaged: check the device, and restore the store or replace this copy of it")

	// ErrNewer says that a newer version of the program made the file.
	ErrNewer = errors.New("file was encrypted by a newer version of ruche: start that version")

	// ErrOverwrite says that a write would change what was written before, or
	// leave a gap.
	ErrOverwrite = errors.New("encrypted files are written once, from the start to the end")
)
