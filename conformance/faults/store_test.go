package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
)

const (
	bucket    = "faults"
	region    = "fr-metro"
	patience  = 30 * time.Second
	callLimit = 20 * time.Second
)

// store is a server, its directories, and what clients have stored.
type store struct {
	t       *testing.T
	dir     string // drives are d1 to d6 in it
	options process.Options
	server  *process.Process
	core    *minio.Core
	objects map[string]string
}

// newStore starts a server with so many copies of the metadata, with a bucket
// and some objects in it.
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
		t.Skip("starts servers")
	}
	s := &store{t: t, dir: filepath.Join(t.TempDir(), "data"), objects: make(map[string]string)}
	s.options = process.Options{Bin: bin, Data: s.dir, AccessKey: "FAULTTEST", SecretKey: "secret-of-the-fault-test",
		Args: []string{"--ballast", "0", "--preallocate", "1MiB", "--trash-grace", "0s", "--metadata-replicas", copies}}
	t.Cleanup(func() {
		if s.server != nil {
			_ = s.server.Kill() // the test ended early and has said why
		}
	})
	s.start()
	if err := s.core.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{Region: region}); err != nil {
		t.Fatal(err)
	}
	s.fill("first", 20)
	return s
}

func (s *store) start() {
	s.t.Helper()
	p, err := process.Start(s.t.Context(), s.options)
	if err != nil {
		s.t.Fatal(err)
	}
	s.adopt(p)
}

