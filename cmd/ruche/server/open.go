package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ruche-storage/ruche/gateway"
	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/gateway/wire"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node"
)

// open starts all parts in the order in which they need each other. What was
// started is closed by the caller, also after an error.
func (p *process) open(ctx context.Context) error {
	for _, s := range p.steps() {
		if err := ctx.Err(); err != nil {
			return err
		}
		began := p.Now()
		if err := s.do(ctx); err != nil {
			return startError(p.dir, err)
		}
		p.Log.Debug("start", "step", s.name, "took", p.Now().Sub(began).Round(time.Millisecond/10).String())
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

// step is a part of a start. Its name is for logs.
type step struct {
	name string
	do   func(context.Context) error
}

// steps are what a start does. A first start may be cut off between any two,
// and within each, and is carried on by the next.
func (p *process) steps() []step {
	return []step{
		{"lock the state directory", p.openState},
		{"listen", p.bind},
		{"identify", p.identify},
		{"open the keyring", p.openKeyring},
		{"prepare drives", p.prepareDrives},
		{"know drives", p.knowDrives},
		{"open the metadata", p.openMetadata},
		{"check the keyring", p.checkKeyring},
		{"open drives", p.openDrives},
		{"key the state directory", p.keyState},
		{"credentials", p.openCredentials},
		{"tables", p.openTables},
		{"tables on drives", p.newerTables},
		{"absent drives", p.noteAbsent},
		{"compare the metadata with drives", p.noticeRestore},
		{"note how far the metadata has come", p.keepReached},
		{"engine", p.openEngine},
		{"resume replacements", p.resumeReplacements},
		{"gateway", p.openFront},
		{"encrypt what is not", p.encryptOld},
		{"copies of the metadata", p.keepCopies},
		{"settle", p.settle},
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

func (p *process) openCredentials(context.Context) (err error) {
	p.root, p.first.rootGenerated, err = rootCredentials(p.c, p.dir, p.first.is)
	return err
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
			Stored: func() (int64, int64) { return stored(p.node) }, Pressure: func() bool { return pressed(p.node) }, InventoryNow: recovered(p.node.Status()), ManifestsNow: p.back.some,
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
