package server

import (
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
)

// TestAccessLogIsOpenedAnew moves the access log away, as logrotate does: lines
// go to the old file until the signal, and to a new one from then on.
func TestAccessLogIsOpenedAnew(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "access.log")
	signals := make(chan os.Signal)
	l, err := openLogFile(name)
	if err != nil {
		t.Fatal(err)
	}
	end, done := make(chan struct{}), make(chan struct{})
	said := new(lines)
	go func() { defer close(done); l.follow(signals, end, said.log()) }()
	write := func(text string) {
		t.Helper()
		if _, err := l.Write([]byte(text + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	rename(t, name, name+".1")
	write("two")
	signals <- syscall.SIGHUP
	eventually(t, "the new file", func() bool { _, err := os.Stat(name); return err == nil })
	eventually(t, "a word of it", func() bool { return strings.Contains(said.String(), "opened anew") })
	write("three")

	// What cannot be opened leaves the file that is there.
	rename(t, name, name+".2")
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	signals <- syscall.SIGHUP
	eventually(t, "an error", func() bool { return strings.Contains(said.String(), "was not opened anew") })
	write("four")
	close(end)
	<-done
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{name + ".1": "one\ntwo\n", name + ".2": "three\nfour\n"} {
		if got, err := os.ReadFile(file); string(got) != want || err != nil {
			t.Errorf("%s holds %q, %v; want %q", file, got, err, want)
		}
	}
}

// TestAccessLogOfAServer has a server write one, and open it anew.
func TestAccessLogOfAServer(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "access.log")
	signals := make(chan os.Signal)
	c := settings(t, withBucket(t, nil), func(c *config.Config) { c.AccessLog = name })
	p := openedWith(t, c, func(o *Options) { o.Reopen = signals })
	rename(t, name, name+".1")
	signals <- syscall.SIGHUP
	eventually(t, "the new file", func() bool { _, err := os.Stat(name); return err == nil })
	p.s3.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/b", nil))
	closed(t, p)
	if text, err := os.ReadFile(name); !strings.Contains(string(text), "GET /b HTTP") || err != nil {
		t.Errorf("the new file holds %q, %v", text, err)
	}
}

// lines keeps what is logged. It is safe for concurrent use.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) log() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
