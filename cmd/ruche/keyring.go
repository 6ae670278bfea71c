package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/cmd/ruche/server"
	"github.com/ruche-storage/ruche/metadata/keyring"
)

func (a *app) keyringCommand() *cobra.Command {
	return group("keyring", "Back up, verify and restore the encryption keys", "  ruche keyring backup keyring.sealed",
		a.keyringBackupCommand(), a.keyringVerifyCommand(), a.keyringRestoreCommand())
}

func (a *app) keyringBackupCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write the encryption keys, sealed under the recovery code, to a file",
		Long: `Writes the encryption keys to FILE, sealed under the recovery code that the first
start printed. Keep file and code in different places, away from the server.
FILE must not exist yet.`,
		Example: "  ruche keyring backup /media/usb/ruche-keyring.sealed",
		Args:    needs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			n, err := writeNew(args[0], func(w io.Writer) (int64, error) {
				b, err := client.BackupKeyring(cmd.Context())
				if err != nil {
					return 0, err
				}
				n, err := w.Write(b.Sealed)
				return int64(n), err
			})
			if err != nil {
				return err
			}
			return a.show(map[string]any{"file": args[0], "bytes": n}, func() string {
				return fmt.Sprintf("keyring written to %s; it opens with the recovery code only\n", args[0])
			})
		},
	}
	return a.adminFlags(c)
}

func (a *app) keyringVerifyCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Check that you have the right recovery code",
		Long: `Asks for the recovery code and checks that it opens the keyring of the server or,
with --file, a backup. The code is read from the terminal or from standard input.`,
		Example: `  ruche keyring verify
  ruche keyring verify --file /media/usb/ruche-keyring.sealed`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			code, err := a.recoveryCode()
			if err != nil {
				return err
			}
			if file != "" {
				sealed, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				k, err := keyring.OpenSealed(sealed, code)
				if err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
				return a.show(map[string]any{"file": file, "version": k.Version()}, func() string {
					return fmt.Sprintf("%s opens with this code: keyring version %d of cluster %s\n", file, k.Version(), k.Cluster())
				})
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			k, err := client.VerifyKeyring(cmd.Context(), code)
			if err != nil {
				return err
			}
			return a.show(k, func() string {
				return fmt.Sprintf("the code is right: it opens keyring version %d, of which %d drives hold a sealed copy\n", k.Version, k.Copies)
			})
		},
	}
	c.Flags().StringVar(&file, "file", "", "backup to check instead of the server's keyring")
	return a.adminFlags(c)
}

func (a *app) keyringRestoreCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "restore",
		Short: "Write a lost keyring anew, from a backup or the drives (offline)",
		Long: `Writes the keyring of a stopped server anew from the sealed copies on its drives
and, with --file, from a backup; the newest counts. It asks for the recovery
code. Settings are those of "ruche serve". A keyring that exists is left alone.`,
		Example: `  ruche keyring restore --data /var/lib/ruche --drives /srv/d{1...6}
  ruche keyring restore --data ./data --file /media/usb/ruche-keyring.sealed`,
		Args: cobra.NoArgs,
	}
	config.AddFlags(c.Flags())
	c.SetFlagErrorFunc(nearestFlag)
	c.Flags().StringVar(&file, "file", "", "backup to restore from instead of the drives")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		settings, err := a.settings(cmd)
		if err != nil {
			return err
		}
		code, err := a.recoveryCode()
		if err != nil {
			return err
		}
		path, err := server.RestoreKeyring(settings, file, code, time.Now())
		if err != nil {
			return err
		}
		return a.show(map[string]string{"keyring": path}, func() string { return "keyring written to " + filepath.Clean(path) + "\n" })
	}
	return c
}

// recoveryCode asks for the recovery code: unseen on a terminal, else the first
// line of standard input.
func (a *app) recoveryCode() (string, error) {
	if f, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(a.stderr, "recovery code: ")
		text, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.stderr)
		return string(text), err
	}
	code, err := readLine(a.stdin, 4096)
	if err != nil {
		return "", fmt.Errorf("recovery code: %w; type it, or give it on standard input", err)
	}
	return code, nil
}
