package devices

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/ruche-storage/ruche/conformance/linear"
)

// TestLinearOnDevices looks for one order of all calls while devices with copies
// hang, become slow, are cut off, fail and are replaced, and the server is
// killed between.
func TestLinearOnDevices(t *testing.T) {
	t.Parallel()
	calls, err := strconv.Atoi(cmp.Or(os.Getenv("RUCHE_LIN_OPS"), "30000"))
	if err != nil {
		t.Fatal(err)
	}
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv("RUCHE_SEED"), fmt.Sprint(rand.Uint64())), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("RUCHE_SEED=%d RUCHE_LIN_OPS=%d", seed, calls)
	m := newMachine(t, "5", 3)
	m.await("five copies", well(5))
	if err := m.client().MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{Region: region}); err != nil {
		t.Fatal(err)
	}
	l := linear.New(linear.Options{AccessKey: m.options.AccessKey, SecretKey: m.options.SecretKey, Region: region, Bucket: bucket, Seed: seed, Calls: calls, LargeBytes: 10_000})
	defer l.Close()
	l.Serve(m.server.Endpoint)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	faults := m.shake(l, rand.New(rand.NewPCG(seed, 0)))
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if err := m.server.Kill(); err != nil {
		t.Fatal(err)
	}
	m.start()
	l.Serve(m.server.Endpoint)
	if err := l.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
	if err := l.Check(time.Minute); err != nil {
		t.Fatal(err)
	}
	c := l.Counts()
	t.Logf("T-LIN: 0 anomalies in %d calls with 5 copies on devices of their own, %d of them without an answer, on %d sets of keys, while %s", c.Calls, c.Unknown, c.Rounds, faults)
}

// provoke writes until the copy on a drive has failed: a device that refuses
// writes goes unnoticed while nobody has any, and the clients may be done.
func (m *machine) provoke(drive int) {
	m.t.Helper()
	const own = "provocations"
	core, body := m.client(), make([]byte, 4<<10)
	if err := core.MakeBucket(m.t.Context(), own, minio.MakeBucketOptions{Region: region}); err != nil {
		m.t.Fatal(err)
	}
	n := 0
	m.await(fmt.Sprintf("copy on d%d fails", drive), func(c *copies) bool {
		if slices.ContainsFunc(c.Stores, func(s copyStatus) bool {
			return s.Path == filepath.Join(m.devices[drive-1].Path, "meta") && s.Health == "failed"
		}) {
			return true
		}
		for range 20 {
			n++
			key := strconv.Itoa(n % 100)
			// Whether it is stored is not what is asked here.
			_, _ = core.PutObject(m.t.Context(), own, key, bytes.NewReader(body), int64(len(body)), "", "", minio.PutObjectOptions{})
		}
		return false
	})
}

// shake has devices fail until the clients have called often enough to be
// done: some for a while, two for good.
func (m *machine) shake(l *linear.Load, random *rand.Rand) string {
	m.t.Helper()
	must := func(err error) {
		m.t.Helper()
		if err != nil {
			m.t.Fatal(err)
		}
	}
	pause := func(most time.Duration) { time.Sleep(time.Duration(random.Int64N(int64(most)))) }
	transient := func() {
		d := m.devices[random.IntN(2)] // d1 or d2
		if CanSlow() == nil && random.IntN(2) == 0 {
			must(d.Slow(slowWrites))
			pause(3 * time.Second)
			must(d.Slow(0))
			return
		}
		must(d.Freeze())
		pause(2 * time.Second)
		must(d.Thaw())
	}
	restart := func() {
		must(m.server.Kill())
		l.Down()
		m.start()
		l.Serve(m.server.Endpoint)
	}
	transient()
	pause(time.Second)
	must(m.devices[2].Fail())
	pause(3 * time.Second)
	m.provoke(3)
	transient()
	m.command("metadata", "replace", fmt.Sprint(m.copyOn(3).Replica), m.devices[5].Path)
	pause(time.Second)
	must(m.devices[3].Cut())
	pause(3 * time.Second)
	transient()
	m.command("metadata", "replace", fmt.Sprint(m.copyOn(4).Replica), m.devices[6].Path)
	pause(2 * time.Second)
	restart()
	m.await("five copies", well(5))
	transient()
	restart()
	return "two devices with copies failed and were replaced, others hung and were slow, and the server was killed"
}
