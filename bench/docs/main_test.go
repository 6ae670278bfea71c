package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocumentsAreUpToDate renders the documents and compares them with what is
// committed.
func TestDocumentsAreUpToDate(t *testing.T) {
	t.Parallel()
	if err := run("../..", true); err != nil {
		t.Error(err)
	}
}

// TestFigure writes numbers with three digits that count.
func TestFigure(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "-", 0.00123: "0.0012", 0.0412: "0.0412", 1.236: "1.24", 12.34: "12.3", 123.4: "123", -4.321: "-4.32", 98765: "98765"} {
		if got := figure(v); got != want {
			t.Errorf("figure(%v) = %s, want %s", v, got, want)
		}
	}
}

// TestMissingStep: a row of the table whose step was not measured is an error,
// not an empty cell.
func TestMissingStep(t *testing.T) {
	t.Parallel()
	root := copied(t)
	file := filepath.Join(root, "bench", "results", "store.json")
	rewrite(t, file, func(v map[string]any) { v["steps"] = []any{} })
	_, err := render(root)
	if err == nil || !strings.Contains(err.Error(), "store.json has no step") {
		t.Errorf("without steps: %v", err)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := render(root); err == nil || !strings.Contains(err.Error(), "store.json") {
		t.Errorf("half a file: %v", err)
	}
}

// TestStaleDocument: check finds a page that is not what the results give, and
// writing mends it.
func TestStaleDocument(t *testing.T) {
	t.Parallel()
	root := copied(t)
	rewrite(t, filepath.Join(root, "bench", "results", "peers.json"), func(v map[string]any) { v["machine"] = "an abacus" })
	if err := run(root, true); err == nil || !strings.Contains(err.Error(), "make docs") {
		t.Errorf("a stale page: %v", err)
	}
	if err := run(root, false); err != nil {
		t.Fatal(err)
	}
	if err := run(root, true); err != nil {
		t.Error(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "performance.md"))
	if err != nil || !strings.Contains(string(page), "an abacus") {
		t.Errorf("the page does not name the machine: %v", err)
	}
}

// copied returns a tree with what is rendered and what of.
func copied(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bench/results", "cmd/ruche/testdata", "docs"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"bench/results/store.json", "bench/results/copies.json", "bench/results/peers.json", "bench/results/proof.json",
		"cmd/ruche/testdata/durability-one-machine.txt", "cmd/ruche/testdata/durability-three-sites.txt", "docs/performance.md", "docs/durability.md"} {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func rewrite(t *testing.T, file string, change func(map[string]any)) {
	t.Helper()
	var v map[string]any
	if err := load(file, &v); err != nil {
		t.Fatal(err)
	}
	change(v)
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
