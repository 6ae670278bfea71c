package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// maxSealedBytes bounds a sealed copy that is read from a drive or a backup.
const maxSealedBytes = keyring.MaxBytes + 4096

// keyringDrive is an open drive as the keyring needs it.
type keyringDrive interface {
	ID() topology.DriveID
	Path() string
	SmallFiles() ([]string, error)
	ReadSmallFile(name string) ([]byte, error)
	WriteSmallFile(name string, data []byte) error
	RemoveSmallFile(name string) error
}

// keyKeeper holds the keyring of a process: it wraps and unwraps account keys
// for the engine, and carries changes out in the order that package keyring
// asks for. It is safe for concurrent use.
type keyKeeper struct {
	path string
	now  func() time.Time
	log  *slog.Logger

	// changing is held while the keyring is changed or sealed, which takes
	// long; mu guards ring and copies and is held for moments.
	changing sync.Mutex
	mu       sync.Mutex
	ring     *keyring.Keyring
	copies   int // drives that hold the current version

	// unspread: a change was saved that too few drives have; changing guards
	// it.
	unspread bool
}

// keyringPath is where the keyring of a server lies.
func keyringPath(c *config.Config) string {
	if c.Keyring != "" {
		return c.Keyring
	}
	return filepath.Join(c.StateDir(), "keyring")
}

// openKeyring loads the keyring of a cluster.
func openKeyring(path string, cluster id128, now func() time.Time, log *slog.Logger) (*keyKeeper, error) {
	ring, err := keyring.Load(vfs.Default, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &StartError{KeyringMissing, "the keyring " + path + " is missing; without it nothing that is stored can be read",
			"mount or copy it back, name it with --keyring, or write it anew with \"ruche keyring restore\" and the recovery code", nil}
	case errors.Is(err, keyring.ErrPermissions):
		return nil, &StartError{TooOpen, "the keyring " + path + " can be read or written by other users",
			"chmod 600 " + path + ", and consider its keys as known to those who could read it", nil}
	case err != nil:
		return nil, fileErrorOr(KeyringMismatch, "keyring "+path, "restore it from a backup with \"ruche keyring restore\"", err)
	}
	if err := ring.CheckCluster(keyring.ClusterID(cluster)); err != nil {
		return nil, &StartError{KeyringMismatch, "the keyring " + path + " does not fit what is stored",
			"give --keyring the file of cluster " + cluster.String(), err}
	}
	return &keyKeeper{path: path, now: now, log: log, ring: ring}, nil
}

// createKeyring makes the keyring of a new cluster, with a key for the state
// directory if that has a store. The recovery code is shown before the file
// exists: whoever finds the file has seen its code.
func createKeyring(path string, id *identity, kdf keyring.KDF, now func() time.Time, show func(code string) error) error {
	o := keyring.Options{Cluster: keyring.ClusterID(id.Cluster), Random: rand.Reader, Now: now(), KDF: kdf}
	if id.State != nil {
		o.State = id.State.ID
	}
	ring, code, err := keyring.Create(o)
	if err != nil {
		return fmt.Errorf("make keyring: %w", err)
	}
	if err := show(code); err != nil {
		return fmt.Errorf("print the recovery code: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fileError("make directory of the keyring", err)
	}
	return fileError("write keyring "+path, ring.Save(vfs.Default, path))
}

func (k *keyKeeper) current() *keyring.Keyring {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ring
}

func (k *keyKeeper) set(ring *keyring.Keyring) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ring = ring
}

// know gives drives keys in the keyring, before they are opened: the index of a
// drive lies encrypted under its key. Unlike anything else it is made anew if
// the key is lost, so the copies of the keyring may follow, by admit.
func (k *keyKeeper) know(ids []topology.DriveID) error {
	k.changing.Lock()
	defer k.changing.Unlock()
	ring, err := k.current().WithDrives(rand.Reader, ids...)
	if err != nil {
		return fmt.Errorf("keys of drives: %w", err)
	}
	return k.change(ring)
}

// change saves a keyring, if it is another one, and puts it in force. The
// caller holds changing, and spreads it.
func (k *keyKeeper) change(ring *keyring.Keyring) error {
	if ring == k.current() {
		return nil
	}
	if err := ring.Save(vfs.Default, k.path); err != nil {
		return fileError("write keyring "+k.path, err)
	}
	k.set(ring)
	k.unspread = true
	return nil
}

