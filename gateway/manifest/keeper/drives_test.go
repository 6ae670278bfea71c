package keeper

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// errCrashed is what everything returns once a keeper has crashed. It is
// lasting: nobody waits to try again.
var errCrashed = fmt.Errorf("crashed: %w", metadata.ErrFenced)

// stored is a record on a fake drive.
type stored struct {
	rec     metadata.Record
	payload []byte
}

// fakeDrives keeps records in memory. It is the Drives of a keeper, and counts
// the steps that change something.
type fakeDrives struct {
	mu      sync.Mutex
	records map[topology.DriveID][]stored
	down    map[topology.DriveID]bool
	fail    func(drive topology.DriveID) error // of PutRecord, after which nothing is written
	hanging bool
	damaged topology.DriveID // a record of it cannot be read
	// unsettling is a drive that makes nothing durable that was freed.
	unsettling topology.DriveID
	puts       int
	freed      int
	// unsettled are records that were freed, the latest last: a power cut may
	// bring back any of the latest.
	unsettled map[topology.DriveID][]stored

	steps   int
	crashAt int  // the step that crashes; 0 for none
	after   bool // it takes effect nevertheless
	crashed bool
}

func newFakeDrives() *fakeDrives {
	return &fakeDrives{records: make(map[topology.DriveID][]stored), down: make(map[topology.DriveID]bool), unsettled: make(map[topology.DriveID][]stored)}
}

// step carries out something that changes the world, unless the keeper crashed.
func (d *fakeDrives) step(f func() error) error {
	if d.crashed {
		return errCrashed
	}
	if d.steps++; d.steps != d.crashAt {
		return f()
	}
	d.crashed = true
	if d.after {
		if err := f(); err != nil {
			return err
		}
	}
	return errCrashed
}

func (d *fakeDrives) Writable(drive topology.DriveID) bool { return d.Readable(drive) }

func (d *fakeDrives) Readable(drive topology.DriveID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.down[drive]
}

func (d *fakeDrives) Hanging() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hanging
}

func (d *fakeDrives) PutRecord(ctx context.Context, drive topology.DriveID, rec *metadata.Record, payload metadata.Payload) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return d.step(func() error {
		if d.down[drive] {
			return metadata.ErrDriveAbsent
		}
		if d.fail != nil {
			if err := d.fail(drive); err != nil {
				return err
			}
		}
		d.puts++
		d.records[drive] = append(d.records[drive], stored{*rec, bytes.Clone(payload.Bytes)})
		return nil
	})
}

func (d *fakeDrives) Records(_ context.Context, drive topology.DriveID, typ metadata.RecordType, yield func(rec *metadata.Record, payload []byte) error) error {
	d.mu.Lock()
	records := slices.Clone(d.records[drive])
	down := d.down[drive]
	d.mu.Unlock()
	if down {
		return metadata.ErrDriveAbsent
	}
	for i := range records {
		if records[i].rec.Type != typ {
			continue
		}
		if err := yield(&records[i].rec, bytes.Clone(records[i].payload)); err != nil {
			return err
		}
	}
	if drive == d.damaged {
		return fmt.Errorf("one record: %w", metadata.ErrCorrupt)
	}
	return nil
}

func (d *fakeDrives) Free(_ context.Context, drive topology.DriveID, refs []metadata.ShardRef) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.step(func() error {
		if d.down[drive] {
			return metadata.ErrDriveAbsent
		}
		d.records[drive] = slices.DeleteFunc(d.records[drive], func(r stored) bool {
			gone := slices.Contains(refs, r.rec.Ref())
			if gone {
				d.freed++
				d.unsettled[drive] = append(d.unsettled[drive], r)
			}
			return gone
		})
		return nil
	})
}

func (d *fakeDrives) Settle(_ context.Context, drive topology.DriveID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.step(func() error {
		if d.down[drive] {
			return metadata.ErrDriveAbsent
		}
		if d.unsettling == drive {
			return metadata.ErrSlow
		}
		delete(d.unsettled, drive)
		return nil
	})
}

// powerCut brings back the n records of a drive that were freed last and of
// which that was not durable.
func (d *fakeDrives) powerCut(drive topology.DriveID, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	lost := d.unsettled[drive]
	d.records[drive] = append(d.records[drive], lost[len(lost)-min(n, len(lost)):]...)
	delete(d.unsettled, drive)
}
