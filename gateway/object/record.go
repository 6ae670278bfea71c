package object

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// putRecord writes an account or bucket record on m+1 drives, one more than
// may be lost at once. It needs all of them to be durable.
func (e *Engine) putRecord(ctx context.Context, rec *metadata.Record, body []byte) error {
	if err := e.random(rec.Shard.Chunk[:]); err != nil {
		return err
	}
	pg, err := e.choosePG()
	if err != nil {
		return err
	}
	need := int(pg.Scheme.Parity) + 1
	candidates := e.recordDrives(pg)
	payload := metadata.PayloadOf(body)
	written, errs := 0, []error{}
	for written < need && len(candidates) > 0 {
		n := min(need-written, len(candidates))
		results := make([]error, n)
		var group sync.WaitGroup
		for i, d := range candidates[:n] {
			own := *rec // the call may go on for longer
			group.Go(func() {
				_, results[i] = e.bg.guard.do(ctx, d, recordTimeout, func(ctx context.Context) error {
					return e.shards.PutRecord(ctx, d, &own, payload)
				})
			})
		}
		group.Wait()
		for _, err := range results {
			if err == nil {
				written++
			} else {
				errs = append(errs, err)
			}
		}
		candidates = candidates[n:]
	}
	if written < need {
		return fmt.Errorf("object: record on %d of %d drives: %w: %w", written, need, ErrUnwritable, errors.Join(errs...))
	}
	return nil
}

// recordTimeout is how long a drive may take for a record before another one
// gets it.
const recordTimeout = 3 * time.Second

// recordDrives returns the members of a group that take records, those that are
// suspect last.
func (e *Engine) recordDrives(pg *metadata.PG) []topology.DriveID {
	var well, suspect []topology.DriveID
	for _, d := range pg.Newest().Members {
		switch {
		case !e.options.Drives.Condition(d).Writable:
		case e.suspects.has(d):
			suspect = append(suspect, d)
		default:
			well = append(well, d)
		}
	}
	return append(well, suspect...)
}

const recordVersion = 1

// accountRecord encodes what an account record carries: see FORMAT.md.
func accountRecord(a *metadata.Account) []byte {
	b := []byte{recordVersion}
	b = append(b, a.ID[:]...)
	b = append(b, a.Key[:]...)
	b = append(b, a.MasterKey[:]...)
	b = appendText(b, a.WrappedKey)
	b = appendText(b, a.Canonical)
	return appendText(b, a.Name)
}

// States of a bucket in its record. A deletion counts, whatever else there is
// of the id: no bucket gets the id of another.
const (
	bucketLive    = 1
	bucketDeleted = 2
)

// bucketRecord encodes what a bucket record carries. The name is sealed if the
// bucket has a key.
func (e *Engine) bucketRecord(row *metadata.Bucket, name []byte) []byte {
	return encodeBucket(row, bucketLive, name)
}

// bucketTombstone encodes the record that a bucket was deleted: neither its
// name nor its key are in it.
func bucketTombstone(id metadata.BucketID, owner metadata.AccountID) []byte {
	return encodeBucket(&metadata.Bucket{ID: id, Owner: owner}, bucketDeleted, nil)
}

// bucketStateOf returns the state in a bucket's record, 0 if it is none that
// is known.
func bucketStateOf(payload []byte) byte {
	if len(payload) < 2 || payload[0] != recordVersion {
		return 0
	}
	return payload[1]
}

func encodeBucket(row *metadata.Bucket, state byte, name []byte) []byte {
	b := []byte{recordVersion, state}
	b = append(b, row.ID[:]...)
	b = append(b, row.Owner[:]...)
	b = append(b, row.Key[:]...)
	b = binary.LittleEndian.AppendUint32(b, row.Group)
	b = appendText(b, row.WrappedKey)
	b = appendText(b, string(name))
	return appendText(b, row.Region)
}

func appendText(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}
