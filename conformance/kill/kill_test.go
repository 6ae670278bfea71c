package kill

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/bench/process"
)

const (
	defaultKills = 50
	servers      = 3                      // that are killed at the same time
	loadTime     = 300 * time.Millisecond // longest load before a kill
	restartLimit = 5 * time.Second        // RELIABILITY: a restart takes at most that long
	wholeEvery   = 10                     // every so many kills all keys are read, not only those written to
	startKills   = 7                      // every so many kills the restart is killed too
	// spaceSlack is what the open segments of six drives and the log of the
	// metadata may have set aside at the end.
	spaceSlack = 1 << 30
)

// TestKill is T-KILL in its short form. Several servers are killed at the same
// time, as each waits for its devices most of the time.
func TestKill(t *testing.T) {
	t.Parallel()
	bin := os.Getenv("RUCHE_BIN")
	if bin == "" {
		if os.Getenv("RUCHE_REQUIRE") == "1" {
			t.Fatal("RUCHE_BIN is not set")
		}
		t.Skip("RUCHE_BIN is not set")
	}
	if testing.Short() {
		t.Skip("takes minutes")
	}
	kills := int(number(t, "RUCHE_KILLS", defaultKills))
	seed := number(t, "RUCHE_SEED", rand.Uint64())
	t.Logf("RUCHE_SEED=%d RUCHE_KILLS=%d", seed, kills)
	began := time.Now()
	all := make([]*harness, min(servers, kills))
	t.Run("servers", func(t *testing.T) {
		for i := range all {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				all[i] = newHarness(t, bin, seed+uint64(i))
				all[i].run((kills + i) / len(all))
			})
		}
	})
	if !t.Failed() {
		report(t, all, time.Since(began))
	}
}

// run kills the server and compares what it holds, again and again.
func (h *harness) run(kills int) {
	h.start()
	if err := h.client().MakeBucket(h.t.Context(), bucket, makeOptions()); err != nil {
		h.t.Fatalf("make bucket: %v", err)
	}
	for i := range kills {
		h.killUnderLoad(i)
		h.start()
		h.verify(i%wholeEvery == wholeEvery-1 || i == kills-1)
		if h.t.Failed() {
			h.t.Fatalf("after kill %d; what the server has left is in %s", i+1, h.home)
		}
	}
	h.weigh()
	if err := h.server.Stop(); err != nil {
		h.t.Error(err)
	}
	h.suspectsNothing()
}

// suspectsNothing looks whether a start took what a kill leaves for metadata of
// an earlier time.
func (h *harness) suspectsNothing() {
	log, err := os.ReadFile(h.options.Data + ".log")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, line := range bytes.Split(log, []byte("\n")) {
		if bytes.Contains(line, []byte("put back to an earlier time")) || bytes.Contains(line, []byte("resume-collection")) {
			h.t.Errorf("the server logged: %s", line)
		}
	}
}

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// harness is a server, its writers and what must be true.
type harness struct {
	t       *testing.T
	options process.Options
	home    string
	rand    *rand.Rand
	model   *Model
	writers []*writer

	dying    atomic.Bool // the server is being killed: calls may fail
	server   *process.Process
	restarts []time.Duration
	load     time.Duration // sum of the times under load
}

func newHarness(t *testing.T, bin string, seed uint64) *harness {
	t.Helper()
	home, err := os.MkdirTemp("", "ruche-kill-")
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{t: t, home: home, rand: rand.New(rand.NewPCG(seed, 0)), model: NewModel()}
	h.options = process.Options{
		Bin: bin, Data: filepath.Join(home, "data"), AccessKey: "KILLTEST", SecretKey: "secret-of-the-kill-test",
		// What was deleted is collected while the test runs, too.
		Args: []string{"--ballast", "0", "--trash-grace", "1s"},
	}
	for i := range writers {
		h.writers = append(h.writers, &writer{h: h, id: i, rand: rand.New(rand.NewPCG(seed, uint64(i)+1))})
	}
	t.Cleanup(func() {
		if h.server != nil {
			select {
			case <-h.server.Exited():
			default:
				// The test ended early and has said why.
				_ = h.server.Kill()
			}
		}
		if !t.Failed() {
			if err := os.RemoveAll(home); err != nil {
				t.Error(err)
			}
		}
	})
	return h
}

