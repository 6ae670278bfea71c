package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ruche-storage/ruche/gateway/admin"
)

func (a *app) statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show drives, space, objects and what may still be lost",
		Example: `  ruche status
  ruche status --output json | jq .safety`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			s, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(s, func() string { return a.statusText(s) })
		},
	}
	return a.adminFlags(c)
}

func (a *app) statusText(s *admin.Status) string {
	var out strings.Builder
	word := map[admin.Health]string{admin.Green: "healthy", admin.Yellow: "needs attention", admin.Red: "in trouble"}[s.Health]
	fmt.Fprintf(&out, "%s  (ruche %s, scheme %s, up %s)\n", a.health(s.Health, word), s.Version, s.Scheme, span(s.Uptime))
	for _, line := range s.Summary {
		fmt.Fprintf(&out, "  %s\n", line)
	}
	for _, w := range s.Warnings {
		fmt.Fprintf(&out, "  %s %s\n", a.health(admin.Yellow, "!"), w.Text)
		if w.Remedy != "" {
			fmt.Fprintf(&out, "    %s\n", w.Remedy)
		}
	}
	u := s.Usage
	if s.Metadata.Healthy >= s.Metadata.Quorum { // else nobody knows
		fmt.Fprintf(&out, "\n%s in %s: %s, stored as %s before parity\n",
			things(u.Objects, "object"), things(u.Buckets, "bucket"), size(u.LogicalBytes), size(u.StoredBytes))
	}
	if u.Uploads > 0 {
		fmt.Fprintf(&out, "%s in progress: %s\n", things(u.Uploads, "upload"), size(u.UploadBytes))
	}
	fmt.Fprintf(&out, "\n%s", a.drivesTable(s.Drives))
	return out.String()
}

func (a *app) drivesTable(drives []admin.Drive) string {
	var rows [][]string
	var reasons []reason
	for _, d := range drives {
		health := admin.Green
		switch d.State {
		case admin.DriveOK:
		case admin.DriveFenced, admin.DriveAbsent:
			health = admin.Red
		default:
			health = admin.Yellow
		}
		state := string(d.State)
		if d.State == admin.DriveRebuilding && d.RebuildPercent > 0 {
			state += fmt.Sprintf(" %.0f %%", d.RebuildPercent)
		}
		path := d.Path
		if path == "" {
			path = "-"
		}
		rows = append(rows, []string{path, a.health(health, state), size(d.UsedBytes), size(d.FreeBytes), size(d.CapacityBytes),
			count(d.Shards), count(d.Errors), d.ID})
		reasons = append(reasons, reason{path, d.Reason})
	}
	headers := []string{"PATH", "STATE", "USED", "FREE", "CAPACITY", "SHARDS", "ERRORS", "ID"}
	return a.tableWithReasons(headers, rows, reasons, 2, 3, 4, 5, 6)
}

func (a *app) scrubCommand() *cobra.Command {
	var wait bool
	start := &cobra.Command{
		Use:     "start",
		Short:   "Read and verify everything on all drives now",
		Example: "  ruche scrub start --wait",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			s, err := client.StartScrub(cmd.Context())
			if err != nil {
				return err
			}
			if wait {
				if s, err = a.followScrub(cmd, client); err != nil {
					return err
				}
			}
			return a.show(s, func() string { return a.scrubText(s) })
		},
	}
	start.Flags().BoolVar(&wait, "wait", false, "show the progress until the end")
	status := &cobra.Command{
		Use: "status", Short: "Show how far scrubs have come", Example: "  ruche scrub status", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			s, err := client.Scrub(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(s, func() string { return a.scrubText(s) })
		},
	}
	return group("scrub", "Verify what is stored", "  ruche scrub start --wait", a.adminFlags(start), a.adminFlags(status))
}

func (a *app) scrubText(s *admin.Scrub) string {
	var rows [][]string
	for _, d := range s.Drives {
		state := "idle"
		if d.Running {
			state = "running"
			if d.TotalBytes > 0 {
				state += fmt.Sprintf(" %d %%", min(100, d.DoneBytes*100/d.TotalBytes))
			}
		}
		path := d.Path
		if path == "" {
			path = d.Drive
		}
		rows = append(rows, []string{path, state, size(d.DoneBytes), count(d.BadShards), count(d.Passes), instant(d.LastFinished)})
	}
	return a.table([]string{"PATH", "STATE", "READ", "BAD SHARDS", "PASSES", "LAST FINISHED"}, rows, 2, 3, 4)
}

