// Command proof keeps what long tests have counted: it reads the output of
// "go test -json", passes on what the tests printed, and files every line
//
//	T-NAME: what was done and what came of it
//
// of a test that passed, with the commit, the date and the time it took. The
// names are those of the promises in docs/durability.md, which is made from the
// file (see bench/docs).
//
//	go test -json -count=1 ./conformance/kill | go run ./bench/proof --commit v1.2 --file bench/results/proof.json
//
// A test that fails is not filed, takes the line that it had before away, and
// makes proof fail.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A Proof is what a test has counted.
type Proof struct {
	ID      string  `json:"id"` // such as T-SIM
	Test    string  `json:"test"`
	Package string  `json:"package"` // below the module
	Figures string  `json:"figures"`
	Date    string  `json:"date"` // of the run, UTC
	Commit  string  `json:"commit"`
	Seconds float64 `json:"seconds"`
}

// event is a line of "go test -json".
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

const module = "github.com/ruche-storage/ruche/"

// figures is a line of figures in what a test prints, after the place that
// testing puts before it.
var figures = regexp.MustCompile(`^(?:\s*\S+\.go:\d+: |\s*)(T-[A-Z]+): (.+)$`)

func main() {
	file := flag.String("file", "bench/results/proof.json", "file of proofs, made if there is none")
	commit := flag.String("commit", "", "commit that is tested")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *file, *commit, time.Now()); err != nil {
		fmt.Fprintln(os.Stderr, "proof:", err)
		os.Exit(1)
	}
}

// run files what it reads.
func run(in io.Reader, out io.Writer, file, commit string, now time.Time) error {
	if commit == "" {
		return errors.New("--commit is missing: figures without a commit prove nothing")
	}
	had, err := load(file)
	if err != nil {
		return err
	}
	r := reading{commit: commit, date: now.UTC().Format(time.DateOnly), lines: make(map[string][]Proof)}
	if err := r.read(in, out); err != nil {
		return err
	}
	all := slices.DeleteFunc(had, func(p Proof) bool { return slices.Contains(r.ended, p.Package+" "+p.Test) })
	all = append(all, r.passed...)
	slices.SortFunc(all, func(a, b Proof) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Package, b.Package), cmp.Compare(a.Test, b.Test))
	})
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return err
	}
	if len(r.failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(r.failed, ", "))
	}
	return nil
}

// load reads a file of proofs; there need not be one.
func load(file string) (all []Proof, err error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return all, nil
}

// reading is what was read so far. Tests are named by package and name.
type reading struct {
	commit, date  string
	lines         map[string][]Proof // of tests that run
	passed        []Proof
	ended, failed []string
}

func (r *reading) read(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("%q is not a line of \"go test -json\"", lines.Text())
		}
		if err := r.take(&e, out); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (r *reading) take(e *event, out io.Writer) error {
	pkg := strings.TrimPrefix(e.Package, module)
	name := pkg + " " + e.Test
	switch e.Action {
	case "output":
		if _, err := io.WriteString(out, e.Output); err != nil {
			return err
		}
		if m := figures.FindStringSubmatch(strings.TrimRight(e.Output, "\n")); m != nil && e.Test != "" {
			r.lines[name] = append(r.lines[name], Proof{ID: m[1], Test: e.Test, Package: pkg, Figures: m[2], Date: r.date, Commit: r.commit})
		}
	case "pass":
		if e.Test == "" {
			return nil
		}
		for _, p := range r.lines[name] {
			p.Seconds = math.Round(e.Elapsed*10) / 10
			r.passed = append(r.passed, p)
		}
		r.ended = append(r.ended, name)
	case "fail":
		r.ended, r.failed = append(r.ended, name), append(r.failed, strings.TrimSpace(name))
	}
	return nil
}