// admitState gives the store in the state directory a key, and the drives
// sealed copies of the keyring. With a nil error the key may be used.
func (k *keyKeeper) admitState(id topology.DriveID, drives []keyringDrive, active int) error {
	k.changing.Lock()
	defer k.changing.Unlock()
	ring, err := k.current().WithState(rand.Reader, id)
	if err != nil {
		return fmt.Errorf("key of the state directory: %w", err)
	}
	if err := k.change(ring); err != nil {
		return err
	}
	return k.spread(ring, drives, active)
}

// admit gives every drive a key of its own in the keyring and a sealed copy of
// it, and the drives that are about to be opened a key. active is how many drives the store has, open or not: a changed keyring
// must be on more than half of them, an unchanged one on more than half of
// those that are open.
func (k *keyKeeper) admit(drives []keyringDrive, active int, coming ...topology.DriveID) error {
	k.changing.Lock()
	defer k.changing.Unlock()
	ids := slices.Clone(coming)
	for _, d := range drives {
		ids = append(ids, d.ID())
	}
	ring, err := k.current().WithDrives(rand.Reader, ids...)
	if err != nil {
		return fmt.Errorf("keys of drives: %w", err)
	}
	if err := k.change(ring); err != nil {
		return err
	}
	return k.spread(ring, drives, active)
}

// retire takes the key of a drive that was replaced out of the keyring.
func (k *keyKeeper) retire(id topology.DriveID, drives []keyringDrive, active int) error {
	k.changing.Lock()
	defer k.changing.Unlock()
	before := k.current()
	ring := before.WithoutDrive(id)
	if ring == before {
		return nil
	}
	if err := k.change(ring); err != nil {
		return err
	}
	return k.spread(ring, drives, active)
}

// spread writes the sealed copy of ring to every drive that lacks it and
// removes the older ones from drives that have it. The caller holds changing.
func (k *keyKeeper) spread(ring *keyring.Keyring, drives []keyringDrive, active int) error {
	name := keyring.SealedName(ring.Version())
	copies := 0
	var errs []error
	for _, d := range drives {
		err := k.spreadTo(ring, d, name)
		if err != nil {
			k.log.Error("sealed keyring was not written to drive", "path", d.Path(), "err", err)
			errs = append(errs, err)
			continue
		}
		copies++
	}
	k.mu.Lock()
	k.copies = copies
	k.mu.Unlock()
	all := len(drives)
	if k.unspread {
		all = max(all, active)
	}
	if 2*copies <= all {
		return errors.Join(append(errs, fmt.Errorf("sealed keyring on %d of %d drives, need more than half", copies, all))...)
	}
	k.unspread = false
	return nil
}

// newestSealed is the highest version of which a drive holds a sealed copy.
func newestSealed(drives []keyringDrive) (newest uint64) {
	for _, d := range drives {
		names, err := d.SmallFiles()
		if err != nil {
			continue // spread says so
		}
		for _, name := range names {
			if version, ok := keyring.ParseSealedName(name); ok {
				newest = max(newest, version)
			}
		}
	}
	return newest
}

func (k *keyKeeper) spreadTo(ring *keyring.Keyring, d keyringDrive, name string) error {
	if text, err := d.ReadSmallFile(name); err == nil {
		if info, err := keyring.InspectSealed(text); err == nil && info.Version == ring.Version() {
			return nil
		}
	}
	sealed, err := ring.Sealed(rand.Reader, d.ID())
	if err != nil {
		return err
	}
	if err := d.WriteSmallFile(name, sealed); err != nil {
		return err
	}
	names, err := d.SmallFiles()
	if err != nil {
		return err
	}
	for _, old := range names {
		if version, ok := keyring.ParseSealedName(old); ok && version < ring.Version() {
			if err := d.RemoveSmallFile(old); err != nil {
				return err
			}
		}
	}
	return nil
}

// WrapAccount implements object.Keys.
func (k *keyKeeper) WrapAccount(_ context.Context, account metadata.AccountID, key metadata.KeyID, plain seal.Key) (metadata.KeyID, []byte, error) {
	return k.current().WrapAccount(account, key, keyring.Key(plain))
}

// SealBytes seals the tables of the root group.
func (k *keyKeeper) SealBytes(random io.Reader, additional, plain []byte) (metadata.KeyID, []byte, error) {
	return k.current().SealBytes(random, additional, plain)
}

// OpenBytes is the reverse.
func (k *keyKeeper) OpenBytes(by metadata.KeyID, additional, sealed []byte) ([]byte, error) {
	return k.current().OpenBytes(by, additional, sealed)
}

