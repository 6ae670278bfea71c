package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/bench/client"
)

// maxErrors ends a worker: a server that refuses everything is not hammered
// until the end of the step.
const maxErrors = 100

// run takes all steps on all sides and returns what it measured. Sides
// alternate: A B A B.
func run(ctx context.Context, o *options, progress io.Writer) (*report, error) {
	r := &report{Machine: readMachine(o.root, o.md5Bytes), Options: o.describe()}
	if !o.fresh() {
		for _, s := range o.sides {
			if err := s.start(ctx); err != nil {
				return r, err
			}
			defer func() {
				if err := s.stop(context.WithoutCancel(ctx)); err != nil {
					fmt.Fprintln(progress, "bench:", err)
				}
			}()
		}
	}
	for i, st := range o.chosen {
		line := stepReport{Name: st.String(), Sides: make([]sideReport, len(o.sides))}
		for round := range o.rounds {
			for j, s := range o.sides {
				fmt.Fprintf(progress, "%3d/%d %-24s %s round %d\n", i+1, len(o.chosen), st, s.label, round+1)
				got, messages, err := measure(ctx, o, s, st, fmt.Sprintf("s%d-r%d", i, round))
				if err != nil {
					return r, fmt.Errorf("%s, %s: %w", s.label, st, err)
				}
				line.Sides[j].Label = s.label
				line.Sides[j].Rounds = append(line.Sides[j].Rounds, got)
				line.Sides[j].Errors = append(line.Sides[j].Errors, messages...)
			}
		}
		line.finish()
		r.Steps = append(r.Steps, line)
	}
	return r, nil
}

// measure takes a step once: objects are made, the step runs for the time of
// the warm-up and is waited for, and then runs again and counts.
func measure(ctx context.Context, o *options, s *side, st step, tag string) (_ sample, messages []string, err error) {
	if o.fresh() {
		if err := s.start(ctx); err != nil {
			return sample{}, nil, err
		}
		defer func() { err = errors.Join(err, s.stop(context.WithoutCancel(ctx))) }()
	}
	j := newJob(s, st, tag, o)
	if err := j.prepare(ctx); err != nil {
		return sample{}, nil, fmt.Errorf("prepare: %w", err)
	}
	workers, err := newWorkers(s, st)
	if err != nil {
		return sample{}, nil, err
	}
	defer func() {
		for _, w := range workers {
			w.conn.Close()
		}
	}()
	m := meter{s.pid}
	if err := m.reset(); err != nil {
		return sample{}, nil, err
	}
	if st.Op != opDelete {
		// Errors of the warm-up are errors of the step: they may be the only ones.
		if warm := j.run(ctx, workers, o.warmup); warm.errors > 0 {
			return newSample(warm, cost{}), warm.messages, context.Cause(ctx)
		}
	}
	stopProfile := o.profile(ctx, s, st)
	before, err := m.read()
	if err != nil {
		return sample{}, nil, err
	}
	begin := time.Now()
	t := j.run(ctx, workers, o.duration)
	used := cost{elapsed: time.Since(begin)}
	after, err := m.read()
	err = errors.Join(err, stopProfile(), context.Cause(ctx))
	if err != nil {
		return sample{}, nil, err
	}
	used.server, used.client, used.peak = after.server-before.server, after.client-before.client, after.peak
	if !o.fresh() {
		err = j.clean(ctx)
	}
	return newSample(t, used), t.messages, err
}

// newWorkers returns the clients of a step.
func newWorkers(s *side, st step) ([]*worker, error) {
	n := st.Clients
	if st.Op == opUpload {
		n = 1 // which has the connections for the parts
	}
	workers := make([]*worker, n)
	for i := range workers {
		c, err := client.New(s.target)
		if err != nil {
			return nil, err
		}
		workers[i] = &worker{conn: c, rand: rand.New(rand.NewPCG(uint64(i), 1))}
	}
	return workers, nil
}

// run lets all workers call for a time and returns, once the last call has
// ended, what they did: so the CPU time of every call that is counted is
// measured, and no other.
func (j *job) run(ctx context.Context, workers []*worker, d time.Duration) *tally {
	end := time.Now().Add(d)
	tallies := make([]tally, len(workers))
	var wg sync.WaitGroup
	for i, w := range workers {
		wg.Go(func() {
			t := &tallies[i]
			for ctx.Err() == nil && t.errors < maxErrors {
				begin := time.Now()
				if begin.After(end) {
					return
				}
				got, err := j.call(ctx, w)
				if errors.Is(err, errSpent) {
					return
				}
				w.n++
				if err != nil {
					t.fail(err)
					continue
				}
				t.latencies = append(t.latencies, time.Since(begin))
				t.units += got.units
				t.bytes += got.bytes
				t.verified += got.verified
			}
		})
	}
	wg.Wait()
	var all tally
	for i := range tallies {
		all.add(&tallies[i])
	}
	return &all
}

// profile fetches a CPU profile from the server's pprof pages while a step
// runs, if that is wanted. The function it returns waits for the profile.
func (o *options) profile(ctx context.Context, s *side, st step) func() error {
	if o.pprof == "" || s != o.sides[0] {
		return func() error { return nil }
	}
	result := make(chan error, 1)
	go func() {
		result <- fetch(ctx, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", o.pprof, max(1, int(o.duration.Seconds()))),
			filepath.Join(o.profiles, strings.NewReplacer(" ", "-", "/", "-").Replace(st.String())+".pprof"))
	}()
	return func() error { return <-result }
}

// fetch copies what a URL answers to a file.
func fetch(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	reply, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("fetch profile: %w", err)
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("fetch profile: %s answers %s", url, reply.Status)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, reply.Body)
	return errors.Join(err, out.Close())
}
