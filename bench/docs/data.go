package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// data is what templates draw on.
type data struct {
	Store  report // one machine: plain against sealed
	Copies report // small PUTs with one copy of the metadata, and with several
	Peers  peers
	Proofs []proof

	outputs string // directory of tested outputs of commands
}

// report is what bench writes with --output json, as far as it is shown.
type report struct {
	Machine struct {
		CPU        string  `json:"cpu"`
		Processors int     `json:"processors"`
		MemoryGiB  float64 `json:"memory_gib"`
		Kernel     string  `json:"kernel"`
		FileSystem string  `json:"file_system"`
		MD5        float64 `json:"md5_gb_per_second"`
		Load       float64 `json:"load"`
		Sync       float64 `json:"fdatasync_p50_ms"`
	} `json:"machine"`
	Options struct {
		Date    string  `json:"date"`
		Commit  string  `json:"commit"`
		Seconds float64 `json:"seconds_a_step"`
		Rounds  int     `json:"rounds"`
	} `json:"options"`
	Steps []struct {
		Name  string `json:"step"`
		Sides []struct {
			Label  string `json:"label"`
			Median sample `json:"median"`
		} `json:"sides"`
	} `json:"steps"`
}

type sample struct {
	Rate    float64 `json:"per_second"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	CPU     float64 `json:"server_cpu_ms_per_unit"`
	CPUGiB  float64 `json:"server_cpu_s_per_gib"`
	PeakRSS float64 `json:"server_peak_rss_mib"`
}

// MD5GiB is the machine's CPU seconds for the MD5 of a GiB: what figures of two
// machines are scaled by.
func (r *report) MD5GiB() float64 { return 1.073741824 / r.Machine.MD5 }

// side returns a step's figures on the side with a label.
func (r *report) side(step, label string) *sample {
	for _, s := range r.Steps {
		for i := range s.Sides {
			if s.Name == step && s.Sides[i].Label == label {
				return &s.Sides[i].Median
			}
		}
	}
	return nil
}

// peakRSS is the most memory that a side needed in any step, in MiB.
func (r *report) peakRSS(label string) (most float64) {
	for _, s := range r.Steps {
		for _, side := range s.Sides {
			if side.Label == label {
				most = max(most, side.Median.PeakRSS)
			}
		}
	}
	return most
}

// peers are figures of other stores, of another machine.
type peers struct {
	Machine string  `json:"machine"`
	MD5GiB  float64 `json:"md5_cpu_seconds_per_gib"`
	Method  string  `json:"method"`
	Rows    []struct {
		Step      string  `json:"step"`
		MinIO     float64 `json:"minio_cpu_ms"`
		MinIORate float64 `json:"minio_rate"`
		SeaweedFS float64 `json:"seaweedfs_cpu_ms"`
		Target    float64 `json:"target"`
	} `json:"rows"`
	PeakRSS struct {
		MinIO     float64 `json:"minio"`
		SeaweedFS float64 `json:"seaweedfs"`
	} `json:"peak_rss_mib"`
}

// comparison is a line of the table against the peers. CPU is milliseconds an
// operation; that of the peers is scaled to our machine.
type comparison struct {
	Step                   string
	Plain, Sealed          *sample
	MinIO, SeaweedFS       float64
	Ratio, Target, Sealing float64
}

// Reached reports whether the target is.
func (c *comparison) Reached() bool { return c.Ratio >= c.Target }

// Comparison is the table against the peers. It fails if a step is missing.
func (d *data) Comparison() ([]*comparison, error) {
	scale := d.Store.MD5GiB() / d.Peers.MD5GiB
	var table []*comparison
	for _, row := range d.Peers.Rows {
		c := &comparison{Step: row.Step, Plain: d.Store.side(row.Step, "plain"), Sealed: d.Store.side(row.Step, "sealed"),
			MinIO: row.MinIO * scale, SeaweedFS: row.SeaweedFS * scale, Target: row.Target}
		if c.Plain == nil || c.Sealed == nil {
			return nil, fmt.Errorf("store.json has no step %q with sides \"plain\" and \"sealed\"", row.Step)
		}
		c.Ratio = c.MinIO / c.Plain.CPU
		c.Sealing = (c.Sealed.CPU/c.Plain.CPU - 1) * 100
		table = append(table, c)
	}
	return table, nil
}

// MemoryRatio is how many times the memory of ours MinIO needs.
func (d *data) MemoryRatio() float64 { return d.Peers.PeakRSS.MinIO / d.Store.peakRSS("plain") }

// Memory is the most that ours needed, in MiB.
func (d *data) Memory() float64 { return d.Store.peakRSS("plain") }

// proof is a line of what bench/proof files.
type proof struct {
	ID      string  `json:"id"`
	Test    string  `json:"test"`
	Package string  `json:"package"`
	Figures string  `json:"figures"`
	Date    string  `json:"date"`
	Commit  string  `json:"commit"`
	Seconds float64 `json:"seconds"`
}

// Proof returns what was filed under an id. It fails if there is nothing.
func (d *data) Proof(id string) ([]proof, error) {
	var of []proof
	for _, p := range d.Proofs {
		if p.ID == id {
			of = append(of, p)
		}
	}
	if of == nil {
		return nil, fmt.Errorf("proof.json has nothing of %s", id)
	}
	return of, nil
}

// Output is the tested output of a command, indented as code.
func (d *data) Output(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(d.outputs, name))
	return "    " + strings.ReplaceAll(strings.TrimRight(string(text), "\n"), "\n", "\n    "), err
}

// figure writes a number with three digits that count.
func figure(v float64) string {
	switch {
	case v == 0 || math.IsNaN(v):
		return "-"
	case math.Abs(v) >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	return strconv.FormatFloat(v, 'f', min(digits, 4), 64)
}
