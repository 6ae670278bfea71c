package main

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/bench/client"
)

// serveStore runs a store and returns flags that name it.
func serveStore(t *testing.T, s *store) []string {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return []string{"--endpoint", server.URL, "--pid", strconv.Itoa(os.Getpid()), "--access-key", "key", "--secret-key", "secret", "--duration", "20ms", "--warm-up", "5ms"}
}

func noEnv(string) string { return "" }

// TestQuick takes every kind of step against two servers.
func TestQuick(t *testing.T) {
	t.Parallel()
	a, b := newStore(), newStore()
	args := append(serveStore(t, a), "--quick", "--clients", "3", "--sizes", "0,4KiB,1MiB", "--rounds", "2", "--list-keys", "1200", "--output", "json")
	peer := serveStore(t, b)
	results := filepath.Join(t.TempDir(), "results.md")
	args = append(args, "--peer", peer[1], "--peer-access-key", "key", "--peer-secret-key", "secret", "--results", results, "--commit", "abc", "--durability", "none")
	var out bytes.Buffer
	if err := bench(t.Context(), args, noEnv, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Steps) != 3*2+3 {
		t.Errorf("%d steps", len(r.Steps))
	}
	for _, l := range r.Steps {
		for i, s := range l.Sides {
			m := s.Median
			switch {
			case len(s.Rounds) != 2 || m.Calls == 0 || m.Rate <= 0 || m.Errors != 0 || m.P50 <= 0 || m.P99 < m.P50:
				t.Errorf("%s %s: %+v", l.Name, s.Label, m)
			case strings.Contains(l.Name, "MiB") && (s.Rounds[0].Bytes != s.Rounds[0].Calls<<20 || m.MBRate <= 0):
				t.Errorf("%s %s: %d bytes in %d calls", l.Name, s.Label, s.Rounds[0].Bytes, s.Rounds[0].Calls)
			case strings.HasPrefix(l.Name, "LIST") && m.Units < m.Calls*500:
				t.Errorf("%s %s: %d keys in %d calls", l.Name, s.Label, m.Units, m.Calls)
			case (m.PeakRSS > 0) != (i == 0):
				t.Errorf("%s %s: peak memory %v; only the first side's process is known", l.Name, s.Label, m.PeakRSS)
			}
		}
		if l.Ratios == nil || l.Ratios.Rate <= 0 || l.Ratios.P99 <= 0 {
			t.Errorf("%s: ratios %+v", l.Name, l.Ratios)
		}
	}
	if len(a.objects)+len(b.objects) > 0 {
		t.Errorf("%d objects are left", len(a.objects)+len(b.objects))
	}
	text, err := os.ReadFile(results)
	if err != nil || !strings.Contains(string(text), "* commit: abc\n") || !strings.Contains(string(text), "| PUT 4KiB c3 | A |") {
		t.Errorf("results: %v\n%s", err, text)
	}
}

func TestMultipart(t *testing.T) {
	t.Parallel()
	s := newStore()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	o := &options{bodies: make(map[bodyID]*client.Body), sides: []*side{{label: "A", target: client.Target{Endpoint: server.URL, AccessKey: "key"}}},
		duration: time.Millisecond, rounds: 1, keep: true}
	if err := o.sides[0].start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, st := range []step{{Op: opMultipart, Size: 3 << 20, Part: 1 << 20, Clients: 2}, {Op: opUpload, Size: 5 << 20, Part: 1 << 20, Clients: 3}} {
		j := newJob(o.sides[0], st, "tag-"+string(st.Op), o)
		workers, err := newWorkers(o.sides[0], st)
		if err != nil {
			t.Fatal(err)
		}
		done, err := j.call(t.Context(), workers[0])
		if err != nil || done.bytes != st.Size || done.units != 1 {
			t.Errorf("%s: %+v, %v", st, done, err)
		}
		var want []byte
		for i := range int(st.Size / st.Part) {
			body := o.body(uint64(i%manyBodies), st.Part)
			r := bodyBytes(t, body)
			want = append(want, r...)
		}
		if got := s.objects["/"+j.side.bucket+"/"+j.tag+"/new/00000000"]; !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes are stored, want %d", st, len(got), len(want))
		}
		for _, w := range workers {
			w.conn.Close()
		}
	}
}

