package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/cmd/ruche/server"
)

// metric reads a metric of a running server, with its prefix left out.
func (s *instance) metric(name string) string {
	s.t.Helper()
	reply, err := http.Get(s.endpoints().Admin[0] + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "ruche_"+name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	s.t.Fatalf("no metric %s in\n%s", name, text)
	return ""
}

// manifested waits until every change has a durable manifest.
func (s *instance) manifested() {
	s.t.Helper()
	waitFor(s.t, "the manifests", func() bool { return s.metric("manifest_lag_seconds") == "0" })
}

// filled waits until all manifests are on as many drives as they should be.
func (s *instance) filled() {
	s.t.Helper()
	s.manifested()
	waitFor(s.t, "the manifest drives", func() bool { return s.metric("manifest_filling") == "0" && s.metric("manifest_short_groups") == "0" })
}

// told is what a client is told of an object.
type told struct {
	Status int
	Sum    [32]byte
	Header map[string]string
}

// look reads an object with everything that is told of it.
func (s *instance) look(user, secret, path string) (o told) {
	s.t.Helper()
	reply, err := s3As(s.t.Context(), s.endpoints().S3[0], user, secret, "GET", path, nil, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		s.t.Fatalf("%s: %v", path, err)
	}
	o = told{Status: reply.StatusCode, Sum: sha256.Sum256(body), Header: make(map[string]string)}
	if o.Status != http.StatusOK {
		o.Sum = [32]byte{}
		return o
	}
	for name, values := range reply.Header {
		switch {
		case name == "Etag", name == "Last-Modified", name == "Content-Type", name == "Content-Length",
			strings.HasPrefix(name, "X-Amz-Meta-"), strings.HasPrefix(name, "X-Amz-Checksum-"):
			o.Header[name] = values[0]
		}
	}
	return o
}

// multipart stores an object in parts.
func (s *instance) multipart(path string, parts ...string) {
	s.t.Helper()
	_, rest, _ := strings.Cut(s.want(200, "POST", path+"?uploads", ""), "<UploadId>")
	id, _, _ := strings.Cut(rest, "<")
	list := "<CompleteMultipartUpload>"
	for i, part := range parts {
		reply, err := s.s3("PUT", fmt.Sprintf("%s?partNumber=%d&uploadId=%s", path, i+1, id), strings.NewReader(part), int64(len(part)))
		if err != nil || reply.StatusCode != http.StatusOK {
			s.t.Fatal(reply, err)
		}
		reply.Body.Close()
		list += fmt.Sprintf("<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", i+1, reply.Header.Get("Etag"))
	}
	s.want(200, "POST", path+"?uploadId="+id, list+"</CompleteMultipartUpload>")
}

// send makes a signed request with headers.
func (s *instance) send(method, path, body string, headers map[string]string) {
	s.t.Helper()
	user, secret := s.root()
	reply, err := s3With(s.t.Context(), s.endpoints().S3[0], user, secret, method, path, strings.NewReader(body), int64(len(body)), headers)
	if err != nil {
		s.t.Fatal(err)
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(reply.Body)
		s.t.Fatalf("%s %s: %s\n%s", method, path, reply.Status, text)
	}
}

// everyKind stores objects of every kind and returns the paths to look at, and
// those of them where there is nothing.
func (s *instance) everyKind() (paths []string, gone map[string]bool) {
	s.t.Helper()
	for _, bucket := range []string{"/media", "/logs", "/gone", "/empty"} {
		s.want(200, "PUT", bucket, "")
	}
	s.ok("bucket", "set", "logs", "--compression", "zstd")
	large := strings.Repeat("0123456789abcdef", 80_000)
	s.send("PUT", "/media/empty", "", map[string]string{"Content-Type": "text/csv"})
	s.send("PUT", "/media/small", "hello", map[string]string{"X-Amz-Meta-Service": "cadastre", "X-Amz-Checksum-Sha256": "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="})
	s.want(200, "PUT", "/media/folder/large", large)
	s.want(200, "PUT", "/media/overwritten", "old and "+large)
	s.want(200, "PUT", "/media/overwritten", "new")
	s.want(200, "PUT", "/media/shrunk", "small")
	s.want(200, "PUT", "/media/shrunk", large[:300_000])
	s.want(200, "PUT", "/media/deleted", "x")
	s.want(200, "PUT", "/media/deleted-large", large)
	s.want(204, "DELETE", "/media/deleted", "")
	s.want(204, "DELETE", "/media/deleted-large", "")
	s.want(200, "PUT", "/media/again", "first")
	s.want(204, "DELETE", "/media/again", "")
	s.want(200, "PUT", "/media/again", "second")
	s.send("PUT", "/media/copy", "", map[string]string{"X-Amz-Copy-Source": "/media/folder/large"})
	s.send("PUT", "/media/small", "", map[string]string{"X-Amz-Copy-Source": "/media/small", "X-Amz-Metadata-Directive": "REPLACE", "X-Amz-Meta-Service": "voirie"})
	s.multipart("/media/parts", strings.Repeat("p", 5<<20), "the end")
	s.want(200, "POST", "/media/unfinished?uploads", "")
	s.want(200, "PUT", "/logs/compressed", strings.Repeat("GET /index.html 200\n", 60_000))
	s.want(200, "PUT", "/gone/object", "x")
	s.want(204, "DELETE", "/gone/object", "")
	s.want(204, "DELETE", "/gone", "")
	return []string{"/media/empty", "/media/small", "/media/folder/large", "/media/overwritten", "/media/shrunk", "/media/deleted",
			"/media/deleted-large", "/media/again", "/media/copy", "/media/parts", "/media/unfinished", "/logs/compressed", "/gone/object"},
		map[string]bool{"/media/deleted": true, "/media/deleted-large": true, "/media/unfinished": true, "/gone/object": true}
}

// accessKey makes an access key.
func (s *instance) accessKey() (id, secret string) {
	s.t.Helper()
	var key struct {
		AccessKey string `json:"id"`
		Secret    string `json:"secret"`
	}
	if err := json.Unmarshal([]byte(s.ok("key", "create", "--output", "json")), &key); err != nil || key.Secret == "" {
		s.t.Fatal(key, err)
	}
	return key.AccessKey, key.Secret
}

// TestRecoverTheDrill does what docs/operations/recovery.md says: a machine
// loses its system disk and two of its six drives.
func TestRecoverTheDrill(t *testing.T) {
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
	list := s.want(200, "GET", "/media?list-type=2", "")
	buckets := s.want(200, "GET", "/", "")
	s.manifested()
	s.end()

	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"d2", "d5"} {
		if err := os.RemoveAll(filepath.Join(dir, d)); err != nil {
			t.Fatal(err)
		}
	}
	again := launch(t, state, o)
	if again.wait() != exitFailure || !strings.Contains(again.err.String(), "recover") {
		t.Fatalf("a start without state directory:\n%s", again.err)
	}
	exit, out, errs := s.command(code+"\n", "recover", "--drives", drives, "--output", "json")
	if exit != exitOK {
		t.Fatalf("recover: exit code %d\n%s%s", exit, out, errs)
	}
	var report server.RecoverReport
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	if !report.Complete || len(report.MissingDrives) != 2 || report.AccessKeys != 1 || report.Objects != 9 || len(report.Buckets) != 3 || report.Credentials == "" {
		t.Errorf("report: %s", out)
	}

	s = start(t, state, o)
	if strings.Contains(s.ok("status"), "Nobody has shown yet") {
		t.Error("status does not know that the recovery code was typed")
	}
	for _, path := range paths {
		if diff := cmp.Diff(before[path], s.look(user, secret, path)); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	if got := s.want(200, "GET", "/media?list-type=2", ""); got != list {
		t.Errorf("the list of keys was\n%s\nand is\n%s", list, got)
	}
	if got := s.want(200, "GET", "/", ""); got != buckets {
		t.Errorf("the list of buckets was\n%s\nand is\n%s", buckets, got)
	}
	s.want(200, "PUT", "/media/later", "written after the recovery")
	s.want(204, "DELETE", "/media/again", "")
	for _, d := range []string{"d2", "d5"} {
		s.ok("drive", "replace", filepath.Join(dir, d), "--wait")
	}
	waitFor(t, "the rebuild", func() bool { return s.status().Safety.MayLose == 2 && len(s.status().Drives) == 6 })
	s.ok("repair", "resume-collection")
	s.filled()
	s.end()

	// Once more, with the drives that were there before.
	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"d1", "d6"} {
		if err := os.RemoveAll(filepath.Join(dir, d)); err != nil {
			t.Fatal(err)
		}
	}
	if exit, out, errs := s.command(code+"\n", "recover", "--drives", drives); exit != exitOK || !strings.Contains(out, "resume-collection") {
		t.Fatalf("second recovery: exit code %d\n%s%s", exit, out, errs)
	}
	before["/media/again"] = told{Status: 404, Header: map[string]string{}}
	s = start(t, state, o)
	for _, path := range paths {
		if diff := cmp.Diff(before[path], s.look(user, secret, path)); diff != "" {
			t.Errorf("after the second recovery: %s: %s", path, diff)
		}
	}
	if got := s.want(200, "GET", "/media/later", ""); got != "written after the recovery" {
		t.Errorf("what was written in between is %q", got)
	}
}

