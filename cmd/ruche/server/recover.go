package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/gateway/recovery"
	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// RecoverOptions are what a recovery is started with. Config, Log, Now and Code
// are required.
type RecoverOptions struct {
	Config *config.Config // validated
	Log    *slog.Logger
	Now    func() time.Time
	// Code asks for the recovery code. It is called only if the keyring is
	// lost.
	Code func() (string, error)
	// Progress is told from time to time how far it is, in thousandths, one
	// call at a time. Most often it ends before 1,000: nobody knows before how
	// many manifests are older than others.
	Progress func(thousandths int)
	// FromManifests recovers although there are copies of the metadata, which
	// are left alone.
	FromManifests bool
	// Ended takes what a restore or a forced start had given up, too.
	Ended bool
}

// Names within the state directory.
const (
	newMetadataName = "metadata.new" // of a recovery that has not ended
	scratchName     = "recover.tmp"
)

// Recover makes the metadata of a stopped server anew from what its drives
// carry, and with them whatever else of the state directory is missing. It
// refuses if there are metadata. One that was cut off is begun anew.
//
// If a majority of the copies of the metadata is on the drives, these are taken
// over as they are. Else they are rebuilt from manifests.
//
// The steps, each of which may be repeated:
//
//  1. the keyring, if it is lost, from the sealed copies on the drives
//  2. the state is built in metadata.new
//  3. copies of the metadata that are not used are set aside
//  4. credentials of root, if they are lost
//  5. cluster.json
//  6. metadata.new is renamed to metadata
func Recover(ctx context.Context, o RecoverOptions) (report *RecoverReport, err error) {
	if o.Progress == nil {
		o.Progress = func(int) {}
	}
	r := &recoverer{process: newProcess(Options{Config: o.Config, Log: o.Log, Now: o.Now}), o: o}
	defer func() { err = errors.Join(err, r.close()) }()
	steps := []func(context.Context) error{r.openState, r.whose, r.refuse, r.findKeyring}
	for len(steps) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := steps[0](ctx); err != nil {
			return nil, startError(r.dir, err)
		}
		if steps = steps[1:]; len(steps) == 0 && r.report == nil {
			steps = r.rest()
		}
	}
	return r.report, nil
}

// rest are the steps after the keyring is open.
func (r *recoverer) rest() []func(context.Context) error {
	if len(r.there) > 0 && !r.o.FromManifests {
		return []func(context.Context) error{r.takeOver, r.publish}
	}
	return []func(context.Context) error{r.openAll, r.collect, r.build, r.setAsideCopies, r.publish}
}

// recoverer is a recovery under way.
type recoverer struct {
	*process
	o      RecoverOptions
	found  []found
	known  bool       // cluster.json is there
	list   *storeList // metadata.json, as it is or is to be
	there  []stray    // copies of the metadata on drives
	all    *recovery.Collection
	report *RecoverReport
}

// whose finds out which cluster is to be recovered: that of cluster.json or, if
// it is lost, that of the drives.
func (r *recoverer) whose(context.Context) (err error) {
	if r.found, err = survey(r.c.DrivePaths()); err != nil {
		return err
	}
	if r.id, err = readIdentity(r.dir); err != nil {
		return err
	}
	if r.known = r.id != nil; r.known && r.id.Phase == phaseStarting {
		return &StartError{NothingToRecover, "the first start in " + r.dir + " has not ended: nothing was stored yet",
			"start the server; it goes on where it was", nil}
	}
	owners := clusters(r.found)
	switch {
	case len(owners) == 0:
		return &StartError{NothingToRecover, fmt.Sprintf("none of the directories %v is a drive of a cluster", r.c.DrivePaths()),
			"mount the drives and name them with --drives", errors.Join(surveyErrors(r.found)...)}
	case r.known:
		return checkOwner(r.found, r.id.Cluster, r.dir)
	case len(owners) > 1:
		return checkOwner(r.found, owners[0], r.dir)
	}
	r.id = &identity{Format: identityFormat, Phase: phaseReady, Cluster: owners[0], Node: nodeOf(r.found)}
	r.id.Encryption, err = encryptedIndex(r.found)
	return err
}

