package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestProfile writes a profile of a server that answers them, and none of one
// that does not.
func TestProfile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, filepath.Join(dir, "on"), options{args: []string{"--profiling"}})
	file := filepath.Join(dir, "heap.out")
	if out := s.ok("profile", "heap", file); !strings.Contains(out, file) {
		t.Errorf("profile heap: %q", out)
	}
	if text, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(text), "\x1f\x8b") {
		t.Errorf("the file holds %.20q, %v", text, err)
	}
	s.end()
	s = start(t, filepath.Join(dir, "off"), options{})
	for _, c := range []struct {
		args []string
		exit int
		says string
	}{
		{[]string{"profile", "heap", file}, exitFailure, "exists already"},
		{[]string{"profile", "heap", file + "2"}, exitFailure, "--profiling"},
		{[]string{"profile", "memory", file + "2"}, exitUsage, "not one of"},
		{[]string{"profile", "cpu"}, exitUsage, "needs KIND and FILE"},
		{[]string{"profile", "cpu", file + "2", "--for", "1h"}, exitUsage, "not between"},
	} {
		if exit, _, errs := s.command("", c.args...); exit != c.exit || !strings.Contains(errs, c.says) {
			t.Errorf("%q: %d, %s; want %d, %s", c.args, exit, errs, c.exit, c.says)
		}
	}
	if _, err := os.Stat(file + "2"); err == nil {
		t.Error("a file without a profile is left")
	}
}
