package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// recordKeeper sees to it that the records of accounts and buckets are on m+1
// drives that can be read, as they are in the metadata now.
type recordKeeper struct {
	g    *background
	kick chan struct{}

	remade uint64 // by the one loop that calls pass
}

// pass counts all records and writes those anew that too few drives hold.
func (k *recordKeeper) pass(ctx context.Context) error {
	table, err := k.g.e.meta.Drives(ctx)
	if err != nil {
		return fmt.Errorf("object: drives: %w", err)
	}
	pgs, err := k.g.e.meta.PGs(ctx)
	if err != nil {
		return fmt.Errorf("object: placement groups: %w", err)
	}
	if len(pgs.Groups) == 0 {
		return nil
	}
	need := int(pgs.Groups[0].Scheme.Parity) + 1
	var drives []topology.DriveID
	for i := range table.Drives {
		d := &table.Drives[i]
		if d.State == topology.DriveActive && k.g.e.options.Drives.Condition(d.ID).Readable {
			drives = append(drives, d.ID)
		}
	}
	return errors.Join(k.accounts(ctx, drives, need), k.buckets(ctx, drives, need))
}

func (k *recordKeeper) accounts(ctx context.Context, drives []topology.DriveID, need int) error {
	accounts, err := k.g.e.meta.Accounts(ctx)
	if err != nil {
		return fmt.Errorf("object: accounts: %w", err)
	}
	want := make(map[metadata.AccountID][]byte, len(accounts))
	for i := range accounts {
		want[accounts[i].ID] = accountRecord(&accounts[i])
	}
	held, err := countRecords(ctx, k, drives, metadata.RecordAccount, need, func(rec *metadata.Record, payload []byte) (metadata.AccountID, bool) {
		expected, ok := want[rec.Account]
		return rec.Account, ok && bytes.Equal(payload, expected)
	})
	if err != nil {
		return err
	}
	var errs []error
	for i := range accounts {
		a := &accounts[i]
		rec := metadata.Record{Type: metadata.RecordAccount, Account: a.ID}
		payload := func() ([]byte, error) { return want[a.ID], nil }
		if err := k.remake(ctx, rec, payload, held[a.ID], drives, need); err != nil {
			errs = append(errs, fmt.Errorf("object: record of account %s: %w", a.ID, err))
		}
	}
	return errors.Join(errs...)
}

