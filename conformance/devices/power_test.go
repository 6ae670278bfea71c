package devices

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/ruche-storage/ruche/conformance/linear"
)

const (
	defaultCuts = 34 // of each: 102 in all
	powerDrives = 6
	xfsBytes    = 320 << 20 // xfs makes none much smaller
	cutLoad     = 300 * time.Millisecond
)

// TestPowerCuts is T-PWR: the power of all devices, that of the state directory
// too, fails at once under load, again and again. What was acknowledged is there
// afterwards, and all calls have one order.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind, copies string
		size         int64
	}{{"ext4", "1", deviceBytes}, {"ext4", "3", deviceBytes}, {"xfs", "3", xfsBytes}} {
		t.Run(c.kind+" "+c.copies, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath("mkfs." + c.kind); err != nil {
				t.Skip(err)
			}
			cuts, err := strconv.Atoi(cmp.Or(os.Getenv("RUCHE_CUTS"), strconv.Itoa(defaultCuts)))
			if err != nil {
				t.Fatal(err)
			}
			seed, err := strconv.ParseUint(cmp.Or(os.Getenv("RUCHE_SEED"), fmt.Sprint(rand.Uint64())), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("RUCHE_SEED=%d RUCHE_CUTS=%d", seed, cuts)
			cutPower(t, c.kind, c.copies, c.size, cuts, seed)
		})
	}
}

func cutPower(t *testing.T, kind, copies string, size int64, cuts int, seed uint64) {
	m := newPowered(t, kind, copies, size)
	if err := m.client().MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{Region: region}); err != nil {
		t.Fatal(err)
	}
	l := linear.New(linear.Options{AccessKey: m.options.AccessKey, SecretKey: m.options.SecretKey, Region: region, Bucket: bucket, Seed: seed, Calls: 1 << 40})
	defer l.Close()
	l.Serve(m.server.Endpoint)
	ctx, end := context.WithCancel(t.Context())
	defer end()
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	random := rand.New(rand.NewPCG(seed, 0))
	var restarts []time.Duration
	for range cuts {
		time.Sleep(time.Duration(random.Int64N(int64(cutLoad)))) // the moment itself is what is tested
		m.cutAll()
		l.Down()
		m.powerOn()
		m.suspectsNothing()
		l.Serve(m.server.Endpoint)
		restarts = append(restarts, m.server.StartTime)
	}
	end()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if err := l.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
	if err := l.Check(time.Minute); err != nil {
		t.Fatal(err)
	}
	slices.Sort(restarts)
	counts := l.Counts()
	t.Logf("T-PWR: %d times all devices cut off at once (%s, %s copies of the metadata): 0 acknowledged lost, 0 anomalies in %d calls, %d of them without an answer; start p50 %v, most %v",
		cuts, kind, copies, counts.Calls, counts.Unknown, restarts[len(restarts)/2].Round(time.Millisecond), restarts[len(restarts)-1].Round(time.Millisecond))
}

// suspectsNothing looks whether the last start took what a power cut leaves for
// metadata of an earlier time. What it logged is lost with the next cut.
func (m *machine) suspectsNothing() {
	log, err := os.ReadFile(m.options.Data + ".log")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, line := range bytes.Split(log, []byte("\n")) {
		if bytes.Contains(line, []byte("put back to an earlier time")) || bytes.Contains(line, []byte("resume-collection")) {
			m.t.Errorf("the server logged: %s", line)
		}
	}
}

// newPowered starts a server all of whose files lie on devices: the last is that
// of the state directory.
func newPowered(t *testing.T, kind, copies string, size int64) *machine {
	t.Helper()
	bin := possible(t)
	m := &machine{t: t, home: memory(t)}
	for i := range powerDrives + 1 {
		d, err := Make(m.home, fmt.Sprintf("d%d", i+1), kind, size)
		if err != nil {
			missing(t, fmt.Sprintf("no devices here: %v", err))
		}
		t.Cleanup(func() {
			if err := d.Remove(); err != nil {
				t.Error(err)
			}
		})
		m.devices = append(m.devices, d)
		m.options.Drives = append(m.options.Drives, d.Path)
	}
	m.options.Drives = m.options.Drives[:powerDrives]
	m.options.Bin, m.options.Data, m.options.AccessKey, m.options.SecretKey = bin, filepath.Join(m.devices[powerDrives].Path, "data"), "DEVICETEST", "secret-of-the-device-test"
	m.options.Args = []string{"--ballast", "0", "--preallocate", "1MiB", "--trash-grace", "1s", "--metadata-replicas", copies}
	m.start()
	t.Cleanup(m.end)
	return m
}

// cutAll cuts all devices off while the server stands still, so that it is one
// moment for all of them, and ends the server.
func (m *machine) cutAll() {
	m.t.Helper()
	if err := syscall.Kill(m.server.PID, syscall.SIGSTOP); err != nil {
		m.t.Fatal(err)
	}
	for _, d := range m.devices {
		if err := d.Cut(); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := m.server.Kill(); err != nil {
		m.t.Fatal(err)
	}
}

// powerOn mounts all devices again and starts the server.
func (m *machine) powerOn() {
	m.t.Helper()
	for _, d := range m.devices {
		if err := d.Unmount(); err != nil {
			m.t.Fatal(err)
		}
		if err := d.Mount(); err != nil {
			m.t.Fatal(err)
		}
	}
	m.start()
}
