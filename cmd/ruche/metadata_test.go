package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/cmd/ruche/server"
	"github.com/ruche-storage/ruche/gateway/admin"
)

// backup writes a backup of the metadata to a new file.
func (s *instance) backup() (file string) {
	s.t.Helper()
	file = filepath.Join(s.t.TempDir(), "backup")
	s.ok("metadata", "backup", file)
	return file
}

// restore restores a backup.
func (s *instance) restore(stdin, file string, args ...string) (r server.RestoredMetadata) {
	s.t.Helper()
	exit, out, errs := s.command(stdin, append([]string{"metadata", "restore", "--file", file, "--output", "json"}, args...)...)
	if exit != exitOK {
		s.t.Fatalf("restore: exit code %d\n%s%s", exit, out, errs)
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		s.t.Fatal(err)
	}
	return r
}

// collectionOff asks whether anything is freed.
func (s *instance) collectionOff() bool {
	s.t.Helper()
	var r struct {
		Off bool `json:"collection_off"`
	}
	if err := json.Unmarshal([]byte(s.ok("repair", "status", "--output", "json")), &r); err != nil {
		s.t.Fatal(err)
	}
	return r.Off
}

// TestMetadataRestore loses the metadata alone, then all of the state directory,
// and restores both from a backup that was made while the server served.
func TestMetadataRestore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state, drives := filepath.Join(dir, "state"), filepath.Join(dir, "d{1...6}")
	o := options{args: []string{"--drives", drives}}
	s := start(t, state, o)
	code := s.recoveryCode()
	paths, gone := s.everyKind()
	user, secret := s.accessKey()
	before := make(map[string]told)
	for _, path := range paths {
		before[path] = s.look(user, secret, path)
		if want := map[bool]int{true: 404, false: 200}[gone[path]]; before[path].Status != want {
			t.Fatalf("%s: status %d, want %d", path, before[path].Status, want)
		}
	}
	file := s.backup()
	if got := mode(t, file); got != 0o600 {
		t.Errorf("mode of the backup is %o", got)
	}
	b, err := os.ReadFile(file)
	if err != nil || bytes.Contains(b, []byte("cadastre")) {
		t.Errorf("the backup is not sealed: %v", err)
	}
	if out := s.ok("metadata", "verify", file); !strings.Contains(out, "is whole") {
		t.Errorf("verify: %s", out)
	}
	s.want(200, "PUT", "/media/later", "written after the backup")
	s.want(204, "DELETE", "/media/small", "")
	s.end()

	if err := os.RemoveAll(filepath.Join(state, "metadata")); err != nil {
		t.Fatal(err)
	}
	if lost := launch(t, state, o); lost.wait() != exitFailure {
		t.Fatalf("a start without metadata:\n%s", lost.err)
	}
	first := s.restore("", file, "--drives", drives)
	if r := first; r.Incarnation < 1e9 || r.Rows == 0 || r.Credentials != "" {
		t.Errorf("restored: %+v", r)
	}
	check := func(what string) {
		t.Helper()
		s = start(t, state, o)
		for _, path := range paths {
			if diff := cmp.Diff(before[path], s.look(user, secret, path)); diff != "" {
				t.Errorf("%s: %s: %s", what, path, diff)
			}
		}
		s.want(404, "GET", "/media/later", "")
		s.want(200, "PUT", "/media/again", "third")
		if got := s.want(200, "GET", "/media/again", ""); got != "third" {
			t.Errorf("%s: what is written then is %q", what, got)
		}
		if !s.collectionOff() {
			t.Errorf("%s: collection is on", what)
		}
		s.ok("repair", "resume-collection")
		s.want(200, "PUT", "/media/again", "second")
		before["/media/again"] = s.look(user, secret, "/media/again")
		file = s.backup()
		s.end()
	}
	check("metadata lost")

	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	if r := s.restore(code+"\n", file, "--drives", drives); r.Incarnation <= first.Incarnation || r.Credentials == "" {
		t.Errorf("restored: %+v", r)
	}
	for name, want := range map[string]os.FileMode{"metadata": 0o700, "keyring": 0o600, "cluster.json": 0o600} {
		if got := mode(t, filepath.Join(state, name)); got != want {
			t.Errorf("mode of %s is %o, want %o", name, got, want)
		}
	}
	check("state directory lost")
}

