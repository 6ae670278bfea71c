package node

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node/segment"
)

// ShardWriter takes the framed bytes of one shard. It is used by one goroutine
// at a time and must end with Close or Abort.
//
// A small shard is buffered and appended to a shared segment by Close; as soon
// as one outgrows its buffer, or is known to be large, it is written to a file
// of its own.
type ShardWriter struct {
	d     *Drive
	ctx   context.Context // of Create: Close has none of its own
	rec   metadata.Record
	sum   *segment.Summer
	body  int64 // framed bytes so far
	limit int64 // framed bytes announced, or -1
	fresh bool  // the drive has no other record of the shard

	buf    []byte // header and framed bytes of a small shard
	header int    // bytes of the header
	budget int64  // bytes of buf that count against the budget

	own  *ownFile // of a large shard
	err  error    // of an earlier Write
	done bool
}

// ownFile is a segment file that holds one record.
type ownFile struct {
	file   vfs.File
	id     segment.ID
	dir    uint32
	header []byte
}

// Create begins a shard. framedBytes is the length of all that will be
// written, or -1. Nothing can be read back until Close of the writer has
// returned nil. A shard that is there already is replaced when the new record
// is durable and was read back.
//
// The context is that of the whole write: when it ends, Write and Close fail.
func (d *Drive) Create(ctx context.Context, rec *metadata.Record, framedBytes int64) (*ShardWriter, error) {
	return d.create(ctx, rec, framedBytes, false)
}

// CreateNew is Create for a shard that certainly was never written before, as
// one of a new chunk: the index is not searched for it.
func (d *Drive) CreateNew(ctx context.Context, rec *metadata.Record, framedBytes int64) (*ShardWriter, error) {
	return d.create(ctx, rec, framedBytes, true)
}

func (d *Drive) create(ctx context.Context, rec *metadata.Record, framedBytes int64, fresh bool) (*ShardWriter, error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	if rec.Type != metadata.RecordShard || int(rec.Shard.Index) >= rec.Scheme.Total() {
		return nil, fmt.Errorf("node: record of type %d, shard %d of %s is not a shard", rec.Type, rec.Shard.Index, rec.Scheme)
	}
	if err := rec.Scheme.Validate(); err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	if framedBytes > segment.MaxBodyBytes {
		return nil, fmt.Errorf("node: shard of %d bytes", framedBytes)
	}
	if err := d.space.admit(max(framedBytes, 0)); err != nil {
		return nil, err
	}
	w := &ShardWriter{d: d, ctx: ctx, rec: *rec, sum: segment.NewSummer(rec), limit: framedBytes, fresh: fresh}
	if framedBytes <= d.opts.SmallShardBytes {
		want := framedBytes
		if want < 0 {
			want = min(64<<10, d.opts.SmallShardBytes)
		}
		if w.grow(want) {
			return w, nil
		}
	}
	return w, w.begin()
}

// grow makes room for so many framed bytes in the buffer. It reports false if
// the budget does not allow it.
func (w *ShardWriter) grow(framed int64) bool {
	size := bufferSize(framed + 512 + segment.MaxFooterBytes + segment.Align)
	if w.buf != nil && int64(cap(w.buf)) >= size {
		return true
	}
	if !w.d.budget.tryShard(size) {
		return false
	}
	buf := w.d.buffers.get(size)
	if w.buf == nil {
		w.d.filling.Add(1)
		buf = segment.AppendHeader(buf, &segment.Header{Body: segment.BodyUnknown, Record: w.rec})
		w.header = len(buf)
	} else {
		buf = append(buf, w.buf...)
		w.d.filling.Add(1)
		w.release()
	}
	w.buf, w.budget = buf, size
	return true
}

// release gives the buffer back.
func (w *ShardWriter) release() {
	if w.buf != nil {
		w.d.filling.Add(-1)
		w.d.buffers.put(w.buf)
		w.d.budget.releaseShard(w.budget)
		w.buf, w.budget = nil, 0
	}
}

