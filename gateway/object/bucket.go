package object

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
)

// bucket is what the engine keeps of a live bucket: its row, its settings with
// their epoch, and its keys. It is never changed, only replaced.
type bucket struct {
	row      metadata.Bucket
	settings metadata.Settings
	keys     *seal.BucketKeys // nil: what is written is not sealed
}

func (b *bucket) ref() metadata.BucketRef {
	return metadata.BucketRef{Group: b.row.Group, ID: b.row.ID}
}

// bucketCache keeps live buckets by name. Beyond bucketCacheMax it begins
// anew; an entry costs about 1 KiB.
type bucketCache struct {
	mu      sync.Mutex
	buckets map[string]*bucket
}

const bucketCacheMax = 10_000

func newBucketCache() *bucketCache { return &bucketCache{buckets: make(map[string]*bucket)} }

func (c *bucketCache) get(name string) *bucket {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buckets[name]
}

func (c *bucketCache) put(b *bucket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.buckets) >= bucketCacheMax {
		clear(c.buckets)
	}
	c.buckets[b.row.Name] = b
}

func (c *bucketCache) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.buckets, name)
}

// bucket returns a live bucket, from the cache if it is there.
func (e *Engine) bucket(ctx context.Context, name string) (*bucket, error) {
	if b := e.buckets.get(name); b != nil {
		return b, nil
	}
	row, err := e.meta.Bucket(ctx, name)
	if err != nil {
		return nil, err
	}
	if row.State != metadata.BucketLive {
		return nil, metadata.ErrNoSuchBucket
	}
	settings, err := e.meta.Settings(ctx, metadata.BucketRef{Group: row.Group, ID: row.ID})
	if err != nil {
		return nil, err
	}
	if settings.Closed {
		return nil, metadata.ErrNoSuchBucket
	}
	keys, err := e.bucketKeys(ctx, row)
	if err != nil {
		return nil, err
	}
	b := &bucket{row: *row, settings: *settings, keys: keys}
	e.buckets.put(b)
	return b, nil
}

// read runs a read of a bucket. If the group does not know the bucket as it is
// cached, it may have been deleted and created again: then the row is read
// anew, once.
func (e *Engine) read(ctx context.Context, name string, f func(b *bucket) error) error {
	b, err := e.bucket(ctx, name)
	if err != nil {
		return err
	}
	err = f(b)
	if !errors.Is(err, metadata.ErrNoSuchBucket) {
		return err
	}
	e.buckets.forget(name)
	again, reloadErr := e.bucket(ctx, name)
	if reloadErr != nil || again.row.ID == b.row.ID {
		return err
	}
	return f(again)
}

// forgetMissing drops a bucket from the cache if a write in it has found that it
// is not there: it may have been deleted, and created again since. The next
// request reads its row anew.
func (e *Engine) forgetMissing(name string, err *error) {
	if errors.Is(*err, metadata.ErrNoSuchBucket) {
		e.buckets.forget(name)
	}
}

// bucketTries is how often a step of a bucket's life is tried against others
// that change the same name.
const bucketTries = 8

// CreateBucket creates a bucket that belongs to the first account: the name is
// reserved, the bucket's record is made durable on m+1 drives, its group opens
// it, and the name becomes live. Each step may be repeated, so a creation that
// was cut off is finished by the next one. It returns metadata.ErrBucketExists
// if the bucket is live already.
func (e *Engine) CreateBucket(ctx context.Context, name string) error {
	l, err := e.epochs.writer()
	if err != nil {
		return err
	}
	defer l.release()
	for range bucketTries {
		row, err := e.reserveBucket(ctx, name, l)
		if err != nil {
			return err
		}
		switch row.State {
		case metadata.BucketLive:
			return metadata.ErrBucketExists
		case metadata.BucketDeleting:
			if err := e.finishDelete(ctx, row, l); err != nil {
				return err
			}
			continue // the name is free now
		}
		err = e.finishCreate(ctx, row, l)
		if errors.Is(err, metadata.ErrNoSuchBucket) {
			continue // deleted by another in between
		}
		return err
	}
	return metadata.ErrConflict
}

