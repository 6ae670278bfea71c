package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node/segment"
)

const (
	// groupBytes is how much the appender writes at most before it syncs.
	groupBytes = 8 << 20
	// groupRecords is how many records it takes into one group at most.
	groupRecords = 512
	// maxGather is how long a group waits at most for shards that are being
	// written, and gatherShare of how much of the time that a sync takes.
	maxGather   = 2 * time.Millisecond
	gatherShare = 2
	// copyBytes: smaller records are copied together and written at once.
	copyBytes = 64 << 10
	// sealRecords is how many records a shared segment holds at most: it
	// bounds the memory of the list that seals it.
	sealRecords = 32 << 10
)

// appendRequest asks the appender to add one record to the shared segment. Who
// sends it must not touch buf again; done receives one answer.
type appendRequest struct {
	buf    []byte // header, body, footer; room for the zeros behind them in its capacity
	header int    // bytes of the header
	footer int    // place of the footer in buf
	entry  segment.Entry
	moved  *row // compaction: the row that this record replaces, nil otherwise
	live   bool // not pending
	fresh  bool // there is no other record of its id

	release func() // gives the buffer back; may be nil
	done    chan appendResult
}

// appendResult is the appender's answer.
type appendResult struct {
	row      row   // where the record lies
	replaced []row // older records of the same shard, which still have their rows
	err      error
}

// answer gives the buffer back and tells the result, unless somebody was told
// before.
func (r *appendRequest) answer(res appendResult, told bool) {
	if r.release != nil {
		r.release()
	}
	r.buf = nil
	select {
	case r.done <- res:
	default:
		if !told {
			panic("node: append answered twice")
		}
	}
}

// activeSegment is the shared segment that records are appended to. Only the
// appender uses it.
type activeSegment struct {
	file      vfs.File
	id        segment.ID
	dir       uint32
	info      *segmentInfo
	length    int64
	allocated int64
	entries   []segment.Entry
	synced    time.Duration // moving average of what a sync takes
}

// syncTime returns how long a sync of the segment takes, 0 if that is not
// known.
func (a *activeSegment) syncTime() time.Duration {
	if a == nil {
		return 0
	}
	return a.synced
}

// sync makes what was written durable.
func (a *activeSegment) sync(now func() time.Time) error {
	start := now()
	err := a.file.SyncData()
	took := now().Sub(start)
	if a.synced == 0 {
		a.synced = took
	}
	a.synced += (took - a.synced) / 8
	return err
}

// append hands a record to the appender and waits until it is durable and has
// its row. If the drive is fenced or the context ends meanwhile, it is unknown
// what became of it: at worst it is a pending row that nothing refers to.
func (d *Drive) append(ctx context.Context, req *appendRequest) appendResult {
	req.done = make(chan appendResult, 1)
	var err error
	select {
	case d.queue <- req:
	case <-ctx.Done():
		err = ended(ctx)
	case <-d.fenced:
		err = d.fencedError()
	case <-d.closing:
		err = ErrClosed
	}
	if err != nil {
		req.answer(appendResult{err: err}, false)
		return <-req.done
	}
	select {
	case res := <-req.done:
		return res
	case <-d.fenced:
		return appendResult{err: d.fencedError()}
	case <-ctx.Done():
		return appendResult{err: ended(ctx)}
	case <-d.appenderDone:
	}
	select { // both may have happened at once
	case res := <-req.done:
		return res
	default:
		return appendResult{err: ErrClosed}
	}
}

// appender is the one goroutine that writes shared segments of the drive.
func (d *Drive) appender() {
	defer close(d.appenderDone)
	var group []*appendRequest
	var scratch []byte
	for {
		select {
		case req := <-d.queue:
			group = append(group[:0], req)
		case <-d.closing:
			d.finishAppender()
			return
		}
		scratch = d.appendGroup(d.gather(d.drain(group)), scratch)
		clear(group)
	}
}

// drain takes what else waits in the queue.
func (d *Drive) drain(group []*appendRequest) []*appendRequest {
	bytes := 0
	for _, req := range group {
		bytes += len(req.buf)
	}
	for len(group) < groupRecords && bytes < groupBytes {
		select {
		case req := <-d.queue:
			group = append(group, req)
			bytes += len(req.buf)
		default:
			return group
		}
	}
	return group
}

