package node

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
)

// unsettled are records other than shards that were freed, and that a crash may
// bring back: their rows may be gone in memory only, and so may be their bytes,
// from which the index is made anew after a fault.
type unsettled struct {
	mu       sync.Mutex // guards what follows
	files    map[place]struct{}
	standing []row // whose bytes are still there
	more     bool  // there are more of them than are remembered
}

// maxStanding bounds what is remembered of records whose bytes did not go.
const maxStanding = 4096

// freed notes that a record's row is gone, and what became of its bytes.
func (u *unsettled) freed(r *row, punched error) {
	if r.own || r.entry.Record.Type == metadata.RecordShard {
		return // the file's removal is remembered; what reappears of a shard is looked up
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case punched == nil:
		if u.files == nil {
			u.files = make(map[place]struct{})
		}
		u.files[place{dir: r.dir, segment: r.segment}] = struct{}{}
	case len(u.standing) < maxStanding:
		u.standing = append(u.standing, *r)
	default:
		u.more = true
	}
}

// Settle makes durable what was freed before the call: records that are no
// shards never come back, whatever happens then, and shards have no row after a
// crash. If the index must be made anew, shards may be found again as pending
// ones.
func (d *Drive) Settle(ctx context.Context) error {
	if err := d.readable(ctx); err != nil {
		return err
	}
	u := &d.unsettled
	u.mu.Lock()
	standing, more := u.standing, u.more
	u.standing = nil
	u.mu.Unlock()
	for i := range standing {
		err := d.punch(&standing[i])
		u.freed(&standing[i], err)
		more = more || err != nil
	}
	u.mu.Lock()
	files := u.files
	u.files = nil
	u.mu.Unlock()
	for file := range files {
		if err := d.settleFile(file); err != nil {
			u.again(files)
			return err
		}
	}
	err := d.reap()
	if err == nil {
		err = d.index.flush(d.fenced)
	}
	switch {
	case err != nil:
		return d.indexFailed(err)
	case more:
		return fmt.Errorf("node: drive %s: freed records cannot be zeroed: see the log for the cause", d.path)
	}
	return nil
}

// again notes that files are not settled yet.
func (u *unsettled) again(files map[place]struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for file := range u.files {
		files[file] = struct{}{}
	}
	u.files = files
}

// settleFile makes durable what was zeroed in a file, unless the file is gone.
func (d *Drive) settleFile(p place) error {
	name := fileName(p.dir, p.segment)
	f, err := d.fs.OpenReadWrite(d.layout.file(p.dir, p.segment), vfs.WriteCategoryUnspecified)
	if oserror.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return d.failed("open "+name, err)
	}
	if err = errors.Join(f.Sync(), f.Close()); err != nil {
		return d.syncFailed("sync "+name, err)
	}
	return nil
}
