package copies

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/bench/client"
	"github.com/ruche-storage/ruche/bench/process"
)

const (
	bucket     = "copies"
	region     = "fr-metro"
	fillers    = 16 // clients that store what is there before
	writers    = 4  // clients that write while copies change
	objectSize = 200
	keysOf     = 200 // of each writer
	// stopLimit is what is promised. A machine that others use, too, stops clients
	// by itself: stopStretch times as long as it did just before is allowed besides.
	stopLimit   = 5 * time.Second
	stopStretch = 10
	settleTime  = 2 * time.Second
	startLimit  = 5 * time.Second // of any restart; with a million objects 2 s are promised
)

// store is a server and its clients.
type store struct {
	t       *testing.T
	dir     string
	options process.Options
	server  *process.Process
	objects int
}

// newStore starts a server with objects in it.
func newStore(t *testing.T, copies string) *store {
	t.Helper()
	bin := os.Getenv("RUCHE_BIN")
	if bin == "" {
		if os.Getenv("RUCHE_REQUIRE") == "1" {
			t.Fatal("RUCHE_BIN is not set")
		}
		t.Skip("RUCHE_BIN is not set")
	}
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	objects, err := strconv.Atoi(cmp.Or(os.Getenv("RUCHE_COPY_OBJECTS"), "5000"))
	if err != nil {
		t.Fatal(err)
	}
	s := &store{t: t, dir: filepath.Join(t.TempDir(), "data"), objects: objects}
	s.options = process.Options{Bin: bin, Data: s.dir, AccessKey: "COPYTEST", SecretKey: "secret-of-the-copy-test",
		Args: []string{"--ballast", "0", "--preallocate", "1MiB", "--metadata-replicas", copies}}
	if s.server, err = process.Start(t.Context(), s.options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.server != nil {
			_ = s.server.Kill() // the test ended early and has said why
		}
	})
	s.fill()
	return s
}

func (s *store) conn() *client.Conn {
	s.t.Helper()
	c, err := client.New(client.Target{Endpoint: s.server.Endpoint, AccessKey: s.options.AccessKey, SecretKey: s.options.SecretKey, Region: region})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// body is what is stored under a key.
func body(key string, n int) *client.Body {
	text := fmt.Sprintf("%s %d;", key, n)
	return client.Bytes([]byte(strings.Repeat(text, objectSize/len(text)+1)[:objectSize]))
}

func key(i int) string { return fmt.Sprintf("filled/%03d/%07d", i%1000, i) }

// fill stores what is there before copies are changed.
func (s *store) fill() {
	s.t.Helper()
	if _, err := s.conn().Do(s.t.Context(), &client.Request{Method: http.MethodPut, Path: "/" + bucket}); err != nil {
		s.t.Fatal(err)
	}
	began := time.Now()
	var next atomic.Int64
	var clients sync.WaitGroup
	for range fillers {
		c := s.conn()
		clients.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= s.objects || s.t.Failed() {
					return
				}
				if err := insist(s.t.Context(), c, &client.Request{Method: http.MethodPut, Path: "/" + bucket + "/" + key(i), Body: body(key(i), 0)}); err != nil {
					s.t.Errorf("PUT %s: %v", key(i), err)
				}
			}
		})
	}
	clients.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
	s.t.Logf("%d objects stored in %v", s.objects, time.Since(began).Round(time.Millisecond))
}

// insist repeats a call until it succeeds, for a minute at most.
func insist(ctx context.Context, c *client.Conn, r *client.Request) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		_, err := c.Do(ctx, r)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// load is clients that write, one call after the other each, and try again what
// fails.
type load struct {
	s    *store
	stop chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex // guards what follows
	last    time.Time  // a write was acknowledged
	gap     time.Duration
	longest time.Duration
	calls   int
	stored  map[string]int // by key
}

func (s *store) load() *load {
	s.t.Helper()
	l := &load{s: s, stop: make(chan struct{}), last: time.Now(), stored: make(map[string]int)}
	for w := range writers {
		c := s.conn()
		l.done.Go(func() { l.write(c, w) })
	}
	return l
}

