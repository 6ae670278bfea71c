package keeper

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// sink puts entries of one group together into records, a bucket at a time, and
// writes each to all of its drives. It is used by one goroutine; close must be
// called.
type sink struct {
	k          *Keeper
	group      uint32
	generation uint32 // version of the group's members
	drives     []topology.DriveID
	epoch      uint64
	release    func()

	bucket  *bucket // of what is in builder
	builder *manifest.Builder

	slots   chan struct{}
	running sync.WaitGroup
	mu      sync.Mutex // guards what follows
	failed  map[topology.DriveID]error
	bytes   int64 // of the records written, each counted once
}

func (k *Keeper) newSink(group uint32, generation uint64, drives []topology.DriveID) (*sink, error) {
	epoch, release, err := k.o.Epoch()
	if err != nil {
		return nil, err
	}
	builder, ok := k.builders.Get().(*manifest.Builder)
	if !ok {
		builder = new(manifest.Builder)
	}
	return &sink{k: k, builder: builder, group: group, generation: uint32(generation), drives: drives, epoch: epoch, release: release,
		slots: make(chan struct{}, parallelRecords), failed: make(map[topology.DriveID]error)}, nil
}

// add takes entries of a bucket.
func (s *sink) add(ctx context.Context, b *bucket, entries []manifest.Entry) error {
	if s.bucket != nil && s.bucket.ID != b.ID {
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	s.bucket = b
	for i := range entries {
		if s.builder.Add(&entries[i]) {
			continue
		}
		if err := s.flush(ctx); err != nil {
			return err
		}
		s.builder.Add(&entries[i])
	}
	return nil
}

// flush begins to write what was added as one record.
func (s *sink) flush(ctx context.Context) error {
	if s.builder.Entries() == 0 {
		return nil
	}
	id, payload, err := s.builder.Seal(s.k.o.Rand, &s.bucket.Bucket)
	if err != nil {
		return err
	}
	s.builder.Reset()
	rec := metadata.Record{Type: metadata.RecordManifest, Shard: metadata.ShardID{Chunk: id}, PG: s.group,
		Generation: s.generation, Bucket: s.bucket.ID, Account: s.bucket.row.Owner, Epoch: s.epoch}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.running.Go(func() {
		defer func() { <-s.slots }()
		s.write(ctx, &rec, metadata.PayloadOf(payload))
	})
	return nil
}

// write writes a record to all drives that have not failed.
func (s *sink) write(ctx context.Context, rec *metadata.Record, payload metadata.Payload) {
	var puts sync.WaitGroup
	for _, drive := range s.drives {
		s.mu.Lock()
		_, failed := s.failed[drive]
		s.mu.Unlock()
		if failed {
			continue
		}
		puts.Go(func() {
			own := *rec
			if err := s.k.put(ctx, drive, &own, payload); err != nil {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.failed[drive] = err
			}
		})
	}
	puts.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += int64(len(payload.Bytes))
}

// close writes what is left, waits for all writes, and returns the drives that
// do not have everything.
func (s *sink) close(ctx context.Context) (failed map[topology.DriveID]error, err error) {
	err = s.flush(ctx)
	s.abort()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return s.failed, err
}

// abort waits for what was begun.
func (s *sink) abort() {
	s.running.Wait()
	s.release()
	s.builder.Reset()
	s.k.builders.Put(s.builder)
	s.builder = nil
}

const putPause = 100 * time.Millisecond

// put writes a record to a drive. What may have been a moment's trouble is
// tried twice.
func (k *Keeper) put(ctx context.Context, drive topology.DriveID, rec *metadata.Record, payload metadata.Payload) error {
	if !k.o.Drives.Writable(drive) {
		return metadata.ErrDriveAbsent
	}
	err := k.o.Drives.PutRecord(ctx, drive, rec, payload)
	if err != nil && !lasting(err) && pause(ctx, putPause) == nil {
		err = k.o.Drives.PutRecord(ctx, drive, rec, payload)
	}
	if err != nil {
		k.failures.Add(1)
		return err
	}
	k.records.Add(1)
	k.bytes.Add(uint64(len(payload.Bytes)))
	k.pass.wrote.Add(int64(len(payload.Bytes)))
	return nil
}

// lasting reports whether a failure says that the drive cannot be used now.
func lasting(err error) bool {
	for _, class := range []error{metadata.ErrFenced, metadata.ErrDriveFull, metadata.ErrDriveAbsent, metadata.ErrSlow} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}
