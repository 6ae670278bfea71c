package simtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ruche-storage/ruche/erasure/shardhash"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// skipping has steps answered as if they had been done.
func skipping(at *site, match func(*step) bool) {
	before := at.hooks.before
	at.hooks.before = func(s *step) error {
		if err := before(s); err != nil {
			return err
		}
		if match(s) {
			return errSkipped
		}
		return nil
	}
}

func named(name string) func(*site) {
	return func(at *site) { skipping(at, func(s *step) bool { return s.name() == name }) }
}

// mutantMetadata stands between the engine and the metadata. Functions that are
// nil do nothing.
type mutantMetadata struct {
	object.Metadata
	commit func(ctx context.Context, m object.Metadata, cmd *metadata.Command) (*metadata.Result, error)
	lookup func(res *metadata.LookupResult)
	pgs    func(t *metadata.PGTable)
	list   func(res *metadata.ListResult)
}

func (m *mutantMetadata) Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error) {
	if m.commit == nil {
		return m.Metadata.Commit(ctx, cmd)
	}
	return m.commit(ctx, m.Metadata, cmd)
}

func (m *mutantMetadata) Lookup(ctx context.Context, group uint32, refs []metadata.LookupRef) (*metadata.LookupResult, error) {
	res, err := m.Metadata.Lookup(ctx, group, refs)
	if err == nil && m.lookup != nil {
		m.lookup(res)
	}
	return res, err
}

func (m *mutantMetadata) PGs(ctx context.Context) (*metadata.PGTable, error) {
	t, err := m.Metadata.PGs(ctx)
	if err == nil && m.pgs != nil {
		m.pgs(t)
	}
	return t, err
}

func (m *mutantMetadata) List(ctx context.Context, q *metadata.ListQuery) (*metadata.ListResult, error) {
	res, err := m.Metadata.List(ctx, q)
	if err == nil && m.list != nil {
		m.list(res)
	}
	return res, err
}

// inMetadata plants a bug between engine and metadata.
func inMetadata(bug mutantMetadata) func(*site) {
	return func(at *site) {
		below := at.metadata
		at.metadata = func(m object.Metadata) object.Metadata {
			own := bug
			own.Metadata = below(m)
			return &own
		}
	}
}

// inCommits plants a bug into commits.
func inCommits(f func(ctx context.Context, m object.Metadata, cmd *metadata.Command) (*metadata.Result, error)) func(*site) {
	return inMetadata(mutantMetadata{commit: f})
}

// mutantShards stands between the engine and the drives.
type mutantShards struct {
	object.Shards
	close func(w object.ShardWriter, f *metadata.Footer) error
	read  func(ref metadata.ShardRef, p []byte, off int64)
	free  func(refs []metadata.ShardRef) bool // false: do nothing
}

func (s *mutantShards) Create(ctx context.Context, drive topology.DriveID, rec *metadata.Record, framed int64) (object.ShardWriter, error) {
	w, err := s.Shards.Create(ctx, drive, rec, framed)
	return s.wrap(w, err)
}

func (s *mutantShards) CreateNew(ctx context.Context, drive topology.DriveID, rec *metadata.Record, framed int64) (object.ShardWriter, error) {
	w, err := s.Shards.CreateNew(ctx, drive, rec, framed)
	return s.wrap(w, err)
}

func (s *mutantShards) wrap(w object.ShardWriter, err error) (object.ShardWriter, error) {
	if err != nil || s.close == nil {
		return w, err
	}
	return &mutantWriter{ShardWriter: w, s: s}, nil
}

type mutantWriter struct {
	object.ShardWriter
	s *mutantShards
}

func (w *mutantWriter) Close(f *metadata.Footer) error { return w.s.close(w.ShardWriter, f) }

func (s *mutantShards) ReadAt(ctx context.Context, drive topology.DriveID, ref metadata.ShardRef, p []byte, off int64) error {
	err := s.Shards.ReadAt(ctx, drive, ref, p, off)
	if err == nil && s.read != nil {
		s.read(ref, p, off)
	}
	return err
}

func (s *mutantShards) Free(ctx context.Context, drive topology.DriveID, refs []metadata.ShardRef) error {
	if s.free != nil && !s.free(refs) {
		return nil
	}
	return s.Shards.Free(ctx, drive, refs)
}