// encryptedIndex reports whether an index of a drive lies there encrypted. Until
// buckets tell whether encryption is on, indexes are opened as they lie there.
func encryptedIndex(all []found) (bool, error) {
	for _, f := range all {
		if f.super == nil {
			continue
		}
		if on, err := cryptfs.Encrypted(vfs.Default, filepath.Join(f.path, indexName)); err != nil || on {
			return on, driveErrorOr(f.path, err)
		}
	}
	return false, nil
}

func driveErrorOr(path string, err error) error {
	if err == nil {
		return nil
	}
	return driveError(path, err)
}

func surveyErrors(all []found) (errs []error) {
	for _, f := range all {
		if f.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.path, f.err))
		}
	}
	return errs
}

// nodeOf is the node that most drives were formatted by.
func nodeOf(all []found) (node topology.NodeID) {
	count := make(map[topology.NodeID]int)
	for _, f := range all {
		if f.super == nil {
			continue
		}
		n := f.super.Node
		count[n]++
		if c := cmp.Compare(count[n], count[node]); c > 0 || c == 0 && slices.Compare(n[:], node[:]) < 0 {
			node = n
		}
	}
	return node
}

// copiesOnDrives returns the directories on drives that carry copies of the metadata.
func (r *recoverer) copiesOnDrives() (out []string) {
	for _, f := range r.found {
		if _, err := os.Stat(filepath.Join(f.path, metaName)); f.super != nil && err == nil {
			out = append(out, filepath.Join(f.path, metaName))
		}
	}
	return out
}

// findKeyring opens the keyring, and writes it anew before if it is lost.
func (r *recoverer) findKeyring(context.Context) error {
	path, err := filepath.Abs(keyringPath(r.c))
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		code, err := r.o.Code()
		if err != nil {
			return err
		}
		if _, err := RestoreKeyring(r.c, "", code, r.Now()); err != nil {
			return fmt.Errorf("keyring: %w", err)
		}
		r.Log.Info("keyring restored", "path", path)
	}
	r.ring, err = openKeyring(path, r.id.Cluster, r.Now, r.Log)
	return err
}

// openAll opens the drives that are there. Nothing is stored or freed on them,
// and what their indexes lost in a crash is read from their segments.
func (r *recoverer) openAll(ctx context.Context) error {
	var paths []string
	for _, f := range r.found {
		if f.super != nil {
			paths = append(paths, f.path)
		}
	}
	o := r.nodeOptions()
	o.ScrubInterval, o.MaintenanceInterval = -1, -1
	n, refused, err := node.Open(ctx, o, paths)
	if err != nil {
		return fmt.Errorf("drives: %w", err)
	}
	r.node = n
	r.onClose("drives", n.Close)
	for _, d := range refused {
		if errors.Is(d.Err, node.ErrInUse) || errors.Is(d.Err, node.ErrForeignDrive) || errors.Is(d.Err, node.ErrClonedDrive) {
			return driveError(d.Path, d.Err)
		}
		r.Log.Error("drive is absent", "path", d.Path, "err", d.Err)
	}
	if len(n.Drives()) == 0 {
		return fileErrorOr(DriveUnusable, fmt.Sprintf("none of the drives %v can be opened", paths), "mount the drives, and check their owner", errors.Join(causes(refused)...))
	}
	if newest := newestSealed(keyringDrives(n)); newest > r.ring.current().Version() {
		return r.keyringMismatch(fmt.Errorf("it is version %d, and drives hold sealed copies of version %d", r.ring.current().Version(), newest))
	}
	return nil
}

// collect reads all that the drives tell.
func (r *recoverer) collect(ctx context.Context) error {
	scratch, err := scratchFS(vfs.Default)
	if err != nil {
		return err
	}
	o := recovery.Options{
		Cluster: r.id.Cluster, Keys: r.ring, Now: r.Now, Known: r.ring.current().Drives(),
		FS: scratch, Scratch: filepath.Join(r.dir, scratchName),
		AcceptClock: r.c.AcceptClock, Ended: r.o.Ended, Log: r.Log.With("part", "recovery"),
	}
	o.Progress = func(p recovery.Progress) { r.o.Progress(thousandths(p)) }
	for _, d := range r.node.Drives() {
		o.Drives = append(o.Drives, recovery.Drive{Row: r.tableRow(d.Status()), Path: d.Path(), Epoch: d.Superblock().HighestEpoch, Records: d})
	}
	if r.known || r.c.Scheme != "" {
		named := r.c
		if r.known {
			named = &config.Config{Scheme: r.id.Scheme, Drives: make([]string, len(r.id.Slots))}
		}
		if o.Scheme, err = named.StorageScheme(); err != nil {
			return err
		}
	}
	r.all, err = recovery.Collect(ctx, o)
	switch {
	case errors.Is(err, recovery.ErrAbsurdClock):
		return &StartError{ClockAbsurd, "the clock of this machine", "set the clock (timedatectl, chrony); if it is right, recover with --accept-clock", err}
	case errors.Is(err, recovery.ErrNothing), errors.Is(err, recovery.ErrNoManifests), errors.Is(err, recovery.ErrNoGroups):
		return &StartError{NothingToRecover, fmt.Sprintf("%s of the cluster", things(len(o.Drives), "drive")), "mount more of its drives; nothing was changed", err}
	case err != nil:
		return err
	}
	r.onClose("scratch directory", r.all.Close)
	return r.describe()
}

