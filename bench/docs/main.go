// Command docs writes docs/performance.md and docs/durability.md from the
// results that are committed in bench/results and from the tested outputs of
// "ruche durability", so that no figure in them is typed by hand. Its texts are
// the templates beside it.
//
//	go run ./bench/docs           # writes both
//	go run ./bench/docs --check   # fails if one is not what it would write
package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"text/template"
)

//go:embed *.tmpl
var templates embed.FS

func main() {
	root := flag.String("root", ".", "top of the source tree")
	check := flag.Bool("check", false, "write nothing; fail if a document is not up to date")
	flag.Parse()
	if err := run(*root, *check); err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
}

func run(root string, check bool) error {
	pages, err := render(root)
	if err != nil {
		return err
	}
	for name, text := range pages {
		file := filepath.Join(root, "docs", name)
		if !check {
			if err := os.WriteFile(file, text, 0o644); err != nil {
				return err
			}
			continue
		}
		had, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if !bytes.Equal(had, text) {
			return fmt.Errorf("docs/%s is not what bench/results and its template give; run \"make docs\"", name)
		}
	}
	return nil
}

// render returns the documents by their names below docs.
func render(root string) (map[string][]byte, error) {
	var d data
	results := filepath.Join(root, "bench", "results")
	for name, v := range map[string]any{"store.json": &d.Store, "copies.json": &d.Copies, "peers.json": &d.Peers, "proof.json": &d.Proofs} {
		if err := load(filepath.Join(results, name), v); err != nil {
			return nil, err
		}
	}
	d.outputs = filepath.Join(root, "cmd", "ruche", "testdata")
	all, err := template.New("").Funcs(template.FuncMap{"figure": figure}).ParseFS(templates, "*.tmpl")
	if err != nil {
		return nil, err
	}
	pages := make(map[string][]byte)
	for _, name := range []string{"performance.md", "durability.md"} {
		var page bytes.Buffer
		if err := all.ExecuteTemplate(&page, name+".tmpl", &d); err != nil {
			return nil, err
		}
		pages[name] = page.Bytes()
	}
	return pages, nil
}

func load(file string, v any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
