package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/gateway/admin"
)

// steadyCopies replaces what differs from run to run, besides what steady does.
func steadyCopies(s *instance, text string) string {
	text = steady(s, text)
	for _, r := range []struct{ pattern, with string }{
		{`ok  \d+  \d+  `, "ok  LEADS  LAG  "},
		{`[\d.]+ ms`, "TIME"},
		{`[\d.]+ (B|KiB|MiB)`, "SPACE"},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.with)
	}
	return text
}

func copiesNow(t *testing.T, s *instance) (m admin.Metadata) {
	t.Helper()
	if err := json.Unmarshal([]byte(s.ok("metadata", "status", "--output", "json")), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// awaitCopies waits until the copies are as they should be.
func awaitCopies(t *testing.T, s *instance, what string, as func(*admin.Metadata) bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(startPatience)
	for m := copiesNow(t, s); !as(&m); m = copiesNow(t, s) {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain for %s: %+v", what, m)
		}
	}
}

// quick reports that no copy has trouble, nor does a busy machine slow one down.
func quick(m *admin.Metadata) bool {
	return !slices.ContainsFunc(m.Stores, func(s admin.CopyState) bool { return s.Health != admin.CopyOK })
}

// TestMetadataCommands grows a store to three copies, loses one, replaces it,
// and goes back to one.
func TestMetadataCommands(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{args: []string{"--default-buckets", "media"}})
	s.want(200, "PUT", "/media/hello", "hello, world")
	var out strings.Builder
	show := func(args ...string) {
		text := s.ok(args...)
		out.WriteString("$ ruche " + steady(s, strings.Join(args, " ")) + "\n" + steadyCopies(s, text) + "\n")
	}
	show("metadata", "status")
	if exit, _, errs := s.command("", "metadata", "add", "auto"); exit != exitFailure || !strings.Contains(errs, "too few") {
		t.Errorf("add auto on one device: %d, %s", exit, errs)
	}
	if exit, _, errs := s.command("", "metadata", "remove", "1"); exit != exitFailure || !strings.Contains(errs, "one copy") {
		t.Errorf("remove of the only copy: %d, %s", exit, errs)
	}
	s.ok("metadata", "add", filepath.Join(s.dir, "d1"), "--wait")
	s.ok("metadata", "add", filepath.Join(s.dir, "d2"), "--wait")
	awaitCopies(t, s, "three copies", quick)
	show("metadata", "status")
	s.ok("metadata", "transfer", "2")
	// Moved at once: files that come while others are removed would stay.
	if err := os.Rename(filepath.Join(s.dir, "d2", "meta"), filepath.Join(t.TempDir(), "meta")); err != nil {
		t.Fatal(err)
	}
	awaitCopies(t, s, "the loss to be seen", func(m *admin.Metadata) bool {
		return m.MayLose == 0 && m.Leaderless == 0 && m.Stores[2].Health == admin.CopyAbsent
	})
	show("status")
	s.ok("metadata", "replace", filepath.Join(s.dir, "d2"), "--wait")
	awaitCopies(t, s, "the new copy", quick)
	show("metadata", "status")
	s.want(200, "GET", "/media/hello", "")
	s.ok("metadata", "remove", "2")
	s.ok("metadata", "remove", "4", "--wait")
	awaitCopies(t, s, "one copy", quick)
	show("metadata", "status")
	golden(t, "metadata", out.String())
}

// TestForceAsks wants the id of the cluster typed, or to be told that the
// operator knows.
func TestForceAsks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir, options{args: []string{"--default-buckets", "media", "--metadata-replicas", "3"}})
	s.want(200, "PUT", "/media/hello", "hello, world")
	cluster := s.status().Cluster
	s.end()
	for _, d := range []string{"d1", "d2"} {
		if err := os.RemoveAll(filepath.Join(dir, d, "meta")); err != nil {
			t.Fatal(err)
		}
	}
	environ := []string{"RUCHE_DATA=" + dir, "RUCHE_LOG_LEVEL=error"}
	force := func(typed string) (int, string, string) {
		out, errs := newScreen(), newScreen()
		code := run(t.Context(), []string{"metadata", "force"}, surroundings{environ: environ, stdin: strings.NewReader(typed), stdout: out, stderr: errs})
		return code, out.String(), errs.String()
	}
	for _, typed := range []string{"", "yes\n", "\n"} {
		if exit, _, errs := force(typed); exit != exitFailure || !strings.Contains(errs, "not confirmed") || !strings.Contains(errs, "becomes the truth") {
			t.Errorf("force with %q: %d, %s", typed, exit, errs)
		}
	}
	if exit, out, errs := force(cluster + "\n"); exit != exitOK || !strings.Contains(out, "goes on from one copy") {
		t.Fatalf("force: %d, %s%s", exit, out, errs)
	}
	s = start(t, dir, options{})
	if got := s.want(200, "GET", "/media/hello", ""); got != "hello, world" {
		t.Errorf("object is %q", got)
	}
	if !strings.Contains(s.ok("status"), "resume-collection") {
		t.Error("status does not tell how to end the restore")
	}
}