func (k *recordKeeper) buckets(ctx context.Context, drives []topology.DriveID, need int) error {
	e := k.g.e
	want := make(map[metadata.BucketID][]byte)
	err := k.eachBucket(ctx, func(row *metadata.Bucket) error {
		want[row.ID] = e.bucketRecordHead(row)
		return nil
	})
	if err != nil {
		return err
	}
	incarnation, err := e.meta.Incarnation(ctx)
	if err != nil {
		return fmt.Errorf("object: incarnation: %w", err)
	}
	ended := incarnation.LastEpoch()
	held, err := countRecords(ctx, k, drives, metadata.RecordBucket, need, func(rec *metadata.Record, payload []byte) (bucketCopy, bool) {
		id := bucketCopy{id: rec.Bucket}
		if bucketStateOf(payload) == bucketDeleted {
			id.deleted, id.owner = true, rec.Account
			return id, true
		}
		// A bucket may have been deleted in a history that a restore has ended:
		// it takes a later record to say that it lives.
		head, ok := want[rec.Bucket]
		return id, ok && bytes.HasPrefix(payload, head) && (ended == 0 || rec.Epoch > ended)
	})
	if err != nil {
		return err
	}
	var errs []error
	if err := k.tombstones(ctx, want, held, drives, need); err != nil {
		errs = append(errs, err)
	}
	err = k.eachBucket(ctx, func(row *metadata.Bucket) error {
		if _, ok := want[row.ID]; !ok {
			return nil // created meanwhile
		}
		rec := metadata.Record{Type: metadata.RecordBucket, Bucket: row.ID, Account: row.Owner}
		payload := func() ([]byte, error) { return k.bucketPayload(ctx, row) }
		if err := k.remake(ctx, rec, payload, held[bucketCopy{id: row.ID}], drives, need); err != nil {
			errs = append(errs, fmt.Errorf("object: record of bucket %s: %w", row.ID, err))
		}
		if len(errs) >= maxErrors {
			return errors.Join(errs...)
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// bucketCopy names what records of a bucket say: that it is live, as the
// metadata have it, or that it was deleted.
type bucketCopy struct {
	id      metadata.BucketID
	deleted bool
	owner   metadata.AccountID // of deleted ones only
}

// tombstones sees to it that the records of deleted buckets are on enough
// drives, and then frees what else there is of these buckets. The tombstones
// stay: drives that are away may bring older records back.
func (k *recordKeeper) tombstones(ctx context.Context, live map[metadata.BucketID][]byte, held map[bucketCopy][]topology.DriveID, drives []topology.DriveID, need int) error {
	gone := make(map[metadata.BucketID]struct{})
	var errs []error
	for b, on := range held {
		if _, is := live[b.id]; is || !b.deleted {
			continue // one that is live has none, unless the metadata was restored
		}
		rec := metadata.Record{Type: metadata.RecordBucket, Bucket: b.id, Account: b.owner}
		payload := func() ([]byte, error) { return bucketTombstone(b.id, b.owner), nil }
		if err := k.remake(ctx, rec, payload, on, drives, need); err != nil {
			if errs = append(errs, fmt.Errorf("object: record of deleted bucket %s: %w", b.id, err)); len(errs) >= maxErrors {
				break
			}
			continue
		}
		gone[b.id] = struct{}{}
	}
	if len(gone) == 0 {
		return errors.Join(errs...)
	}
	if on, err := k.g.collect.allowed(ctx); err != nil || !on {
		return errors.Join(append(errs, err)...)
	}
	for _, drive := range drives {
		if err := k.freeSuperseded(ctx, drive, gone); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// maxSuperseded is how many records a pass frees on a drive.
const maxSuperseded = 4096

// freeSuperseded frees the records on a drive that say that deleted buckets are
// live.
func (k *recordKeeper) freeSuperseded(ctx context.Context, drive topology.DriveID, gone map[metadata.BucketID]struct{}) error {
	var found []metadata.ShardRef
	late, err := k.g.guard.do(ctx, drive, longCall, func(ctx context.Context) error {
		return k.g.e.shards.Records(ctx, drive, metadata.RecordBucket, func(rec *metadata.Record, payload []byte) error {
			if _, is := gone[rec.Bucket]; is && bucketStateOf(payload) == bucketLive && len(found) < maxSuperseded {
				found = append(found, rec.Ref())
			}
			return context.Cause(ctx)
		})
	})
	if late != nil {
		return err // found is not ours
	}
	// Records that could not be read do not keep those that could.
	if len(found) > 0 {
		err = errors.Join(err, k.g.collect.free(ctx, drive, found))
	}
	return err
}

// bucketRecordHead is the part of a bucket's record that is the same in all of
// them: the sealed name behind it differs.
func (e *Engine) bucketRecordHead(row *metadata.Bucket) []byte {
	unnamed := e.bucketRecord(row, nil)
	return unnamed[:len(unnamed)-2*lengthBytes-len(row.Region)]
}

// lengthBytes is what appendText puts before a text.
const lengthBytes = 4

// bucketPayload makes the record of a bucket.
func (k *recordKeeper) bucketPayload(ctx context.Context, row *metadata.Bucket) ([]byte, error) {
	keys, err := k.g.e.bucketKeys(ctx, row)
	if err != nil {
		return nil, err
	}
	name := []byte(row.Name)
	if keys != nil {
		if name, err = keys.SealName(randomReader{k.g.e}, row.ID, row.Name); err != nil {
			return nil, err
		}
	}
	return k.g.e.bucketRecord(row, name), nil
}

// eachBucket calls f for every live bucket.
func (k *recordKeeper) eachBucket(ctx context.Context, f func(row *metadata.Bucket) error) error {
	for after := ""; ; {
		rows, err := k.g.e.meta.Buckets(ctx, "", after, bucketPage)
		if err != nil {
			return fmt.Errorf("object: buckets: %w", err)
		}
		for i := range rows {
			after = rows[i].Name
			if rows[i].State != metadata.BucketLive {
				continue
			}
			if err := f(&rows[i]); err != nil {
				return err
			}
		}
		if len(rows) < bucketPage {
			return nil
		}
	}
}

// countRecords finds out which drives hold the records that match tells the
// ids of. What a drive cannot read counts as not there.
func countRecords[ID comparable](ctx context.Context, k *recordKeeper, drives []topology.DriveID, typ metadata.RecordType, need int, match func(rec *metadata.Record, payload []byte) (ID, bool)) (map[ID][]topology.DriveID, error) {
	held := make(map[ID][]topology.DriveID)
	for _, drive := range drives {
		found := make(map[ID]struct{})
		late, err := k.g.guard.do(ctx, drive, longCall, func(ctx context.Context) error {
			return k.g.e.shards.Records(ctx, drive, typ, func(rec *metadata.Record, payload []byte) error {
				if id, ok := match(rec, payload); ok {
					found[id] = struct{}{}
				}
				return context.Cause(ctx)
			})
		})
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			k.g.e.log.WarnContext(ctx, "records of a drive not read", "drive", drive.String(), "type", typ, "err", err)
		}
		if late != nil {
			continue
		}
		for id := range found {
			if len(held[id]) < need {
				held[id] = append(held[id], drive)
			}
		}
	}
	return held, nil
}

// remake writes a record on as many drives as are missing.
func (k *recordKeeper) remake(ctx context.Context, rec metadata.Record, payload func() ([]byte, error), held, drives []topology.DriveID, need int) error {
	missing := need - len(held)
	if missing <= 0 {
		return nil
	}
	epoch, release, err := k.g.lease()
	if err != nil {
		return err
	}
	defer release()
	rec.Epoch = epoch
	if err := k.g.e.random(rec.Shard.Chunk[:]); err != nil {
		return err
	}
	body, err := payload()
	if err != nil {
		return err
	}
	record := metadata.PayloadOf(body)
	var errs []error
	first := int(rec.Shard.Chunk[0]) // so that not all lie on the same drives
	for i := range drives {
		drive := drives[(first+i)%len(drives)]
		if missing == 0 {
			break
		}
		if slices.Contains(held, drive) || !k.g.e.options.Drives.Condition(drive).Writable {
			continue
		}
		own := rec
		_, err := k.g.guard.do(ctx, drive, k.g.e.options.StallTimeout, func(ctx context.Context) error {
			return k.g.e.shards.PutRecord(ctx, drive, &own, record)
		})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		missing--
		k.remade++
	}
	if missing > 0 {
		return fmt.Errorf("%d of %d copies missing: %w", missing, need, errors.Join(append(errs, ErrUnwritable)...))
	}
	return nil
}
