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
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/backup"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// backupPace is how fast a backup of the metadata is made, in bytes a second:
// requests go first.
const backupPace = 64 << 20

// BackupMetadata implements admin.Backups.
func (c *control) BackupMetadata(ctx context.Context, w io.Writer) error {
	if !c.backingUp.TryLock() {
		return &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: "a backup of the metadata is being written", Remedy: "wait until it has ended"}
	}
	defer c.backingUp.Unlock()
	p := c.p
	o := backup.Options{Cluster: p.id.Cluster, Now: p.Now, Random: rand.Reader, BytesPerSecond: backupPace}
	if p.id.Encryption {
		o.Keys = p.ring.current()
	}
	began := p.Now()
	info, totals, err := backup.Write(ctx, w, p.meta, o)
	if err != nil {
		return err
	}
	p.Log.Info("metadata backed up", "backup", info.ID.String(), "rows", totals.Rows, "bytes", totals.Bytes, "took", p.Now().Sub(began).String())
	return nil
}

// RestoreMetadataOptions are what a restoration is started with. All but
// AcceptLoss are required.
type RestoreMetadataOptions struct {
	Config *config.Config // validated
	Log    *slog.Logger
	Now    func() time.Time
	File   string
	// Code asks for the recovery code. It is called only if the keyring is
	// lost.
	Code func() (string, error)
	// AcceptLoss gives up copies of the metadata whose devices are away.
	AcceptLoss bool
}

// RestoredMetadata is what was restored from a backup, or would be.
type RestoredMetadata struct {
	File        string    `json:"file"`
	Cluster     string    `json:"cluster"`
	Created     time.Time `json:"created"` // of the backup
	Rows        uint64    `json:"rows"`
	Bytes       uint64    `json:"bytes"`
	Incarnation uint64    `json:"incarnation,omitempty"`
	// Credentials is the file with new credentials of root, "" if there were
	// some.
	Credentials string `json:"credentials,omitempty"`
}

// RestoreMetadata puts a backup in the place of the lost metadata of a stopped
// server, and makes whatever else of the state directory is missing. It refuses
// if there are metadata. One that was cut off is begun anew.
//
// The steps are those of [Recover], but that the state is built from the backup.
func RestoreMetadata(ctx context.Context, o RestoreMetadataOptions) (report *RestoredMetadata, err error) {
	r := &restorer{
		recoverer: &recoverer{
			process: newProcess(Options{Config: o.Config, Log: o.Log, Now: o.Now}),
			o:       RecoverOptions{Config: o.Config, Log: o.Log, Now: o.Now, Code: o.Code},
			report:  new(RecoverReport),
		},
		o: o,
	}
	defer func() { err = errors.Join(err, r.close()) }()
	for _, step := range []func(context.Context) error{
		r.openState, r.inspect, r.whose, r.vacant, r.findKeyring, r.openAll, r.restore, r.describe, r.publish,
	} {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := step(ctx); err != nil {
			return nil, startError(r.dir, err)
		}
	}
	return &RestoredMetadata{
		File: o.File, Cluster: r.id.Cluster.String(), Created: r.restored.Info.Created, Rows: r.restored.Totals.Rows, Bytes: r.restored.Totals.Bytes,
		Incarnation: r.restored.Incarnation, Credentials: r.report.Credentials,
	}, nil
}

// restorer is a restoration under way.
type restorer struct {
	*recoverer
	o        RestoreMetadataOptions
	file     *os.File
	info     backup.Info
	list     *storeList // nil if there is none
	restored backup.Restored
}

// VerifyMetadata reads a whole backup and checks all of it. The keyring of the
// settings opens it if it is sealed; a server may be running.
func VerifyMetadata(ctx context.Context, c *config.Config, file string) (*RestoredMetadata, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	info, err := backup.Inspect(f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, backupError(file, err)
	}
	var keys *keyring.Keyring
	if info.Sealed {
		if keys, err = keyring.Load(vfs.Default, keyringPath(c)); err != nil {
			return nil, fileErrorOr(KeyringMissing, "keyring "+keyringPath(c), "name the keyring of the cluster with --keyring, or its state directory with --data", err)
		}
	}
	info, totals, err := backup.Verify(ctx, f, keys)
	if err != nil {
		return nil, backupError(file, err)
	}
	return &RestoredMetadata{File: file, Cluster: id128(info.Cluster).String(), Created: info.Created, Rows: totals.Rows, Bytes: totals.Bytes}, nil
}

// inspect opens the backup and reads its head.
func (r *restorer) inspect(context.Context) (err error) {
	if r.file, err = os.Open(r.o.File); err != nil {
		return fileErrorOr(BackupUnusable, "backup "+r.o.File, "give the path of the backup with --file", err)
	}
	r.onClose("backup", r.file.Close)
	if r.info, err = backup.Inspect(r.file); err == nil {
		_, err = r.file.Seek(0, io.SeekStart)
	}
	return backupError(r.o.File, err)
}

