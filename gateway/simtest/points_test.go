package simtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// act is one thing that a store does, with all its steps.
type act struct {
	name string
	// before makes ready for it; do does it.
	before, do func(ctx context.Context, c *client) error
	// points are steps that it must come by, as the disk, the drives or the
	// metadata name them.
	points []string
}

// pointPlan has no background but what an act starts.
func pointPlan() plan {
	p := smallPlan(3)
	p.segment = 16 << 10
	return p
}

func (c *client) putSized(ctx context.Context, key string, n int) error {
	v := c.k.value(n)
	w := c.k.Begin(key, v)
	_, err := c.s.Put(ctx, &object.PutRequest{Bucket: bucketName, Key: key, Body: body(v.Bytes)})
	return c.end(w, v, err)
}

func (c *client) removeKey(ctx context.Context, key string) error {
	w := c.k.Begin(key, nil)
	res, err := c.s.Delete(ctx, bucketName, []object.DeleteRequest{{Key: key}})
	if err == nil {
		err = res[0].Err
	}
	return c.end(w, nil, err)
}

// beginUpload begins an upload of a key, with one part of so many bytes unless
// n is negative.
func (c *client) beginUpload(ctx context.Context, key string, n int) error {
	u, err := c.s.CreateUpload(ctx, &object.UploadRequest{Bucket: bucketName, Key: key})
	if err != nil {
		return err
	}
	c.k.mu.Lock()
	c.k.uploads = append(c.k.uploads, &upload{key: key, id: u.ID})
	c.k.mu.Unlock()
	open := c.k.Begin(uploadName(key, u.ID), openUpload)
	open.Done(openUpload)
	if n < 0 {
		return nil
	}
	v := c.k.value(n)
	w := c.k.Begin(partName(u.ID, 1), v)
	_, err = c.s.PutPart(ctx, &object.PartRequest{Bucket: bucketName, Key: key, Upload: u.ID, Number: 1, Body: body(v.Bytes)})
	return c.end(w, v, err)
}

func steps(f ...func(ctx context.Context, c *client) error) func(ctx context.Context, c *client) error {
	return func(ctx context.Context, c *client) error {
		for _, f := range f {
			if err := f(ctx, c); err != nil {
				return err
			}
		}
		return nil
	}
}

func putting(key string, n int) func(ctx context.Context, c *client) error {
	return func(ctx context.Context, c *client) error { return c.putSized(ctx, key, n) }
}

// waiting lets the store do by itself what is due.
func waiting(d time.Duration) func(ctx context.Context, c *client) error {
	return func(context.Context, *client) error { time.Sleep(d); return nil }
}

func deleting(key string) func(ctx context.Context, c *client) error {
	return func(ctx context.Context, c *client) error { return c.removeKey(ctx, key) }
}

// damaging frees one shard of every chunk, as if a drive had lost it, and tells
// repair.
func damaging(ctx context.Context, c *client) error {
	for group := uint32(1); group <= metadata.DataGroups; group++ {
		rows, err := c.s.meta.ChunkRows(ctx, group, nil, 100)
		if err != nil {
			return err
		}
		table, err := c.s.meta.PGs(ctx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			drive := table.Groups[r.Chunk.PG].Newest().Members[1]
			ref := metadata.ShardRef{PG: r.Chunk.PG, Shard: metadata.ShardID{Chunk: r.Chunk.ID, Index: 1}}
			if err := c.s.node.Free(ctx, drive, []metadata.ShardRef{ref}); err != nil {
				return err
			}
			c.s.ReportBadShard(object.BadShard{Drive: drive, Record: metadata.Record{Type: metadata.RecordShard, Shard: ref.Shard, PG: ref.PG,
				Scheme: r.Chunk.Scheme, Part: r.Part, ChunkNo: r.Chunk.No, Bucket: r.Bucket}, Err: metadata.ErrShardNotFound})
		}
	}
	return nil
}

