package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// simulated reports whether a package must run in a simulation: its clock,
// randomness and file system are given to it.
func simulated(pkg string) bool {
	for _, p := range []string{"erasure", "metadata", "node", "gateway/object", "gateway/seal"} {
		if pkg == p || strings.HasPrefix(pkg, p+"/") {
			return true
		}
	}
	return false
}

// program reports whether a package is a program or its tests rather than a
// part of one.
func program(pkg string) bool {
	return strings.HasPrefix(pkg, "cmd/") || strings.HasPrefix(pkg, "conformance") || strings.HasPrefix(pkg, "bench")
}

// forbidden says why a call may not stand in a package, or "".
func forbidden(pkg, imported, name string) string {
	switch {
	case simulated(pkg) && imported == "time" && slices.Contains([]string{"Now", "Since", "Until"}, name):
		return "use the clock that the package is given"
	case simulated(pkg) && imported == "math/rand/v2" && !slices.Contains([]string{"New", "NewPCG", "NewChaCha8"}, name):
		return "make a generator with a seed that the package is given"
	case simulated(pkg) && imported == "os":
		return "use the file system that the package is given"
	case simulated(pkg) && imported == "net":
		return "packages that are simulated open no connections"
	case !program(pkg) && imported == "os" && slices.Contains([]string{"Getenv", "LookupEnv", "Environ"}, name):
		return "settings are arguments; only cmd reads the environment"
	case !program(pkg) && imported == "os" && name == "Exit":
		return "only main ends the process"
	case !program(pkg) && imported == "fmt" && strings.HasPrefix(name, "Print"):
		return "log with slog, or return it"
	case imported == "math/rand":
		return "use math/rand/v2 or crypto/rand"
	}
	return ""
}

// TestForbiddenCalls finds what would make a simulation see the real world, a
// package read what it was not given, or write where nobody asked it to.
func TestForbiddenCalls(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		names := importNames(s.file)
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := f.X.(*ast.Ident)
			if !ok || x.Obj != nil {
				return true
			}
			if why := forbidden(s.pkg, names[x.Name], f.Sel.Name); why != "" && names[x.Name] != "" {
				t.Errorf("%s: %s.%s: %s", s.set.Position(call.Pos()), x.Name, f.Sel.Name, why)
			}
			return true
		})
	}
}

// importNames maps the names by which a file calls packages to their paths.
func importNames(f *ast.File) map[string]string {
	names := make(map[string]string)
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		name := imported[strings.LastIndexByte(imported, '/')+1:]
		if name == "v2" {
			name = filepath.Base(strings.TrimSuffix(imported, "/v2"))
		}
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = imported
	}
	return names
}

// excused are package variables that look like state, and why they are none.
var excused = map[string]string{
	"gateway/wire.buffers": "a pool of buffers: nobody can tell what is in it",
}

// TestNoPackageState finds init functions and package variables that are
// anything but sentinel errors, tables and assertions.
func TestNoPackageState(t *testing.T) {
	t.Parallel()
	bySource := make(map[string][]source)
	for _, s := range sources(t) {
		if !s.test {
			bySource[s.pkg] = append(bySource[s.pkg], s)
		}
	}
	for pkg, files := range bySource {
		vars := make(map[string]bool)
		for _, s := range files {
			for _, d := range s.file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
					t.Errorf("%s: no init functions: build it where it is used", s.set.Position(f.Pos()))
				}
				for _, problem := range variables(s, d, vars) {
					t.Error(problem)
				}
			}
		}
		for _, s := range files {
			for _, problem := range assignments(s, vars) {
				t.Errorf("%s (package %s)", problem, pkg)
			}
		}
	}
}

// variables collects the package variables of a declaration and returns what
// is wrong with them.
func variables(s source, d ast.Decl, vars map[string]bool) (problems []string) {
	decl, ok := d.(*ast.GenDecl)
	if !ok || decl.Tok != token.VAR {
		return nil
	}
	for _, spec := range decl.Specs {
		v := spec.(*ast.ValueSpec)
		embedded := (decl.Doc != nil && strings.Contains(commentText(decl.Doc), "//go:embed")) || (v.Doc != nil && strings.Contains(commentText(v.Doc), "//go:embed"))
		for i, name := range v.Names {
			if name.Name == "_" {
				continue
			}
			vars[name.Name] = true
			switch {
			case embedded, excused[s.pkg+"."+name.Name] != "":
			case len(v.Values) == 0:
				problems = append(problems, fmt.Sprintf("%s: package variable %s has no value: it is state", s.set.Position(name.Pos()), name.Name))
			case i < len(v.Values) && mutable(v.Values[i]):
				problems = append(problems, fmt.Sprintf("%s: package variable %s is state", s.set.Position(name.Pos()), name.Name))
			}
		}
	}
	return problems
}

func commentText(g *ast.CommentGroup) string {
	var out strings.Builder
	for _, c := range g.List {
		out.WriteString(c.Text + "\n")
	}
	return out.String()
}

// mutable reports whether a value is made to be changed: an empty map, a
// channel, a pool, a lock.
func mutable(e ast.Expr) bool {
	switch v := e.(type) {
	case *ast.CallExpr:
		name, ok := v.Fun.(*ast.Ident)
		return ok && (name.Name == "make" || name.Name == "new")
	case *ast.UnaryExpr:
		return mutable(v.X)
	case *ast.CompositeLit:
		sel, ok := v.Type.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		pkg, ok := sel.X.(*ast.Ident)
		return ok && (pkg.Name == "sync" || pkg.Name == "atomic")
	}
	return false
}

// assignments returns where package variables are changed.
func assignments(s source, vars map[string]bool) (problems []string) {
	check := func(e ast.Expr) {
		for {
			switch v := e.(type) {
			case *ast.IndexExpr:
				e = v.X
				continue
			case *ast.SelectorExpr:
				e = v.X
				continue
			case *ast.Ident:
				// A name of the package is unresolved if it stands in another file.
				if vars[v.Name] && (v.Obj == nil || v.Obj == s.file.Scope.Lookup(v.Name)) {
					problems = append(problems, fmt.Sprintf("%s: %s is changed", s.set.Position(v.Pos()), v.Name))
				}
			}
			return
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch v := n.(type) {
		case *ast.AssignStmt:
			if v.Tok != token.DEFINE {
				for _, lhs := range v.Lhs {
					check(lhs)
				}
			}
		case *ast.IncDecStmt:
			check(v.X)
		}
		return true
	})
	return problems
}

// TestFormat is gofmt.
func TestFormat(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("slow with the race detector; \"make lint\" looks too")
	}
	for _, s := range sources(t) {
		text, err := os.ReadFile(filepath.Join("../..", s.path))
		if err != nil {
			t.Fatal(err)
		}
		formatted, err := format.Source(text)
		if err != nil {
			t.Errorf("%s: %v", s.path, err)
		} else if !bytes.Equal(text, formatted) {
			t.Errorf("%s is not formatted: run gofmt -w", s.path)
		}
	}
}