// begin makes a file of its own for the shard and writes what is buffered.
func (w *ShardWriter) begin() error {
	f, id, dir, err := w.d.layout.create()
	if err != nil {
		return w.d.failed("create a segment", err)
	}
	h := segment.Header{Segment: id, Body: segment.BodyUnknown, Record: w.rec}
	w.own = &ownFile{file: f, id: id, dir: dir, header: segment.AppendHeader(nil, &h)}
	if w.limit > 0 && w.d.opts.PreallocateBytes > 0 {
		total := segment.RecordBytes(len(w.own.header), w.limit, w.rec.Scheme.Total())
		if err := f.Preallocate(0, total); isNoSpace(err) {
			return w.abandon(err)
		}
	}
	if _, err := f.Write(append([]byte(nil), w.own.header...)); err != nil {
		return w.abandon(err)
	}
	if w.buf != nil && len(w.buf) > w.header {
		if _, err := f.Write(w.buf[w.header:]); err != nil {
			return w.abandon(err)
		}
	}
	w.release()
	return nil
}

// abandon removes the file of a shard after a write to it failed.
func (w *ShardWriter) abandon(cause error) error {
	err := w.d.failed("write a shard", cause)
	w.err = err
	w.discard()
	return err
}

// discard gives up everything the writer holds.
func (w *ShardWriter) discard() {
	w.done = true
	w.release()
	if w.own == nil {
		return
	}
	o := w.own
	w.own = nil
	// Nothing of it was promised, so errors cost space at worst.
	if err := errors.Join(o.file.Close(), w.d.discardFile(o.dir, o.id)); err != nil {
		w.d.log.Warn("discarded shard not removed", "file", fileName(o.dir, o.id), "err", err)
	}
}

var errWriterDone = errors.New("node: shard writer used after its end")

// Write appends framed bytes: whole cells, each followed by its checksum. It
// fails with metadata.ErrCorrupt if a cell does not fit its checksum. It does
// not keep p but may change it.
func (w *ShardWriter) Write(p []byte) (int, error) {
	switch {
	case w.err != nil:
		return 0, w.err
	case w.done:
		return 0, errWriterDone
	case w.ctx.Err() != nil:
		return 0, ended(w.ctx)
	case w.d.usable() != nil:
		return 0, w.d.usable()
	case w.limit >= 0 && w.body+int64(len(p)) > w.limit, w.body+int64(len(p)) > segment.MaxBodyBytes:
		return 0, fmt.Errorf("node: shard %s is longer than announced", w.rec.Shard)
	}
	if err := w.sum.Add(p); err != nil {
		w.err = fmt.Errorf("node: shard %s: %w", w.rec.Shard, err)
		return 0, w.err
	}
	w.body += int64(len(p))
	if w.own == nil {
		small := w.body <= w.d.opts.SmallShardBytes
		if small && w.grow(w.body) {
			w.buf = append(w.buf, p...)
			return len(p), nil
		}
		if err := w.begin(); err != nil {
			return 0, err
		}
	}
	if _, err := w.own.file.Write(p); err != nil {
		return 0, w.abandon(err)
	}
	return len(p), nil
}

// Abort discards what was written. After Close it does nothing.
func (w *ShardWriter) Abort() {
	if !w.done {
		w.discard()
	}
}

// Close writes the footer. A nil error means that the shard and every
// directory entry needed to find it are on stable storage. It fails with
// metadata.ErrCorrupt if the footer does not fit what was written. After any
// error the shard is not there, or it is unknown whether it is.
func (w *ShardWriter) Close(f *metadata.Footer) error {
	switch {
	case w.done:
		return errors.Join(w.err, errWriterDone)
	case w.err != nil, w.ctx.Err() != nil:
		w.discard()
		return errors.Join(w.err, ended(w.ctx))
	}
	if err := w.d.usable(); err != nil {
		w.discard()
		return err
	}
	footer := segment.Footer{
		Type: metadata.RecordShard, Body: w.body, ChunkBytes: f.ChunkBytes, Own: w.sum.Sum(), Sums: f.Sums,
	}
	if err := segment.CheckShape(&w.rec, &footer); err != nil {
		w.discard()
		return fmt.Errorf("node: shard %s: %w", w.rec.Shard, err)
	}
	if w.d.opts.faults.freeEarly {
		rows, err := w.d.index.lookup(w.rec.Ref())
		if err = errors.Join(err, w.d.dropRows(rows)); err != nil {
			return err
		}
	}
	var res appendResult
	if w.own != nil {
		res = w.closeOwn(&footer)
	} else {
		res = w.closeSmall(&footer)
	}
	if res.err != nil {
		return res.err
	}
	return w.d.replaced(&res)
}

