package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/metadata/keyring"
)

// quickKDF makes recovery codes cheap to check.
var quickKDF = keyring.KDF{Time: 1, MemoryKiB: 64, Threads: 1}

// startPatience is how long a server may take to start or end, on a machine
// that is busy.
const startPatience = 60 * time.Second

// screen is an output that can be read while it is written, and waited for.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed and replaced at each write
}

func newScreen() *screen { return &screen{more: make(chan struct{})} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.more)
	s.more = make(chan struct{})
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// until waits until the screen shows text, or ended is closed.
func (s *screen) until(text string, ended <-chan struct{}) bool {
	limit := time.NewTimer(startPatience)
	defer limit.Stop()
	for {
		s.mu.Lock()
		shown, more := strings.Contains(s.text.String(), text), s.more
		s.mu.Unlock()
		if shown {
			return true
		}
		select {
		case <-more:
		case <-ended:
			return strings.Contains(s.String(), text)
		case <-limit.C:
			return false
		}
	}
}

// instance is the program running "serve" in this process.
type instance struct {
	t        *testing.T
	dir      string // state directory
	out, err *screen
	stop     context.CancelFunc
	ended    chan struct{}
	code     int // exit code, once ended is closed
}

// options of a server under test.
type options struct {
	args    []string
	environ []string
	now     func() time.Time
}

// launch runs "serve" with small files on free ports; it does not wait.
func launch(t *testing.T, dir string, o options) *instance {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	s := &instance{t: t, dir: dir, out: newScreen(), err: newScreen(), stop: stop, ended: make(chan struct{})}
	a := &app{surroundings: surroundings{environ: append([]string{"GOGC=100", "GOMEMLIMIT=off"}, o.environ...), stdin: strings.NewReader(""), stdout: s.out, stderr: s.err},
		poll: time.Millisecond, now: time.Now, kdf: quickKDF}
	if o.now != nil {
		a.now = o.now
	}
	args := append([]string{"serve", "--data", dir, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--ballast", "0", "--reserve", "1MiB", "--preallocate", "0"}, o.args...)
	go func() {
		defer close(s.ended)
		s.code = a.run(ctx, args)
	}()
	t.Cleanup(func() { stop(); <-s.ended })
	return s
}

// start launches a server and waits until it serves.
func start(t *testing.T, dir string, o options) *instance {
	t.Helper()
	s := launch(t, dir, o)
	if !s.out.until("is serving", s.ended) || s.over() {
		t.Fatalf("server does not serve:\n%s\n%s", s.out, s.err)
	}
	return s
}

func (s *instance) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// end stops the server and returns its exit code.
func (s *instance) end() int {
	s.stop()
	return s.wait()
}

func (s *instance) wait() int {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(startPatience):
		s.t.Fatalf("server does not end:\n%s", s.err)
	}
	return s.code
}

func (s *instance) endpoints() (e admin.Endpoints) {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "endpoints.json"))
	if err == nil {
		err = json.Unmarshal(text, &e)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

// secret reads root's credentials as a user would.
func (s *instance) root() (user, secret string) {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "root-credentials"))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "RUCHE_ROOT_USER="); ok {
			user = v
		}
		if v, ok := strings.CutPrefix(line, "RUCHE_ROOT_PASSWORD="); ok {
			secret = v
		}
	}
	return user, secret
}

// s3 makes one signed S3 request.
func (s *instance) s3(method, path string, body io.Reader, length int64) (*http.Response, error) {
	user, secret := s.root()
	return s3As(s.t.Context(), s.endpoints().S3[0], user, secret, method, path, body, length)
}

func s3As(ctx context.Context, base, user, secret, method, path string, body io.Reader, length int64) (*http.Response, error) {
	return s3With(ctx, base, user, secret, method, path, body, length, nil)
}

// s3With makes a signed request with headers.
func s3With(ctx context.Context, base, user, secret, method, path string, body io.Reader, length int64, headers map[string]string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return nil, err
	}
	r.ContentLength = length
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	signer := &sigv4.Signer{AccessKey: user, Secret: secret, Region: "fr-metro"}
	if err := signer.Sign(r, sigv4.UnsignedPayload, time.Now()); err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(r)
}

