package admin

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Kind is the type of a metric.
type Kind uint8

// Kinds of metrics.
const (
	Gauge Kind = iota
	Counter
	Histogram
)

// Family is one metric with all its values at the time of asking.
type Family struct {
	Name   string // without the prefix "ruche_"
	Help   string
	Kind   Kind
	Labels []string // names
	Values []Value
}

// Value is one value of a metric.
type Value struct {
	Labels []string // values, in the order of the names
	Number float64  // of a gauge or counter
	// Of a histogram: values counted, their sum, and for upper bounds the
	// number of values up to there.
	Count   uint64
	Sum     float64
	Buckets map[float64]uint64
}

// gatherer turns families into what Prometheus asks for.
type gatherer func() []Family

// Describe implements prometheus.Collector. Without descriptions the registry
// takes whatever is collected.
func (g gatherer) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (g gatherer) Collect(out chan<- prometheus.Metric) {
	for _, f := range g() {
		desc := prometheus.NewDesc("ruche_"+f.Name, f.Help, f.Labels, nil)
		for _, v := range f.Values {
			m, err := metric(desc, f.Kind, v)
			if err != nil {
				m = prometheus.NewInvalidMetric(desc, err)
			}
			out <- m
		}
	}
}

func metric(desc *prometheus.Desc, kind Kind, v Value) (prometheus.Metric, error) {
	switch kind {
	case Counter:
		return prometheus.NewConstMetric(desc, prometheus.CounterValue, v.Number, v.Labels...)
	case Histogram:
		return prometheus.NewConstHistogram(desc, v.Count, v.Sum, v.Buckets, v.Labels...)
	}
	return prometheus.NewConstMetric(desc, prometheus.GaugeValue, v.Number, v.Labels...)
}

// MetricsHandler renders what gather returns, further collectors, and figures
// of the process, in a registry of its own.
func MetricsHandler(gather func() []Family, further ...prometheus.Collector) (http.Handler, error) {
	r := prometheus.NewRegistry()
	all := append([]prometheus.Collector{
		gatherer(gather),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	}, further...)
	for _, c := range all {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4}), nil
}
