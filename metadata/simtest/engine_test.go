package simtest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/simtest"
)

// lossy is a transport that loses, delays, doubles and cuts. Messages that are
// late come from goroutines of their own.
type lossy struct {
	replica.Transport

	mu           sync.Mutex // guards what follows
	r            *rand.Rand
	drop, double float64
	delay        time.Duration
	cut          map[[2]uint64]bool
	closed       bool
	late         sync.WaitGroup
}

// Send implements replica.Transport.
func (l *lossy) Send(messages []replica.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range messages {
		if l.closed || l.cut[[2]uint64{m.From, m.To}] || l.r.Float64() < l.drop {
			continue
		}
		copies := 1
		if l.r.Float64() < l.double {
			copies = 2
		}
		for range copies {
			x := l.r.Float64()
			wait := time.Duration(x * x * x * float64(l.delay))
			l.late.Go(func() {
				time.Sleep(wait)
				l.Transport.Send([]replica.Message{m})
			})
		}
	}
}

// Offer implements replica.Transport.
func (l *lossy) Offer(ctx context.Context, o replica.Offer) (replica.Reception, error) {
	l.mu.Lock()
	cut := l.cut[[2]uint64{o.From, o.To}]
	l.mu.Unlock()
	if cut {
		return nil, errors.New("cut off")
	}
	return l.Transport.Offer(ctx, o)
}

func (l *lossy) set(drop, double float64, delay time.Duration, cut map[[2]uint64]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop, l.double, l.delay, l.cut = drop, double, delay, cut
}

// end lets no more messages go, and waits for those on their way.
func (l *lossy) end() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.late.Wait()
}

// engineRun is a run of the whole engine, goroutines and all, in virtual time.
type engineRun struct {
	t      *testing.T
	e      *replica.Replicated
	net    *lossy
	now    atomic.Int64 // counts: calls at the same virtual time have an order
	mu     sync.Mutex   // guards what follows
	work   *simtest.Workload
	h      simtest.History
	counts map[string]int
}

func (r *engineRun) count(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[what]++
}

// client writes and reads for some time.
func (r *engineRun) client(id int, until time.Time, rnd *rand.Rand) {
	for time.Now().Before(until) {
		time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
		switch n := rnd.IntN(10); {
		case n < 6:
			r.write(id, rnd)
		case n < 9:
			r.read(id)
		default:
			r.list(id)
		}
	}
}

func (r *engineRun) write(id int, rnd *rand.Rand) {
	r.mu.Lock()
	cmd := r.work.Next()
	r.mu.Unlock()
	call := r.now.Add(1)
	for try := range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+rnd.IntN(6000))*time.Millisecond)
		res, err := r.e.Commit(ctx, cmd)
		cancel()
		ret := r.now.Add(1)
		unknown := errors.Is(err, metadata.ErrUnknownOutcome)
		if res == nil && (unknown || try < 19) {
			if unknown {
				r.count("unknown")
			}
			if !unknown || rnd.IntN(8) > 0 {
				continue // under the same request id
			}
		}
		r.mu.Lock()
		r.h.Did(id, call, ret, cmd, res)
		r.work.Told(cmd, res)
		if res != nil {
			r.counts["written"]++
		}
		r.mu.Unlock()
		if errors.Is(err, metadata.ErrStaleSettings) {
			r.settings(cmd)
		}
		return
	}
}

func (r *engineRun) settings(cmd *metadata.Command) {
	for _, b := range r.work.Buckets {
		if s, err := r.e.Settings(context.Background(), b); err == nil && b.Group == cmd.Group {
			r.mu.Lock()
			r.work.Settings(b, s.Epoch)
			r.mu.Unlock()
		}
	}
}

