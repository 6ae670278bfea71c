package server

import (
	"context"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/placement"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

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
				"check the device of the state directory; then move " + p.localPath() + " aside and make it anew from the drives with \"ruche recover\", or from a backup with \"ruche metadata restore\"", nil}
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
// operator says so. Epochs last for minutes; the files that say how far the only
// copy had come tell of single changes.
func (p *process) noticeRestore(ctx context.Context) error {
	known, seen := uint64(0), p.highestEpoch()
	for group := range uint32(metadata.DataGroups + 1) {
		f, err := p.meta.Fence(ctx, group)
		if err != nil {
			return fmt.Errorf("fence of group %d: %w", group, err)
		}
		known = max(known, f.Floor, f.Highest)
	}
	i, err := p.meta.Incarnation(ctx)
	if err != nil {
		return fmt.Errorf("incarnation: %w", err)
	}
	lost := p.lostChanges(i.Number)
	if seen <= known && lost == 0 {
		return nil
	}
	cause := admin.OffOlder
	if lost > 0 {
		cause = admin.OffLost
		p.Log.Error("changes that were acknowledged are missing from the metadata: the end of its log is lost, or it was put back to an earlier time; "+
			"nothing is freed until \"ruche repair resume-collection\"; what is older than some seconds comes back from the drives: "+
			"stop the server, move "+p.localPath()+" away, and run \"ruche recover --include-ended\"", "changes", lost)
	}
	if seen > known {
		p.Log.Error("the metadata is older than what the drives hold; nothing is freed until \"ruche repair resume-collection\"", "known_epoch", known, "seen_epoch", seen)
	}
	if err := p.note(func(id *identity) { id.CollectionOff = cause }); err != nil {
		return err
	}
	_, err = replica.Renounce(ctx, patient{p.meta}, p.Now(), 0, seen, func() (metadata.RequestID, error) { return metadata.RequestID(newID()), nil })
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
