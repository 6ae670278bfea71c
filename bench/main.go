// Bench drives an S3 server with load and reports what the server needed for
// it: rates and latencies, and, for servers on the same machine, CPU time and
// peak memory of the server's process, apart from the client's own.
//
// It signs requests as MinIO's warp does and imports nothing of Ruche, so that
// figures of different servers compare. See README.md for how to measure, and
// results for what was measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench reads the arguments, runs the steps and writes the report. What was
// measured before an error is still reported.
func bench(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	o, err := parseOptions(args, getenv, stderr)
	if err != nil {
		return err
	}
	if o.list {
		for _, s := range o.chosen {
			fmt.Fprintln(stdout, s)
		}
		return nil
	}
	r, err := run(ctx, o, stderr)
	if len(r.Steps) == 0 {
		return err
	}
	write := r.writeTable
	if o.output == "json" {
		write = r.writeJSON
	}
	err = errors.Join(err, write(stdout))
	if o.results != "" {
		err = errors.Join(err, r.writeMarkdown(o.results))
	}
	if share, where := r.errorShare(); share > o.allowed {
		err = errors.Join(err, errors.New(where))
	}
	return err
}
