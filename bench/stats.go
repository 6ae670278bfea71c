package main

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// quantile returns the smallest value of sorted that at least the share q of
// all values do not exceed; 0 if there are none.
func quantile[T cmp.Ordered](sorted []T, q float64) T {
	if len(sorted) == 0 {
		var zero T
		return zero
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

// median returns the middle of values, or the mean of the two in the middle; 0
// if there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// ratio returns the median of a[i]/b[i], the pairs that were measured next to
// each other; NaN if a pair has no ratio or there are none.
func ratio(a, b []float64) float64 {
	if len(a) != len(b) || len(a) == 0 {
		return math.NaN()
	}
	ratios := make([]float64, len(a))
	for i := range a {
		if b[i] == 0 {
			return math.NaN()
		}
		ratios[i] = a[i] / b[i]
	}
	return median(ratios)
}

// sample is one step on one side, measured once. Times are wall-clock seconds
// or milliseconds as their names say; rates count units.
type sample struct {
	Calls    int64   `json:"calls"`
	Units    int64   `json:"units"` // keys of LIST, calls otherwise
	Bytes    int64   `json:"bytes"` // of bodies, without framing
	Errors   int64   `json:"errors"`
	Seconds  float64 `json:"seconds"`
	Rate     float64 `json:"per_second"`
	MBRate   float64 `json:"mb_per_second"` // 10^6 bytes
	P50      float64 `json:"p50_ms"`        // of a call
	P90      float64 `json:"p90_ms"`
	P99      float64 `json:"p99_ms"`
	Max      float64 `json:"max_ms"`
	Verified int64   `json:"verified"` // bodies whose hash was compared

	// The server's user and system time; 0 if its process is not known.
	CPU       float64 `json:"server_cpu_s"`
	CPUUnit   float64 `json:"server_cpu_ms_per_unit"`
	CPUGiB    float64 `json:"server_cpu_s_per_gib"` // 0 if there are no bytes
	CPU1000   float64 `json:"server_cpu_s_per_1000"`
	PeakRSS   float64 `json:"server_peak_rss_mib"`
	ClientCPU float64 `json:"client_cpu_ms_per_unit"`
}

// tally is what the workers of a step count.
type tally struct {
	latencies              []time.Duration
	units, bytes, verified int64
	errors                 int64
	messages               []string // of the first few errors
}

const maxMessages = 5

func (t *tally) fail(err error) {
	t.errors++
	if text := err.Error(); len(t.messages) < maxMessages && !slices.Contains(t.messages, text) {
		t.messages = append(t.messages, text)
	}
}

func (t *tally) add(o *tally) {
	t.latencies = append(t.latencies, o.latencies...)
	t.units += o.units
	t.bytes += o.bytes
	t.verified += o.verified
	t.errors += o.errors
	for _, m := range o.messages {
		if len(t.messages) < maxMessages && !slices.Contains(t.messages, m) {
			t.messages = append(t.messages, m)
		}
	}
}

// cost is what processes used during a step.
type cost struct {
	elapsed, server, client time.Duration
	peak                    int64 // bytes
}

// newSample works out the figures of a step.
func newSample(t *tally, c cost) sample {
	slices.Sort(t.latencies)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	s := sample{
		Calls: int64(len(t.latencies)), Units: t.units, Bytes: t.bytes, Errors: t.errors, Verified: t.verified,
		Seconds: c.elapsed.Seconds(), CPU: c.server.Seconds(), PeakRSS: float64(c.peak) / float64(mib),
		P50: ms(quantile(t.latencies, 0.50)), P90: ms(quantile(t.latencies, 0.90)),
		P99: ms(quantile(t.latencies, 0.99)), Max: ms(quantile(t.latencies, 1)),
	}
	if s.Seconds > 0 {
		s.Rate = float64(s.Units) / s.Seconds
		s.MBRate = float64(s.Bytes) / 1e6 / s.Seconds
	}
	if s.Units > 0 {
		s.CPUUnit = ms(c.server) / float64(s.Units)
		s.CPU1000 = s.CPU / float64(s.Units) * 1000
		s.ClientCPU = ms(c.client) / float64(s.Units)
	}
	if s.Bytes > 0 {
		s.CPUGiB = s.CPU / (float64(s.Bytes) / float64(gib))
	}
	return s
}

// metric is one figure of a sample.
type metric func(*sample) float64

// values returns a figure of all samples.
func values(samples []sample, of metric) []float64 {
	out := make([]float64, len(samples))
	for i := range samples {
		out[i] = of(&samples[i])
	}
	return out
}

// medians returns a sample whose every figure is the median of the samples'.
func medians(samples []sample) sample {
	m := func(of metric) float64 { return median(values(samples, of)) }
	whole := func(of func(*sample) int64) int64 {
		return int64(m(func(s *sample) float64 { return float64(of(s)) }))
	}
	out := sample{
		Calls:    whole(func(s *sample) int64 { return s.Calls }),
		Units:    whole(func(s *sample) int64 { return s.Units }),
		Bytes:    whole(func(s *sample) int64 { return s.Bytes }),
		Verified: whole(func(s *sample) int64 { return s.Verified }),
		Seconds:  m(func(s *sample) float64 { return s.Seconds }), Rate: m(rate), MBRate: m(mbRate),
		P50: m(func(s *sample) float64 { return s.P50 }), P90: m(func(s *sample) float64 { return s.P90 }),
		P99: m(p99), Max: m(func(s *sample) float64 { return s.Max }),
		CPU: m(func(s *sample) float64 { return s.CPU }), CPUUnit: m(cpuUnit),
		CPUGiB: m(func(s *sample) float64 { return s.CPUGiB }), CPU1000: m(func(s *sample) float64 { return s.CPU1000 }),
		PeakRSS: m(peakRSS), ClientCPU: m(func(s *sample) float64 { return s.ClientCPU }),
	}
	for _, s := range samples {
		out.Errors += s.Errors
	}
	return out
}

func rate(s *sample) float64    { return s.Rate }
func mbRate(s *sample) float64  { return s.MBRate }
func p99(s *sample) float64     { return s.P99 }
func cpuUnit(s *sample) float64 { return s.CPUUnit }
func peakRSS(s *sample) float64 { return s.PeakRSS }
