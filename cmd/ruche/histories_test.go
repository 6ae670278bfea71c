package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRecoverAfterRestore restores a backup, and later loses the metadata again:
// what was given up with the restore does not come back over what was restored,
// unless it is asked for.
func TestRecoverAfterRestore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state, drives := filepath.Join(dir, "state"), filepath.Join(dir, "d{1...6}")
	o := options{args: []string{"--drives", drives}}
	s := start(t, state, o)
	s.want(200, "PUT", "/main", "")
	s.want(200, "PUT", "/closed", "")
	for _, path := range []string{"/main/overwritten", "/main/deleted", "/main/kept"} {
		s.want(200, "PUT", path, "old")
	}
	s.filled()
	file := s.backup()
	s.want(200, "PUT", "/main/overwritten", "new")
	s.want(204, "DELETE", "/main/deleted", "")
	s.want(200, "PUT", "/main/created", "new")
	s.want(204, "DELETE", "/closed", "")
	s.manifested()
	s.end()

	lose := func() {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(state, "metadata")); err != nil {
			t.Fatal(err)
		}
	}
	recovered := func(args ...string) string {
		t.Helper()
		exit, out, errs := s.command("", append([]string{"recover", "--drives", drives}, args...)...)
		if exit != exitOK {
			t.Fatalf("recover: exit code %d\n%s%s", exit, out, errs)
		}
		return out
	}
	is := func(path, want string) {
		t.Helper()
		if want == "" {
			s.want(404, "GET", path, "")
		} else if got := s.want(200, "GET", path, ""); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	lose()
	s.restore("", file, "--drives", drives)
	s = start(t, state, o)
	s.want(200, "PUT", "/closed/later", "later")
	s.want(200, "PUT", "/main/later", "later")
	s.filled()
	s.end()

	lose()
	if out := recovered(); !strings.Contains(out, "--include-ended") {
		t.Errorf("nothing tells of the history that ended:\n%s", out)
	}
	s = start(t, state, o)
	for path, want := range map[string]string{"/main/overwritten": "old", "/main/deleted": "old", "/main/kept": "old", "/main/created": "", "/main/later": "later", "/closed/later": "later"} {
		is(path, want)
	}
	if !s.collectionOff() {
		t.Error("collection is on")
	}
	s.filled()
	s.end()

	lose()
	recovered("--include-ended")
	s = start(t, state, o)
	for path, want := range map[string]string{"/main/overwritten": "new", "/main/deleted": "", "/main/kept": "old", "/main/created": "new", "/main/later": "later"} {
		is(path, want)
	}
}