// TestRecoverRefuses leaves alone what is there, and says what is wrong.
func TestRecoverRefuses(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{})
	code := s.recoveryCode()
	refuse := func(what, stdin, mention string, args ...string) {
		t.Helper()
		if exit, out, errs := s.command(stdin, append([]string{"recover"}, args...)...); exit != exitFailure || !strings.Contains(errs, mention) {
			t.Errorf("%s: exit code %d\n%s%s", what, exit, out, errs)
		}
	}
	refuse("a running server", "", "another process")
	s.end()
	refuse("metadata that are there", "", "metadata exists")
	if err := os.RemoveAll(filepath.Join(s.dir, "metadata")); err != nil {
		t.Fatal(err)
	}
	refuse("drives of no cluster", "", "none of the directories", "--drives", t.TempDir())
	if err := os.Remove(filepath.Join(s.dir, "keyring")); err != nil {
		t.Fatal(err)
	}
	refuse("a wrong code", "A53FR-T551D-SNZZR-GYHCD-JPCZD-Z4EHP\n", "recovery code")
	if _, err := os.Stat(filepath.Join(s.dir, "metadata")); err == nil {
		t.Error("a refused recovery leaves metadata")
	}
	// What a recovery that was cut off leaves is no hindrance.
	for _, name := range []string{"metadata.new", "recover.tmp"} {
		if err := os.MkdirAll(filepath.Join(s.dir, name, "something"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if exit, out, errs := s.command(code+"\n", "recover"); exit != exitOK {
		t.Errorf("recover: exit code %d\n%s%s", exit, out, errs)
	}
	if left, err := filepath.Glob(filepath.Join(s.dir, "*[wp].*")); err != nil || slices.ContainsFunc(left, func(n string) bool { return strings.HasSuffix(n, ".tmp") || strings.HasSuffix(n, ".new") }) {
		t.Errorf("left: %v, %v", left, err)
	}
	// Nor is one that was cut off just before its last step.
	if err := os.Rename(filepath.Join(s.dir, "metadata"), filepath.Join(s.dir, "metadata.new")); err != nil {
		t.Fatal(err)
	}
	if exit, out, errs := s.command("", "recover"); exit != exitOK {
		t.Errorf("recover again: exit code %d\n%s%s", exit, out, errs)
	}
	user, _ := s.root()
	s = start(t, s.dir, options{})
	if again, _ := s.root(); again != user {
		t.Error("credentials of root that were there have changed")
	}
}

// TestRecoverWithoutEncryption finds out that nothing is sealed, and leaves it
// so.
func TestRecoverWithoutEncryption(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state, drives := filepath.Join(dir, "state"), filepath.Join(dir, "d{1...4}")
	o := options{args: []string{"--drives", drives, "--encryption", "off", "--default-buckets", "media"}}
	s := start(t, state, o)
	code := s.recoveryCode()
	objects := s.fill("media")
	s.manifested()
	s.end()
	if err := errors.Join(os.RemoveAll(state), os.RemoveAll(filepath.Join(dir, "d3"))); err != nil {
		t.Fatal(err)
	}
	if exit, _, errs := s.command(code+"\n", "recover", "--drives", drives); exit != exitFailure || !strings.Contains(errs, "set encryption to off") {
		t.Fatalf("recover with encryption on: exit code %d\n%s", exit, errs)
	}
	exit, out, errs := s.command("", "recover", "--drives", drives, "--encryption", "off")
	if exit != exitOK || !strings.Contains(out, "recovered 1 bucket, 12 objects") {
		t.Fatalf("recover: exit code %d\n%s%s", exit, out, errs)
	}
	s = start(t, state, o)
	s.check(objects)
}

// TestRecoverToldWhatIsMissing loses more drives than it may: the exit code
// tells, and what is there is recovered.
func TestRecoverToldWhatIsMissing(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{args: []string{"--default-buckets", "media"}})
	s.want(200, "PUT", "/media/small", "hello")
	s.manifested()
	s.end()
	for _, name := range []string{"metadata", "metadata.json", "d1", "d2", "d3"} {
		if err := os.RemoveAll(filepath.Join(s.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	exit, out, errs := s.command("", "recover")
	if exit != exitFailure || strings.Count(out, "is missing") != 3 || !strings.Contains(errs, "something may be missing") {
		t.Errorf("exit code %d\n%s%s", exit, out, errs)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "metadata")); err != nil {
		t.Error(err)
	}
}

// TestRecoverTakesCopiesOver loses the state directory of a server with several
// copies of the metadata: with a majority of them nothing is lost, without one
// everything that has a manifest comes back.
func TestRecoverTakesCopiesOver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state, drives := filepath.Join(dir, "state"), filepath.Join(dir, "d{1...6}")
	o := options{args: []string{"--drives", drives, "--metadata-replicas", "3", "--default-buckets", "media"}}
	s := start(t, state, o)
	code := s.recoveryCode()
	objects := s.fill("media")
	s.want(200, "POST", "/media/unfinished?uploads", "")
	s.end()
	remove := func(paths ...string) {
		t.Helper()
		for _, path := range paths {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove(state, filepath.Join(dir, "d2"))
	exit, out, errs := s.command(code+"\n", "recover", "--drives", drives, "--metadata-replicas", "3")
	if exit != exitOK || !strings.Contains(out, "nothing is lost") || !strings.Contains(out, "given up") {
		t.Fatalf("with two copies of three: exit code %d\n%s%s", exit, out, errs)
	}
	s = start(t, state, options{args: []string{"--drives", drives, "--metadata-replicas", "3"}})
	s.check(objects)
	if list := s.want(200, "GET", "/media?uploads", ""); !strings.Contains(list, "unfinished") {
		t.Errorf("an upload in progress is gone: %s", list)
	}
	s.manifested()
	s.end()

	remove(state, filepath.Join(dir, "d1", "meta"), filepath.Join(dir, "d1", "meta.json"), filepath.Join(dir, "d3", "meta"), filepath.Join(dir, "d3", "meta.json"))
	if err := os.MkdirAll(filepath.Join(dir, "d3", "meta"), 0o700); err != nil { // nobody's
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "d*", "meta.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 { // a third copy may have been made elsewhere meanwhile: one of three is no majority
		if exit, out, errs = s.command(code+"\n", "recover", "--drives", drives, "--metadata-replicas", "3"); exit != exitFailure || !strings.Contains(errs, "--from-manifests") {
			t.Fatalf("with one copy of three: exit code %d\n%s%s", exit, out, errs)
		}
	}
	if exit, out, errs = s.command(code+"\n", "recover", "--drives", drives, "--from-manifests"); exit != exitOK || !strings.Contains(out, "12 objects") {
		t.Fatalf("from manifests: exit code %d\n%s%s", exit, out, errs)
	}
	s = start(t, state, options{args: []string{"--drives", drives}})
	s.check(objects)
	if list := s.want(200, "GET", "/media?uploads", ""); strings.Contains(list, "unfinished") {
		t.Errorf("an upload came back from manifests: %s", list)
	}
}

// TestRecoveryDocument holds docs/operations/recovery.md to what there is:
// every command in it exists, and the drill runs those of its steps.
func TestRecoveryDocument(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/operations/recovery.md")
	if err != nil {
		t.Fatal(err)
	}
	drilled, err := os.ReadFile("recover_test.go")
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for line := range strings.Lines(string(text)) {
		args := strings.Fields(line)
		if len(args) < 2 || args[0] != "ruche" {
			continue
		}
		commands++
		a := &app{}
		cmd, _, err := a.command().Find(args[1:])
		if err != nil || !cmd.Runnable() {
			t.Errorf("%s: %v", strings.TrimSpace(line), err)
			continue
		}
		for _, arg := range args[1:] {
			if flag, ok := strings.CutPrefix(arg, "--"); ok && cmd.Flag(flag) == nil {
				t.Errorf("%s has no flag --%s", cmd.CommandPath(), flag)
			}
		}
		// Those that serve and ask for the status run by way of helpers.
		last := cmd.Name()
		if last != "serve" && last != "status" && !strings.Contains(string(drilled), `"`+last+`"`) {
			t.Errorf("the drill does not run %s", cmd.CommandPath())
		}
	}
	if commands < 7 {
		t.Errorf("%d commands", commands)
	}
}
