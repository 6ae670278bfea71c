package process

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestMain is the fake server too: the tests run their own program as one.
func TestMain(m *testing.M) {
	if behaviour := os.Getenv("FAKE_SERVER"); behaviour != "" {
		os.Exit(fake(behaviour, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// fake serves the health page, ends with 3 at once, or ends with 0 once told.
func fake(behaviour string, args []string) int {
	println("fake server:", strings.Join(args, " "))
	if behaviour == "refuse" {
		return 3
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	data := args[2]
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil || os.MkdirAll(data, 0o700) != nil {
		return 4
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health/ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { os.Exit(5) })
	go http.Serve(listener, mux)
	text, err := json.Marshal(map[string][]string{"s3": {"http://" + listener.Addr().String()}})
	if err != nil || os.WriteFile(filepath.Join(data, "endpoints.json"), text, 0o600) != nil {
		return 4
	}
	<-term
	if behaviour == "dirty" {
		return 6
	}
	return 0
}

func options(t *testing.T, behaviour string) Options {
	t.Helper()
	return Options{
		Bin: os.Args[0], Data: filepath.Join(t.TempDir(), "data"), Drives: []string{"/a", "/b"},
		Args: []string{"--encryption", "off"}, Env: []string{"FAKE_SERVER=" + behaviour},
	}
}

func TestStartStop(t *testing.T) {
	t.Parallel()
	o := options(t, "serve")
	for range 2 { // the second finds the addresses of the first
		p, err := Start(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(p.Endpoint, "http://127.0.0.1:") || p.StartTime <= 0 || p.AccessKey == "" || p.SecretKey == "" {
			t.Errorf("process = %+v", p)
		}
		if _, err := ReadMemory(p.PID); err != nil {
			t.Error(err)
		}
		if got := string(p.Tail()); !strings.Contains(got, "--drives /a,/b --encryption off") {
			t.Errorf("arguments: %s", got)
		}
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), options(t, "refuse"))
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "fake server: serve") {
		t.Errorf("Start = %v; want the exit status and the log", err)
	}
	o := options(t, "serve")
	o.Bin = filepath.Join(t.TempDir(), "nothing")
	if _, err := Start(t.Context(), o); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Start of nothing = %v", err)
	}
}

func TestEnds(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T, behaviour string) *Process {
		p, err := Start(t.Context(), options(t, behaviour))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	crash := func(t *testing.T, p *Process) {
		if reply, err := http.Get(p.Endpoint + "/panic"); err == nil {
			reply.Body.Close()
			t.Fatal("the fake server answers instead of ending")
		}
		<-p.Exited()
	}
	t.Run("kill", func(t *testing.T) {
		t.Parallel()
		if err := start(t, "serve").Kill(); err != nil {
			t.Error(err)
		}
	})
	t.Run("kill of a crashed server", func(t *testing.T) {
		t.Parallel()
		p := start(t, "serve")
		crash(t, p)
		if err := p.Kill(); err == nil || !strings.Contains(err.Error(), "exit status 5") {
			t.Errorf("Kill = %v", err)
		}
	})
	t.Run("stop of a crashed server", func(t *testing.T) {
		t.Parallel()
		p := start(t, "serve")
		crash(t, p)
		if err := p.Stop(); err == nil || !strings.Contains(err.Error(), "ended on its own") {
			t.Errorf("Stop = %v", err)
		}
	})
	t.Run("stop with an exit code", func(t *testing.T) {
		t.Parallel()
		if err := start(t, "dirty").Stop(); err == nil || !strings.Contains(err.Error(), "exit status 6") {
			t.Errorf("Stop = %v", err)
		}
	})
	t.Run("kill while starting", func(t *testing.T) {
		t.Parallel()
		p, err := Launch(options(t, "serve"))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
}
