// Package node keeps shards on drives.
//
// A [Node] is the set of drives of one process. It finds a drive by its id,
// whatever path it is mounted at, and offers what package gateway/object asks
// of storage nodes; it neither knows objects nor decides what is garbage.
//
//	drive/ superblock.0 .1   whose drive this is, written in turn
//	       LOCK              held by the process that has it open
//	       ballast           given up when the device is full
//	       keyring.sealed.*  small files kept for others
//	       idx/              the index, derived from seg/ and rebuilt from it
//	       seg/<n>/<id>      segments, at most 4,096 to a directory
//
// Small shards share a segment: each is buffered whole, and one goroutine a
// drive appends what has come in, syncs once for all, and answers them. Large
// shards are written to a segment of their own as they come. Package
// node/segment has the format.
//
// # What is promised
//
// A nil error of Close, or of PutRecord, means that the record, its file's
// directory entry and those of all parents are on stable storage. The index is
// not part of that promise: it has no log, and what it loses in a crash is
// read again from the segments. A drive holds a superset of what is live.
// Rows are pending until a hint or a lookup in metadata says that something
// refers to them, and every row that had to be rebuilt is pending again.
//
// A failed write or sync fences the drive: nothing is served any more and
// nothing is tried again; the next life reads everything anew. A full device
// is no failure: writes get metadata.ErrDriveFull, reads and deletes go on, and
// writes resume once there is space.
//
// A shard id may have several records, the bytes of which are equal. Writing
// one that exists is how a bad one is repaired: the new record is made durable
// and read back, then the old ones go.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Node is a set of open drives. All methods may be called concurrently.
type Node struct {
	opts   Options
	shared *shared

	// openMu is held while a drive is opened, so that two copies of one drive
	// cannot both come in, and while all devices are looked at.
	openMu sync.Mutex
	// mu guards what follows. Nobody waits for a device while holding it.
	mu       sync.RWMutex
	drives   map[topology.DriveID]*Drive
	closed   bool
	unclosed map[string]bool // paths that Close waits for
}

// Refused is a path that was not opened as a drive.
type Refused struct {
	Path string
	Err  error // wraps one of the reasons of this package, which name the remedy
}

// Open opens the drives in paths. Those that cannot be opened are returned and
// are no error: the node serves what it has. Of two copies of one drive the
// one with the lower incarnation is refused, and both if they are equal.
func Open(ctx context.Context, opts Options, paths []string) (*Node, []Refused, error) {
	if err := opts.Validate(); err != nil {
		return nil, nil, err
	}
	opts = opts.withDefaults()
	n := &Node{
		opts:   opts,
		shared: newShared(&opts),
		drives: map[topology.DriveID]*Drive{},
	}
	clones := findClones(opts.FS, paths)
	var refused []Refused
	for _, path := range paths {
		err := clones[path]
		if err == nil {
			_, err = n.openOne(ctx, path)
		}
		if err != nil {
			refused = append(refused, Refused{path, err})
			opts.Log.Error("drive refused", "path", path, "err", err)
		}
	}
	n.shareDevices()
	return n, refused, nil
}

// findClones returns the paths that must not be opened because another path
// holds the same drive.
func findClones(fs vfs.FS, paths []string) map[string]error {
	type found struct {
		path        string
		incarnation uint64
	}
	drives := map[topology.DriveID][]found{}
	for _, path := range paths {
		if s, err := readSuperblock(fs, path); err == nil {
			drives[s.Drive] = append(drives[s.Drive], found{path, s.Incarnation})
		}
	}
	clones := map[string]error{}
	for id, copies := range drives {
		var newest uint64
		for _, c := range copies {
			newest = max(newest, c.incarnation)
		}
		first := slices.IndexFunc(copies, func(c found) bool { return c.incarnation == newest })
		alone := !slices.ContainsFunc(copies[first+1:], func(c found) bool { return c.incarnation == newest })
		for i, c := range copies {
			if len(copies) > 1 && !(alone && i == first) {
				clones[c.path] = fmt.Errorf("node: %s: %w (drive %s is mounted %d times)", c.path, ErrClonedDrive, id, len(copies))
			}
		}
	}
	return clones
}

// AddDrive opens the drive in path and returns its id.
func (n *Node) AddDrive(ctx context.Context, path string) (topology.DriveID, error) {
	n.openMu.Lock()
	defer n.openMu.Unlock()
	id, err := n.openOne(ctx, path)
	if err == nil {
		n.shareDevices()
	}
	return id, err
}

// openOne opens the drive in path unless another copy of it is open. The caller
// holds openMu, or is alone.
func (n *Node) openOne(ctx context.Context, path string) (topology.DriveID, error) {
	super, err := readSuperblock(n.opts.FS, path)
	if err != nil {
		return topology.DriveID{}, err
	}
	if old, err := n.Drive(super.Drive); err == nil {
		return super.Drive, fmt.Errorf("node: %s: %w (drive %s is open at %s)", path, ErrClonedDrive, super.Drive, old.path)
	}
	n.mu.RLock()
	closed := n.closed
	n.mu.RUnlock()
	if closed {
		return topology.DriveID{}, ErrClosed
	}
	d, err := openDrive(ctx, path, n.opts, n.shared)
	if err != nil {
		return super.Drive, err
	}
	n.mu.Lock()
	if !n.closed {
		n.drives[d.ID()] = d
		n.mu.Unlock()
		return d.ID(), nil
	}
	n.mu.Unlock()
	return d.ID(), errors.Join(ErrClosed, d.close())
}

