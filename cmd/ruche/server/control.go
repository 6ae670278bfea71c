package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

const (
	pageLimit = 1000
	// maxShortRows bounds how much of the short index a status reads.
	maxShortRows = 100_000
)

// control answers the admin API for a process. It only asks the parts; it is
// safe for concurrent use.
type control struct {
	p       *process
	metrics http.Handler
	// backingUp is held while a backup of the metadata is written: one at a
	// time.
	backingUp sync.Mutex
}

func (c *control) handler() http.Handler {
	p := c.p
	return admin.New(admin.Options{
		Cluster: c, Drives: c, Scrubs: c, Keys: p.keys, Keyrings: p.ring, Buckets: c, Copies: c, Backups: c, Health: c,
		Metrics: c.metrics, OpenMetrics: isLoopback(p.net.admin.Addr()), MetricsToken: p.c.MetricsToken, Profiling: p.c.Profiling,
		Lookup: p.keys.lookup, Now: p.Now, Log: p.Log.With("part", "admin"),
	})
}

// Ready implements admin.HealthCheck. The metadata must answer: without a
// majority of its copies every request fails, reads too. It is given
// [statusPatience] to do so, which bridges most changes of the leader.
func (c *control) Ready(ctx context.Context) error {
	if c.p.stopping.Load() {
		return errors.New("stopping")
	}
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	if _, err := c.p.meta.PGs(ctx); err != nil {
		return fmt.Errorf("the metadata does not answer: %w", err)
	}
	return nil
}

// Writable implements admin.HealthCheck.
func (c *control) Writable(ctx context.Context, maintenance bool) error {
	s, err := c.safety(ctx)
	switch {
	case err != nil:
		return err
	case !s.Writable:
		return errors.New("too few drives take writes")
	case maintenance && s.MayLose < 1:
		return errors.New("no drive can be spared")
	}
	return nil
}

// Status implements admin.Cluster.
func (c *control) Status(ctx context.Context) (*admin.Status, error) {
	p := c.p
	s := &admin.Status{
		Version: p.Version, Cluster: p.id.Cluster.String(), Started: p.started.UTC(),
		Uptime: admin.Seconds(p.Now().Sub(p.started) / time.Second),
		Scheme: p.id.Scheme, Encryption: p.id.Encryption, Endpoints: p.net.endpoints(p.c),
	}
	copies, err := c.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	if s.Metadata = *copies; copies.Healthy < copies.Quorum {
		for _, d := range p.node.Status() {
			s.Drives = append(s.Drives, describe(d))
		}
		slices.SortFunc(s.Drives, func(a, b admin.Drive) int { return cmp.Compare(a.Path, b.Path) })
		admin.JudgeUnserved(s, p.dir)
		return s, nil
	}
	return s, unavailable(c.fillStatus(ctx, s))
}

// fillStatus asks the metadata and all parts.
func (c *control) fillStatus(ctx context.Context, s *admin.Status) (err error) {
	p := c.p
	if s.Drives, err = c.Drives(ctx); err != nil {
		return err
	}
	if s.Usage, err = c.usage(ctx); err != nil {
		return err
	}
	repair, err := c.Repair(ctx)
	if err != nil {
		return err
	}
	scrub, err := c.Scrub(ctx)
	if err != nil {
		return err
	}
	safety, err := c.safety(ctx)
	if err != nil {
		return err
	}
	ring, err := p.ring.Keyring(ctx)
	if err != nil {
		return err
	}
	s.Repair, s.Scrub, s.Safety = *repair, *scrub, *safety
	s.Safety.BackInSeconds, s.Safety.Unrepairable = repair.ETA, int64(len(repair.Unrepairable))
	admin.Judge(s, admin.Circumstances{
		KeyringVerified: !ring.Verified.IsZero(), OnDriveLossRefuses: p.c.OnDriveLoss == "refuse",
		MetadataFull: p.meta.Metrics().Full, StateDir: p.dir, PlainUntilRestart: p.stateIsPlain(), PlainFiles: p.plain.left.Load(),
	})
	return nil
}

