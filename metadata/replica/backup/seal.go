package backup

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/keyring"
)

const keyBytes = 32

// sealer protects frames. Its key is nil in a backup that is not sealed; then a
// checksum finds damage, and nothing stops who wants to change it.
type sealer struct {
	head metadata.Sum // every frame is bound to the head of the file
	aead cipher.AEAD
}

// newKey draws the key of a backup and wraps it.
func newKey(random io.Reader, keys *keyring.Keyring, i *Info) ([]byte, error) {
	key := make([]byte, keyBytes)
	if _, err := io.ReadFull(random, key); err != nil {
		return nil, fmt.Errorf("random source: %w", err)
	}
	var err error
	i.Sealed = true
	i.Key, i.wrapped, err = keys.SealBytes(random, keyBinding(i), key)
	return key, err
}

// openKey returns the key of a backup, nil if it is not sealed.
func openKey(keys *keyring.Keyring, i *Info) ([]byte, error) {
	if !i.Sealed {
		return nil, nil
	}
	if keys == nil {
		return nil, fmt.Errorf("%w: it is sealed under master key %s, and no keyring was given", ErrKeys, i.Key)
	}
	key, err := keys.OpenBytes(i.Key, keyBinding(i), i.wrapped)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	if len(key) != keyBytes {
		return nil, fmt.Errorf("%w: a key of %d bytes", ErrDamaged, len(key))
	}
	return key, nil
}

func keyBinding(i *Info) []byte {
	return slices.Concat([]byte("metadata backup"), i.ID[:], i.Cluster[:])
}

func newSealer(key []byte, head metadata.Sum) (*sealer, error) {
	if key == nil {
		return &sealer{head: head}, nil
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &sealer{head: head, aead: aead}, err
}

func (s *sealer) binding(kind byte) []byte { return append(s.head[:len(s.head):len(s.head)], kind) }

// seal seals a frame within its own memory if that has room for the overhead.
func (s *sealer) seal(number uint64, kind byte, frame []byte) []byte {
	if s.aead != nil {
		return s.aead.Seal(frame[:0], nonce(number), frame, s.binding(kind))
	}
	return append(frame, s.sum(number, kind, frame)...)
}

// open undoes seal, within the memory of the frame.
func (s *sealer) open(number uint64, kind byte, sealed []byte) ([]byte, error) {
	if s.aead != nil {
		frame, err := s.aead.Open(sealed[:0], nonce(number), sealed, s.binding(kind))
		if err != nil {
			return nil, ErrDamaged
		}
		return frame, nil
	}
	n := len(sealed) - sha256.Size
	if n < 0 || !hmac.Equal(s.sum(number, kind, sealed[:n]), sealed[n:]) {
		return nil, ErrDamaged
	}
	return sealed[:n], nil
}

func (s *sealer) sum(number uint64, kind byte, frame []byte) []byte {
	h := sha256.New()
	h.Write(s.binding(kind))
	h.Write(binary.BigEndian.AppendUint64(nil, number))
	h.Write(frame)
	return h.Sum(nil)
}
