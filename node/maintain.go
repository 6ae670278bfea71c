package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node/segment"
)

// maintainForever looks after the drive until ctx ends.
func (d *Drive) maintainForever(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.fenced:
			return
		case <-d.opts.Clock.After(d.opts.MaintenanceInterval):
		}
		if err := d.maintain(ctx); err != nil && ctx.Err() == nil {
			d.errs.set(err)
			d.log.Warn("drive maintenance", "err", err)
		}
	}
}

// maintain does what is due: it looks at the space, makes deletions durable,
// notes the highest epoch and which directories are known, and compacts one
// segment.
func (d *Drive) maintain(ctx context.Context) error {
	d.space.refresh()
	d.space.keepBallast()
	return errors.Join(d.noteEpoch(), d.reap(), d.noteKnown(), d.removeMoved(), d.compactOne(ctx))
}

// noteKnown stores the directory below which every file has its row, so that a
// start need not list what is older.
func (d *Drive) noteKnown() error {
	known := binary.BigEndian.AppendUint32(nil, d.layout.known())
	stored, err := d.index.get(metaKnown)
	if err != nil {
		return d.indexReadFailed(err)
	}
	if string(stored) == string(known) {
		return nil
	}
	err = d.index.apply(func(b *pebble.Batch, _ *totals) error { return b.Set(metaKnown, known, nil) })
	if err != nil {
		return d.indexFailed(err)
	}
	return nil
}

// compactor moves live records out of shared segments that are mostly dead.
type compactor struct {
	mu    sync.Mutex // one compaction at a time; guards the fields below
	moved []movedSegment
	stuck map[segment.ID]stuckSegment
}

// stuckSegment is a segment that could not be emptied. It is tried again when
// more of it is dead, and if that may help when some time has passed.
type stuckSegment struct {
	dead  int64
	retry time.Time // zero: no use
}

// compactRetry is how long a segment that could not be read is left alone.
const compactRetry = 10 * time.Minute

// movedSegment is a segment whose records all lie elsewhere, durably, and
// whose file is removed when due.
type movedSegment struct {
	id  segment.ID
	dir uint32
	due time.Time
}

// nearlyFull reports whether the drive is above its high watermark.
func (d *Drive) nearlyFull() bool {
	total, free := d.space.capacity()
	return total > 0 && (total-free)*100 > total*int64(d.opts.HighWatermarkPercent)
}

// victim returns the sealed segment that is to be compacted next: the one with
// the least live share below the limit.
func (d *Drive) victim() (segment.ID, *segmentInfo, bool) {
	limit := int64(d.opts.CompactLivePercent)
	if d.nearlyFull() {
		limit = 90
	}
	now := d.opts.Clock.Now()
	d.segMu.Lock()
	defer d.segMu.Unlock()
	var best segment.ID
	var info *segmentInfo
	lowest := limit
	for id, s := range d.segments {
		if !s.sealed || s.moving || s.newer || s.bytes == 0 {
			continue
		}
		if was, ok := d.compactor.stuck[id]; ok && was.dead == s.dead && (was.retry.IsZero() || now.Before(was.retry)) {
			continue
		}
		if live := (s.bytes - s.dead) * 100 / s.bytes; live < lowest {
			best, info, lowest = id, s, live
		}
	}
	return best, info, info != nil
}

// compactOne moves what is live in the emptiest segment to the active one and
// puts the file on the list of those to be removed.
func (d *Drive) compactOne(ctx context.Context) error {
	d.compactor.mu.Lock()
	defer d.compactor.mu.Unlock()
	if err := d.usable(); err != nil {
		return err
	}
	id, info, ok := d.victim()
	if !ok {
		return nil
	}
	rows, err := d.rowsOfSegment(id, info)
	if err != nil {
		d.setStuck(id, info, true)
		return err
	}
	d.setMoving(info, true)
	left, retry := 0, false
	for i := range rows {
		err := d.moveRow(ctx, &rows[i])
		switch {
		case errors.Is(err, errNotCopied):
			left++ // stays until repair wrote a good one
			if !errors.Is(err, metadata.ErrCorrupt) && !errors.Is(err, metadata.ErrShardNotFound) {
				retry = true
			}
			d.log.Warn("record not moved", "file", fileName(info.dir, id), "err", err)
		case err != nil:
			d.setMoving(info, false)
			return err
		}
	}
	// The old place goes only after the new rows are durable, and those only
	// after their records were.
	if err := d.index.flush(d.fenced); err != nil {
		return d.indexFailed(err)
	}
	if left > 0 {
		d.setStuck(id, info, retry)
		d.log.Warn("segment keeps bad records", "file", fileName(info.dir, id), "records", left)
		return nil
	}
	d.compactor.moved = append(d.compactor.moved, movedSegment{id, info.dir, d.opts.Clock.Now().Add(d.opts.CompactGrace)})
	return nil
}

// setStuck puts a segment that could not be emptied aside. The caller holds mu
// of the compactor.
func (d *Drive) setStuck(id segment.ID, info *segmentInfo, retry bool) {
	c := &d.compactor
	if c.stuck == nil {
		c.stuck = map[segment.ID]stuckSegment{}
	}
	d.segMu.Lock()
	defer d.segMu.Unlock()
	info.moving = false
	s := stuckSegment{dead: info.dead}
	if retry {
		s.retry = d.opts.Clock.Now().Add(compactRetry)
	}
	c.stuck[id] = s
}