// inShards plants a bug between engine and drives.
func inShards(bug mutantShards) func(*site) {
	return func(at *site) {
		below := at.shards
		at.shards = func(s object.Shards) object.Shards {
			own := bug
			own.Shards = below(s)
			return &own
		}
	}
}

// trusting makes checksums that fit whatever was read: nobody checks a cell.
func trusting(ref metadata.ShardRef, p []byte, off int64) {
	const frame = metadata.CellBytes + shardhash.ChecksumBytes
	seed := shardhash.NewSeed(ref.Shard.Bytes())
	for number := uint64(off / frame); len(p) > shardhash.ChecksumBytes; number++ {
		n := min(frame, len(p))
		binary.LittleEndian.PutUint64(p[n-shardhash.ChecksumBytes:], seed.Checksum(number, p[:n-shardhash.ChecksumBytes]))
		p = p[n:]
	}
}

// freeAtOnce frees what a group's trash refers to, whoever reads it.
func freeAtOnce(at *site) {
	var shards object.Shards
	below := at.shards
	at.shards = func(s object.Shards) object.Shards { shards = below(s); return shards }
	inCommits(func(ctx context.Context, m object.Metadata, cmd *metadata.Command) (*metadata.Result, error) {
		res, err := m.Commit(ctx, cmd)
		if err != nil || cmd.Kind != metadata.KindDeleteVersions && cmd.Kind != metadata.KindCommitVersion {
			return res, err
		}
		return res, freeTrash(ctx, m, shards, cmd.Group)
	})(at)
}

func freeTrash(ctx context.Context, m object.Metadata, shards object.Shards, group uint32) error {
	table, err := m.PGs(ctx)
	if err != nil {
		return err
	}
	var all []metadata.Trash
	for after := uint64(0); ; {
		page, err := m.Trash(ctx, group, after, 100)
		if err != nil {
			return err
		}
		if all = append(all, page...); len(page) == 0 {
			break
		}
		after = page[len(page)-1].Order
	}
	for i := range all {
		parts, err := m.TrashParts(ctx, group, &all[i], 100)
		if err != nil {
			return err
		}
		for _, p := range parts {
			chunks, err := m.Chunks(ctx, metadata.BucketRef{Group: group, ID: all[i].Bucket}, p.ID, 0, 100)
			if err != nil {
				return err
			}
			for _, c := range chunks {
				for i, drive := range table.Groups[c.PG].Newest().Members {
					ref := metadata.ShardRef{PG: c.PG, Shard: metadata.ShardID{Chunk: c.ID, Index: uint8(i)}}
					if err := shards.Free(ctx, drive, []metadata.ShardRef{ref}); err != nil && !errors.Is(err, metadata.ErrDriveAbsent) {
						return err
					}
				}
			}
		}
	}
	return nil
}

// every returns a function that is true at every n-th call.
func every(n int) func() bool {
	var mu sync.Mutex
	calls := 0
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		calls++
		return calls%n == 0
	}
}

// reuse takes away the oldest segment of a directory whenever a new one is made
// there: its place is used again.
func reuse(at *site) {
	skipping(at, func(s *step) bool {
		if s.name() != "segment create" || strings.Count(s.path, "/") != 4 {
			return false
		}
		dir := at.fs.PathDir(s.path)
		names, err := at.fs.List(dir)
		if err == nil && len(names) > 3 {
			err = at.fs.Remove(at.fs.PathJoin(dir, slices.Min(names)))
		}
		return err != nil
	})
}

// failedReader is in what a client says that could not read on.
const failedReader = "after it was opened"

// mutant is a bug that the simulation must find.
type mutant struct {
	drives int
	plant  func(*site)
	by     []string // one of them is in what is found
}

// lost are the words for what was acknowledged and is not there.
var lost = []string{"possible is", "too few readable", "shards are bad", "damaged", "not collected", "start after a cut", "no such"}

