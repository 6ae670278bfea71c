package main

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/ruche-storage/ruche/gateway/admin"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// golden compares an output with a file in testdata, after what differs from
// run to run was replaced.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// alone runs a command without any server or directory.
func alone(t *testing.T, environ []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	out, errs := newScreen(), newScreen()
	code = run(t.Context(), args, surroundings{environ: environ, stdin: strings.NewReader(""), stdout: out, stderr: errs})
	return code, out.String(), errs.String()
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "none")
	for _, tt := range []struct {
		name     string
		args     []string
		environ  []string
		code     int
		mentions string
	}{
		{"help", []string{"--help"}, nil, exitOK, ""},
		{"version", []string{"version"}, nil, exitOK, ""},
		{"a command that only holds others", []string{"drive"}, nil, exitOK, ""},
		{"completion", []string{"completion", "bash"}, nil, exitOK, ""},
		{"unknown command", []string{"srve"}, nil, exitUsage, "serve"},
		{"unknown flag", []string{"status", "--nothing"}, nil, exitUsage, "--nothing"},
		{"flag that is nearly right", []string{"serve", "--drivse", "x"}, nil, exitUsage, "did you mean --drives?"},
		{"missing argument", []string{"drive", "replace"}, nil, exitUsage, "needs PATH"},
		{"too many arguments", []string{"status", "now"}, nil, exitUsage, "now"},
		{"unknown output", []string{"version", "--output", "xml"}, nil, exitUsage, "xml"},
		{"settings that are wrong", []string{"serve"}, nil, exitUsage, "--data ./data"},
		{"unknown setting in the environment", []string{"serve", "--data", missing}, []string{"RUCHE_LISTN=x"}, exitUsage, "RUCHE_LISTEN"},
		{"unknown configuration file", []string{"serve", "--config", missing}, nil, exitUsage, missing},
		{"nothing to set", []string{"bucket", "set", "logs"}, nil, exitUsage, "--compression"},
		{"no server", []string{"status", "--data", missing}, nil, exitFailure, missing},
		{"no credentials", []string{"status", "--data", missing, "--admin", "127.0.0.1:1"}, nil, exitFailure, "RUCHE_ROOT_USER"},
		{"server cannot be reached", []string{"status", "--admin", "127.0.0.1:1"}, []string{"RUCHE_ROOT_USER=root", "RUCHE_ROOT_PASSWORD=12345678"}, exitFailure, "http://127.0.0.1:1"},
		{"unknown setting for another command", []string{"status"}, []string{"RUCHE_DTA=x"}, exitUsage, "RUCHE_DATA"},
		{"drive that is none", []string{"drive", "fsck", missing}, nil, exitFailure, missing},
	} {
		code, out, errs := alone(t, tt.environ, tt.args...)
		if code != tt.code || !strings.Contains(errs, tt.mentions) {
			t.Errorf("%s: exit code %d, want %d with %q\n%s%s", tt.name, code, tt.code, tt.mentions, out, errs)
		}
	}
}

// TestEveryCommandHasHelpWithAnExample walks the tree of commands.
func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	t.Parallel()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || !strings.Contains(c.Example, c.Name()) {
			t.Errorf("%s: short help %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
		for _, child := range c.Commands() {
			if child.Name() != "help" && child.Name() != "completion" {
				walk(child)
			}
		}
	}
	walk((&app{}).command())
}

