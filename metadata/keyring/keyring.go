// Package keyring keeps the keys that no other key of the cluster wraps: the
// master keys, which wrap account keys, and the store keys of every drive and
// of the stores in state directories.
//
// The keyring is one file, never in the directory of a drive. Its loss would
// be the loss of all data, so a copy of it, sealed under a recovery code that
// its owner was shown once, lies on every drive. FORMAT.md has both formats.
//
// # Order of a change
//
// A [Keyring] is a value that never changes: each change returns a new one
// with a higher version. The caller carries it out in this order, and may be
// interrupted anywhere:
//
//  1. [Keyring.Save] the file;
//  2. write [Keyring.Sealed] as [SealedName] to every drive, and go on once
//     more than half of the drives have it durable;
//  3. use the new key for the first time;
//  4. remove the sealed copies of older versions from drives that have the new
//     one.
//
// A key that was used is thus always in the file and on more than half of the
// drives. On start the caller repeats step 2 for drives without the current
// version before it uses any key of it. A retired drive's key leaves the
// keyring in the same way, which makes what that drive holds unreadable once
// the older copies and all backups are gone.
//
// If the file is lost, [OpenSealed] opens the copies that are left and [Merge]
// joins them to the keyring.
package keyring

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Failures that callers branch on. Each text names the remedy.
var (
	// ErrDamaged says that a keyring file or sealed copy is not whole.
	ErrDamaged = errors.New("keyring is damaged: restore it from a backup or from a sealed copy on a drive")

	// ErrNewer says that a newer version of the program wrote it.
	ErrNewer = errors.New("keyring was written by a newer version of ruche: start that version")

	// ErrPermissions says that others may read the file.
	ErrPermissions = errors.New("keyring can be read by others than its owner: chmod 600 it, and rotate its keys if others may have read it")

	// ErrCluster says that the keyring belongs to another cluster.
	ErrCluster = errors.New("keyring belongs to another cluster: give --keyring the file of this one, or the right drives")

	// ErrMistyped says that a recovery code has a typing error.
	ErrMistyped = errors.New("recovery code is mistyped: compare it with the printed one, group by group")

	// ErrWrongCode says that a recovery code is well formed and not the one
	// of this copy.
	ErrWrongCode = errors.New("recovery code does not open this copy: it belongs to another cluster, or was replaced by a newer code")

	// ErrNoKey says that a key is not in the keyring.
	ErrNoKey = errors.New("key is not in the keyring: restore a newer backup or sealed copy")

	// ErrUnwrap says that a wrapped account key does not open.
	ErrUnwrap = errors.New("wrapped account key does not open under its master key")

	// ErrOpenBytes says that sealed bytes do not open.
	ErrOpenBytes = errors.New("sealed bytes do not open under their master key")
)

// ClusterID is the random id of a cluster.
type ClusterID [16]byte

// String returns the id as hexadecimal digits.
func (c ClusterID) String() string { return hex.EncodeToString(c[:]) }

// Key is a 256-bit key. It never prints its bytes, whatever the verb.
type Key [32]byte

// Format writes a text without the key for every verb of package fmt.
func (k Key) Format(s fmt.State, _ rune) { io.WriteString(s, "keyring.Key(redacted)") }

// String returns a text without the key.
func (k Key) String() string { return "keyring.Key(redacted)" }

// LogValue returns a text without the key.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText returns a text without the key.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

const (
	// MaxDrives is how many drives a keyring has keys of at most.
	MaxDrives = 8192
	// MaxMasters is how many master keys a keyring holds at most.
	MaxMasters = 1024
	// MaxStates is how many state directories a keyring has keys of at most.
	MaxStates = 1024
)

// Keyring holds keys. It never changes, so it is safe for concurrent use; the
// methods that change something return a new Keyring. Printing it shows no
// key.
type Keyring struct {
	cluster  ClusterID
	version  uint64
	current  metadata.KeyID
	masters  []master // in order of creation
	drives   []drive  // in order of id
	states   []drive  // stores in state directories, in order of id
	recovery recovery
	verified Verification
	omitted  topology.DriveID // in an opened copy: the drive whose key was left out
	unknown  []byte           // fields of later versions, kept as they came
}

type master struct {
	id      metadata.KeyID
	key     Key
	created int64 // seconds since 1970
}

// drive is a drive, or the store in a state directory, with its store key.
type drive struct {
	id  topology.DriveID
	key Key
}

// recovery is the key made from the recovery code, and how it was made.
type recovery struct {
	kdf  KDF
	salt [16]byte
	key  Key
}

// Master is what may be shown of a master key.
type Master struct {
	ID      metadata.KeyID
	Created time.Time
	Current bool // wraps new account keys
}