// gather waits for shards that are being written, so that they share the sync
// of those that wait for it: for a part of the time that syncs take, if there
// are such shards at all.
func (d *Drive) gather(group []*appendRequest) []*appendRequest {
	wait := min(d.active.syncTime()/gatherShare, maxGather)
	if wait <= 0 || d.filling.Load() == 0 || len(group) >= groupRecords {
		return group
	}
	over := d.opts.Clock.After(wait)
	for d.filling.Load() > 0 && len(group) < groupRecords {
		select {
		case req := <-d.queue:
			group = d.drain(append(group, req))
		case <-over:
			return group
		case <-d.closing:
			return group
		}
	}
	return group
}

// finishAppender answers what is left in the queue and seals the segment.
func (d *Drive) finishAppender() {
	for {
		select {
		case req := <-d.queue:
			req.answer(appendResult{err: ErrClosed}, false)
			continue
		default:
		}
		break
	}
	if d.active != nil && !d.isFenced() {
		if err := d.sealActive(); err != nil && !errors.Is(err, metadata.ErrDriveFull) {
			d.log.Warn("last segment not sealed", "err", err)
		}
	}
	if d.active != nil {
		_ = d.active.file.Close() // what was acknowledged is durable
	}
}

// appendGroup writes a group of records, as many as go into the active segment
// at a time, and answers every one. It returns scratch, maybe grown.
func (d *Drive) appendGroup(group []*appendRequest, scratch []byte) []byte {
	for len(group) > 0 {
		n, err := d.makeRoom(group)
		if err == nil {
			scratch, err = d.writeRun(group[:n], scratch)
		}
		if err != nil {
			for _, req := range group[:max(n, 1)] {
				req.answer(appendResult{err: err}, d.opts.faults.ackEarly)
			}
		}
		group = group[max(n, 1):]
	}
	return scratch
}

// makeRoom returns how many records of the group the active segment takes, at
// least one; it makes a new segment if the present one is full.
func (d *Drive) makeRoom(group []*appendRequest) (int, error) {
	if d.isFenced() {
		return 0, d.fencedError()
	}
	if a := d.active; a != nil {
		if n := fits(a, group, d.opts.SegmentBytes); n > 0 {
			return n, nil
		}
		if err := d.sealActive(); err != nil {
			return 0, err
		}
	}
	if err := d.newActive(); err != nil {
		return 0, err
	}
	return max(1, fits(d.active, group, d.opts.SegmentBytes)), nil
}

func fits(a *activeSegment, group []*appendRequest, limit int64) int {
	length, records := a.length, len(a.entries)
	for i, req := range group {
		length += segment.RoundUp(int64(len(req.buf)))
		if length > limit || records+i >= sealRecords {
			return i
		}
	}
	return len(group)
}

// newActive makes a new shared segment, with its directory entry durable.
func (d *Drive) newActive() error {
	f, id, dir, err := d.layout.create()
	if err != nil {
		return d.failed("create a segment", err)
	}
	if err := d.layout.syncDir(dir); err != nil {
		return errors.Join(d.syncFailed("sync directory", err), f.Close())
	}
	info := &segmentInfo{dir: dir}
	d.segMu.Lock()
	d.segments[id] = info
	d.segMu.Unlock()
	d.active = &activeSegment{file: f, id: id, dir: dir, info: info}
	return nil
}

// writeRun appends records to the active segment, syncs it, puts their rows
// into the index and answers them. On an error nobody has been answered.
func (d *Drive) writeRun(run []*appendRequest, scratch []byte) ([]byte, error) {
	a := d.active
	start := d.opts.Clock.Now()
	at := a.length
	for _, req := range run {
		placeRecord(req, a.id, at)
		at += int64(len(req.buf))
	}
	if d.opts.faults.ackEarly {
		for _, req := range run {
			req.done <- appendResult{row: d.rowOf(req)}
		}
	}
	if err := d.preallocate(at); err != nil {
		return scratch, d.abandonActive(err)
	}
	scratch, err := writeAll(a.file, run, scratch)
	if err != nil {
		return scratch, d.abandonActive(err)
	}
	if !d.opts.faults.skipDataSync {
		if err := a.sync(d.opts.Clock.Now); err != nil {
			return scratch, d.syncFailed("sync a segment", err)
		}
	}
	a.length = at
	results, err := d.indexRun(run)
	if err != nil {
		return scratch, err
	}
	d.writes.add(d.opts.Clock.Now().Sub(start))
	for i, req := range run {
		req.answer(results[i], d.opts.faults.ackEarly)
	}
	return scratch, nil
}

// placeRecord writes its place into the record and pads it with zeros.
func placeRecord(req *appendRequest, id segment.ID, at int64) {
	req.entry.Offset = at
	segment.PatchHeader(req.buf, id, at, req.entry.Body)
	segment.RebindFooter(req.buf[req.footer:], req.buf[:req.header])
	for len(req.buf)%segment.Align != 0 {
		req.buf = append(req.buf, 0)
	}
	req.entry.Bytes = int64(len(req.buf))
}