func acts() []act {
	const small, large = 5000, 60_000
	shards := []string{"shard create", "shard write", "shard close", "segment write", "segment sync"}
	own := append(slices.Clone(shards), "segment create", "segment directory sync")
	commit := []string{"metadata write", "metadata sync"}
	return []act{
		{"put inline", putting("key/a", 10), putting("key/a", 20), append(commit, "commit version")},
		{"put small", putting("key/a", 10), steps(putting("key/a", small), waiting(time.Second)), slices.Concat(shards, commit, []string{"commit version", "confirm"})},
		{"put large", putting("key/a", large), steps(putting("key/a", large+1), waiting(time.Second)), slices.Concat(own, commit, []string{"commit version", "confirm"})},
		{"delete", putting("key/a", small), deleting("key/a"), append(commit, "delete versions")},
		{"delete and collect", putting("key/a", large), steps(deleting("key/a"), waiting(2*time.Minute)),
			[]string{"delete versions", "free", "segment remove", "drop trash"}},
		{"part", func(ctx context.Context, c *client) error { return c.beginUpload(ctx, "key/b", -1) },
			func(ctx context.Context, c *client) error { return c.part(ctx) }, append(shards, "commit part")},
		{"complete", steps(putting("key/a", small), func(ctx context.Context, c *client) error { return c.beginUpload(ctx, "key/a", small) }),
			func(ctx context.Context, c *client) error { return c.complete(ctx) }, append(commit, "complete")},
		{"abort and collect", func(ctx context.Context, c *client) error { return c.beginUpload(ctx, "key/a", large) },
			steps(func(ctx context.Context, c *client) error { return c.abort(ctx) }, waiting(2*time.Minute)), []string{"abort upload", "free", "drop trash"}},
		{"repair", putting("key/a", small), steps(damaging, waiting(time.Minute)),
			[]string{"shard create", "shard write", "shard close", "segment write", "segment sync"}},
		{"compact", steps(putting("key/a", small), putting("key/b", small), putting("key/c", small), putting("key/d", small), putting("key/e", small), putting("key/f", small),
			putting("key/a", small), putting("key/b", small)),
			steps(deleting("key/c"), deleting("key/d"), deleting("key/e"), waiting(5*time.Minute)),
			[]string{"free", "segment write", "segment sync", "index sync", "segment remove"}},
	}
}

// counter counts how often an act comes by each point, and cuts the power at one
// of them.
type counter struct {
	mu    sync.Mutex // guards everything
	on    bool
	seen  map[string]int
	point string // where the power is cut; "" never
	nth   int    // time
	after bool
	fs    *vfs.MemFS
	known *known
	rng   *rand.Rand
	left  *picture
}

// pass notes that a point is come by, before or after what is done there.
func (c *counter) pass(point string, after bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.on {
		return
	}
	if after == c.after {
		c.seen[point]++
	}
	if c.left == nil && point == c.point && after == c.after && c.seen[point] == c.nth {
		when := "before "
		if after {
			when = "after "
		}
		p := &picture{cause: fmt.Sprintf("%s%s (%d)", when, point, c.nth)}
		cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 90}[c.rng.IntN(3)], RNG: c.rng}
		p.known = c.known.clone(func() { p.fs = c.fs.CrashClone(cfg) })
		c.left = p
	}
}

func (c *counter) start(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = on
}

// site returns the machine with points wherever something is done.
func (c *counter) site(p plan, fs *vfs.MemFS, seed uint64) *site {
	at := &site{plan: p, fs: fs, seed: seed}
	at.hooks = &disk{
		before: func(s *step) error {
			if s.changes() {
				c.pass(s.name(), false)
			}
			return nil
		},
		after: func(s *step) {
			if s.changes() {
				c.pass(s.name(), true)
			}
		},
	}
	at.metadata = func(m object.Metadata) object.Metadata { return pointMetadata{m, c} }
	at.shards = func(s object.Shards) object.Shards { return pointShards{s, c} }
	return at
}

// pointMetadata names commits.
type pointMetadata struct {
	object.Metadata
	c *counter
}

func commitPoint(k metadata.Kind) string {
	switch k {
	case metadata.KindCommitVersion:
		return "commit version"
	case metadata.KindDeleteVersions:
		return "delete versions"
	case metadata.KindCommitPart:
		return "commit part"
	case metadata.KindComplete:
		return "complete"
	case metadata.KindAbortUpload:
		return "abort upload"
	case metadata.KindDropTrash:
		return "drop trash"
	case metadata.KindPutShort:
		return "put short"
	}
	return "other commit"
}

func (m pointMetadata) Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error) {
	m.c.pass(commitPoint(cmd.Kind), false)
	res, err := m.Metadata.Commit(ctx, cmd)
	m.c.pass(commitPoint(cmd.Kind), true)
	return res, err
}

// pointShards names calls on drives.
type pointShards struct {
	object.Shards
	c *counter
}

func (s pointShards) Create(ctx context.Context, drive topology.DriveID, rec *metadata.Record, framed int64) (object.ShardWriter, error) {
	s.c.pass("shard create", false)
	w, err := s.Shards.Create(ctx, drive, rec, framed)
	s.c.pass("shard create", true)
	return pointWriter{w, s.c}, err
}

func (s pointShards) CreateNew(ctx context.Context, drive topology.DriveID, rec *metadata.Record, framed int64) (object.ShardWriter, error) {
	s.c.pass("shard create", false)
	w, err := s.Shards.CreateNew(ctx, drive, rec, framed)
	s.c.pass("shard create", true)
	return pointWriter{w, s.c}, err
}