// bodyBytes returns the bytes of a body as a server gets them.
func bodyBytes(t *testing.T, body *client.Body) []byte {
	t.Helper()
	s := newStore()
	server := httptest.NewServer(s)
	defer server.Close()
	c, err := client.New(client.Target{Endpoint: server.URL, AccessKey: "key"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Do(t.Context(), &client.Request{Method: "PUT", Path: "/b/k", Body: body}); err != nil {
		t.Fatal(err)
	}
	return s.objects["/b/k"]
}

// TestErrorsShow plants what must make a run fail.
func TestErrorsShow(t *testing.T) {
	t.Parallel()
	damaged, slow := newStore(), newStore()
	damaged.damage, slow.refuse = "/", "GET"
	for _, c := range []struct {
		name  string
		store *store
		args  []string
		want  string
	}{
		{"wrong bytes", damaged, []string{"--steps", "^GET 1MiB"}, "wrong answer"},
		{"refused", slow, []string{"--steps", "^GET 4KiB"}, "answer 503 SlowDown: of the test"},
		{"access", newStore(), []string{"--access-key", "other", "--steps", "^HEAD"}, "answer 403 AccessDenied"},
		{"allowed", slow, []string{"--steps", "^GET 4KiB", "--allow-errors", "1"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			args := append(append(serveStore(t, c.store), "--quick", "--duration", "100ms"), c.args...)
			err := bench(t.Context(), args, noEnv, io.Discard, io.Discard)
			if c.want == "" && err != nil {
				t.Errorf("error %v", err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		want string // part of the error; "": none
	}{
		{"--serve ruche", ""},
		{"--serve ruche --peer-serve ruche --sizes 1B,5MiB --clients 3", ""},
		{"--endpoint http://h:1 --peer https://h:2", ""},
		{"--list", ""},
		{"", "name a server"},
		{"--serve x surplus", "surplus"},
		{"--serve x --sizes 1MB", "1MB"},
		{"--serve x --sizes 9999999TiB", "9999999TiB"},
		{"--serve x --clients 0", "clients"},
		{"--serve x --clients 1,a", "clients"},
		{"--serve x --steps (", "missing closing"},
		{"--serve x --steps nothing", "no step matches"},
		{"--serve x --payload md5", "not one of"},
		{"--serve x --output xml", "neither table nor json"},
		{"--serve x --rounds 0", "above 0"},
		{"--serve x --delete-objects 0", "above 0"},
		{"--endpoint h:1", "not http://"},
		{"--serve x --peer h:1", "not http://"},
	} {
		o, err := parseOptions(strings.Fields(c.args), noEnv, io.Discard)
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q: %v, want %q", c.args, err, c.want)
		}
		if err == nil && len(o.chosen) == 0 {
			t.Errorf("%q: no steps", c.args)
		}
	}
	env := map[string]string{"S3_ENDPOINT": "http://h:1/", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "s", "S3_REGION": "r"}
	o, err := parseOptions([]string{"--quick", "--peer", "http://h:2"}, func(n string) string { return env[n] }, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if want := (client.Target{Endpoint: "http://h:1", AccessKey: "a", SecretKey: "s", Region: "r"}); o.sides[0].target != want {
		t.Errorf("target %+v, want %+v", o.sides[0].target, want)
	}
	if want := (client.Target{Endpoint: "http://h:2", Region: "fr-metro"}); o.sides[1].target != want {
		t.Errorf("peer %+v, want %+v", o.sides[1].target, want)
	}
}

func TestSteps(t *testing.T) {
	t.Parallel()
	names := func(match string) (out []string) {
		for _, s := range choose(matrix([]int64{4 * kib, 64 * mib}, []int{1, 8}, client.Unsigned, true), regexp.MustCompile(match)) {
			out = append(out, s.String())
		}
		return out
	}
	for match, want := range map[string][]string{
		"^GET":       {"GET 4KiB c1", "GET 4KiB c8", "GET 64MiB c1", "GET 64MiB c8", "GET 1GiB c1"},
		"MULTI.*c8":  {"MULTIPART 64MiB/16MiB c8 unsigned"},
		"1GiB":       {"PUT 1GiB c1 unsigned", "GET 1GiB c1", "UPLOAD 1GiB/16MiB c8 unsigned"},
		"^(HE|D).*8": {"HEAD c8", "DELETE c8"},
	} {
		if got := names(match); !slices.Equal(got, want) {
			t.Errorf("%q chooses %q, want %q", match, got, want)
		}
	}
	for text, want := range map[string]int64{"0": 0, "7": 7, "7B": 7, "4KiB": 4096, "3MiB": 3 << 20, "1GiB": 1 << 30} {
		if got, err := parseSize(text); got != want || err != nil {
			t.Errorf("parseSize(%q) = %d, %v", text, got, err)
		}
		if got, err := parseSize(formatSize(want)); got != want || err != nil {
			t.Errorf("%q comes back as %d, %v", formatSize(want), got, err)
		}
	}
}

func TestQuantiles(t *testing.T) {
	t.Parallel()
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = i + 1
	}
	for _, c := range []struct {
		values []int
		q      float64
		want   int
	}{
		{hundred, 0.5, 50}, {hundred, 0.9, 90}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred, 0, 1},
		{[]int{7}, 0.5, 7}, {[]int{7}, 0.99, 7}, {[]int{1, 2}, 0.5, 1}, {[]int{1, 2}, 0.51, 2}, {nil, 0.5, 0},
	} {
		if got := quantile(c.values, c.q); got != c.want {
			t.Errorf("quantile of %d values at %v = %d, want %d", len(c.values), c.q, got, c.want)
		}
	}
	if got := median([]float64{9, 1, 5}); got != 5 {
		t.Errorf("median = %v", got)
	}
	if got := median([]float64{4, 1, 2, 9}); got != 3 {
		t.Errorf("median of four = %v", got)
	}
	// The median of ratios is not the ratio of medians: pairs count.
	if got := ratio([]float64{10, 100, 30}, []float64{5, 100, 10}); got != 2 {
		t.Errorf("ratio = %v, want 2", got)
	}
	for _, bad := range [][2][]float64{{{1}, {0}}, {{1, 2}, {1}}, {nil, nil}} {
		if got := ratio(bad[0], bad[1]); !math.IsNaN(got) {
			t.Errorf("ratio of %v = %v", bad, got)
		}
	}
}

func TestSample(t *testing.T) {
	t.Parallel()
	tl := &tally{units: 4, bytes: 2 * gib, latencies: []time.Duration{4e6, 1e6, 3e6, 2e6}}
	got := newSample(tl, cost{elapsed: 2 * time.Second, server: 3 * time.Second, client: time.Second, peak: 5 * mib})
	want := sample{Calls: 4, Units: 4, Bytes: 2 * gib, Seconds: 2, Rate: 2, MBRate: float64(gib) / 1e6, P50: 2, P90: 4, P99: 4, Max: 4,
		CPU: 3, CPUUnit: 750, CPUGiB: 1.5, CPU1000: 750, PeakRSS: 5, ClientCPU: 250}
	if got != want {
		t.Errorf("sample\n%+v, want\n%+v", got, want)
	}
	if empty := newSample(&tally{}, cost{}); empty != (sample{}) {
		t.Errorf("sample of nothing: %+v", empty)
	}
	m := medians([]sample{{Rate: 1, CPUUnit: 5, Errors: 1}, {Rate: 3, CPUUnit: 1, Errors: 1}, {Rate: 2, CPUUnit: 9}})
	if m.Rate != 2 || m.CPUUnit != 5 || m.Errors != 2 {
		t.Errorf("medians %+v", m)
	}
}

func TestFigure(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "-", 0.00004: "0.0000", 0.0123: "0.0123", 0.5: "0.500", 1: "1.00", 12.34: "12.3", 99.96: "100.0", 123.6: "124", 4567: "4567", math.NaN(): "-"} {
		if got := figure(v); got != want {
			t.Errorf("figure(%v) = %s, want %s", v, got, want)
		}
	}
}

func TestMachine(t *testing.T) {
	t.Parallel()
	m := readMachine(t.TempDir(), 8<<20)
	if m.CPU == "" || m.Processors < 1 || m.MemoryGiB <= 0 || m.MD5 <= 0.01 || m.Sync <= 0 || m.Kernel == "" || m.FileSystem == "" {
		t.Errorf("machine %+v", m)
	}
	if got := measureSync("/nonexistent", 1); got != 0 {
		t.Errorf("a directory that does not exist syncs in %v ms", got)
	}
}
