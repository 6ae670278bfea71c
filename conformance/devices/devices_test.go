package devices

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/ruche-storage/ruche/bench/process"
	"github.com/ruche-storage/ruche/conformance"
)

const (
	drives      = 8 // 5+3: with two away, writes go on
	deviceBytes = 192 << 20
	bucket      = "devices"
	region      = "fr-metro"
	writers     = 4
	keys        = 40 // of a writer
	// retryFor is how long a client tries a call again: a change of leaders may
	// take 3 s, and a hanging device 5 s to be given up.
	retryFor = 20 * time.Second
)

// machine is a server on devices of its own.
type machine struct {
	t       *testing.T
	home    string
	devices []*Device
	options process.Options
	server  *process.Process
}

// newMachine makes devices and starts a server on them. State directory and
// drives are on nine devices, so there are five copies of the metadata: on the
// first five drives.
func newMachine(t *testing.T) *machine {
	t.Helper()
	bin := os.Getenv("RUCHE_BIN")
	if bin == "" {
		missing(t, "RUCHE_BIN is not set")
	}
	if testing.Short() {
		t.Skip("takes a minute")
	}
	if err := Possible(); err != nil {
		t.Skip(err)
	}
	m := &machine{t: t, home: t.TempDir()}
	for i := range drives {
		d, err := Make(m.home, fmt.Sprintf("d%d", i+1), deviceBytes)
		if err != nil {
			missing(t, fmt.Sprintf("no devices here: %v", err))
		}
		t.Cleanup(func() {
			if err := d.Unmount(); err != nil {
				t.Error(err)
			}
		})
		m.devices = append(m.devices, d)
		m.options.Drives = append(m.options.Drives, d.Path)
	}
	m.options.Bin, m.options.Data, m.options.AccessKey, m.options.SecretKey = bin, filepath.Join(m.home, "data"), "DEVICETEST", "secret-of-the-device-test"
	m.options.Args = []string{"--ballast", "0", "--preallocate", "1MiB", "--metadata-replicas", "auto"}
	m.start()
	t.Cleanup(func() {
		select {
		case <-m.server.Exited():
		default:
			// The test ended early and has said why.
			_ = m.server.Kill()
		}
	})
	return m
}