func (s pointShards) Confirm(ctx context.Context, drive topology.DriveID, refs []metadata.ShardRef) error {
	s.c.pass("confirm", false)
	defer s.c.pass("confirm", true)
	return s.Shards.Confirm(ctx, drive, refs)
}

func (s pointShards) Free(ctx context.Context, drive topology.DriveID, refs []metadata.ShardRef) error {
	s.c.pass("free", false)
	defer s.c.pass("free", true)
	return s.Shards.Free(ctx, drive, refs)
}

type pointWriter struct {
	object.ShardWriter
	c *counter
}

func (w pointWriter) Write(p []byte) (int, error) {
	w.c.pass("shard write", false)
	defer w.c.pass("shard write", true)
	return w.ShardWriter.Write(p)
}

func (w pointWriter) Close(f *metadata.Footer) error {
	w.c.pass("shard close", false)
	defer w.c.pass("shard close", true)
	return w.ShardWriter.Close(f)
}

// play does an act and returns what a cut at the counter's point leaves, nil
// if the point is not come by so often.
func (c *counter) play(ctx context.Context, a *act, image *vfs.MemFS) (*picture, error) {
	c.seen, c.fs, c.known = make(map[string]int), image.CrashClone(vfs.CrashCloneCfg{}), newKnown(6)
	s, err := c.site(pointPlan(), c.fs, 1001).open(ctx)
	if err != nil {
		return nil, err
	}
	cl := &client{s: s, k: c.known, rng: rand.New(rand.NewPCG(1, 21)), sizes: []int{5000}}
	err = a.before(ctx, cl)
	if err == nil {
		synctest.Wait()
		c.start(true)
		err = a.do(ctx, cl)
		synctest.Wait()
		c.start(false)
	}
	if err == nil {
		err = s.settle(ctx, c.known)
	}
	return c.left, errors.Join(err, s.close())
}

// TestCrashPoints is T-CRASHPT of the reliability plan: the power is cut before
// and after every step of everything that a store does. Whatever was under way
// has happened or not, and everything is collected in the end. A point that is
// in the list and never come by fails the test.
func TestCrashPoints(t *testing.T) {
	t.Parallel()
	long(t)
	image := newImage(t, pointPlan())
	for _, a := range acts() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			cuts, seen := 0, make(map[string]int)
			for _, after := range []bool{false, true} {
				all := a.survey(t, image, after)
				for point, n := range all {
					seen[point] += n
					for _, nth := range timesOf(n) {
						if a.cutAt(t, image, point, nth, after) {
							cuts++
						}
					}
				}
			}
			for _, point := range a.points {
				if seen[point] == 0 {
					t.Errorf("never came by %q", point)
				}
			}
			t.Logf("%d points, %d cuts: %s", len(seen), cuts, strings.Join(slices.Sorted(maps.Keys(seen)), ", "))
		})
	}
}

// timesOf returns at which of n times the power is cut: the first few, the
// last, and some between.
func timesOf(n int) (times []int) {
	for i := 1; i <= n; i += 1 + i/2 {
		times = append(times, i)
	}
	if times[len(times)-1] != n {
		times = append(times, n)
	}
	return times
}

// survey counts the points that an act comes by.
func (a *act) survey(t *testing.T, image *vfs.MemFS, after bool) (seen map[string]int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &counter{after: after}
		if _, err := c.play(t.Context(), a, image); err != nil {
			t.Fatal(err)
		}
		seen = c.seen
	})
	return seen
}

// cutAt cuts the power at a point and looks at what is left. It reports false if
// the point was not come by this time: the order of goroutines is not given.
func (a *act) cutAt(t *testing.T, image *vfs.MemFS, point string, nth int, after bool) (done bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &counter{point: point, nth: nth, after: after, rng: rand.New(rand.NewPCG(*simSeed, uint64(nth)))}
		left, err := c.play(t.Context(), a, image)
		if err != nil {
			t.Fatal(err)
		}
		if left == nil {
			return
		}
		done = true
		s, err := (&site{plan: pointPlan(), fs: left.fs, seed: 2002}).open(t.Context())
		if err != nil {
			t.Fatalf("start after a cut %s: %v", left.cause, err)
		}
		err = s.settle(t.Context(), left.known)
		if err == nil && nth == 1 {
			err = s.quiesce(t.Context(), 13*time.Minute)
		}
		if err = errors.Join(err, s.close()); err != nil {
			t.Errorf("after a cut %s: %v", left.cause, err)
		}
	})
	return done
}
