package main

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/cmd/ruche/server"
	"github.com/ruche-storage/ruche/gateway/admin"
)

func (a *app) driveCommand() *cobra.Command {
	return group("drive", "List, replace and check drives", "  ruche drive list",
		a.driveListCommand(), a.driveReplaceCommand(), a.driveFsckCommand())
}

func (a *app) driveListCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List the drives", Example: "  ruche drive list --output json", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			drives, err := client.Drives(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(drives, func() string { return a.drivesTable(drives) })
		},
	}
	return a.adminFlags(c)
}

func (a *app) driveReplaceCommand() *cobra.Command {
	var wait bool
	var lost string
	c := &cobra.Command{
		Use:   "replace PATH",
		Short: "Format a new drive and rebuild on it what the lost one held",
		Long: `Formats the empty directory PATH of the server as a drive, puts it in the place
of the drive that was at PATH (or of the one named by --drive), and rebuilds on
it what the lost drive held. Reads and writes go on meanwhile. A drive that
works is not replaced: unmount or empty it first.`,
		Example: `  ruche drive replace /srv/d3 --wait
  ruche drive replace /srv/new --drive 2f6c1d9e-...`,
		Args: needs("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			d, err := client.ReplaceDrive(cmd.Context(), &admin.ReplaceRequest{Path: path, Drive: lost})
			if err != nil {
				return err
			}
			if wait {
				if err := a.followRepair(cmd, client); err != nil {
					return err
				}
			}
			return a.show(d, func() string { return fmt.Sprintf("%s is now drive %s\n", path, d.ID) })
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "show the progress of the rebuild until its end")
	c.Flags().StringVar(&lost, "drive", "", "id of the lost drive, if it was at another path")
	return a.adminFlags(c)
}

func (a *app) driveFsckCommand() *cobra.Command {
	var rebuild bool
	var keyring string
	c := &cobra.Command{
		Use:   "fsck PATH",
		Short: "Check a drive that no server uses",
		Long: `Reads and verifies every record of the drive at PATH, and adds to its index what
is missing there. It works offline: stop the server first. It deletes nothing;
the exit code is 1 if bad records were found. If the index is encrypted, the
keyring of the server is needed, or the index is made anew from the records.`,
		Example: `  ruche drive fsck /srv/d3 --keyring /var/lib/ruche/keyring
  ruche drive fsck /srv/d3 --rebuild-index`,
		Args: needs("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			log := slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			name, err := a.keyringFile(keyring)
			if err != nil {
				return err
			}
			report, err := server.Fsck(cmd.Context(), args[0], server.FsckOptions{Rebuild: rebuild, Keyring: name, Now: a.now, Log: log})
			if err != nil {
				return err
			}
			if err := a.show(report, report.String); err != nil {
				return err
			}
			if report.Bad > 0 {
				return fmt.Errorf("%s on %s", things(int64(report.Bad), "bad record"), args[0])
			}
			return nil
		},
	}
	c.Flags().BoolVar(&rebuild, "rebuild-index", false, "throw the index away and make it anew")
	c.Flags().StringVar(&keyring, "keyring", "", "keyring of the server (default that of the state directory)")
	c.Flags().StringVar(&a.data, "data", "", "state directory of the server [RUCHE_DATA]")
	return c
}

// keyringFile is the keyring that was named, or that of the state directory;
// empty if there is none.
func (a *app) keyringFile(named string) (string, error) {
	if named != "" {
		return named, nil
	}
	settings, err := config.Load(config.Source{File: a.file(), Environ: a.environ})
	if err != nil {
		return "", &usageError{err}
	}
	if settings.Keyring != "" {
		return settings.Keyring, nil
	}
	dir := a.stateDir(settings)
	if dir == "" {
		return "", nil
	}
	return filepath.Join(dir, "keyring"), nil
}
