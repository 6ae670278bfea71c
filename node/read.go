package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cockroachdb/errors/oserror"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node/segment"
)

// ReadAt fills dst with the framed bytes of a shard from offset off. It fails
// with metadata.ErrCorrupt if the record is shorter or its header is damaged;
// the header of a record that was read lately is not looked at again. The bytes
// themselves are not verified. Of several records the newest with a sound
// header is read.
func (d *Drive) ReadAt(ctx context.Context, ref metadata.ShardRef, dst []byte, off int64) error {
	start := d.opts.Clock.Now()
	if off < 0 {
		return fmt.Errorf("node: read at %d", off)
	}
	if cached, ok := d.places.get(ref); ok && d.readable(ctx) == nil {
		before := d.drops.Load()
		if d.readRow(&cached, dst, off) == nil && d.drops.Load() == before {
			d.reads.add(d.opts.Clock.Now().Sub(start))
			return nil
		}
		d.places.forget(ref)
	}
	err := d.eachRow(ctx, ref, func(r *row) error {
		if err := d.readRow(r, dst, off); err != nil {
			return err
		}
		d.places.put(ref, r)
		return nil
	})
	if err == nil {
		d.reads.add(d.opts.Clock.Now().Sub(start))
	}
	return err
}

// readable returns nil, or why nothing can be read.
func (d *Drive) readable(ctx context.Context) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	return d.usable()
}

// eachRow calls fn with the rows of a shard, newest first, until it returns
// nil. Rows whose records are given up meanwhile are looked up again.
func (d *Drive) eachRow(ctx context.Context, ref metadata.ShardRef, fn func(r *row) error) error {
	for {
		if err := d.readable(ctx); err != nil {
			return err
		}
		before := d.drops.Load()
		rows, err := d.index.lookup(ref)
		if err != nil {
			return d.indexReadFailed(err)
		}
		if len(rows) == 0 {
			return fmt.Errorf("node: shard %s: %w", ref.Shard, metadata.ErrShardNotFound)
		}
		for i := len(rows) - 1; i >= 0; i-- {
			var one error
			if one = fn(&rows[i]); one == nil {
				err = nil
				break
			}
			err = errors.Join(err, one)
		}
		if d.drops.Load() == before {
			return wrapShard(ref, err)
		}
	}
}

func wrapShard(ref metadata.ShardRef, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("node: shard %s: %w", ref.Shard, err)
}

// indexReadFailed is the error of a read of the index. A damaged index is no
// reason to take a shard for missing.
func (d *Drive) indexReadFailed(err error) error {
	d.errs.set(err)
	if errors.Is(err, ErrClosed) {
		return err
	}
	d.fence(fmt.Errorf("index: %w", err))
	return d.fencedError()
}

// headerPool keeps buffers for headers that are only checked.
type headerPool struct{ pool sync.Pool }

func (p *headerPool) get() *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, segment.MaxHeaderBytes)
	return &b
}

// readRow reads framed bytes of one record.
func (d *Drive) readRow(r *row, dst []byte, off int64) error {
	if r.entry.Damaged {
		return fmt.Errorf("%s: no footer: %w", fileName(r.dir, r.segment), metadata.ErrCorrupt)
	}
	if off+int64(len(dst)) > r.entry.Body {
		return fmt.Errorf("%s: %d bytes at %d of %d: %w", fileName(r.dir, r.segment), len(dst), off, r.entry.Body, metadata.ErrCorrupt)
	}
	f, err := d.open(r)
	if err != nil {
		return err
	}
	defer d.files.put(f)
	if err := d.checkHeader(f, r); err != nil {
		return err
	}
	n, err := f.ReadAt(dst, r.offset+int64(r.entry.HeaderBytes)+off)
	if n == len(dst) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: file ends early: %w", fileName(r.dir, r.segment), metadata.ErrCorrupt)
	}
	d.errs.set(err)
	return err
}

// open opens the file of a record. It must be given back to the cache.
func (d *Drive) open(r *row) (*openFile, error) {
	f, err := d.files.get(d, r.dir, r.segment)
	if oserror.IsNotExist(err) {
		return nil, fmt.Errorf("%s is gone: %w", fileName(r.dir, r.segment), metadata.ErrShardNotFound)
	}
	if err != nil {
		d.errs.set(err)
	}
	return f, err
}

