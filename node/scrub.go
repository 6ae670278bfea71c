package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/node/segment"
)

// ScrubState says what the scrubber of a drive does.
type ScrubState string

const (
	ScrubIdle    ScrubState = "idle"    // the last pass is done, the next not due
	ScrubRunning ScrubState = "running" // a pass is under way
	ScrubPaused  ScrubState = "paused"  // a pass was begun and waits for a start
)

// ScrubStatus is the progress of a drive's scrubber.
type ScrubStatus struct {
	State    ScrubState
	Pass     uint64    // number of the pass under way or done last; 0 before the first
	Started  time.Time // when that pass began; zero before the first
	Finished time.Time // when the last whole pass ended; zero before the first
	Records  int64     // read in this pass
	Bytes    int64     // read in this pass
	Total    int64     // bytes of all records at the beginning of the pass
	Bad      int64     // records found bad in this pass
}

// suspectPasses: at the beginning of every fourth pass all rows become pending,
// so that what nothing refers to any more is found even if a delete was missed.
const suspectPasses = 4

// scrubber reads every record of a drive, in the order in which they lie, and
// tells which are bad. It changes nothing but pending marks.
type scrubber struct {
	drive *Drive
	wake  chan struct{}

	mu     sync.Mutex
	status ScrubStatus
	at     place // the next file to read: dir and segment

	debt float64 // bytes read ahead of the rate; only run uses it
}

func (s *scrubber) init(d *Drive) {
	s.drive = d
	s.wake = make(chan struct{}, 1)
	s.status.State = ScrubIdle
}

// StartScrub begins a pass, or goes on with one that was paused.
func (d *Drive) StartScrub() error {
	if err := d.usable(); err != nil {
		return err
	}
	s := &d.scrubber
	s.mu.Lock()
	if s.status.State == ScrubIdle {
		s.begin()
	}
	s.status.State = ScrubRunning
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// PauseScrub halts a pass that is under way.
func (d *Drive) PauseScrub() {
	s := &d.scrubber
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.State == ScrubRunning {
		s.status.State = ScrubPaused
	}
}

// begin sets up a new pass. The caller holds mu.
func (s *scrubber) begin() {
	s.status = ScrubStatus{
		State: ScrubRunning, Pass: s.status.Pass + 1, Finished: s.status.Finished,
		Started: s.drive.opts.Clock.Now(), Total: s.drive.index.snapshotTotals().Bytes,
	}
	s.at = place{}
}

// Status returns the progress.
func (s *scrubber) snapshot() ScrubStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

func (s *scrubber) running() bool { return s.snapshot().State == ScrubRunning }

// run scrubs whenever a pass is due or asked for, until ctx ends.
func (s *scrubber) run(ctx context.Context) {
	if err := s.load(); err != nil {
		s.drive.log.Warn("scrub progress not read", "err", err)
	}
	for {
		if !s.running() && !s.startIfDue() {
			select {
			case <-ctx.Done():
				return
			case <-s.drive.fenced:
				return
			case <-s.wake:
			case <-s.nextDue():
			}
			continue
		}
		if err := s.pass(ctx); err != nil {
			if ctx.Err() != nil || s.drive.isFenced() {
				return
			}
			s.drive.errs.set(err)
			s.drive.log.Warn("scrub interrupted", "err", err)
			s.drive.PauseScrub()
		}
	}
}

// startIfDue begins a pass if the interval has passed.
func (s *scrubber) startIfDue() bool {
	interval := s.drive.opts.ScrubInterval
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.State != ScrubIdle || interval < 0 {
		return false
	}
	if s.status.Pass > 0 && s.drive.opts.Clock.Now().Sub(s.status.Started) < interval {
		return false
	}
	s.begin()
	return true
}

// nextDue returns a channel that receives when it is worth looking again.
func (s *scrubber) nextDue() <-chan time.Time {
	if s.drive.opts.ScrubInterval < 0 || s.snapshot().State == ScrubPaused {
		return nil
	}
	return s.drive.opts.Clock.After(min(s.drive.opts.ScrubInterval, time.Hour))
}

// pass reads from where the pass is to the end of the drive.
func (s *scrubber) pass(ctx context.Context) error {
	d := s.drive
	s.mu.Lock()
	from, number := s.at, s.status.Pass
	s.mu.Unlock()
	if from == (place{}) {
		if number%suspectPasses == 0 {
			if err := d.Suspect(ctx, nil); err != nil {
				return err
			}
		}
		if err := s.findLost(ctx); err != nil {
			return err
		}
	}
	dirs, err := d.listDirs(from.dir)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		ids, err := d.listDir(dir)
		if err != nil && !oserror.IsNotExist(err) {
			return err
		}
		for _, id := range ids {
			if dir == from.dir && bytes.Compare(id[:], from.segment[:]) < 0 {
				continue
			}
			if !s.running() {
				return s.save()
			}
			if err := s.file(ctx, dir, id); err != nil {
				return err
			}
			s.mu.Lock()
			s.at = place{dir: dir}
			binary.BigEndian.PutUint64(s.at.segment[:], binary.BigEndian.Uint64(id[:])+1)
			s.mu.Unlock()
			if err := s.save(); err != nil {
				return err
			}
		}
	}
	s.mu.Lock()
	s.status.State, s.status.Finished, s.at = ScrubIdle, d.opts.Clock.Now(), place{}
	s.mu.Unlock()
	return s.save()
}

