package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ruche-storage/ruche/gateway"
	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/gateway/wire"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/placement"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// open starts all parts in the order in which they need each other. What was
// started is closed by the caller, also after an error.
func (p *process) open(ctx context.Context) error {
	for _, step := range p.steps() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(ctx); err != nil {
			return startError(p.dir, err)
		}
	}
	return nil
}

// startError tells a full disk apart where a step of the start did not.
func startError(dir string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fileError("start of the store in "+dir, err)
	}
	return err
}

// steps are what a start does. A first start may be cut off between any two,
// and within each, and is carried on by the next.
func (p *process) steps() []func(context.Context) error {
	return []func(context.Context) error{
		p.openState, p.bind, p.identify, p.openKeyring, p.prepareDrives, p.knowDrives, p.openMetadata, p.checkKeyring, p.openDrives, p.keyState,
		p.openCredentials, p.openTables, p.newerTables, p.noteAbsent, p.noticeRestore, p.openEngine, p.resumeReplacements, p.openFront, p.encryptOld, p.keepCopies, p.settle,
	}
}

// openState makes the state directory and takes its lock.
func (p *process) openState(context.Context) error {
	abs, err := filepath.Abs(p.dir)
	if err != nil {
		return err
	}
	p.dir = abs
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fileErrorOr(NotWritable, "state directory "+p.dir, "give a directory that can be made, with --data", err)
	}
	p.lock, err = lockState(p.dir)
	if err != nil {
		return fileErrorOr(NotWritable, "state directory "+p.dir, "give a directory that can be written, with --data", err)
	}
	p.onClose("lock", p.lock.Close)
	return nil
}

func (p *process) bind(ctx context.Context) error {
	l, err := listen(ctx, p.c, p.dir, p.Now(), p.Log)
	if err != nil {
		return err
	}
	p.net = l
	p.onClose("listeners", func() error { l.close(); return nil })
	return nil
}

// identify finds out whether this is a first start, and refuses if state
// directory, drives and settings do not belong together.
func (p *process) identify(context.Context) error {
	id, err := readIdentity(p.dir)
	if err != nil {
		return err
	}
	all, err := survey(p.c.DrivePaths())
	if err != nil {
		return err
	}
	if id == nil {
		if err := checkFresh(all, p.dir); err != nil {
			return err
		}
		for _, name := range []string{"metadata", "keyring"} {
			if _, err := os.Stat(filepath.Join(p.dir, name)); !errors.Is(err, fs.ErrNotExist) {
				return &StartError{Damaged, fmt.Sprintf("state directory %s has no cluster.json but holds %s", p.dir, name),
					"restore the state directory from its backup, or give an empty one", err}
			}
		}
		if id, err = newIdentity(p.c); err != nil {
			return err
		}
		if err := id.save(p.dir); err != nil {
			return err
		}
	} else if err := checkOwner(all, id.Cluster, p.dir); err != nil {
		return err
	}
	p.id, p.first.is = id, id.Phase == phaseStarting
	return id.check(p.c)
}

func (p *process) openKeyring(context.Context) (err error) {
	path, err := filepath.Abs(keyringPath(p.c))
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); p.first.is && errors.Is(err, fs.ErrNotExist) {
		if err := createKeyring(path, p.id, p.KDF, p.Now, p.showRecoveryCode); err != nil {
			return err
		}
	}
	p.ring, err = openKeyring(path, p.id.Cluster, p.Now, p.Log)
	return err
}

// checkKeyring refuses a keyring that does not open the accounts. It comes
// before any drive is written to: the copies there may be the right ones.
func (p *process) checkKeyring(ctx context.Context) error {
	accounts, err := p.meta.Accounts(ctx)
	if err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	for _, a := range accounts {
		if _, err := p.ring.UnwrapAccount(ctx, a.ID, a.Key, a.MasterKey, []byte(a.WrappedKey)); err != nil {
			return p.keyringMismatch(err)
		}
	}
	return nil
}

func (p *process) keyringMismatch(err error) error {
	return &StartError{KeyringMismatch, "the keyring " + p.ring.path + " does not fit what is stored",
		"give --keyring the newest keyring of this cluster; or move it away and write it anew from the copies on the drives with \"ruche keyring restore\"", err}
}