// checkHeader reports damage of a record's header. Of an own file it is looked
// at once while the file is open.
func (d *Drive) checkHeader(f *openFile, r *row) error {
	if r.sound || f.sound.Load() {
		return nil
	}
	buf := d.headers.get()
	defer d.headers.pool.Put(buf)
	n, err := f.ReadAt((*buf)[:min(r.entry.HeaderBytes, len(*buf))], r.offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := segment.CheckHeader((*buf)[:n], r.segment, r.offset); err != nil {
		return fmt.Errorf("%s: %w", fileName(r.dir, r.segment), err)
	}
	f.sound.Store(r.own)
	return nil
}

// Stat returns the header and footer of a shard, sums included.
func (d *Drive) Stat(ctx context.Context, ref metadata.ShardRef) (*metadata.StoredShard, error) {
	var s *metadata.StoredShard
	err := d.eachRow(ctx, ref, func(r *row) error {
		f, err := d.readFooter(r)
		if err != nil {
			return err
		}
		s = &metadata.StoredShard{
			Record: r.entry.Record,
			Footer: metadata.Footer{ChunkBytes: f.ChunkBytes, Sums: f.Sums},
			Bytes:  r.entry.Bytes,
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if s.Pending, err = d.index.has(appendRef([]byte{tablePending}, ref)); err != nil {
		return nil, d.indexReadFailed(err)
	}
	return s, nil
}

// readFooter reads header and footer of one record and compares them with its
// row.
func (d *Drive) readFooter(r *row) (*segment.Footer, error) {
	f, err := d.open(r)
	if err != nil {
		return nil, err
	}
	defer d.files.put(f)
	return footerOf(f, r)
}

func footerOf(f io.ReaderAt, r *row) (*segment.Footer, error) {
	_, footer, err := ends(f, r)
	return footer, err
}

// ends reads what is before and behind the body of a record.
func ends(f io.ReaderAt, r *row) (*segment.Header, *segment.Footer, error) {
	h, header, err := segment.ReadHeader(f, r.segment, r.offset)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", fileName(r.dir, r.segment), err)
	}
	if h.Record != r.entry.Record {
		return nil, nil, fmt.Errorf("%s: header of another record: %w", fileName(r.dir, r.segment), metadata.ErrCorrupt)
	}
	if r.entry.Damaged {
		return nil, nil, fmt.Errorf("%s: no footer: %w", fileName(r.dir, r.segment), metadata.ErrCorrupt)
	}
	footer, err := segment.ReadFooter(f, header, r.offset+int64(len(header)), r.entry.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", fileName(r.dir, r.segment), err)
	}
	return h, footer, nil
}

// Verify reads the whole shard and checks every cell, the shard sum and the
// footer. It returns nil, metadata.ErrCorrupt or another class. With several
// records one that is right is enough, as reads prefer it only if it is the
// newest with a sound header: write the shard again to drop the others.
func (d *Drive) Verify(ctx context.Context, ref metadata.ShardRef) error {
	for {
		if err := d.readable(ctx); err != nil {
			return err
		}
		before := d.drops.Load()
		rows, err := d.index.lookup(ref)
		if err != nil {
			return d.indexReadFailed(err)
		}
		if len(rows) == 0 {
			return fmt.Errorf("node: shard %s: %w", ref.Shard, metadata.ErrShardNotFound)
		}
		good, err := d.verifyRows(rows)
		if d.drops.Load() != before {
			continue
		}
		if len(good) == 0 {
			return wrapShard(ref, err)
		}
		if len(good) < len(rows) {
			return d.dropBad(ref, good, rows)
		}
		return nil
	}
}

// verifyRows returns the rows whose records are right, and the errors of the
// others.
func (d *Drive) verifyRows(rows []row) (good []row, err error) {
	for i := range rows {
		if one := d.verifyRow(&rows[i]); one != nil {
			err = errors.Join(err, one)
		} else {
			good = append(good, rows[i])
		}
	}
	return good, err
}

// dropBad drops the records of a shard that are not among the good ones.
func (d *Drive) dropBad(ref metadata.ShardRef, good, rows []row) error {
	var bad []row // or not needed
	for _, r := range rows {
		isGood := false
		for _, g := range good {
			isGood = isGood || g.place == r.place
		}
		if !isGood {
			bad = append(bad, r)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	d.log.Warn("records of a shard dropped beside good ones", "shard", ref.Shard, "dropped", len(bad), "kept", len(good))
	return d.dropRows(bad)
}

// verifyRow checks everything of one record. It reads past the file cache: a
// sound header of a moment ago says nothing.
func (d *Drive) verifyRow(r *row) error {
	f, err := d.open(r)
	if err != nil {
		return err
	}
	defer d.files.put(f)
	footer, err := footerOf(f, r)
	if err != nil {
		return err
	}
	size := bufferSize(segment.VerifyBufferBytes)
	if r.entry.Body < segment.VerifyBufferBytes {
		size = bufferSize(r.entry.Body)
	}
	buf := d.buffers.get(size)
	defer d.buffers.put(buf)
	if err := segment.VerifyBody(f, r.offset+int64(r.entry.HeaderBytes), &r.entry.Record, footer, buf[:cap(buf)]); err != nil {
		return fmt.Errorf("%s: %w", fileName(r.dir, r.segment), err)
	}
	return nil
}

// List returns up to limit rows of the index, in order of placement group,
// chunk and index, after the given row. With pendingOnly it leaves out live
// rows. Rows are returned once a shard id. Sums are left out.
func (d *Drive) List(ctx context.Context, after metadata.ShardRef, pendingOnly bool, limit int) ([]metadata.StoredShard, error) {
	if err := d.readable(ctx); err != nil {
		return nil, err
	}
	var list []metadata.StoredShard
	err := d.index.use(func() (err error) {
		if pendingOnly {
			list, err = d.index.listPending(after, limit)
		} else {
			list, err = d.index.listAll(after, limit)
		}
		return err
	})
	if err != nil {
		return nil, d.indexReadFailed(err)
	}
	return list, nil
}

// Records calls yield for every record of one type, oldest first, until yield
// returns an error, which it returns. Records that cannot be read or are
// damaged are left out and told at the end, by an error of their class. Those
// that were freed are left out, also if a crash has brought their rows back.
func (d *Drive) Records(ctx context.Context, typ metadata.RecordType, yield func(rec *metadata.Record, payload []byte) error) error {
	var bad []error
	after := []byte{tableRecord, byte(typ)}
	end := upperBound(after)
	for {
		if err := d.readable(ctx); err != nil {
			return err
		}
		rows, next, err := d.index.pageOfRecords(after, end)
		if err != nil {
			return d.indexReadFailed(err)
		}
		var freed []row
		for i := range rows {
			payload, err := d.readPayload(&rows[i])
			switch {
			case errors.Is(err, segment.ErrVoid):
				freed = append(freed, rows[i])
				continue
			case err != nil:
				bad = append(bad, err)
				continue
			}
			if err := yield(&rows[i].entry.Record, payload); err != nil {
				return err
			}
		}
		if len(freed) > 0 {
			if err := d.dropRows(freed); err != nil {
				return err
			}
		}
		if next == nil {
			break
		}
		after = next
	}
	if len(bad) > 0 {
		return fmt.Errorf("node: drive %s: %d records of type %d cannot be read, first: %w", d.ID(), len(bad), typ, bad[0])
	}
	return nil
}

// readPayload reads and checks the payload of one record, which may have been
// moved meanwhile.
func (d *Drive) readPayload(r *row) ([]byte, error) {
	for {
		before := d.drops.Load()
		payload, err := d.payloadAt(r)
		if err == nil || d.drops.Load() == before {
			return payload, err
		}
		moved, found, lookupErr := d.index.movedRecord(r)
		if lookupErr != nil || !found {
			return nil, errors.Join(err, lookupErr)
		}
		*r = moved
	}
}

func (d *Drive) payloadAt(r *row) ([]byte, error) {
	f, err := d.open(r)
	if err != nil {
		return nil, err
	}
	defer d.files.put(f)
	footer, err := footerOf(f, r)
	if err != nil {
		return nil, err
	}
	return readChecked(f, r, footer)
}