// shareDevices tells every drive how many lie on its device, and which of them
// keeps the ballast: the one with the lowest id. The caller holds openMu, or is
// alone.
func (n *Node) shareDevices() {
	devices := map[vfs.DeviceID][]*Drive{}
	for _, d := range n.Drives() {
		info, err := d.fs.Stat(d.path)
		if err != nil {
			d.space.setShare(1, false)
			continue
		}
		devices[info.DeviceID()] = append(devices[info.DeviceID()], d)
	}
	for _, drives := range devices {
		slices.SortFunc(drives, func(a, b *Drive) int {
			return slices.Compare(a.id[:], b.id[:])
		})
		for i, d := range drives {
			d.space.setShare(len(drives), i == 0)
		}
	}
}

// RemoveDrive closes a drive and forgets it. What is in flight on it fails.
func (n *Node) RemoveDrive(id topology.DriveID) error {
	n.mu.Lock()
	d := n.drives[id]
	delete(n.drives, id)
	n.mu.Unlock()
	if d == nil {
		return fmt.Errorf("node: drive %s: %w", id, metadata.ErrDriveAbsent)
	}
	return d.close()
}

// Replace formats the empty directory path as a new drive and opens it. The
// drive that it stands in for is a matter of metadata.
func (n *Node) Replace(ctx context.Context, path string, f Formatting) (topology.DriveID, error) {
	f.Cluster = n.opts.Cluster
	if _, err := Format(n.opts.FS, n.opts.Rand, path, f); err != nil {
		return topology.DriveID{}, err
	}
	return n.AddDrive(ctx, path)
}

// Close closes all drives: writes that were accepted are finished, segments
// sealed and indexes flushed.
func (n *Node) Close() error {
	n.mu.Lock()
	drives := n.drives
	was := n.closed
	n.drives, n.closed, n.unclosed = nil, true, make(map[string]bool, len(drives))
	for _, d := range drives {
		n.unclosed[d.Path()] = true
	}
	n.mu.Unlock()
	if was {
		return nil
	}
	errs := make(chan error, len(drives))
	for _, d := range drives {
		go func() {
			err := d.close()
			n.mu.Lock()
			delete(n.unclosed, d.Path())
			n.mu.Unlock()
			errs <- err
		}()
	}
	var all []error
	for range drives {
		all = append(all, <-errs)
	}
	n.shared.cache.Unref()
	return errors.Join(all...)
}

// Unclosed returns the paths of the drives that Close waits for, in order: those
// that do not answer, if it does not return.
func (n *Node) Unclosed() []string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return slices.Sorted(maps.Keys(n.unclosed))
}

// Drive returns an open drive. It fails with metadata.ErrDriveAbsent.
func (n *Node) Drive(id topology.DriveID) (*Drive, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if d := n.drives[id]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("node: drive %s: %w", id, metadata.ErrDriveAbsent)
}

// Drives returns the open drives in order of their ids.
func (n *Node) Drives() []*Drive {
	n.mu.RLock()
	defer n.mu.RUnlock()
	var drives []*Drive
	for _, d := range n.drives {
		drives = append(drives, d)
	}
	slices.SortFunc(drives, func(a, b *Drive) int { return slices.Compare(a.id[:], b.id[:]) })
	return drives
}

// Formatting says whose drive a directory becomes.
type Formatting struct {
	Cluster     ClusterID
	Node        topology.NodeID
	Site        topology.SiteID
	Incarnation uint64
}

// Format makes the empty or missing directory path a drive and returns its id.
// It is durable when Format returns nil. A directory that holds anything but
// lost+found is refused with ErrFormatted.
func Format(fs vfs.FS, rand io.Reader, path string, f Formatting) (topology.DriveID, error) {
	var id topology.DriveID
	if _, err := io.ReadFull(rand, id[:]); err != nil {
		return id, fmt.Errorf("node: drive id: %w", err)
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a UUID of version 4, RFC 9562
	if err := fs.MkdirAll(path, 0o700); err != nil {
		return id, fmt.Errorf("node: %s: %w: %w", path, ErrNotWritable, err)
	}
	names, err := fs.List(path)
	if err != nil {
		return id, fmt.Errorf("node: %s: %w", path, err)
	}
	for _, name := range names {
		if name != "lost+found" {
			return id, fmt.Errorf("node: %s: %w (it holds %s)", path, ErrFormatted, name)
		}
	}
	if err := fs.MkdirAll(fs.PathJoin(path, "seg"), 0o700); err != nil {
		return id, fmt.Errorf("node: %s: %w: %w", path, ErrNotWritable, err)
	}
	s := Superblock{Cluster: f.Cluster, Drive: id, Node: f.Node, Site: f.Site, Incarnation: f.Incarnation}
	for range 2 {
		s.Sequence++
		if err := writeSuperblock(fs, path, &s); err != nil {
			return id, fmt.Errorf("node: %s: %w: %w", path, ErrNotWritable, err)
		}
	}
	if err := syncDir(fs, path); err != nil {
		return id, fmt.Errorf("node: %s: %w: %w", path, ErrNotWritable, err)
	}
	return id, syncParents(fs, path)
}

// syncParents makes the directories above path durable, as far up as they may
// be opened: one that is not ours was there before us.
func syncParents(fs vfs.FS, path string) error {
	for dir := fs.PathDir(path); ; dir = fs.PathDir(dir) {
		if err := syncDir(fs, dir); err != nil && !oserror.IsPermission(err) {
			return fmt.Errorf("node: %s: %w", dir, err)
		}
		if dir == fs.PathDir(dir) {
			return nil
		}
	}
}

// Inspect reads the superblock of a drive without opening it.
func Inspect(fs vfs.FS, path string) (*Superblock, error) { return readSuperblock(fs, path) }