// UnwrapAccount implements object.Keys.
func (k *keyKeeper) UnwrapAccount(_ context.Context, account metadata.AccountID, key, master metadata.KeyID, wrapped []byte) (seal.Key, error) {
	plain, err := k.current().UnwrapAccount(account, key, master, wrapped)
	return seal.Key(plain), err
}

// Keyring implements admin.Keyrings.
func (k *keyKeeper) Keyring(context.Context) (*admin.Keyring, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := &admin.Keyring{Path: k.path, Version: k.ring.Version(), Copies: k.copies}
	if v := k.ring.Verified(); v.At != 0 {
		out.Verified = time.Unix(v.At, 0).UTC()
	}
	return out, nil
}

// BackupKeyring implements admin.Keyrings.
func (k *keyKeeper) BackupKeyring(context.Context) (*admin.KeyringBackup, error) {
	k.changing.Lock()
	defer k.changing.Unlock()
	ring := k.current()
	sealed, err := ring.Sealed(rand.Reader, topology.DriveID{})
	if err != nil {
		return nil, fmt.Errorf("seal keyring: %w", err)
	}
	if err := k.verified(ring); err != nil {
		return nil, err
	}
	return &admin.KeyringBackup{Name: keyring.SealedName(ring.Version()), Sealed: sealed}, nil
}

// VerifyKeyring implements admin.Keyrings.
func (k *keyKeeper) VerifyKeyring(_ context.Context, code string) error {
	k.changing.Lock()
	defer k.changing.Unlock()
	ring := k.current()
	if err := ring.CheckCode(code); err != nil {
		return &admin.Error{Status: http.StatusBadRequest, Code: admin.CodeBadRequest, Message: err.Error()}
	}
	return k.verified(ring)
}

// verified notes that the owner has a backup or the recovery code. The caller
// holds changing.
func (k *keyKeeper) verified(ring *keyring.Keyring) error {
	noted := ring.WithVerification(k.now())
	if err := noted.Save(vfs.Default, k.path); err != nil {
		return fileError("write keyring "+k.path, err)
	}
	k.set(noted)
	return nil
}

// RestoreKeyring writes the keyring of a stopped server anew, from the sealed
// copies on the drives that are there and, unless file is empty, from a backup,
// which must open. The newest counts: a backup made before a drive was replaced
// is older than the copies on the drives. It returns the path of the keyring,
// which says that the code was shown now.
func RestoreKeyring(c *config.Config, file, code string, now time.Time) (string, error) {
	path := keyringPath(c)
	if _, err := os.Stat(path); err == nil {
		return "", fmt.Errorf("%s exists and is left alone; move it away first if it is not the right one", path)
	}
	sealed, err := sealedCopies(c, file)
	if err != nil {
		return "", err
	}
	var copies []*keyring.Keyring
	var errs []error
	for name, text := range sealed {
		ring, err := keyring.OpenSealed(text, code)
		switch {
		case err == nil:
			copies = append(copies, ring)
		case errors.Is(err, keyring.ErrMistyped):
			return "", err // no other copy opens either
		case name == file:
			return "", fmt.Errorf("%s: %w", name, err)
		default:
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	if len(copies) == 0 {
		if len(errs) == 0 {
			return "", errors.New("none of the drives holds a sealed copy of the keyring; name them with --drives, or a backup with --file")
		}
		if !slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, keyring.ErrWrongCode) }) {
			return "", fmt.Errorf("%d sealed copies: %w", len(errs), keyring.ErrWrongCode)
		}
		return "", errors.Join(errs...)
	}
	ring, err := keyring.Merge(copies...)
	if err != nil && (ring == nil || !errors.Is(err, keyring.ErrNoKey)) {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fileError("make directory of the keyring", err)
	}
	return path, fileError("write keyring "+path, ring.WithVerification(now).Save(vfs.Default, path))
}

// sealedCopies reads the newest sealed copy of every drive that is there, and
// the backup file.
func sealedCopies(c *config.Config, file string) (map[string][]byte, error) {
	out := make(map[string][]byte)
	if file != "" {
		text, err := readBounded(file, maxSealedBytes)
		if err != nil {
			return nil, err
		}
		out[file] = text
	}
	for _, path := range c.DrivePaths() {
		files, err := node.SealedKeyrings(vfs.Default, path)
		if err != nil {
			continue // an absent drive
		}
		newest, best := "", uint64(0)
		for name := range files {
			if v, ok := keyring.ParseSealedName(name); ok && v >= best {
				newest, best = name, v
			}
		}
		if newest != "" {
			out[filepath.Join(path, newest)] = files[newest]
		}
	}
	return out, nil
}
