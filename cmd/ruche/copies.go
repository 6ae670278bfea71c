package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/cmd/ruche/server"
	"github.com/ruche-storage/ruche/gateway/admin"
)

// copyCommands are the commands about the copies of the metadata.
func (a *app) copyCommands() []*cobra.Command {
	return []*cobra.Command{
		a.metadataStatusCommand(), a.metadataAddCommand(), a.metadataReplaceCommand(), a.metadataRemoveCommand(),
		a.metadataTransferCommand(), a.metadataForceCommand(),
	}
}

func (a *app) metadataStatusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the copies of the metadata and what may still be lost",
		Example: `  ruche metadata status
  ruche metadata status --output json | jq '.stores[] | {path, health, lag}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			m, err := client.Metadata(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(m, func() string { return a.copiesText(m) })
		},
	}
	return a.adminFlags(c)
}

// copyChange completes a command that changes where copies are. With waits it has
// a flag to wait until the change is made.
func (a *app) copyChange(c *cobra.Command, waits bool, change func(ctx context.Context, client *admin.Client, args []string) (*admin.Metadata, error)) *cobra.Command {
	var wait bool
	if waits {
		c.Flags().BoolVar(&wait, "wait", false, "wait until the change is made")
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		m, err := change(cmd.Context(), client, args)
		if err != nil {
			return err
		}
		if wait {
			if m, err = a.followCopies(cmd, client); err != nil {
				return err
			}
		}
		return a.show(m, func() string { return a.copiesText(m) })
	}
	return a.adminFlags(c)
}

// followCopies waits until nothing is being changed any more.
func (a *app) followCopies(cmd *cobra.Command, client *admin.Client) (last *admin.Metadata, err error) {
	most := int64(0)
	err = a.follow(cmd.Context(), "metadata", func(ctx context.Context) (step, error) {
		if last, err = client.Metadata(ctx); err != nil {
			return step{}, err
		}
		if last.Voters > 1 && last.Healthy < last.Quorum { // one alone is about to do without consensus
			return step{}, fmt.Errorf("the change waits: %d of %d copies of the metadata are there, and %d are needed; see \"ruche metadata status\"", last.Healthy, last.Voters, last.Quorum)
		}
		left := int64(0)
		for _, c := range last.Stores {
			if c.Role != admin.CopyVoter {
				left += int64(c.Lag) + 1
			}
		}
		most = max(most, left)
		return step{done: most - left, total: most, finished: last.Changing == ""}, nil
	})
	return last, err
}

func (a *app) metadataAddCommand() *cobra.Command {
	return a.copyChange(&cobra.Command{
		Use:   "add PATH|auto",
		Short: "Add a copy of the metadata, on a drive or in the state directory",
		Long: `Makes a copy of the metadata on the drive at PATH, or in the state directory if
PATH is that; auto takes a device that carries none. The copy gets everything
while the server serves, and counts from then on. The first copies that are added
to a single one make it replicated, which holds requests up for a moment.

Copies count in odd numbers: with two, or four, no more may be lost than with
one, or three. So auto adds two where one would make the number even.`,
		Example: `  ruche metadata add auto --wait
  ruche metadata add /srv/d4`,
		Args: needs("PATH or auto"),
	}, true, func(ctx context.Context, client *admin.Client, args []string) (*admin.Metadata, error) {
		path := ""
		if args[0] != "auto" {
			var err error
			if path, err = filepath.Abs(args[0]); err != nil {
				return nil, err
			}
		}
		return client.AddCopy(ctx, &admin.AddCopyRequest{Path: path})
	})
}

func (a *app) metadataReplaceCommand() *cobra.Command {
	return a.copyChange(&cobra.Command{
		Use:   "replace STORE [PATH]",
		Short: "Put a new copy of the metadata into the place of one that was lost",
		Long: `Makes a new copy of the metadata on the drive at PATH, has it catch up, and takes
the copy STORE away. STORE is its number, id or path in "ruche metadata status".
Without PATH the new one lies where the old one was. The new copy has a number of
its own: a copy that has lost what it promised must not come back under the old one.
What lies at the old place is deleted.`,
		Example: `  ruche metadata replace 2 --wait
  ruche metadata replace /srv/d2 /srv/d5`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 2 {
				return fmt.Errorf("takes STORE and PATH only, not also %q", args[2])
			}
			return needs("STORE")(c, args[:min(len(args), 1)])
		},
	}, true, func(ctx context.Context, client *admin.Client, args []string) (*admin.Metadata, error) {
		path := ""
		if len(args) == 2 {
			var err error
			if path, err = filepath.Abs(args[1]); err != nil {
				return nil, err
			}
		}
		return client.ReplaceCopy(ctx, &admin.ReplaceCopyRequest{Store: storeName(args[0]), Path: path})
	})
}

func (a *app) metadataRemoveCommand() *cobra.Command {
	return a.copyChange(&cobra.Command{
		Use:   "remove STORE",
		Short: "Take a copy of the metadata away",
		Long: `Takes the copy STORE away and deletes it. STORE is its number, id or path in
