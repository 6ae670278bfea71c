// Command ruche is an S3-compatible object store and its administration.
//
// "ruche serve" is the server; every other command asks a running one over the
// admin API, except those that say that they work offline. This package is the
// command line only: package cmd/ruche/config reads settings, package
// cmd/ruche/server is the server process.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set when the program is linked: -ldflags "-X main.version=...".
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends the program in order. It also gives the signals
	// their usual meaning back, so that a second one ends it at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], surroundings{
		environ: os.Environ(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	}))
}