func (d *Drive) setMoving(info *segmentInfo, moving bool) {
	d.segMu.Lock()
	defer d.segMu.Unlock()
	info.moving = moving
}

// rowsOfSegment returns the rows that point into a sealed segment, in order of
// their offsets.
func (d *Drive) rowsOfSegment(id segment.ID, info *segmentInfo) ([]row, error) {
	entries, err := d.entriesOf(id, info)
	if err != nil {
		return nil, err
	}
	if d.opts.faults.keepFreed {
		var rows []row
		for _, e := range entries {
			rows = append(rows, row{place: place{info.dir, id, e.Offset}, entry: e})
		}
		return rows, nil
	}
	var rows []row
	for _, e := range entries {
		r := row{place: place{info.dir, id, e.Offset}, entry: e}
		found, err := d.index.has(r.key())
		if err != nil {
			return nil, d.indexReadFailed(err)
		}
		if found {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return int(a.offset>>6 - b.offset>>6) })
	return rows, nil
}

// entriesOf returns the records of a sealed segment: from its seal, or, if
// that is missing or damaged, from the rows of the whole index.
func (d *Drive) entriesOf(id segment.ID, info *segmentInfo) ([]segment.Entry, error) {
	f, err := d.files.get(d, info.dir, id)
	if err == nil {
		defer d.files.put(f)
		var entries []segment.Entry
		if entries, err = readSeal(f, id, info.bytes); err == nil {
			return entries, nil
		}
	}
	if err != nil && !errors.Is(err, metadata.ErrCorrupt) && !oserror.IsNotExist(err) {
		return nil, err
	}
	return d.entriesByIndex(id)
}

// entriesByIndex finds the records of a segment among all rows.
func (d *Drive) entriesByIndex(id segment.ID) ([]segment.Entry, error) {
	var entries []segment.Entry
	for _, table := range []byte{tableShard, tableRecord} {
		err := d.index.scan([]byte{table}, []byte{table + 1}, func(key, value []byte) (bool, error) {
			if parsePlace(key[len(key)-placeKeyBytes:]).segment != id {
				return true, nil
			}
			r, err := parseRow(key, value)
			entries = append(entries, r.entry)
			return true, err
		})
		if err != nil {
			return nil, d.indexReadFailed(err)
		}
	}
	return entries, nil
}

// errNotCopied says that a record to be moved could not be read, or is damaged.
var errNotCopied = errors.New("node: record not copied")

// moveRow writes one record anew and lets its row point there.
func (d *Drive) moveRow(ctx context.Context, r *row) error {
	size := bufferSize(r.entry.Bytes + segment.MaxHeaderBytes)
	giveBack, err := d.budget.record(ctx, size)
	if err != nil {
		return err
	}
	buf := d.buffers.get(size)
	release := func() {
		d.buffers.put(buf)
		giveBack()
	}
	req, err := d.copyRecord(r, buf)
	if err != nil {
		release()
		return fmt.Errorf("%w: %w", errNotCopied, err)
	}
	req.release = release
	res := d.append(ctx, req)
	if errors.Is(res.err, errMoved) {
		return nil
	}
	if res.err == nil {
		d.drops.Add(1)
	}
	return res.err
}

// copyRecord reads a record into buf as it is appended elsewhere, and checks
// everything of it there: its header is made anew, with the fields it had.
func (d *Drive) copyRecord(r *row, buf []byte) (*appendRequest, error) {
	f, err := d.open(r)
	if err != nil {
		return nil, err
	}
	defer d.files.put(f)
	h, footer, err := ends(f, r)
	if err != nil {
		return nil, err
	}
	h.Body = r.entry.Body
	buf = segment.AppendHeader(buf, h)
	length := len(buf)
	buf = buf[:length+int(r.entry.Body)]
	n, err := f.ReadAt(buf[length:], r.offset+int64(r.entry.HeaderBytes))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := segment.VerifyBytes(buf[length:length+n], &h.Record, footer); err != nil {
		return nil, fmt.Errorf("%s: %w", fileName(r.dir, r.segment), err)
	}
	footer.Header = length
	at := len(buf)
	buf = segment.AppendFooter(buf, buf[:length], footer)
	e := r.entry
	e.HeaderBytes = length
	return &appendRequest{buf: buf, header: length, footer: at, entry: e, moved: r}, nil
}

// removeMoved removes the files of compacted segments that are due.
func (d *Drive) removeMoved() error {
	d.compactor.mu.Lock()
	defer d.compactor.mu.Unlock()
	now := d.opts.Clock.Now()
	var later []movedSegment
	for _, m := range d.compactor.moved {
		if m.due.After(now) {
			later = append(later, m)
			continue
		}
		if err := d.removeSegment(m.id, m.dir); err != nil {
			return err
		}
	}
	d.compactor.moved = later
	return nil
}

// removeSegment gives up the file of a shared segment that no row points into.
// Like an own file it is doomed until its removal is durable.
func (d *Drive) removeSegment(id segment.ID, dir uint32) error {
	err := d.index.apply(func(b *pebble.Batch, _ *totals) error {
		if err := b.Delete(fileKey(tableSegment, dir, id), nil); err != nil {
			return err
		}
		return b.Set(fileKey(tableDoomed, dir, id), nil, nil)
	})
	if err != nil {
		return d.indexFailed(err)
	}
	d.segMu.Lock()
	delete(d.segments, id)
	delete(d.compactor.stuck, id)
	d.segMu.Unlock()
	d.drops.Add(1)
	return d.unlink(dir, id)
}