// listDirs returns the numbered directories from first on, in order.
func (d *Drive) listDirs(first uint32) ([]uint32, error) {
	names, err := d.fs.List(d.layout.path)
	if err != nil {
		return nil, err
	}
	var dirs []uint32
	for _, name := range names {
		if n, ok := parseDir(name); ok && n >= first {
			dirs = append(dirs, n)
		}
	}
	slices.Sort(dirs)
	return dirs, nil
}

// findLost tells which rows point to files that are not there.
func (s *scrubber) findLost(ctx context.Context) error {
	d := s.drive
	present := map[segment.ID]bool{}
	dirs, err := d.listDirs(0)
	if err != nil {
		return err
	}
	from := []byte{tableShard}
	for from != nil {
		if err := d.readable(ctx); err != nil {
			return err
		}
		rows, next, err := d.index.pageOfRecords(from, []byte{tableShard + 1})
		if err != nil {
			return d.indexReadFailed(err)
		}
		if len(present) == 0 { // after the first page: what is newer is there
			for _, dir := range dirs {
				ids, err := d.listDir(dir)
				if err != nil && !oserror.IsNotExist(err) {
					return err
				}
				for _, id := range ids {
					present[id] = true
				}
			}
		}
		for i := range rows {
			if !present[rows[i].segment] {
				s.check(&rows[i])
			}
		}
		from = next
	}
	return nil
}

// file reads all records of one file that have rows.
func (s *scrubber) file(ctx context.Context, dir uint32, id segment.ID) error {
	d := s.drive
	d.segMu.Lock()
	info := d.segments[id]
	shared := info != nil
	if shared && (!info.sealed || info.moving) {
		d.segMu.Unlock()
		return nil // being written: the next pass reads it
	}
	var copied segmentInfo
	if shared {
		copied = *info
	}
	d.segMu.Unlock()
	var rows []row
	var err error
	if shared {
		rows, err = d.rowsOfSegment(id, &copied)
	} else {
		rows, err = d.rowsOfOwn(dir, id)
	}
	if err != nil {
		return err
	}
	for i := range rows {
		if err := s.throttle(ctx, rows[i].entry.Bytes); err != nil {
			return err
		}
		s.check(&rows[i])
	}
	return nil
}

// rowsOfOwn returns the row of a large shard's file, none if it has none.
func (d *Drive) rowsOfOwn(dir uint32, id segment.ID) ([]row, error) {
	v, err := d.index.get(fileKey(tableOwnFile, dir, id))
	if err != nil {
		return nil, d.indexReadFailed(err)
	}
	if len(v) != refKeyBytes-1 {
		return nil, nil
	}
	rows, err := d.index.lookup(parseRef(v))
	if err != nil {
		return nil, d.indexReadFailed(err)
	}
	return slices.DeleteFunc(rows, func(r row) bool { return r.segment != id }), nil
}

