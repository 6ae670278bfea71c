package simtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// newImage makes the disks of a store that was started once and closed.
func newImage(t *testing.T, p plan) (image *vfs.MemFS) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fs, err := format(p, 1)
		if err != nil {
			t.Fatal(err)
		}
		at := &site{plan: p, fs: fs.CrashClone(vfs.CrashCloneCfg{}), seed: 1}
		s, err := at.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second) // until the drives for manifests are chosen
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		image = at.fs.CrashClone(vfs.CrashCloneCfg{})
	})
	return image
}

// picture is a machine at the moment of a power cut: what its disks hold, and
// what clients knew.
type picture struct {
	fs     *vfs.MemFS
	known  *known
	absent []topology.DriveID // drives that were away once
	late   []metadata.Command // commits that were under way
	due    bool               // a drive was missing: there is something to be repaired
	cause  string
}

// world is one machine through several lives.
type world struct {
	plan  plan
	seed  uint64
	rng   *rand.Rand
	sizes []int
	away  string           // drive that is sometimes missing
	often int              // it is, or is damaged, in every such life, by chance; 0: in every fifth
	old   topology.DriveID // its id, once it was there
	log   *slog.Logger
	plant func(*site) // a bug, into each life
	// lenient clients bear that operations fail, and patient ones read late; see
	// client.
	lenient, patient bool
	mu               sync.Mutex // guards what follows
	at               *site      // of the life that runs
	due              bool       // a drive is missing in it
	known            *known     // in that life
	steps            int        // of the disk until the next cut
	told             int        // answers until the next cut
	wanted           int        // cuts that are to be made in this life
	taken            []*picture
	mail             *mail
	power            *rand.Rand

	cuts, looks, quiet, lateCommits, rotten int
}

func newWorld(p plan, image *vfs.MemFS, seed uint64) (*world, *picture) {
	rng := rand.New(rand.NewPCG(seed, 10))
	w := &world{away: drivePath(rng.IntN(p.drives)), plan: p, seed: seed, rng: rand.New(rand.NewPCG(seed, 11)), power: rand.New(rand.NewPCG(seed, 12)), sizes: simSizes}
	return w, &picture{fs: image.CrashClone(vfs.CrashCloneCfg{}), known: newKnown(6), cause: "new"}
}

// changes reports whether a step may change what a power cut leaves.
func (s *step) changes() bool { return s.verb != "read" && s.verb != "open" }

// before counts steps, and cuts the power before the one whose turn it is.
func (w *world) before(s *step) error {
	if !s.changes() {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.steps--; w.steps == 0 {
		w.cut("before " + s.name())
	}
	return nil
}

// answered counts answers, and cuts the power after the one whose turn it is.
func (w *world) answered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.told--; w.told == 0 {
		w.cut("after an answer")
	}
}

// cut keeps what would be left if the power were cut now. It needs mu.
func (w *world) cut(cause string) {
	if w.wanted == 0 {
		return
	}
	cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 10, 50, 90}[w.power.IntN(4)], RNG: w.power}
	p := &picture{absent: slices.Clone(w.at.absent), due: w.due, cause: cause}
	p.known = w.known.clone(func() { p.fs = w.at.fs.CrashClone(cfg) })
	p.late = w.mail.take()
	w.taken = append(w.taken, p)
	w.cuts++
	w.wanted--
	w.schedule()
}

// schedule decides when the next cut is made. It needs mu.
func (w *world) schedule() {
	w.steps, w.told = 0, 0
	switch w.power.IntN(3) {
	case 0:
		w.told = 1 + w.power.IntN(12)
	case 1:
		w.steps = 1 + w.power.IntN(60)
	default:
		w.steps = 1 + w.power.IntN(600)
	}
}

// begin makes the machine of a picture the one that runs.
func (w *world) begin(p *picture, wanted int) *site {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = &site{plan: w.plan, fs: p.fs, seed: w.rng.Uint64(), absent: p.absent, log: w.log, hooks: &disk{before: w.before}}
	w.mail = &mail{under: make(map[metadata.RequestID]metadata.Command)}
	w.at.shards = func(s object.Shards) object.Shards {
		return pausingShards{Shards: s, pause: 2 * w.plan.quarantine}
	}
	w.at.metadata = func(m object.Metadata) object.Metadata { return courier{Metadata: m, mail: w.mail} }
	w.known, w.taken, w.wanted, w.due = p.known, nil, wanted, false
	w.known.told = w.answered
	w.schedule()
	if w.plant != nil {
		w.plant(w.at)
	}
	return w.at
}

