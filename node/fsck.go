package node

import (
	"context"
	"errors"

	"github.com/ruche-storage/ruche/metadata"
)

// fsckBad is how many bad records a report names.
const fsckBad = 1000

// BadRecord is a record that a check found damaged or gone, of whatever type.
type BadRecord struct {
	Record metadata.Record
	Err    error // as in [BadShard]
}

// FsckReport is what Fsck found on a drive.
type FsckReport struct {
	Recovery RecoveryStats // files that the index did not know, and what was added
	Records  int64         // read and checked
	Bytes    int64         // of them
	Bad      int64         // of them, damaged or gone
	BadNamed []BadRecord   // the first 1,000
	Shards   int64         // rows of shards
	Pending  int64         // of them, waiting for a lookup: all, if the index was made anew
}

// Fsck checks a drive that no process has open: that every file is known to the
// index and every row leads to a sound record, down to the last cell. Files
// that were missing in the index are added, as pending. With rebuild the index
// is thrown away and made anew. Damaged records are reported and kept: that
// they are not needed is for metadata to say.
//
// Of opts, FS, IndexFS, Clock and Log matter; the cluster is that of the drive.
func Fsck(ctx context.Context, opts Options, path string, rebuild bool) (*FsckReport, error) {
	opts = opts.withDefaults()
	super, err := readSuperblock(opts.FS, path)
	if err != nil {
		return nil, err
	}
	opts.Cluster = super.Cluster
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	report := new(FsckReport)
	opts.fsck = fsckMode{on: true, rebuild: rebuild, bad: func(b BadRecord) {
		if len(report.BadNamed) < fsckBad {
			report.BadNamed = append(report.BadNamed, b)
		}
	}}
	opts.MaintenanceInterval, opts.ScrubBytesPerSecond = -1, -1
	opts.OnBadShard = nil
	sh := newShared(&opts)
	defer sh.cache.Unref()
	d, err := openDrive(ctx, path, opts, sh)
	if err != nil {
		return nil, err
	}
	s := &d.scrubber
	if err := s.load(); err != nil {
		s.status = ScrubStatus{} // the pass that follows replaces it
	}
	s.mu.Lock()
	s.begin()
	s.mu.Unlock()
	if err := s.pass(ctx); err != nil {
		return nil, errors.Join(err, d.close())
	}
	st := s.snapshot()
	t := d.index.snapshotTotals()
	report.Recovery = d.recovered
	report.Records, report.Bytes, report.Bad = st.Records, st.Bytes, st.Bad
	report.Shards, report.Pending = t.Shards, t.PendingShards
	return report, d.close()
}