func (a *app) repairCommand() *cobra.Command {
	var watch bool
	status := &cobra.Command{
		Use:     "status",
		Short:   "Show what is being repaired and what cannot be",
		Example: "  ruche repair status --watch",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if watch {
				if err := a.followRepair(cmd, client); err != nil {
					return err
				}
			}
			r, err := client.Repair(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(r, func() string { return a.repairText(r) })
		},
	}
	status.Flags().BoolVar(&watch, "watch", false, "show the progress until nothing is left to repair")
	resume := &cobra.Command{
		Use:   "resume-collection",
		Short: "After a restore of the metadata, free again what is deleted",
		Long: `When the metadata was found older than the drives, as after a restore from a
backup, nothing is freed: shards that the metadata does not know may belong to
objects that a newer copy of it has. This command says that no newer copy will
come back. What no object refers to is then freed, after a day.`,
		Example: "  ruche repair resume-collection",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			r, err := client.ResumeCollection(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(r, func() string { return "what is deleted is freed again\n" })
		},
	}
	return group("repair", "Show repairs", "  ruche repair status", a.adminFlags(status), a.adminFlags(resume))
}

func (a *app) repairText(r *admin.Repair) string {
	var out strings.Builder
	switch {
	case r.QueuedChunks == 0 && len(r.Rebuilding) == 0:
		fmt.Fprintln(&out, "nothing to repair")
	default:
		fmt.Fprintf(&out, "%s waiting for repair, %s repaired since the start", things(r.QueuedChunks, "chunk"), count(r.RepairedTotal))
		if r.ETA > 0 {
			fmt.Fprintf(&out, "; all back in about %s", span(r.ETA))
		}
		fmt.Fprintln(&out)
	}
	for _, item := range r.Rebuilding {
		so := ""
		if !item.Counted {
			so = " found so far"
		}
		fmt.Fprintf(&out, "rebuilding drive %s (%s): %s of %s%s\n", item.Path, item.Drive, count(item.Done), things(item.Total, "chunk"), so)
	}
	if len(r.Unrepairable) > 0 {
		fmt.Fprintln(&out, "\ncannot be repaired from what is there:")
		var rows [][]string
		var reasons []reason
		for _, u := range r.Unrepairable {
			rows = append(rows, []string{u.Bucket, u.Key, u.Chunk})
			reasons = append(reasons, reason{"chunk " + u.Chunk, u.Reason})
		}
		out.WriteString(a.tableWithReasons([]string{"BUCKET", "KEY", "CHUNK"}, rows, reasons))
		if r.More {
			fmt.Fprintln(&out, "and more")
		}
	}
	return out.String()
}

func (a *app) followScrub(cmd *cobra.Command, client *admin.Client) (last *admin.Scrub, err error) {
	err = a.follow(cmd.Context(), "scrub", func(ctx context.Context) (step, error) {
		if last, err = client.Scrub(ctx); err != nil {
			return step{}, err
		}
		s := step{finished: !last.Running}
		for _, d := range last.Drives {
			s.total += d.TotalBytes
			if d.Running {
				s.done += d.DoneBytes
			} else {
				s.done += d.TotalBytes
			}
		}
		return s, nil
	})
	return last, err
}

// followRepair shows the progress of rebuilds and of the queue, counted from
// where it stood at first.
func (a *app) followRepair(cmd *cobra.Command, client *admin.Client) error {
	most := int64(0)
	return a.follow(cmd.Context(), "repair", func(ctx context.Context) (step, error) {
		r, err := client.Repair(ctx)
		if err != nil {
			return step{}, err
		}
		left := r.QueuedChunks
		for _, item := range r.Rebuilding {
			left += max(0, item.Total-item.Done)
		}
		most = max(most, left)
		return step{done: most - left, total: most, finished: left == 0 && len(r.Rebuilding) == 0}, nil
	})
}
