package node

import (
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
)

// indexRun puts the rows of durable records into the index.
func (d *Drive) indexRun(run []*appendRequest) ([]appendResult, error) {
	a := d.active
	results := make([]appendResult, len(run))
	var unwanted int64
	apply, searched := d.index.applyBlind, slices.ContainsFunc(run, (*appendRequest).searched)
	if searched && hasTwins(run) {
		apply = d.index.apply // they have to see each other's pending marks
	}
	err := apply(func(b *pebble.Batch, t *totals) (err error) {
		var r pebble.Reader = d.index.db
		if b.Indexed() {
			r = b
		}
		var it *pebble.Iterator
		if searched {
			if it, err = r.NewIter(nil); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, it.Close()) }()
		}
		for i, req := range run {
			if results[i], err = d.indexOne(r, b, t, it, req); err != nil {
				return err
			}
			if results[i].err != nil {
				unwanted += req.entry.Bytes
			}
		}
		return nil
	})
	if err != nil {
		return nil, d.indexFailed(err)
	}
	d.segMu.Lock()
	a.info.bytes, a.info.dead = a.length, a.info.dead+unwanted
	d.segMu.Unlock()
	for i, req := range run {
		d.sawEpoch(req.entry.Record.Epoch)
		a.entries = append(a.entries, req.entry)
		if req.moved != nil {
			d.places.forget(results[i].row.ref())
		}
	}
	return results, nil
}

// errMoved says that a record that was being moved has been freed.
var errMoved = errors.New("node: freed while it was moved")

// searched reports whether there may be other records of the request's shard.
func (r *appendRequest) searched() bool {
	return !r.fresh && r.moved == nil && r.entry.Record.Type == metadata.RecordShard
}

// hasTwins reports whether two records of a run are of one shard.
func hasTwins(run []*appendRequest) bool {
	if len(run) < 2 {
		return false
	}
	seen := make(map[metadata.ShardID]struct{}, len(run))
	for _, req := range run {
		seen[req.entry.Record.Shard] = struct{}{}
	}
	return len(seen) < len(run)
}

// indexOne puts the row of one record into the batch. What is there already is
// read from r, and by it if the record has to be searched for.
func (d *Drive) indexOne(r pebble.Reader, b *pebble.Batch, t *totals, it *pebble.Iterator, req *appendRequest) (appendResult, error) {
	res := appendResult{row: d.rowOf(req)}
	n := &res.row
	if req.moved != nil {
		found, err := hasKey(r, req.moved.key())
		if err != nil {
			return res, err
		}
		if !found && !d.opts.faults.keepFreed {
			res.err = errMoved
			return res, nil
		}
		if err := deleteRow(b, t, req.moved); err != nil {
			return res, err
		}
		if err := d.buried(b, req.moved); err != nil {
			return res, err
		}
		return res, putRow(b, t, n, false)
	}
	if n.entry.Record.Type != metadata.RecordShard {
		return res, putRow(b, t, n, false)
	}
	if req.searched() {
		var err error
		if res.replaced, err = rowsOf(it, n.ref(), nil); err != nil {
			return res, err
		}
	}
	if err := putRow(b, t, n, false); err != nil || req.live {
		return res, err
	}
	if len(res.replaced) == 0 && !b.Indexed() {
		r = nil
	}
	return res, putPending(r, b, t, n.ref(), n.entry.Bytes)
}

// buried counts a record of a shared segment as dead.
func (d *Drive) buried(b *pebble.Batch, r *row) error {
	d.segMu.Lock()
	defer d.segMu.Unlock()
	info := d.segments[r.segment]
	if info == nil {
		return nil // its file is missing
	}
	info.dead += r.entry.Bytes
	if !info.sealed {
		return nil
	}
	return putSegment(b, r.segment, info)
}