// TestMetadataRestoreUnsealed backs up and restores a store without encryption.
func TestMetadataRestoreUnsealed(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{args: []string{"--encryption", "off", "--default-buckets", "media"}})
	s.want(200, "PUT", "/media/small", "hello")
	file := s.backup()
	s.end()
	if b, err := os.ReadFile(file); err != nil || !bytes.Contains(b, []byte("media")) {
		t.Errorf("the backup is sealed, or empty: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(s.dir, "metadata")); err != nil {
		t.Fatal(err)
	}
	s.restore("", file, "--encryption", "off")
	s = start(t, s.dir, options{args: []string{"--encryption", "off"}})
	if got := s.want(200, "GET", "/media/small", ""); got != "hello" {
		t.Errorf("the object is %q", got)
	}
}

// TestMetadataRestoreOfCopies loses all three copies of the metadata, two of
// them with drives that do not come back before the restoration.
func TestMetadataRestoreOfCopies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state, drives := filepath.Join(dir, "state"), filepath.Join(dir, "d{1...6}")
	o := options{args: []string{"--drives", drives, "--default-buckets", "media", "--metadata-replicas", "3"}}
	s := start(t, state, o)
	s.want(200, "PUT", "/media/small", "hello")
	file := s.backup()
	s.end()
	copies, err := filepath.Glob(filepath.Join(dir, "d*", "meta"))
	if err != nil || len(copies) != 3 {
		t.Fatalf("copies are %v, %v", copies, err)
	}
	aside := func(drive string) func() {
		t.Helper()
		if err := os.Rename(drive, drive+".away"); err != nil {
			t.Fatal(err)
		}
		return func() {
			t.Helper()
			if err := os.RemoveAll(drive); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(drive+".away", drive); err != nil {
				t.Fatal(err)
			}
		}
	}
	refuse := func(mention string, args ...string) {
		t.Helper()
		exit, out, errs := s.command("", append([]string{"metadata", "restore", "--file", file, "--drives", drives}, args...)...)
		if exit != exitFailure || !strings.Contains(errs, mention) {
			t.Errorf("exit code %d\n%s%s", exit, out, errs)
		}
	}
	refuse("copies of the metadata in")
	back := aside(filepath.Dir(copies[0]))
	for _, dir := range copies[1:] {
		for _, name := range []string{dir, dir + ".json"} {
			if err := os.RemoveAll(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	refuse("--accept-loss")
	s.restore("", file, "--drives", drives, "--accept-loss")
	back()
	s = start(t, state, options{args: []string{"--drives", drives}})
	if got := s.want(200, "GET", "/media/small", ""); got != "hello" {
		t.Errorf("the object is %q", got)
	}
	if _, err := os.Stat(copies[0]); err == nil {
		t.Errorf("%s is still there: it is of another history", copies[0])
	}
	list, err := os.ReadFile(filepath.Join(state, "metadata.json"))
	if err != nil || !strings.Contains(string(list), `"next": 4`) && !strings.Contains(string(list), `"next":4`) {
		t.Errorf("numbers of lost copies may be given again: %v\n%s", err, list)
	}
	s.ok("metadata", "add", filepath.Join(dir, "d1"), "--wait")
	s.ok("metadata", "add", filepath.Join(dir, "d2"), "--wait")
	var m admin.Metadata
	if err := json.Unmarshal([]byte(s.ok("metadata", "status", "--output", "json")), &m); err != nil || m.MayLose != 1 || m.Voters != 3 {
		t.Errorf("copies are %+v, %v", m, err)
	}
	for _, c := range m.Stores {
		if c.Replica < 4 {
			t.Errorf("copy %d in %s has the number of a lost one", c.Replica, c.Path)
		}
	}
	s.want(200, "PUT", "/media/later", "world")
	if got := s.want(200, "GET", "/media/small", ""); got != "hello" {
		t.Errorf("the object is %q", got)
	}
	// A backup of several copies, restored as one.
	file = s.backup()
	s.end()
	lost, err := filepath.Glob(filepath.Join(dir, "d*", "meta*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(lost, filepath.Join(state, "metadata"), filepath.Join(state, "metadata.json")) {
		if err := os.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
	}
	s.restore("", file, "--drives", drives)
	s = start(t, state, options{args: []string{"--drives", drives}})
	if got := s.want(200, "GET", "/media/later", ""); got != "world" {
		t.Errorf("the object is %q", got)
	}
}

// TestMetadataRestoreRefuses leaves alone what is there, and says what is wrong.
func TestMetadataRestoreRefuses(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{args: []string{"--default-buckets", "media"}})
	file := s.backup()
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	damaged := func(change func(b []byte) []byte) string {
		t.Helper()
		name := filepath.Join(t.TempDir(), "backup")
		if err := os.WriteFile(name, change(bytes.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	refuse := func(what, mention string, args ...string) {
		t.Helper()
		exit, out, errs := s.command("", append([]string{"metadata", "restore"}, args...)...)
		if exit == exitOK || !strings.Contains(errs, mention) {
			t.Errorf("%s: exit code %d\n%s%s", what, exit, out, errs)
		}
	}
	if exit, _, errs := s.command("", "metadata", "backup", file); exit != exitFailure || !strings.Contains(errs, "exists already") {
		t.Errorf("a backup over another: exit code %d\n%s", exit, errs)
	}
	refuse("a running server", "another process", "--file", file)
	s.end()
	unreached := filepath.Join(t.TempDir(), "backup")
	if exit, _, errs := s.command("", "metadata", "backup", unreached); exit != exitFailure || !strings.Contains(errs, "cannot reach") {
		t.Errorf("a backup without server: exit code %d\n%s", exit, errs)
	}
	if _, err := os.Stat(unreached); err == nil {
		t.Error("a backup that failed leaves a file")
	}
	refuse("no file named", "--file")
	refuse("metadata that are there", "metadata exists", "--file", file)
	if err := os.Rename(filepath.Join(s.dir, "metadata"), filepath.Join(t.TempDir(), "aside")); err != nil {
		t.Fatal(err)
	}
	refuse("a file that is not there", "no such file", "--file", file+"x")
	for mention, args := range map[string][]string{
		"damaged": {damaged(func(b []byte) []byte { b[len(b)-50] ^= 1; return b })},
		"no such": {file + "x"},
		"keyring": {file, "--keyring", filepath.Join(t.TempDir(), "keyring")},
	} {
		if exit, _, errs := s.command("", append([]string{"metadata", "verify"}, args...)...); exit != exitFailure || !strings.Contains(errs, mention) {
			t.Errorf("verify %v: exit code %d\n%s", args, exit, errs)
		}
	}
	refuse("a cut file", "cut off", "--file", damaged(func(b []byte) []byte { return b[:len(b)-1] }))
	refuse("a damaged file", "damaged", "--file", damaged(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }))
	refuse("another file", "not a backup", "--file", filepath.Join(s.dir, "cluster.json"))
	refuse("drives of no cluster", "none of the directories", "--file", file, "--drives", t.TempDir())
	other := start(t, t.TempDir(), options{})
	refuse("a backup of another cluster", "another cluster", "--file", other.backup())
	other.end()
	refuse("another keyring", "keyring", "--file", file, "--keyring", filepath.Join(other.dir, "keyring"))
	meta := filepath.Join(s.dir, "d1", "meta")
	if err := os.Mkdir(meta, 0o700); err != nil {
		t.Fatal(err)
	}
	refuse("a copy of the metadata", "copies of the metadata", "--file", file)
	if err := os.Remove(meta); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"metadata", "metadata.new", "metadata.new.new"} {
		if _, err := os.Stat(filepath.Join(s.dir, name)); err == nil {
			t.Errorf("a refused restoration leaves %s", name)
		}
	}
	s.restore("", file)
	s = start(t, s.dir, options{})
	s.want(200, "PUT", "/media/small", "hello")
}
