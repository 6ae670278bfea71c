package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const runs = `{"Action":"start","Package":"github.com/ruche-storage/ruche/node"}
{"Action":"output","Package":"github.com/ruche-storage/ruche/node","Test":"TestPowerCuts","Output":"=== RUN   TestPowerCuts\n"}
{"Action":"output","Package":"github.com/ruche-storage/ruche/node","Test":"TestPowerCuts","Output":"    sim_test.go:12: T-SIM: seed 5, 1,000 cuts, 0 lost\n"}
{"Action":"pass","Package":"github.com/ruche-storage/ruche/node","Test":"TestPowerCuts","Elapsed":12.34}
{"Action":"output","Package":"github.com/ruche-storage/ruche/node","Test":"TestFull","Output":"T-FULL: nothing lost\n"}
{"Action":"%END%","Package":"github.com/ruche-storage/ruche/node","Test":"TestFull","Elapsed":1}
{"Action":"pass","Package":"github.com/ruche-storage/ruche/node","Elapsed":13}
`

func proofs(t *testing.T, file string) (all []Proof) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRunFilesWhatPassed(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "proof.json")
	now := time.Date(2026, 5, 4, 23, 0, 0, 0, time.UTC)
	var out strings.Builder
	if err := run(strings.NewReader(strings.ReplaceAll(runs, "%END%", "pass")), &out, file, "abc", now); err != nil {
		t.Fatal(err)
	}
	want := Proof{ID: "T-SIM", Test: "TestPowerCuts", Package: "node", Figures: "seed 5, 1,000 cuts, 0 lost",
		Date: "2026-05-04", Commit: "abc", Seconds: 12.3}
	if all := proofs(t, file); len(all) != 2 || all[0].ID != "T-FULL" || all[1] != want {
		t.Errorf("filed %+v", all)
	}
	if !strings.Contains(out.String(), "=== RUN   TestPowerCuts\n") {
		t.Errorf("printed %q", out.String())
	}

	// A test that fails takes back what it had shown.
	err := run(strings.NewReader(strings.ReplaceAll(runs, "%END%", "fail")), &out, file, "def", now)
	if err == nil || !strings.Contains(err.Error(), "node TestFull") {
		t.Errorf("a failed test: %v", err)
	}
	if all := proofs(t, file); len(all) != 1 || all[0].Commit != "def" {
		t.Errorf("filed %+v", all)
	}
}

func TestRunRefuses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "proof.json")
	for name, c := range map[string]struct{ in, commit, want string }{
		"no commit": {runs, "", "--commit"},
		"no JSON":   {"ok  \tnode\t1.2s\n", "abc", "go test -json"},
	} {
		if err := run(strings.NewReader(c.in), new(strings.Builder), file, c.commit, time.Now()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s: a file was made", name)
		}
	}
}
