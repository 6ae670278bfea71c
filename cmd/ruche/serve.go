package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/cmd/ruche/server"
)

func (a *app) serveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "serve",
		Short: "Start the server",
		Long: `Starts the server: the S3 API, and the admin API with metrics and health pages.

The first start in an empty state directory makes the keyring, formats the
drives and generates the credentials of root; it prints the recovery code of the
keyring, once. Later starts find all of it again and make nothing anew.`,
		Example: `  ruche serve --data ./data
  ruche serve --drives /srv/d{1...6} --listen 0.0.0.0:9000
  RUCHE_DATA=/var/lib/ruche RUCHE_DEFAULT_BUCKETS=backup,media ruche serve`,
		Args: cobra.NoArgs,
	}
	config.AddFlags(c.Flags())
	c.SetFlagErrorFunc(nearestFlag)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		settings, err := a.settings(cmd)
		if err != nil {
			return err
		}
		o := server.Options{
			Config: settings, Version: version, Log: a.logger(settings), Now: a.now,
			Out: a.stdout, Colours: a.colours(a.stdout), KDF: a.kdf, Environ: a.environ,
		}
		// Without an access log SIGHUP keeps its meaning: a server in a terminal
		// ends with it.
		if settings.AccessLog != "" {
			hangups := make(chan os.Signal, 1)
			signal.Notify(hangups, syscall.SIGHUP)
			defer signal.Stop(hangups)
			o.Reopen = hangups
		}
		return server.Run(cmd.Context(), o)
	}
	return c
}

// nearestFlag adds to the error of an unknown flag the one that was meant.
func nearestFlag(_ *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok || len(unknown.GetSpecifiedName()) < 2 {
		return err
	}
	return fmt.Errorf("%w; did you mean --%s?", err, config.Nearest(unknown.GetSpecifiedName()))
}

// settings reads and validates the settings of a server.
func (a *app) settings(cmd *cobra.Command) (*config.Config, error) {
	c, err := config.Load(config.Source{File: a.file(), Environ: a.environ, Flags: cmd.Flags()})
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return nil, &usageError{err}
	}
	return c, nil
}

// logger is the log that the settings ask for, on standard error.
func (a *app) logger(c *config.Config) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		panic(err) // validated
	}
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" || (c.LogFormat == "auto" && !a.isTerminal(a.stderr)) {
		return slog.New(slog.NewJSONHandler(a.stderr, o))
	}
	return slog.New(slog.NewTextHandler(a.stderr, o))
}

func (a *app) configCommand() *cobra.Command {
	check := &cobra.Command{
		Use:   "check",
		Short: "Check the settings and print those in force, without secrets",
		Long: `Reads the settings as "ruche serve" would, from the same file, environment and
flags, reports everything that is wrong with them, and prints those in force.`,
		Example: `  ruche config check --config /etc/ruche/ruche.yaml`,
		Args:    cobra.NoArgs,
	}
	config.AddFlags(check.Flags())
	check.SetFlagErrorFunc(nearestFlag)
	check.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.settings(cmd)
		if err != nil {
			return err
		}
		return a.show(config.Effective(c), func() string { return effectiveText(c) })
	}
	return group("config", "Check the settings", "  ruche config check --config /etc/ruche/ruche.yaml", check)
}

// effectiveText prints the settings in the form of the file.
func effectiveText(c *config.Config) string {
	var out strings.Builder
	for _, e := range config.Effective(c) {
		fmt.Fprintf(&out, "%s: %s\n", e.Key, e.Value)
	}
	scheme, err := c.StorageScheme()
	if err == nil {
		lost := fmt.Sprintf("any %d of them may be lost", scheme.Parity)
		if scheme.Parity == 0 {
			lost = "none may be lost"
		}
		fmt.Fprintf(&out, "# %s, scheme %s: %s\n", things(int64(len(c.DrivePaths())), "drive"), scheme, lost)
	}
	for _, d := range c.DrivePaths() {
		fmt.Fprintf(&out, "#   %s\n", d)
	}
	return out.String()
}

// readLine reads one line of at most limit bytes, without its end.
func readLine(r io.Reader, limit int64) (string, error) {
	text, err := io.ReadAll(io.LimitReader(r, limit))
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSpace(line); line == "" {
		return "", errors.New("nothing was entered")
	}
	return line, nil
}
