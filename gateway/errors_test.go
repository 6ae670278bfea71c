package gateway

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ruche-storage/ruche/gateway/checksum"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/gateway/wire"
	"github.com/ruche-storage/ruche/metadata"
)

func TestAnswers(t *testing.T) {
	t.Parallel()
	wrap := func(err error) error { return fmt.Errorf("a: %w", fmt.Errorf("b: %w", err)) }
	tests := []struct {
		err  error
		want *wire.Error
	}{
		{wrap(metadata.ErrNoSuchKey), wire.NoSuchKey},
		{wrap(wire.InvalidPart), wire.InvalidPart},
		{wrap(&sigv4.Error{Code: "RequestTimeTooSkewed", Status: 403}), wire.NewError(403, "RequestTimeTooSkewed", "")},
		{errors.Join(object.ErrUnreadable, metadata.ErrCorrupt), wire.ServiceUnavailable},
		{wrap(checksum.ErrValue), wire.InvalidRequest},
		{wrap(os.ErrDeadlineExceeded), wire.RequestTimeout},
		{wrap(context.Canceled), clientGone},
		{wrap(fs.ErrNotExist), wire.InternalError},
		{wrap(metadata.ErrMetadataFull), wire.InsufficientCapacity},
	}
	for _, tt := range tests {
		got := s3Error(tt.err)
		if got.Code != tt.want.Code || got.Status != tt.want.Status {
			t.Errorf("%v: %s %d, want %s %d", tt.err, got.Code, got.Status, tt.want.Code, tt.want.Status)
		}
	}
}

// TestEveryFailureIsConsidered reads the sources of the layers below: an error
// that they export is in the table, or here with the reason why it is not.
func TestEveryFailureIsConsidered(t *testing.T) {
	t.Parallel()
	internal := map[string]string{
		"ErrRowVersion":      "a data directory of a later version; not the client's fault",
		"ErrMalformed":       "damage in the metadata",
		"ErrUnknownKind":     "a command of a later version",
		"ErrInvalidCommand":  "a mistake of the engine",
		"ErrInlineFull":      "the engine writes chunks instead",
		"ErrAccessKeyExists": "an answer to administrators",
		"ErrNoSuchDrive":     "an answer to administrators",
		"ErrHanging":         "of the end of the process, when no request runs",
	}
	table, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"object", "../metadata"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, name := range exportedErrors(t, file) {
				if !strings.Contains(string(table), "{"+filepath.Base(dir)+"."+name+",") && internal[name] == "" {
					t.Errorf("%s: %s has no row in the table of answers", file, name)
				}
			}
		}
	}
}

// exportedErrors lists the package variables of a file that are named Err...
func exportedErrors(t *testing.T, file string) (names []string) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range f.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR {
			continue
		}
		for _, spec := range gen.Specs {
			for _, name := range spec.(*ast.ValueSpec).Names {
				if strings.HasPrefix(name.Name, "Err") {
					names = append(names, name.Name)
				}
			}
		}
	}
	return names
}
