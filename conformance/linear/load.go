package linear

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	keysOfRound = 4
	mostDoubts  = 8                     // writes without an answer to one key, before keys are changed
	notSentWait = 5 * time.Millisecond  // until a server that was not reached is asked again
	sweepWait   = 50 * time.Millisecond // until a key that could not be read is read again
)

// Options say what clients do.
type Options struct {
	AccessKey, SecretKey, Region string
	Bucket                       string // exists, and is nobody else's
	Seed                         uint64
	Clients                      int // calls at a time; 12 if 0
	Calls                        int // after which [Load.Run] ends
	Rotate                       int // calls until keys are changed; 500 if 0
	LargeBytes                   int // some bodies are up to that long; 140,000 if 0
}

// Counts says what clients did.
type Counts struct {
	Calls   int64 // that have reached the server
	Unknown int64 // of these, without an answer, or answered with 5xx
	Rounds  int   // of keys
}

// Load is clients and what they saw. It is safe for concurrent use, but for Run,
// Sweep and Check, which come one after the other.
type Load struct {
	options        Options
	caller         caller
	begin          time.Time
	ids            atomic.Uint32
	calls, unknown atomic.Int64

	mu       sync.Mutex // guards what follows
	endpoint string
	up       chan struct{} // closed once there is an endpoint
	rounds   [][]*Key
	inRound  int // calls of the round
	failure  error
}

// New returns clients that wait for [Load.Serve].
func New(o Options) *Load {
	if o.Clients == 0 {
		o.Clients = 12
	}
	if o.Rotate == 0 {
		o.Rotate = 500
	}
	if o.LargeBytes == 0 {
		o.LargeBytes = 140_000
	}
	l := &Load{options: o, begin: time.Now(), up: make(chan struct{})}
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: o.Clients}
	l.caller = caller{http: &http.Client{Transport: transport}, target: l.target, options: &l.options}
	return l
}

// Close ends connections that are not in use.
func (l *Load) Close() { l.caller.http.CloseIdleConnections() }

// Serve tells where the server is, such as http://127.0.0.1:4711.
func (l *Load) Serve(endpoint string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.endpoint == "" {
		close(l.up)
	}
	l.endpoint = endpoint
}

// Down tells that there is no server: clients wait until there is.
func (l *Load) Down() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.endpoint != "" {
		l.endpoint, l.up = "", make(chan struct{})
	}
}

// target waits for a server.
func (l *Load) target(ctx context.Context) (string, error) {
	for {
		l.mu.Lock()
		endpoint, up := l.endpoint, l.up
		l.mu.Unlock()
		if endpoint != "" {
			return endpoint, nil
		}
		select {
		case <-up:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// Counts returns what was done so far.
func (l *Load) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Counts{Calls: l.calls.Load(), Unknown: l.unknown.Load(), Rounds: len(l.rounds)}
}

func (l *Load) now() int64 { return int64(time.Since(l.begin)) }

// fail notes the first answer that no server may give.
func (l *Load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure == nil {
		l.failure = err
	}
}

func (l *Load) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

// round returns the keys of now and their prefix.
func (l *Load) round() (string, []*Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tired := len(l.rounds) == 0 || l.inRound >= l.options.Rotate ||
		slices.ContainsFunc(l.rounds[len(l.rounds)-1], func(k *Key) bool { return k.doubts() >= mostDoubts })
	if tired {
		keys := make([]*Key, keysOfRound)
		for i := range keys {
			keys[i] = &Key{Name: fmt.Sprintf("%sk%d", prefix(len(l.rounds)), i)}
		}
		l.rounds, l.inRound = append(l.rounds, keys), 0
	}
	l.inRound++
	return prefix(len(l.rounds) - 1), l.rounds[len(l.rounds)-1]
}

func prefix(round int) string { return fmt.Sprintf("round-%06d/", round) }

// Run lets the clients call until there were enough calls, or ctx ends. It
// returns the first answer that no server may give.
func (l *Load) Run(ctx context.Context) error {
	var clients sync.WaitGroup
	for i := range l.options.Clients {
		c := &client{l: l, id: i, rand: rand.New(rand.NewPCG(l.options.Seed, uint64(i)))}
		clients.Go(func() {
			for ctx.Err() == nil && l.failed() == nil && l.calls.Load() < int64(l.options.Calls) {
				c.act(ctx)
			}
		})
	}
	clients.Wait()
	return l.failed()
}

// Sweep reads every key that there ever was, and lists them all.
func (l *Load) Sweep(ctx context.Context) error {
	c := &client{l: l, id: l.options.Clients, rand: rand.New(rand.NewPCG(l.options.Seed, ^uint64(0)))}
	keys := l.keys()
	for _, k := range keys {
		err := c.insist(ctx, func() Answer { return c.read(ctx, k, http.MethodGet, Input{}) })
		if err != nil {
			return fmt.Errorf("read %s: %w", k.Name, err)
		}
	}
	return c.insist(ctx, func() Answer { return c.list(ctx, "round-", keys) })
}

// insist repeats a call until it is answered.
func (c *client) insist(ctx context.Context, call func() Answer) error {
	for call() == Unknown {
		if err := c.l.failed(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(sweepWait):
		}
	}
	return c.l.failed()
}

func (l *Load) keys() []*Key {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Concat(l.rounds...)
}

// Check looks at the history of every key, for at most so long each.
func (l *Load) Check(timeout time.Duration) error {
	var errs []error
	for _, k := range l.keys() {
		if err := k.Check(timeout); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// trim cuts the quotes that listings have around an ETag.
func trim(tag string) string { return strings.Trim(tag, `"`) }
