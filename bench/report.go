package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
)

// report is everything that a run found.
type report struct {
	Machine machine      `json:"machine"`
	Options description  `json:"options"`
	Steps   []stepReport `json:"steps"`
}

// description says what was measured and how.
type description struct {
	Date       string   `json:"date"`
	Commit     string   `json:"commit,omitzero"`
	Sides      []string `json:"sides"`
	Durability string   `json:"durability,omitzero"`
	Note       string   `json:"note,omitzero"`
	Seconds    float64  `json:"seconds_a_step"`
	WarmUp     float64  `json:"seconds_of_warm_up"`
	Rounds     int      `json:"rounds"`
	Fresh      bool     `json:"empty_drives_for_each_step"`
}

// stepReport is a step on all sides.
type stepReport struct {
	Name  string       `json:"step"`
	Sides []sideReport `json:"sides"`
	// Ratios of the first side to the second, medians of those of the rounds.
	Ratios *ratios `json:"ratios,omitempty"`
}

// sideReport is a step on one side.
type sideReport struct {
	Label  string   `json:"label"`
	Median sample   `json:"median"`
	Rounds []sample `json:"rounds"`
	Errors []string `json:"errors,omitempty"` // the first few
}

// ratios compare the first side with the second; more is better in all of
// them. 0 stands for a ratio that does not exist.
type ratios struct {
	Rate float64 `json:"rate"`         // first / second
	CPU  float64 `json:"cpu_per_unit"` // second / first
	P99  float64 `json:"p99_latency"`  // second / first
	RSS  float64 `json:"peak_rss"`     // second / first
}

// finish works out medians and ratios.
func (l *stepReport) finish() {
	for i := range l.Sides {
		l.Sides[i].Median = medians(l.Sides[i].Rounds)
	}
	if len(l.Sides) != 2 {
		return
	}
	a, b := l.Sides[0].Rounds, l.Sides[1].Rounds
	r := func(x, y []sample, of metric) float64 {
		if v := ratio(values(x, of), values(y, of)); !math.IsNaN(v) {
			return v
		}
		return 0
	}
	l.Ratios = &ratios{Rate: r(a, b, rate), CPU: r(b, a, cpuUnit), P99: r(b, a, p99), RSS: r(b, a, peakRSS)}
}

// errorShare returns the share of calls that failed in the worst step and
// side, and its description.
func (r *report) errorShare() (worst float64, where string) {
	for _, l := range r.Steps {
		for _, s := range l.Sides {
			var calls, failed int64
			for _, round := range s.Rounds {
				calls += round.Calls + round.Errors
				failed += round.Errors
			}
			if calls == 0 {
				calls, failed = 1, 1 // a step that did nothing proves nothing
			}
			if share := float64(failed) / float64(calls); share > worst {
				worst = share
				where = fmt.Sprintf("%s, %s: %d of %d calls failed: %s", s.Label, l.Name, failed, calls, strings.Join(s.Errors, "; "))
			}
		}
	}
	return worst, where
}

// columns are those of the table, each from a sample.
func columns() []struct {
	name string
	text func(*sample) string
} {
	type column = struct {
		name string
		text func(*sample) string
	}
	f := func(name string, of func(*sample) float64) column {
		return column{name, func(s *sample) string { return figure(of(s)) }}
	}
	return []column{
		f("per s", rate), f("MB/s", mbRate),
		f("p50 ms", func(s *sample) float64 { return s.P50 }), f("p90 ms", func(s *sample) float64 { return s.P90 }), f("p99 ms", p99),
		f("CPU ms", cpuUnit), f("CPU s/GiB", func(s *sample) float64 { return s.CPUGiB }),
		f("CPU s/1000", func(s *sample) float64 { return s.CPU1000 }), f("RSS MiB", peakRSS),
		f("client ms", func(s *sample) float64 { return s.ClientCPU }),
		{"errors", func(s *sample) string { return strconv.FormatInt(s.Errors, 10) }},
	}
}