func mutants() map[string]mutant {
	return map[string]mutant{
		"segments are not synced":         {3, named("segment sync"), lost},
		"directories of segments are not": {3, named("segment directory sync"), lost},
		"the log of the metadata is not synced": {1, func(at *site) {
			skipping(at, func(s *step) bool { return s.name() == "metadata sync" && strings.HasSuffix(s.path, ".log") })
		}, lost},
		"directories of the metadata are not": {1, named("metadata directory sync"), lost},
		"a start does not scan for files":     {3, func(at *site) { at.hooks.list = hideSegments }, lost},
		"a segment is used again":             {1, reuse, lost},
		"a shard counts that was not written": {3, inShards(mutantShards{close: func() func(object.ShardWriter, *metadata.Footer) error {
			unlucky := every(10)
			return func(w object.ShardWriter, f *metadata.Footer) error {
				if unlucky() {
					w.Abort()
					return nil
				}
				return w.Close(f)
			}
		}()}), lost},
		"shards are acknowledged early": {3, early, lost},
		"cells are not checked at read": {3, inShards(mutantShards{read: trusting}), lost},
		"what a scrub finds is not repaired": {3, func(at *site) {
			at.node = func(o *node.Options) { o.OnBadShard = nil }
		}, []string{"shards are bad"}},
		"a repair verifies nothing":      {6, unverified, []string{"shards are bad", "damaged", "too few readable", "possible is"}},
		"nothing is freed":               {3, inShards(mutantShards{free: func([]metadata.ShardRef) bool { return false }}), []string{"not collected"}},
		"deletes free at once":           {3, freeAtOnce, []string{failedReader, "too few readable"}},
		"the collector asks nobody":      {3, inMetadata(mutantMetadata{lookup: func(res *metadata.LookupResult) { clear(res.Found) }}), lost},
		"the collector knows no fence":   {3, inMetadata(mutantMetadata{lookup: func(res *metadata.LookupResult) { res.Fence = metadata.Fence{Floor: 1 << 40, Highest: 1 << 40} }}), lost},
		"the fence keeps all epochs":     {3, inCommits(keepEpochs), []string{"took effect after the restart", "not collected"}},
		"groups do not hear of a fence":  {3, inCommits(forgetFence), []string{"fenced", "not collected"}},
		"moving generations are ignored": {3, inMetadata(mutantMetadata{pgs: newestOnly}), lost},
		"short chunks are not recorded":  {6, inCommits(notShort), []string{"missing"}},
		"conditions are not looked at":   {1, inCommits(unconditional), []string{"the condition for"}},
		"a delete is lost":               {1, inCommits(loseDelete()), lost},
		"a commit counts before it is":   {1, early2, append(slices.Clone(lost), "the condition for")},
		"sent is taken for not sent":     {3, inCommits(notSent()), lost},
		"a list ends early":              {1, inMetadata(mutantMetadata{list: func(res *metadata.ListResult) { res.Keys = res.Keys[:max(0, len(res.Keys)-1)] }}), []string{"is listed as"}},
	}
}

// hideSegments hides the files of segments.
func hideSegments(dir string, names []string) []string {
	if strings.Count(dir, "/") == 3 && kindOf(dir) == "segment" {
		return nil
	}
	return names
}

// early answers that a shard is durable a little before it is.
func early(at *site) {
	inShards(mutantShards{close: func(w object.ShardWriter, f *metadata.Footer) error {
		own := *f
		own.Sums = slices.Clone(f.Sums)
		at.tasks.Go(func() {
			time.Sleep(time.Second)
			_ = w.Close(&own) // nobody waits for it
		})
		return nil
	}})(at)
}

// early2 answers that a version is there a little before it is.
func early2(at *site) {
	inCommits(func(ctx context.Context, m object.Metadata, cmd *metadata.Command) (*metadata.Result, error) {
		if cmd.Kind != metadata.KindCommitVersion {
			return m.Commit(ctx, cmd)
		}
		var own metadata.Command
		if err := own.Unmarshal(cmd.AppendTo(nil)); err != nil {
			return nil, err
		}
		at.tasks.Go(func() {
			time.Sleep(time.Second)
			_, _ = m.Commit(context.WithoutCancel(ctx), &own) // nobody waits for it
		})
		return &metadata.Result{Order: uint64(time.Now().UnixMicro())}, nil
	})(at)
}

func keepEpochs(ctx context.Context, m object.Metadata, cmd *metadata.Command) (*metadata.Result, error) {
	if cmd.Kind == metadata.KindFence {
		before, err := m.Fence(ctx, cmd.Group)
		if err != nil {
			return nil, err
		}
		kept := slices.Concat(before.Living, cmd.Fence.Living)
		slices.Sort(kept)
		cmd.Fence = &metadata.Fence{Floor: before.Floor, Living: slices.Compact(kept)}
	}
	return m.Commit(ctx, cmd)
}