func (r *engineRun) read(id int) {
	r.mu.Lock()
	b, key := r.work.Bucket(), r.work.Key()
	r.mu.Unlock()
	call := r.now.Add(1)
	v, err := r.e.Version(context.Background(), b, key, "")
	ret := r.now.Add(1)
	if err != nil && !errors.Is(err, metadata.ErrNoSuchKey) {
		r.count("unread")
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts["read"]++
	if v != nil {
		r.work.Seen(b, key, v.ETag)
	}
	r.h.Read(id, call, ret, b, key, v)
}

func (r *engineRun) list(id int) {
	r.mu.Lock()
	b, keys := r.work.Bucket(), r.work.AllKeys()
	r.mu.Unlock()
	call := r.now.Add(1)
	page, err := r.e.List(context.Background(), &metadata.ListQuery{Bucket: b, Limit: 1000})
	ret := r.now.Add(1)
	if err != nil {
		r.count("unread")
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts["listed"]++
	r.h.Listed(id, call, ret, b, page.Keys, keys, "", "")
}

// trouble cuts, delays and moves leaders until a time.
func (r *engineRun) trouble(stores int, until time.Time, rnd *rand.Rand) {
	for time.Now().Before(until) {
		time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
		switch rnd.IntN(5) {
		case 0:
			r.net.set(0, 0, 5*time.Millisecond, nil)
		case 1:
			r.net.set(rnd.Float64()*0.2, rnd.Float64()*0.2, time.Duration(rnd.IntN(500))*time.Millisecond, nil)
		case 2, 3:
			cut := make(map[[2]uint64]bool)
			alone, oneWay := uint64(1+rnd.IntN(stores)), rnd.IntN(3) == 0
			for o := uint64(1); o <= uint64(stores); o++ {
				cut[[2]uint64{o, alone}] = true
				cut[[2]uint64{alone, o}] = !oneWay
			}
			r.net.set(0, 0, 5*time.Millisecond, cut)
		default:
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			if err := r.e.TransferLeader(ctx, uint32(1+rnd.IntN(2)), uint64(1+rnd.IntN(stores))); err == nil {
				r.count("transfers")
			}
			cancel()
		}
	}
	r.net.set(0, 0, 5*time.Millisecond, nil)
}

func (r *engineRun) run(seed uint64, stores int) {
	rnd := rand.New(rand.NewPCG(seed, 0xe))
	var places []replica.Place
	var ids []uint64
	for id := range stores {
		ids = append(ids, uint64(id+1))
	}
	options := replica.StoreOptions{Options: replica.Options{Now: time.Now, AcceptClock: true, ReserveBytes: -1, CacheBytes: 1 << 20, MemTableBytes: 1 << 20},
		Rand: rand.NewChaCha8([32]byte{byte(seed)})}
	for _, id := range ids {
		o := options
		o.FS = vfs.NewMem()
		identity := commandlog.Identity{Cluster: [16]byte{1}, Store: [16]byte{byte(id)}, Replica: id}
		if err := replica.CreateStore(storeDir, identity, ids, o); err != nil {
			r.t.Fatal(err)
		}
		places = append(places, replica.Place{Dir: storeDir, FS: o.FS})
	}
	r.net = &lossy{Transport: replica.NewInProcess(), r: rand.New(rand.NewPCG(seed, 0xd)), delay: 5 * time.Millisecond}
	var err error
	r.e, err = replica.OpenReplicated(places, replica.ReplicatedOptions{StoreOptions: options, Transport: r.net})
	if err != nil {
		r.t.Fatal(err)
	}
	buckets := []metadata.BucketRef{{Group: 1, ID: metadata.BucketID{1}}, {Group: 2, ID: metadata.BucketID{2}}}
	r.work = simtest.NewWorkload(rand.New(rand.NewPCG(seed, 0xf)), 4, buckets)
	for _, c := range slices.Concat(r.work.Begin(1), r.work.Begin(2)) {
		if _, err := r.e.Commit(context.Background(), c); err != nil {
			r.t.Fatal(err)
		}
	}
	until := time.Now().Add(40 * time.Second)
	var g sync.WaitGroup
	for id := range 5 {
		g.Go(func() { r.client(id, until, rand.New(rand.NewPCG(seed, uint64(id)))) })
	}
	g.Go(func() { r.trouble(stores, until, rand.New(rand.NewPCG(seed, 99))) })
	g.Wait()
	for _, b := range buckets { // all works again: everything is answered at once
		for range 3 {
			r.write(90, rnd)
		}
		if _, err := r.e.Usage(context.Background(), b); err != nil {
			r.t.Errorf("after everything works again: %v", err)
		}
	}
	r.net.end()
	if err := r.e.Close(); err != nil {
		r.t.Error(err)
	}
}

// TestEngineIsLinearizable runs the engine as the server does, with all its
// goroutines, over a network that fails, in virtual time: whatever clients see
// can be explained.
func TestEngineIsLinearizable(t *testing.T) {
	t.Parallel()
	seeds := 12
	if testing.Short() {
		seeds = 1
	}
	for i := range seeds {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			r := &engineRun{t: t, counts: make(map[string]int)}
			synctest.Test(t, func(t *testing.T) { r.run(*simSeed+uint64(i), 3+i%2*2) })
			t.Log(r.counts)
			if r.counts["written"] < 100 || r.counts["read"] < 50 {
				t.Errorf("the run proves little: %v", r.counts)
			}
			if err := r.h.Check(30 * time.Second); err != nil {
				t.Error(err)
			}
		})
	}
}