// Verification says when the owner last proved to have the recovery code or a
// backup. The zero value is never.
type Verification struct {
	Version uint64 // of the keyring at that time
	At      int64  // seconds since 1970
}

// Options say how a keyring is made.
type Options struct {
	Cluster ClusterID
	Random  io.Reader // a cryptographic source
	Now     time.Time
	KDF     KDF // zero means DefaultKDF
	// State is the store in a state directory that has a key from the
	// beginning; zero means none.
	State topology.DriveID
}

// Create makes the keyring of a new cluster, version 1, with one master key,
// no drives and at most one state directory, and its recovery code. The code is to be shown once and is
// kept nowhere.
func Create(o Options) (k *Keyring, code string, err error) {
	k = &Keyring{cluster: o.Cluster}
	if k, err = k.Rotate(o.Random, o.Now); err != nil {
		return nil, "", err
	}
	if !o.State.IsZero() {
		if k, err = k.WithState(o.Random, o.State); err != nil {
			return nil, "", err
		}
	}
	k, code, err = k.ReplaceCode(o.Random, o.KDF)
	if err != nil {
		return nil, "", err
	}
	k.version = 1
	return k, code, nil
}

// Cluster is the id of the cluster.
func (k *Keyring) Cluster() ClusterID { return k.cluster }

// Version counts the changes of the keys, from 1.
func (k *Keyring) Version() uint64 { return k.version }

// CheckCluster returns an error wrapping [ErrCluster] unless the keyring is
// that of the given cluster.
func (k *Keyring) CheckCluster(id ClusterID) error {
	if k.cluster != id {
		return fmt.Errorf("%w (keyring: cluster %s; drives: %s)", ErrCluster, k.cluster, id)
	}
	return nil
}

// Format writes what may be shown, for every verb of package fmt. It is a
// method of the value, so that a copy prints no key either.
func (k Keyring) Format(s fmt.State, _ rune) { io.WriteString(s, k.String()) }

// String says what the keyring is, without its keys.
func (k Keyring) String() string {
	return fmt.Sprintf("keyring %d of cluster %s: %d master keys, %d drives", k.version, k.cluster, len(k.masters), len(k.drives))
}

// LogValue returns what may be shown.
func (k Keyring) LogValue() slog.Value { return slog.StringValue(k.String()) }

// next returns a copy to be changed, one version later.
func (k *Keyring) next() *Keyring {
	n := *k
	n.version++
	n.masters = slices.Clone(k.masters)
	n.drives = slices.Clone(k.drives)
	n.states = slices.Clone(k.states)
	return &n
}

// Rotate adds a master key and makes it the current one. The older ones stay:
// account keys are wrapped by them until each was wrapped anew.
func (k *Keyring) Rotate(random io.Reader, now time.Time) (*Keyring, error) {
	if len(k.masters) >= MaxMasters {
		return nil, fmt.Errorf("keyring: %d master keys are the most: drop those no longer used", MaxMasters)
	}
	m := master{created: now.Unix()}
	if err := read(random, m.id[:], m.key[:]); err != nil {
		return nil, err
	}
	n := k.next()
	n.masters = append(n.masters, m)
	n.current = m.id
	return n, nil
}

// Drop removes a master key, which no account key may be wrapped by any more.
// The current one cannot be dropped.
func (k *Keyring) Drop(id metadata.KeyID) (*Keyring, error) {
	if id == k.current {
		return nil, fmt.Errorf("keyring: master key %s is the current one: rotate first", id)
	}
	n := k.next()
	n.masters = slices.DeleteFunc(n.masters, func(m master) bool { return m.id == id })
	if len(n.masters) == len(k.masters) {
		return nil, fmt.Errorf("master key %s: %w", id, ErrNoKey)
	}
	return n, nil
}

// Masters lists the master keys, the oldest first.
func (k *Keyring) Masters() []Master {
	list := make([]Master, len(k.masters))
	for i, m := range k.masters {
		list[i] = Master{ID: m.id, Created: time.Unix(m.created, 0).UTC(), Current: m.id == k.current}
	}
	return list
}

// WithDrives returns a keyring that also has store keys of the given drives.
// Drives that have one keep it; if all do, it returns k itself.
func (k *Keyring) WithDrives(random io.Reader, ids ...topology.DriveID) (*Keyring, error) {
	n := k.next()
	for _, id := range ids {
		at, found := n.find(id)
		if found {
			continue
		}
		if id.IsZero() || len(n.drives) >= MaxDrives {
			return nil, fmt.Errorf("keyring: no place for drive %s", id)
		}
		d := drive{id: id}
		if err := read(random, d.key[:]); err != nil {
			return nil, err
		}
		n.drives = slices.Insert(n.drives, at, d)
	}
	if len(n.drives) == len(k.drives) {
		return k, nil
	}
	return n, nil
}