"ruche metadata status". A copy without which the others could not go on is
refused. When the one in the state directory is the last, the metadata is kept
without consensus again.`,
		Example: `  ruche metadata remove 4 --wait`,
		Args:    needs("STORE"),
	}, true, func(ctx context.Context, client *admin.Client, args []string) (*admin.Metadata, error) {
		return client.RemoveCopy(ctx, &admin.CopyRequest{Store: storeName(args[0])})
	})
}

func (a *app) metadataTransferCommand() *cobra.Command {
	return a.copyChange(&cobra.Command{
		Use:   "transfer STORE",
		Short: "Have other copies of the metadata lead what this one leads",
		Long: `Moves leadership of all groups from the copy STORE to others for ten minutes, for
example before its device is worked on. STORE is its number, id or path in "ruche metadata status".`,
		Example: `  ruche metadata transfer 1`,
		Args:    needs("STORE"),
	}, false, func(ctx context.Context, client *admin.Client, args []string) (*admin.Metadata, error) {
		return client.TransferCopy(ctx, &admin.CopyRequest{Store: storeName(args[0])})
	})
}

func (a *app) metadataForceCommand() *cobra.Command {
	var accept bool
	c := &cobra.Command{
		Use:   "force",
		Short: "Serve again after most copies of the metadata were lost (offline)",
		Long: `Makes what the remaining copies of the metadata hold the truth, though they are no
majority. Stop the server first. Settings are those of "ruche serve".

What this risks: the newest changes may be on the copies that are away only. They
are lost: objects written shortly before may be missing, deleted ones be back,
though their owners were told otherwise. So first try to bring the copies that are
away back: with a majority nothing is lost, and this command is not needed.

Afterwards nothing that was deleted is freed until you have looked and run
"ruche repair resume-collection", and the copies that were away are never used
again, even if their devices come back. Add copies with "ruche metadata add".

It asks for the id of the cluster, unless --accept-loss says that you know.`,
		Example: `  ruche metadata force --data /var/lib/ruche --drives '/srv/d{1...6}'
  ruche metadata force --data ./data --accept-loss`,
		Args: cobra.NoArgs,
	}
	config.AddFlags(c.Flags())
	c.SetFlagErrorFunc(nearestFlag)
	c.Flags().BoolVar(&accept, "accept-loss", false, "do not ask: what only the lost copies knew may be lost")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		settings, err := a.settings(cmd)
		if err != nil {
			return err
		}
		report, err := server.Force(cmd.Context(), server.ForceOptions{
			Config: settings, Log: a.logger(settings), Now: a.now,
			Confirm: func(f *server.ForcePlan) error {
				if accept {
					return nil
				}
				fmt.Fprint(a.stderr, f.String())
				fmt.Fprintf(a.stderr, "type the id of the cluster (%s) to go on: ", f.Cluster)
				typed, err := readLine(a.stdin, 4096)
				if err != nil {
					return fmt.Errorf("not confirmed: %w", err)
				}
				if typed != f.Cluster {
					return errors.New("not confirmed: that is not the id of the cluster; nothing was changed")
				}
				return nil
			},
		})
		if err != nil {
			return err
		}
		return a.show(report, report.String)
	}
	return c
}

// storeName makes the path of a copy absolute and leaves numbers and ids.
func storeName(arg string) string {
	if strings.ContainsAny(arg, "/.") {
		if path, err := filepath.Abs(arg); err == nil {
			return path
		}
	}
	return arg
}

// copiesText renders the copies of the metadata.
func (a *app) copiesText(m *admin.Metadata) string {
	var out strings.Builder
	health, lines := m.Plainly()
	for i, line := range lines {
		if i == 0 {
			line = a.health(health, line)
		}
		fmt.Fprintln(&out, line)
	}
	for _, text := range m.Shared {
		fmt.Fprintf(&out, "%s %s\n", a.health(admin.Yellow, "!"), text)
	}
	headers := []string{"STORE", "PATH", "ROLE", "STATE", "LEADS", "LAG", "SYNC", "USED", "FREE"}
	var rows [][]string
	var reasons []reason
	remedies := ""
	for i := range m.Stores {
		c := &m.Stores[i]
		rows = append(rows, a.copyRow(c))
		reasons = append(reasons, reason{fmt.Sprintf("copy %d in %s", c.Replica, c.Where()), c.Reason})
		if remedy := m.Remedy(c); remedy != "" {
			remedies += fmt.Sprintf("what helps copy %d: %s\n", c.Replica, remedy)
		}
	}
	fmt.Fprintf(&out, "\n%s", a.tableWithReasons(headers, rows, reasons, 0, 4, 5, 6, 7, 8))
	if remedies != "" {
		fmt.Fprintf(&out, "\n%s", remedies)
	}
	return out.String()
}

func (a *app) copyRow(c *admin.CopyState) []string {
	health := admin.Yellow
	switch {
	case c.Health == admin.CopyOK:
		health = admin.Green
	case !c.Well():
		health = admin.Red
	}
	state := string(c.Health)
	if c.Receiving > 0 {
		state += ", received " + size(c.Receiving)
	}
	sync := "-"
	if c.SyncMicros > 0 {
		sync = fmt.Sprintf("%.1f ms", float64(c.SyncMicros)/1000)
	}
	number := "-"
	if c.Replica > 0 {
		number = strconv.FormatUint(c.Replica, 10)
	}
	return []string{number, c.Where(), string(c.Role), a.health(health, state), count(int64(c.Leads)), count(int64(c.Lag)), sync,
		size(c.UsedBytes), size(c.FreeBytes)}
}
