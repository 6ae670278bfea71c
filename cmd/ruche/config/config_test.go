package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
)

// source makes a source of a file, an environment and flags.
func source(t *testing.T, file string, environ []string, args ...string) config.Source {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ruche.yaml")
	if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	set := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.AddFlags(set)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return config.Source{File: name, Environ: environ, Flags: set}
}

func load(t *testing.T, src config.Source) *config.Config {
	t.Helper()
	c, err := config.Load(src)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFlagsWinOverEnvironmentOverFileOverDefaults(t *testing.T) {
	t.Parallel()
	c := load(t, source(t, "listen: 127.0.0.1:1\nadmin-listen: 127.0.0.1:2\nregion: from-file\n",
		[]string{"RUCHE_LISTEN=127.0.0.1:3", "RUCHE_ADMIN_LISTEN=127.0.0.1:4", "HOME=/root"},
		"--listen", "127.0.0.1:5", "--data", "/x"))
	got := []string{c.Listen, c.AdminListen, c.Region, c.Encryption, c.Data}
	want := []string{"127.0.0.1:5", "127.0.0.1:4", "from-file", "on", "/x"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("listen, admin-listen, region, encryption, data (-want +got):\n%s", diff)
	}
}

func TestEveryKindOfValueIsReadFromEverywhere(t *testing.T) {
	t.Parallel()
	want := config.Config{
		Drives: []string{"/srv/d1", "/srv/d2"}, StrictRegion: true, MemoryLimit: 1 << 30,
		Ballast: config.Auto, TrashGrace: 90 * time.Minute, InlineBytes: 4096,
	}
	sources := map[string]config.Source{
		"file": source(t, "drives: ['/srv/d{1...2}']\nstrict-region: true\nmemory-limit: 1GiB\nballast: auto\ntrash-grace: 90m\ninline-bytes: 4096\n", nil),
		"environment": source(t, "", []string{"RUCHE_DRIVES=/srv/d1,/srv/d2", "RUCHE_STRICT_REGION=true", "RUCHE_MEMORY_LIMIT=1G",
			"RUCHE_BALLAST=auto", "RUCHE_TRASH_GRACE=90m", "RUCHE_INLINE_BYTES=4KiB"}),
		"flags": source(t, "", nil, "--drives=/srv/d{1..2}", "--strict-region", "--memory-limit=1024MiB",
			"--ballast=auto", "--trash-grace=1h30m", "--inline-bytes=4 KiB"),
	}
	for name, src := range sources {
		c := load(t, src)
		got := config.Config{Drives: c.Drives, StrictRegion: c.StrictRegion, MemoryLimit: c.MemoryLimit,
			Ballast: c.Ballast, TrashGrace: c.TrashGrace, InlineBytes: c.InlineBytes}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestUnknownNamesAreErrorsThatNameTheNearest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		file         string
		environ      []string
		key, nearest string
	}{
		{"typing error in the file", "lisen: 127.0.0.1:1\n", nil, "lisen", "listen"},
		{"underscores in the file", "admin_listen: 127.0.0.1:1\n", nil, "admin_listen", "admin-listen"},
		{"nesting in the file", "tls:\n  cert: x\n", nil, "tls.cert", "tls-cert"},
		{"typing error in the environment", "", []string{"RUCHE_DRIVE=/srv"}, "RUCHE_DRIVE", "RUCHE_DRIVES"},
	} {
		_, err := config.Load(source(t, tt.file, tt.environ))
		unknown, ok := errors.AsType[*config.UnknownKeyError](err)
		if !ok {
			t.Errorf("%s: Load = %v, want an UnknownKeyError", tt.name, err)
			continue
		}
		if unknown.Key != tt.key || unknown.Nearest != tt.nearest {
			t.Errorf("%s: key %s, nearest %s; want %s, %s", tt.name, unknown.Key, unknown.Nearest, tt.key, tt.nearest)
		}
	}
	if _, err := config.Load(source(t, "lisen: x\nregon: y\n", []string{"RUCHE_DATE=z"})); err == nil || strings.Count(err.Error(), "unknown setting") != 3 {
		t.Errorf("three unknown names, Load = %v", err)
	}
}

func TestWrongTypesAreErrors(t *testing.T) {
	t.Parallel()
	for _, file := range []string{
		"strict-region: 7\n", "strict-region: maybe\n", "trash-grace: 5\n", "memory-limit: 1.5\n", "memory-limit: much\n",
		"drives: {a: b}\n", "drives: [1, 2]\n", "drives: '/srv/d{1..'\n", "listen: [a, b]\n", "listen:\n  - [\n", "just text\n",
	} {
		if c, err := config.Load(source(t, file, nil)); err == nil {
			t.Errorf("file %q was read as %+v", file, *c)
		}
	}
}

func TestMissingFile(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "none.yaml")
	if _, err := config.Load(config.Source{File: name}); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("Load = %v, want an error that names %s", err, name)
	}
}

func TestSecretsComeFromFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "password")
	if err := os.WriteFile(file, []byte("hunter2hunter2\n# more\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := load(t, source(t, "", []string{"RUCHE_ROOT_USER=root", "RUCHE_ROOT_PASSWORD_FILE=" + file}))
	if c.RootPassword != "hunter2hunter2" {
		t.Errorf("root-password = %q", c.RootPassword)
	}
	if _, err := config.Load(source(t, "", []string{"RUCHE_ROOT_PASSWORD=x", "RUCHE_ROOT_PASSWORD_FILE=" + file})); err == nil {
		t.Error("a secret given twice was accepted")
	}
	if _, err := config.Load(source(t, "", []string{"RUCHE_ROOT_PASSWORD_FILE=" + file + ".none"})); err == nil {
		t.Error("a missing file was accepted")
	}
}

func TestSecretsAreNoFlags(t *testing.T) {
	t.Parallel()
	set := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.AddFlags(set)
	for _, o := range config.Options() {
		if got := set.Lookup(o.Key) != nil; got == o.Secret {
			t.Errorf("%s: flag exists: %v, secret: %v", o.Key, got, o.Secret)
		}
	}
}

// TestOptionsAreTheFieldsOfConfig keeps the table and the struct equal.
func TestOptionsAreTheFieldsOfConfig(t *testing.T) {
	t.Parallel()
	var fields, options []string
	for i := range reflect.TypeFor[config.Config]().NumField() {
		fields = append(fields, reflect.TypeFor[config.Config]().Field(i).Tag.Get("koanf"))
	}
	for _, o := range config.Options() {
		options = append(options, o.Key)
	}
	if diff := cmp.Diff(fields, options); diff != "" {
		t.Errorf("fields and options differ (-fields +options):\n%s", diff)
	}
}

func TestDefaultsAreValid(t *testing.T) {
	t.Parallel()
	c := load(t, source(t, "data: /x\n", nil))
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if got := c.DrivePaths(); len(got) != 6 || got[5] != "/x/d6" {
		t.Errorf("drives = %v", got)
	}
	if s, err := c.StorageScheme(); err != nil || s.String() != "4+2" {
		t.Errorf("scheme = %v, %v", s, err)
	}
	if got := load(t, source(t, "drives: [/a]\n", nil)).StateDir(); got != config.DefaultState {
		t.Errorf("state directory with drives alone = %s", got)
	}
}

func TestValidateReportsEveryProblemOnce(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"":                             "data: not set",
		"listen: nowhere":              "listen:",
		"listen: '1.2.3.4:99999'":      "listen: port",
		"admin-listen: 127.0.0.1:9000": "admin-listen:",
		"scheme: 4-2":                  "scheme:",
		"scheme: 8+4":                  "scheme: 8+4 needs 12 drives and there are 6",
		"scheme: 6+0":                  "scheme: 6+0 would lose everything",
		"scheme: 0+2":                  "scheme:",
		"tls-cert: a":                  "tls-cert and tls-key",
		"tls-cert: a\ntls-key: b\ninsecure-http: true":   "insecure-http:",
		"encryption: maybe":                              "encryption:",
		"metadata-replicas: 2":                           "not one of auto, 1, 3, 5",
		"drives: [/a, /b]\nmetadata-replicas: 5":         "need as many places",
		"on-drive-loss: hope":                            "on-drive-loss:",
		"log-level: loud":                                "log-level:",
		"log-format: xml":                                "log-format:",
		"trusted-proxies: 10.0.0.1":                      "trusted-proxies:",
		"public-urls: s3.example.org":                    "public-urls:",
		"domains: 'S3.example.org'":                      "domains:",
		"region: ''":                                     "region:",
		"memory-limit: 1MiB":                             "memory-limit:",
		"stripe-budget: 1":                               "stripe-budget:",
		"inline-bytes: 1MiB":                             "inline-bytes:",
		"trash-grace: -1s":                               "trash-grace:",
		"drain-time: -1s":                                "drain-time:",
		"drives: [/a, /b, /a/]":                          "named twice",
		"drives: [/]":                                    "lies in the drive directory",
		"keyring: /x/d1/keyring":                         "keyring:",
		"default-buckets: [ok-name, Bad]":                "default-buckets:",
		"root-user: root\nroot-password: 'with a space'": "root-password: need",
		"root-user: root":                                "set both or neither",
		"root-user: ro\nroot-password: longenough":       "root-user: need",
		"root-user: root\nroot-password: short":          "root-password: need",
	} {
		file := name + "\n"
		if want != "data: not set" {
			file += "data: /x\n"
		}
		err := load(t, source(t, file, nil)).Validate()
		if err == nil || strings.Count(err.Error(), want) != 1 {
			t.Errorf("%q: Validate = %v, want one %q", name, err, want)
		}
	}
	err := load(t, source(t, "listen: x\nscheme: y\nregion: ''\n", nil)).Validate()
	if err == nil || len(strings.Split(err.Error(), "\n")) != 4 {
		t.Errorf("four problems, Validate = %v", err)
	}
}

