package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node/segment"
)

// RecoveryStats counts what a start had to read because the index did not
// prove it.
type RecoveryStats struct {
	IndexRebuilt bool  // the index was missing, damaged or not to be trusted
	Files        int   // files without a row
	Sealed       int   // of them, shared segments read from their seal
	Scanned      int   // of them, shared segments read whole
	Own          int   // of them, files of one shard
	Removed      int   // of them, files that held nothing
	Unreadable   int   // of them, files of which not even the header could be read
	Records      int   // rows added
	Damaged      int   // records with a sound header alone, and headers that are lost; those of shards with one have rows too
	Newer        int   // records of a newer format, whose segments stay as they are
	Twins        int   // shards that had several records, of which one is left
	Bytes        int64 // of all these files
}

// recover brings the index up to what the files say: every file that has no
// row is read, the newest directories only.
func (d *Drive) recover(ctx context.Context) error {
	if err := d.fs.MkdirAll(d.layout.path, 0o700); err != nil {
		return err
	}
	if err := syncDir(d.fs, d.path); err != nil {
		return d.syncFailed("sync directory", err)
	}
	known, err := d.loadSegments()
	if err != nil {
		return err
	}
	if d.opts.fsck.on {
		known = 0
	}
	d.layout.goOn(known)
	if err := d.recoverDirs(ctx, known); err != nil {
		return err
	}
	if err := d.removeVoided(); err != nil {
		return err
	}
	if err := d.recoverOrder(); err != nil {
		return err
	}
	d.layout.nextLife()
	if err := d.settleTwins(ctx); err != nil {
		return err
	}
	if err := d.reap(); err != nil {
		return err
	}
	if d.recovered.Files > 0 || d.recovered.IndexRebuilt {
		d.log.Info("drive recovered", "stats", d.recovered)
	}
	return nil
}

// loadSegments reads the rows of shared segments, and the directory below
// which every file has its row.
func (d *Drive) loadSegments() (known uint32, err error) {
	err = d.index.scan([]byte{tableSegment}, []byte{tableSegment + 1}, func(key, value []byte) (bool, error) {
		id, info, err := parseSegment(key, value)
		if err == nil {
			d.segments[id] = info
		}
		return true, err
	})
	if err != nil {
		return 0, err
	}
	v, err := d.index.get(metaKnown)
	if err != nil || len(v) != 4 {
		return 0, err
	}
	return binary.BigEndian.Uint32(v), nil
}

// recoverDirs reads the files of all directories from known on.
func (d *Drive) recoverDirs(ctx context.Context, known uint32) error {
	names, err := d.fs.List(d.layout.path)
	if err != nil {
		return err
	}
	var dirs []uint32
	for _, name := range names {
		if n, ok := parseDir(name); ok && n >= known {
			dirs = append(dirs, n)
		}
	}
	slices.Sort(dirs)
	for _, dir := range dirs {
		if err := d.recoverDir(ctx, dir); err != nil {
			return err
		}
	}
	// Directories a crash left without a durable entry of their own are
	// durable from here on.
	if len(dirs) > 0 {
		if err := syncDir(d.fs, d.layout.path); err != nil {
			return d.syncFailed("sync directory", err)
		}
	}
	return nil
}

// recoverOrder makes what this life numbers higher than what all before did. The
// directories that were listed may be empty by now.
func (d *Drive) recoverOrder() error {
	born, err := d.index.newestBorn()
	if err != nil {
		return err
	}
	d.layout.passed(born >> 32)
	for id := range d.segments {
		d.layout.passed(binary.BigEndian.Uint64(id[:]))
	}
	dirs, err := d.listDirs(0)
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(dirs) {
		ids, err := d.listDir(dir)
		if err != nil {
			return err
		}
		if len(ids) > 0 { // ids rise with the directories
			newest := ids[len(ids)-1]
			d.layout.passed(binary.BigEndian.Uint64(newest[:]))
			return nil
		}
	}
	return nil
}

