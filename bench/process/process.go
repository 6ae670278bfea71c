package process

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	startLimit = 60 * time.Second // from start to /health/ready
	dumpTime   = 5 * time.Second  // for the stacks of a server that hangs
	stopLimit  = 45 * time.Second // from SIGTERM to exit; requests in flight get 30 s
	pollEvery  = 2 * time.Millisecond
)

// Options say how to run a server.
type Options struct {
	Bin    string   // the ruche program
	Data   string   // state directory
	Drives []string // drive directories; empty: those the server makes below Data
	Args   []string // further arguments of "serve"
	Env    []string // further environment

	AccessKey, SecretKey string // of root; empty: random ones
}

// Process is a running server. Its fields do not change.
type Process struct {
	PID       int
	Endpoint  string // of S3, such as http://127.0.0.1:4711
	Admin     string // of the admin API; empty if the server names none
	AccessKey string
	SecretKey string
	StartTime time.Duration // from the start of the process to its being ready

	cmd    *exec.Cmd
	log    *os.File
	exited chan struct{} // closed once the process has ended and err is set
	err    error
}

// Start runs "serve" over plain HTTP on free ports of the loopback address and
// returns once the server says that it is ready. The same Data and Drives may
// be started again after the end of an earlier process. The server's output is
// appended to Data with the suffix ".log". The caller has to Stop or Kill it.
func Start(ctx context.Context, o Options) (*Process, error) {
	p := &Process{
		AccessKey: cmp.Or(o.AccessKey, "BENCH"+rand.Text()[:15]),
		SecretKey: cmp.Or(o.SecretKey, rand.Text()+rand.Text()[:14]),
		exited:    make(chan struct{}),
	}
	endpoints := filepath.Join(o.Data, "endpoints.json")
	// What an earlier process wrote would be taken for what this one writes.
	if err := os.Remove(endpoints); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove addresses of the last run: %w", err)
	}
	begin := time.Now()
	if err := p.run(o); err != nil {
		return nil, err
	}
	if err := p.waitReady(ctx, endpoints); err != nil {
		return nil, p.hangs(err)
	}
	p.StartTime = time.Since(begin)
	return p, nil
}

// hangs ends a server that has not become ready, and adds to err what it
// printed and where its goroutines were.
func (p *Process) hangs(err error) error {
	defer p.log.Close()
	_ = p.cmd.Process.Signal(syscall.SIGQUIT) // Go prints all stacks
	select {
	case <-p.exited:
	case <-time.After(dumpTime):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	return fmt.Errorf("%s: %w\n%s", p.cmd, err, p.last(256<<10))
}

// Launch starts the server and does not wait for it to be ready: for callers
// that kill it on its way. Only PID is set.
func Launch(o Options) (*Process, error) {
	p := &Process{AccessKey: o.AccessKey, SecretKey: o.SecretKey, exited: make(chan struct{})}
	if err := p.run(o); err != nil {
		return nil, err
	}
	return p, nil
}

// run starts the process.
func (p *Process) run(o Options) error {
	args := []string{"serve", "--data", o.Data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}
	if len(o.Drives) > 0 {
		args = append(args, "--drives", strings.Join(o.Drives, ","))
	}
	log, err := os.OpenFile(filepath.Clean(o.Data)+".log", os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open log of server: %w", err)
	}
	p.log = log
	p.cmd = exec.Command(o.Bin, append(args, o.Args...)...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = slices.DeleteFunc(os.Environ(), notForServers)
	p.cmd.Env = append(p.cmd.Env, "RUCHE_ROOT_USER="+p.AccessKey, "RUCHE_ROOT_PASSWORD="+p.SecretKey)
	p.cmd.Env = append(p.cmd.Env, o.Env...)
	// A server does not outlive the program that started it, however that ends.
	// The kernel looks at the thread that started it; Go ends threads only if a
	// goroutine ends that is locked to one.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", o.Bin, err), log.Close())
	}
	p.PID = p.cmd.Process.Pid
	go func() {
		defer close(p.exited)
		p.err = p.cmd.Wait()
	}()
	return nil
}

// waitReady polls until the server has written where it listens and answers
// /health/ready there.
func (p *Process) waitReady(ctx context.Context, endpoints string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	last := errors.New("endpoints.json was not written")
	for {
		select {
		case <-p.exited:
			return fmt.Errorf("ended before it was ready: %w", p.exitError())
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w; last: %w", context.Cause(ctx), last)
		case <-tick.C:
		}
		s3, admin, err := readEndpoints(endpoints)
		if err != nil {
			last = err
			continue
		}
		p.Endpoint, p.Admin = s3, admin
		if last = probe(ctx, client, s3); last == nil {
			return nil
		}
	}
}

// probe asks a server whether it is ready.
func probe(ctx context.Context, client *http.Client, base string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/health/ready", nil)
	if err != nil {
		return err
	}
	reply, err := client.Do(req)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("/health/ready answers %s", reply.Status)
	}
	return nil
}