// reserveBucket takes the name, or returns the row that has it.
func (e *Engine) reserveBucket(ctx context.Context, name string, l *lease) (*metadata.Bucket, error) {
	known, err := e.meta.Bucket(ctx, name)
	if err == nil || !errors.Is(err, metadata.ErrNoSuchBucket) {
		return known, err
	}
	row, err := e.newBucketRow(ctx, name)
	if err != nil {
		return nil, err
	}
	_, err = e.propose(ctx, e.rootCommand(metadata.KindReserveBucket, l, row))
	if err != nil && !errors.Is(err, metadata.ErrBucketExists) {
		return nil, fmt.Errorf("object: reserve bucket: %w", err)
	}
	return e.meta.Bucket(ctx, name) // ours, or that of who was faster
}

func (e *Engine) newBucketRow(ctx context.Context, name string) (*metadata.Bucket, error) {
	accounts, err := e.meta.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	if len(accounts) == 0 {
		return nil, errors.New("object: no account to own the bucket")
	}
	owner := &accounts[0]
	row := &metadata.Bucket{Name: name, State: metadata.BucketCreating, Owner: owner.ID, Region: e.options.Region}
	if err := e.random(row.ID[:]); err != nil {
		return nil, err
	}
	row.Group = 1 + uint32(binary.BigEndian.Uint64(row.ID[:])%metadata.DataGroups)
	if !e.options.Encryption {
		return row, nil
	}
	account, err := e.AccountKeys(ctx, owner)
	if err != nil {
		return nil, err
	}
	key, err := seal.NewKey(randomReader{e})
	if err != nil {
		return nil, err
	}
	if err := e.random(row.Key[:]); err != nil {
		return nil, err
	}
	row.WrappedKey = string(account.WrapBucket(e.bucketBinding(row), key))
	return row, nil
}

// rootCommand is a command of the root group about a bucket.
func (e *Engine) rootCommand(kind metadata.Kind, l *lease, row *metadata.Bucket) *metadata.Command {
	return &metadata.Command{Kind: kind, Version: 1, Group: metadata.RootGroup, Epoch: l.epoch, Bucket: row}
}

// groupCommand is a command of a bucket's group about the bucket itself.
func (e *Engine) groupCommand(kind metadata.Kind, l *lease, row *metadata.Bucket) *metadata.Command {
	return &metadata.Command{Kind: kind, Version: 1, Group: row.Group, Epoch: l.epoch,
		Settle: &metadata.Settings{Bucket: row.ID, Name: row.Name, Epoch: 1}}
}

// finishCreate does what follows the reservation of a name.
func (e *Engine) finishCreate(ctx context.Context, row *metadata.Bucket, l *lease) error {
	keys, err := e.bucketKeys(ctx, row)
	if err != nil {
		return err
	}
	name := []byte(row.Name)
	if keys != nil {
		if name, err = keys.SealName(randomReader{e}, row.ID, row.Name); err != nil {
			return err
		}
	}
	rec := metadata.Record{Type: metadata.RecordBucket, Bucket: row.ID, Account: row.Owner, Epoch: l.epoch}
	if err := e.putRecord(ctx, &rec, e.bucketRecord(row, name)); err != nil {
		return err
	}
	if _, err := e.propose(ctx, e.groupCommand(metadata.KindOpenBucket, l, row)); err != nil {
		return fmt.Errorf("object: open bucket: %w", err)
	}
	if _, err := e.propose(ctx, e.rootCommand(metadata.KindActivateBucket, l, row)); err != nil {
		return fmt.Errorf("object: activate bucket: %w", err)
	}
	e.buckets.forget(row.Name)
	return nil
}

// DeleteBucket deletes an empty bucket: its group closes it, which fails with
// metadata.ErrBucketNotEmpty while it holds anything; the name is retired, the
// rows are purged, a record of it is made durable on m+1 drives, and the name
// is free again.
func (e *Engine) DeleteBucket(ctx context.Context, name string) error {
	l, err := e.epochs.writer()
	if err != nil {
		return err
	}
	defer l.release()
	row, err := e.meta.Bucket(ctx, name)
	if err != nil {
		return err
	}
	defer e.buckets.forget(name)
	if row.State == metadata.BucketLive {
		_, err := e.propose(ctx, e.groupCommand(metadata.KindCloseBucket, l, row))
		if err != nil {
			return fmt.Errorf("object: close bucket: %w", err)
		}
		if _, err := e.propose(ctx, e.rootCommand(metadata.KindRetireBucket, l, row)); err != nil {
			return fmt.Errorf("object: retire bucket: %w", err)
		}
	}
	if err := e.finishDelete(ctx, row, l); err != nil {
		return err
	}
	if row.State != metadata.BucketLive {
		return metadata.ErrNoSuchBucket // for clients it was gone before
	}
	return nil
}