// forgetFence has data groups hear of the first epoch of a life only.
func forgetFence(ctx context.Context, m object.Metadata, cmd *metadata.Command) (*metadata.Result, error) {
	if cmd.Kind == metadata.KindFence && len(cmd.Fence.Living) > 1 && cmd.Group > 8 {
		return new(metadata.Result), nil
	}
	return m.Commit(ctx, cmd)
}

func newestOnly(t *metadata.PGTable) {
	for i := range t.Groups {
		g := &t.Groups[i]
		newest := *g.Newest()
		newest.Moving = false
		g.Generations = []metadata.Generation{newest}
	}
}

func notShort(ctx context.Context, m object.Metadata, cmd *metadata.Command) (*metadata.Result, error) {
	if cmd.Kind == metadata.KindCommitVersion {
		own := *cmd.CommitVersion
		own.Short = nil
		cmd.CommitVersion = &own
	}
	return m.Commit(ctx, cmd)
}

func unconditional(ctx context.Context, m object.Metadata, cmd *metadata.Command) (*metadata.Result, error) {
	if cmd.Kind == metadata.KindCommitVersion {
		own := *cmd.CommitVersion
		own.Conditions = metadata.WriteConditions{}
		cmd.CommitVersion = &own
	}
	return m.Commit(ctx, cmd)
}

func loseDelete() func(context.Context, object.Metadata, *metadata.Command) (*metadata.Result, error) {
	unlucky := every(20)
	return func(ctx context.Context, m object.Metadata, cmd *metadata.Command) (*metadata.Result, error) {
		if cmd.Kind == metadata.KindDeleteVersions && unlucky() {
			return &metadata.Result{Deleted: make([]metadata.DeletedKey, len(cmd.Delete.Keys))}, nil
		}
		return m.Commit(ctx, cmd)
	}
}

// notSent commits and says that it has not: the engine frees what it has
// written.
func notSent() func(context.Context, object.Metadata, *metadata.Command) (*metadata.Result, error) {
	unlucky := every(20)
	return func(ctx context.Context, m object.Metadata, cmd *metadata.Command) (*metadata.Result, error) {
		res, err := m.Commit(ctx, cmd)
		if err == nil && cmd.Kind == metadata.KindCommitVersion && unlucky() {
			return nil, metadata.ErrMetadataFull
		}
		return res, err
	}
}

// TestMutants is T-MUT of the reliability plan: the simulation proves something
// only if it finds bugs. Each is planted alone; it has to be found, by what it
// does, within 1,000 power cuts. Bugs inside a drive and inside the metadata are
// planted by TestPowerCutsFindBugs of package node, and TestBugsAreFound of
// package metadata/simtest.
func TestMutants(t *testing.T) {
	t.Parallel()
	long(t)
	all := mutants()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found, cuts, err := hunt(t, all[name], 1000)
			if !found {
				t.Fatalf("%s: not found in %d cuts", name, cuts)
			}
			if !slices.ContainsFunc(all[name].by, func(s string) bool { return strings.Contains(err.Error(), s) }) {
				t.Errorf("found, but not by what it does: %v", err)
			}
			text, _, _ := strings.Cut(err.Error(), "\n")
			t.Logf("%s: seed %d: found in cut %d: %.300s", name, *simSeed, cuts, text)
		})
	}
}

// hunt makes cuts until an error shows.
func hunt(t *testing.T, m mutant, limit int) (found bool, cuts int, err error) {
	p := smallPlan(m.drives)
	p.spare = m.drives == 3
	image := newImage(t, p)
	for n := uint64(0); cuts < limit && !found; n++ {
		synctest.Test(t, func(t *testing.T) {
			w, first := newWorld(p, image, *simSeed<<32+1<<31+n)
			w.plant = m.plant
			// What only a late reader sees needs many of them. Otherwise clients bear
			// failures; what is wrong with shards shows when others are missing.
			w.patient = slices.Contains(m.by, failedReader)
			w.lenient, w.often = !w.patient, 2
			err = w.run(t.Context(), first, cutsOfWorld)
			cuts += max(1, w.cuts)
			found = err != nil
		})
	}
	if err == nil {
		err = fmt.Errorf("nothing in %d cuts", cuts)
	}
	return found, cuts, err
}
