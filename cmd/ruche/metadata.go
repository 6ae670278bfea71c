package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/cmd/ruche/server"
)

func (a *app) metadataCommand() *cobra.Command {
	return group("metadata", "Back up, restore and replicate the metadata", "  ruche metadata backup /media/usb/ruche-metadata",
		append(a.copyCommands(), a.metadataBackupCommand(), a.metadataVerifyCommand(), a.metadataRestoreCommand())...)
}

func (a *app) metadataBackupCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write all metadata to a file, while the server serves",
		Long: `Writes the metadata of a running server to FILE: all names, versions and settings
as they are at one moment, and where the objects lie, but not their bytes. FILE must
not exist yet. It is sealed by the keyring, unless encryption is off: keep a backup
of the keyring, too ("ruche keyring backup"), in another place.`,
		Example: "  ruche metadata backup /media/usb/ruche-metadata-$(date +%F)",
		Args:    needs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			n, err := writeNew(args[0], func(w io.Writer) (int64, error) { return client.BackupMetadata(cmd.Context(), w) })
			if err != nil {
				return err
			}
			return a.show(map[string]any{"file": args[0], "bytes": n}, func() string {
				return fmt.Sprintf("metadata written to %s, %s; \"ruche metadata restore\" puts it back\n", args[0], size(n))
			})
		},
	}
	return a.adminFlags(c)
}

func (a *app) metadataVerifyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check that a backup of the metadata is whole and opens",
		Long: `Reads all of a backup as a restoration would, and changes nothing. It is opened by
the keyring in the state directory, or that of --keyring; a server may be running.
Settings are those of "ruche serve".`,
		Example: "  ruche metadata verify /media/usb/ruche-metadata --data /var/lib/ruche",
		Args:    needs("FILE"),
	}
	config.AddFlags(c.Flags())
	c.SetFlagErrorFunc(nearestFlag)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		settings, err := a.settings(cmd)
		if err != nil {
			return err
		}
		r, err := server.VerifyMetadata(cmd.Context(), settings, args[0])
		if err != nil {
			return err
		}
		return a.show(r, func() string {
			return fmt.Sprintf("%s is whole: metadata of %s, %s rows, %s, of cluster %s\n", r.File, instant(r.Created), count(int64(r.Rows)), size(int64(r.Bytes)), r.Cluster)
		})
	}
	return c
}

func (a *app) metadataRestoreCommand() *cobra.Command {
	var file string
	var accept bool
	c := &cobra.Command{
		Use:   "restore",
		Short: "Put a backup in the place of lost metadata (offline)",
		Long: `Puts the metadata of a backup in the place of those that a stopped server has lost,
and makes what else of the state directory is missing. If the keyring is lost, too,
it asks for the recovery code. Settings are those of "ruche serve". Metadata that
exist are left alone, and nothing is changed unless the whole backup is good.

What was written after the backup is not in it. "ruche recover" makes metadata of
what the drives carry, which is newer than any backup: try it first.

Afterwards nothing is freed until you confirm that all is there with
"ruche repair resume-collection", and there is one copy of the metadata: add others
with "ruche metadata add auto".`,
		Example: `  ruche metadata restore --file /media/usb/ruche-metadata --data /var/lib/ruche --drives /srv/d{1...6}`,
		Args:    cobra.NoArgs,
	}
	config.AddFlags(c.Flags())
	c.SetFlagErrorFunc(nearestFlag)
	c.Flags().StringVar(&file, "file", "", "backup to restore from (required)")
	c.Flags().BoolVar(&accept, "accept-loss", false, "give up copies of the metadata on drives that are not there")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if file == "" {
			return &usageError{errors.New("name the backup with --file")}
		}
		settings, err := a.settings(cmd)
		if err != nil {
			return err
		}
		r, err := server.RestoreMetadata(cmd.Context(), server.RestoreMetadataOptions{
			Config: settings, Now: a.now, Code: a.recoveryCode, File: file, AcceptLoss: accept,
			Log: slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
		if err != nil {
			return err
		}
		return a.show(r, func() string { return a.restoredText(r) })
	}
	return c
}

func (a *app) restoredText(r *server.RestoredMetadata) string {
	text := fmt.Sprintf("metadata of %s restored from %s: %s rows, %s\n", instant(r.Created), r.File, count(int64(r.Rows)), size(int64(r.Bytes)))
	if r.Credentials != "" {
		text += "New credentials of root are in " + r.Credentials + "\n"
	}
	return text + `
What was written or deleted later is not known. What comes next:
  1. start the server, and check what it serves
  2. make it several copies again: ruche metadata add auto
  3. collection is off: nothing is freed until you confirm that all is there: ruche repair resume-collection
`
}
