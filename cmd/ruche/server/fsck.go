package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/ruche-storage/ruche/node"
)

// FsckReport is what a check of a drive found.
type FsckReport struct {
	Path     string      `json:"path"`
	Shards   int64       `json:"shards"`
	Pending  int64       `json:"pending"` // not yet confirmed by the metadata
	Records  int64       `json:"records"` // read and verified
	Bytes    int64       `json:"bytes"`
	Bad      int64       `json:"bad"`
	BadShard []FsckShard `json:"bad_shards,omitempty"` // the first 1,000
}

// FsckShard is a shard that is damaged or gone.
type FsckShard struct {
	Shard  string `json:"shard"`
	Reason string `json:"reason"`
}

// String words the report.
func (r *FsckReport) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s: %d shards, %d of them pending\n", r.Path, r.Shards, r.Pending)
	fmt.Fprintf(&out, "%d records of %d bytes read and verified, %d bad\n", r.Records, r.Bytes, r.Bad)
	for _, b := range r.BadShard {
		fmt.Fprintf(&out, "  %s  %s\n", b.Shard, b.Reason)
	}
	if n := r.Bad - int64(len(r.BadShard)); n > 0 {
		fmt.Fprintf(&out, "  and %d more\n", n)
	}
	if r.Bad > 0 {
		fmt.Fprintln(&out, "nothing was deleted; the server repairs bad shards from the other drives when it reads or scrubs them")
	}
	return out.String()
}

// Fsck checks a drive that no process uses, and adds to its index what is
// missing there. With rebuild the index is made anew.
func Fsck(ctx context.Context, path string, rebuild bool, now func() time.Time, log *slog.Logger) (*FsckReport, error) {
	found, err := node.Fsck(ctx, node.Options{Clock: clock{now}, Log: log}, path, rebuild)
	if errors.Is(err, node.ErrInUse) {
		return nil, &StartError{AlreadyRunning, "drive " + path + " is used by a running server", "stop it first; it checks its drives itself: \"ruche scrub start\"", nil}
	}
	if err != nil {
		return nil, driveError(path, err)
	}
	r := &FsckReport{Path: path, Shards: found.Shards, Pending: found.Pending, Records: found.Records, Bytes: found.Bytes, Bad: found.Bad}
	for _, b := range found.BadShard {
		r.BadShard = append(r.BadShard, FsckShard{b.Shard.Shard.String(), b.Err.Error()})
	}
	return r, nil
}
