package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
)

// Labels separate the uses of one key. They are part of the format.
const (
	labelAccount = "ruche 1 account key"
	labelFile    = "ruche 1 keyring file"
	labelSealed  = "ruche 1 keyring sealed"
	labelCode    = "ruche 1 recovery code"
)

const wrapVersion = 1

// WrappedBytes is the length of a wrapped account key: a version, the key and
// a tag.
const WrappedBytes = 1 + 32 + 16

// WrapAccount wraps the key of an account by the current master key, whose id
// it returns too. id is the id of the account key itself and must be new for
// every account key: the key that wraps is derived from the master key,
// account and id, and is used for nothing else, so that its nonce may be zero.
func (k *Keyring) WrapAccount(account metadata.AccountID, id metadata.KeyID, key Key) (by metadata.KeyID, wrapped []byte, err error) {
	m, err := k.master(k.current)
	if err != nil {
		return by, nil, err
	}
	wrapped = make([]byte, 1, WrappedBytes)
	wrapped[0] = wrapVersion
	aead := newAEAD(derive(m.key, accountSalt(account, id), labelAccount))
	return m.id, aead.Seal(wrapped, make([]byte, 12), key[:], k.accountBinding(account, id, m.id)), nil
}

// UnwrapAccount returns the key that [Keyring.WrapAccount] wrapped by the
// master key by. The error wraps [ErrNoKey] if the keyring has no such master
// key, or [ErrUnwrap].
func (k *Keyring) UnwrapAccount(account metadata.AccountID, id, by metadata.KeyID, wrapped []byte) (Key, error) {
	m, err := k.master(by)
	if err != nil {
		return Key{}, err
	}
	if len(wrapped) != WrappedBytes || wrapped[0] != wrapVersion {
		return Key{}, fmt.Errorf("account %s: %w", account, ErrUnwrap)
	}
	aead := newAEAD(derive(m.key, accountSalt(account, id), labelAccount))
	plain, err := aead.Open(nil, make([]byte, 12), wrapped[1:], k.accountBinding(account, id, by))
	if err != nil {
		return Key{}, fmt.Errorf("account %s: %w", account, ErrUnwrap)
	}
	return Key(plain), nil
}

func (k *Keyring) master(id metadata.KeyID) (master, error) {
	at := slices.IndexFunc(k.masters, func(m master) bool { return m.id == id })
	if at < 0 {
		return master{}, fmt.Errorf("master key %s: %w", id, ErrNoKey)
	}
	return k.masters[at], nil
}

func accountSalt(account metadata.AccountID, id metadata.KeyID) []byte {
	return slices.Concat(account[:], id[:])
}

func (k *Keyring) accountBinding(account metadata.AccountID, id, by metadata.KeyID) []byte {
	return slices.Concat([]byte(labelAccount), k.cluster[:], account[:], id[:], by[:])
}

// derive is HKDF-SHA256 (RFC 5869) of key, with label as info.
func derive(key Key, salt []byte, label string) Key {
	out, err := hkdf.Key(sha256.New, key[:], salt, label, len(key))
	if err != nil {
		panic(err) // only more than 8,160 bytes of output fail
	}
	return Key(out)
}

func newAEAD(key Key) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // a key of 32 bytes is always right
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has the block length that GCM needs
	}
	return aead
}
