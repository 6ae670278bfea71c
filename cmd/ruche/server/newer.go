package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ruche-storage/ruche/gateway/recovery"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
)

// tables is metadata whose tables of drives and placement groups may be older
// than where the data is.
type tables interface {
	committer
	Drives(ctx context.Context) (*metadata.DriveTable, error)
	PGs(ctx context.Context) (*metadata.PGTable, error)
}

// tablesPatience is how long a start waits for the tables that drives carry:
// every drive has the newest, so one that hangs need not be waited for.
const tablesPatience = 10 * time.Second

// newestTables returns the newest tables that the open drives carry, nil if
// there are none. It goes on without drives that hang, but not without all.
func (p *process) newestTables(ctx context.Context) (*recovery.Tables, error) {
	var drives []recovery.Drive
	for _, d := range p.node.Drives() {
		drives = append(drives, recovery.Drive{Path: d.Path(), Records: d})
	}
	t, silent, err := recovery.NewestTables(ctx, seal.ClusterID(p.id.Cluster), p.ring, drives, tablesPatience, p.Log)
	if errors.Is(err, recovery.ErrSilent) {
		return nil, &StartError{DriveUnusable, fmt.Sprintf("none of the drives %v answers", silent), "look for devices that hang (dmesg), and start again; nothing was changed", err}
	}
	if err == nil && len(silent) > 0 {
		p.Log.Error("drives do not answer; whether they know of later drives and placement groups than the others is not known", "paths", silent)
	}
	return t, err
}

// newerTables takes over what drives know better than metadata that were put
// back as files: see follow.
func (p *process) newerTables(ctx context.Context) error {
	if p.first.is {
		return nil
	}
	t, err := p.newestTables(ctx)
	if err != nil || t == nil {
		return err
	}
	i, err := p.meta.Incarnation(ctx)
	if err != nil {
		return fmt.Errorf("incarnation: %w", err)
	}
	if t.Incarnation < i.Number {
		return nil // of a history that a restore has ended
	}
	return p.follow(ctx, p.meta, t)
}

// follow gives metadata of an earlier time the tables of drives and placement
// groups that drives carry, if those are later. The shards of drives that were
// replaced since lie where only these tell: without them, data that is there
// could not be read, and would be freed as garbage in the end.
func (p *process) follow(ctx context.Context, meta tables, t *recovery.Tables) error {
	drives, err := meta.Drives(ctx)
	if err != nil {
		return fmt.Errorf("drive table: %w", err)
	}
	pgs, err := meta.PGs(ctx)
	if err != nil {
		return fmt.Errorf("placement groups: %w", err)
	}
	if t.Drives.Version > drives.Version {
		p.Log.Warn("drives know of later drives than the metadata", "version", drives.Version, "newest", t.Drives.Version)
		if _, err := commit(ctx, meta, &metadata.Command{Kind: metadata.KindPutDrives, Drives: &t.Drives}); err != nil {
			return fmt.Errorf("store drive table: %w", err)
		}
	}
	if t.PGs.Version > pgs.Version {
		p.Log.Warn("drives know of later placement groups than the metadata", "version", pgs.Version, "newest", t.PGs.Version)
		return pushPGs(ctx, meta, &t.PGs)
	}
	return nil
}