// pausingShards has some writers of chunks wait once everything is durable, for
// longer than a quarantine, as if the gateway had been stopped for a while.
type pausingShards struct {
	object.Shards
	pause time.Duration
}

func (s pausingShards) Create(ctx context.Context, drive topology.DriveID, rec *metadata.Record, framed int64) (object.ShardWriter, error) {
	w, err := s.Shards.Create(ctx, drive, rec, framed)
	return s.wrap(rec, w, err)
}

func (s pausingShards) CreateNew(ctx context.Context, drive topology.DriveID, rec *metadata.Record, framed int64) (object.ShardWriter, error) {
	w, err := s.Shards.CreateNew(ctx, drive, rec, framed)
	return s.wrap(rec, w, err)
}

func (s pausingShards) wrap(rec *metadata.Record, w object.ShardWriter, err error) (object.ShardWriter, error) {
	if err != nil || rec.Shard.Chunk[0] >= 256/50 {
		return w, err
	}
	return pausingWriter{ShardWriter: w, pause: s.pause}, nil
}

type pausingWriter struct {
	object.ShardWriter
	pause time.Duration
}

func (w pausingWriter) Close(f *metadata.Footer) error {
	if err := w.ShardWriter.Close(f); err != nil {
		return err
	}
	time.Sleep(w.pause) // all of a chunk as long: none lags behind
	return nil
}

// damage changes bytes on the drive that is sometimes missing, of which no chunk
// has more than one shard.
func (w *world) damage(fs *vfs.MemFS) error {
	paths, err := files(fs, w.away+"/seg")
	if err != nil {
		return err
	}
	for _, path := range paths {
		info, err := fs.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() == 0 || w.rng.IntN(2) == 0 {
			continue
		}
		w.rotten++
		err = change(fs, path, w.rng.Int64N(info.Size()), func(p []byte) { p[0] ^= 1 << w.rng.IntN(8) }, 1)
		if err != nil {
			return err
		}
	}
	return nil
}

// replace puts the spare drive in the place of the one that is sometimes
// missing, or goes on with that.
func (w *world) replace(ctx context.Context, s *store) error {
	spare := slices.IndexFunc(s.node.Drives(), func(d *node.Drive) bool { return d.Path() == sparePath })
	if spare < 0 || w.old.IsZero() {
		return nil
	}
	err := s.ReplaceDrive(ctx, w.old, tableRow(s.node.Drives()[spare].ID()))
	if errors.Is(err, object.ErrNoSuchDrive) {
		return nil // done
	}
	return err
}

// mail is commits that have not been answered.
type mail struct {
	mu    sync.Mutex
	under map[metadata.RequestID]metadata.Command
}

// take returns copies of them.
func (m *mail) take() (late []metadata.Command) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, cmd := range m.under {
		late = append(late, cmd)
	}
	return late
}

// courier notes the commits of clients while they are under way.
type courier struct {
	object.Metadata
	mail *mail
}

func (c courier) Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error) {
	var own metadata.Command
	if err := own.Unmarshal(cmd.AppendTo(nil)); err != nil {
		return nil, err
	}
	c.mail.mu.Lock()
	c.mail.under[cmd.Request] = own
	c.mail.mu.Unlock()
	defer func() {
		c.mail.mu.Lock()
		defer c.mail.mu.Unlock()
		delete(c.mail.under, cmd.Request)
	}()
	return c.Metadata.Commit(ctx, cmd)
}

// deliver has the commits arrive that were under way when the power was cut, as
// if somebody had kept them. Nothing may come of them.
func (w *world) deliver(ctx context.Context, s *store, p *picture) error {
	if len(p.late) == 0 {
		return nil
	}
	for i := range p.late {
		cmd := &p.late[i]
		if cmd.Epoch == 0 {
			continue // tables, which nothing fences
		}
		w.lateCommits++
		if _, err := s.meta.Commit(ctx, cmd); err == nil {
			return fmt.Errorf("a commit of kind %d and epoch %d took effect after the restart", cmd.Kind, cmd.Epoch)
		}
	}
	return s.settle(ctx, p.known)
}

