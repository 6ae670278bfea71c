package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// documents returns the texts of README and of all documents, by name.
func documents(t *testing.T) map[string]string {
	t.Helper()
	root := filepath.Join("..", "..")
	names := []string{filepath.Join(root, "README.md"), filepath.Join(root, "bench", "README.md")}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(name string, _ fs.DirEntry, err error) error {
		if filepath.Ext(name) == ".md" {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]string)
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(text)
	}
	return texts
}

var (
	fenced     = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```")
	inCode     = regexp.MustCompile("`([^`\n]+)`")
	nested     = regexp.MustCompile(`\$\([^)]*\)`)
	assignment = regexp.MustCompile(`^[A-Z_]+=`)
)

// words splits a line of a shell, as far as documents need it: quotes, comments,
// and no expansion. Of a pipe it returns what comes before it.
func words(line string) (out []string) {
	line = nested.ReplaceAllString(line, "X")
	word, quote, has := "", rune(0), false
	end := func() {
		if has {
			out = append(out, word)
		}
		word, has = "", false
	}
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word += string(c)
		case c == '\'' || c == '"':
			quote, has = c, true
		case c == ' ' || c == '\t':
			end()
		case c == '#' && !has, c == '|', c == '&', c == ';', c == '>':
			end()
			return out
		default:
			word, has = word+string(c), true
		}
	}
	end()
	return out
}

// ruched returns the arguments of a line that calls this program.
func ruched(line string) (args []string, ok bool) {
	args = words(strings.TrimPrefix(strings.TrimSpace(line), "$ "))
	for len(args) > 0 && assignment.MatchString(args[0]) {
		args = args[1:]
	}
	if len(args) == 0 || args[0] != "ruche" && !strings.HasSuffix(args[0], "bin/ruche") {
		return nil, false
	}
	return args[1:], true
}

// understood reports why a call would be refused before it did anything. A mere
// mention of a command may leave its arguments out.
func understood(args []string, mention bool) error {
	a := &app{surroundings: surroundings{stdout: io.Discard, stderr: io.Discard}}
	root := a.command()
	root.SetErr(io.Discard)
	root.InitDefaultCompletionCmd()
	c, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	c.InitDefaultHelpFlag()
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	left := c.Flags().Args()
	if mention && len(left) == 0 || slices.Contains(rest, "--help") {
		return nil
	}
	if c.HasSubCommands() && !mention {
		return fmt.Errorf("%q is no command alone", c.CommandPath())
	}
	return c.ValidateArgs(left)
}

// TestDocumentedCommandsExist parses every call of this program in the documents.
func TestDocumentedCommandsExist(t *testing.T) {
	t.Parallel()
	calls, mentions := 0, 0
	check := func(where, line string, mention bool) {
		args, ok := ruched(line)
		if !ok {
			return
		}
		if err := understood(args, mention); err != nil {
			t.Errorf("%s: %s: %v", where, line, err)
		}
		if mention {
			mentions++
		} else {
			calls++
		}
	}
	for name, text := range documents(t) {
		for _, block := range fenced.FindAllStringSubmatch(text, -1) {
			if block[1] == "sh" {
				for line := range strings.Lines(strings.ReplaceAll(block[2], "\\\n", " ")) {
					check(name, line, false)
				}
			}
		}
		for _, code := range inCode.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			check(name, code[1], true)
		}
	}
	if calls < 30 || mentions < 50 {
		t.Errorf("%d calls and %d mentions found; is the way they are written still known?", calls, mentions)
	}
}

// TestExamplesParse parses the examples of all commands.
func TestExamplesParse(t *testing.T) {
	t.Parallel()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for line := range strings.Lines(c.Example) {
			args, ok := ruched(line)
			if !ok {
				continue
			}
			if err := understood(args, false); err != nil {
				t.Errorf("%s: %s: %v", c.CommandPath(), strings.TrimSpace(line), err)
			}
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk((&app{surroundings: surroundings{stdout: io.Discard, stderr: io.Discard}}).command())
}

// quoted is a call of this program between escaped quotes in a string of the
// program, as remedies name them.
var quoted = regexp.MustCompile(`\\"(ruche [a-z][^"\\]*)\\"`)

// TestRemediesNameCommandsThatExist parses the commands that messages of the
// program name.
func TestRemediesNameCommandsThatExist(t *testing.T) {
	t.Parallel()
	n := 0
	for _, dir := range []string{"cmd", "gateway", "metadata", "node"} {
		err := filepath.WalkDir(filepath.Join("..", "..", dir), func(name string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
				return err
			}
			text, err := os.ReadFile(name)
			for _, m := range quoted.FindAllStringSubmatch(string(text), -1) {
				args, _ := ruched(strings.ReplaceAll(m[1], "%d", "1"))
				if err := understood(args, true); err != nil {
					t.Errorf("%s: %s: %v", name, m[1], err)
				}
				n++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n < 30 {
		t.Errorf("%d commands found; is the way they are written still known?", n)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	left    = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns the names of the headings of a document.
func anchors(text string) (out []string) {
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		out = append(out, strings.ReplaceAll(left.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return out
}

// TestLinksLeadSomewhere follows all links between documents.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	texts := documents(t)
	for name, text := range texts {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if file != "" {
				target = filepath.Join(filepath.Dir(name), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: link to %s: %v", name, m[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(texts[target]), anchor) {
				t.Errorf("%s: link to %s: no such heading among %q", name, m[1], anchors(texts[target]))
			}
		}
	}
}
