package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node/segment"
)

// Confirm says that metadata refers to these shards: their rows become live.
// It is a hint that may be lost in a crash.
func (d *Drive) Confirm(ctx context.Context, refs []metadata.ShardRef) error {
	if err := d.readable(ctx); err != nil {
		return err
	}
	err := d.index.apply(func(b *pebble.Batch, t *totals) error {
		for _, ref := range refs {
			if err := clearPending(b, b, t, ref); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return d.indexFailed(err)
	}
	return nil
}

// Suspect makes the rows of shards pending again, so that they are looked up
// anew: of one placement group, or of all for a nil pg. That is durable when
// Suspect returns nil.
func (d *Drive) Suspect(ctx context.Context, pg *uint32) error {
	from, to := []byte{tableShard}, []byte{tableShard + 1}
	if pg != nil {
		from = binary.BigEndian.AppendUint32(from, *pg)
		to = upperBound(from)
	}
	for from != nil {
		if err := d.readable(ctx); err != nil {
			return err
		}
		rows, next, err := d.index.pageOfRecords(from, to)
		if err != nil {
			return d.indexReadFailed(err)
		}
		if err := d.suspectRows(rows); err != nil {
			return d.indexFailed(err)
		}
		from = next
	}
	// A crash must not make live again what a missed delete left.
	if err := d.index.flush(d.fenced); err != nil {
		return d.indexFailed(err)
	}
	return nil
}

// suspectRows makes the shards of rows pending. Rows that were freed since they
// were read are passed over.
func (d *Drive) suspectRows(rows []row) error {
	return d.index.apply(func(b *pebble.Batch, t *totals) error {
		for i := range rows {
			found, err := hasKey(b, rows[i].key())
			if err != nil {
				return err
			}
			if !found {
				continue
			}
			if err := putPending(b, b, t, rows[i].ref(), rows[i].entry.Bytes); err != nil {
				return err
			}
		}
		return nil
	})
}

// Free deletes shards, and records of other types by the same kind of
// reference: all records of each id. Ids that are not there are no error. The
// space may be reclaimed later.
func (d *Drive) Free(ctx context.Context, refs []metadata.ShardRef) error {
	if err := d.readable(ctx); err != nil {
		return err
	}
	var dropped []row
	err := d.index.apply(func(b *pebble.Batch, t *totals) error {
		var err error
		dropped, err = freeRefs(b, t, refs)
		if err != nil {
			return err
		}
		return d.deleteRows(b, t, dropped)
	})
	if err != nil {
		return d.indexFailed(err)
	}
	return d.reclaim(dropped)
}

// freeRefs removes the pending marks of shards and returns their rows.
func freeRefs(b *pebble.Batch, t *totals, refs []metadata.ShardRef) ([]row, error) {
	it, err := b.NewIter(nil)
	if err != nil {
		return nil, err
	}
	var all []row
	for _, ref := range refs {
		rows, err := rowsOf(it, ref, nil)
		if err == nil && len(rows) == 0 {
			rows, err = recordsByID(b, ref.Shard)
		}
		if err == nil {
			err = clearPending(b, b, t, ref)
		}
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		all = append(all, rows...)
	}
	return all, it.Close()
}

// dropRows gives up records, of whose shards others stay.
func (d *Drive) dropRows(rows []row) error {
	var dropped []row
	err := d.index.apply(func(b *pebble.Batch, t *totals) error {
		dropped = dropped[:0]
		for i := range rows {
			found, err := hasKey(b, rows[i].key())
			if err != nil {
				return err
			}
			if found { // it may have been freed or moved meanwhile
				dropped = append(dropped, rows[i])
			}
		}
		return d.deleteRows(b, t, dropped)
	})
	if err != nil {
		return d.indexFailed(err)
	}
	return d.reclaim(dropped)
}

// deleteRows removes rows from the index, notes which files are doomed, and
// counts what becomes dead in shared segments.
func (d *Drive) deleteRows(b *pebble.Batch, t *totals, rows []row) error {
	for i := range rows {
		r := &rows[i]
		if found, err := hasKey(b, r.key()); err != nil {
			return err
		} else if !found {
			continue // named twice in one call
		}
		if err := deleteRow(b, t, r); err != nil {
			return err
		}
		if r.own {
			if err := b.Delete(fileKey(tableOwnFile, r.dir, r.segment), nil); err != nil {
				return err
			}
			if err := b.Set(fileKey(tableDoomed, r.dir, r.segment), nil, nil); err != nil {
				return err
			}
			continue
		}
		if err := d.buried(b, r); err != nil {
			return err
		}
	}
	return nil
}

// reclaim gives up the bytes of records whose rows are gone.
func (d *Drive) reclaim(rows []row) error {
	if len(rows) == 0 {
		return nil
	}
	for i := range rows {
		d.places.forget(rows[i].ref())
	}
	d.drops.Add(1)
	var errs []error
	for i := range rows {
		r := &rows[i]
		if r.own {
			errs = append(errs, d.unlink(r.dir, r.segment))
			continue
		}
		err := d.punch(r)
		d.unsettled.freed(r, err)
		if err != nil {
			// The row is gone already, so this costs space until compaction.
			d.log.Warn("freed record not punched", "file", fileName(r.dir, r.segment), "err", err)
		}
	}
	return errors.Join(errs...)
}

// unlink removes the file of a freed record. That is made durable later: until
// then the index remembers that the file is doomed.
func (d *Drive) unlink(dir uint32, id segment.ID) error {
	err := d.fs.Remove(d.layout.file(dir, id))
	d.files.drop(d, dir, id)
	if err != nil && !oserror.IsNotExist(err) {
		return d.failed("remove "+fileName(dir, id), err)
	}
	return nil
}

// discardFile removes a segment file that never had a row. It is doomed until
// that is durable, or a power cut could bring it back into a directory that
// starts do not list.
func (d *Drive) discardFile(dir uint32, id segment.ID) error {
	err := d.index.applyBlind(func(b *pebble.Batch, _ *totals) error {
		return b.Set(fileKey(tableDoomed, dir, id), nil, nil)
	})
	err = errors.Join(err, d.fs.Remove(d.layout.file(dir, id)))
	d.layout.settled(dir)
	return err
}

// punch zeroes a freed record, and gives its blocks back where the file system
// can.
func (d *Drive) punch(r *row) error {
	f, err := d.fs.OpenReadWrite(d.layout.file(r.dir, r.segment), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	err = punchHole(f, r.offset, r.entry.Bytes)
	if errors.Is(err, vfs.ErrUnsupported) {
		_, err = f.WriteAt(make([]byte, segment.Align), r.offset)
	}
	return errors.Join(err, f.Close())
}

// holePuncher is what a file offers that can give blocks in its middle back.
// Simulated files may implement it.
type holePuncher interface {
	PunchHole(offset, length int64) error
}

// punchHole makes a run of bytes zero and gives its blocks back. It fails with
// vfs.ErrUnsupported if the file cannot.
func punchHole(f vfs.File, offset, length int64) error {
	if p, ok := f.(holePuncher); ok {
		return p.PunchHole(offset, length)
	}
	if f.Fd() == vfs.InvalidFd {
		return vfs.ErrUnsupported
	}
	return punchDescriptor(f.Fd(), offset, length)
}

// trim gives back the blocks that were set aside behind the end of a file. It
// changes no byte of the file, so nothing depends on its success.
func (d *Drive) trim(f vfs.File, name string) {
	if d.opts.PreallocateBytes <= 0 || f.Fd() == vfs.InvalidFd {
		return
	}
	info, err := f.Stat()
	if err == nil {
		err = trimDescriptor(f.Fd(), info.Size())
	}
	if err != nil && !errors.Is(err, vfs.ErrUnsupported) {
		d.log.Warn("space behind the end of a segment not given back", "file", name, "err", err)
	}
}

// reap makes the removal of doomed files durable and forgets them.
func (d *Drive) reap() error {
	var keys [][]byte
	dirs := map[uint32]bool{}
	err := d.index.scan([]byte{tableDoomed}, []byte{tableDoomed + 1}, func(key, _ []byte) (bool, error) {
		keys = append(keys, append([]byte(nil), key...))
		dirs[binary.BigEndian.Uint32(key[1:])] = true
		return len(keys) < 16<<10, nil
	})
	if err != nil {
		return d.indexFailed(err)
	}
	if len(keys) == 0 {
		return nil
	}
	for _, key := range keys { // usually gone already
		if err := d.unlink(binary.BigEndian.Uint32(key[1:]), segment.ID(key[5:])); err != nil {
			return err
		}
	}
	for dir := range dirs {
		if err := d.layout.syncDir(dir); err != nil && !oserror.IsNotExist(err) {
			return d.syncFailed("sync directory", err)
		}
	}
	err = d.index.apply(func(b *pebble.Batch, _ *totals) error {
		for _, key := range keys {
			if err := b.Delete(key, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return d.indexFailed(err)
	}
	return nil
}

const (
	segmentRowVersion = 1
	segmentNewer      = 1 // behind the numbers
)

// putSegment puts the row of a shared segment. It proves the rows of its
// records, which were put before. The caller holds segMu.
func putSegment(b *pebble.Batch, id segment.ID, info *segmentInfo) error {
	v := []byte{segmentRowVersion}
	v = binary.AppendUvarint(v, uint64(info.bytes))
	v = binary.AppendUvarint(v, uint64(info.dead))
	if info.newer {
		v = append(v, segmentNewer)
	}
	return b.Set(fileKey(tableSegment, info.dir, id), v, nil)
}

func parseSegment(key, v []byte) (segment.ID, *segmentInfo, error) {
	if len(key) != 21 || len(v) < 3 || v[0] != segmentRowVersion {
		return segment.ID{}, nil, fmt.Errorf("node: segment row %x: %w", key, metadata.ErrCorrupt)
	}
	bytes, n := binary.Uvarint(v[1:])
	if n <= 0 {
		return segment.ID{}, nil, fmt.Errorf("node: segment row %x: %w", key, metadata.ErrCorrupt)
	}
	dead, m := binary.Uvarint(v[1+n:])
	if m <= 0 || bytes > math.MaxInt64 || dead > math.MaxInt64 {
		return segment.ID{}, nil, fmt.Errorf("node: segment row %x: %w", key, metadata.ErrCorrupt)
	}
	flags := v[1+n+m:]
	return segment.ID(key[5:]), &segmentInfo{
		dir: binary.BigEndian.Uint32(key[1:]), bytes: int64(bytes), dead: int64(dead), sealed: true,
		newer: len(flags) > 0 && flags[0]&segmentNewer != 0,
	}, nil
}