// live starts what a power cut has left, holds it against the model, works on
// it, and returns what the next cuts leave. Without any the store was closed.
func (w *world) live(ctx context.Context, p *picture, wanted int) (left []*picture, err error) {
	at := w.begin(p, wanted)
	missing := w.plan.scheme.Parity > 1 && w.rng.IntN(cmp.Or(w.often, 5)) == 0
	if missing {
		at.skip = []string{w.away}
		w.mu.Lock()
		w.due = true
		w.mu.Unlock()
	}
	s, err := at.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("start after a cut %s: %w", p.cause, err)
	}
	if err := s.settle(ctx, w.known); err != nil {
		return nil, errors.Join(fmt.Errorf("after a cut %s: %w", p.cause, err), s.close())
	}
	w.looks++
	if err := w.deliver(ctx, s, p); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if i := slices.IndexFunc(s.node.Drives(), func(d *node.Drive) bool { return d.Path() == w.away }); i >= 0 {
		w.old = s.node.Drives()[i].ID()
	}
	if w.plan.spare && w.rng.IntN(3) == 0 {
		if err := w.replace(ctx, s); err != nil {
			return nil, errors.Join(fmt.Errorf("replace a drive: %w", err), s.close())
		}
	}
	if err := w.work(ctx, s); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if err := s.settle(ctx, w.known); err != nil {
		return nil, errors.Join(fmt.Errorf("at the end of a life: %w", err), s.close())
	}
	if !missing && w.rng.IntN(3) == 0 {
		if err := w.quiesce(ctx, s); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	w.mu.Lock()
	if w.wanted > 0 && w.rng.IntN(4) > 0 {
		w.cut("at the end of a life")
	}
	left = w.taken
	w.mu.Unlock()
	if err := s.close(); err != nil {
		return nil, fmt.Errorf("close: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	left = w.taken // one may have come while it was closed
	if len(left) == 0 {
		left = []*picture{{fs: at.fs, known: w.known, absent: at.absent, cause: "that was none"}}
	}
	return left, nil
}

func (w *world) quiesce(ctx context.Context, s *store) error {
	w.quiet++
	return s.quiesce(ctx, w.patience())
}

// patience is how long it may take until everything is collected: an epoch
// ends, what it has left is seen, and the quarantine passes; three times over.
func (w *world) patience() time.Duration {
	p := &w.plan
	return 3*(p.epoch+p.pending) + 2*(p.quarantine+p.clock) + 3*p.trash + time.Minute
}

// work has clients do what they do.
func (w *world) work(ctx context.Context, s *store) error {
	errs := make(chan error, 3)
	over := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.wanted == 0
	}
	for range cap(errs) {
		c := &client{s: s, k: w.known, rng: rand.New(rand.NewPCG(w.rng.Uint64(), 13)), sizes: w.sizes, slow: 2 * w.plan.epoch, lenient: w.lenient, patient: w.patient}
		go func() { errs <- c.work(ctx, 12, over, 20*time.Second) }()
	}
	var all error
	for range cap(errs) {
		all = errors.Join(all, <-errs)
	}
	return all
}

// look starts what a power cut has left and only looks at it.
func (w *world) look(ctx context.Context, p *picture) error {
	at := w.begin(p, 0)
	damaged := w.plan.scheme.Parity > 0 && w.rng.IntN(cmp.Or(w.often, 5)) == 0
	if damaged {
		if err := w.damage(p.fs); err != nil {
			return err
		}
	}
	s, err := at.open(ctx)
	if err != nil {
		return fmt.Errorf("start after a cut %s: %w", p.cause, err)
	}
	w.looks++
	if err = s.settle(ctx, p.known); err == nil {
		err = w.deliver(ctx, s, p)
	}
	if err == nil && (w.rng.IntN(6) == 0 || (damaged || p.due) && w.rng.IntN(2) == 0) {
		if err = w.quiesce(ctx, s); err == nil {
			err = s.settle(ctx, p.known)
		}
	}
	if err != nil {
		err = fmt.Errorf("after a cut %s, %s missing=%v damaged=%v: %w", p.cause, w.away, p.due, damaged, err)
	}
	return errors.Join(err, s.close())
}

// run lives until so many cuts were made, and looked at.
func (w *world) run(ctx context.Context, p *picture, cuts int) error {
	for life := 0; w.cuts < cuts; life++ {
		left, err := w.live(ctx, p, 4)
		if err != nil {
			return fmt.Errorf("life %d, %d cuts: %w", life, w.cuts, err)
		}
		next := w.rng.IntN(len(left))
		for i, q := range left {
			if i == next {
				continue
			}
			if err := w.look(ctx, q); err != nil {
				return fmt.Errorf("life %d, cut %d of it: %w", life, i, err)
			}
		}
		p = left[next]
	}
	return w.look(ctx, p)
}