// start starts the server and waits until it is ready.
func (h *harness) start() {
	h.t.Helper()
	p, err := process.Start(h.t.Context(), h.options)
	if err != nil {
		h.t.Fatal(err)
	}
	h.server = p
	h.restarts = append(h.restarts, p.StartTime)
}

// moment returns how long to wait before a kill: half of the time anywhere in
// the load, half of the time near its beginning, at any scale down to 100 us.
func (h *harness) moment() time.Duration {
	if h.rand.IntN(2) == 0 {
		return time.Duration(h.rand.Int64N(int64(loadTime)))
	}
	scale := 100 * time.Microsecond << h.rand.IntN(11)
	return scale + time.Duration(h.rand.Int64N(int64(scale)))
}

// killUnderLoad lets all writers write and kills the server. Every so often it
// starts the server again only to kill it on its way.
func (h *harness) killUnderLoad(i int) {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	defer cancel()
	client := h.client()
	h.dying.Store(false)
	done := make(chan error, len(h.writers))
	for _, w := range h.writers {
		go func() { done <- w.write(ctx, client) }()
	}
	wait := h.moment()
	h.load += wait
	time.Sleep(wait) // the moment itself is what is tested
	h.dying.Store(true)
	killed := h.server.Kill()
	cancel()
	for range h.writers {
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	}
	if killed != nil {
		h.t.Fatal(killed)
	}
	if i%startKills != startKills-1 {
		return
	}
	p, err := process.Launch(h.options)
	if err != nil {
		h.t.Fatal(err)
	}
	time.Sleep(time.Duration(h.rand.Int64N(int64(250 * time.Millisecond))))
	if err := p.Kill(); err != nil {
		h.t.Fatalf("killed while it started: %v", err)
	}
}

// report prints what was done and checks the time of restarts.
func report(t *testing.T, all []*harness, took time.Duration) {
	t.Helper()
	var calls, acked, refused int
	var load time.Duration
	var times []time.Duration
	for _, h := range all {
		for _, w := range h.writers {
			calls, acked, refused = calls+w.calls, acked+w.acked, refused+w.refused
		}
		load += h.load
		times = append(times, h.restarts[1:]...) // the first start makes the store
	}
	slices.Sort(times)
	at := func(q float64) time.Duration { return times[min(int(q*float64(len(times))), len(times)-1)] }
	t.Logf("T-KILL: %d kills with %s copies of the metadata under %v of load: 0 lost, 0 wrong bytes; %d calls, %d acknowledged, %d answered with 5xx; restart p50 %v, p99 %v, most %v; %v a kill",
		len(times), cmp.Or(os.Getenv("RUCHE_METADATA_REPLICAS"), "auto"), load.Round(time.Millisecond), calls, acked, refused,
		at(0.5).Round(time.Millisecond), at(0.99).Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond), (took / time.Duration(len(times))).Round(time.Millisecond))
	if p99 := at(0.99); p99 > restartLimit {
		t.Errorf("restart p99 %v, want at most %v", p99, restartLimit)
	}
	if acked < len(times) {
		t.Errorf("%d calls were acknowledged in %d rounds: the test does not load the server", acked, len(times))
	}
}

// weigh compares what the server's files occupy with what they hold.
func (h *harness) weigh() {
	stored, occupied := h.space()
	h.t.Logf("the files of the server are %d MiB long and occupy %d MiB", stored>>20, occupied>>20)
	if occupied > stored+spaceSlack {
		h.t.Errorf("%d MiB are occupied beyond the ends of files: every restart leaves some", (occupied-stored)>>20)
	}
}

// space returns how long the server's files are together, and what they occupy.
func (h *harness) space() (stored, occupied int64) {
	err := filepath.WalkDir(h.options.Data, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || entry.Name() == "ballast" { // that of a copy of the metadata is all behind its end
			return ignoreGone(err)
		}
		info, err := entry.Info()
		if err != nil {
			return ignoreGone(err)
		}
		stored += info.Size()
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			occupied += stat.Blocks * 512 // the unit of stat(2)
		}
		return nil
	})
	if err != nil {
		h.t.Error(err)
	}
	return stored, occupied
}

// ignoreGone drops the error of a file that the server removed meanwhile.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// key names one of a writer's keys.
func (w *writer) key(i int) string { return fmt.Sprintf("writer-%d/key-%02d", w.id, i) }