// closeSmall hands the buffered record to the appender.
func (w *ShardWriter) closeSmall(f *segment.Footer) appendResult {
	w.done = true
	f.Header = w.header
	at := len(w.buf)
	buf := segment.AppendFooter(w.buf, w.buf[:w.header], f)
	req := &appendRequest{buf: buf, header: w.header, footer: at, fresh: w.fresh, entry: segment.Entry{
		HeaderBytes: w.header, Body: f.Body, ChunkBytes: f.ChunkBytes, Record: w.rec,
	}}
	req.release = func() {
		w.d.buffers.put(buf)
		w.d.budget.releaseShard(w.budget)
	}
	w.buf = nil
	w.d.filling.Add(-1)
	return w.d.append(w.ctx, req)
}

// closeOwn ends the file of a large shard and puts its rows into the index.
func (w *ShardWriter) closeOwn(f *segment.Footer) appendResult {
	w.done = true
	o, d := w.own, w.d
	start := d.opts.Clock.Now()
	f.Header = len(o.header)
	if _, err := o.file.Write(segment.AppendFooter(nil, o.header, f)); err != nil {
		return appendResult{err: w.abandon(err)}
	}
	if !d.opts.faults.skipDataSync {
		if err := o.file.SyncData(); err != nil {
			return appendResult{err: errors.Join(d.syncFailed("sync a shard", err), o.file.Close())}
		}
	}
	if err := o.file.Close(); err != nil {
		return appendResult{err: d.syncFailed("close a shard", err)}
	}
	if err := d.layout.syncDir(o.dir); err != nil {
		return appendResult{err: d.syncFailed("sync directory", err)}
	}
	bytes := int64(f.Header) + f.Body + int64(segment.FooterBytes(len(f.Sums)))
	r := row{place: place{o.dir, o.id, 0}, own: true, entry: segment.Entry{
		Bytes: bytes, HeaderBytes: f.Header, Body: f.Body, ChunkBytes: f.ChunkBytes, Record: w.rec,
	}}
	d.sawEpoch(w.rec.Epoch)
	res, err := d.indexOwn(&r, w.fresh)
	if err != nil {
		return appendResult{err: d.indexFailed(err)}
	}
	d.layout.settled(o.dir)
	d.writes.add(d.opts.Clock.Now().Sub(start))
	return res
}

// indexOwn puts the rows of an own file into the index. If the shard is fresh
// there is nothing to search for.
func (d *Drive) indexOwn(r *row, fresh bool) (appendResult, error) {
	res := appendResult{row: *r}
	if fresh {
		return res, d.index.applyBlind(func(b *pebble.Batch, t *totals) error {
			if err := putOwn(b, t, r, false); err != nil {
				return err
			}
			return putPending(nil, b, t, r.ref(), r.entry.Bytes)
		})
	}
	err := d.index.apply(func(b *pebble.Batch, t *totals) error {
		it, err := b.NewIter(nil)
		if err != nil {
			return err
		}
		res.replaced, err = rowsOf(it, r.ref(), nil)
		if err = errors.Join(err, it.Close()); err != nil {
			return err
		}
		return putOwn(b, t, r, true)
	})
	return res, err
}

// putOwn adds the rows of an own file: that of the record, then that of the
// file, which proves it.
func putOwn(b *pebble.Batch, t *totals, r *row, pending bool) error {
	if err := putRow(b, t, r, pending); err != nil {
		return err
	}
	return b.Set(fileKey(tableOwnFile, r.dir, r.segment), appendRef(nil, r.ref()), nil)
}

// replaced drops the older records of a shard that has a new one, after the
// new one was read back and found right.
func (d *Drive) replaced(res *appendResult) error {
	if len(res.replaced) == 0 {
		return nil
	}
	err := d.verifyRow(&res.row)
	for err != nil {
		moved, lookupErr := d.movedSince(&res.row)
		if lookupErr != nil {
			return d.indexReadFailed(lookupErr)
		}
		if moved == nil {
			break
		}
		res.row, err = *moved, d.verifyRow(moved)
	}
	if err != nil {
		if found, lookupErr := d.index.has(res.row.key()); lookupErr == nil && !found {
			return nil // freed since: there is nothing to compare with
		}
		// Reads would take the newest record: it goes, if an older one is good.
		if good, _ := d.verifyRows(res.replaced); len(good) > 0 {
			err = errors.Join(err, d.dropRows([]row{res.row}))
		}
		return fmt.Errorf("node: new record of shard %s: %w", res.row.ref().Shard, err)
	}
	return d.dropRows(slices.DeleteFunc(res.replaced, func(r row) bool { return r.place == res.row.place }))
}