// finishDelete frees the name of a bucket that was closed or never opened.
func (e *Engine) finishDelete(ctx context.Context, row *metadata.Bucket, l *lease) error {
	if row.State == metadata.BucketCreating {
		return nil // the next creation finishes it
	}
	_, err := e.propose(ctx, e.groupCommand(metadata.KindPurgeBucket, l, row))
	if err != nil && !errors.Is(err, metadata.ErrNoSuchBucket) {
		return fmt.Errorf("object: purge bucket: %w", err)
	}
	rec := metadata.Record{Type: metadata.RecordBucket, Bucket: row.ID, Account: row.Owner, Epoch: l.epoch}
	if err := e.putRecord(ctx, &rec, bucketTombstone(row.ID, row.Owner)); err != nil {
		return fmt.Errorf("object: record that a bucket is deleted: %w", err)
	}
	_, err = e.propose(ctx, e.rootCommand(metadata.KindForgetBucket, l, row))
	if err != nil && !errors.Is(err, metadata.ErrNoSuchBucket) {
		return fmt.Errorf("object: forget bucket: %w", err)
	}
	return nil
}

// bucketPage is how many rows of buckets are read at a time.
const bucketPage = 1000

// SetCompression changes how new parts of a bucket are compressed.
func (e *Engine) SetCompression(ctx context.Context, name string, c metadata.Compression) error {
	l, err := e.epochs.writer()
	if err != nil {
		return err
	}
	defer l.release()
	for range staleTries {
		e.buckets.forget(name)
		b, err := e.bucket(ctx, name)
		if err != nil {
			return err
		}
		settings := b.settings
		settings.Compression = c
		settings.Epoch++
		cmd := &metadata.Command{Kind: metadata.KindPutSettings, Version: 1, Group: b.row.Group,
			Settings: b.settings.Epoch, Epoch: l.epoch, Settle: &settings}
		_, err = e.propose(ctx, cmd)
		e.buckets.forget(name)
		if !errors.Is(err, metadata.ErrStaleSettings) {
			return err
		}
	}
	return metadata.ErrConflict
}

// Compression returns how new parts of a bucket are compressed.
func (e *Engine) Compression(ctx context.Context, name string) (metadata.Compression, error) {
	b, err := e.bucket(ctx, name)
	if err != nil {
		return 0, err
	}
	return b.settings.Compression, nil
}

// Bucket returns what is known of a live bucket.
func (e *Engine) Bucket(ctx context.Context, name string) (BucketInfo, error) {
	b, err := e.bucket(ctx, name)
	if err != nil {
		return BucketInfo{}, err
	}
	return bucketInfo(&b.row), nil
}

func bucketInfo(row *metadata.Bucket) BucketInfo {
	return BucketInfo{Name: row.Name, Created: time.UnixMicro(int64(row.Order)).UTC(), Region: row.Region, Owner: row.Owner}
}

// Buckets returns a page of the live buckets.
func (e *Engine) Buckets(ctx context.Context, req *BucketsRequest) (*BucketsPage, error) {
	page := &BucketsPage{}
	after := req.After
	for {
		rows, err := e.meta.Buckets(ctx, req.Prefix, after, bucketPage)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			after = rows[i].Name
			if rows[i].State != metadata.BucketLive {
				continue
			}
			if len(page.Buckets) == req.Limit {
				page.Truncated = true
				return page, nil
			}
			page.Buckets = append(page.Buckets, bucketInfo(&rows[i]))
		}
		if len(rows) < bucketPage {
			return page, nil
		}
	}
}

// Usage returns what a bucket holds. It is exact: it changes with what it
// counts.
func (e *Engine) Usage(ctx context.Context, name string) (u metadata.Usage, err error) {
	err = e.read(ctx, name, func(b *bucket) error {
		u, err = e.meta.Usage(ctx, b.ref())
		return err
	})
	return u, err
}
