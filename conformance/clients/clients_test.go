// Package clients runs real S3 client programs against an S3 endpoint: what
// they upload has to come back with the same SHA-256, and what they say about
// it has to be true.
//
// The endpoint comes from the environment as for package conformance; servers
// that are started for the run are tried over plain HTTP and over TLS. The
// tests run if RUCHE_CLIENTS is 1, because they need programs that have to be
// installed: conformance/tools/install.sh builds those that are written in Go.
// Programs are looked for in $RUCHE_TOOLS, by default .tools/bin of the
// repository, and then in $PATH. One that is missing skips its test, or fails
// it if RUCHE_REQUIRE is 1.
package clients

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/conformance"
)

const (
	mib = 1 << 20

	// commandLimit ends a program that hangs.
	commandLimit = 3 * time.Minute
)

// endpoints is what TestMain found or started; read only afterwards.
var endpoints struct {
	targets []conformance.Target
	reason  error // why there are none
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run runs the tests between the start and the end of servers.
func run(m *testing.M) int {
	if os.Getenv("RUCHE_CLIENTS") != "1" {
		endpoints.reason = errors.New("RUCHE_CLIENTS is not 1: make conformance sets it")
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "clients-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	targets, stop, err := conformance.Targets(dir)
	endpoints.targets, endpoints.reason = targets, err
	if err != nil && !errors.Is(err, conformance.ErrNoTarget) {
		fmt.Fprintln(os.Stderr, "clients:", err)
		return 1
	}
	if err != nil && conformance.Required() {
		fmt.Fprintln(os.Stderr, "clients:", err)
		return 1
	}
	code := m.Run()
	if err := stop(code != 0); err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		return 1
	}
	return code
}

// A program is one client with a home of its own.
type program struct {
	t      *testing.T
	target conformance.Target
	path   string
	home   string
	env    []string
	args   []string // put before the arguments of each run
	bucket string   // a name that nobody else uses; not made yet
}

// find returns the path of a program, or skips or fails the test.
func find(t *testing.T, name string) string {
	t.Helper()
	tools := os.Getenv("RUCHE_TOOLS")
	if tools == "" {
		tools = filepath.Join("..", "..", ".tools", "bin")
	}
	if path, err := filepath.Abs(filepath.Join(tools, name)); err == nil {
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, fmt.Sprintf("%s is neither in %s nor in $PATH", name, tools))
	}
	return path
}

