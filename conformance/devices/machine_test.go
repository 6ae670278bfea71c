package devices

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
	memoryBytes = 4 << 30 // more than all devices of a machine
	bucket      = "devices"
	region      = "fr-metro"
	writers     = 4
	keys        = 48 // of a writer
	buckets     = 16 // of the load
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

// newMachine makes devices and starts a server on them, with so many copies of
// the metadata: on the first drives. The failing ones, counted from 1, can have
// I/O errors.
func newMachine(t *testing.T, copies string, failing ...int) *machine {
	t.Helper()
	bin := possible(t)
	m := &machine{t: t, home: memory(t)}
	for i := range drives {
		name := fmt.Sprintf("d%d", i+1)
		var d *Device
		var err error
		if slices.Contains(failing, i+1) {
			d, err = MakeFailing(m.home, name, deviceBytes, deviceBytes*3/4)
		} else {
			d, err = Make(m.home, name, "ext4", deviceBytes)
		}
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
	m.options.Bin, m.options.Data, m.options.AccessKey, m.options.SecretKey = bin, filepath.Join(m.home, "data"), "DEVICETEST", "secret-of-the-device-test"
	m.options.Args = []string{"--ballast", "0", "--preallocate", "1MiB", "--trash-grace", "1s", "--metadata-replicas", copies}
	m.start()
	t.Cleanup(m.end)
	return m
}

// memory returns a directory in memory: with the images of devices there, a sync
// takes as long as the file systems on them need, whatever else the machine's
// disk has to do.
func memory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := run("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", memoryBytes), "tmpfs", dir); err != nil {
		missing(t, fmt.Sprintf("no file system in memory here: %v", err))
	}
	t.Cleanup(func() {
		if err := run("umount", "-l", dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// possible returns the program, and skips the test where devices cannot be made.
func possible(t *testing.T) (bin string) {
	t.Helper()
	bin = os.Getenv("RUCHE_BIN")
	if bin == "" {
		missing(t, "RUCHE_BIN is not set")
	}
	if testing.Short() {
		t.Skip("takes a minute")
	}
	if err := Possible(); err != nil {
		t.Skip(err)
	}
	return bin
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
	p, err := process.Start(m.t.Context(), m.options)
	if err != nil {
		m.t.Fatal(err)
	}
	m.server = p
}

// end ends the server of a test that ended early, and has said why.
func (m *machine) end() {
	select {
	case <-m.server.Exited():
	default:
		_ = m.server.Kill()
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
	Stores                      []copyStatus
}

type copyStatus struct {
	Replica, Leads int
	Path, Health   string
	Reason         string
}

// status asks how the copies are.
func (m *machine) status() (c copies) {
	m.t.Helper()
	if err := json.Unmarshal(m.command("metadata", "status", "--output", "json"), &c); err != nil {
		m.t.Fatal(err)
	}
	return c
}

// await waits until the copies are as they should be.
func (m *machine) await(what string, ok func(c *copies) bool) {
	m.t.Helper()
	began := time.Now()
	for {
		c := m.status()
		if ok(&c) {
			if waited := time.Since(began); waited > time.Second {
				m.t.Logf("%v until %s", waited.Round(100*time.Millisecond), what)
			}
			return
		}
		if time.Since(began) > time.Minute {
			m.t.Fatalf("%s: %+v\n%s", what, c, m.server.Tail())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func well(n int) func(*copies) bool {
	return func(c *copies) bool {
		return c.Voters == n && c.Healthy == n && len(c.Stores) == n && c.Leaderless == 0 && c.Changing == ""
	}
}

// copyOn returns what is said of the copy on a drive, which must have one.
func (m *machine) copyOn(drive int) (found copyStatus) {
	m.t.Helper()
	m.await(fmt.Sprintf("a copy on d%d", drive), func(c *copies) bool {
		i := slices.IndexFunc(c.Stores, func(s copyStatus) bool { return s.Path == filepath.Join(m.devices[drive-1].Path, "meta") })
		if i >= 0 {
			found = c.Stores[i]
		}
		return i >= 0
	})
	return found
}

// lead has the copy on a drive lead as much as can be asked for, and returns how
// much that is.
func (m *machine) lead(drive int) (groups int) {
	m.t.Helper()
	for _, s := range m.status().Stores {
		if s.Path != filepath.Join(m.devices[drive-1].Path, "meta") && s.Health == "ok" {
			m.command("metadata", "transfer", fmt.Sprint(s.Replica)) // to the others
		}
	}
	return m.copyOn(drive).Leads
}

// health waits until the copy on a drive is said to be in one of these states.
func (m *machine) health(drive int, want ...string) {
	m.t.Helper()
	m.await(fmt.Sprintf("copy on d%d is %s", drive, strings.Join(want, " or ")), func(c *copies) bool {
		return slices.ContainsFunc(c.Stores, func(s copyStatus) bool {
			return s.Path == filepath.Join(m.devices[drive-1].Path, "meta") && slices.Contains(want, s.Health)
		})
	})
}