// movedSince returns the newest row of a shard if the given one is gone and
// there is another: compaction has moved the record.
func (d *Drive) movedSince(r *row) (*row, error) {
	rows, err := d.index.lookup(r.ref())
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	if slices.ContainsFunc(rows, func(other row) bool { return other.place == r.place }) {
		return nil, nil
	}
	return &rows[len(rows)-1], nil
}

// PutRecord writes a record of another type than a shard. It is durable when
// PutRecord returns nil. The payload must fit into half a segment.
func (d *Drive) PutRecord(ctx context.Context, rec *metadata.Record, payload metadata.Payload) error {
	if err := d.usable(); err != nil {
		return err
	}
	if rec.Type == metadata.RecordShard || rec.Type >= segment.TypeSeal {
		return fmt.Errorf("node: record of type %d", rec.Type)
	}
	length := int64(len(payload.Bytes))
	if length > d.opts.SegmentBytes/2 {
		return fmt.Errorf("node: record of %d bytes, at most %d", length, d.opts.SegmentBytes/2)
	}
	if err := d.space.admit(length); err != nil {
		return err
	}
	giveBack, err := d.budget.record(ctx, bufferSize(length+1024))
	if err != nil {
		return err
	}
	res := d.append(ctx, d.payloadRequest(rec, payload, giveBack))
	return res.err
}

// payloadRequest assembles a record of another type than a shard.
func (d *Drive) payloadRequest(rec *metadata.Record, payload metadata.Payload, giveBack func()) *appendRequest {
	h := segment.Header{Body: int64(len(payload.Bytes)), Born: d.layout.born(), Record: *rec}
	buf := segment.AppendHeader(d.buffers.get(bufferSize(h.Body+1024)), &h)
	header := len(buf)
	buf = append(buf, payload.Bytes...)
	f := segment.Footer{
		Type: rec.Type, Header: header, Body: h.Body, ChunkBytes: h.Body, Own: payload.Sum,
	}
	at := len(buf)
	buf = segment.AppendFooter(buf, buf[:header], &f)
	return &appendRequest{buf: buf, header: header, footer: at, live: true,
		entry: segment.Entry{HeaderBytes: header, Body: h.Body, ChunkBytes: h.Body, Born: h.Born, Record: *rec},
		release: func() {
			d.buffers.put(buf)
			giveBack()
		},
	}
}

// bufferPool keeps buffers by size. What the budget of a node allows to be in
// use bounds it.
type bufferPool struct{ bySize [40]sync.Pool }

// bufferSize rounds n up to a size that the pool keeps: two to every power of
// two.
func bufferSize(n int64) int64 {
	n = max(n, 4096)
	power := int64(1) << (bits.Len64(uint64(n-1)) - 1) // power < n <= 2*power
	if half := power + power/2; n <= half {
		return half
	}
	return 2 * power
}

func poolIndex(size int64) int {
	i := 2 * (bits.Len64(uint64(size)) - 12)
	if size&(size-1) != 0 {
		i++
	}
	return i
}

// get returns an empty buffer of that capacity, which [bufferSize] returned.
func (p *bufferPool) get(size int64) []byte {
	if i := poolIndex(size); i < len(p.bySize) {
		if b, ok := p.bySize[i].Get().(*[]byte); ok {
			return (*b)[:0]
		}
	}
	return make([]byte, 0, size)
}

// put takes back a buffer that get returned.
func (p *bufferPool) put(b []byte) {
	size := int64(cap(b))
	if size < 4096 || size != bufferSize(size) {
		return // it was grown elsewhere
	}
	if i := poolIndex(size); i >= 0 && i < len(p.bySize) {
		b = b[:0]
		p.bySize[i].Put(&b)
	}
}