// figure writes a number with three digits that count; "-" for none.
func figure(v float64) string {
	switch {
	case v == 0 || math.IsNaN(v):
		return "-"
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	digits := 2 - int(math.Floor(math.Log10(v)))
	return strconv.FormatFloat(v, 'f', min(digits, 4), 64)
}

// rows returns the table's lines, the first one its head.
func (r *report) rows() [][]string {
	head := []string{"step", "side"}
	for _, c := range columns() {
		head = append(head, c.name)
	}
	rows := [][]string{head}
	for _, l := range r.Steps {
		for i := range l.Sides {
			row := []string{l.Name, l.Sides[i].Label}
			for _, c := range columns() {
				row = append(row, c.text(&l.Sides[i].Median))
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// ratioRows returns the lines of the comparison, the first one its head; none
// if there is one side.
func (r *report) ratioRows() [][]string {
	var rows [][]string
	for _, l := range r.Steps {
		if l.Ratios == nil {
			continue
		}
		if rows == nil {
			rows = [][]string{{"step", "x rate", "x less CPU", "x less p99", "x less RSS"}}
		}
		rows = append(rows, []string{l.Name, figure(l.Ratios.Rate), figure(l.Ratios.CPU), figure(l.Ratios.P99), figure(l.Ratios.RSS)})
	}
	return rows
}

// writeTable writes the report for a terminal.
func (r *report) writeTable(w io.Writer) error {
	m, o := r.Machine, r.Options
	fmt.Fprintf(w, "%s, %d processors, load %.1f, MD5 %.2f GB/s, 4 KiB + fdatasync %.2f ms on %s\n", m.CPU, m.Processors, m.Load, m.MD5, m.Sync, m.FileSystem)
	fmt.Fprintf(w, "%.3g s a step, %d rounds, medians; CPU and RSS are the server's; the unit of LIST is a key\n\n", o.Seconds, o.Rounds)
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, rows := range [][][]string{r.rows(), r.ratioRows()} {
		for _, row := range rows {
			fmt.Fprintln(tab, strings.Join(row, "\t")+"\t")
		}
		fmt.Fprintln(tab)
	}
	return tab.Flush()
}

// writeJSON writes the report for programs.
func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// writeMarkdown writes the report for bench/results.
func (r *report) writeMarkdown(file string) error {
	f := new(strings.Builder)
	m, o := r.Machine, r.Options
	fmt.Fprintf(f, "# Results of %s\n\n", o.Date)
	for _, line := range [][2]string{
		{"machine", fmt.Sprintf("%s, %d processors, %.0f GiB, Linux %s, %s", m.CPU, m.Processors, m.MemoryGiB, m.Kernel, m.FileSystem)},
		{"MD5, one core", fmt.Sprintf("%.2f GB/s (%.2f CPU s/GiB)", m.MD5, float64(gib)/1e9/m.MD5)},
		{"load before the run", fmt.Sprintf("%.1f", m.Load)},
		{"4 KiB and fdatasync", fmt.Sprintf("p50 %.3f ms", m.Sync)},
		{"commit", o.Commit}, {"measured", strings.Join(o.Sides, "; ")}, {"durability", o.Durability},
		{"method", fmt.Sprintf("%.3g s a step after %.3g s of warm-up, %d rounds, medians; empty drives for each step: %t", o.Seconds, o.WarmUp, o.Rounds, o.Fresh)},
		{"note", o.Note},
	} {
		if line[1] != "" {
			fmt.Fprintf(f, "* %s: %s\n", line[0], line[1])
		}
	}
	fmt.Fprint(f, "\nCPU and peak RSS are the server process's; the client's CPU stands apart. The unit of LIST is a key. MB are 10^6 bytes.\n")
	for _, rows := range [][][]string{r.rows(), r.ratioRows()} {
		for i, row := range rows {
			if i == 0 {
				fmt.Fprintln(f)
			}
			fmt.Fprintf(f, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				fmt.Fprintf(f, "|%s\n", strings.Repeat("---|", len(row)))
			}
		}
	}
	return os.WriteFile(file, []byte(f.String()), 0o644)
}
