package node

import (
	"context"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Writer takes the framed bytes of one shard. It is used by one goroutine at a
// time and must end with Close or Abort. It is the same type as
// object.ShardWriter; see [ShardWriter] for the methods.
type Writer = interface {
	Write(p []byte) (int, error)
	Close(f *metadata.Footer) error
	Abort()
}

// The methods below are those of object.Shards: each finds the drive and hands
// on.

// Create begins a shard on a drive: see [Drive.Create].
func (n *Node) Create(ctx context.Context, drive topology.DriveID, rec *metadata.Record, framedBytes int64) (Writer, error) {
	return n.create(ctx, drive, rec, framedBytes, false)
}

// CreateNew begins a shard that was never written before: see
// [Drive.CreateNew].
func (n *Node) CreateNew(ctx context.Context, drive topology.DriveID, rec *metadata.Record, framedBytes int64) (Writer, error) {
	return n.create(ctx, drive, rec, framedBytes, true)
}

func (n *Node) create(ctx context.Context, drive topology.DriveID, rec *metadata.Record, framedBytes int64, fresh bool) (Writer, error) {
	d, err := n.Drive(drive)
	if err != nil {
		return nil, err
	}
	w, err := d.create(ctx, rec, framedBytes, fresh)
	if err != nil {
		return nil, err // not a Writer that holds nil
	}
	return w, nil
}

// ReadAt reads framed bytes of a shard: see [Drive.ReadAt].
func (n *Node) ReadAt(ctx context.Context, drive topology.DriveID, ref metadata.ShardRef, dst []byte, off int64) error {
	d, err := n.Drive(drive)
	if err != nil {
		return err
	}
	return d.ReadAt(ctx, ref, dst, off)
}

// Stat returns the header and footer of a shard: see [Drive.Stat].
func (n *Node) Stat(ctx context.Context, drive topology.DriveID, ref metadata.ShardRef) (*metadata.StoredShard, error) {
	d, err := n.Drive(drive)
	if err != nil {
		return nil, err
	}
	return d.Stat(ctx, ref)
}

// Verify checks a whole shard: see [Drive.Verify].
func (n *Node) Verify(ctx context.Context, drive topology.DriveID, ref metadata.ShardRef) error {
	d, err := n.Drive(drive)
	if err != nil {
		return err
	}
	return d.Verify(ctx, ref)
}

// Confirm makes rows live: see [Drive.Confirm].
func (n *Node) Confirm(ctx context.Context, drive topology.DriveID, refs []metadata.ShardRef) error {
	d, err := n.Drive(drive)
	if err != nil {
		return err
	}
	return d.Confirm(ctx, refs)
}

// Free deletes shards: see [Drive.Free].
func (n *Node) Free(ctx context.Context, drive topology.DriveID, refs []metadata.ShardRef) error {
	d, err := n.Drive(drive)
	if err != nil {
		return err
	}
	return d.Free(ctx, refs)
}

// Settle makes durable what was freed: see [Drive.Settle].
func (n *Node) Settle(ctx context.Context, drive topology.DriveID) error {
	d, err := n.Drive(drive)
	if err != nil {
		return err
	}
	return d.Settle(ctx)
}

// List returns rows of a drive's index: see [Drive.List].
func (n *Node) List(ctx context.Context, drive topology.DriveID, after metadata.ShardRef, pendingOnly bool, limit int) ([]metadata.StoredShard, error) {
	d, err := n.Drive(drive)
	if err != nil {
		return nil, err
	}
	return d.List(ctx, after, pendingOnly, limit)
}

// PutRecord writes a record of another type than a shard: see
// [Drive.PutRecord].
func (n *Node) PutRecord(ctx context.Context, drive topology.DriveID, rec *metadata.Record, payload metadata.Payload) error {
	d, err := n.Drive(drive)
	if err != nil {
		return err
	}
	return d.PutRecord(ctx, rec, payload)
}

// Records yields the records of one type: see [Drive.Records].
func (n *Node) Records(ctx context.Context, drive topology.DriveID, typ metadata.RecordType, yield func(rec *metadata.Record, payload []byte) error) error {
	d, err := n.Drive(drive)
	if err != nil {
		return err
	}
	return d.Records(ctx, typ, yield)
}

// Suspect makes rows of shards pending again, so that they are looked up anew:
// see [Drive.Suspect].
func (n *Node) Suspect(ctx context.Context, drive topology.DriveID, pg *uint32) error {
	d, err := n.Drive(drive)
	if err != nil {
		return err
	}
	return d.Suspect(ctx, pg)
}