// want makes a request and returns the body of its answer, which must have the
// given status.
func (s *instance) want(status int, method, path, body string) string {
	s.t.Helper()
	reply, err := s.s3(method, path, strings.NewReader(body), int64(len(body)))
	if err != nil {
		s.t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil || reply.StatusCode != status {
		s.t.Fatalf("%s %s: %s, %v\n%s", method, path, reply.Status, err, text)
	}
	return string(text)
}

// command runs another command against the server's state directory.
func (s *instance) command(stdin string, args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	out, errs := newScreen(), newScreen()
	a := &app{surroundings: surroundings{stdin: strings.NewReader(stdin), stdout: out, stderr: errs}, poll: time.Millisecond, now: time.Now, kdf: quickKDF}
	ctx, cancel := context.WithTimeout(s.t.Context(), startPatience)
	defer cancel()
	code = a.run(ctx, append(args, "--data", s.dir))
	return code, out.String(), errs.String()
}

// ok runs a command that must succeed.
func (s *instance) ok(args ...string) string {
	s.t.Helper()
	code, out, errs := s.command("", args...)
	if code != exitOK {
		s.t.Fatalf("ruche %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// recoveryCode finds the code on the screen of a first start.
func (s *instance) recoveryCode() string {
	s.t.Helper()
	_, rest, ok := strings.Cut(s.out.String(), "RECOVERY CODE")
	if !ok {
		s.t.Fatalf("no recovery code:\n%s", s.out)
	}
	for line := range strings.Lines(rest) {
		if line = strings.TrimSpace(line); strings.Count(line, "-") > 3 && !strings.Contains(line, " ") {
			return line
		}
	}
	s.t.Fatalf("no recovery code:\n%s", s.out)
	return ""
}

func mode(t *testing.T, name string) os.FileMode {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestFirstStartServesAndASecondFindsAllAgain(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := start(t, dir, options{args: []string{"--default-buckets", "media,backup"}})
	code := s.recoveryCode()
	user, secret := s.root()
	if !strings.Contains(s.out.String(), secret) || !strings.Contains(s.out.String(), "aws --endpoint-url "+s.endpoints().S3[0]) {
		t.Errorf("secret or snippet is missing:\n%s", s.out)
	}
	for name, want := range map[string]os.FileMode{"": 0o700, "keyring": 0o600, "root-credentials": 0o600, "cluster.json": 0o600} {
		if got := mode(t, filepath.Join(dir, name)); got != want {
			t.Errorf("mode of %s/%s is %o, want %o", dir, name, got, want)
		}
	}
	if list := s.want(200, "GET", "/", ""); !strings.Contains(list, "<Name>backup</Name>") || !strings.Contains(list, "<Name>media</Name>") {
		t.Errorf("default buckets are missing: %s", list)
	}
	big := strings.Repeat("0123456789abcdef", 40_000)
	s.want(200, "PUT", "/media/small", "hello")
	s.want(200, "PUT", "/media/big", big)
	if code := s.end(); code != exitOK {
		t.Fatalf("exit code %d\n%s", code, s.err)
	}

	again := start(t, dir, options{args: []string{"--default-buckets", "media"}})
	if text := again.out.String(); strings.Contains(text, "RECOVERY CODE") || strings.Contains(text, secret) {
		t.Errorf("a second start shows secrets:\n%s", text)
	}
	if u, p := again.root(); u != user || p != secret {
		t.Error("credentials of root have changed")
	}
	if got := again.want(200, "GET", "/media/small", ""); got != "hello" {
		t.Errorf("small object is %q", got)
	}
	if got := again.want(200, "GET", "/media/big", ""); got != big {
		t.Errorf("big object has %d bytes and is another", len(got))
	}
	if exit, out, errs := again.command(code+"\n", "keyring", "verify"); exit != exitOK {
		t.Errorf("the recovery code is not accepted: %s%s", out, errs)
	}
	for i := range 6 {
		sealed, err := filepath.Glob(filepath.Join(dir, "d"+string(rune('1'+i)), "keyring.sealed.*"))
		if err != nil || len(sealed) != 1 {
			t.Errorf("sealed keyrings on drive %d: %v, %v", i+1, sealed, err)
		}
	}
}

func TestConfiguredCredentialsWinAndAreKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	environ := []string{"RUCHE_ROOT_USER=admin", "RUCHE_ROOT_PASSWORD=correct horse"}
	if s := launch(t, dir, options{environ: environ}); s.wait() != exitUsage {
		t.Errorf("a password with a space was accepted:\n%s", s.err)
	}
	environ[1] = "RUCHE_ROOT_PASSWORD=correct-horse"
	s := start(t, dir, options{environ: environ})
	if strings.Contains(s.out.String(), "correct-horse") {
		t.Errorf("a configured secret was printed:\n%s", s.out)
	}
	s.want(200, "GET", "/", "")
	s.end()
	s = start(t, dir, options{})
	if user, secret := s.root(); user != "admin" || secret != "correct-horse" {
		t.Errorf("kept credentials are %s, %s", user, secret)
	}
	s.end()
	s = start(t, dir, options{environ: []string{"RUCHE_ROOT_USER=other", "RUCHE_ROOT_PASSWORD=battery-staple"}})
	s.want(200, "GET", "/", "")
	reply, err := s3As(t.Context(), s.endpoints().S3[0], "admin", "correct-horse", "GET", "/", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	reply.Body.Close()
	if reply.StatusCode != http.StatusForbidden {
		t.Errorf("the former credentials still work: %s", reply.Status)
	}
}

// TestRequestsInFlightFinish stops a server in the middle of an upload.
func TestRequestsInFlightFinish(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{args: []string{"--default-buckets", "media"}})
	const length = 3 << 20
	body, feed := io.Pipe()
	type answer struct {
		reply *http.Response
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		reply, err := s.s3("PUT", "/media/slow", body, length)
		answers <- answer{reply, err}
	}()
	half := bytes.Repeat([]byte("x"), length/2)
	if _, err := feed.Write(half); err != nil { // taken by the client, so the request is under way
		t.Fatal(err)
	}
	ready := s.endpoints().Admin[0] + "/health/ready"
	probe := func() int {
		reply, err := http.Get(ready)
		if err != nil {
			return 0
		}
		reply.Body.Close()
		return reply.StatusCode
	}
	waitFor(t, "the upload to arrive", func() bool {
		return strings.Contains(get(t, s.endpoints().Admin[0]+"/metrics"), "ruche_s3_requests_in_flight 1")
	})
	if got := probe(); got != 200 {
		t.Errorf("before the stop, ready is %d", got)
	}
	s.stop()
	waitFor(t, "readiness to end", func() bool { return probe() == 503 })
	if _, err := feed.Write(half); err != nil {
		t.Fatal(err)
	}
	feed.Close()
	a := <-answers
	if a.err != nil || a.reply.StatusCode != 200 {
		t.Errorf("the upload was not finished: %v, %v", a.reply, a.err)
	} else {
		a.reply.Body.Close()
	}
	if code := s.wait(); code != exitOK {
		t.Errorf("exit code %d:\n%s", code, s.err)
	}
	again := start(t, s.dir, options{})
	if got := again.want(200, "GET", "/media/slow", ""); got != strings.Repeat("x", length) {
		t.Errorf("the upload has %d bytes and is another", len(got))
	}
}

// TestStuckRequestsAreCutOff shows that a client that never ends does not keep
// the server from ending.
func TestStuckRequestsAreCutOff(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{args: []string{"--default-buckets", "media", "--drain-time", "50ms"}})
	body, feed := io.Pipe()
	failed := make(chan error, 1)
	go func() {
		reply, err := s.s3("PUT", "/media/stuck", body, 1<<20)
		if err == nil {
			reply.Body.Close()
			err = errors.New(reply.Status)
		}
		failed <- err
	}()
	if _, err := feed.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the upload to arrive", func() bool {
		return strings.Contains(get(t, s.endpoints().Admin[0]+"/metrics"), "ruche_s3_requests_in_flight 1")
	})
	if code := s.end(); code != exitOK {
		t.Errorf("exit code %d:\n%s", code, s.err)
	}
	feed.CloseWithError(errors.New("test ends"))
	if err := <-failed; err == nil || err.Error() == "200 OK" {
		t.Errorf("the stuck upload ended with %v", err)
	}
	again := start(t, s.dir, options{})
	again.want(404, "GET", "/media/stuck", "")
}

func get(t *testing.T, url string) string {
	t.Helper()
	reply, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// waitFor asks until something outside of this process's control is so.
func waitFor(t *testing.T, what string, so func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	limit := time.After(startPatience)
	for !so() {
		select {
		case <-ticker.C:
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