func TestConfigCheckPrintsWhatIsInForceWithoutSecrets(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ruche.yaml")
	if err := os.WriteFile(file, []byte("drives: ['/srv/d{1...8}']\ndata: /var/lib/ruche\nlisten: 0.0.0.0:9000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{"RUCHE_ROOT_USER=admin", "RUCHE_ROOT_PASSWORD=verysecret", "RUCHE_REGION=fr-corse"}
	code, out, errs := alone(t, environ, "config", "check", "--config", file, "--listen", "127.0.0.1:80")
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	golden(t, "config-check", out)
	// What is printed is a configuration file that means the same.
	printed := filepath.Join(t.TempDir(), "printed.yaml")
	text := regexp.MustCompile(`(?m)^(root-user|root-password|metrics-token): .*\n`).ReplaceAllString(out, "")
	if err := os.WriteFile(printed, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	code, again, errs := alone(t, environ[:2], "config", "check", "--config", printed)
	if code != exitOK || again != out {
		t.Errorf("exit code %d\n%s\n%s", code, errs, cmp.Diff(out, again))
	}
	code, _, errs = alone(t, nil, "config", "check", "--config", file, "--listen", "x", "--region", "", "--scheme", "9+9")
	if code != exitUsage || strings.Count(errs, "\n") < 3 {
		t.Errorf("exit code %d, not all problems are shown:\n%s", code, errs)
	}
}

// steady replaces what differs from run to run.
func steady(s *instance, text string) string {
	text = strings.ReplaceAll(text, s.dir, "DATA")
	user, _ := s.root()
	text = strings.ReplaceAll(text, user, "RUCHEROOT")
	for _, r := range []struct{ pattern, with string }{
		{`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`, "ID"},
		{`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC`, "TIME"},
		{`[\d.]+ (TiB|GiB)`, "SPACE"},
		{`up \d+ s`, "up TIME"},
		{`RUCHE[A-Z2-7]{15}`, "KEY"},
		{`[\d.]+ (B|KiB) `, "BYTES "},
		{` {2,}`, "  "},
		{`idle  BYTES  0  \d+`, "idle  BYTES  0  PASSES"},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.with)
	}
	return text
}

func TestCommandsAgainstAServer(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{args: []string{"--default-buckets", "media,logs"}})
	code := s.recoveryCode()
	s.want(200, "PUT", "/media/hello", "hello, world")
	var out strings.Builder
	show := func(args ...string) string {
		text := s.ok(args...)
		out.WriteString("$ ruche " + steady(s, strings.Join(args, " ")) + "\n" + steady(s, text) + "\n")
		return text
	}
	show("status")
	show("drive", "list")
	show("bucket", "list")
	show("bucket", "set", "logs", "--compression", "zstd")
	show("repair", "status", "--watch")
	show("scrub", "start", "--wait")
	backup := filepath.Join(t.TempDir(), "backup")
	show("keyring", "backup", backup)
	show("key", "list")
	golden(t, "commands", strings.ReplaceAll(out.String(), backup, "BACKUP"))

	if exit, text, errs := s.command(code, "keyring", "verify", "--file", backup); exit != exitOK || !strings.Contains(text, "opens with this code") {
		t.Errorf("verify of a backup: %d, %s%s", exit, text, errs)
	}
	if exit, _, errs := s.command("AAAAA-AAAAA\n", "keyring", "verify"); exit != exitFailure || !strings.Contains(errs, "mistyped") {
		t.Errorf("verify with a wrong code: %d, %s", exit, errs)
	}
	if exit, _, errs := s.command("", "keyring", "verify"); exit != exitFailure || !strings.Contains(errs, "nothing was entered") {
		t.Errorf("verify without a code: %d, %s", exit, errs)
	}
	if exit, _, errs := s.command("", "keyring", "backup", backup); exit != exitFailure || !strings.Contains(errs, "exists already") {
		t.Errorf("backup over a file: %d, %s", exit, errs)
	}
	if exit, _, errs := s.command("", "bucket", "set", "none", "--compression", "s2"); exit != exitFailure || !strings.Contains(errs, "no bucket none") {
		t.Errorf("set of a missing bucket: %d, %s", exit, errs)
	}
	if exit, _, errs := s.command("", "bucket", "set", "logs", "--compression", "lzma"); exit != exitFailure || !strings.Contains(errs, "zstd, s2 and off") {
		t.Errorf("set of an unknown compression: %d, %s", exit, errs)
	}
}

func TestStatusAsJSON(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{})
	var status admin.Status
	if err := json.Unmarshal([]byte(s.ok("status", "--output", "json")), &status); err != nil {
		t.Fatal(err)
	}
	if status.Health != admin.Yellow || status.Safety.MayLose != 2 || !status.Safety.Writable || len(status.Drives) != 6 || !status.Encryption {
		t.Errorf("status %+v", status)
	}
	s.ok("keyring", "backup", filepath.Join(t.TempDir(), "k"))
	if err := json.Unmarshal([]byte(s.ok("status", "--output", "json")), &status); err != nil {
		t.Fatal(err)
	}
	if status.Health != admin.Green {
		t.Errorf("after a backup of the keyring, health is %s: %v", status.Health, status.Summary)
	}
}

func TestAccessKeysWorkUntilTheyAreDeleted(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{})
	var key admin.Key
	if err := json.Unmarshal([]byte(s.ok("key", "create", "--description", "backup of host1", "--output", "json")), &key); err != nil {
		t.Fatal(err)
	}
	list := func() int {
		t.Helper()
		reply, err := s3As(t.Context(), s.endpoints().S3[0], key.ID, key.Secret, "GET", "/", nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		reply.Body.Close()
		return reply.StatusCode
	}
	if got := list(); got != 200 {
		t.Errorf("a new key: %d", got)
	}
	if text := s.ok("key", "list"); !strings.Contains(text, key.ID) || !strings.Contains(text, "backup of host1") || strings.Contains(text, key.Secret) {
		t.Errorf("key list:\n%s", text)
	}
	if exit, _, errs := s.command("", "key", "create", "--id", key.ID); exit != exitFailure || !strings.Contains(errs, "exists already") {
		t.Errorf("a second key of one name: %d, %s", exit, errs)
	}
	if exit, _, errs := s.command("", "key", "create", "--id", "a/b"); exit != exitFailure || !strings.Contains(errs, "3 to 128") {
		t.Errorf("a key with a slash: %d, %s", exit, errs)
	}
	s.end()
	s = start(t, s.dir, options{})
	if got := list(); got != 200 {
		t.Errorf("a key after a restart: %d", got)
	}
	s.ok("key", "delete", key.ID)
	if got := list(); got != 403 {
		t.Errorf("a deleted key: %d", got)
	}
	user, _ := s.root()
	if exit, _, errs := s.command("", "key", "delete", user); exit != exitFailure || !strings.Contains(errs, "root") {
		t.Errorf("deletion of root's key: %d, %s", exit, errs)
	}
	if exit, _, errs := s.command("", "key", "delete", key.ID); exit != exitFailure || !strings.Contains(errs, "no access key") {
		t.Errorf("second deletion: %d, %s", exit, errs)
	}
}