// openDrives formats, at the first start only, the drives that are not yet, and
// opens all that are there.
func (p *process) openDrives(ctx context.Context) error {
	paths := make([]string, 0, len(p.c.DrivePaths()))
	for _, path := range p.c.DrivePaths() {
		abs, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		paths = append(paths, abs)
	}
	if p.first.is {
		if err := p.formatAll(paths); err != nil {
			return err
		}
		if err := p.knowDrives(ctx); err != nil {
			return err
		}
	}
	n, refused, err := node.Open(ctx, p.nodeOptions(), paths)
	if err != nil {
		return fmt.Errorf("drives: %w", err)
	}
	p.node, p.away = n, refused
	p.conditions = &conditions{ask: func() map[topology.DriveID]object.Condition { return conditionsOf(n) }, now: p.Now}
	p.onClose("drives", p.closeDrives)
	for _, r := range refused {
		if p.first.is || errors.Is(r.Err, node.ErrInUse) || errors.Is(r.Err, node.ErrForeignDrive) {
			return driveError(r.Path, r.Err)
		}
		p.Log.Error("drive is absent", "path", r.Path, "err", r.Err)
	}
	if len(n.Drives()) == 0 {
		return fileErrorOr(DriveUnusable, fmt.Sprintf("none of the drives %v can be opened", paths), "mount the drives, and check their owner", errors.Join(causes(refused)...))
	}
	for _, d := range n.Drives() {
		p.id.place(d.Path(), d.ID())
		p.raise(d)
	}
	if err := p.id.save(p.dir); err != nil {
		return err
	}
	if newest := newestSealed(keyringDrives(n)); newest > p.ring.current().Version() {
		return p.olderKeyring(newest)
	}
	active, err := p.activeDrives(ctx)
	if err != nil {
		return err
	}
	return p.ring.admit(keyringDrives(n), active)
}

// activeDrives is how many drives hold data or are to, open or not. Before the
// first table it is 0.
func (p *process) activeDrives(ctx context.Context) (n int, err error) {
	table, err := p.meta.Drives(ctx)
	if err != nil {
		return 0, fmt.Errorf("drive table: %w", err)
	}
	for _, d := range table.Drives {
		if d.State == topology.DriveActive {
			n++
		}
	}
	return n, nil
}

// raise gives a drive a new incarnation and notes it: a copy of the drive made
// before this start, mounted alone, is refused from now on. The drive comes
// first, so that it is never behind what is expected of it.
func (p *process) raise(d *node.Drive) {
	next := max(d.Superblock().Incarnation, p.id.Incarnations[d.ID()]) + 1
	if err := d.SetIncarnation(next); err != nil {
		p.Log.Error("older copies of a drive are not refused", "path", d.Path(), "err", err)
		return
	}
	p.id.incarnate(d.ID(), next)
}

func causes(refused []node.Refused) (errs []error) {
	for _, r := range refused {
		errs = append(errs, r.Err)
	}
	return errs
}

func keyringDrives(n *node.Node) (out []keyringDrive) {
	for _, d := range n.Drives() {
		out = append(out, d)
	}
	return out
}

// formatAll formats the drives of a first start that are not formatted yet.
func (p *process) formatAll(paths []string) error {
	all, err := survey(paths)
	if err != nil {
		return err
	}
	for _, f := range all {
		switch {
		case f.super != nil: // of this cluster: checkOwner has looked
			continue
		case !slices.ContainsFunc(p.id.Slots, func(s slot) bool { return s.Path == f.path }):
			return &StartError{UnknownDrive, f.path + " was not among the drives when the first start began",
				"start with the same drives again, or empty state directory and drives and begin anew", nil}
		}
		if _, err := format(f.path, p.id); err != nil {
			return err
		}
	}
	return nil
}

func (p *process) nodeOptions() node.Options {
	o := node.Options{
		Clock: clock{p.Now}, Log: p.Log.With("part", "node"), Cluster: node.ClusterID(p.id.Cluster), Incarnations: maps.Clone(p.id.Incarnations),
		PreallocateBytes: orNone(int64(p.c.Preallocate)), ScrubBytesPerSecond: int64(p.c.ScrubRate), OnBadShard: p.badShard,
	}
	if p.id.Encryption {
		o.IndexFS = p.indexFS
	}
	if p.c.ScrubRate == 0 {
		o.ScrubInterval = -1 // on demand, at the default rate
	}
	if p.c.Reserve > 0 {
		o.ReserveBytes = int64(p.c.Reserve)
	}
	if p.c.Ballast >= 0 {
		o.BallastBytes = orNone(int64(p.c.Ballast))
	}
	return o
}

