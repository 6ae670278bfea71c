package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/ruche-storage/ruche/metadata/keyring"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1 // what was asked for did not work
	exitUsage   = 2 // the command line or the settings are wrong
)

// surroundings is what a program has around it, as a value, so that a test can
// give its own.
type surroundings struct {
	environ        []string
	stdin          io.Reader
	stdout, stderr io.Writer
}

func (s *surroundings) getenv(name string) string {
	for _, e := range s.environ {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

// isTerminal reports whether w is a terminal that understands escape codes.
func (s *surroundings) isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && s.getenv("TERM") != "dumb"
}

// colours reports whether w is to be written in colours (see no-color.org).
func (s *surroundings) colours(w io.Writer) bool {
	return s.isTerminal(w) && s.getenv("NO_COLOR") == ""
}

// A usageError is a mistake in how the program was called.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// app is what all commands share.
type app struct {
	surroundings
	configFile string
	output     string        // table or json
	admin      string        // --admin
	data       string        // --data of admin commands
	poll       time.Duration // how often long work is asked after
	now        func() time.Time
	kdf        keyring.KDF // of new keyrings; zero for the default
}

// run is the program. It returns the exit code.
func run(ctx context.Context, args []string, s surroundings) int {
	a := &app{surroundings: s, poll: time.Second, now: time.Now}
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	s := a.surroundings
	root := a.command()
	root.SetArgs(args)
	root.SetIn(s.stdin)
	root.SetOut(s.stdout)
	root.SetErr(s.stderr)
	// Whatever fails before a command begins is a mistake in the call.
	began := false
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if a.output != "table" && a.output != "json" {
			return fmt.Errorf("--output: %q is neither table nor json", a.output)
		}
		began = true
		return nil
	}
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(s.stderr, "ruche:", err)
	if _, ok := errors.AsType[*usageError](err); !ok && began {
		return exitFailure
	}
	fmt.Fprintf(s.stderr, "see \"%s --help\"\n", cmd.CommandPath())
	return exitUsage
}

// command builds the tree of commands.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "ruche",
		Short: "S3-compatible object storage",
		Long: `Ruche stores objects, sealed and erasure-coded, on the drives of your machines
and serves them by the S3 protocol.`,
		Example: `  ruche serve --data ./data
  ruche status`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&a.output, "output", "table", "form of answers: table or json")
	choices(root, "output", "table", "json")
	root.PersistentFlags().StringVar(&a.configFile, "config", "", "configuration file (default /etc/ruche/ruche.yaml if it exists) [RUCHE_CONFIG]")
	root.AddCommand(
		a.serveCommand(), a.configCommand(), a.versionCommand(),
		a.statusCommand(), a.driveCommand(), a.scrubCommand(), a.repairCommand(),
		a.keyCommand(), a.keyringCommand(), a.bucketCommand(), a.metadataCommand(), a.recoverCommand(),
		a.durabilityCommand(), a.profileCommand(),
	)
	return root
}

// needs is what a command that takes exactly one argument checks.
func needs(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return fmt.Errorf("needs %s", what)
		case len(args) > 1:
			return fmt.Errorf("takes one %s only, not also %q", what, args[1])
		}
		return nil
	}
}

// choices completes a flag that takes one of a few words.
func choices(c *cobra.Command, flag string, words ...string) {
	err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag was defined just before
	}
}

// group makes a command that only holds others. Called alone it shows its help.
func group(use, short, example string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.AddCommand(children...)
	return c
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  ruche version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.output == "json" {
				return a.json(map[string]string{"version": version})
			}
			_, err := fmt.Fprintln(a.stdout, "ruche", version)
			return err
		},
	}
}
