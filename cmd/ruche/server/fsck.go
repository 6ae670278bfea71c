package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// FsckReport is what a check of a drive found.
type FsckReport struct {
	Path     string       `json:"path"`
	Shards   int64        `json:"shards"`
	Pending  int64        `json:"pending"` // not yet confirmed by the metadata
	Records  int64        `json:"records"` // read and verified
	Bytes    int64        `json:"bytes"`
	Bad      int64        `json:"bad"`
	BadNamed []FsckRecord `json:"bad_records,omitempty"` // the first 1,000
}

// FsckRecord is a record that is damaged or gone.
type FsckRecord struct {
	Kind   string `json:"kind"` // shard, manifest, account, bucket or root
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// recordKind words what a record holds.
func recordKind(t metadata.RecordType) string {
	switch t {
	case metadata.RecordShard:
		return "shard"
	case metadata.RecordManifest:
		return "manifest"
	case metadata.RecordAccount:
		return "account"
	case metadata.RecordBucket:
		return "bucket"
	case metadata.RecordRoot:
		return "root"
	}
	return fmt.Sprintf("type %d", t)
}

// String words the report.
func (r *FsckReport) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s: %d shards, %d of them pending\n", r.Path, r.Shards, r.Pending)
	fmt.Fprintf(&out, "%d records of %d bytes read and verified, %d bad\n", r.Records, r.Bytes, r.Bad)
	for _, b := range r.BadNamed {
		fmt.Fprintf(&out, "  %s %s  %s\n", b.Kind, b.ID, b.Reason)
	}
	if n := r.Bad - int64(len(r.BadNamed)); n > 0 {
		fmt.Fprintf(&out, "  and %d more\n", n)
	}
	if r.Bad > 0 {
		fmt.Fprintln(&out, "nothing was deleted; the server repairs bad shards from the other drives when it reads or scrubs them, and other records are on several drives")
	}
	return out.String()
}

// FsckOptions say how a drive is checked.
type FsckOptions struct {
	Rebuild bool // the index is made anew
	// Keyring is the keyring of the server that has encrypted the index. If it
	// is empty or not there, the one beside the drive is taken, as it lies with
	// --data alone.
	Keyring string
	Now     func() time.Time
	Log     *slog.Logger
}

// Fsck checks a drive that no process uses, and adds to its index what is
// missing there. With Rebuild the index is made anew; without the keyring it is
// then unencrypted until the server opens the drive.
func Fsck(ctx context.Context, path string, o FsckOptions) (*FsckReport, error) {
	opts := node.Options{Clock: clock{o.Now}, Log: o.Log}
	var err error
	if opts.IndexFS, err = fsckFS(path, o); err != nil {
		return nil, err
	}
	found, err := node.Fsck(ctx, opts, path, o.Rebuild)
	if errors.Is(err, node.ErrInUse) {
		return nil, &StartError{AlreadyRunning, "drive " + path + " is used by a running server", "stop it first; it checks its drives itself: \"ruche scrub start\"", nil}
	}
	if err != nil {
		return nil, driveError(path, err)
	}
	r := &FsckReport{Path: path, Shards: found.Shards, Pending: found.Pending, Records: found.Records, Bytes: found.Bytes, Bad: found.Bad}
	for _, b := range found.BadNamed {
		r.BadNamed = append(r.BadNamed, FsckRecord{recordKind(b.Record.Type), b.Record.Shard.String(), b.Err.Error()})
	}
	return r, nil
}

// fsckFS finds the key of a drive whose index is encrypted. It returns nil for
// one that is not.
func fsckFS(path string, o FsckOptions) (func(topology.DriveID, string, vfs.FS) (vfs.FS, error), error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	idx := filepath.Join(abs, "idx")
	encrypted, err := cryptfs.Encrypted(vfs.Default, idx)
	if err != nil || !encrypted {
		return nil, nil // node says what is wrong with the drive
	}
	super, err := node.Inspect(vfs.Default, abs)
	if err != nil {
		return nil, driveError(path, err)
	}
	f, err := fsckKey(abs, super, o)
	if err == nil {
		err = f.Check(idx)
	}
	switch {
	case err == nil, errors.Is(err, cryptfs.ErrDamaged): // then the index is made anew
		return func(_ topology.DriveID, _ string, below vfs.FS) (vfs.FS, error) { return f.Around(below), nil }, nil
	case o.Rebuild:
		o.Log.Warn("the new index is unencrypted until the server opens the drive", "path", path, "err", err)
		return nil, nil
	}
	return nil, &StartError{KeyringMissing, "the index of drive " + path + " is encrypted and its key was not found",
		"name the keyring of the server with --keyring, or make the index anew with --rebuild-index", err}
}

// fsckKey returns the file system of an index under the drive's key.
func fsckKey(path string, super *node.Superblock, o FsckOptions) (*cryptfs.FS, error) {
	beside := filepath.Join(filepath.Dir(path), "keyring")
	ring, err := keyring.Load(vfs.Default, cmp.Or(o.Keyring, beside))
	if errors.Is(err, fs.ErrNotExist) && o.Keyring != "" {
		ring, err = keyring.Load(vfs.Default, beside)
	}
	if err != nil {
		return nil, err
	}
	if err := ring.CheckCluster(keyring.ClusterID(super.Cluster)); err != nil {
		return nil, err
	}
	key, err := ring.DriveKey(super.Drive)
	if err != nil {
		return nil, err
	}
	return encrypting(vfs.Default, key, super.Drive, false)
}