// thousandths is how far a recovery is: one half is reading, the other
// restoring.
func thousandths(p recovery.Progress) (n int) {
	if p.TotalDrives > 0 {
		n = 500 * p.Drives / p.TotalDrives
	}
	if p.Manifests > 0 {
		n += int(500 * p.Keys / p.Manifests)
	}
	return min(n, 1000)
}

// describe puts into cluster.json what is known now.
func (r *recoverer) describe() error {
	if !r.known {
		r.id.Scheme = r.all.Scheme().String()
		if on, known := r.all.Encrypted(); known {
			r.id.Encryption = on
		} else if !r.id.Encryption {
			r.id.Encryption = r.c.Encryption == "on"
		}
		r.slots(r.all.Missing())
	}
	for _, d := range r.node.Drives() {
		r.id.place(d.Path(), d.ID())
		// What the trash named is not known any more: every shard is looked up.
		r.id.missing(d.ID())
	}
	r.id.CollectionOff = admin.OffRecovered
	return r.id.check(r.c)
}

// slots says which drives there are, open or lost.
func (r *recoverer) slots(lost []topology.DriveID) {
	for _, f := range r.found {
		s := slot{Path: f.path}
		if f.super == nil && len(lost) > 0 {
			// Which of the lost drives was here makes no difference: a new
			// one takes the place of one of them.
			s.Drive, lost = lost[0], lost[1:]
		}
		r.id.Slots = append(r.id.Slots, s)
	}
}

// build makes the new state.
func (r *recoverer) build(ctx context.Context) (err error) {
	dir := filepath.Join(r.dir, newMetadataName)
	if err := os.RemoveAll(dir); err != nil {
		return fileError("remove "+dir, err)
	}
	// Nothing may get an order that an older change has.
	floor := r.all.Newest().Add(time.Microsecond)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	files, err := r.newStateFS()
	if err != nil {
		return err
	}
	meta, err := replica.Open(dir, replica.Options{
		FS: files, Now: func() time.Time {
			if now := r.Now(); now.After(floor) {
				return now
			}
			return floor
		},
		Logger: r.Log.With("part", "metadata"), AcceptClock: true, OnFailure: cancel,
	})
	if err != nil {
		return fileErrorOr(Damaged, "metadata "+dir, "check the device of the state directory", err)
	}
	defer func() {
		if err = errors.Join(err, meta.Close()); err != nil {
			err = fileError("write "+dir, err)
		}
	}()
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	found, err := r.all.Restore(ctx, meta)
	if err != nil {
		return err
	}
	r.report = newReport(found)
	return nil
}

// publish makes the new state the one of the server.
func (r *recoverer) publish(context.Context) error {
	name := filepath.Join(r.dir, CredentialsFile)
	_, err := os.Stat(name)
	lost := errors.Is(err, fs.ErrNotExist)
	if _, generated, err := rootCredentials(r.c, r.dir, true); err != nil {
		return err
	} else if generated && lost {
		r.report.Credentials = name
	}
	if len(r.report.Copies) > 0 {
		if err := r.list.save(r.dir); err != nil {
			return err
		}
		return r.id.save(r.dir)
	}
	if err := r.id.save(r.dir); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(r.dir, newMetadataName), r.localPath()); err != nil {
		return fileError("rename "+newMetadataName, err)
	}
	return fileError("sync "+r.dir, syncDir(r.dir))
}

func things(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
