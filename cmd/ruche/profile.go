package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// profiles are what Go tells about a process.
func profiles() []string {
	return []string{"cpu", "trace", "heap", "allocs", "goroutine", "block", "mutex", "threadcreate"}
}

func (a *app) profileCommand() *cobra.Command {
	var of time.Duration
	c := &cobra.Command{
		Use:   "profile KIND FILE",
		Short: "Write a profile of the server, for who looks for what it is busy with",
		Long: `Writes a profile of a server that was started with --profiling to FILE, which must
not exist yet. KIND is one of ` + strings.Join(profiles(), ", ") + `.
"go tool pprof FILE" shows it, "go tool trace FILE" a trace.`,
		Example: `  ruche profile cpu cpu.out --for 30s
  ruche profile heap heap.out`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) != 2:
				return fmt.Errorf("needs KIND and FILE")
			case !slices.Contains(profiles(), args[0]):
				return fmt.Errorf("%q is not one of %s", args[0], strings.Join(profiles(), ", "))
			case of < time.Second || of > 4*time.Minute:
				return fmt.Errorf("--for %v is not between 1s and 4m", of)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			n, err := writeNew(args[1], func(w io.Writer) (int64, error) { return client.Profile(cmd.Context(), args[0], of, w) })
			if err != nil {
				return err
			}
			return a.show(map[string]any{"file": args[1], "bytes": n}, func() string {
				return fmt.Sprintf("%s profile written to %s, %s\n", args[0], args[1], size(n))
			})
		},
	}
	c.Flags().DurationVar(&of, "for", 30*time.Second, "how long a cpu profile or a trace takes, at most 4m")
	return a.adminFlags(c)
}
