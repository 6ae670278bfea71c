package server

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// found is what lies at the path of a drive.
type found struct {
	path  string
	super *node.Superblock // nil if err is not
	err   error            // wraps node.ErrUnformatted and so on
}

// survey reads the superblocks of all paths, writing nothing.
func survey(paths []string) ([]found, error) {
	var out []found
	for _, path := range paths {
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		super, err := node.Inspect(vfs.Default, abs)
		out = append(out, found{abs, super, err})
	}
	return out, nil
}

// clusters returns the clusters that own what was found.
func clusters(all []found) []id128 {
	var out []id128
	for _, f := range all {
		if f.super != nil && !slices.Contains(out, id128(f.super.Cluster)) {
			out = append(out, id128(f.super.Cluster))
		}
	}
	return out
}

// checkOwner refuses drives of other clusters.
func checkOwner(all []found, own id128, state string) error {
	if owners := clusters(all); len(owners) == 1 && owners[0] != own {
		return &StartError{ForeignState, fmt.Sprintf("the state directory %s is of cluster %s and all drives are of cluster %s", state, own, owners[0]),
			"give --data the state directory of that cluster, or --drives the drives of this one", nil}
	}
	for _, f := range all {
		if f.super != nil && id128(f.super.Cluster) != own {
			return &StartError{ForeignDrive, fmt.Sprintf("%s is a drive of cluster %s, not of this one (%s)", f.path, id128(f.super.Cluster), own),
				"mount the right drive there; to use this one here, empty it and run \"ruche drive replace " + f.path + "\"", nil}
		}
	}
	return nil
}

// checkFresh refuses a first start unless every path is an empty directory or
// can become one. Drives that belong to a cluster mean that its state directory
// was lost or mistaken: formatting anything would be the end of them.
func checkFresh(all []found, state string) error {
	if owners := clusters(all); len(owners) > 0 {
		return &StartError{MetadataLost, fmt.Sprintf("state directory %s is empty but drives belong to cluster %s", state, owners[0]),
			"give --data the state directory of that cluster, or restore it from its backup; if it is lost, make it anew from the drives with \"ruche recover\", or from a backup with \"ruche metadata restore\". " +
				"To begin anew and lose the objects on these drives, empty the drive directories yourself", nil}
	}
	for _, f := range all {
		if !errors.Is(f.err, node.ErrUnformatted) {
			return driveError(f.path, f.err)
		}
		if err := checkEmpty(f.path); err != nil {
			return err
		}
	}
	return nil
}

// checkEmpty refuses a directory that holds something. It may be missing.
func checkEmpty(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fileErrorOr(DriveUnusable, "drive "+path, "give directories as drives", err)
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return &StartError{DriveNotEmpty, fmt.Sprintf("%s is to become a drive but holds %s", path, e.Name()),
				"give an empty directory, or empty this one", nil}
		}
	}
	return nil
}

// driveError words why a path was not opened as a drive.
func driveError(path string, err error) error {
	if info, at := os.Stat(path); at == nil && !info.IsDir() {
		return &StartError{DriveUnusable, path + " is to be a drive, and is not a directory", "name a directory, with --drives", nil}
	}
	reason, remedy := DriveUnusable, "check the device and the mount"
	switch {
	case errors.Is(err, node.ErrInUse):
		reason, remedy = AlreadyRunning, "stop the other process first"
	case errors.Is(err, node.ErrForeignDrive):
		reason, remedy = ForeignDrive, "mount the right drive there"
	case errors.Is(err, node.ErrNotWritable), errors.Is(err, fs.ErrPermission):
		reason, remedy = NotWritable, "give the user of the server write access there (chown), and mount the file system read-write"
	case errors.Is(err, node.ErrFormatted):
		reason, remedy = DriveNotEmpty, "give an empty directory, or empty this one"
	}
	return fileErrorOr(reason, "drive "+path, remedy, err)
}

// format makes a directory a drive of the cluster. What an earlier attempt
// left there is removed before: the caller knows that the directory was empty
// when that attempt began.
func format(path string, id *identity) (topology.DriveID, error) {
	if err := sweep(path); err != nil {
		return topology.DriveID{}, err
	}
	drive, err := node.Format(vfs.Default, rand.Reader, path, node.Formatting{
		Cluster: node.ClusterID(id.Cluster), Node: id.Node, Site: site, Incarnation: 1,
	})
	if err != nil {
		return drive, driveError(path, err)
	}
	return drive, nil
}

// sweep removes what an interrupted format leaves behind: an empty seg
// directory and torn superblocks. Anything else stays, and is found by Format.
func sweep(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return driveError(path, err)
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == "seg", strings.HasPrefix(name, "superblock."):
			// Remove takes no directory that holds something.
			if err := os.Remove(filepath.Join(path, name)); err != nil {
				return driveError(path, err)
			}
		}
	}
	return nil
}