// orNone turns zero, which means none in the settings, into what means none in
// options where zero means the default.
func orNone(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// orNoneTime is orNone for durations: an hour is the default of what zero
// stands for, a nanosecond is none.
func orNoneTime(d time.Duration) time.Duration { return max(d, 1) }

func (p *process) openCredentials(context.Context) (err error) {
	p.root, p.first.rootGenerated, err = rootCredentials(p.c, p.dir, p.first.is)
	return err
}

// openTables commits which version of commands all groups have and, at the first
// start only, which drives there are and how placement groups lie on them. The
// commands have no proposer of their own, so they carry epoch 0.
func (p *process) openTables(ctx context.Context) error {
	if err := p.raiseVersions(ctx); err != nil {
		return err
	}
	drives, err := p.meta.Drives(ctx)
	if err != nil {
		return fmt.Errorf("drive table: %w", err)
	}
	pgs, err := p.meta.PGs(ctx)
	if err != nil {
		return fmt.Errorf("placement groups: %w", err)
	}
	if !p.first.is {
		if len(drives.Drives) == 0 || len(pgs.Groups) == 0 {
			return &StartError{MetadataLost, "the metadata in " + p.dir + " is empty while drives hold data",
				"restore the state directory from its backup, or move " + p.localPath() + " away and make it anew from the drives with \"ruche recover\"", nil}
		}
		return nil
	}
	if len(drives.Drives) == 0 {
		drives = p.newDriveTable()
		cmd := &metadata.Command{Kind: metadata.KindPutDrives, Drives: drives}
		if _, err := commit(ctx, p.meta, cmd); err != nil {
			return fmt.Errorf("store drive table: %w", err)
		}
	}
	if len(pgs.Groups) == 0 {
		scheme, err := p.id.scheme()
		if err != nil {
			return err
		}
		seed := binary.LittleEndian.Uint64(p.id.Cluster[:8]) // a start that goes on builds the same
		if pgs, err = placement.Build(drives.Drives, scheme, 0, seed); err != nil {
			return fmt.Errorf("place groups: %w", err)
		}
	}
	return p.putPGs(ctx, pgs)
}

// raiseVersions gives all groups the newest version of commands. All copies of
// the metadata are of this process, so there is no older program to wait for.
func (p *process) raiseVersions(ctx context.Context) error {
	for group := range uint32(metadata.DataGroups + 1) {
		version, err := p.meta.CommandVersion(ctx, group)
		if err != nil {
			return fmt.Errorf("command version of group %d: %w", group, err)
		}
		if version >= metadata.LatestVersion {
			continue
		}
		cmd := &metadata.Command{Kind: metadata.KindClusters, Group: group, Clusters: &metadata.ClusterVersion{Version: metadata.LatestVersion}}
		if _, err := commit(ctx, p.meta, cmd); err != nil {
			return fmt.Errorf("command version of group %d: %w", group, err)
		}
	}
	return nil
}

// noticeRestore finds out whether the metadata is older than the drives: a
// drive has seen an epoch that no group knows, though every group learns of an
// epoch before any drive does. Then shards that the metadata does not know may
// belong to objects that a newer copy of it has, so nothing is freed until the
// operator says so.
func (p *process) noticeRestore(ctx context.Context) error {
	known, seen := uint64(0), p.highestEpoch()
	for group := range uint32(metadata.DataGroups + 1) {
		f, err := p.meta.Fence(ctx, group)
		if err != nil {
			return fmt.Errorf("fence of group %d: %w", group, err)
		}
		known = max(known, f.Floor, f.Highest)
	}
	if seen <= known {
		return nil
	}
	p.Log.Error("the metadata is older than what the drives hold; nothing is freed until \"ruche repair resume-collection\"", "known_epoch", known, "seen_epoch", seen)
	_, err := replica.Renounce(ctx, patient{p.meta}, p.Now(), 0, seen, func() (metadata.RequestID, error) { return metadata.RequestID(newID()), nil })
	if err != nil {
		return fmt.Errorf("begin a new history of the metadata: %w", err)
	}
	return nil
}

// patient repeats commands while their outcome is unknown.
type patient struct{ *replica.Switch }

// Commit implements replica.Restorable. The request id is its own.
func (p patient) Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error) {
	return commit(ctx, p.Switch, cmd)
}

// highestEpoch is the highest epoch that any open drive has seen.
func (p *process) highestEpoch() (highest uint64) {
	for _, d := range p.node.Drives() {
		highest = max(highest, d.Superblock().HighestEpoch)
	}
	return highest
}

// newDriveTable lists the open drives.
func (p *process) newDriveTable() *metadata.DriveTable {
	t := &metadata.DriveTable{Version: 1}
	for _, s := range p.node.Status() { // in order of ids
		t.Drives = append(t.Drives, p.tableRow(s))
	}
	return t
}

// tableRow is what the drive table says of an open drive.
func (p *process) tableRow(s node.DriveStatus) topology.Drive {
	return topology.Drive{ID: s.ID, Node: p.id.Node, Site: site, Device: device(s.Path), CapacityBytes: s.CapacityBytes, State: topology.DriveActive}
}

// device names the device that a directory lies on, "" if it cannot be told.
func device(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)))
}

// putPGs stores the table of placement groups in the root group and pushes it
// into every data group.
func (p *process) putPGs(ctx context.Context, t *metadata.PGTable) error {
	return pushPGs(ctx, p.meta, t)
}