// listDir returns the ids of the segment files of a directory, oldest first.
func (d *Drive) listDir(dir uint32) ([]segment.ID, error) {
	names, err := d.fs.List(d.layout.dirPath(dir))
	if err != nil {
		return nil, err
	}
	var ids []segment.ID
	for _, name := range names {
		if id, ok := segment.ParseID(name); ok {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b segment.ID) int { return bytes.Compare(a[:], b[:]) })
	return ids, nil
}

func (d *Drive) recoverDir(ctx context.Context, dir uint32) error {
	ids, err := d.listDir(dir)
	if err != nil {
		return err
	}
	added := false
	for _, id := range ids {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d.layout.found(dir, len(ids), id)
		known, err := d.knowsFile(dir, id)
		if err != nil {
			return err
		}
		if known {
			continue
		}
		added = true
		if err := d.recoverFile(dir, id); err != nil {
			return fmt.Errorf("recover %s: %w", fileName(dir, id), err)
		}
		d.trimFile(dir, id)
	}
	d.layout.found(dir, len(ids), segment.ID{})
	if !added {
		return nil
	}
	// A killed process may have left entries that are not durable yet.
	if err := d.layout.syncDir(dir); err != nil {
		return d.syncFailed("sync directory", err)
	}
	return nil
}

// trimFile gives back what an earlier life had set aside for a file.
func (d *Drive) trimFile(dir uint32, id segment.ID) {
	name := d.layout.file(dir, id)
	if _, err := d.fs.Stat(name); err != nil {
		return // it was removed
	}
	f, err := d.fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		d.log.Warn("space behind the end of a segment not given back", "file", fileName(dir, id), "err", err)
		return
	}
	defer f.Close()
	d.trim(f, fileName(dir, id))
}

// knowsFile reports whether the index proves what a file holds.
func (d *Drive) knowsFile(dir uint32, id segment.ID) (bool, error) {
	if info := d.segments[id]; info != nil {
		return !info.newer, nil
	}
	for _, table := range []byte{tableOwnFile, tableDoomed} {
		found, err := d.index.has(fileKey(table, dir, id))
		if err != nil || found {
			return found, err
		}
	}
	return false, nil
}

// recoverFile adds the rows of one file that the index does not know.
func (d *Drive) recoverFile(dir uint32, id segment.ID) error {
	f, err := d.fs.Open(d.layout.file(dir, id))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// What a killed process wrote may lie in memory only; rows must not prove it.
	if err := f.Sync(); err != nil {
		return d.syncFailed("sync a segment", err)
	}
	size := info.Size()
	d.recovered.Files++
	d.recovered.Bytes += size
	last, header, footer, err := segment.ReadLast(f, id, size)
	switch {
	case err != nil && !errors.Is(err, metadata.ErrCorrupt):
		return err // unreadable is not the same as bad
	case err == nil && last.Record.Type == segment.TypeSeal:
		return d.recoverSealed(f, dir, id, size)
	case err == nil && last.Record.Type == metadata.RecordShard && last.Body == segment.BodyUnknown && last.Offset == 0:
		return d.recoverOwn(dir, id, segment.NewEntry(last, len(header), footer, size))
	}
	first, header, err := segment.ReadHeader(f, id, 0)
	switch {
	case err == nil && first.Body == segment.BodyUnknown:
		// The writer of a large shard did not get to its footer, or it rotted.
		d.recovered.Damaged++
		return d.recoverOwn(dir, id, segment.NewEntry(first, len(header), nil, size))
	case err != nil && !errors.Is(err, metadata.ErrCorrupt) && !errors.Is(err, segment.ErrIncompatible):
		return err
	}
	return d.recoverScanned(f, dir, id, size)
}

