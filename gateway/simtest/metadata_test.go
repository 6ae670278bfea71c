package simtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
)

func (at *site) openMetadata(ctx context.Context, fs vfs.FS) (metadataEngine, error) {
	o := replica.Options{FS: fs, ReserveBytes: at.plan.reserve, AcceptClock: true, MemTableBytes: 256 << 10, CacheBytes: 1 << 20, Logger: at.log}
	if at.plan.copies <= 1 {
		local, err := replica.Open("state/metadata", o)
		if err != nil {
			return nil, err // not a nil *Local
		}
		return local, nil
	}
	var first []uint64
	for id := range uint64(at.plan.copies) {
		first = append(first, id+1)
	}
	var places []replica.Place
	for _, id := range first {
		dir := fmt.Sprintf("state/metadata%d", id)
		identity := commandlog.Identity{Cluster: [16]byte(cluster), Store: [16]byte{byte(id)}, Replica: id}
		so := replica.StoreOptions{Options: o, Want: identity}
		if _, err := fs.Stat(fs.PathJoin(dir, "made")); err != nil {
			// The list of copies says "making" until all of them are durable.
			if err := errors.Join(fs.RemoveAll(dir), replica.CreateStore(dir, identity, first, so), touch(fs, dir)); err != nil {
				return nil, err
			}
		}
		places = append(places, replica.Place{Dir: dir, FS: fs, Want: identity, ReserveBytes: -1})
	}
	e, err := replica.OpenReplicated(places, replica.ReplicatedOptions{StoreOptions: replica.StoreOptions{Options: o}})
	if err != nil {
		return nil, err
	}
	for range 600 { // a minute
		if _, err = e.Orders(ctx, metadata.RootGroup, nil); err == nil {
			return e, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, errors.Join(fmt.Errorf("no leaders: %w", err), e.Close())
}

// touch notes durably that a copy of the metadata was made.
func touch(fs vfs.FS, dir string) error {
	f, err := fs.Create(fs.PathJoin(dir, "made"), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	d, err := fs.OpenDir(dir)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	up, err := fs.OpenDir(fs.PathDir(dir))
	if err != nil {
		return errors.Join(err, f.Close(), d.Close())
	}
	return errors.Join(f.Sync(), f.Close(), d.Sync(), d.Close(), up.Sync(), up.Close())
}
