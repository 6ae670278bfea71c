package gateway

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics is what a [Server] counts. It is a [prometheus.Collector] that
// belongs to no registry until somebody registers it.
type Metrics struct {
	requests         *prometheus.CounterVec   // operation, code: HTTP status
	errors           *prometheus.CounterVec   // operation, error: S3 code
	duration         *prometheus.HistogramVec // operation; seconds to the end of the reply
	received         *prometheus.CounterVec   // operation; bytes of bodies, framing included
	sent             *prometheus.CounterVec   // operation; bytes of bodies
	aborted          *prometheus.CounterVec   // operation; replies broken off
	inFlight         prometheus.Gauge
	refused          prometheus.Counter // requests over the limit
	unparsed         prometheus.Counter // heads that were no HTTP
	accessLogDropped prometheus.Counter
	accessLogErrors  prometheus.Counter
}

func newMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "ruche", Subsystem: "s3", Name: name, Help: help}, labels)
	}
	single := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "ruche", Subsystem: "s3", Name: name, Help: help})
	}
	return &Metrics{
		requests: counter("requests_total", "S3 requests answered, by operation and HTTP status.", "operation", "code"),
		errors:   counter("errors_total", "S3 errors answered, by operation and error code.", "operation", "error"),
		received: counter("received_bytes_total", "Bytes of request bodies, framing included.", "operation"),
		sent:     counter("sent_bytes_total", "Bytes of reply bodies.", "operation"),
		aborted:  counter("aborted_total", "Replies broken off after the status line.", "operation"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "ruche", Subsystem: "s3", Name: "request_duration_seconds",
			Help:    "Time from the head of a request to the end of its reply.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"operation"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "ruche", Subsystem: "s3", Name: "requests_in_flight", Help: "Requests being served.",
		}),
		refused:          single("requests_refused_total", "Requests answered SlowDown because too many were being served."),
		unparsed:         single("requests_unparsed_total", "Requests whose head was not valid HTTP."),
		accessLogDropped: single("access_log_dropped_total", "Lines of the access log dropped because it could not keep up."),
		accessLogErrors:  single("access_log_errors_total", "Failed writes of the access log."),
	}
}

func (m *Metrics) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.requests, m.errors, m.duration, m.received, m.sent, m.aborted, m.inFlight,
		m.refused, m.unparsed, m.accessLogDropped, m.accessLogErrors,
	}
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(ch)
	}
}

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(ch)
	}
}

// observe counts a request that has ended.
func (m *Metrics) observe(c *call, took time.Duration, aborted bool) {
	name := c.op.name
	m.requests.WithLabelValues(name, strconv.Itoa(c.status())).Inc()
	m.duration.WithLabelValues(name).Observe(took.Seconds())
	if c.errorCode != "" {
		m.errors.WithLabelValues(name, c.errorCode).Inc()
	}
	if aborted {
		m.aborted.WithLabelValues(name).Inc()
	}
	if c.body.bytes > 0 {
		m.received.WithLabelValues(name).Add(float64(c.body.bytes))
	}
	if c.w.bytes > 0 {
		m.sent.WithLabelValues(name).Add(float64(c.w.bytes))
	}
}

// status is the status of the reply: 200 if the handler left it to net/http.
func (c *call) status() int {
	if c.w.status == 0 {
		return 200
	}
	return c.w.status
}
