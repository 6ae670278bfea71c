package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// What stores keep in files lies encrypted if encryption is on: those in the
// state directory under the key that the keyring has for it, those on a drive,
// its index among them, under the drive's key.
//
// A store made by a version without that gets its key at the first start of one
// with it, and uses it from the next start on, when the key is on more than half
// of the drives. The files it has are replaced then: those that change while
// the store is open before it is opened, its tables in the background.

// cryptPace is how fast tables are encrypted in the background, in bytes a
// second.
const cryptPace = 64 << 20

// plainFiles is what is left of the time before encryption.
type plainFiles struct {
	work sync.WaitGroup
	left atomic.Int64 // files that are still to be replaced
}

// stateIsPlain reports whether the stores in the state directory lie there
// unencrypted for the whole life of this process, though they should not.
func (p *process) stateIsPlain() bool { return p.id.Encryption && p.stateFiles == vfs.Default }

// stateFS is the file system of the stores in the state directory. It is the
// same for the whole life of the process, and asked for before any of them is
// opened.
func (p *process) stateFS() (vfs.FS, error) {
	if p.stateFiles != nil {
		return p.stateFiles, nil
	}
	if !p.id.keyed() {
		p.stateFiles = vfs.Default
		return p.stateFiles, nil
	}
	key, err := p.ring.current().StateKey(p.id.State.ID)
	if err != nil {
		return nil, p.keyringMismatch(err)
	}
	f, err := encrypting(vfs.Default, key, p.id.State.ID, p.id.State.Whole)
	if err != nil {
		return nil, err
	}
	p.stateFiles = f
	p.encryptClosed(f, p.localPath())
	return f, nil
}

// driveFS is the file system of copies of the metadata on a drive, around the
// one below. None of them was ever unencrypted. The keyring has the drive's key
// before the drive is opened.
func (p *process) driveFS(drive topology.DriveID, below vfs.FS) (vfs.FS, error) {
	if !p.id.Encryption {
		return below, nil
	}
	return p.underKeyOf(drive, below, true)
}

func (p *process) underKeyOf(drive topology.DriveID, below vfs.FS, whole bool) (*cryptfs.FS, error) {
	key, err := p.ring.current().DriveKey(drive)
	if err != nil {
		return nil, err
	}
	return encrypting(below, key, drive, whole)
}

func encrypting(below vfs.FS, key keyring.Key, store topology.DriveID, whole bool) (*cryptfs.FS, error) {
	return cryptfs.New(below, cryptfs.Options{Key: cryptfs.Key(key), Store: store, Random: rand.Reader, Whole: whole})
}

// indexFS is the file system of the index of a drive in dir. A key that is lost keeps
// no drive from being opened: its index is made anew.
func (p *process) indexFS(drive topology.DriveID, dir string, below vfs.FS) (vfs.FS, error) {
	f, err := p.underKeyOf(drive, below, false)
	if errors.Is(err, keyring.ErrNoKey) {
		p.Log.Error("the index of a drive lies unencrypted until the next start", "dir", dir, "err", err)
		return below, nil
	}
	if err != nil {
		return nil, err
	}
	p.encryptClosed(f, dir)
	return f, nil
}

// encryptClosed replaces the files of a store that is not open but its tables,
// which may be many. A disk that is full or failing must not keep the store from
// being opened: what is left is tried again at the next start.
func (p *process) encryptClosed(f *cryptfs.FS, dir string) {
	paths, err := f.Plain(dir, cryptfs.IsNoTable)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	for err == nil && len(paths) > 0 {
		if err = f.Encrypt(paths[0]); err == nil {
			paths = paths[1:]
		}
	}
	p.plain.left.Add(int64(len(paths)))
	if err != nil {
		p.Log.Error("older files are encrypted at the next start", "dir", dir, "err", err)
	}
}

// knowDrives gives the drives that are there keys, before anything on them is
// opened. It is called again when more were formatted. A keyring that is older
// than the copies on them gets none: what they hold is not under its keys.
func (p *process) knowDrives(context.Context) error {
	paths := p.c.DrivePaths()
	if newest := newestCopy(paths); newest > p.ring.current().Version() {
		return p.olderKeyring(newest)
	}
	all, err := survey(paths)
	if err != nil {
		return err
	}
	var ids []topology.DriveID
	for _, f := range all {
		if f.super != nil && id128(f.super.Cluster) == p.id.Cluster {
			ids = append(ids, f.super.Drive)
		}
	}
	return p.ring.know(ids)
}

func (p *process) olderKeyring(newest uint64) error {
	return p.keyringMismatch(fmt.Errorf("it is version %d, and drives hold sealed copies of version %d", p.ring.current().Version(), newest))
}

// newestCopy is the highest version of which a drive that is not open holds a
// sealed copy.
func newestCopy(paths []string) (newest uint64) {
	for _, path := range paths {
		files, err := node.SealedKeyrings(vfs.Default, path)
		if err != nil {
			continue // an absent drive
		}
		for name := range files {
			if version, ok := keyring.ParseSealedName(name); ok {
				newest = max(newest, version)
			}
		}
	}
	return newest
}

