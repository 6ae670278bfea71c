package config_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
)

var rewrite = flag.Bool("rewrite", false, "write the table of options into the documentation")

// TestOptionsAreDocumented keeps the table in the documentation equal to the
// options there are.
func TestOptionsAreDocumented(t *testing.T) {
	t.Parallel()
	const (
		name  = "../../../docs/operations/configuration.md"
		begin = "<!-- options: written by \"go test ./cmd/ruche/config -rewrite\" -->\n"
		end   = "<!-- end of options -->"
	)
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(text), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the options", name)
	}
	want := optionsTable()
	if *rewrite {
		if err := os.WriteFile(name, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func optionsTable() string {
	var out strings.Builder
	out.WriteString("| name | environment | default | meaning |\n|---|---|---|---|\n")
	for _, o := range config.Options() {
		value := "`" + o.Default + "`"
		if o.Default == "" {
			value = ""
		}
		help := o.Help
		if o.Secret {
			help += " (no flag)"
		}
		fmt.Fprintf(&out, "| `%s` | `%s` | %s | %s |\n", o.Key, o.Env(), value, help)
	}
	return out.String()
}
