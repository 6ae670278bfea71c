package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// A replacement is done in steps, each of which may be repeated:
//
//  1. cluster.json notes path and lost drive
//  2. the directory is formatted
//  3. the keyring gets a key of the new drive, and the drive is opened
//  4. the engine puts the new drive into its tables, where the lost one is
//     draining until everything was rebuilt, and retired then
//  5. a copy of the metadata that the lost drive carried is made on the new one
//  6. cluster.json forgets about it
//
// A start carries on what was noted and not forgotten, and so does the same call
// again.

// ReplaceDrive implements admin.Drives.
func (c *control) ReplaceDrive(ctx context.Context, req *admin.ReplaceRequest) (*admin.Drive, error) {
	p := c.p
	p.replaceMu.Lock()
	defer p.replaceMu.Unlock()
	if !filepath.IsAbs(req.Path) {
		return nil, badRequest("path %q is not absolute", req.Path)
	}
	path := filepath.Clean(req.Path)
	old, err := p.lostDrive(ctx, path, req.Drive)
	if err != nil {
		return nil, err
	}
	open, err := p.prepare(ctx, replacing{path, old})
	if err != nil {
		return nil, err
	}
	// A drive that fails but is still open makes room for the new one.
	if d, err := p.node.Drive(old); err == nil {
		if err := p.node.RemoveDrive(old); err != nil {
			p.Log.Warn("close lost drive", "path", d.Path(), "err", err)
		}
	}
	if err := p.note(func(id *identity) {
		id.missing(old)
		id.Replacing = append(slices.DeleteFunc(id.Replacing, func(r replacing) bool { return r.Path == path }), replacing{path, old})
	}); err != nil {
		return nil, err
	}
	if err := p.replace(context.WithoutCancel(ctx), replacing{path, old}, open); err != nil {
		return nil, err
	}
	drives, err := c.Drives(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(drives, func(d admin.Drive) bool { return d.Path == path })
	if i < 0 {
		return nil, fmt.Errorf("drive %s is not in the drive table", path)
	}
	return &drives[i], nil
}

// prepare finds out whether a path can become a drive. If the same replacement
// was begun before and failed, it returns what that has formatted.
func (p *process) prepare(ctx context.Context, r replacing) (*node.Drive, error) {
	p.idMu.Lock()
	begun := slices.Contains(p.id.Replacing, r)
	p.idMu.Unlock()
	super, err := node.Inspect(vfs.Default, r.Path)
	switch {
	case err == nil && begun && super.Drive != r.Old && id128(super.Cluster) == p.id.Cluster:
		return p.begunDrive(ctx, r.Path, super.Drive)
	case err == nil:
		return nil, conflict("%s holds a drive already", r.Path)
	case !errors.Is(err, node.ErrUnformatted):
		return nil, conflict("%s: %v", r.Path, err)
	}
	if begun {
		if err := sweep(r.Path); err != nil {
			return nil, err
		}
	}
	if err := checkEmpty(r.Path); err != nil {
		return nil, conflict("%v", err)
	}
	return nil, nil
}

// begunDrive returns the drive at a path that an earlier attempt formatted, and
// opens it if need be.
func (p *process) begunDrive(ctx context.Context, path string, id topology.DriveID) (*node.Drive, error) {
	table, err := p.meta.Drives(ctx)
	if err != nil {
		return nil, fmt.Errorf("drive table: %w", err)
	}
	if slices.ContainsFunc(table.Drives, func(d topology.Drive) bool { return d.ID == id && d.State == topology.DriveRetired }) {
		return nil, conflict("%s holds a drive that was replaced", path)
	}
	if d, err := p.node.Drive(id); err == nil {
		if d.Path() != path {
			return nil, conflict("%s holds the drive that is open at %s", path, d.Path())
		}
		return d, nil
	}
	return p.addDrive(ctx, path, id)
}

// addDrive opens a drive that was formatted, when the keyring has a key of it:
// its index lies under that.
func (p *process) addDrive(ctx context.Context, path string, id topology.DriveID) (*node.Drive, error) {
	active, err := p.activeDrives(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.ring.admit(keyringDrives(p.node), active, id); err != nil {
		return nil, err
	}
	if _, err := p.node.AddDrive(ctx, path); err != nil {
		return nil, driveError(path, err)
	}
	return p.node.Drive(id)
}

func badRequest(format string, args ...any) error {
	return &admin.Error{Status: http.StatusBadRequest, Code: admin.CodeBadRequest, Message: fmt.Sprintf(format, args...)}
}

func conflict(format string, args ...any) error {
	return &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: fmt.Sprintf(format, args...)}
}

// lostDrive finds the drive that is to be replaced: the one named, or the one
// that was at path. One that works is refused.
func (p *process) lostDrive(ctx context.Context, path, named string) (topology.DriveID, error) {
	p.idMu.Lock()
	old, known := p.id.at(path)
	p.idMu.Unlock()
	if named != "" {
		var err error
		if old, err = topology.ParseDriveID(named); err != nil {
			return old, badRequest("drive %q is not the id of a drive; see \"ruche drive list\"", named)
		}
	} else if !known {
		return old, &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: "no drive was at " + path + " before",
			Remedy: "name the lost one with --drive; \"ruche drive list\" shows the ids"}
	}
	table, err := p.meta.Drives(ctx)
	if err != nil {
		return old, err
	}
	i := slices.IndexFunc(table.Drives, func(d topology.Drive) bool { return d.ID == old })
	if i < 0 || table.Drives[i].State == topology.DriveRetired {
		return old, conflict("drive %s is not one of this cluster, or was replaced already", old)
	}
	d, err := p.node.Drive(old)
	if err != nil {
		return old, nil // away, as it should be
	}
	if s := d.Status(); s.State != node.StateFenced {
		// Its directory may have been emptied under the running server.
		if super, err := node.Inspect(vfs.Default, d.Path()); err == nil && super.Drive == old {
			return old, &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: fmt.Sprintf("drive %s at %s works", old, d.Path()),
				Remedy: "to replace it all the same, stop the server, unmount or empty it, and start again"}
		}
	}
	return old, nil
}

