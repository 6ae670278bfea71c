package seal

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"

	"github.com/ruche-storage/ruche/metadata"
)

// Key is a 256-bit key. It never prints its bytes, whatever the verb.
type Key [32]byte

const redacted = "seal.Key(redacted)"

// NewKey reads a key from random, which must be a cryptographic source.
func NewKey(random io.Reader) (Key, error) {
	var k Key
	if _, err := io.ReadFull(random, k[:]); err != nil {
		return Key{}, fmt.Errorf("seal: new key: %w", err)
	}
	return k, nil
}

// String returns a text without the key.
func (k Key) String() string { return redacted }

// Format writes a text without the key for every verb of package fmt.
func (k Key) Format(s fmt.State, _ rune) { io.WriteString(s, redacted) }

// LogValue returns a text without the key.
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns a text without the key.
func (k Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// ClusterID is the id of a cluster, as superblocks and the keyring have it.
type ClusterID = [16]byte

const (
	// WrappedBytes is the length of a wrapped key: a version, the key, a tag.
	WrappedBytes = 1 + 32 + TagBytes

	// wrapVersion is the first byte of a wrapped key and of a box.
	wrapVersion = 1

	boxSaltBytes = 16

	// BoxOverhead is how much longer a box is than what it holds.
	BoxOverhead = 1 + boxSaltBytes + TagBytes
)

// Labels separate the keys derived from one key, and what is wrapped by one
// from what is wrapped by another. They are part of the format.
const (
	labelAccountWrap    = "ruche 1 account wrap"
	labelAccountSecrets = "ruche 1 account secrets"
	labelBucketWrap     = "ruche 1 bucket wrap"
	labelBucketMAC      = "ruche 1 bucket mac"
	labelBucketNames    = "ruche 1 bucket names"
	labelPart           = "ruche 1 part key"
	labelManifest       = "ruche 1 manifest key"
	labelBucket         = "ruche 1 bucket key"
	labelBox            = "ruche 1 box"
)

// AccountKeys are the keys derived from an account key. They are safe for
// concurrent use.
type AccountKeys struct {
	wrap, secrets Key
}

// DeriveAccount derives the keys of an account from its account key.
func DeriveAccount(account Key) *AccountKeys {
	return &AccountKeys{wrap: derive(account, labelAccountWrap), secrets: derive(account, labelAccountSecrets)}
}

// Format writes a text without the keys.
func (a AccountKeys) Format(s fmt.State, _ rune) { io.WriteString(s, "seal.AccountKeys(redacted)") }

// BucketBinding says which key a wrapped bucket key is. All of it is
// additional data of the wrapping.
type BucketBinding struct {
	Cluster ClusterID
	Account metadata.AccountID
	Bucket  metadata.BucketID
	Key     metadata.KeyID // id of the bucket key itself, new for every bucket key
}

func (b BucketBinding) bytes() []byte {
	return join([]byte(labelBucket), b.Cluster[:], b.Account[:], b.Bucket[:], b.Key[:])
}

// WrapBucket wraps a bucket key. b.Key must be an id that no other bucket key
// has or had.
func (a *AccountKeys) WrapBucket(b BucketBinding, key Key) []byte {
	return wrap(a.wrap, join(b.Bucket[:], b.Key[:]), labelBucket, b.bytes(), key)
}

// UnwrapBucket returns the bucket key that was wrapped under the same binding,
// or an error wrapping [ErrOpen].
func (a *AccountKeys) UnwrapBucket(b BucketBinding, wrapped []byte) (Key, error) {
	return unwrap(a.wrap, join(b.Bucket[:], b.Key[:]), labelBucket, b.bytes(), wrapped)
}

// SealSecret seals the secret of an access key of the account. id is the
// access key, to which the secret is bound.
func (a *AccountKeys) SealSecret(random io.Reader, id string, secret []byte) ([]byte, error) {
	return Box(a.secrets, random, []byte(id), secret)
}

// OpenSecret returns what [AccountKeys.SealSecret] sealed.
func (a *AccountKeys) OpenSecret(id string, sealed []byte) ([]byte, error) {
	return OpenBox(a.secrets, []byte(id), sealed)
}

// BucketKeys are the keys derived from a bucket key. They are safe for
// concurrent use.
type BucketKeys struct {
	wrap, mac, names Key
}

// DeriveBucket derives the keys of a bucket from its bucket key.
func DeriveBucket(bucket Key) *BucketKeys {
	return &BucketKeys{
		wrap:  derive(bucket, labelBucketWrap),
		mac:   derive(bucket, labelBucketMAC),
		names: derive(bucket, labelBucketNames),
	}
}

// Format writes a text without the keys.
func (k BucketKeys) Format(s fmt.State, _ rune) { io.WriteString(s, "seal.BucketKeys(redacted)") }

// Binding says which key a wrapped data key is. All of it is additional data
// of the wrapping.
type Binding struct {
	Cluster ClusterID
	Bucket  metadata.BucketID
	Part    metadata.PartID // new for every data key; for a manifest, an id of its own
	Key     metadata.KeyID  // id of the bucket key that wraps
}

func (b Binding) bytes(label string) []byte {
	return join([]byte(label), b.Cluster[:], b.Bucket[:], b.Part[:], b.Key[:])
}

// WrapPart wraps the data key of a part. A part id has one data key for ever,
// so the one-use key that wraps it seals the same bytes if it is used again.
func (k *BucketKeys) WrapPart(b Binding, key Key) []byte {
	return wrap(k.wrap, b.Part[:], labelPart, b.bytes(labelPart), key)
}

// UnwrapPart returns the data key that was wrapped under the same binding, or
// an error wrapping [ErrOpen].
func (k *BucketKeys) UnwrapPart(b Binding, wrapped []byte) (Key, error) {
	return unwrap(k.wrap, b.Part[:], labelPart, b.bytes(labelPart), wrapped)
}

// WrapManifest wraps the key of a manifest. b.Part must be 128 random bits of
// the manifest's own.
func (k *BucketKeys) WrapManifest(b Binding, key Key) []byte {
	return wrap(k.wrap, b.Part[:], labelManifest, b.bytes(labelManifest), key)
}

// UnwrapManifest returns the manifest key that was wrapped under the same
// binding, or an error wrapping [ErrOpen].
func (k *BucketKeys) UnwrapManifest(b Binding, wrapped []byte) (Key, error) {
	return unwrap(k.wrap, b.Part[:], labelManifest, b.bytes(labelManifest), wrapped)
}

// MAC is the HMAC-SHA256 of message under the bucket's MAC key. The caller
// encodes what is bound canonically: two different things never have one
// encoding.
func (k *BucketKeys) MAC(message []byte) [32]byte {
	h := hmac.New(sha256.New, k.mac[:])
	h.Write(message)
	var sum [32]byte
	h.Sum(sum[:0])
	return sum
}

// VerifyMAC reports whether sum is the MAC of message, in constant time.
func (k *BucketKeys) VerifyMAC(message []byte, sum [32]byte) bool {
	want := k.MAC(message)
	return hmac.Equal(want[:], sum[:])
}

// SealName seals the name of the bucket for records on drives. It is bound to
// the bucket's id.
func (k *BucketKeys) SealName(random io.Reader, bucket metadata.BucketID, name string) ([]byte, error) {
	return Box(k.names, random, bucket[:], []byte(name))
}

// OpenName returns what [BucketKeys.SealName] sealed.
func (k *BucketKeys) OpenName(bucket metadata.BucketID, sealed []byte) (string, error) {
	name, err := OpenBox(k.names, bucket[:], sealed)
	return string(name), err
}

// Box seals a short text, such as a name, a secret or a manifest. Every box
// has a salt of 128 random bits and is sealed under a key derived from key and
// salt that is used once, so one key may seal any number of boxes.
func Box(key Key, random io.Reader, additional, plain []byte) ([]byte, error) {
	box := make([]byte, 1+boxSaltBytes, BoxOverhead+len(plain))
	box[0] = wrapVersion
	if _, err := io.ReadFull(random, box[1:]); err != nil {
		return nil, fmt.Errorf("seal: box: %w", err)
	}
	once := deriveOnce(key, box[1:], labelBox)
	return newAEAD(once).Seal(box, make([]byte, 12), plain, additional), nil
}

// OpenBox returns what [Box] sealed under the same key and additional data, or
// an error wrapping [ErrOpen].
func OpenBox(key Key, additional, box []byte) ([]byte, error) {
	if len(box) < BoxOverhead || box[0] != wrapVersion {
		return nil, fmt.Errorf("%w: box of %d bytes", ErrOpen, len(box))
	}
	salt, sealed := box[1:1+boxSaltBytes], box[1+boxSaltBytes:]
	plain, err := newAEAD(deriveOnce(key, salt, labelBox)).Open(nil, make([]byte, 12), sealed, additional)
	if err != nil {
		return nil, fmt.Errorf("%w: box", ErrOpen)
	}
	return plain, nil
}

// wrap seals one key under a key that is derived for this one use from by and
// salt. The nonce is zero: as each salt stands for one wrapped key for ever,
// no derived key ever seals two different texts.
func wrap(by Key, salt []byte, label string, additional []byte, key Key) []byte {
	out := make([]byte, 1, WrappedBytes)
	out[0] = wrapVersion
	return newAEAD(deriveOnce(by, salt, label)).Seal(out, make([]byte, 12), key[:], additional)
}

func unwrap(by Key, salt []byte, label string, additional, wrapped []byte) (Key, error) {
	if len(wrapped) != WrappedBytes || wrapped[0] != wrapVersion {
		return Key{}, fmt.Errorf("%w: wrapped key of %d bytes", ErrOpen, len(wrapped))
	}
	plain, err := newAEAD(deriveOnce(by, salt, label)).Open(nil, make([]byte, 12), wrapped[1:], additional)
	if err != nil {
		return Key{}, fmt.Errorf("%w: wrapped key", ErrOpen)
	}
	return Key(plain), nil
}

// derive returns the key of the given purpose, by HKDF-SHA256 without salt.
func derive(key Key, label string) Key { return deriveOnce(key, nil, label) }

// deriveOnce is HKDF-SHA256 (RFC 5869) of key with salt and label as info.
func deriveOnce(key Key, salt []byte, label string) Key {
	out, err := hkdf.Key(sha256.New, key[:], salt, label, len(key))
	if err != nil {
		panic(err) // only more than 8,160 bytes of output fail
	}
	return Key(out)
}

func join(parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	out := make([]byte, 0, n)
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