func (l *load) write(c *client.Conn, w int) {
	for n := 0; ; n++ {
		select {
		case <-l.stop:
			return
		default:
		}
		key := fmt.Sprintf("written/%d/%d", w, n%keysOf)
		began := time.Now()
		if err := insist(context.Background(), c, &client.Request{Method: http.MethodPut, Path: "/" + bucket + "/" + key, Body: body(key, n)}); err != nil {
			l.s.t.Errorf("PUT %s: %v", key, err)
			return
		}
		l.mu.Lock()
		l.gap = max(l.gap, time.Since(l.last))
		l.longest = max(l.longest, time.Since(began))
		l.last, l.stored[key] = time.Now(), n
		l.calls++
		l.mu.Unlock()
	}
}

// during runs a command while clients write, and returns how long it took and
// the longest time without an acknowledged write meanwhile.
func (l *load) during(args ...string) (took, gap time.Duration) {
	l.s.t.Helper()
	time.Sleep(settleTime / 4) // what came before may still have an effect
	l.mu.Lock()
	l.gap = 0
	l.mu.Unlock()
	time.Sleep(settleTime)
	l.mu.Lock()
	usual := l.gap
	l.gap, l.longest, l.calls = 0, 0, 0
	l.mu.Unlock()
	began := time.Now()
	l.s.ok(args...)
	took = time.Since(began)
	time.Sleep(settleTime)
	l.mu.Lock()
	defer l.mu.Unlock()
	gap = max(l.gap, time.Since(l.last))
	l.s.t.Logf("ruche %s: %v; %d writes, the longest took %v, longest time without one that was acknowledged %v, before that %v", strings.Join(args, " "),
		took.Round(time.Millisecond), l.calls, l.longest.Round(time.Millisecond), gap.Round(time.Millisecond), usual.Round(time.Millisecond))
	if gap > stopLimit+stopStretch*usual {
		l.s.t.Errorf("ruche %s: no write was acknowledged for %v, %v before that", strings.Join(args, " "), gap, usual)
	}
	return took, gap
}

// end ends the clients, and reads what they have written and some of what was
// there before.
func (l *load) end() {
	l.s.t.Helper()
	close(l.stop)
	l.done.Wait()
	l.s.verify(l.stored)
}

func (s *store) verify(stored map[string]int) {
	s.t.Helper()
	c := s.conn()
	check := func(key string, n int) {
		s.t.Helper()
		want := body(key, n)
		got, err := c.Do(s.t.Context(), &client.Request{Method: http.MethodGet, Path: "/" + bucket + "/" + key, Hash: true})
		if err != nil || got.SHA256 != want.SHA256 {
			s.t.Errorf("GET %s: %+v, %v; want %s", key, got, err, want.SHA256)
		}
	}
	for key, n := range stored {
		check(key, n)
	}
	step := max(s.objects/2000, 1)
	for i := 0; i < s.objects; i += step {
		check(key(i), 0)
	}
}

// ok runs a command that must succeed.
func (s *store) ok(args ...string) []byte {
	s.t.Helper()
	cmd := exec.Command(s.options.Bin, append(args, "--data", s.dir, "--admin", s.server.Admin)...)
	cmd.Env = []string{"RUCHE_ROOT_USER=" + s.options.AccessKey, "RUCHE_ROOT_PASSWORD=" + s.options.SecretKey}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("ruche %s: %v\n%s", strings.Join(args, " "), err, errs.Bytes())
	}
	return out
}

// copies is what "ruche metadata status" says.
type copies struct {
	Engine          string
	Voters, Healthy int
	Changing        string
	Stores          []struct {
		Replica int
		Path    string
	}
}

