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
	"github.com/ruche-storage/ruche/gateway/object"
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

// conditionAge is how old what the engine is told of drives may be. Asking a
// drive costs some microseconds, and the engine asks for every chunk.
const conditionAge = 100 * time.Millisecond

// conditions tells the engine how drives are. It is safe for concurrent use.
type conditions struct {
	ask func() map[topology.DriveID]object.Condition
	now func() time.Time

	// mu guards known, what was true at the time asked, if fresh.
	mu    sync.Mutex
	known map[topology.DriveID]object.Condition
	asked time.Time
	fresh bool
}

// Condition implements object.Drives.
func (c *conditions) Condition(id topology.DriveID) object.Condition {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if age := now.Sub(c.asked); !c.fresh || age < 0 || age > conditionAge {
		c.known, c.asked, c.fresh = c.ask(), now, true
	}
	return c.known[id]
}

// forget has the next question asked anew: a drive has come or gone.
func (c *conditions) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fresh = false
}

func conditionsOf(n *node.Node) map[topology.DriveID]object.Condition {
	out := make(map[topology.DriveID]object.Condition)
	for _, s := range n.Status() {
		switch s.State {
		case node.StateOnline:
			out[s.ID] = object.Condition{Readable: true, Writable: true, FreeBytes: s.FreeBytes, Queue: s.QueueRecords}
		case node.StateFull:
			out[s.ID] = object.Condition{Readable: true}
		}
	}
	return out
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

// movingMembers counts, for each drive, the groups where it does not hold
// everything yet.
func movingMembers(t *metadata.PGTable) map[topology.DriveID]int {
	out := make(map[topology.DriveID]int)
	for i := range t.Groups {
		for _, g := range movers(&t.Groups[i]) {
			out[g]++
		}
	}
	return out
}

// movers are the members of a group that do not hold everything yet.
func movers(pg *metadata.PG) (out []topology.DriveID) {
	for i, member := range pg.Newest().Members {
		if g := cameWith(pg, i, len(pg.Generations)-1); pg.Generations[g].Moving && g > 0 {
			out = append(out, member)
		}
	}
	return out
}

// cameWith returns the generation with which member i of generation g came in,
// the first one there is if it was there already.
func cameWith(pg *metadata.PG, i, g int) int {
	for g > 0 && pg.Generations[g-1].Members[i] == pg.Generations[g].Members[i] {
		g--
	}
	return g
}

// whole reports whether all that member i should hold can be read: what was
// written since a drive came in is there, what was written before is on those
// before it, back to one that has everything of its time.
func whole(pg *metadata.PG, i int, drives object.Drives) bool {
	for g := len(pg.Generations) - 1; ; g-- {
		if !drives.Condition(pg.Generations[g].Members[i]).Readable {
			return false
		}
		if g = cameWith(pg, i, g); g == 0 || !pg.Generations[g].Moving {
			return true
		}
	}
}

// Repair implements admin.Cluster.
func (c *control) Repair(ctx context.Context) (*admin.Repair, error) {
	off := c.p.eng.CollectState().Off // as of its last round
	if i, err := c.p.meta.Incarnation(ctx); err == nil {
		off = !i.Frees()
	}
	repair, rebuild := c.p.eng.RepairState(), c.p.eng.RebuildState()
	out := &admin.Repair{
		QueuedChunks: int64(repair.Queued + repair.Running), RepairedTotal: int64(repair.Chunks),
		BytesPerSec: repair.BytesPerSecond + rebuild.BytesPerSecond, More: repair.More,
		ETA: admin.Seconds(repair.ETA / time.Second), CollectionOff: off,
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

// safety is what may still be lost, by the groups' members and by the chunks
// that are known to be short.
func (c *control) safety(ctx context.Context) (*admin.Safety, error) {
	p := c.p
	pgs, err := p.meta.PGs(ctx)
	if err != nil {
		return nil, fmt.Errorf("placement groups: %w", err)
	}
	s := safetyOf(pgs, p.conditions, p.c.OnDriveLoss == "degrade")
	for group := uint32(1); group <= metadata.DataGroups; group++ {
		var after *metadata.Short
		for s.ShortChunks < maxShortRows {
			rows, err := p.meta.Short(ctx, group, after, pageLimit)
			if err != nil {
				return nil, fmt.Errorf("short chunks: %w", err)
			}
			for _, r := range rows {
				s.ShortChunks++
				s.LeastMargin = min(s.LeastMargin, int(r.Margin))
			}
			if len(rows) < pageLimit {
				break
			}
			after = &rows[len(rows)-1]
		}
	}
	s.MayLose = max(0, min(s.MayLose, s.LeastMargin))
	return s, nil
}

// safetyOf looks at groups only. A member that does not hold everything yet
// counts as lost while the one it replaced is away.
func safetyOf(t *metadata.PGTable, drives object.Drives, degrade bool) *admin.Safety {
	s := &admin.Safety{}
	if len(t.Groups) == 0 {
		return s
	}
	s.Parity = int(t.Groups[0].Scheme.Parity)
	s.MayLose = s.Parity
	away := make(map[topology.DriveID]bool)
	for i := range t.Groups {
		pg := &t.Groups[i]
		late := movers(pg)
		lost, writable := 0, 0
		for j, member := range pg.Newest().Members {
			condition := drives.Condition(member)
			if condition.Writable {
				writable++
			}
			if !whole(pg, j, drives) {
				lost++
			}
			if !condition.Readable || slices.Contains(late, member) {
				away[member] = true
			}
		}
		s.MayLose = min(s.MayLose, int(pg.Scheme.Parity)-lost)
		need := min(pg.Scheme.Total(), int(pg.Scheme.Data)+1)
		if degrade && pg.Scheme.Parity == 1 {
			need = int(pg.Scheme.Data)
		}
		s.Writable = s.Writable || writable >= need
	}
	s.Away, s.LeastMargin = len(away), s.MayLose
	return s
}

// usage sums what all buckets hold.
func (c *control) usage(ctx context.Context) (admin.Usage, error) {
	var sum admin.Usage
	err := c.eachBucket(ctx, func(_ *metadata.Bucket, u admin.Usage) error {
		sum.Buckets++
		sum.Objects += u.Objects
		sum.Versions += u.Versions
		sum.Uploads += u.Uploads
		sum.LogicalBytes += u.LogicalBytes
		sum.StoredBytes += u.StoredBytes
		sum.UploadBytes += u.UploadBytes
		return nil
	})
	return sum, err
}

func (c *control) eachBucket(ctx context.Context, yield func(*metadata.Bucket, admin.Usage) error) error {
	after := ""
	for {
		rows, err := c.p.meta.Buckets(ctx, "", after, pageLimit)
		if err != nil {
			return fmt.Errorf("buckets: %w", err)
		}
		for i := range rows {
			row := &rows[i]
			after = row.Name
			if row.State != metadata.BucketLive {
				continue
			}
			u, err := c.p.meta.Usage(ctx, metadata.BucketRef{Group: row.Group, ID: row.ID})
			if errors.Is(err, metadata.ErrNoSuchBucket) {
				continue // deleted meanwhile
			}
			if err != nil {
				return fmt.Errorf("usage of bucket %s: %w", row.Name, err)
			}
			if err := yield(row, admin.Usage{Buckets: 1, Objects: u.Objects, Versions: u.Versions, Uploads: u.Uploads,
				LogicalBytes: u.Bytes, StoredBytes: u.StoredBytes, UploadBytes: u.UploadBytes}); err != nil {
				return err
			}
		}
		if len(rows) < pageLimit {
			return nil
		}
	}
}

// compressions are the names of ways of compression.
var compressions = map[metadata.Compression]string{
	metadata.CompressionOff: "off", metadata.CompressionZstd: "zstd", metadata.CompressionS2: "s2",
}

// Buckets implements admin.Buckets.
func (c *control) Buckets(ctx context.Context) ([]admin.Bucket, error) {
	out := []admin.Bucket{}
	err := c.eachBucket(ctx, func(row *metadata.Bucket, u admin.Usage) error {
		settings, err := c.p.meta.Settings(ctx, metadata.BucketRef{Group: row.Group, ID: row.ID})
		if errors.Is(err, metadata.ErrNoSuchBucket) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("settings of bucket %s: %w", row.Name, err)
		}
		out = append(out, admin.Bucket{Name: row.Name, Created: time.UnixMicro(int64(row.Order)).UTC(), Compression: compressions[settings.Compression], Usage: u})
		return nil
	})
	return out, err
}

// SetBucket implements admin.Buckets.
func (c *control) SetBucket(ctx context.Context, name string, req *admin.SetBucketRequest) (*admin.Bucket, error) {
	if req.Compression != nil {
		way, ok := compressionNamed(*req.Compression)
		if !ok {
			return nil, &admin.Error{Status: http.StatusBadRequest, Code: admin.CodeBadRequest, Message: fmt.Sprintf("compression %q is none of zstd, s2 and off", *req.Compression)}
		}
		if err := c.p.eng.SetCompression(ctx, name, way); err != nil {
			return nil, bucketError(name, err)
		}
	}
	info, err := c.p.eng.Bucket(ctx, name)
	if err != nil {
		return nil, bucketError(name, err)
	}
	way, err := c.p.eng.Compression(ctx, name)
	if err != nil {
		return nil, bucketError(name, err)
	}
	u, err := c.p.eng.Usage(ctx, name)
	if err != nil {
		return nil, bucketError(name, err)
	}
	return &admin.Bucket{Name: name, Created: info.Created, Compression: compressions[way], Usage: admin.Usage{
		Buckets: 1, Objects: u.Objects, Versions: u.Versions, Uploads: u.Uploads,
		LogicalBytes: u.Bytes, StoredBytes: u.StoredBytes, UploadBytes: u.UploadBytes,
	}}, nil
}

func compressionNamed(name string) (metadata.Compression, bool) {
	for way, known := range compressions {
		if known == name {
			return way, true
		}
	}
	return 0, false
}

func bucketError(name string, err error) error {
	if errors.Is(err, metadata.ErrNoSuchBucket) {
		return &admin.Error{Status: http.StatusNotFound, Code: admin.CodeNotFound, Message: "there is no bucket " + name}
	}
	return err
}