// recoverSealed adds the rows that the seal of a shared segment lists, but for
// records that were freed.
func (d *Drive) recoverSealed(f vfs.File, dir uint32, id segment.ID, size int64) error {
	entries, err := readSeal(f, id, size)
	if errors.Is(err, metadata.ErrCorrupt) {
		d.log.Warn("seal is damaged, segment is scanned", "file", fileName(dir, id), "err", err)
		return d.recoverScanned(f, dir, id, size)
	}
	if err != nil {
		return err
	}
	d.recovered.Sealed++
	slices.SortFunc(entries, func(a, b segment.Entry) int { return cmp.Compare(a.Offset, b.Offset) })
	kept := entries[:0]
	for _, e := range entries {
		// A damaged header is listed by the seal, so its row is kept and reads
		// say that it is corrupt. A void one was freed.
		_, _, err := segment.ReadHeader(f, id, e.Offset)
		switch {
		case err == nil, errors.Is(err, segment.ErrBad):
			kept = append(kept, e)
		case !errors.Is(err, segment.ErrVoid):
			return err
		}
	}
	return d.addRows(id, &segmentInfo{dir: dir, bytes: size}, kept)
}

// recoverScanned adds the rows of a shared segment that has no sound seal.
func (d *Drive) recoverScanned(f vfs.File, dir uint32, id segment.ID, size int64) error {
	if d.opts.faults.trustUnsealed {
		return d.addRows(id, &segmentInfo{dir: dir, bytes: size}, nil)
	}
	var entries []segment.Entry
	stats, err := segment.Scan(f, id, size, func(e segment.Entry, f *segment.Footer) error {
		// A damaged shard may have been acknowledged, and have good cells. A
		// damaged payload is worth nothing, and nobody would look it up.
		if e.Record.Type == metadata.RecordShard || f != nil && e.Record.Type != segment.TypeSeal {
			entries = append(entries, e)
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.recovered.Damaged += stats.Damaged + stats.Lost
	d.recovered.Newer += stats.Incompatible
	if stats.Records+stats.Damaged+stats.Incompatible == 0 {
		return d.recoverNothing(f, dir, id, size)
	}
	d.recovered.Scanned++
	if stats.Damaged+stats.Incompatible > 0 {
		d.log.Warn("segment without a seal is not sound throughout", "file", fileName(dir, id), "stats", stats)
	}
	info := &segmentInfo{dir: dir, bytes: size, newer: stats.Incompatible > 0}
	if info.newer {
		d.layout.unsettled(dir) // so that every start reads it again
	}
	return d.addRows(id, info, entries)
}

// recoverNothing deals with a file in which no record was found: one that is
// empty or void was never acknowledged and goes; anything else stays for an
// operator to look at.
func (d *Drive) recoverNothing(f vfs.File, dir uint32, id segment.ID, size int64) error {
	head := make([]byte, min(size, segment.Align))
	if _, err := f.ReadAt(head, 0); err != nil && size > 0 {
		return err
	}
	if len(bytes.Trim(head, "\x00")) > 0 {
		d.recovered.Unreadable++
		d.log.Error("segment cannot be read", "file", fileName(dir, id), "bytes", size)
		return nil
	}
	d.recovered.Removed++
	if size > 0 {
		d.voided = append(d.voided, place{dir: dir, segment: id})
		return nil
	}
	if err := d.fs.Remove(d.layout.file(dir, id)); err != nil && !oserror.IsNotExist(err) {
		return err
	}
	return nil
}

// removeVoided removes the files of which only zeros are left. The index may
// have been flushed while their records were there, and have lost since that
// they were freed: such rows go first, durably, or they would be taken for
// damage. What comes back of a shard is looked up by others.
func (d *Drive) removeVoided() error {
	if len(d.voided) == 0 {
		return nil
	}
	dropped := false
	after, end := []byte{tableRecord}, []byte{tableRecord + 1}
	for after != nil {
		rows, next, err := d.index.pageOfRecords(after, end)
		if err != nil {
			return err
		}
		rows = slices.DeleteFunc(rows, func(r row) bool {
			return r.own || !slices.ContainsFunc(d.voided, func(p place) bool { return p.dir == r.dir && p.segment == r.segment })
		})
		if len(rows) > 0 {
			err := d.index.apply(func(b *pebble.Batch, t *totals) error { return d.deleteRows(b, t, rows) })
			if err != nil {
				return err
			}
			dropped = true
		}
		after = next
	}
	if dropped {
		if err := d.index.flush(d.fenced); err != nil {
			return err
		}
	}
	for _, p := range d.voided {
		if err := d.fs.Remove(d.layout.file(p.dir, p.segment)); err != nil && !oserror.IsNotExist(err) {
			return err
		}
	}
	// A file that came back later might lie in a directory that is not listed.
	for _, p := range d.voided {
		if err := d.layout.syncDir(p.dir); err != nil {
			return d.syncFailed("sync directory", err)
		}
	}
	d.voided = nil
	return nil
}

// addRows adds the rows of a shared segment that are missing, all of them
// pending, then that of the segment. What no row refers to is dead, unless a
// newer program knows better.
func (d *Drive) addRows(id segment.ID, info *segmentInfo, entries []segment.Entry) error {
	info.sealed, info.dead = true, info.bytes
	for run := range slices.Chunk(entries, 4096) {
		err := d.index.apply(func(b *pebble.Batch, t *totals) error {
			for _, e := range run {
				if err := d.addRow(b, t, &row{place: place{info.dir, id, e.Offset}, entry: e}, putRow); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, e := range run {
			info.dead -= e.Bytes
		}
	}
	if info.newer {
		info.dead = 0
	}
	d.segMu.Lock()
	d.segments[id] = info
	d.segMu.Unlock()
	return d.index.apply(func(b *pebble.Batch, _ *totals) error {
		d.segMu.Lock()
		defer d.segMu.Unlock()
		return putSegment(b, id, info)
	})
}

// recoverOwn adds the rows of a large shard.
func (d *Drive) recoverOwn(dir uint32, id segment.ID, e segment.Entry) error {
	d.recovered.Own++
	return d.index.apply(func(b *pebble.Batch, t *totals) error {
		return d.addRow(b, t, &row{place: place{dir, id, 0}, own: true, entry: e}, putRecovered)
	})
}

func putRecovered(b *pebble.Batch, t *totals, r *row, _ bool) error { return putOwn(b, t, r, true) }

// addRow adds a row unless the index has it.
func (d *Drive) addRow(b *pebble.Batch, t *totals, r *row, put func(*pebble.Batch, *totals, *row, bool) error) error {
	d.sawEpoch(r.entry.Record.Epoch)
	if found, err := hasKey(b, r.key()); err != nil || found {
		return err
	}
	if !d.recovered.IndexRebuilt && r.entry.Record.Type == metadata.RecordShard {
		it, err := b.NewIter(nil)
		if err != nil {
			return err
		}
		others, err := rowsOf(it, r.ref(), nil)
		if err = errors.Join(err, it.Close()); err != nil {
			return err
		}
		if len(others) > 0 {
			d.twins = append(d.twins, r.ref())
		}
	}
	d.recovered.Records++
	return put(b, t, r, true)
}

// settleTwins looks at shards of which recovery has left several records: a
// crash in the middle of a repair or a compaction. Reads would take the newest,
// which may be the one that was not finished. Of those that are right the
// newest stays; if none is, all stay, for metadata to decide.
func (d *Drive) settleTwins(ctx context.Context) error {
	if d.recovered.IndexRebuilt {
		if err := d.findTwins(); err != nil {
			return err
		}
	}
	for _, ref := range d.twins {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rows, err := d.index.lookup(ref)
		if err != nil {
			return err
		}
		good, _ := d.verifyRows(rows)
		if len(good) == 0 {
			continue
		}
		if err := d.dropBad(ref, good[len(good)-1:], rows); err != nil {
			return err
		}
		d.recovered.Twins++
	}
	d.twins = nil
	return nil
}

// findTwins finds the shards that have several rows.
func (d *Drive) findTwins() error {
	var last []byte
	return d.index.scan([]byte{tableShard}, []byte{tableShard + 1}, func(key, _ []byte) (bool, error) {
		ref := key[1:refKeyBytes]
		if bytes.Equal(ref, last) {
			if one := parseRef(ref); len(d.twins) == 0 || d.twins[len(d.twins)-1] != one {
				d.twins = append(d.twins, one)
			}
		}
		last = append(last[:0], ref...)
		return true, nil
	})
}