// Drives implements admin.Drives. It lists those of the drive table that are
// not retired.
func (c *control) Drives(ctx context.Context) ([]admin.Drive, error) {
	p := c.p
	table, err := p.meta.Drives(ctx)
	if err != nil {
		return nil, fmt.Errorf("drive table: %w", err)
	}
	pgs, err := p.meta.PGs(ctx)
	if err != nil {
		return nil, fmt.Errorf("placement groups: %w", err)
	}
	moving := movingMembers(pgs)
	status := make(map[topology.DriveID]node.DriveStatus)
	for _, s := range p.node.Status() {
		status[s.ID] = s
	}
	rebuilt := make(map[topology.DriveID]float64)
	for _, r := range p.eng.RebuildState().Drives {
		if r.Counted && r.Chunks > 0 {
			rebuilt[r.Drive] = 100 * float64(r.ChunksDone) / float64(r.Chunks)
		}
	}
	slow := p.eng.State().Suspects
	var out []admin.Drive
	for _, d := range table.Drives {
		if d.State == topology.DriveRetired {
			continue
		}
		s, open := status[d.ID]
		if !open && d.State == topology.DriveDraining {
			continue // another drive has its place
		}
		if !open {
			path := p.lastPath(d.ID)
			out = append(out, admin.Drive{ID: d.ID.String(), Path: path, State: admin.DriveAbsent, Reason: p.whyAway(path), CapacityBytes: d.CapacityBytes})
			continue
		}
		one := describe(s)
		if one.State == admin.DriveOK && slices.Contains(slow, d.ID) {
			one.State = admin.DriveSlow
		}
		if n := moving[d.ID]; n > 0 && one.State == admin.DriveOK {
			one.State, one.RebuildPercent = admin.DriveRebuilding, rebuilt[d.ID]
		}
		if d.State == topology.DriveDraining {
			one.State = admin.DriveDraining
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b admin.Drive) int { return cmp.Or(comparePaths(a.Path, b.Path), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

// comparePaths orders d2 before d10.
func comparePaths(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

func describe(s node.DriveStatus) admin.Drive {
	d := admin.Drive{
		ID: s.ID.String(), Path: s.Path, State: admin.DriveOK, Reason: s.LastError,
		CapacityBytes: s.CapacityBytes, UsedBytes: s.UsedBytes, FreeBytes: s.FreeBytes, LiveBytes: s.LiveBytes,
		Shards: s.Shards, Segments: int64(s.Segments), Errors: s.Scrub.Bad,
	}
	switch s.State {
	case node.StateFull:
		d.State = admin.DriveFull
	case node.StateFenced:
		d.State = admin.DriveFenced
	}
	return d
}

// lastPath is where a drive was last seen.
func (p *process) lastPath(id topology.DriveID) string {
	p.idMu.Lock()
	defer p.idMu.Unlock()
	return p.id.pathOf(id)
}

// whyAway says why the drive at path was not opened at the start.
func (p *process) whyAway(path string) string {
	for _, r := range p.away {
		if r.Path == path {
			return r.Err.Error()
		}
	}
	return "not seen since the start"
}

// Repair implements admin.Cluster.
func (c *control) Repair(ctx context.Context) (*admin.Repair, error) {
	off := c.p.eng.CollectState().Off // as of its last round
	if i, err := c.p.meta.Incarnation(ctx); err == nil {
		off = !i.Frees()
	}
	cause := admin.OffCause("")
	if off {
		c.p.idMu.Lock()
		cause = cmp.Or(c.p.id.CollectionOff, admin.OffOlder)
		c.p.idMu.Unlock()
	}
	repair, rebuild := c.p.eng.RepairState(), c.p.eng.RebuildState()
	out := &admin.Repair{
		QueuedChunks: int64(repair.Queued + repair.Running), RepairedTotal: int64(repair.Chunks),
		BytesPerSec: repair.BytesPerSecond + rebuild.BytesPerSecond, More: repair.More,
		ETA: admin.Seconds(repair.ETA / time.Second), CollectionOff: off, OffCause: cause,
		LastErrors: append(repair.LastErrors, rebuild.LastErrors...),
	}
	for _, d := range rebuild.Drives {
		out.Rebuilding = append(out.Rebuilding, admin.RebuildItem{Drive: d.Drive.String(), Path: c.p.lastPath(d.Drive), Done: d.ChunksDone, Total: d.Chunks, Counted: d.Counted})
		out.DoneShards += d.ChunksDone
		out.TotalShards += d.Chunks
		out.ETA = max(out.ETA, admin.Seconds(d.ETA/time.Second))
	}
	for _, u := range repair.Unrepairable {
		out.Unrepairable = append(out.Unrepairable, admin.BadChunk{Bucket: u.Name, Key: u.Key, Chunk: u.Chunk.String(), Reason: u.Reason})
	}
	return out, nil
}

// ResumeCollection implements admin.Cluster.
func (c *control) ResumeCollection(ctx context.Context) error {
	i, err := c.p.meta.Incarnation(ctx)
	if err != nil {
		return err
	}
	i.Collection = true
	_, err = commitRoot(ctx, c.p.meta, c.p.eng, &metadata.Command{Kind: metadata.KindPutIncarnation, Incarnation: &i})
	return err
}

// StartScrub implements admin.Scrubs.
func (c *control) StartScrub(context.Context) error {
	var errs []error
	drives := c.p.node.Drives()
	for _, d := range drives {
		if err := d.StartScrub(); err != nil {
			errs = append(errs, fmt.Errorf("drive %s: %w", d.Path(), err))
		}
	}
	if len(errs) == len(drives) {
		return errors.Join(errs...)
	}
	for _, err := range errs {
		c.p.Log.Warn("scrub not started", "err", err)
	}
	return nil
}

// Scrub implements admin.Scrubs.
func (c *control) Scrub(context.Context) (*admin.Scrub, error) {
	out := &admin.Scrub{BytesPerSecond: int64(c.p.c.ScrubRate), Drives: []admin.DriveScrub{}}
	for _, s := range c.p.node.Status() {
		running := s.Scrub.State == node.ScrubRunning
		out.Running = out.Running || running
		out.Drives = append(out.Drives, admin.DriveScrub{
			Drive: s.ID.String(), Path: s.Path, Running: running, DoneBytes: s.Scrub.Bytes, TotalBytes: s.Scrub.Total,
			BadShards: s.Scrub.Bad, Passes: int64(s.Scrub.Pass), LastFinished: s.Scrub.Finished,
		})
	}
	slices.SortFunc(out.Drives, func(a, b admin.DriveScrub) int { return comparePaths(a.Path, b.Path) })
	return out, nil
}
