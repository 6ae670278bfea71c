package conformance

import (
	"bytes"
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
	stopLimit  = 45 * time.Second // from SIGTERM to exit; requests in flight get 30 s
)

// A Server is a running ruche process.
type Server struct {
	Target Target
	PID    int // of the process

	cmd    *exec.Cmd
	log    *os.File
	exited chan struct{} // closed once the process has ended and err is set
	err    error
}

// Start runs "bin serve" with a new data directory below dir on free ports of
// the loopback address, and waits until the server says that it is ready. With
// secure it serves TLS with a certificate of an authority made for the
// occasion. The caller has to Stop it.
func Start(bin, dir string, secure bool) (*Server, error) {
	name := "http"
	if secure {
		name = "https"
	}
	home, err := os.MkdirTemp(dir, name+"-")
	if err != nil {
		return nil, fmt.Errorf("make directory of server: %w", err)
	}
	data := filepath.Join(home, "data")
	args := []string{"serve", "--data", data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}
	s := &Server{
		Target: Target{Name: name, AccessKey: "CONFORMANCE" + rand.Text()[:9], SecretKey: rand.Text() + rand.Text()[:14], Region: DefaultRegion, Domain: "s3.conformance.test"},
		exited: make(chan struct{}),
	}
	if secure {
		files, err := writeCertificates(home)
		if err != nil {
			return nil, err
		}
		s.Target.CAFile = files.authority
		args = append(args, "--tls-cert", files.certificate, "--tls-key", files.key)
	}
	if err := s.run(bin, home, args); err != nil {
		return nil, err
	}
	if err := s.waitReady(filepath.Join(data, "endpoints.json")); err != nil {
		return nil, errors.Join(fmt.Errorf("%s %s: %w\n%s", bin, strings.Join(args, " "), err, s.tail()), s.Stop())
	}
	return s, nil
}

// run starts the process, its output going to a file below home.
func (s *Server) run(bin, home string, args []string) error {
	log, err := os.Create(filepath.Join(home, "server.log"))
	if err != nil {
		return fmt.Errorf("make log of server: %w", err)
	}
	s.log = log
	s.cmd = exec.Command(bin, args...)
	s.cmd.Dir = home
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.Env = slices.DeleteFunc(os.Environ(), notForServers)
	s.cmd.Env = append(s.cmd.Env,
		"RUCHE_ROOT_USER="+s.Target.AccessKey, "RUCHE_ROOT_PASSWORD="+s.Target.SecretKey,
		"RUCHE_DOMAINS="+s.Target.Domain,
		"RUCHE_BALLAST=16MiB", // a test needs no space to be held back
	)
	if err := s.cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", bin, err), log.Close())
	}
	s.PID = s.cmd.Process.Pid
	go func() {
		defer close(s.exited)
		s.err = s.cmd.Wait()
	}()
	return nil
}

// waitReady polls until the server has written where it listens and answers
// /health/ready with 200 there.
func (s *Server) waitReady(endpoints string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("endpoints.json was not written")
	for {
		select {
		case <-s.exited:
			return fmt.Errorf("ended before it was ready: %w", cmpErr(s.err, errors.New("exit code 0")))
		case <-ctx.Done():
			return fmt.Errorf("not ready after %v: %w", startLimit, last)
		case <-tick.C:
		}
		s3, admin, err := readEndpoints(endpoints)
		if err != nil {
			last = err
			continue
		}
		s.Target.Endpoint = s3
		if last = s.probe(ctx, s3); last != nil && admin != "" {
			last = s.probe(ctx, admin)
		}
		if last == nil {
			return nil
		}
	}
}

// probe asks base for its readiness.
func (s *Server) probe(ctx context.Context, base string) error {
	transport, err := s.Target.Transport()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/health/ready", nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: transport, Timeout: 5 * time.Second}
	reply, err := client.Do(req)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("%s/health/ready answers %s", base, reply.Status)
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
	s3, admin = first("s3"), first("admin")
	if s3 == "" {
		return "", "", fmt.Errorf("%s names no s3 endpoint: %s", file, text)
	}
	return s3, admin, nil
}

// Stop sends SIGTERM and waits for the process. It returns an error, with the
// end of the server's log, if the server was gone already, does not end in
// time, or ends with another exit code than 0.
func (s *Server) Stop() error {
	defer s.log.Close()
	select {
	case <-s.exited:
		return fmt.Errorf("server %s had ended on its own: %w\n%s", s.Target.Name, cmpErr(s.err, errors.New("exit code 0")), s.tail())
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop server %s: %w", s.Target.Name, err)
	}
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case <-s.exited:
	case <-limit.C:
		// The stacks of its goroutines in the log show what it waits for.
		s.cmd.Process.Signal(syscall.SIGQUIT)
		select {
		case <-s.exited:
		case <-time.After(5 * time.Second):
			s.cmd.Process.Kill()
			<-s.exited
		}
		return fmt.Errorf("server %s did not end within %v of SIGTERM\n%s", s.Target.Name, stopLimit, s.tail())
	}
	if s.err != nil {
		return fmt.Errorf("server %s, after SIGTERM: %w\n%s", s.Target.Name, s.err, s.tail())
	}
	return nil
}

// Log returns what the server has printed so far.
func (s *Server) Log() []byte {
	text, err := os.ReadFile(s.log.Name())
	if err != nil {
		return []byte(err.Error())
	}
	return text
}

// tail returns the last 16 KiB that the server printed.
func (s *Server) tail() []byte {
	file, err := os.Open(s.log.Name())
	if err != nil {
		return []byte(err.Error())
	}
	defer file.Close()
	const most = 16 << 10
	if info, err := file.Stat(); err == nil && info.Size() > most {
		file.Seek(-most, io.SeekEnd)
	}
	var out bytes.Buffer
	io.Copy(&out, file)
	return out.Bytes()
}

// cmpErr returns the first of two errors that is not nil.
func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// notForServers reports whether a server under test must not see a variable of
// this process: all that configure Ruche, but for the number of copies of the
// metadata, so that every test may be run with several.
func notForServers(variable string) bool {
	return strings.HasPrefix(variable, "RUCHE_") && !strings.HasPrefix(variable, "RUCHE_METADATA_REPLICAS=")
}
