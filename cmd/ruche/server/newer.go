package server

import (
	"context"
	"fmt"

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

// newestTables returns the newest tables that the open drives carry, nil if
// there are none.
func (p *process) newestTables(ctx context.Context) (*recovery.Tables, error) {
	var drives []recovery.Records
	for _, d := range p.node.Drives() {
		drives = append(drives, d)
	}
	return recovery.NewestTables(ctx, seal.ClusterID(p.id.Cluster), p.ring, drives, p.Log)
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