// note changes cluster.json.
func (p *process) note(change func(*identity)) error {
	p.idMu.Lock()
	defer p.idMu.Unlock()
	change(p.id)
	return p.id.save(p.dir)
}

// replace carries out what was noted. open is the drive at the path if it is
// open already.
func (p *process) replace(ctx context.Context, r replacing, open *node.Drive) error {
	if open == nil {
		id, err := format(r.Path, p.id)
		if err != nil {
			return err
		}
		if open, err = p.addDrive(ctx, r.Path, id); err != nil {
			return err
		}
	}
	p.conditions.forget()
	active, err := p.activeDrives(ctx)
	if err != nil {
		return err
	}
	if err := p.ring.admit(keyringDrives(p.node), active); err != nil {
		return err
	}
	if err := p.eng.ReplaceDrive(ctx, r.Old, p.tableRow(open.Status())); err != nil {
		return fmt.Errorf("place drive: %w", err)
	}
	if err := p.copies.followDrive(ctx, r.Old, open); err != nil {
		return fmt.Errorf("copy of the metadata: %w", err)
	}
	p.Log.Info("drive replaced", "path", r.Path, "lost", r.Old.String(), "drive", open.ID().String())
	return p.note(func(id *identity) {
		id.place(r.Path, open.ID())
		id.incarnate(open.ID(), open.Superblock().Incarnation)
		id.Replacing = slices.DeleteFunc(id.Replacing, func(o replacing) bool { return o == r })
	})
}

// resumeReplacements carries on replacements that were cut off, and takes the
// keys of drives that were retired out of the keyring. What fails here keeps
// nobody from reading and writing: it is logged and tried again at the next
// start.
func (p *process) resumeReplacements(ctx context.Context) error {
	for _, r := range slices.Clone(p.id.Replacing) {
		i := slices.IndexFunc(p.node.Drives(), func(d *node.Drive) bool { return d.Path() == r.Path })
		var open *node.Drive
		switch {
		case i >= 0 && p.node.Drives()[i].ID() != r.Old:
			open = p.node.Drives()[i]
		case i >= 0: // the lost one is back before anything was written
			if err := p.note(func(id *identity) {
				id.Replacing = slices.DeleteFunc(id.Replacing, func(o replacing) bool { return o == r })
			}); err != nil {
				return err
			}
			continue
		default:
			if err := sweep(r.Path); err != nil {
				p.Log.Error("replacement of drive cannot go on", "path", r.Path, "err", err)
				continue
			}
		}
		if err := p.replace(ctx, r, open); err != nil {
			p.Log.Error("replacement of drive cannot go on", "path", r.Path, "err", err)
		}
	}
	table, err := p.meta.Drives(ctx)
	if err != nil {
		return fmt.Errorf("drive table: %w", err)
	}
	active, err := p.activeDrives(ctx)
	if err != nil {
		return err
	}
	for _, d := range table.Drives {
		if d.State != topology.DriveRetired {
			continue
		}
		if err := p.ring.retire(d.ID, keyringDrives(p.node), active); err != nil {
			p.Log.Error("key of a retired drive stays in the keyring", "drive", d.ID.String(), "err", err)
		}
	}
	return nil
}