// missing skips the test, or fails it if everything is required.
func missing(t *testing.T, reason string) {
	t.Helper()
	if conformance.Required() {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// everyTarget runs test for each endpoint with the program at path.
func everyTarget(t *testing.T, path func(t *testing.T) string, test func(p *program)) {
	t.Helper()
	if endpoints.reason != nil {
		t.Skip(endpoints.reason)
	}
	at := path(t)
	for _, target := range endpoints.targets {
		t.Run(target.Name, func(t *testing.T) {
			t.Parallel()
			p := &program{t: t, target: target, path: at, home: t.TempDir(), bucket: "client-" + strings.ToLower(rand.Text())}
			p.env = []string{
				"HOME=" + p.home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir(), "LANG=C.UTF-8", "TERM=dumb", "NO_COLOR=1",
				"AWS_ACCESS_KEY_ID=" + target.AccessKey, "AWS_SECRET_ACCESS_KEY=" + target.SecretKey, "AWS_DEFAULT_REGION=" + target.Region,
				"AWS_REGION=" + target.Region, "AWS_EC2_METADATA_DISABLED=true",
			}
			if target.CAFile != "" {
				p.env = append(p.env, "AWS_CA_BUNDLE="+target.CAFile)
			}
			test(p)
		})
	}
}

// exec runs the program with input and returns what it prints.
func (p *program) exec(input []byte, args ...string) (stdout, stderr string, err error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.path, append(append([]string(nil), p.args...), args...)...)
	cmd.Env, cmd.Dir = p.env, p.home
	cmd.Stdin = bytes.NewReader(input)
	cmd.WaitDelay = 5 * time.Second // of children that keep the output open
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	err = cmd.Run()
	if ctx.Err() != nil && p.t.Context().Err() == nil {
		err = fmt.Errorf("still running after %v: %w", time.Since(start).Round(time.Second), err)
	}
	return out.String(), errs.String(), err
}

// run runs the program, which has to succeed, and returns what it prints.
func (p *program) run(args ...string) string {
	p.t.Helper()
	return p.feed(nil, args...)
}

// feed is run with something on the standard input.
func (p *program) feed(input []byte, args ...string) string {
	p.t.Helper()
	stdout, stderr, err := p.exec(input, args...)
	if err != nil {
		p.t.Fatalf("%s %.300s: %v\n%s\n%s", filepath.Base(p.path), strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout
}

// fails runs the program, which has to fail, and returns what it prints.
func (p *program) fails(args ...string) string {
	p.t.Helper()
	stdout, stderr, err := p.exec(nil, args...)
	if err == nil {
		p.t.Errorf("%s %s: succeeded, want an error\n%s", filepath.Base(p.path), strings.Join(args, " "), stdout)
	}
	return stdout + stderr
}

// version logs the first line of what the program says about itself.
func (p *program) version(args ...string) {
	p.t.Helper()
	stdout, stderr, err := p.exec(nil, args...)
	if err != nil {
		p.t.Fatalf("%s: %v\n%s", p.path, err, stderr)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(stdout+stderr), "\n")
	p.t.Logf("%s: %s", p.path, line)
}

// wantIn checks that text contains all of parts.
func (p *program) wantIn(text string, parts ...string) {
	p.t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			p.t.Errorf("no %q in\n%s", part, text)
		}
	}
}

// write makes a file below the program's home.
func (p *program) write(name string, data []byte) string {
	p.t.Helper()
	path := filepath.Join(p.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// sameFile checks that the file holds data.
func (p *program) sameFile(path string, data []byte) {
	p.t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatal(err)
	}
	if sha256.Sum256(got) != sha256.Sum256(data) {
		p.t.Errorf("%s: %d bytes with another SHA-256 than the %d bytes that were uploaded", filepath.Base(path), len(got), len(data))
	}
}

// tree makes a directory of files of all kinds below home and returns its path.
// It holds a file over 10 MiB, so that programs use parts.
func (p *program) tree(name string) string {
	p.t.Helper()
	for file, size := range map[string]int{
		"empty": 0, "one": 1, "small.txt": 3000, "inline border": 16385, "sub/dir/deep.bin": 300000, "sub/é 日本+%.txt": 5000, "sub/.hidden": 10,
		"big.bin": 11*mib + 17,
	} {
		p.write(filepath.Join(name, file), noise(size, file))
	}
	return filepath.Join(p.home, name)
}

// hashes returns the SHA-256 of each file below dir.
func hashes(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		found[name] = fmt.Sprintf("%d bytes, %x", len(data), sha256.Sum256(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// sameTree checks that two directories hold the same files.
func (p *program) sameTree(want, got string) {
	p.t.Helper()
	if diff := cmp.Diff(hashes(p.t, want), hashes(p.t, got)); diff != "" {
		p.t.Errorf("%s and %s differ (-want +got)\n%s", filepath.Base(want), filepath.Base(got), diff)
	}
}

// fetch gets an address without any signature of ours, as a browser would.
func (p *program) fetch(address string) []byte {
	p.t.Helper()
	transport, err := p.target.Transport()
	if err != nil {
		p.t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, strings.TrimSpace(address), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	client := http.Client{Transport: transport, Timeout: time.Minute}
	reply, err := client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer reply.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(reply.Body); err != nil || reply.StatusCode != http.StatusOK {
		p.t.Fatalf("GET %s: %s %v\n%s", address, reply.Status, err, body.Bytes())
	}
	return body.Bytes()
}

// noise returns n bytes that no compression shortens, the same for the same
// name.
func noise(n int, name string) []byte {
	b := make([]byte, n)
	mathrand.NewChaCha8(sha256.Sum256([]byte(name))).Read(b)
	return b
}
