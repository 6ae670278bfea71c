package devices

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
)

// load is what clients do: each writes and reads keys of its own, one call
// after the other, and tries again what fails. The buckets are in all groups of
// the metadata, so that every copy that leads is asked.
type load struct {
	ctx   context.Context // ends with the test
	large int             // every so many bodies lie on drives; 0: none
	m     *machine
	core  *minio.Core
	stop  chan struct{}
	done  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	stored  map[string][]byte
	calls   int
	again   int   // calls that were tried again
	why     error // of one of these
	longest time.Duration
	puts    []time.Duration // of the writes that were not tried again
	gets    []time.Duration // of the reads
	lastPut time.Time
	gap     time.Duration // longest time without a write that was acknowledged
}

func (m *machine) load(large int) *load {
	m.t.Helper()
	l := &load{large: large, m: m, core: m.client(), stored: make(map[string][]byte)}
	for i := range buckets {
		if err := l.core.MakeBucket(m.t.Context(), fmt.Sprintf("%s-%d", bucket, i), minio.MakeBucketOptions{Region: region}); err != nil {
			m.t.Fatal(err)
		}
	}
	var giveUp context.CancelFunc
	l.ctx, giveUp = context.WithCancel(context.Background())
	m.t.Cleanup(func() {
		giveUp()
		l.done.Wait()
	})
	l.resume()
	return l
}

// resume has the clients begin, also after halt.
func (l *load) resume() {
	l.stop, l.lastPut = make(chan struct{}), time.Now()
	for w := range writers {
		l.done.Go(func() { l.write(w) })
	}
}

// halt ends the clients.
func (l *load) halt() {
	close(l.stop)
	l.done.Wait()
}

// write is one client. Most bodies are kept in the metadata, some, if there are
// large ones, on drives.
func (l *load) write(w int) {
	random := rand.New(rand.NewPCG(uint64(w), 1))
	for n := 0; ; n++ {
		select {
		case <-l.stop:
			return
		default:
		}
		key := fmt.Sprintf("%s-%d/%d/%d", bucket, n%buckets, w, n%keys)
		size := 100 + random.IntN(4000)
		if l.large > 0 && n%l.large == 0 {
			size = 40_000 // more would fill the devices
		}
		body := bytes.Repeat([]byte(fmt.Sprintf("%d-%d;", w, n)), size/8)
		if !l.try("PUT "+key, func(ctx context.Context) error {
			in, name, _ := strings.Cut(key, "/")
			_, err := l.core.PutObject(ctx, in, name, bytes.NewReader(body), int64(len(body)), "", "", minio.PutObjectOptions{})
			return err
		}) {
			return
		}
		l.mu.Lock()
		l.stored[key] = body
		l.gap = max(l.gap, time.Since(l.lastPut))
		l.lastPut = time.Now()
		l.mu.Unlock()
		if !l.check(key, body) {
			return
		}
	}
}

// check reads a key.
func (l *load) check(key string, want []byte) bool {
	return l.try("GET "+key, func(ctx context.Context) error {
		in, name, _ := strings.Cut(key, "/")
		o, _, _, err := l.core.GetObject(ctx, in, name, minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer o.Close()
		got, err := io.ReadAll(o)
		if err == nil && !bytes.Equal(got, want) {
			l.m.t.Errorf("GET %s: %.20q of %d bytes, want %.20q of %d", key, got, len(got), want, len(want))
		}
		return err
	})
}

// try makes a call, again and again if need be.
func (l *load) try(what string, call func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(l.ctx, retryFor)
	defer cancel()
	began := time.Now()
	for attempt := 0; ; attempt++ {
		err := call(ctx)
		if err == nil {
			l.mu.Lock()
			l.calls++
			l.again += min(attempt, 1)
			l.longest = max(l.longest, time.Since(began))
			switch took := time.Since(began); {
			case attempt > 0:
			case strings.HasPrefix(what, "PUT "):
				l.puts = append(l.puts, took)
			default:
				l.gets = append(l.gets, took)
			}
			l.mu.Unlock()
			return true
		}
		l.mu.Lock()
		l.why = err
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			if l.ctx.Err() == nil {
				l.m.t.Errorf("%s fails for %v: %v", what, retryFor, err)
			}
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// passed is how clients have fared.
type passed struct {
	p50, p99 time.Duration // of writes
	get99    time.Duration // of reads, as p99
	gap      time.Duration // longest time without an acknowledged write
	longest  time.Duration // of a call, until it succeeded
	again    int           // calls that were tried again
	why      error         // of one of these
}

// pass lets clients work for a while, and tells how they have fared since the
// last pass.
func (l *load) pass(what string, d time.Duration) passed {
	l.m.t.Helper()
	l.mu.Lock()
	before := l.calls
	l.mu.Unlock()
	time.Sleep(d)
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.puts)
	var p passed
	if n := len(l.puts); n > 0 {
		p.p50, p.p99 = l.puts[n/2], l.puts[n*99/100]
	}
	slices.Sort(l.gets)
	if n := len(l.gets); n > 0 {
		p.get99 = l.gets[n*99/100]
	}
	p.again, p.why, p.gap, p.longest = l.again, l.why, max(l.gap, time.Since(l.lastPut)), l.longest
	l.m.t.Logf("%s: %d calls, %d of them tried again, the longest took %v; PUT p50 %v, p99 %v, GET p99 %v; longest time without an acknowledged PUT %v", what, l.calls-before, l.again,
		l.longest.Round(time.Millisecond), p.p50.Round(100*time.Microsecond), p.p99.Round(100*time.Microsecond), p.get99.Round(100*time.Microsecond), p.gap.Round(time.Millisecond))
	if l.calls == before {
		l.m.t.Errorf("%s: no call succeeded in %v", what, d)
	}
	l.longest, l.again, l.why, l.puts, l.gets, l.gap = 0, 0, nil, nil, nil, 0
	return p
}

// end ends the clients, and reads everything that was acknowledged.
func (l *load) end() {
	l.m.t.Helper()
	l.halt()
	l.verify()
}

func (l *load) verify() {
	l.m.t.Helper()
	l.core = l.m.client()
	var all []string
	for key := range l.stored {
		all = append(all, key)
	}
	slices.Sort(all)
	for _, key := range all {
		l.check(key, l.stored[key])
	}
}

// refused waits until a write is refused with an answer of the server that says
// why. What was refused must not be there.
func (l *load) refused(code string) {
	l.m.t.Helper()
	ctx, cancel := context.WithTimeout(l.m.t.Context(), retryFor)
	defer cancel()
	for n := 0; ; n++ {
		key := fmt.Sprintf("%s-%d/refused/%d", bucket, n%buckets, n)
		in, name, _ := strings.Cut(key, "/")
		began := time.Now()
		_, err := l.core.PutObject(ctx, in, name, strings.NewReader("x"), 1, "", "", minio.PutObjectOptions{})
		var reply minio.ErrorResponse
		switch {
		case err == nil:
			l.stored[key] = []byte("x")
		case !errors.As(err, &reply):
			l.m.t.Fatalf("PUT ends without an answer after %v: %v", time.Since(began), err)
		case reply.Code == code:
			l.m.t.Logf("PUT %d answers %s after %v: %s", n, reply.Code, time.Since(began).Round(time.Millisecond), reply.Message)
			return
		}
		if ctx.Err() != nil {
			l.m.t.Fatalf("after %v, PUT answers %v, want %s", retryFor, err, code)
		}
	}
}