// WithoutDrive returns a keyring without the store key of a retired drive, or
// k itself if it has none.
func (k *Keyring) WithoutDrive(id topology.DriveID) *Keyring {
	at, found := k.find(id)
	if !found {
		return k
	}
	n := k.next()
	n.drives = slices.Delete(n.drives, at, at+1)
	return n
}

// DriveKey returns the store key of a drive, or an error wrapping [ErrNoKey].
func (k *Keyring) DriveKey(id topology.DriveID) (Key, error) {
	at, found := k.find(id)
	if !found {
		return Key{}, fmt.Errorf("store key of drive %s: %w", id, ErrNoKey)
	}
	return k.drives[at].key, nil
}

// Drives lists the drives that have a store key, in order of their ids.
func (k *Keyring) Drives() []topology.DriveID {
	ids := make([]topology.DriveID, len(k.drives))
	for i, d := range k.drives {
		ids[i] = d.id
	}
	return ids
}

func (k *Keyring) find(id topology.DriveID) (int, bool) { return findIn(k.drives, id) }

func findIn(list []drive, id topology.DriveID) (int, bool) {
	return slices.BinarySearchFunc(list, id, func(d drive, id topology.DriveID) int {
		return bytes.Compare(d.id[:], id[:])
	})
}

// WithState returns a keyring that also has a store key for the store in a
// state directory, which goes by a random id like a drive's. If it has one, it
// is k itself. Such a key is in every sealed copy: its store is on no drive.
func (k *Keyring) WithState(random io.Reader, id topology.DriveID) (*Keyring, error) {
	at, found := findIn(k.states, id)
	if found {
		return k, nil
	}
	if id.IsZero() || len(k.states) >= MaxStates {
		return nil, fmt.Errorf("keyring: no place for state directory %s", id)
	}
	d := drive{id: id}
	if err := read(random, d.key[:]); err != nil {
		return nil, err
	}
	n := k.next()
	n.states = slices.Insert(n.states, at, d)
	return n, nil
}

// StateKey returns the store key of the store in a state directory, or an
// error wrapping [ErrNoKey].
func (k *Keyring) StateKey(id topology.DriveID) (Key, error) {
	at, found := findIn(k.states, id)
	if !found {
		return Key{}, fmt.Errorf("store key of state directory %s: %w", id, ErrNoKey)
	}
	return k.states[at].key, nil
}

// Verified says when a backup or the recovery code was last verified.
func (k *Keyring) Verified() Verification { return k.verified }

// WithVerification notes that the owner just proved to have a backup of this
// version or its recovery code. The version stays: no key has changed, and
// sealed copies need not be written again.
func (k *Keyring) WithVerification(now time.Time) *Keyring {
	n := *k
	n.verified = Verification{Version: k.version, At: now.Unix()}
	return &n
}

// Merge joins keyrings that were opened from sealed copies of one cluster, or
// read from files: it is the one of the highest version, with the store key
// that its copy had left out taken from any other. All must be of one
// cluster. The error wraps [ErrCluster] otherwise, or [ErrNoKey] together with
// the merged keyring if the key that was left out is in none: then that drive
// is lost and nothing else.
func Merge(copies ...*Keyring) (*Keyring, error) {
	if len(copies) == 0 {
		return nil, fmt.Errorf("keyring: nothing to merge: %w", ErrNoKey)
	}
	newest := slices.MaxFunc(copies, func(a, b *Keyring) int {
		// Of two copies of one version, rather the one that lacks nothing.
		if c := cmp.Compare(a.version, b.version); c != 0 || a.omitted.IsZero() == b.omitted.IsZero() {
			return c
		} else if a.omitted.IsZero() {
			return 1
		}
		return -1
	})
	for _, c := range copies {
		if err := newest.CheckCluster(c.cluster); err != nil {
			return nil, err
		}
	}
	if newest.omitted.IsZero() {
		return newest, nil
	}
	for _, c := range copies {
		if at, found := c.find(newest.omitted); found {
			n := *newest
			to, _ := n.find(newest.omitted)
			n.drives = slices.Insert(slices.Clone(n.drives), to, c.drives[at])
			n.omitted = topology.DriveID{}
			return &n, nil
		}
	}
	n := *newest
	n.omitted = topology.DriveID{}
	return &n, fmt.Errorf("store key of drive %s: %w", newest.omitted, ErrNoKey)
}

// read fills all of what it is given from random.
func read(random io.Reader, into ...[]byte) error {
	for _, b := range into {
		if _, err := io.ReadFull(random, b); err != nil {
			return fmt.Errorf("keyring: random source: %w", err)
		}
	}
	return nil
}