// pushPGs gives every group a table of placement groups, the root last: while it
// has an older one, the table may have to be pushed again.
func pushPGs(ctx context.Context, to committer, t *metadata.PGTable) error {
	for n := range uint32(metadata.DataGroups + 1) {
		group := (n + 1) % (metadata.DataGroups + 1)
		cmd := &metadata.Command{Kind: metadata.KindPushPGs, Group: group, PGs: t}
		if _, err := commit(ctx, to, cmd); err != nil {
			return fmt.Errorf("store placement groups in group %d: %w", group, err)
		}
	}
	return nil
}

func (p *process) openEngine(ctx context.Context) error {
	loss := object.DriveLossRefuse
	if p.c.OnDriveLoss == "degrade" {
		loss = object.DriveLossDegrade
	}
	eng, err := object.New(object.Options{
		Metadata: p.meta, Shards: shards{p.node}, Drives: p.conditions, Keys: p.ring, RootKeys: p.ring,
		Cluster: seal.ClusterID(p.id.Cluster), Region: p.c.Region, Encryption: p.id.Encryption, HighestEpoch: p.highestEpoch(),
		InlineBytes: int(orNone(int64(p.c.InlineBytes))), StripeBudgetBytes: int64(p.c.StripeBudget), ReadBudgetBytes: int64(p.c.StripeBudget),
		OnDriveLoss: loss, TrashGrace: orNoneTime(p.c.TrashGrace), Background: &object.BackgroundOptions{
			Stored: func() (int64, int64) { return stored(p.node) }, Pressure: func() bool { return pressed(p.node) }, InventoryNow: recovered(p.node.Status()),
		}, Now: p.Now, Logger: p.Log.With("part", "engine"),
	})
	if err != nil {
		return err
	}
	if err := eng.Start(ctx); err != nil {
		return fmt.Errorf("start engine: %w", err)
	}
	p.eng = eng
	p.onClose("engine", p.closeEngine)
	p.bad.Store(eng)
	return nil
}

// badShard hands what a scrub found to the repair queue, once there is one.
func (p *process) badShard(b node.BadShard) {
	if eng := p.bad.Load(); eng != nil {
		eng.ReportBadShard(object.BadShard{Drive: b.Drive, Record: b.Shard.Record, Err: b.Err})
	}
}

// openFront makes what answers requests: access keys, the S3 gateway and the
// admin API.
func (p *process) openFront(ctx context.Context) error {
	account, err := p.eng.EnsureAccount(ctx, "root", canonicalID())
	if err != nil {
		return p.accountError(err)
	}
	accountKeys, err := p.eng.AccountKeys(ctx, account)
	if err != nil {
		return p.keyringMismatch(err)
	}
	p.keys = &accessKeys{root: p.root, store: p.meta, epochs: p.eng, account: account, keys: accountKeys, secrets: make(map[string]string)}
	p.ctl = &control{p: p}
	proxies := make([]netip.Prefix, 0, len(p.c.TrustedProxies))
	for _, s := range p.c.TrustedProxies {
		proxies = append(proxies, netip.MustParsePrefix(s)) // validated
	}
	o := gateway.Options{
		Region: p.c.Region, StrictRegion: p.c.StrictRegion, Lookup: p.keys.lookup,
		Owner:   wire.Owner{ID: account.Canonical, DisplayName: account.Name},
		Domains: p.c.Domains, PublicURLs: p.c.PublicURLs, TrustedProxies: proxies,
		Encrypted: p.id.Encryption, Health: p.ctl, Log: p.Log.With("part", "gateway"), Now: p.Now,
	}
	if p.c.AccessLog != "" {
		if o.AccessLog, err = p.openAccessLog(); err != nil {
			return err
		}
	}
	if p.s3, err = gateway.New(p.eng, o); err != nil {
		return err
	}
	p.onClose("gateway", p.s3.Close)
	p.ctl.metrics, err = admin.MetricsHandler(p.ctl.gather, p.s3.Metrics())
	return err
}

// accountError words why the account of a new store was not made. On drives
// that were full from the beginning that is the first write that fails.
func (p *process) accountError(err error) error {
	for _, s := range p.node.Status() {
		if s.State == node.StateFull {
			return &StartError{DiskFull, "drive " + s.Path + " has no space for shards",
				"free space on its file system, choose another one, or lower --reserve", err}
		}
	}
	return fmt.Errorf("account: %w", err)
}

// settle ends the first start and makes the default buckets.
func (p *process) settle(ctx context.Context) error {
	if p.first.is {
		p.id.Phase = phaseReady
		if err := p.id.save(p.dir); err != nil {
			return err
		}
	}
	for _, name := range p.c.DefaultBuckets {
		if err := p.eng.CreateBucket(ctx, name); err != nil && !errors.Is(err, metadata.ErrBucketExists) {
			return fmt.Errorf("default bucket %s: %w", name, err)
		}
	}
	return nil
}