// readEndpoints reads the addresses that a server wrote: each either one
// string or a list, of which the first counts.
func readEndpoints(file string) (s3, admin string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", "", err
	}
	var written map[string]json.RawMessage
	if err := json.Unmarshal(text, &written); err != nil {
		return "", "", fmt.Errorf("%s: %w", file, err)
	}
	first := func(name string) string {
		var list []string
		if json.Unmarshal(written[name], &list) == nil && len(list) > 0 {
			return strings.TrimRight(list[0], "/")
		}
		var one string
		if json.Unmarshal(written[name], &one) == nil {
			return strings.TrimRight(one, "/")
		}
		return ""
	}
	if s3 = first("s3"); s3 == "" {
		return "", "", fmt.Errorf("%s names no s3 endpoint: %s", file, text)
	}
	return s3, first("admin"), nil
}

// Stop ends the server with SIGTERM and waits for it. It returns an error, with
// the end of the server's log, if the server was gone already, does not end in
// time, or ends with another exit code than 0. It may be called once, and not
// after Kill.
func (p *Process) Stop() error {
	defer p.log.Close()
	select {
	case <-p.exited:
		return fmt.Errorf("server had ended on its own: %w\n%s", p.exitError(), p.Tail())
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop server: %w", err)
	}
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case <-p.exited:
	case <-limit.C:
		p.cmd.Process.Kill()
		<-p.exited
		return fmt.Errorf("server did not end within %v of SIGTERM\n%s", stopLimit, p.Tail())
	}
	if p.err != nil {
		return fmt.Errorf("server, after SIGTERM: %w\n%s", p.err, p.Tail())
	}
	return nil
}

// Kill ends the server with SIGKILL and waits for it. It returns an error, with
// the end of the server's log, if the server had ended on its own before: a
// panic must not pass for the kill. It may be called once, and not after Stop.
func (p *Process) Kill() error {
	defer p.log.Close()
	killed := p.cmd.Process.Kill()
	<-p.exited
	var exit *exec.ExitError
	if errors.As(p.err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
			return nil
		}
	}
	return fmt.Errorf("server had ended on its own: %w\n%s", cmp.Or(p.err, killed, errors.New("exit code 0")), p.Tail())
}

// Exited is closed when the process has ended, for whatever reason.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// exitError says how the process ended; only after exited is closed.
func (p *Process) exitError() error {
	return cmp.Or(p.err, errors.New("exit code 0"))
}

// Tail returns the last 16 KiB that the server printed.
func (p *Process) Tail() []byte { return p.last(16 << 10) }

// last returns the last bytes that the server printed.
func (p *Process) last(most int64) []byte {
	file, err := os.Open(p.log.Name())
	if err != nil {
		return []byte(err.Error())
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > most {
		if _, err := file.Seek(-most, io.SeekEnd); err != nil {
			return []byte(err.Error())
		}
	}
	out, err := io.ReadAll(io.LimitReader(file, most))
	if err != nil {
		return []byte(err.Error())
	}
	return out
}

// notForServers reports whether a server under test must not see a variable of
// this process: all that configure Ruche, but for the number of copies of the
// metadata, so that every test may be run with several.
func notForServers(variable string) bool {
	return strings.HasPrefix(variable, "RUCHE_") && !strings.HasPrefix(variable, "RUCHE_METADATA_REPLICAS=")
}
