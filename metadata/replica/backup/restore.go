package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
	"github.com/ruche-storage/ruche/metadata/state"
)

// RestoreOptions say what a backup is restored to.
type RestoreOptions struct {
	// FS is the file system of the store, the encrypting one if its files are
	// to be encrypted. Dir must not be there, or be empty; the directory it
	// lies in must be there.
	FS  vfs.FS
	Dir string

	// Keys opens sealed backups.
	Keys *keyring.Keyring

	// Cluster refuses backups of another cluster, unless it is zero.
	Cluster [16]byte

	// Incarnation is the least that the restored store gets, for when more is
	// known than the backup says. Epoch is the highest that a drive has seen.
	Incarnation uint64
	Epoch       uint64

	// Now returns the wall clock. Required.
	Now func() time.Time

	// Random gives the request id of the command that switches collection off.
	// Required.
	Random io.Reader

	// Logger takes what operators should know. Nil discards it.
	Logger *slog.Logger
}

// Restored says what a store was made of.
type Restored struct {
	Info        Info
	Totals      Totals
	Incarnation uint64

	// NextReplica is a replica id above those of all copies that there were
	// when the backup was written, 1 if there never were several.
	NextReplica uint64
}

// Restore makes a store of a single copy from a backup. The store appears in
// Dir at once, when all of the file was verified and collection is switched
// off; after an error, or a crash, there is none, and what was begun beside it
// is removed, at the latest by the next Restore. The table of stores is empty:
// the copies that there were know another history.
func Restore(ctx context.Context, r io.Reader, o RestoreOptions) (Restored, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	res, err := restore(ctx, r, o)
	if err != nil {
		return Restored{}, fmt.Errorf("backup: restore to %s: %w", o.Dir, err)
	}
	return res, nil
}

func restore(ctx context.Context, r io.Reader, o RestoreOptions) (res Restored, err error) {
	if err := vacant(o.FS, o.Dir); err != nil {
		return res, err
	}
	in, err := newReader(r, o.Keys)
	if err != nil {
		return res, err
	}
	if o.Cluster != [16]byte{} && in.info.Cluster != o.Cluster {
		return res, fmt.Errorf("%w: %x, here is %x", ErrCluster, in.info.Cluster, o.Cluster)
	}
	fresh := o.Dir + ".new"
	if err := o.FS.RemoveAll(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return res, err
	}
	res, err = build(ctx, in, fresh, o)
	if err == nil {
		err = vacate(o.FS, o.Dir)
	}
	if err == nil {
		err = errors.Join(syncDir(o.FS, fresh), syncDir(o.FS, o.FS.PathDir(o.Dir)))
	}
	if err == nil {
		err = o.FS.Rename(fresh, o.Dir)
	}
	if err != nil {
		if gone := o.FS.RemoveAll(fresh); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		if errors.Is(err, syscall.ENOSPC) && !errors.Is(err, snapshot.ErrFull) {
			err = fmt.Errorf("%w: %w", snapshot.ErrFull, err)
		}
		return Restored{}, err
	}
	return res, syncDir(o.FS, o.FS.PathDir(o.Dir))
}

// build makes the store in a directory of its own.
func build(ctx context.Context, in *reader, dir string, o RestoreOptions) (Restored, error) {
	options := replica.Options{FS: o.FS, Now: o.Now, Logger: o.Logger, ReserveBytes: -1,
		// The backup may be old; the next start will look at the clock.
		AcceptClock: true}
	staged := o.FS.PathJoin(dir, "snap")
	next := make(chan uint64, 1)
	err := replica.Build(dir, options, func(db *pebble.DB) error {
		stage, err := snapshot.OpenStage(o.FS, staged, snapshot.StageOptions{})
		if err != nil {
			return err
		}
		if err := in.walk(ctx, &installer{db: db, stage: stage}); err != nil {
			return err
		}
		id, err := forgetStores(db)
		next <- id
		return err
	})
	if err != nil {
		return Restored{}, err
	}
	if err := o.FS.RemoveAll(staged); err != nil {
		return Restored{}, err
	}
	n, err := renounce(ctx, dir, options, o)
	return Restored{Info: in.info, Totals: in.totals, Incarnation: n, NextReplica: <-next}, err
}

// storesTable is the table of the root's row of all copies.
const storesTable = 0x16

// forgetStores removes the table of stores, and returns a replica id above all
// that it has.
func forgetStores(db *pebble.DB) (next uint64, err error) {
	t, err := state.NewView(db).Stores()
	if err != nil {
		return 0, err
	}
	for _, s := range t.Stores {
		next = max(next, s.Replica)
	}
	root, _ := snapshot.Span(metadata.RootGroup)
	return next + 1, db.Delete(append(root, storesTable), pebble.Sync)
}

// renounce lets the store in dir free nothing until its operator confirms: what
// the drives hold may be newer than what it knows.
func renounce(ctx context.Context, dir string, options replica.Options, o RestoreOptions) (n uint64, err error) {
	l, err := replica.Open(dir, options)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	next, err := replica.Renounce(ctx, l, o.Now(), o.Incarnation, o.Epoch, func() (id metadata.RequestID, err error) {
		if _, err := io.ReadFull(o.Random, id[:]); err != nil {
			return id, fmt.Errorf("random source: %w", err)
		}
		return id, nil
	})
	return next.Number, err
}

// installer puts groups into a store.
type installer struct {
	db    *pebble.DB
	stage *snapshot.Stage
	rec   *snapshot.Receive
}

func (i *installer) begin(h snapshot.Header) (err error) {
	i.rec, err = i.stage.Begin(h)
	return err
}

func (i *installer) add(p *snapshot.Piece) error { return i.rec.Add(p) }

func (i *installer) end(ctx context.Context, sum snapshot.Summary) error {
	st, err := i.rec.Complete(ctx, sum)
	if err != nil {
		return err
	}
	if err := snapshot.Install(ctx, i.db, st); err != nil {
		return err
	}
	return i.stage.Remove(sum.Snapshot)
}

// vacant returns an error wrapping ErrExists if there is anything in dir.
func vacant(fsys vfs.FS, dir string) error {
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("%w: %s holds %d files", ErrExists, dir, len(names))
	}
	return err
}

// vacate removes an empty directory in the place of the store.
func vacate(fsys vfs.FS, dir string) error {
	if err := vacant(fsys, dir); err != nil {
		return err
	}
	if err := fsys.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