// keyState gives the state directory of an older store a key, for the next
// start. It is tried again at every start; a store that runs as before is no
// reason not to serve.
func (p *process) keyState(ctx context.Context) error {
	if !p.id.Encryption || p.id.keyed() {
		return nil
	}
	drives := keyringDrives(p.node)
	active, err := p.activeDrives(ctx)
	if err != nil {
		return err
	}
	if 2*len(drives) <= active {
		p.Log.Warn("metadata stays unencrypted: too few drives are there to keep its key", "drives", len(drives), "of", active)
		return nil
	}
	if p.id.State == nil {
		if err := p.note(func(id *identity) { id.State = &stateStore{ID: newStoreID()} }); err != nil {
			return err
		}
	}
	if err := p.ring.admitState(p.id.State.ID, drives, active); err != nil {
		p.Log.Error("metadata stays unencrypted: its key was not stored", "err", err)
		return nil
	}
	return p.note(func(id *identity) { id.State.Keyed = true })
}

// newStateFS is stateFS for stores that are made anew, where nothing of the old
// ones is left. They have a key at once if enough of the drives that the keyring
// knows can keep that, else when a server starts. cluster.json is for the caller to save.
func (p *process) newStateFS() (vfs.FS, error) {
	lost := false
	if p.id.keyed() {
		_, err := p.ring.current().StateKey(p.id.State.ID)
		lost = errors.Is(err, keyring.ErrNoKey)
	}
	if p.id.Encryption && (lost || !p.id.keyed()) {
		p.id.State = &stateStore{ID: newStoreID()}
		if err := p.ring.admitState(p.id.State.ID, keyringDrives(p.node), len(p.ring.current().Drives())); err != nil {
			p.Log.Warn("metadata is not encrypted yet: its key was not stored", "err", err)
		} else {
			p.id.State.Keyed, p.id.State.Whole = true, true
		}
	}
	return p.stateFS()
}

// encryptOld replaces, in the background, the tables that were stored before
// there was encryption.
func (p *process) encryptOld(ctx context.Context) error {
	if !p.id.Encryption {
		return nil
	}
	type store struct {
		fs  *cryptfs.FS
		dir string
	}
	var stores []store
	if f, ok := p.stateFiles.(*cryptfs.FS); ok && !p.id.State.Whole {
		stores = append(stores, store{f, p.localPath()})
	}
	for _, d := range p.node.Drives() {
		f, err := p.underKeyOf(d.ID(), vfs.Default, false)
		if err != nil {
			return err
		}
		stores = append(stores, store{f, filepath.Join(d.Path(), "idx")})
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.onClose("encryption of older files", func() error {
		cancel()
		ended := make(chan struct{})
		go func() { defer close(ended); p.plain.work.Wait() }() // outlives the call only if a device hangs
		select {
		case <-ended:
			return nil
		case <-time.After(hangingPatience):
			return errors.New("a device hangs")
		}
	})
	for _, s := range stores {
		p.plain.work.Go(func() {
			err := p.encryptTables(run, s.fs, s.dir)
			if err == nil && s.dir == p.localPath() {
				err = p.noteWhole(s.fs)
			}
			if err != nil {
				p.Log.Error("older files are encrypted at the next start", "dir", s.dir, "err", err)
			}
		})
	}
	return nil
}

// noteWhole notes, for the next start, that no older file is left in the state
// directory, if that is so.
func (p *process) noteWhole(f *cryptfs.FS) error {
	left, err := f.Plain(p.localPath(), func(name string) bool { return name != "LOCK" })
	if err != nil || len(left) > 0 {
		return err
	}
	return p.note(func(id *identity) { id.State.Whole = true })
}

// encryptTables replaces the tables of one store.
func (p *process) encryptTables(ctx context.Context, f *cryptfs.FS, dir string) error {
	paths, err := f.Plain(dir, cryptfs.IsTable)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a drive that was taken out
	}
	if err != nil || len(paths) == 0 {
		return err
	}
	p.plain.left.Add(int64(len(paths)))
	pause := time.NewTimer(0)
	defer pause.Stop()
	for _, path := range paths {
		select {
		case <-ctx.Done():
			return nil // the next start goes on
		case <-pause.C:
		}
		info, err := f.Stat(path)
		if err == nil {
			pause.Reset(time.Duration(info.Size()) * time.Second / cryptPace)
			err = f.Encrypt(path)
		} else if pause.Reset(0); errors.Is(err, fs.ErrNotExist) {
			err = nil // the store has deleted it
		}
		if err != nil {
			return err
		}
		p.plain.left.Add(-1)
	}
	p.Log.Info("files of an earlier version are encrypted now", "dir", dir, "files", len(paths))
	return nil
}