// adopt takes a process for the server.
func (s *store) adopt(p *process.Process) {
	s.t.Helper()
	s.server = p
	var err error
	s.core, err = minio.NewCore(strings.TrimPrefix(p.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(s.options.AccessKey, s.options.SecretKey, ""), Region: region,
		Transport: &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: callLimit}, MaxRetries: 1, BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// refused starts the server, which must end with a message that has all of
// these.
func (s *store) refused(mentions ...string) {
	s.t.Helper()
	p, err := process.Start(s.t.Context(), s.options)
	if err == nil {
		s.server = p
		s.t.Fatalf("the server starts; want a message with %q", mentions)
	}
	s.mentions(message(s.t, err), mentions)
}

// message returns what a server said that did not start.
func message(t *testing.T, err error) string {
	t.Helper()
	text := err.Error()
	i := strings.LastIndex(text, "ruche: ")
	if i < 0 {
		t.Fatalf("no message among:\n%s", text)
	}
	return strings.TrimSpace(text[i:])
}

// mentions checks that a message says what it has to, and keeps it for people.
func (s *store) mentions(text string, mentions []string) {
	s.t.Helper()
	for _, want := range mentions {
		if !strings.Contains(text, want) {
			s.t.Errorf("the message does not say %q", want)
		}
	}
	s.t.Logf("says: %s", strings.ReplaceAll(text, s.dir, "DATA"))
}

func (s *store) stop() {
	s.t.Helper()
	p := s.server
	s.server = nil
	if err := p.Stop(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *store) kill() {
	s.t.Helper()
	p := s.server
	s.server = nil
	if err := p.Kill(); err != nil {
		s.t.Fatal(err)
	}
}

// fill stores objects, most of them in the metadata, some on drives.
func (s *store) fill(prefix string, n int) {
	s.t.Helper()
	for i := range n {
		size := 100
		if i%5 == 0 {
			size = 70_000
		}
		key := fmt.Sprintf("%s-%d", prefix, i)
		body := strings.Repeat(key+";", size/len(key))
		if _, err := s.core.PutObject(s.t.Context(), bucket, key, strings.NewReader(body), int64(len(body)), "", "", minio.PutObjectOptions{}); err != nil {
			s.t.Fatalf("PUT %s: %v", key, err)
		}
		s.objects[key] = body
	}
}

// read reads one object.
func (s *store) read(key string) (string, error) {
	o, _, _, err := s.core.GetObject(s.t.Context(), bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return "", err
	}
	defer o.Close()
	body, err := io.ReadAll(o)
	return string(body), err
}

// whole checks that every object that was stored is there, and nothing else,
// and that another can be stored.
func (s *store) whole() {
	s.t.Helper()
	for key, want := range s.objects {
		if got, err := s.read(key); err != nil || got != want {
			s.t.Errorf("GET %s: %d bytes, want %d: %v", key, len(got), len(want), err)
		}
	}
	list, err := s.core.ListObjectsV2(bucket, "", "", "", "", 1000)
	if err != nil || len(list.Contents) != len(s.objects) {
		s.t.Errorf("%d objects are listed, want %d: %v", len(list.Contents), len(s.objects), err)
	}
	s.fill(fmt.Sprintf("after-%d", len(s.objects)), 1)
}

// command runs a command against the server, or for its directories if it does
// not run, and returns what it prints.
func (s *store) command(input string, args ...string) (out, errs string, err error) {
	if s.server != nil {
		args = append(args, "--data", s.dir, "--admin", s.server.Admin)
	}
	cmd := exec.Command(s.options.Bin, args...)
	cmd.Env = []string{"RUCHE_ROOT_USER=" + s.options.AccessKey, "RUCHE_ROOT_PASSWORD=" + s.options.SecretKey}
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

// ok runs a command that must succeed.
func (s *store) ok(args ...string) string {
	s.t.Helper()
	out, errs, err := s.command("", args...)
	if err != nil {
		s.t.Fatalf("ruche %s: %v\n%s%s", strings.Join(args, " "), err, out, errs)
	}
	return out
}

// fails runs a command that must fail with a message that has all of these.
func (s *store) fails(args []string, mentions ...string) {
	s.t.Helper()
	out, errs, err := s.command("", args...)
	if err == nil {
		s.t.Errorf("ruche %s succeeds: %s", strings.Join(args, " "), out)
	}
	s.mentions(strings.TrimSpace(errs), mentions)
}

// copies is what "ruche metadata status" says.
type copies struct {
	Voters, Healthy, Leaderless int
	Changing                    string
	Stores                      []copyStatus
}

type copyStatus struct {
	Replica              int
	Path, Health, Reason string
}

// await waits until the copies are as they should be.
func (s *store) await(what string, ok func(*copies) bool) *copies {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		c := new(copies)
		out, errs, err := s.command("", "metadata", "status", "--output", "json")
		if err == nil {
			err = json.Unmarshal([]byte(out), c)
		}
		if err == nil && ok(c) {
			return c
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: %+v\n%v\n%s", what, c, err, errs)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func well(n int) func(*copies) bool {
	return func(c *copies) bool {
		return c.Voters == n && c.Healthy == n && len(c.Stores) == n && c.Leaderless == 0 && c.Changing == ""
	}
}

// odd waits until the copy on a drive is in one of the states, and returns what
// is said of it.
func (s *store) odd(drive string, states ...string) copyStatus {
	s.t.Helper()
	var found copyStatus
	s.await(fmt.Sprintf("copy on %s is %v", drive, states), func(c *copies) bool {
		i := slices.IndexFunc(c.Stores, func(x copyStatus) bool { return x.Path == s.meta(drive) && slices.Contains(states, x.Health) })
		if i >= 0 {
			found = c.Stores[i]
		}
		return i >= 0
	})
	return found
}

// says checks what "ruche metadata status" prints for people.
func (s *store) says(mentions ...string) {
	s.t.Helper()
	s.mentions(s.ok("metadata", "status"), mentions)
}

// meta is where the copy on a drive lies.
func (s *store) meta(drive string) string { return filepath.Join(s.dir, drive, "meta") }

// path is a path below the state directory.
func (s *store) path(elements ...string) string {
	return filepath.Join(append([]string{s.dir}, elements...)...)
}

func (s *store) move(from, to string) {
	s.t.Helper()
	if err := os.Rename(from, to); err != nil {
		s.t.Fatal(err)
	}
}

func (s *store) remove(path string) {
	s.t.Helper()
	if err := os.RemoveAll(path); err != nil {
		s.t.Fatal(err)
	}
}

// keep copies a directory aside, with its modes, and returns where it is.
func (s *store) keep(path string) string {
	s.t.Helper()
	aside := filepath.Join(s.t.TempDir(), "kept")
	s.clone(path, aside)
	return aside
}

// clone copies a file or directory to a place where nothing may be.
func (s *store) clone(from, to string) {
	s.t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		s.t.Fatalf("cp: %v: %s", err, out)
	}
}

// putBack puts what was kept into the place of what is there.
func (s *store) putBack(aside, path string) {
	s.t.Helper()
	s.remove(path)
	s.clone(aside, path)
}

// largest returns the largest file below dir whose name fits, without those in
// directories of the log if dir is not one.
func (s *store) largest(dir, pattern string) string {
	s.t.Helper()
	var name string
	var most int64
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != dir && entry.Name() == "log" {
			return fs.SkipDir
		}
		fits, err := filepath.Match(pattern, entry.Name())
		if err != nil || !fits || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil && (info.Size() > most || name == "") {
			name, most = path, info.Size()
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
	return name
}

// flip changes bits all over the second half of a file, or all of it.
func (s *store) flip(name string, all bool) {
	s.t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		s.t.Fatal(err)
	}
	from := len(b) / 2
	if all {
		from = 0
	}
	for i := from; i < len(b); i += 97 {
		b[i] ^= 0x55
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// manifested waits until the drives have manifests of all objects.
func (s *store) manifested() {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		r, err := http.Get(s.server.Admin + "/metrics")
		if err != nil {
			s.t.Fatal(err)
		}
		text, err := io.ReadAll(r.Body)
		if err := errors.Join(err, r.Body.Close()); err != nil {
			s.t.Fatal(err)
		}
		if strings.Contains(string(text), "\nruche_manifest_lag_seconds 0\n") {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatal("manifests are not written")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// answers returns the code that a GET of a stored object is answered with, ""
// if it succeeds.
func (s *store) answers() string {
	for key, want := range s.objects {
		got, err := s.read(key)
		var reply minio.ErrorResponse
		switch {
		case errors.As(err, &reply):
			return reply.Code
		case err != nil:
			return err.Error()
		case got != want:
			s.t.Errorf("GET %s: %d bytes, want %d", key, len(got), len(want))
		}
		return ""
	}
	return ""
}
