package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ruche-storage/ruche/bench/client"
	"github.com/ruche-storage/ruche/bench/process"
)

// side is one of the servers that are compared.
type side struct {
	label  string
	target client.Target
	pid    int // 0: not known, no figures of CPU and memory
	bucket string

	serve *serve // nil: the server runs already
}

// serve is how a side runs its own server.
type serve struct {
	bin    string
	args   []string
	drives int
	root   string // directory below which the server's are made

	home    string // of the running server
	process *process.Process
}

// start starts the server, if the side has one of its own, with empty drives,
// and makes a bucket.
func (s *side) start(ctx context.Context) error {
	if s.serve != nil {
		p, err := s.serve.start(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", s.label, err)
		}
		s.target.Endpoint, s.target.AccessKey, s.target.SecretKey, s.pid = p.Endpoint, p.AccessKey, p.SecretKey, p.PID
	}
	s.bucket = "bench-" + strings.ToLower(rand.Text()[:12])
	if err := s.call(ctx, "PUT"); err != nil {
		return errors.Join(fmt.Errorf("%s: create bucket: %w", s.label, err), s.end())
	}
	return nil
}

// stop removes the bucket and ends the server, if it is the side's own, and
// removes its directories.
func (s *side) stop(ctx context.Context) error {
	if s.serve != nil {
		return s.end()
	}
	if err := s.call(ctx, "DELETE"); err != nil {
		return fmt.Errorf("%s: delete bucket: %w", s.label, err)
	}
	return nil
}

// call makes a request for the bucket itself.
func (s *side) call(ctx context.Context, method string) error {
	c, err := client.New(s.target)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Do(ctx, &client.Request{Method: method, Path: "/" + s.bucket})
	return err
}

// end ends the side's own server.
func (s *side) end() error {
	if s.serve == nil || s.serve.process == nil {
		return nil
	}
	err := s.serve.process.Stop()
	s.serve.process = nil
	return errors.Join(err, os.RemoveAll(s.serve.home))
}

// start runs the server on new drive directories.
func (v *serve) start(ctx context.Context) (*process.Process, error) {
	home, err := os.MkdirTemp(v.root, "ruche-bench-")
	if err != nil {
		return nil, fmt.Errorf("make directory of server: %w", err)
	}
	o := process.Options{Bin: v.bin, Data: filepath.Join(home, "state"), Args: v.args}
	for i := range v.drives {
		d := filepath.Join(home, fmt.Sprintf("d%d", i+1))
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, errors.Join(err, os.RemoveAll(home))
		}
		o.Drives = append(o.Drives, d)
	}
	p, err := process.Start(ctx, o)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(home))
	}
	v.home, v.process = home, p
	return p, nil
}

// meter reads what a server and this process have used. Process 0 is none.
type meter struct{ pid int }

// reset forgets the peak of the process's memory so far.
func (m meter) reset() error {
	if m.pid == 0 {
		return nil
	}
	return process.ResetPeak(m.pid)
}

// read returns the CPU time that the process and this one have used.
func (m meter) read() (cost, error) {
	var c cost
	var err error
	if c.client, err = process.CPU(os.Getpid()); err != nil || m.pid == 0 {
		return c, err
	}
	if c.server, err = process.CPU(m.pid); err != nil {
		return c, fmt.Errorf("server: %w", err)
	}
	memory, err := process.ReadMemory(m.pid)
	if err != nil {
		return c, fmt.Errorf("server: %w", err)
	}
	c.peak = memory.Peak
	return c, nil
}
