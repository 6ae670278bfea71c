package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/ruche-storage/ruche/"

// mayImport is the import direction of the whole program: for each package,
// the packages of this module that it may import. Adding a line is a design
// decision; say why in the commit.
var mayImport = map[string][]string{
	"erasure":           {"erasure/shardhash"},
	"erasure/shardhash": {},
	// A model of probabilities: it knows nothing of the store.
	"erasure/durability": {},

	"metadata":           {"metadata/topology"},
	"metadata/topology":  {},
	"metadata/cryptfs":   {"metadata/topology"},
	"metadata/placement": {"metadata", "metadata/topology"},
	"metadata/keyring":   {"metadata", "metadata/topology"},
	"metadata/state":     {"metadata", "metadata/topology"},
	// The log knows entries and groups, nothing of what they mean.
	"metadata/replica/commandlog": {"metadata/replica/logcheck"},
	"metadata/replica/logcheck":   {},
	"metadata/replica/snapshot":   {"metadata"},
	"metadata/replica/backup":     {"metadata", "metadata/keyring", "metadata/replica", "metadata/replica/snapshot", "metadata/state"},
	"metadata/replica": {"metadata", "metadata/replica/commandlog", "metadata/replica/logcheck", "metadata/replica/snapshot",
		"metadata/state", "metadata/topology"},
	"metadata/simtest": {"metadata"},

	"node":         {"erasure/shardhash", "metadata", "metadata/topology", "node/segment"},
	"node/segment": {"erasure/shardhash", "metadata", "metadata/topology"},

	"gateway/wire":            {},
	"gateway/sigv4":           {},
	"gateway/checksum":        {"metadata"},
	"gateway/seal":            {"metadata"},
	"gateway/manifest":        {"gateway/seal", "metadata"},
	"gateway/manifest/keeper": {"gateway/manifest", "gateway/seal", "metadata", "metadata/topology"},
	"gateway/recovery":        {"gateway/manifest", "gateway/seal", "metadata", "metadata/placement", "metadata/topology"},
	"gateway/object": {"erasure", "erasure/shardhash", "gateway/checksum", "gateway/manifest/keeper", "gateway/seal",
		"metadata", "metadata/placement", "metadata/topology"},
	"gateway/object/shardtest": {"erasure", "erasure/shardhash", "gateway/object", "metadata", "metadata/topology"},
	"gateway":                  {"gateway/checksum", "gateway/object", "gateway/sigv4", "gateway/wire", "metadata"},
	// The reference alone: the machines that are held against it are tests.
	"gateway/simtest": {},
	// The admin API is what clients of it compile: it knows no package that
	// stores anything.
	"gateway/admin": {"gateway/sigv4"},

	"cmd/ruche": {"cmd/ruche/config", "cmd/ruche/server", "erasure/durability", "gateway/admin", "metadata", "metadata/keyring",
		"metadata/placement"},
	"cmd/ruche/config": {"gateway/wire", "metadata"},
	// The only place where the parts are put together.
	"cmd/ruche/server": {"cmd/ruche/config", "gateway", "gateway/admin", "gateway/object", "gateway/recovery", "gateway/seal", "gateway/sigv4", "gateway/wire",
		"metadata", "metadata/cryptfs", "metadata/keyring", "metadata/placement", "metadata/replica", "metadata/replica/backup", "metadata/replica/commandlog", "metadata/topology", "node"},
}

// blackBoxes know Ruche by its protocols: what lies below them imports nothing
// of this module but what lies there too, tests included.
var blackBoxes = []string{"conformance", "bench"}

func blackBox(pkg string) bool {
	return slices.ContainsFunc(blackBoxes, func(box string) bool { return pkg == box || strings.HasPrefix(pkg, box+"/") })
}

// source is one parsed file of the module.
type source struct {
	path string // relative to the root of the module
	pkg  string // directory
	test bool
	file *ast.File
	set  *token.FileSet
}

// sources returns all files of the module, parsed.
func sources(t *testing.T) []source {
	t.Helper()
	all, err := parseAll()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// parseAll parses the files itself rather than run "go list": the go command
// caches a test's result by the files the test opens, and would not see those
// that a child process reads.
var parseAll = sync.OnceValues(func() (out []source, err error) {
	err = filepath.WalkDir("../..", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && name != "../.." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || entry.Name() == "data") {
			return fs.SkipDir
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel("../..", name)
		if err != nil {
			return err
		}
		out = append(out, source{rel, filepath.ToSlash(filepath.Dir(rel)), strings.HasSuffix(name, "_test.go"), f, set})
		return nil
	})
	return out, err
})

func TestLayering(t *testing.T) {
	t.Parallel()
	documented := make(map[string]bool)
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		documented[s.pkg] = documented[s.pkg] || s.file.Doc != nil
		allowed, known := mayImport[s.pkg]
		if blackBox(s.pkg) {
			continue // TestBlackBoxesStayBlack
		}
		if !known {
			t.Errorf("%s: package %s is not in mayImport", s.path, s.pkg)
		}
		for _, spec := range s.file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if own, ok := strings.CutPrefix(imported, module); ok && !slices.Contains(allowed, own) {
				t.Errorf("%s: %s may not import %s", s.path, s.pkg, own)
			}
		}
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}

// TestBlackBoxesStayBlack also looks at tests: a suite that imports what it
// tests proves less.
func TestBlackBoxesStayBlack(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if !blackBox(s.pkg) {
			continue
		}
		for _, spec := range s.file.Imports {
			own, ok := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module)
			if ok && !blackBox(own) {
				t.Errorf("%s imports %s", s.path, own)
			}
		}
	}
}