func (s *store) copies() (c copies) {
	s.t.Helper()
	if err := json.Unmarshal(s.ok("metadata", "status", "--output", "json"), &c); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// again ends the server in order, starts it once more, and reads.
func (s *store) again(stored map[string]int) {
	s.t.Helper()
	p := s.server
	s.server = nil
	if err := p.Stop(); err != nil {
		s.t.Fatal(err)
	}
	p, err := process.Start(s.t.Context(), s.options)
	if err != nil {
		s.t.Fatal(err)
	}
	s.server = p
	s.t.Logf("started again in %v", p.StartTime.Round(time.Millisecond))
	s.verify(stored)
	s.server = nil
	if err := p.Stop(); err != nil {
		s.t.Error(err)
	}
}

// TestStart measures starts with many objects, of which one in ten has shards
// on drives: after a kill, and after an orderly end.
func TestStart(t *testing.T) {
	t.Parallel()
	for _, copies := range []string{"1", "3"} {
		t.Run(copies+" copies", func(t *testing.T) {
			t.Parallel()
			s := newStore(t, copies)
			c := s.conn()
			for i := 0; i < s.objects; i += 10 {
				r := &client.Request{Method: http.MethodPut, Path: "/" + bucket + "/sharded/" + key(i), Body: client.Bytes(bytes.Repeat([]byte{byte(i)}, 20<<10))}
				if err := insist(t.Context(), c, r); err != nil {
					t.Fatal(err)
				}
			}
			var took [2]time.Duration
			for i, end := range []func(*process.Process) error{(*process.Process).Kill, (*process.Process).Stop} {
				p := s.server
				s.server = nil
				if err := end(p); err != nil {
					t.Fatal(err)
				}
				p, err := process.Start(t.Context(), s.options)
				if err != nil {
					t.Fatal(err)
				}
				s.server, took[i] = p, p.StartTime
				s.verify(nil)
			}
			t.Logf("T-START: %d objects, %d of them on drives, %s copies of the metadata: answered %v after a start that followed kill -9, %v after one that followed an orderly end",
				s.objects+s.objects/10, s.objects/10, copies, took[0].Round(time.Millisecond), took[1].Round(time.Millisecond))
			for _, d := range took {
				if d > startLimit {
					t.Errorf("a start took %v", d)
				}
			}
		})
	}
}

// TestGrowAndShrink goes from one copy to three and back while clients write.
func TestGrowAndShrink(t *testing.T) {
	t.Parallel()
	s := newStore(t, "auto") // one: all is on one device
	l := s.load()
	var gaps []time.Duration
	for _, args := range [][]string{
		{"metadata", "add", filepath.Join(s.dir, "d1"), "--wait"},
		{"metadata", "add", filepath.Join(s.dir, "d2"), "--wait"},
	} {
		_, gap := l.during(args...)
		gaps = append(gaps, gap)
	}
	c := s.copies()
	if c.Engine != "replicated" || c.Voters != 3 || c.Healthy != 3 {
		t.Errorf("grown: %+v", c)
	}
	for _, one := range c.Stores {
		if strings.HasPrefix(one.Path, s.dir+"/d") {
			_, gap := l.during("metadata", "remove", strconv.Itoa(one.Replica), "--wait")
			gaps = append(gaps, gap)
		}
	}
	if c := s.copies(); c.Engine != "local" {
		t.Errorf("shrunk: %+v", c)
	}
	l.end()
	t.Logf("from 1 copy to 3 and back with %d objects: no acknowledged write for %v, %v, %v and %v at most", s.objects,
		gaps[0].Round(time.Millisecond), gaps[1].Round(time.Millisecond), gaps[2].Round(time.Millisecond), gaps[3].Round(time.Millisecond))
	s.again(l.stored)
}

// TestNewCopy has one of three copies made anew elsewhere while clients write.
func TestNewCopy(t *testing.T) {
	t.Parallel()
	s := newStore(t, "3")
	l := s.load()
	took, gap := l.during("metadata", "replace", "1", filepath.Join(s.dir, "d6"), "--wait")
	if c := s.copies(); c.Voters != 3 || c.Healthy != 3 || len(c.Stores) != 3 {
		t.Errorf("replaced: %+v", c)
	}
	t.Logf("a new copy of %d objects under load: %v, no acknowledged write for %v at most", s.objects, took.Round(time.Millisecond), gap.Round(time.Millisecond))
	l.end()
	s.again(l.stored)
}
