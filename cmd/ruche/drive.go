package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/ruche-storage/ruche/gateway/admin"
)

func (a *app) driveCommand() *cobra.Command {
	return group("drive", "List and replace drives", "  ruche drive list",
		a.driveListCommand(), a.driveReplaceCommand())
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
		Args: cobra.ExactArgs(1),
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
