package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// passes is what one pass over all manifests leaves for the next.
type passes struct {
	kick  chan struct{} // holds one
	wrote atomic.Int64  // payload bytes since the last pass, on all drives

	// percent: records of which less counts are written anew.
	percent int
	waits   time.Duration // for an outbox to be written before something is freed

	last time.Time
	kept int64 // payload bytes that the last pass found worth keeping
	// needless tombstones: the last pass has found nothing that they kill.
	needless map[keyHash]uint64
	share    share
	refilled map[topology.DriveID]bool
}

const (
	// passBytes is how much is written at least before a pass that is not due.
	passBytes = 256 << 20
	// pressedPass is the least time between passes while drives are nearly
	// full.
	pressedPass = time.Hour
	// livePercent is how much of a record must count so that it stays as it is,
	// pressedPercent while drives are nearly full.
	livePercent    = 50
	pressedPercent = 90
)

// due reports whether a pass is worth it before its time.
func (p *passes) due(now time.Time, pressed bool) bool {
	wrote := p.wrote.Load()
	return wrote > max(passBytes, p.kept) || pressed && wrote > 0 && now.Sub(p.last) >= pressedPass
}

// errUnreadable means that a drive was not read to its end.
var errUnreadable = errors.New("keeper: not all manifests of the drive were read")

// scan is one pass.
type scan struct {
	k      *Keeper
	layout *layout
	groups [groupCount]scanned
	kept   int64
	tombs  *tombs
	stones *stones
	// reads: nothing may be freed now; tombstones are copied, and that is all.
	reads bool
	// percent: records of which less counts are written anew.
	percent int
	// hung: a call that was given up may still write what tombstones kill.
	hung bool
}

// scanned is what a pass knows of a group from its start.
type scanned struct {
	row    *metadata.ManifestMembers
	cursor uint64 // what has a lower order, or this one, has a durable manifest
	whole  bool   // all its manifest drives are full, and there are enough of them
	missed bool   // a drive that may hold its manifests was not read
}

// passOnce reads all manifests on all drives, puts together anew what lies in
// records that are mostly dead, frees what does not count, and copies tombstones
// to drives that were filled. If nothing may be freed it does the last only.
func (k *Keeper) passOnce(ctx context.Context) error {
	on, err := k.o.Allowed(ctx)
	if err != nil {
		return err
	}
	wrote := k.pass.wrote.Load()
	s, err := k.newScan(ctx)
	if err != nil {
		return err
	}
	if s.reads = !on; s.reads && !s.stones.any() {
		return nil
	}
	var errs []error
	for id, d := range s.layout.drives {
		if d.State == topology.DriveRetired {
			continue
		}
		err := s.drive(ctx, id)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("drive %s: %w", id, err))
			s.missed(id)
		}
	}
	if err := s.stones.finish(ctx); err != nil {
		errs = append(errs, fmt.Errorf("tombstones: %w", err))
	}
	p := &k.pass
	if s.reads {
		p.needless = nil
		return errors.Join(errs...)
	}
	p.needless, p.share = s.tombs.needless(s), s.tombs.next()
	p.kept, p.last = s.kept, k.o.Now()
	p.wrote.Add(-wrote)
	k.passes.Add(1)
	return errors.Join(errs...)
}

func (k *Keeper) newScan(ctx context.Context) (*scan, error) {
	l, err := k.layout(ctx)
	if err != nil {
		return nil, err
	}
	s := &scan{k: k, layout: l, hung: k.o.Drives.Hanging(), tombs: newTombs(k.pass.share), percent: k.pass.percent}
	if k.o.Pressure() {
		s.percent = max(s.percent, pressedPercent)
	}
	for id := uint32(1); id < groupCount; id++ {
		g := &s.groups[id]
		if g.row, err = k.o.Metadata.ManifestMembers(ctx, id); err != nil {
			return nil, err
		}
		writers := 0
		g.whole = true
		for i := range g.row.Members {
			m := &g.row.Members[i]
			if m.Writes() {
				writers++
			}
			g.whole = g.whole && m.State != metadata.MemberFilling
		}
		g.whole = g.whole && writers >= l.need && writers > 0
		if g.cursor, err = k.cursor(ctx, id); err != nil {
			return nil, err
		}
	}
	s.stones = newStones(s)
	return s, nil
}

// cursor returns an order below which, itself included, everything of a group
// has a durable manifest.
func (k *Keeper) cursor(ctx context.Context, group uint32) (uint64, error) {
	at, err := k.o.Metadata.Orders(ctx, group, nil)
	if err != nil {
		return 0, err
	}
	first, err := k.o.Metadata.Outbox(ctx, group, 0, 1)
	if err != nil || len(first) == 0 {
		return at.Order, err
	}
	return min(at.Order, first[0].Order-1), nil
}

// missed notes that a drive was not read.
func (s *scan) missed(drive topology.DriveID) {
	for id := 1; id < groupCount; id++ {
		if memberOf(s.groups[id].row, drive) != nil {
			s.groups[id].missed = true
		}
	}
}