// missing skips the test, or fails it if everything is required.
func missing(t *testing.T, reason string) {
	t.Helper()
	if conformance.Required() {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

func (m *machine) start() {
	m.t.Helper()
	var err error
	if m.server, err = process.Start(m.t.Context(), m.options); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) client() *minio.Core {
	m.t.Helper()
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: writers, ResponseHeaderTimeout: retryFor}
	m.t.Cleanup(transport.CloseIdleConnections)
	core, err := minio.NewCore(strings.TrimPrefix(m.server.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(m.options.AccessKey, m.options.SecretKey, ""), Region: region,
		Transport: transport, MaxRetries: 1, BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return core
}

// command runs a command of the program against the server.
func (m *machine) command(args ...string) []byte {
	m.t.Helper()
	cmd := exec.Command(m.options.Bin, append(args, "--data", m.options.Data, "--admin", m.server.Admin)...)
	cmd.Env = []string{"RUCHE_ROOT_USER=" + m.options.AccessKey, "RUCHE_ROOT_PASSWORD=" + m.options.SecretKey}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		m.t.Fatalf("ruche %s: %v\n%s", strings.Join(args, " "), err, errs.Bytes())
	}
	return out
}

// copies is what "ruche metadata status" says.
type copies struct {
	Voters, Healthy, Leaderless int
	MayLose                     int `json:"may_lose"`
	Changing                    string
	Stores                      []struct {
		Replica              int
		Path, Health, Reason string
	}
}

// await waits until the copies are as they should be.
func (m *machine) await(what string, ok func(c *copies) bool) {
	m.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		var c copies
		if err := json.Unmarshal(m.command("metadata", "status", "--output", "json"), &c); err != nil {
			m.t.Fatal(err)
		}
		if ok(&c) {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: %+v", what, c)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func well(n int) func(*copies) bool {
	return func(c *copies) bool {
		return c.Voters == n && c.Healthy == n && len(c.Stores) == n && c.Leaderless == 0 && c.Changing == ""
	}
}

// health waits until the copy on a drive is said to be so.
func (m *machine) health(drive int, want string) {
	m.t.Helper()
	m.await(fmt.Sprintf("copy on d%d is %s", drive, want), func(c *copies) bool {
		for _, s := range c.Stores {
			if s.Path == filepath.Join(m.devices[drive-1].Path, "meta") {
				return s.Health == want
			}
		}
		return false
	})
}

// load is what clients do: each writes and reads keys of its own, one call
// after the other, and tries again what fails.
type load struct {
	large bool // some bodies lie on drives
	m     *machine
	core  *minio.Core
	stop  chan struct{}
	done  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	stored  map[string][]byte
	calls   int
	again   int // calls that were tried again
	longest time.Duration
}

func (m *machine) load(large bool) *load {
	m.t.Helper()
	l := &load{large: large, m: m, core: m.client(), stop: make(chan struct{}), stored: make(map[string][]byte)}
	if err := l.core.MakeBucket(m.t.Context(), bucket, minio.MakeBucketOptions{Region: region}); err != nil {
		m.t.Fatal(err)
	}
	for w := range writers {
		l.done.Go(func() { l.write(w) })
	}
	return l
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
		key := fmt.Sprintf("%d/%d", w, n%keys)
		size := 100 + random.IntN(4000)
		if l.large && n%8 == 0 {
			size = 100_000
		}
		body := bytes.Repeat([]byte(fmt.Sprintf("%d-%d;", w, n)), size/8)
		if !l.try("PUT "+key, func(ctx context.Context) error {
			_, err := l.core.PutObject(ctx, bucket, key, bytes.NewReader(body), int64(len(body)), "", "", minio.PutObjectOptions{})
			return err
		}) {
			return
		}
		l.mu.Lock()
		l.stored[key] = body
		l.mu.Unlock()
		if !l.check(key, body) {
			return
		}
	}
}

// check reads a key.
func (l *load) check(key string, want []byte) bool {
	return l.try("GET "+key, func(ctx context.Context) error {
		o, _, _, err := l.core.GetObject(ctx, bucket, key, minio.GetObjectOptions{})
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
	ctx, cancel := context.WithTimeout(context.Background(), retryFor)
	defer cancel()
	began := time.Now()
	for attempt := 0; ; attempt++ {
		err := call(ctx)
		if err == nil {
			l.mu.Lock()
			l.calls++
			l.again += min(attempt, 1)
			l.longest = max(l.longest, time.Since(began))
			l.mu.Unlock()
			return true
		}
		select {
		case <-ctx.Done():
			l.m.t.Errorf("%s fails for %v: %v", what, retryFor, err)
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// pass lets clients work for a while, and tells how they have fared since the
// last pass.
func (l *load) pass(what string, d time.Duration) {
	l.m.t.Helper()
	l.mu.Lock()
	before := l.calls
	l.mu.Unlock()
	time.Sleep(d)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m.t.Logf("%s: %d calls, %d of them tried again, the longest took %v", what, l.calls-before, l.again, l.longest.Round(time.Millisecond))
	if l.calls == before {
		l.m.t.Errorf("%s: no call succeeded in %v", what, d)
	}
	l.longest, l.again = 0, 0
}

// end ends the clients, and reads everything that was acknowledged.
func (l *load) end() {
	l.m.t.Helper()
	close(l.stop)
	l.done.Wait()
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

// TestDevicesThatAreCutOff loses two of five devices with copies under load,
// one after the other, replaces one with an empty device, and mounts the other
// again.
func TestDevicesThatAreCutOff(t *testing.T) {
	m := newMachine(t)
	m.await("five copies", well(5))
	l := m.load(true)
	l.pass("all devices", 3*time.Second)
	for n, drive := range []int{2, 4} {
		if err := m.devices[drive-1].Cut(); err != nil {
			t.Fatal(err)
		}
		l.pass(fmt.Sprintf("d%d cut off", drive), 5*time.Second)
		m.health(drive, "failed")
		m.await("the others serve", func(c *copies) bool { return c.MayLose == 1-n && c.Leaderless == 0 })
	}
	d2 := m.devices[1]
	if err := d2.Unmount(); err != nil {
		t.Fatal(err)
	}
	if err := d2.Renew(deviceBytes); err != nil {
		t.Fatal(err)
	}
	m.command("drive", "replace", d2.Path)
	l.pass("d2 replaced", 3*time.Second)
	m.await("four copies of five", func(c *copies) bool { return c.Voters == 5 && c.Healthy == 4 && c.Changing == "" })
	l.end()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
	d4 := m.devices[3]
	if err := d4.Unmount(); err != nil {
		t.Fatal(err)
	}
	if err := d4.Mount(); err != nil {
		t.Fatal(err)
	}
	m.start()
	m.await("the copy on d4 is back", well(5))
	l.verify()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
}

// TestDeviceThatHangs has all writes to a device with a copy wait: the others
// do not wait for it. Then it goes on as if nothing had been.
func TestDeviceThatHangs(t *testing.T) {
	m := newMachine(t)
	m.await("five copies", well(5))
	l := m.load(false) // drives have their own ways with a device that hangs
	l.pass("all devices", 3*time.Second)
	d := m.devices[0]
	if err := d.Freeze(); err != nil {
		t.Fatal(err)
	}
	l.pass("d1 begins to hang", 10*time.Second)
	l.pass("d1 hangs", 10*time.Second)
	if err := d.Thaw(); err != nil {
		t.Fatal(err)
	}
	l.pass("d1 goes on", 3*time.Second)
	m.await("five copies", well(5))
	l.end()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
}

// TestDeviceThatIsFull fills a device with a copy: the others take writes, and
// so does it once there is room again.
func TestDeviceThatIsFull(t *testing.T) {
	m := newMachine(t)
	m.await("five copies", well(5))
	l := m.load(true)
	l.pass("all devices", 3*time.Second)
	name := filepath.Join(m.devices[2].Path, "of-somebody-else")
	if err := fill(name); err != nil {
		t.Fatal(err)
	}
	l.pass("d3 full", 8*time.Second)
	m.await("others serve", func(c *copies) bool { return c.Leaderless == 0 && c.Healthy >= 4 })
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	l.pass("d3 has room", 3*time.Second)
	l.end()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
	m.start()
	m.await("five copies", well(5))
	l.verify()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
}

// fill writes a file until there is no room.
func fill(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	block := bytes.Repeat([]byte("full"), 256<<10)
	for err == nil {
		_, err = f.Write(block)
	}
	for len(block) > 1 {
		block = block[:len(block)/2]
		for err = nil; err == nil; {
			_, err = f.Write(block)
		}
	}
	return f.Close()
}
