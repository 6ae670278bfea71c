package keyring

import (
	"fmt"
	"io"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
)

const (
	labelBytes = "ruche 1 sealed bytes"

	bytesSaltBytes = 32

	// BytesOverhead is how much longer sealed bytes are: a version, a salt and
	// a tag.
	BytesOverhead = 1 + bytesSaltBytes + 16
)

// SealBytes seals plain, such as tables that are kept outside of the metadata,
// under the current master key, whose id it returns too. The key that seals is
// derived from the master key and 256 random bits and used once, so that its
// nonce may be zero. random must be a cryptographic source.
func (k *Keyring) SealBytes(random io.Reader, additional, plain []byte) (by metadata.KeyID, sealed []byte, err error) {
	m, err := k.master(k.current)
	if err != nil {
		return by, nil, err
	}
	sealed = make([]byte, 1+bytesSaltBytes, BytesOverhead+len(plain))
	sealed[0] = wrapVersion
	if err := read(random, sealed[1:]); err != nil {
		return by, nil, err
	}
	aead := newAEAD(derive(m.key, sealed[1:], labelBytes))
	return m.id, aead.Seal(sealed, make([]byte, 12), plain, k.bytesBinding(m.id, additional)), nil
}

// OpenBytes returns what [Keyring.SealBytes] sealed under the master key by
// with the same additional data. The error wraps [ErrNoKey] if the keyring has
// no such master key, or [ErrOpenBytes].
func (k *Keyring) OpenBytes(by metadata.KeyID, additional, sealed []byte) ([]byte, error) {
	m, err := k.master(by)
	if err != nil {
		return nil, err
	}
	if len(sealed) < BytesOverhead || sealed[0] != wrapVersion {
		return nil, fmt.Errorf("%w: %d bytes", ErrOpenBytes, len(sealed))
	}
	salt, text := sealed[1:1+bytesSaltBytes], sealed[1+bytesSaltBytes:]
	plain, err := newAEAD(derive(m.key, salt, labelBytes)).Open(nil, make([]byte, 12), text, k.bytesBinding(by, additional))
	if err != nil {
		return nil, ErrOpenBytes
	}
	return plain, nil
}

func (k *Keyring) bytesBinding(by metadata.KeyID, additional []byte) []byte {
	return slices.Concat([]byte(labelBytes), k.cluster[:], by[:], additional)
}