func TestWrongValuesNameTheirSettings(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		"ballast: 5X":                        `ballast: "5X" is not a size; write it like 64MiB`,
		"drain-time: 5":                      "drain-time: 5 is not a duration; write it like 30s or 1h",
		"listen: [a]":                        "listen: not a single value",
		"insecure-http: 5":                   "insecure-http: 5 is neither true nor false",
		"drives: /d{1...3":                   `drives: "/d{1...3": an opening brace without a closing one`,
		"insecure-http: 5\nmemory-limit: -1": "insecure-http: 5 is neither true nor false\nmemory-limit: \"-1\" is not a size; write it like 64MiB",
	} {
		if _, err := config.Load(source(t, file+"\n", nil)); err == nil || err.Error() != want {
			t.Errorf("%q: Load = %v, want %s", file, err, want)
		}
	}
}

func TestExpandList(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                        "",
		" , ,":                    "",
		"/srv/d{1...3}":           "/srv/d1 /srv/d2 /srv/d3",
		"/srv/d{08..10}":          "/srv/d08 /srv/d09 /srv/d10",
		"/srv/{a,b}/d{1...2}, /x": "/srv/a/d1 /srv/a/d2 /srv/b/d1 /srv/b/d2 /x",
		"/a,/b":                   "/a /b",
		"{1...1}":                 "1",
		"{,}":                     "",
		"{,/a}, {/b, /c }":        "/a /b /c",
	} {
		got, err := config.ExpandList(in)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("ExpandList(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"{", "}", "a}b{1...2}", "{1...2", "{2...1}", "{a...b}", "{{1,2}}", "{x}", "{}", "{1...99999}", "{1...40}{1...40}", "{-1...2}"} {
		if got, err := config.ExpandList(in); err == nil {
			t.Errorf("ExpandList(%q) = %d elements, want an error", in, len(got))
		}
	}
}

func FuzzExpandList(f *testing.F) {
	for _, seed := range []string{"/srv/d{1...6}", "{a,b},{c,d}", "{{", "a}{1...2}", ",,{1..}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out, err := config.ExpandList(in)
		if len(out) > 1024 {
			t.Errorf("%d elements", len(out))
		}
		for _, e := range out {
			if e == "" || e != strings.TrimSpace(e) || strings.ContainsAny(e, "{},") {
				t.Errorf("ExpandList(%q) has element %q", in, e)
			}
		}
		// What was expanded has nothing more to expand.
		if again, twice := config.ExpandList(strings.Join(out, ",")); err == nil && (twice != nil || !slices.Equal(again, out)) {
			t.Errorf("ExpandList(%q) = %q, and of that %q, %v", in, out, again, twice)
		}
	})
}

func TestSizesReadAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	for _, s := range []config.Size{config.Auto, 0, 1, 1023, 1024, 1536, 1 << 20, 3 << 30, 1 << 40, 1<<40 + 1} {
		got, err := config.ParseSize(s.String())
		if err != nil || got != s {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", s.String(), got, err, s)
		}
	}
	for in, want := range map[string]config.Size{"5 MB": 5e6, "7k": -2, "2K": 2048, " 1 GiB ": 1 << 30, "-1": -2, "9999999999TiB": -2, "": -2} {
		got, err := config.ParseSize(in)
		if (want == -2) != (err != nil) || (err == nil && got != want) {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
}