func memberOf(row *metadata.ManifestMembers, drive topology.DriveID) *metadata.ManifestMember {
	for i := range row.Members {
		if row.Members[i].Drive == drive {
			return &row.Members[i]
		}
	}
	return nil
}

// drive looks at all manifests of one drive.
func (s *scan) drive(ctx context.Context, drive topology.DriveID) error {
	w := &rewriter{s: s, drive: drive, open: make(map[metadata.BucketID]*rebuilt)}
	err := s.readDrive(ctx, drive, w)
	s.stones.read(drive, err, &w.unopened)
	if err != nil || s.reads {
		return err
	}
	return s.left(ctx, drive, w)
}

// readDrive looks at all manifests of one drive. What was freed there before
// must be gone for good, or a tombstone might be dropped that is needed.
func (s *scan) readDrive(ctx context.Context, drive topology.DriveID, w *rewriter) error {
	if !s.k.o.Drives.Readable(drive) {
		return metadata.ErrDriveAbsent
	}
	if err := s.k.o.Drives.Settle(ctx, drive); err != nil {
		return fmt.Errorf("make durable what was freed: %w", err)
	}
	var stop error
	err := s.k.o.Drives.Records(ctx, drive, metadata.RecordManifest, func(rec *metadata.Record, payload []byte) error {
		if stop = s.k.o.Limit(ctx, int64(len(payload))); stop == nil {
			stop = s.record(ctx, w, rec, payload)
		}
		return stop
	})
	if stop == nil {
		stop = w.finish(ctx)
	}
	if stop != nil {
		return stop
	}
	if errors.Is(err, metadata.ErrCorrupt) {
		err = errors.Join(err, s.refill(ctx, drive))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return nil
}

// record looks at one record.
func (s *scan) record(ctx context.Context, w *rewriter, rec *metadata.Record, payload []byte) error {
	if rec.PG == metadata.RootGroup || rec.PG >= groupCount {
		s.k.unopened.Add(1)
		return nil // of a later version of the program
	}
	w.seen[rec.PG]++
	b, err := s.k.bucket(ctx, rec.Bucket)
	if errors.Is(err, metadata.ErrNoSuchBucket) && s.reads {
		return nil
	}
	if errors.Is(err, metadata.ErrNoSuchBucket) {
		return w.condemn(ctx, rec.PG, rec.Ref(), 0) // the bucket's deletion has a record of its own
	}
	if err != nil {
		return err
	}
	entries, err := manifest.Open(&b.Bucket, rec.Shard.Chunk, payload)
	if err != nil {
		// Nobody can make anything of it, and somebody may want to know why.
		s.k.unopened.Add(1)
		s.k.failed(ctx, "manifest not opened", err, "drive", w.drive.String(), "record", rec.Shard.Chunk.String())
		s.groups[rec.PG].missed, w.unopened[rec.PG] = true, true
		return nil
	}
	live, order, err := s.judge(ctx, rec.PG, b, entries)
	if err == nil {
		err = s.stones.take(ctx, b, rec.PG, entries, live)
	}
	if err != nil || s.reads {
		return err
	}
	g := &s.groups[rec.PG]
	if m := memberOf(g.row, w.drive); m == nil || m.State == metadata.MemberLeaving || uint64(rec.Generation) < m.Since {
		if !g.whole {
			s.kept += int64(len(payload))
			return nil
		}
		// Others hold the versions. Tombstones are not in the state that they
		// were filled from: each stays where it is for as long as it counts.
		for i := range live {
			live[i] = live[i] && entries[i].Kind == manifest.KindTombstone
		}
	}
	return w.decide(ctx, b, rec, payload, entries, live, order)
}

// left takes a drive that leaves, and on which nothing was found, out of the
// rows.
func (s *scan) left(ctx context.Context, drive topology.DriveID, w *rewriter) error {
	for id := uint32(1); id < groupCount; id++ {
		m := memberOf(s.groups[id].row, drive)
		if m == nil || m.State != metadata.MemberLeaving || w.seen[id] > 0 || !s.groups[id].whole || s.hung {
			continue
		}
		if err := s.k.groups[id].change(ctx, m, func(row *metadata.ManifestMembers, i int) {
			row.Members = slices.Delete(row.Members, i, i+1)
		}); err != nil && !errors.Is(err, errMembersChanged) {
			return err
		}
	}
	return nil
}

// refill has a drive filled anew that has lost manifests, once in the life of
// the process: what is damaged may stay for longer than that.
func (s *scan) refill(ctx context.Context, drive topology.DriveID) error {
	p := &s.k.pass
	if p.refilled[drive] {
		return nil
	}
	if p.refilled == nil {
		p.refilled = make(map[topology.DriveID]bool)
	}
	p.refilled[drive] = true
	for id := uint32(1); id < groupCount; id++ {
		m := memberOf(s.groups[id].row, drive)
		if m == nil || m.State != metadata.MemberFull {
			continue
		}
		if err := s.k.groups[id].change(ctx, m, func(row *metadata.ManifestMembers, i int) {
			row.Members[i] = metadata.ManifestMember{Drive: drive, State: metadata.MemberFilling, Since: row.Version}
		}); err != nil && !errors.Is(err, errMembersChanged) {
			return err
		}
	}
	return nil
}
