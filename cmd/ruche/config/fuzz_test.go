package config_test

import (
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
)

// FuzzLoad reads configuration files. Of one that is taken, the settings in
// force written as a file are the same settings.
func FuzzLoad(f *testing.F) {
	f.Add("drives: /srv/d{1...6}\nmemory-limit: 1GiB\ntrash-grace: 90m\n")
	f.Add("drives: [/a, \"/b{1,2}\"]\nencryption: off\nregion: 'x'\n")
	f.Add("listen: {a: b}\n")
	f.Add("strict-region: yes\nballast: auto\nscheme: 4+2\n")
	f.Add("&a [*a]\n")
	f.Add("region: '1e3'\ndata: '007'\nscheme: '0x10'\n")
	f.Add("region: 'null'\ndata: 'yes'\ndomains: ['1.50', '2026-01-02', 'on', '.inf']\n")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "file") {
			t.Skip("names of files with secrets, which would be read")
		}
		name := filepath.Join(dir, "ruche.yaml")
		load := func(text string) (*config.Config, error) {
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return config.Load(config.Source{File: name})
		}
		c, err := load(text)
		if err != nil {
			return
		}
		first := inForce(c)
		second, err := load(first)
		if err != nil {
			t.Fatalf("%q in force is\n%s%v", text, first, err)
		}
		if diff := cmp.Diff(first, inForce(second)); diff != "" {
			t.Errorf("%q in force is\n%s%s", text, first, diff)
		}
		if a, b := c.Validate(), second.Validate(); (a == nil) != (b == nil) && c.RootUser+c.RootPassword+c.MetricsToken == "" {
			t.Errorf("%q is valid: %v; in force: %v", text, a, b)
		}
	})
}

// inForce writes the settings that are no secrets as a file.
func inForce(c *config.Config) string {
	secret := make(map[string]bool)
	for _, o := range config.Options() {
		secret[o.Key] = o.Secret
	}
	var file strings.Builder
	for _, s := range config.Effective(c) {
		if !secret[s.Key] {
			fmt.Fprintf(&file, "%s: %s\n", s.Key, s.Value)
		}
	}
	return file.String()
}

// FuzzParseSize compares sizes with those of numbers of any length.
func FuzzParseSize(f *testing.F) {
	for _, seed := range []string{"64MiB", "1 TB", "auto", "9223372036854775807B", "8388608TiB", "-1", "1e3", "0K"} {
		f.Add(seed)
	}
	powers := map[string]string{
		"B": "1", "KiB": "1024", "MiB": "1048576", "GiB": "1073741824", "TiB": "1099511627776",
		"K": "1024", "M": "1048576", "G": "1073741824", "T": "1099511627776",
		"kB": "1000", "KB": "1000", "MB": "1000000", "GB": "1000000000", "TB": "1000000000000", "": "1",
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := config.ParseSize(text)
		number := strings.TrimSpace(text)
		unit := strings.TrimLeft(number, "0123456789")
		number = number[:len(number)-len(unit)]
		power, ok := new(big.Int).SetString(powers[strings.TrimLeft(unit, " \t\n\v\f\r\u0085\u00a0")], 10)
		n, digits := new(big.Int).SetString(number, 10)
		want := ok && digits && n.Mul(n, power).IsInt64()
		switch {
		case strings.TrimSpace(text) == "auto":
			if err != nil || got != config.Auto {
				t.Errorf("ParseSize(%q) = %d, %v", text, got, err)
			}
		case err == nil && (!want || n.Int64() != int64(got)):
			t.Errorf("ParseSize(%q) = %d, want %v %v", text, got, n, want)
		case err != nil && want && !strings.ContainsFunc(text, func(r rune) bool { return r > 127 }):
			t.Errorf("ParseSize(%q): %v, want %v", text, err, n)
		case err == nil:
			if again, err := config.ParseSize(got.String()); err != nil || again != got {
				t.Errorf("%q is written %q, which is read as %d, %v", text, got, again, err)
			}
		}
	})
}