// backupError words what is wrong with a backup. Its errors name the remedy.
func backupError(file string, err error) error {
	what := "backup " + file
	switch {
	case err == nil:
		return nil
	case errors.Is(err, backup.ErrNoBackup):
		return &StartError{BackupUnusable, what, "give a file that \"ruche metadata backup\" has written", err}
	case errors.Is(err, backup.ErrTruncated), errors.Is(err, backup.ErrDamaged):
		return &StartError{BackupUnusable, what, "take another copy of the file, or an older backup; nothing was changed", err}
	case errors.Is(err, backup.ErrNewer):
		return &StartError{BackupUnusable, what, "restore it with the version of ruche that wrote it, or a newer one; nothing was changed", err}
	case errors.Is(err, backup.ErrKeys):
		return &StartError{KeyringMismatch, what, "give --keyring the keyring of this cluster, newer than the backup; nothing was changed", err}
	case errors.Is(err, backup.ErrCluster):
		return &StartError{ForeignState, what, "give a backup of the cluster of these drives; nothing was changed", err}
	}
	return fileError("read "+what, err)
}

// vacant refuses where there are metadata: they are newer than the backup.
func (r *restorer) vacant(context.Context) (err error) {
	if r.info.Cluster != r.id.Cluster {
		return backupError(r.o.File, fmt.Errorf("%w %s; the drives are of %s", backup.ErrCluster, id128(r.info.Cluster), r.id.Cluster))
	}
	if _, err := os.Stat(r.localPath()); !errors.Is(err, fs.ErrNotExist) {
		return &StartError{MetadataExists, r.localPath() + " exists", "start the server; if these metadata cannot be used, move them away first", err}
	}
	if copies := r.copiesOnDrives(); len(copies) > 0 {
		return &StartError{MetadataExists, "there are copies of the metadata in " + strings.Join(copies, ", "),
			"start the server, which needs a majority of them, or see \"ruche metadata force --help\": they are newer than the backup; if they cannot be used, move them away first", nil}
	}
	if r.list, err = readStores(r.dir, r.id.Cluster); err != nil || r.list == nil || r.o.AcceptLoss {
		return err
	}
	var away []string
	for _, s := range r.list.Stores {
		here := slices.ContainsFunc(r.found, func(f found) bool { return f.super != nil && f.super.Drive == s.Drive })
		if s.State != storeGone && !s.Drive.IsZero() && !here {
			away = append(away, s.Path)
		}
	}
	if len(away) > 0 {
		return &StartError{MetadataExists, "copies of the metadata lie on drives that are not there: " + strings.Join(away, ", "),
			"mount these drives and start the server; if they are lost for good, give --accept-loss", nil}
	}
	return nil
}

// restore builds the state beside the place where it belongs.
func (r *restorer) restore(ctx context.Context) error {
	dir := filepath.Join(r.dir, newMetadataName)
	if err := os.RemoveAll(dir); err != nil {
		return fileError("remove "+dir, err)
	}
	if !r.known {
		r.id.Encryption = r.info.Sealed
	}
	files, err := r.newStateFS()
	if err != nil {
		return err
	}
	var keys *keyring.Keyring
	if r.info.Sealed {
		keys = r.ring.current()
	}
	r.restored, err = backup.Restore(ctx, r.file, backup.RestoreOptions{
		FS: files, Dir: dir, Keys: keys, Cluster: r.id.Cluster, Now: r.Now, Random: rand.Reader, Logger: r.Log.With("part", "metadata"),
		// Above all that came since the backup: they count from one, or from
		// the seconds of an earlier time.
		Incarnation: uint64(max(r.Now().Unix(), 0)), Epoch: r.highestEpoch(),
	})
	if err != nil {
		return backupError(r.o.File, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fileError("protect "+dir, err)
	}
	return r.readTables(ctx, dir, files)
}

// readTables gives the restored state the tables that drives know better, and
// learns from it what cluster.json says, if that is lost.
func (r *restorer) readTables(ctx context.Context, dir string, files vfs.FS) (err error) {
	newest, err := r.newestTables(ctx)
	if err != nil {
		return err
	}
	meta, err := replica.Open(dir, replica.Options{FS: files, Now: r.Now, AcceptClock: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, meta.Close()) }()
	if newest != nil {
		if err := r.follow(ctx, meta, newest); err != nil {
			return err
		}
	}
	if r.known {
		return nil
	}
	pgs, err := meta.PGs(ctx)
	if err != nil {
		return err
	}
	table, err := meta.Drives(ctx)
	if err != nil {
		return err
	}
	if len(pgs.Groups) == 0 {
		return &StartError{BackupUnusable, "backup " + r.o.File + " is of a store that had not begun", "take a newer backup; nothing was changed", nil}
	}
	r.id.Scheme = pgs.Groups[0].Scheme.String()
	var lost []topology.DriveID
	for _, d := range table.Drives {
		if _, err := r.node.Drive(d.ID); err != nil && d.State == topology.DriveActive {
			lost = append(lost, d.ID)
		}
	}
	r.slots(lost)
	return nil
}

// describe puts into cluster.json and metadata.json what is known now: there is
// one copy, and no number of an earlier one is given again.
func (r *restorer) describe(context.Context) error {
	for _, d := range r.node.Drives() {
		r.id.place(d.Path(), d.ID())
		// The trash is that of an earlier time: every shard is looked up.
		r.id.missing(d.ID())
	}
	r.id.CollectionOff = admin.OffRestored
	if err := r.id.check(r.c); err != nil {
		return err
	}
	if r.list == nil && r.restored.NextReplica <= 1 {
		return nil
	}
	list := &storeList{Format: storesFormat, Cluster: r.id.Cluster, Phase: storesReady, Next: r.restored.NextReplica}
	if r.list != nil {
		list.Next = max(list.Next, r.list.Next)
	}
	return list.save(r.dir)
}