func (d *Drive) rowOf(req *appendRequest) row {
	return row{place: place{d.active.dir, d.active.id, req.entry.Offset}, entry: req.entry}
}

// preallocate sets space aside for the active segment to reach length.
func (d *Drive) preallocate(length int64) error {
	a, step := d.active, d.opts.PreallocateBytes
	if step <= 0 || length <= a.allocated {
		return nil
	}
	target := min((length+step-1)/step*step, max(d.opts.SegmentBytes, length))
	if err := a.file.Preallocate(a.allocated, target-a.allocated); isNoSpace(err) {
		return err
	}
	// A file system that cannot preallocate is none the worse for it.
	a.allocated = target
	return nil
}

// writeAll writes the records of a run one behind the other, small ones copied
// together.
func writeAll(f vfs.File, run []*appendRequest, scratch []byte) ([]byte, error) {
	scratch = scratch[:0]
	flush := func() error {
		if len(scratch) == 0 {
			return nil
		}
		_, err := f.Write(scratch)
		scratch = scratch[:0]
		return err
	}
	for _, req := range run {
		if len(req.buf) < copyBytes && len(run) > 1 {
			if scratch = append(scratch, req.buf...); len(scratch) < 8*copyBytes {
				continue
			}
			if err := flush(); err != nil {
				return scratch, err
			}
			continue
		}
		if err := flush(); err != nil {
			return scratch, err
		}
		if _, err := f.Write(req.buf); err != nil {
			return scratch, err
		}
	}
	return scratch, flush()
}

// sealActive ends the active segment with the list of its records.
func (d *Drive) sealActive() error {
	a := d.active
	if a.length == 0 {
		return d.discardActive()
	}
	buf := sealRecord(a.id, a.length, a.entries)
	if _, err := a.file.Write(buf); err != nil {
		return d.abandonActive(err)
	}
	if err := a.file.SyncData(); err != nil {
		return d.syncFailed("sync a segment", err)
	}
	a.length += int64(len(buf))
	return d.retireActive(int64(len(buf)))
}

// sealRecord returns the encoded seal of a segment.
func sealRecord(id segment.ID, at int64, entries []segment.Entry) []byte {
	body := segment.AppendSeal(nil, entries)
	h := segment.Header{Segment: id, Offset: at, Body: int64(len(body)), Record: metadata.Record{Type: segment.TypeSeal}}
	buf := segment.AppendHeader(nil, &h)
	header := len(buf)
	f := segment.Footer{
		Type: segment.TypeSeal, Header: header, Body: h.Body, ChunkBytes: h.Body, Own: metadata.Sum(sha256.Sum256(body)),
	}
	return segment.AppendFooter(append(buf, body...), buf[:header], &f)
}

// abandonActive closes the active segment without a seal after a write to it
// failed. What was acknowledged before stays where it is. It returns the error
// for those who wait.
func (d *Drive) abandonActive(cause error) error {
	err := d.failed("write a segment", cause)
	if d.isFenced() {
		return err
	}
	if d.active.length == 0 {
		return errors.Join(err, d.discardActive())
	}
	return errors.Join(err, d.retireActive(0))
}

// retireActive puts the row of the active segment into the index and closes
// it. extra is what of it was not written for a record.
func (d *Drive) retireActive(extra int64) error {
	a := d.active
	d.segMu.Lock()
	a.info.bytes = a.length
	a.info.dead += extra
	d.segMu.Unlock()
	err := d.index.apply(func(b *pebble.Batch, _ *totals) error {
		d.segMu.Lock()
		defer d.segMu.Unlock()
		a.info.sealed = true
		return putSegment(b, a.id, a.info)
	})
	if err != nil {
		return d.indexFailed(err)
	}
	d.active = nil
	d.layout.settled(a.dir)
	d.trim(a.file, fileName(a.dir, a.id))
	if err := a.file.Close(); err != nil {
		return d.syncFailed("close a segment", err)
	}
	return nil
}

// discardActive removes an active segment that holds nothing.
func (d *Drive) discardActive() error {
	a := d.active
	d.active = nil
	d.segMu.Lock()
	delete(d.segments, a.id)
	d.segMu.Unlock()
	if err := errors.Join(a.file.Close(), d.discardFile(a.dir, a.id)); err != nil {
		return d.failed("remove "+fileName(a.dir, a.id), err)
	}
	return nil
}
