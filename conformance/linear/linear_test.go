package linear

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/ruche-storage/ruche/bench/process"
)

const (
	defaultCalls = 10_000
	region       = "fr-metro"
	bucket       = "linear"
	upLimit      = 1500 * time.Millisecond // longest time between two faults
	stopLimit    = 3 * time.Second         // longest stop by SIGSTOP
	checkLimit   = time.Minute             // of one key
)

// TestLinear is T-LIN on one machine.
func TestLinear(t *testing.T) {
	t.Parallel()
	bin := os.Getenv("RUCHE_BIN")
	if bin == "" {
		if os.Getenv("RUCHE_REQUIRE") == "1" {
			t.Fatal("RUCHE_BIN is not set")
		}
		t.Skip("RUCHE_BIN is not set")
	}
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	seed := number(t, "RUCHE_SEED", rand.Uint64())
	calls := int(number(t, "RUCHE_LIN_OPS", defaultCalls))
	t.Logf("RUCHE_SEED=%d RUCHE_LIN_OPS=%d RUCHE_METADATA_REPLICAS=%s", seed, calls, os.Getenv("RUCHE_METADATA_REPLICAS"))
	n := newNemesis(t, bin, seed)
	n.start()
	n.makeBucket()
	l := New(Options{AccessKey: n.options.AccessKey, SecretKey: n.options.SecretKey, Region: region, Bucket: bucket, Seed: seed, Calls: calls})
	defer l.Close()
	n.load = l
	l.Serve(n.server.Endpoint)
	ran := make(chan error, 1)
	go func() { ran <- l.Run(t.Context()) }()
	began := time.Now()
	for running := true; running; {
		select {
		case err := <-ran:
			if err != nil {
				t.Error(err)
			}
			running = false
		case <-time.After(n.moment()):
			n.strike()
		}
	}
	took := time.Since(began)
	n.kill() // what was lost is lost now
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := l.Sweep(ctx); err != nil {
		t.Error(err)
	}
	if err := n.server.Stop(); err != nil {
		t.Error(err)
	}
	began = time.Now()
	if err := l.Check(checkLimit); err != nil {
		t.Fatalf("%v\nwhat the server has left is in %s", err, n.home)
	}
	c := l.Counts()
	t.Logf("T-LIN: 0 anomalies in %d calls in %v with %s, %d of them without an answer, on %d sets of keys; %v; checked in %v",
		c.Calls, took.Round(time.Second), copies(), c.Unknown, c.Rounds, n, time.Since(began).Round(time.Millisecond))
	if c.Calls < int64(calls) || n.kills == 0 {
		t.Error("the test does not load the server, or never killed it")
	}
}

// copies says how many copies of the metadata there are.
func copies() string {
	return cmp.Or(os.Getenv("RUCHE_METADATA_REPLICAS"), "auto") + " copies of the metadata"
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

// nemesis ends and stops a server, and starts it again.
type nemesis struct {
	t       *testing.T
	rand    *rand.Rand
	options process.Options
	home    string
	load    *Load
	server  *process.Process

	kills, terms, stops, early int
	restarts                   []time.Duration
}

func newNemesis(t *testing.T, bin string, seed uint64) *nemesis {
	t.Helper()
	home, err := os.MkdirTemp("", "ruche-linear-")
	if err != nil {
		t.Fatal(err)
	}
	n := &nemesis{t: t, rand: rand.New(rand.NewPCG(seed, ^uint64(1))), home: home}
	n.options = process.Options{
		Bin: bin, Data: filepath.Join(home, "data"), AccessKey: "LINEARTEST", SecretKey: "secret-of-the-linear-test",
		// What was deleted is collected while the test runs, too.
		Args: []string{"--ballast", "0", "--trash-grace", "1s", "--preallocate", "1MiB"},
	}
	t.Cleanup(func() {
		if n.server != nil {
			select {
			case <-n.server.Exited():
			default:
				// The test ended early and has said why.
				_ = n.server.Kill()
			}
		}
		if !t.Failed() {
			if err := os.RemoveAll(home); err != nil {
				t.Error(err)
			}
		}
	})
	return n
}

func (n *nemesis) start() {
	n.t.Helper()
	p, err := process.Start(n.t.Context(), n.options)
	if err != nil {
		n.t.Fatal(err)
	}
	n.server = p
	n.restarts = append(n.restarts, p.StartTime)
	if n.load != nil {
		n.load.Serve(p.Endpoint)
	}
}

func (n *nemesis) makeBucket() {
	n.t.Helper()
	core, err := minio.NewCore(strings.TrimPrefix(n.server.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(n.options.AccessKey, n.options.SecretKey, ""), Region: region, BucketLookup: minio.BucketLookupPath,
	})
	if err == nil {
		err = core.MakeBucket(n.t.Context(), bucket, minio.MakeBucketOptions{Region: region})
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// moment returns how long to wait before the next fault, at any scale.
func (n *nemesis) moment() time.Duration {
	if n.rand.IntN(2) == 0 {
		return time.Duration(n.rand.Int64N(int64(upLimit)))
	}
	scale := time.Millisecond << n.rand.IntN(10)
	return scale + time.Duration(n.rand.Int64N(int64(scale)))
}

// strike has one fault happen.
func (n *nemesis) strike() {
	n.t.Helper()
	switch x := n.rand.IntN(20); {
	case x < 13:
		n.kill()
	case x < 15:
		n.terms++
		err := n.server.Stop()
		n.load.Down()
		if err != nil {
			n.t.Fatal(err)
		}
		n.start()
	default:
		n.stop()
	}
}

// kill kills the server and starts it again, now and then only to kill it on
// its way, too.
func (n *nemesis) kill() {
	n.t.Helper()
	n.kills++
	err := n.server.Kill()
	n.load.Down()
	if err != nil {
		n.t.Fatal(err)
	}
	if n.rand.IntN(8) == 0 {
		n.early++
		p, err := process.Launch(n.options)
		if err != nil {
			n.t.Fatal(err)
		}
		time.Sleep(time.Duration(n.rand.Int64N(int64(250 * time.Millisecond))))
		if err := p.Kill(); err != nil {
			n.t.Fatalf("killed while it started: %v", err)
		}
	}
	n.start()
}

// stop has the server stand still, most often not for long, and has it go on or
// kills it.
func (n *nemesis) stop() {
	n.t.Helper()
	n.stops++
	if err := syscall.Kill(n.server.PID, syscall.SIGSTOP); err != nil {
		n.t.Fatal(err)
	}
	scale := int64(stopLimit) >> n.rand.IntN(8)
	time.Sleep(time.Duration(n.rand.Int64N(scale)))
	if n.rand.IntN(4) == 0 {
		n.kill()
		return
	}
	if err := syscall.Kill(n.server.PID, syscall.SIGCONT); err != nil {
		n.t.Fatal(err)
	}
}

// String says what was done.
func (n *nemesis) String() string {
	times := slices.Sorted(slices.Values(n.restarts[1:]))
	at := func(q float64) time.Duration {
		return times[min(int(q*float64(len(times))), len(times)-1)].Round(time.Millisecond)
	}
	return fmt.Sprintf("%d times killed (%d more while it started), %d told to end, %d stopped; restart p50 %v, p99 %v, most %v",
		n.kills, n.early, n.terms, n.stops, at(0.5), at(0.99), at(1))
}