// check reads one record and tells if it is bad.
func (s *scrubber) check(r *row) {
	d := s.drive
	before := d.drops.Load()
	err := d.verifyRow(r)
	if err != nil && d.drops.Load() != before {
		if found, lookupErr := d.index.has(r.key()); lookupErr != nil || !found {
			return // freed or moved meanwhile
		}
	}
	if errors.Is(err, segment.ErrVoid) && r.entry.Record.Type != metadata.RecordShard {
		return // freed before a crash that has brought the row back
	}
	s.mu.Lock()
	s.status.Records++
	s.status.Bytes += r.entry.Bytes
	if err != nil {
		s.status.Bad++
	}
	s.mu.Unlock()
	if err == nil {
		return
	}
	d.log.Warn("bad record found", "shard", r.ref().Shard, "file", fileName(r.dir, r.segment), "err", err)
	if d.opts.fsck.bad != nil {
		d.opts.fsck.bad(BadRecord{r.entry.Record, err})
	}
	if d.opts.OnBadShard != nil && r.entry.Record.Type == metadata.RecordShard && !d.isFenced() {
		d.opts.OnBadShard(BadShard{Drive: d.ID(), Shard: stored(r), Err: err})
	}
}

// throttle waits until so many bytes more may be read.
func (s *scrubber) throttle(ctx context.Context, n int64) error {
	if err := s.drive.readable(ctx); err != nil {
		return err
	}
	rate := s.drive.opts.ScrubBytesPerSecond
	if rate < 0 {
		return nil
	}
	s.debt += float64(n)
	const step = 50 * time.Millisecond
	if s.debt < float64(rate)*step.Seconds() {
		return nil
	}
	wait := time.Duration(s.debt / float64(rate) * float64(time.Second))
	s.debt = 0
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.drive.fenced:
		return s.drive.fencedError()
	case <-s.drive.opts.Clock.After(wait):
		return nil
	}
}

// save keeps the progress in the index, from where it outlives a restart.
func (s *scrubber) save() error {
	s.mu.Lock()
	st, at := s.status, s.at
	s.mu.Unlock()
	v := []byte{1, byte(slices.Index(scrubStates(), st.State))}
	for _, n := range []int64{int64(st.Pass), unixSeconds(st.Started), unixSeconds(st.Finished), st.Records, st.Bytes, st.Total, st.Bad} {
		v = binary.AppendVarint(v, n)
	}
	v = appendFileKey(v, at.dir, at.segment)
	err := s.drive.index.apply(func(b *pebble.Batch, _ *totals) error { return b.Set(metaScrub, v, nil) })
	if err != nil {
		return s.drive.indexFailed(err)
	}
	return nil
}

// load reads the progress. A pass that was running goes on.
func (s *scrubber) load() error {
	v, err := s.drive.index.get(metaScrub)
	if err != nil || v == nil {
		return err
	}
	states := scrubStates()
	if len(v) < 2 || v[0] != 1 || int(v[1]) >= len(states) {
		return fmt.Errorf("node: scrub progress: %w", metadata.ErrCorrupt)
	}
	st := ScrubStatus{State: states[v[1]]}
	v = v[2:]
	var n [7]int64
	for i := range n {
		value, length := binary.Varint(v)
		if length <= 0 {
			return fmt.Errorf("node: scrub progress: %w", metadata.ErrCorrupt)
		}
		n[i], v = value, v[length:]
	}
	if len(v) != 20 {
		return fmt.Errorf("node: scrub progress: %w", metadata.ErrCorrupt)
	}
	st.Pass, st.Started, st.Finished = uint64(n[0]), fromUnix(n[1]), fromUnix(n[2])
	st.Records, st.Bytes, st.Total, st.Bad = n[3], n[4], n[5], n[6]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Pass > 0 {
		return nil // somebody was faster to start one
	}
	s.status, s.at = st, place{dir: binary.BigEndian.Uint32(v), segment: segment.ID(v[4:])}
	return nil
}

// scrubStates are the states in the order in which they are stored.
func scrubStates() []ScrubState { return []ScrubState{ScrubIdle, ScrubRunning, ScrubPaused} }

func unixSeconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func fromUnix(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0)
}

// Age is how long ago the last whole pass ended, and false if there was none.
func (s ScrubStatus) Age(now time.Time) (time.Duration, bool) {
	return now.Sub(s.Finished), !s.Finished.IsZero()
}

// keyringName reports whether name is that of a small file, and its version.
func keyringName(name string) (version uint64, ok bool) {
	const prefix = "keyring.sealed."
	if len(name) <= len(prefix) || name[:len(prefix)] != prefix {
		return 0, false
	}
	version, err := strconv.ParseUint(name[len(prefix):], 10, 64)
	return version, err == nil && prefix+strconv.FormatUint(version, 10) == name
}

// errSmallFile says that a name or length is not that of a small file.
var errSmallFile = errors.New("node: small files are called keyring.sealed.<version> and hold at most 1 MiB")
